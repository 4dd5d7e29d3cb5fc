//! A residual network of one's own, with depthwise convolutions: trained, converted, counted and saved like a built-in one.
//!
//! ```console
//! $ cargo run --release -p lmht-train --features datasets --example own_residual
//! ```
//!
//! A quantized ANN learns 2,000 images of the sample (Fashion-MNIST), becomes an LM-HT network of two levels and two timesteps
//! with the same weights, learns on, and is rewritten with single-threshold neurons. About a minute on two cores.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_nn::init::Init;
use lmht_bench::{CostCounter, EnergyModel};
use lmht_convert::{HybridStart, Model, compare_spikes, qcfs_to_lmht, reparameterize};
use lmht_datasets::{ImageDataset, Loader, LoaderConfig, ReadOptions, Split, sample_path};
use lmht_nn::layers::{ConvNorm, Linear, Neuron, Site, add, global_avg_pool, shortcut_scale};
use lmht_nn::ops::Conv2dParams;
use lmht_nn::{
    Architecture, Body, InputShape, Mode, ModelCard, ModelConfig, Network, NeuronConfig, ParamStore, Pass, Schedule,
    Signal, from_pretrained_as, save_pretrained,
};
use lmht_train::optim::{OptimizerConfig, SgdConfig};
use lmht_train::{BatchSource, Progress, TrainConfig, evaluate, fit};
use serde::{Deserialize, Serialize};

type Error = Box<dyn std::error::Error>;

/// What a `config.json` needs to know beside what it knows of every network.
#[derive(Debug, Serialize, Deserialize)]
struct Separable {
    /// Channels of each block; the map halves from block to block.
    channels: Vec<usize>,
}

/// The layers.
#[derive(Debug)]
struct Layers {
    stem: (ConvNorm, Neuron),
    blocks: Vec<Block>,
    readout: Linear,
}

/// A depthwise and a pointwise convolution, and a shortcut around both.
#[derive(Debug)]
struct Block {
    name: String,
    depthwise: (ConvNorm, Neuron),
    pointwise: ConvNorm,
    downsample: Option<ConvNorm>,
    /// θ of unit spikes that pass by the convolutions: only `absorb_thresholds` makes such networks.
    shortcut_scale: Option<Tensor>,
    neuron: Neuron,
}

impl Architecture for Separable {
    fn name(&self) -> &str {
        "separable"
    }

    fn parameters(&self) -> serde_json::Value {
        serde_json::json!({ "channels": self.channels })
    }

    fn input(&self) -> InputShape {
        InputShape::images()
    }

    fn build(&self, config: &ModelConfig, vb: &VarBuilder<'_>) -> lmht_nn::Result<Box<dyn Body>> {
        let conv = |sizes, kernel: usize, (stride, groups), name: &str, vb: &VarBuilder<'_>| {
            let (c_in, c_out) = sizes;
            let params = Conv2dParams { stride, padding: kernel / 2, groups };
            let parts = (vb.pp(name), vb.pp(format!("{name}_bn")));
            config.conv_norm((c_in, c_out, kernel), params, false, parts)
        };
        let mut c_in = self.channels.first().copied().unwrap_or(1);
        let stem = conv((config.in_channels, c_in), 3, (1, 1), "stem", vb)?;
        // The factor that the paper's hybrid start puts on the first current; 1 otherwise.
        let neuron = config.neuron_layer(Site::Maps, vb.pp("stem_sn"))?.with_input_scale(config.input_scale);
        let stem = (stem, neuron);
        let mut blocks = Vec::new();
        for (i, &c_out) in self.channels.iter().enumerate() {
            let stride = if i == 0 { 1 } else { 2 };
            let vb = vb.pp("blocks").pp(i);
            let changes = stride != 1 || c_in != c_out;
            let keeps_theta = config.unit_spikes && !changes;
            blocks.push(Block {
                name: vb.prefix(),
                depthwise: (
                    conv((c_in, c_in), 3, (stride, c_in), "depthwise", &vb)?,
                    config.neuron_layer(Site::Maps, vb.pp("sn1"))?,
                ),
                pointwise: conv((c_in, c_out), 1, (1, 1), "pointwise", &vb)?,
                downsample: changes.then(|| conv((c_in, c_out), 1, (stride, 1), "downsample", &vb)).transpose()?,
                shortcut_scale: keeps_theta
                    .then(|| vb.get_with_hints(1, "shortcut_scale", Init::Const(1.)))
                    .transpose()?,
                neuron: config.neuron_layer(Site::Maps, vb.pp("sn2"))?,
            });
            c_in = c_out;
        }
        Ok(Box::new(Layers { stem, blocks, readout: config.readout_layer(c_in, vb.pp("fc"))? }))
    }
}

