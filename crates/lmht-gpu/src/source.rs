//! Kernel texts: from a specialisation to the source that a compiler takes.

use std::fmt::Write;

use crate::{Dtype, Error, Language, Result};

/// The kernels of one file of `kernels/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// The file's name without its ending.
    pub name: &'static str,
    /// Texts that it needs, in order, and last itself.
    pub texts: &'static [&'static str],
    /// Its kernels.
    pub kernels: &'static [&'static str],
}

/// An operation with its specialisation: what is compiled once for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Which kernels.
    pub operation: Operation,
    /// The type of elements in memory, `STORE`.
    pub dtype: Dtype,
    /// Elements that a thread reads at a time, `WIDTH`: 1, or as many as 16 or 8 bytes hold.
    pub width: u32,
    /// Threads of a block, `THREADS`: a power of two.
    pub threads: u32,
    /// The other numbers that the text is specialised by.
    pub defines: Vec<(&'static str, u32)>,
}

impl Program {
    /// A name that no other specialisation has, of letters, digits and underscores: the name of a CUDA module, the key
    /// of a cache.
    pub fn key(&self) -> String {
        let mut key = format!("{}_{}_w{}_b{}", self.operation.name, self.dtype, self.width, self.threads);
        for (name, value) in &self.defines {
            write!(key, "_{}{value}", name.to_lowercase()).expect("a string takes everything");
        }
        key
    }

    /// The whole text in a language, which needs no file beside it.
    ///
    /// # Errors
    /// f64 on Metal, which has none.
    pub fn source(&self, language: Language) -> Result<String> {
        if language == Language::Metal && self.dtype == Dtype::F64 {
            let operation = self.operation.name;
            return Err(Error::Unsupported { operation, language, dtype: self.dtype });
        }
        let prelude = match language {
            Language::Host => include_str!("../kernels/prelude/host.h"),
            Language::Cuda => include_str!("../kernels/prelude/cuda.h"),
            Language::OpenCl => include_str!("../kernels/prelude/opencl.h"),
            Language::Metal => include_str!("../kernels/prelude/metal.h"),
        };
        let mut text = format!("#define DTYPE_{}\n", self.dtype.name().to_uppercase());
        for (name, value) in [("WIDTH", self.width), ("THREADS", self.threads)].iter().chain(&self.defines) {
            writeln!(text, "#define {name} {value}u").expect("a string takes everything");
        }
        for part in [prelude, include_str!("../kernels/access.h")].iter().chain(self.operation.texts) {
            text.push_str(part);
        }
        if language == Language::Host {
            for kernel in self.operation.kernels {
                writeln!(text, "EXPORT({kernel})").expect("a string takes everything");
            }
        }
        Ok(text)
    }
}

/// What stands in for `<metal_stdlib>` where clang checks the Metal text as C++ for OpenCL.
pub const METAL_SHIM: &str = include_str!("../kernels/prelude/metal_shim.h");
