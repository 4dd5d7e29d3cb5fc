//! The end of a network: linear layers with a neuron between every two of them.

use candle_nn::VarBuilder;

use crate::layers::{Linear, Neuron, Site};
use crate::{ModelConfig, Pass, Result, Signal};

#[derive(Debug, Clone)]
pub(super) struct Classifier {
    hidden: Vec<(Linear, Neuron)>,
    last: Linear,
}

/// How the parts of a classifier are called: the i-th linear layer, and the neuron after it.
pub(super) struct ClassifierNames {
    pub(super) linear: fn(usize) -> String,
    pub(super) neuron: fn(usize) -> String,
}

impl Classifier {
    /// Linear layers from `f_in` features over each of `hidden` to the classes.
    pub(super) fn new(
        config: &ModelConfig,
        f_in: usize,
        hidden: &[usize],
        names: &ClassifierNames,
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        let mut layers = Vec::new();
        let mut features = f_in;
        for (i, &f_out) in hidden.iter().enumerate() {
            let linear = Linear::new(features, f_out, vb.pp((names.linear)(i)))?;
            layers.push((linear, config.neuron_layer(Site::Features, vb.pp((names.neuron)(i)))?));
            features = f_out;
        }
        let last = config.readout_layer(features, vb.pp((names.linear)(hidden.len())))?;
        Ok(Self { hidden: layers, last })
    }

    /// `[T·B, f_in]` to logits `[T·B, K]`.
    pub(super) fn forward(&self, features: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
        let mut xs = features.clone();
        for (linear, neuron) in &self.hidden {
            let current = linear.forward(&xs, pass)?;
            xs = neuron.forward(&current, pass)?;
        }
        self.last.forward(&xs, pass)
    }
}
