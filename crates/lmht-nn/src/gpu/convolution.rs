//! Convolution on a GPU: through cuDNN where the program has it, else columns and a matrix product, some images at a time.
//!
//! Maps are `[n, h, w, c]`, weights `[c_out, c_in / groups, k, k]`, all of one type; nothing here is tracked. Candle's own
//! weight gradient is wrong on Metal (a kernel that is not contiguous is misread), and it has neither gradient in cuDNN.

use std::ops::Range;

use candle_core::{Result, Tensor, bail};
use lmht_gpu::Machine;
use lmht_gpu::plans::im2col;
use lmht_gpu::plans::pool::Windows;
use lmht_kernels::ConvShape;

use super::kernel::flat;
use super::run::run;
use super::work::Work;
use crate::ops::as_real;

/// What cuDNN had no algorithm for in this process: direction, type and shape of convolutions that ran by columns and matrix
/// products, which is slower.
pub fn without_cudnn() -> Vec<String> {
    #[cfg(feature = "cudnn")]
    return super::cudnn::refused();
    #[cfg(not(feature = "cudnn"))]
    Vec::new()
}

/// The convolution, `[n, h_out, w_out, c_out]`.
pub(crate) fn forward(xs: &Tensor, weight: &Tensor, s: &ConvShape) -> Result<Tensor> {
    #[cfg(feature = "cudnn")]
    if super::cudnn::takes(xs)
        && let Some(ys) = super::cudnn::forward(xs, weight, s)?
    {
        return Ok(ys);
    }
    let weight = matrices(weight, s)?;
    by_parts(s, xs, (s.n, s.h_out, s.w_out, s.c_out), |images| ungrouped(&columns(xs, s, images)?.matmul(&weight)?))
}

/// dLoss/dxs, `[n, h, w, c_in]`, from dLoss/dys.
pub(crate) fn grad_input(grad: &Tensor, weight: &Tensor, s: &ConvShape) -> Result<Tensor> {
    #[cfg(feature = "cudnn")]
    if super::cudnn::takes(grad)
        && let Some(grad) = super::cudnn::grad_input(grad, weight, s)?
    {
        return Ok(grad);
    }
    let weight = matrices(weight, s)?.t()?;
    by_parts(s, grad, (s.n, s.h, s.w, s.c_in), |images| {
        let columns = grouped(&rows(grad, s, &images)?, s)?.matmul(&weight)?;
        if is_pointwise(s) {
            return ungrouped(&columns);
        }
        let (area, in_group) = (s.k * s.k, s.c_in / s.groups);
        let columns = columns.reshape((s.groups, (), area, in_group))?.permute((1, 2, 0, 3))?.contiguous()?;
        let windows = Windows { images: images.len(), ..windows(s) };
        only(run(&Image(windows), &[&columns])?)
    })
}

/// dLoss/dweight in the type that arithmetic is in: f32, or f64 with f64.
pub(crate) fn grad_weight(xs: &Tensor, grad: &Tensor, s: &ConvShape) -> Result<Tensor> {
    #[cfg(feature = "cudnn")]
    if super::cudnn::takes(xs)
        && let Some(grad) = super::cudnn::grad_weight(xs, grad, s)?
    {
        return as_real(&grad);
    }
    let mut sum: Option<Tensor> = None;
    for images in parts(s, xs) {
        let grad = grouped(&rows(grad, s, &images)?, s)?;
        let share = as_real(&columns(xs, s, images)?.t()?.matmul(&grad)?)?;
        sum = Some(match sum {
            Some(sum) => (sum + share)?,
            None => share,
        });
    }
    let Some(sum) = sum else { bail!("conv2d: no images") };
    let (in_group, out_group) = (s.c_in / s.groups, s.c_out / s.groups);
    let weight = sum.reshape((s.groups, s.k * s.k, in_group, out_group))?.permute((0, 3, 2, 1))?.contiguous()?;
    weight.reshape((s.c_out, in_group, s.k, s.k))
}

/// Bytes of columns at a time. The emulator has little, so that tests see several parts.
fn memory(xs: &Tensor) -> usize {
    if xs.device().is_cpu() { 4 << 10 } else { 256 << 20 }
}

/// The images, some at a time.
fn parts(s: &ConvShape, xs: &Tensor) -> impl Iterator<Item = Range<usize>> {
    let pixels = s.h_out * s.w_out;
    let bytes = pixels * s.k * s.k * s.c_in * xs.dtype().size_in_bytes();
    let (step, n) = ((memory(xs) / bytes.max(1)).max(1), s.n);
    (0..n).step_by(step).map(move |first| first..n.min(first + step))
}

