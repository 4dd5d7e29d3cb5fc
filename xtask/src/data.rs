//! From parquet to the batches that training asks for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use candle_core::Device;
use indicatif::{ProgressBar, ProgressStyle};
use lmht_datasets::events::{EventDataset, EventInput, EventPreprocessor, EventRecipe, EventSource};
use lmht_datasets::{
    Dataset, Error, Fit, ImageDataset, ImageStream, Loader, LoaderConfig, Normalize, Preprocessing, Preprocessor,
    ReadOptions, Source, Split, sample_path,
};
use lmht_nn::ModelConfig;
use lmht_train::RunInfo;

use crate::experiment::{DataConfig, Experiment};
use crate::{hub, provenance};

/// Which part of the data is used for what, and whether it is held in memory.
#[derive(Default, clap::Args)]
pub(crate) struct SplitArgs {
    /// The split to learn from, or a part of one: NAME[:80%] is the first 80 % of each class [default: train].
    #[arg(long, value_name = "NAME")]
    train_split: Option<String>,
    /// The split to measure on, likewise [default: test; validation where test is missing or without labels].
    #[arg(long, value_name = "NAME")]
    test_split: Option<String>,
    /// Leave the images on the disk and read them in every epoch: for data that does not fit in memory.
    #[arg(long)]
    streaming: bool,
}

impl SplitArgs {
    /// Replaces what the configuration says.
    pub(crate) fn apply(&self, data: &mut DataConfig) {
        data.streaming |= self.streaming;
        let parquet = &mut data.parquet;
        parquet.train_split = self.train_split.clone().or(parquet.train_split.take());
        parquet.test_split = self.test_split.clone().or(parquet.test_split.take());
    }
}

/// What an experiment learns from and measures on, on a device.
pub(crate) struct Opened {
    pub(crate) train: Loader,
    pub(crate) test: Loader,
    /// What the test data went through, for the model folder.
    pub(crate) preprocessing: Preprocessing,
    /// The splits that are learned from and measured on.
    splits: [String; 2],
}

/// Training and test batches of an experiment.
pub(crate) fn open(experiment: &Experiment, device: &Device) -> Result<Opened> {
    let data = &experiment.data;
    let (train, test, splits) = read_both(data, &experiment.model)?;
    let config = LoaderConfig {
        augment: data.augment,
        mix: data.mix,
        aug_repeats: data.aug_repeats.unwrap_or(1),
        shuffle_buffer: data.shuffle_buffer.unwrap_or(LoaderConfig::default_shuffle_buffer()),
        ..LoaderConfig::train(experiment.train.batch_size, experiment.train.seed)
    };
    let preprocessing = match &test {
        Data::Events(events) => Some(EventPreprocessor::of(events).into()),
        Data::Images(..) | Data::Stream(..) => None,
    };
    let train = match train {
        Data::Events(events) => Data::Events(events.with_augment(data.event_augment.unwrap_or_default())?),
        images => images,
    };
    let (train, test) = (train.loader(&config, device)?, test.test_loader(data, device)?);
    let preprocessing = preprocessing.map_or_else(|| Preprocessor::of(&test).map(Preprocessing::from), Ok)?;
    Ok(Opened { train, test, preprocessing, splits })
}

/// The examples of a split.
enum Data {
    Images(ImageDataset, Normalize),
    Stream(Arc<ImageStream>, Normalize),
    Events(EventDataset),
}

impl Data {
    fn loader(self, config: &LoaderConfig, device: &Device) -> Result<Loader> {
        match self {
            Self::Images(images, normalize) => Loader::new(Arc::new(images), config, &normalize, device),
            Self::Stream(images, normalize) => Loader::streaming(images, config, &normalize, device),
            Self::Events(events) => Loader::of(Arc::new(events), config, device),
        }
        .map_err(in_options)
    }

    /// Every example once.
    fn test_loader(self, data: &DataConfig, device: &Device) -> Result<Loader> {
        self.loader(&LoaderConfig { center_crop: data.center_crop, ..LoaderConfig::eval(TEST_BATCH) }, device)
    }
}

/// The test batches alone, for a network that is trained already, as its preprocessor makes them of images.
///
/// A network without one gets what the training split says, which has to be there then.
pub(crate) fn open_test(
    data: &DataConfig,
    model: &ModelConfig,
    preprocessor: Option<&Preprocessing>,
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
    let data = of_preprocessing(data, preprocessor, model)?;
    if let Some(recipe) = &data.events {
        let source = find_events(&data, &data.parquet, EventSource::to_measure)?;
        source.require(Split::Test).map_err(in_options)?;
        source.notes().iter().for_each(|note| eprintln!("note: {note}"));
        let test = read_events(&source, Split::Test, recipe)?;
        check_events(&data, model, &test)?;
        return Data::Events(test).test_loader(&data, device);
    }
    let source = find(&data, &data.parquet, Source::to_measure)?;
    source.require(Split::Test).map_err(in_options)?;
    source.notes().iter().for_each(|note| eprintln!("note: {note}"));
    let normalize = data.normalize.clone().unwrap_or_else(|| Normalize::unit(model.in_channels));
    read_images(&data, model, &source, Split::Test, Some(normalize))?.0.test_loader(&data, device)
}

