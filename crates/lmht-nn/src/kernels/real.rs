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

    /// The first numbers of `xs` as a vector.
    fn load(xs: &[T]) -> Self::V;

    /// Writes a vector to the first numbers of `xs`.
    fn store(vector: Self::V, xs: &mut [T]);

    /// Exchanges rows and columns of as many vectors as a vector has numbers.
    fn transpose(self, rows: &mut [Self::V]);

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

/// What vectors in an array have in common.
macro_rules! memory {
    ($t:ty, $half:expr) => {
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
        fn load(xs: &[$t]) -> Self::V {
            *xs.first_chunk().expect("enough numbers for a vector")
        }

        #[inline(always)]
        fn store(vector: Self::V, xs: &mut [$t]) {
            *xs.first_chunk_mut().expect("room for a vector") = vector;
        }

        #[inline(always)]
        fn splat(self, x: $t) -> Self::V {
            [x; $half]
        }
    };
}

macro_rules! impl_real {
    ($t:ty, $half:expr, $mul_add:ident, $transpose:ident) => {
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
            memory!($t, $half);

            #[inline(always)]
            fn transpose(self, rows: &mut [Self::V]) {
                let rows: &mut [Self::V; $half] = rows.try_into().expect("a square of numbers");
                for i in 1..$half {
                    for j in 0..i {
                        (rows[i][j], rows[j][i]) = (rows[j][i], rows[i][j]);
                    }
                }
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
            memory!($t, $half);

            #[inline(always)]
            fn transpose(self, rows: &mut [Self::V]) {
                let rows: &mut [Self::V; $half] = rows.try_into().expect("a square of numbers");
                *rows = $transpose(self, *rows);
            }

            #[inline(always)]
            fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                pulp::cast(self.$mul_add(pulp::cast(a), pulp::cast(b), pulp::cast(c)))
            }
        }
    };
}
impl_real!(f32, 8, mul_add_f32x8, transpose_f32);
impl_real!(f64, 4, mul_add_f64x4, transpose_f64);

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

#[cfg(test)]
mod tests {
    use super::*;

    /// Transposes a square of the numbers 0, 1, ..., and multiplies each by 3 and adds 1.
    struct Square<'a, T>(&'a mut [T]);

    impl<T: Real> VectorKernel<T> for Square<'_, T> {
        #[inline(always)]
        fn run<V: Vectors<T>>(self, vectors: V) {
            let side = T::LANES / 2;
            let number = |i: usize| <T as WithDType>::from_f64(i as f64);
            let numbers: Vec<T> = (0..side * side).map(number).collect();
            let mut rows: Vec<V::V> = numbers.chunks_exact(side).map(V::load).collect();
            vectors.transpose(&mut rows);
            for (row, to) in rows.into_iter().zip(self.0.chunks_exact_mut(side)) {
                V::store(vectors.mul_add(row, vectors.splat(number(3)), vectors.splat(number(1))), to);
            }
            // Pairs are what lies there.
            assert_eq!(V::pairs(&numbers).len(), side / 2);
            assert_eq!(V::pairs_mut(self.0).len(), side / 2);
        }
    }

    fn check<T: Real + std::fmt::Debug>() {
        let side = T::LANES / 2;
        let expected: Vec<T> = (0..side * side)
            .map(|i| <T as WithDType>::from_f64((i % side * side + i / side) as f64 * 3. + 1.))
            .collect();
        let mut best = vec![T::default(); side * side];
        T::run_with_vectors(Square(&mut best));
        assert_eq!(best, expected);
    }

    #[test]
    fn the_best_vectors_do_what_the_definition_says() {
        check::<f32>();
        check::<f64>();
    }

    #[test]
    fn plain_vectors_do_what_the_definition_says() {
        let mut squares = (vec![0_f32; 64], vec![0_f64; 16]);
        Square(&mut squares.0).run(Plain);
        Square(&mut squares.1).run(Plain);
        assert!(squares.0.iter().enumerate().all(|(i, &x)| x == (i % 8 * 8 + i / 8) as f32 * 3. + 1.));
        assert!(squares.1.iter().enumerate().all(|(i, &x)| x == (i % 4 * 4 + i / 4) as f64 * 3. + 1.));
    }
}
