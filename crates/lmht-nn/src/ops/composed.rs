//! The operations of [`ops`](super), composed of Candle's own: for devices and number types without a fused version.
//!
//! Every function has the contract of its namesake in [`ops`](super). They are public so that both versions can be
//! compared on one device. They avoid what is wrong in Candle 0.11.1: its gradient of max pooling (scaled by the number
//! of maxima over the window's area), its weight gradient of convolution on Metal (a kernel that is not contiguous is
//! misread), and its input gradient where height and width leave different remainders of the stride.

use super::batch_norm::{BatchStats, batch_norm_shape, eval_shape};
use super::check_operands;
use super::conv2d::{Conv2dParams, conv_shape};
use super::pool::{Pool2dParams, pool_shape};
use super::with_gradient::with_gradient;
use candle_core::{D, DType, Result, Tensor, bail};

/// [`conv2d`](super::conv2d()) with Candle's convolutions: one forward, a transposed one for the input gradient, a
/// dilated one for the weight gradient.
///
/// # Errors
/// As the fused one; also what Candle reports for a dtype that its convolution does not have.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::ops::{self, Conv2dParams};
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::arange(0f32, 16., &Device::Cpu)?.reshape((1, 1, 4, 4))?;
/// let weight = Tensor::ones((1, 1, 3, 3), xs.dtype(), &Device::Cpu)?;
/// let p = Conv2dParams { stride: 1, padding: 1 };
/// let difference = (ops::composed::conv2d(&xs, &weight, None, p)? - ops::conv2d(&xs, &weight, None, p)?)?;
/// assert_eq!(difference.abs()?.max_all()?.to_scalar::<f32>()?, 0.);
/// # Ok(())
/// # }
/// ```
pub fn conv2d(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, p: Conv2dParams) -> Result<Tensor> {
    let s = conv_shape(xs, weight, bias, p)?;
    let (xs, weight) = (xs.contiguous()?, weight.contiguous()?);
    let ys = xs.detach().conv2d(&weight.detach(), p.padding, p.stride, 1, 1)?;
    // Without bias the weight stands in for it and gets no second gradient.
    let (ys, third) = match bias {
        Some(bias) => (ys.broadcast_add(&bias.detach().reshape((1, s.c_out, 1, 1))?)?, bias),
        None => (ys, &weight),
    };
    let has_bias = bias.is_some();
    with_gradient("conv2d", ys, (&xs, &weight, third), move |xs, weight, bias, grad| {
        let mut dxs = None;
        if xs.track_op() {
            // Covers the rows and columns that some window has read. The transposed convolution must not be padded
            // less than nothing, so it is made whole here and the border cut off after.
            let whole = grad.conv_transpose2d(&weight.detach(), 0, 0, s.stride, 1)?;
            let fit = |whole: Tensor, dim: usize, size: usize| -> Result<Tensor> {
                let present = whole.dim(dim)?;
                let missing = (size + s.padding).saturating_sub(present);
                whole.pad_with_zeros(dim, 0, missing)?.narrow(dim, s.padding, size)
            };
            dxs = Some(fit(fit(whole, 2, s.h)?, 3, s.w)?.contiguous()?);
        }
        let mut dweight = None;
        if weight.track_op() {
            // Images become channels: dweight[o, i] = Σ_n xs[n, i] * dys[n, o], the stride dilating the gradient.
            let images = xs.detach().transpose(0, 1)?.contiguous()?;
            let kernel = grad.transpose(0, 1)?.contiguous()?;
            let whole = images.conv2d(&kernel, s.padding, 1, s.stride, 1)?;
            let whole = whole.narrow(2, 0, s.k)?.narrow(3, 0, s.k)?;
            dweight = Some(whole.transpose(0, 1)?.contiguous()?);
        }
        let dbias = (has_bias && bias.track_op()).then(|| grad.sum((0, 2, 3))).transpose()?;
        Ok((dxs, dweight, dbias))
    })
}

