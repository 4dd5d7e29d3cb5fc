//! Arithmetic on some channels of a pixel.
//!
//! All is written out, without the standard library's closures: what the compiler does not inline keeps the baseline's
//! instructions.

use crate::Source;
use crate::number::Number;

/// Channels of a pixel.
pub(super) type Run<T, const N: usize> = [T; N];

#[inline(always)]
pub(super) fn add<T: Number, const N: usize>(a: Run<T, N>, b: Run<T, N>) -> Run<T, N> {
    let mut sum = a;
    for (sum, b) in sum.iter_mut().zip(b) {
        *sum += b;
    }
    sum
}

#[inline(always)]
pub(super) fn sub<T: Number, const N: usize>(a: Run<T, N>, b: Run<T, N>) -> Run<T, N> {
    let mut difference = a;
    for (difference, b) in difference.iter_mut().zip(b) {
        *difference -= b;
    }
    difference
}

#[inline(always)]
pub(super) fn half<T: Number, const N: usize>(a: Run<T, N>) -> Run<T, N> {
    let half = T::from_f64(0.5);
    let mut halves = a;
    for x in &mut halves {
        *x *= half;
    }
    halves
}

/// The first numbers of `from`: `N` if it is `WHOLE`, otherwise those that there are, and zeros after them.
///
/// Two cases, because of one that finds out by itself the compiler makes a copy of a length that it does not know.
#[inline(always)]
pub(super) fn load<T: Number, X: Source<T>, const N: usize, const WHOLE: bool>(from: &[X]) -> Run<T, N> {
    let mut run = [T::default(); N];
    let from = if WHOLE { &from[..N] } else { from };
    for (x, from) in run.iter_mut().zip(from) {
        *x = from.value();
    }
    run
}

/// Writes a run to `to`: all of it, or if it is not `WHOLE` the part that `to` has room for.
#[inline(always)]
pub(super) fn store<T: Number, const N: usize, const WHOLE: bool>(run: &Run<T, N>, to: &mut [T]) {
    let to = if WHOLE { &mut to[..N] } else { to };
    for (to, &x) in to.iter_mut().zip(run) {
        *to = x;
    }
}
