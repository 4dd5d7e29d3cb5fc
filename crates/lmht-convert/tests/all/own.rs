//! Networks that a program defines go through every conversion and export as the built-in ones do, or are refused by name.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_nn::init::Init;
use lmht_convert::{
    Calibration, HybridStart, Model, Result, absorb_bn, absorb_thresholds, checkpoint, compare_spikes, qcfs_to_if,
    qcfs_to_lmht, relu_to_if, reparameterize,
};
use lmht_nn::layers::{
    BatchNorm, Conv2d, ConvNorm, Linear, Neuron, Site, add, apply, avg_pool2d, flatten, global_avg_pool, max_pool2d,
    shortcut_scale,
};
use lmht_nn::ops::{Conv2dParams, Pool2dParams};
use lmht_nn::{Architecture, Body, InputShape, ModelConfig, NeuronConfig, ParamStore, Pass, Schedule, Signal, Tgim};

use crate::networks::{lmht, random_model, readout, relative_error};
use crate::support::assert_refused;

/// What [`Residual`] does at the place where tests want it to differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    Plain,
    /// It does not look at `input_scale`.
    WithoutInputScale,
    /// The second block is the first one again.
    Shared,
    /// Something that only its own forward method knows.
    Opaque,
    /// A maximum of currents.
    PoolsCurrents,
    /// The shortcut has no factor for unit spikes.
    BareShortcut,
    /// Batch norm whatever the configuration says.
    KeepsNorm,
    /// A neuron that is not the configuration's.
    OtherNeuron,
    /// A neuron that sends s·θ whatever `unit_spikes` says.
    KeepsAmplitude,
}

/// A stem, and two residual blocks of a depthwise 3x3 and a 1x1 convolution, each with batch norm and neuron.
#[derive(Debug)]
struct Residual(Variant);

#[derive(Debug)]
struct Block {
    name: String,
    depthwise: ConvNorm,
    sn1: Neuron,
    pointwise: ConvNorm,
    sn2: Neuron,
    shortcut_scale: Option<Tensor>,
}

#[derive(Debug)]
struct ResidualLayers {
    variant: Variant,
    stem: ConvNorm,
    sn: Neuron,
    blocks: Vec<Block>,
    fc: Linear,
}

const CHANNELS: usize = 6;

impl Block {
    fn new(variant: Variant, config: &ModelConfig, vb: VarBuilder<'_>) -> lmht_nn::Result<Self> {
        let depthwise = Conv2dParams { padding: 1, groups: CHANNELS, ..Conv2dParams::default() };
        let conv_norm = |kernel, params, names: (&str, &str)| {
            let (conv, norm) = (vb.pp(names.0), vb.pp(names.1));
            if variant == Variant::KeepsNorm {
                let conv = Conv2d::new(CHANNELS, CHANNELS, kernel, params, false, conv)?;
                return Ok(ConvNorm::new(conv, BatchNorm::new(CHANNELS, norm)?));
            }
            config.conv_norm((CHANNELS, CHANNELS, kernel), params, false, (conv, norm))
        };
        let has_factor = config.unit_spikes && variant != Variant::BareShortcut;
        let sn2 = match variant {
            Variant::OtherNeuron => Neuron::new(&NeuronConfig::mht(3), config.timesteps, Site::Maps, vb.pp("sn2"))?,
            Variant::KeepsAmplitude => Neuron::new(&config.neuron, config.timesteps, Site::Maps, vb.pp("sn2"))?,
            _ => config.neuron_layer(Site::Maps, vb.pp("sn2"))?,
        };
        Ok(Self {
            name: vb.prefix(),
            depthwise: conv_norm(3, depthwise, ("dw", "bn1"))?,
            sn1: config.neuron_layer(Site::Maps, vb.pp("sn1"))?,
            pointwise: conv_norm(1, Conv2dParams::default(), ("pw", "bn2"))?,
            sn2,
            shortcut_scale: if has_factor {
                Some(vb.get_with_hints(1, "shortcut_scale", Init::Const(1.))?)
            } else {
                None
            },
        })
    }

    fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> lmht_nn::Result<Signal> {
        let ys = self.sn1.forward(&self.depthwise.forward(xs, pass)?, pass)?;
        let ys = self.pointwise.forward(&ys, pass)?;
        let shortcut = match &self.shortcut_scale {
            Some(factor) => shortcut_scale(&self.name, xs, factor, pass)?,
            None => xs.clone(),
        };
        self.sn2.forward(&add(&self.name, &ys, &shortcut, pass)?, pass)
    }
}

