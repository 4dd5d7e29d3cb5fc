//! The quantized clip-floor-shift activation as a differentiable operation.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType, bail};
use lmht_core::{QcfsGate, Real, qcfs as mathematics};

use super::neuron::values;
use super::{as_real, check_operands, is_fused};
use crate::gpu::{self, Kernel};

/// a = ϑ · clip(floor(x Q / ϑ + 1/2) / Q, 0, 1) (Bu et al. 2022; Eq. 4), straight through the floor.
///
/// # Shapes
/// - `xs` any; `scale` ϑ `[1]`; output as `xs`, values in {0, ϑ/Q, …, ϑ}
///
/// # Gradients
/// With q = a/ϑ and w = 1 in the `window`, else 0: da/dx = w, da/dϑ = q - w x/ϑ.
///
/// # Errors
/// If `scale` is not `[1]` with the type and device of `xs`, `xs` is empty or not floating point, or Q is 0. The value of
/// ϑ is not looked at.
///
/// ```
/// use candle_core::{Device, Tensor};
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[-1f64, 0.2, 0.3, 5.], &Device::Cpu)?;
/// let scale = Tensor::new(&[2f64], &Device::Cpu)?;
/// let ys = lmht_nn::ops::qcfs(&xs, &scale, 4, Default::default())?;
/// assert_eq!(ys.to_vec1::<f64>()?, [0., 0., 0.5, 2.]);
/// # Ok(()) }
/// ```
pub fn qcfs(xs: &Tensor, scale: &Tensor, quant_levels: u32, window: QcfsGate) -> Result<Tensor> {
    check(xs, scale, quant_levels)?;
    if gpu::takes(xs) {
        let scale = as_real(scale)?;
        Ok(gpu::apply(Kernel::Qcfs(quant_levels, window), xs, &[&scale], &[], xs.shape())?.0)
    } else if is_fused(xs) {
        xs.contiguous()?.apply_op2(&scale.contiguous()?, Fused { quant_levels, window })
    } else {
        compose(xs, scale, quant_levels, window)
    }
}

fn check(xs: &Tensor, scale: &Tensor, quant_levels: u32) -> Result<()> {
    if quant_levels == 0 {
        bail!("qcfs: expected at least 1 quantization level, got 0")
    }
    check_operands("qcfs", &[("xs", xs), ("scale", scale)])?;
    if scale.dims() != [1] {
        bail!("qcfs: expected one scale, shape [1], got shape {:?}", scale.dims())
    }
    Ok(())
}

/// [`qcfs`] as tensor operations, for any device.
///
/// # Errors
/// As [`qcfs`].
pub fn qcfs_composed(xs: &Tensor, scale: &Tensor, quant_levels: u32, window: QcfsGate) -> Result<Tensor> {
    check(xs, scale, quant_levels)?;
    compose(xs, scale, quant_levels, window)
}

fn compose(xs: &Tensor, scale: &Tensor, quant_levels: u32, window: QcfsGate) -> Result<Tensor> {
    let q = f64::from(quant_levels);
    let ratio = xs.broadcast_div(scale)?;
    // Divided by a tensor: Candle divides by a number through its reciprocal, which rounds differently.
    let levels = Tensor::new(&[q], xs.device())?.to_dtype(xs.dtype())?;
    let floored = (&ratio * q)?.affine(1., 0.5)?.floor()?.broadcast_div(&levels)?;
    let clipped = match window {
        QcfsGate::AfterFloor => &floored,
        QcfsGate::BeforeFloor => &ratio,
    };
    let passes = (clipped.ge(0.)?.to_dtype(xs.dtype())? * clipped.le(1.)?.to_dtype(xs.dtype())?)?;
    // Straight through: exactly 0 is added, and it carries the gradient of the window.
    let passed = (ratio * passes.detach())?;
    let quantized = (floored.clamp(0., 1.)?.detach() + (&passed - passed.detach())?)?;
    quantized.broadcast_mul(scale)
}

struct Fused {
    quant_levels: u32,
    window: QcfsGate,
}

impl Fused {
    fn gradients<R: Real + WithDType>(
        &self,
        xs: &Tensor,
        scale: &Tensor,
        grad_out: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad_out = grad_out.contiguous()?;
        let mut grad_xs = vec![R::ZERO; xs.elem_count()];
        let grad_scale = {
            let guards = [xs, scale, &grad_out].map(|tensor| tensor.storage_and_layout());
            let mut slices = Vec::with_capacity(guards.len());
            for (storage, layout) in &guards {
                let candle_core::Storage::Cpu(storage) = &**storage else { bail!("the fused qcfs runs on the CPU") };
                slices.push(values::<R>(storage, layout)?);
            }
            let (q, window) = (self.quant_levels, self.window);
            mathematics::backward_in(window, slices[0], slices[1][0], q, slices[2], &mut grad_xs)
        };
        let grad_scale = Tensor::from_vec(vec![grad_scale], 1, xs.device())?;
        let grad_xs = Tensor::from_vec(grad_xs, xs.shape(), xs.device())?;
        // Candle would keep the gradient of an untracked argument.
        Ok((xs.track_op().then_some(grad_xs), scale.track_op().then_some(grad_scale)))
    }
}

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        "qcfs"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<R: Real + WithDType>(
            op: &Fused,
            (s1, l1): (&CpuStorage, &Layout),
            (s2, l2): (&CpuStorage, &Layout),
        ) -> Result<CpuStorage> {
            let (xs, scale) = (values::<R>(s1, l1)?, values::<R>(s2, l2)?);
            let mut out = vec![R::ZERO; xs.len()];
            mathematics::forward(xs, scale[0], op.quant_levels, &mut out);
            Ok(R::to_cpu_storage_owned(out))
        }
        let out = match s1.dtype() {
            DType::F32 => run::<f32>(self, (s1, l1), (s2, l2))?,
            DType::F64 => run::<f64>(self, (s1, l1), (s2, l2))?,
            dtype => bail!("the fused qcfs takes f32 or f64, got {dtype:?}"),
        };
        Ok((out, l1.shape().clone()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        scale: &Tensor,
        _res: &Tensor,
        grad_out: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        match xs.dtype() {
            DType::F32 => self.gradients::<f32>(xs, scale, grad_out),
            _ => self.gradients::<f64>(xs, scale, grad_out),
        }
    }
}
