//! The kernels on the emulator, their plans, and their texts.

mod check;
mod errors;
mod mutants;
mod opencl;
mod suite;
mod support;