/// [`batch_norm_train`](super::batch_norm_train) with elementwise operations and means.
///
/// # Errors
/// As the fused one.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[[1f64], [3.]], &Device::Cpu)?; // [N, C] = [2, 1]: mean 2, biased variance 1
/// let (one, zero) = (Tensor::new(&[1f64], &Device::Cpu)?, Tensor::new(&[0f64], &Device::Cpu)?);
/// let (ys, stats) = lmht_nn::ops::composed::batch_norm_train(&xs, &one, &zero, 0.)?;
/// assert_eq!(ys.to_vec2::<f64>()?, [[-1.], [1.]]);
/// assert_eq!(stats.var_unbiased.to_vec1::<f64>()?, [2.]);
/// # Ok(())
/// # }
/// ```
pub fn batch_norm_train(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<(Tensor, BatchStats)> {
    let (n, c, inner) = batch_norm_shape("batch_norm_train", xs, weight, bias, eps)?;
    let count = (n * inner) as f64;
    let flat = xs.reshape((n, c, inner))?;
    let mean_of = |t: &Tensor| -> Result<Tensor> { t.sum_keepdim(2)?.sum_keepdim(0)? / count };
    let mean = mean_of(&flat)?;
    let centred = flat.broadcast_sub(&mean)?;
    let var = mean_of(&centred.sqr()?)?;
    let normalized = centred.broadcast_div(&(&var + eps)?.sqrt()?)?;
    let ys = normalized.broadcast_mul(&weight.reshape((1, c, 1))?)?.broadcast_add(&bias.reshape((1, c, 1))?)?;
    let stats = BatchStats {
        mean: mean.detach().flatten_all()?,
        var_unbiased: (var.detach().flatten_all()? * (count / (count - 1.)))?,
    };
    Ok((ys.reshape(xs.shape())?, stats))
}

/// [`batch_norm_eval`](super::batch_norm_eval) with elementwise operations.
///
/// # Errors
/// As the fused one.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// # fn main() -> candle_core::Result<()> {
/// let number = |x: f64| Tensor::new(&[x], &Device::Cpu);
/// let xs = Tensor::new(&[[7f64]], &Device::Cpu)?;
/// // (7 - 3) / sqrt(4) * 10 + 1
/// let ys = lmht_nn::ops::composed::batch_norm_eval(&xs, &number(10.)?, &number(1.)?, &number(3.)?, &number(4.)?, 0.)?;
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
    let channel = |t: &Tensor| t.reshape((1, c, 1));
    let std = (running_var.detach() + eps)?.sqrt()?;
    let scale = weight.div(&std)?;
    let centred = xs.reshape((n, c, inner))?.broadcast_sub(&channel(&running_mean.detach())?)?;
    centred.broadcast_mul(&channel(&scale)?)?.broadcast_add(&channel(bias)?)?.reshape(xs.shape())
}

/// [`max_pool2d`](super::max_pool2d) by gathering windows and choosing the first maximum of each.
///
/// # Errors
/// As the fused one.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::ops::{Pool2dParams, composed};
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[[[[1f32, 4.], [3., 2.]]]], &Device::Cpu)?;
/// let ys = composed::max_pool2d(&xs, Pool2dParams { kernel: 2, stride: 2, padding: 0 })?;
/// assert_eq!(ys.flatten_all()?.to_vec1::<f32>()?, [4.]);
/// # Ok(())
/// # }
/// ```
pub fn max_pool2d(xs: &Tensor, p: Pool2dParams) -> Result<Tensor> {
    let (h_out, w_out) = pool_shape("max_pool2d", xs, p)?;
    let (n, c, _, _) = xs.dims4()?;
    let windows = windows(xs, p, (h_out, w_out), f64::NEG_INFINITY)?;
    let area = p.kernel * p.kernel;
    // The first of the maxima: the smallest offset among those that equal the maximum.
    let values = windows.detach();
    let is_max = values.broadcast_eq(&values.max_keepdim(2)?)?;
    let offsets = Tensor::arange(0f32, area as f32, xs.device())?.reshape((1, 1, area, 1))?;
    let offsets = offsets.broadcast_as(is_max.shape())?.contiguous()?;
    // Only a window with NaN has no maximum; it takes the last offset so that the index stays valid.
    let last = offsets.zeros_like()?.affine(1., (area - 1) as f64)?;
    let first = is_max.where_cond(&offsets, &last)?.min_keepdim(2)?.to_dtype(DType::U32)?;
    windows.contiguous()?.gather(&first.contiguous()?, 2)?.reshape((n, c, h_out, w_out))
}

