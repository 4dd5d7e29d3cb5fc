//! Batch normalisation, fused: statistics, values and both backward passes read their operands once.
//!
//! Sums run in `f64` over differences from the channel's first element. The shift keeps the variance exact to the last
//! bits when the mean is large against the standard deviation, which sums of squares alone do not. Only mean and
//! 1/standard deviation of each channel are kept for the backward pass.

use super::storage::{as_slice, by_dtype, with_slice, zeros};
use super::with_gradient::Grads3;
use super::{check_operands, composed, is_fused};
use crate::kernels::real::{Kernel, Real, run_vectorized};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, WithDType, bail};
use rayon::prelude::*;

/// Number of tasks that the images are dealt to; fixed, so that sums keep their order for every number of threads.
const TASKS: usize = 16;

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
    if !is_fused(xs) {
        return composed::batch_norm_train(xs, weight, bias, eps);
    }
    let (xs, weight, bias) = (xs.contiguous()?, weight.contiguous()?, bias.contiguous()?);
    let count = (n * inner) as f64;
    let (mean, var): (Vec<f64>, Vec<f64>) = by_dtype!(xs.dtype(), T, L => with_slice::<T, _>(&xs, |xs| {
        let shift: Vec<f64> = (0..c).map(|c| xs[c * inner].to_f64()).collect();
        let (sums, squares) = channel_sums(xs, xs, c, inner, &shift, Product::Square);
        let moments = sums.iter().zip(&squares).zip(&shift).map(|((sum, square), shift)| {
            let mean = sum / count;
            // Rounding may leave a constant channel a hair below zero.
            (shift + mean, (square / count - mean * mean).max(0.))
        });
        Ok(moments.unzip())
    }))?;
    let stats = BatchStats {
        mean: Tensor::new(mean.as_slice(), xs.device())?.to_dtype(xs.dtype())?,
        var_unbiased: (Tensor::new(var.as_slice(), xs.device())? * (count / (count - 1.)))?.to_dtype(xs.dtype())?,
    };
    let rstd = var.iter().map(|var| (var + eps).sqrt().recip()).collect();
    let ys = xs.apply_op3(&weight, &bias, BatchNorm { mean, rstd, statistics_of_batch: true })?;
    Ok((ys, stats))
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
    eval_shape(xs, weight, bias, running_mean, running_var, eps)?;
    if !is_fused(xs) {
        return composed::batch_norm_eval(xs, weight, bias, running_mean, running_var, eps);
    }
    let to_f64 = |t: &Tensor| t.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>();
    let rstd = to_f64(running_var)?.iter().map(|var| (var + eps).sqrt().recip()).collect();
    let op = BatchNorm { mean: to_f64(running_mean)?, rstd, statistics_of_batch: false };
    xs.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)
}

