//! Batch norm: its numbers, and sums over the rows of `[rows, c]`.
//!
//! Rows go to tasks of a fixed number, a few of them add in the type of the values and the rest in `f64`, in order: the
//! result is exact enough for a variance and does not depend on the number of threads.

use candle_core::Tensor;
use lmht_kernels::{Kernel, run_vectorized};
use rayon::prelude::*;

use super::value::{ChannelAffine, Norm};
use crate::Result;
use crate::ops::storage::Element;
use crate::ops::{BATCH_NORM_EPS, BatchStats, update_running_stats};
use crate::trace::NormTensors;

/// Tasks for the rows.
const TASKS: usize = 32;
/// Rows added in the type of the values before they join the `f64` sums.
const RUN: usize = 16;

/// With the running statistics. `bias` is that of the synapse before, which is not in what the synapse gives.
pub(super) fn running<T: Element>(layer: &NormTensors, bias: Option<&Tensor>) -> Result<Norm<T>> {
    let (mean, var) = (layer.running_mean.as_detached_tensor(), layer.running_var.as_detached_tensor());
    let mean = wide(&mean)?.iter().zip(bias_of(layer, bias)?).map(|(mean, bias)| mean - bias).collect();
    finish(layer, mean, wide(&var)?, Vec::new(), false)
}

/// With the statistics of `ys`, towards which the running ones move. `bias` as in [`running`].
pub(super) fn of_batch<T: Element>(
    (layer, name): (&NormTensors, &str),
    ys: Vec<T>,
    bias: Option<&Tensor>,
) -> Result<Norm<T>> {
    let bias = bias_of(layer, bias)?;
    let c = bias.len();
    let count = ys.len() / c;
    if count < 2 {
        return Err(candle_core::Error::Msg(format!(
            "{name}: a variance needs at least two values per channel, got {count}; use a larger batch, or an evaluation pass"
        ))
        .into());
    }
    let shift = &ys[..c];
    let (sums, squares) = moments(&ys, shift);
    let n = count as f64;
    let moments = sums.iter().zip(&squares).zip(shift).map(|((sum, square), shift)| {
        let mean = sum / n;
        // Rounding may leave a constant channel a hair below zero.
        (shift.wide() + mean, (square / n - mean * mean).max(0.))
    });
    let (mean, var): (Vec<f64>, Vec<f64>) = moments.unzip();
    let weight = &layer.weight;
    let tensor = |values: Vec<f64>| Tensor::new(values, weight.device())?.to_dtype(weight.dtype());
    let stats = BatchStats {
        mean: tensor(mean.iter().zip(&bias).map(|(mean, bias)| mean + bias).collect())?,
        var_unbiased: tensor(var.iter().map(|var| var * (n / (n - 1.))).collect())?,
    };
    update_running_stats((&layer.running_mean, &layer.running_var), &stats, count, layer.repeats)?;
    finish(layer, mean, var, ys, true)
}

fn finish<T: Element>(
    layer: &NormTensors,
    mean: Vec<f64>,
    var: Vec<f64>,
    ys: Vec<T>,
    is_of_batch: bool,
) -> Result<Norm<T>> {
    let (weight, offset) = (wide(&layer.weight)?, wide(&layer.bias)?);
    let rstd: Vec<f64> = var.iter().map(|var| (var + BATCH_NORM_EPS).sqrt().recip()).collect();
    let affine = ChannelAffine::new(&mean, |c| (rstd[c] * weight[c], offset[c]));
    Ok(Norm { ys, mean, rstd, affine, is_of_batch, sums: None })
}

fn wide(tensor: &Tensor) -> candle_core::Result<Vec<f64>> {
    tensor.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()
}

fn bias_of(layer: &NormTensors, bias: Option<&Tensor>) -> candle_core::Result<Vec<f64>> {
    bias.map_or_else(|| Ok(vec![0.; layer.weight.elem_count()]), wide)
}

/// Σ (y − shift) and Σ (y − shift)² of each channel.
pub(super) fn moments<T: Element>(ys: &[T], shift: &[T]) -> (Vec<f64>, Vec<f64>) {
    sums(ys, ys, shift, true)
}

/// Σ g and Σ g (y − mean) of each channel.
pub(super) fn gradient_sums<T: Element>(ys: &[T], grads: &[T], mean: &[T]) -> (Vec<f64>, Vec<f64>) {
    sums(ys, grads, mean, false)
}

