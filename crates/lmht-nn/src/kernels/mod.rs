//! Convolution over plain slices in `[N, H, W, C]`.
pub(crate) mod dense;
pub(crate) mod spikes;
pub(crate) use crate::ops::real::{Kernel, Real, run_vectorized};

/// [n, h, w, c_in] with weight [c_out, c_in, k, k] to [n, h_out, w_out, c_out].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConvShape {
    pub(crate) n: usize,
    pub(crate) c_in: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
    pub(crate) c_out: usize,
    pub(crate) k: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    pub(crate) h_out: usize,
    pub(crate) w_out: usize,
}

/// What a synapse reads.
pub(crate) trait Source<T>: Copy + Send + Sync + Default {
    fn value(self) -> T;
}
impl<T: Real> Source<T> for T {
    #[inline(always)]
    fn value(self) -> T {
        self
    }
}

impl<T: Real> Source<T> for u8 {
    #[inline(always)]
    fn value(self) -> T {
        T::from_f64(f64::from(self & 0x7f))
    }
}
