//! Max and average pooling with right gradients.

use super::real::Real;
use super::storage::{as_slice, by_dtype, with_slice};
use super::{check_operands, composed, is_fused, output_size};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType, bail};
use rayon::prelude::*;
use std::sync::OnceLock;

/// Maps that a task takes at least; pooling one small map is too little work.
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
    xs.contiguous()?.apply_op1(MaxPool2d { p, h_out, w_out, track: xs.track_op(), offsets: OnceLock::new() })
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

/// The part of a window that lies inside of an axis: first window offset, first position, length.
fn clip(p: Pool2dParams, out: usize, size: usize) -> (usize, usize, usize) {
    let start = out * p.stride;
    let skipped = p.padding.saturating_sub(start);
    let first = start + skipped - p.padding;
    let end = (start + p.kernel - p.padding).min(size);
    (skipped, first, end - first)
}

/// Offset of the maximum in its window, `row * kernel + column`: a byte if the window has at most 256 pixels.
#[derive(Debug)]
enum Offsets {
    Bytes(Vec<u8>),
    Words(Vec<u32>),
}

struct MaxPool2d {
    p: Pool2dParams,
    h_out: usize,
    w_out: usize,
    /// Whether a backward pass will want the offsets.
    track: bool,
    offsets: OnceLock<Offsets>,
}

impl MaxPool2d {
    /// Values of one map; `offset(output index, window offset)` is told where each came from.
    fn pool_map<T: Real>(&self, map: &[T], w: usize, ys: &mut [T], mut offset: impl FnMut(usize, usize)) {
        let (p, h) = (self.p, map.len() / w);
        for (y, ys) in ys.chunks_exact_mut(self.w_out).enumerate() {
            let (skipped_rows, first_row, n_rows) = clip(p, y, h);
            for (x, output) in ys.iter_mut().enumerate() {
                let (skipped_cols, first_col, n_cols) = clip(p, x, w);
                let mut best = map[first_row * w + first_col];
                let mut at = skipped_rows * p.kernel + skipped_cols;
                for row in 0..n_rows {
                    let pixels = &map[(first_row + row) * w + first_col..][..n_cols];
                    for (col, &pixel) in pixels.iter().enumerate() {
                        // NaN is not equal to itself; once it is the best, nothing is greater.
                        #[allow(clippy::eq_op)]
                        if pixel > best || (pixel != pixel && best == best) {
                            best = pixel;
                            at = (skipped_rows + row) * p.kernel + skipped_cols + col;
                        }
                    }
                }
                *output = best;
                offset(y * self.w_out + x, at);
            }
        }
    }

    /// Values and offsets of all maps.
    fn pool<T: Real, O: Copy + Default + Send + TryFrom<usize>>(
        &self,
        xs: &[T],
        (h, w): (usize, usize),
        ys: &mut [T],
    ) -> Vec<O> {
        let map_out = self.h_out * self.w_out;
        let mut offsets = vec![O::default(); ys.len()];
        let maps = xs.par_chunks_exact(h * w).zip(ys.par_chunks_exact_mut(map_out));
        maps.zip(offsets.par_chunks_exact_mut(map_out)).with_min_len(MIN_MAPS).for_each(|((map, ys), offsets)| {
            // The caller has chosen `O` so that every offset fits.
            self.pool_map(map, w, ys, |i, at| offsets[i] = O::try_from(at).unwrap_or_default());
        });
        offsets
    }

    /// Adds the gradient of each window to the pixel that the maximum came from.
    fn scatter<T: Real, O: Copy + Sync + Into<u32>>(
        &self,
        offsets: &[O],
        grad: &[T],
        (h, w): (usize, usize),
        dxs: &mut [T],
    ) {
        let (p, map_out) = (self.p, self.h_out * self.w_out);
        let maps = dxs.par_chunks_exact_mut(h * w).zip(grad.par_chunks_exact(map_out));
        maps.zip(offsets.par_chunks_exact(map_out)).with_min_len(MIN_MAPS).for_each(|((dxs, grad), offsets)| {
            for (i, (&g, &offset)) in grad.iter().zip(offsets).enumerate() {
                let offset: u32 = offset.into();
                let (row, col) = (offset as usize / p.kernel, offset as usize % p.kernel);
                let y = i / self.w_out * p.stride + row - p.padding;
                let x = i % self.w_out * p.stride + col - p.padding;
                dxs[y * w + x] += g;
            }
        });
    }
}

