//! A value computed by any means, with a gradient of our own: works on every device.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp3, Layout, MetalStorage, Result, Shape, Storage, Tensor, bail};
use std::sync::Mutex;

/// Gradients of three arguments; `None` for those that are not tracked.
pub(super) type Grads3 = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

/// Gives `value`, which must come from detached arguments, the arguments `args` and the gradient `backward`.
///
/// `backward(a, b, c, grad)` must return a gradient for every tracked argument. The value is copied once.
pub(super) fn with_gradient<F>(
    name: &'static str,
    value: Tensor,
    (a, b, c): (&Tensor, &Tensor, &Tensor),
    backward: F,
) -> Result<Tensor>
where
    F: Fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Result<Grads3> + Send + Sync + 'static,
{
    let value = value.detach().contiguous()?;
    a.apply_op3(b, c, WithGradient { name, value: Mutex::new(Some(value)), backward })
}

struct WithGradient<F> {
    name: &'static str,
    /// Taken by the forward pass, so that the graph does not keep a second copy alive.
    value: Mutex<Option<Tensor>>,
    backward: F,
}

impl<F> WithGradient<F> {
    /// Copies the value with `copy`.
    fn take<S>(&self, copy: impl FnOnce(&Storage, &Layout) -> Result<S>) -> Result<(S, Shape)> {
        let value = self.value.lock().ok().and_then(|mut value| value.take());
        let Some(value) = value else {
            bail!("{}: the forward pass of this operation ran twice; apply the operation anew instead", self.name);
        };
        let (storage, layout) = value.storage_and_layout();
        // A view is copied with its offset, so it must start at 0.
        if layout.start_offset() != 0 {
            bail!("{}: expected a value of its own, got a view at {}", self.name, layout.start_offset());
        }
        Ok((copy(&storage, layout)?, value.shape().clone()))
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
        self.take(|storage, layout| match storage {
            Storage::Cpu(storage) => storage.try_clone(layout),
            _ => bail!("{}: expected a value on the CPU, where the arguments are", self.name),
        })
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
        self.take(|storage, layout| match storage {
            Storage::Cuda(storage) => storage.try_clone(layout),
            _ => bail!("{}: expected a value on the CUDA device, where the arguments are", self.name),
        })
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
        self.take(|storage, layout| match storage {
            Storage::Metal(storage) => storage.try_clone(layout),
            _ => bail!("{}: expected a value on the Metal device, where the arguments are", self.name),
        })
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, c: &Tensor, _value: &Tensor, grad: &Tensor) -> Result<Grads3> {
        (self.backward)(a, b, c, &grad.contiguous()?)
    }
}
