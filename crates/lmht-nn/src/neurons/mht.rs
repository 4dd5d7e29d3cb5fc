//! M-HT: L equidistant thresholds, a fixed leak, no T-GIM (Hao et al. 2024, Eqs. 5-6).

use candle_core::Tensor;
use candle_nn::VarBuilder;
use lmht_core::{Dynamics, GradientMode, LmhtConfig, Tgim};
use serde::{Deserialize, Serialize};

use super::kind::{Equation, Kind, LayerTensors, Leak, NeuronTraits, Site, Tensors};
use super::lmht::{detached, published_threshold};
use super::spiking::{PARAMS, Spiking, answers};
use crate::Result;
use crate::ops::storage::Element;
use crate::param_kind::ParamKind;

/// L thresholds, no T-GIM, a fixed leak (Eqs. 5-6): the paper's "without T-GIM".
///
/// Tensor of a layer: `v_threshold` `[1]`, θ, not trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mht {
    /// L, the number of equidistant thresholds, at least 1.
    pub levels: u32,
    /// λ; 1 keeps the whole potential.
    #[serde(default = "one")]
    pub leak: f64,
    /// θ; absent: 2/L for L > 1, 1 for L = 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v_threshold: Option<f64>,
    /// v(0) as a fraction of θ, in [0, 1).
    #[serde(default)]
    pub v_init: f64,
    /// Whether the gradient passes through v(t-1).
    #[serde(default = "detached")]
    pub gradient: GradientMode,
}

fn one() -> f64 {
    1.
}

impl Default for Mht {
    /// L = 2, λ = 1.
    fn default() -> Self {
        Self { levels: 2, leak: 1., v_threshold: None, v_init: 0., gradient: detached() }
    }
}

impl Mht {
    fn spiking(&self, timesteps: usize) -> Spiking {
        let Self { levels, leak, v_threshold, v_init, gradient } = *self;
        let (v_threshold, tgim) = (v_threshold.unwrap_or_else(|| published_threshold(levels)), Tgim::Identity);
        Spiking {
            config: LmhtConfig { timesteps, levels, v_threshold, v_init, tgim, gradient, window: 1 },
            leak: Leak::Fixed(leak),
        }
    }
}

impl Kind for Mht {
    const PARAMS: &'static [(&'static str, ParamKind)] = PARAMS;

    fn traits(&self) -> NeuronTraits {
        let v_threshold = self.v_threshold.unwrap_or_else(|| published_threshold(self.levels));
        NeuronTraits {
            levels: self.levels,
            v_init: self.v_init,
            leak: Leak::Fixed(self.leak),
            ..NeuronTraits::new("M-HT", Equation::MultiThreshold, Some(v_threshold))
        }
    }

    answers!();
}
