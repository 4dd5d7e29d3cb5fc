//! The number types of the kernels, and the choice of instructions at run time.

use pulp::Arch;

use crate::comparable::Comparable;

/// `f32` or `f64`: what the kernels compute in.
///
/// ```
/// use lmht_kernels::Number;
/// assert_eq!(Number::mul_add::<false>(2_f32, 3., 1.), 7.);
/// ```
pub trait Number: lmht_core::Real + Vectorized + Comparable {
    /// `self * b + c`; with `FMA` rounded once, which is one instruction on processors that have it.
    #[must_use]
    fn mul_add<const FMA: bool>(self, b: Self, c: Self) -> Self;
}

/// What only this crate does with its number types.
pub trait Vectorized: Sized {
    /// Numbers in a [block](Vectors::Block), 512 bits: 16 of `f32`, 8 of `f64`.
    const LANES: usize;

    /// The same numbers, if they are `f32`.
    fn singles(xs: &[Self]) -> Option<&[f32]>;

    /// As [`Self::singles`], to be written.
    fn singles_mut(xs: &mut [Self]) -> Option<&mut [f32]>;

    /// Runs a kernel with the best vectors of this processor.
    fn run_with_vectors<K: VectorKernel<Self>>(kernel: K);
}

/// Arithmetic on vectors: blocks of 512 bits, in one register or in two, and the 256 bits of half a block.
pub trait Vectors<T>: Copy {
    /// [`Number::LANES`] numbers.
    type Block: Copy;

    /// Half of [`Number::LANES`] numbers.
    type Half: Copy;

    /// Whether a block is one register of 32, and not two of 16.
    const WIDE: bool;

    /// Blocks in `xs`, whose length must be a multiple of [`Number::LANES`].
    fn blocks(xs: &[T]) -> &[Self::Block];

    /// As [`Self::blocks`], to be written.
    fn blocks_mut(xs: &mut [T]) -> &mut [Self::Block];

    /// `x` in all places.
    fn splat(self, x: T) -> Self::Block;

    /// `a * b + c`, rounded once on processors that have it as one instruction.
    fn mul_add(self, a: Self::Block, b: Self::Block, c: Self::Block) -> Self::Block;

    /// The first numbers of `xs`.
    fn load_half(xs: &[T]) -> Self::Half;

    /// Writes half a block to the first numbers of `xs`.
    fn store_half(half: Self::Half, xs: &mut [T]);

    /// Exchanges rows and columns of a square.
    fn transpose(self, rows: &mut [Self::Half]);
}

/// Work in vectors of numbers `T`.
///
/// `run` and all that it calls must be `#[inline(always)]`, otherwise it keeps the baseline's instructions.
pub trait VectorKernel<T> {
    /// Does the work.
    fn run<V: Vectors<T>>(self, vectors: V);
}

/// Vectors for every processor; the compiler makes of them what the baseline has.
#[derive(Debug, Clone, Copy)]
struct Plain;

/// What vectors in an array have in common.
macro_rules! memory {
    ($t:ty, $half:expr) => {
        type Block = [$t; 2 * $half];
        type Half = [$t; $half];

        #[inline(always)]
        fn blocks(xs: &[$t]) -> &[Self::Block] {
            xs.as_chunks().0
        }

        #[inline(always)]
        fn blocks_mut(xs: &mut [$t]) -> &mut [Self::Block] {
            xs.as_chunks_mut().0
        }

        #[inline(always)]
        fn splat(self, x: $t) -> Self::Block {
            [x; 2 * $half]
        }

        #[inline(always)]
        fn load_half(xs: &[$t]) -> Self::Half {
            *xs.first_chunk().expect("enough numbers for half a block")
        }

        #[inline(always)]
        fn store_half(half: Self::Half, xs: &mut [$t]) {
            *xs.first_chunk_mut().expect("room for half a block") = half;
        }
    };
}

