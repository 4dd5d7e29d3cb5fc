//! What can go wrong with a data set, told so that the reader can fix it: the file, the row, what was expected, what
//! was found, and what to do next.

use std::fmt;
use std::path::PathBuf;

use crate::Split;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Where in a data set something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file: a table, or an image itself.
    pub path: PathBuf,
    /// The row in a table, from 0.
    pub row: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        self.row.map_or(Ok(()), |row| write!(f, ", row {row}"))
    }
}

/// Everything that this crate reports instead of panicking.
///
/// Rows are counted from 0 within their file, in the order of the file. Sizes are height x width, in pixels.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused: a missing path, a missing permission, a failing disk.
    #[error("{}: cannot {doing}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted, as a verb: `open the file`.
        doing: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },

    /// A path holds no data in any form that is read here.
    #[error(
        "{}: expected a data set: parquet files (`train-00000-of-00001.parquet`), a CSV (`file_name,label`), IDX files \
         (`train-images-idx3-ubyte.gz`), or folders of images (`train/cat/1.png` or `cat/1.png`), here, in `data/` or one folder down; found {found}",
        path.display()
    )]
    NoData {
        /// The file or folder.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },

    /// A split, or the part of it that was asked for, has no image.
    #[error("{}: expected images, but the split, or the part of it that was asked for, has no rows", path.display())]
    Empty {
        /// The data set.
        path: PathBuf,
    },

    /// The folder of a class has no image in it: without it, every class after it would have another number.
    #[error("{}: expected images (PNG, JPEG, WebP, BMP, GIF or TIFF) of the class, found none; remove the folder",
            folder.display())]
    NoImages {
        /// The folder.
        folder: PathBuf,
    },

    /// It does not say which part of the data set to learn from, or to measure on.
    #[error(
        "{}: expected a split to {} ({}), but the data set has {}; name one in ReadOptions::{}_split, or a part of one, \
         such as `{}`",
        path.display(), split.purpose(),
        match wanted { Some(name) => format!("`{name}`"), None => split.usual().to_owned() },
        list(found), split.name(), split.example(found)
    )]
    SplitNeeded {
        /// The data set.
        path: PathBuf,
        /// What it was needed for.
        split: Split,
        /// The name that was asked for, if one was.
        wanted: Option<String>,
        /// The names of the splits that are there.
        found: Vec<String>,
    },

    /// The images to learn from would be among those to measure on.
    #[error(
        "{}: expected different images to learn from and to measure on, but `{train}` and `{test}` share some; choose \
         others with ReadOptions::train_split and ReadOptions::test_split, such as `{}` and `{}`",
        path.display(), Split::Train.example(&[bare(train)]), Split::Test.example(&[bare(train)])
    )]
    SameImages {
        /// The data set.
        path: PathBuf,
        /// The training split, as it was asked for.
        train: String,
        /// The test split, as it was asked for.
        test: String,
    },

    /// A data set has several configurations, and it is not said which one is meant.
    #[error(
        "{}: expected {}, found {}; name one in ReadOptions::configuration",
        path.display(),
        match wanted { Some(name) => format!("a configuration `{name}`"), None => "one configuration".to_owned() },
        list(found)
    )]
    ConfigurationNeeded {
        /// The data set.
        path: PathBuf,
        /// The name that was asked for, if one was.
        wanted: Option<String>,
        /// The names of the configurations that are there.
        found: Vec<String>,
    },

    /// The data card asks for something that is not read here.
    #[error("{}: expected a data card whose `configs` name files of this folder, but {reason}; correct it or remove the \
             file", path.display())]
    Card {
        /// `README.md`.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// The file names count more shards (`-00000-of-00004`) than the folder has.
    #[error(
        "{}: expected {expected} shards of `{split}`, as the names of the files say, but number {missing} is not there; \
         download it again (numbers start at 0)",
        folder.display()
    )]
    MissingShard {
        /// The folder that was searched.
        folder: PathBuf,
        /// The name of the split.
        split: String,
        /// How many shards the names promise.
        expected: usize,
        /// The first number that is missing.
        missing: usize,
    },

    /// Files of one split repeat each other: the same shard twice, or the shards of two ways to cut the split.
    #[error(
        "{}: expected the files of `{split}` once, but `{first}` and `{second}` are both there, which would count images \
         twice; remove the older generation",
        folder.display()
    )]
    TwoGenerations {
        /// The folder that was searched.
        folder: PathBuf,
        /// The name of the split.
        split: String,
        /// A file of the one.
        first: String,
        /// A file of the other.
        second: String,
    },

    /// A file is not parquet, is cut off, or is damaged.
    #[error("{}: expected a complete parquet file, but {reason}; download or write the file again", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A file of bare pixels, a batch of CIFAR or IDX, is damaged.
    #[error("{}: expected {expected}, but {reason}; download it again", path.display())]
    Raw {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
        /// What is wrong with it.
        reason: String,
    },

    /// A CSV file is damaged.
    #[error("{path}: expected a table of comma-separated values, but {reason}; correct the file", path = path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A parquet file is compressed in a way that is left out here.
    #[error(
        "{}: expected pages that are plain or compressed with snappy, gzip, brotli, lz4 or zstd, found {codec}; write \
         the file again with one of these",
        path.display()
    )]
    Codec {
        /// The file.
        path: PathBuf,
        /// The codec's name in the format.
        codec: String,
    },

    /// A table lacks the image or the label column, or the column has another type.
    #[error(
        "{}: expected {expected}; the columns are: {columns}. Name the right one in ReadOptions::{option}",
        path.display()
    )]
    Column {
        /// The file.
        path: PathBuf,
        /// The column and type that were looked for.
        expected: String,
        /// Every column of the file with its type.
        columns: String,
        /// The field of [`ReadOptions`](crate::ReadOptions) that chooses another column.
        option: &'static str,
    },

    /// A row has no image or no label.
    #[error("{at}: expected a value in the column `{column}`, found null{hint}")]
    Null {
        /// Where.
        at: Place,
        /// The column.
        column: String,
        /// What to do about it, or nothing.
        hint: &'static str,
    },

    /// The bytes of an image are cut off, damaged, or no image.
    #[error("{at}: expected a whole image (PNG, JPEG, WebP, BMP, GIF or TIFF), but {reason}; write the file again")]
    Decode {
        /// Where.
        at: Place,
        /// The decoder's words.
        reason: String,
    },

    /// An image has a format that is not read here.
    #[error("{at}: expected a PNG, JPEG, WebP, BMP, GIF or TIFF image, found {format}; convert it to one of these")]
    ImageFormat {
        /// Where.
        at: Place,
        /// The format's name.
        format: String,
    },

    /// An image, or all up to it, would decode to more bytes than allowed.
    #[error(
        "{at}: expected at most {limit} bytes of pixels {scope}, but the headers promise {bytes}; remove the row, or allow \
         more in ReadOptions::{option}{}",
        if *scope == "in all" { LEAVE } else { "" }
    )]
    TooLarge {
        /// Where the limit is passed.
        at: Place,
        /// The bytes that the headers promise; `u64::MAX` if that is no number.
        bytes: u64,
        /// The bytes that are allowed.
        limit: u64,
        /// `in an image` or `in all`.
        scope: &'static str,
        /// The field of [`ReadOptions`](crate::ReadOptions) that sets the limit.
        option: &'static str,
    },

    /// An image has another size than the others.
    #[error(
        "{at}: expected an image of {}x{} pixels (height x width), found {}x{}; remove the row, or set \
         ReadOptions::resize or cover to bring every image to one size",
        expected.0, expected.1, found.0, found.1
    )]
    ImageSize {
        /// Where.
        at: Place,
        /// (height, width) of the first image, or of [`ReadOptions::size`](crate::ReadOptions::size).
        expected: (usize, usize),
        /// (height, width) of this image.
        found: (usize, usize),
    },

    /// A label does not name a class.
    #[error(
        "{at}: expected a label in 0..{n_classes}, found {label}{}; correct the row, or ReadOptions::n_classes or \
         ReadOptions::label_column",
        if *label == -1 { ", which marks an image without a label (another split may have them)" } else { "" }
    )]
    LabelOutOfRange {
        /// Where.
        at: Place,
        /// The label as it is in the file.
        label: i64,
        /// The number of classes.
        n_classes: usize,
    },

    /// A label is a text that is no class's name.
    #[error(
        "{at}: expected the name of a class, found `{label}`; the classes are {}. Correct the row, or \
         ReadOptions::class_names",
        list(names)
    )]
    UnknownLabel {
        /// Where.
        at: Place,
        /// The label as it is in the file.
        label: String,
        /// The names of the classes.
        names: Vec<String>,
    },

    /// A trained network without its preprocessing.
    #[error(
        "{}: expected preprocessor_config.json here, in `model/` of a run or in the run of a checkpoint, and found none (an \
         older version wrote the model, or it was imported); it has size and normalization of the images and the names \
         of the classes: copy it from the run of the weights, or write it with Preprocessor::to_json (docs/data.md)",
        path.display()
    )]
    NoPreprocessor {
        /// The folder.
        path: PathBuf,
    },

    /// A file of the preprocessing says something that is not done here.
    #[error("{path}: {key}: expected {expected}, found {found}", path = path.display())]
    Preprocessor {
        /// `preprocessor_config.json`.
        path: PathBuf,
        /// The entry.
        key: String,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },

    /// A recording of events is damaged, or is not what was expected.
    #[error("{}: expected {format}, but {reason}; download or convert the file again", path.display())]
    Events {
        /// The file.
        path: PathBuf,
        /// What it should be.
        format: &'static str,
        /// What is wrong with it.
        reason: String,
    },

    /// A path holds no recordings of events in any form that is read here.
    #[error(
        "{}: expected recordings of events: folders of them for each class (`Train/3/60004.bin`, \
         `airplane/cifar10_airplane_0.aedat`, `train/3/1.npz`), DVS128 Gesture with `trials_to_train.txt`, or SHD's \
         `shd_train.h5`, here or one folder down; found {found}",
        path.display()
    )]
    NoRecordings {
        /// The folder.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },

    /// A setting or an argument makes no sense, alone or for this data set.
    #[error("{0}")]
    Config(String),

    /// The data set does not fit into memory.
    #[error(
        "expected to hold {bytes} bytes of pixels in memory, and could not get them; load fewer images with \
         ReadOptions::max_per_class, or smaller ones with ReadOptions::resize{LEAVE}"
    )]
    Memory {
        /// The size of the buffer that was asked for.
        bytes: usize,
    },

    /// The thread that prepares batches ended before its work was done.
    #[error("the thread that prepares batches ended before batch {step}: {reason}")]
    Prefetch {
        /// The batch that was waited for, counted from the start of the epoch.
        step: usize,
        /// Why, as far as it is known.
        reason: String,
    },

    /// The Hub could not give a data set or the preprocessing of a model.
    #[cfg(feature = "hub")]
    #[error("{given}: no such file or folder here; as a name of the Hub: {source}")]
    Hub {
        /// The name.
        given: String,
        /// What went wrong.
        source: lmht_hub::Error,
    },

    /// Candle could not make a tensor, for example for want of memory on the device.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// What to do with a data set that does not fit in memory.
const LEAVE: &str = ", or leave the images on the disk and read them in every epoch (ImageStream)";

/// Names for a message, the first ones of many.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut words: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    if names.len() > SHOWN {
        words.push(format!("{} more", names.len() - SHOWN));
    }
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// The name of a split without the part that is taken of it.
fn bare(split: &str) -> String {
    split.split('[').next().unwrap_or_default().to_owned()
}
