//! The LM-HT neuron (Hao et al., NeurIPS 2024), and with it M-HT, IF and LIF: a folder for its mathematics, and [`Lmht`],
//! the neuron with its learned numbers.
//!
//! ```text
//! I(t) = Σ_j ω_tj x(j)                          Eq. 7; Ω = 1 without T-GIM
//! m(t) = λ v(t-1) + I(t)                        Eq. 5; v(0) = v_init · θ
//! s(t) = #{ k in 1..=L : m(t) >= kθ }           Eq. 6; the next synapse receives s(t)·θ
//! v(t) = m(t) - s(t)θ                           Eq. 6; reset by subtraction
//! d(sθ)/dm = 1 for θ/2 <= m <= (L + 1/2)θ       Eq. 8; 0 elsewhere
//! ```

pub(crate) mod compiled;
pub(crate) mod config;
pub(crate) mod fire;
mod kernel;
pub mod reference;
pub(crate) mod tgim;

use crate::dynamics::assert_shared;
use crate::lengths::units;
use crate::{Code, Dynamics, GradientMode, LmhtNeuron, Potentials, Real, Tgim};

/// An [`LmhtNeuron`] with its Ω and λ.
///
/// Shared numbers: Ω `[T, T]` row by row, unless it is [`Tgim::Identity`], then λ.
///
/// ```
/// use lmht_core::{Dynamics, Lmht, LmhtConfig};
/// let layer = Lmht::new(LmhtConfig::lmht(2, 2).check()?, vec![0.5; 4], 1.0); // θ = 1
/// let xs = [1.0, 2.0]; // one unit: m = 1.5, 2.0
/// let (mut out, mut grad_xs, mut grad_shared) = ([0.0; 2], [0.0; 2], [0.0; 5]);
/// layer.forward(&xs, &mut out);
/// assert_eq!(out, [1.0, 2.0]);
/// layer.backward(&xs, &[1.0, 4.0], &mut grad_xs, &mut grad_shared);
/// assert_eq!(grad_xs, [2.5, 2.5]);
/// assert_eq!(grad_shared, [1.0, 2.0, 4.0, 8.0, /* λ: */ 2.0]);
/// # Ok::<(), lmht_core::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Lmht<R> {
    neuron: LmhtNeuron,
    omega: Vec<R>,
    leak: R,
}

impl<R: Real> Lmht<R> {
    /// A neuron with Ω `[T, T]`, row = receiving timestep, and λ.
    ///
    /// # Panics
    /// If `omega` does not have T² values; it may be empty for [`Tgim::Identity`], which does not read it.
    pub fn new(neuron: LmhtNeuron, omega: Vec<R>, leak: R) -> Self {
        neuron.assert_tgim_len("omega", omega.len());
        Self { neuron, omega, leak }
    }

    /// The neuron.
    pub fn neuron(&self) -> &LmhtNeuron {
        &self.neuron
    }

    /// Ω.
    pub fn omega(&self) -> &[R] {
        &self.omega
    }

    /// λ.
    pub fn leak(&self) -> R {
        self.leak
    }
}

impl<R: Real> Dynamics<R> for Lmht<R> {
    fn timesteps(&self) -> usize {
        self.neuron.timesteps()
    }

    fn code(&self) -> Code {
        self.neuron.code()
    }

    fn forward(&self, xs: &[R], out: &mut [R]) {
        self.neuron.forward(&self.omega, self.leak, xs, out);
    }

    fn packed(&self, xs: &[R], out: &mut [u8]) {
        self.neuron.packed(&self.omega, self.leak, xs, out);
    }

    fn has_gradient(&self) -> bool {
        true
    }

    fn gate_is_whole(&self) -> bool {
        self.neuron.gradient() == GradientMode::Detached && self.neuron.window() == 1
    }

    fn n_shared(&self) -> usize {
        match self.neuron.tgim() {
            Tgim::Identity => 1,
            Tgim::Full | Tgim::Causal => self.neuron.timesteps() * self.neuron.timesteps() + 1,
        }
    }

    fn backward(&self, xs: &[R], grad_out: &[R], grad_xs: &mut [R], grad_shared: &mut [R]) {
        assert_shared(self.n_shared(), grad_shared.len());
        let (grad_omega, grad_leak) = grad_shared.split_at_mut(grad_shared.len() - 1);
        grad_leak[0] = self.neuron.backward(&self.omega, self.leak, xs, grad_out, grad_xs, grad_omega);
    }
}

impl LmhtNeuron {
    /// What the outputs are: counts of θ.
    pub(crate) fn code(&self) -> Code {
        Code::Counts { levels: self.levels(), amplitude: self.v_threshold() }
    }

    /// m(t), v(t) and s(t) of every unit, for the arguments of [`forward`](Self::forward), by the readable loop.
    ///
    /// # Panics
    /// If a slice has another length than stated there.
    ///
    /// ```
    /// # use lmht_core::LmhtConfig;
    /// let neuron = LmhtConfig::lmht(2, 2).check()?; // θ = 1
    /// let course = neuron.potentials(&[0.5, 0.25, 1.0, 0.5], 1.0, &[1.0, 3.0]); // one unit
    /// assert_eq!(course.v_charged, [1.25, 2.75]); // 0.5·1 + 0.25·3, and 0.25 + 1·1 + 0.5·3
    /// assert_eq!(course.spikes, [1, 2]);
    /// assert_eq!(course.v, [0.25, 0.75]);
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn potentials<R: Real>(&self, omega: &[R], leak: R, xs: &[R]) -> Potentials<R> {
        self.assert_tgim_len("omega", omega.len());
        let n = units(self.timesteps(), xs.len(), &[]);
        Potentials::collect(self.timesteps(), n, |i| {
            let steps = reference::charge_fire_reset(self, omega, leak, xs, n, i);
            steps.into_iter().map(|step| (step.v_charged, step.v, step.spikes as i32))
        })
    }
}
