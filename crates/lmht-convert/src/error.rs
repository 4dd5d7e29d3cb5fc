//! The errors of this crate: what was expected, what came, and what to do next.

use std::path::PathBuf;

/// What can go wrong when a network is converted, compared, read or written.
///
/// ```
/// use lmht_convert::checkpoint;
/// let error = checkpoint::parse("resnet.pth", b"").unwrap_err();
/// assert_eq!(error.to_string(), "resnet.pth: it is empty; fetch the file again");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument cannot be. The message names it, its value and what is allowed.
    #[error("configuration: {0}")]
    Config(String),

    /// A network that a conversion or an export cannot take. The message names the layer or kind of neuron, why, and what to
    /// do instead.
    #[error("{0}")]
    Refused(String),

    /// The network could not be built, run or loaded; [`lmht_nn::Error::Mismatch`] lists tensors that do not fit it.
    #[error(transparent)]
    Network(#[from] lmht_nn::Error),

    /// A tensor operation failed, or a tensor has the wrong shape.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),

    /// What gave the images to show failed; the message is its own. [`Error::data`] makes one.
    #[error(transparent)]
    Data(Box<dyn std::error::Error + Send + Sync>),

    /// A file could not be read or written, or holds something else than expected.
    #[error("{}: {what}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was expected, what came, and what to do next.
        what: String,
    },

    /// A tensor has a value that is not finite. The message says which, and where it came from.
    #[error("{0}")]
    NonFinite(String),

    /// Crash-safe writing failed.
    #[error(transparent)]
    Write(#[from] lmht_nn::atomic::Error),
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The failure of something that gives images.
    ///
    /// ```
    /// let error = lmht_convert::Error::data("no more images");
    /// assert_eq!(error.to_string(), "no more images");
    /// ```
    pub fn data(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Data(error.into())
    }
}
