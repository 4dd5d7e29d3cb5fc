//! Pooling in `[rows, h, w, c]`, of numbers and of packed spikes, and the way back. The last argument takes the results,
//! whatever is in it before.

use lmht_core::IN_WINDOW;
use rayon::prelude::*;

use super::Number;
use super::program::MapShape;
use crate::ops::Pool2dParams;

/// A value that max-pooling compares.
pub(crate) trait Comparable: Copy + Default + Send + Sync {
    /// Whether it takes the place of `best`, which came before it.
    fn beats(self, best: Self) -> bool;
}

impl Comparable for u8 {
    #[inline(always)]
    fn beats(self, best: Self) -> bool {
        self & !IN_WINDOW > best & !IN_WINDOW
    }
}

macro_rules! comparable {
    ($t:ty) => {
        impl Comparable for $t {
            #[inline(always)]
            fn beats(self, best: Self) -> bool {
                // NaN is the maximum of its window, the first of several.
                self > best || (self.is_nan() && !best.is_nan())
            }
        }
    };
}
comparable!(f32);
comparable!(f64);

/// Calls `f(output position, input position)` for every pixel of every window, windows and their pixels in row-major order.
#[inline(always)]
fn for_each_pixel(p: Pool2dParams, input: MapShape, output: MapShape, mut f: impl FnMut(usize, usize, bool)) {
    let clip = |i: usize, size: usize| {
        let first = i * p.stride;
        (first.saturating_sub(p.padding), (first + p.kernel).saturating_sub(p.padding).min(size))
    };
    for y in 0..output.h {
        let (top, bottom) = clip(y, input.h);
        for x in 0..output.w {
            let (left, right) = clip(x, input.w);
            let mut is_first = true;
            for row in top..bottom {
                for col in left..right {
                    f(y * output.w + x, row * input.w + col, is_first);
                    is_first = false;
                }
            }
        }
    }
}

/// The maximum of each window; of packed spikes the whole byte of the first unit with the largest count, because the
/// gradient goes there.
pub(super) fn max<V: Comparable>(values: &[V], p: Pool2dParams, input: MapShape, output: MapShape, pooled: &mut [V]) {
    let c = input.c;
    pooled.par_chunks_mut(output.len()).zip(values.par_chunks(input.len())).for_each(|(pooled, values)| {
        for_each_pixel(p, input, output, |to, from, is_first| {
            let (best, values) = (&mut pooled[to * c..][..c], &values[from * c..][..c]);
            if is_first {
                best.copy_from_slice(values);
            } else {
                for (best, &value) in best.iter_mut().zip(values) {
                    *best = if value.beats(*best) { value } else { *best };
                }
            }
        });
    });
}

/// Hands the gradient of each window to its first maximum.
pub(super) fn max_backward<V: Comparable, T: Number>(
    values: &[V],
    grads: &[T],
    p: Pool2dParams,
    input: MapShape,
    output: MapShape,
    result: &mut [T],
) {
    let c = input.c;
    let images = result.par_chunks_mut(input.len()).zip(values.par_chunks(input.len()));
    images.zip(grads.par_chunks(output.len())).for_each(|((result, values), grads)| {
        result.fill(T::default());
        // Of the window at hand: its position, and for each channel the best value and where it is.
        let mut window = usize::MAX;
        let mut best = vec![(V::default(), 0); c];
        let hand_over = |window: usize, best: &[(V, usize)], result: &mut [T]| {
            if window != usize::MAX {
                for (channel, (&(_, from), &grad)) in best.iter().zip(&grads[window * c..][..c]).enumerate() {
                    result[from * c + channel] += grad;
                }
            }
        };
        for_each_pixel(p, input, output, |to, from, is_first| {
            if is_first {
                hand_over(window, &best, result);
                window = to;
            }
            for (best, &value) in best.iter_mut().zip(&values[from * c..][..c]) {
                if is_first || value.beats(best.0) {
                    *best = (value, from);
                }
            }
        });
        hand_over(window, &best, result);
    });
}

/// The mean of each window.
pub(super) fn average<T: Number>(values: &[T], p: Pool2dParams, input: MapShape, output: MapShape, pooled: &mut [T]) {
    let c = input.c;
    let area = T::of((p.kernel * p.kernel) as f64);
    pooled.par_chunks_mut(output.len()).zip(values.par_chunks(input.len())).for_each(|(pooled, values)| {
        pooled.fill(T::default());
        for_each_pixel(p, input, output, |to, from, _| {
            for (sum, &value) in pooled[to * c..][..c].iter_mut().zip(&values[from * c..][..c]) {
                *sum += value;
            }
        });
        for value in pooled {
            *value /= area;
        }
    });
}

/// The sum of the counts in each window; a gradient is wanted where it is wanted of any of them. The sums must fit seven
/// bits.
pub(super) fn sum_packed(bytes: &[u8], p: Pool2dParams, input: MapShape, output: MapShape, pooled: &mut [u8]) {
    let c = input.c;
    pooled.par_chunks_mut(output.len()).zip(bytes.par_chunks(input.len())).for_each(|(pooled, bytes)| {
        pooled.fill(0);
        for_each_pixel(p, input, output, |to, from, _| {
            for (sum, &byte) in pooled[to * c..][..c].iter_mut().zip(&bytes[from * c..][..c]) {
                *sum = ((*sum & !IN_WINDOW) + (byte & !IN_WINDOW)) | ((*sum | byte) & IN_WINDOW);
            }
        });
    });
}

/// Hands each pixel of a window its share of the gradient.
pub(super) fn average_backward<T: Number>(
    grads: &[T],
    p: Pool2dParams,
    input: MapShape,
    output: MapShape,
    result: &mut [T],
) {
    let c = input.c;
    let area = T::of((p.kernel * p.kernel) as f64);
    result.par_chunks_mut(input.len()).zip(grads.par_chunks(output.len())).for_each(|(result, grads)| {
        result.fill(T::default());
        for_each_pixel(p, input, output, |to, from, _| {
            for (result, &grad) in result[from * c..][..c].iter_mut().zip(&grads[to * c..][..c]) {
                *result += grad / area;
            }
        });
    });
}

/// The mean over the positions of each row, of numbers or of counts times `amplitude`.
pub(super) fn mean<T: Number, V: Copy + Send + Sync>(
    values: &[V],
    shape: MapShape,
    amplitude: f64,
    number: impl Fn(V) -> f64 + Sync,
) -> Vec<T> {
    let (c, positions) = (shape.c, shape.h * shape.w);
    let rows = values.par_chunks(shape.len()).map(|values| {
        let mut sums = vec![0.; c];
        for values in values.chunks_exact(c) {
            for (sum, &value) in sums.iter_mut().zip(values) {
                *sum += number(value);
            }
        }
        sums
    });
    let sums: Vec<Vec<f64>> = rows.collect();
    sums.concat().into_iter().map(|sum| T::of(sum * amplitude / positions as f64)).collect()
}

/// Hands each position its share of the gradient.
pub(super) fn mean_backward<T: Number>(grads: &[T], shape: MapShape, result: &mut [T]) {
    let (c, positions) = (shape.c, shape.h * shape.w);
    result.par_chunks_mut(shape.len()).zip(grads.par_chunks(c)).for_each(|(result, grads)| {
        for result in result.chunks_exact_mut(c) {
            for (result, &grad) in result.iter_mut().zip(grads) {
                *result = grad / T::of(positions as f64);
            }
        }
    });
}
