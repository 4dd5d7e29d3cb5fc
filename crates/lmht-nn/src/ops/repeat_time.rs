//! Repeating a static input at every timestep.

use super::storage::{as_slice, by_dtype, with_slice};
use super::{check_operands, composed, is_fused};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType, bail};
use rayon::prelude::*;

/// Numbers copied or added by one task.
const CHUNK: usize = 1 << 14;

/// Gives every timestep the same input: `ys[t] = xs` for `t` in `0..timesteps`.
///
/// The stem's current of a static image is computed once and repeated. The gradient is the sum over timesteps.
///
/// # Shapes
/// - `xs`: `[B, ...]`
/// - output: `[T, B, ...]`
///
/// # Errors
/// If `timesteps` is 0 or `xs` is empty or not floating point.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::ops::repeat_time;
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[1f32, 2.], &Device::Cpu)?;
/// assert_eq!(repeat_time(&xs, 3)?.to_vec2::<f32>()?, [[1., 2.], [1., 2.], [1., 2.]]);
/// # Ok(())
/// # }
/// ```
pub fn repeat_time(xs: &Tensor, timesteps: usize) -> Result<Tensor> {
    check_operands("repeat_time", &[("xs", xs)])?;
    if timesteps == 0 {
        bail!("repeat_time: expected at least one timestep, got 0 for xs {:?}", xs.dims());
    }
    if !is_fused(xs) {
        return composed::repeat_time(xs, timesteps);
    }
    xs.contiguous()?.apply_op1(RepeatTime { timesteps })
}

struct RepeatTime {
    timesteps: usize,
}

impl CustomOp1 for RepeatTime {
    fn name(&self) -> &'static str {
        "repeat_time"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let dtype = candle_core::backend::BackendStorage::dtype(storage);
        let ys = by_dtype!(dtype, T, L => {
            T::to_cpu_storage_owned(as_slice::<T>(storage, layout)?.repeat(self.timesteps))
        });
        Ok((ys, Shape::from([&[self.timesteps], layout.dims()].concat())))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        if !xs.track_op() {
            return Ok(None);
        }
        let len = xs.elem_count();
        by_dtype!(xs.dtype(), T, L => with_slice::<T, _>(grad, |grad| {
            let mut sums = grad[..len].to_vec();
            sums.par_chunks_mut(CHUNK).enumerate().for_each(|(i, sums)| {
                for grad in grad.chunks_exact(len).skip(1) {
                    for (sum, &g) in sums.iter_mut().zip(&grad[i * CHUNK..]) {
                        *sum += g;
                    }
                }
            });
            Tensor::from_vec(sums, xs.shape(), xs.device()).map(Some)
        }))
    }
}
