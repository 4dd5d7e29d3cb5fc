//! The two floating-point types the neuron mathematics is written for.
//!
//! Everything in this crate is generic over [`Real`], so that the `f64` result, which the equivalences of the paper are
//! checked with, and the `f32` result, which networks train with, come from the same lines.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

use crate::lmht::compiled::Compiled;

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
    + Compiled
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
    + SubAssign
    + Mul<Output = Self>
    + MulAssign
    + Div<Output = Self>
    + DivAssign
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
    /// The same count as an integer, for whole numbers in `0..=65536`.
    ///
    /// ```
    /// use lmht_core::Real;
    /// assert_eq!((3.0_f32.to_count(), 65536.0_f64.to_count()), (3, 65536));
    /// ```
    fn to_count(self) -> u32;
    /// eˣ.
    fn exp(self) -> Self;
    /// The largest whole number that is not above this one.
    fn floor(self) -> Self;
}

macro_rules! real {
    ($float:ty, $mantissa:literal) => {
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
            fn to_count(self) -> u32 {
                // Above 2^mantissa neighbouring floats are 1 apart: the count stands in the last bits. A cast would do
                // the same, but saturates, which vectors of floats do badly.
                const ONES: $float = (1_u64 << $mantissa) as $float;
                (self + ONES).to_bits() as u32 & 0x1_ffff
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
real!(f32, 23);
real!(f64, 52);

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
    /// The same number, for `0..=LARGEST`.
    fn from_count(count: u32) -> Self;
}

macro_rules! spike_count {
    ($integer:ty) => {
        impl SpikeCount for $integer {
            const LARGEST: u32 = <$integer>::MAX as u32;

            #[inline(always)]
            fn from_count(count: u32) -> Self {
                count as Self
            }
        }
    };
}
spike_count!(u8);
spike_count!(u16);
spike_count!(u32);