impl Architecture for Residual {
    fn name(&self) -> &str {
        "residual"
    }
    fn parameters(&self) -> serde_json::Value {
        format!("{:?}", self.0).into()
    }
    fn input(&self) -> InputShape {
        InputShape::Images { sides: 4..=16 }
    }
    fn build(&self, config: &ModelConfig, vb: &VarBuilder<'_>) -> lmht_nn::Result<Box<dyn Body>> {
        let Self(variant) = *self;
        let params = Conv2dParams { stride: 2, padding: 1, ..Conv2dParams::default() };
        let input_scale = if variant == Variant::WithoutInputScale { 1. } else { config.input_scale };
        let n_blocks = if variant == Variant::Shared { 1 } else { 2 };
        Ok(Box::new(ResidualLayers {
            variant,
            stem: config.conv_norm((config.in_channels, CHANNELS, 3), params, false, (vb.pp("conv"), vb.pp("bn")))?,
            sn: config.neuron_layer(Site::Maps, vb.pp("sn"))?.with_input_scale(input_scale),
            blocks: (0..n_blocks)
                .map(|i| Block::new(variant, config, vb.pp(format!("block{i}"))))
                .collect::<lmht_nn::Result<_>>()?,
            fc: config.readout_layer(CHANNELS, vb.pp("fc"))?,
        }))
    }
}

impl Body for ResidualLayers {
    fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> lmht_nn::Result<Signal> {
        let mut current = self.stem.forward(xs, pass)?;
        if self.variant == Variant::Opaque {
            current = apply("softsign", &current, pass, |xs| xs / (xs.abs()? + 1.)?)?;
        }
        let mut xs = self.sn.forward(&current, pass)?;
        for block in &self.blocks {
            xs = block.forward(&xs, pass)?;
        }
        if self.variant == Variant::Shared {
            xs = self.blocks[0].forward(&xs, pass)?;
        }
        if self.variant == Variant::PoolsCurrents {
            let pool = Pool2dParams { kernel: 2, stride: 2, padding: 0 };
            xs = max_pool2d(&self.blocks[0].pointwise.forward(&xs, pass)?, pool, pass)?;
            xs = self.blocks[0].sn2.forward(&xs, pass)?;
        }
        self.fc.forward(&global_avg_pool(&xs, pass)?, pass)
    }
}

/// Three linear layers on features; it does not look at `input_scale`.
#[derive(Debug)]
struct Perceptron;

#[derive(Debug)]
struct PerceptronLayers(Linear, Neuron, Linear, Neuron, Linear);

impl Architecture for Perceptron {
    fn name(&self) -> &str {
        "perceptron"
    }
    fn input(&self) -> InputShape {
        InputShape::Features
    }
    fn build(&self, config: &ModelConfig, vb: &VarBuilder<'_>) -> lmht_nn::Result<Box<dyn Body>> {
        Ok(Box::new(PerceptronLayers(
            Linear::new(config.in_channels, 12, vb.pp("fc1"))?,
            config.neuron_layer(Site::Features, vb.pp("sn1"))?,
            Linear::new(12, 9, vb.pp("fc2"))?,
            config.neuron_layer(Site::Features, vb.pp("sn2"))?,
            config.readout_layer(9, vb.pp("fc3"))?,
        )))
    }
}

impl Body for PerceptronLayers {
    fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> lmht_nn::Result<Signal> {
        let Self(fc1, sn1, fc2, sn2, fc3) = self;
        let xs = sn1.forward(&fc1.forward(xs, pass)?, pass)?;
        fc3.forward(&sn2.forward(&fc2.forward(&xs, pass)?, pass)?, pass)
    }
}

/// A perceptron on pooled and flattened images: its first synapse does not see the image itself.
#[derive(Debug)]
struct OnPixels;

#[derive(Debug)]
struct PixelLayers(Linear, Neuron, Linear);

impl Architecture for OnPixels {
    fn name(&self) -> &str {
        "on_pixels"
    }
    fn input(&self) -> InputShape {
        InputShape::Images { sides: 8..=8 }
    }
    fn build(&self, config: &ModelConfig, vb: &VarBuilder<'_>) -> lmht_nn::Result<Box<dyn Body>> {
        Ok(Box::new(PixelLayers(
            Linear::new(config.in_channels * 16, 10, vb.pp("fc1"))?,
            config.neuron_layer(Site::Features, vb.pp("sn1"))?,
            config.readout_layer(10, vb.pp("fc2"))?,
        )))
    }
}

