//! Batch normalisation.

use candle_core::{Result, Tensor, Var, bail};

use super::{as_real, check_operands};
use crate::gpu::{self, Kernel};

/// ε, added to the variance.
pub const BATCH_NORM_EPS: f64 = 1e-5;

/// How far running statistics move towards those of a batch.
pub(crate) const MOMENTUM: f64 = 0.1;

/// Statistics of a batch, `[C]` each, detached: for running averages.
#[derive(Debug, Clone)]
pub struct BatchStats {
    /// Mean of each channel, in the unit of the input.
    pub mean: Tensor,
    /// Variance of each channel with divisor n − 1, in the squared unit of the input.
    pub var_unbiased: Tensor,
}

/// Normalises each channel by the mean and variance of the batch:
/// `ys = (xs − mean) / sqrt(var + eps) · weight + bias` (Ioffe and Szegedy 2015, Algorithm 1).
///
/// `var` is the biased variance (divisor n); the statistics that are returned carry the unbiased one, as running
/// variances do.
///
/// # Shapes
/// - `xs`, output: `[N, C, ...]`, rank 2 at least; the statistics run over all axes but `C`
/// - `weight`, `bias`: `[C]`
///
/// Differentiable in `xs` (also through the statistics), `weight` and `bias`.
///
/// # Errors
/// If shapes, dtypes or devices do not fit, `eps` is negative or not finite, or a channel has fewer than two values.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::ops::batch_norm_train;
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[[1f64], [3.]], &Device::Cpu)?; // [N, C] = [2, 1]: mean 2, biased variance 1
/// let (weight, bias) = (Tensor::new(&[10f64], &Device::Cpu)?, Tensor::new(&[5f64], &Device::Cpu)?);
/// let (ys, stats) = batch_norm_train(&xs, &weight, &bias, 0.)?;
/// assert_eq!(ys.to_vec2::<f64>()?, [[-5.], [15.]]);
/// assert_eq!(stats.mean.to_vec1::<f64>()?, [2.]);
/// assert_eq!(stats.var_unbiased.to_vec1::<f64>()?, [2.]);
/// # Ok(())
/// # }
/// ```
pub fn batch_norm_train(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<(Tensor, BatchStats)> {
    let (n, c, inner) = batch_norm_shape("batch_norm_train", xs, weight, bias, eps)?;
    if gpu::takes(xs) {
        let zeros = as_real(&weight.zeros_like()?)?;
        let (ys, others) = by_kernel(Kernel::BatchNorm { eps }, xs, (n, c, inner), [weight, bias], &[&zeros])?;
        let [_, mean, var] = &others[..] else { bail!("batch_norm_train: no statistics") };
        let stats = BatchStats { mean: mean.to_dtype(weight.dtype())?, var_unbiased: var.to_dtype(weight.dtype())? };
        return Ok((ys, stats));
    }
    let count = (n * inner) as f64;
    let flat = xs.reshape((n, c, inner))?;
    let mean_of = |t: &Tensor| -> Result<Tensor> { t.sum_keepdim(2)?.sum_keepdim(0)? / count };
    // The mean of large values is rounded; a second one, of what is left, puts that right.
    let rough_mean = mean_of(&flat)?.detach();
    let roughly_centred = flat.broadcast_sub(&rough_mean)?;
    let rest = mean_of(&roughly_centred)?;
    let mean = (rough_mean + &rest)?;
    let centred = roughly_centred.broadcast_sub(&rest)?;
    let var = mean_of(&centred.sqr()?)?;
    let normalized = centred.broadcast_div(&(&var + eps)?.sqrt()?)?;
    let ys = normalized.broadcast_mul(&weight.reshape((1, c, 1))?)?.broadcast_add(&bias.reshape((1, c, 1))?)?;
    let stats = BatchStats {
        mean: mean.detach().flatten_all()?,
        var_unbiased: (var.detach().flatten_all()? * (count / (count - 1.)))?,
    };
    Ok((ys.reshape(xs.shape())?, stats))
}

/// Normalises each channel by running statistics:
/// `ys = (xs − running_mean) / sqrt(running_var + eps) · weight + bias`.
///
/// # Shapes
/// - `xs`, output: `[N, C, ...]`, rank 2 at least
/// - `weight`, `bias`, `running_mean`, `running_var`: `[C]`
///
/// Differentiable in `xs`, `weight` and `bias`; the running statistics are constants.
///
/// # Errors
/// If shapes, dtypes or devices do not fit, or `eps` is negative or not finite.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::ops::batch_norm_eval;
///
/// # fn main() -> candle_core::Result<()> {
/// let number = |x: f64| Tensor::new(&[x], &Device::Cpu);
/// let xs = Tensor::new(&[[7f64]], &Device::Cpu)?;
/// // (7 - 3) / sqrt(4) * 10 + 1
/// let ys = batch_norm_eval(&xs, &number(10.)?, &number(1.)?, &number(3.)?, &number(4.)?, 0.)?;
/// assert_eq!(ys.to_vec2::<f64>()?, [[21.]]);
/// # Ok(())
/// # }
/// ```
pub fn batch_norm_eval(
    xs: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    running_mean: &Tensor,
    running_var: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    let (n, c, inner) = eval_shape(xs, weight, bias, running_mean, running_var, eps)?;
    if gpu::takes(xs) {
        let (mean, var) = (as_real(&running_mean.detach())?, as_real(&running_var.detach())?);
        let kernel = Kernel::RunningNorm { eps };
        return Ok(by_kernel(kernel, xs, (n, c, inner), [weight, bias], &[&mean, &var])?.0);
    }
    let channel = |t: &Tensor| t.reshape((1, c, 1));
    let std = (running_var.detach() + eps)?.sqrt()?;
    let scale = weight.div(&std)?;
    let centred = xs.reshape((n, c, inner))?.broadcast_sub(&channel(&running_mean.detach())?)?;
    centred.broadcast_mul(&channel(&scale)?)?.broadcast_add(&channel(bias)?)?.reshape(xs.shape())
}

/// Batch norm through kernels, which want channels last.
fn by_kernel(
    kernel: Kernel,
    xs: &Tensor,
    (n, c, inner): (usize, usize, usize),
    [weight, bias]: [&Tensor; 2],
    constants: &[&Tensor],
) -> Result<(Tensor, Vec<Tensor>)> {
    let rows = xs.reshape((n, c, inner))?.transpose(1, 2)?.contiguous()?;
    let (weight, bias) = (as_real(weight)?, as_real(bias)?);
    let (ys, others) = gpu::apply(kernel, &rows, &[&weight, &bias], constants, (n, inner, c))?;
    Ok((ys.transpose(1, 2)?.contiguous()?.reshape(xs.shape())?, others))
}

/// Moves running mean and variance towards those of a batch of `n` values a channel that stand for `repeats` times as many,
/// a tenth of the way.
///
/// # Errors
/// If the shapes differ.
///
/// ```
/// use candle_core::{DType, Device, Tensor, Var};
/// use lmht_nn::ops::{batch_norm_train, update_running_stats};
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[[1f64], [3.]], &Device::Cpu)?; // mean 2, unbiased variance 2
/// let (one, zero) = (Tensor::new(&[1f64], &Device::Cpu)?, Tensor::new(&[0f64], &Device::Cpu)?);
/// let (mean, var) = (Var::from_tensor(&zero)?, Var::from_tensor(&one)?);
/// let (_, stats) = batch_norm_train(&xs, &one, &zero, 0.)?;
/// update_running_stats((&mean, &var), &stats, 2, 1)?;
/// assert_eq!((mean.to_vec1::<f64>()?, var.to_vec1::<f64>()?), (vec![0.2], vec![1.1]));
/// # Ok(()) }
/// ```
pub fn update_running_stats(
    (running_mean, running_var): (&Var, &Var),
    stats: &BatchStats,
    n: usize,
    repeats: usize,
) -> Result<()> {
    let n = n as f64;
    let repeated = n * repeats as f64;
    let unbiased = if repeats == 1 { 1. } else { (n - 1.) / n * repeated / (repeated - 1.) };
    for (running, batch, factor) in [(running_mean, &stats.mean, 1.), (running_var, &stats.var_unbiased, unbiased)] {
        let kept = (running.as_detached_tensor() * (1. - MOMENTUM))?;
        running.set(&(kept + (batch * (MOMENTUM * factor))?)?)?;
    }
    Ok(())
}

