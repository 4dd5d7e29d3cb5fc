//! The forms in which a data set may lie on a disk. A form is one file here and one line in [`FORMATS`].

mod cifar;
mod csv;
mod folder;
mod idx;
mod parquet;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use ::parquet::data_type::ByteArray as Encoded;
pub(crate) use folder::files;
pub use folder::image_files;
#[cfg(feature = "hub")]
pub(crate) use folder::is_image;

use crate::ReadOptions;
use crate::error::{Error, Place, Result};
use crate::split::canonical;

/// Every form, in the order in which a folder is searched for them.
pub(crate) const FORMATS: [&dyn Format; 5] =
    [&parquet::Parquet, &csv::Csv, &cifar::Cifar, &idx::Idx, &folder::ImageFolder];

/// The splits of a folder by their names, each with its files in order.
pub(crate) type Splits = BTreeMap<String, Vec<PathBuf>>;

/// Bytes of encoded images that are held together while they are decoded.
const MAX_HELD: u64 = 1 << 26;

/// A form of data.
pub(crate) trait Format: Sync {
    /// Whether a single file is of this form, by its name.
    fn takes(&self, file: &Path) -> bool;

    /// The splits that lie in `folder` itself; none if it holds no data of this form.
    fn splits(&self, folder: &Path, options: &ReadOptions) -> Result<Splits>;

    /// Opens one of the files.
    fn open(&self, file: &Path, options: &ReadOptions) -> Result<Box<dyn Table>>;
}

/// Encoded images with their labels.
pub(crate) trait Table: Send + Sync {
    /// Rows that it promises.
    fn n_rows(&self) -> usize;

    /// The bytes that it takes on the disk.
    fn n_bytes(&self) -> u64;

    /// The columns of images and of labels, where it has any.
    fn columns(&self) -> Option<(&str, &str)>;

    /// The names of the classes, in the order of their labels, where it says so.
    fn class_names(&self) -> Option<&[String]>;

    /// The labels alone, which is quick.
    fn labels(&self) -> Result<Vec<Label>>;

    /// The number of rows of each part that can be read by itself.
    fn groups(&self) -> Vec<usize> {
        vec![self.n_rows()]
    }

    /// Hands every row of a part to `visit`, in order and at most `chunk` at a time.
    fn read_group(&self, group: usize, chunk: usize, visit: &mut dyn FnMut(Rows) -> Result<()>) -> Result<()>;

    /// Likewise every row of the table.
    fn for_each_chunk(&self, chunk: usize, visit: &mut dyn FnMut(Rows) -> Result<()>) -> Result<()> {
        (0..self.groups().len()).try_for_each(|group| self.read_group(group, chunk, visit))
    }

    /// Where the image of a row is.
    fn place(&self, row: usize) -> Place;
}

/// Some rows of a table.
pub(crate) struct Rows {
    /// The number of the first one, from 0.
    pub(crate) first: usize,
    pub(crate) images: Vec<Encoded>,
    pub(crate) labels: Vec<Label>,
}

/// A label as it is in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    Number(i64),
    Text(String),
}

/// What a folder holds, sorted by name, without what is hidden; nothing if there is no such folder.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let error = |source| Error::Io { path: folder.to_path_buf(), doing: "list the folder", source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(error)? {
        let path = entry.map_err(error)?.path();
        let name = name(&path);
        // `__MACOSX` is what archives of that system bring along.
        if !name.starts_with('.') && name != "__MACOSX" {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The last part of a path, for comparisons and messages.
pub(crate) fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether a file's name ends in `ending`, in any case.
pub(crate) fn ends_in(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(ending))
}

/// The split that a file belongs to by its name: `train` for `train.parquet`, `train-00003-of-00008.parquet` and
/// `train-clean.parquet`, `extra` for `extra-00000-of-00001.parquet`; `all` for a mere number.
pub(crate) fn split_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let before = match shard(file) {
        Some(shard) => shard.before,
        None => {
            let first = stem.split('-').next().unwrap_or_default();
            if crate::split::is_usual(first) { first.to_owned() } else { stem.into_owned() }
        }
    };
    if before.chars().all(|c| c.is_ascii_digit()) { "all".to_owned() } else { canonical(&before).to_owned() }
}

/// What the name of a shard says.
pub(crate) struct Shard {
    /// `train` of `train-00003-of-00008.parquet`.
    pub(crate) before: String,
    /// 3.
    pub(crate) number: usize,
    /// 8.
    pub(crate) count: usize,
}

/// The shard that a file is by its name, also if a hash follows.
pub(crate) fn shard(file: &Path) -> Option<Shard> {
    let stem = file.file_stem()?.to_str()?;
    let (before, after) = stem.split_once("-of-")?;
    let (before, number) = before.rsplit_once('-').unwrap_or(("", before));
    let count = after.split('-').next()?.parse().ok()?;
    Some(Shard { before: before.to_owned(), number: number.parse().ok()?, count })
}
