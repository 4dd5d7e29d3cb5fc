//! Between element types, and spikes as bytes (`kernels/cast.h`).

use super::shared::{count, elements, expect, grid, size};
use crate::{Arg, Dtype, Machine, Operation, Program, Result};

pub(crate) const OPERATION: Operation = Operation {
    name: "cast",
    texts: &[include_str!("../../kernels/cast.h")],
    kernels: &["widen", "narrow", "pack_counts", "unpack_counts"],
};

fn run<M: Machine>(
    m: &M,
    kernel: &'static str,
    dtype: Dtype,
    xs: &M::Buffer,
    to: Dtype,
    theta: Option<f64>,
) -> Result<M::Buffer> {
    let n = count("cast", m.len(xs))?;
    let mut ys = m.alloc(to, n as usize)?;
    let program = Program { operation: OPERATION, dtype, width: 1, threads: m.threads(), defines: vec![] };
    let mut args = vec![Arg::In(xs), Arg::Out(&mut ys), Arg::U32(n)];
    args.extend(theta.map(Arg::Real));
    m.launch(&program, kernel, grid(m, n), &mut args)?;
    Ok(ys)
}

/// In the type that arithmetic is in: exact.
///
/// # Errors
/// Elements that are not of a float type.
pub fn widen<M: Machine>(m: &M, xs: &M::Buffer) -> Result<M::Buffer> {
    let dtype = elements(m, "widen: xs", xs)?;
    run(m, "widen", dtype, xs, dtype.real(), None)
}

/// f32 as `to`, rounded once to the nearest, ties to even.
///
/// # Errors
/// Another type than f32, or another `to` than a float of at most 32 bits.
pub fn narrow<M: Machine>(m: &M, xs: &M::Buffer, to: Dtype) -> Result<M::Buffer> {
    expect(m, "narrow: xs", xs, Dtype::F32, m.len(xs))?;
    match to {
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => run(m, "narrow", to, xs, to, None),
        _ => size("narrow: to", "f32, f16 or bf16", to),
    }
}

/// The counts of spikes s·θ, a byte each; above 127 they are 127.
///
/// # Errors
/// Elements that are not of a float type.
pub fn pack<M: Machine>(m: &M, theta: f64, xs: &M::Buffer) -> Result<M::Buffer> {
    run(m, "pack_counts", elements(m, "pack: xs", xs)?, xs, Dtype::U8, Some(theta))
}

/// Spikes s·θ as `to`, from their counts: the low 7 bits of a byte, as [`norm_neuron`](super::norm_neuron) packs them.
///
/// # Errors
/// Counts that are not bytes, or a `to` that is not a float type.
pub fn unpack<M: Machine>(m: &M, theta: f64, counts: &M::Buffer, to: Dtype) -> Result<M::Buffer> {
    expect(m, "unpack: counts", counts, Dtype::U8, m.len(counts))?;
    match to {
        Dtype::U8 | Dtype::U32 => size("unpack: to", "a float type", to),
        _ => run(m, "unpack_counts", to, counts, to, Some(theta)),
    }
}
