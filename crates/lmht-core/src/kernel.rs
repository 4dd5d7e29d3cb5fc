//! The LM-HT neuron in one pass over memory: [`Neuron::forward`], [`Neuron::backward`], [`Neuron::spikes`].
//!
//! The results equal those of [`reference`](crate::reference) to the bit: the same operations in the same order, without
//! fused multiply-add. What differs is how the units are walked.
//!
//! - Blocks of [`BLOCK`] units stay in the first-level cache while all their timesteps are computed; the forward pass
//!   reads each current once and writes each output once, and the backward pass recomputes m(t) from the currents, so
//!   nothing has to be kept between the two.
//! - In a block, [`LANES`] units go together, as arrays that the compiler turns into vector registers. The instruction
//!   set is chosen at run time.
//! - Runs of blocks are spread over rayon's threads. Each block keeps its own sums, which are added in the order of
//!   [`sum`](crate::sum), so the number of threads changes nothing.
//!
//! The number of timesteps is a compile-time constant for T = 1, 2 and 4; other T take the same code with loops.

// One index runs over several arrays at once; iterators over one of them would hide that.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use crate::fire::surrogate_window;
use crate::reference::leak_at;
use crate::sum::{BLOCK, LANES, add_blocks, add_lanes};
use crate::{GradientMode, Neuron, Real, SpikeCount, Tgim};

/// Below this many values one thread finishes before a second one has started.
const WORTH_A_THREAD: usize = 1 << 15;

/// The same quantity of neighbouring units.
type Lanes<R> = [R; LANES];

impl Neuron {
    /// The outputs s(t)·θ of a layer (Eqs. 5-7):
    ///
    /// ```text
    /// m(t) = λ v(t-1) + Σ_j ω_tj x(j)
    /// s(t) = #{ k in 1..=L : m(t) >= kθ }
    /// v(t) = m(t) - s(t)θ
    /// ```
    ///
    /// The sum over j is taken in ascending order; with [`Tgim::Identity`] it is x(t). On timesteps that do not enter a
    /// [`window`](crate::NeuronConfig::window) λ is 1.
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
    /// # use lmht_core::NeuronConfig;
    /// let neuron = NeuronConfig::lmht(2, 2).check()?;
    /// let omega = [0.5, 0.5, 0.25, 0.75];
    /// let xs = [1.0, -1.0, 0.5, /* t = 2 */ 3.0, 1.0, 0.5]; // three units
    /// let mut output = [0.0; 6];
    /// neuron.forward(&omega, 1.0, &xs, &mut output);
    /// // m(1) = 2.0, 0.0, 0.5 and m(2) = 0 + 2.5, 0 + 0.5, 0.5 + 0.5
    /// assert_eq!(output, [2.0, 0.0, 0.0, 2.0, 0.0, 1.0]);
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn forward<R: Real>(&self, omega: &[R], leak: R, xs: &[R], out: &mut [R]) {
        let n = self.units(omega.len(), xs.len(), &[("out", out.len())]);
        self.run_forward(omega, leak, xs, out, n, Amplitude);
    }

