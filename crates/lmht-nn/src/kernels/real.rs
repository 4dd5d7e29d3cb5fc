//! The number types of the kernels and fused operations, and the choice of instructions at run time.

use candle_core::WithDType;
use pulp::Arch;

/// `f32` or `f64`: what the fused operations compute in.
pub(crate) trait Real: WithDType + Default {
    /// `self * b + c`; with `FMA` rounded once, which is one instruction on processors that have it.
    fn mul_add<const FMA: bool>(self, b: Self, c: Self) -> Self;
}

macro_rules! impl_real {
    ($t:ty) => {
        impl Real for $t {
            #[inline(always)]
            fn mul_add<const FMA: bool>(self, b: Self, c: Self) -> Self {
                // Without the instruction, `mul_add` is a call into libm and a hundred times slower.
                if FMA { <$t>::mul_add(self, b, c) } else { self * b + c }
            }
        }
    };
}
impl_real!(f32);
impl_real!(f64);

/// Work that is compiled once for the baseline processor and once for the best one that `pulp` can detect.
///
/// `run` and all that it calls must be `#[inline(always)]`, otherwise it keeps the baseline's instructions.
pub(crate) trait Kernel {
    /// Does the work; `FMA` tells whether fused multiply-add is one instruction.
    fn run<const FMA: bool>(self);
}

/// Runs a kernel with the widest vectors of this processor.
pub(crate) fn run_vectorized<K: Kernel>(kernel: K) {
    match Arch::new() {
        Arch::Scalar => kernel.run::<false>(),
        arch => arch.dispatch(
            #[inline(always)]
            || kernel.run::<true>(),
        ),
    }
}
