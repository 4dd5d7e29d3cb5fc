//! Convolutions of maps `[n, c, h, w]`, by the faster of the dense kernels.
//!
//! Winograd's variant wants channels innermost. Maps are turned for it and back, some images at a time, so that what is
//! turned stays in a cache.

use super::dense::{self, transpose};
use super::real::{Real, VectorKernel, Vectors};
use super::{ConvShape, winograd};
use rayon::prelude::*;
use std::ops::AddAssign;

/// Bytes of the maps that are turned in one go: some cores' share of the last cache, and work enough for them.
const GROUP: usize = 2 << 20;

/// As [`dense::nchw::forward`].
pub(crate) fn forward<T: Real + AddAssign>(s: &ConvShape, xs: &[T], weight: &[T], bias: Option<&[T]>, ys: &mut [T]) {
    if !winograd::pays(s) {
        return dense::nchw::forward(s, xs, weight, bias, ys);
    }
    let groups = Groups::of::<T>(s);
    let weights = winograd::Weights::new(s, weight);
    let (mut turned, mut rows) = (Vec::new(), Vec::new());
    for (xs, ys) in xs.chunks(groups.x_len).zip(ys.chunks_mut(groups.y_len)) {
        let s = groups.shape(ys.len());
        turn(xs, (s.c_in, s.h * s.w), &mut turned);
        rows.resize(ys.len(), T::default());
        winograd::forward(&s, &turned, &weights, &mut rows);
        turn_to(&rows, (s.h_out * s.w_out, s.c_out), ys);
    }
    if let Some(bias) = bias {
        let map = s.h_out * s.w_out;
        ys.par_chunks_mut(s.c_out * map).for_each(|ys| {
            for (ys, &bias) in ys.chunks_exact_mut(map).zip(bias) {
                ys.iter_mut().for_each(|y| *y += bias);
            }
        });
    }
}

/// As [`dense::nchw::grad_input`].
pub(crate) fn grad_input<T: Real>(s: &ConvShape, grads: &[T], weight: &[T], dxs: &mut [T]) {
    if !winograd::pays(s) {
        return dense::nchw::grad_input(s, grads, weight, dxs);
    }
    let groups = Groups::of::<T>(s);
    let weights = winograd::Weights::flipped(s, weight);
    let (mut turned, mut rows) = (Vec::new(), Vec::new());
    for (grads, dxs) in grads.chunks(groups.y_len).zip(dxs.chunks_mut(groups.x_len)) {
        let s = groups.shape(grads.len());
        turn(grads, (s.c_out, s.h_out * s.w_out), &mut turned);
        rows.resize(dxs.len(), T::default());
        winograd::grad_input(&s, &turned, &weights, &mut rows);
        turn_to(&rows, (s.h * s.w, s.c_in), dxs);
    }
}

/// As [`dense::nchw::grad_weight`].
pub(crate) fn grad_weight<T: Real + AddAssign>(s: &ConvShape, xs: &[T], grads: &[T], dweight: &mut [T]) {
    if !winograd::pays(s) {
        return dense::nchw::grad_weight(s, xs, grads, dweight);
    }
    let groups = Groups::of::<T>(s);
    let (mut turned, mut turned_grads) = (Vec::new(), Vec::new());
    let mut part = vec![T::default(); dweight.len()];
    dweight.fill(T::default());
    for (xs, grads) in xs.chunks(groups.x_len).zip(grads.chunks(groups.y_len)) {
        let s = groups.shape(grads.len());
        turn(xs, (s.c_in, s.h * s.w), &mut turned);
        turn(grads, (s.c_out, s.h_out * s.w_out), &mut turned_grads);
        winograd::grad_weight(&s, &turned, &turned_grads, &mut part);
        for (sum, &part) in dweight.iter_mut().zip(&part) {
            *sum += part;
        }
    }
}

