//! The ternary spiking neuron (Guo et al., "Ternary Spike: Learning Ternary Spikes for Spiking Neural Networks", AAAI
//! 2024).
//!
//! ```text
//! m(t) = λ v(t-1) + x(t)                            v(0) = 0
//! s(t) = sign(m(t)) if |m(t)| >= θ, else 0
//! v(t) = m(t) (1 - |s(t)|)                          reset to 0
//! ds/dm = 1 for -1 <= m <= 1                        0 elsewhere
//! ```
//!
//! The next synapse receives a·s(t), where the amplitude a is learned, one for a layer, and is 1 at the start.
//! The published values are θ = 1/2 and λ = 1/4.

// One index runs over several arrays at once; an iterator over one of them would hide that.
#![allow(clippy::needless_range_loop)]

use std::hint::select_unpredictable;

use crate::dynamics::{assert_shared, no_counts};
use crate::lengths::units;
use crate::tile::inside;
use crate::walk::{self, Cell, Write};
use crate::{Code, ConfigError, Dynamics, GradientMode, MAX_TIMESTEPS, Potentials, Real};

/// The configuration of a ternary layer. The amplitude is not here because it is learned: it is an argument.
///
/// ```
/// use lmht_core::TernaryConfig;
/// let neuron = TernaryConfig::ternary(2).check()?;
/// let mut out = [0.0; 4];
/// neuron.forward(2.0, &[-0.75, 0.25, /* t = 2 */ 0.25, 0.5], &mut out); // two units, a = 2
/// assert_eq!(out, [-2.0, 0.0, 0.0, 2.0]); // m = -0.75, 0.25; then 0 + 0.25, 0.25/4 + 0.5
/// # Ok::<(), lmht_core::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TernaryConfig {
    /// T, `1..=MAX_TIMESTEPS`.
    pub timesteps: usize,
    /// θ > 0, in the unit of the currents; 1/2 as published.
    pub v_threshold: f64,
    /// λ >= 0, the factor on v(t-1); 1/4 as published.
    pub leak: f64,
    /// [`Full`](GradientMode::Full), as published: through λ v(t-1), the reset included.
    /// [`Detached`](GradientMode::Detached): none through v.
    pub gradient: GradientMode,
}

impl TernaryConfig {
    /// The published neuron: θ = 1/2, λ = 1/4, and the gradient passes through the potential and the reset.
    ///
    /// ```
    /// # use lmht_core::TernaryConfig;
    /// let config = TernaryConfig::ternary(4);
    /// assert_eq!((config.v_threshold, config.leak), (0.5, 0.25));
    /// ```
    pub fn ternary(timesteps: usize) -> Self {
        Self { timesteps, v_threshold: 0.5, leak: 0.25, gradient: GradientMode::Full }
    }

    /// The checked neuron.
    ///
    /// # Errors
    /// The first field that is out of range, with its value and what is allowed.
    ///
    /// ```
    /// # use lmht_core::TernaryConfig;
    /// let error = TernaryConfig { v_threshold: 0.0, ..TernaryConfig::ternary(4) }.check().unwrap_err();
    /// assert!(error.to_string().starts_with("v_threshold: expected a normal f32 number above 0"));
    /// ```
    pub fn check(self) -> Result<TernaryNeuron, ConfigError> {
        if self.timesteps == 0 || self.timesteps > MAX_TIMESTEPS {
            return Err(ConfigError::Timesteps { timesteps: self.timesteps });
        }
        if !(self.v_threshold > 0.0 && (self.v_threshold as f32).is_normal()) {
            return Err(ConfigError::TernaryThreshold { v_threshold: self.v_threshold });
        }
        ConfigError::check_leak(self.leak)?;
        Ok(TernaryNeuron { config: self })
    }
}

/// A [`TernaryConfig`] that passed its check.
///
/// ```
/// # use lmht_core::TernaryConfig;
/// let config = TernaryConfig::ternary(4);
/// assert_eq!(config.check()?.config(), config);
/// # Ok::<(), lmht_core::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TernaryNeuron {
    config: TernaryConfig,
}

impl TernaryNeuron {
    /// All of the configuration.
    pub fn config(&self) -> TernaryConfig {
        self.config
    }

    /// T.
    pub fn timesteps(&self) -> usize {
        self.config.timesteps
    }

    /// θ.
    pub fn v_threshold(&self) -> f64 {
        self.config.v_threshold
    }

    /// λ.
    pub fn leak(&self) -> f64 {
        self.config.leak
    }

    /// Which paths the gradient takes.
    pub fn gradient(&self) -> GradientMode {
        self.config.gradient
    }

