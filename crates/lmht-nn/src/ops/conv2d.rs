//! Two-dimensional convolution as a Candle operation.

use super::storage::{as_slice, by_dtype, with_slice, zeros};
use super::{check_operands, composed, is_fused, output_size};
use crate::kernels::real::Real;
use crate::kernels::{ConvShape, nchw};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, WithDType, bail};
use rayon::prelude::*;

/// Stride and zero padding of [`conv2d`], equal for both axes, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dParams {
    /// Step of the kernel, at least 1.
    pub stride: usize,
    /// Zeros added on each of the four sides.
    pub padding: usize,
}

impl Default for Conv2dParams {
    /// Stride 1, no padding.
    fn default() -> Self {
        Self { stride: 1, padding: 0 }
    }
}

/// Convolves images with square kernels (cross-correlation, as everywhere in deep learning).
///
/// `ys[n, o, y, x] = bias[o] + Σ_{i, ky, kx} weight[o, i, ky, kx] · xs[n, i, y·stride + ky − padding, x·stride + kx − padding]`
///
/// # Shapes
/// - `xs`: `[N, C_in, H, W]`
/// - `weight`: `[C_out, C_in, k, k]`; groups and dilation do not exist, no network of the paper has them
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
    let shape = conv_shape(xs, weight, bias, p)?;
    if !is_fused(xs) {
        return composed::conv2d(xs, weight, bias, p);
    }
    let (xs, weight) = (xs.contiguous()?, weight.contiguous()?);
    match bias {
        None => xs.apply_op2(&weight, Conv2d { shape }),
        Some(bias) => xs.apply_op3(&weight, &bias.contiguous()?, Conv2d { shape }),
    }
}

/// Checks the operands of a convolution against each other.
pub(super) fn conv_shape(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, p: Conv2dParams) -> Result<ConvShape> {
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
    if c_in != c_weight {
        bail!("conv2d: xs has {c_in} channels, weight wants {c_weight}, got {}", describe());
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
    Ok(ConvShape { n, c_in, h, w, c_out, k, stride: p.stride, padding: p.padding, h_out, w_out })
}

/// The fused convolution, without bias as [`CustomOp2`], with it as [`CustomOp3`].
struct Conv2d {
    shape: ConvShape,
}

impl Conv2d {
    fn forward(
        &self,
        (xs, xs_layout): (&CpuStorage, &Layout),
        (weight, weight_layout): (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let s = &self.shape;
        let dtype = candle_core::backend::BackendStorage::dtype(xs);
        let ys = by_dtype!(dtype, T, L => {
            let bias = bias.map(|(storage, layout)| as_slice::<T>(storage, layout)).transpose()?;
            let mut ys = zeros::<T>(s.y_len());
            nchw::forward(s, as_slice(xs, xs_layout)?, as_slice(weight, weight_layout)?, bias, &mut ys);
            T::to_cpu_storage_owned(ys)
        });
        Ok((ys, Shape::from((s.n, s.c_out, s.h_out, s.w_out))))
    }

    /// Gradients of `xs` and `weight`, of each only if it is tracked.
    fn backward(&self, xs: &Tensor, weight: &Tensor, grads: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let s = &self.shape;
        by_dtype!(xs.dtype(), T, L => with_slice::<T, _>(grads, |grads| {
            let mut dxs = None;
            if xs.track_op() {
                let mut values = zeros::<T>(s.x_len());
                with_slice(weight, |weight| {
                    nchw::grad_input(s, grads, weight, &mut values);
                    Ok(())
                })?;
                dxs = Some(Tensor::from_vec(values, xs.shape(), xs.device())?);
            }
            let mut dweight = None;
            if weight.track_op() {
                let mut values = zeros::<T>(s.weight_len());
                with_slice(xs, |xs| {
                    nchw::grad_weight(s, xs, grads, &mut values);
                    Ok(())
                })?;
                dweight = Some(Tensor::from_vec(values, weight.shape(), weight.device())?);
            }
            Ok((dxs, dweight))
        }))
    }
}

impl CustomOp2 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward((s1, l1), (s2, l2), None)
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        _ys: &Tensor,
        grads: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.backward(xs, weight, grads)
    }
}

impl CustomOp3 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((s1, l1), (s2, l2), Some((s3, l3)))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _ys: &Tensor,
        grads: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dxs, dweight) = self.backward(xs, weight, grads)?;
        let mut dbias = None;
        if bias.track_op() {
            let (c, map) = (self.shape.c_out, self.shape.h_out * self.shape.w_out);
            dbias = Some(by_dtype!(bias.dtype(), T, L => with_slice::<T, _>(grads, |grads| {
                Tensor::from_vec(grad_bias(grads, c, map), c, bias.device())
            }))?);
        }
        Ok((dxs, dweight, dbias))
    }
}

/// `dbias[o] = Σ_{n, y, x} dys[n, o, y, x]`, for `[n, c, map]`; summed in `f64`.
fn grad_bias<T: Real>(grads: &[T], c: usize, map: usize) -> Vec<T> {
    (0..c)
        .into_par_iter()
        .map(|channel| {
            let maps = grads.chunks_exact(c * map).map(|image| &image[channel * map..(channel + 1) * map]);
            T::from_f64(maps.map(|map| map.iter().map(|&g| g.to_f64()).sum::<f64>()).sum())
        })
        .collect()
}
