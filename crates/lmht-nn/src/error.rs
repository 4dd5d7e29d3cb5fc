//! The errors of this crate: what was expected, what came, and what to do next.

use std::path::{Path, PathBuf};

/// What can go wrong when a network is described, built, run or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration asks for something that cannot be built. The message names the field, its value and what is allowed.
    #[error("configuration: {0}")]
    Config(String),

    /// A tensor operation failed, or a tensor has the wrong shape.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),

    /// Named tensors do not fit the network. Every difference is listed, so that one look is enough.
    #[error(
        "{origin}: the tensors do not fit this network\n{differences}load it with the configuration it was saved with"
    )]
    Mismatch {
        /// Where the tensors came from, usually a file.
        origin: String,
        /// One line for each missing, extra or misshapen tensor.
        differences: String,
    },

    /// A file could not be read or written.
    #[error("{}: {what}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was expected, what came, and what to do next.
        what: String,
    },

    /// The operating system could not read a file or folder.
    #[error("{}: cannot read it: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The reason that the operating system gives.
        source: std::io::Error,
    },

    /// Crash-safe writing failed.
    #[error(transparent)]
    Write(#[from] crate::atomic::Error),
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>, what: impl std::fmt::Display) -> Self {
        Self::File { path: path.into(), what: what.to_string() }
    }

    pub(crate) fn read<'a>(path: &'a Path) -> impl FnOnce(std::io::Error) -> Self + 'a {
        move |source| Self::Read { path: path.into(), source }
    }
}