macro_rules! impl_number {
    ($t:ty, $half:expr, $singles:expr, $mul_add:ident, $mul_add_wide:ident, $transpose:ident) => {
        impl Number for $t {
            #[inline(always)]
            fn mul_add<const FMA: bool>(self, b: Self, c: Self) -> Self {
                // Without the instruction, `mul_add` is a call into libm and a hundred times slower.
                if FMA { <$t>::mul_add(self, b, c) } else { self * b + c }
            }
        }

        impl Vectorized for $t {
            const LANES: usize = 2 * $half;

            fn singles(xs: &[Self]) -> Option<&[f32]> {
                $singles(xs)
            }

            fn singles_mut(xs: &mut [Self]) -> Option<&mut [f32]> {
                $singles(xs)
            }

            fn run_with_vectors<K: VectorKernel<Self>>(kernel: K) {
                #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
                match best() {
                    Arch::V4(v4) => {
                        return v4.vectorize(
                            #[inline(always)]
                            || kernel.run(v4),
                        );
                    }
                    Arch::V3(v3) => {
                        return v3.vectorize(
                            #[inline(always)]
                            || kernel.run(v3),
                        );
                    }
                    _ => {}
                }
                kernel.run(Plain);
            }
        }

        impl Vectors<$t> for Plain {
            const WIDE: bool = false;
            memory!($t, $half);

            #[inline(always)]
            fn transpose(self, rows: &mut [Self::Half]) {
                let rows: &mut [Self::Half; $half] = rows.try_into().expect("a square of numbers");
                for i in 1..$half {
                    for j in 0..i {
                        (rows[i][j], rows[j][i]) = (rows[j][i], rows[i][j]);
                    }
                }
            }

            #[inline(always)]
            fn mul_add(self, a: Self::Block, b: Self::Block, c: Self::Block) -> Self::Block {
                let mut sum = c;
                for (sum, (a, b)) in sum.iter_mut().zip(a.into_iter().zip(b)) {
                    *sum += a * b;
                }
                sum
            }
        }

        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        impl Vectors<$t> for pulp::x86::V3 {
            const WIDE: bool = false;
            memory!($t, $half);

            #[inline(always)]
            fn transpose(self, rows: &mut [Self::Half]) {
                let rows: &mut [Self::Half; $half] = rows.try_into().expect("a square of numbers");
                *rows = $transpose(self, *rows);
            }

            #[inline(always)]
            fn mul_add(self, a: Self::Block, b: Self::Block, c: Self::Block) -> Self::Block {
                let halves = |x: Self::Block| -> [Self::Half; 2] { pulp::cast(x) };
                let (a, b, c) = (halves(a), halves(b), halves(c));
                let sum = |i: usize| -> Self::Half {
                    pulp::cast(self.$mul_add(pulp::cast(a[i]), pulp::cast(b[i]), pulp::cast(c[i])))
                };
                pulp::cast([sum(0), sum(1)])
            }
        }

        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        impl Vectors<$t> for pulp::x86::V4 {
            const WIDE: bool = true;
            memory!($t, $half);

            #[inline(always)]
            fn transpose(self, rows: &mut [Self::Half]) {
                <pulp::x86::V3 as Vectors<$t>>::transpose(*self, rows);
            }

            #[inline(always)]
            fn mul_add(self, a: Self::Block, b: Self::Block, c: Self::Block) -> Self::Block {
                pulp::cast(self.$mul_add_wide(pulp::cast(a), pulp::cast(b), pulp::cast(c)))
            }
        }
    };
}
impl_number!(f32, 8, Some, mul_add_f32x8, mul_add_f32x16, transpose_f32);
impl_number!(f64, 4, |_| None, mul_add_f64x4, mul_add_f64x8, transpose_f64);

/// Pairs of numbers, pairs of pairs, halves.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
#[inline(always)]
fn transpose_f32(v3: pulp::x86::V3, rows: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
    let avx = v3.avx;
    let mut columns = [[0.; 8]; 8];
    let mut quarters = [[pulp::cast([0_f32; 8]); 4]; 2];
    for (quarters, rows) in quarters.iter_mut().zip(rows.as_chunks::<4>().0) {
        let (a, b, c, d) = (pulp::cast(rows[0]), pulp::cast(rows[1]), pulp::cast(rows[2]), pulp::cast(rows[3]));
        let (ab, cd) = (avx._mm256_unpacklo_ps(a, b), avx._mm256_unpacklo_ps(c, d));
        let (ab_high, cd_high) = (avx._mm256_unpackhi_ps(a, b), avx._mm256_unpackhi_ps(c, d));
        *quarters = [
            avx._mm256_shuffle_ps::<0x44>(ab, cd),
            avx._mm256_shuffle_ps::<0xee>(ab, cd),
            avx._mm256_shuffle_ps::<0x44>(ab_high, cd_high),
            avx._mm256_shuffle_ps::<0xee>(ab_high, cd_high),
        ];
    }
    let [left, right] = quarters;
    for i in 0..4 {
        columns[i] = pulp::cast(avx._mm256_permute2f128_ps::<0x20>(left[i], right[i]));
        columns[i + 4] = pulp::cast(avx._mm256_permute2f128_ps::<0x31>(left[i], right[i]));
    }
    columns
}

/// Pairs of numbers, halves.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
#[inline(always)]
fn transpose_f64(v3: pulp::x86::V3, rows: [[f64; 4]; 4]) -> [[f64; 4]; 4] {
    let avx = v3.avx;
    let [a, b, c, d] = rows;
    let [a, b, c, d] = [pulp::cast(a), pulp::cast(b), pulp::cast(c), pulp::cast(d)];
    let left = [avx._mm256_unpacklo_pd(a, b), avx._mm256_unpackhi_pd(a, b)];
    let right = [avx._mm256_unpacklo_pd(c, d), avx._mm256_unpackhi_pd(c, d)];
    let mut columns = [[0.; 4]; 4];
    for i in 0..2 {
        columns[i] = pulp::cast(avx._mm256_permute2f128_pd::<0x20>(left[i], right[i]));
        columns[i + 2] = pulp::cast(avx._mm256_permute2f128_pd::<0x31>(left[i], right[i]));
    }
    columns
}

