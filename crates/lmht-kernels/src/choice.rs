//! Which kernel a convolution takes: by sizes, by how many units spike, and by the processor, and by nothing else.
//!
//! Channels in groups leave no choice.

use super::number::Number;
use super::{ConvShape, amx, spikes, winograd};

/// The kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// Dense, product by product.
    Direct,
    /// Dense as well, in fewer products.
    Winograd,
    /// Skips what is zero, or does not change, or is not wanted.
    Spikes,
    /// On the matrix unit.
    Matrix(amx::Unit),
    /// Group by group, of whatever is read.
    Grouped,
}

/// The faster of the dense kernels of the forward pass and of the input gradient.
pub(crate) fn dense(s: &ConvShape) -> Path {
    match s.groups {
        1 if winograd::pays(s) => Path::Winograd,
        1 => Path::Direct,
        _ => Path::Grouped,
    }
}

/// The faster of the dense kernels of the weight gradient.
pub(crate) fn dense_grad_weight(s: &ConvShape) -> Path {
    match s.groups {
        1 if winograd::pays_grad_weight(s) => Path::Winograd,
        1 => Path::Direct,
        _ => Path::Grouped,
    }
}

/// The forward pass of `rows` maps of spikes, of which a share `changes` is not what it was a timestep before.
pub(crate) fn forward<T: Number>(s: &ConvShape, rows: usize, changes: f64) -> Path {
    if s.groups > 1 {
        Path::Grouped
    } else if let Some(unit) = amx::pays_forward::<T>(&ConvShape { n: rows, ..*s }, changes) {
        Path::Matrix(unit)
    } else if spikes::pays_forward(s, changes) {
        Path::Spikes
    } else {
        dense(s)
    }
}

/// The weight gradient of spikes, of which there are `spikes` a unit.
pub(crate) fn grad_weight<T: Number>(s: &ConvShape, spikes: f64) -> Path {
    if s.groups > 1 {
        Path::Grouped
    } else if let Some(unit) = amx::pays_grad_weight::<T>(s, spikes) {
        Path::Matrix(unit)
    } else if spikes::pays_grad_weight(s, spikes) {
        Path::Spikes
    } else {
        dense_grad_weight(s)
    }
}

/// The gradient of inputs of which a share `wanted` wants one.
pub(crate) fn grad_input(s: &ConvShape, wanted: f64) -> Path {
    if s.groups == 1 && spikes::pays_grad_input(s, wanted) { Path::Spikes } else { dense(s) }
}
