//! The kernels on the emulator.

mod batch_norm;
mod cast;
mod check;
mod ilif;
mod loss;
mod mutants;
mod neuron;
mod norm_neuron;
mod optimizer;
mod qcfs;
mod support;
mod ternary;
mod windows;
