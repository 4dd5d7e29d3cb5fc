//! Stride 2 with a padding of 1: F(2x2, 2x2) of the even taps, and the odd ones as they are.
//!
//! All is written out, a row at a time, which fits the registers.

use super::form::{Adjoint, Form};
use super::run::{Run, add, sub};
use crate::number::Number;

/// The forward pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strided;

impl Form for Strided {
    const READ: usize = 5;
    const STEP: usize = 4;
    const WRITTEN: usize = 2;
    const MATRICES: &'static [usize] = &[2, 1, 2];
    const SUMS: &'static [usize] = &[0, 1, 2];

    #[inline(always)]
    fn planes<T: Number, const N: usize>(
        self,
        d: impl Fn(usize, usize) -> Run<T, N>,
        mut to: impl FnMut(usize, &Run<T, N>),
    ) {
        let even = planes_of_row(&d, 2);
        hand_five(0, minus(planes_of_row(&d, 0), even), &mut to);
        hand_five(1, planes_of_row(&d, 1), &mut to);
        hand_five(2, even, &mut to);
        hand_five(3, minus(planes_of_row(&d, 4), even), &mut to);
        hand_five(4, planes_of_row(&d, 3), &mut to);
    }

    #[inline(always)]
    fn weights<T: Number, const N: usize>(self, w: impl Fn(usize) -> Run<T, N>, mut to: impl FnMut(usize, &Run<T, N>)) {
        let [upper, odd, lower] = [weights_of_row(&w, 0), weights_of_row(&w, 1), weights_of_row(&w, 2)];
        hand_five(0, upper, &mut to);
        hand_five(1, odd, &mut to);
        hand_five(2, plus(upper, lower), &mut to);
        hand_five(3, lower, &mut to);
        hand_five(4, odd, &mut to);
    }

    #[inline(always)]
    fn written<T: Number, const N: usize>(self, m: impl Fn(usize) -> Run<T, N>, mut to: impl FnMut(usize, &Run<T, N>)) {
        let middle = add(m(3), m(4));
        to(0, &add(add(m(0), m(1)), middle));
        to(2, &add(add(m(6), m(7)), middle));
        let middle = add(m(4), m(5));
        to(1, &add(add(m(1), m(2)), middle));
        to(3, &add(add(m(7), m(8)), middle));
    }
}

impl Adjoint for Strided {
    #[inline(always)]
    fn gradients<T: Number, const N: usize>(
        self,
        g: impl Fn(usize) -> Run<T, N>,
        mut to: impl FnMut(usize, &Run<T, N>),
    ) {
        let (upper, lower) = (add(g(0), g(1)), add(g(2), g(3)));
        to(0, &g(0));
        to(1, &upper);
        to(2, &g(1));
        to(3, &add(g(0), g(2)));
        to(4, &add(upper, lower));
        to(5, &add(g(1), g(3)));
        to(6, &g(2));
        to(7, &lower);
        to(8, &g(3));
    }

    #[inline(always)]
    fn weight_gradients<T: Number, const N: usize>(
        self,
        s: impl Fn(usize) -> Run<T, N>,
        mut to: impl FnMut(usize, &Run<T, N>),
    ) {
        weight_gradients_of_row(&mut to, 0, plus(five(&s, 0), five(&s, 2)));
        weight_gradients_of_row(&mut to, 1, plus(five(&s, 1), five(&s, 4)));
        weight_gradients_of_row(&mut to, 2, plus(five(&s, 2), five(&s, 3)));
    }
}

/// The input gradient: reads output gradients, writes input gradients, with the flipped kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backward;

impl Form for Backward {
    const READ: usize = 3;
    const STEP: usize = 2;
    const WRITTEN: usize = 4;
    const MATRICES: &'static [usize] = &[1, 1, 1, 1];
    const SUMS: &'static [usize] = &[0, 1, 2, 3, 1];

    #[inline(always)]
    fn planes<T: Number, const N: usize>(
        self,
        d: impl Fn(usize, usize) -> Run<T, N>,
        mut to: impl FnMut(usize, &Run<T, N>),
    ) {
        let (upper, lower) = (sub(d(0, 1), d(1, 1)), sub(d(2, 1), d(1, 1)));
        planes_backward(&mut to, 0, sub(d(0, 0), d(1, 0)), upper, sub(d(0, 2), d(1, 2)));
        planes_backward(&mut to, 1, d(1, 0), d(1, 1), d(1, 2));
        planes_backward(&mut to, 2, sub(d(2, 0), d(1, 0)), lower, sub(d(2, 2), d(1, 2)));
        planes_backward(&mut to, 3, d(0, 0), d(0, 1), d(0, 2));
    }

