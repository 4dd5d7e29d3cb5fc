//! Convolutions with 3x3 kernels in fewer products: Winograd's minimal filtering.
//!
//! A tile is 2x2 outputs. With stride 1 it reads 4x4 inputs d: F(2x2, 3x3). With the kernel w (Winograd, "Arithmetic
//! complexity of computations", 1980; Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016)
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
//! product, tiles x input channels x output channels. The input gradient is the same with the flipped kernel. The weight
//! gradient is the adjoint of the equation in w,
//!
//! ```text
//! dw = Gᵀ [Σ (A dy Aᵀ) ⊙ (Bᵀ d B)] G
//! ```
//!
//! where the sum over tiles is again a matrix product at each point, and what stands outside of it is done once.
//!
//! With stride 2 a tile reads 5x5 inputs, of which the even ones meet the taps 0 and 2 only, as in a convolution of stride 1
//! with 2 taps, F(2, 2), and the odd ones tap 1. Along an axis
//!
//! ```text
//! y0 = [(d0 - d2) w0 + d1 w1] + d2 (w0 + w2)
//! y1 = [(d4 - d2) w2 + d3 w1] + d2 (w0 + w2)
//! ```
//!
//! is 5 products and not 6, in both axes 25 and not 36. A bracket is one sum over twice the channels, so there are 3x3 sums.
//! The input gradient writes 4x4 pixels and reads 3x3 of the output gradients g, again in 5 products along an axis:
//!
//! ```text
//! dx0 = g0 w1    dx1 = (g0 - g1) w2 + g1 (w0 + w2)    dx2 = g1 w1    dx3 = (g2 - g1) w0 + g1 (w0 + w2)
//! ```
//!
//! and the weight gradient is again the adjoint,
//!
//! ```text
//! dw0 = (d0 - d2) g0 + d2 (g0 + g1)    dw1 = d1 g0 + d3 g1    dw2 = (d4 - d2) g1 + d2 (g0 + g1)
//! ```
//!
//! Inputs are only added and subtracted, and the weights halved: sums of spike counts and of dyadic weights stay exact, and
//! in f32 the error is that of a direct convolution. Variants with larger tiles save more and lose this.
//!
//! Work is cut by the shapes alone and partial sums are added in order, so results do not depend on the number of threads.

mod form;
mod forward;
mod grad_weight;
mod plain;
mod run;
mod strided;
#[cfg(test)]
mod tests;

use super::ConvShape;
use super::number::Number;
pub(crate) use forward::{Weights, forward, grad_input};
pub(crate) use grad_weight::grad_weight;

/// Taps of a kernel.
const TAPS: usize = 9;
/// Channels of a block, of any number type.
const BLOCK: usize = 16;

/// Runs the body with the numbers of a channel run that are transformed together, a constant, in `$n`: one register of
/// `f32`, so that 16 planes of a tile, or a row of 5x5, fit the registers. The vectors are `$v`, the numbers `$t`.
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

/// Runs the body for the runs of `$n` channels that cover `$channels`: with the first channel in `$c`, and in `$whole`, a
/// constant, whether all of the run is there.
macro_rules! for_runs {
    ($c:ident, $whole:ident in $channels:expr, $n:ident => $body:block) => {{
        let channels: usize = $channels;
        let whole = channels / $n * $n;
        for $c in (0..whole).step_by($n) {
            const $whole: bool = true;
            $body
        }
        if whole < channels {
            let $c = whole;
            const $whole: bool = false;
            $body
        }
    }};
}
use {for_runs, with_run};

/// Whether a convolution can be computed this way.
pub(crate) fn fits(s: &ConvShape) -> bool {
    // With stride 2 whole blocks of channels follow each other in a matrix, and tiles of the input gradient begin at a pixel
    // that tap 1 reads, which with a padding of 1 is pixel 0.
    s.k == 3 && (s.stride == 1 || (s.stride, s.padding) == (2, 1) && s.c_in.is_multiple_of(BLOCK))
}

/// Whether the forward pass and the input gradient are faster than direct ones: there must be enough tiles to share the
/// transformed weights, and enough channels to pay for the transforms of the maps. With stride 2 there is less to be saved,
/// and with many channels all of it is lost in weights that are too many for the cache.
pub(crate) fn pays(s: &ConvShape) -> bool {
    const LEAST_TILES: usize = 192;
    const MOST_WEIGHTS: usize = 128 * 128;
    fits(s)
        && s.padding <= 2
        && enough_channels(s)
        && Tiles::of(s).len() >= LEAST_TILES
        && (s.stride == 1 || s.c_in * s.c_out <= MOST_WEIGHTS)
}

/// Whether the weight gradient is faster than a direct one. It transforms no weights, so fewer tiles do.
pub(crate) fn pays_grad_weight(s: &ConvShape) -> bool {
    const LEAST_TILES: usize = 96;
    fits(s) && enough_channels(s) && Tiles::of(s).len() >= LEAST_TILES
}

fn enough_channels(s: &ConvShape) -> bool {
    const LEAST_CHANNELS: usize = 64;
    s.c_in.min(s.c_out) >= LEAST_CHANNELS
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
    /// Of 2x2 outputs.
    pub(super) fn of(s: &ConvShape) -> Self {
        Self::of_side(2, s)
    }

    fn of_side(side: usize, s: &ConvShape) -> Self {
        Self { n: s.n, rows: s.h_out.div_ceil(side), cols: s.w_out.div_ceil(side) }
    }

    pub(super) fn len(&self) -> usize {
        self.n * self.rows * self.cols
    }
}

/// Numbers from row to row of a matrix with `n` columns: whole cache lines, and not a power of two of them, which would
/// put all rows into the same few places of the cache.
fn pitch<T: Number>(n: usize) -> usize {
    n.next_multiple_of(T::LANES) + T::LANES
}
