//! The neuron of the engine: adds the terms of its current up, fires, and packs the spikes, a cache-resident tile of units
//! at a time; and the way back.
//!
//! The current itself is never written to memory. A tile is whole positions of the map with all their channels, at all
//! timesteps.

use std::ops::Add;

use lmht_core::{Dynamics, IN_GATE};
use lmht_kernels::{Counts, Kernel, run_vectorized, tally};
use rayon::prelude::*;

use super::norm;
use super::prepared::Firing;
use super::value::{ChannelAffine, Packed};
use crate::ops::storage::Element;
use crate::signal::TimeBroadcast;

/// Values of a tile, all timesteps together: 32 kB of f32.
const TILE: usize = 1 << 13;
/// Tasks for the units; fixed, so that sums keep their order for every number of threads.
const TASKS: usize = 32;

/// A term of a current with what it needs.
pub(super) struct Operand<'a, T> {
    pub(super) rows: Rows<'a, T>,
    pub(super) broadcast: Option<TimeBroadcast>,
}

/// The numbers of a term.
pub(super) enum Rows<'a, T> {
    /// (y − mean) · slope + offset.
    Affine(&'a [T], ChannelAffine<T>),
    /// Times the factor.
    Real(&'a [T], T),
    /// Times the amplitude.
    Packed(&'a [u8], T),
}

/// A current `[T, n]` of units with `c` channels: the sum of its terms, at least one.
pub(super) struct Current<'a, T> {
    pub(super) terms: Vec<Operand<'a, T>>,
    pub(super) timesteps: usize,
    /// Units of a timestep.
    pub(super) n: usize,
    pub(super) c: usize,
}

impl<T: Element> Current<'_, T> {
    /// The sum of the terms for units `first..first + len` at timestep `t`.
    #[inline(always)]
    fn add_up<const FMA: bool>(&self, t: usize, first: usize, xs: &mut [T]) {
        for (i, term) in self.terms.iter().enumerate() {
            let from = TimeBroadcast::source(term.broadcast, t) * self.n + first;
            match (&term.rows, i == 0) {
                (Rows::Affine(ys, affine), true) => put_affine::<T, FMA, true>(&ys[from..][..xs.len()], affine, xs),
                (Rows::Affine(ys, affine), false) => put_affine::<T, FMA, false>(&ys[from..][..xs.len()], affine, xs),
                (Rows::Real(values, factor), is_first) => {
                    put(&values[from..][..xs.len()], is_first, xs, |&x| x * *factor);
                }
                (Rows::Packed(bytes, amplitude), is_first) => {
                    put(&bytes[from..][..xs.len()], is_first, xs, |&byte| count::<T>(byte) * *amplitude);
                }
            }
        }
    }

    /// Values at all timesteps.
    pub(super) fn len(&self) -> usize {
        self.timesteps * self.n
    }

    /// Positions of a task, in units.
    fn task_units(&self) -> usize {
        (self.n / self.c).div_ceil(TASKS).max(1) * self.c
    }

    /// Tasks that are too small to wake another thread up for one.
    fn tasks_at_once(&self) -> usize {
        (TILE / self.timesteps / self.task_units()).max(1)
    }

    /// Units of a tile.
    fn tile_units(&self) -> usize {
        (TILE / self.timesteps / self.c).max(1) * self.c
    }
}

/// The count of a packed byte, by way of `i32`, which vector instructions convert.
#[inline(always)]
fn count<T: Element>(byte: u8) -> T {
    T::from_count(u32::from(byte & !IN_GATE))
}

#[inline(always)]
fn put_affine<T: Element, const FMA: bool, const FIRST: bool>(ys: &[T], affine: &ChannelAffine<T>, xs: &mut [T]) {
    let c = affine.mean.len();
    for (xs, ys) in xs.chunks_exact_mut(c).zip(ys.chunks_exact(c)) {
        let (mean, slope, offset) = (&affine.mean[..c], &affine.slope[..c], &affine.offset[..c]);
        for i in 0..c {
            let x = (ys[i] - mean[i]).mul_add::<FMA>(slope[i], offset[i]);
            xs[i] = if FIRST { x } else { xs[i] + x };
        }
    }
}

