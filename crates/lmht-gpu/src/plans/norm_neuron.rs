//! Batch norm, shortcut and LM-HT neuron in one pass each way (`kernels/norm_neuron.h`): what lives until the backward
//! pass is the synapse's output, not the current.

use lmht_core::LmhtNeuron;

use super::neuron::{defines, n_learned};
use super::shared::{COLUMNS, Columns, SUMS, UNIT, elements, expect, finish, size, units, width};
use crate::{Arg, Dtype, Machine, Operation, Program, Result};

pub(crate) const OPERATION: Operation = Operation {
    name: "norm_neuron",
    texts: &[SUMS, UNIT, COLUMNS, include_str!("../../kernels/norm_neuron.h")],
    kernels: &["norm_neuron_forward", "norm_neuron_sums", "norm_neuron_backward", "finish_sums"],
};

/// What is added to the normalised synapse before the neuron.
#[derive(Debug)]
pub enum Shortcut<'a, B> {
    /// Nothing.
    None,
    /// A value, `[T, rows, channels]`.
    Plain(&'a B),
    /// A synapse's output, `[T, rows, channels]`, and its own norm `[4, channels]`.
    Normalized(&'a B, &'a B),
}

/// What goes into the pass.
#[derive(Debug)]
pub struct Inputs<'a, B> {
    /// The synapse's output, `[T, rows, channels]`.
    pub xs: &'a B,
    /// Its norm, `[4, channels]`: see [`super::batch_norm::statistics`].
    pub norm: &'a B,
    /// What is added to it.
    pub shortcut: Shortcut<'a, B>,
    /// The neuron's [learned numbers](super::neuron::n_learned).
    pub learned: &'a B,
}

/// What flows back.
#[derive(Debug)]
pub struct NormNeuronGradients<B> {
    /// dLoss/d(the synapse's output).
    pub xs: B,
    /// dLoss/d(the shortcut), where there is one.
    pub shortcut: Option<B>,
    /// `[2, channels]`: dLoss/dbias and dLoss/dweight. With [`Shortcut::Normalized`] `[3, channels]`: its bias has the
    /// same gradient, its weight the third.
    pub affine: B,
    /// dLoss/d(learned numbers).
    pub learned: B,
}

struct Plan<'a, B> {
    program: Program,
    rows: u32,
    channels: u32,
    columns: Columns,
    /// Buffers for kernels that do not read them where there is no shortcut.
    shortcut: &'a B,
    norm2: &'a B,
    n_sums: u32,
}

fn plan<'a, M: Machine>(
    m: &M,
    neuron: &LmhtNeuron,
    inputs: &Inputs<'a, M::Buffer>,
    more: &[&M::Buffer],
) -> Result<Plan<'a, M::Buffer>> {
    let dtype = elements(m, "norm neuron: xs", inputs.xs)?;
    let n = units(m, "norm neuron: xs", inputs.xs, neuron.timesteps())?;
    let n_channels = m.len(inputs.norm) / 4;
    if n_channels == 0 || !(n as usize).is_multiple_of(n_channels) {
        return size("norm neuron: xs", format!("[T, rows, {n_channels}]"), format!("{} values", m.len(inputs.xs)));
    }
    expect(m, "norm neuron: norm", inputs.norm, dtype.real(), 4 * n_channels)?;
    expect(m, "norm neuron: learned numbers", inputs.learned, dtype.real(), n_learned(neuron))?;
    let (kind, shortcut, norm2) = match inputs.shortcut {
        Shortcut::None => (0, inputs.xs, inputs.norm),
        Shortcut::Plain(shortcut) => (1, shortcut, inputs.norm),
        Shortcut::Normalized(shortcut, norm2) => (2, shortcut, norm2),
    };
    expect(m, "norm neuron: shortcut", shortcut, dtype, m.len(inputs.xs))?;
    expect(m, "norm neuron: the shortcut's norm", norm2, dtype.real(), 4 * n_channels)?;
    let buffers = [&[inputs.xs, shortcut], more].concat();
    let (rows, channels) = (n / n_channels as u32, n_channels as u32);
    // A pass back holds currents, gradients and the channels' numbers at once: twice as much as a neuron alone.
    let width = width(m, dtype, channels, 2 * neuron.timesteps(), &buffers);
    let columns = Columns::new(m, rows, channels, width);
    let mut defines = defines(neuron)?;
    defines.extend([("SHORTCUT", kind), ("COLUMNS", columns.columns)]);
    let program = Program { operation: OPERATION, dtype, width, threads: m.threads(), defines };
    Ok(Plan { program, rows, channels, columns, shortcut, norm2, n_sums: if kind == 2 { 3 } else { 2 } })
}

/// What the forward pass gives.
#[derive(Debug)]
pub struct Spikes<B> {
    /// The outputs s·θ, `[T, rows, channels]`.
    pub ys: B,
    /// Where it is asked for: a byte for each, s in the low 7 bits and [`lmht_core::IN_GATE`].
    pub packed: Option<B>,
}

