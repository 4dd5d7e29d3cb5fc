//! Batch norm of maps `[rows, channels]`, channels last (`kernels/batch_norm.h`).

use super::shared::{COLUMNS, Columns, SUMS, count, elements, expect, finish, size, width};
use crate::{Arg, Dtype, Machine, Operation, Program, Result};

pub(crate) const OPERATION: Operation = Operation {
    name: "batch_norm",
    texts: &[SUMS, COLUMNS, include_str!("../../kernels/batch_norm.h")],
    kernels: &[
        "statistics",
        "finish_statistics",
        "running_norm",
        "batch_norm_forward",
        "batch_norm_sums",
        "batch_norm_backward",
        "finish_sums",
    ],
};

/// What a batch norm learns.
#[derive(Debug)]
pub struct Affine<'a, B> {
    /// γ, `[channels]`.
    pub weight: &'a B,
    /// β, `[channels]`.
    pub bias: &'a B,
}

/// How statistics are taken.
#[derive(Debug, Clone, Copy)]
pub struct Statistics {
    /// Added to the variance.
    pub eps: f64,
    /// The share of the batch in the running statistics.
    pub momentum: f64,
    /// How often each row stands: a static image's current is computed once and repeated for every timestep. 1 else.
    pub repeats: u32,
}

/// What flows back from a batch norm.
#[derive(Debug)]
pub struct NormGradients<B> {
    /// dLoss/dxs.
    pub xs: B,
    /// `[2, channels]`: dLoss/dbias, then dLoss/dweight.
    pub affine: B,
}

struct Plan {
    program: Program,
    rows: u32,
    channels: u32,
    columns: Columns,
}

fn plan<M: Machine>(m: &M, channels: usize, buffers: &[&M::Buffer]) -> Result<Plan> {
    let (dtype, len) = (elements(m, "batch norm: xs", buffers[0])?, m.len(buffers[0]));
    count("batch norm: xs", len)?;
    if channels == 0 || !len.is_multiple_of(channels) {
        return size("batch norm: xs", format!("[rows, {channels}]"), format!("{len} values"));
    }
    let (rows, channels) = ((len / channels) as u32, channels as u32);
    let width = width(m, dtype, channels, 1, buffers);
    let columns = Columns::new(m, rows, channels, width);
    let defines = vec![("COLUMNS", columns.columns)];
    Ok(Plan {
        program: Program { operation: OPERATION, dtype, width, threads: m.threads(), defines },
        rows,
        channels,
        columns,
    })
}

fn expect_affine<M: Machine>(m: &M, affine: &Affine<'_, M::Buffer>, dtype: Dtype, channels: usize) -> Result<()> {
    expect(m, "batch norm: weight", affine.weight, dtype, channels)?;
    expect(m, "batch norm: bias", affine.bias, dtype, channels)
}

/// norm `[4, channels]` by the statistics of `xs` `[rows, channels]`: mean, 1/√(variance + eps), that times weight,
/// bias. Updates the running statistics as `lmht_nn::ops::update_running_stats` does.
///
/// # Errors
/// An operand of another size or type; fewer than two values in a channel.
pub fn statistics<M: Machine>(
    m: &M,
    how: Statistics,
    xs: &M::Buffer,
    affine: &Affine<'_, M::Buffer>,
    running: (&mut M::Buffer, &mut M::Buffer),
) -> Result<M::Buffer> {
    let n_channels = m.len(affine.weight);
    let Plan { program, rows, channels, columns } = plan(m, n_channels, &[xs])?;
    if rows < 2 {
        return size("batch norm: xs", "at least two rows for a variance", rows);
    }
    let real = program.dtype.real();
    expect_affine(m, affine, real, n_channels)?;
    expect(m, "batch norm: running_mean", running.0, real, n_channels)?;
    expect(m, "batch norm: running_var", running.1, real, n_channels)?;
    let mut partial = m.alloc(real, columns.chunks as usize * 3 * n_channels)?;
    let (shares, tiles) = (Arg::Out(&mut partial), Arg::U32(columns.tiles));
    let mut args = [Arg::In(xs), shares, Arg::U32(rows), Arg::U32(channels), tiles];
    m.launch(&program, "statistics", columns.grid(), &mut args)?;
    let mut norm = m.alloc(real, 4 * n_channels)?;
    let repeated = f64::from(rows) * f64::from(how.repeats.max(1));
    let mut args = [
        Arg::In(&partial),
        Arg::In(affine.weight),
        Arg::In(affine.bias),
        Arg::Out(running.0),
        Arg::Out(running.1),
        Arg::Out(&mut norm),
        Arg::U32(columns.chunks),
        Arg::Real(how.eps),
        Arg::Real(how.momentum),
        Arg::Real(repeated / (repeated - 1.0)),
    ];
    m.launch(&program, "finish_statistics", channels, &mut args)?;
    Ok(norm)
}