/// Checks the operands of training and returns (N, C, product of the other axes).
pub(super) fn batch_norm_shape(
    op: &str,
    xs: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(usize, usize, usize)> {
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
pub(super) fn eval_shape(
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

/// `(x - mean) * rstd * weight + bias` per channel.
struct BatchNorm {
    mean: Vec<f64>,
    rstd: Vec<f64>,
    /// Whether mean and rstd depend on the input.
    statistics_of_batch: bool,
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        if self.statistics_of_batch { "batch_norm_train" } else { "batch_norm_eval" }
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inner = layout.dims()[2..].iter().product();
        let ys = by_dtype!(xs.dtype(), T, L => {
            let weight = as_slice::<T>(weight, weight_layout)?;
            let bias = as_slice::<T>(bias, bias_layout)?;
            // y = 0 * scale + (x - mean) * (rstd weight) + bias
            let lines = Lines::new(&self.mean, |c| {
                (0., self.rstd[c] * weight[c].to_f64(), bias[c].to_f64())
            });
            T::to_cpu_storage_owned(combine(as_slice::<T>(xs, layout)?, None, &lines, inner))
        });
        Ok((ys, layout.shape().clone()))
    }

    fn bwd(&self, xs: &Tensor, weight: &Tensor, bias: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Grads3> {
        let (c, inner) = (self.mean.len(), xs.dims()[2..].iter().product());
        let count = (xs.elem_count() / c) as f64;
        by_dtype!(xs.dtype(), T, L => with_slice::<T, _>(grad, |grad| with_slice::<T, _>(xs, |values| {
            // Σ g and Σ g (x - mean) of each channel.
            let needs_sums = weight.track_op() || bias.track_op() || (xs.track_op() && self.statistics_of_batch);
            let (sums, products) = if needs_sums {
                channel_sums(values, grad, c, inner, &self.mean, Product::Other)
            } else {
                (vec![0.; c], vec![0.; c])
            };
            let to_tensor = |values: Vec<f64>| -> Result<Tensor> {
                Tensor::from_vec(values, c, xs.device())?.to_dtype(xs.dtype())
            };
            let mut dxs = None;
            if xs.track_op() {
                let weights: Vec<f64> = with_slice::<T, _>(weight, |w| Ok(w.iter().map(|w| w.to_f64()).collect()))?;
                // dx = rstd weight (g - Σ g / n - (x - mean) rstd² Σ g (x - mean) / n), the sums only with the
                // statistics of the batch.
                let lines = Lines::new(&self.mean, |c| {
                    let scale = self.rstd[c] * weights[c];
                    if self.statistics_of_batch {
                        let slope = self.rstd[c] * self.rstd[c] * products[c] / count;
                        (scale, -scale * slope, -scale * sums[c] / count)
                    } else {
                        (scale, 0., 0.)
                    }
                });
                dxs = Some(Tensor::from_vec(combine(values, Some(grad), &lines, inner), xs.shape(), xs.device())?);
            }
            let dweight = weight.track_op().then(|| {
                to_tensor(products.iter().zip(&self.rstd).map(|(product, rstd)| product * rstd).collect())
            });
            let dbias = bias.track_op().then(|| to_tensor(sums.clone()));
            Ok((dxs, dweight.transpose()?, dbias.transpose()?))
        })))
    }
}

/// Per channel the numbers of `grad * scale + (x - mean) * slope + offset`.
struct Lines<T> {
    mean: Vec<T>,
    scale: Vec<T>,
    slope: Vec<T>,
    offset: Vec<T>,
}

impl<T: Real> Lines<T> {
    /// From `(scale, slope, offset)` of a channel.
    fn new(mean: &[f64], line: impl Fn(usize) -> (f64, f64, f64)) -> Self {
        let mut lines = Self { mean: vec![], scale: vec![], slope: vec![], offset: vec![] };
        for (c, &exact) in mean.iter().enumerate() {
            let (scale, slope, offset) = line(c);
            let mean = T::from_f64(exact);
            lines.mean.push(mean);
            lines.scale.push(T::from_f64(scale));
            lines.slope.push(T::from_f64(slope));
            // What rounding took from the mean goes into the offset.
            lines.offset.push(T::from_f64(offset - (exact - mean.to_f64()) * slope));
        }
        lines
    }
}

/// Applies the lines of the channels to `[N, C, inner]`.
fn combine<T: Real>(xs: &[T], grad: Option<&[T]>, lines: &Lines<T>, inner: usize) -> Vec<T> {
    let image = lines.mean.len() * inner;
    let per_task = (xs.len() / image).div_ceil(TASKS) * image;
    let mut output = zeros::<T>(xs.len());
    output.par_chunks_mut(per_task).enumerate().for_each(|(i, output)| {
        let range = i * per_task..i * per_task + output.len();
        let grad = grad.map(|grad| &grad[range.clone()]);
        run_vectorized(Combine { xs: &xs[range], grad, lines, inner, output });
    });
    output
}

struct Combine<'a, T> {
    xs: &'a [T],
    grad: Option<&'a [T]>,
    lines: &'a Lines<T>,
    inner: usize,
    output: &'a mut [T],
}

impl<T: Real> Kernel for Combine<'_, T> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Lines { mean, scale, slope, offset } = self.lines;
        let (c, inner) = (mean.len(), self.inner);
        for (i, (output, xs)) in self.output.chunks_mut(inner).zip(self.xs.chunks(inner)).enumerate() {
            let c = i % c;
            let (mean, scale, slope, offset) = (mean[c], scale[c], slope[c], offset[c]);
            match self.grad {
                None => {
                    for (y, &x) in output.iter_mut().zip(xs) {
                        *y = (x - mean).mul_add::<FMA>(slope, offset);
                    }
                }
                Some(grad) => {
                    for ((y, &x), &g) in output.iter_mut().zip(xs).zip(&grad[i * inner..]) {
                        *y = g.mul_add::<FMA>(scale, (x - mean).mul_add::<FMA>(slope, offset));
                    }
                }
            }
        }
    }
}

