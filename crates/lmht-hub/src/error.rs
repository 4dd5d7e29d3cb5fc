//! What can go wrong, told so that the reader can mend it: the file or address, what was expected, what came, what to do.

use std::path::{Path, PathBuf};

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that this crate reports.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text is no name of a repository, revision or file.
    #[error("{given:?}: expected {expected}")]
    Name {
        /// The text.
        given: String,
        /// What it should have been.
        expected: String,
    },

    /// A variable of the environment cannot be followed.
    #[error("{name}: expected {expected}")]
    Setting {
        /// The variable.
        name: &'static str,
        /// What it should be, and what it is.
        expected: String,
    },

    /// A file of the cache cannot be read or written, or is damaged.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },

    /// Something is not in the cache, and `HF_HUB_OFFLINE` forbids to fetch it.
    #[error("{what}: not in the cache {}, and HF_HUB_OFFLINE is set; unset it once, with a network, to download it",
            cache.display())]
    Offline {
        /// The repository or file.
        what: String,
        /// Where it was looked for.
        cache: PathBuf,
    },

    /// A repository has no such file.
    #[error("{repo}: expected {path} in the repository, and it has none; {hint}")]
    NoSuchFile {
        /// The repository.
        repo: String,
        /// The file.
        path: String,
        /// What to do.
        hint: String,
    },

    /// The Hub says no.
    #[error("{url}: the Hub answered {status}: {reason}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it means, and what to do.
        reason: String,
    },

    /// No answer, or one that ends too early.
    #[error(
        "{url}: {reason}; check the network and try again: what has arrived is kept. With HF_HUB_OFFLINE=1 the cache \
             is used as it is"
    )]
    Network {
        /// What was asked for.
        url: String,
        /// What happened.
        reason: String,
    },

    /// An answer that is none of the Hub's, or a file that is not what its name says. Nothing of it is kept.
    #[error("{url}: {reason}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What was expected, and what came.
        reason: String,
    },
}

impl Error {
    pub(crate) fn file(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::File { path: path.to_path_buf(), reason: reason.to_string() }
    }

    pub(crate) fn answer(url: &str, reason: impl Into<String>) -> Self {
        Self::Answer { url: url.to_owned(), reason: reason.into() }
    }
}
