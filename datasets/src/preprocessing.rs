//! [`Preprocessing`]: whatever turns a file into the input of a trained network.

use std::fs;
use std::path::Path;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::events::EventPreprocessor;
use crate::preprocessor::{Preprocessor, find};

/// What `preprocessor_config.json` asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Preprocessing {
    /// An image becomes `[C, H, W]`.
    Images(Preprocessor),
    /// A recording of events becomes `[T, P, H, W]`, or `[P, H, W]`.
    Events(EventPreprocessor),
}

impl Preprocessing {
    /// That of a model folder, of a run or of one of its checkpoints.
    ///
    /// # Errors
    /// As [`Preprocessor::from_pretrained`].
    pub fn from_pretrained(path: impl AsRef<Path>) -> Result<Self> {
        Self::load(find(path.as_ref())?)
    }

    /// Reads `preprocessor_config.json`.
    ///
    /// # Errors
    /// As [`Preprocessor::load`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let io = |source| Error::Io { path: path.to_path_buf(), doing: "read the preprocessing", source };
        Self::parse(&fs::read_to_string(path).map_err(io)?, path)
    }

    /// The same of its text; `path` stands in errors.
    ///
    /// # Errors
    /// As [`Preprocessor::load`].
    pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        match EventPreprocessor::parse(text, path)? {
            Some(events) => Ok(Self::Events(events)),
            None => Ok(Self::Images(Preprocessor::parse(text, path)?)),
        }
    }

    /// The input of each thing in a file; of an image there is one.
    ///
    /// # Errors
    /// As [`Preprocessor::open`] and [`EventPreprocessor::open`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Vec<Tensor>> {
        match self {
            Self::Images(images) => Ok(vec![images.open(path)?]),
            Self::Events(events) => events.open(path),
        }
    }

    /// Channels of the input: colours or polarities.
    pub fn channels(&self) -> usize {
        match self {
            Self::Images(images) => images.channels,
            Self::Events(events) => events.channels,
        }
    }

    /// The names of the classes, in the order of their labels.
    pub fn class_names(&self) -> Option<&[String]> {
        match self {
            Self::Images(images) => images.class_names.as_deref(),
            Self::Events(events) => events.class_names.as_deref(),
        }
    }

    /// The text of `preprocessor_config.json`.
    pub fn to_json(&self) -> String {
        match self {
            Self::Images(images) => images.to_json(),
            Self::Events(events) => events.to_json(),
        }
    }
}

impl From<Preprocessor> for Preprocessing {
    fn from(images: Preprocessor) -> Self {
        Self::Images(images)
    }
}

impl From<EventPreprocessor> for Preprocessing {
    fn from(events: EventPreprocessor) -> Self {
        Self::Events(events)
    }
}
