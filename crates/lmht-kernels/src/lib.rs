//! Kernels of LM-HT spiking networks over plain slices; they know nothing of tensors.
//!
//! Maps are `[rows, h, w, c]`, rows are images at one timestep after the other. They hold numbers, `f32` or `f64`, or packed
//! spikes: a byte a unit, in the low 7 bits the count s, in the top bit whether the unit wants a gradient.
//!
//! ```
//! use lmht_kernels::{ConvShape, Images, Maps, forward};
//!
//! // A 2x2 kernel over one map of 2x3 pixels and one channel.
//! let shape = ConvShape {
//!     n: 1, h: 2, w: 3, c_in: 1,
//!     h_out: 1, w_out: 2, c_out: 1,
//!     k: 2, stride: 1, padding: 0, groups: 1,
//! };
//! let spikes = [0, 1, 2,
//!               1, 0, 0];
//! let weight = [1., 10.,
//!               100., 1000.];
//! let mut ys = [0.; 2];
//! let maps = Maps::Spikes { bytes: &spikes, amplitude: 1., changes: 0.5 };
//! forward(&shape, &Images::all(1, 1), maps, &weight, &mut ys);
//! assert_eq!(ys, [110., 21.]);
//! ```
//!
//! | what | items |
//! |---|---|
//! | a synapse, forward | [`forward()`]; [`Weights`] keeps the weights in the order of the kernels; [`Maps`], [`Images`] |
//! | a synapse, back | [`grad_weight`] of [`WeightMaps`], [`grad_input`] |
//! | what the choice of a kernel goes by | [`count`], [`tally`], [`Counts`], [`share`] |
//! | pooling | [`pool`] |
//! | attention without softmax | [`attention`] |
//! | loops in the best vectors of the processor | [`run_vectorized`], [`Kernel`], [`Number`] |
//!
//! Results do not depend on the number of threads. They depend on the processor in two ways: with fused multiply-add sums
//! round once less, and which kernel is the fastest is not the same on all.
//!
//! Behind a synapse is one of these (`choice.rs` says which):
//!
//! | file | what |
//! |---|---|
//! | `dense.rs` | any convolution without groups, the yardstick of the others |
//! | `winograd.rs` | kernels of 3x3 in fewer products |
//! | `spikes.rs` | packed spikes, skipping what is zero |
//! | `amx.rs` | packed spikes on the matrix unit of x86 processors that have one |
//! | `grouped.rs` | channels in groups, depthwise ones among them |
//! | `number.rs`, `tile.rs`, `lines.rs`, `phase.rs` | number types and vectors, register tiles, aligned buffers, strides taken apart |

mod amx;
pub mod attention;
mod choice;
mod comparable;
mod compiled;
mod counts;
mod dense;
mod gradients;
mod grouped;
mod lines;
#[doc(hidden)]
pub mod measured;
mod number;
mod phase;
pub mod pool;
mod spikes;
mod synapse;
mod tile;
mod winograd;

use std::ops::Range;

pub(crate) use choice::Path;
pub use compiled::{Compiled, forward, grad_input, grad_weight};
pub use counts::{Counts, count, share, tally};
pub use gradients::WeightMaps;
/// The top bit of a packed byte.
pub(crate) use lmht_core::IN_GATE;
pub use number::{Kernel, Number, run_vectorized};
pub use synapse::{Maps, Weights};

/// Sizes of a convolution: `[n, h, w, c_in]` with weight `[c_out, c_in / groups, k, k]` to `[n, h_out, w_out, c_out]`.
///
/// ```
/// use lmht_kernels::ConvShape;
///
/// let linear = ConvShape::linear(8, 512, 10);
/// assert_eq!((linear.x_len(), linear.weight_len(), linear.y_len()), (4096, 5120, 80));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Maps.
    pub n: usize,
    /// Channels of the input.
    pub c_in: usize,
    /// Height of the input.
    pub h: usize,
    /// Width of the input.
    pub w: usize,
    /// Channels of the output.
    pub c_out: usize,
    /// Height and width of the kernel.
    pub k: usize,
    /// Step of the kernel.
    pub stride: usize,
    /// Pixels of zeros around the input.
    pub padding: usize,
    /// Groups of channels that do not see each other: divides `c_in` and `c_out`.
    pub groups: usize,
    /// Height of the output.
    pub h_out: usize,
    /// Width of the output.
    pub w_out: usize,
}

impl ConvShape {
    /// A fully connected layer on `n` rows.
    #[must_use]
    pub fn linear(n: usize, c_in: usize, c_out: usize) -> Self {
        Self { n, c_in, h: 1, w: 1, c_out, k: 1, stride: 1, padding: 0, groups: 1, h_out: 1, w_out: 1 }
    }

    /// Numbers in the input, `n * h * w * c_in`.
    #[must_use]
    pub fn x_len(&self) -> usize {
        self.n * self.h * self.w * self.c_in
    }

    /// Numbers in the output, `n * h_out * w_out * c_out`.
    #[must_use]
    pub fn y_len(&self) -> usize {
        self.n * self.h_out * self.w_out * self.c_out
    }

    /// Numbers in the weight, `c_out * c_in / groups * k * k`.
    #[must_use]
    pub fn weight_len(&self) -> usize {
        self.c_out * (self.c_in / self.groups.max(1)) * self.k * self.k
    }

    /// Panics unless the sizes fit each other.
    #[track_caller]
    fn check(&self) {
        let divides = |c: usize| self.groups > 0 && c.is_multiple_of(self.groups);
        assert!(divides(self.c_in) && divides(self.c_out), "groups must divide the channels of {self:?}");
        let out = |size: usize| {
            let last = (size + 2 * self.padding).checked_sub(self.k);
            last.filter(|_| self.stride > 0).map(|last| last / self.stride + 1)
        };
        let is_true = out(self.h) == Some(self.h_out) && out(self.w) == Some(self.w_out);
        assert!(is_true, "an output of {:?}x{:?} from {self:?}", out(self.h), out(self.w));
    }
}

/// Which maps of `[timesteps, all]` a kernel works on: those of some images, at every timestep.
///
/// ```
/// use lmht_kernels::Images;
///
/// // The last two of three images, at two timesteps, maps of 10 values.
/// let images = Images { range: 1..3, ..Images::all(2, 3) };
/// assert_eq!(images.rows(), 4);
/// assert_eq!(images.stretches(10).collect::<Vec<_>>(), [10..30, 40..60]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// Timesteps.
    pub timesteps: usize,
    /// Images in memory.
    pub all: usize,
    /// The images that are worked on.
    pub range: Range<usize>,
}

impl Images {
    /// All of them.
    #[must_use]
    pub fn all(timesteps: usize, all: usize) -> Self {
        Self { timesteps, all, range: 0..all }
    }

    /// Maps at all timesteps.
    #[must_use]
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
pub(crate) trait Source<T>: Copy + Send + Sync + Default {
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
        T::from_f64(f64::from(self & !IN_GATE))
    }
}
