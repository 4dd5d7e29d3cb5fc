//! Access to the numbers of contiguous CPU tensors.

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, WithDType, bail};
use lmht_kernels::Compiled;

/// A number type of the kernels that is one of Candle's, too.
pub(crate) trait Element: Compiled + WithDType {
    /// The nearest number. Both parents have a function for this, so that neither can be called by its name alone.
    #[inline(always)]
    fn of(value: f64) -> Self {
        <Self as lmht_core::Real>::from_f64(value)
    }

    /// The same number.
    #[inline(always)]
    fn wide(self) -> f64 {
        <Self as lmht_core::Real>::to_f64(self)
    }
}

impl<T: Compiled + WithDType> Element for T {}

/// The elements of a contiguous operand.
pub(crate) fn as_slice<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&T::cpu_storage_as_slice(storage)?[start..end]),
        None => bail!("expected a contiguous operand, got {layout:?}; this is a bug of lmht-nn, please report it"),
    }
}

/// Calls `f` with the elements of a CPU tensor, which is made contiguous first.
pub(crate) fn with_slice<T: WithDType, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(as_slice(storage, layout)?),
        _ => bail!("expected a CPU tensor, got one on {:?}", tensor.device().location()),
    }
}
