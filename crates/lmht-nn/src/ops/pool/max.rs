//! Max-pooling of maps `[h, w]` and its gradient, row by row in vectors.
//!
//! Windows that lie side by side read pixels that lie `stride` apart. So a row is first split into its phases, the pixels
//! 0, s, 2s, ..., then 1, s + 1, ...; then what all windows of a row have at one place lies side by side.

use super::{Pool2dParams, clip};
use crate::kernels::real::{Kernel, Real};
use std::ops::Range;

/// One column of the windows: which of them have it inside of the map, and where the first of those has it in a row that
/// is split into phases.
#[derive(Debug, PartialEq, Eq)]
struct Tap {
    windows: Range<usize>,
    start: usize,
}

/// Rows of `w` pixels, split into phases.
#[derive(Debug)]
struct Phases {
    stride: usize,
    /// Pixels of a phase, rounded up.
    len: usize,
    /// The columns of the windows from left to right.
    taps: Vec<Tap>,
}

impl Phases {
    fn new(p: Pool2dParams, w: usize, w_out: usize) -> Self {
        let (stride, len) = (p.stride, w.div_ceil(p.stride));
        let taps = (0..p.kernel).filter_map(|kx| {
            // Window x has pixel x s + kx - p in this column: those before 0 and from w on do not exist.
            let first = p.padding.saturating_sub(kx).div_ceil(stride);
            let end = (w + p.padding).saturating_sub(kx).div_ceil(stride).min(w_out);
            let pixel = first * stride + kx - p.padding;
            (first < end).then(|| Tap { windows: first..end, start: pixel % stride * len + pixel / stride })
        });
        Self { stride, len, taps: taps.collect() }
    }

    /// Numbers of a split row.
    fn row(&self) -> usize {
        self.stride * self.len
    }

    #[inline(always)]
    fn split<T: Real>(&self, row: &[T], phases: &mut [T]) {
        match self.stride {
            1 => phases.copy_from_slice(row),
            2 => {
                let (even, odd) = phases.split_at_mut(self.len);
                let (pairs, rest) = row.as_chunks::<2>();
                for ((even, odd), &[a, b]) in even.iter_mut().zip(odd).zip(pairs) {
                    (*even, *odd) = (a, b);
                }
                even[pairs.len()..].copy_from_slice(rest);
            }
            stride => {
                for (first, phase) in phases.chunks_exact_mut(self.len).enumerate() {
                    for (to, &x) in phase.iter_mut().zip(row.iter().skip(first).step_by(stride)) {
                        *to = x;
                    }
                }
            }
        }
    }

    /// The other way round.
    #[inline(always)]
    fn join<T: Real>(&self, phases: &[T], row: &mut [T]) {
        match self.stride {
            1 => row.copy_from_slice(phases),
            2 => {
                let (even, odd) = phases.split_at(self.len);
                let (pairs, rest) = row.as_chunks_mut::<2>();
                let n = pairs.len();
                for (pair, (&a, &b)) in pairs.iter_mut().zip(even.iter().zip(odd)) {
                    *pair = [a, b];
                }
                rest.copy_from_slice(&even[n..]);
            }
            stride => {
                for (first, phase) in phases.chunks_exact(self.len).enumerate() {
                    for (to, &x) in row.iter_mut().skip(first).step_by(stride).zip(phase) {
                        *to = x;
                    }
                }
            }
        }
    }
}

/// The greater one; NaN is greater than all numbers.
#[inline(always)]
#[allow(clippy::eq_op)]
fn max<T: Real>(best: T, x: T) -> T {
    if (x > best) | (x != x) { x } else { best }
}

/// Whether `x` is the maximum `max` of a window that it is in.
#[inline(always)]
#[allow(clippy::eq_op)]
fn is_max<T: Real>(x: T, max: T) -> bool {
    (x == max) | ((x != x) & (max != max))
}

/// The maxima of the windows of some maps.
pub(super) struct MaxMaps<'a, T> {
    pub(super) p: Pool2dParams,
    /// Height and width of a map, before and after.
    pub(super) size: (usize, usize),
    pub(super) size_out: (usize, usize),
    pub(super) xs: &'a [T],
    pub(super) ys: &'a mut [T],
}

