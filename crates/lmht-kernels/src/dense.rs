//! Dense convolution: forward, input gradient, weight gradient.
//!
//! Maps are NHWC, `[n, h, w, c]`, weights `[c_out, c_in, k, k]`.
//!
//! Nothing is unfolded into columns. The forward pass and the input gradient are correlations ([`correlate`]); the input
//! gradient of a convolution with stride s is s x s of them, one for every phase of the input grid, each with its share of
//! the (flipped) kernel. The weight gradient is a sum of outer products ([`outer`]).
//!
//! Work is cut into tasks by the shapes alone and partial sums are added in the order of the tasks, so results do not
//! depend on the number of threads.

mod correlate;
mod maps;
mod outer;
mod pack;
#[cfg(test)]
mod tests;

use super::number::Number;
use super::phase::Phase;
use super::{ConvShape, Source};
use crate::lines::Lines;
use correlate::{Correlation, Plan};
use maps::Maps;
pub(crate) use maps::turn;
pub(crate) use pack::Packing;

/// `ys[n, y, x, o] = Σ_{i, ky, kx} weight[o, i, ky, kx] xs[n, y s + ky - p, x s + kx - p, i]`.
///
/// `xs` is `[n, h, w, c_in]`, `weight` `[c_out, c_in, k, k]`, `ys` `[n, h_out, w_out, c_out]`; `ys` is overwritten.
pub(crate) fn forward<T: Number, X: Source<T>>(s: &ConvShape, xs: &[X], weight: &[T], ys: &mut [T]) {
    let s = &flat(s);
    forward_plan(s, xs, forward_weights(s, weight)).run(ys);
}

/// Weights in the order in which [`forward_packed`] reads them.
#[derive(Debug)]
pub(crate) struct PackedWeights<T> {
    /// For each block of output channels.
    blocks: Vec<Lines<T>>,
}

impl<T: Number> PackedWeights<T> {
    /// Packs `weight`, `[c_out, c_in, k, k]`, for convolutions of these channels and this kernel.
    pub(crate) fn new(s: &ConvShape, weight: &[T]) -> Self {
        Self { blocks: forward_weights(s, weight).into_blocks() }
    }
}

/// [`forward`] with weights that were packed before.
pub(crate) fn forward_packed<T: Number, X: Source<T>>(
    s: &ConvShape,
    xs: &[X],
    weights: &PackedWeights<T>,
    ys: &mut [T],
) {
    let s = &flat(s);
    let weights = forward_weights(s, &[]).packed_before(&weights.blocks);
    forward_plan(s, xs, weights).run(ys);
}

/// `dxs[n, y s + ky - p, x s + kx - p, i] = Σ_{o, y, x, ky, kx} weight[o, i, ky, kx] grads[n, y, x, o]`.
///
/// `grads` is `[n, h_out, w_out, c_out]`, `dxs` `[n, h, w, c_in]`; `dxs` is overwritten.
pub(crate) fn grad_input<T: Number>(s: &ConvShape, grads: &[T], weight: &[T], dxs: &mut [T]) {
    let s = &flat(s);
    input_plan(s, grads, weight).run(dxs);
}

/// `dweight[o, i, ky, kx] = Σ_{n, y, x} grads[n, y, x, o] xs[n, y s + ky - p, x s + kx - p, i]`.
///
/// `xs` is `[n, h, w, c_in]`, `grads` `[n, h_out, w_out, c_out]`, `dweight` `[c_out, c_in, k, k]`; `dweight` is overwritten.
pub(crate) fn grad_weight<T: Number, X: Source<T>>(s: &ConvShape, xs: &[X], grads: &[T], dweight: &mut [T]) {
    let s = &flat(s);
    let (sampled, sample) = sampling(s);
    let xs = Maps::new(xs, (s.h, s.w), s.c_in).sampled(sample);
    let grads = Maps::new(grads, (s.h_out, s.w_out), s.c_out);
    outer::grad_weight(&sampled, xs, grads, dweight);
}

/// Positions in a row of a map that may be cut anywhere.
const ROW: usize = 64;

/// To a convolution with 1x1 kernels the rows of NHWC maps are whatever is handy: not one vector each, for example.
fn flat(s: &ConvShape) -> ConvShape {
    if (s.k, s.stride, s.padding) != (1, 1, 0) {
        return *s;
    }
    let n = s.n * s.h * s.w;
    let w = (1..=ROW).rev().find(|&w| n.is_multiple_of(w)).unwrap_or(1);
    let h = n / w;
    ConvShape { n: 1, h, w, h_out: h, w_out: w, ..*s }
}

/// A convolution with 1x1 kernels and a stride reads some pixels only, and is one of stride 1 on those.
fn sampling(s: &ConvShape) -> (ConvShape, usize) {
    if s.k == 1 && s.padding == 0 && s.stride > 1 {
        (ConvShape { h: s.h_out, w: s.w_out, stride: 1, ..*s }, s.stride)
    } else {
        (*s, 1)
    }
}

fn forward_weights<'a, T: Number>(s: &ConvShape, weight: &'a [T]) -> Packing<'a, T> {
    let taps = s.k * s.k;
    Packing::new(weight, (s.c_out, s.c_in * taps), (s.c_in, taps), taps, (0..taps).collect())
}

fn forward_plan<'a, T: Number, X: Source<T>>(s: &ConvShape, xs: &'a [X], weights: Packing<'a, T>) -> Plan<'a, T, X> {
    let (sampled, sample) = sampling(s);
    let correlation = Correlation {
        kh: s.k,
        kw: s.k,
        row: -(s.padding as isize),
        col: -(s.padding as isize),
        stride: sampled.stride,
        n_rows: s.h_out,
        n_cols: s.w_out,
        y0: 0,
        x0: 0,
        step: 1,
        weights,
    };
    Plan {
        source: Maps::new(xs, (s.h, s.w), s.c_in).sampled(sample),
        correlations: vec![correlation],
        n: s.n,
        h: s.h_out,
        w: s.w_out,
        c_out: s.c_out,
    }
}

fn input_plan<'a, T: Number>(s: &ConvShape, grads: &'a [T], weight: &'a [T]) -> Plan<'a, T, T> {
    let rows = Phase::all(s.h, s.k, s.stride, s.padding);
    let cols = Phase::all(s.w, s.k, s.stride, s.padding);
    let correlations = rows
        .iter()
        .flat_map(|&row| cols.iter().map(move |&col| (row, col)))
        .map(|(row, col)| {
            // Flipped: the output row falls as the tap rises.
            let flipped = |phase: Phase| (0..phase.taps).rev().map(move |m| m * s.stride + phase.r);
            let taps: Vec<usize> = flipped(row).flat_map(|y| flipped(col).map(move |x| y * s.k + x)).collect();
            Correlation {
                kh: row.taps,
                kw: col.taps,
                row: row.q as isize + 1 - row.taps as isize,
                col: col.q as isize + 1 - col.taps as isize,
                stride: 1,
                n_rows: row.n,
                n_cols: col.n,
                y0: row.first,
                x0: col.first,
                step: s.stride,
                weights: Packing::new(weight, (s.c_in, s.k * s.k), (s.c_out, s.c_in * s.k * s.k), s.k * s.k, taps),
            }
        })
        .collect();
    let source = Maps::new(grads, (s.h_out, s.w_out), s.c_out);
    Plan { source, correlations, n: s.n, h: s.h, w: s.w, c_out: s.c_in }
}
