//! Differentiable operations of the training path: convolution, batch normalisation, pooling, linear, time.
//!
//! Candle's own operations are slow on the CPU, and some of their gradients are wrong: that of max pooling on every
//! device, that of a convolution's weight on Metal. These operations have the right gradients everywhere. On the CPU,
//! for `f32` and `f64`, each is one fused pass; on other devices and for other number types the same function runs as a
//! chain of Candle's operations, which [`composed`] also offers by name.
//!
//! What all of them keep:
//!
//! - a gradient is computed only for arguments that are tracked (a [`Var`](candle_core::Var) or made from one);
//! - fused results are the same bits on every run and for every number of threads;
//! - inputs may be strided; outputs are contiguous;
//! - a wrong argument is an error that names the operation and all shapes.

mod batch_norm;
mod conv2d;
mod linear;
mod neuron;
mod pool;
mod qcfs;
mod relative;
mod repeat_time;
pub(crate) mod storage;
mod windows;
mod with_gradient;

pub use batch_norm::{BatchStats, batch_norm_eval, batch_norm_train};
pub use conv2d::{Conv2dParams, conv2d};
pub use linear::linear;
pub use neuron::{Learned, neuron, neuron_composed, tgim};
pub use pool::{Pool2dParams, avg_pool2d, global_avg_pool, max_pool2d};
pub use qcfs::{qcfs, qcfs_composed};
pub use relative::{Relative, relative};
pub use repeat_time::repeat_time;
pub use windows::{front_load, mix_windows, sum_windows};

use candle_core::{DType, Result, Tensor, bail};

/// Whether the fused CPU version can be used.
fn is_fused(xs: &Tensor) -> bool {
    xs.device().is_cpu() && matches!(xs.dtype(), DType::F32 | DType::F64)
}

/// Every operand must be floating point, not empty, and have the dtype and the device of the first.
fn check_operands(op: &str, operands: &[(&str, &Tensor)]) -> Result<()> {
    let describe = || {
        let one = |(name, t): &(&str, &Tensor)| {
            format!("{name} {:?} {:?} on {:?}", t.dims(), t.dtype(), t.device().location())
        };
        operands.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let (_, first) = operands[0];
    for (name, t) in operands {
        if !t.dtype().is_float() {
            bail!("{op}: {name} must be floating point, got {}; convert it with to_dtype", describe());
        }
        if t.dtype() != first.dtype() {
            bail!("{op}: operands must have one dtype, got {}; convert them with to_dtype", describe());
        }
        if !t.device().same_device(first.device()) {
            bail!("{op}: operands must be on one device, got {}; move them with to_device", describe());
        }
        if t.elem_count() == 0 {
            bail!("{op}: {name} is empty, got {}; every size must be at least 1", describe());
        }
    }
    Ok(())
}

/// Size of a pooled or convolved axis, `(size + 2 padding - kernel) / stride + 1`.
fn output_size(op: &str, axis: &str, size: usize, kernel: usize, stride: usize, padding: usize) -> Result<usize> {
    if kernel == 0 || stride == 0 {
        bail!("{op}: kernel and stride must be at least 1, got kernel {kernel} and stride {stride}");
    }
    let Some(padded) = padding.checked_mul(2).and_then(|p| p.checked_add(size)) else {
        bail!("{op}: padding {padding} is too large for an input of {axis} {size}");
    };
    if kernel > padded {
        bail!(
            "{op}: the kernel of size {kernel} is larger than the padded input, {axis} {size} + 2 * {padding} = {padded}; \
             use a smaller kernel or a larger padding"
        );
    }
    Ok((padded - kernel) / stride + 1)
}
