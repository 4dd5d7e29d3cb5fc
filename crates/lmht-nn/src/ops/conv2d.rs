//! Two-dimensional convolution as a Candle operation.

use candle_core::{Result, Tensor, bail};
use lmht_kernels::ConvShape;

use super::with_gradient::with_gradient;
use super::{check_operands, output_size};
use crate::gpu::{self, convolution};

/// Stride, zero padding and groups of [`conv2d`], equal for both axes, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dParams {
    /// Step of the kernel, at least 1.
    pub stride: usize,
    /// Zeros added on each of the four sides.
    pub padding: usize,
    /// Groups of channels that do not see each other, a divisor of both channel numbers; as many as channels: depthwise.
    pub groups: usize,
}

impl Default for Conv2dParams {
    /// Stride 1, no padding, one group.
    fn default() -> Self {
        Self { stride: 1, padding: 0, groups: 1 }
    }
}

/// Convolves images with square kernels (cross-correlation, as everywhere in deep learning).
///
/// `ys[n, o, y, x] = bias[o] + Σ_{i, ky, kx} weight[o, i, ky, kx] · xs[n, i, y·stride + ky − padding, x·stride + kx − padding]`
///
/// # Shapes
/// - `xs`: `[N, C_in, H, W]`
/// - `weight`: `[C_out, C_in / groups, k, k]`; there is no dilation
/// - `bias`: `[C_out]`
/// - output: `[N, C_out, H_out, W_out]` with `H_out = (H + 2·padding − k) / stride + 1`, rounded down
///
/// Differentiable in `xs`, `weight` and `bias`.
///
/// # Errors
/// If ranks, channels, dtypes or devices do not fit, a size is 0, or the kernel is larger than the padded input.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::ops::{Conv2dParams, conv2d};
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[[[[1f32, 2., 3.], [4., 5., 6.]]]], &Device::Cpu)?; // [1, 1, 2, 3]
/// let weight = Tensor::new(&[[[[1f32, 0.], [0., 10.]]]], &Device::Cpu)?; // pixel + 10 times its lower right neighbour
/// let ys = conv2d(&xs, &weight, None, Conv2dParams::default())?;
/// assert_eq!(ys.squeeze(0)?.squeeze(0)?.to_vec2::<f32>()?, [[51., 62.]]);
/// # Ok(())
/// # }
/// ```
pub fn conv2d(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, p: Conv2dParams) -> Result<Tensor> {
    let s = conv_shape(xs, weight, bias, p)?;
    if gpu::takes(xs) {
        return by_kernel(xs, weight, bias, s);
    }
    if s.groups == 1 {
        return one_group(xs, weight, bias, s);
    }
    let (c_in, c_out) = (s.c_in / s.groups, s.c_out / s.groups);
    let of_group = ConvShape { c_in, c_out, groups: 1, ..s };
    let maps = (0..s.groups).map(|group| {
        let bias = bias.map(|bias| bias.narrow(0, group * c_out, c_out)).transpose()?;
        let (xs, weight) = (xs.narrow(1, group * c_in, c_in)?, weight.narrow(0, group * c_out, c_out)?);
        one_group(&xs, &weight, bias.as_ref(), of_group)
    });
    Tensor::cat(&maps.collect::<Result<Vec<_>>>()?, 1)
}

/// All groups at once, channels last.
fn by_kernel(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, s: ConvShape) -> Result<Tensor> {
    let (maps, weight) = (xs.permute((0, 2, 3, 1))?.contiguous()?, weight.contiguous()?);
    let ys = convolution::forward(&maps.detach(), &weight.detach(), &s)?;
    let (ys, third) = match bias {
        Some(bias) => (ys.broadcast_add(&bias.detach())?, bias),
        None => (ys, &weight),
    };
    let has_bias = bias.is_some();
    let ys = with_gradient("conv2d", ys, (&maps, &weight, third), move |xs, weight, bias, grad| {
        let dxs = xs.track_op().then(|| convolution::grad_input(grad, &weight.detach(), &s)).transpose()?;
        let dweight = weight.track_op().then(|| convolution::grad_weight(&xs.detach(), grad, &s)).transpose()?;
        let dweight = dweight.map(|grad| grad.to_dtype(weight.dtype())).transpose()?;
        let dbias = (has_bias && bias.track_op()).then(|| grad.sum((0, 1, 2))).transpose()?;
        Ok((dxs, dweight, dbias))
    })?;
    ys.permute((0, 3, 1, 2))?.contiguous()
}

/// One convolution forward, a transposed one for the input gradient, a dilated one for the weight gradient.
fn one_group(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, s: ConvShape) -> Result<Tensor> {
    let (xs, weight) = (xs.contiguous()?, weight.contiguous()?);
    let ys = xs.detach().conv2d(&weight.detach(), s.padding, s.stride, 1, 1)?;
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

/// The shape of what [`conv2d`] gives, after checking the operands.
pub(crate) fn conv2d_dims(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, p: Conv2dParams) -> Result<Vec<usize>> {
    let s = conv_shape(xs, weight, bias, p)?;
    Ok(vec![s.n, s.c_out, s.h_out, s.w_out])
}

/// Checks the operands of a convolution against each other.
fn conv_shape(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, p: Conv2dParams) -> Result<ConvShape> {
    let describe = || {
        let bias = bias.map_or(String::new(), |bias| format!(", bias {:?}", bias.dims()));
        format!("xs {:?}, weight {:?}{bias}", xs.dims(), weight.dims())
    };
    let (&[n, c_in, h, w], &[c_out, c_weight, k, k_w]) = (xs.dims(), weight.dims()) else {
        bail!("conv2d: expected xs [N, C_in, H, W] and weight [C_out, C_in, k, k], got {}", describe());
    };
    if k != k_w {
        bail!("conv2d: expected a square kernel, got {}", describe());
    }
    let groups = p.groups;
    if groups == 0 || !c_out.is_multiple_of(groups) {
        bail!(
            "conv2d: expected a number of groups that divides {c_out} output channels, got {groups} and {}",
            describe()
        );
    }
    if c_in != c_weight * groups {
        bail!("conv2d: xs has {c_in} channels, weight wants {c_weight} in each of {groups} groups, got {}", describe());
    }
    if bias.is_some_and(|bias| bias.dims() != [c_out]) {
        bail!("conv2d: expected a bias of shape [{c_out}], one number per output channel, got {}", describe());
    }
    let mut operands = vec![("xs", xs), ("weight", weight)];
    operands.extend(bias.map(|bias| ("bias", bias)));
    check_operands("conv2d", &operands)?;
    let size = |axis, size| {
        output_size("conv2d", axis, size, k, p.stride, p.padding)
            .map_err(|e| candle_core::Error::Msg(format!("{e}; got {}", describe())))
    };
    let (h_out, w_out) = (size("height", h)?, size("width", w)?);
    Ok(ConvShape { n, c_in, h, w, c_out, k, stride: p.stride, padding: p.padding, groups, h_out, w_out })
}