    /// The spike counts s(t) in `0..=L`, as integers; otherwise like [`forward`](Self::forward).
    ///
    /// # Panics
    /// If a slice has another length than stated there, or L does not fit the integer type.
    ///
    /// ```
    /// # use lmht_core::NeuronConfig;
    /// let neuron = NeuronConfig::lmht(4, 1).check()?; // θ = 1/2
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
    /// # use lmht_core::NeuronConfig;
    /// let neuron = NeuronConfig::lif(2).check()?; // one unit over two timesteps, λ = 1/2
    /// let mut grad_xs = [0.0; 2];
    /// let grad_leak = neuron.backward(&[], 0.5, &[0.25, 1.0], &[1.0, 8.0], &mut grad_xs, &mut []);
    /// // m = 0.25, 1.125: only the second is in the window; its gradient reaches x(1) through v(1) = 0.25.
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
        let n = self.units(omega.len(), xs.len(), &[("grad_out", grad_out.len()), ("grad_xs", grad_xs.len())]);
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
        let detached = self.gradient() == GradientMode::Detached;
        run(tasks.collect(), |task: BackwardTask<'_, R>| match (self.tgim(), plan.timesteps, detached) {
            (Tgim::Full, 1, true) => simd(Backward::<R, 1, FULL, true>(task)),
            (Tgim::Full, 2, true) => simd(Backward::<R, 2, FULL, true>(task)),
            (Tgim::Full, 4, true) => simd(Backward::<R, 4, FULL, true>(task)),
            (Tgim::Full, _, true) => simd(Backward::<R, 0, FULL, true>(task)),
            (Tgim::Full, _, false) => simd(Backward::<R, 0, FULL, false>(task)),
            (Tgim::Causal, _, true) => simd(Backward::<R, 0, CAUSAL, true>(task)),
            (Tgim::Causal, _, false) => simd(Backward::<R, 0, CAUSAL, false>(task)),
            (Tgim::Identity, 1, false) => simd(Backward::<R, 1, IDENTITY, false>(task)),
            (Tgim::Identity, 2, false) => simd(Backward::<R, 2, IDENTITY, false>(task)),
            (Tgim::Identity, 4, false) => simd(Backward::<R, 4, IDENTITY, false>(task)),
            (Tgim::Identity, _, false) => simd(Backward::<R, 0, IDENTITY, false>(task)),
            (Tgim::Identity, _, true) => simd(Backward::<R, 0, IDENTITY, true>(task)),
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

    fn run_forward<R: Real, E: Emit<R>>(&self, omega: &[R], leak: R, xs: &[R], out: &mut [E::Out], n: usize, emit: E) {
        let plan = Plan::new(self, omega, leak, n);
        let tasks = split(out, n, plan.timesteps).map(|(units, out)| ForwardTask { plan: &plan, xs, units, out, emit });
        run(tasks.collect(), |task: ForwardTask<'_, R, E>| match (self.tgim(), plan.timesteps) {
            (Tgim::Full, 1) => simd(Forward::<R, E, 1, FULL>(task)),
            (Tgim::Full, 2) => simd(Forward::<R, E, 2, FULL>(task)),
            (Tgim::Full, 4) => simd(Forward::<R, E, 4, FULL>(task)),
            (Tgim::Full, _) => simd(Forward::<R, E, 0, FULL>(task)),
            (Tgim::Causal, _) => simd(Forward::<R, E, 0, CAUSAL>(task)),
            (Tgim::Identity, 1) => simd(Forward::<R, E, 1, IDENTITY>(task)),
            (Tgim::Identity, 2) => simd(Forward::<R, E, 2, IDENTITY>(task)),
            (Tgim::Identity, 4) => simd(Forward::<R, E, 4, IDENTITY>(task)),
            (Tgim::Identity, _) => simd(Forward::<R, E, 0, IDENTITY>(task)),
        });
    }
}

/// [`Tgim`] as a constant parameter.
const FULL: u8 = 0;
const CAUSAL: u8 = 1;
const IDENTITY: u8 = 2;

/// The timesteps that timestep `t` receives from.
#[inline(always)]
fn senders<const MIX: u8>(t: usize, timesteps: usize) -> Range<usize> {
    match MIX {
        FULL => 0..timesteps,
        CAUSAL => 0..t + 1,
        _ => t..t + 1,
    }
}

