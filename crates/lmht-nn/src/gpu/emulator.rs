//! A GPU's kernels on CPU tensors, for tests: [`emulated`].

use std::cell::Cell;
use std::path::PathBuf;

use candle_core::{Layout, Result, Storage, bail};
use lmht_gpu::HostBuffer;
use lmht_gpu::emulator::Emulator;

use super::host::{from_host, part, to_host};
use super::work::OnCandle;

thread_local! {
    static IS_ON: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with this thread's CPU tensors treated as those of a GPU, or does not where there is no C++ compiler.
///
/// What `f` does with such tensors goes through the kernels, plans and backward passes that a GPU runs, slowly.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::{gpu, ops};
///
/// # fn main() -> candle_core::Result<()> {
/// let (xs, scale) = (Tensor::new(&[0.6f32, 5.], &Device::Cpu)?, Tensor::new(&[2f32], &Device::Cpu)?);
/// let Some(ys) = gpu::emulated(|| ops::qcfs(&xs, &scale, 4, Default::default())) else { return Ok(()) };
/// assert_eq!(ys?.to_vec1::<f32>()?, [0.5, 2.]);
/// # Ok(()) }
/// ```
pub fn emulated<T>(f: impl FnOnce() -> T) -> Option<T> {
    struct Off(bool);
    impl Drop for Off {
        fn drop(&mut self) {
            IS_ON.set(self.0);
        }
    }
    Emulator::compiler()?;
    let _off = Off(IS_ON.replace(true));
    Some(f())
}

pub(super) fn is_on() -> bool {
    IS_ON.get()
}

/// Kernels are kept in the target folder, as `lmht-gpu`'s tests keep them.
pub(super) fn machine() -> Emulator {
    Emulator::new(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/emulated-kernels")))
}

impl OnCandle<'_> for Emulator {
    fn view(&self, storage: &Storage, layout: &Layout) -> Result<HostBuffer> {
        match storage {
            Storage::Cpu(storage) => {
                to_host(&part(storage.clone(), layout.start_offset(), layout.shape().elem_count())?)
            }
            _ => bail!("the emulator works on CPU tensors"),
        }
    }

    fn give(&self, buffer: HostBuffer) -> Result<Storage> {
        from_host(&buffer)?.storage_and_layout().0.try_clone(&Layout::contiguous(buffer.len()))
    }
}
