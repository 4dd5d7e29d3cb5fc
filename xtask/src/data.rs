//! From parquet to the batches that training asks for.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use candle_core::Device;
use indicatif::{ProgressBar, ProgressStyle};
use lmht_datasets::{
    Error, Fit, ImageDataset, Loader, LoaderConfig, Normalize, Preprocessor, ReadOptions, Source, Split, sample_path,
};
use lmht_nn::ModelConfig;

use crate::experiment::{DataConfig, Experiment};

/// Which part of the data is used for what.
#[derive(Default, clap::Args)]
pub(crate) struct SplitArgs {
    /// The split to learn from, or a part of one: NAME[:80%] is the first 80 % of each class [default: train].
    #[arg(long, value_name = "NAME")]
    train_split: Option<String>,
    /// The split to measure on, likewise [default: test; validation where test is missing or without labels].
    #[arg(long, value_name = "NAME")]
    test_split: Option<String>,
}

impl SplitArgs {
    /// Replaces what the configuration says.
    pub(crate) fn apply(&self, data: &mut DataConfig) {
        let parquet = &mut data.parquet;
        parquet.train_split = self.train_split.clone().or(parquet.train_split.take());
        parquet.test_split = self.test_split.clone().or(parquet.test_split.take());
    }
}

/// Training and test batches of an experiment, on a device.
pub(crate) fn open(experiment: &Experiment, device: &Device) -> Result<(Loader, Loader)> {
    let (train, test, normalize) = read_both(&experiment.data, &experiment.model)?;
    let config = LoaderConfig {
        augment: experiment.data.augment,
        mix: experiment.data.mix,
        ..LoaderConfig::train(experiment.train.batch_size, experiment.train.seed)
    };
    let train = Loader::new(Arc::new(train), &config, &normalize, device)?;
    Ok((train, test_source(&experiment.data, test, &normalize, device)?))
}

/// The test batches alone, for a network that is trained already, as its preprocessor makes them of images.
///
/// A network without one gets what the training split says, which has to be there then.
pub(crate) fn open_test(
    data: &DataConfig,
    model: &ModelConfig,
    preprocessor: Option<&Preprocessor>,
    device: &Device,
) -> Result<Loader> {
    let Some(preprocessor) = preprocessor else {
        eprintln!(
            "note: the model has no preprocessor_config.json (an older version wrote it, or it was imported): size and \
             normalization of the images are those of the training split of {}",
            data.path.display()
        );
        return open_test_of_training(data, model, device);
    };
    let (data, normalize) = (of_preprocessor(data, preprocessor, model), &preprocessor.normalize);
    let source = open_source(&data, &data.parquet)?;
    source.require(Split::Test).map_err(in_options)?;
    source.notes().iter().for_each(|note| eprintln!("note: {note}"));
    let test = read(&data, Split::Test, &data.parquet)?;
    check_fit(&data, model, &test)?;
    test_source(&data, test, normalize, device)
}

/// The test batches of an experiment: the training split, which has to be there, decides how images become inputs.
pub(crate) fn open_test_of_training(data: &DataConfig, model: &ModelConfig, device: &Device) -> Result<Loader> {
    let (_, test, normalize) = read_both(data, model)?;
    test_source(data, test, &normalize, device)
}

/// The same data, read as a preprocessor says.
fn of_preprocessor(data: &DataConfig, preprocessor: &Preprocessor, model: &ModelConfig) -> DataConfig {
    let mut data = data.clone();
    let (size, options) = (Some(preprocessor.size), &mut data.parquet);
    (options.size, options.resize, options.cover) = match preprocessor.fit {
        Fit::Exact => (size, None, None),
        Fit::Stretch => (None, size, None),
        Fit::Cover => (None, None, size),
    };
    options.channels = Some(preprocessor.channels);
    options.n_classes = Some(model.n_classes);
    options.class_names = preprocessor.class_names.clone();
    options.max_per_class = None;
    data.center_crop = preprocessor.center_crop;
    data.normalize = Some(preprocessor.normalize.clone());
    data
}

