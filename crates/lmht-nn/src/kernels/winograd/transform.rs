//! Between maps and the 16 points.

use super::{POINTS, RUN};
use crate::kernels::Source;
use crate::kernels::real::Real;

/// Some channels of a pixel.
pub(super) type Run<T> = [T; RUN];
/// The 4x4 pixels, or points, of a tile.
type Square<T> = [Run<T>; POINTS];

#[inline(always)]
fn add<T: Real>(a: Run<T>, b: Run<T>) -> Run<T> {
    let mut sum = a;
    for (sum, b) in sum.iter_mut().zip(b) {
        *sum += b;
    }
    sum
}

#[inline(always)]
fn sub<T: Real>(a: Run<T>, b: Run<T>) -> Run<T> {
    let mut difference = a;
    for (difference, b) in difference.iter_mut().zip(b) {
        *difference -= b;
    }
    difference
}

#[inline(always)]
fn half<T: Real>(a: Run<T>) -> Run<T> {
    let half = T::from_f64(0.5);
    a.map(|x| x * half)
}

/// The first numbers of `from`, with zeros after the end.
#[inline(always)]
pub(super) fn load<T: Real, X: Source<T>>(from: &[X]) -> Run<T> {
    if let Some(from) = from.first_chunk::<RUN>() {
        return from.map(Source::value);
    }
    let mut run = [T::default(); RUN];
    for (x, from) in run.iter_mut().zip(from) {
        *x = from.value();
    }
    run
}

/// Writes a run to `to`, or the part that `to` has room for.
#[inline(always)]
pub(super) fn store<T: Real>(run: Run<T>, to: &mut [T]) {
    if let Some(to) = to.first_chunk_mut::<RUN>() {
        *to = run;
    } else {
        to.iter_mut().zip(run).for_each(|(to, x)| *to = x);
    }
}

/// One column or row of Bᵀ d.
#[inline(always)]
fn input_line<T: Real>(d: [Run<T>; 4]) -> [Run<T>; 4] {
    [sub(d[0], d[2]), add(d[1], d[2]), sub(d[2], d[1]), sub(d[1], d[3])]
}

/// Bᵀ d B.
#[inline(always)]
pub(super) fn input<T: Real>(d: impl Fn(usize, usize) -> Run<T>) -> Square<T> {
    let mut square = [[T::default(); RUN]; POINTS];
    for x in 0..4 {
        let column = input_line([d(0, x), d(1, x), d(2, x), d(3, x)]);
        for (y, run) in column.into_iter().enumerate() {
            square[4 * y + x] = run;
        }
    }
    for row in square.as_chunks_mut::<4>().0 {
        *row = input_line(*row);
    }
    square
}

/// One column or row of Aᵀ m.
#[inline(always)]
fn output_line<T: Real>(m: [Run<T>; 4]) -> [Run<T>; 2] {
    [add(add(m[0], m[1]), m[2]), sub(sub(m[1], m[2]), m[3])]
}

/// Aᵀ m A: the outputs, row by row.
#[inline(always)]
pub(super) fn output<T: Real>(m: impl Fn(usize) -> Run<T>) -> [Run<T>; 4] {
    let columns = [0, 1, 2, 3].map(|x| output_line([m(x), m(4 + x), m(8 + x), m(12 + x)]));
    let [a, b] = output_line(columns.map(|[upper, _]| upper));
    let [c, d] = output_line(columns.map(|[_, lower]| lower));
    [a, b, c, d]
}

/// One column or row of A g.
#[inline(always)]
fn gradient_line<T: Real>([a, b]: [Run<T>; 2]) -> [Run<T>; 4] {
    [a, add(a, b), sub(a, b), sub([T::default(); RUN], b)]
}

/// A g Aᵀ of the output gradients, row by row.
#[inline(always)]
pub(super) fn gradient<T: Real>([a, b, c, d]: [Run<T>; 4]) -> Square<T> {
    let (left, right) = (gradient_line([a, c]), gradient_line([b, d]));
    let mut square = [[T::default(); RUN]; POINTS];
    for (row, (left, right)) in square.as_chunks_mut::<4>().0.iter_mut().zip(left.into_iter().zip(right)) {
        *row = gradient_line([left, right]);
    }
    square
}

/// One column or row of G w.
#[inline(always)]
fn weight_line<T: Real>([a, b, c]: [Run<T>; 3]) -> [Run<T>; 4] {
    let outer = add(a, c);
    [a, half(add(outer, b)), half(sub(outer, b)), c]
}

/// G w Gᵀ of the taps of a kernel, row by row.
#[inline(always)]
pub(super) fn weight<T: Real>(w: impl Fn(usize) -> Run<T>) -> Square<T> {
    let columns = [0, 1, 2].map(|x| weight_line([w(x), w(3 + x), w(6 + x)]));
    let mut square = [[T::default(); RUN]; POINTS];
    for (y, row) in square.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *row = weight_line([columns[0][y], columns[1][y], columns[2][y]]);
    }
    square
}

/// One column or row of Gᵀ s.
#[inline(always)]
fn weight_gradient_line<T: Real>([a, b, c, d]: [Run<T>; 4]) -> [Run<T>; 3] {
    let sum = half(add(b, c));
    [add(a, sum), half(sub(b, c)), add(sum, d)]
}

/// Gᵀ s G: the gradients of the taps, row by row.
#[inline(always)]
pub(super) fn weight_gradient<T: Real>(s: impl Fn(usize) -> Run<T>) -> [Run<T>; 9] {
    let columns = [0, 1, 2, 3].map(|x| weight_gradient_line([s(x), s(4 + x), s(8 + x), s(12 + x)]));
    let mut taps = [[T::default(); RUN]; 9];
    for (y, row) in taps.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        *row = weight_gradient_line([columns[0][y], columns[1][y], columns[2][y], columns[3][y]]);
    }
    taps
}
