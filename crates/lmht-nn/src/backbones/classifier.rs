//! The end of a network: linear layers with a neuron between every two of them.

use candle_nn::VarBuilder;

use crate::config::ModelConfig;
use crate::layers::{Flow, Linear, Neuron, Site};
use crate::{Pass, Result};

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
    /// Replaces every tensor by a copy.
    pub(super) fn own_tensors(&mut self) -> Result<()> {
        for (linear, neuron) in &mut self.hidden {
            linear.own_tensors()?;
            neuron.own_tensors()?;
        }
        self.last.own_tensors()
    }

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
            layers.push((linear, Neuron::new(config, Site::Features, vb.pp((names.neuron)(i)))?));
            features = f_out;
        }
        let last = Linear::new(features, config.n_classes, vb.pp((names.linear)(hidden.len())))?;
        Ok(Self { hidden: layers, last })
    }

    /// `[T·B, f_in]` to logits `[T·B, K]`.
    pub(super) fn forward(&self, features: &Flow, pass: &mut Pass<'_>) -> Result<Flow> {
        let mut xs = features.clone();
        for (linear, neuron) in &self.hidden {
            let current = linear.forward(&xs, pass)?;
            xs = neuron.forward(&current, pass)?;
        }
        self.last.forward(&xs, pass)
    }
}
