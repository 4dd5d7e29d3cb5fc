//! ReLU: the activation of a plain ANN.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use lmht_core::Dynamics;
use serde::{Deserialize, Serialize};

use super::kind::{Equation, Kind, LayerTensors, NeuronTraits, Site, Tensors, check_ann};
use crate::Result;
use crate::ops::storage::Element;
use crate::param_kind::ParamKind;

/// max(x, 0): an ANN, one timestep. It has no tensors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relu {}

impl Kind for Relu {
    const PARAMS: &'static [(&'static str, ParamKind)] = &[];

    fn traits(&self) -> NeuronTraits {
        NeuronTraits::new("ReLU", Equation::Analog, None)
    }

    fn check(&self, timesteps: usize) -> Result<()> {
        check_ann(timesteps)
    }

    fn tensors(&self, _: usize, _: Site, _: &VarBuilder<'_>) -> Result<Tensors> {
        Ok(Vec::new())
    }

    fn output(&self, _: &LayerTensors, xs: &Tensor, _: &dyn Fn(&Tensor) -> Tensor) -> Result<Tensor> {
        // Candle's own passes a gradient at 0.
        Ok(xs.le(0.)?.where_cond(&xs.zeros_like()?, xs)?)
    }

    fn dynamics<T: Element>(&self, _: &LayerTensors) -> Result<Box<dyn Dynamics<T>>> {
        Ok(Box::new(lmht_core::Relu))
    }

    fn gradients<T: Element>(&self, _: &LayerTensors, _: &[f64]) -> Result<Vec<(Tensor, Vec<T>)>> {
        Ok(Vec::new())
    }
}
