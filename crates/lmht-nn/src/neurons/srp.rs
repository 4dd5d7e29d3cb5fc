//! SRP: IF neurons silenced by their residual potential (Hao et al., AAAI 2023), for inference.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use lmht_core::Dynamics;
use serde::{Deserialize, Serialize};

use super::kind::{Equation, Kind, LayerTensors, NeuronTraits, Site, Tensors, check_stages, without_gradient};
use super::spiking::{neuron_error, threshold_tensor};
use crate::Result;
use crate::ops::storage::Element;
use crate::param_kind::ParamKind;

/// IF neurons silenced by their residual potential (Hao et al., AAAI 2023) ([`lmht_core::baselines::srp`]). For inference.
///
/// Tensor of a layer: `v_threshold` `[1]`, θ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Srp {
    /// τ, the timesteps of the first stage; the logits are those of the others.
    pub tau: usize,
    /// θ.
    pub v_threshold: f64,
}

impl Kind for Srp {
    const PARAMS: &'static [(&'static str, ParamKind)] = &[("v_threshold", ParamKind::Buffer)];

    fn traits(&self) -> NeuronTraits {
        let traits = NeuronTraits::new("SRP", Equation::Inference, Some(self.v_threshold));
        NeuronTraits { v_init: 0.5, first_stage: self.tau, ..traits }
    }

    fn check(&self, timesteps: usize) -> Result<()> {
        check_stages("tau", self.tau, timesteps)?;
        let config = lmht_core::LmhtConfig { v_threshold: self.v_threshold, ..lmht_core::LmhtConfig::lif(timesteps) };
        config.check().map(|_| ()).map_err(neuron_error)
    }

    fn tensors(&self, _: usize, _: Site, vb: &VarBuilder<'_>) -> Result<Tensors> {
        Ok(vec![threshold_tensor(self.v_threshold, vb)?])
    }

    fn output(&self, layer: &LayerTensors, xs: &Tensor, _: &dyn Fn(&Tensor) -> Tensor) -> Result<Tensor> {
        without_gradient(self, layer, xs)
    }

    fn dynamics<T: Element>(&self, layer: &LayerTensors) -> Result<Box<dyn Dynamics<T>>> {
        let (t, theta) = (layer.timesteps, T::of(layer.v_threshold()?));
        Ok(Box::new(lmht_core::baselines::Srp::new(t, self.tau, theta)))
    }

    fn gradients<T: Element>(&self, _: &LayerTensors, _: &[f64]) -> Result<Vec<(Tensor, Vec<T>)>> {
        Ok(Vec::new())
    }
}