/// The shape of what batch norm gives, after checking the channels.
pub(crate) fn batch_norm_dims(xs: &Tensor, weight: &Tensor) -> Result<Vec<usize>> {
    channel_shape("batch_norm", xs, &[("weight", weight)], 0.)?;
    Ok(xs.dims().to_vec())
}

/// Checks the operands of training and returns (N, C, product of the other axes).
fn batch_norm_shape(op: &str, xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<(usize, usize, usize)> {
    let shape = channel_shape(op, xs, &[("weight", weight), ("bias", bias)], eps)?;
    if shape.0 * shape.2 < 2 {
        bail!(
            "{op}: a variance needs at least two values per channel, got xs {:?}; use a larger batch, or \
             batch_norm_eval",
            xs.dims()
        );
    }
    Ok(shape)
}

/// Checks the operands of evaluation.
fn eval_shape(
    xs: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    running_mean: &Tensor,
    running_var: &Tensor,
    eps: f64,
) -> Result<(usize, usize, usize)> {
    let channels = [("weight", weight), ("bias", bias), ("running_mean", running_mean), ("running_var", running_var)];
    channel_shape("batch_norm_eval", xs, &channels, eps)
}

fn channel_shape(op: &str, xs: &Tensor, channels: &[(&str, &Tensor)], eps: f64) -> Result<(usize, usize, usize)> {
    let describe = || {
        let channels = channels.iter().map(|(name, t)| format!(", {name} {:?}", t.dims()));
        format!("xs {:?}{}", xs.dims(), channels.collect::<String>())
    };
    let &[n, c, ref inner @ ..] = xs.dims() else {
        bail!("{op}: expected xs [N, C, ...], got {}", describe());
    };
    for (name, t) in channels {
        if t.dims() != [c] {
            bail!("{op}: expected {name} of shape [{c}], one number per channel, got {}", describe());
        }
    }
    if !(eps >= 0. && eps.is_finite()) {
        bail!("{op}: expected eps >= 0, got {eps}; 1e-5 is usual");
    }
    check_operands(op, &[&[("xs", xs)], channels].concat())?;
    Ok((n, c, inner.iter().product()))
}
