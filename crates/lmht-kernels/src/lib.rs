//! Kernels over plain slices that know nothing of tensors.
//!
//! A convolution reads maps of numbers or of packed spikes, [`Source`]; its sizes are a [`ConvShape`].
//!
//! | module | what |
//! |---|---|
//! | [`dense`] | any convolution, the yardstick of the others |
//! | [`winograd`] | kernels of 3x3 in fewer products |
//! | [`spikes`] | packed spikes, skipping what is zero |
//! | [`amx`] | packed spikes on the matrix unit of x86 processors that have one |
//! | [`nchw`] | `[N, C, H, W]` maps, as Candle has them |
//! | [`choice`] | which of them is taken |
//! | [`measured`] | each of them by its name, for a benchmark |
//! | `real`, `tile`, `lines`, `phase` | number types and vectors, register tiles, aligned buffers, strides taken apart |

#![allow(missing_docs, unreachable_pub)]

pub mod amx;
pub mod choice;
pub mod dense;
mod lines;
pub mod measured;
pub mod nchw;
pub mod number;
mod phase;
pub mod spikes;
mod tile;
pub mod winograd;

pub use choice::Path;
pub use number::{Kernel, Number, run_vectorized};

use std::ops::Range;

/// [`dense::grad_input`], by the fastest kernel; or of some units only, those of the packed `wanted` whose top bit is set,
/// a share of all.
pub fn grad_input_at<T: Number>(s: &ConvShape, grads: &[T], weight: &[T], wanted: Option<(&[u8], f64)>, dxs: &mut [T]) {
    let path = wanted.map_or_else(|| choice::dense(s), |(_, share)| choice::grad_input(s, share));
    match (path, wanted) {
        (Path::Spikes, Some((units, _))) => spikes::grad_input(s, grads, weight, units, dxs),
        (Path::Winograd, _) => winograd::grad_input(s, grads, &winograd::Weights::flipped(s, weight), dxs),
        _ => dense::grad_input(s, grads, weight, dxs),
    }
}

/// [`dense::grad_weight`], by the faster of the dense kernels.
pub fn grad_weight<T: Number, X: Source<T>>(s: &ConvShape, xs: &[X], grads: &[T], dweight: &mut [T]) {
    match choice::dense_grad_weight(s) {
        Path::Winograd => winograd::grad_weight(s, xs, grads, dweight),
        _ => dense::grad_weight(s, xs, grads, dweight),
    }
}

/// [`dense::grad_weight`] of packed spikes, of which there are `share` a unit, by the fastest kernel.
pub fn grad_weight_of_spikes<T: Number>(s: &ConvShape, spikes: &[u8], share: f64, grads: &[T], dweight: &mut [T]) {
    match choice::grad_weight::<T>(s, share) {
        Path::Matrix(unit) => {
            let singles = T::singles(grads).zip(T::singles_mut(dweight)).expect("the unit is for f32");
            amx::grad_weight(unit, s, spikes, singles.0, singles.1);
        }
        Path::Spikes => spikes::grad_weight(s, spikes, grads, dweight),
        Path::Direct | Path::Winograd => grad_weight(s, spikes, grads, dweight),
    }
}

/// Sizes of a convolution, already checked: `[n, h, w, c_in]` with weight `[c_out, c_in, k, k]` to
/// `[n, h_out, w_out, c_out]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    pub n: usize,
    pub c_in: usize,
    pub h: usize,
    pub w: usize,
    pub c_out: usize,
    pub k: usize,
    pub stride: usize,
    pub padding: usize,
    /// Groups of channels that do not see each other.
    pub groups: usize,
    pub h_out: usize,
    pub w_out: usize,
}

impl ConvShape {
    /// Numbers in the input, `n * h * w * c_in`.
    pub fn x_len(&self) -> usize {
        self.n * self.h * self.w * self.c_in
    }

    /// Numbers in the output, `n * h_out * w_out * c_out`.
    pub fn y_len(&self) -> usize {
        self.n * self.h_out * self.w_out * self.c_out
    }

    /// Numbers in the weight, `c_out * c_in * k * k`.
    pub fn weight_len(&self) -> usize {
        self.c_out * self.c_in * self.k * self.k
    }
}

/// Which maps of `[timesteps, all]` a kernel works on: those of some images, at every timestep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    pub timesteps: usize,
    /// Images in memory.
    pub all: usize,
    pub range: Range<usize>,
}

impl Images {
    /// All of them.
    pub fn all(timesteps: usize, all: usize) -> Self {
        Self { timesteps, all, range: 0..all }
    }

    /// Maps at all timesteps.
    pub fn rows(&self) -> usize {
        self.timesteps * self.range.len()
    }

    /// Where in memory the maps are, `len` values long: one stretch for each timestep.
    pub fn stretches(&self, len: usize) -> impl Iterator<Item = Range<usize>> {
        let Self { timesteps, all, ref range } = *self;
        let (start, end) = (range.start, range.end);
        (0..timesteps).map(move |t| (t * all + start) * len..(t * all + end) * len)
    }
}

/// What a synapse reads: numbers, or packed spikes.
///
/// The low 7 bits of a packed byte are the count s; the top bit belongs to somebody else and is ignored.
pub trait Source<T>: Copy + Send + Sync + Default {
    /// The number that the weight is multiplied by.
    fn value(self) -> T;
}

impl<T: Number> Source<T> for T {
    #[inline(always)]
    fn value(self) -> T {
        self
    }
}

impl<T: Number> Source<T> for u8 {
    #[inline(always)]
    fn value(self) -> T {
        T::from_f64(f64::from(self & 0x7f))
    }
}
