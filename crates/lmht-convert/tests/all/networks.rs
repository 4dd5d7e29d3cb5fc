//! Small networks of every backbone with random parameters.

use candle_core::{DType, Device, Tensor};
use candle_nn::init::Init;
use lmht_convert::{Model, Result};
use lmht_nn::neurons;
use lmht_nn::{Backbone, ModelConfig, Network, NeuronConfig, ParamStore, Pass, Stem, Tgim};

/// Every backbone at a small width, with the side of the smallest image that gives it something to do; both stems.
pub(crate) fn small_networks() -> Vec<(ModelConfig, usize)> {
    let mut networks: Vec<_> = [
        (ModelConfig::resnet18(5), 2, 8),
        (ModelConfig::resnet19(5), 2, 8),
        (ModelConfig::resnet20(5), 2, 8),
        (ModelConfig::resnet34(5), 2, 8),
        (ModelConfig::ms_resnet18(5), 2, 8),
        (ModelConfig::ms_resnet34(5), 2, 8),
        (ModelConfig::vgg11(5), 2, 32),
        (ModelConfig::vgg13(5), 2, 16),
        (ModelConfig::vgg13_standard(5), 2, 32),
        (ModelConfig::vgg16(5), 2, 32),
        (ModelConfig::vgg19(5), 1, 32),
        (ModelConfig::cifarnet(5), 1, 32),
        (ModelConfig { depth: Some(1), heads: Some(2), ..ModelConfig::spikformer(5) }, 8, 8),
    ]
    .into_iter()
    .map(|(config, width, side)| (ModelConfig { width, ..config }, side))
    .collect();
    for (backbone, stem) in [
        (ModelConfig::resnet18(5), Stem::Imagenet),
        (ModelConfig::resnet18(5), Stem::ImagenetPoolFirst),
        (ModelConfig::ms_resnet18(5), Stem::Imagenet),
    ] {
        networks.push((ModelConfig { width: 2, stem, ..backbone }, 16));
    }
    networks
}

/// A network whose statistics, thresholds, T-GIMs and leaks are all random, with layers that are silent and saturated.
pub(crate) fn random_model(config: &ModelConfig, seed: u64) -> Result<Model> {
    let params = ParamStore::new(seed);
    Network::new(config, params.builder(DType::F64, &Device::Cpu))?;
    let mut model = Model::of(config, &params);
    for (name, tensor) in &mut model.tensors {
        // A factor and a shift for each layer: most are ordinary, some all but silent, some saturated.
        let layer = name.rsplit_once('.').map_or(name.as_str(), |(layer, _)| layer);
        let pick = |salt: u64| draw(seed ^ salt, layer, &[1], Init::Uniform { lo: 0., up: 1. })?.to_vec1::<f64>();
        let (factor, shift) = match (pick(1)?[0] * 8.) as u32 {
            0 => (0.2, -1.),
            1 => (3., 0.),
            2 => (1., 2.5),
            _ => (1., 0.),
        };
        let (part, dims) = (name.rsplit('.').next().unwrap_or(name), tensor.dims());
        let (init, scale, offset) = match part {
            "mask" | "mask_linear" | "alpha" => (Init::Randn { mean: 0., stdev: 1.5 }, 1., 0.),
            "v_threshold" | "thresh" => (Init::Uniform { lo: 0.4, up: 1.6 }, 1., 0.),
            "running_mean" => (Init::Randn { mean: 0., stdev: 0.3 }, 1., 0.),
            "running_var" => (Init::Uniform { lo: 0.3, up: 2. }, 1., 0.),
            // Batch norm's statistics are not those of the data, so its input must be as large as they say.
            "weight" if dims.len() == 4 => {
                (Init::Randn { mean: 0., stdev: (6. / (dims[1] * dims[2] * dims[3]) as f64).sqrt() }, 1., 0.)
            }
            "weight" if dims.len() == 2 => (Init::Randn { mean: 0., stdev: (6. / dims[1] as f64).sqrt() }, 1., 0.),
            "weight" if dims.len() == 1 => (Init::Randn { mean: 1., stdev: 0.5 }, factor, 0.),
            "bias" => (Init::Randn { mean: 0.2, stdev: 0.4 }, 1., shift),
            _ => continue,
        };
        *tensor = ((draw(seed, name, dims, init)? * scale)? + offset)?;
    }
    Ok(model)
}

fn draw(seed: u64, name: &str, dims: &[usize], init: Init) -> candle_core::Result<Tensor> {
    ParamStore::new(seed).builder(DType::F64, &Device::Cpu).get_with_hints(dims, name, init)
}

/// Images `[B, C, side, side]`, or frames `[T, B, C, side, side]`, of both signs.
pub(crate) fn random_input(config: &ModelConfig, side: usize, temporal: bool, seed: u64) -> Result<Tensor> {
    let mut dims = vec![2, config.in_channels, side, side];
    if temporal {
        dims.insert(0, config.n_frames());
    }
    Ok(draw(seed, "input", &dims, Init::Randn { mean: 0., stdev: 1.5 })?)
}

pub(crate) fn lmht(levels: u32, tgim: Tgim, v_init: f64) -> NeuronConfig {
    neurons::Lmht { levels, tgim, v_init, ..neurons::Lmht::default() }.into()
}

/// Logits of the mean over time, `[B, K]`.
pub(crate) fn readout(model: &Model, images: &Tensor) -> Result<Tensor> {
    let (network, _) = model.build(DType::F64, &Device::Cpu)?;
    Ok(lmht_nn::readout(&network.forward(images, &mut Pass::eval())?)?)
}

/// Largest difference over largest magnitude.
pub(crate) fn relative_error(actual: &Tensor, expected: &Tensor) -> Result<f64> {
    let largest = |x: &Tensor| -> Result<f64> { Ok(x.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?) };
    Ok(largest(&(actual - expected)?)? / largest(expected)?.max(f64::MIN_POSITIVE))
}

/// Whether attention is part of it.
pub(crate) fn is_transformer(config: &ModelConfig) -> bool {
    config.backbone == Backbone::Spikformer
}