/// The outputs; with `packs` also as bytes, of which [`super::cast::unpack`] makes outputs again.
///
/// # Errors
/// An operand of another size or type, or more timesteps than fit; bytes of a neuron with more than 127 levels.
pub fn forward<M: Machine>(
    m: &M,
    neuron: &LmhtNeuron,
    packs: bool,
    inputs: &Inputs<'_, M::Buffer>,
) -> Result<Spikes<M::Buffer>> {
    let mut plan = plan(m, neuron, inputs, &[])?;
    if packs && neuron.levels() > 127 {
        return size("norm neuron: levels", "at most 127 in a byte", neuron.levels());
    }
    plan.program.defines.push(("PACKED", u32::from(packs)));
    let mut ys = m.alloc(plan.program.dtype, m.len(inputs.xs))?;
    let mut packed = m.alloc(Dtype::U8, if packs { m.len(inputs.xs) } else { 1 })?;
    let mut args = [
        Arg::In(inputs.xs),
        Arg::In(plan.shortcut),
        Arg::In(inputs.norm),
        Arg::In(plan.norm2),
        Arg::In(inputs.learned),
        Arg::Out(&mut ys),
        Arg::Out(&mut packed),
        Arg::U32(plan.rows),
        Arg::U32(plan.channels),
        Arg::U32(plan.columns.tiles),
        Arg::Real(neuron.v_threshold()),
        Arg::Real(neuron.v_init()),
    ];
    m.launch(&plan.program, "norm_neuron_forward", plan.columns.grid(), &mut args)?;
    Ok(Spikes { ys, packed: packs.then_some(packed) })
}

/// The gradients for `grad_ys` = dLoss/d(s·θ); `frozen` where the statistics are constants.
///
/// # Errors
/// As [`forward`].
pub fn backward<M: Machine>(
    m: &M,
    neuron: &LmhtNeuron,
    frozen: bool,
    inputs: &Inputs<'_, M::Buffer>,
    grad_ys: &M::Buffer,
) -> Result<NormNeuronGradients<M::Buffer>> {
    let mut plan = plan(m, neuron, inputs, &[grad_ys])?;
    plan.program.defines.push(("PACKED", 0));
    let (program, grid, n_learned) = (&plan.program, plan.columns.grid(), n_learned(neuron) as u32);
    let (dtype, real) = (program.dtype, program.dtype.real());
    expect(m, "norm neuron: grad_ys", grad_ys, dtype, m.len(inputs.xs))?;
    let (theta, v_init) = (neuron.v_threshold(), neuron.v_init());

    let mut partial = m.alloc(real, (plan.columns.chunks * plan.n_sums * plan.channels) as usize)?;
    let mut learned_partial = m.alloc(real, (grid * n_learned) as usize)?;
    let mut args = [
        Arg::In(inputs.xs),
        Arg::In(plan.shortcut),
        Arg::In(inputs.norm),
        Arg::In(plan.norm2),
        Arg::In(inputs.learned),
        Arg::In(grad_ys),
        Arg::Out(&mut partial),
        Arg::Out(&mut learned_partial),
        Arg::U32(plan.rows),
        Arg::U32(plan.channels),
        Arg::U32(plan.columns.tiles),
        Arg::Real(theta),
        Arg::Real(v_init),
    ];
    m.launch(program, "norm_neuron_sums", grid, &mut args)?;
    let affine = finish(m, program, &partial, plan.columns.chunks, plan.n_sums * plan.channels)?;
    let learned = finish(m, program, &learned_partial, grid, n_learned)?;

    let has_shortcut = !matches!(inputs.shortcut, Shortcut::None);
    let mut grad_xs = m.alloc(dtype, m.len(inputs.xs))?;
    let mut grad_shortcut = m.alloc(dtype, if has_shortcut { m.len(inputs.xs) } else { 1 })?;
    let values = f64::from(plan.rows) * neuron.timesteps() as f64;
    let mut args = [
        Arg::In(inputs.xs),
        Arg::In(plan.shortcut),
        Arg::In(inputs.norm),
        Arg::In(plan.norm2),
        Arg::In(inputs.learned),
        Arg::In(grad_ys),
        Arg::In(&affine),
        Arg::Out(&mut grad_xs),
        Arg::Out(&mut grad_shortcut),
        Arg::U32(plan.rows),
        Arg::U32(plan.channels),
        Arg::U32(plan.columns.tiles),
        Arg::Real(theta),
        Arg::Real(v_init),
        Arg::Real(if frozen { 0.0 } else { 1.0 / values }),
    ];
    m.launch(program, "norm_neuron_backward", grid, &mut args)?;
    Ok(NormNeuronGradients { xs: grad_xs, shortcut: has_shortcut.then_some(grad_shortcut), affine, learned })
}
