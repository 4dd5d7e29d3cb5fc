//! Max and average pooling with right gradients: Candle's own of max-pooling is off by a factor.

use candle_core::{D, DType, Result, Tensor, bail};

use super::{check_operands, output_size};
use crate::gpu::{self, Kernel};

/// Window of a pooling, equal for both axes, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool2dParams {
    /// Side of the window, at least 1.
    pub kernel: usize,
    /// Step of the window, at least 1.
    pub stride: usize,
    /// Border added on each of the four sides, at most half of the kernel.
    pub padding: usize,
}

/// The maximum of each window. Outside of the map lies −∞.
///
/// The gradient of a window goes to its first maximum in row-major order, all of it, as in PyTorch. NaN is the maximum
/// of its window.
///
/// # Shapes
/// - `xs`: `[N, C, H, W]`
/// - output: `[N, C, H_out, W_out]` with `H_out = (H + 2·padding − kernel) / stride + 1`, rounded down
///
/// # Errors
/// If `xs` has another rank, a size is 0, the kernel is larger than the padded input, or the padding larger than half of
/// the kernel (a window could lie outside of the map).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::ops::{Pool2dParams, max_pool2d};
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[[[[1f32, 4.], [3., 2.]]]], &Device::Cpu)?;
/// let ys = max_pool2d(&xs, Pool2dParams { kernel: 2, stride: 2, padding: 0 })?;
/// assert_eq!(ys.flatten_all()?.to_vec1::<f32>()?, [4.]);
/// # Ok(())
/// # }
/// ```
pub fn max_pool2d(xs: &Tensor, p: Pool2dParams) -> Result<Tensor> {
    let (h_out, w_out) = pool_shape("max_pool2d", xs, p)?;
    if is_pool_by_kernel(xs, p) {
        return pool_by_kernel(Kernel::MaxPool, xs, p, (h_out, w_out));
    }
    let (n, c, _, _) = xs.dims4()?;
    let Windows { values: windows, is_inside } = windows(xs, p, (h_out, w_out), f64::NEG_INFINITY)?;
    let area = p.kernel * p.kernel;
    let values = windows.detach();
    let number = |is: Tensor| is.to_dtype(DType::F32);
    let is_nan = values.ne(&values)?;
    let lowest = Tensor::full(f32::NEG_INFINITY, values.shape(), xs.device())?.to_dtype(values.dtype())?;
    let known = is_nan.where_cond(&lowest, &values)?;
    let is_max = number(known.broadcast_eq(&known.max_keepdim(2)?)?)?;
    // NaN is above all numbers; the border is as low as a number can be and must not win against one that is.
    let is_nan = number(is_nan)?;
    let has_nan = is_nan.max_keepdim(2)?;
    let wins = (is_nan + is_max.broadcast_mul(&has_nan.affine(-1., 1.)?)?)?.broadcast_mul(&is_inside)?;
    // The first of the maxima: the smallest offset among them.
    let offsets = Tensor::arange(0f32, area as f32, xs.device())?.reshape((1, 1, area, 1))?;
    let offsets = offsets.broadcast_as(wins.shape())?.contiguous()?;
    let behind = Tensor::full(area as f32, wins.shape(), xs.device())?;
    let first = wins.gt(0.)?.where_cond(&offsets, &behind)?.min_keepdim(2)?.to_dtype(DType::U32)?;
    windows.contiguous()?.gather(&first.contiguous()?, 2)?.reshape((n, c, h_out, w_out))
}

/// The mean of each window: its sum over `kernel²`. Outside of the map lies 0, and it counts (PyTorch's
/// `count_include_pad`).
///
/// # Shapes
/// - `xs`: `[N, C, H, W]`
/// - output: `[N, C, H_out, W_out]` with `H_out = (H + 2·padding − kernel) / stride + 1`, rounded down
///
/// # Errors
/// As [`max_pool2d`].
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::ops::{Pool2dParams, avg_pool2d};
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[[[[1f32, 4.], [3., 2.]]]], &Device::Cpu)?;
/// let ys = avg_pool2d(&xs, Pool2dParams { kernel: 2, stride: 2, padding: 0 })?;
/// assert_eq!(ys.flatten_all()?.to_vec1::<f32>()?, [2.5]);
/// # Ok(())
/// # }
/// ```
pub fn avg_pool2d(xs: &Tensor, p: Pool2dParams) -> Result<Tensor> {
    let (h_out, w_out) = pool_shape("avg_pool2d", xs, p)?;
    if is_pool_by_kernel(xs, p) {
        return pool_by_kernel(Kernel::AvgPool, xs, p, (h_out, w_out));
    }
    let (n, c, _, _) = xs.dims4()?;
    let sums = windows(xs, p, (h_out, w_out), 0.)?.values.sum(2)?;
    (sums / (p.kernel * p.kernel) as f64)?.reshape((n, c, h_out, w_out))
}

