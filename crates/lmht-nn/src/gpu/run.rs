//! From the device of a tensor to its machine.

use candle_core::{DType, Device, Layout, Result, Storage, Tensor, bail};

#[cfg(feature = "cuda")]
use super::cuda::Cuda;
#[cfg(feature = "emulator")]
use super::emulator;
#[cfg(feature = "metal")]
use super::metal::Metal;
#[cfg(any(feature = "cuda", feature = "metal", feature = "emulator"))]
use super::work::run_on;
use super::work::{Output, Work};

/// Whether kernels of ours take such a tensor: on a GPU whose feature the program has, of f32, f16 or bf16, or f64 on CUDA.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_nn::gpu;
///
/// let xs = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
/// assert!(!gpu::takes(&xs));
/// assert_ne!(gpu::emulated(|| gpu::takes(&xs)), Some(false));
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn takes(xs: &Tensor) -> bool {
    let is_known = match xs.dtype() {
        DType::F32 | DType::F16 | DType::BF16 => true,
        DType::F64 => !xs.device().is_metal(),
        _ => false,
    };
    is_known && has_kernels(xs.device())
}

/// Whether kernels of ours run on a device: a GPU whose feature the program has.
pub fn has_kernels(device: &Device) -> bool {
    match device {
        Device::Cuda(_) => cfg!(feature = "cuda"),
        Device::Metal(_) => cfg!(feature = "metal"),
        #[cfg(feature = "emulator")]
        Device::Cpu => emulator::is_on(),
        #[cfg(not(feature = "emulator"))]
        Device::Cpu => false,
    }
}

/// Runs kernels where the inputs are, which are made contiguous.
pub(super) fn run(work: &impl Work, inputs: &[&Tensor]) -> Result<Vec<Output>> {
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