impl Body for PixelLayers {
    fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> lmht_nn::Result<Signal> {
        let Self(fc1, sn1, fc2) = self;
        let pooled = avg_pool2d(xs, Pool2dParams { kernel: 2, stride: 2, padding: 0 }, pass)?;
        fc2.forward(&sn1.forward(&fc1.forward(&flatten(&pooled, pass)?, pass)?, pass)?, pass)
    }
}

fn residual(variant: Variant) -> ModelConfig {
    ModelConfig::own(Residual(variant), 5)
}

/// The networks that go through everything.
fn networks() -> Vec<ModelConfig> {
    vec![
        residual(Variant::Plain),
        residual(Variant::WithoutInputScale),
        residual(Variant::Shared),
        ModelConfig { in_channels: 7, ..ModelConfig::own(Perceptron, 5) },
        ModelConfig::own(OnPixels, 5),
    ]
}

fn inputs(config: &ModelConfig, temporal: bool, seed: u64) -> Tensor {
    let shape = [&[3], &config.example_input()[..]].concat();
    let shape = if temporal { [&[config.n_frames()], &shape[..]].concat() } else { shape };
    let init = Init::Randn { mean: 0., stdev: 1.5 };
    ParamStore::new(seed).builder(DType::F64, &Device::Cpu).get_with_hints(shape, "input", init).unwrap()
}

fn title(config: &ModelConfig) -> String {
    format!("{:?}", config.backbone)
}

#[test]
fn the_exact_start_is_the_qcfs_network_if_q_is_lt() -> Result<()> {
    for config in networks() {
        for (levels, timesteps) in [(2, 2), (4, 1), (3, 2)] {
            let neuron = NeuronConfig::qcfs(levels * timesteps as u32);
            let ann = random_model(&ModelConfig { neuron, timesteps: 1, ..config.clone() }, 11)?;
            let images = inputs(&config, false, 11);
            let spiking = qcfs_to_lmht(&ann, levels, timesteps, HybridStart::Exact)?;
            let error = relative_error(&readout(&spiking, &images)?, &readout(&ann, &images)?)?;
            assert!(error < 1e-9, "{} L = {levels}, T = {timesteps}: {error:e}", title(&config));
        }
    }
    Ok(())
}

/// The published start multiplies the first current by L in every body, whether it looks at `input_scale` or not.
#[test]
fn the_published_start_is_exact_for_one_level_and_scales_the_first_current() -> Result<()> {
    for config in networks() {
        let ann = random_model(&ModelConfig { neuron: NeuronConfig::qcfs(4), timesteps: 1, ..config.clone() }, 3)?;
        let images = inputs(&config, false, 3);
        let one = qcfs_to_lmht(&ann, 1, 4, HybridStart::Published)?;
        assert!(relative_error(&readout(&one, &images)?, &readout(&ann, &images)?)? < 1e-9, "{}", title(&config));
        let two = qcfs_to_lmht(&ann, 2, 2, HybridStart::Published)?;
        let in_weights = ["fc1.weight", "bn.weight"].iter().find(|name| ann.tensors.contains_key(**name)).unwrap();
        let ratio = (two.tensors[*in_weights].flatten_all()? / ann.tensors[*in_weights].flatten_all()?)?.mean_all()?;
        let total = two.config.input_scale * ratio.to_scalar::<f64>()?;
        assert!((total - 2.).abs() < 1e-12, "{}: {total}", title(&config));
    }
    Ok(())
}

/// Reparameterized, folded, and both in either order: the same spikes in every window of every layer.
#[test]
fn conversions_change_no_spike() -> Result<()> {
    for config in networks() {
        for temporal in [false, true] {
            let config =
                ModelConfig { neuron: lmht(3, Tgim::Full, 0.5), timesteps: 2, input_scale: 1., ..config.clone() };
            let model = random_model(&config, 17)?;
            let images = inputs(&config, temporal, 17);
            let labels = Tensor::zeros(3, DType::U32, &Device::Cpu)?;
            let expected = readout(&model, &images)?;
            let single = reparameterize(&model, Schedule::FrontLoaded)?;
            let mut steps = vec![single.clone()];
            if model.tensors.keys().any(|name| name.ends_with("running_mean")) {
                let folded = absorb_bn(&model)?;
                assert!(!folded.tensors.keys().any(|name| name.ends_with("running_mean")));
                steps.extend([absorb_bn(&single)?, reparameterize(&folded, Schedule::FrontLoaded)?, folded]);
            }
            if config.backbone == residual(Variant::Shared).backbone {
                // Its second pass reads spikes of another amplitude, and one weight cannot stand for two.
                assert_refused(absorb_thresholds(&model), &["block0", "more than once", "two layers"]);
            } else {
                steps.extend([absorb_thresholds(&single)?, absorb_thresholds(&model)?]);
            }
            let (before, _) = model.build(DType::F64, &Device::Cpu)?;
            for (i, step) in steps.iter().enumerate() {
                let (after, _) = step.build(DType::F64, &Device::Cpu)?;
                let comparison = compare_spikes(&before, &after, [Ok((images.clone(), labels.clone()))])?;
                assert_eq!(comparison.differing(), 0, "{} step {i}", title(&config));
                assert!(comparison.layers.iter().all(|layer| layer.n_counts > 0));
                assert!(comparison.layers.iter().any(|layer| layer.spikes_after > 0));
                let window = step.config.neuron.window() as f64;
                let error = relative_error(&(readout(step, &images)? * window)?, &expected)?;
                assert!(error < 1e-9, "{} step {i}: {error:e}", title(&config));
            }
        }
    }
    Ok(())
}

