//! What runs kernels: [`Machine`], and what it is handed.

use std::fmt;

use crate::{Language, Program, Result};

/// The types of elements in buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// 64-bit float; not on Metal.
    F64,
    /// IEEE half precision; arithmetic is f32.
    F16,
    /// The upper half of an f32; arithmetic is f32.
    Bf16,
    /// Bytes: spike counts, places in a window.
    U8,
    /// Labels, offsets.
    U32,
}

impl Dtype {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::U32 => 4,
            Self::F64 => 8,
        }
    }

    /// The type that elements of this one are computed in, and that statistics and learned numbers have beside them.
    pub fn real(self) -> Self {
        if self == Self::F64 { Self::F64 } else { Self::F32 }
    }

    /// Its name, as in keys and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::U8 => "u8",
            Self::U32 => "u32",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

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
/// [`Program::source`] once for each [`Program::key`], with contraction and fast mathematics off, since spikes at a tie would
/// differ from [`lmht_core::reference`] otherwise. Launches of one machine take effect in their order.
pub trait Machine {
    /// Memory of the machine.
    type Buffer;

    /// `len` elements, whatever they are. Every plan writes all of what it asks for.
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
