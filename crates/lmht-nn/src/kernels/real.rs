//! The number types of the kernels, and the choice of instructions at run time.

use candle_core::WithDType;
use pulp::Arch;

/// `f32` or `f64`: what the kernels compute in.
pub(crate) trait Real: WithDType + Default {
    /// Numbers in two vectors of 256 bits: 16 of `f32`, 8 of `f64`.
    const LANES: usize;

    /// `self * b + c`; with `FMA` rounded once, which is one instruction on processors that have it.
    fn mul_add<const FMA: bool>(self, b: Self, c: Self) -> Self;

    /// Runs a kernel with the best vectors of this processor.
    fn run_with_vectors<K: VectorKernel<Self>>(kernel: K);
}

/// Arithmetic on vectors of 256 bits.
pub(crate) trait Vectors<T>: Copy {
    /// Half of [`Real::LANES`] numbers.
    type V: Copy;

    /// Pairs of vectors in `xs`, whose length must be a multiple of [`Real::LANES`].
    fn pairs(xs: &[T]) -> &[[Self::V; 2]];

    /// As [`Self::pairs`], to be written.
    fn pairs_mut(xs: &mut [T]) -> &mut [[Self::V; 2]];

    /// `x` in all places.
    fn splat(self, x: T) -> Self::V;

    /// `a * b + c`, rounded once on processors that have it as one instruction.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
}

/// Work in vectors of numbers `T`.
///
/// `run` and all that it calls must be `#[inline(always)]`, otherwise it keeps the baseline's instructions.
pub(crate) trait VectorKernel<T> {
    /// Does the work.
    fn run<V: Vectors<T>>(self, vectors: V);
}

/// Vectors for every processor; the compiler makes of them what the baseline has.
#[derive(Debug, Clone, Copy)]
struct Plain;

macro_rules! impl_real {
    ($t:ty, $half:expr, $mul_add:ident) => {
        impl Real for $t {
            const LANES: usize = 2 * $half;

            #[inline(always)]
            fn mul_add<const FMA: bool>(self, b: Self, c: Self) -> Self {
                // Without the instruction, `mul_add` is a call into libm and a hundred times slower.
                if FMA { <$t>::mul_add(self, b, c) } else { self * b + c }
            }

            fn run_with_vectors<K: VectorKernel<Self>>(kernel: K) {
                #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
                if let Some(v3) = pulp::x86::V3::try_new() {
                    return v3.vectorize(
                        #[inline(always)]
                        || kernel.run(v3),
                    );
                }
                kernel.run(Plain);
            }
        }

        impl Vectors<$t> for Plain {
            type V = [$t; $half];

            #[inline(always)]
            fn pairs(xs: &[$t]) -> &[[Self::V; 2]] {
                xs.as_chunks().0.as_chunks().0
            }

            #[inline(always)]
            fn pairs_mut(xs: &mut [$t]) -> &mut [[Self::V; 2]] {
                xs.as_chunks_mut().0.as_chunks_mut().0
            }

            #[inline(always)]
            fn splat(self, x: $t) -> Self::V {
                [x; $half]
            }

            #[inline(always)]
            fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                let mut sum = c;
                for (sum, (a, b)) in sum.iter_mut().zip(a.into_iter().zip(b)) {
                    *sum += a * b;
                }
                sum
            }
        }

        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        impl Vectors<$t> for pulp::x86::V3 {
            type V = [$t; $half];

            #[inline(always)]
            fn pairs(xs: &[$t]) -> &[[Self::V; 2]] {
                xs.as_chunks().0.as_chunks().0
            }

            #[inline(always)]
            fn pairs_mut(xs: &mut [$t]) -> &mut [[Self::V; 2]] {
                xs.as_chunks_mut().0.as_chunks_mut().0
            }

            #[inline(always)]
            fn splat(self, x: $t) -> Self::V {
                [x; $half]
            }

            #[inline(always)]
            fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                pulp::cast(self.$mul_add(pulp::cast(a), pulp::cast(b), pulp::cast(c)))
            }
        }
    };
}
impl_real!(f32, 8, mul_add_f32x8);
impl_real!(f64, 4, mul_add_f64x4);

/// Work that is compiled once for the baseline processor and once for the best one that `pulp` can detect.
///
/// `run` and all that it calls must be `#[inline(always)]`, otherwise it keeps the baseline's instructions. What the
/// compiler does not turn into vectors by itself is a [`VectorKernel`].
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