/// [`avg_pool2d`](super::avg_pool2d) by gathering windows.
///
/// # Errors
/// As the fused one.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::ops::{Pool2dParams, composed};
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[[[[1f32, 4.], [3., 2.]]]], &Device::Cpu)?;
/// let ys = composed::avg_pool2d(&xs, Pool2dParams { kernel: 2, stride: 2, padding: 0 })?;
/// assert_eq!(ys.flatten_all()?.to_vec1::<f32>()?, [2.5]);
/// # Ok(())
/// # }
/// ```
pub fn avg_pool2d(xs: &Tensor, p: Pool2dParams) -> Result<Tensor> {
    let (h_out, w_out) = pool_shape("avg_pool2d", xs, p)?;
    let (n, c, _, _) = xs.dims4()?;
    let sums = windows(xs, p, (h_out, w_out), 0.)?.sum(2)?;
    (sums / (p.kernel * p.kernel) as f64)?.reshape((n, c, h_out, w_out))
}

/// [`global_avg_pool`](super::global_avg_pool) as a mean.
///
/// # Errors
/// As the fused one.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[[[[1f32, 4.], [3., 2.]]]], &Device::Cpu)?;
/// assert_eq!(lmht_nn::ops::composed::global_avg_pool(&xs)?.to_vec2::<f32>()?, [[2.5]]);
/// # Ok(())
/// # }
/// ```
pub fn global_avg_pool(xs: &Tensor) -> Result<Tensor> {
    check_operands("global_avg_pool", &[("xs", xs)])?;
    let &[_, _, _, _] = xs.dims() else {
        bail!("global_avg_pool: expected xs [N, C, H, W], got {:?}", xs.dims());
    };
    xs.flatten_from(2)?.mean(D::Minus1)
}

/// [`repeat_time`](super::repeat_time) by broadcasting.
///
/// # Errors
/// As the fused one.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[1f32, 2.], &Device::Cpu)?;
/// assert_eq!(lmht_nn::ops::composed::repeat_time(&xs, 2)?.to_vec2::<f32>()?, [[1., 2.], [1., 2.]]);
/// # Ok(())
/// # }
/// ```
pub fn repeat_time(xs: &Tensor, timesteps: usize) -> Result<Tensor> {
    check_operands("repeat_time", &[("xs", xs)])?;
    if timesteps == 0 {
        bail!("repeat_time: expected at least one timestep, got 0 for xs {:?}", xs.dims());
    }
    xs.unsqueeze(0)?.broadcast_as([&[timesteps], xs.dims()].concat())?.contiguous()
}

/// The windows of a pooling, `[N, C, kernel · kernel, H_out · W_out]`; outside of the map lies `border`.
fn windows(xs: &Tensor, p: Pool2dParams, (h_out, w_out): (usize, usize), border: f64) -> Result<Tensor> {
    let (n, c, h, w) = xs.dims4()?;
    let mut indices = Vec::with_capacity(p.kernel * p.kernel * h_out * w_out);
    for (ky, kx) in (0..p.kernel).flat_map(|ky| (0..p.kernel).map(move |kx| (ky, kx))) {
        for (y, x) in (0..h_out).flat_map(|y| (0..w_out).map(move |x| (y, x))) {
            let inside = |at: usize, size: usize| at.checked_sub(p.padding).filter(|&at| at < size);
            let index = match (inside(y * p.stride + ky, h), inside(x * p.stride + kx, w)) {
                (Some(y), Some(x)) => y * w + x,
                _ => h * w,
            };
            indices.push(index as u32);
        }
    }
    let n_indices = indices.len();
    let indices = Tensor::from_vec(indices, n_indices, xs.device())?;
    let border = Tensor::full(border as f32, (n, c, 1), xs.device())?.to_dtype(xs.dtype())?;
    let maps = Tensor::cat(&[&xs.flatten_from(2)?, &border], 2)?.contiguous()?;
    maps.index_select(&indices, 2)?.reshape((n, c, p.kernel * p.kernel, h_out * w_out))
}