/// Work that is compiled once for the baseline processor and once for the best one that `pulp` can detect.
///
/// `run` and all that it calls must be `#[inline(always)]`, otherwise it keeps the baseline's instructions. What the
/// compiler does not turn into vectors by itself is a `VectorKernel`.
pub trait Kernel {
    /// Does the work; `FMA` tells whether fused multiply-add is one instruction.
    fn run<const FMA: bool>(self);
}

/// Runs a kernel with the widest vectors of this processor.
///
/// ```
/// use lmht_kernels::{Kernel, run_vectorized};
///
/// struct Double<'a>(&'a mut [f32]);
///
/// impl Kernel for Double<'_> {
///     #[inline(always)]
///     fn run<const FMA: bool>(self) {
///         self.0.iter_mut().for_each(|x| *x += *x);
///     }
/// }
///
/// let mut xs = [1., 2., 3.];
/// run_vectorized(Double(&mut xs));
/// assert_eq!(xs, [2., 4., 6.]);
/// ```
pub fn run_vectorized<K: Kernel>(kernel: K) {
    run_on(Arch::new(), kernel);
}

/// Runs a kernel with vectors of 256 bits at most: where it works on lines of eight numbers, the compiler makes longer ones by
/// shuffling two lines into one.
pub(crate) fn run_vectorized_narrow<K: Kernel>(kernel: K) {
    let arch = Arch::new();
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    let arch = if let Arch::V4(v4) = arch { Arch::V3(*v4) } else { arch };
    run_on(arch, kernel);
}

fn run_on<K: Kernel>(arch: Arch, kernel: K) {
    match arch {
        Arch::Scalar => kernel.run::<false>(),
        arch => arch.dispatch(
            #[inline(always)]
            || kernel.run::<true>(),
        ),
    }
}

/// The best vectors of this processor.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn best() -> Arch {
    let arch = Arch::new();
    #[cfg(test)]
    if let (true, Arch::V4(v4)) = (narrow::IS_ON.load(std::sync::atomic::Ordering::Relaxed), arch) {
        return Arch::V3(*v4);
    }
    arch
}

/// For tests on a processor with wide vectors: the ones that others have. Tests that run at the same time do not notice,
/// because the vectors change no bit.
#[cfg(test)]
pub(crate) mod narrow {
    use std::sync::atomic::{AtomicBool, Ordering};

    pub(super) static IS_ON: AtomicBool = AtomicBool::new(false);

    /// Runs `f` with vectors of 256 bits at most.
    pub(crate) fn with<R>(f: impl FnOnce() -> R) -> R {
        IS_ON.store(true, Ordering::Relaxed);
        let result = f();
        IS_ON.store(false, Ordering::Relaxed);
        result
    }
}

/// Whether the best vectors of this processor have 512 bits.
pub(crate) fn has_wide_vectors() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return matches!(Arch::new(), Arch::V4(_));
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64")))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Transposes a square of the numbers 0, 1, ..., and multiplies each by 3 and adds 1.
    struct Square<'a, T>(&'a mut [T]);

    impl<T: Number> VectorKernel<T> for Square<'_, T> {
        #[inline(always)]
        fn run<V: Vectors<T>>(self, vectors: V) {
            let side = T::LANES / 2;
            let number = |i: usize| T::from_f64(i as f64);
            let numbers: Vec<T> = (0..side * side).map(number).collect();
            let mut rows: Vec<V::Half> = numbers.chunks_exact(side).map(V::load_half).collect();
            vectors.transpose(&mut rows);
            for (row, to) in rows.into_iter().zip(self.0.chunks_exact_mut(side)) {
                V::store_half(row, to);
            }
            // Blocks are what lies there.
            assert_eq!(V::blocks(&numbers).len(), side / 2);
            for block in V::blocks_mut(self.0) {
                *block = vectors.mul_add(*block, vectors.splat(number(3)), vectors.splat(number(1)));
            }
        }
    }

    fn check<T: Number + std::fmt::Debug>(run: impl Fn(Square<'_, T>)) {
        let side = T::LANES / 2;
        let expected: Vec<T> =
            (0..side * side).map(|i| T::from_f64((i % side * side + i / side) as f64 * 3. + 1.)).collect();
        let mut square = vec![T::default(); side * side];
        run(Square(&mut square));
        assert_eq!(square, expected);
    }

    #[test]
    fn the_best_vectors_do_what_the_definition_says() {
        check::<f32>(|square| f32::run_with_vectors(square));
        check::<f64>(|square| f64::run_with_vectors(square));
    }

    /// Those that a better processor would not be given.
    #[test]
    fn the_other_vectors_do_what_the_definition_says() {
        check::<f32>(|square| square.run(Plain));
        check::<f64>(|square| square.run(Plain));
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        if let Some(v3) = pulp::x86::V3::try_new() {
            check::<f32>(|square| {
                v3.vectorize(
                    #[inline(always)]
                    || square.run(v3),
                )
            });
            check::<f64>(|square| {
                v3.vectorize(
                    #[inline(always)]
                    || square.run(v3),
                )
            });
        }
    }
}
