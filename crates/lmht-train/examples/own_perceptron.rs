//! A perceptron on features: no images, no built-in network, and everything that a ResNet-18 has.
//!
//! ```console
//! $ cargo run --release -p lmht-train --features datasets --example own_perceptron
//! ```
//!
//! The features are the means of 4x4 patches of the sample's images (Fashion-MNIST), 49 for each. A few seconds on two cores.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use lmht_bench::CostCounter;
use lmht_convert::{Model, compare_spikes, reparameterize};
use lmht_datasets::{ImageDataset, ReadOptions, Split, sample_path};
use lmht_nn::layers::{Linear, Neuron, Site};
use lmht_nn::{
    Architecture, Body, InputShape, Mode, ModelCard, ModelConfig, Network, ParamStore, Pass, Schedule, Signal,
    from_pretrained_as, save_pretrained,
};
use lmht_train::optim::{AdamWConfig, OptimizerConfig};
use lmht_train::{BatchSource, Progress, TensorSource, TrainConfig, evaluate, fit};
use serde::{Deserialize, Serialize};

/// Linear layers with neurons between.
#[derive(Debug, Serialize, Deserialize)]
struct Perceptron {
    hidden: Vec<usize>,
}

#[derive(Debug)]
struct Layers(Vec<(Linear, Neuron)>, Linear);

impl Architecture for Perceptron {
    fn name(&self) -> &str {
        "perceptron"
    }

    fn parameters(&self) -> serde_json::Value {
        serde_json::json!({ "hidden": self.hidden })
    }

    fn input(&self) -> InputShape {
        InputShape::Features
    }

    fn build(&self, config: &ModelConfig, vb: &VarBuilder<'_>) -> lmht_nn::Result<Box<dyn Body>> {
        let (mut layers, mut features) = (Vec::new(), config.in_channels);
        for (i, &hidden) in self.hidden.iter().enumerate() {
            let linear = Linear::new(features, hidden, vb.pp(format!("fc{i}")))?;
            layers.push((linear, config.neuron_layer(Site::Features, vb.pp(format!("sn{i}")))?));
            features = hidden;
        }
        Ok(Box::new(Layers(layers, config.readout_layer(features, vb.pp("readout"))?)))
    }
}

impl Body for Layers {
    fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> lmht_nn::Result<Signal> {
        let mut xs = xs.clone();
        for (linear, neuron) in &self.0 {
            xs = neuron.forward(&linear.forward(&xs, pass)?, pass)?;
        }
        self.1.forward(&xs, pass)
    }
}

/// Features `[N, 49]` and labels `[N]` of a split.
fn features(split: Split) -> Result<(Tensor, Tensor), Box<dyn std::error::Error>> {
    let options = ReadOptions { max_per_class: Some(400), ..ReadOptions::default() };
    let data = ImageDataset::read(sample_path(), split, &options)?;
    let (c, h, w) = data.shape();
    let pixels = Tensor::from_slice(data.pixels(), (data.len(), c, h, w), &Device::Cpu)?.to_dtype(DType::F32)?;
    let patches = (pixels / 255.)?.avg_pool2d(4)?.flatten_from(1)?;
    // Around 0, as a synapse that starts at random likes it.
    Ok((((patches - 0.3)? * 3.)?, Tensor::from_slice(data.labels(), data.len(), &Device::Cpu)?))
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cpu = Device::Cpu;
    let (images, labels) = features(Split::Train)?;
    let n_features = images.dim(1)?;
    let train = TensorSource::train(images, labels, 50, 42)?;
    let (images, labels) = features(Split::Test)?;
    let test = TensorSource::test(images, labels, 500)?;

    let config = ModelConfig { in_channels: n_features, ..ModelConfig::own(Perceptron { hidden: vec![128, 64] }, 10) };
    let params = ParamStore::new(42);
    let network = Network::new(&config, params.builder(DType::F32, &cpu))?;
    assert!(network.plan(Mode::Train)?.slow().is_none(), "{}", network.plan(Mode::Train)?);
    let recipe = TrainConfig {
        epochs: 8,
        batch_size: 50,
        optimizer: OptimizerConfig::AdamW(AdamWConfig { lr: 2e-3, ..AdamWConfig::default() }),
        ..TrainConfig::default()
    };
    let trained = fit(&network, &params, &recipe, &train, &test, None, Progress::Shown)?;

    let mut counter = CostCounter::new();
    evaluate(&network, &test, Progress::Silent, Some(&mut counter))?;
    let cost = counter.report(counter.n_images());

    let single = reparameterize(&Model::of(&config, &params), Schedule::FrontLoaded)?;
    let (twin, twin_params) = single.build(DType::F32, &cpu)?;
    let batches = test.batches(0, 0)?.map(|batch| {
        let batch = batch.map_err(lmht_convert::Error::data)?;
        let labels = batch.targets.labels().map_err(lmht_convert::Error::data)?.clone();
        Ok((batch.images, labels))
    });
    let spikes = compare_spikes(&network, &twin, batches)?;

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("perceptron");
    save_pretrained(&path, &single.config, &twin_params, &ModelCard::default())?;
    let (loaded, _) = from_pretrained_as::<Perceptron>(&path, DType::F32, &cpu)?;
    let after = evaluate(&loaded, &test, Progress::Silent, None)?;

    println!("LM-HT, L = 2, T = 2              {:6.2} %", 100. * trained.top1);
    println!("single-threshold, loaded again   {:6.2} %", 100. * after.top1);
    println!("spike counts that differ         {:>6}", spikes.differing());
    println!("{:.0} SOPs, {:.0} MACs an image", cost.sops(), cost.macs());
    assert!(trained.top1 > 0.5, "the network has learned too little");
    assert!((after.top1 - trained.top1).abs() < 0.02, "single-threshold neurons compute the same, but for ties of f32");
    assert!(cost.sops() > 0. && cost.macs() > 0.);
    Ok(())
}
