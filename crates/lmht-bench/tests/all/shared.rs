//! Layers that a network goes through more than once in a pass.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use lmht_bench::{ActivityCounter, CostCounter};
use lmht_nn::layers::{Linear, Neuron, Site};
use lmht_nn::{
    Architecture, Body, InputShape, ModelConfig, Network, NeuronConfig, Observer, ParamStore, Pass, PassEvent, Result,
    Signal, SignalKind, SynapseEvent, SynapseKind, Values,
};

/// Spikes go twice through one linear layer and its neurons.
#[derive(Debug)]
struct Loop;

#[derive(Debug)]
struct Layers {
    stem: Linear,
    first: Neuron,
    shared: (Linear, Neuron),
    head: Linear,
}

impl Architecture for Loop {
    fn name(&self) -> &str {
        "loop"
    }
    fn input(&self) -> InputShape {
        InputShape::Features
    }
    fn build(&self, config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Body>> {
        Ok(Box::new(Layers {
            stem: Linear::new(config.in_channels, 4, vb.pp("stem"))?,
            first: config.neuron_layer(Site::Features, vb.pp("sn0"))?,
            shared: (Linear::new(4, 4, vb.pp("shared"))?, config.neuron_layer(Site::Features, vb.pp("sn1"))?),
            head: Linear::new(4, config.n_classes, vb.pp("head"))?,
        }))
    }
}

impl Body for Layers {
    fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
        let mut xs = self.first.forward(&self.stem.forward(xs, pass)?, pass)?;
        for _ in 0..2 {
            xs = self.shared.1.forward(&self.shared.0.forward(&xs, pass)?, pass)?;
        }
        self.head.forward(&xs, pass)
    }
}

/// All weights `weight`, all biases 0.
fn network(weight: f32) -> Network {
    let neuron = NeuronConfig::integrate_and_fire();
    let config = ModelConfig { in_channels: 1, timesteps: 2, neuron, ..ModelConfig::own(Loop, 3) };
    let params = ParamStore::new(1);
    let network = Network::new(&config, params.builder(DType::F32, &Device::Cpu)).unwrap();
    for (name, var) in params.all() {
        if name.ends_with("weight") {
            var.set(&var.ones_like().unwrap().affine(f64::from(weight), 0.).unwrap()).unwrap();
        } else if name.ends_with("bias") {
            var.set(&var.zeros_like().unwrap()).unwrap();
        }
    }
    network
}

// An input of 1 makes all four neurons fire at both timesteps, first the stem's, then the shared layer's, twice; an input of
// 1/2 only at the second one, where the potential is 1.
#[test]
fn both_times_count_in_every_image_and_timestep() {
    let network = network(1.);
    let xs = Tensor::new(&[[1f32], [0.5]], &Device::Cpu).unwrap();
    for layer_by_layer in [false, true] {
        let mut counter = CostCounter::new();
        let pass = Pass::eval().observed_by(&mut counter);
        network.forward(&xs, &mut if layer_by_layer { pass.layer_by_layer() } else { pass }).unwrap();
        let shared = &counter.synapses()[1];
        assert_eq!((shared.name.as_str(), shared.total.spikes, shared.n_rows), ("shared", 2 * (8 + 4), 8));
        let cells = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(image, t)| shared.sops_at(image, t));
        assert_eq!(cells, [32, 32, 0, 32]); // 4 spikes, 4 connections, twice
        let report = counter.report(2);
        let layer = &report.layers[1];
        assert_eq!((layer.runs, layer.uses, layer.dense, layer.n_weights), (4., 2., 64., 16));
        assert_eq!(layer.sops_by_timestep, [16., 32.]);
        // The dense network multiplies twice by the shared weights.
        assert_eq!(report.ann_macs(), 4. + 2. * 16. + 12.);
        let sn1 = &counter.neurons()[1];
        assert_eq!((sn1.name.as_str(), sn1.n_units, sn1.updates), ("sn1", 4, 2 * 4 * 2 * 2));
    }
}

#[test]
fn rates_are_means_over_both_times() {
    let mut counter = ActivityCounter::new();
    let xs = Tensor::new(&[[1f32], [0.5]], &Device::Cpu).unwrap();
    network(1.).forward(&xs, &mut Pass::eval().observed_by(&mut counter)).unwrap();
    let sn1 = &counter.report()[1];
    assert_eq!((sn1.name.as_str(), sn1.n_units), ("sn1", 4));
    assert_eq!(sn1.rate_nz, 3. / 4.);
    assert_eq!(sn1.rate_by_timestep, [0.5, 1.]);
}

/// Maps of two sizes: 3x3 with padding 1 has 100 taps on 4x4 and 16 on 2x2.
#[test]
fn each_time_counts_with_its_own_size() {
    let weight = Tensor::ones((1, 1, 3, 3), DType::F32, &Device::Cpu).unwrap();
    let kind = SynapseKind::Conv2d { c_out: 1, kernel: 3, stride: 1, padding: 1, groups: 1 };
    let signal = SignalKind::Spikes { v_threshold: 1. };
    let mut counter = CostCounter::new();
    counter.begin(&PassEvent { timesteps: 1, n_images: 1 }).unwrap();
    for side in [4, 2] {
        let xs = Tensor::ones((1, 1, side, side), DType::F32, &Device::Cpu).unwrap();
        counter.synapse(&SynapseEvent::new("conv", kind, Values::Tensor(&xs), &weight, signal)).unwrap();
    }
    let report = counter.report(1);
    let layer = &report.layers[0];
    assert_eq!((layer.sops, layer.dense, layer.dense_padded), (116., 116., 144. + 36.));
    assert_eq!((layer.inputs, layer.outputs, layer.sop_rate), (20., 20., 180.));
    assert_eq!(report.ann_macs(), 116.);
}
