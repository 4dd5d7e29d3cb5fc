//! Max and average pooling with right gradients.

mod max;

use super::storage::{as_slice, by_dtype, with_slice, zeros};
use super::{check_operands, composed, is_fused, output_size};
use crate::kernels::real::{Kernel, Real, run_vectorized};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType, bail};
use max::{MaxGradients, MaxMaps};
use rayon::prelude::*;

/// Maps that a task takes; pooling one small map is too little work.
const MIN_MAPS: usize = 16;

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
    if !is_fused(xs) {
        return composed::max_pool2d(xs, p);
    }
    xs.contiguous()?.apply_op1(MaxPool2d { p, h_out, w_out })
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
    if !is_fused(xs) {
        return composed::avg_pool2d(xs, p);
    }
    xs.contiguous()?.apply_op1(AvgPool2d { p, h_out, w_out })
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
    let &[_, _, _, _] = xs.dims() else {
        bail!("global_avg_pool: expected xs [N, C, H, W], got {:?}", xs.dims());
    };
    check_operands("global_avg_pool", &[("xs", xs)])?;
    if !is_fused(xs) {
        return composed::global_avg_pool(xs);
    }
    xs.contiguous()?.apply_op1(GlobalAvgPool)
}

/// Checks a pooling and returns (H_out, W_out).
pub(super) fn pool_shape(op: &str, xs: &Tensor, p: Pool2dParams) -> Result<(usize, usize)> {
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

/// The part of a window that lies inside of an axis: first position, length.
#[inline(always)]
fn clip(p: Pool2dParams, out: usize, size: usize) -> (usize, usize) {
    let first = (out * p.stride).saturating_sub(p.padding);
    let end = (out * p.stride + p.kernel - p.padding).min(size);
    (first, end - first)
}

struct MaxPool2d {
    p: Pool2dParams,
    h_out: usize,
    w_out: usize,
}

impl CustomOp1 for MaxPool2d {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = layout.shape().dims4()?;
        let (p, size_out) = (self.p, (self.h_out, self.w_out));
        let map_out = self.h_out * self.w_out;
        let ys = by_dtype!(storage.dtype(), T, L => {
            let xs = as_slice::<T>(storage, layout)?;
            let mut ys = zeros::<T>(n * c * map_out);
            let maps = xs.par_chunks(MIN_MAPS * h * w).zip(ys.par_chunks_mut(MIN_MAPS * map_out));
            maps.for_each(|(xs, ys)| run_vectorized(MaxMaps { p, size: (h, w), size_out, xs, ys }));
            T::to_cpu_storage_owned(ys)
        });
        Ok((ys, Shape::from((n, c, self.h_out, self.w_out))))
    }

    fn bwd(&self, xs: &Tensor, ys: &Tensor, grads: &Tensor) -> Result<Option<Tensor>> {
        if !xs.track_op() {
            return Ok(None);
        }
        let (_, _, h, w) = xs.dims4()?;
        let (p, size_out) = (self.p, (self.h_out, self.w_out));
        by_dtype!(xs.dtype(), T, L => {
            let mut dxs = zeros::<T>(xs.elem_count());
            with_slice::<T, _>(xs, |xs| with_slice(ys, |ys| with_slice(grads, |grads| {
                let outputs = |values| <[T]>::par_chunks(values, MIN_MAPS * self.h_out * self.w_out);
                let maps = xs.par_chunks(MIN_MAPS * h * w).zip(dxs.par_chunks_mut(MIN_MAPS * h * w));
                maps.zip(outputs(ys).zip(outputs(grads))).for_each(|((xs, dxs), (ys, grads))| {
                    run_vectorized(MaxGradients { p, size: (h, w), size_out, xs, ys, grads, dxs });
                });
                Ok(())
            })))?;
            Tensor::from_vec(dxs, xs.shape(), xs.device()).map(Some)
        })
    }
}

struct AvgPool2d {
    p: Pool2dParams,
    h_out: usize,
    w_out: usize,
}

/// Average pooling of some maps, or its gradient.
struct AvgMaps<'a, T> {
    p: Pool2dParams,
    /// Height and width of a map.
    size: (usize, usize),
    size_out: (usize, usize),
    xs: &'a [T],
    ys: &'a mut [T],
}

/// The pooling of all networks here: neighbours do not overlap, and nothing lies outside.
fn is_plain_two(p: Pool2dParams) -> bool {
    p == Pool2dParams { kernel: 2, stride: 2, padding: 0 }
}

impl<T: Real> Kernel for AvgMaps<'_, T>
where
    T: std::iter::Sum + std::ops::AddAssign + std::ops::DivAssign,
{
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let ((h, w), (h_out, w_out)) = (self.size, self.size_out);
        let area = <T as WithDType>::from_f64((self.p.kernel * self.p.kernel) as f64);
        for (map, ys) in self.xs.chunks_exact(h * w).zip(self.ys.chunks_exact_mut(h_out * w_out)) {
            if is_plain_two(self.p) {
                for (y, ys) in ys.chunks_exact_mut(w_out).enumerate() {
                    let (upper, lower) = map[2 * y * w..][..2 * w].split_at(w);
                    for ((y, upper), lower) in ys.iter_mut().zip(upper.chunks_exact(2)).zip(lower.chunks_exact(2)) {
                        *y = ((upper[0] + upper[1]) + (lower[0] + lower[1])) / area;
                    }
                }
            } else {
                for_each_row(self.p, (h, w), (h_out, w_out), |i, first, n| {
                    ys[i] += map[first..first + n].iter().copied().sum::<T>();
                });
                ys.iter_mut().for_each(|y| *y /= area);
            }
        }
    }
}

