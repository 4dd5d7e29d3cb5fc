//! Which kernel a convolution takes: by sizes, by how many units spike, and by the processor, and by nothing else.

use super::number::Number;
use super::{ConvShape, amx, spikes, winograd};

/// The kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Dense, product by product.
    Direct,
    /// Dense as well, in fewer products.
    Winograd,
    /// Skips what is zero, or does not change, or is not wanted.
    Spikes,
    /// On the matrix unit.
    Matrix(amx::Unit),
}

/// The faster of the dense kernels of the forward pass and of the input gradient.
pub fn dense(s: &ConvShape) -> Path {
    if winograd::pays(s) { Path::Winograd } else { Path::Direct }
}

/// The faster of the dense kernels of the weight gradient.
pub fn dense_grad_weight(s: &ConvShape) -> Path {
    if winograd::pays_grad_weight(s) { Path::Winograd } else { Path::Direct }
}

/// The forward pass of `rows` maps of spikes, of which a share `changes` is not what it was a timestep before.
pub fn forward<T: Number>(s: &ConvShape, rows: usize, changes: f64) -> Path {
    if let Some(unit) = amx::pays_forward::<T>(&ConvShape { n: rows, ..*s }, changes) {
        Path::Matrix(unit)
    } else if spikes::pays_forward(s, changes) {
        Path::Spikes
    } else {
        dense(s)
    }
}

/// The weight gradient of spikes, of which there are `spikes` a unit.
pub fn grad_weight<T: Number>(s: &ConvShape, spikes: f64) -> Path {
    if let Some(unit) = amx::pays_grad_weight::<T>(s, spikes) {
        Path::Matrix(unit)
    } else if spikes::pays_grad_weight(s, spikes) {
        Path::Spikes
    } else {
        dense_grad_weight(s)
    }
}

/// The gradient of inputs of which a share `wanted` wants one.
pub fn grad_input(s: &ConvShape, wanted: f64) -> Path {
    if spikes::pays_grad_input(s, wanted) { Path::Spikes } else { dense(s) }
}