/// The test batches of an experiment: the training split, which has to be there, decides how images become inputs.
pub(crate) fn open_test_of_training(data: &DataConfig, model: &ModelConfig, device: &Device) -> Result<Loader> {
    read_both(data, model)?.1.test_loader(data, device)
}

/// The same data, read as a preprocessing says.
fn of_preprocessing(data: &DataConfig, preprocessing: &Preprocessing, model: &ModelConfig) -> Result<DataConfig> {
    let mut data = data.clone();
    let options = &mut data.parquet;
    options.n_classes = Some(model.n_classes);
    options.class_names = preprocessing.class_names().map(<[_]>::to_vec);
    options.max_per_class = None;
    match preprocessing {
        Preprocessing::Events(events) => data.events = Some(events.recipe.clone()),
        Preprocessing::Images(images) => {
            if data.events.is_some() {
                bail!(
                    "{}: expected images, as the network takes them; data.events is for recordings",
                    data.path.display()
                );
            }
            let size = Some(images.size);
            (options.size, options.resize, options.cover) = match images.fit {
                Fit::Exact => (size, None, None),
                Fit::Stretch => (None, size, None),
                Fit::Cover => (None, None, size),
            };
            options.channels = Some(images.channels);
            data.center_crop = images.center_crop;
            data.normalize = Some(images.normalize.clone());
        }
    }
    Ok(data)
}

/// One batch of training images without augmentation, in the order of training: for a calibration.
pub(crate) fn open_plain_train(
    data: &DataConfig,
    model: &ModelConfig,
    preprocessor: Option<&Preprocessing>,
    n_images: usize,
    device: &Device,
) -> Result<Loader> {
    let (train, ..) = match preprocessor {
        Some(preprocessor) => read_both(&of_preprocessing(data, preprocessor, model)?, model)?,
        None => read_both(data, model)?,
    };
    train.loader(&LoaderConfig { drop_last: false, ..LoaderConfig::train(n_images, 0) }, device)
}

/// The training images and how their pixels are normalized.
pub(crate) fn read_train(data: &DataConfig, model: &ModelConfig) -> Result<(Arc<ImageDataset>, Normalize)> {
    anyhow::ensure!(data.events.is_none(), "{}: expected images, found data.events", data.path.display());
    let train = read(&open_source(data, &data.parquet)?, Split::Train)?;
    check_fit(data, model, train.shape().0, train.n_classes())?;
    let normalize = data.normalize.clone().unwrap_or_else(|| train.channel_stats());
    Ok((Arc::new(train), normalize))
}

/// Both splits and their names; the training split decides how pixels are normalized, and the classes.
fn read_both(data: &DataConfig, model: &ModelConfig) -> Result<(Data, Data, [String; 2])> {
    // Said before anything long is read.
    if let Some(recipe) = &data.events {
        check_timesteps(recipe, model)?;
        let source = open_events(data, &data.parquet)?;
        for split in [Split::Train, Split::Test] {
            source.require(split).map_err(in_options)?;
        }
        source.notes().iter().for_each(|note| eprintln!("note: {note}"));
        let splits = [Split::Train, Split::Test].map(|split| source.chosen(split).unwrap_or_default());
        let train = read_events(&source, Split::Train, recipe)?;
        check_events(data, model, &train)?;
        let mut options = data.parquet.clone();
        options.n_classes = Some(train.n_classes());
        options.class_names = train.class_names().map(<[_]>::to_vec);
        // A smaller training set is a choice; the accuracy is that of the whole test set.
        options.max_per_class = None;
        let test = read_events(&open_events(data, &options)?, Split::Test, train.recipe())?;
        check_events(data, model, &test)?;
        return Ok((Data::Events(train), Data::Events(test), splits));
    }
    if data.event_augment.is_some() {
        bail!("data.event_augment: expected data.events beside it; images are changed by data.augment");
    }
    let source = open_source(data, &data.parquet)?;
    for split in [Split::Train, Split::Test] {
        source.require(split).map_err(in_options)?;
    }
    source.notes().iter().for_each(|note| eprintln!("note: {note}"));
    let splits = [Split::Train, Split::Test].map(|split| source.chosen(split).unwrap_or_default());
    let (train, Seen { shape: (channels, h, w), n_classes, class_names, normalize }) =
        read_images(data, model, &source, Split::Train, data.normalize.clone())?;
    let mut options = data.parquet.clone();
    (options.n_classes, options.class_names, options.channels) = (Some(n_classes), class_names, Some(channels));
    if options.resize.is_none() && options.cover.is_none() {
        options.size = Some((h, w));
    }
    // A smaller training set is a choice; the accuracy is that of the whole test set.
    options.max_per_class = None;
    let (test, _) = read_images(data, model, &open_source(data, &options)?, Split::Test, Some(normalize))?;
    Ok((train, test, splits))
}

