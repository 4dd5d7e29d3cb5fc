//! F(2x2, 3x3): stride 1, forward and, with the flipped kernel, backward.
//!
//! All is written out: a square that the compiler does not take apart goes through memory.

use super::form::{Adjoint, Form};
use super::run::{Run, add, half, sub};
use crate::number::Number;

/// The 4x4 planes of a tile, row by row.
type Square<T, const N: usize> = [[Run<T, N>; 4]; 4];

/// Stride 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain;

impl Form for Plain {
    const READ: usize = 4;
    const STEP: usize = 2;
    const WRITTEN: usize = 2;
    const MATRICES: &'static [usize] = &[1, 1, 1, 1];
    const SUMS: &'static [usize] = &[0, 1, 2, 3];

    #[inline(always)]
    fn planes<T: Number, const N: usize>(
        self,
        d: impl Fn(usize, usize) -> Run<T, N>,
        to: impl FnMut(usize, &Run<T, N>),
    ) {
        hand(&input(d), to);
    }

    #[inline(always)]
    fn weights<T: Number, const N: usize>(self, w: impl Fn(usize) -> Run<T, N>, to: impl FnMut(usize, &Run<T, N>)) {
        hand(&weight(w), to);
    }

    #[inline(always)]
    fn written<T: Number, const N: usize>(self, m: impl Fn(usize) -> Run<T, N>, to: impl FnMut(usize, &Run<T, N>)) {
        hand(&output(m), to);
    }
}

impl Adjoint for Plain {
    #[inline(always)]
    fn gradients<T: Number, const N: usize>(self, g: impl Fn(usize) -> Run<T, N>, to: impl FnMut(usize, &Run<T, N>)) {
        hand(&gradient([g(0), g(1), g(2), g(3)]), to);
    }

    #[inline(always)]
    fn weight_gradients<T: Number, const N: usize>(
        self,
        s: impl Fn(usize) -> Run<T, N>,
        to: impl FnMut(usize, &Run<T, N>),
    ) {
        hand(&weight_gradient(s), to);
    }
}

/// All runs of a square, numbered.
#[inline(always)]
fn hand<T, const N: usize, const COLUMNS: usize>(
    square: &[[Run<T, N>; COLUMNS]],
    mut to: impl FnMut(usize, &Run<T, N>),
) {
    for (i, run) in square.as_flattened().iter().enumerate() {
        to(i, run);
    }
}

/// Row `y` of a matrix that is given by columns.
#[inline(always)]
fn row<T: Number, const N: usize, const ROWS: usize, const COLUMNS: usize>(
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
fn input_line<T: Number, const N: usize>(d: [Run<T, N>; 4]) -> [Run<T, N>; 4] {
    [sub(d[0], d[2]), add(d[1], d[2]), sub(d[2], d[1]), sub(d[1], d[3])]
}

/// Bᵀ d B.
#[inline(always)]
fn input<T: Number, const N: usize>(d: impl Fn(usize, usize) -> Run<T, N>) -> Square<T, N> {
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
fn output_line<T: Number, const N: usize>(m: [Run<T, N>; 4]) -> [Run<T, N>; 2] {
    [add(add(m[0], m[1]), m[2]), sub(sub(m[1], m[2]), m[3])]
}

/// Aᵀ m A: the 2x2 outputs.
#[inline(always)]
fn output<T: Number, const N: usize>(m: impl Fn(usize) -> Run<T, N>) -> [[Run<T, N>; 2]; 2] {
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
fn gradient_line<T: Number, const N: usize>([a, b]: [Run<T, N>; 2]) -> [Run<T, N>; 4] {
    [a, add(a, b), sub(a, b), sub([T::default(); N], b)]
}

/// A g Aᵀ of the output gradients, row by row.
#[inline(always)]
fn gradient<T: Number, const N: usize>([a, b, c, d]: [Run<T, N>; 4]) -> Square<T, N> {
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
fn weight_line<T: Number, const N: usize>([a, b, c]: [Run<T, N>; 3]) -> [Run<T, N>; 4] {
    let outer = add(a, c);
    [a, half(add(outer, b)), half(sub(outer, b)), c]
}

/// G w Gᵀ of the taps of a kernel, row by row.
#[inline(always)]
fn weight<T: Number, const N: usize>(w: impl Fn(usize) -> Run<T, N>) -> Square<T, N> {
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
fn weight_gradient_line<T: Number, const N: usize>([a, b, c, d]: [Run<T, N>; 4]) -> [Run<T, N>; 3] {
    let sum = half(add(b, c));
    [add(a, sum), half(sub(b, c)), add(sum, d)]
}

/// Gᵀ s G: the gradients of the taps, row by row.
#[inline(always)]
fn weight_gradient<T: Number, const N: usize>(s: impl Fn(usize) -> Run<T, N>) -> [[Run<T, N>; 3]; 3] {
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
