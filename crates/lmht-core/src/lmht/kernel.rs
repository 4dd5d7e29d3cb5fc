//! The LM-HT neuron in one pass over memory: [`LmhtNeuron::forward`], [`LmhtNeuron::backward`], [`LmhtNeuron::spikes`],
//! [`LmhtNeuron::packed`].
//!
//! The results equal those of [`reference`](mod@crate::reference) to the bit: the same operations in the same order, without
//! fused multiply-add. What differs is how the units are walked.
//!
//! - Memory is passed once: the forward pass reads each current and writes each output, and the backward pass recomputes
//!   m(t) from the currents instead of keeping anything between the two.
//! - Units go through plain loops that the compiler turns into vector instructions; the instruction set is chosen at run
//!   time. `lanes.rs` carries eight units through all timesteps in registers, where T is small and known when compiled;
//!   `tiles.rs` carries a block of units through them in the first-level cache, for any T.
//! - What is returned in a vector of its own is written once, without zeros before it; this takes the one `unsafe` line.
//! - Runs of blocks are spread over rayon's threads. Each block keeps its own sums, which are added in order, so the
//!   number of threads changes nothing.

// Memory must be written before it counts as a vector's contents, which only `set_len` can say; see `filled`.
#![allow(unsafe_code)]

mod lanes;
mod tiles;

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::fire::gate;
use super::reference::leak_at;
use crate::dynamics::assert_packs;
use crate::sum::{BLOCK, add_blocks};
use crate::tile::{inside, run, simd, split};
use crate::{GradientMode, LmhtNeuron, Real, SpikeCount, Tgim};

impl LmhtNeuron {
    /// The outputs s(t)·θ of a layer (Eqs. 5-7):
    ///
    /// ```text
    /// m(t) = λ v(t-1) + Σ_j ω_tj x(j)
    /// s(t) = #{ k in 1..=L : m(t) >= kθ }
    /// v(t) = m(t) - s(t)θ
    /// ```
    ///
    /// The sum over j is taken in ascending order; with [`Tgim::Identity`] it is x(t). On timesteps that do not enter a
    /// [`window`](crate::LmhtConfig::window) λ is 1.
    ///
    /// # Shapes
    /// - `omega`: Ω, `[T, T]`, row = receiving timestep; may be empty for [`Tgim::Identity`], which does not read it
    /// - `leak`: λ, one number
    /// - `xs`: synaptic currents x, `[T, n]`, in the unit of θ; n is any number of units, for example B·C·H·W
    /// - `out`: s(t)·θ, `[T, n]`, values in {0, θ, …, Lθ}
    ///
    /// # Panics
    /// If a slice has another length than stated. A current that is not a number reaches no threshold.
    ///
    /// ```
    /// # use lmht_core::LmhtConfig;
    /// let neuron = LmhtConfig::lmht(2, 2).check()?;
    /// let omega = [0.5, 0.5, 0.25, 0.75];
    /// let xs = [1.0, -1.0, 0.5, /* t = 2 */ 3.0, 1.0, 0.5]; // three units
    /// let mut output = [0.0; 6];
    /// neuron.forward(&omega, 1.0, &xs, &mut output);
    /// // m(1) = 2.0, 0.0, 0.5 and m(2) = 0 + 2.5, 0 + 0.5, 0.5 + 0.5
    /// assert_eq!(output, [2.0, 0.0, 0.0, 2.0, 0.0, 1.0]);
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn forward<R: Real>(&self, omega: &[R], leak: R, xs: &[R], out: &mut [R]) {
        R::forward(self, omega, leak, xs, out);
    }

    pub(super) fn forward_of<R: Real>(&self, omega: &[R], leak: R, xs: &[R], out: &mut [R]) {
        let n = self.units(omega.len(), xs.len(), &[("out", out.len())]);
        self.run_forward(omega, leak, xs, out, n, Amplitude);
    }

    /// What [`forward`](Self::forward) writes, in memory of its own that is not filled with zeros first: filling takes as
    /// long as half of the pass itself.
    ///
    /// # Panics
    /// If a slice has another length than stated there.
    ///
    /// ```
    /// # use lmht_core::LmhtConfig;
    /// let neuron = LmhtConfig::lmht(4, 1).check()?; // θ = 1/2
    /// assert_eq!(neuron.output(&[1.0], 1.0, &[0.25, 1.5, 9.0]), [0.0, 1.5, 2.0]);
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn output<R: Real>(&self, omega: &[R], leak: R, xs: &[R]) -> Vec<R> {
        R::output(self, omega, leak, xs)
    }

