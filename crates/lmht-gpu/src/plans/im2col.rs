//! A convolution as a product, where there is no cuDNN (`kernels/im2col.h`).

use std::ops::Range;

use super::pool::Windows;
use super::shared::{count, elements, expect, grid, size};
use crate::{Arg, Dtype, Machine, Operation, Program, Result};

pub(crate) const OPERATION: Operation =
    Operation { name: "im2col", texts: &[include_str!("../../kernels/im2col.h")], kernels: &["im2col", "col2im"] };

fn program<M: Machine>(m: &M, windows: &Windows, dtype: Dtype) -> Result<Program> {
    windows.check("im2col")?;
    Ok(Program { operation: OPERATION, dtype, width: 1, threads: m.threads(), defines: windows.defines() })
}

/// `[pixels, kernel², c]`: what the windows of the output pixels `pixels` see of `xs` `[images, h, w, c]`. The product
/// with weights `[kernel², c, c_out]` is the convolution.
///
/// # Errors
/// An operand of another size or type; windows that do not fit; pixels that are not there.
pub fn im2col<M: Machine>(m: &M, windows: &Windows, pixels: Range<usize>, xs: &M::Buffer) -> Result<M::Buffer> {
    let program = program(m, windows, elements(m, "im2col: xs", xs)?)?;
    expect(m, "im2col: xs", xs, program.dtype, windows.n_in())?;
    if pixels.is_empty() || pixels.end > windows.pixels() {
        return size("im2col: pixels", format!("a part of 0..{}", windows.pixels()), format!("{pixels:?}"));
    }
    let len = pixels.len() * windows.kernel * windows.kernel * windows.c;
    let n = count("im2col: columns", len)?;
    let mut columns = m.alloc(program.dtype, len)?;
    let mut args = vec![Arg::In(xs), Arg::Out(&mut columns), Arg::U32(n), Arg::U32(pixels.start as u32)];
    args.extend(windows.sizes().map(Arg::U32));
    m.launch(&program, "im2col", grid(m, n), &mut args)?;
    Ok(columns)
}

/// Adds up columns `[pixels of images, kernel², c]` where they came from: the part of `grad_xs` `[images, h, w, c]`
/// that belongs to the images `images` is written.
///
/// # Errors
/// As [`im2col`].
pub fn col2im<M: Machine>(
    m: &M,
    windows: &Windows,
    images: Range<usize>,
    columns: &M::Buffer,
    grad_xs: &mut M::Buffer,
) -> Result<()> {
    let program = program(m, windows, elements(m, "col2im: columns", columns)?)?;
    if images.is_empty() || images.end > windows.images {
        return size("col2im: images", format!("a part of 0..{}", windows.images), format!("{images:?}"));
    }
    let part = Windows { images: images.len(), ..*windows };
    let len = part.pixels() * part.kernel * part.kernel * part.c;
    count("col2im: columns", len)?;
    expect(m, "col2im: columns", columns, program.dtype, len)?;
    expect(m, "col2im: grad_xs", grad_xs, program.dtype, windows.n_in())?;
    let n = part.n_in() as u32;
    let mut args = vec![Arg::In(columns), Arg::Out(grad_xs), Arg::U32(n), Arg::U32(images.start as u32)];
    args.extend(windows.sizes().map(Arg::U32));
    m.launch(&program, "col2im", grid(m, n), &mut args)
}
