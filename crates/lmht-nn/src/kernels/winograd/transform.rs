//! Between maps and the 16 points.
//!
//! All is written out, without closures: what the compiler does not inline keeps the baseline's instructions, and a square
//! that it does not take apart goes through memory.

use crate::kernels::Source;
use crate::kernels::real::Real;

/// Some channels of a pixel.
pub(super) type Run<T, const N: usize> = [T; N];
/// The 4x4 points of a tile, row by row.
type Square<T, const N: usize> = [[Run<T, N>; 4]; 4];

#[inline(always)]
pub(super) fn add<T: Real, const N: usize>(a: Run<T, N>, b: Run<T, N>) -> Run<T, N> {
    let mut sum = a;
    for (sum, b) in sum.iter_mut().zip(b) {
        *sum += b;
    }
    sum
}

#[inline(always)]
fn sub<T: Real, const N: usize>(a: Run<T, N>, b: Run<T, N>) -> Run<T, N> {
    let mut difference = a;
    for (difference, b) in difference.iter_mut().zip(b) {
        *difference -= b;
    }
    difference
}

#[inline(always)]
fn half<T: Real, const N: usize>(a: Run<T, N>) -> Run<T, N> {
    let half = T::from_f64(0.5);
    let mut halves = a;
    for x in &mut halves {
        *x *= half;
    }
    halves
}

/// The first numbers of `from`, with zeros after the end.
#[inline(always)]
pub(super) fn load<T: Real, X: Source<T>, const N: usize>(from: &[X]) -> Run<T, N> {
    let mut run = [T::default(); N];
    // A length that the compiler knows becomes a few vectors.
    if let Some(from) = from.first_chunk::<N>() {
        for (x, from) in run.iter_mut().zip(from) {
            *x = from.value();
        }
    } else {
        for (x, from) in run.iter_mut().zip(from) {
            *x = from.value();
        }
    }
    run
}

/// Writes a run to `to`, or the part that `to` has room for.
#[inline(always)]
pub(super) fn store<T: Real, const N: usize>(run: &Run<T, N>, to: &mut [T]) {
    if let Some(to) = to.first_chunk_mut::<N>() {
        *to = *run;
    } else {
        for (to, &x) in to.iter_mut().zip(run) {
            *to = x;
        }
    }
}

/// Row `y` of a matrix that is given by columns.
#[inline(always)]
fn row<T: Real, const N: usize, const ROWS: usize, const COLUMNS: usize>(
    columns: &[[Run<T, N>; ROWS]; COLUMNS],
    y: usize,
) -> [Run<T, N>; COLUMNS] {
    let mut row = [[T::default(); N]; COLUMNS];
    for (to, column) in row.iter_mut().zip(columns) {
        *to = column[y];
    }
    row
}

/// One column or row of Bᵀ d.
#[inline(always)]
fn input_line<T: Real, const N: usize>(d: [Run<T, N>; 4]) -> [Run<T, N>; 4] {
    [sub(d[0], d[2]), add(d[1], d[2]), sub(d[2], d[1]), sub(d[1], d[3])]
}

/// Bᵀ d B.
#[inline(always)]
pub(super) fn input<T: Real, const N: usize>(d: impl Fn(usize, usize) -> Run<T, N>) -> Square<T, N> {
    let columns = [
        input_line([d(0, 0), d(1, 0), d(2, 0), d(3, 0)]),
        input_line([d(0, 1), d(1, 1), d(2, 1), d(3, 1)]),
        input_line([d(0, 2), d(1, 2), d(2, 2), d(3, 2)]),
        input_line([d(0, 3), d(1, 3), d(2, 3), d(3, 3)]),
    ];
    [
        input_line(row(&columns, 0)),
        input_line(row(&columns, 1)),
        input_line(row(&columns, 2)),
        input_line(row(&columns, 3)),
    ]
}

/// One column or row of Aᵀ m.
#[inline(always)]
fn output_line<T: Real, const N: usize>(m: [Run<T, N>; 4]) -> [Run<T, N>; 2] {
    [add(add(m[0], m[1]), m[2]), sub(sub(m[1], m[2]), m[3])]
}

/// Aᵀ m A: the 2x2 outputs.
#[inline(always)]
pub(super) fn output<T: Real, const N: usize>(m: impl Fn(usize) -> Run<T, N>) -> [[Run<T, N>; 2]; 2] {
    let columns = [
        output_line([m(0), m(4), m(8), m(12)]),
        output_line([m(1), m(5), m(9), m(13)]),
        output_line([m(2), m(6), m(10), m(14)]),
        output_line([m(3), m(7), m(11), m(15)]),
    ];
    [output_line(row(&columns, 0)), output_line(row(&columns, 1))]
}

/// One column or row of A g.
#[inline(always)]
fn gradient_line<T: Real, const N: usize>([a, b]: [Run<T, N>; 2]) -> [Run<T, N>; 4] {
    [a, add(a, b), sub(a, b), sub([T::default(); N], b)]
}

/// A g Aᵀ of the output gradients, row by row.
#[inline(always)]
pub(super) fn gradient<T: Real, const N: usize>([a, b, c, d]: [Run<T, N>; 4]) -> Square<T, N> {
    let columns = [gradient_line([a, c]), gradient_line([b, d])];
    [
        gradient_line(row(&columns, 0)),
        gradient_line(row(&columns, 1)),
        gradient_line(row(&columns, 2)),
        gradient_line(row(&columns, 3)),
    ]
}

/// One column or row of G w.
#[inline(always)]
fn weight_line<T: Real, const N: usize>([a, b, c]: [Run<T, N>; 3]) -> [Run<T, N>; 4] {
    let outer = add(a, c);
    [a, half(add(outer, b)), half(sub(outer, b)), c]
}

/// G w Gᵀ of the taps of a kernel, row by row.
#[inline(always)]
pub(super) fn weight<T: Real, const N: usize>(w: impl Fn(usize) -> Run<T, N>) -> Square<T, N> {
    let columns = [weight_line([w(0), w(3), w(6)]), weight_line([w(1), w(4), w(7)]), weight_line([w(2), w(5), w(8)])];
    [
        weight_line(row(&columns, 0)),
        weight_line(row(&columns, 1)),
        weight_line(row(&columns, 2)),
        weight_line(row(&columns, 3)),
    ]
}

/// One column or row of Gᵀ s.
#[inline(always)]
fn weight_gradient_line<T: Real, const N: usize>([a, b, c, d]: [Run<T, N>; 4]) -> [Run<T, N>; 3] {
    let sum = half(add(b, c));
    [add(a, sum), half(sub(b, c)), add(sum, d)]
}

/// Gᵀ s G: the gradients of the taps, row by row.
#[inline(always)]
pub(super) fn weight_gradient<T: Real, const N: usize>(s: impl Fn(usize) -> Run<T, N>) -> [[Run<T, N>; 3]; 3] {
    let columns = [
        weight_gradient_line([s(0), s(4), s(8), s(12)]),
        weight_gradient_line([s(1), s(5), s(9), s(13)]),
        weight_gradient_line([s(2), s(6), s(10), s(14)]),
        weight_gradient_line([s(3), s(7), s(11), s(15)]),
    ];
    [
        weight_gradient_line(row(&columns, 0)),
        weight_gradient_line(row(&columns, 1)),
        weight_gradient_line(row(&columns, 2)),
    ]
}
