//! Access to the numbers of contiguous CPU tensors.

use crate::kernels::real::Real;
use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};

/// The elements of a contiguous operand.
pub(super) fn as_slice<'a, T: Real>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&T::cpu_storage_as_slice(storage)?[start..end]),
        None => bail!("expected a contiguous operand, got {layout:?}; this is a bug of lmht-nn, please report it"),
    }
}

/// Calls `f` with the elements of a CPU tensor, which is made contiguous first.
pub(super) fn with_slice<T: Real, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(as_slice(storage, layout)?),
        _ => bail!("expected a CPU tensor, got one on {:?}", tensor.device().location()),
    }
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
pub(super) use by_dtype;
