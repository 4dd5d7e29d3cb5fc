//! Pooling of maps `[rows, h, w, c]`, of numbers and of packed spikes, and the way back.
//!
//! The last argument takes the results, whatever is in it before. What lies in the padding is not there: it is no maximum,
//! and adds nothing to a mean, which is over `kernel²` pixels all the same.

use rayon::prelude::*;

pub use crate::comparable::Comparable;
use crate::{IN_GATE, Number};

/// Sizes of a pooling layer: `[rows, h, w, c]` to `[rows, h_out, w_out, c]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolShape {
    /// Height of the input.
    pub h: usize,
    /// Width of the input.
    pub w: usize,
    /// Channels.
    pub c: usize,
    /// Height of the output.
    pub h_out: usize,
    /// Width of the output.
    pub w_out: usize,
    /// Height and width of a window.
    pub kernel: usize,
    /// Step of the window.
    pub stride: usize,
    /// Pixels that a window may reach beyond each edge; fewer than `kernel`.
    pub padding: usize,
}

impl PoolShape {
    /// Units of an input map.
    fn x_map(&self) -> usize {
        self.h * self.w * self.c
    }

    /// Units of an output map.
    fn y_map(&self) -> usize {
        self.h_out * self.w_out * self.c
    }

    /// Panics unless `xs` and `ys` are the lengths of as many input and output maps.
    #[track_caller]
    fn check(&self, xs: usize, ys: usize) {
        let (x_map, y_map) = (self.x_map().max(1), self.y_map().max(1));
        assert!(
            xs.is_multiple_of(x_map) && ys.is_multiple_of(y_map) && xs / x_map == ys / y_map,
            "pool: {xs} inputs and {ys} outputs are not as many maps of {self:?}"
        );
    }

    /// Calls `f(output position, input position, whether the window begins)` for every pixel of every window, windows and
    /// their pixels in row-major order.
    #[inline(always)]
    fn for_each_pixel(&self, mut f: impl FnMut(usize, usize, bool)) {
        let clip = |i: usize, size: usize| {
            let first = i * self.stride;
            (first.saturating_sub(self.padding), (first + self.kernel).saturating_sub(self.padding).min(size))
        };
        for y in 0..self.h_out {
            let (top, bottom) = clip(y, self.h);
            for x in 0..self.w_out {
                let (left, right) = clip(x, self.w);
                let mut is_first = true;
                for row in top..bottom {
                    for col in left..right {
                        f(y * self.w_out + x, row * self.w + col, is_first);
                        is_first = false;
                    }
                }
            }
        }
    }
}

