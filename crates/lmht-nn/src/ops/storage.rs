//! Access to the numbers of contiguous CPU tensors.

use crate::kernels::real::Real;
use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

/// The elements of a contiguous operand.
pub(crate) fn as_slice<'a, T: Real>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&T::cpu_storage_as_slice(storage)?[start..end]),
        None => bail!("expected a contiguous operand, got {layout:?}; this is a bug of lmht-nn, please report it"),
    }
}

/// Calls `f` with the elements of a CPU tensor, which is made contiguous first.
pub(crate) fn with_slice<T: Real, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(as_slice(storage, layout)?),
        _ => bail!("expected a CPU tensor, got one on {:?}", tensor.device().location()),
    }
}

/// `len` zeros, for results that a kernel overwrites. One thread that fills them alone takes an eighth of the time that two
/// need for a convolution of large maps.
pub(crate) fn zeros<T: Real>(len: usize) -> Vec<T> {
    /// Bytes that are worth a second thread.
    const LARGE: usize = 1 << 20;
    const LINE: usize = 64;
    if len * size_of::<T>() < LARGE {
        return vec![T::default(); len];
    }
    let lines: Vec<[T; LINE]> = (0..len.div_ceil(LINE)).into_par_iter().map(|_| [T::default(); LINE]).collect();
    let mut zeros = lines.into_flattened();
    zeros.truncate(len);
    zeros
}

/// Runs a body with `$t` (and `$lanes`, the numbers in two AVX2 registers) for the number type of a dtype.
macro_rules! by_dtype {
    ($dtype:expr, $t:ident, $lanes:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $t = f32;
                #[allow(dead_code)]
                const $lanes: usize = 16;
                $body
            }
            candle_core::DType::F64 => {
                type $t = f64;
                #[allow(dead_code)]
                const $lanes: usize = 8;
                $body
            }
            dtype => candle_core::bail!("expected f32 or f64, got {dtype:?}; convert with to_dtype"),
        }
    };
}
pub(crate) use by_dtype;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_of_any_length() {
        for len in [0, 1, 1000, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 300_063] {
            let zeros: Vec<f32> = zeros(len);
            assert_eq!(zeros.len(), len);
            assert!(zeros.iter().all(|x| x.to_bits() == 0));
        }
    }
}
