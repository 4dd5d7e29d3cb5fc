//! Ternary neurons (`kernels/ternary.h`).

use lmht_core::{GradientMode, TernaryNeuron};

use super::shared::{Gradients, SUMS, elements, expect, finish, grid, size, units, width};
use crate::{Arg, Machine, Operation, Program, Result};

pub(crate) const OPERATION: Operation = Operation {
    name: "ternary",
    texts: &[SUMS, include_str!("../../kernels/ternary.h")],
    kernels: &["ternary_forward", "ternary_backward", "finish_sums"],
};

fn program<M: Machine>(m: &M, neuron: &TernaryNeuron, buffers: &[&M::Buffer]) -> Result<(Program, u32)> {
    let (dtype, timesteps) = (elements(m, "ternary: xs", buffers[0])?, neuron.timesteps());
    if timesteps > 1024 {
        return size("ternary: timesteps", "at most 1024 on a GPU", timesteps);
    }
    let n = units(m, "ternary: xs", buffers[0], timesteps)?;
    let detached = u32::from(neuron.gradient() == GradientMode::Detached);
    let defines = vec![("TIMESTEPS", timesteps as u32), ("DETACHED", detached)];
    let width = width(m, dtype, n, timesteps, buffers);
    Ok((Program { operation: OPERATION, dtype, width, threads: m.threads(), defines }, n))
}

/// The outputs a·s `[T, n]` for currents `xs` `[T, n]` and the amplitude a `[1]`:
/// [`lmht_core::ternary::reference::forward`].
///
/// # Errors
/// An operand of another size or type, or more timesteps than fit.
pub fn forward<M: Machine>(m: &M, neuron: &TernaryNeuron, xs: &M::Buffer, amplitude: &M::Buffer) -> Result<M::Buffer> {
    let (program, n) = program(m, neuron, &[xs])?;
    expect(m, "ternary: amplitude", amplitude, program.dtype.real(), 1)?;
    let mut ys = m.alloc(program.dtype, m.len(xs))?;
    let (leak, theta) = (Arg::Real(neuron.leak()), Arg::Real(neuron.v_threshold()));
    let mut args = [Arg::In(xs), Arg::In(amplitude), Arg::Out(&mut ys), Arg::U32(n), leak, theta];
    m.launch(&program, "ternary_forward", grid(m, n / program.width), &mut args)?;
    Ok(ys)
}

/// dLoss/dxs and dLoss/da for `grad_ys` = dLoss/d(a·s) `[T, n]`: [`lmht_core::ternary::reference::backward`].
///
/// # Errors
/// As [`forward`].
pub fn backward<M: Machine>(
    m: &M,
    neuron: &TernaryNeuron,
    xs: &M::Buffer,
    amplitude: &M::Buffer,
    grad_ys: &M::Buffer,
) -> Result<Gradients<M::Buffer>> {
    let (program, n) = program(m, neuron, &[xs, grad_ys])?;
    let (dtype, blocks) = (program.dtype, grid(m, n / program.width));
    expect(m, "ternary: amplitude", amplitude, dtype.real(), 1)?;
    expect(m, "ternary: grad_ys", grad_ys, dtype, m.len(xs))?;
    let mut grad_xs = m.alloc(dtype, m.len(xs))?;
    let mut partial = m.alloc(dtype.real(), blocks as usize)?;
    let mut args = [
        Arg::In(xs),
        Arg::In(amplitude),
        Arg::In(grad_ys),
        Arg::Out(&mut grad_xs),
        Arg::Out(&mut partial),
        Arg::U32(n),
        Arg::Real(neuron.leak()),
        Arg::Real(neuron.v_threshold()),
    ];
    m.launch(&program, "ternary_backward", blocks, &mut args)?;
    Ok(Gradients { xs: grad_xs, learned: finish(m, &program, &partial, blocks, 1)? })
}
