//! Layers as a configuration asks for them.

use candle_nn::VarBuilder;

use super::model::ModelConfig;
use crate::Result;
use crate::layers::{BatchNorm, Conv2d, ConvNorm, Linear, Neuron, Site};
use crate::ops::Conv2dParams;

impl ModelConfig {
    /// A layer of this network's neurons.
    ///
    /// # Errors
    /// As [`Neuron::new`].
    pub fn neuron_layer(&self, site: Site, vb: VarBuilder<'_>) -> Result<Neuron> {
        Ok(Neuron::new(&self.neuron, self.timesteps, site, vb)?.with_unit_spikes(self.unit_spikes))
    }

    /// A convolution as in [`Conv2d::new`] and its batch norm; in a network whose batch norm was taken into the weights, a
    /// convolution with bias.
    ///
    /// # Errors
    /// As [`Conv2d::new`] and [`BatchNorm::new`].
    pub fn conv_norm(
        &self,
        (c_in, c_out, kernel): (usize, usize, usize),
        params: Conv2dParams,
        bias: bool,
        (conv, norm): (VarBuilder<'_>, VarBuilder<'_>),
    ) -> Result<ConvNorm> {
        let conv = Conv2d::new(c_in, c_out, kernel, params, bias || !self.batch_norm, conv)?;
        if self.batch_norm { Ok(ConvNorm::new(conv, BatchNorm::new(c_out, norm)?)) } else { Ok(ConvNorm::folded(conv)) }
    }

    /// The last layer: `f_in` features to the classes.
    ///
    /// # Errors
    /// As [`Linear::new`].
    pub fn readout_layer(&self, f_in: usize, vb: VarBuilder<'_>) -> Result<Linear> {
        Linear::new(f_in, self.n_classes, vb)
    }
}