    pub(super) fn output_of<R: Real>(&self, omega: &[R], leak: R, xs: &[R]) -> Vec<R> {
        let n = self.units(omega.len(), xs.len(), &[]);
        filled(xs.len(), |out| self.run_forward(omega, leak, xs, out, n, Fresh))
    }

    /// The spike counts s(t) in `0..=L`, as integers; otherwise like [`forward`](Self::forward).
    ///
    /// # Panics
    /// If a slice has another length than stated there, or L does not fit the integer type.
    ///
    /// ```
    /// # use lmht_core::LmhtConfig;
    /// let neuron = LmhtConfig::lmht(4, 1).check()?; // θ = 1/2
    /// let mut spikes = [0_u8; 3];
    /// neuron.spikes(&[1.0], 1.0, &[0.25, 1.5, 9.0], &mut spikes);
    /// assert_eq!(spikes, [0, 3, 4]);
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn spikes<R: Real, S: SpikeCount>(&self, omega: &[R], leak: R, xs: &[R], out: &mut [S]) {
        let n = self.units(omega.len(), xs.len(), &[("out", out.len())]);
        assert!(
            self.levels() <= S::LARGEST,
            "out: expected an integer type that holds {} levels, got one that ends at {}",
            self.levels(),
            S::LARGEST
        );
        self.run_forward(omega, leak, xs, out, n, Count::<S>(PhantomData));
    }

    /// The spike counts s(t) in a byte each, with [`IN_GATE`](crate::IN_GATE) set where m(t) is in the gate of
    /// the surrogate (Eq. 8): all that a later layer and a detached gradient want to know of a unit.
    ///
    /// Where that bit is not set, no detached gradient passes, so nobody needs to compute dLoss/ds there.
    ///
    /// # Panics
    /// If a slice has another length than stated in [`forward`](Self::forward), or L is above 127.
    ///
    /// ```
    /// # use lmht_core::{IN_GATE, LmhtConfig};
    /// let neuron = LmhtConfig::lmht(2, 1).check()?; // θ = 1, the gate is [0.5, 2.5]
    /// let mut packed = [0; 4];
    /// neuron.packed(&[1.0], 1.0, &[0.25, 0.5, 1.5, 9.0], &mut packed);
    /// assert_eq!(packed, [0, IN_GATE, 1 | IN_GATE, 2]);
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn packed<R: Real>(&self, omega: &[R], leak: R, xs: &[R], out: &mut [u8]) {
        R::packed(self, omega, leak, xs, out);
    }

    pub(super) fn packed_of<R: Real>(&self, omega: &[R], leak: R, xs: &[R], out: &mut [u8]) {
        let n = self.units(omega.len(), xs.len(), &[("out", out.len())]);
        assert_packs(self.levels());
        let gate = gate(R::from_f64(self.v_threshold()), self.levels());
        self.run_forward(omega, leak, xs, out, n, Packed { gate });
    }