    /// The outputs a·s(t).
    ///
    /// # Shapes
    /// - `amplitude`: a, one number
    /// - `xs`: currents x, `[T, n]`, in the unit of θ
    /// - `out`: a·s(t), `[T, n]`, values in {-a, 0, a}
    ///
    /// # Panics
    /// If a slice has another length than stated. A current that is not a number reaches no threshold.
    ///
    /// ```
    /// # use lmht_core::TernaryConfig;
    /// let mut out = [0.0; 3];
    /// TernaryConfig::ternary(3).check()?.forward(1.0, &[0.25, 0.4375, -0.5], &mut out); // one unit
    /// assert_eq!(out, [0.0, 1.0, -1.0]); // m = 0.25, 0.5 (a tie fires), -0.5 from a potential of 0
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn forward<R: Real>(&self, amplitude: R, xs: &[R], out: &mut [R]) {
        let n = units(self.timesteps(), xs.len(), &[("out", out.len())]);
        walk::forward(&Kernel::new(self, amplitude), Scaled { amplitude }, n, xs, out);
    }

    /// dLoss/dx `[T, n]` into `grad_xs` (overwritten), from `grad_out` = dLoss/d(as) `[T, n]`. Returns dLoss/da.
    ///
    /// With w(t) = 1 where -1 <= m(t) <= 1, else 0, and δ(T+1) = 0:
    ///
    /// ```text
    /// dLoss/dx(t) = δ(t) = a grad_out(t) w(t)                                            GradientMode::Detached
    /// dLoss/dx(t) = δ(t) = a grad_out(t) w(t) + λ δ(t+1) (1 - |s(t)| - m(t) s(t) w(t))   GradientMode::Full
    /// dLoss/da    = Σ_units Σ_t grad_out(t) s(t)
    /// ```
    ///
    /// The factor of the full gradient is dv/dm. The sum over t ascends; the sum over units follows [`sum`](crate::sum).
    ///
    /// # Panics
    /// If a slice has another length than stated.
    ///
    /// ```
    /// # use lmht_core::TernaryConfig;
    /// let mut grad_xs = [0.0; 2];
    /// let neuron = TernaryConfig::ternary(2).check()?;
    /// // m = 0.25, which fires nothing, and 0.75. a = 2.
    /// let grad_amplitude = neuron.backward(2.0, &[0.25, 0.6875], &[1.0, 4.0], &mut grad_xs);
    /// assert_eq!((grad_xs, grad_amplitude), ([4.0, 8.0], 4.0)); // 2·1 + 8/4, and 2·4
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn backward<R: Real>(&self, amplitude: R, xs: &[R], grad_out: &[R], grad_xs: &mut [R]) -> R {
        let n = units(self.timesteps(), xs.len(), &[("grad_out", grad_out.len()), ("grad_xs", grad_xs.len())]);
        walk::backward(&Kernel::new(self, amplitude), n, xs, grad_out, grad_xs)
    }

    /// m(t), v(t) and s(t) of every unit, `[T, n]` each, by the readable loop.
    ///
    /// # Panics
    /// If T does not divide the number of currents.
    ///
    /// ```
    /// # use lmht_core::TernaryConfig;
    /// let course = TernaryConfig::ternary(4).check()?.potentials(&[0.25, -0.75, 0.5, -0.375]); // one unit
    /// assert_eq!(course.v_charged, [0.25, -0.6875, 0.5, -0.375]); // only the second finds a potential: 0.25/4 - 0.75
    /// assert_eq!(course.spikes, [0, -1, 1, 0]);
    /// assert_eq!(course.v, [0.25, 0.0, 0.0, -0.375]);
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn potentials<R: Real>(&self, xs: &[R]) -> Potentials<R> {
        let n = units(self.timesteps(), xs.len(), &[]);
        Potentials::collect(self.timesteps(), n, |i| reference::charge_fire_reset(self, xs, n, i))
    }
}

/// A [`TernaryNeuron`] with its amplitude a, the one shared number.
///
/// ```
/// use lmht_core::{Code, Dynamics, Ternary, TernaryConfig};
/// let layer = Ternary::new(TernaryConfig::ternary(1).check()?, 2.0_f32);
/// assert_eq!(layer.code(), Code::Signed { levels: 1, amplitude: 2.0 });
/// let (mut grad_xs, mut grad_shared) = ([0.0; 3], [0.0; 1]);
/// layer.backward(&[-0.75, 0.25, 1.5], &[1.0, 1.0, 4.0], &mut grad_xs, &mut grad_shared);
/// assert_eq!((grad_xs, grad_shared), ([2.0, 2.0, 0.0], [3.0])); // 1.5 is outside the gate and fires: -1 + 4
/// # Ok::<(), lmht_core::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ternary<R> {
    neuron: TernaryNeuron,
    amplitude: R,
}

