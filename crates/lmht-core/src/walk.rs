//! A neuron without T-GIM in one pass over memory, for every kind that says what it does with a block of units: [`Cell`].
//!
//! As in the LM-HT kernel, a block of units goes through all timesteps in the first-level cache, each act a plain loop that
//! the compiler turns into vector instructions, and the backward pass recomputes m(t) instead of keeping it.

// One index runs over several arrays at once; an iterator over one of them would hide that.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use crate::Real;
use crate::sum::{BLOCK, add_block, add_blocks};
use crate::tile::{Tile, charge, run, simd, split, tile_of};

/// What one kind of neuron does with a block of units. v(0) = 0 and m(t) = λ v(t-1) + x(t), whatever the kind.
pub(crate) trait Cell<R: Real>: Sync {
    /// Whether there is a shared number that gradients are summed for.
    const SHARED: bool;

    /// T.
    fn timesteps(&self) -> usize;
    /// λ.
    fn leak(&self) -> R;
    /// Whether the gradient stays out of the potential.
    fn detached(&self) -> bool;
    /// s(t) from m(t).
    fn fire(&self, m: &[R], spikes: &mut [R]);
    /// v(t) from m(t) and s(t).
    fn reset(&self, m: &[R], spikes: &[R], v: &mut [R]);
    /// δ(t) = dLoss/dm(t) in the place of m(t), if detached.
    fn pass(&self, grad_out: &[R], m: &mut [R]);
    /// δ(t) in the place of m(t), from what comes back through v(t): `grad_next` is δ(t+1).
    fn pass_back(&self, grad_out: &[R], grad_next: &[R], m: &mut [R]);
}

/// What the forward pass writes of a unit.
pub(crate) trait Write<R>: Copy + Send + Sync {
    type Out: Send;
    fn write(self, m: R, spikes: R) -> Self::Out;
}

/// The forward pass into `out` `[T, n]`.
pub(crate) fn forward<R: Real, C: Cell<R>, W: Write<R>>(cell: &C, write: W, n: usize, xs: &[R], out: &mut [W::Out]) {
    let tasks = split(out, n, cell.timesteps()).map(|(units, out)| Forward { cell, write, n, xs, units, out });
    run(tasks.collect(), |task: Forward<'_, R, C, W>| simd(task));
}

/// The backward pass: δ into `grad_xs`. Returns Σ_units Σ_t `grad_out` s in the order of [`sum`](crate::sum), if the kind
/// has a shared number.
pub(crate) fn backward<R: Real, C: Cell<R>>(cell: &C, n: usize, xs: &[R], grad_out: &[R], grad_xs: &mut [R]) -> R {
    let mut sums = vec![0.0; n.div_ceil(BLOCK)];
    let mut rest = &mut sums[..];
    let tasks = split(grad_xs, n, cell.timesteps()).map(|(units, grad_xs)| {
        let (sums, tail) = std::mem::take(&mut rest).split_at_mut(units.len().div_ceil(BLOCK));
        rest = tail;
        Backward { cell, n, xs, grad_out, units, grad_xs, sums }
    });
    run(tasks.collect(), |task: Backward<'_, R, C>| simd(task));
    add_blocks(&sums, 1, 0)
}

/// The values of some units at timestep `t` of `[T, n]`.
#[inline(always)]
fn row<'x, R>(rows: &'x [R], n: usize, t: usize, tile: &Range<usize>) -> &'x [R] {
    &rows[t * n + tile.start..t * n + tile.end]
}

/// The forward pass over a run of units, to be compiled for an instruction set.
struct Forward<'a, R, C, W: Write<R>> {
    cell: &'a C,
    write: W,
    n: usize,
    xs: &'a [R],
    units: Range<usize>,
    out: Vec<&'a mut [W::Out]>,
}