/// Images that are turned in one go; the last group may have fewer.
struct Groups {
    of_all: ConvShape,
    x_len: usize,
    y_len: usize,
}

impl Groups {
    fn of<T>(s: &ConvShape) -> Self {
        let one = ConvShape { n: 1, ..*s };
        let n = GROUP / (one.x_len().max(one.y_len()) * size_of::<T>());
        let n = s.n.div_ceil(s.n.div_ceil(n.max(1)));
        Self { of_all: *s, x_len: n * one.x_len(), y_len: n * one.y_len() }
    }

    /// The convolution of a group with so many outputs.
    fn shape(&self, y_len: usize) -> ConvShape {
        let s = self.of_all;
        ConvShape { n: y_len / (s.h_out * s.w_out * s.c_out), ..s }
    }
}

/// [`turn_to`] a buffer that gets the right length.
fn turn<T: Real>(from: &[T], size: (usize, usize), to: &mut Vec<T>) {
    to.resize(from.len(), T::default());
    turn_to(from, size, to);
}

/// Exchanges rows and columns of each matrix `[n_rows, n_cols]`.
fn turn_to<T: Real>(from: &[T], (n_rows, n_cols): (usize, usize), to: &mut [T]) {
    let len = n_rows * n_cols;
    to.par_chunks_mut(len).zip(from.par_chunks(len)).for_each(|(to, from)| {
        T::run_with_vectors(Turn { from, n_rows, n_cols, to });
    });
}

struct Turn<'a, T> {
    from: &'a [T],
    n_rows: usize,
    n_cols: usize,
    to: &'a mut [T],
}

impl<T: Real> VectorKernel<T> for Turn<'_, T> {
    #[inline(always)]
    fn run<V: Vectors<T>>(self, vectors: V) {
        let Self { from, n_rows, n_cols, to } = self;
        transpose(vectors, (n_rows, n_cols), from, |row| row * n_cols, to, |col| col * n_rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the direct kernels, on shapes that pay.
    #[test]
    fn turning_changes_nothing() {
        for (n, c_in, c_out, h, w) in [(3, 64, 70, 16, 18), (37, 67, 64, 13, 15)] {
            let s = ConvShape { n, c_in, h, w, c_out, k: 3, stride: 1, padding: 1, h_out: h, w_out: w };
            assert!(winograd::pays(&s), "{s:?}");
            let numbers = |len: usize, step: usize| -> Vec<f64> {
                (0..len).map(|i| (i * step % 101) as f64 / 101. - 0.5).collect()
            };
            let (xs, weight, bias) = (numbers(s.x_len(), 7), numbers(s.weight_len(), 11), numbers(c_out, 13));
            let grads = numbers(s.y_len(), 17);
            type Pass<'a> = &'a dyn Fn(&mut [f64]);
            let check = |what: &str, len: usize, ours: Pass<'_>, direct: Pass<'_>| {
                let (mut a, mut b) = (vec![f64::NAN; len], vec![f64::NAN; len]);
                ours(&mut a);
                direct(&mut b);
                let largest = b.iter().fold(0_f64, |largest, b| largest.max(b.abs()));
                for (i, (a, b)) in a.iter().zip(&b).enumerate() {
                    assert!((a - b).abs() <= 1e-12 * largest, "{what} {s:?} at {i}: {a}, expected {b}");
                }
            };
            check("forward", s.y_len(), &|ys| forward(&s, &xs, &weight, Some(&bias), ys), &|ys| {
                dense::nchw::forward(&s, &xs, &weight, Some(&bias), ys);
            });
            check("input gradient", s.x_len(), &|dxs| grad_input(&s, &grads, &weight, dxs), &|dxs| {
                dense::nchw::grad_input(&s, &grads, &weight, dxs);
            });
            check("weight gradient", s.weight_len(), &|dw| grad_weight(&s, &xs, &grads, dw), &|dw| {
                dense::nchw::grad_weight(&s, &xs, &grads, dw);
            });
        }
    }
}
