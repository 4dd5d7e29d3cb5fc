//! What runs kernels: [`Machine`], and what it is handed.

use crate::{Dtype, Language, Program, Result};

/// An argument of a kernel, in the order of its parameters.
#[derive(Debug)]
pub enum Arg<'a, B> {
    /// A buffer that is read.
    In(&'a B),
    /// A buffer that is written, and read where the kernel updates it.
    Out(&'a mut B),
    /// A `uint`, by value.
    U32(u32),
    /// A `REAL`, by value: eight bytes in a program of [`Dtype::F64`], else four, of an `f32`.
    Real(f64),
}

/// Whatever runs kernels: the emulator, a CUDA device, a Metal device.
///
/// A launcher hands a buffer over by its address (plus the offset of a view), and a value by its bytes. It compiles
/// [`Program::source`] once for each [`Program::key`], with contraction and fast mathematics off, since spikes at a tie
/// would differ from [`lmht_core::reference`] otherwise. Launches of one machine take effect in their order.
pub trait Machine {
    /// Memory of the machine.
    type Buffer;

    /// `len` elements, whatever they are, at a multiple of 16 bytes. Every plan writes all of what it asks for.
    fn alloc(&self, dtype: Dtype, len: usize) -> Result<Self::Buffer>;

    /// Elements of a buffer.
    fn len(&self, buffer: &Self::Buffer) -> usize;

    /// Their type.
    fn dtype(&self, buffer: &Self::Buffer) -> Dtype;

    /// Whether the address of the first element, offset included, is a multiple of 16 bytes.
    fn is_aligned(&self, buffer: &Self::Buffer) -> bool;

    /// The language that the machine is programmed in.
    fn language(&self) -> Language;

    /// Threads of a block, a power of two.
    fn threads(&self) -> u32 {
        128
    }

    /// Enough blocks to fill the machine. Sums depend on it by rounding, and on nothing else of the machine.
    fn blocks(&self) -> u32;

    /// Runs `kernel` of a program in `grid` blocks of [`Program::threads`] threads.
    fn launch(
        &self,
        program: &Program,
        kernel: &'static str,
        grid: u32,
        args: &mut [Arg<'_, Self::Buffer>],
    ) -> Result<()>;
}