    /// The gradients of a layer, with m(t) recomputed from the currents.
    ///
    /// With go(t) = dLoss/d(sθ)(t) and w(t) = 1 where θ/2 <= m(t) <= (L + 1/2)θ, else 0 (Eq. 8), dLoss/dm(t) is
    ///
    /// ```text
    /// g(t) = go(t) w(t)                                         GradientMode::Detached (Eqs. 8-9)
    /// g(t) = go(t) w(t) + gv(t) (1 - w(t)),  gv(t) = λ g(t+1)   GradientMode::Full (Eq. 3), gv(T) = 0
    /// ```
    ///
    /// and from it
    ///
    /// ```text
    /// dLoss/dx(j)  = Σ_t ω_tj g(t)
    /// dLoss/dω_tj  = Σ_units g(t) x(j)          0 for entries that are not free
    /// dLoss/dλ     = Σ_units Σ_t g(t) v(t-1)    over the timesteps that enter a window
    /// ```
    ///
    /// Sums over t ascend; sums over units follow [`sum`](crate::sum), so the result does not depend on the number of
    /// threads.
    ///
    /// Returns dLoss/dλ.
    ///
    /// # Shapes
    /// - `omega`, `leak`, `xs`: those of [`forward`](Self::forward)
    /// - `grad_out`: dLoss/d(sθ), `[T, n]`
    /// - `grad_xs`: dLoss/dx, `[T, n]`, overwritten
    /// - `grad_omega`: dLoss/dΩ, `[T, T]`, overwritten; may be empty for [`Tgim::Identity`]
    ///
    /// # Panics
    /// If a slice has another length than stated.
    ///
    /// ```
    /// # use lmht_core::LmhtConfig;
    /// let neuron = LmhtConfig::lif(2).check()?; // one unit over two timesteps, λ = 1/2
    /// let mut grad_xs = [0.0; 2];
    /// let grad_leak = neuron.backward(&[], 0.5, &[0.25, 1.0], &[1.0, 8.0], &mut grad_xs, &mut []);
    /// // m = 0.25, 1.125: only the second is in the gate; its gradient reaches x(1) through v(1) = 0.25.
    /// assert_eq!((grad_xs, grad_leak), ([4.0, 8.0], 2.0));
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn backward<R: Real>(
        &self,
        omega: &[R],
        leak: R,
        xs: &[R],
        grad_out: &[R],
        grad_xs: &mut [R],
        grad_omega: &mut [R],
    ) -> R {
        R::backward(self, (omega, leak), xs, grad_out, grad_xs, grad_omega)
    }

    pub(super) fn backward_of<R: Real>(
        &self,
        (omega, leak): (&[R], R),
        xs: &[R],
        grad_out: &[R],
        grad_xs: &mut [R],
        grad_omega: &mut [R],
    ) -> R {
        let n = self.units(omega.len(), xs.len(), &[("grad_out", grad_out.len()), ("grad_xs", grad_xs.len())]);
        self.run_backward(omega, leak, xs, grad_out, grad_xs, grad_omega, n)
    }

    /// What [`backward`](Self::backward) returns and writes: dLoss/dλ, and dLoss/dx in memory of its own that is not
    /// filled with zeros first.
    ///
    /// # Panics
    /// If a slice has another length than stated there.
    ///
    /// ```
    /// # use lmht_core::LmhtConfig;
    /// let neuron = LmhtConfig::lif(2).check()?;
    /// let (grad_leak, grad_xs) = neuron.gradients(&[], 0.5, &[0.25, 1.0], &[1.0, 8.0], &mut []);
    /// assert_eq!((grad_leak, grad_xs), (2.0, vec![4.0, 8.0]));
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn gradients<R: Real>(
        &self,
        omega: &[R],
        leak: R,
        xs: &[R],
        grad_out: &[R],
        grad_omega: &mut [R],
    ) -> (R, Vec<R>) {
        R::gradients(self, (omega, leak), xs, grad_out, grad_omega)
    }

    pub(super) fn gradients_of<R: Real>(
        &self,
        (omega, leak): (&[R], R),
        xs: &[R],
        grad_out: &[R],
        grad_omega: &mut [R],
    ) -> (R, Vec<R>) {
        let n = self.units(omega.len(), xs.len(), &[("grad_out", grad_out.len())]);
        let mut grad_leak = R::ZERO;
        let grad_xs = filled(xs.len(), |grad_xs| {
            grad_leak = self.run_backward(omega, leak, xs, grad_out, grad_xs, grad_omega, n);
        });
        (grad_leak, grad_xs)
    }

