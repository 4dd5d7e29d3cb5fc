//! Storages of Candle as buffers of a machine.

use candle_core::backend::BackendStorage;
use candle_core::{Layout, Result, bail};
use lmht_gpu::Dtype;

use super::host::dtype_of;

/// Memory of a GPU: a part of a tensor's, which is read, or an own one.
#[derive(Debug)]
pub struct Buffer<'a, S> {
    held: Held<'a, S>,
    pub(super) dtype: Dtype,
    /// The first element.
    pub(super) start: usize,
    pub(super) len: usize,
}

#[derive(Debug)]
enum Held<'a, S> {
    View(&'a S),
    Own(S),
}

impl<'a, S: BackendStorage> Buffer<'a, S> {
    pub(super) fn view(storage: &'a S, layout: &Layout) -> Result<Self> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("expected a contiguous operand, got {layout:?}; this is a bug of lmht-nn, please report it")
        };
        Ok(Self { held: Held::View(storage), dtype: dtype_of(storage.dtype())?, start, len: end - start })
    }

    pub(super) fn own(storage: S, dtype: Dtype, len: usize) -> Self {
        Self { held: Held::Own(storage), dtype, start: 0, len }
    }

    pub(super) fn storage(&self) -> &S {
        match &self.held {
            Held::View(storage) => storage,
            Held::Own(storage) => storage,
        }
    }

    /// What is written to: never a tensor that somebody else sees.
    #[cfg(feature = "cuda")]
    pub(super) fn storage_mut(&mut self) -> std::result::Result<&mut S, String> {
        match &mut self.held {
            Held::View(_) => Err("the output is a view of a tensor; this is a bug of lmht-nn".into()),
            Held::Own(storage) => Ok(storage),
        }
    }

    pub(super) fn into_storage(self) -> Result<S> {
        match self.held {
            Held::View(_) => bail!("the result is a view of an operand; this is a bug of lmht-nn"),
            Held::Own(storage) => Ok(storage),
        }
    }

    /// Bytes before the first element.
    pub(super) fn offset(&self) -> usize {
        self.start * self.dtype.size()
    }
}
