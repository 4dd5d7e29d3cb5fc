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
mod run;
mod work;

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
pub(crate) use run::takes;
