//! Questions to all gradients together: their norm, and whether one of them is not finite.

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, Device, Storage, Tensor, Var, bail};
use lmht_nn::gpu;
use rayon::prelude::*;

use super::rule::CHUNK;

/// Euclidean norm of all gradients together, `sqrt(Σ g²)`, summed in `f64`; a parameter without a gradient adds nothing.
///
/// Summed in a fixed order: the same gradients give the same bits, on any number of threads. NaN or infinite if a gradient
/// is (see [`find_non_finite`]).
///
/// # Errors
/// If a gradient cannot be read.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Var};
/// let p = Var::new(&[3f32, 4.], &Device::Cpu)?;
/// let grads = (p.sqr()?.sum_all()? * 0.5)?.backward()?;
/// assert_eq!(lmht_train::optim::grad_norm(&grads, &[("p".into(), p)])?, 5.);
/// # Ok(())
/// # }
/// ```
pub fn grad_norm(grads: &GradStore, params: &[(String, Var)]) -> candle_core::Result<f64> {
    let mut total = 0.;
    for (_, var) in params {
        if let Some(grad) = grads.get(var) {
            total += reduce_grad(grad, sum_of_squares::<f32>, sum_of_squares::<f64>)?.iter().sum::<f64>();
        }
    }
    Ok(total.sqrt())
}

/// The first parameter, in the order of `params`, whose gradient holds a NaN or an infinity.
///
/// To be asked before a step: one such number spreads over the whole network with it.
///
/// # Errors
/// If a gradient cannot be read.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Var};
/// use lmht_train::optim::find_non_finite;
/// // The square root has an infinite slope at 0.
/// let p = Var::new(&[1f32, 0.], &Device::Cpu)?;
/// let grads = p.sqrt()?.sum_all()?.backward()?;
/// assert_eq!(find_non_finite(&grads, &[("fc.weight".into(), p)])?.as_deref(), Some("fc.weight"));
/// # Ok(())
/// # }
/// ```
pub fn find_non_finite(grads: &GradStore, params: &[(String, Var)]) -> candle_core::Result<Option<String>> {
    // On a device one sum says that all are, as they nearly always are.
    let found: Vec<&Tensor> = params.iter().filter_map(|(_, var)| grads.get(var)).collect();
    if !found.is_empty() && found.iter().all(|grad| gpu::takes(grad)) {
        let flat = found.iter().map(|grad| grad.detach().flatten_all()).collect::<candle_core::Result<Vec<_>>>()?;
        let sum = gpu::sum_squares(&Tensor::cat(&flat, 0)?)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        if sum.to_vec1::<f64>()?.iter().all(|sum| sum.is_finite()) {
            return Ok(None);
        }
    }
    for (name, var) in params {
        if let Some(grad) = grads.get(var)
            && reduce_grad(grad, all_finite::<f32>, all_finite::<f64>)?.contains(&false)
        {
            return Ok(Some(name.clone()));
        }
    }
    Ok(None)
}

/// Reduces a gradient chunk by chunk, on all threads; the chunks' results come in their order.
fn reduce_grad<R: Send>(
    grad: &Tensor,
    of_f32: impl Fn(&[f32]) -> R + Sync + Send,
    of_f64: impl Fn(&[f64]) -> R + Sync + Send,
) -> candle_core::Result<Vec<R>> {
    // Another device's gradient is brought here: a reduction over there would have an order, and a result, of its own.
    let grad = grad.detach().to_device(&Device::Cpu)?.contiguous()?;
    let (storage, layout) = grad.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        bail!("optimizer: a gradient copied to the CPU is not there; this is a bug")
    };
    let range = layout.start_offset()..layout.start_offset() + layout.shape().elem_count();
    match storage {
        CpuStorage::F32(g) => Ok(g[range].par_chunks(CHUNK).map(of_f32).collect()),
        CpuStorage::F64(g) => Ok(g[range].par_chunks(CHUNK).map(of_f64).collect()),
        _ => bail!("optimizer: expected gradients of type f32 or f64, got {:?}", grad.dtype()),
    }
}

fn sum_of_squares<T: Copy + Into<f64>>(chunk: &[T]) -> f64 {
    chunk.iter().map(|&g| g.into() * g.into()).sum()
}

fn all_finite<T: Copy + Into<f64>>(chunk: &[T]) -> bool {
    chunk.iter().all(|&g| g.into().is_finite())
}
