//! Convolutions whose channels are in groups that do not see each other.
//!
//! With one input channel a group (depthwise) there is nothing to multiply as a matrix: each output adds up the taps of its
//! channel. The kernels here run along the channels, which lie side by side, and keep a run of sums in registers while the
//! taps, or the positions of a row, pass by. Output channel `i m + j` reads input channel i; where m > 1 the outputs are
//! taken apart into `[m, c_in]`, so that these runs are whole, too.
//!
//! Other groups are copied together one after the other, and are a dense convolution each.
//!
//! Work is cut by the shapes alone and partial sums are added in order, so results do not depend on the number of threads.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use crate::number::{Kernel, Number, run_vectorized};
use crate::{ConvShape, Source, dense};

/// Number of tasks that sum up weight gradients. A constant and not the number of threads, so that sums keep their order.
const TASKS: usize = 8;
/// Pixels that one task copies.
const PIXELS: usize = 1024;

/// Runs the body for runs of channels that cover `$channels`: with the first channel in `$c` and how many there are, a
/// constant, in `$n`.
macro_rules! for_runs {
    ($c:ident, $n:ident in $channels:expr => $body:block) => {{
        let channels: usize = $channels;
        let mut $c = 0;
        while channels - $c >= 16 {
            const $n: usize = 16;
            $body
            $c += $n;
        }
        while channels - $c >= 4 {
            const $n: usize = 4;
            $body
            $c += $n;
        }
        while channels > $c {
            const $n: usize = 1;
            $body
            $c += $n;
        }
    }};
}

/// Weights in the order in which [`forward`] reads them.
#[derive(Debug)]
pub(crate) enum Weights<T> {
    /// `[k, k, m, c_in]`.
    Depthwise(Vec<T>),
    /// Those of each group.
    Groups(Vec<dense::PackedWeights<T>>),
}

impl<T: Number> Weights<T> {
    /// Packs `weight`, `[c_out, c_in / groups, k, k]`, for convolutions of these channels and this kernel.
    pub(crate) fn new(s: &ConvShape, weight: &[T]) -> Self {
        if is_depthwise(s) {
            return Self::Depthwise(taps_first(s, weight));
        }
        let group = group(s);
        let weights = weight.chunks_exact(group.weight_len());
        Self::Groups(weights.map(|weight| dense::PackedWeights::new(&group, weight)).collect())
    }
}

fn is_depthwise(s: &ConvShape) -> bool {
    s.groups == s.c_in
}

/// Output channels of an input channel.
fn multiplier(s: &ConvShape) -> usize {
    s.c_out / s.groups
}

/// One group.
fn group(s: &ConvShape) -> ConvShape {
    ConvShape { c_in: s.c_in / s.groups, c_out: s.c_out / s.groups, groups: 1, ..*s }
}

/// Depthwise weights `[c_in, m, k, k]` as `[k, k, m, c_in]`.
fn taps_first<T: Number>(s: &ConvShape, weight: &[T]) -> Vec<T> {
    let (taps, m) = (s.k * s.k, multiplier(s));
    let at = |i: usize| ((i % s.c_in) * m + i / s.c_in % m) * taps + i / s.c_out;
    (0..weight.len()).map(|i| weight[at(i)]).collect()
}

/// As [`dense::forward`], `weight` having been packed.
pub(crate) fn forward<T: Number, X: Source<T>>(s: &ConvShape, xs: &[X], weights: &Weights<T>, ys: &mut [T]) {
    match weights {
        Weights::Depthwise(weights) => {
            ys.par_chunks_mut(s.w_out * s.c_out).enumerate().for_each(|(row, ys)| {
                run_vectorized(Forward { shape: s, xs, weights, row, ys });
            });
        }
        Weights::Groups(weights) => {
            let group = group(s);
            let mut part = vec![T::default(); group.y_len()];
            for (i, weights) in weights.iter().enumerate() {
                let xs = gather(xs, s.c_in, i * group.c_in..(i + 1) * group.c_in);
                dense::forward_packed(&group, &xs, weights, &mut part);
                scatter(&part, group.c_out, ys, s.c_out, i * group.c_out);
            }
        }
    }
}

