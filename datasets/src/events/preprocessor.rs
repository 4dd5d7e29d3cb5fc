//! [`EventPreprocessor`]: what a trained network wants to see of a recording, kept beside its weights as
//! `preprocessor_config.json`.

use std::path::Path;

use candle_core::{Device, Tensor};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{EventDataset, EventRecipe, recordings};
use crate::Dataset;
use crate::error::{Error, Result};

/// Turns a recording into the input of a trained network.
///
/// In `preprocessor_config.json` it stands under `lmht`, with the key `events` for the recipe; a
/// [`Preprocessor`](crate::Preprocessor), which is for images, refuses such a file by name.
#[derive(Clone, Debug, PartialEq)]
pub struct EventPreprocessor {
    /// How recordings become frames.
    pub recipe: EventRecipe,
    /// P, the number of polarities: the channels of the network.
    pub channels: usize,
    /// (height, width) of what the network sees.
    pub size: (usize, usize),
    /// The names of the classes, in the order of their labels.
    pub class_names: Option<Vec<String>>,
}

impl EventPreprocessor {
    /// What a data set's recordings went through.
    pub fn of(data: &EventDataset) -> Self {
        let dims = data.dims();
        let [channels, h, w] = [3, 2, 1].map(|back| dims[dims.len() - back]);
        let class_names = data.class_names().map(<[_]>::to_vec);
        Self { recipe: data.recipe().clone(), channels, size: (h, w), class_names }
    }

    /// The input of each recording in a file, `f32`, `[T, P, H, W]`, or `[P, H, W]` for a mean; a file of DVS128 Gesture
    /// or SHD holds several.
    ///
    /// # Errors
    /// As [`recordings`]; [`Error::Events`] if the recording has another sensor, number of frames or polarities.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Vec<Tensor>> {
        let path = path.as_ref();
        let wrong = |reason: String| Error::Events {
            path: path.to_path_buf(),
            format: "a recording as the network learned from",
            reason,
        };
        let input = |recording| {
            let (frames, _) = self.recipe.apply(recording).map_err(wrong)?;
            let dims = frames.dims();
            if (dims[1], (dims[2], dims[3])) != (self.channels, self.size) {
                let ((h, w), n) = (self.size, self.channels);
                return Err(wrong(format!("its frames are {dims:?}, expected {n} polarities and {h}x{w} pixels")));
            }
            Ok(Tensor::from_vec(frames.counts().to_vec(), self.recipe.input_dims(dims), &Device::Cpu)?)
        };
        recordings(path, &self.recipe.options())?.iter().map(|(recording, _)| input(recording)).collect()
    }

    /// What the text of a `preprocessor_config.json` says of events; none if it is of images. `path` stands in errors.
    ///
    /// # Errors
    /// [`Error::Preprocessor`], which names the entry.
    pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<Option<Self>> {
        let wrong = |key: &str, error: String| Error::Preprocessor {
            path: path.as_ref().to_path_buf(),
            key: key.to_owned(),
            expected: "what the network wants to see of a recording".to_owned(),
            found: error,
        };
        let json: Value = serde_json::from_str(text).map_err(|error| wrong("the file", error.to_string()))?;
        let ours = &json["lmht"];
        if ours["events"].is_null() {
            return Ok(None);
        }
        fn get<T: DeserializeOwned>(ours: &Value, key: &str) -> std::result::Result<T, String> {
            T::deserialize(&ours[key]).map_err(|error| format!("{} ({error})", ours[key]))
        }
        let recipe: EventRecipe = get(ours, "events").map_err(|error| wrong("lmht.events", error))?;
        recipe.check().map_err(|error| wrong("lmht.events", error.to_string()))?;
        Ok(Some(Self {
            recipe,
            channels: get(ours, "channels").map_err(|error| wrong("lmht.channels", error))?,
            size: get(ours, "size").map_err(|error| wrong("lmht.size", error))?,
            class_names: get(ours, "class_names").map_err(|error| wrong("lmht.class_names", error))?,
        }))
    }

    /// The text of `preprocessor_config.json`.
    pub fn to_json(&self) -> String {
        let json = json!({
            "lmht": {
                "events": self.recipe,
                "channels": self.channels,
                "size": self.size,
                "class_names": self.class_names,
            }
        });
        format!("{json:#}\n")
    }
}
