//! The quantized clip-floor-shift activation as a differentiable operation.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType, bail};
use lmht_core::{QcfsWindow, Real, qcfs as mathematics};

use super::neuron::values;

/// a = ϑ · clip(floor(x Q / ϑ + 1/2) / Q, 0, 1) (Bu et al. 2022; Eq. 4), straight through the floor.
///
/// # Shapes
/// - `xs` any; `scale` ϑ `[1]`; output as `xs`, values in {0, ϑ/Q, …, ϑ}
///
/// # Errors
/// If `scale` is not `[1]` with the type and device of `xs`, or Q is 0.
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
pub fn qcfs(xs: &Tensor, scale: &Tensor, quant_levels: u32, window: QcfsWindow) -> Result<Tensor> {
    if quant_levels == 0 {
        bail!("qcfs: expected at least 1 quantization level, got 0")
    }
    if scale.dims() != [1] || scale.dtype() != xs.dtype() || !scale.device().same_device(xs.device()) {
        bail!(
            "qcfs: expected a scale of shape [1] and {:?} like the input, got {:?} and {:?}",
            xs.dtype(),
            scale.dims(),
            scale.dtype()
        )
    }
    if xs.device().is_cpu() && matches!(xs.dtype(), DType::F32 | DType::F64) {
        xs.contiguous()?.apply_op2(&scale.contiguous()?, Fused { quant_levels, window })
    } else {
        qcfs_composed(xs, scale, quant_levels, window)
    }
}

/// [`qcfs`] as tensor operations, for any device.
///
/// # Errors
/// As [`qcfs`].
pub fn qcfs_composed(xs: &Tensor, scale: &Tensor, quant_levels: u32, window: QcfsWindow) -> Result<Tensor> {
    let q = f64::from(quant_levels);
    let ratio = xs.broadcast_div(scale)?;
    let floor = |x: &Tensor| (x * q)?.affine(1., 0.5)?.floor()? / q;
    let quantized = match window {
        QcfsWindow::AfterFloor => {
            let straight = ((floor(&ratio)? - &ratio)?.detach() + &ratio)?;
            clip(&straight)?
        }
        QcfsWindow::BeforeFloor => {
            let clipped = clip(&ratio)?;
            ((floor(&clipped)? - &clipped)?.detach() + clipped)?
        }
    };
    quantized.broadcast_mul(scale)
}

/// Clip to [0, 1] with gradient 1 inside, borders included, and 0 outside.
fn clip(x: &Tensor) -> Result<Tensor> {
    let inside = (x.ge(0.)?.to_dtype(x.dtype())? * x.le(1.)?.to_dtype(x.dtype())?)?;
    let above = x.gt(1.)?.to_dtype(x.dtype())?;
    x * inside.detach() + above.detach()
}

struct Fused {
    quant_levels: u32,
    window: QcfsWindow,
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
        Ok((Some(Tensor::from_vec(grad_xs, xs.shape(), xs.device())?), Some(grad_scale)))
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