/// As [`dense::grad_input`].
pub(crate) fn grad_input<T: Number>(s: &ConvShape, grads: &[T], weight: &[T], dxs: &mut [T]) {
    if is_depthwise(s) {
        let (grads, weights) = (&*multiples_first(s, grads), &*taps_first(s, weight));
        dxs.par_chunks_mut(s.w * s.c_in).enumerate().for_each(|(row, dxs)| {
            run_vectorized(GradInput { shape: s, grads, weights, row, dxs });
        });
        return;
    }
    let group = group(s);
    let mut part = vec![T::default(); group.x_len()];
    for (i, weight) in weight.chunks_exact(group.weight_len()).enumerate() {
        let grads = gather(grads, s.c_out, i * group.c_out..(i + 1) * group.c_out);
        dense::grad_input(&group, &grads, weight, &mut part);
        scatter(&part, group.c_in, dxs, s.c_in, i * group.c_in);
    }
}

/// As [`dense::grad_weight`].
pub(crate) fn grad_weight<T: Number, X: Source<T>>(s: &ConvShape, xs: &[X], grads: &[T], dweight: &mut [T]) {
    if is_depthwise(s) {
        let grads = &*multiples_first(s, grads);
        let n_rows = s.n * s.h_out;
        let per_task = n_rows.div_ceil(TASKS).max(1);
        let parts = (0..n_rows.div_ceil(per_task)).into_par_iter().map(|task| {
            let mut sums = vec![0.; s.weight_len()];
            let rows = task * per_task..n_rows.min((task + 1) * per_task);
            run_vectorized(GradWeight { shape: s, xs, grads, rows, sums: &mut sums });
            sums
        });
        let parts: Vec<Vec<f64>> = parts.collect();
        let (taps, m) = (s.k * s.k, multiplier(s));
        for (i, dweight) in dweight.iter_mut().enumerate() {
            let (o, tap) = (i / taps, i % taps);
            let at = (tap * m + o % m) * s.c_in + o / m;
            *dweight = T::from_f64(parts.iter().map(|sums| sums[at]).sum());
        }
        return;
    }
    let group = group(s);
    for (i, dweight) in dweight.chunks_exact_mut(group.weight_len()).enumerate() {
        let xs = gather(xs, s.c_in, i * group.c_in..(i + 1) * group.c_in);
        let grads = gather(grads, s.c_out, i * group.c_out..(i + 1) * group.c_out);
        dense::grad_weight(&group, &xs, &grads, dweight);
    }
}

/// Some channels of all pixels.
fn gather<X: Copy + Default + Send + Sync>(maps: &[X], channels: usize, some: Range<usize>) -> Vec<X> {
    let n = some.len();
    let mut part = vec![X::default(); maps.len() / channels * n];
    part.par_chunks_mut(PIXELS * n).zip(maps.par_chunks(PIXELS * channels)).for_each(|(part, maps)| {
        for (to, pixel) in part.chunks_exact_mut(n).zip(maps.chunks_exact(channels)) {
            to.copy_from_slice(&pixel[some.clone()]);
        }
    });
    part
}

/// Writes what [`gather`] reads, `n` channels.
fn scatter<T: Number>(part: &[T], n: usize, maps: &mut [T], channels: usize, first: usize) {
    maps.par_chunks_mut(PIXELS * channels).zip(part.par_chunks(PIXELS * n)).for_each(|(maps, part)| {
        for (pixel, from) in maps.chunks_exact_mut(channels).zip(part.chunks_exact(n)) {
            pixel[first..first + n].copy_from_slice(from);
        }
    });
}

