//! The list of kinds: one enum, and for everything that a kind answers the match that asks it.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use lmht_core::{Dynamics, LmhtConfig};
use serde::{Deserialize, Serialize};

use super::cos::Cos;
use super::ilif::Ilif;
use super::integrate_and_fire::If;
use super::kind::{Kind, LayerTensors, NeuronTraits, Site, Tensors};
use super::leaky::Lif;
use super::lmht::Lmht;
use super::mht::Mht;
use super::qcfs::Qcfs;
use super::relu::Relu;
use super::reparameterized::Reparameterized;
use super::snm::Snm;
use super::srp::Srp;
use super::ternary::Ternary;
use crate::Result;
use crate::ops::storage::Element;
use crate::param_kind::ParamKind;

/// Writes the enum of all kinds, and for everything that a kind answers the match that asks it.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident,)*) => {
        /// The neuron between two synapses.
        ///
        /// ```
        /// use lmht_nn::NeuronConfig;
        /// use lmht_nn::neurons::Lif;
        ///
        /// let neuron: NeuronConfig = Lif { leak: 0.5, ..Lif::default() }.into();
        /// assert_eq!((neuron.traits().title, neuron.levels()), ("LIF", 1));
        /// ```
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind", rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum NeuronConfig {
            $($(#[$doc])* $kind($kind),)*
        }

        $(impl From<$kind> for NeuronConfig {
            fn from(kind: $kind) -> Self {
                Self::$kind(kind)
            }
        })*

        impl NeuronConfig {
            /// What is worth knowing of it without knowing its kind.
            pub fn traits(&self) -> NeuronTraits {
                match self {
                    $(Self::$kind(kind) => kind.traits(),)*
                }
            }

            pub(super) fn multi_threshold(&self, timesteps: usize) -> Option<LmhtConfig> {
                match self {
                    $(Self::$kind(kind) => kind.multi_threshold(timesteps),)*
                }
            }

            /// Checks every field, for a network of so many timesteps.
            ///
            /// # Errors
            /// [`Error::Config`](crate::Error::Config) names the first field that cannot be, its value and what is allowed.
            pub fn check(&self, timesteps: usize) -> Result<()> {
                match self {
                    $(Self::$kind(kind) => kind.check(timesteps),)*
                }
            }

            pub(super) fn tensors(&self, timesteps: usize, site: Site, vb: &VarBuilder<'_>) -> Result<Tensors> {
                match self {
                    $(Self::$kind(kind) => kind.tensors(timesteps, site, vb),)*
                }
            }

            pub(super) fn output(&self, layer: &LayerTensors, xs: &Tensor, param: &dyn Fn(&Tensor) -> Tensor) -> Result<Tensor> {
                match self {
                    $(Self::$kind(kind) => kind.output(layer, xs, param),)*
                }
            }

            pub(super) fn dynamics<T: Element>(&self, layer: &LayerTensors) -> Result<Box<dyn Dynamics<T>>> {
                match self {
                    $(Self::$kind(kind) => kind.dynamics(layer),)*
                }
            }

            pub(super) fn gradients<T: Element>(&self, layer: &LayerTensors, shared: &[f64]) -> Result<Vec<(Tensor, Vec<T>)>> {
                match self {
                    $(Self::$kind(kind) => kind.gradients(layer, shared),)*
                }
            }
        }

        /// What a tensor of a neuron layer is for, by the last part of its name, if some kind has one of that name.
        pub(crate) fn param_kind(name: &str) -> Option<ParamKind> {
            let all = [$($kind::PARAMS,)*];
            all.into_iter().flatten().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
        }
    };
}

kinds! {
    /// L thresholds, learnable T-GIM and leak (Eq. 7).
    Lmht,
    /// L thresholds, no T-GIM, a fixed leak (Eqs. 5-6): the paper's "without T-GIM".
    Mht,
    /// One threshold, no leak (Eqs. 1-2 with λ = 1), trained with the whole temporal gradient: the paper's L = 1 baseline.
    If,
    /// One threshold, a fixed leak (Eqs. 1-2).
    Lif,
    /// The single-threshold twin of a neuron with L levels (§4.5). Made by a conversion.
    Reparameterized,
    /// Integer spikes clip(round(m), 0, D) (Luo et al. 2024).
    Ilif,
    /// Spikes in {-1, 0, 1} with a learnable amplitude (Guo et al. 2024).
    Ternary,
    /// Signed spikes with memory ([`lmht_core::baselines::snm`]): may take back what it sent. For inference.
    Snm,
    /// IF neurons silenced by their residual potential ([`lmht_core::baselines::srp`]). For inference.
    Srp,
    /// IF neurons started with a calibrated offset ([`lmht_core::baselines::cos`]). For inference.
    Cos,
    /// Quantized clip-floor-shift activation (Eq. 4) with a learnable ceiling: an ANN, one timestep.
    Qcfs,
    /// max(x, 0): an ANN, one timestep.
    Relu,
}

impl NeuronConfig {
    /// LM-HT with L levels, full T-GIM, θ = 2/L, v(0) = 0: direct training.
    pub fn lmht(levels: u32) -> Self {
        Lmht { levels, ..Lmht::default() }.into()
    }

    /// M-HT with L levels: LM-HT without T-GIM, λ = 1.
    pub fn mht(levels: u32) -> Self {
        Mht { levels, ..Mht::default() }.into()
    }

    /// The integrate-and-fire baseline with θ = 1 and the whole temporal gradient.
    pub fn integrate_and_fire() -> Self {
        If::default().into()
    }

    /// QCFS with Q steps and an initial scale of 8.
    pub fn qcfs(quant_levels: u32) -> Self {
        Qcfs { quant_levels, ..Qcfs::default() }.into()
    }

    /// max(x, 0).
    pub fn relu() -> Self {
        Relu {}.into()
    }

    /// L: how many spikes a timestep can have. 1 for activations that do not spike.
    pub fn levels(&self) -> u32 {
        self.traits().levels
    }

    /// Whether the neuron spikes; QCFS and ReLU do not.
    pub fn is_spiking(&self) -> bool {
        self.traits().is_spiking()
    }

    /// Timesteps that stand for one timestep of the network before reparameterization: 1 for every other neuron.
    ///
    /// ```
    /// assert_eq!(lmht_nn::NeuronConfig::lmht(2).window(), 1);
    /// ```
    pub fn window(&self) -> usize {
        self.traits().window
    }

    /// Timesteps that only prepare the answer and have no logits: τ of SRP, ρ of COS, 0 of every other neuron.
    ///
    /// ```
    /// use lmht_nn::NeuronConfig;
    /// use lmht_nn::neurons::Srp;
    /// assert_eq!(NeuronConfig::from(Srp { tau: 4, v_threshold: 1. }).first_stage(), 4);
    /// assert_eq!(NeuronConfig::lmht(2).first_stage(), 0);
    /// ```
    pub fn first_stage(&self) -> usize {
        self.traits().first_stage
    }

    /// θ before training, which every layer starts from; `None` for activations that do not spike.
    ///
    /// ```
    /// assert_eq!(lmht_nn::NeuronConfig::lmht(4).v_threshold(), Some(0.5)); // 2/L
    /// ```
    pub fn v_threshold(&self) -> Option<f64> {
        self.traits().v_threshold
    }
}
