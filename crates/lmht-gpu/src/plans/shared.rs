//! What plans share: checks of operands, widths, grids, sums over blocks.

use crate::{Arg, Dtype, Error, Machine, Program, Result};

pub(super) const SUMS: &str = include_str!("../../kernels/sums.h");
pub(super) const UNIT: &str = include_str!("../../kernels/unit.h");
pub(super) const COLUMNS: &str = include_str!("../../kernels/columns.h");

/// What flows back from a neuron or an activation.
#[derive(Debug)]
pub struct Gradients<B> {
    /// dLoss/dxs, as the currents.
    pub xs: B,
    /// dLoss/d(learned numbers), in their order.
    pub learned: B,
}

/// Checks one operand.
pub(super) fn expect<M: Machine>(
    m: &M,
    operand: &'static str,
    buffer: &M::Buffer,
    expected_dtype: Dtype,
    expected: usize,
) -> Result<()> {
    let (len, dtype) = (m.len(buffer), m.dtype(buffer));
    if (len, dtype) == (expected, expected_dtype) {
        return Ok(());
    }
    Err(Error::Operand { operand, expected, expected_dtype, len, dtype })
}

/// The type of elements: one of the four floats.
pub(super) fn elements<M: Machine>(m: &M, operand: &'static str, buffer: &M::Buffer) -> Result<Dtype> {
    match m.dtype(buffer) {
        dtype @ (Dtype::F32 | Dtype::F64 | Dtype::F16 | Dtype::Bf16) => Ok(dtype),
        got => size(operand, "elements of f32, f64, f16 or bf16", got),
    }
}

/// An error about a size.
pub(super) fn size<T>(what: &'static str, expected: impl ToString, got: impl ToString) -> Result<T> {
    Err(Error::Size { what, expected: expected.to_string(), got: got.to_string() })
}

/// A number of elements as the kernels count: in 32 bits, with room for a stride beyond the last one.
pub(super) fn count(what: &'static str, n: usize) -> Result<u32> {
    match u32::try_from(n) {
        Ok(n) if n > 0 && n <= i32::MAX as u32 => Ok(n),
        _ => size(what, format!("1..={} elements", i32::MAX), n),
    }
}

/// n of `[timesteps, n]`.
pub(super) fn units<M: Machine>(m: &M, what: &'static str, xs: &M::Buffer, timesteps: usize) -> Result<u32> {
    let len = m.len(xs);
    count(what, len)?;
    if len.is_multiple_of(timesteps) {
        count(what, len / timesteps)
    } else {
        size(what, format!("[T, n] with T = {timesteps} timesteps"), format!("{len} values"))
    }
}

/// Elements at a time: those of 16 or of 8 bytes, where they divide `run`, what lies side by side, all buffers begin at
/// a multiple of 16 bytes, and the `steps` reads that a thread holds at once fit in registers.
pub(super) fn width<M: Machine>(m: &M, dtype: Dtype, run: u32, steps: usize, buffers: &[&M::Buffer]) -> u32 {
    let fits = |&wide: &u32| run.is_multiple_of(wide) && wide as usize * steps <= 32;
    let wide = [16, 8].map(|bytes| bytes / dtype.size() as u32).into_iter().find(fits);
    wide.filter(|_| buffers.iter().all(|buffer| m.is_aligned(buffer))).unwrap_or(1)
}

/// Blocks for so many independent pieces of work.
pub(super) fn grid<M: Machine>(m: &M, pieces: u32) -> u32 {
    pieces.div_ceil(m.threads()).clamp(1, m.blocks().max(1))
}

/// How a map `[rows, channels]` is cut among blocks; see `kernels/columns.h`.
pub(super) struct Columns {
    /// `COLUMNS`.
    pub(super) columns: u32,
    pub(super) tiles: u32,
    pub(super) chunks: u32,
}

impl Columns {
    pub(super) fn new<M: Machine>(m: &M, rows: u32, channels: u32, width: u32) -> Self {
        let groups = channels / width;
        let columns = groups.next_power_of_two().min(32).min(m.threads());
        let tiles = groups.div_ceil(columns);
        let chunks = rows.div_ceil(m.threads() / columns).min(m.blocks() / tiles).max(1);
        Self { columns, tiles, chunks }
    }

    pub(super) fn grid(&self) -> u32 {
        self.tiles * self.chunks
    }
}

/// The sums `[sums]` of `partial` `[rows, sums]`, by `finish_sums` of a program.
pub(super) fn finish<M: Machine>(
    m: &M,
    program: &Program,
    partial: &M::Buffer,
    rows: u32,
    sums: u32,
) -> Result<M::Buffer> {
    let mut out = m.alloc(program.dtype.real(), sums as usize)?;
    m.launch(program, "finish_sums", sums, &mut [Arg::In(partial), Arg::Out(&mut out), Arg::U32(rows)])?;
    Ok(out)
}
