//! Image data sets for the training of spiking networks: parquet in the layouts of the Hugging Face Hub, CSV and folders
//! of images, the augmentation of the published recipes, and seeded batches of Candle tensors.
//!
//! - [`Source`] finds the splits of a data set and says which is used for what;
//! - [`ImageDataset`] reads one into memory, as bytes, on all cores;
//! - [`ImageStream`] leaves one on the disk that does not fit there, and reads it in every epoch;
//! - [`Loader`] turns either into the [`Batch`]es of an epoch, which depend on the seed and the epoch and on nothing else;
//! - [`Augment`] and [`Normalize`] say what happens to the pixels on the way, [`AutoAugment`] with the [`Operation`]s of
//!   its policies among it, and [`Mix`] what happens to a batch;
//! - [`events`] reads recordings of event cameras and makes frames of them, which a [`Loader`] takes as well: any
//!   [`Dataset`] does;
//! - [`Preprocessor`] is what turns one image into the input of a trained network, to be kept with it;
//! - [`sample_path`] is a small real data set that needs no network.
//!
//! Nothing here prints, downloads, or knows a model. A static image becomes `[T, B, C, H, W]` in the network, whose stem
//! computes its current once and repeats it.
//!
//! # Example
//!
//! One epoch over the sample, prepared in the background:
//!
//! ```
//! use std::sync::Arc;
//!
//! use candle_core::Device;
//! use lmht_datasets::{Augment, ImageDataset, Loader, LoaderConfig, ReadOptions, Split, sample_path};
//!
//! let train = ImageDataset::read(sample_path(), Split::Train, &ReadOptions::default())?;
//! assert_eq!(train.class_names().unwrap()[9], "Ankle boot");
//!
//! let normalize = train.channel_stats();
//! let config = LoaderConfig {
//!     augment: Augment { crop_padding: 2, flip: true, ..Augment::default() },
//!     ..LoaderConfig::train(64, 42)
//! };
//! let loader = Loader::new(Arc::new(train), &config, &normalize, &Device::Cpu)?;
//! for batch in loader.epoch(0)? {
//!     let batch = batch?;
//!     assert_eq!(batch.images.dims(), [64, 1, 28, 28]);
//!     assert_eq!(batch.labels.dims(), [64]);
//! }
//!
//! // A run that stopped after step 100 of epoch 3 goes on as if it had not.
//! let resumed = loader.epoch_from(3, 100)?.next().unwrap()?;
//! let whole = loader.epoch(3)?.nth(100).unwrap()?;
//! assert_eq!(resumed.indices, whole.indices);
//! # Ok::<(), lmht_datasets::Error>(())
//! ```

mod auto_augment;
mod card;
mod choice;
mod configuration;
mod dataset;
mod decode;
mod error;
pub mod events;
mod formats;
mod guard;
#[cfg(feature = "hub")]
pub mod hub;
mod loader;
mod mix;
mod operation;
mod options;
mod part;
mod preprocessing;
mod preprocessor;
mod random;
mod resize;
mod sample;
mod seen;
mod source;
mod split;
mod stream;
mod transform;

pub use auto_augment::{AutoAugment, Policy};
pub use choice::DataSource;
pub use dataset::{Dataset, ImageDataset};
pub use decode::Fit;
pub use error::{Error, Place, Result};
pub use formats::image_files;
pub use guard::is_decoding;
pub use loader::{Batch, Batches, Loader, LoaderConfig};
pub use mix::{Mix, MixMode};
pub use operation::Operation;
pub use options::ReadOptions;
pub use preprocessing::Preprocessing;
pub use preprocessor::Preprocessor;
pub use sample::sample_path;
pub use seen::DeviceImages;
pub use source::Source;
pub use split::Split;
pub use stream::ImageStream;
pub use transform::{Augment, Normalize};