/// The gradient of [`AvgMaps`]: `xs` are the gradients of the outputs, `ys` those of the inputs.
struct AvgGradients<'a, T>(AvgMaps<'a, T>);

impl<T: Real> Kernel for AvgGradients<'_, T>
where
    T: std::ops::AddAssign,
{
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let AvgMaps { p, size: (h, w), size_out: (h_out, w_out), xs: grad, ys: dxs } = self.0;
        let area = <T as WithDType>::from_f64((p.kernel * p.kernel) as f64);
        for (grad, dxs) in grad.chunks_exact(h_out * w_out).zip(dxs.chunks_exact_mut(h * w)) {
            if is_plain_two(p) {
                for (y, grad) in grad.chunks_exact(w_out).enumerate() {
                    let (upper, lower) = dxs[2 * y * w..][..2 * w].split_at_mut(w);
                    let pixels = upper.chunks_exact_mut(2).zip(lower.chunks_exact_mut(2));
                    for ((upper, lower), &g) in pixels.zip(grad) {
                        let share = g / area;
                        upper.fill(share);
                        lower.fill(share);
                    }
                }
            } else {
                for_each_row(p, (h, w), (h_out, w_out), |i, first, n| {
                    dxs[first..first + n].iter_mut().for_each(|dx| *dx += grad[i] / area);
                });
            }
        }
    }
}

/// Calls `f(output index, first pixel, pixels)` for every row of every window of a map.
#[inline(always)]
fn for_each_row(
    p: Pool2dParams,
    (h, w): (usize, usize),
    (h_out, w_out): (usize, usize),
    mut f: impl FnMut(usize, usize, usize),
) {
    for y in 0..h_out {
        let (first_row, n_rows) = clip(p, y, h);
        for x in 0..w_out {
            let (first_col, n_cols) = clip(p, x, w);
            for row in first_row..first_row + n_rows {
                f(y * w_out + x, row * w + first_col, n_cols);
            }
        }
    }
}

impl CustomOp1 for AvgPool2d {
    fn name(&self) -> &'static str {
        "avg_pool2d"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = layout.shape().dims4()?;
        let map_out = self.h_out * self.w_out;
        let ys = by_dtype!(storage.dtype(), T, L => {
            let xs = as_slice::<T>(storage, layout)?;
            let mut ys = zeros::<T>(n * c * map_out);
            let (p, size_out) = (self.p, (self.h_out, self.w_out));
            let maps = xs.par_chunks(MIN_MAPS * h * w).zip(ys.par_chunks_mut(MIN_MAPS * map_out));
            maps.for_each(|(xs, ys)| run_vectorized(AvgMaps { p, size: (h, w), size_out, xs, ys }));
            T::to_cpu_storage_owned(ys)
        });
        Ok((ys, Shape::from((n, c, self.h_out, self.w_out))))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        if !xs.track_op() {
            return Ok(None);
        }
        let (_, _, h, w) = xs.dims4()?;
        by_dtype!(xs.dtype(), T, L => with_slice::<T, _>(grad, |grad| {
            let mut dxs = zeros::<T>(xs.elem_count());
            let (p, size_out) = (self.p, (self.h_out, self.w_out));
            let maps = grad.par_chunks(MIN_MAPS * self.h_out * self.w_out).zip(dxs.par_chunks_mut(MIN_MAPS * h * w));
            maps.for_each(|(xs, ys)| run_vectorized(AvgGradients(AvgMaps { p, size: (h, w), size_out, xs, ys })));
            Tensor::from_vec(dxs, xs.shape(), xs.device()).map(Some)
        }))
    }
}

struct GlobalAvgPool;

impl CustomOp1 for GlobalAvgPool {
    fn name(&self) -> &'static str {
        "global_avg_pool"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = layout.shape().dims4()?;
        let ys = by_dtype!(storage.dtype(), T, L => {
            let maps = as_slice::<T>(storage, layout)?.par_chunks_exact(h * w).with_min_len(MIN_MAPS);
            let mean = |map: &[T]| map.iter().map(|x| x.to_f64()).sum::<f64>() / (h * w) as f64;
            T::to_cpu_storage_owned(maps.map(|map| mean(map) as T).collect())
        });
        Ok((ys, Shape::from((n, c))))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        if !xs.track_op() {
            return Ok(None);
        }
        let (_, _, h, w) = xs.dims4()?;
        by_dtype!(xs.dtype(), T, L => with_slice::<T, _>(grad, |grad| {
            let mut dxs = zeros::<T>(xs.elem_count());
            let maps = dxs.par_chunks_exact_mut(h * w).zip(grad).with_min_len(MIN_MAPS);
            maps.for_each(|(dxs, &g)| dxs.fill(g / (h * w) as T));
            Tensor::from_vec(dxs, xs.shape(), xs.device()).map(Some)
        }))
    }
}
