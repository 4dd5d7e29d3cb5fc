//! Quantization-clip-floor-shift (`kernels/qcfs.h`).

use lmht_core::QcfsGate;

use super::shared::{Gradients, SUMS, count, elements, expect, finish, grid, width};
use crate::{Arg, Machine, Operation, Program, Result};

pub(crate) const OPERATION: Operation = Operation {
    name: "qcfs",
    texts: &[SUMS, include_str!("../../kernels/qcfs.h")],
    kernels: &["qcfs_forward", "qcfs_backward", "finish_sums"],
};

fn program<M: Machine>(
    m: &M,
    quant_levels: u32,
    gate: QcfsGate,
    scale: &M::Buffer,
    buffers: &[&M::Buffer],
) -> Result<(Program, u32)> {
    let dtype = elements(m, "qcfs: xs", buffers[0])?;
    expect(m, "qcfs: scale", scale, dtype.real(), 1)?;
    let n = count("qcfs: xs", m.len(buffers[0]))?;
    let defines = vec![("LEVELS", quant_levels), ("AFTER_FLOOR", u32::from(gate == QcfsGate::AfterFloor))];
    let width = width(m, dtype, n, 1, buffers);
    Ok((Program { operation: OPERATION, dtype, width, threads: m.threads(), defines }, n))
}

/// The activations for `xs`, with ϑ `[1]`: [`lmht_core::qcfs::forward`].
///
/// # Errors
/// An operand of another size or type.
pub fn forward<M: Machine>(m: &M, quant_levels: u32, xs: &M::Buffer, scale: &M::Buffer) -> Result<M::Buffer> {
    let (program, n) = program(m, quant_levels, QcfsGate::default(), scale, &[xs])?;
    let mut ys = m.alloc(program.dtype, m.len(xs))?;
    let mut args = [Arg::In(xs), Arg::In(scale), Arg::Out(&mut ys), Arg::U32(n)];
    m.launch(&program, "qcfs_forward", grid(m, n / program.width), &mut args)?;
    Ok(ys)
}

/// dLoss/dxs and dLoss/dϑ: [`lmht_core::qcfs::backward_in`].
///
/// # Errors
/// As [`forward`].
pub fn backward<M: Machine>(
    m: &M,
    quant_levels: u32,
    gate: QcfsGate,
    xs: &M::Buffer,
    scale: &M::Buffer,
    grad_ys: &M::Buffer,
) -> Result<Gradients<M::Buffer>> {
    let (program, n) = program(m, quant_levels, gate, scale, &[xs, grad_ys])?;
    let (dtype, blocks) = (program.dtype, grid(m, n / program.width));
    expect(m, "qcfs: grad_ys", grad_ys, dtype, m.len(xs))?;
    let mut grad_xs = m.alloc(dtype, m.len(xs))?;
    let mut partial = m.alloc(dtype.real(), blocks as usize)?;
    let (out, shares) = (Arg::Out(&mut grad_xs), Arg::Out(&mut partial));
    let mut args = [Arg::In(xs), Arg::In(scale), Arg::In(grad_ys), out, shares, Arg::U32(n)];
    m.launch(&program, "qcfs_backward", blocks, &mut args)?;
    Ok(Gradients { xs: grad_xs, learned: finish(m, &program, &partial, blocks, 1)? })
}
