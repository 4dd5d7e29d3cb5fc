//! CIFARNet (Wu et al. 2019, "Direct training for spiking neural networks: faster, larger, better"): five 3x3
//! convolutions and three linear layers.
//!
//! In units of the width w (128 in the published network), A for average pooling:
//! `w | 2w,A | 4w,A | 8w | 4w | 8w features | 4w features | K classes`.
//!
//! Our reading: the structure is Wu's, with K logits instead of a voting layer; batch norm and no bias in the
//! convolutions, and a stem current that is computed once and repeated, as in the residual networks, whose names it
//! borrows: `convN.0` (convolution), `convN.1` (batch norm), `snN` for N in 1..=5, `fc.0.0`, `fc.1`, `fc.2.0`, `fc.3`,
//! `fc.4.0`. The first linear layer reads all 8 x 8 positions, so images are 32 x 32.

use candle_nn::VarBuilder;

use super::Input;
use super::classifier::{Classifier, ClassifierNames};
use crate::config::ModelConfig;
use crate::graph::Op;
use crate::layers::{ConvNorm, Flow, Neuron, Site, avg_pool2d};
use crate::ops::{Conv2dParams, Pool2dParams};
use crate::{Pass, Result};

/// Channels of each convolution in units of the width, and whether average pooling follows it.
const CONVS: [(usize, bool); 5] = [(1, false), (2, true), (4, true), (8, false), (4, false)];

/// Side of the map that the first linear layer reads.
const MAP_SIDE: usize = 8;

#[derive(Debug, Clone)]
pub(super) struct Cifarnet {
    layers: Vec<(ConvNorm, Neuron, bool)>,
    classifier: Classifier,
}

impl Cifarnet {
    /// Replaces every tensor by a copy.
    pub(super) fn own_tensors(&mut self) -> Result<()> {
        for (synapse, neuron, _) in &mut self.layers {
            synapse.own_tensors()?;
            neuron.own_tensors()?;
        }
        self.classifier.own_tensors()
    }

    pub(super) fn new(config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let width = config.width;
        let mut layers = Vec::new();
        let mut c_in = config.in_channels;
        for (i, (factor, pool)) in CONVS.into_iter().enumerate() {
            let c_out = width * factor;
            let synapse = vb.pp(format!("conv{}", i + 1));
            let params = Conv2dParams { stride: 1, padding: 1, groups: 1 };
            let parts = (synapse.pp(0), synapse.pp(1));
            let synapse = ConvNorm::build(config, (c_in, c_out, 3), params, false, parts)?;
            let mut neuron = Neuron::new(config, Site::Maps, vb.pp(format!("sn{}", i + 1)))?;
            if i == 0 {
                neuron = neuron.with_input_scale(config.input_scale);
            }
            layers.push((synapse, neuron, pool));
            c_in = c_out;
        }
        let names = ClassifierNames { linear: |i| format!("fc.{}.0", 2 * i), neuron: |i| format!("fc.{}", 2 * i + 1) };
        let f_in = c_in * MAP_SIDE * MAP_SIDE;
        Ok(Self { layers, classifier: Classifier::new(config, f_in, &[8 * width, 4 * width], &names, vb)? })
    }

    pub(super) fn forward(&self, input: &Input, timesteps: usize, pass: &mut Pass<'_>) -> Result<Flow> {
        let (stem, neuron, _) = &self.layers[0];
        let current = input.through_stem(timesteps, pass, |images, _, pass| stem.forward(images, pass))?;
        let mut xs = neuron.forward(&current, pass)?;
        for (synapse, neuron, pool) in &self.layers[1..] {
            let current = synapse.forward(&xs, pass)?;
            xs = neuron.forward(&current, pass)?;
            if *pool {
                xs = avg_pool2d(&xs, Pool2dParams { kernel: 2, stride: 2, padding: 0 }, pass)?;
            }
        }
        let features = xs.xs.flatten_from(1)?;
        let node = pass.record("", Op::Reshape, &[xs.node], &features);
        self.classifier.forward(&Flow { xs: features, signal: xs.signal, node }, pass)
    }
}
