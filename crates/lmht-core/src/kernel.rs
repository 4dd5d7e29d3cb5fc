//! The LM-HT neuron in one pass over memory: [`Neuron::forward`], [`Neuron::backward`], [`Neuron::spikes`].
//!
//! The results equal those of [`reference`](crate::reference) to the bit: the same operations in the same order, without
//! fused multiply-add. What differs is how the units are walked.
//!
//! - The units are cut into the blocks of [`sum`](crate::sum). All timesteps of a block are computed while it stays in the
//!   first-level cache, so memory is passed once: the forward pass reads each current and writes each output, and the
//!   backward pass recomputes m(t) from the currents instead of keeping anything between the two.
//! - In a block, each step is a plain loop over units, which the compiler turns into vector instructions. The
//!   instruction set is chosen at run time.
//! - Runs of blocks are spread over rayon's threads. Each block keeps its own sums, which are added in order, so the
//!   number of threads changes nothing.

// One index runs over several arrays at once; an iterator over one of them would hide that.
#![allow(clippy::needless_range_loop)]

use std::hint::select_unpredictable;
use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use crate::fire::surrogate_window;
use crate::reference::leak_at;
use crate::sum::{BLOCK, LANES, add_block, add_blocks, add_lanes};
use crate::{GradientMode, Neuron, Real, SpikeCount, Tgim};

/// Below this many values one thread finishes before a second one has started.
const WORTH_A_THREAD: usize = 1 << 15;

/// One quantity of all units of a block.
type Tile<R> = [R; BLOCK];

/// How many terms or thresholds one loop takes at a time.
const AT_ONCE: usize = 4;

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
        run(tasks.collect(), |task: BackwardTask<'_, R>| simd(task));

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
        run(tasks.collect(), |task: ForwardTask<'_, R, E>| simd(task));
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
    tgim: Tgim,
    detached: bool,
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
            tgim: neuron.tgim(),
            detached: neuron.gradient() == GradientMode::Detached,
            omega,
            leaks: (0..neuron.timesteps()).map(|t| leak_at(neuron, leak, t)).collect(),
            window: neuron.window(),
        }
    }

    /// The units of block `block` of a run.
    #[inline(always)]
    fn tile(units: &Range<usize>, block: usize) -> Range<usize> {
        units.start + block * BLOCK..units.end.min(units.start + (block + 1) * BLOCK)
    }

    /// The values of some units at timestep `t`.
    #[inline(always)]
    fn row(&self, rows: &'a [R], t: usize, tile: &Range<usize>) -> &'a [R] {
        &rows[t * self.n + tile.start..t * self.n + tile.end]
    }

    /// I(t) (Eq. 7) of some units.
    #[inline(always)]
    fn current(&self, xs: &'a [R], t: usize, tile: &Range<usize>, out: &mut [R]) {
        let senders = match self.tgim {
            Tgim::Full => self.timesteps,
            Tgim::Causal => t + 1,
            Tgim::Identity => return out.copy_from_slice(self.row(xs, t, tile)),
        };
        weighted_sum(out, senders, |j| (self.omega[t * self.timesteps + j], self.row(xs, j, tile)));
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
        S::from_count(spikes.to_count())
    }
}

/// `out[i] = Σ_k weight_k · row_k[i]`, k ascending, for at least one k.
#[inline(always)]
fn weighted_sum<'a, R: Real>(out: &mut [R], count: usize, term: impl Fn(usize) -> (R, &'a [R])) {
    let mut first = 0;
    while first < count {
        match count - first {
            1 => add_weighted::<R, 1>(out, first == 0, [term(first)]),
            2 => add_weighted::<R, 2>(out, first == 0, [term(first), term(first + 1)]),
            3 => add_weighted::<R, 3>(out, first == 0, [term(first), term(first + 1), term(first + 2)]),
            _ => add_weighted::<R, AT_ONCE>(
                out,
                first == 0,
                [term(first), term(first + 1), term(first + 2), term(first + 3)],
            ),
        }
        first += AT_ONCE;
    }
}

/// `K` terms of a sum, begun afresh or added to what is there.
#[inline(always)]
fn add_weighted<R: Real, const K: usize>(out: &mut [R], fresh: bool, terms: [(R, &[R]); K]) {
    let len = out.len();
    let weights = terms.map(|term| term.0);
    let rows = terms.map(|term| &term.1[..len]);
    for i in 0..len {
        let first = weights[0] * rows[0][i];
        let mut sum = if fresh { first } else { out[i] + first };
        for k in 1..K {
            sum += weights[k] * rows[k][i];
        }
        out[i] = sum;
    }
}

/// Eq. 5 on a tile: m(t) takes the place of the current.
#[inline(always)]
fn charge<R: Real>(leak: R, v: &[R], current: &mut [R]) {
    let v = &v[..current.len()];
    for i in 0..current.len() {
        current[i] = leak * v[i] + current[i];
    }
}

