//! Image data sets for the training of spiking networks: parquet in the layout of the Hugging Face Hub, the
//! augmentation of the published recipes, and seeded batches of Candle tensors.
//!
//! - [`ImageDataset`] reads a split into memory, as bytes, on all cores;
//! - [`Loader`] turns it into the [`Batch`]es of an epoch, which depend on the seed and the epoch and on nothing else;
//! - [`Augment`] and [`Normalize`] say what happens to the pixels on the way, [`AutoAugment`] with the [`Operation`]s of
//!   its policies among it, and [`Mix`] what happens to a batch;
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
//! use lmht_datasets::{Augment, ImageDataset, Loader, LoaderConfig, ParquetOptions, Split, sample_path};
//!
//! let train = ImageDataset::from_parquet(sample_path(), Split::Train, &ParquetOptions::default())?;
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
mod dataset;
mod decode;
mod error;
mod files;
mod loader;
mod mix;
mod operation;
mod options;
mod random;
mod resize;
mod sample;
mod split;
mod table;
mod transform;

pub use auto_augment::{AutoAugment, Policy};
pub use dataset::ImageDataset;
pub use error::{Error, Result};
pub use loader::{Batch, Batches, Loader, LoaderConfig};
pub use mix::Mix;
pub use operation::Operation;
pub use options::ParquetOptions;
pub use sample::sample_path;
pub use split::Split;
pub use transform::{Augment, Normalize};