/// The timesteps that receive from timestep `j`.
#[inline(always)]
fn receivers<const MIX: u8>(j: usize, timesteps: usize) -> Range<usize> {
    match MIX {
        FULL => 0..timesteps,
        CAUSAL => j..timesteps,
        _ => j..j + 1,
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
    /// Both ends of the surrogate's window.
    surrogate: (R, R),
    omega: &'a [R],
    /// λ at each timestep.
    leaks: Vec<R>,
    /// Every so many timesteps the leak is λ and has a gradient.
    window: usize,
}

impl<'a, R: Real> Plan<'a, R> {
    fn new(neuron: &Neuron, omega: &'a [R], leak: R, n: usize) -> Self {
        let v_threshold = R::from_f64(neuron.v_threshold());
        Self {
            timesteps: neuron.timesteps(),
            n,
            v_threshold,
            v_init: R::from_f64(neuron.v_init()) * v_threshold,
            thresholds: (1..=neuron.levels()).map(|k| R::from_count(k) * v_threshold).collect(),
            surrogate: surrogate_window(v_threshold, neuron.levels()),
            omega,
            leaks: (0..neuron.timesteps()).map(|t| leak_at(neuron, leak, t)).collect(),
            window: neuron.window(),
        }
    }

    /// Ω as an array, where its size is known.
    #[inline(always)]
    fn omega<const T: usize, const MIX: u8>(&self) -> [[R; T]; T] {
        let mut omega = [[R::ZERO; T]; T];
        if MIX != IDENTITY {
            for (row, values) in omega.iter_mut().zip(self.omega.chunks_exact(self.timesteps)) {
                row.copy_from_slice(values);
            }
        }
        omega
    }
}

/// Cuts `[T, n]` into runs of whole blocks of units, a few for each thread: their range, and their part of every row.
pub(crate) fn split<V>(
    rows: &mut [V],
    n: usize,
    timesteps: usize,
) -> impl Iterator<Item = (Range<usize>, Vec<&mut [V]>)> {
    let threads = rayon::current_num_threads();
    let tasks = if threads == 1 || rows.len() < WORTH_A_THREAD { 1 } else { 4 * threads };
    let units = n.div_ceil(BLOCK).div_ceil(tasks).max(1) * BLOCK;
    let mut parts: Vec<_> =
        (0..n).step_by(units).map(|start| (start..n.min(start + units), Vec::with_capacity(timesteps))).collect();
    for row in rows.chunks_exact_mut(n.max(1)) {
        for (part, values) in parts.iter_mut().zip(row.chunks_mut(units)) {
            part.1.push(values);
        }
    }
    parts.into_iter()
}

/// Does all tasks, on this thread if there is only one.
pub(crate) fn run<Task: Send>(mut tasks: Vec<Task>, work: impl Fn(Task) + Sync + Send) {
    if tasks.len() == 1 {
        tasks.drain(..).for_each(work);
    } else {
        tasks.into_par_iter().for_each(work);
    }
}

/// Compiles `work` for every instruction set and calls the best that this machine has.
pub(crate) fn simd<Work: pulp::NullaryFnOnce<Output = ()>>(work: Work) {
    struct Dispatched<Work>(Work);
    impl<Work: pulp::NullaryFnOnce> pulp::WithSimd for Dispatched<Work> {
        type Output = Work::Output;
        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, _simd: S) -> Self::Output {
            self.0.call()
        }
    }
    pulp::Arch::new().dispatch(Dispatched(work));
}

/// What the forward pass writes.
trait Emit<R>: Copy + Send + Sync {
    type Out: Copy + Send;
    fn emit(self, spikes: R, output: R) -> Self::Out;
}

/// s(t)·θ.
#[derive(Clone, Copy)]
struct Amplitude;
impl<R: Real> Emit<R> for Amplitude {
    type Out = R;
    #[inline(always)]
    fn emit(self, _spikes: R, output: R) -> R {
        output
    }
}

/// s(t), as an integer.
#[derive(Clone, Copy)]
struct Count<S>(PhantomData<S>);
impl<R: Real, S: SpikeCount> Emit<R> for Count<S> {
    type Out = S;
    #[inline(always)]
    fn emit(self, spikes: R, _output: R) -> S {
        S::from_real(spikes)
    }
}

#[inline(always)]
fn load<R: Real>(row: &[R], at: usize, valid: usize) -> Lanes<R> {
    let mut lanes = [R::ZERO; LANES];
    let row = &row[at..at + valid];
    for l in 0..LANES {
        if l < valid {
            lanes[l] = row[l];
        }
    }
    lanes
}

#[inline(always)]
fn store<V: Copy>(row: &mut [V], at: usize, valid: usize, lanes: [V; LANES]) {
    let row = &mut row[at..at + valid];
    for l in 0..LANES {
        if l < valid {
            row[l] = lanes[l];
        }
    }
}

/// I(t) (Eq. 7).
#[inline(always)]
fn current<R: Real, const T: usize, const MIX: u8>(
    plan: &Plan<'_, R>,
    omega: &[[R; T]; T],
    x: &[Lanes<R>],
    t: usize,
) -> Lanes<R> {
    if MIX == IDENTITY {
        return x[t];
    }
    let mut sum = [R::ZERO; LANES];
    for j in senders::<MIX>(t, x.len()) {
        let weight = if T > 0 { omega[t][j] } else { plan.omega[t * x.len() + j] };
        for l in 0..LANES {
            let product = weight * x[j][l];
            sum[l] = if j == 0 { product } else { sum[l] + product };
        }
    }
    sum
}

/// s(t) of Eq. 6, as a number.
#[inline(always)]
fn count<R: Real>(plan: &Plan<'_, R>, m: &Lanes<R>) -> Lanes<R> {
    let mut spikes = [R::ZERO; LANES];
    for &threshold in &plan.thresholds {
        for l in 0..LANES {
            spikes[l] += if m[l] >= threshold { R::ONE } else { R::ZERO };
        }
    }
    spikes
}

/// The forward pass over a run of units.
struct ForwardTask<'a, R, E: Emit<R>> {
    plan: &'a Plan<'a, R>,
    xs: &'a [R],
    units: Range<usize>,
    out: Vec<&'a mut [E::Out]>,
    emit: E,
}