/// s(t) of Eq. 6 on a tile.
///
/// Counts are whole numbers and add without rounding, so the thresholds may be taken in groups.
#[inline(always)]
fn fire<R: Real>(thresholds: &[R], m: &[R], spikes: &mut [R]) {
    for (group, thresholds) in thresholds.chunks(AT_ONCE).enumerate() {
        match *thresholds {
            [a] => add_reached(group == 0, [a], m, spikes),
            [a, b] => add_reached(group == 0, [a, b], m, spikes),
            [a, b, c] => add_reached(group == 0, [a, b, c], m, spikes),
            [a, b, c, d] => add_reached(group == 0, [a, b, c, d], m, spikes),
            _ => {}
        }
    }
}

/// How many of `K` thresholds m has reached, begun afresh or added to what is there.
#[inline(always)]
fn add_reached<R: Real, const K: usize>(fresh: bool, thresholds: [R; K], m: &[R], spikes: &mut [R]) {
    let m = &m[..spikes.len()];
    if fresh {
        for i in 0..spikes.len() {
            spikes[i] = reached(m[i], &thresholds);
        }
    } else {
        for i in 0..spikes.len() {
            spikes[i] += reached(m[i], &thresholds);
        }
    }
}

#[inline(always)]
fn reached<R: Real, const K: usize>(m: R, thresholds: &[R; K]) -> R {
    let mut spikes = R::ZERO;
    for k in 0..K {
        spikes += if m >= thresholds[k] { R::ONE } else { R::ZERO };
    }
    spikes
}

/// Whether m is in the surrogate's window, without a branch.
#[inline(always)]
fn inside<R: Real>((lowest, highest): (R, R), m: R) -> bool {
    (lowest <= m) & (m <= highest)
}

/// v(t) of Eq. 6 on a tile.
#[inline(always)]
fn reset<R: Real>(v_threshold: R, m: &[R], spikes: &[R], v: &mut [R]) {
    let (m, spikes) = (&m[..v.len()], &spikes[..v.len()]);
    for i in 0..v.len() {
        v[i] = m[i] - spikes[i] * v_threshold;
    }
}

/// The forward pass over a run of units, to be compiled for an instruction set.
struct ForwardTask<'a, R, E: Emit<R>> {
    plan: &'a Plan<'a, R>,
    xs: &'a [R],
    units: Range<usize>,
    out: Vec<&'a mut [E::Out]>,
    emit: E,
}

impl<R: Real, E: Emit<R>> pulp::NullaryFnOnce for ForwardTask<'_, R, E> {
    type Output = ();

    #[inline(always)]
    fn call(mut self) {
        let plan = self.plan;
        let [mut v, mut current, mut spikes] = [[R::ZERO; BLOCK]; 3];
        for block in 0..self.units.len().div_ceil(BLOCK) {
            let tile = Plan::<R>::tile(&self.units, block);
            let (v, current) = (&mut v[..tile.len()], &mut current[..tile.len()]);
            let spikes = &mut spikes[..tile.len()];
            v.fill(plan.v_init);
            for t in 0..plan.timesteps {
                plan.current(self.xs, t, &tile, current);
                let out = &mut self.out[t][block * BLOCK..][..tile.len()];
                charge(plan.leaks[t], v, current);
                fire(&plan.thresholds, current, spikes);
                reset(plan.v_threshold, current, spikes, v);
                for i in 0..out.len() {
                    out[i] = self.emit.emit(spikes[i], spikes[i] * plan.v_threshold);
                }
            }
        }
    }
}

/// The backward pass over a run of whole blocks of units (the last block may be short), to be compiled for an
/// instruction set.
struct BackwardTask<'a, R> {
    plan: &'a Plan<'a, R>,
    xs: &'a [R],
    grad_out: &'a [R],
    units: Range<usize>,
    grad_xs: Vec<&'a mut [R]>,
    /// `stride` sums for each block: dω row by row, then dλ.
    sums: &'a mut [f64],
    stride: usize,
}

impl<R: Real> pulp::NullaryFnOnce for BackwardTask<'_, R> {
    type Output = ();

    #[inline(always)]
    fn call(mut self) {
        let (plan, timesteps) = (self.plan, self.plan.timesteps);
        // g(1), …, g(T), and zeros for the gradient that nothing sends back to v(T).
        let mut g_tiles = vec![[R::ZERO; BLOCK]; timesteps + 1];
        // v(0), …, v(T).
        let mut v_tiles = vec![[R::ZERO; BLOCK]; timesteps + 1];
        v_tiles[0].fill(plan.v_init);
        for block in 0..self.units.len().div_ceil(BLOCK) {
            let tile = Plan::<R>::tile(&self.units, block);
            self.gradients_of_m(&tile, &mut g_tiles, &mut v_tiles);
            for j in 0..timesteps {
                let grad_xs = &mut self.grad_xs[j][block * BLOCK..][..tile.len()];
                let first = match plan.tgim {
                    Tgim::Full => 0,
                    Tgim::Causal => j,
                    Tgim::Identity => {
                        grad_xs.copy_from_slice(&g_tiles[j][..tile.len()]);
                        continue;
                    }
                };
                weighted_sum(grad_xs, timesteps - first, |k| {
                    (plan.omega[(first + k) * timesteps + j], &g_tiles[first + k][..])
                });
            }
            self.sums_of_block(block, &tile, &g_tiles, &v_tiles);
        }
    }
}

