//! Neurons of the conversion methods that hybrid training is compared with: SNM, SRP and COS. For inference only.
//!
//! All work on currents `[T, n]`, time outermost, and fire with one threshold θ and a reset by subtraction. RMP (Han et al.,
//! CVPR 2020) needs no function here: it is the IF neuron with v(0) = 0. Each is a function, and a layer among the
//! [`Dynamics`].

use crate::dynamics::{no_counts, no_gradient};
use crate::{Code, Dynamics, Real};

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

/// [`snm`] as a layer. Its outputs are signed.
///
/// ```
/// use lmht_core::{Dynamics, baselines::Snm};
/// let mut out = [0.0; 4];
/// Snm::new(4, 1.0, 0.0).forward(&[2.5, 0.0, -2.5, 0.0], &mut out);
/// assert_eq!(out, [1.0, 1.0, -1.0, -1.0]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Snm<R> {
    timesteps: usize,
    v_threshold: R,
    v_init: R,
}

impl<R: Real> Snm<R> {
    /// T, θ, and v(0) as a fraction of θ.
    pub fn new(timesteps: usize, v_threshold: R, v_init: R) -> Self {
        Self { timesteps, v_threshold, v_init }
    }
}

impl<R: Real> Dynamics<R> for Snm<R> {
    fn timesteps(&self) -> usize {
        self.timesteps
    }

    fn code(&self) -> Code {
        Code::Signed { levels: 1, amplitude: self.v_threshold.to_f64() }
    }

    fn forward(&self, xs: &[R], out: &mut [R]) {
        snm(self.timesteps, self.v_threshold, self.v_init, xs, out);
    }

    fn packed(&self, _xs: &[R], _out: &mut [u8]) {
        no_counts(self.code())
    }

    fn has_gradient(&self) -> bool {
        false
    }

    /// There is no gate.
    fn gate_is_whole(&self) -> bool {
        false
    }

    fn n_shared(&self) -> usize {
        0
    }

    fn backward(&self, _xs: &[R], _grad_out: &[R], _grad_xs: &mut [R], _grad_shared: &mut [R]) {
        no_gradient("SNM")
    }
}

/// [`srp`] as a layer.
///
/// ```
/// use lmht_core::{Dynamics, baselines::Srp};
/// let mut counts = [9; 4];
/// Srp::new(4, 2, 2.0).packed(&[2.0, 0.0, 1.0, 1.0], &mut counts); // θ = 2, and v(τ) = 1 lets the unit fire
/// assert_eq!(counts, [1, 0, 1, 0]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Srp<R> {
    timesteps: usize,
    tau: usize,
    v_threshold: R,
}

impl<R: Real> Srp<R> {
    /// The timesteps of both stages, τ of them in the first, and θ.
    ///
    /// # Panics
    /// If τ exceeds the timesteps.
    pub fn new(timesteps: usize, tau: usize, v_threshold: R) -> Self {
        assert_stage("tau", tau, timesteps);
        Self { timesteps, tau, v_threshold }
    }
}

impl<R: Real> Dynamics<R> for Srp<R> {
    fn timesteps(&self) -> usize {
        self.timesteps
    }

    fn code(&self) -> Code {
        Code::Counts { levels: 1, amplitude: self.v_threshold.to_f64() }
    }

    fn forward(&self, xs: &[R], out: &mut [R]) {
        srp(self.timesteps, self.tau, self.v_threshold, xs, out);
    }

    fn packed(&self, xs: &[R], out: &mut [u8]) {
        pack(self, xs, out);
    }

    fn has_gradient(&self) -> bool {
        false
    }

    /// There is no gate.
    fn gate_is_whole(&self) -> bool {
        false
    }

    fn n_shared(&self) -> usize {
        0
    }

    fn backward(&self, _xs: &[R], _grad_out: &[R], _grad_xs: &mut [R], _grad_shared: &mut [R]) {
        no_gradient("SRP")
    }
}

/// [`cos`] as a layer.
///
/// ```
/// use lmht_core::{Dynamics, baselines::Cos};
/// let mut counts = [9; 4];
/// Cos::new(4, 2, 1.0).packed(&[2.0, -3.0, 2.0, 1.0], &mut counts);
/// assert_eq!(counts, [1, 0, 0, 1]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cos<R> {
    timesteps: usize,
    rho: usize,
    v_threshold: R,
}

impl<R: Real> Cos<R> {
    /// The timesteps of both stages, ρ of them in the first, and θ.
    ///
    /// # Panics
    /// If ρ exceeds the timesteps.
    pub fn new(timesteps: usize, rho: usize, v_threshold: R) -> Self {
        assert_stage("rho", rho, timesteps);
        Self { timesteps, rho, v_threshold }
    }
}

impl<R: Real> Dynamics<R> for Cos<R> {
    fn timesteps(&self) -> usize {
        self.timesteps
    }

    fn code(&self) -> Code {
        Code::Counts { levels: 1, amplitude: self.v_threshold.to_f64() }
    }

    fn forward(&self, xs: &[R], out: &mut [R]) {
        cos(self.timesteps, self.rho, self.v_threshold, xs, out);
    }

    fn packed(&self, xs: &[R], out: &mut [u8]) {
        pack(self, xs, out);
    }

    fn has_gradient(&self) -> bool {
        false
    }

    /// There is no gate.
    fn gate_is_whole(&self) -> bool {
        false
    }

    fn n_shared(&self) -> usize {
        0
    }

    fn backward(&self, _xs: &[R], _grad_out: &[R], _grad_xs: &mut [R], _grad_shared: &mut [R]) {
        no_gradient("COS")
    }
}

/// The single-threshold outputs of a layer as counts; no gradient passes, so no gate is open.
fn pack<R: Real>(layer: &impl Dynamics<R>, xs: &[R], out: &mut [u8]) {
    assert!(out.len() == xs.len(), "out: expected the {} values of xs, [T, n], got {}", xs.len(), out.len());
    let mut outputs = vec![R::ZERO; xs.len()];
    layer.forward(xs, &mut outputs);
    for (out, &output) in out.iter_mut().zip(&outputs) {
        *out = u8::from(output > R::ZERO);
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