/// A layer that the network goes through twice has its spikes compared twice, under one name.
#[test]
fn a_shared_layer_is_compared_at_both_places() -> Result<()> {
    let model = random_model(&residual(Variant::Shared), 5)?;
    assert_eq!(model.check()?.shared_layer(), Some("block0.dw"));
    let (network, _) = model.build(DType::F64, &Device::Cpu)?;
    let batch = (inputs(&model.config, false, 5), Tensor::zeros(3, DType::U32, &Device::Cpu)?);
    let comparison = compare_spikes(&network, &network, [Ok(batch)])?;
    let names: Vec<&str> = comparison.layers.iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(names, ["sn", "block0.sn1", "block0.sn2", "block0.sn1", "block0.sn2"]);
    assert_ne!(comparison.layers[1].spikes_before, comparison.layers[3].spikes_before);
    Ok(())
}

/// The rates of a calibrated network of one's own approach its ANN.
#[test]
fn relu_networks_calibrate() -> Result<()> {
    for config in [residual(Variant::Shared), ModelConfig::own(Perceptron, 5)] {
        let ann = ModelConfig { neuron: NeuronConfig::relu(), timesteps: 1, ..config };
        let model = random_model(&ann, 29)?;
        let images = inputs(&ann, false, 29);
        let (network, _) = model.build(DType::F64, &Device::Cpu)?;
        let mut calibration = Calibration::of(&network, &images, 100.)?;
        calibration.ceilings.values_mut().for_each(|ceiling| *ceiling = if *ceiling > 0. { *ceiling } else { 1. });
        let expected = readout(&model, &images)?;
        let error =
            |timesteps| relative_error(&readout(&relu_to_if(&model, &calibration, timesteps)?, &images)?, &expected);
        let (coarse, fine) = (error(4)?, error(512)?);
        assert!(fine < 0.1 && fine < coarse, "{}: {coarse} {fine}", title(&ann));
    }
    Ok(())
}

/// Depthwise convolutions, features and layers of two passes in a NIR file, replayed spike by spike.
#[cfg(feature = "nir")]
#[test]
fn nir_files_have_every_spike() -> Result<()> {
    use lmht_convert::nir::{self, Profile};
    for config in networks() {
        for (profile, temporal) in [(Profile::Spec, false), (Profile::Spec, true), (Profile::Norse, false)] {
            let neuron = NeuronConfig::qcfs(4);
            let ann = random_model(&ModelConfig { neuron, timesteps: 1, ..config.clone() }, 31)?;
            let model = qcfs_to_if(&ann, 4)?;
            let images = inputs(&model.config, temporal, 31);
            let export = nir::export(&model, &config.example_input(), profile)?;
            let verification = nir::verify(&export.bytes, &model, &images)?;
            let spikes: u64 = verification.layers.iter().map(|layer| layer.spikes_after).sum();
            assert!(spikes > 0, "{}", title(&config));
            if profile == Profile::Spec {
                assert_eq!(verification.differing(), 0, "{}: {verification:?}", title(&config));
                assert!(verification.logit_error < 1e-9, "{}: {:e}", title(&config), verification.logit_error);
            }
            if config.backbone == residual(Variant::Shared).backbone {
                assert_eq!(verification.layers[3].name, "block0.sn1.pass2");
            }
        }
    }
    Ok(())
}

