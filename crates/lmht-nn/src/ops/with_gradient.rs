//! A value computed by any means, with a gradient of our own: works on every device.

use candle_core::{CpuStorage, CudaStorage, CustomOp3, Layout, MetalStorage, Result, Shape, Storage, Tensor, bail};
use std::sync::Mutex;

/// Gradients of three arguments; `None` for those that are not tracked.
pub(crate) type Grads3 = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

/// Gives `value`, which must come from detached arguments, the arguments `args` and the gradient `backward`.
///
/// `backward(a, b, c, grad)` must return a gradient for every tracked argument. The value is copied once.
pub(crate) fn with_gradient<F>(
    name: &'static str,
    value: Tensor,
    (a, b, c): (&Tensor, &Tensor, &Tensor),
    backward: F,
) -> Result<Tensor>
where
    F: Fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Result<Grads3> + Send + Sync + 'static,
{
    let value = value.detach().contiguous()?;
    let (storage, layout) = value.storage_and_layout();
    // A view is copied with its offset, so it must start at 0.
    if layout.start_offset() != 0 {
        bail!("{name}: expected a value of its own, got a view at {}", layout.start_offset());
    }
    with_storage(name, (storage.try_clone(layout)?, value.shape().clone()), (a, b, c), backward)
}

/// The same for a value that nobody else has, without a copy.
pub(crate) fn with_storage<F>(
    name: &'static str,
    value: (Storage, Shape),
    (a, b, c): (&Tensor, &Tensor, &Tensor),
    backward: F,
) -> Result<Tensor>
where
    F: Fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Result<Grads3> + Send + Sync + 'static,
{
    a.apply_op3(b, c, WithGradient { name, value: Mutex::new(Some(value)), backward })
}

struct WithGradient<F> {
    name: &'static str,
    /// Taken by the forward pass, so that the graph does not keep a second copy alive.
    value: Mutex<Option<(Storage, Shape)>>,
    backward: F,
}

impl<F> WithGradient<F> {
    fn take(&self) -> Result<(Storage, Shape)> {
        let value = self.value.lock().ok().and_then(|mut value| value.take());
        let Some(value) = value else {
            bail!("{}: the forward pass of this operation ran twice; apply the operation anew instead", self.name);
        };
        Ok(value)
    }
}

impl<F> CustomOp3 for WithGradient<F>
where
    F: Fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Result<Grads3>,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        match self.take()? {
            (Storage::Cpu(storage), shape) => Ok((storage, shape)),
            _ => bail!("{}: expected a value on the CPU, where the arguments are", self.name),
        }
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        match self.take()? {
            (Storage::Cuda(storage), shape) => Ok((storage, shape)),
            _ => bail!("{}: expected a value on the CUDA device, where the arguments are", self.name),
        }
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        match self.take()? {
            (Storage::Metal(storage), shape) => Ok((storage, shape)),
            _ => bail!("{}: expected a value on the Metal device, where the arguments are", self.name),
        }
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, c: &Tensor, _value: &Tensor, grad: &Tensor) -> Result<Grads3> {
        (self.backward)(a, b, c, &grad.contiguous()?)
    }
}
