//! Plans: for each operation which kernels run in which order, specialised how, over how many blocks, with which
//! arguments.
//!
//! They are generic over [`Machine`](crate::Machine), so that what the emulator tests is what a GPU runs. Currents and
//! outputs of neurons are `[T, n]`; maps are channels last. Learned numbers, statistics, states and sums have the type
//! [`Dtype::real`](crate::Dtype::real) of the elements.

pub mod batch_norm;
pub mod cast;
pub mod gather;
pub mod ilif;
pub mod im2col;
pub mod loss;
pub mod neuron;
pub mod norm_neuron;
pub mod optimizer;
pub mod pool;
pub mod qcfs;
mod shared;
pub mod ternary;

pub use shared::Gradients;
