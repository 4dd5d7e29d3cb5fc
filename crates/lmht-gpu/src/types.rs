//! What everything else speaks of: element types and languages.

use std::fmt;

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

/// The languages that one text is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    /// C++17 with the threads of a block as fibers; see `emulator`.
    Host,
    /// CUDA C++, for NVRTC.
    Cuda,
    /// OpenCL C 1.2.
    OpenCl,
    /// The Metal shading language.
    Metal,
}
