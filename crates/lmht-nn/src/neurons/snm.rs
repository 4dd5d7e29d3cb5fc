//! SNM: signed spikes with memory (Wang et al., IJCAI 2022), for inference.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use lmht_core::Dynamics;
use serde::{Deserialize, Serialize};

use super::kind::{Equation, Kind, LayerTensors, NeuronTraits, Site, Tensors, without_gradient};
use super::spiking::{neuron_error, threshold_tensor};
use crate::Result;
use crate::ops::storage::Element;
use crate::param_kind::ParamKind;

/// Signed spikes with memory ([`lmht_core::baselines::snm`]): may take back what it sent. For inference.
///
/// Tensor of a layer: `v_threshold` `[1]`, θ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snm {
    /// θ.
    pub v_threshold: f64,
    /// v(0) as a fraction of θ, in [0, 1).
    #[serde(default)]
    pub v_init: f64,
}

impl Kind for Snm {
    const PARAMS: &'static [(&'static str, ParamKind)] = &[("v_threshold", ParamKind::Buffer)];

    fn traits(&self) -> NeuronTraits {
        let traits = NeuronTraits::new("SNM", Equation::Inference, Some(self.v_threshold));
        NeuronTraits { v_init: self.v_init, ..traits }
    }

    fn check(&self, timesteps: usize) -> Result<()> {
        // The numbers of an IF neuron; what it does with them differs.
        let Self { v_threshold, v_init } = *self;
        lmht_core::LmhtConfig { v_threshold, v_init, ..lmht_core::LmhtConfig::lif(timesteps) }
            .check()
            .map_err(neuron_error)?;
        Ok(())
    }

    fn tensors(&self, _: usize, _: Site, vb: &VarBuilder<'_>) -> Result<Tensors> {
        Ok(vec![threshold_tensor(self.v_threshold, vb)?])
    }

    fn output(&self, layer: &LayerTensors, xs: &Tensor, _: &dyn Fn(&Tensor) -> Tensor) -> Result<Tensor> {
        without_gradient(self, layer, xs)
    }

    fn dynamics<T: Element>(&self, layer: &LayerTensors) -> Result<Box<dyn Dynamics<T>>> {
        let (t, theta) = (layer.timesteps, T::of(layer.v_threshold()?));
        Ok(Box::new(lmht_core::baselines::Snm::new(t, theta, T::of(self.v_init))))
    }

    fn gradients<T: Element>(&self, _: &LayerTensors, _: &[f64]) -> Result<Vec<(Tensor, Vec<T>)>> {
        Ok(Vec::new())
    }
}
