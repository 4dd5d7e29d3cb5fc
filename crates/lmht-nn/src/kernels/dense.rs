//! Dense convolution: forward, input gradient, weight gradient.
//!
//! Maps are NHWC, `[n, h, w, c]`; the functions of [`nchw`] do the same for `[n, c, h, w]`. Weights are
//! `[c_out, c_in, k, k]` in both.
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
#[cfg(test)]
mod tests;

use super::lines::Lines;
use super::real::Real;
use super::{ConvShape, Source};
use correlate::{Correlation, Plan};
use maps::{Maps, Order, transpose};
use rayon::prelude::*;

/// `ys[n, y, x, o] = bias[o] + Σ_{i, ky, kx} weight[o, i, ky, kx] xs[n, y s + ky - p, x s + kx - p, i]`.
///
/// `xs` is `[n, h, w, c_in]`, `weight` `[c_out, c_in, k, k]`, `bias` `[c_out]`, `ys` `[n, h_out, w_out, c_out]`; `ys` is
/// overwritten.
pub(crate) fn forward<T: Real, X: Source<T>>(s: &ConvShape, xs: &[X], weight: &[T], bias: Option<&[T]>, ys: &mut [T]) {
    forward_plan(s, xs, Order::Nhwc, weight, bias).run_nhwc(ys);
}

/// `dxs[n, y s + ky - p, x s + kx - p, i] = Σ_{o, y, x, ky, kx} weight[o, i, ky, kx] grads[n, y, x, o]`.
///
/// `grads` is `[n, h_out, w_out, c_out]`, `dxs` `[n, h, w, c_in]`; `dxs` is overwritten.
pub(crate) fn grad_input<T: Real>(s: &ConvShape, grads: &[T], weight: &[T], dxs: &mut [T]) {
    input_plan(s, grads, Order::Nhwc, weight).run_nhwc(dxs);
}

/// `dweight[o, i, ky, kx] = Σ_{n, y, x} grads[n, y, x, o] xs[n, y s + ky - p, x s + kx - p, i]`.
///
/// `xs` is `[n, h, w, c_in]`, `grads` `[n, h_out, w_out, c_out]`, `dweight` `[c_out, c_in, k, k]`; `dweight` is overwritten.
pub(crate) fn grad_weight<T: Real, X: Source<T>>(s: &ConvShape, xs: &[X], grads: &[T], dweight: &mut [T]) {
    weight_of_order(s, xs, grads, Order::Nhwc, dweight);
}

/// The same for maps `[n, c, h, w]`, which are turned a band at a time inside the tasks.
pub(crate) mod nchw {
    use super::*;

    /// [`super::forward`] with `xs` `[n, c_in, h, w]` and `ys` `[n, c_out, h_out, w_out]`.
    pub(crate) fn forward<T: Real>(s: &ConvShape, xs: &[T], weight: &[T], bias: Option<&[T]>, ys: &mut [T]) {
        forward_plan(s, xs, Order::Nchw, weight, bias).run_nchw(ys);
    }

    /// [`super::grad_input`] with `grads` `[n, c_out, h_out, w_out]` and `dxs` `[n, c_in, h, w]`.
    pub(crate) fn grad_input<T: Real>(s: &ConvShape, grads: &[T], weight: &[T], dxs: &mut [T]) {
        input_plan(s, grads, Order::Nchw, weight).run_nchw(dxs);
    }

    /// [`super::grad_weight`] with `xs` `[n, c_in, h, w]` and `grads` `[n, c_out, h_out, w_out]`.
    pub(crate) fn grad_weight<T: Real>(s: &ConvShape, xs: &[T], grads: &[T], dweight: &mut [T]) {
        weight_of_order(s, xs, grads, Order::Nchw, dweight);
    }
}

/// A convolution with 1x1 kernels and a stride reads some pixels only, and is one of stride 1 on those.
fn sampling(s: &ConvShape) -> (ConvShape, usize) {
    if s.k == 1 && s.padding == 0 && s.stride > 1 {
        (ConvShape { h: s.h_out, w: s.w_out, stride: 1, ..*s }, s.stride)
    } else {
        (*s, 1)
    }
}

