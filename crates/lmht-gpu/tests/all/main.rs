//! The kernels on the emulator.

mod neuron;
mod support;
