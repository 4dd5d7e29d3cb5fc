//! The errors of this crate: what was expected, what came, and what to do next.

use std::path::PathBuf;

/// What can go wrong when a network is trained or evaluated.
///
/// ```
/// use lmht_train::optim::SgdConfig;
/// let error = SgdConfig { lr: -1., ..SgdConfig::default() }.validate().unwrap_err();
/// assert_eq!(error.to_string(), "optimizer: expected lr finite and not negative, got -1");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration asks for something that cannot be done, or does not fit the data. The message names the field, its
    /// value and what is allowed.
    #[error("configuration: {0}")]
    Config(String),

    /// The network could not be run, saved or loaded.
    #[error(transparent)]
    Network(#[from] lmht_nn::Error),

    /// A tensor operation failed, or a tensor has the wrong shape.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),

    /// A source of batches failed; the message is its own. [`Error::data`] makes one.
    #[error(transparent)]
    Data(Box<dyn std::error::Error + Send + Sync>),

    /// A file could not be read or written.
    #[error("{}: {what}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was expected, what came, and what to do next.
        what: String,
    },

    /// Crash-safe writing failed.
    #[error(transparent)]
    Write(#[from] lmht_nn::atomic::Error),

    /// Training met a value that is not finite and stopped.
    #[error("{0}")]
    NonFinite(String),

    /// The run was asked to stop, and did; see [`RunRecord::stopped_by`](crate::RunRecord::stopped_by).
    #[error("stopped in epoch {epoch} after {step} steps; {} has a checkpoint: the same command goes on there", path.display())]
    Stopped {
        /// The epoch, from 1.
        epoch: usize,
        /// Steps done of it.
        step: usize,
        /// The folder of the run.
        path: PathBuf,
    },

    /// A setting of an optimizer is out of its range.
    #[error("optimizer: expected {field} {expected}, got {got}")]
    InvalidOptimizer {
        /// The field, as it is written in the configuration.
        field: &'static str,
        /// Its range, in words.
        expected: &'static str,
        /// What came.
        got: String,
    },

    /// A parameter cannot be optimized.
    #[error("optimizer: parameter {name}: expected {expected}, got {got}")]
    InvalidParameter {
        /// Name of the parameter.
        name: String,
        /// What it should be, in words.
        expected: &'static str,
        /// What came.
        got: String,
    },

    /// The saved state of an optimizer lacks an entry.
    #[error(
        "optimizer state: {name} is missing; the state was saved by another optimizer, with other settings or for another \
         network: resume with the configuration of the checkpoint"
    )]
    MissingState {
        /// Name of the entry.
        name: String,
    },

    /// The saved state of an optimizer has an entry that belongs to no parameter, or to no part of its rule.
    #[error(
        "optimizer state: {name} belongs to no parameter of this optimizer; the state was saved by another optimizer, with \
         other settings or for another network: resume with the configuration of the checkpoint"
    )]
    UnexpectedState {
        /// Name of the entry.
        name: String,
    },

    /// An entry of an optimizer's saved state does not fit its parameter.
    #[error("optimizer state: {name}: expected {expected}, got {got}; is the checkpoint that of this network?")]
    InvalidState {
        /// Name of the entry.
        name: String,
        /// Shape and type, or range, that it should have.
        expected: String,
        /// What came.
        got: String,
    },

    /// A field of a schedule, or the base learning rate, is out of its range or does not fit the run.
    #[error("schedule: expected {field} {expected}, got {got}")]
    InvalidSchedule {
        /// The field, as it is written in the configuration.
        field: &'static str,
        /// Its range, in words.
        expected: String,
        /// What came.
        got: String,
    },

    /// A schedule was asked for a position outside the run.
    #[error("schedule: expected a position with {field} {expected}, got {got}")]
    InvalidPosition {
        /// The field of [`Position`](crate::schedule::Position).
        field: &'static str,
        /// Its range, in words.
        expected: String,
        /// What came.
        got: usize,
    },

    /// The operating system refused to make or write a TensorBoard file.
    #[error("{}: cannot {action}: {source}; what was written before stays readable", path.display())]
    EventFile {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason that the operating system gives.
        source: std::io::Error,
    },

    /// TensorBoard cannot show a scalar.
    #[error("TensorBoard scalar {tag:?} at step {step}: expected {expected}")]
    InvalidScalar {
        /// Its tag.
        tag: String,
        /// Its step.
        step: u64,
        /// What it should be.
        expected: &'static str,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Any error of a data set, on its way through the training loop; for implementations of
    /// [`BatchSource`](crate::BatchSource).
    ///
    /// ```
    /// use lmht_train::Error;
    /// let error = Error::data(std::io::Error::other("the disk came off"));
    /// assert!(matches!(error, Error::Data(_)));
    /// assert_eq!(error.to_string(), "the disk came off");
    /// ```
    pub fn data(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Data(error.into())
    }

    pub(crate) fn file(path: impl Into<PathBuf>, what: impl std::fmt::Display) -> Self {
        Self::File { path: path.into(), what: what.to_string() }
    }
}

/// The data set's own words, as [`Error::Data`].
#[cfg(feature = "datasets")]
impl From<lmht_datasets::Error> for Error {
    fn from(error: lmht_datasets::Error) -> Self {
        Self::data(error)
    }
}