/// Images in an evaluation batch: large enough to keep the cores busy, small enough for any memory.
const TEST_BATCH: usize = 100;

/// What the training images say of the test images.
struct Seen {
    shape: (usize, usize, usize),
    n_classes: usize,
    class_names: Option<Vec<String>>,
    normalize: Normalize,
}

/// The images of a split, in memory or on the disk; without a normalization, it is measured on them.
fn read_images(
    data: &DataConfig,
    model: &ModelConfig,
    source: &Source,
    split: Split,
    normalize: Option<Normalize>,
) -> Result<(Data, Seen)> {
    let seen = |shape: (usize, usize, usize), n_classes, class_names: Option<&[String]>, normalize: &Normalize| {
        check_fit(data, model, shape.0, n_classes)?;
        let class_names = class_names.map(<[_]>::to_vec);
        Ok::<_, anyhow::Error>(Seen { shape, n_classes, class_names, normalize: normalize.clone() })
    };
    if data.streaming {
        let normalize = normalize.with_context(|| {
            format!(
                "data.normalize: expected mean and standard deviation of {}, since it is streamed and measuring them would \
                 read all of it; those of ImageNet are {{ mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225] }}",
                data.path.display()
            )
        })?;
        let images = Arc::new(ImageStream::open(source, split).map_err(in_options)?);
        let seen = seen(images.shape(), images.n_classes(), images.class_names(), &normalize)?;
        return Ok((Data::Stream(images, normalize), seen));
    }
    let images = read(source, split)?;
    let normalize = normalize.unwrap_or_else(|| images.channel_stats());
    let seen = seen(images.shape(), images.n_classes(), images.class_names(), &normalize)?;
    Ok((Data::Images(images, normalize), seen))
}

/// The network and the data must agree on channels and classes; said here, where both have a name.
fn check_fit(data: &DataConfig, model: &ModelConfig, channels: usize, n_classes: usize) -> Result<()> {
    let path = data.path.display();
    anyhow::ensure!(
        channels == model.in_channels,
        "{path}: the images have {channels} channel(s), but model.in_channels is {}",
        model.in_channels
    );
    anyhow::ensure!(
        n_classes == model.n_classes,
        "{path}: the labels have {n_classes} classes, but model.n_classes is {}",
        model.n_classes
    );
    Ok(())
}

/// Frames are the timesteps, unless they are averaged.
fn check_timesteps(recipe: &EventRecipe, model: &ModelConfig) -> Result<()> {
    let expected = model.n_frames();
    anyhow::ensure!(
        recipe.input == EventInput::Mean || recipe.frames == expected,
        "data.events.frames is {}, but the network takes a frame at each of its {expected} timesteps: set \
         model.timesteps or data.events.frames, or input = \"mean\", which averages the frames into one static image",
        recipe.frames
    );
    Ok(())
}

/// The network and the recordings must agree on timesteps, polarities and classes.
fn check_events(data: &DataConfig, model: &ModelConfig, events: &EventDataset) -> Result<()> {
    let path = data.path.display();
    check_timesteps(events.recipe(), model)?;
    let dims = events.dims();
    let channels = dims[dims.len() - 3];
    anyhow::ensure!(
        channels == model.in_channels,
        "{path}: the recordings have {channels} polarities, but model.in_channels is {}",
        model.in_channels
    );
    anyhow::ensure!(
        events.n_classes() == model.n_classes,
        "{path}: the recordings are of {} classes, but model.n_classes is {}",
        events.n_classes(),
        model.n_classes
    );
    Ok(())
}

fn open_events(data: &DataConfig, options: &ReadOptions) -> Result<EventSource> {
    find_events(data, options, EventSource::open)
}

fn find_events(
    data: &DataConfig,
    options: &ReadOptions,
    open: fn(PathBuf, &ReadOptions) -> lmht_datasets::Result<EventSource>,
) -> Result<EventSource> {
    anyhow::ensure!(
        !data.streaming,
        "data.streaming (--streaming): expected images; the frames of recordings are held in memory"
    );
    let path = data.path.display();
    if data.path == Path::new("sample") {
        bail!(
            "data.path: expected a folder of recordings, found `sample`, which has images; docs/guides/events.md says which"
        );
    }
    if !data.path.exists() {
        bail!(
            "{path}: expected a folder of recordings of events here, and there is nothing; docs/guides/events.md says which \
             there are and where to get them. Give another one with --data FOLDER"
        );
    }
    open(data.path.clone(), options).map_err(in_options)
}

