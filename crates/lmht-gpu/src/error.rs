use crate::{Dtype, Language};

/// What can go wrong between a plan and a machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A buffer has another size or type than the operation needs.
    #[error("{operand}: expected {expected} values of {expected_dtype}, got {len} of {dtype}")]
    Operand {
        /// Operation and operand.
        operand: &'static str,
        /// How many values it should have.
        expected: usize,
        /// Their type.
        expected_dtype: Dtype,
        /// How many it has.
        len: usize,
        /// Their type.
        dtype: Dtype,
    },
    /// A size is beyond what the kernels take.
    #[error("{what}: expected {expected}, got {got}")]
    Size {
        /// Operation and size.
        what: &'static str,
        /// What is taken.
        expected: String,
        /// What came.
        got: String,
    },
    /// The language has no such type.
    #[error("{operation}: {language:?} has no {dtype}; use f32 there, or another device")]
    Unsupported {
        /// Which kernels.
        operation: &'static str,
        /// Which language.
        language: Language,
        /// Which type.
        dtype: Dtype,
    },
    /// A kernel text does not compile, or cannot be loaded.
    #[error("{program}: {message}")]
    Build {
        /// The key of the program.
        program: String,
        /// What the compiler or the loader says.
        message: String,
    },
    /// A launch failed.
    #[error("{kernel} of {program}: {message}")]
    Launch {
        /// The kernel.
        kernel: &'static str,
        /// The key of the program.
        program: String,
        /// What the machine says.
        message: String,
    },
}

/// A result whose error is [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;
