//! GPU kernels of LM-HT spiking networks: one text for CUDA, Metal, OpenCL and the host, the plans that launch it, and
//! an emulator that runs both on the CPU, so that all but three thin launchers is tested on a machine without a GPU.
//!
//! # What is where
//!
//! | | |
//! |---|---|
//! | `kernels/*.h` | the kernels, one operation a file, in the C that all four languages share: no templates, no references, specialised by `#define`, an address space on every pointer |
//! | `kernels/prelude/*.h` | what the languages differ in |
//! | [`Program`], [`Language`], [`Operation`] | a specialisation, and its text in a language |
//! | [`Machine`], [`Arg`], [`Dtype`] | what runs kernels |
//! | [`plans`] | which kernels, in which order, with which sizes; generic over [`Machine`] |
//! | `suite` (feature) | each operation against a loop or `lmht_core::reference`, for any [`Machine`] |
//! | `emulator` (feature) | a [`Machine`] for tests |
//! | `opencl` (feature) | another one, through OpenCL: PoCL compiles for the CPU with a GPU's rules |
//! | [`check`] | the texts through the compilers of the other languages, without a GPU |
//!
//! | operation | |
//! |---|---|
//! | [`plans::neuron`], [`plans::ilif`], [`plans::ternary`], [`plans::qcfs`] | neurons and activations, forward and backward |
//! | [`plans::batch_norm`] | statistics, forward, backward |
//! | [`plans::norm_neuron`] | batch norm, shortcut and neuron in one pass each way; the current is never written, spikes also as bytes |
//! | [`plans::pool`], [`plans::im2col`] | windows over maps |
//! | [`plans::loss`], [`plans::optimizer`] | cross-entropy of the readout; SGD and AdamW over all parameters in one launch |
//! | [`plans::cast`] | element types, spikes as bytes |
//! | [`plans::gather`] | batches out of images that are bytes on the device |
//!
//! # What holds
//!
//! - Elements are f32, f64, f16 or bf16; the last two are computed in f32 and rounded once. f64 is refused on Metal.
//! - Spikes in f32 and f64 are those of [`lmht_core::reference`] to the bit. So contraction of products and sums and
//!   fast mathematics have to be off wherever the texts are compiled.
//! - A sum over blocks takes two launches, never an atomic: its order is fixed by [`Machine::blocks`] and
//!   [`Machine::threads`], and the result is the same bits at every run.
//! - Maps are channels last, `[rows, channels]`; neurons take `[T, n]`. At most 2³¹ - 1 elements in a buffer.
//!
//! # Writing a launcher
//!
//! A launcher implements [`Machine`] and holds no arithmetic:
//!
//! | it needs | it gets |
//! |---|---|
//! | a name for a compiled module | [`Program::key`], of letters, digits and underscores; CUDA's modules are keyed by name alone |
//! | the text | [`Program::source`], whole, without files beside it |
//! | compiler options | NVRTC: `--gpu-architecture=compute_80 --fmad=false -default-device`; Metal: fast math off (`MTLMathMode::Safe`); OpenCL: `-cl-fp32-correctly-rounded-divide-sqrt` |
//! | grid and block | `grid` blocks of [`Program::threads`] threads in one dimension; shared memory is static |
//! | arguments | in order: [`Arg::In`] and [`Arg::Out`] an address, with the offset of a view in bytes; [`Arg::U32`] four bytes; [`Arg::Real`] eight bytes if the program's type is f64, else an f32 |
//! | hazards | an [`Arg::Out`] may be read, too; no buffer is both in and out of one launch |
//! | buffers | from [`Machine::alloc`], uninitialised; the plans check length and type of what they are given |
//!
//! Nothing here has run on a GPU yet, and no Apple compiler has seen the Metal text; [`check`] says what has been
//! checked.

pub mod check;
#[cfg(feature = "emulator")]
pub mod emulator;
mod error;
#[cfg(feature = "suite")]
mod host;
mod machine;
#[cfg(feature = "opencl")]
pub mod opencl;
pub mod plans;
mod source;
#[cfg(feature = "suite")]
pub mod suite;
mod types;

pub use error::{Error, Result};
#[cfg(feature = "suite")]
pub use host::HostBuffer;
pub use machine::{Arg, Machine};
pub use source::{METAL_SHIM, Operation, Program};
pub use types::{Dtype, Language};