/// The forward pass, to be compiled for an instruction set; `T` = 0 means that T is known at run time only.
struct Forward<'a, R, E: Emit<R>, const T: usize, const MIX: u8>(ForwardTask<'a, R, E>);

impl<R: Real, E: Emit<R>, const T: usize, const MIX: u8> pulp::NullaryFnOnce for Forward<'_, R, E, T, MIX> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let mut task = self.0;
        let omega = task.plan.omega::<T, MIX>();
        let mut scratch = vec![[R::ZERO; LANES]; if T > 0 { 0 } else { task.plan.timesteps }];
        let len = task.units.len();
        let mut at = 0;
        while at + LANES <= len {
            forward_lanes::<R, E, T, MIX>(&mut task, &omega, &mut scratch, at, LANES);
            at += LANES;
        }
        if at < len {
            forward_lanes::<R, E, T, MIX>(&mut task, &omega, &mut scratch, at, len - at);
        }
    }
}

/// All timesteps of the `valid <= LANES` units that begin at `at`.
#[inline(always)]
fn forward_lanes<R: Real, E: Emit<R>, const T: usize, const MIX: u8>(
    task: &mut ForwardTask<'_, R, E>,
    omega: &[[R; T]; T],
    scratch: &mut [Lanes<R>],
    at: usize,
    valid: usize,
) {
    let plan = task.plan;
    let mut fixed = [[R::ZERO; LANES]; T];
    let x = if T > 0 { &mut fixed[..] } else { scratch };
    let timesteps = if T > 0 { T } else { plan.timesteps };
    for t in 0..timesteps {
        x[t] = load(task.xs, t * plan.n + task.units.start + at, valid);
    }
    let mut v = [plan.v_init; LANES];
    for t in 0..timesteps {
        let mut m = current::<R, T, MIX>(plan, omega, x, t);
        for l in 0..LANES {
            m[l] = plan.leaks[t] * v[l] + m[l];
        }
        let spikes = count(plan, &m);
        let mut output = spikes;
        for l in 0..LANES {
            output[l] = spikes[l] * plan.v_threshold;
            v[l] = m[l] - output[l];
        }
        let mut emitted = [task.emit.emit(R::ZERO, R::ZERO); LANES];
        for l in 0..LANES {
            emitted[l] = task.emit.emit(spikes[l], output[l]);
        }
        store(task.out[t], at, valid, emitted);
    }
}

/// The backward pass over a run of whole blocks of units (the last block may be short).
struct BackwardTask<'a, R> {
    plan: &'a Plan<'a, R>,
    xs: &'a [R],
    grad_out: &'a [R],
    units: Range<usize>,
    grad_xs: Vec<&'a mut [R]>,
    /// `stride` sums for each block.
    sums: &'a mut [f64],
    stride: usize,
}

/// The backward pass, to be compiled for an instruction set; `T` = 0 means that T is known at run time only.
struct Backward<'a, R, const T: usize, const MIX: u8, const DETACHED: bool>(BackwardTask<'a, R>);

/// Partial sums of a block, where T is a constant: dω and dλ.
type Sums<R, const T: usize> = ([[Lanes<R>; T]; T], Lanes<R>);

impl<R: Real, const T: usize, const MIX: u8, const DETACHED: bool> pulp::NullaryFnOnce
    for Backward<'_, R, T, MIX, DETACHED>
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let mut task = self.0;
        let omega = task.plan.omega::<T, MIX>();
        let timesteps = task.plan.timesteps;
        // Where T is known at run time only: x, m or g, v; and the partial sums of dω.
        let mut scratch = vec![[R::ZERO; LANES]; if T > 0 { 0 } else { 3 * timesteps }];
        let mut entries = vec![[R::ZERO; LANES]; if T > 0 || MIX == IDENTITY { 0 } else { timesteps * timesteps }];
        let len = task.units.len();
        for block in 0..len.div_ceil(BLOCK) {
            let mut sums: Sums<R, T> = ([[[R::ZERO; LANES]; T]; T], [R::ZERO; LANES]);
            entries.fill([R::ZERO; LANES]);
            let end = len.min((block + 1) * BLOCK);
            let mut at = block * BLOCK;
            while at + LANES <= end {
                backward_lanes::<R, T, MIX, DETACHED>(
                    &mut task,
                    &omega,
                    &mut scratch,
                    &mut sums,
                    &mut entries,
                    at,
                    LANES,
                );
                at += LANES;
            }
            if at < end {
                backward_lanes::<R, T, MIX, DETACHED>(
                    &mut task,
                    &omega,
                    &mut scratch,
                    &mut sums,
                    &mut entries,
                    at,
                    end - at,
                );
            }
            let totals = &mut task.sums[block * task.stride..(block + 1) * task.stride];
            if MIX != IDENTITY {
                let fixed = sums.0.as_flattened();
                for (total, lanes) in totals.iter_mut().zip(if T > 0 { fixed } else { &entries }) {
                    *total = add_lanes(lanes);
                }
            }
            totals[task.stride - 1] = add_lanes(&sums.1);
        }
    }
}