/// Pixels `[c_in, m]` of the output as `[m, c_in]`.
fn multiples_first<'a, T: Number>(s: &ConvShape, grads: &'a [T]) -> Cow<'a, [T]> {
    let m = multiplier(s);
    if m == 1 {
        return Cow::Borrowed(grads);
    }
    let mut turned = vec![T::default(); grads.len()];
    turned.par_chunks_mut(PIXELS * s.c_out).zip(grads.par_chunks(PIXELS * s.c_out)).for_each(|(turned, grads)| {
        for (to, pixel) in turned.chunks_exact_mut(s.c_out).zip(grads.chunks_exact(s.c_out)) {
            for (j, to) in to.chunks_exact_mut(s.c_in).enumerate() {
                to.iter_mut().zip(pixel[j..].iter().step_by(m)).for_each(|(to, &grad)| *to = grad);
            }
        }
    });
    Cow::Owned(turned)
}

/// Taps of a window along one axis that lie inside of a map of `size`.
#[inline(always)]
fn taps_inside(s: &ConvShape, out: usize, size: usize) -> Range<usize> {
    let first = out * s.stride;
    let start = s.padding.saturating_sub(first).min(s.k);
    start..(size + s.padding).saturating_sub(first).min(s.k).max(start)
}

/// `sums[l] + xs[l] weights[l]`, with a run of either at the beginning.
#[inline(always)]
fn add_products<T: Number, X: Source<T>, const N: usize, const FMA: bool>(sums: &mut [T; N], xs: &[X], weights: &[T]) {
    let xs: &[X; N] = xs.first_chunk().expect("a run of channels");
    let weights: &[T; N] = weights.first_chunk().expect("a run of weights");
    for ((sum, x), &weight) in sums.iter_mut().zip(xs).zip(weights) {
        *sum = x.value().mul_add::<FMA>(weight, *sum);
    }
}

/// A row of the output, counted over all images.
struct Forward<'a, T, X> {
    shape: &'a ConvShape,
    xs: &'a [X],
    weights: &'a [T],
    row: usize,
    ys: &'a mut [T],
}

impl<T: Number, X: Source<T>> Kernel for Forward<'_, T, X> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { shape: s, xs, weights, row, ys } = self;
        let (image, y, m) = (row / s.h_out, row % s.h_out, multiplier(s));
        let rows = taps_inside(s, y, s.h);
        for (x, ys) in ys.chunks_exact_mut(s.c_out).enumerate() {
            let cols = taps_inside(s, x, s.w);
            for j in 0..m {
                for_runs!(c, N in s.c_in => {
                    let mut sums = [T::default(); N];
                    for ky in rows.clone() {
                        for kx in cols.clone() {
                            let (iy, ix) = (y * s.stride + ky - s.padding, x * s.stride + kx - s.padding);
                            let pixel = ((image * s.h + iy) * s.w + ix) * s.c_in + c;
                            let weight = ((ky * s.k + kx) * m + j) * s.c_in + c;
                            add_products::<T, X, N, FMA>(&mut sums, &xs[pixel..], &weights[weight..]);
                        }
                    }
                    if m == 1 {
                        *ys[c..].first_chunk_mut().expect("a run of channels") = sums;
                    } else {
                        ys[c * m + j..].iter_mut().step_by(m).zip(sums).for_each(|(y, sum)| *y = sum);
                    }
                });
            }
        }
    }
}

/// A row of the input, counted over all images.
struct GradInput<'a, T> {
    shape: &'a ConvShape,
    /// `[n, h_out, w_out, m, c_in]`.
    grads: &'a [T],
    weights: &'a [T],
    row: usize,
    dxs: &'a mut [T],
}