fn sums<T: Element>(ys: &[T], other: &[T], shift: &[T], is_square: bool) -> (Vec<f64>, Vec<f64>) {
    let c = shift.len();
    let per_task = (ys.len() / c).div_ceil(TASKS).max(1) * c;
    let partials: Vec<Vec<f64>> = ys
        .par_chunks(per_task)
        .zip(other.par_chunks(per_task))
        .map(|(ys, other)| {
            let mut totals = vec![0.; 2 * c];
            let mut runs = vec![T::default(); 2 * c];
            run_vectorized(Sums { ys, other, shift, is_square, runs: &mut runs, totals: &mut totals });
            totals
        })
        .collect();
    let mut first = vec![0.; 2 * c];
    for partial in &partials {
        for (total, &partial) in first.iter_mut().zip(partial) {
            *total += partial;
        }
    }
    let second = first.split_off(c);
    (first, second)
}

/// Adds what [`gradient_sums`] sums of some rows to `totals`; `runs` is scratch of the same length.
#[inline]
pub(super) fn add_gradient_sums<T: Element>(ys: &[T], grads: &[T], mean: &[T], runs: &mut [T], totals: &mut [f64]) {
    run_vectorized(Sums { ys, other: grads, shift: mean, is_square: false, runs, totals });
}

struct Sums<'a, T> {
    ys: &'a [T],
    other: &'a [T],
    shift: &'a [T],
    is_square: bool,
    /// Sums of a few rows.
    runs: &'a mut [T],
    /// First sums of all channels, then second ones.
    totals: &'a mut [f64],
}

impl<T: Element> Kernel for Sums<'_, T> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let c = self.shift.len();
        let (first, second) = self.runs.split_at_mut(c);
        for (ys, other) in self.ys.chunks(RUN * c).zip(self.other.chunks(RUN * c)) {
            first.fill(T::default());
            second.fill(T::default());
            for (ys, other) in ys.chunks_exact(c).zip(other.chunks_exact(c)) {
                if self.is_square {
                    add_row::<T, FMA, true>(ys, other, self.shift, first, second);
                } else {
                    add_row::<T, FMA, false>(ys, other, self.shift, first, second);
                }
            }
            for (total, &run) in self.totals.iter_mut().zip(first.iter().chain(second.iter())) {
                *total += run.wide();
            }
        }
    }
}

#[inline(always)]
fn add_row<T: Element, const FMA: bool, const SQUARE: bool>(
    ys: &[T],
    other: &[T],
    shift: &[T],
    first: &mut [T],
    second: &mut [T],
) {
    let c = ys.len();
    let (other, shift, first, second) = (&other[..c], &shift[..c], &mut first[..c], &mut second[..c]);
    for i in 0..c {
        let y = ys[i] - shift[i];
        let factor = if SQUARE { y } else { other[i] };
        first[i] += factor;
        second[i] = y.mul_add::<FMA>(factor, second[i]);
    }
}

/// Per channel g · scale + (y − mean) · slope + offset, in the place of g.
pub(super) fn combine<T: Element>(ys: &[T], grads: &mut [T], scale: &[T], affine: &ChannelAffine<T>) {
    let c = scale.len();
    let per_task = (ys.len() / c).div_ceil(TASKS).max(1) * c;
    grads.par_chunks_mut(per_task).zip(ys.par_chunks(per_task)).for_each(|(grads, ys)| {
        run_vectorized(Combine { ys, grads, scale, affine });
    });
}

struct Combine<'a, T> {
    ys: &'a [T],
    grads: &'a mut [T],
    scale: &'a [T],
    affine: &'a ChannelAffine<T>,
}

impl<T: Element> Kernel for Combine<'_, T> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let c = self.scale.len();
        let (scale, affine) = (self.scale, self.affine);
        let (mean, slope, offset) = (&affine.mean[..c], &affine.slope[..c], &affine.offset[..c]);
        for (grads, ys) in self.grads.chunks_exact_mut(c).zip(self.ys.chunks_exact(c)) {
            for i in 0..c {
                grads[i] = grads[i].mul_add::<FMA>(scale[i], (ys[i] - mean[i]).mul_add::<FMA>(slope[i], offset[i]));
            }
        }
    }
}

/// Σ of each channel.
pub(super) fn channel_sums<T: Element>(values: &[T], c: usize) -> Vec<f64> {
    sums(values, values, &vec![T::default(); c], true).0
}

/// Values that a task copies or adds.
const CHUNK: usize = 1 << 14;

/// Copies `from`.
pub(super) fn copy<T: Element>(to: &mut [T], from: &[T]) {
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| to.copy_from_slice(from));
}

/// Adds `other` to `sum`.
pub(super) fn add<T: Element>(sum: &mut [T], other: &[T]) {
    sum.par_chunks_mut(CHUNK).zip(other.par_chunks(CHUNK)).for_each(|(sum, other)| {
        for (sum, &other) in sum.iter_mut().zip(other) {
            *sum += other;
        }
    });
}
