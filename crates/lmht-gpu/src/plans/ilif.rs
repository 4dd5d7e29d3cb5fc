//! I-LIF neurons (`kernels/ilif.h`).

use lmht_core::{GradientMode, IlifNeuron};

use super::shared::{elements, expect, grid, size, units, width};
use crate::{Arg, Machine, Operation, Program, Result};

pub(crate) const OPERATION: Operation = Operation {
    name: "ilif",
    texts: &[include_str!("../../kernels/ilif.h")],
    kernels: &["ilif_forward", "ilif_backward"],
};

fn program<M: Machine>(m: &M, neuron: &IlifNeuron, buffers: &[&M::Buffer]) -> Result<(Program, u32)> {
    let (dtype, timesteps) = (elements(m, "ilif: xs", buffers[0])?, neuron.timesteps());
    if timesteps > 1024 {
        return size("ilif: timesteps", "at most 1024 on a GPU", timesteps);
    }
    let n = units(m, "ilif: xs", buffers[0], timesteps)?;
    let detached = u32::from(neuron.gradient() == GradientMode::Detached);
    let defines = vec![("TIMESTEPS", timesteps as u32), ("LEVELS", neuron.levels()), ("DETACHED", detached)];
    let width = width(m, dtype, n, timesteps, buffers);
    Ok((Program { operation: OPERATION, dtype, width, threads: m.threads(), defines }, n))
}

/// The counts `[T, n]` for currents `xs` `[T, n]`: [`lmht_core::ilif::reference::forward`].
///
/// # Errors
/// An operand of another size or type, or more timesteps than fit.
pub fn forward<M: Machine>(m: &M, neuron: &IlifNeuron, xs: &M::Buffer) -> Result<M::Buffer> {
    let (program, n) = program(m, neuron, &[xs])?;
    let mut ys = m.alloc(program.dtype, m.len(xs))?;
    let mut args = [Arg::In(xs), Arg::Out(&mut ys), Arg::U32(n), Arg::Real(neuron.leak())];
    m.launch(&program, "ilif_forward", grid(m, n / program.width), &mut args)?;
    Ok(ys)
}

/// dLoss/dxs for `grad_ys` = dLoss/ds `[T, n]`: [`lmht_core::ilif::reference::backward`].
///
/// # Errors
/// As [`forward`].
pub fn backward<M: Machine>(m: &M, neuron: &IlifNeuron, xs: &M::Buffer, grad_ys: &M::Buffer) -> Result<M::Buffer> {
    let (program, n) = program(m, neuron, &[xs, grad_ys])?;
    expect(m, "ilif: grad_ys", grad_ys, program.dtype, m.len(xs))?;
    let mut grad_xs = m.alloc(program.dtype, m.len(xs))?;
    let mut args = [Arg::In(xs), Arg::In(grad_ys), Arg::Out(&mut grad_xs), Arg::U32(n), Arg::Real(neuron.leak())];
    m.launch(&program, "ilif_backward", grid(m, n / program.width), &mut args)?;
    Ok(grad_xs)
}
