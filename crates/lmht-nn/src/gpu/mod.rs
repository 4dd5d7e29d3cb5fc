//! Operations on GPUs: the kernels and plans of [`lmht_gpu`] over tensors of Candle.
//!
//! Each operation of [`ops`](crate::ops) that has kernels runs them where its input is on a GPU: neurons of every trained
//! kind, QCFS, batch norm, pooling, forward and backward, in f32, f16 and bf16 (and f64 on CUDA). The others stay composed of
//! Candle's operations there; [`Network::plan`](crate::Network::plan) names them. Which launchers a program has, its features
//! say:
//!
//! | feature | machine | for |
//! |---|---|---|
//! | `cuda` | `Cuda` | NVIDIA GPUs; kernels are compiled by NVRTC at run time |
//! | `metal` | `Metal` | Apple GPUs; kernels are compiled by Metal at run time |
//! | `emulator` | `emulated` | tests: a GPU's kernels on CPU tensors |
//!
//! Neither launcher has run on hardware yet; `docs/gpu.md` says what has been checked and how.

#[cfg(any(feature = "cuda", feature = "metal"))]
mod buffer;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "emulator")]
mod emulator;
#[cfg(any(feature = "cuda", feature = "metal", feature = "emulator"))]
mod host;
mod kernel;
#[cfg(feature = "metal")]
mod metal;

#[cfg(any(feature = "cuda", feature = "metal"))]
pub use buffer::Buffer;
#[cfg(feature = "cuda")]
pub use cuda::Cuda;
#[cfg(feature = "emulator")]
pub use emulator::emulated;
#[cfg(feature = "metal")]
pub use metal::Metal;

pub(crate) use kernel::{Kernel, apply};
pub(crate) use lmht_gpu::plans::pool::Windows;

use candle_core::{DType, Device, Layout, Result, Storage, Tensor, bail};
use lmht_gpu::Machine;

/// Whether kernels of ours take such a tensor.
pub(crate) fn takes(xs: &Tensor) -> bool {
    let is_known = matches!(xs.dtype(), DType::F32 | DType::F64 | DType::F16 | DType::BF16);
    is_known
        && match xs.device() {
            Device::Cuda(_) => cfg!(feature = "cuda"),
            Device::Metal(_) => cfg!(feature = "metal") && xs.dtype() != DType::F64,
            #[cfg(feature = "emulator")]
            Device::Cpu => emulator::is_on(),
            #[cfg(not(feature = "emulator"))]
            Device::Cpu => false,
        }
}

/// What kernels work on, wherever they run.
trait Work {
    fn run<M: Machine>(&self, m: &M, inputs: &[M::Buffer]) -> lmht_gpu::Result<Vec<M::Buffer>>;
}

/// A storage and how many elements it has.
type Output = (Storage, usize);

/// A machine whose buffers are storages of Candle.
#[cfg(any(feature = "cuda", feature = "metal", feature = "emulator"))]
trait OnCandle<'a>: Machine {
    /// A contiguous tensor as a buffer that is read.
    fn view(&self, storage: &'a Storage, layout: &Layout) -> Result<Self::Buffer>;

    /// A buffer of the machine as a storage.
    fn give(&self, buffer: Self::Buffer) -> Result<Storage>;
}

#[cfg(any(feature = "cuda", feature = "metal", feature = "emulator"))]
fn run_on<'a, M: OnCandle<'a>>(m: &M, work: &impl Work, inputs: &[(&'a Storage, &Layout)]) -> Result<Vec<Output>> {
    let buffers = inputs.iter().map(|(storage, layout)| m.view(storage, layout)).collect::<Result<Vec<_>>>()?;
    let outputs = work.run(m, &buffers).map_err(candle_core::Error::wrap)?;
    let give = |buffer| {
        let len = m.len(&buffer);
        Ok((m.give(buffer)?, len))
    };
    outputs.into_iter().map(give).collect()
}

/// Runs kernels where the inputs are, which are made contiguous.
fn run(work: &impl Work, inputs: &[&Tensor]) -> Result<Vec<Output>> {
    let inputs = inputs.iter().map(|tensor| tensor.contiguous()).collect::<Result<Vec<_>>>()?;
    let guards: Vec<_> = inputs.iter().map(|tensor| tensor.storage_and_layout()).collect();
    let inputs_there: Vec<(&Storage, &Layout)> = guards.iter().map(|(storage, layout)| (&**storage, *layout)).collect();
    // Without launchers nobody reads these.
    let _ = (work, &inputs_there);
    match inputs[0].device() {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => run_on(&Cuda::new(device)?, work, &inputs_there),
        #[cfg(feature = "metal")]
        Device::Metal(device) => run_on(&Metal::new(device), work, &inputs_there),
        #[cfg(feature = "emulator")]
        Device::Cpu => run_on(&emulator::machine(), work, &inputs_there),
        #[allow(unreachable_patterns)] // with every launcher there is nothing else
        device => bail!("no kernels for {:?}: lmht-nn was built without that feature", device.location()),
    }
}