impl<R: Real, C: Cell<R>, W: Write<R>> pulp::NullaryFnOnce for Forward<'_, R, C, W> {
    type Output = ();

    #[inline(always)]
    fn call(mut self) {
        let cell = self.cell;
        let [mut v, mut m, mut spikes] = [[R::ZERO; BLOCK]; 3];
        for block in 0..self.units.len().div_ceil(BLOCK) {
            let tile = tile_of(&self.units, block);
            let (v, m, spikes) = (&mut v[..tile.len()], &mut m[..tile.len()], &mut spikes[..tile.len()]);
            v.fill(R::ZERO);
            for t in 0..cell.timesteps() {
                m.copy_from_slice(row(self.xs, self.n, t, &tile));
                charge(cell.leak(), v, m);
                cell.fire(m, spikes);
                cell.reset(m, spikes, v);
                write_row(self.write, m, spikes, &mut self.out[t][block * BLOCK..][..tile.len()]);
            }
        }
    }
}

/// What is written of a tile. A function of its own, so that the compiler knows that no two of the slices overlap.
#[inline(always)]
fn write_row<R: Real, W: Write<R>>(write: W, m: &[R], spikes: &[R], out: &mut [W::Out]) {
    let (m, spikes) = (&m[..out.len()], &spikes[..out.len()]);
    for i in 0..out.len() {
        out[i] = write.write(m[i], spikes[i]);
    }
}

/// The backward pass over a run of whole blocks of units, to be compiled for an instruction set.
struct Backward<'a, R, C> {
    cell: &'a C,
    n: usize,
    xs: &'a [R],
    grad_out: &'a [R],
    units: Range<usize>,
    grad_xs: Vec<&'a mut [R]>,
    /// The shared gradient of each block.
    sums: &'a mut [f64],
}

impl<R: Real, C: Cell<R>> pulp::NullaryFnOnce for Backward<'_, R, C> {
    type Output = ();

    #[inline(always)]
    fn call(mut self) {
        let (cell, timesteps) = (self.cell, self.cell.timesteps());
        // m(1), …, m(T), then δ in their places, and zeros for what nothing sends back to v(T).
        let mut tiles: Vec<Tile<R>> = vec![[R::ZERO; BLOCK]; timesteps + 1];
        let [mut v, mut spikes, mut shared] = [[R::ZERO; BLOCK]; 3];
        for block in 0..self.units.len().div_ceil(BLOCK) {
            let tile = tile_of(&self.units, block);
            let len = tile.len();
            let (v, spikes, shared) = (&mut v[..len], &mut spikes[..len], &mut shared[..len]);
            v.fill(R::ZERO);
            for (t, m) in tiles[..timesteps].iter_mut().enumerate() {
                let m = &mut m[..len];
                m.copy_from_slice(row(self.xs, self.n, t, &tile));
                charge(cell.leak(), v, m);
                cell.fire(m, spikes);
                cell.reset(m, spikes, v);
                let grad_out = row(self.grad_out, self.n, t, &tile);
                if C::SHARED {
                    add_products(t == 0, grad_out, spikes, shared);
                }
                if cell.detached() {
                    cell.pass(grad_out, m);
                }
            }
            if !cell.detached() {
                for t in (0..timesteps).rev() {
                    let (m, later) = tiles.split_at_mut(t + 1);
                    cell.pass_back(row(self.grad_out, self.n, t, &tile), &later[0][..len], &mut m[t][..len]);
                }
            }
            for (t, grad_xs) in self.grad_xs.iter_mut().enumerate() {
                grad_xs[block * BLOCK..][..len].copy_from_slice(&tiles[t][..len]);
            }
            if C::SHARED {
                self.sums[block] = add_block(shared);
            }
        }
    }
}

/// `sums[i] += a[i] b[i]`, begun afresh or added to what is there.
#[inline(always)]
fn add_products<R: Real>(fresh: bool, a: &[R], b: &[R], sums: &mut [R]) {
    let (a, b) = (&a[..sums.len()], &b[..sums.len()]);
    for i in 0..sums.len() {
        let product = a[i] * b[i];
        sums[i] = if fresh { product } else { sums[i] + product };
    }
}