/// norm `[4, channels]`, as [`statistics`] gives it, by the running statistics. `dtype` is that of the elements.
///
/// # Errors
/// An operand of another size or type.
pub fn running_norm<M: Machine>(
    m: &M,
    dtype: Dtype,
    eps: f64,
    affine: &Affine<'_, M::Buffer>,
    running: (&M::Buffer, &M::Buffer),
) -> Result<M::Buffer> {
    let (real, n_channels) = (dtype.real(), m.len(affine.weight));
    let channels = count("batch norm: channels", n_channels)?;
    expect_affine(m, affine, real, n_channels)?;
    expect(m, "batch norm: running_mean", running.0, real, n_channels)?;
    expect(m, "batch norm: running_var", running.1, real, n_channels)?;
    let mut norm = m.alloc(real, 4 * n_channels)?;
    let program =
        Program { operation: OPERATION, dtype, width: 1, threads: m.threads(), defines: vec![("COLUMNS", 1)] };
    let (weight, bias) = (Arg::In(affine.weight), Arg::In(affine.bias));
    let (mean, var) = (Arg::In(running.0), Arg::In(running.1));
    let mut args = [weight, bias, mean, var, Arg::Out(&mut norm), Arg::U32(channels), Arg::Real(eps)];
    m.launch(&program, "running_norm", channels.div_ceil(m.threads()), &mut args)?;
    Ok(norm)
}

/// (x - mean)·scale + bias.
///
/// # Errors
/// An operand of another size or type.
pub fn forward<M: Machine>(m: &M, xs: &M::Buffer, norm: &M::Buffer) -> Result<M::Buffer> {
    let Plan { program, rows, channels, columns } = plan(m, m.len(norm) / 4, &[xs])?;
    expect(m, "batch norm: norm", norm, program.dtype.real(), 4 * channels as usize)?;
    let mut ys = m.alloc(program.dtype, m.len(xs))?;
    let (rows, channels, tiles) = (Arg::U32(rows), Arg::U32(channels), Arg::U32(columns.tiles));
    let mut args = [Arg::In(xs), Arg::In(norm), Arg::Out(&mut ys), rows, channels, tiles];
    m.launch(&program, "batch_norm_forward", columns.grid(), &mut args)?;
    Ok(ys)
}

/// The gradients; `frozen` where the statistics are constants, as the running ones are.
///
/// # Errors
/// An operand of another size or type.
pub fn backward<M: Machine>(
    m: &M,
    frozen: bool,
    xs: &M::Buffer,
    norm: &M::Buffer,
    grad_ys: &M::Buffer,
) -> Result<NormGradients<M::Buffer>> {
    let Plan { program, rows, channels, columns } = plan(m, m.len(norm) / 4, &[xs, grad_ys])?;
    let (dtype, real) = (program.dtype, program.dtype.real());
    expect(m, "batch norm: norm", norm, real, 4 * channels as usize)?;
    expect(m, "batch norm: grad_ys", grad_ys, dtype, m.len(xs))?;
    let mut partial = m.alloc(real, (columns.chunks * 2 * channels) as usize)?;
    let sizes = || [Arg::U32(rows), Arg::U32(channels), Arg::U32(columns.tiles)];
    let [r, c, t] = sizes();
    let mut args = [Arg::In(xs), Arg::In(norm), Arg::In(grad_ys), Arg::Out(&mut partial), r, c, t];
    m.launch(&program, "batch_norm_sums", columns.grid(), &mut args)?;
    let affine = finish(m, &program, &partial, columns.chunks, 2 * channels)?;
    let mut grad_xs = m.alloc(dtype, m.len(xs))?;
    let inverse_count = Arg::Real(if frozen { 0.0 } else { 1.0 / f64::from(rows) });
    let (sums, out, [r, c, t]) = (Arg::In(&affine), Arg::Out(&mut grad_xs), sizes());
    let mut args = [Arg::In(xs), Arg::In(norm), Arg::In(grad_ys), sums, out, r, c, t, inverse_count];
    m.launch(&program, "batch_norm_backward", columns.grid(), &mut args)?;
    Ok(NormGradients { xs: grad_xs, affine })
}