/// What is refused, and that the message names the layer and says what to do.
#[test]
fn what_cannot_be_converted_is_refused_by_name() -> Result<()> {
    let model = |variant| random_model(&ModelConfig { neuron: lmht(2, Tgim::Full, 0.), ..residual(variant) }, 1);
    let twin = |model: &Model| reparameterize(model, Schedule::FrontLoaded);
    for convert in [twin as fn(&Model) -> Result<Model>, absorb_bn, absorb_thresholds] {
        assert_refused(convert(&model(Variant::Opaque)?), &["softsign is an operation of its own", "lmht_nn::layers"]);
        assert_refused(convert(&model(Variant::OtherNeuron)?), &["block0.sn2", "M-HT", "neuron_layer"]);
    }
    assert_refused(twin(&model(Variant::PoolsCurrents)?), &["max-pooling after block0.bn2", "pool the spikes"]);
    assert_refused(absorb_thresholds(&model(Variant::BareShortcut)?), &["block0", "shortcut_scale"]);
    assert_refused(absorb_thresholds(&model(Variant::KeepsAmplitude)?), &["block0.sn2", "s·θ", "with_unit_spikes"]);
    assert_refused(absorb_bn(&model(Variant::KeepsNorm)?), &["residual", "conv_norm"]);
    let ann = ModelConfig { neuron: NeuronConfig::qcfs(4), timesteps: 1, ..residual(Variant::Opaque) };
    assert_refused(qcfs_to_if(&random_model(&ann, 1)?, 4), &["softsign is an operation of its own"]);
    Ok(())
}

/// Kinds of neurons whose equations the conversions do not know are refused by their title.
#[test]
fn other_neurons_are_refused_by_title() -> Result<()> {
    use lmht_nn::neurons::{Ilif, Ternary};
    for (neuron, title) in [(NeuronConfig::from(Ilif::default()), "I-LIF"), (Ternary::default().into(), "ternary")] {
        let model = random_model(&ModelConfig { neuron, ..residual(Variant::Plain) }, 1)?;
        assert_refused(reparameterize(&model, Schedule::FrontLoaded), &[title, "train an LM-HT network"]);
        assert_refused(absorb_thresholds(&model), &[title, "LM-HT"]);
        assert_refused(qcfs_to_if(&model, 4), &[title, "NeuronConfig::qcfs"]);
        assert_refused(relu_to_if(&model, &Calibration::default(), 4), &[title, "NeuronConfig::relu"]);
        assert_refused(checkpoint::to_published(&model), &[title, "published networks do not have"]);
        #[cfg(feature = "nir")]
        assert_refused(
            lmht_convert::nir::export(&model, &[3, 16, 16], lmht_convert::nir::Profile::Spec),
            &["sn cannot", title, "train an IF or LIF network"],
        );
        // Batch norm does not ask what the neuron is.
        let images = inputs(&model.config, false, 1);
        assert!(relative_error(&readout(&absorb_bn(&model)?, &images)?, &readout(&model, &images)?)? < 1e-9);
    }
    Ok(())
}

/// A checkpoint under its own and under foreign names, by prefix and by whole name.
#[test]
fn checkpoints_of_foreign_names_are_renamed() -> Result<()> {
    let config = ModelConfig { neuron: lmht(2, Tgim::Full, 0.), ..residual(Variant::Plain) };
    let model = random_model(&config, 7)?;
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(from, to)| (from.to_string(), to.to_string())).collect()
    };
    let published = checkpoint::to_published(&model)?;
    let read = |names: &dyn Fn(&str) -> String| {
        let tensors: BTreeMap<String, Tensor> = published.iter().map(|(name, x)| (names(name), x.clone())).collect();
        checkpoint::parse("theirs", &safetensors::serialize(tensors, None).unwrap())
    };
    let own_names = read(&|name| name.into())?.into_model(&config)?;
    let theirs = read(&|name| match name.strip_prefix("block0.") {
        Some(rest) => format!("encoder.stages.0.{rest}"),
        None if name == "conv.weight" => "encoder.stem".into(),
        None => format!("encoder.{name}"),
    })?;
    let renamed = theirs.clone().renamed(&map(&[
        ("encoder", ""),
        ("encoder.stages.0", "block0"),
        ("encoder.stem", "conv.weight"),
    ]))?;
    assert!(renamed.notes.iter().any(|note| note.starts_with("renamed ")), "{:?}", renamed.notes);
    let renamed = renamed.into_model(&config)?;
    for (name, tensor) in &model.tensors {
        for read in [&own_names, &renamed] {
            let difference = (&read.tensors[name] - tensor)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?;
            assert_eq!(difference, 0., "{name}");
        }
    }
    // A beginning ends at a dot.
    assert_refused(theirs.clone().renamed(&map(&[("encod", "x")])), &["theirs", "\"encod\"", "up to a dot"]);
    let two = map(&[("encoder.block1.dw", "same"), ("encoder.block1.pw", "same")]);
    assert_refused(theirs.renamed(&two), &["theirs", "same.weight", "different names"]);
    Ok(())
}