#[inline(always)]
fn put<T: Element, S>(source: &[S], is_first: bool, xs: &mut [T], value: impl Fn(&S) -> T) {
    if is_first {
        for (x, source) in xs.iter_mut().zip(source) {
            *x = value(source);
        }
    } else {
        for (x, source) in xs.iter_mut().zip(source) {
            *x += value(source);
        }
    }
}

/// Cuts `[T, n]` into runs of units: each task's part of every timestep.
fn split<V>(rows: &mut [V], n: usize, units: usize) -> Vec<Vec<&mut [V]>> {
    let mut parts: Vec<Vec<&mut [V]>> = (0..n.div_ceil(units)).map(|_| Vec::new()).collect();
    for row in rows.chunks_exact_mut(n) {
        for (part, values) in parts.iter_mut().zip(row.chunks_mut(units)) {
            part.push(values);
        }
    }
    parts
}

/// The current itself, `[T, n]`; `xs` is overwritten.
pub(super) fn materialize<T: Element>(current: &Current<'_, T>, xs: &mut [T]) {
    let units = current.task_units();
    split(xs, current.n, units).into_par_iter().enumerate().for_each(|(task, rows)| {
        run_vectorized(Materialize { current, first: task * units, rows });
    });
}

struct Materialize<'a, T> {
    current: &'a Current<'a, T>,
    first: usize,
    rows: Vec<&'a mut [T]>,
}

impl<T: Element> Kernel for Materialize<'_, T> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (t, xs) in self.rows.into_iter().enumerate() {
            self.current.add_up::<FMA>(t, self.first, xs);
        }
    }
}

struct Tile<'a, T> {
    current: &'a Current<'a, T>,
    first: usize,
    /// `[T, units]`.
    xs: &'a mut [T],
}

impl<T: Element> Kernel for Tile<'_, T> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let units = self.xs.len() / self.current.timesteps;
        for (t, xs) in self.xs.chunks_exact_mut(units).enumerate() {
            self.current.add_up::<FMA>(t, self.first, xs);
        }
    }
}

/// The spikes of a layer, packed into `bytes`, which are overwritten. Its counts must fit seven bits.
pub(super) fn fire<T: Element>(
    current: &Current<'_, T>,
    firing: &Firing<T>,
    (levels, amplitude): (u32, f64),
    mut bytes: Vec<u8>,
) -> Packed {
    let (timesteps, n) = (current.timesteps, current.n);
    let (units, tile) = (current.task_units(), current.tile_units());
    let parts = split(&mut bytes, n, units).into_par_iter().enumerate().with_min_len(current.tasks_at_once());
    let counts = parts.map(|(task, mut rows)| {
        let mut counts = Counts::default();
        let mut xs = vec![T::default(); timesteps * tile];
        let mut packed = vec![0; timesteps * tile];
        let len = rows[0].len();
        for first in (0..len).step_by(tile) {
            let tile = tile.min(len - first);
            let (xs, packed) = (&mut xs[..timesteps * tile], &mut packed[..timesteps * tile]);
            run_vectorized(Tile { current, first: task * units + first, xs });
            firing.dynamics.packed(xs, packed);
            for (row, packed) in rows.iter_mut().zip(packed.chunks_exact(tile)) {
                row[first..first + tile].copy_from_slice(packed);
            }
            let mut before = None;
            for packed in packed.chunks_exact(tile) {
                counts = counts + tally(packed, before);
                before = Some(packed);
            }
        }
        counts
    });
    let counts = counts.reduce(Counts::default, Add::add);
    Packed::counted(bytes, counts, amplitude, levels, firing.has_gate)
}

/// What a layer sends where that is no small count, as numbers; `out` is overwritten.
pub(super) fn send<T: Element>(current: &Current<'_, T>, firing: &Firing<T>, out: &mut [T]) {
    let (timesteps, n) = (current.timesteps, current.n);
    let (units, tile) = (current.task_units(), current.tile_units());
    let parts = split(out, n, units).into_par_iter().enumerate().with_min_len(current.tasks_at_once());
    parts.for_each(|(task, mut rows)| {
        let mut xs = vec![T::default(); timesteps * tile];
        let mut sent = vec![T::default(); timesteps * tile];
        let len = rows[0].len();
        for first in (0..len).step_by(tile) {
            let tile = tile.min(len - first);
            let (xs, sent) = (&mut xs[..timesteps * tile], &mut sent[..timesteps * tile]);
            run_vectorized(Tile { current, first: task * units + first, xs });
            firing.dynamics.forward(xs, sent);
            if let Some(theta) = firing.unit {
                // s from s·θ, which may miss the whole number by a rounding.
                sent.iter_mut().for_each(|x| *x = T::of((x.wide() / theta).round()));
            }
            for (row, sent) in rows.iter_mut().zip(sent.chunks_exact(tile)) {
                row[first..first + tile].copy_from_slice(sent);
            }
        }
    });
}

