//! What can go wrong with a data set, told so that the reader can fix it: the file, the row, what was expected, what
//! was found, and what to do next.

use std::path::PathBuf;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

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

    /// A folder holds no parquet file of the asked split.
    #[error(
        "{}: expected parquet files of the {split} split ({tried}), here, in `data/` or in a sub-folder of that name; \
         found {found}. Give the folder of a data set in the Hugging Face layout, or one file",
        folder.display()
    )]
    NoFiles {
        /// The folder that was searched.
        folder: PathBuf,
        /// `train` or `test`.
        split: &'static str,
        /// The file names that would have been accepted.
        tried: &'static str,
        /// The parquet files that are there instead, or `no parquet file`.
        found: String,
    },

    /// The file names count more shards (`-00000-of-00004`) than the folder has.
    #[error(
        "{}: expected {expected} shards, as the names of the files say, but number {missing} is not there; download it \
         again (numbers start at 0)",
        folder.display()
    )]
    MissingShard {
        /// The folder that was searched.
        folder: PathBuf,
        /// How many shards the names promise.
        expected: usize,
        /// The first number that is missing.
        missing: usize,
    },

    /// A file is not parquet, is cut off, or is damaged.
    #[error("{}: expected a complete parquet file, but {reason}; download or write the file again", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A parquet file lacks the image or the label column, or the column has another type.
    #[error(
        "{}: expected {expected}; the columns are: {columns}. Name the right one in ParquetOptions::{option}",
        path.display()
    )]
    Column {
        /// The file.
        path: PathBuf,
        /// The column and type that were looked for.
        expected: String,
        /// Every column of the file with its type.
        columns: String,
        /// The field of [`ParquetOptions`](crate::ParquetOptions) that chooses another column.
        option: &'static str,
    },

    /// A row has no image or no label.
    #[error("{}, row {row}: expected a value in the column `{column}`, found null{hint}", path.display())]
    Null {
        /// The file.
        path: PathBuf,
        /// The row in the file, from 0.
        row: usize,
        /// The column.
        column: String,
        /// What to do about it, or nothing.
        hint: &'static str,
    },

    /// The bytes of an image are not a PNG or JPEG, or are cut off or damaged.
    #[error("{}, row {row}: expected a whole PNG or JPEG image, but {reason}; write the file again", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// The row in the file, from 0.
        row: usize,
        /// The decoder's words.
        reason: String,
    },

    /// An image has another size than the others.
    #[error(
        "{}, row {row}: expected an image of {}x{} pixels (height x width), found {}x{}; remove the row, or set \
         ParquetOptions::resize to bring every image to one size",
        path.display(), expected.0, expected.1, found.0, found.1
    )]
    ImageSize {
        /// The file.
        path: PathBuf,
        /// The row in the file, from 0.
        row: usize,
        /// (height, width) of the first image, or of [`ParquetOptions::size`](crate::ParquetOptions::size).
        expected: (usize, usize),
        /// (height, width) of this image.
        found: (usize, usize),
    },

    /// A label does not name a class.
    #[error(
        "{}, row {row}: expected a label in 0..{n_classes}, found {label}; correct the row, or ParquetOptions::n_classes \
         or ParquetOptions::label_column",
        path.display()
    )]
    LabelOutOfRange {
        /// The file.
        path: PathBuf,
        /// The row in the file, from 0.
        row: usize,
        /// The label as it is in the file.
        label: i64,
        /// The number of classes.
        n_classes: usize,
    },

    /// A setting or an argument makes no sense, alone or for this data set.
    #[error("{0}")]
    Config(String),

    /// The data set does not fit into memory.
    #[error(
        "expected to hold {bytes} bytes of pixels in memory, and could not get them; load fewer images with \
         ParquetOptions::max_per_class, or smaller ones with ParquetOptions::resize"
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

    /// Candle could not make a tensor, for example for want of memory on the device.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