fn forward_plan<'a, T: Real, X: Source<T>>(
    s: &ConvShape,
    xs: &'a [X],
    order: Order,
    weight: &[T],
    bias: Option<&'a [T]>,
) -> Plan<'a, T, X> {
    let (sampled, sample) = sampling(s);
    let taps: Vec<usize> = (0..s.k * s.k).collect();
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
        weights: pack(weight, (s.c_out, s.c_in * s.k * s.k), (s.c_in, s.k * s.k), s.k * s.k, &taps),
    };
    Plan {
        source: Maps::new(xs, order, (s.h, s.w), s.c_in).sampled(sample),
        correlations: vec![correlation],
        n: s.n,
        h: s.h_out,
        w: s.w_out,
        c_out: s.c_out,
        bias,
    }
}

/// One phase of the input gradient along one axis: the inputs `first, first + s, ...` and the taps `r, r + s, ...`.
#[derive(Debug, Clone, Copy)]
struct Phase {
    /// The first tap; tap `s m + r` leads from output row `q - m` to the input row `s q + r - p`.
    r: usize,
    taps: usize,
    first: usize,
    n: usize,
    /// `q` of the first input.
    q: usize,
}

impl Phase {
    fn all(size: usize, k: usize, stride: usize, padding: usize) -> Vec<Self> {
        let phase = |r: usize| {
            // The smallest input y with (y + p) mod s = r.
            let first = (r + stride - padding % stride) % stride;
            let n = size.saturating_sub(first).div_ceil(stride);
            let taps = k.saturating_sub(r).div_ceil(stride);
            Self { r, taps, first, n, q: (first + padding) / stride }
        };
        (0..stride).map(phase).filter(|phase| phase.n > 0 && phase.taps > 0).collect()
    }
}

fn input_plan<'a, T: Real>(s: &ConvShape, grads: &'a [T], order: Order, weight: &[T]) -> Plan<'a, T, T> {
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
                weights: pack(weight, (s.c_in, s.k * s.k), (s.c_out, s.c_in * s.k * s.k), s.k * s.k, &taps),
            }
        })
        .collect();
    let source = Maps::new(grads, order, (s.h_out, s.w_out), s.c_out);
    Plan { source, correlations, n: s.n, h: s.h, w: s.w, c_out: s.c_in, bias: None }
}

/// Packs weights as a correlation wants them: for every block of `L` outputs `[taps, channels, L]`.
///
/// `outputs` and `channels` are (number, step between them in `weight`); the smaller step is `kernel`, the taps of one pair.
fn pack<T: Real>(
    weight: &[T],
    outputs: (usize, usize),
    channels: (usize, usize),
    kernel: usize,
    taps: &[usize],
) -> Vec<Lines<T>> {
    let ((n_outputs, output_step), (n_channels, channel_step)) = (outputs, channels);
    let pack_block = |block: usize| {
        let mut packed = Lines::zeros(taps.len() * n_channels * T::LANES);
        let n_lanes = T::LANES.min(n_outputs - block * T::LANES);
        // A tile of outputs and channels is copied first: rows of the weight are often a power of two apart, which the
        // first-level cache cannot hold. A few numbers between the copied rows for the same reason.
        let step = T::LANES * kernel + 4;
        let mut tile = Lines::zeros(T::LANES * step);
        for first in (0..n_channels).step_by(T::LANES) {
            let len = T::LANES.min(n_channels - first);
            let (rows, row_step, row) = if output_step >= channel_step {
                (n_lanes, output_step, len * kernel)
            } else {
                (len, channel_step, n_lanes * kernel)
            };
            let from = &weight[block * T::LANES * output_step + first * channel_step..];
            for (i, to) in tile.chunks_mut(step).enumerate().take(rows) {
                to[..row].copy_from_slice(&from[i * row_step..][..row]);
            }
            let (lane_step, step) = if output_step >= channel_step { (step, kernel) } else { (kernel, step) };
            for (t, &tap) in taps.iter().enumerate() {
                let to = &mut packed[(t * n_channels + first) * T::LANES..];
                transpose((&tile[tap..], lane_step, step), n_lanes, (to, T::LANES), len, |x| x);
            }
        }
        packed
    };
    (0..n_outputs.div_ceil(T::LANES)).into_par_iter().map(pack_block).collect()
}

fn weight_of_order<T: Real, X: Source<T>>(s: &ConvShape, xs: &[X], grads: &[T], order: Order, dweight: &mut [T]) {
    let (sampled, sample) = sampling(s);
    let xs = Maps::new(xs, order, (s.h, s.w), s.c_in).sampled(sample);
    let grads = Maps::new(grads, order, (s.h_out, s.w_out), s.c_out);
    outer::grad_weight(&sampled, xs, grads, dweight);
}