/// All timesteps of the `valid <= LANES` units that begin at `at`.
#[inline(always)]
fn backward_lanes<R: Real, const T: usize, const MIX: u8, const DETACHED: bool>(
    task: &mut BackwardTask<'_, R>,
    omega: &[[R; T]; T],
    scratch: &mut [Lanes<R>],
    sums: &mut Sums<R, T>,
    entries: &mut [Lanes<R>],
    at: usize,
    valid: usize,
) {
    let plan = task.plan;
    let timesteps = if T > 0 { T } else { plan.timesteps };
    let mut fixed = [[[R::ZERO; LANES]; T]; 3];
    let [fixed_x, fixed_g, fixed_v] = &mut fixed;
    let (scratch_x, scratch) = scratch.split_at_mut(if T > 0 { 0 } else { timesteps });
    let (scratch_g, scratch_v) = scratch.split_at_mut(if T > 0 { 0 } else { timesteps });
    let x = if T > 0 { &mut fixed_x[..] } else { scratch_x };
    let g = if T > 0 { &mut fixed_g[..] } else { scratch_g };
    let v_before = if T > 0 { &mut fixed_v[..] } else { scratch_v };
    let (lowest, highest) = plan.surrogate;
    let start = task.units.start + at;

    // m(t) and v(t-1) once more.
    for t in 0..timesteps {
        x[t] = load(task.xs, t * plan.n + start, valid);
    }
    let mut v = [plan.v_init; LANES];
    for t in 0..timesteps {
        v_before[t] = v;
        let mut m = current::<R, T, MIX>(plan, omega, x, t);
        for l in 0..LANES {
            m[l] = plan.leaks[t] * v[l] + m[l];
        }
        let spikes = count(plan, &m);
        for l in 0..LANES {
            v[l] = m[l] - spikes[l] * plan.v_threshold;
        }
        g[t] = m;
    }

    // g(t) takes the place of m(t). Lanes beyond `valid` are never stored and never summed.
    let mut grad_v = [R::ZERO; LANES];
    for t in (0..timesteps).rev() {
        let grad_out = load(task.grad_out, t * plan.n + start, valid);
        for l in 0..LANES {
            let m = g[t][l];
            let elsewhere = if DETACHED { R::ZERO } else { grad_v[l] };
            g[t][l] = if (lowest <= m) & (m <= highest) { grad_out[l] } else { elsewhere };
            grad_v[l] = plan.leaks[t] * g[t][l];
        }
    }

    for j in 0..timesteps {
        let mut grad_x = [R::ZERO; LANES];
        for (k, t) in receivers::<MIX>(j, timesteps).enumerate() {
            for l in 0..LANES {
                if MIX == IDENTITY {
                    grad_x[l] = g[t][l];
                } else {
                    let weight = if T > 0 { omega[t][j] } else { plan.omega[t * timesteps + j] };
                    let product = weight * g[t][l];
                    grad_x[l] = if k == 0 { product } else { grad_x[l] + product };
                }
            }
        }
        store(task.grad_xs[j], at, valid, grad_x);
    }

    if MIX != IDENTITY {
        for t in 0..timesteps {
            for j in senders::<MIX>(t, timesteps) {
                let sum = if T > 0 { &mut sums.0[t][j] } else { &mut entries[t * timesteps + j] };
                for l in 0..LANES {
                    if l < valid {
                        sum[l] += g[t][l] * x[j][l];
                    }
                }
            }
        }
    }
    let mut grad_leak = [R::ZERO; LANES];
    for t in 0..timesteps {
        if t.is_multiple_of(plan.window) {
            for l in 0..LANES {
                let product = g[t][l] * v_before[t][l];
                grad_leak[l] = if t == 0 { product } else { grad_leak[l] + product };
            }
        }
    }
    for l in 0..LANES {
        if l < valid {
            sums.1[l] += grad_leak[l];
        }
    }
}
