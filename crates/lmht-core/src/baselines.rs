//! Neurons of the conversion methods that hybrid training is compared with: SNM, SRP and COS. For inference only.
//!
//! All work on currents `[T, n]`, time outermost, and fire with one threshold θ and a reset by subtraction. RMP (Han et al.,
//! CVPR 2020) needs no function here: it is the IF neuron with v(0) = 0.

use crate::Real;

/// v(τ)/θ that a unit of [`srp`] must exceed to fire in the second stage. The published code's.
const SRP_RESIDUE: f64 = 1e-3;

/// What [`cos`] leaves between the shifted potential and the threshold, in units of θ. The published code's.
const COS_MARGIN: f64 = 1e-3;

/// Signed spikes with memory (Wang et al., IJCAI 2022): a unit may take back spikes that it has sent.
///
/// ```text
/// m(t) = v(t-1) + x(t)
/// s(t) = 1 if m(t) >= θ;  -1 if m(t) <= -θ and the spikes sent so far sum to more than 0;  else 0
/// v(t) = m(t) - s(t)θ
/// ```
///
/// `out` `[T, n]` receives s(t)·θ.
///
/// # Panics
/// If the slices differ in length or T does not divide them.
///
/// ```
/// let mut out = [0.0; 4];
/// // m = 2.5, 1.5, -2, -1: two spikes sent, both taken back.
/// lmht_core::baselines::snm(4, 1.0, 0.0, &[2.5, 0.0, -2.5, 0.0], &mut out);
/// assert_eq!(out, [1.0, 1.0, -1.0, -1.0]);
/// // Nothing was sent, so nothing can be taken back.
/// lmht_core::baselines::snm(4, 1.0, 0.0, &[-2.5, 0.0, 0.0, 0.0], &mut out);
/// assert_eq!(out, [0.0; 4]);
/// ```
pub fn snm<R: Real>(timesteps: usize, v_threshold: R, v_init: R, xs: &[R], out: &mut [R]) {
    let n = units("snm", timesteps, xs, out);
    for i in 0..n {
        let mut v = v_init * v_threshold;
        let mut sent = 0_i64;
        for t in 0..timesteps {
            let charged = v + xs[t * n + i];
            let spike = if charged >= v_threshold {
                sent += 1;
                v_threshold
            } else if charged <= -v_threshold && sent > 0 {
                sent -= 1;
                -v_threshold
            } else {
                R::ZERO
            };
            v = charged - spike;
            out[t * n + i] = spike;
        }
    }
}

/// Optimization by the residual potential (Hao et al., AAAI 2023): two stages of an IF neuron with v(0) = θ/2.
///
/// The first τ timesteps fire freely. A unit whose potential is then not above 0.001 θ has sent too much; it stays silent in
/// the second stage, which starts again from θ/2 and has the remaining timesteps.
///
/// `out` `[τ + T, n]` receives s(t)·θ of both stages; only the second is the network's answer.
///
/// # Panics
/// If the slices differ in length, τ + T does not divide them, or τ exceeds it.
///
/// ```
/// let mut out = [0.0; 8];
/// // Two units, τ = 2, T = 2, v(0) = 0.5. The first: m = 1.5, 0.5, and v(τ) = 0.5. The second: m = 1.5, -0.5: silenced.
/// lmht_core::baselines::srp(4, 2, 1.0, &[1.0, 1.0, 0.0, -1.0, 1.0, 1.0, 1.0, 1.0], &mut out);
/// assert_eq!(out, [1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
/// ```
pub fn srp<R: Real>(timesteps: usize, tau: usize, v_threshold: R, xs: &[R], out: &mut [R]) {
    let n = units("srp", timesteps, xs, out);
    assert_stage("tau", tau, timesteps);
    let start = R::HALF * v_threshold;
    for i in 0..n {
        let mut v = start;
        for t in 0..tau {
            (out[t * n + i], v) = integrate_and_fire(v, xs[t * n + i], v_threshold);
        }
        let fires = v > R::from_f64(SRP_RESIDUE) * v_threshold;
        v = start;
        for t in tau..timesteps {
            let spike;
            (spike, v) = integrate_and_fire(v, xs[t * n + i], v_threshold);
            out[t * n + i] = if fires { spike } else { R::ZERO };
        }
    }
}

