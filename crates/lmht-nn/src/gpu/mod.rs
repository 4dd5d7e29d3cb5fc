//! Operations on GPUs: the kernels and plans of [`lmht_gpu`] over tensors of Candle.
//!
//! Each operation of [`ops`](crate::ops) that has kernels runs them where its input is on a GPU: neurons of every trained
//! kind, QCFS, batch norm, pooling, convolution, forward and backward, in f32, f16 and bf16 (and f64 on CUDA). A
//! convolution is cuDNN's with the feature `cudnn`, where cuDNN has one for its shape, else columns and a matrix product.
//! The others stay composed of Candle's operations there; [`Network::plan`](crate::Network::plan) names them. Which
//! launchers a program has, its features say:
//!
//! | feature | machine | for |
//! |---|---|---|
//! | `cudnn` | `Cuda` | `cuda`, with convolutions through cuDNN |
//! | `cuda` | `Cuda` | NVIDIA GPUs; kernels are compiled by NVRTC at run time |
//! | `metal` | `Metal` | Apple GPUs; kernels are compiled by Metal at run time |
//! | `emulator` | `emulated` | tests: a GPU's kernels on CPU tensors |
//!
//! Neither launcher has run on hardware yet; `docs/gpu.md` says what has been checked and how.

#[cfg(any(feature = "cuda", feature = "metal"))]
mod buffer;
// Without a launcher nobody runs a kernel.
#[cfg_attr(not(any(feature = "cuda", feature = "metal", feature = "emulator")), allow(dead_code))]
pub(crate) mod convolution;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cudnn")]
mod cudnn;
#[cfg(feature = "emulator")]
mod emulator;
#[cfg_attr(not(any(feature = "cuda", feature = "metal", feature = "emulator")), allow(dead_code))]
mod gather;
#[cfg(any(feature = "cuda", feature = "metal", feature = "emulator"))]
mod host;
#[cfg_attr(not(any(feature = "cuda", feature = "metal", feature = "emulator")), allow(dead_code))]
mod kernel;
#[cfg(feature = "metal")]
mod metal;
#[cfg_attr(not(any(feature = "cuda", feature = "metal", feature = "emulator")), allow(dead_code))]
pub(crate) mod norm;
mod run;
#[cfg_attr(not(any(feature = "cuda", feature = "metal", feature = "emulator")), allow(dead_code))]
mod train;
#[cfg_attr(not(any(feature = "cuda", feature = "metal", feature = "emulator")), allow(dead_code))]
mod work;

#[cfg(any(feature = "cuda", feature = "metal"))]
pub use buffer::Buffer;
#[cfg(feature = "cuda")]
pub use cuda::Cuda;
#[cfg(feature = "emulator")]
pub use emulator::emulated;
#[cfg(feature = "metal")]
pub use metal::Metal;

pub use convolution::without_cudnn;
pub use gather::gather;
pub use lmht_gpu::plans::optimizer::{AdamW, Sgd};
pub use run::{has_kernels, takes};
pub use train::{Flat, Rule, cross_entropy, sum_squares, update};

pub(crate) use kernel::{Kernel, apply, backward, forward};
pub(crate) use lmht_gpu::plans::pool::Windows;
