//! Training of LM-HT spiking networks on Candle: [`fit`] a network to batches, [`evaluate`] it, and keep a record that
//! survives being killed.
//!
//! A network of `lmht-nn` learns to tell bright images from dark ones, which are tensors in memory:
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use lmht_nn::{ModelConfig, Network, ParamStore};
//! use lmht_train::{Progress, TensorSource, TrainConfig, fit};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = ModelConfig { width: 4, in_channels: 1, ..ModelConfig::resnet20(2) };
//! let params = ParamStore::new(42);
//! let network = Network::new(&model, params.builder(DType::F32, &Device::Cpu))?;
//!
//! // 32 images of 8 x 8 pixels: every second one is white and of class 1, the others are black and of class 0.
//! let labels = Tensor::from_iter((0..32u32).map(|i| i % 2), &Device::Cpu)?;
//! let images = labels.to_dtype(DType::F32)?.reshape((32, 1, 1, 1))?.broadcast_as((32, 1, 8, 8))?;
//! let train = TensorSource::train(images.clone(), labels.clone(), 8, 42)?;
//! let test = TensorSource::test(images, labels, 8)?;
//!
//! let config = TrainConfig { epochs: 10, batch_size: 8, ..TrainConfig::default() };
//! let metrics = fit(&network, &params, &config, &train, &test, None, Progress::Silent)?;
//! assert_eq!(metrics.top1, 1.); // of the test images, after the last epoch
//! # Ok(()) }
//! ```
//!
//! | what | where |
//! |---|---|
//! | the training loop, its configuration and result | [`fit`], [`TrainConfig`], [`Metrics`], [`EpochMetrics`] |
//! | accuracy and loss on a data set | [`evaluate`], [`Evaluation`] |
//! | which class is taken for which | [`evaluate_classes`], [`Confusion`] |
//! | what a trained network takes an image for | `Predictor`, with the feature `datasets` |
//! | where batches come from | [`BatchSource`], [`TensorSource`]; a `Loader` of `lmht-datasets` with the feature `datasets` |
//! | the folder of a run, with checkpoints | [`RunRecord`], [`RunInfo`] |
//! | SGD, AdamW, norm and check of the gradients | [`optim`] |
//! | learning rates | [`schedule`] |
//! | cross-entropy, top-1 | [`loss`] |
//! | event files for TensorBoard | [`tensorboard`] |
//! | progress bars | [`Progress`] |
//! | everything that can go wrong | [`Error`] |
//!
//! Equal runs give equal bytes: no random number depends on anything but the seed and a place in the run, and every sum has
//! a fixed order, on any number of threads.
//!
//! # Features
//! - `datasets`: the `Loader` of `lmht-datasets` is a [`BatchSource`], and `Predictor` goes from images to classes.
//! - `cuda`, `metal`: Candle's GPU backends.

mod checkpoint;
mod confusion;
mod error;
mod evaluate;
mod fit;
mod lock;
pub mod loss;
mod metrics;
pub mod optim;
#[cfg(feature = "datasets")]
mod predict;
mod progress;
mod random;
mod run;
mod scale;
pub mod schedule;
mod source;
pub mod tensorboard;
mod watch;

pub use confusion::Confusion;
pub use error::{Error, Result};
pub use evaluate::{Evaluation, evaluate, evaluate_classes};
pub use fit::{TrainConfig, fit};
pub use metrics::{EpochMetrics, Metrics};
#[cfg(feature = "datasets")]
pub use predict::{Answer, Prediction, Predictor};
pub use progress::Progress;
pub use run::{RunInfo, RunRecord};
#[cfg(feature = "datasets")]
pub use source::FirstImages;
pub use source::{Batch, BatchSource, Batches, Targets, TensorSource};