impl<R: Real> Ternary<R> {
    /// A neuron with its amplitude a.
    pub fn new(neuron: TernaryNeuron, amplitude: R) -> Self {
        Self { neuron, amplitude }
    }

    /// The neuron.
    pub fn neuron(&self) -> &TernaryNeuron {
        &self.neuron
    }

    /// a.
    pub fn amplitude(&self) -> R {
        self.amplitude
    }
}

impl<R: Real> Dynamics<R> for Ternary<R> {
    fn timesteps(&self) -> usize {
        self.neuron.timesteps()
    }

    fn code(&self) -> Code {
        Code::Signed { levels: 1, amplitude: self.amplitude.to_f64() }
    }

    fn forward(&self, xs: &[R], out: &mut [R]) {
        self.neuron.forward(self.amplitude, xs, out);
    }

    fn packed(&self, _xs: &[R], _out: &mut [u8]) {
        no_counts(self.code())
    }

    fn has_gradient(&self) -> bool {
        true
    }

    fn gate_is_whole(&self) -> bool {
        // dLoss/da reads the gradient of every spike, also beyond the gate.
        false
    }

    fn n_shared(&self) -> usize {
        1
    }

    fn backward(&self, xs: &[R], grad_out: &[R], grad_xs: &mut [R], grad_shared: &mut [R]) {
        assert_shared(1, grad_shared.len());
        grad_shared[0] = self.neuron.backward(self.amplitude, xs, grad_out, grad_xs);
    }
}

/// One call's constants, in its type.
struct Kernel<R> {
    timesteps: usize,
    v_threshold: R,
    leak: R,
    amplitude: R,
    detached: bool,
}

impl<R: Real> Kernel<R> {
    fn new(neuron: &TernaryNeuron, amplitude: R) -> Self {
        Self {
            timesteps: neuron.timesteps(),
            v_threshold: R::from_f64(neuron.v_threshold()),
            leak: R::from_f64(neuron.leak()),
            amplitude,
            detached: neuron.gradient() == GradientMode::Detached,
        }
    }
}

/// s of a potential, without a branch.
#[inline(always)]
fn sign<R: Real>(m: R, v_threshold: R) -> R {
    let up = if m >= v_threshold { R::ONE } else { R::ZERO };
    let down = if m <= -v_threshold { R::ONE } else { R::ZERO };
    up - down
}

impl<R: Real> Cell<R> for Kernel<R> {
    const SHARED: bool = true;

    #[inline(always)]
    fn timesteps(&self) -> usize {
        self.timesteps
    }

    #[inline(always)]
    fn leak(&self) -> R {
        self.leak
    }

    #[inline(always)]
    fn detached(&self) -> bool {
        self.detached
    }

    #[inline(always)]
    fn fire(&self, m: &[R], spikes: &mut [R]) {
        let (v_threshold, m) = (self.v_threshold, &m[..spikes.len()]);
        for i in 0..spikes.len() {
            spikes[i] = sign(m[i], v_threshold);
        }
    }

    #[inline(always)]
    fn reset(&self, m: &[R], spikes: &[R], v: &mut [R]) {
        let (m, spikes) = (&m[..v.len()], &spikes[..v.len()]);
        for i in 0..v.len() {
            v[i] = select_unpredictable(spikes[i] == R::ZERO, m[i], R::ZERO);
        }
    }

    #[inline(always)]
    fn pass(&self, grad_out: &[R], m: &mut [R]) {
        let (amplitude, grad_out) = (self.amplitude, &grad_out[..m.len()]);
        for i in 0..m.len() {
            m[i] = select_unpredictable(inside((-R::ONE, R::ONE), m[i]), amplitude * grad_out[i], R::ZERO);
        }
    }

    #[inline(always)]
    fn pass_back(&self, grad_out: &[R], grad_next: &[R], m: &mut [R]) {
        let (amplitude, leak, v_threshold) = (self.amplitude, self.leak, self.v_threshold);
        let (grad_out, grad_next) = (&grad_out[..m.len()], &grad_next[..m.len()]);
        for i in 0..m.len() {
            let (passes, spikes) = (inside((-R::ONE, R::ONE), m[i]), sign(m[i], v_threshold));
            let passed = select_unpredictable(passes, amplitude * grad_out[i], R::ZERO);
            let by_reset = select_unpredictable(passes, m[i] * spikes, R::ZERO);
            // |s| is s², and exact.
            m[i] = passed + leak * grad_next[i] * (R::ONE - spikes * spikes - by_reset);
        }
    }
}

