//! LM-HT, M-HT, IF and LIF neurons (`kernels/neuron.h`).

use lmht_core::{GradientMode, LmhtNeuron, Tgim};

use super::shared::{Gradients, SUMS, UNIT, elements, expect, finish, grid, size, units, width};
use crate::{Arg, Machine, Operation, Program, Result};

pub(crate) const OPERATION: Operation = Operation {
    name: "neuron",
    texts: &[SUMS, UNIT, include_str!("../../kernels/neuron.h")],
    kernels: &["neuron_forward", "neuron_backward", "finish_sums"],
};

/// The most timesteps with a T-GIM, whose T² numbers a block keeps in shared memory, and without one.
const MAX_TIMESTEPS: [usize; 2] = [64, 1024];

/// What `kernels/unit.h` is specialised by.
pub(super) fn defines(neuron: &LmhtNeuron) -> Result<Vec<(&'static str, u32)>> {
    let (free, tgim) = match neuron.tgim() {
        Tgim::Identity => (MAX_TIMESTEPS[1], 0),
        Tgim::Causal => (MAX_TIMESTEPS[0], 1),
        Tgim::Full => (MAX_TIMESTEPS[0], 2),
    };
    if neuron.timesteps() > free {
        return size("neuron: timesteps", format!("at most {free} on a GPU for this T-GIM"), neuron.timesteps());
    }
    Ok(vec![
        ("TIMESTEPS", neuron.timesteps() as u32),
        ("LEVELS", neuron.levels()),
        ("WINDOW", neuron.window() as u32),
        ("TGIM", tgim),
        ("DETACHED", u32::from(neuron.gradient() == GradientMode::Detached)),
    ])
}

/// How many learned numbers a neuron has: Ω row by row, unless it is the identity, then λ.
pub fn n_learned(neuron: &LmhtNeuron) -> usize {
    match neuron.tgim() {
        Tgim::Identity => 1,
        Tgim::Causal | Tgim::Full => neuron.timesteps() * neuron.timesteps() + 1,
    }
}

fn program<M: Machine>(m: &M, neuron: &LmhtNeuron, buffers: &[&M::Buffer]) -> Result<(Program, u32)> {
    let dtype = elements(m, "neuron: xs", buffers[0])?;
    let n = units(m, "neuron: xs", buffers[0], neuron.timesteps())?;
    let width = width(m, dtype, n, neuron.timesteps(), buffers);
    Ok((Program { operation: OPERATION, dtype, width, threads: m.threads(), defines: defines(neuron)? }, n))
}

/// The outputs s·θ `[T, n]` for currents `xs` `[T, n]` and the [learned numbers](n_learned):
/// [`lmht_core::reference::forward`].
///
/// # Errors
/// An operand of another size or type, or more timesteps than fit.
pub fn forward<M: Machine>(m: &M, neuron: &LmhtNeuron, xs: &M::Buffer, learned: &M::Buffer) -> Result<M::Buffer> {
    let (program, n) = program(m, neuron, &[xs])?;
    expect(m, "neuron: learned numbers", learned, program.dtype.real(), n_learned(neuron))?;
    let mut ys = m.alloc(program.dtype, m.len(xs))?;
    let (theta, v_init) = (Arg::Real(neuron.v_threshold()), Arg::Real(neuron.v_init()));
    let mut args = [Arg::In(xs), Arg::In(learned), Arg::Out(&mut ys), Arg::U32(n), theta, v_init];
    m.launch(&program, "neuron_forward", grid(m, n / program.width), &mut args)?;
    Ok(ys)
}

/// The gradients for `grad_ys` = dLoss/d(s·θ) `[T, n]`: [`lmht_core::reference::backward`].
///
/// # Errors
/// As [`forward`].
pub fn backward<M: Machine>(
    m: &M,
    neuron: &LmhtNeuron,
    xs: &M::Buffer,
    learned: &M::Buffer,
    grad_ys: &M::Buffer,
) -> Result<Gradients<M::Buffer>> {
    let (program, n) = program(m, neuron, &[xs, grad_ys])?;
    let (dtype, n_learned, blocks) = (program.dtype, n_learned(neuron), grid(m, n / program.width));
    expect(m, "neuron: learned numbers", learned, dtype.real(), n_learned)?;
    expect(m, "neuron: grad_ys", grad_ys, dtype, m.len(xs))?;
    let mut grad_xs = m.alloc(dtype, m.len(xs))?;
    let mut partial = m.alloc(dtype.real(), blocks as usize * n_learned)?;
    let mut args = [
        Arg::In(xs),
        Arg::In(learned),
        Arg::In(grad_ys),
        Arg::Out(&mut grad_xs),
        Arg::Out(&mut partial),
        Arg::U32(n),
        Arg::Real(neuron.v_threshold()),
        Arg::Real(neuron.v_init()),
    ];
    m.launch(&program, "neuron_backward", blocks, &mut args)?;
    Ok(Gradients { xs: grad_xs, learned: finish(m, &program, &partial, blocks, n_learned as u32)? })
}