/// The mean of each map.
///
/// # Shapes
/// - `xs`: `[N, C, H, W]`
/// - output: `[N, C]`
///
/// # Errors
/// If `xs` has another rank or a size is 0.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[[[[1f32, 4.], [3., 2.]]]], &Device::Cpu)?;
/// assert_eq!(lmht_nn::ops::global_avg_pool(&xs)?.to_vec2::<f32>()?, [[2.5]]);
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

/// Whether kernels take such windows: a byte says which pixel was the maximum.
pub(crate) fn is_pool_by_kernel(xs: &Tensor, p: Pool2dParams) -> bool {
    gpu::takes(xs) && p.kernel <= 15
}

/// A pooling through kernels, which want channels last.
fn pool_by_kernel(
    kernel: fn(gpu::Windows) -> Kernel,
    xs: &Tensor,
    p: Pool2dParams,
    (h_out, w_out): (usize, usize),
) -> Result<Tensor> {
    let (n, c, h, w) = xs.dims4()?;
    let windows = gpu::Windows { images: n, h, w, c, kernel: p.kernel, stride: p.stride, padding: p.padding };
    let maps = xs.permute((0, 2, 3, 1))?.contiguous()?;
    let (ys, _) = gpu::apply(kernel(windows), &maps, &[], &[], (n, h_out, w_out, c))?;
    ys.permute((0, 3, 1, 2))?.contiguous()
}

/// The shape of what a pooling gives, after checking it.
pub(crate) fn pool_dims(xs: &Tensor, p: Pool2dParams) -> Result<Vec<usize>> {
    let (h_out, w_out) = pool_shape("pooling", xs, p)?;
    Ok(vec![xs.dims()[0], xs.dims()[1], h_out, w_out])
}

/// Checks a pooling and returns (H_out, W_out).
fn pool_shape(op: &str, xs: &Tensor, p: Pool2dParams) -> Result<(usize, usize)> {
    let &[_, _, h, w] = xs.dims() else {
        bail!("{op}: expected xs [N, C, H, W], got {:?}", xs.dims());
    };
    check_operands(op, &[("xs", xs)])?;
    if p.padding > p.kernel / 2 {
        bail!(
            "{op}: padding may be at most half of the kernel, got padding {} and kernel {} for xs {:?}",
            p.padding,
            p.kernel,
            xs.dims()
        );
    }
    let size = |axis, size| {
        output_size(op, axis, size, p.kernel, p.stride, p.padding)
            .map_err(|e| candle_core::Error::Msg(format!("{e}; got xs {:?}", xs.dims())))
    };
    Ok((size("height", h)?, size("width", w)?))
}

/// The pixels under each window.
struct Windows {
    /// `[N, C, kernel · kernel, H_out · W_out]`.
    values: Tensor,
    /// 1 where such a pixel is in the map, 0 where it is border, `[1, 1, kernel · kernel, H_out · W_out]` (f32).
    is_inside: Tensor,
}

/// Gathers windows; outside of the map lies `border`.
fn windows(xs: &Tensor, p: Pool2dParams, (h_out, w_out): (usize, usize), border: f64) -> Result<Windows> {
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
    let (area, positions) = (p.kernel * p.kernel, h_out * w_out);
    let is_inside: Vec<f32> = indices.iter().map(|&index| if (index as usize) < h * w { 1. } else { 0. }).collect();
    let is_inside = Tensor::from_vec(is_inside, (1, 1, area, positions), xs.device())?;
    let indices = Tensor::from_vec(indices, n_indices, xs.device())?;
    let border = Tensor::full(border as f32, (n, c, 1), xs.device())?.to_dtype(xs.dtype())?;
    let maps = Tensor::cat(&[&xs.flatten_from(2)?, &border], 2)?.contiguous()?;
    let values = maps.index_select(&indices, 2)?.reshape((n, c, area, positions))?;
    Ok(Windows { values, is_inside })
}
