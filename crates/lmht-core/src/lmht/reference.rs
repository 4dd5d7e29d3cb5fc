//! The LM-HT neuron as loops that can be read beside the paper, one unit at a time.
//!
//! [`LmhtNeuron::forward`] and [`LmhtNeuron::backward`] give the same results to the bit, faster. Anything else that
//! computes this neuron, on whatever device, is to be checked against these two functions.

use super::fire::in_gate;
use crate::sum::ordered_sum;
use crate::{GradientMode, LmhtNeuron, Real, Tgim};

/// What [`LmhtNeuron::forward`] computes, with the same arguments.
///
/// ```
/// use lmht_core::{LmhtConfig, reference};
/// let neuron = LmhtConfig::lmht(2, 2).check()?;
/// let mut output = [0.0; 2];
/// reference::forward(&neuron, &[0.5; 4], 1.0, &[1.0, 2.0], &mut output);
/// assert_eq!(output, [1.0, 2.0]); // m = 1.5, 2.0
/// # Ok::<(), lmht_core::ConfigError>(())
/// ```
pub fn forward<R: Real>(neuron: &LmhtNeuron, omega: &[R], leak: R, xs: &[R], out: &mut [R]) {
    let n = neuron.units(omega.len(), xs.len(), &[("out", out.len())]);
    let v_threshold = R::from_f64(neuron.v_threshold());
    for i in 0..n {
        for (t, step) in charge_fire_reset(neuron, omega, leak, xs, n, i).into_iter().enumerate() {
            out[t * n + i] = R::from_count(step.spikes) * v_threshold;
        }
    }
}

/// What [`LmhtNeuron::backward`] computes, with the same arguments.
///
/// ```
/// use lmht_core::{LmhtConfig, reference};
/// let neuron = LmhtConfig::lmht(2, 2).check()?;
/// let (mut grad_xs, mut grad_omega) = ([0.0; 2], [0.0; 4]);
/// // m = 1.5 and 2.0: both inside the gate 0.5..=2.5. v(0) = 0, v(1) = 0.5.
/// let grad_leak =
///     reference::backward(&neuron, &[0.5; 4], 1.0, &[1.0, 2.0], &[1.0, 4.0], &mut grad_xs, &mut grad_omega);
/// assert_eq!(grad_xs, [2.5, 2.5]); //            Σ_t ω_tj g(t)
/// assert_eq!(grad_omega, [1.0, 2.0, 4.0, 8.0]); // g(t) x(j)
/// assert_eq!(grad_leak, 2.0); //                 Σ_t g(t) v(t-1)
/// # Ok::<(), lmht_core::ConfigError>(())
/// ```
pub fn backward<R: Real>(
    neuron: &LmhtNeuron,
    omega: &[R],
    leak: R,
    xs: &[R],
    grad_out: &[R],
    grad_xs: &mut [R],
    grad_omega: &mut [R],
) -> R {
    let n = neuron.units(omega.len(), xs.len(), &[("grad_out", grad_out.len()), ("grad_xs", grad_xs.len())]);
    neuron.assert_tgim_len("grad_omega", grad_omega.len());
    let timesteps = neuron.timesteps();
    let v_threshold = R::from_f64(neuron.v_threshold());

    // dLoss/dm(t), [T, n], and each unit's share of dLoss/dλ.
    let mut grad_m = vec![R::ZERO; xs.len()];
    let mut grad_leak = vec![R::ZERO; n];
    for i in 0..n {
        let steps = charge_fire_reset(neuron, omega, leak, xs, n, i);
        let mut grad_v = R::ZERO; // dLoss/dv(t); nothing follows the last timestep
        for t in (0..timesteps).rev() {
            let passes = in_gate(steps[t].v_charged, v_threshold, neuron.levels());
            let grad = match (passes, neuron.gradient()) {
                (true, _) => grad_out[t * n + i],
                (false, GradientMode::Detached) => R::ZERO,
                // v = m - sθ: inside the gate the two parts cancel, outside dv/dm = 1.
                (false, GradientMode::Full) => grad_v,
            };
            grad_m[t * n + i] = grad;
            grad_v = leak_at(neuron, leak, t) * grad;
        }
        for t in (0..timesteps).step_by(neuron.window()) {
            let product = grad_m[t * n + i] * steps[t].v_before;
            grad_leak[i] = if t == 0 { product } else { grad_leak[i] + product };
        }
    }

    for j in 0..timesteps {
        let receivers = (0..timesteps).filter(|&t| is_free(neuron.tgim(), t, j));
        for i in 0..n {
            grad_xs[j * n + i] = match neuron.tgim() {
                Tgim::Identity => grad_m[j * n + i],
                _ => in_order(receivers.clone().map(|t| omega[t * timesteps + j] * grad_m[t * n + i])),
            };
        }
    }
    for (entry, grad) in grad_omega.iter_mut().enumerate() {
        let (t, j) = (entry / timesteps, entry % timesteps);
        *grad = if neuron.tgim() != Tgim::Identity && is_free(neuron.tgim(), t, j) {
            ordered_sum((0..n).map(|i| grad_m[t * n + i] * xs[j * n + i]))
        } else {
            R::ZERO
        };
    }
    ordered_sum(grad_leak)
}

