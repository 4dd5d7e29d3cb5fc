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

use super::classifier::{Classifier, ClassifierNames};
use crate::layers::{ConvNorm, Neuron, Site, avg_pool2d, flatten};
use crate::ops::{Conv2dParams, Pool2dParams};
use crate::{Architecture, Backbone, Body, InputShape, ModelConfig, Pass, Result, Signal};

/// The network.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cifarnet;

impl Architecture for Cifarnet {
    fn name(&self) -> &str {
        "cifarnet"
    }

    fn title(&self) -> &str {
        "CIFARNet"
    }

    fn input(&self) -> InputShape {
        // The first linear layer reads a map of 8x8.
        InputShape::Images { sides: 32..=35 }
    }

    fn check(&self, config: &ModelConfig) -> Result<()> {
        config.refuse_stem_and_depth(false)
    }

    fn build(&self, config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Body>> {
        Ok(Box::new(Layers::new(config, vb)?))
    }
}

impl ModelConfig {
    /// CIFARNet, LM-HT with L = 2, T = 2.
    pub fn cifarnet(n_classes: usize) -> Self {
        Self::of(Backbone::Cifarnet, 128, n_classes)
    }
}

/// Channels of each convolution in units of the width, and whether average pooling follows it.
const CONVS: [(usize, bool); 5] = [(1, false), (2, true), (4, true), (8, false), (4, false)];

/// Side of the map that the first linear layer reads.
const MAP_SIDE: usize = 8;

#[derive(Debug)]
struct Layers {
    layers: Vec<(ConvNorm, Neuron, bool)>,
    classifier: Classifier,
}

impl Layers {
    fn new(config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let width = config.width;
        let mut layers = Vec::new();
        let mut c_in = config.in_channels;
        for (i, (factor, pool)) in CONVS.into_iter().enumerate() {
            let c_out = width * factor;
            let synapse = vb.pp(format!("conv{}", i + 1));
            let params = Conv2dParams { padding: 1, ..Conv2dParams::default() };
            let parts = (synapse.pp(0), synapse.pp(1));
            let synapse = config.conv_norm((c_in, c_out, 3), params, false, parts)?;
            let mut neuron = config.neuron_layer(Site::Maps, vb.pp(format!("sn{}", i + 1)))?;
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
}

impl Body for Layers {
    fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
        let mut xs = xs.clone();
        for (synapse, neuron, pool) in &self.layers {
            let current = synapse.forward(&xs, pass)?;
            xs = neuron.forward(&current, pass)?;
            if *pool {
                xs = avg_pool2d(&xs, Pool2dParams { kernel: 2, stride: 2, padding: 0 }, pass)?;
            }
        }
        self.classifier.forward(&flatten(&xs, pass)?, pass)
    }
}
