//! [`Predictor`]: from the file of an image to the names of classes. It is here and not in `lmht-nn`, which knows no image
//! format; this crate is the lowest that knows networks and, with the feature `datasets`, images.

use std::path::Path;

use candle_core::{D, DType, Device, Tensor};
use lmht_datasets::Preprocessing;
use lmht_nn::{Inference, ModelConfig, Pretrained, from_pretrained};

use crate::{Error, Result, loss};

/// A trained network with what turns an image into its input.
///
/// ```no_run
/// use std::path::Path;
///
/// use lmht_train::Predictor;
///
/// # fn main() -> lmht_train::Result<()> {
/// let predictor = Predictor::from_pretrained(Path::new("runs/mine"))?;
/// for answer in predictor.predict_file(Path::new("cat.png"))?.top(5) {
///     println!("{}: {:.1} %", predictor.class_name(answer.class), 100. * answer.probability);
/// }
/// # Ok(()) }
/// ```
///
/// A path may be a name on the Hub with the feature `hub`. Its parts are
///
/// ```no_run
/// use candle_core::{DType, Device};
/// use lmht_datasets::Preprocessor;
/// use lmht_nn::from_pretrained;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (network, _params) = from_pretrained("owner/name@main", DType::F32, &Device::Cpu)?;
/// let preprocessor = Preprocessor::from_pretrained("owner/name@main")?;
/// let class_names = preprocessor.class_names.as_deref().unwrap_or_default();
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Predictor {
    network: Inference,
    preprocessor: Preprocessing,
}

/// What a network takes an image for.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The probability of each class after each timestep that has logits: the softmax of the logits' mean so far.
    pub by_timestep: Vec<Vec<f64>>,
}

/// A class with its probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer {
    /// Its number, from 0.
    pub class: usize,
    /// 0..1.
    pub probability: f64,
}

impl Prediction {
    /// The `k` most probable classes, the most probable first; of equal ones the first.
    pub fn top(&self, k: usize) -> Vec<Answer> {
        self.top_after(self.by_timestep.len(), k)
    }

    /// The same after `n` of the timesteps that have logits; nothing where there are not as many.
    pub fn top_after(&self, n: usize, k: usize) -> Vec<Answer> {
        let probabilities = n.checked_sub(1).and_then(|last| self.by_timestep.get(last));
        probabilities.map_or_else(Vec::new, |probabilities| top(probabilities, k))
    }

    /// The most probable class after each timestep.
    pub fn first_by_timestep(&self) -> Vec<Answer> {
        self.by_timestep.iter().flat_map(|probabilities| top(probabilities, 1)).collect()
    }
}

fn top(probabilities: &[f64], k: usize) -> Vec<Answer> {
    let mut all: Vec<Answer> =
        probabilities.iter().enumerate().map(|(class, &probability)| Answer { class, probability }).collect();
    // Stable: the first of equal ones stays the first.
    all.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    all.truncate(k);
    all
}

impl Predictor {
    /// The network and the preprocessing of a model folder, a run, a checkpoint or a name on the Hub, on the CPU.
    ///
    /// # Errors
    /// As [`from_pretrained`] and [`Preprocessing::from_pretrained`]; as [`Predictor::new`].
    pub fn from_pretrained(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_pretrained_on(path, &Device::Cpu)
    }

    /// The same on a device.
    ///
    /// # Errors
    /// As [`Predictor::from_pretrained`].
    pub fn from_pretrained_on(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let folder = Pretrained::locate(path.as_ref())?.folder;
        let preprocessor = Preprocessing::from_pretrained(&folder)?;
        let (network, _params) = from_pretrained(&folder, DType::F32, device)?;
        Self::new(network.inference()?, preprocessor)
    }

    /// Of a network in memory.
    ///
    /// # Errors
    /// As [`Predictor::check`].
    pub fn new(network: Inference, preprocessor: impl Into<Preprocessing>) -> Result<Self> {
        let preprocessor = preprocessor.into();
        Self::check(&preprocessor, network.config())?;
        Ok(Self { network, preprocessor })
    }

