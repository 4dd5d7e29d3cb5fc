//! Differentiable operations of the training path: convolution, batch normalisation, pooling, linear, neurons, time.
//!
//! Each is composed of Candle's own operations: readable, on any device, in any floating-point type, and what every fast form
//! is tested against. A network runs these layer by layer where the engine cannot take it; [`neuron`] and [`qcfs`] are fused
//! on the CPU for people who call them from networks of plain Candle. On a GPU neurons, [`qcfs`], batch norm, pooling and
//! convolution run the kernels of `lmht-gpu` or of cuDNN ([`gpu`](crate::gpu)); the products of [`linear`] stay composed.
//!
//! Some of Candle's gradients are wrong: that of max pooling on every device (scaled by the number of maxima over the window's
//! area), that of a convolution's weight on Metal (a kernel that is not contiguous is misread), that of its input where height
//! and width leave different remainders of the stride. These operations have the right gradients everywhere.
//!
//! What all of them keep:
//!
//! - a gradient is computed only for arguments that are tracked (a [`Var`](candle_core::Var) or made from one);
//! - inputs may be strided; outputs are contiguous;
//! - a wrong argument is an error that names the operation and all shapes.

mod batch_norm;
mod conv2d;
mod linear;
mod neuron;
mod pool;
mod qcfs;
mod repeat_time;
pub(crate) mod storage;
mod windows;
pub(crate) mod with_gradient;

pub use batch_norm::{BATCH_NORM_EPS, BatchStats, batch_norm_eval, batch_norm_train, update_running_stats};
pub(crate) use batch_norm::{MOMENTUM, batch_norm_dims};
pub(crate) use conv2d::conv2d_dims;
pub use conv2d::{Conv2dParams, conv2d};
pub use linear::linear;
pub(crate) use linear::linear_dims;
pub(crate) use neuron::learned_numbers;
pub use neuron::{Learned, neuron, neuron_composed, tgim};
pub use pool::{Pool2dParams, avg_pool2d, global_avg_pool, max_pool2d};
pub(crate) use pool::{is_pool_by_kernel, pool_dims};
pub use qcfs::{qcfs, qcfs_composed};
pub use repeat_time::repeat_time;
pub use windows::{front_load, mix_windows, sum_windows};

use candle_core::{DType, Result, Tensor, bail};

/// A learned tensor in the type that kernels compute in beside such inputs: f64 with f64, else f32.
pub(crate) fn as_real(learned: &Tensor) -> Result<Tensor> {
    if learned.dtype() == DType::F64 { Ok(learned.clone()) } else { learned.to_dtype(DType::F32) }
}

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