    #[inline(always)]
    fn weights<T: Number, const N: usize>(self, w: impl Fn(usize) -> Run<T, N>, mut to: impl FnMut(usize, &Run<T, N>)) {
        // The taps are flipped: w(0) is w2 of the equations, along both axes.
        weights_backward(&mut to, 0, w(0), w(1), w(2));
        weights_backward(&mut to, 1, add(w(0), w(6)), add(w(1), w(7)), add(w(2), w(8)));
        weights_backward(&mut to, 2, w(6), w(7), w(8));
        weights_backward(&mut to, 3, w(3), w(4), w(5));
        weights_backward(&mut to, 4, w(3), w(4), w(5));
    }

    #[inline(always)]
    fn written<T: Number, const N: usize>(self, m: impl Fn(usize) -> Run<T, N>, mut to: impl FnMut(usize, &Run<T, N>)) {
        written_backward(&mut to, 0, five(&m, 3));
        written_backward(&mut to, 1, plus(five(&m, 0), five(&m, 1)));
        written_backward(&mut to, 2, five(&m, 4));
        written_backward(&mut to, 3, plus(five(&m, 1), five(&m, 2)));
    }
}

/// Row `y` of the gradients of the taps, from sums that were added up along the columns.
#[inline(always)]
fn weight_gradients_of_row<T: Number, const N: usize>(
    to: &mut impl FnMut(usize, &Run<T, N>),
    y: usize,
    [a, odd, both, c, odd_again]: [Run<T, N>; 5],
) {
    to(3 * y, &add(a, both));
    to(3 * y + 1, &add(odd, odd_again));
    to(3 * y + 2, &add(both, c));
}

/// Row `y` of the planes of what the input gradient reads, from pixels that were transformed along the columns.
#[inline(always)]
fn planes_backward<T: Number, const N: usize>(
    to: &mut impl FnMut(usize, &Run<T, N>),
    y: usize,
    a: Run<T, N>,
    b: Run<T, N>,
    c: Run<T, N>,
) {
    to(4 * y, &sub(a, b));
    to(4 * y + 1, &b);
    to(4 * y + 2, &sub(c, b));
    to(4 * y + 3, &a);
}

/// Row `y` of the weights of the input gradient, from taps that were transformed along the columns.
#[inline(always)]
fn weights_backward<T: Number, const N: usize>(
    to: &mut impl FnMut(usize, &Run<T, N>),
    y: usize,
    a: Run<T, N>,
    b: Run<T, N>,
    c: Run<T, N>,
) {
    hand_five(y, [a, add(a, c), c, b, b], to);
}

/// Row `y` of the input gradients, from sums that were added up along the columns.
#[inline(always)]
fn written_backward<T: Number, const N: usize>(
    to: &mut impl FnMut(usize, &Run<T, N>),
    y: usize,
    [a, both, c, odd, odd_again]: [Run<T, N>; 5],
) {
    to(4 * y, &odd);
    to(4 * y + 1, &add(a, both));
    to(4 * y + 2, &odd_again);
    to(4 * y + 3, &add(both, c));
}

#[inline(always)]
fn plus<T: Number, const N: usize>(a: [Run<T, N>; 5], b: [Run<T, N>; 5]) -> [Run<T, N>; 5] {
    [add(a[0], b[0]), add(a[1], b[1]), add(a[2], b[2]), add(a[3], b[3]), add(a[4], b[4])]
}

#[inline(always)]
fn minus<T: Number, const N: usize>(a: [Run<T, N>; 5], b: [Run<T, N>; 5]) -> [Run<T, N>; 5] {
    [sub(a[0], b[0]), sub(a[1], b[1]), sub(a[2], b[2]), sub(a[3], b[3]), sub(a[4], b[4])]
}

/// Row `y` of what the forward pass reads, transformed along the row.
#[inline(always)]
fn planes_of_row<T: Number, const N: usize>(d: &impl Fn(usize, usize) -> Run<T, N>, y: usize) -> [Run<T, N>; 5] {
    let even = d(y, 2);
    [sub(d(y, 0), even), d(y, 1), even, sub(d(y, 4), even), d(y, 3)]
}

/// Row `y` of the taps, transformed along the row.
#[inline(always)]
fn weights_of_row<T: Number, const N: usize>(w: &impl Fn(usize) -> Run<T, N>, y: usize) -> [Run<T, N>; 5] {
    let [a, b, c] = [w(3 * y), w(3 * y + 1), w(3 * y + 2)];
    [a, b, add(a, c), c, b]
}

/// Row `y` of 5x5 runs.
#[inline(always)]
fn five<T: Number, const N: usize>(m: &impl Fn(usize) -> Run<T, N>, y: usize) -> [Run<T, N>; 5] {
    [m(5 * y), m(5 * y + 1), m(5 * y + 2), m(5 * y + 3), m(5 * y + 4)]
}

/// Row `y` of 5x5 runs, numbered.
#[inline(always)]
fn hand_five<T, const N: usize>(y: usize, runs: [Run<T, N>; 5], to: &mut impl FnMut(usize, &Run<T, N>)) {
    to(5 * y, &runs[0]);
    to(5 * y + 1, &runs[1]);
    to(5 * y + 2, &runs[2]);
    to(5 * y + 3, &runs[3]);
    to(5 * y + 4, &runs[4]);
}