    /// Whether a preprocessing fits the network of `config`.
    ///
    /// # Errors
    /// [`Error::Config`] if it is another network's: other channels, sides that the network does not take, or another number
    /// of names.
    pub fn check(preprocessor: &Preprocessing, config: &ModelConfig) -> Result<()> {
        let n_classes = config.n_classes;
        if preprocessor.channels() != config.in_channels {
            return Err(Error::Config(format!(
                "preprocessor_config.json makes images of {} channel(s), expected {} as the network takes them; is it \
                 another network's?",
                preprocessor.channels(),
                config.in_channels
            )));
        }
        if let Some(names) = preprocessor.class_names().filter(|names| names.len() != n_classes) {
            return Err(Error::Config(format!(
                "preprocessor_config.json has names of {} classes, expected {n_classes} as the network has them; is it \
                 another network's?",
                names.len()
            )));
        }
        let Preprocessing::Images(images) = preprocessor else { return Ok(()) };
        let (h, w) = images.output_size();
        config
            .check_input(&[1, images.channels, h, w])
            .map_err(|error| Error::Config(format!("preprocessor_config.json: {error}")))
    }

    /// What turns an image or a recording into the network's input.
    pub fn preprocessor(&self) -> &Preprocessing {
        &self.preprocessor
    }

    /// Number of classes.
    pub fn n_classes(&self) -> usize {
        self.network.config().n_classes
    }

    /// The name of a class; its number if the model has no names.
    pub fn class_name(&self, class: usize) -> String {
        let names = self.preprocessor.class_names();
        names.and_then(|names| names.get(class)).cloned().unwrap_or_else(|| class.to_string())
    }

    /// What an image of any size, or the only recording in a file, is taken for.
    ///
    /// # Errors
    /// As [`Preprocessing::open`] and [`Predictor::predict`]; [`Error::Data`] if the file holds several recordings.
    pub fn predict_file(&self, path: &Path) -> Result<Prediction> {
        let inputs = self.preprocessor.open(path)?;
        let [input] = &inputs[..] else {
            return Err(Error::data(format!(
                "{}: expected one recording, found {}; open it with Predictor::preprocessor and stack what you want",
                path.display(),
                inputs.len()
            )));
        };
        Ok(self.predict(&Self::stack(std::slice::from_ref(input))?)?.swap_remove(0))
    }

    /// One batch of inputs as [`Preprocessing::open`] makes them: `[B, C, H, W]`, or `[T, B, C, H, W]` of frames.
    ///
    /// # Errors
    /// If they have different shapes, or are none.
    pub fn stack(inputs: &[Tensor]) -> Result<Tensor> {
        let is_frames = inputs.first().is_some_and(|input| input.rank() == 4);
        Ok(Tensor::stack(inputs, usize::from(is_frames))?)
    }

    /// What the images of a batch are taken for.
    ///
    /// # Shapes
    /// - `images` `[B, C, H, W]` or frames `[T, B, C, H, W]`, as [`Predictor::stack`] makes them; on any device
    ///
    /// # Errors
    /// If the images do not fit the network, or its logits are not finite.
    pub fn predict(&self, images: &Tensor) -> Result<Vec<Prediction>> {
        let logits = self.network.forward(&images.to_device(&self.network.device())?)?;
        // f64: the probabilities of a thousand classes sum to 1. Metal has none.
        let readouts = loss::cumulative_readout(&logits)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let probabilities = softmax(&readouts)?.transpose(0, 1)?.contiguous()?;
        let by_image = probabilities.to_vec3::<f64>()?;
        if by_image.iter().flatten().flatten().any(|probability| !probability.is_finite()) {
            return Err(Error::NonFinite(
                "the network's logits are not finite; its weights, or the mean and std of its preprocessing, are damaged"
                    .into(),
            ));
        }
        Ok(by_image.into_iter().map(|by_timestep| Prediction { by_timestep }).collect())
    }
}

/// Softmax over the last dimension, through its maximum.
fn softmax(logits: &Tensor) -> candle_core::Result<Tensor> {
    let weights = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
    weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)
}