/// One batch of training images without augmentation, in the order of training: for a calibration.
pub(crate) fn open_plain_train(
    data: &DataConfig,
    model: &ModelConfig,
    preprocessor: Option<&Preprocessor>,
    n_images: usize,
    device: &Device,
) -> Result<Loader> {
    let (train, _, normalize) = match preprocessor {
        Some(preprocessor) => read_both(&of_preprocessor(data, preprocessor, model), model)?,
        None => read_both(data, model)?,
    };
    let config = LoaderConfig { drop_last: false, ..LoaderConfig::train(n_images, 0) };
    Ok(Loader::new(Arc::new(train), &config, &normalize, device)?)
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
    // Said before anything long is read.
    let source = open_source(data, &data.parquet)?;
    for split in [Split::Train, Split::Test] {
        source.require(split).map_err(in_options)?;
    }
    source.notes().iter().for_each(|note| eprintln!("note: {note}"));
    let train = read(data, Split::Train, &data.parquet)?;
    let (channels, h, w) = train.shape();
    check_fit(data, model, &train)?;
    let mut options = data.parquet.clone();
    options.n_classes = Some(train.n_classes());
    options.class_names = train.class_names().map(<[_]>::to_vec);
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
fn test_source(data: &DataConfig, test: ImageDataset, normalize: &Normalize, device: &Device) -> Result<Loader> {
    let config = LoaderConfig { center_crop: data.center_crop, ..LoaderConfig::eval(TEST_BATCH) };
    Ok(Loader::new(Arc::new(test), &config, normalize, device)?)
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

fn open_source(data: &DataConfig, options: &ReadOptions) -> Result<Source> {
    let sample = sample_path();
    let path: &Path = if data.path == Path::new("sample") { &sample } else { &data.path };
    if data.events.is_some() {
        bail!(
            "{}: recordings of events cannot be read yet; the configuration's data.events only records the recipe. \
             Choose a data set of images, or remove data.events and give frames that are averaged into images already",
            path.display()
        );
    }
    if data.path == Path::new("sample") && !path.exists() {
        bail!(
            "sample: the sample is a part of the repository (datasets/sample), and this is not a clone of it; change into \
             one, or give a data set with --data FOLDER"
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
    Source::open(path, options).map_err(in_options)
}

fn read(data: &DataConfig, split: Split, options: &ReadOptions) -> Result<ImageDataset> {
    let source = open_source(data, options)?;
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("reading {msg} {wide_bar} {pos}/{len} {eta} left")?);
    bar.set_message(split.name());
    let dataset = ImageDataset::from_source(&source, split, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    dataset.map_err(in_options)
}

/// An error of the library with this program's options in the place of its fields.
fn in_options(error: Error) -> anyhow::Error {
    match error {
        Error::SplitNeeded { path, split, wanted, found } => {
            let (path, found, name) = (path.display(), found.join(", "), split.name());
            let wanted = wanted.map_or(String::new(), |wanted| format!(" named `{wanted}`"));
            let part = if split == Split::Train { "[:80%]" } else { "[80%:]" };
            anyhow!(
                "{path}: expected a {name} split{wanted}, but the data set has {found}; name one with --{name}-split, or a \
                 part of one with --{name}-split 'NAME{part}'"
            )
        }
        Error::SameImages { path, train, test } => anyhow!(
            "{}: expected different images to learn from and to measure on, but `{train}` and `{test}` share some; choose \
             others with --train-split and --test-split, such as 'NAME[:80%]' and 'NAME[80%:]'",
            path.display()
        ),
        // The fields of the library's options are those of the configuration.
        error => anyhow!(error.to_string().replace("ReadOptions::", "data.parquet.")),
    }
}

/// What a data set is called.
pub(crate) fn name(path: &Path) -> String {
    if path == Path::new("sample") {
        "Fashion-MNIST sample (datasets/sample)".to_string()
    } else {
        path.display().to_string()
    }
}

/// In words, for run records and model cards.
pub(crate) fn describe(data: &DataConfig, train: &Loader, test: &Loader) -> String {
    format!(
        "{}: {} training images, accuracy on all {} test images",
        name(&data.path),
        train.data().len(),
        test.data().len()
    )
}