impl<R: Real> BackwardTask<'_, R> {
    /// g(t) = dLoss/dm(t), and v(t), of a tile.
    #[inline(always)]
    fn gradients_of_m(&self, tile: &Range<usize>, g_tiles: &mut [Tile<R>], v_tiles: &mut [Tile<R>]) {
        let (plan, len) = (self.plan, tile.len());
        let window = plan.surrogate;
        let mut spikes = [R::ZERO; BLOCK];
        let spikes = &mut spikes[..len];
        for t in 0..plan.timesteps {
            let m = &mut g_tiles[t][..len];
            plan.current(self.xs, t, tile, m);
            let (v_before, v_after) = v_tiles.split_at_mut(t + 1);
            charge(plan.leaks[t], &v_before[t], m);
            fire(&plan.thresholds, m, spikes);
            reset(plan.v_threshold, m, spikes, &mut v_after[0][..len]);
            if plan.detached {
                let grad_out = &plan.row(self.grad_out, t, tile)[..len];
                for i in 0..len {
                    m[i] = select_unpredictable(inside(window, m[i]), grad_out[i], R::ZERO);
                }
            }
        }
        if plan.detached {
            return;
        }
        // g(t) takes the place of m(t), last timestep first.
        for t in (0..plan.timesteps).rev() {
            let (g, later) = g_tiles.split_at_mut(t + 1);
            let (g, g_next) = (&mut g[t][..len], &later[0][..len]);
            let grad_out = &plan.row(self.grad_out, t, tile)[..len];
            let leak = plan.leaks.get(t + 1).copied().unwrap_or(R::ONE);
            for i in 0..len {
                g[i] = select_unpredictable(inside(window, g[i]), grad_out[i], leak * g_next[i]);
            }
        }
    }

    /// dω and dλ of one block, in the order of [`sum`](crate::sum).
    #[inline(always)]
    fn sums_of_block(&mut self, block: usize, tile: &Range<usize>, g_tiles: &[Tile<R>], v_tiles: &[Tile<R>]) {
        let (plan, timesteps, len) = (self.plan, self.plan.timesteps, tile.len());
        let sums = &mut self.sums[block * self.stride..][..self.stride];
        if plan.tgim != Tgim::Identity {
            for j in 0..timesteps {
                let x = plan.row(self.xs, j, tile);
                let mut t = if plan.tgim == Tgim::Causal { j } else { 0 };
                while t < timesteps {
                    let g = |k: usize| &g_tiles[t + k][..len];
                    let mut put = |k: usize, sum: f64| sums[(t + k) * timesteps + j] = sum;
                    if t + 1 < timesteps {
                        dots(x, [g(0), g(1)], &mut put);
                    } else {
                        dots(x, [g(0)], &mut put);
                    }
                    t += 2;
                }
            }
        }

        let mut grad_leak = [R::ZERO; BLOCK];
        let grad_leak = &mut grad_leak[..len];
        for t in (0..timesteps).step_by(plan.window) {
            let (g, v_before) = (&g_tiles[t][..len], &v_tiles[t][..len]);
            if t == 0 {
                for i in 0..len {
                    grad_leak[i] = g[i] * v_before[i];
                }
            } else {
                for i in 0..len {
                    grad_leak[i] += g[i] * v_before[i];
                }
            }
        }
        sums[self.stride - 1] = add_block(grad_leak);
    }
}

/// Σ_i row_k[i] · x[i] for `K` rows, each over its own lanes.
#[inline(always)]
fn dots<R: Real, const K: usize>(x: &[R], rows: [&[R]; K], put: &mut impl FnMut(usize, f64)) {
    let mut lanes = [[R::ZERO; LANES]; K];
    let rows = rows.map(|row| row[..x.len()].as_chunks::<LANES>());
    let (whole, rest) = x.as_chunks::<LANES>();
    for at in 0..whole.len() {
        for k in 0..K {
            let row = &rows[k].0[at];
            for l in 0..LANES {
                lanes[k][l] += row[l] * whole[at][l];
            }
        }
    }
    for l in 0..rest.len() {
        for k in 0..K {
            lanes[k][l] += rows[k].1[l] * rest[l];
        }
    }
    for k in 0..K {
        put(k, add_lanes(&lanes[k]));
    }
}