    /// The backward pass into places for `[T, n]` numbers, each of which is written.
    #[allow(clippy::too_many_arguments)] // The public functions above name and check them.
    fn run_backward<R: Real, P: Place<R>>(
        &self,
        omega: &[R],
        leak: R,
        xs: &[R],
        grad_out: &[R],
        grad_xs: &mut [P],
        grad_omega: &mut [R],
        n: usize,
    ) -> R {
        self.assert_tgim_len("grad_omega", grad_omega.len());
        let plan = Plan::new(self, omega, leak, n);
        // The sums of a block: dω row by row, then dλ.
        let stride = if self.tgim() == Tgim::Identity { 1 } else { plan.timesteps * plan.timesteps + 1 };
        let mut sums = vec![0.0; n.div_ceil(BLOCK) * stride];

        let mut rest = &mut sums[..];
        let tasks = split(grad_xs, n, plan.timesteps).map(|(units, grad_xs)| {
            let (sums, tail) = std::mem::take(&mut rest).split_at_mut(units.len().div_ceil(BLOCK) * stride);
            rest = tail;
            BackwardTask { plan: &plan, xs, grad_out, units, grad_xs, sums, stride }
        });
        // Eight units in registers overlap the loads of the next units with the work on these. At T = 4 the sums of dω no
        // longer fit the registers, and they are still faster than tiles: 5.7 against 8.4 ms for 2^22 values.
        let detached = self.gradient() == GradientMode::Detached;
        run(tasks.collect(), |task: BackwardTask<'_, R, P>| match (self.tgim(), plan.unrolled(), detached) {
            (Tgim::Full, 1, true) => simd(lanes::Backward::<R, P, 1, true, true>(task)),
            (Tgim::Full, 2, true) => simd(lanes::Backward::<R, P, 2, true, true>(task)),
            (Tgim::Full, 4, true) => simd(lanes::Backward::<R, P, 4, true, true>(task)),
            (Tgim::Identity, 1, false) => simd(lanes::Backward::<R, P, 1, false, false>(task)),
            (Tgim::Identity, 2, false) => simd(lanes::Backward::<R, P, 2, false, false>(task)),
            (Tgim::Identity, 4, false) => simd(lanes::Backward::<R, P, 4, false, false>(task)),
            _ => simd(tiles::Backward(task)),
        });

        for (entry, grad) in grad_omega.iter_mut().enumerate() {
            let held = match self.tgim() {
                Tgim::Full => false,
                Tgim::Causal => entry % plan.timesteps > entry / plan.timesteps,
                Tgim::Identity => true,
            };
            *grad = if held { R::ZERO } else { add_blocks(&sums, stride, entry) };
        }
        add_blocks(&sums, stride, stride - 1)
    }

    /// The forward pass into places for `[T, n]` numbers, each of which is written.
    fn run_forward<R: Real, E: Emit<R>>(&self, omega: &[R], leak: R, xs: &[R], out: &mut [E::Out], n: usize, emit: E) {
        let plan = Plan::new(self, omega, leak, n);
        let tasks = split(out, n, plan.timesteps).map(|(units, out)| ForwardTask { plan: &plan, xs, units, out, emit });
        run(tasks.collect(), |task: ForwardTask<'_, R, E>| match (self.tgim(), plan.unrolled()) {
            (Tgim::Full, 1) => simd(lanes::Forward::<R, E, 1, true>(task)),
            (Tgim::Full, 2) => simd(lanes::Forward::<R, E, 2, true>(task)),
            (Tgim::Full, 4) => simd(lanes::Forward::<R, E, 4, true>(task)),
            (Tgim::Identity, 1) => simd(lanes::Forward::<R, E, 1, false>(task)),
            (Tgim::Identity, 2) => simd(lanes::Forward::<R, E, 2, false>(task)),
            (Tgim::Identity, 4) => simd(lanes::Forward::<R, E, 4, false>(task)),
            _ => simd(tiles::Forward(task)),
        });
    }
}

/// One call's constants, in its type.
struct Plan<'a, R> {
    timesteps: usize,
    n: usize,
    v_threshold: R,
    v_init: R,
    /// θ, 2θ, …, Lθ.
    thresholds: Vec<R>,
    /// Both ends of the gate.
    gate: (R, R),
    tgim: Tgim,
    detached: bool,
    omega: &'a [R],
    /// λ at each timestep.
    leaks: Vec<R>,
    /// Every so many timesteps the leak is λ and has a gradient.
    window: usize,
}

impl<'a, R: Real> Plan<'a, R> {
    fn new(neuron: &LmhtNeuron, omega: &'a [R], leak: R, n: usize) -> Self {
        let v_threshold = R::from_f64(neuron.v_threshold());
        Self {
            timesteps: neuron.timesteps(),
            n,
            v_threshold,
            v_init: R::from_f64(neuron.v_init()) * v_threshold,
            thresholds: (1..=neuron.levels()).map(|k| R::from_count(k) * v_threshold).collect(),
            gate: gate(v_threshold, neuron.levels()),
            tgim: neuron.tgim(),
            detached: neuron.gradient() == GradientMode::Detached,
            omega,
            leaks: (0..neuron.timesteps()).map(|t| leak_at(neuron, leak, t)).collect(),
            window: neuron.window(),
        }
    }