/// Where frames are kept; `runs` is what a clone does not commit.
const FRAMES: &str = "runs/.frames";

fn read_events(source: &EventSource, split: Split, recipe: &EventRecipe) -> Result<EventDataset> {
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("reading {msg} {wide_bar} {pos}/{len} {eta} left")?);
    bar.set_message(split.name());
    let events = EventDataset::read(source, split, recipe, Some(Path::new(FRAMES)), &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    events.map_err(in_options)
}

fn open_source(data: &DataConfig, options: &ReadOptions) -> Result<Source> {
    find(data, options, Source::open)
}

/// The splits of a data set, by one of the ways to open it.
fn find(
    data: &DataConfig,
    options: &ReadOptions,
    open: fn(PathBuf, &ReadOptions) -> lmht_datasets::Result<Source>,
) -> Result<Source> {
    let sample = sample_path();
    let path: &Path = if data.path == Path::new("sample") { &sample } else { &data.path };
    if data.path == Path::new("sample") && !path.exists() {
        bail!(
            "sample: the sample is a part of the repository (datasets/sample), and this is not a clone of it; change into \
             one, or give a data set with --data FOLDER"
        );
    }
    if let (Some(name), false) = (&data.hub, path.exists())
        && path != Path::new(name)
    {
        bail!(
            "{}: expected the data set {name} here, and there is nothing. Have it downloaded and verified with --data \
             {name}, or get its parquet files (train-*.parquet and those of the test or validation split) from \
             https://huggingface.co/datasets/{name} and give their folder with --data FOLDER",
            path.display()
        );
    }
    match hub::dataset(path, options)? {
        Some((folder, options)) => open(folder, &options),
        None => open(path.to_path_buf(), options),
    }
    .map_err(in_options)
}

fn read(source: &Source, split: Split) -> Result<ImageDataset> {
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("reading {msg} {wide_bar} {pos}/{len} {eta} left")?);
    bar.set_message(split.name());
    let dataset = ImageDataset::from_source(source, split, &|done, total| {
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
        error => anyhow!(
            error
                .to_string()
                .replace("ReadOptions::", "data.parquet.")
                .replace("(ImageStream)", "(--streaming)")
                .replace("LoaderConfig::batch_size", "train.batch_size")
                .replace("LoaderConfig::", "data.")
                .replace("EventRecipe::", "data.events.")
                .replace("EventAugment::", "data.event_augment.")
        ),
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

impl Opened {
    /// What `run.json` says of a run on this data.
    pub(crate) fn run_info(&self, data: &DataConfig) -> RunInfo {
        provenance::run_info(self.describe(data), self.splits[1].clone())
    }

    /// In words, for run records and model cards.
    fn describe(&self, data: &DataConfig) -> String {
        let commit = hub::commit(&data.path).map_or(String::new(), |commit| format!(" at commit {commit}"));
        let what = match &data.events {
            None => "images".to_owned(),
            Some(EventRecipe { frames, by, input, .. }) => {
                let by = format!("{by:?}").to_lowercase();
                let mean = if *input == EventInput::Mean { ", averaged into one static image" } else { "" };
                format!("recordings ({frames} frames by {by}{mean})")
            }
        };
        let [train, test] = &self.splits;
        let splits = match (train.as_str(), test.as_str()) {
            ("train", "test") => String::new(),
            _ => format!(" (splits {train} and {test})"),
        };
        format!(
            "{}{commit}: {} training {what}, accuracy on all {} test {}{splits}",
            name(&data.path),
            self.train.data().len(),
            self.test.data().len(),
            if data.events.is_some() { "recordings" } else { "images" },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The validation split where there is no test split: a record and a card have to say so.
    #[test]
    fn the_splits_that_were_read_are_recorded() {
        let folder = tempfile::tempdir().unwrap();
        for place in ["train/dark", "train/light", "validation/dark", "validation/light"] {
            let place = folder.path().join(place);
            std::fs::create_dir_all(&place).unwrap();
            let ramp = image::GrayImage::from_fn(8, 8, |x, y| [(9 * x + y) as u8].into());
            ramp.save(place.join("a.png")).unwrap();
        }
        let mut experiment = Experiment::load("fashion-resnet18-L2T2").unwrap();
        experiment.model.n_classes = 2;
        experiment.data = DataConfig { path: folder.path().to_path_buf(), ..DataConfig::default() };
        experiment.train.batch_size = 2;
        let opened = open(&experiment, &Device::Cpu).unwrap();
        let info = opened.run_info(&experiment.data);
        assert_eq!(info.test_split, "validation");
        let expected = "2 training images, accuracy on all 2 test images (splits train and validation)";
        assert!(info.data.ends_with(expected), "{}", info.data);
    }
}
