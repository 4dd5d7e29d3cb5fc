//! Convolutions with 3x3 kernels and stride 1 in fewer products: Winograd's minimal filtering F(2x2, 3x3).
//!
//! A tile is 2x2 outputs, which read 4x4 inputs d. With the kernel w (Winograd, "Arithmetic complexity of computations",
//! 1980; Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016)
//!
//! ```text
//! y = Aᵀ [(G w Gᵀ) ⊙ (Bᵀ d B)] A
//!
//!      ⎡1  0 -1  0⎤        ⎡ 1   0   0 ⎤         ⎡1  1  1  0⎤
//! Bᵀ = ⎢0  1  1  0⎥    G = ⎢ ½   ½   ½ ⎥    Aᵀ = ⎣0  1 -1 -1⎦
//!      ⎢0 -1  1  0⎥        ⎢ ½  -½   ½ ⎥
//!      ⎣0  1  0 -1⎦        ⎣ 0   0   1 ⎦
//! ```
//!
//! 16 products do what takes a direct convolution 36. Over all channels the products at one of the 16 points are a matrix
//! product, tiles x input channels x output channels. Inputs are only added and subtracted, and the weights halved: sums
//! of spike counts and of dyadic weights stay exact, and in f32 the error is that of a direct convolution.
//!
//! The input gradient is the same with the flipped kernel. The weight gradient is the adjoint of the equation in w,
//!
//! ```text
//! dw = Gᵀ [Σ (A dy Aᵀ) ⊙ (Bᵀ d B)] G
//! ```
//!
//! where the sum over tiles is again a matrix product at each point, and what stands outside of it is done once.
//!
//! Work is cut by the shapes alone and partial sums are added in order, so results do not depend on the number of threads.

mod forward;
mod grad_weight;
#[cfg(test)]
mod tests;
mod transform;

use super::ConvShape;
use super::real::Real;
pub(super) use forward::{Scratch, backwards, forward_alone};
pub(crate) use forward::{Weights, forward, grad_input};
pub(crate) use grad_weight::grad_weight;
pub(super) use grad_weight::{Part, Scratch as WeightScratch, add_part, sum_up};

/// Points at which tiles and kernels are multiplied.
const POINTS: usize = 16;
/// Runs the body with the numbers of a channel run that are transformed together, a constant, in `$n`: one register of
/// `f32`, so that the 16 points of a tile fit the registers. The vectors are `$v`, the numbers `$t`.
macro_rules! with_run {
    ($n:ident of $t:ty, $v:ty => $body:block) => {{
        if <$v>::WIDE && <$t>::LANES == 16 {
            const $n: usize = 16;
            $body
        } else {
            const $n: usize = 8;
            $body
        }
    }};
}
use with_run;

/// Whether a convolution can be computed this way.
pub(crate) fn fits(s: &ConvShape) -> bool {
    s.k == 3 && s.stride == 1
}

/// Whether this is faster than a direct convolution: there must be enough tiles to share the transformed weights, and
/// enough channels to pay for the transforms of the maps.
pub(crate) fn pays(s: &ConvShape) -> bool {
    const LEAST_TILES: usize = 192;
    const LEAST_CHANNELS: usize = 64;
    fits(s) && s.padding <= 2 && s.c_in.min(s.c_out) >= LEAST_CHANNELS && Tiles::of(s).len() >= LEAST_TILES
}

/// The tiles of the output maps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles {
    n: usize,
    /// In a map.
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Tiles {
    pub(super) fn of(s: &ConvShape) -> Self {
        Self { n: s.n, rows: s.h_out.div_ceil(2), cols: s.w_out.div_ceil(2) }
    }

    pub(super) fn len(&self) -> usize {
        self.n * self.rows * self.cols
    }
}

/// Numbers from row to row of a matrix with `n` columns: whole cache lines, and not a power of two of them, which would
/// put all rows into the same few places of the cache.
fn pitch<T: Real>(n: usize) -> usize {
    n.next_multiple_of(T::LANES) + T::LANES
}
