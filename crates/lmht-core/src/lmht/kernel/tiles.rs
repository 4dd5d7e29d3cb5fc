//! The neuron for any T: a block of units at a time goes through all timesteps, each step a loop over the block.
//!
//! Currents, gradients and scratch of a block stay in the first-level cache for a few timesteps.

// One index runs over several arrays at once; an iterator over one of them would hide that.
#![allow(clippy::needless_range_loop)]

use std::hint::select_unpredictable;
use std::ops::Range;

use super::{BackwardTask, Emit, ForwardTask, Place, Plan};
use crate::sum::{BLOCK, LANES, add_block, add_lanes};
use crate::tile::{AT_ONCE, Tile, charge, fire, inside, reset, tile_of};
use crate::{Real, Tgim};

/// I(t) (Eq. 7) of a tile.
#[inline(always)]
fn current_of<R: Real>(plan: &Plan<'_, R>, xs: &[R], t: usize, tile: &Range<usize>, out: &mut [R]) {
    let senders = match plan.tgim {
        Tgim::Full => plan.timesteps,
        Tgim::Causal => t + 1,
        Tgim::Identity => return out.copy_from_slice(plan.row(xs, t, tile)),
    };
    weighted_sum(out, senders, |j| (plan.omega[t * plan.timesteps + j], plan.row(xs, j, tile)));
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

/// g(t) of the detached gradient on a tile, in the place of m(t).
///
/// A function of its own, as all loops here: so the compiler knows that no two of the slices overlap.
#[inline(always)]
fn pass_gate<R: Real>(gate: (R, R), grad_out: &[R], m: &mut [R]) {
    let grad_out = &grad_out[..m.len()];
    for i in 0..m.len() {
        m[i] = select_unpredictable(inside(gate, m[i]), grad_out[i], R::ZERO);
    }
}

/// g(t) of the full gradient on a tile, in the place of m(t).
#[inline(always)]
fn pass_back<R: Real>(gate: (R, R), leak: R, grad_out: &[R], g_next: &[R], m: &mut [R]) {
    let (grad_out, g_next) = (&grad_out[..m.len()], &g_next[..m.len()]);
    for i in 0..m.len() {
        let grad_v = leak * g_next[i];
        m[i] = select_unpredictable(inside(gate, m[i]), grad_out[i], grad_v);
    }
}

/// What a tile carries from one timestep to the next.
///
/// The window of a reparameterized neuron is one charge that several timesteps spend: timestep by timestep its potential is
/// M - cθ, where M is everything that has been added since the window was entered, and c the spikes sent since. Comparing M
/// with (c + 1)θ is the same as comparing M - cθ with θ, but rounds like the L thresholds kθ that the window stands for, so
/// that not even a tie differs.
struct Carried<'a, R> {
    /// v(t), or M inside a window.
    v: &'a mut [R],
    /// c.
    count: &'a mut [R],
}

impl<R: Real> Carried<'_, R> {
    /// Charges, fires and resets: `current` holds I(t) and is left with m(t).
    #[inline(always)]
    fn step(&mut self, plan: &Plan<'_, R>, t: usize, current: &mut [R], spikes: &mut [R]) {
        if plan.window == 1 {
            charge(plan.leaks[t], self.v, current);
            fire(&plan.thresholds, current, spikes);
            reset(plan.v_threshold, current, spikes, self.v);
            return;
        }
        if t.is_multiple_of(plan.window) {
            charge(plan.leaks[t], self.v, current);
            self.count.fill(R::ZERO);
        } else {
            charge(R::ONE, self.v, current);
        }
        fire_again(plan.v_threshold, plan.thresholds.len(), current, self.count, spikes);
        let ends = (t + 1).is_multiple_of(plan.window);
        for i in 0..current.len() {
            let (total, sent) = (current[i], self.count[i]);
            self.count[i] = sent + spikes[i];
            self.v[i] = if ends { total - self.count[i] * plan.v_threshold } else { total };
            current[i] = total - sent * plan.v_threshold;
        }
    }
}

/// s(t) inside a window: how many of the L thresholds beyond the c that were spent M has reached.
#[inline(always)]
fn fire_again<R: Real>(v_threshold: R, levels: usize, total: &[R], count: &[R], spikes: &mut [R]) {
    let (total, count) = (&total[..spikes.len()], &count[..spikes.len()]);
    spikes.fill(R::ZERO);
    for k in 1..=levels {
        let k = R::from_f64(k as f64);
        for i in 0..spikes.len() {
            spikes[i] += if total[i] >= (count[i] + k) * v_threshold { R::ONE } else { R::ZERO };
        }
    }
}

