//! What a program that walks over units needs of a layer of neurons, whatever its kind: [`Dynamics`].

use std::fmt::Debug;

use crate::Real;

/// A layer of neurons with its learned numbers: from currents `[T, n]` to outputs `[T, n]`, and back.
///
/// Units are independent of each other, so a caller may hand over any part of them at a time. Gradients of shared numbers
/// are sums over the units of one call.
///
/// | | m(t) | outputs |
/// |---|---|---|
/// | [`Lmht`](crate::Lmht) | λ v(t-1) + Σ_j ω_tj x(j) | s·θ, s in 0..=L |
/// | [`Windowed`](crate::Windowed) | the same between windows of timesteps | s·θ, s in 0..=1 |
/// | [`Ilif`](crate::Ilif) | λ v(t-1) + x(t) | s in 0..=D |
/// | [`Ternary`](crate::Ternary) | λ v(t-1) + x(t) | s·a, s in -1..=1 |
/// | [`QcfsLayer`](crate::QcfsLayer) | x | q·ϑ/Q, q in 0..=Q |
/// | [`Relu`](crate::Relu) | x | max(x, 0) |
/// | [`Snm`](crate::baselines::Snm), [`Srp`](crate::baselines::Srp), [`Cos`](crate::baselines::Cos) | v(t-1) + x(t) | s·θ; no gradient |
///
/// # Panics
/// Every function, if a slice has another length than stated.
///
/// ```
/// use lmht_core::{Code, Dynamics, Ilif, IlifConfig, Relu};
///
/// let layers: [Box<dyn Dynamics<f64>>; 2] = [Box::new(Ilif::new(IlifConfig::ilif(4, 1).check()?)), Box::new(Relu)];
/// let outputs = layers.map(|layer| {
///     let mut out = [0.0; 3];
///     layer.forward(&[-1.0, 1.75, 9.0], &mut out);
///     out
/// });
/// assert_eq!(outputs, [[0.0, 2.0, 4.0], [0.0, 1.75, 9.0]]);
/// # Ok::<(), lmht_core::ConfigError>(())
/// ```
pub trait Dynamics<R: Real>: Debug + Send + Sync {
    /// T. An activation that knows no time has one timestep.
    fn timesteps(&self) -> usize;

    /// What the outputs are.
    fn code(&self) -> Code;

    /// The outputs `[T, n]` for currents `xs` `[T, n]`.
    fn forward(&self, xs: &[R], out: &mut [R]);

    /// The counts s(t) `[T, n]`, a byte each, with [`IN_GATE`] set where m(t) is in the gate of the surrogate. A kind
    /// without gradient never sets it.
    ///
    /// # Panics
    /// If [`code`](Self::code) is not [`Code::Counts`] with at most 127 levels.
    fn packed(&self, xs: &[R], out: &mut [u8]);

    /// Whether [`backward`](Self::backward) exists.
    fn has_gradient(&self) -> bool;

    /// Whether [`backward`](Self::backward) reads `grad_out` only where the [`IN_GATE`] bit of a unit is set, so that nobody
    /// needs to compute the rest: true for detached gradients and for activations without state, false where a gradient
    /// crosses time through the potential, or where a shared number has a gradient outside of the gate (ϑ of QCFS, at the
    /// ceiling).
    fn gate_is_whole(&self) -> bool;

    /// How many shared numbers [`backward`](Self::backward) has gradients for: Ω row by row, then λ; ϑ; the amplitude.
    fn n_shared(&self) -> usize;

    /// The gradients, from `grad_out` = dLoss/d(output) `[T, n]`: dLoss/dx into `grad_xs` `[T, n]`, and dLoss/d(shared)
    /// into `grad_shared`, [`n_shared`](Self::n_shared) long. Both are overwritten.
    ///
    /// # Panics
    /// If there is no gradient.
    fn backward(&self, xs: &[R], grad_out: &[R], grad_xs: &mut [R], grad_shared: &mut [R]);
}

/// What the outputs of a layer are.
///
/// ```
/// use lmht_core::{Code, Dynamics, Lmht, LmhtConfig};
/// let layer = Lmht::new(LmhtConfig::lmht(4, 1).check()?, vec![1.0_f32], 1.0);
/// assert_eq!(layer.code(), Code::Counts { levels: 4, amplitude: 0.5 }); // θ = 1/2
/// # Ok::<(), lmht_core::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Code {
    /// Whole counts `0..=levels`, times `amplitude`.
    Counts {
        /// The largest count.
        levels: u32,
        /// What one count is worth.
        amplitude: f64,
    },
    /// Whole counts `-levels..=levels`, times `amplitude`: a spike may be negative or be taken back.
    Signed {
        /// The largest count of either sign.
        levels: u32,
        /// What one count is worth.
        amplitude: f64,
    },
    /// Real values.
    Real,
}

/// The bit of a [packed](Dynamics::packed) spike count that says: m(t) is in the gate of the surrogate.
pub const IN_GATE: u8 = 1 << 7;

/// The course of every unit over time, `[T, n]` each, to look at or to plot.
///
/// ```
/// # use lmht_core::LmhtConfig;
/// let neuron = LmhtConfig::lif(3).check()?; // θ = 1
/// let course = neuron.potentials(&[], 0.5, &[0.75, 0.75, 0.0]); // one unit, λ = 1/2
/// assert_eq!(course.v_charged, [0.75, 1.125, 0.0625]); // 0 + 0.75, 0.375 + 0.75, 0.0625 + 0
/// assert_eq!(course.spikes, [0, 1, 0]);
/// assert_eq!(course.v, [0.75, 0.125, 0.0625]); //         m - sθ
/// # Ok::<(), lmht_core::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Potentials<R> {
    /// m(t), before firing.
    pub v_charged: Vec<R>,
    /// v(t), after the reset.
    pub v: Vec<R>,
    /// s(t); negative only for a ternary neuron.
    pub spikes: Vec<i32>,
}

impl<R: Real> Potentials<R> {
    /// `[T, n]` from what `course` says of each unit: m(t), v(t) and s(t), timesteps ascending.
    pub(crate) fn collect<Course>(timesteps: usize, n: usize, course: impl Fn(usize) -> Course) -> Self
    where
        Course: IntoIterator<Item = (R, R, i32)>,
    {
        let len = timesteps * n;
        let mut all = Self { v_charged: vec![R::ZERO; len], v: vec![R::ZERO; len], spikes: vec![0; len] };
        for i in 0..n {
            for (t, step) in course(i).into_iter().enumerate() {
                let e = t * n + i;
                (all.v_charged[e], all.v[e], all.spikes[e]) = step;
            }
        }
        all
    }
}

/// Asserts that counts fit seven bits.
pub(crate) fn assert_packs(levels: u32) {
    assert!(levels < u32::from(IN_GATE), "out: expected at most 127 levels, got {levels}");
}

/// Asserts the length of the shared gradients.
pub(crate) fn assert_shared(expected: usize, len: usize) {
    assert!(len == expected, "grad_shared: expected {expected} values (n_shared), got {len}");
}

/// The end of [`Dynamics::packed`] where outputs are not counts.
pub(crate) fn no_counts(code: Code) -> ! {
    panic!("packed: expected outputs that are counts 0..=levels, got {code:?}; call forward")
}

/// The end of [`Dynamics::backward`] where there is none.
pub(crate) fn no_gradient(kind: &str) -> ! {
    panic!("backward: expected a neuron that can be trained, got {kind}, which is for inference only")
}
