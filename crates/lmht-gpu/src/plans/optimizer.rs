//! SGD and AdamW over all parameters in one launch (`kernels/optimizer.h`).

use super::shared::{SUMS, count, elements, expect, finish, grid, size};
use crate::{Arg, Dtype, Machine, Operation, Program, Result};

pub(crate) const OPERATION: Operation = Operation {
    name: "optimizer",
    texts: &[SUMS, include_str!("../../kernels/optimizer.h")],
    kernels: &["square_gradients", "sgd", "adamw", "finish_sums"],
};

/// Stochastic gradient descent, as PyTorch has it.
#[derive(Debug, Clone, Copy)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f64,
    /// Momentum; 0 for none.
    pub momentum: f64,
    /// Nesterov's look ahead.
    pub nesterov: bool,
}

/// AdamW (Loshchilov and Hutter 2019), as PyTorch has it.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the mean.
    pub beta1: f64,
    /// Decay of the mean of squares.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Which update this is, from 1.
    pub update: u64,
}

/// What gradients are brought to before an update.
#[derive(Debug, Clone, Copy)]
pub struct Scaling {
    /// What the loss was multiplied by.
    pub loss_scale: f64,
    /// The largest norm of all gradients together; 0 for any.
    pub max_norm: f64,
}

/// The parameters and what an update reads beside them; tensors lie one after the other.
#[derive(Debug)]
pub struct Parameters<'a, B> {
    /// Gradients, times the loss scale.
    pub grads: &'a B,
    /// u32: the end of each tensor.
    pub ends: &'a B,
    /// The weight decay of each tensor.
    pub decays: &'a B,
    /// [`sum_squares`] of `grads`.
    pub sum_squares: &'a B,
    /// The parameters themselves, in the type that arithmetic is in.
    pub params: &'a mut B,
    /// Receives them in the type of the gradients.
    pub copies: &'a mut B,
}

fn program<M: Machine>(m: &M, dtype: Dtype, nesterov: bool) -> Program {
    let defines = vec![("NESTEROV", u32::from(nesterov))];
    Program { operation: OPERATION, dtype, width: 1, threads: m.threads(), defines }
}

/// Σ g² of gradients as they are, `[1]`: not finite if one of them is not. An update reads it and then changes nothing;
/// a dynamic loss scale reads it, too.
///
/// # Errors
/// Gradients that are not of a float type.
pub fn sum_squares<M: Machine>(m: &M, grads: &M::Buffer) -> Result<M::Buffer> {
    let program = program(m, elements(m, "optimizer: grads", grads)?, false);
    let n = count("optimizer: grads", m.len(grads))?;
    let blocks = grid(m, n);
    let mut partial = m.alloc(program.dtype.real(), blocks as usize)?;
    let mut args = [Arg::In(grads), Arg::Out(&mut partial), Arg::U32(n)];
    m.launch(&program, "square_gradients", blocks, &mut args)?;
    finish(m, &program, &partial, blocks, 1)
}

/// The sizes, after a check of all operands: elements and tensors.
fn check<M: Machine>(m: &M, parts: &Parameters<'_, M::Buffer>, states: &[&M::Buffer]) -> Result<(Dtype, u32, u32)> {
    let (dtype, len, tensors) = (elements(m, "optimizer: grads", parts.grads)?, m.len(parts.grads), m.len(parts.ends));
    let n = count("optimizer: grads", len)?;
    let n_tensors = count("optimizer: ends", tensors)?;
    expect(m, "optimizer: ends", parts.ends, Dtype::U32, tensors)?;
    expect(m, "optimizer: decays", parts.decays, dtype.real(), tensors)?;
    expect(m, "optimizer: sum_squares", parts.sum_squares, dtype.real(), 1)?;
    expect(m, "optimizer: params", parts.params, dtype.real(), len)?;
    expect(m, "optimizer: copies", parts.copies, dtype, len)?;
    for state in states {
        expect(m, "optimizer: state", state, dtype.real(), len)?;
    }
    Ok((dtype, n, n_tensors))
}

fn check_scaling(scaling: Scaling) -> Result<()> {
    if scaling.loss_scale > 0.0 && scaling.loss_scale.is_finite() {
        return Ok(());
    }
    size("optimizer: loss_scale", "a finite number above 0", scaling.loss_scale)
}

/// One update; `velocity` is zeros before the first.
///
/// # Errors
/// An operand of another size or type.
pub fn sgd<M: Machine>(
    m: &M,
    rule: Sgd,
    scaling: Scaling,
    parts: Parameters<'_, M::Buffer>,
    velocity: &mut M::Buffer,
) -> Result<()> {
    let (dtype, n, tensors) = check(m, &parts, &[velocity])?;
    check_scaling(scaling)?;
    let mut args = [
        Arg::In(parts.grads),
        Arg::In(parts.ends),
        Arg::In(parts.decays),
        Arg::In(parts.sum_squares),
        Arg::Out(parts.params),
        Arg::Out(velocity),
        Arg::Out(parts.copies),
        Arg::U32(n),
        Arg::U32(tensors),
        Arg::Real(rule.lr),
        Arg::Real(rule.momentum),
        Arg::Real(1.0 / scaling.loss_scale),
        Arg::Real(scaling.max_norm),
    ];
    m.launch(&program(m, dtype, rule.nesterov), "sgd", grid(m, n), &mut args)
}

/// One update; `means` and `squares` are zeros before the first.
///
/// # Errors
/// An operand of another size or type.
pub fn adamw<M: Machine>(
    m: &M,
    rule: AdamW,
    scaling: Scaling,
    parts: Parameters<'_, M::Buffer>,
    (means, squares): (&mut M::Buffer, &mut M::Buffer),
) -> Result<()> {
    let (dtype, n, tensors) = check(m, &parts, &[means, squares])?;
    check_scaling(scaling)?;
    if rule.update == 0 {
        return size("adamw: update", "a number from 1 on", rule.update);
    }
    let corrected = |beta: f64| 1.0 - beta.powf(rule.update as f64);
    let mut args = [
        Arg::In(parts.grads),
        Arg::In(parts.ends),
        Arg::In(parts.decays),
        Arg::In(parts.sum_squares),
        Arg::Out(parts.params),
        Arg::Out(means),
        Arg::Out(squares),
        Arg::Out(parts.copies),
        Arg::U32(n),
        Arg::U32(tensors),
        Arg::Real(rule.lr),
        Arg::Real(rule.beta1),
        Arg::Real(rule.beta2),
        Arg::Real(rule.eps),
        Arg::Real(rule.lr / corrected(rule.beta1)),
        Arg::Real(corrected(rule.beta2).sqrt()),
        Arg::Real(1.0 / scaling.loss_scale),
        Arg::Real(scaling.max_norm),
    ];
    m.launch(&program(m, dtype, false), "adamw", grid(m, n), &mut args)
}
