//! The two floating-point types the neuron mathematics is written for.
//!
//! Everything in this crate is generic over [`Real`], so that the `f64` result, which the equivalences of the paper are
//! checked with, and the `f32` result, which networks train with, come from the same lines.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

mod sealed {
    /// Keeps [`Real`](super::Real) and [`SpikeCount`](super::SpikeCount) to the types of this file.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
    impl Sealed for u8 {}
    impl Sealed for u16 {}
    impl Sealed for u32 {}
}

/// `f32` or `f64`. Sealed: the kernels are tested for these two.
///
/// ```
/// use lmht_core::Real;
/// fn half<R: Real>(x: R) -> R {
///     x * R::HALF
/// }
/// assert_eq!((half(3.0_f32), half(3.0_f64)), (1.5, 1.5));
/// ```
pub trait Real:
    sealed::Sealed
    + Copy
    + Debug
    + Default
    + PartialEq
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + AddAssign
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1/2.
    const HALF: Self;
    /// 1.
    const ONE: Self;

    /// The nearest value of this type.
    fn from_f64(value: f64) -> Self;
    /// The same value as `f64`; exact.
    fn to_f64(self) -> f64;
    /// A count, for example the k of kθ; exact up to 2²⁴.
    fn from_count(count: u32) -> Self;
    /// eˣ.
    fn exp(self) -> Self;
    /// The largest whole number that is not above this one.
    fn floor(self) -> Self;
}

macro_rules! real {
    ($float:ty) => {
        impl Real for $float {
            const ZERO: Self = 0.0;
            const HALF: Self = 0.5;
            const ONE: Self = 1.0;

            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as Self
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn from_count(count: u32) -> Self {
                count as Self
            }
            #[inline(always)]
            fn exp(self) -> Self {
                <$float>::exp(self)
            }
            #[inline(always)]
            fn floor(self) -> Self {
                <$float>::floor(self)
            }
        }
    };
}
real!(f32);
real!(f64);

/// An integer that a spike count s(t) is stored in: `u8`, `u16` or `u32`. Sealed.
///
/// One byte is enough for every published network (L is 1, 2 or 4) and a quarter of what `f32` takes.
///
/// ```
/// use lmht_core::SpikeCount;
/// assert_eq!(<u8 as SpikeCount>::LARGEST, 255);
/// ```
pub trait SpikeCount: sealed::Sealed + Copy + Debug + Eq + Send + Sync + 'static {
    /// The largest number of levels L that fits.
    const LARGEST: u32;
    /// A whole number in `0..=LARGEST`, exactly.
    fn from_real<R: Real>(spikes: R) -> Self;
}

macro_rules! spike_count {
    ($integer:ty) => {
        impl SpikeCount for $integer {
            const LARGEST: u32 = <$integer>::MAX as u32;

            #[inline(always)]
            fn from_real<R: Real>(spikes: R) -> Self {
                spikes.to_f64() as Self
            }
        }
    };
}
spike_count!(u8);
spike_count!(u16);
spike_count!(u32);
