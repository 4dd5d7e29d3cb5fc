//! From parquet to the batches that training asks for.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use candle_core::Device;
use indicatif::{ProgressBar, ProgressStyle};
use lmht_datasets::{ImageDataset, Loader, LoaderConfig, Normalize, ParquetOptions, Split, sample_path};
use lmht_nn::ModelConfig;

use crate::experiment::{DataConfig, Experiment};

/// Training and test batches of an experiment.
pub(crate) fn open(experiment: &Experiment) -> Result<(Loader, Loader)> {
    let (train, test, normalize) = read_both(&experiment.data, &experiment.model)?;
    let config = LoaderConfig {
        augment: experiment.data.augment,
        mix: experiment.data.mix,
        ..LoaderConfig::train(experiment.train.batch_size, experiment.train.seed)
    };
    let train = Loader::new(Arc::new(train), &config, &normalize, &Device::Cpu)?;
    Ok((train, test_source(&experiment.data, test, &normalize)?))
}

/// The test batches alone, for a network that is trained already.
pub(crate) fn open_test(data: &DataConfig, model: &ModelConfig) -> Result<Loader> {
    let (_, test, normalize) = read_both(data, model)?;
    test_source(data, test, &normalize)
}

/// One batch of training images without augmentation, in the order of training: for a calibration.
pub(crate) fn open_plain_train(data: &DataConfig, model: &ModelConfig, n_images: usize) -> Result<Loader> {
    let (train, _, normalize) = read_both(data, model)?;
    let config = LoaderConfig { drop_last: false, ..LoaderConfig::train(n_images, 0) };
    Ok(Loader::new(Arc::new(train), &config, &normalize, &Device::Cpu)?)
}

/// The training images and how their pixels are normalized.
pub(crate) fn read_train(data: &DataConfig, model: &ModelConfig) -> Result<(Arc<ImageDataset>, Normalize)> {
    let train = read(data, Split::Train, &data.parquet)?;
    check_fit(data, model, &train)?;
    let normalize = data.normalize.clone().unwrap_or_else(|| train.channel_stats());
    Ok((Arc::new(train), normalize))
}

/// Both splits, and how their pixels are normalized: the training split decides that, and the classes.
fn read_both(data: &DataConfig, model: &ModelConfig) -> Result<(ImageDataset, ImageDataset, Normalize)> {
    let train = read(data, Split::Train, &data.parquet)?;
    let (channels, h, w) = train.shape();
    check_fit(data, model, &train)?;
    let mut options = data.parquet.clone();
    options.n_classes = Some(train.n_classes());
    options.channels = Some(channels);
    if options.resize.is_none() && options.cover.is_none() {
        options.size = Some((h, w));
    }
    // A smaller training set is a choice; the accuracy is that of the whole test set.
    options.max_per_class = None;
    let test = read(data, Split::Test, &options)?;
    let normalize = data.normalize.clone().unwrap_or_else(|| train.channel_stats());
    Ok((train, test, normalize))
}

/// Every test image once.
fn test_source(data: &DataConfig, test: ImageDataset, normalize: &Normalize) -> Result<Loader> {
    let config = LoaderConfig { center_crop: data.center_crop, ..LoaderConfig::eval(TEST_BATCH) };
    Ok(Loader::new(Arc::new(test), &config, normalize, &Device::Cpu)?)
}

/// Images in an evaluation batch: large enough to keep the cores busy, small enough for any memory.
const TEST_BATCH: usize = 100;

/// The network and the data must agree on channels and classes; said here, where both have a name.
fn check_fit(data: &DataConfig, model: &ModelConfig, train: &ImageDataset) -> Result<()> {
    let (channels, ..) = train.shape();
    let path = data.path.display();
    anyhow::ensure!(
        channels == model.in_channels,
        "{path}: the images have {channels} channel(s), but model.in_channels is {}",
        model.in_channels
    );
    anyhow::ensure!(
        train.n_classes() == model.n_classes,
        "{path}: the labels have {} classes, but model.n_classes is {}",
        train.n_classes(),
        model.n_classes
    );
    Ok(())
}

fn read(data: &DataConfig, split: Split, options: &ParquetOptions) -> Result<ImageDataset> {
    let sample = sample_path();
    let path: &Path = if data.path == Path::new("sample") { &sample } else { &data.path };
    if data.events.is_some() {
        bail!(
            "{}: recordings of events cannot be read yet; the configuration's data.events only records the recipe. \
             Choose a data set of images, or remove data.events and give frames that are averaged into images already",
            path.display()
        );
    }
    if let (Some(hub), false) = (&data.hub, path.exists()) {
        bail!(
            "{}: expected the data set {hub} here, and there is nothing. Download its parquet files (train-*.parquet and \
             those of the test or validation split) from https://huggingface.co/datasets/{hub} into a folder, and give \
             that with --data FOLDER",
            path.display()
        );
    }
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("reading {msg} {wide_bar} {pos}/{len} {eta} left")?);
    bar.set_message(split.name());
    let dataset = ImageDataset::from_parquet_with(path, split, options, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    Ok(dataset)
}

/// In words, for run records and model cards.
pub(crate) fn describe(data: &DataConfig, train: &Loader, test: &Loader) -> String {
    let name = if data.path == Path::new("sample") {
        "Fashion-MNIST sample (datasets/sample)".to_string()
    } else {
        data.path.display().to_string()
    };
    format!("{name}: {} training images, accuracy on all {} test images", train.data().len(), test.data().len())
}
