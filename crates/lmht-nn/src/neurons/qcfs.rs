//! QCFS: the quantized activation of the ANN that hybrid training starts from (Bu et al., ICLR 2022; Hao et al. 2024, Eq. 4).

use candle_core::Tensor;
use candle_nn::VarBuilder;
use candle_nn::init::Init;
use lmht_core::{Dynamics, QcfsGate};
use serde::{Deserialize, Serialize};

use super::kind::{Equation, Kind, LayerTensors, NeuronTraits, Site, Tensors, check_ann};
use super::spiking::neuron_error;
use crate::ops::storage::Element;
use crate::param_kind::ParamKind;
use crate::{Result, ops};

/// Quantized clip-floor-shift activation (Eq. 4) with a learnable ceiling: an ANN, one timestep.
///
/// Tensor of a layer: `thresh` `[1]`, the ceiling ϑ, trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qcfs {
    /// Q, the number of steps of the activation ("T_q" in the LM-HT paper, "L" in the QCFS paper), at least 1.
    pub quant_levels: u32,
    /// ϑ before training.
    #[serde(default = "eight")]
    pub scale: f64,
    /// Where the gradient is 1.
    #[serde(default, rename = "window")]
    pub gate: QcfsGate,
}

fn eight() -> f64 {
    8.
}

impl Default for Qcfs {
    /// As published: Q = 4, ϑ = 8.
    fn default() -> Self {
        Self { quant_levels: 4, scale: eight(), gate: QcfsGate::default() }
    }
}

/// ϑ.
const SCALE: &str = "thresh";

impl Kind for Qcfs {
    const PARAMS: &'static [(&'static str, ParamKind)] = &[(SCALE, ParamKind::Positive)];

    fn traits(&self) -> NeuronTraits {
        NeuronTraits { levels: self.quant_levels, ..NeuronTraits::new("QCFS", Equation::Quantized, None) }
    }

    fn check(&self, timesteps: usize) -> Result<()> {
        lmht_core::qcfs::check(self.scale, self.quant_levels).map_err(neuron_error)?;
        check_ann(timesteps)
    }

    fn tensors(&self, _: usize, _: Site, vb: &VarBuilder<'_>) -> Result<Tensors> {
        Ok(vec![(SCALE, vb.get_with_hints(1, SCALE, Init::Const(self.scale))?)])
    }

    fn output(&self, layer: &LayerTensors, xs: &Tensor, param: &dyn Fn(&Tensor) -> Tensor) -> Result<Tensor> {
        Ok(ops::qcfs(xs, &param(layer.required(SCALE)?), self.quant_levels, self.gate)?)
    }

    fn dynamics<T: Element>(&self, layer: &LayerTensors) -> Result<Box<dyn Dynamics<T>>> {
        let scale = layer.numbers::<T>(SCALE)?[0];
        Ok(Box::new(lmht_core::qcfs::QcfsLayer::new(scale, self.quant_levels, self.gate)))
    }

    fn gradients<T: Element>(&self, layer: &LayerTensors, shared: &[f64]) -> Result<Vec<(Tensor, Vec<T>)>> {
        Ok(vec![(layer.required(SCALE)?.clone(), vec![T::of(shared[0])])])
    }
}
