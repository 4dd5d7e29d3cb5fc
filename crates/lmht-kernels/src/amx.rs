//! Convolutions on the matrix unit of x86 processors (AMX), in f32.
//!
//! The unit multiplies numbers of 16 bits (bf16: an f32 without its lower half) and adds up in f32, many times as fast as
//! vectors do. For spikes that loses nothing:
//!
//! - A count is below 128, which bf16 holds exactly.
//! - Any other number x is the sum of three: x₀ is x cut to 8 bits, x₁ what is left cut to 8 bits, x₂ the rest, exactly.
//!   The products s·x₀, s·x₁ and s·x₂ fit an f32.
//!
//! So sums of counts times weights, or times output gradients, are rounded as those of the other kernels are. Not kept is
//! what lies below 2⁻¹²⁶, parts included: of a number below 2⁻¹⁰² some bits. The input gradient has no counts; it would
//! take six products, and gained little over vectors where it was measured (docs/performance.md).
//!
//! - [`forward()`]: a row of a tile is an image, 16 at a time, at one pixel. Nothing is unfolded, and taps in the border
//!   are left out.
//! - [`grad_weight()`] sums over 32 images at one pixel after the other.
//!
//! Work is cut by the shapes alone, and every sum has one order.

mod forward;
mod grad_weight;
mod split;
#[cfg(test)]
mod tests;
mod unit;

use super::ConvShape;
use super::number::Number;
pub(crate) use forward::{Weights, forward};
pub(crate) use grad_weight::grad_weight;
pub(crate) use unit::Unit;

/// Channels of a block, on either side.
const SIDE: usize = 32;

/// Whether a convolution can be computed here: channels must fill tiles.
fn fits(s: &ConvShape) -> bool {
    let is_full = |channels: usize| channels > 0 && channels.is_multiple_of(SIDE);
    is_full(s.c_in) && is_full(s.c_out)
}

/// Whether images fill most of `rows` rows.
fn fills(n: usize, rows: usize) -> bool {
    n.next_multiple_of(rows) <= n + n / 3
}

/// The unit, if [`forward()`] can use one.
pub(crate) fn forward_unit<T: Number>(s: &ConvShape) -> Option<Unit> {
    if fits(s) && fills(s.n, unit::ROWS) { Unit::of::<T>() } else { None }
}

/// The unit, if there is one and [`forward()`] is the fastest kernel for inputs of which a share `changes`.
///
/// The limits of these two are from docs/performance.md, "Spikes or dense". Kernels of one pixel have too few products for
/// the laying out.
pub(crate) fn pays_forward<T: Number>(s: &ConvShape, changes: f64) -> Option<Unit> {
    let least = if s.c_in < 64 { 0.05 } else { 0.13 };
    forward_unit::<T>(s).filter(|_| s.k > 1 && changes > least)
}

/// The unit, if [`grad_weight()`] can use one.
pub(crate) fn grad_weight_unit<T: Number>(s: &ConvShape) -> Option<Unit> {
    if fits(s) && fills(s.n, unit::DEPTH) { Unit::of::<T>() } else { None }
}

/// The unit, if there is one and [`grad_weight()`] is the fastest kernel for so many spikes a unit.
pub(crate) fn pays_grad_weight<T: Number>(s: &ConvShape, spikes: f64) -> Option<Unit> {
    let least = if s.c_in < 64 { 0.08 } else { 0.18 };
    grad_weight_unit::<T>(s).filter(|_| spikes > least)
}
