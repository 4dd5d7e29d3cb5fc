//! SNM: signed spikes with memory (Wang et al., IJCAI 2022), for inference.

use std::collections::BTreeMap;

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use lmht_core::Dynamics;
use serde::{Deserialize, Serialize};

use super::kind::{Equation, Kind, LayerTensors, NeuronTraits, Site, Tensors, without_gradient};
use super::spiking::{neuron_error, threshold_tensor};
use crate::ops::storage::Element;
use crate::param_kind::ParamKind;
use crate::{Error, Result};

/// Units of a layer with a θ each, at most.
const MAX_UNITS: usize = 1 << 28;

/// Signed spikes with memory ([`lmht_core::baselines::snm`]): may take back what it sent. For inference.
///
/// Tensor of a layer: `v_threshold`, θ, `[1]`, or with the shape of a row for a θ of each unit, as its authors have it. The
/// spikes of such a layer count as analog: each stands for another number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snm {
    /// θ.
    pub v_threshold: f64,
    /// v(0) as a fraction of θ, in [0, 1).
    #[serde(default)]
    pub v_init: f64,
    /// The layers with a θ for each unit, and the shape of a row there: `[C, H, W]` of maps, `[F]` of features. They take images
    /// of one size. Every other layer has one θ.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub units: BTreeMap<String, Vec<usize>>,
}

impl Kind for Snm {
    const PARAMS: &'static [(&'static str, ParamKind)] = &[("v_threshold", ParamKind::Buffer)];

    fn traits(&self) -> NeuronTraits {
        let traits = NeuronTraits::new("SNM", Equation::Inference, Some(self.v_threshold));
        NeuronTraits { v_init: self.v_init, ..traits }
    }

    fn check(&self, timesteps: usize) -> Result<()> {
        // The numbers of an IF neuron; what it does with them differs.
        let Self { v_threshold, v_init, .. } = *self;
        lmht_core::LmhtConfig { v_threshold, v_init, ..lmht_core::LmhtConfig::lif(timesteps) }
            .check()
            .map_err(neuron_error)?;
        for (layer, shape) in &self.units {
            let n = shape.iter().try_fold(1_usize, |n, &size| n.checked_mul(size));
            if n.is_none_or(|n| !(2..=MAX_UNITS).contains(&n)) {
                return Err(Error::Config(format!(
                    "neuron.units of {layer} is {shape:?}; expected the shape of a row, of 2 to {MAX_UNITS} units"
                )));
            }
        }
        Ok(())
    }

    fn tensors(&self, _: usize, _: Site, vb: &VarBuilder<'_>) -> Result<Tensors> {
        Ok(vec![match self.units.get(&vb.prefix()) {
            None => threshold_tensor(self.v_threshold, vb)?,
            Some(shape) => {
                let start = Init::Const(self.v_threshold);
                ("v_threshold", vb.get_with_hints(shape.as_slice(), "v_threshold", start)?)
            }
        }])
    }

    fn output(&self, layer: &LayerTensors, xs: &Tensor, _: &dyn Fn(&Tensor) -> Tensor) -> Result<Tensor> {
        let theta = layer.required("v_threshold")?.detach();
        if theta.elem_count() == 1 {
            return without_gradient(self, layer, xs);
        }
        if xs.dims().get(1..) != Some(theta.dims()) {
            return Err(layer.wrong(format!(
                "has thresholds for units {:?}, got currents {:?}; show it images of the size that it was converted for",
                theta.dims(),
                xs.dims()
            )));
        }
        // In units of each unit's θ.
        Ok(without_gradient(self, layer, &xs.broadcast_div(&theta)?)?.broadcast_mul(&theta)?)
    }

    fn dynamics<T: Element>(&self, layer: &LayerTensors) -> Result<Box<dyn Dynamics<T>>> {
        let has_one = layer.required("v_threshold")?.elem_count() == 1;
        let theta = if has_one { layer.v_threshold()? } else { 1. };
        Ok(Box::new(lmht_core::baselines::Snm::new(layer.timesteps, T::of(theta), T::of(self.v_init))))
    }

    fn gradients<T: Element>(&self, _: &LayerTensors, _: &[f64]) -> Result<Vec<(Tensor, Vec<T>)>> {
        Ok(Vec::new())
    }
}