/// a·s(t).
#[derive(Clone, Copy)]
struct Scaled<R> {
    amplitude: R,
}

impl<R: Real> Write<R> for Scaled<R> {
    type Out = R;

    #[inline(always)]
    fn write(self, _m: R, spikes: R) -> R {
        self.amplitude * spikes
    }
}

/// The ternary neuron as loops that can be read beside the paper, one unit at a time. [`TernaryNeuron`] gives the same
/// results to the bit, faster.
pub mod reference {
    use super::{GradientMode, Real, TernaryNeuron, units};
    use crate::sum::ordered_sum;

    /// What [`TernaryNeuron::forward`] computes.
    ///
    /// # Panics
    /// If the slices are not `[T, n]`.
    ///
    /// ```
    /// use lmht_core::{TernaryConfig, ternary::reference};
    /// let mut out = [0.0; 2];
    /// reference::forward(&TernaryConfig::ternary(2).check()?, 1.0, &[-0.25, -0.5], &mut out);
    /// assert_eq!(out, [0.0, -1.0]); // m = -0.25, and -0.25/4 - 0.5
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn forward<R: Real>(neuron: &TernaryNeuron, amplitude: R, xs: &[R], out: &mut [R]) {
        let n = units(neuron.timesteps(), xs.len(), &[("out", out.len())]);
        for i in 0..n {
            for (t, (_, _, spikes)) in charge_fire_reset(neuron, xs, n, i).into_iter().enumerate() {
                out[t * n + i] = amplitude * number(spikes);
            }
        }
    }

    /// What [`TernaryNeuron::backward`] computes and returns.
    ///
    /// # Panics
    /// If the slices are not `[T, n]`.
    ///
    /// ```
    /// use lmht_core::{TernaryConfig, ternary::reference};
    /// let mut grad_xs = [0.0; 2];
    /// let neuron = TernaryConfig::ternary(2).check()?;
    /// // m = 0.75 fires; the second gradient comes back as 1·4/4 · (1 - 1 - 0.75).
    /// assert_eq!(reference::backward(&neuron, 1.0, &[0.75, 0.25], &[2.0, 4.0], &mut grad_xs), 2.0);
    /// assert_eq!(grad_xs, [2.0 - 0.75, 4.0]);
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn backward<R: Real>(neuron: &TernaryNeuron, amplitude: R, xs: &[R], grad_out: &[R], grad_xs: &mut [R]) -> R {
        let n = units(neuron.timesteps(), xs.len(), &[("grad_out", grad_out.len()), ("grad_xs", grad_xs.len())]);
        let leak = R::from_f64(neuron.leak());
        // Each unit's share of dLoss/da.
        let mut grad_amplitude = vec![R::ZERO; n];
        for i in 0..n {
            let steps = charge_fire_reset(neuron, xs, n, i);
            for (t, &(_, _, spikes)) in steps.iter().enumerate() {
                let product = grad_out[t * n + i] * number(spikes);
                grad_amplitude[i] = if t == 0 { product } else { grad_amplitude[i] + product };
            }
            let mut grad_next = R::ZERO; // δ(t+1); nothing follows the last timestep
            for (t, (m, _, spikes)) in steps.into_iter().enumerate().rev() {
                let passes = -R::ONE <= m && m <= R::ONE;
                let passed = if passes { amplitude * grad_out[t * n + i] } else { R::ZERO };
                // dv/dm: what the reset leaves of m, less what it takes where the surrogate moves s.
                let left = number::<R>(1 - spikes.abs()) - if passes { m * number(spikes) } else { R::ZERO };
                grad_next = match neuron.gradient() {
                    GradientMode::Detached => passed,
                    GradientMode::Full => passed + leak * grad_next * left,
                };
                grad_xs[t * n + i] = grad_next;
            }
        }
        ordered_sum(grad_amplitude)
    }

    /// m(t), v(t) and s(t) of unit `i`.
    pub(super) fn charge_fire_reset<R: Real>(neuron: &TernaryNeuron, xs: &[R], n: usize, i: usize) -> Vec<(R, R, i32)> {
        let (leak, v_threshold) = (R::from_f64(neuron.leak()), R::from_f64(neuron.v_threshold()));
        let mut v = R::ZERO;
        (0..neuron.timesteps())
            .map(|t| {
                let m = leak * v + xs[t * n + i];
                let spikes = if m >= v_threshold {
                    1
                } else if m <= -v_threshold {
                    -1
                } else {
                    0
                };
                v = if spikes == 0 { m } else { R::ZERO };
                (m, v, spikes)
            })
            .collect()
    }

    /// s as a number.
    fn number<R: Real>(spikes: i32) -> R {
        R::from_f64(f64::from(spikes))
    }
}