/// What [`channel_sums`] multiplies `x - shift` by.
#[derive(Clone, Copy, PartialEq)]
enum Product {
    /// By itself; the first sum is that of `x - shift`.
    Square,
    /// By the other operand; the first sum is that of the other operand.
    Other,
}

/// Two sums over each channel of `[N, C, inner]`, in `f64`, the partial sums of the tasks added in order.
fn channel_sums<T: Real>(
    xs: &[T],
    other: &[T],
    c: usize,
    inner: usize,
    shift: &[f64],
    product: Product,
) -> (Vec<f64>, Vec<f64>) {
    let image = c * inner;
    let per_task = (xs.len() / image).div_ceil(TASKS) * image;
    let partials: Vec<Vec<f64>> = xs
        .par_chunks(per_task)
        .zip(other.par_chunks(per_task))
        .map(|(xs, other)| {
            let mut sums = vec![0.; 2 * c];
            run_vectorized(ChannelSums { xs, other, inner, shift, product, sums: &mut sums });
            sums
        })
        .collect();
    let mut sums = vec![0.; 2 * c];
    for partial in &partials {
        for (sum, partial) in sums.iter_mut().zip(partial) {
            *sum += partial;
        }
    }
    let products = sums.split_off(c);
    (sums, products)
}

struct ChannelSums<'a, T> {
    xs: &'a [T],
    other: &'a [T],
    inner: usize,
    shift: &'a [f64],
    product: Product,
    /// The first sums of all channels, then the second.
    sums: &'a mut [f64],
}

impl<T: Real> Kernel for ChannelSums<'_, T> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let c = self.shift.len();
        let (sums, products) = self.sums.split_at_mut(c);
        for (i, (xs, other)) in self.xs.chunks(self.inner).zip(self.other.chunks(self.inner)).enumerate() {
            let c = i % c;
            let (sum, product) = match self.product {
                Product::Square => shifted_sums::<T, FMA, true>(xs, other, self.shift[c]),
                Product::Other => shifted_sums::<T, FMA, false>(xs, other, self.shift[c]),
            };
            sums[c] += sum;
            products[c] += product;
        }
    }
}

/// `Σ d` and `Σ d (x - shift)`, where d is `x - shift` itself if `SQUARE`, else the other operand.
///
/// Eight independent sums, so that additions need not wait for each other.
#[inline(always)]
fn shifted_sums<T: Real, const FMA: bool, const SQUARE: bool>(xs: &[T], other: &[T], shift: f64) -> (f64, f64) {
    const LANES: usize = 8;
    let (mut sums, mut products) = ([0f64; LANES], [0f64; LANES]);
    let (xs_chunks, other_chunks) = (xs.chunks_exact(LANES), other.chunks_exact(LANES));
    let (mut sum, mut product) = (0., 0.);
    for (x, &other) in xs_chunks.remainder().iter().zip(other_chunks.remainder()) {
        let x = x.to_f64() - shift;
        let d = if SQUARE { x } else { other.to_f64() };
        sum += d;
        product += d * x;
    }
    for (xs, other) in xs_chunks.zip(other_chunks) {
        for lane in 0..LANES {
            let x = xs[lane].to_f64() - shift;
            let d = if SQUARE { x } else { other[lane].to_f64() };
            sums[lane] += d;
            products[lane] = Real::mul_add::<FMA>(d, x, products[lane]);
        }
    }
    (sum + sums.iter().sum::<f64>(), product + products.iter().sum::<f64>())
}