impl CustomOp1 for MaxPool2d {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = layout.shape().dims4()?;
        let map_out = self.h_out * self.w_out;
        let ys = by_dtype!(storage.dtype(), T, L => {
            let xs = as_slice::<T>(storage, layout)?;
            let mut ys = vec![T::default(); n * c * map_out];
            if !self.track {
                let maps = xs.par_chunks_exact(h * w).zip(ys.par_chunks_exact_mut(map_out));
                maps.with_min_len(MIN_MAPS).for_each(|(map, ys)| self.pool_map(map, w, ys, |_, _| ()));
            } else {
                let offsets = if self.p.kernel <= 16 {
                    Offsets::Bytes(self.pool(xs, (h, w), &mut ys))
                } else {
                    Offsets::Words(self.pool(xs, (h, w), &mut ys))
                };
                // The operation is made for one forward pass; a second one would find the same.
                self.offsets.get_or_init(|| offsets);
            }
            T::to_cpu_storage_owned(ys)
        });
        Ok((ys, Shape::from((n, c, self.h_out, self.w_out))))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        if !xs.track_op() {
            return Ok(None);
        }
        let Some(offsets) = self.offsets.get() else {
            bail!("max_pool2d: the backward pass needs a forward pass of the same operation before it");
        };
        let (_, _, h, w) = xs.dims4()?;
        by_dtype!(xs.dtype(), T, L => with_slice::<T, _>(grad, |grad| {
            let mut dxs = vec![T::default(); xs.elem_count()];
            match offsets {
                Offsets::Bytes(offsets) => self.scatter(offsets, grad, (h, w), &mut dxs),
                Offsets::Words(offsets) => self.scatter(offsets, grad, (h, w), &mut dxs),
            }
            Tensor::from_vec(dxs, xs.shape(), xs.device()).map(Some)
        }))
    }
}

struct AvgPool2d {
    p: Pool2dParams,
    h_out: usize,
    w_out: usize,
}

impl AvgPool2d {
    /// Calls `f(output index, first pixel, pixels)` for every row of every window of a map of `h` rows.
    fn for_each_row(&self, (h, w): (usize, usize), mut f: impl FnMut(usize, usize, usize)) {
        for y in 0..self.h_out {
            let (_, first_row, n_rows) = clip(self.p, y, h);
            for x in 0..self.w_out {
                let (_, first_col, n_cols) = clip(self.p, x, w);
                for row in first_row..first_row + n_rows {
                    f(y * self.w_out + x, row * w + first_col, n_cols);
                }
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
            let area = (self.p.kernel * self.p.kernel) as T;
            let mut ys = vec![T::default(); n * c * map_out];
            let maps = xs.par_chunks_exact(h * w).zip(ys.par_chunks_exact_mut(map_out));
            maps.with_min_len(MIN_MAPS).for_each(|(map, ys)| {
                self.for_each_row((h, w), |i, first, n| ys[i] += map[first..first + n].iter().sum::<T>());
                ys.iter_mut().for_each(|y| *y /= area);
            });
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
            let area = (self.p.kernel * self.p.kernel) as T;
            let mut dxs = vec![T::default(); xs.elem_count()];
            let maps = dxs.par_chunks_exact_mut(h * w).zip(grad.par_chunks_exact(self.h_out * self.w_out));
            maps.with_min_len(MIN_MAPS).for_each(|(dxs, grad)| {
                self.for_each_row((h, w), |i, first, n| {
                    dxs[first..first + n].iter_mut().for_each(|dx| *dx += grad[i] / area);
                });
            });
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
            let mut dxs = vec![T::default(); xs.elem_count()];
            let maps = dxs.par_chunks_exact_mut(h * w).zip(grad).with_min_len(MIN_MAPS);
            maps.for_each(|(dxs, &g)| dxs.fill(g / (h * w) as T));
            Tensor::from_vec(dxs, xs.shape(), xs.device()).map(Some)
        }))
    }
}
