//! LIF: one threshold, a fixed leak (Hao et al. 2024, Eqs. 1-2).

use candle_core::Tensor;
use candle_nn::VarBuilder;
use lmht_core::{Dynamics, GradientMode, LmhtConfig, Tgim};
use serde::{Deserialize, Serialize};

use super::kind::{Equation, Kind, LayerTensors, Leak, NeuronTraits, Site, Tensors};
use super::spiking::{PARAMS, Spiking, answers};
use crate::Result;
use crate::ops::storage::Element;
use crate::param_kind::ParamKind;

/// One threshold, a fixed leak (Eqs. 1-2).
///
/// Tensor of a layer: `v_threshold` `[1]`, θ, not trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lif {
    /// λ, the factor on v(t-1).
    pub leak: f64,
    /// θ, 1 unless given.
    #[serde(default = "one")]
    pub v_threshold: f64,
    /// v(0) as a fraction of θ, in [0, 1).
    #[serde(default)]
    pub v_init: f64,
    /// Whether the gradient passes through v(t-1).
    #[serde(default = "full")]
    pub gradient: GradientMode,
}

fn one() -> f64 {
    1.
}

fn full() -> GradientMode {
    GradientMode::Full
}

impl Default for Lif {
    /// λ = 1/2, θ = 1, v(0) = 0, the whole temporal gradient.
    fn default() -> Self {
        Self { leak: 0.5, v_threshold: 1., v_init: 0., gradient: full() }
    }
}

impl Lif {
    fn spiking(&self, timesteps: usize) -> Spiking {
        let Self { leak, v_threshold, v_init, gradient } = *self;
        let (levels, tgim) = (1, Tgim::Identity);
        Spiking {
            config: LmhtConfig { timesteps, levels, v_threshold, v_init, tgim, gradient, window: 1 },
            leak: Leak::Fixed(leak),
        }
    }
}

impl Kind for Lif {
    const PARAMS: &'static [(&'static str, ParamKind)] = PARAMS;

    fn traits(&self) -> NeuronTraits {
        let traits = NeuronTraits::new("LIF", Equation::MultiThreshold, Some(self.v_threshold));
        NeuronTraits { v_init: self.v_init, leak: Leak::Fixed(self.leak), ..traits }
    }

    answers!();
}