/// The forward pass, to be compiled for an instruction set.
pub(super) struct Forward<'a, R, E: Emit<R>>(pub(super) ForwardTask<'a, R, E>);

impl<R: Real, E: Emit<R>> pulp::NullaryFnOnce for Forward<'_, R, E> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let mut task = self.0;
        let plan = task.plan;
        let [mut v, mut count, mut current, mut spikes] = [[R::ZERO; BLOCK]; 4];
        for block in 0..task.units.len().div_ceil(BLOCK) {
            let tile = tile_of(&task.units, block);
            let (v, current) = (&mut v[..tile.len()], &mut current[..tile.len()]);
            let spikes = &mut spikes[..tile.len()];
            v.fill(plan.v_init);
            let mut carried = Carried { v, count: &mut count[..tile.len()] };
            for t in 0..plan.timesteps {
                current_of(plan, task.xs, t, &tile, current);
                let out = &mut task.out[t][block * BLOCK..][..tile.len()];
                carried.step(plan, t, current, spikes);
                for i in 0..out.len() {
                    out[i] = task.emit.emit(current[i], spikes[i], spikes[i] * plan.v_threshold);
                }
            }
        }
    }
}

/// The backward pass, to be compiled for an instruction set.
pub(super) struct Backward<'a, R, P>(pub(super) BackwardTask<'a, R, P>);

impl<R: Real, P: Place<R>> pulp::NullaryFnOnce for Backward<'_, R, P> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let mut task = self.0;
        let (plan, timesteps) = (task.plan, task.plan.timesteps);
        // g(1), …, g(T), and zeros for the gradient that nothing sends back to v(T).
        let mut g_tiles = vec![[R::ZERO; BLOCK]; timesteps + 1];
        // v(0), …, v(T) where a window begins or ends, what is carried elsewhere.
        let mut v_tiles = vec![[R::ZERO; BLOCK]; timesteps + 1];
        v_tiles[0].fill(plan.v_init);
        let mut grad_x = [R::ZERO; BLOCK];
        for block in 0..task.units.len().div_ceil(BLOCK) {
            let tile = tile_of(&task.units, block);
            task.gradients_of_m(&tile, &mut g_tiles, &mut v_tiles);
            for j in 0..timesteps {
                let from = match plan.tgim {
                    Tgim::Full => Some(0),
                    Tgim::Causal => Some(j),
                    Tgim::Identity => None,
                };
                let values = if let Some(from) = from {
                    weighted_sum(&mut grad_x[..tile.len()], timesteps - from, |k| {
                        (plan.omega[(from + k) * timesteps + j], &g_tiles[from + k][..])
                    });
                    &grad_x
                } else {
                    &g_tiles[j]
                };
                let grad_xs = &mut task.grad_xs[j][block * BLOCK..][..tile.len()];
                for i in 0..grad_xs.len() {
                    grad_xs[i] = P::put(values[i]);
                }
            }
            task.sums_of_block(block, &tile, &g_tiles, &v_tiles);
        }
    }
}

impl<R: Real, P> BackwardTask<'_, R, P> {
    /// g(t) = dLoss/dm(t), and v(t), of a tile.
    #[inline(always)]
    fn gradients_of_m(&self, tile: &Range<usize>, g_tiles: &mut [Tile<R>], v_tiles: &mut [Tile<R>]) {
        let (plan, len) = (self.plan, tile.len());
        let gate = plan.gate;
        let [mut spikes, mut count] = [[R::ZERO; BLOCK]; 2];
        let spikes = &mut spikes[..len];
        for t in 0..plan.timesteps {
            let m = &mut g_tiles[t][..len];
            current_of(plan, self.xs, t, tile, m);
            let (v_before, v_after) = v_tiles.split_at_mut(t + 1);
            let v = &mut v_after[0][..len];
            v.copy_from_slice(&v_before[t][..len]);
            Carried { v, count: &mut count[..len] }.step(plan, t, m, spikes);
            if plan.detached {
                let grad_out = &plan.row(self.grad_out, t, tile)[..len];
                pass_gate(gate, grad_out, m);
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
            pass_back(gate, leak, grad_out, g_next, g);
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