impl Body for Layers {
    fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> lmht_nn::Result<Signal> {
        let mut xs = self.stem.1.forward(&self.stem.0.forward(xs, pass)?, pass)?;
        for block in &self.blocks {
            let ys = block.depthwise.1.forward(&block.depthwise.0.forward(&xs, pass)?, pass)?;
            let ys = block.pointwise.forward(&ys, pass)?;
            let shortcut = match (&block.downsample, &block.shortcut_scale) {
                (Some(downsample), _) => downsample.forward(&xs, pass)?,
                (None, Some(theta)) => shortcut_scale(&block.name, &xs, theta, pass)?,
                (None, None) => xs.clone(),
            };
            xs = block.neuron.forward(&add(&block.name, &ys, &shortcut, pass)?, pass)?;
        }
        self.readout.forward(&global_avg_pool(&xs, pass)?, pass)
    }
}

pub(crate) fn main() -> Result<(), Error> {
    let cpu = Device::Cpu;
    let read = |split, max_per_class| {
        let options = ReadOptions { max_per_class: Some(max_per_class), ..ReadOptions::default() };
        ImageDataset::read(sample_path(), split, &options)
    };
    let (train, test) = (read(Split::Train, 200)?, read(Split::Test, 50)?);
    let (normalize, n_classes) = (train.channel_stats(), train.n_classes());
    let in_channels = train.shape().0;
    let train = Loader::new(Arc::new(train), &LoaderConfig::train(50, 42), &normalize, &cpu)?;
    let test = Loader::new(Arc::new(test), &LoaderConfig::eval(100), &normalize, &cpu)?;

    // A quantized ANN first: Q = 4 steps, as many as 2 levels over 2 timesteps have.
    let architecture = Separable { channels: vec![16, 32, 64] };
    let config = ModelConfig {
        in_channels,
        timesteps: 1,
        neuron: lmht_nn::neurons::Qcfs { scale: 2., ..Default::default() }.into(),
        ..ModelConfig::own(architecture, n_classes)
    };
    let params = ParamStore::new(42);
    let network = Network::new(&config, params.builder(DType::F32, &cpu))?;
    // An own network that the engine could not run as a whole would say so here, and why.
    assert!(network.plan(Mode::Train)?.slow().is_none(), "{}", network.plan(Mode::Train)?);
    let recipe = |epochs, lr| TrainConfig {
        epochs,
        batch_size: 50,
        optimizer: OptimizerConfig::Sgd(SgdConfig { lr, momentum: 0.9, nesterov: true, weight_decay: 5e-4 }),
        ..TrainConfig::default()
    };
    let ann = fit(&network, &params, &recipe(4, 0.1), &train, &test, None, Progress::Shown)?;

    // The same function with spikes; then it learns on.
    let spiking = qcfs_to_lmht(&Model::of(&config, &params), 2, 2, HybridStart::Exact)?;
    let (network, params) = spiking.build(DType::F32, &cpu)?;
    let start = evaluate(&network, &test, Progress::Silent, None)?;
    let tuned = fit(&network, &params, &recipe(1, 0.01), &train, &test, None, Progress::Shown)?;

    // What it costs.
    let mut counter = CostCounter::new();
    evaluate(&network, &test, Progress::Silent, Some(&mut counter))?;
    let cost = counter.report(counter.n_images());

    // Single-threshold neurons for hardware that has no others.
    let single = reparameterize(&Model::of(&spiking.config, &params), Schedule::FrontLoaded)?;
    let (twin, twin_params) = single.build(DType::F32, &cpu)?;
    let batches = test.batches(0, 0)?.map(|batch| {
        let batch = batch.map_err(lmht_convert::Error::data)?;
        let labels = batch.targets.labels().map_err(lmht_convert::Error::data)?.clone();
        Ok((batch.images, labels))
    });
    let spikes = compare_spikes(&network, &twin, batches)?;

    // And a folder that this program loads again.
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("separable");
    save_pretrained(&path, &single.config, &twin_params, &ModelCard::default())?;
    let (loaded, _) = from_pretrained_as::<Separable>(&path, DType::F32, &cpu)?;
    let after = evaluate(&loaded, &test, Progress::Silent, None)?;

    println!("quantized ANN                    {:6.2} %", 100. * ann.top1);
    println!("LM-HT, L = 2, T = 2, same weights {:5.2} %", 100. * start.top1);
    println!("after another epoch              {:6.2} %", 100. * tuned.top1);
    println!("single-threshold, loaded again   {:6.2} %", 100. * after.top1);
    println!(
        "spike counts that differ         {:>6} of {}",
        spikes.differing(),
        spikes.layers.iter().map(|l| l.n_counts).sum::<u64>()
    );
    let energy = EnergyModel::default().energy_mj(&cost);
    println!("{:.2} M SOPs, {:.2} M MACs, {energy:.5} mJ an image (estimated)", cost.sops() / 1e6, cost.macs() / 1e6);
    assert!(matches!(single.config.neuron, NeuronConfig::Reparameterized(_)));
    // The start is the ANN's function, and single-threshold neurons are the LM-HT network's, but for ties of f32.
    assert!(ann.top1 > 0.5, "the ANN has learned too little");
    assert!((start.top1 - ann.top1).abs() < 0.02 && (after.top1 - tuned.top1).abs() < 0.02);
    assert!(cost.sops() > 0. && cost.macs() > 0.);
    Ok(())
}