impl<T: Number> Kernel for GradInput<'_, T> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { shape: s, grads, weights, row, dxs } = self;
        let (image, y, m) = (row / s.h, row % s.h, multiplier(s));
        // (tap, output) along an axis that an input meets.
        let meets = |at: usize, tap: usize, n_out: usize| {
            let out = (at + s.padding).checked_sub(tap).filter(|out| out.is_multiple_of(s.stride))? / s.stride;
            (out < n_out).then_some((tap, out))
        };
        for (x, dxs) in dxs.chunks_exact_mut(s.c_in).enumerate() {
            for_runs!(c, N in s.c_in => {
                let mut sums = [T::default(); N];
                for (ky, oy) in (0..s.k).filter_map(|ky| meets(y, ky, s.h_out)) {
                    for (kx, ox) in (0..s.k).filter_map(|kx| meets(x, kx, s.w_out)) {
                        for j in 0..m {
                            let pixel = ((image * s.h_out + oy) * s.w_out + ox) * s.c_out + j * s.c_in + c;
                            let weight = ((ky * s.k + kx) * m + j) * s.c_in + c;
                            add_products::<T, T, N, FMA>(&mut sums, &grads[pixel..], &weights[weight..]);
                        }
                    }
                }
                *dxs[c..].first_chunk_mut().expect("a run of channels") = sums;
            });
        }
    }
}

/// Some rows of the output, counted over all images.
struct GradWeight<'a, T, X> {
    shape: &'a ConvShape,
    xs: &'a [X],
    /// `[n, h_out, w_out, m, c_in]`.
    grads: &'a [T],
    rows: Range<usize>,
    /// `[k, k, m, c_in]`.
    sums: &'a mut [f64],
}