/// Calibrated offset spikes (Hao et al., ICLR 2023): a first stage of ρ timesteps shows which units will send a spike too many
/// or too few, and the second starts them from a potential that shifts their count by one.
///
/// In units of θ, with v(0) = 1/2 in the first stage:
///
/// ```text
/// lower:  v(ρ) < 0 and some spike:  v(0) = 1/2 - max(1, min over spikes of m(t) - 0.999)
/// higher: v(ρ) >= 1:                v(0) = 1/2 + max(1, 1.001 - max over silent timesteps of v(t))
/// else:                             v(0) = 1/2
/// ```
///
/// A unit that fired at every timestep of the first stage has no silent one; its shift is 1. The published code can repeat
/// the calibration; as published, this does it once.
///
/// `out` `[ρ + T, n]` receives s(t)·θ of both stages; only the second is the network's answer.
///
/// # Panics
/// If the slices differ in length, ρ + T does not divide them, or ρ exceeds it.
///
/// ```
/// let mut out = [0.0; 4];
/// // First stage: m = 2.5, then 1.5 - 3 = -1.5: lower, m at the spike 2.5, so v(0) = 0.5 - 1.501. Second: m = 0.999, 1.999.
/// lmht_core::baselines::cos(4, 2, 1.0, &[2.0, -3.0, 2.0, 1.0], &mut out);
/// assert_eq!(out, [1.0, 0.0, 0.0, 1.0]);
/// ```
pub fn cos<R: Real>(timesteps: usize, rho: usize, v_threshold: R, xs: &[R], out: &mut [R]) {
    let n = units("cos", timesteps, xs, out);
    assert_stage("rho", rho, timesteps);
    let (one, margin) = (v_threshold, R::from_f64(COS_MARGIN) * v_threshold);
    let max = |a: R, b: R| if a > b { a } else { b };
    for i in 0..n {
        let start = R::HALF * v_threshold;
        let mut v = start;
        // The smallest m of a spike, and the largest v without one.
        let (mut smallest, mut largest) = (None::<R>, None::<R>);
        for t in 0..rho {
            let charged = v + xs[t * n + i];
            (out[t * n + i], v) = integrate_and_fire(v, xs[t * n + i], v_threshold);
            if out[t * n + i] > R::ZERO {
                smallest = Some(smallest.map_or(charged, |m| if charged < m { charged } else { m }));
            } else {
                largest = Some(largest.map_or(v, |largest| max(largest, v)));
            }
        }
        let shift = match (smallest, largest) {
            (Some(smallest), _) if v < R::ZERO => -max(one, smallest - (one - margin)),
            (_, Some(largest)) if v >= one => max(one, one + margin - largest),
            (_, None) if v >= one => one,
            _ => R::ZERO,
        };
        v = start + shift;
        for t in rho..timesteps {
            (out[t * n + i], v) = integrate_and_fire(v, xs[t * n + i], v_threshold);
        }
    }
}

/// s·θ and v after one timestep.
fn integrate_and_fire<R: Real>(v: R, x: R, v_threshold: R) -> (R, R) {
    let charged = v + x;
    if charged >= v_threshold { (v_threshold, charged - v_threshold) } else { (R::ZERO, charged) }
}

fn units<R>(name: &str, timesteps: usize, xs: &[R], out: &[R]) -> usize {
    assert!(
        timesteps > 0 && xs.len().is_multiple_of(timesteps) && xs.len() == out.len(),
        "{name}: expected currents and outputs [T, n] with T = {timesteps}, got {} and {} values",
        xs.len(),
        out.len()
    );
    xs.len() / timesteps
}

fn assert_stage(name: &str, stage: usize, timesteps: usize) {
    assert!(stage <= timesteps, "{name}: expected at most the {timesteps} timesteps, got {stage}");
}
