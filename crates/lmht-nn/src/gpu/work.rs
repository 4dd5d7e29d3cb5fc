//! What kernels work on, and where.

use candle_core::Storage;
#[cfg(any(feature = "cuda", feature = "metal", feature = "emulator"))]
use candle_core::{Layout, Result};
use lmht_gpu::Machine;

/// What kernels work on, wherever they run.
pub(super) trait Work {
    fn run<M: Machine>(&self, m: &M, inputs: &[M::Buffer]) -> lmht_gpu::Result<Vec<M::Buffer>>;
}

/// A storage and how many elements it has.
pub(super) type Output = (Storage, usize);

/// A machine whose buffers are storages of Candle.
#[cfg(any(feature = "cuda", feature = "metal", feature = "emulator"))]
pub(super) trait OnCandle<'a>: Machine {
    /// A contiguous tensor as a buffer that is read.
    fn view(&self, storage: &'a Storage, layout: &Layout) -> Result<Self::Buffer>;

    /// A buffer of the machine as a storage.
    fn give(&self, buffer: Self::Buffer) -> Result<Storage>;
}

#[cfg(any(feature = "cuda", feature = "metal", feature = "emulator"))]
pub(super) fn run_on<'a, M: OnCandle<'a>>(
    m: &M,
    work: &impl Work,
    inputs: &[(&'a Storage, &Layout)],
) -> Result<Vec<Output>> {
    let buffers = inputs.iter().map(|(storage, layout)| m.view(storage, layout)).collect::<Result<Vec<_>>>()?;
    let outputs = work.run(m, &buffers).map_err(candle_core::Error::wrap)?;
    let give = |buffer| {
        let len = m.len(&buffer);
        Ok((m.give(buffer)?, len))
    };
    outputs.into_iter().map(give).collect()
}
