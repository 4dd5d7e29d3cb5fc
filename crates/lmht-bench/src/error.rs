//! The errors of this crate: what was expected, what came, and what to do next.

/// The largest spike that is counted.
pub(crate) const MAX_SPIKE: u32 = 1 << 20;

/// What can go wrong when operations are counted, priced or reported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Sizes that do not belong together: of an input and a weight, of a pass and those before it.
    #[error("{0}")]
    Shape(String),

    /// A value that was announced as spikes and is none.
    #[error("expected whole multiples of the threshold {v_threshold}, at most {MAX_SPIKE} times, got {value}")]
    NotSpikes {
        /// The amplitude θ of one spike.
        v_threshold: f64,
        /// What came.
        value: f64,
    },

    /// A price that cannot be. The message names the field, its value and what is allowed.
    #[error("{0}")]
    Price(String),

    /// Text that is no report, or of a version that this program does not read.
    #[error("{0}")]
    Report(String),

    /// An error in a layer.
    #[error("{name}: {error}")]
    Layer {
        /// The path of the layer.
        name: String,
        /// What went wrong there.
        error: Box<Self>,
    },

    /// A tensor could not be read.
    #[error(transparent)]
    Network(#[from] lmht_nn::Error),
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn in_layer(self, name: &str) -> Self {
        Self::Layer { name: name.to_string(), error: Box::new(self) }
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Network(error.into())
    }
}

/// What a pass ends with if an observer of this crate fails.
impl From<Error> for lmht_nn::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Network(error) => error,
            error => candle_core::Error::wrap(error).into(),
        }
    }
}
