//! The one order in which this crate adds over units.
//!
//! dLoss/dΩ, dLoss/dλ and dLoss/dϑ are sums over all units of a layer, often millions. Floating-point addition depends
//! on its order, so the order is part of the contract; the result is then the same to the bit from the readable loop,
//! from the vector kernel, and from any number of threads:
//!
//! 1. The units are cut into blocks of [`BLOCK`]; the last one may be shorter.
//! 2. Inside a block, unit i is added to lane i % [`LANES`], in the type of the terms, units ascending.
//! 3. The lanes are added in order, in `f64`; so are the blocks.
//! 4. The total is rounded once to the type of the terms.
//!
//! A lane adds at most `BLOCK / LANES` terms, so an `f32` sum over millions of units keeps most of its digits.

use crate::Real;

/// Units in a block. Currents, gradients and scratch of a few timesteps fit in a first-level cache together.
pub const BLOCK: usize = 256;

/// Partial sums in a block: enough for a 256-bit register of `f32`.
pub const LANES: usize = 8;

/// The sum of `terms` in the order of this module.
///
/// ```
/// use lmht_core::sum::ordered_sum;
/// assert_eq!(ordered_sum((1..=1000).map(f64::from)), 500500.0);
/// // Ten million times 0.1 in f32: this order is off by less than a millionth, one after the other by 8 %.
/// let tenths = std::iter::repeat_n(0.1_f32, 10_000_000);
/// assert!((ordered_sum(tenths.clone()) - 1e6).abs() < 1.0);
/// assert!((tenths.sum::<f32>() - 1e6).abs() > 8e4);
/// ```
pub fn ordered_sum<R: Real>(terms: impl IntoIterator<Item = R>) -> R {
    let mut total = 0.0;
    let mut lanes = [R::ZERO; LANES];
    let mut in_block = 0;
    for term in terms {
        lanes[in_block % LANES] += term;
        in_block += 1;
        if in_block == BLOCK {
            total += add_lanes(&lanes);
            lanes = [R::ZERO; LANES];
            in_block = 0;
        }
    }
    if in_block > 0 {
        total += add_lanes(&lanes);
    }
    R::from_f64(total)
}

/// Step 3 for one block.
#[inline(always)]
pub(crate) fn add_lanes<R: Real>(lanes: &[R; LANES]) -> f64 {
    let mut total = 0.0;
    for lane in lanes {
        total += lane.to_f64();
    }
    total
}

/// Steps 2 and 3 for one block whose terms lie side by side.
#[inline(always)]
pub(crate) fn add_block<R: Real>(terms: &[R]) -> f64 {
    let mut lanes = [R::ZERO; LANES];
    let (whole, rest) = terms.as_chunks::<LANES>();
    for terms in whole {
        for l in 0..LANES {
            lanes[l] += terms[l];
        }
    }
    for (lane, term) in lanes.iter_mut().zip(rest) {
        *lane += *term;
    }
    add_lanes(&lanes)
}

/// Steps 3 and 4 over blocks that each hold `stride` sums side by side: the total of the sum at `index`.
pub(crate) fn add_blocks<R: Real>(blocks: &[f64], stride: usize, index: usize) -> R {
    let mut total = 0.0;
    for block in blocks.chunks_exact(stride) {
        total += block[index];
    }
    R::from_f64(total)
}