impl<T: Real> Kernel for MaxMaps<'_, T> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { p, size: (h, w), size_out: (h_out, w_out), xs, ys } = self;
        let phases = Phases::new(p, w, w_out);
        let lowest = <T as candle_core::WithDType>::from_f64(f64::NEG_INFINITY);
        let (mut column, mut split) = (vec![lowest; w], vec![lowest; phases.row()]);
        for (map, ys) in xs.chunks_exact(h * w).zip(ys.chunks_exact_mut(h_out * w_out)) {
            for (y, ys) in ys.chunks_exact_mut(w_out).enumerate() {
                // Down the columns first, which neighbours share.
                let (first, n) = clip(p, y, h);
                let mut rows = map[first * w..][..n * w].chunks_exact(w);
                column.copy_from_slice(rows.next().expect("a window has a row inside of the map"));
                for row in rows {
                    for (best, &x) in column.iter_mut().zip(row) {
                        *best = max(*best, x);
                    }
                }
                phases.split(&column, &mut split);
                ys.fill(lowest);
                for Tap { windows, start } in &phases.taps {
                    for (best, &x) in ys[windows.clone()].iter_mut().zip(&split[*start..]) {
                        *best = max(*best, x);
                    }
                }
            }
        }
    }
}

/// The gradient of [`MaxMaps`]: each window hands its own to its first maximum.
pub(super) struct MaxGradients<'a, T> {
    pub(super) p: Pool2dParams,
    pub(super) size: (usize, usize),
    pub(super) size_out: (usize, usize),
    pub(super) xs: &'a [T],
    pub(super) ys: &'a [T],
    pub(super) grads: &'a [T],
    pub(super) dxs: &'a mut [T],
}

impl<T: Real> Kernel for MaxGradients<'_, T>
where
    T: std::ops::AddAssign,
{
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { p, size: (h, w), size_out: (h_out, w_out), xs, ys, grads, dxs } = self;
        let phases = Phases::new(p, w, w_out);
        let row = phases.row();
        let (mut split, mut dsplit) = (vec![T::default(); h * row], vec![T::default(); h * row]);
        // What the windows of a row have not handed over yet.
        let mut left = vec![T::default(); w_out];
        let outputs = ys.chunks_exact(h_out * w_out).zip(grads.chunks_exact(h_out * w_out));
        for ((map, dmap), (ys, grads)) in xs.chunks_exact(h * w).zip(dxs.chunks_exact_mut(h * w)).zip(outputs) {
            for (pixels, split) in map.chunks_exact(w).zip(split.chunks_exact_mut(row)) {
                phases.split(pixels, split);
            }
            dsplit.fill(T::default());
            for (y, (ys, grads)) in ys.chunks_exact(w_out).zip(grads.chunks_exact(w_out)).enumerate() {
                left.copy_from_slice(grads);
                let (first, n) = clip(p, y, h);
                let rows = split[first * row..].chunks_exact(row).zip(dsplit[first * row..].chunks_exact_mut(row));
                for (split, dsplit) in rows.take(n) {
                    for Tap { windows, start } in &phases.taps {
                        let n = windows.len();
                        let (split, dsplit) = (&split[*start..][..n], &mut dsplit[*start..][..n]);
                        let (ys, left) = (&ys[windows.clone()], &mut left[windows.clone()]);
                        for (((left, dx), &x), &y) in left.iter_mut().zip(dsplit).zip(split).zip(ys) {
                            let (hit, zero) = (is_max(x, y), T::default());
                            *dx += if hit { *left } else { zero };
                            *left = if hit { zero } else { *left };
                        }
                    }
                }
            }
            for (dpixels, dsplit) in dmap.chunks_exact_mut(w).zip(dsplit.chunks_exact(row)) {
                phases.join(dsplit, dpixels);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_are_the_pixels_of_the_windows() {
        for (kernel, stride, padding, w) in [(3, 2, 1, 7), (2, 2, 0, 5), (3, 3, 1, 8), (7, 2, 3, 4), (1, 3, 0, 5)] {
            let p = Pool2dParams { kernel, stride, padding };
            let w_out = (w + 2 * padding - kernel) / stride + 1;
            let phases = Phases::new(p, w, w_out);
            let row: Vec<f64> = (0..w).map(|x| x as f64).collect();
            let mut split = vec![-1.; phases.row()];
            phases.split(&row, &mut split);
            let mut windows = vec![vec![]; w_out];
            for tap in &phases.taps {
                for (i, x) in tap.windows.clone().enumerate() {
                    windows[x].push(split[tap.start + i]);
                }
            }
            let expected = (0..w_out).map(|x| {
                let pixels = (x * stride..x * stride + kernel).filter(|pixel| (padding..padding + w).contains(pixel));
                pixels.map(|pixel| (pixel - padding) as f64).collect()
            });
            assert_eq!(windows, expected.collect::<Vec<Vec<f64>>>(), "{p:?} {w}");
            let mut joined = vec![-1.; w];
            phases.join(&split, &mut joined);
            assert_eq!(joined, row);
        }
    }
}
