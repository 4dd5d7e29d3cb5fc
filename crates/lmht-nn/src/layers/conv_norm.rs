//! A convolution and its batch norm.

use super::batch_norm::BatchNorm;
use super::conv2d::Conv2d;
use crate::{Pass, Result, Signal};

/// A convolution and its batch norm: one synapse.
///
/// A conversion may have taken the batch norm into the weights: [`ModelConfig::conv_norm`](crate::ModelConfig::conv_norm)
/// builds what the configuration says.
#[derive(Debug, Clone)]
pub struct ConvNorm {
    conv: Conv2d,
    norm: Option<BatchNorm>,
}

impl ConvNorm {
    /// From the two layers.
    pub fn new(conv: Conv2d, norm: BatchNorm) -> Self {
        Self { conv, norm: Some(norm) }
    }

    /// A convolution that stands for itself and a batch norm that it has taken in.
    pub fn folded(conv: Conv2d) -> Self {
        Self { conv, norm: None }
    }

    /// As [`BatchNorm::counting_repeats`].
    pub fn counting_repeats(self, counts_repeats: bool) -> Self {
        Self { norm: self.norm.map(|norm| norm.counting_repeats(counts_repeats)), ..self }
    }

    /// Convolves and normalises.
    ///
    /// # Errors
    /// If the input does not fit; the message names the layer.
    pub fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
        let ys = self.conv.forward(xs, pass)?;
        match &self.norm {
            Some(norm) => norm.forward(&ys, pass),
            None => Ok(ys),
        }
    }
}