/// What a backward pass adds up over the units.
pub(super) struct Sums {
    /// Those of the numbers that the units share.
    pub(super) shared: Vec<f64>,
    /// For each term that is a batch norm on rows of its own: Σ g and Σ g (y − mean) of each channel, for the batch norm there,
    /// which would read both once more.
    pub(super) norms: Vec<Option<(Vec<f64>, Vec<f64>)>>,
}

/// The gradients of a layer: dLoss/dx in the place of dLoss/d(sθ), and the sums.
pub(super) fn backward<T: Element>(
    current: &Current<'_, T>,
    dynamics: &dyn Dynamics<T>,
    input_scale: f64,
    grads: &mut [T],
) -> Sums {
    let (timesteps, n, c) = (current.timesteps, current.n, current.c);
    let is_summed: Vec<bool> =
        current.terms.iter().map(|term| matches!(term.rows, Rows::Affine(..)) && term.broadcast.is_none()).collect();
    let n_norms = is_summed.iter().filter(|&&is_summed| is_summed).count();
    // The shared numbers, then two sums for each channel of each batch norm.
    let first_norm = dynamics.n_shared();
    let (units, tile) = (current.task_units(), current.tile_units());
    let partials: Vec<Vec<f64>> = split(grads, n, units)
        .into_par_iter()
        .enumerate()
        .map(|(task, mut rows)| {
            let [mut xs, mut grad_out, mut grad_xs] = [(); 3].map(|()| vec![T::default(); timesteps * tile]);
            let mut grad_shared = vec![T::default(); first_norm];
            let mut sums = vec![0.; first_norm + 2 * c * n_norms];
            let mut runs = vec![T::default(); 2 * c];
            let len = rows[0].len();
            for first in (0..len).step_by(tile) {
                let tile = tile.min(len - first);
                let values = timesteps * tile;
                let (xs, grad_out, grad_xs) = (&mut xs[..values], &mut grad_out[..values], &mut grad_xs[..values]);
                run_vectorized(Tile { current, first: task * units + first, xs });
                for (row, grad_out) in rows.iter().zip(grad_out.chunks_exact_mut(tile)) {
                    grad_out.copy_from_slice(&row[first..first + tile]);
                }
                dynamics.backward(xs, grad_out, grad_xs, &mut grad_shared);
                for (sum, &grad) in sums.iter_mut().zip(&grad_shared) {
                    *sum += grad.wide();
                }
                if input_scale != 1. {
                    grad_xs.iter_mut().for_each(|g| *g *= T::of(input_scale));
                }
                for (row, grad_xs) in rows.iter_mut().zip(grad_xs.chunks_exact(tile)) {
                    row[first..first + tile].copy_from_slice(grad_xs);
                }
                let norms = current.terms.iter().zip(&is_summed).filter(|(_, is_summed)| **is_summed);
                for ((term, _), totals) in norms.zip(sums[first_norm..].chunks_exact_mut(2 * c)) {
                    let Rows::Affine(ys, affine) = &term.rows else { continue };
                    for (t, grads) in grad_xs.chunks_exact(tile).enumerate() {
                        let ys = &ys[t * n + task * units + first..][..tile];
                        norm::add_gradient_sums(ys, grads, &affine.mean, &mut runs, totals);
                    }
                }
            }
            sums
        })
        .collect();
    let mut sums = vec![0.; first_norm + 2 * c * n_norms];
    for partial in &partials {
        for (sum, &partial) in sums.iter_mut().zip(partial) {
            *sum += partial;
        }
    }
    let mut norms = sums[first_norm..].chunks_exact(2 * c).map(|sums| (sums[..c].to_vec(), sums[c..].to_vec()));
    let norms = is_summed.iter().map(|&is_summed| if is_summed { norms.next() } else { None }).collect();
    Sums { shared: sums[..first_norm].to_vec(), norms }
}