/// One timestep of one unit.
pub(super) struct Step<R> {
    /// v(t-1).
    v_before: R,
    /// m(t).
    pub(super) v_charged: R,
    /// s(t).
    pub(super) spikes: u32,
    /// v(t).
    pub(super) v: R,
}

/// Eqs. 5-7 for unit `i`.
pub(super) fn charge_fire_reset<R: Real>(
    neuron: &LmhtNeuron,
    omega: &[R],
    leak: R,
    xs: &[R],
    n: usize,
    i: usize,
) -> Vec<Step<R>> {
    let timesteps = neuron.timesteps();
    let v_threshold = R::from_f64(neuron.v_threshold());
    let mut v = R::from_f64(neuron.v_init()) * v_threshold;
    // What has been added since a window was entered, and the spikes sent since: m = total - count θ, but comparing the
    // total with (count + k)θ rounds like the thresholds that a window of single-threshold timesteps stands for.
    let (mut total, mut count) = (R::ZERO, 0);
    let mut steps = Vec::with_capacity(timesteps);
    for t in 0..timesteps {
        let senders = (0..timesteps).filter(|&j| is_free(neuron.tgim(), t, j));
        let current = match neuron.tgim() {
            Tgim::Identity => xs[t * n + i],
            _ => in_order(senders.map(|j| omega[t * timesteps + j] * xs[j * n + i])),
        };
        if t.is_multiple_of(neuron.window()) {
            (total, count) = (leak * v + current, 0);
        } else {
            total += current;
        }
        let v_charged = total - R::from_count(count) * v_threshold;
        let reached = |k: &u32| total >= R::from_count(count + k) * v_threshold;
        let spikes = (1..=neuron.levels()).filter(reached).count() as u32;
        count += spikes;
        let v_before = v;
        v = total - R::from_count(count) * v_threshold;
        steps.push(Step { v_before, v_charged, spikes, v });
    }
    steps
}

/// λ on entering a window, 1 inside it.
pub(crate) fn leak_at<R: Real>(neuron: &LmhtNeuron, leak: R, t: usize) -> R {
    if t.is_multiple_of(neuron.window()) { leak } else { R::ONE }
}

/// Whether timestep `t` receives from timestep `j`.
fn is_free(tgim: Tgim, t: usize, j: usize) -> bool {
    match tgim {
        Tgim::Full => true,
        Tgim::Causal => j <= t,
        Tgim::Identity => j == t,
    }
}

/// The sum of at least one term, one after the other.
fn in_order<R: Real>(terms: impl Iterator<Item = R>) -> R {
    terms.reduce(|sum, term| sum + term).unwrap_or(R::ZERO)
}
