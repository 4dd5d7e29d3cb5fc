//! Neuron mathematics of LM-HT spiking networks (Hao et al., NeurIPS 2024, arXiv 2402.00411) and of the neurons they are
//! compared with, as plain functions over slices of `f32` or `f64`: no tensors, no devices, no files.
//!
//! Use it to put an IF, LIF, M-HT, LM-HT, I-LIF or ternary neuron, or the QCFS activation of a quantized network, into a
//! program of your own, with exact gradients; `lmht-nn` does so for Candle. A configuration is checked once; after that
//! nothing here can fail.
//!
//! ```
//! use lmht_core::{LmhtConfig, Tgim, leak_from_logit, tgim_from_logits};
//!
//! let neuron = LmhtConfig::lmht(2, 2).check()?; // L = 2 levels, T = 2 timesteps, θ = 1
//! let omega = tgim_from_logits(Tgim::Full, 2, &[0.0_f32; 4]); // Ω = 1/T
//! let leak = leak_from_logit(0.0); // λ = 1
//! let xs = [0.5, 2.0, -1.0, /* second timestep: */ 1.5, 3.0, 1.0]; // [T, n], n = 3 units
//! let mut output = [0.0; 6];
//! neuron.forward(&omega, leak, &xs, &mut output);
//! assert_eq!(output, [1.0, 2.0, 0.0, 1.0, 2.0, 0.0]);
//! # Ok::<(), lmht_core::ConfigError>(())
//! ```
//!
//! # The equations
//!
//! T timesteps, L levels, θ threshold, x(j) the current of the synapse at timestep j (bias and batch norm included):
//!
//! ```text
//! I(t) = Σ_j ω_tj x(j)                          Eq. 7; Ω = 1 without T-GIM
//! m(t) = λ v(t-1) + I(t)                        Eq. 5; v(0) = v_init · θ
//! s(t) = #{ k in 1..=L : m(t) >= kθ }           Eq. 6; the next synapse receives s(t)·θ
//! v(t) = m(t) - s(t)θ                           Eq. 6; reset by subtraction
//! d(sθ)/dm = 1 for θ/2 <= m <= (L + 1/2)θ       Eq. 8; 0 elsewhere: the gate of the surrogate
//! ω_tj = 2σ(tgim_logit)/T,  λ = σ(leak_logit) + 1/2
//! a = ϑ clip(floor(x Q/ϑ + 1/2)/Q, 0, 1)        Eq. 4, QCFS
//! ```
//!
//! The relatives that train, both with m(t) = λ v(t-1) + x(t) and v(0) = 0:
//!
//! ```text
//! I-LIF     s = #{ k in 1..=D : m >= k - 1/2 }    v = m - s            gate 0 <= m <= D      output s
//! ternary   s = sign(m) if |m| >= θ, else 0       v = m (1 - |s|)      gate -1 <= m <= 1     output a s
//! ```
//!
//! # What is where
//!
//! | | |
//! |---|---|
//! | [`Dynamics`], [`Code`] | a layer of any kind, for a program that walks over its units |
//! | [`Lmht`], [`LmhtConfig`], [`LmhtNeuron`], [`Tgim`] | the LM-HT neuron, with it M-HT, IF and LIF, and its check |
//! | [`LmhtNeuron::forward`], [`LmhtNeuron::backward`], [`LmhtNeuron::spikes`] | a layer, fast |
//! | [`LmhtNeuron::output`], [`LmhtNeuron::gradients`] | the same, into vectors of their own |
//! | [`LmhtNeuron::packed`], [`IN_GATE`] | spikes and where a gradient passes, a byte for each unit |
//! | [`mod@reference`] | the same, readable; equal to the bit |
//! | [`fire()`], [`in_gate`] | one act of firing, and where its gradient passes |
//! | [`tgim_from_logits`], [`leak_from_logit`] and their gradients | the learnable numbers behind Ω and λ |
//! | [`Windowed`], [`Schedule`] | the single-threshold twin, and when its windows receive their current |
//! | [`mod@ilif`]: [`Ilif`], [`IlifConfig`], [`IlifNeuron`] | integer counts by rounding (SpikeYOLO) |
//! | [`mod@ternary`]: [`Ternary`], [`TernaryConfig`], [`TernaryNeuron`] | spikes of both signs |
//! | [`qcfs`]: [`QcfsLayer`], [`QcfsGate`] | the activation of the quantized ANN |
//! | [`Relu`] | the activation of the analog one |
//! | [`baselines`] | the neurons of conversion methods to compare with: SNM, SRP, COS |
//! | [`LmhtNeuron::potentials`] and its like, [`Potentials`] | m(t), v(t) and s(t), to plot |
//! | [`GradientMode`], [`ConfigError`] | what the configurations share |
//! | [`sum`] | the order of every sum over units |
//! | [`Real`], [`SpikeCount`] | the number types |
//!
//! Slices of a wrong length are a programming error and panic with what was expected; see each function.

pub mod baselines;
mod config;
mod dynamics;
pub mod ilif;
mod lengths;
mod lmht;
pub mod qcfs;
mod real;
mod relu;
mod reparameterized;
pub mod sum;
pub mod ternary;
mod tile;
mod walk;

pub use config::{ConfigError, GradientMode, MAX_LEVELS, MAX_TIMESTEPS};
pub use dynamics::{Code, Dynamics, IN_GATE, Potentials};
pub use ilif::{Ilif, IlifConfig, IlifNeuron};
pub use lmht::config::{LmhtConfig, LmhtNeuron, Tgim};
pub use lmht::fire::{fire, in_gate};
pub use lmht::tgim::{leak_from_logit, leak_logit_gradient, tgim_from_logits, tgim_logit_gradient};
pub use lmht::{Lmht, reference};
pub use qcfs::{QcfsGate, QcfsLayer};
pub use real::{Real, SpikeCount};
pub use relu::Relu;
pub use reparameterized::{Schedule, Windowed};
pub use ternary::{Ternary, TernaryConfig, TernaryNeuron};