/// The maximum of each window; of packed spikes the whole byte of the first unit with the largest count, because the
/// gradient goes there.
///
/// ```
/// use lmht_kernels::pool::{self, PoolShape};
///
/// let shape = PoolShape { h: 2, w: 2, c: 1, h_out: 1, w_out: 1, kernel: 2, stride: 2, padding: 0 };
/// let mut pooled = [0.];
/// pool::max(&shape, &[1., 4., 3., 2.], &mut pooled);
/// assert_eq!(pooled, [4.]);
/// let mut gradient = [0.; 4];
/// pool::max_backward(&shape, &[1., 4., 3., 2.], &[0.5], &mut gradient);
/// assert_eq!(gradient, [0., 0.5, 0., 0.]);
/// ```
pub fn max<V: Comparable>(shape: &PoolShape, values: &[V], pooled: &mut [V]) {
    shape.check(values.len(), pooled.len());
    let c = shape.c;
    pooled.par_chunks_mut(shape.y_map()).zip(values.par_chunks(shape.x_map())).for_each(|(pooled, values)| {
        shape.for_each_pixel(|to, from, is_first| {
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

/// Hands the gradient of each window to its first maximum; see [`max`].
pub fn max_backward<V: Comparable, T: Number>(shape: &PoolShape, values: &[V], grads: &[T], result: &mut [T]) {
    shape.check(values.len(), grads.len());
    shape.check(result.len(), grads.len());
    let c = shape.c;
    let images = result.par_chunks_mut(shape.x_map()).zip(values.par_chunks(shape.x_map()));
    images.zip(grads.par_chunks(shape.y_map())).for_each(|((result, values), grads)| {
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
        shape.for_each_pixel(|to, from, is_first| {
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
///
/// ```
/// use lmht_kernels::pool::{self, PoolShape};
///
/// let shape = PoolShape { h: 1, w: 2, c: 1, h_out: 1, w_out: 1, kernel: 2, stride: 2, padding: 0 };
/// let mut pooled = [0.];
/// pool::average(&shape, &[1., 4.], &mut pooled);
/// assert_eq!(pooled, [1.25]);
/// ```
pub fn average<T: Number>(shape: &PoolShape, values: &[T], pooled: &mut [T]) {
    shape.check(values.len(), pooled.len());
    let c = shape.c;
    let area = T::from_f64((shape.kernel * shape.kernel) as f64);
    pooled.par_chunks_mut(shape.y_map()).zip(values.par_chunks(shape.x_map())).for_each(|(pooled, values)| {
        pooled.fill(T::default());
        shape.for_each_pixel(|to, from, _| {
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
///
/// ```
/// use lmht_kernels::pool::{self, PoolShape};
///
/// let shape = PoolShape { h: 1, w: 2, c: 1, h_out: 1, w_out: 1, kernel: 2, stride: 2, padding: 0 };
/// let mut pooled = [0];
/// pool::sum_packed(&shape, &[0x81, 2], &mut pooled);
/// assert_eq!(pooled, [0x83]);
/// ```
pub fn sum_packed(shape: &PoolShape, bytes: &[u8], pooled: &mut [u8]) {
    shape.check(bytes.len(), pooled.len());
    let c = shape.c;
    pooled.par_chunks_mut(shape.y_map()).zip(bytes.par_chunks(shape.x_map())).for_each(|(pooled, bytes)| {
        pooled.fill(0);
        shape.for_each_pixel(|to, from, _| {
            for (sum, &byte) in pooled[to * c..][..c].iter_mut().zip(&bytes[from * c..][..c]) {
                *sum = ((*sum & !IN_GATE) + (byte & !IN_GATE)) | ((*sum | byte) & IN_GATE);
            }
        });
    });
}

/// Hands each pixel of a window its share of the gradient: the way back of [`average`] and of [`sum_packed`], whose counts
/// stand for parts of a spike.
///
/// ```
/// use lmht_kernels::pool::{self, PoolShape};
///
/// let shape = PoolShape { h: 1, w: 2, c: 1, h_out: 1, w_out: 1, kernel: 2, stride: 2, padding: 0 };
/// let mut gradient = [0.; 2];
/// pool::average_backward(&shape, &[1.], &mut gradient);
/// assert_eq!(gradient, [0.25, 0.25]);
/// ```
pub fn average_backward<T: Number>(shape: &PoolShape, grads: &[T], result: &mut [T]) {
    shape.check(result.len(), grads.len());
    let c = shape.c;
    let area = T::from_f64((shape.kernel * shape.kernel) as f64);
    result.par_chunks_mut(shape.x_map()).zip(grads.par_chunks(shape.y_map())).for_each(|(result, grads)| {
        result.fill(T::default());
        shape.for_each_pixel(|to, from, _| {
            for (result, &grad) in result[from * c..][..c].iter_mut().zip(&grads[to * c..][..c]) {
                *result += grad / area;
            }
        });
    });
}

/// The mean over the positions of each row: `[rows, positions, c]` to `[rows, c]`.
///
/// ```
/// // Two positions of two channels.
/// assert_eq!(lmht_kernels::pool::mean(&[1., 10., 3., 20.], (2, 2)), [2., 15.]);
/// ```
pub fn mean<T: Number>(values: &[T], (positions, c): (usize, usize)) -> Vec<T> {
    mean_of(values, (positions, c), 1., T::to_f64)
}

/// As [`mean`], of packed spikes that count for `amplitude` each.
///
/// ```
/// assert_eq!(lmht_kernels::pool::mean_packed::<f32>(&[0x81, 3], (2, 1), 0.5), [1.]);
/// ```
pub fn mean_packed<T: Number>(bytes: &[u8], (positions, c): (usize, usize), amplitude: f64) -> Vec<T> {
    mean_of(bytes, (positions, c), amplitude, |byte| f64::from(byte & !IN_GATE))
}

fn mean_of<T: Number, V: Copy + Send + Sync>(
    values: &[V],
    (positions, c): (usize, usize),
    amplitude: f64,
    number: impl Fn(V) -> f64 + Sync,
) -> Vec<T> {
    let rows = values.par_chunks(positions * c).map(|values| {
        let mut sums = vec![0.; c];
        for values in values.chunks_exact(c) {
            for (sum, &value) in sums.iter_mut().zip(values) {
                *sum += number(value);
            }
        }
        sums
    });
    let sums: Vec<Vec<f64>> = rows.collect();
    sums.concat().into_iter().map(|sum| T::from_f64(sum * amplitude / positions as f64)).collect()
}

/// Hands each position its share of the gradient of [`mean`].
///
/// ```
/// let mut gradient = [0.; 2];
/// lmht_kernels::pool::mean_backward(&[1.], (2, 1), &mut gradient);
/// assert_eq!(gradient, [0.5, 0.5]);
/// ```
pub fn mean_backward<T: Number>(grads: &[T], (positions, c): (usize, usize), result: &mut [T]) {
    assert_eq!(result.len(), grads.len() * positions, "mean_backward: a gradient for every position");
    result.par_chunks_mut(positions * c).zip(grads.par_chunks(c)).for_each(|(result, grads)| {
        for result in result.chunks_exact_mut(c) {
            for (result, &grad) in result.iter_mut().zip(grads) {
                *result = grad / T::from_f64(positions as f64);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows that overlap, that leave pixels out, and that reach into the padding.
    fn shapes() -> Vec<PoolShape> {
        let mut shapes = Vec::new();
        for (kernel, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 1), (1, 2, 0)] {
            for (h, w) in [(4, 7), (5, 3)] {
                let out = |size: usize| (size + 2 * padding - kernel) / stride + 1;
                shapes.push(PoolShape { h, w, c: 3, h_out: out(h), w_out: out(w), kernel, stride, padding });
            }
        }
        shapes
    }

    /// The units of each window of the output, as far as they exist.
    fn windows(s: &PoolShape, rows: usize) -> Vec<Vec<usize>> {
        let unit = |at: usize| {
            let (c, pixel) = (at % s.c, at / s.c);
            let (x, y, row) = (pixel % s.w_out, pixel / s.w_out % s.h_out, pixel / s.w_out / s.h_out);
            let pixels = (0..s.kernel * s.kernel).filter_map(move |i| {
                let y = (y * s.stride + i / s.kernel).checked_sub(s.padding).filter(|&y| y < s.h)?;
                let x = (x * s.stride + i % s.kernel).checked_sub(s.padding).filter(|&x| x < s.w)?;
                Some(((row * s.h + y) * s.w + x) * s.c + c)
            });
            pixels.collect()
        };
        (0..rows * s.y_map()).map(unit).collect()
    }

    /// All numbers are small and dyadic where sums are compared: nothing is rounded.
    #[test]
    fn results_are_those_of_a_loop() {
        for s in &shapes() {
            let rows = 2;
            let windows = windows(s, rows);
            let bytes: Vec<u8> = (0..rows * s.x_map()).map(|i| (i * i % 11 % 4) as u8 | (i as u8 % 3) << 7).collect();
            let xs: Vec<f64> = bytes.iter().map(|&byte| f64::from(byte & 0x7f)).collect();
            let grads: Vec<f64> = (0..windows.len()).map(|i| (i % 7) as f64 - 3.).collect();
            // The first of the largest.
            let largest = |window: &[usize]| window.iter().copied().reduce(|a, b| if xs[b] > xs[a] { b } else { a });
            let area = (s.kernel * s.kernel) as f64;
            let (mut expected_max, mut expected_average) = (vec![0.; xs.len()], vec![0.; xs.len()]);
            for (window, grad) in windows.iter().zip(&grads) {
                expected_max[largest(window).expect("a pixel")] += grad;
                window.iter().for_each(|&i| expected_average[i] += grad / area);
            }

            let (mut pooled, mut packed) = (vec![f64::NAN; windows.len()], vec![1; windows.len()]);
            max(s, &xs, &mut pooled);
            max(s, &bytes, &mut packed);
            for ((window, pooled), &packed) in windows.iter().zip(&pooled).zip(&packed) {
                let first = largest(window).expect("a pixel");
                assert_eq!((xs[first], bytes[first]), (*pooled, packed), "{s:?}");
            }
            average(s, &xs, &mut pooled);
            sum_packed(s, &bytes, &mut packed);
            for ((window, pooled), packed) in windows.iter().zip(&pooled).zip(&packed) {
                let sum: f64 = window.iter().map(|&i| xs[i]).sum();
                let is_wanted = window.iter().any(|&i| bytes[i] & 0x80 != 0);
                assert_eq!(
                    (sum / area, sum, is_wanted),
                    (*pooled, f64::from(packed & 0x7f), packed & 0x80 != 0),
                    "{s:?}"
                );
            }
            let mut result = vec![f64::NAN; xs.len()];
            max_backward(s, &xs, &grads, &mut result);
            assert_eq!(result, expected_max, "{s:?}");
            result.fill(f64::NAN);
            max_backward(s, &bytes, &grads, &mut result);
            assert_eq!(result, expected_max, "{s:?}");
            average_backward(s, &grads, &mut result);
            assert!(result.iter().zip(&expected_average).all(|(a, b)| (a - b).abs() < 1e-12), "{s:?}");
        }
    }
}