    /// T, if it may be compiled in: windows are for tiles.
    fn unrolled(&self) -> usize {
        if self.window == 1 { self.timesteps } else { 0 }
    }

    /// The values of some units at timestep `t`.
    #[inline(always)]
    fn row<'x>(&self, rows: &'x [R], t: usize, tile: &Range<usize>) -> &'x [R] {
        &rows[t * self.n + tile.start..t * self.n + tile.end]
    }
}

/// What the forward pass writes.
trait Emit<R>: Copy + Send + Sync {
    type Out: Copy + Send;
    fn emit(self, v_charged: R, spikes: R, output: R) -> Self::Out;
}

/// s(t)·θ.
#[derive(Clone, Copy)]
struct Amplitude;
impl<R: Real> Emit<R> for Amplitude {
    type Out = R;
    #[inline(always)]
    fn emit(self, _v_charged: R, _spikes: R, output: R) -> R {
        output
    }
}

/// s(t)·θ, into memory that holds nothing yet.
#[derive(Clone, Copy)]
struct Fresh;
impl<R: Real> Emit<R> for Fresh {
    type Out = MaybeUninit<R>;
    #[inline(always)]
    fn emit(self, _v_charged: R, _spikes: R, output: R) -> MaybeUninit<R> {
        MaybeUninit::new(output)
    }
}

/// s(t), as an integer.
#[derive(Clone, Copy)]
struct Count<S>(PhantomData<S>);
impl<R: Real, S: SpikeCount> Emit<R> for Count<S> {
    type Out = S;
    #[inline(always)]
    fn emit(self, _v_charged: R, spikes: R, _output: R) -> S {
        S::from_count(spikes.to_count())
    }
}

/// s(t), and whether m(t) is in the gate, in one byte.
#[derive(Clone, Copy)]
struct Packed<R> {
    gate: (R, R),
}
impl<R: Real> Emit<R> for Packed<R> {
    type Out = u8;
    #[inline(always)]
    fn emit(self, v_charged: R, spikes: R, _output: R) -> u8 {
        spikes.to_count() as u8 | (u8::from(inside(self.gate, v_charged)) << 7)
    }
}

/// A place for one gradient: a number, or memory that holds none yet.
trait Place<R>: Copy + Send {
    fn put(value: R) -> Self;
}
impl<R: Real> Place<R> for R {
    #[inline(always)]
    fn put(value: R) -> R {
        value
    }
}
impl<R: Real> Place<R> for MaybeUninit<R> {
    #[inline(always)]
    fn put(value: R) -> MaybeUninit<R> {
        MaybeUninit::new(value)
    }
}

/// A vector of `len` numbers, all of which `write` writes.
fn filled<R: Real>(len: usize, write: impl FnOnce(&mut [MaybeUninit<R>])) -> Vec<R> {
    let mut values = Vec::with_capacity(len);
    write(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is at least `len`. `write` is `run_forward` or `run_backward`: `split` hands every place to
    // exactly one task, each task walks all units of its range through all timesteps, and what it stores is
    // `MaybeUninit::new` of a number. If it panics, this line is not reached.
    unsafe { values.set_len(len) };
    values
}

/// The forward pass over a run of units.
struct ForwardTask<'a, R, E: Emit<R>> {
    plan: &'a Plan<'a, R>,
    xs: &'a [R],
    units: Range<usize>,
    out: Vec<&'a mut [E::Out]>,
    emit: E,
}

/// The backward pass over a run of whole blocks of units (the last block may be short).
struct BackwardTask<'a, R, P> {
    plan: &'a Plan<'a, R>,
    xs: &'a [R],
    grad_out: &'a [R],
    units: Range<usize>,
    grad_xs: Vec<&'a mut [P]>,
    /// `stride` sums for each block: dω row by row, then dλ.
    sums: &'a mut [f64],
    stride: usize,
}
