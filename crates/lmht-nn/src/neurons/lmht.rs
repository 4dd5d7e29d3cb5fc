//! LM-HT: L equidistant thresholds, a learnable matrix Ω between timesteps, a learnable leak λ (Hao et al. 2024, Eq. 7).

use candle_core::Tensor;
use candle_nn::VarBuilder;
use lmht_core::{Dynamics, GradientMode, LmhtConfig, Tgim};
use serde::{Deserialize, Serialize};

use super::kind::{Equation, Kind, LayerTensors, Leak, NeuronTraits, Site, Tensors};
use super::spiking::{PARAMS, Spiking, answers};
use crate::Result;
use crate::ops::storage::Element;
use crate::param_kind::ParamKind;

/// L thresholds, learnable T-GIM and leak (Eq. 7).
///
/// Tensors of a layer: `mask` `[T, T, 1, 1, 1, 1]` or `mask_linear` `[T, T, 1, 1, 1]`, logits of Ω, zeros give Ω = 1/T;
/// `alpha` `[1]`, the logit of λ, zero gives λ = 1; `v_threshold` `[1]`, θ, not trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lmht {
    /// L, the number of equidistant thresholds, at least 1.
    pub levels: u32,
    /// Which entries of Ω are free.
    #[serde(default)]
    pub tgim: Tgim,
    /// θ; absent: 2/L for L > 1, 1 for L = 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v_threshold: Option<f64>,
    /// v(0) as a fraction of θ, in [0, 1).
    #[serde(default)]
    pub v_init: f64,
    /// Whether the gradient passes through v(t-1); the published networks detach it.
    #[serde(default = "detached")]
    pub gradient: GradientMode,
}

pub(super) fn detached() -> GradientMode {
    GradientMode::Detached
}

impl Default for Lmht {
    /// Direct training with L = 2.
    fn default() -> Self {
        Self { levels: 2, tgim: Tgim::Full, v_threshold: None, v_init: 0., gradient: detached() }
    }
}

/// 2/L, or 1 for a single level: the published choice of θ.
pub(super) fn published_threshold(levels: u32) -> f64 {
    if levels > 1 { 2. / f64::from(levels) } else { 1. }
}

impl Lmht {
    fn spiking(&self, timesteps: usize) -> Spiking {
        let Self { levels, tgim, v_threshold, v_init, gradient } = *self;
        let v_threshold = v_threshold.unwrap_or_else(|| published_threshold(levels));
        Spiking {
            config: LmhtConfig { timesteps, levels, v_threshold, v_init, tgim, gradient, window: 1 },
            leak: Leak::Learned,
        }
    }
}

impl Kind for Lmht {
    const PARAMS: &'static [(&'static str, ParamKind)] = PARAMS;

    fn traits(&self) -> NeuronTraits {
        let v_threshold = self.v_threshold.unwrap_or_else(|| published_threshold(self.levels));
        NeuronTraits {
            levels: self.levels,
            v_init: self.v_init,
            tgim: self.tgim,
            leak: Leak::Learned,
            ..NeuronTraits::new("LM-HT", Equation::MultiThreshold, Some(v_threshold))
        }
    }

    answers!();
}
