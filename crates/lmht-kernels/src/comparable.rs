//! What max-pooling compares.

use crate::IN_GATE;

mod sealed {
    /// Keeps [`Comparable`](super::Comparable) to the types of this crate's maps.
    pub trait Sealed {}
    impl Sealed for u8 {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// A value that max-pooling compares: a number, or a packed count. Sealed.
pub trait Comparable: sealed::Sealed + Copy + Default + Send + Sync {
    /// Whether it takes the place of `best`, which came before it.
    ///
    /// ```
    /// use lmht_kernels::pool::Comparable;
    /// // The top bit of a packed count says nothing about its size.
    /// assert!(2_u8.beats(0x81) && !0x81_u8.beats(1) && f32::NAN.beats(f32::INFINITY));
    /// ```
    fn beats(self, best: Self) -> bool;
}

impl Comparable for u8 {
    #[inline(always)]
    fn beats(self, best: Self) -> bool {
        self & !IN_GATE > best & !IN_GATE
    }
}

macro_rules! comparable {
    ($t:ty) => {
        impl Comparable for $t {
            #[inline(always)]
            fn beats(self, best: Self) -> bool {
                // NaN is the maximum of its window, the first of several.
                self > best || (self.is_nan() && !best.is_nan())
            }
        }
    };
}
comparable!(f32);
comparable!(f64);