/// Puts together what `f` gives for some images at a time.
fn by_parts(
    s: &ConvShape,
    like: &Tensor,
    dims: (usize, usize, usize, usize),
    f: impl Fn(Range<usize>) -> Result<Tensor>,
) -> Result<Tensor> {
    let (n, h, w, c) = dims;
    if parts(s, like).count() == 1 {
        return f(0..n)?.reshape(dims);
    }
    let all = Tensor::zeros(dims, like.dtype(), like.device())?;
    for images in parts(s, like) {
        let (first, len) = (images.start, images.len());
        all.slice_set(&f(images)?.reshape((len, h, w, c))?, 0, first)?;
    }
    Ok(all)
}

/// Whether every output pixel sees the input pixel at its place, and nothing else.
fn is_pointwise(s: &ConvShape) -> bool {
    (s.k, s.stride, s.padding) == (1, 1, 0)
}

fn windows(s: &ConvShape) -> Windows {
    Windows { images: s.n, h: s.h, w: s.w, c: s.c_in, kernel: s.k, stride: s.stride, padding: s.padding }
}

/// `[groups, k² c_in / groups, c_out / groups]`.
fn matrices(weight: &Tensor, s: &ConvShape) -> Result<Tensor> {
    let (in_group, out_group) = (s.c_in / s.groups, s.c_out / s.groups);
    let weight = weight.reshape((s.groups, out_group, in_group, s.k * s.k))?.permute((0, 3, 2, 1))?.contiguous()?;
    weight.reshape((s.groups, s.k * s.k * in_group, out_group))
}

/// What the windows of some images see: `[groups, pixels, k² c_in / groups]`.
fn columns(xs: &Tensor, s: &ConvShape, images: Range<usize>) -> Result<Tensor> {
    if is_pointwise(s) {
        return grouped(&rows(xs, s, &images)?, s);
    }
    let pixels = s.h_out * s.w_out;
    let work = Columns(windows(s), images.start * pixels..images.end * pixels);
    let columns = only(run(&work, &[xs])?)?.reshape(((), s.k * s.k, s.groups, s.c_in / s.groups))?;
    columns.permute((2, 0, 1, 3))?.contiguous()?.reshape((s.groups, (), s.k * s.k * s.c_in / s.groups))
}

/// The pixels of some images as rows, `[pixels, c]`.
fn rows(maps: &Tensor, s: &ConvShape, images: &Range<usize>) -> Result<Tensor> {
    let (_, h, w, c) = maps.dims4()?;
    debug_assert_eq!(maps.dims()[0], s.n);
    maps.narrow(0, images.start, images.len())?.reshape((images.len() * h * w, c))
}

/// `[rows, c]` as `[groups, rows, c / groups]`.
fn grouped(rows: &Tensor, s: &ConvShape) -> Result<Tensor> {
    let (n, c) = rows.dims2()?;
    rows.reshape((n, s.groups, c / s.groups))?.transpose(0, 1)?.contiguous()
}

/// And back.
fn ungrouped(groups: &Tensor) -> Result<Tensor> {
    let (n_groups, n, c) = groups.dims3()?;
    groups.transpose(0, 1)?.contiguous()?.reshape((n, n_groups * c))
}

/// im2col.
struct Columns(Windows, Range<usize>);

impl Work for Columns {
    fn run<M: Machine>(&self, m: &M, inputs: &[M::Buffer]) -> lmht_gpu::Result<Vec<M::Buffer>> {
        Ok(vec![im2col::im2col(m, &self.0, self.1.clone(), &inputs[0])?])
    }
}

/// col2im.
struct Image(Windows);

impl Work for Image {
    fn run<M: Machine>(&self, m: &M, inputs: &[M::Buffer]) -> lmht_gpu::Result<Vec<M::Buffer>> {
        let mut grad_xs = m.alloc(m.dtype(&inputs[0]), self.0.n_in())?;
        im2col::col2im(m, &self.0, 0..self.0.images, &inputs[0], &mut grad_xs)?;
        Ok(vec![grad_xs])
    }
}

fn only(outputs: Vec<super::work::Output>) -> Result<Tensor> {
    match outputs.into_iter().next() {
        Some(output) => Ok(flat(output)),
        None => bail!("conv2d: no output; this is a bug of lmht-nn, please report it"),
    }
}