impl<T: Number, X: Source<T>> Kernel for GradWeight<'_, T, X> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { shape: s, xs, grads, rows, sums } = self;
        let m = multiplier(s);
        for row in rows {
            let (image, y) = (row / s.h_out, row % s.h_out);
            for ky in taps_inside(s, y, s.h) {
                let line = (image * s.h + y * s.stride + ky - s.padding) * s.w;
                for kx in 0..s.k {
                    // Outputs whose tap lies inside of the map.
                    let first = s.padding.saturating_sub(kx).div_ceil(s.stride);
                    let end = (s.w + s.padding).saturating_sub(kx).div_ceil(s.stride).min(s.w_out);
                    for j in 0..m {
                        for_runs!(c, N in s.c_in => {
                            // A row in `T`, the rows in f64.
                            let mut part = [T::default(); N];
                            for x in first..end {
                                let pixel = (line + x * s.stride + kx - s.padding) * s.c_in + c;
                                let grad = (row * s.w_out + x) * s.c_out + j * s.c_in + c;
                                add_products::<T, X, N, FMA>(&mut part, &xs[pixel..], &grads[grad..]);
                            }
                            let at = ((ky * s.k + kx) * m + j) * s.c_in + c;
                            for (sum, part) in sums[at..].iter_mut().zip(part) {
                                *sum += part.to_f64();
                            }
                        });
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Depthwise with one output a channel and with more, and groups; every remainder of a run.
    fn shapes() -> Vec<ConvShape> {
        let mut shapes = Vec::new();
        let mut i = 0;
        for (c_in, c_out, groups) in
            [(5, 5, 5), (23, 23, 23), (20, 40, 20), (7, 21, 7), (4, 6, 2), (12, 36, 3), (64, 64, 4)]
        {
            for k in [1, 2, 3, 5] {
                for stride in 1..=3 {
                    for padding in 0..=2 {
                        i += 1;
                        let (n, h, w) = [(1, 7, 9), (3, 8, 7), (2, 5, 6)][i % 3];
                        let out = |size: usize| (size + 2 * padding - k) / stride + 1;
                        let (h_out, w_out) = (out(h), out(w));
                        shapes.push(ConvShape { n, c_in, h, w, c_out, k, stride, padding, groups, h_out, w_out });
                    }
                }
            }
        }
        shapes
    }

    /// Numbers between -1 and 1 that any number type holds.
    fn numbers<T: Number>(seed: u64, len: usize) -> Vec<T> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            T::from_f64((state >> 48) as f64 / (1 << 15) as f64 - 1.)
        };
        (0..len).map(|_| next()).collect()
    }

    struct Case<T> {
        spikes: Vec<u8>,
        weight: Vec<T>,
        grads: Vec<T>,
    }

    impl<T: Number> Case<T> {
        fn new(s: &ConvShape) -> Self {
            let spikes =
                numbers::<T>(1, s.x_len()).into_iter().map(|x| (x.to_f64() * 128.) as i8 as u8 & 0x83).collect();
            Self { spikes, weight: numbers(2, s.weight_len()), grads: numbers(3, s.y_len()) }
        }

        fn counts(&self) -> Vec<T> {
            self.spikes.iter().map(|&byte| T::from_count(u32::from(byte & 0x7f))).collect()
        }

        /// Output, input gradient, weight gradient; what is not written is NaN.
        fn run<X: Source<T>>(&self, s: &ConvShape, xs: &[X]) -> [Vec<T>; 3] {
            let nan = |len: usize| vec![T::from_f64(f64::NAN); len];
            let (mut ys, mut dxs, mut dweight) = (nan(s.y_len()), nan(s.x_len()), nan(s.weight_len()));
            forward(s, xs, &Weights::new(s, &self.weight), &mut ys);
            grad_input(s, &self.grads, &self.weight, &mut dxs);
            grad_weight(s, xs, &self.grads, &mut dweight);
            [ys, dxs, dweight]
        }

        /// The same by the definition.
        fn naive(&self, s: &ConvShape) -> [Vec<f64>; 3] {
            let (mut ys, mut dxs, mut dweight) = (vec![0.; s.y_len()], vec![0.; s.x_len()], vec![0.; s.weight_len()]);
            let (per_in, per_out) = (s.c_in / s.groups, s.c_out / s.groups);
            for (at, sum) in ys.iter_mut().enumerate() {
                let (o, pixel) = (at % s.c_out, at / s.c_out);
                let (x, y, image) = (pixel % s.w_out, pixel / s.w_out % s.h_out, pixel / s.w_out / s.h_out);
                for tap in 0..s.k * s.k {
                    let row = (y * s.stride + tap / s.k).checked_sub(s.padding).filter(|&row| row < s.h);
                    let col = (x * s.stride + tap % s.k).checked_sub(s.padding).filter(|&col| col < s.w);
                    let (Some(row), Some(col)) = (row, col) else { continue };
                    for i in 0..per_in {
                        let from = ((image * s.h + row) * s.w + col) * s.c_in + o / per_out * per_in + i;
                        let by = (o * per_in + i) * s.k * s.k + tap;
                        let (spikes, grad) = (f64::from(self.spikes[from] & 0x7f), self.grads[at].to_f64());
                        *sum += spikes * self.weight[by].to_f64();
                        dxs[from] += grad * self.weight[by].to_f64();
                        dweight[by] += grad * spikes;
                    }
                }
            }
            [ys, dxs, dweight]
        }
    }

    fn check<T: Number>(tolerance: f64) {
        for s in shapes() {
            let case = Case::<T>::new(&s);
            let results = case.run(&s, &case.counts());
            assert!(case.run(&s, &case.spikes) == results, "packed spikes are their counts: {s:?}");
            for ((what, got), expected) in
                ["forward", "grad_input", "grad_weight"].iter().zip(&results).zip(case.naive(&s))
            {
                for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
                    let got = got.to_f64();
                    let is_near = (got - expected).abs() <= tolerance * expected.abs().max(16.);
                    assert!(is_near, "{what} of {s:?} at {i}: {got}, expected {expected}");
                }
            }
        }
    }

    #[test]
    fn results_are_those_of_a_loop() {
        check::<f64>(1e-14);
        check::<f32>(1e-5);
    }

    #[test]
    fn threads_do_not_change_bits() {
        for s in shapes().into_iter().step_by(5) {
            let case = Case::<f32>::new(&s);
            let run = |n| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("a few threads");
                pool.install(|| case.run(&s, &case.spikes))
            };
            assert!(run(1) == run(3), "{s:?}");
        }
    }
}
