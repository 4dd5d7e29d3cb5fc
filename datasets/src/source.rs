//! Where the images of a data set are: the splits of a folder. No image is read here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::card::Card;
use crate::choice::{DataSource, Layout};
use crate::configuration::by_card;
use crate::error::{Error, Result};
use crate::formats::{FORMATS, Format, Label, Splits, Table, entries, name, shard, split_of};
use crate::part::Slice;
use crate::split::is_usual;
use crate::{ReadOptions, Split};

/// A data set of images whose splits are found and of which nothing long has been read.
///
/// It is one of
/// - parquet files as the Hub has them: `train-00000-of-00001.parquet`, `train.parquet` or what lies in `train/`;
/// - a CSV (`file_name,label`) beside its images: `train.csv` or `train/metadata.csv`;
/// - the binary batches of CIFAR-10 (`data_batch_1.bin`) and CIFAR-100 (`train.bin`);
/// - IDX files as of MNIST and Fashion-MNIST, `train-images-idx3-ubyte` with its labels, plain or gzip;
/// - a folder of images for each class: `train/cat/1.png`, or `cat/1.png` without splits.
///
/// in the folder itself, in `data/`, or in the only sub-folder that holds such; or where `configs` in the folder's
/// `README.md` says; or a single table. Names of splits may be spelled `val`, `valid`, `dev` (validation), `training` or
/// `testing`. What has no name of a split is called `all`.
///
/// ```
/// use lmht_datasets::{ReadOptions, Source, sample_path};
///
/// let source = Source::open(sample_path(), &ReadOptions::default())?;
/// assert_eq!(source.splits().collect::<Vec<_>>(), ["test", "train"]);
/// assert!(source.notes().is_empty());
/// # Ok::<(), lmht_datasets::Error>(())
/// ```
pub type Source = DataSource<Images>;

/// Images in tables or folders.
pub struct Images {
    format: &'static dyn Format,
    card: Card,
    configuration: Option<String>,
}

impl Layout for Images {
    type File = PathBuf;

    fn find(path: &Path, options: &ReadOptions) -> Result<Source> {
        #[cfg(feature = "hub")]
        if let Some(repo) = lmht_hub::Repo::at(lmht_hub::RepoKind::Dataset, path) {
            let hub = lmht_hub::Hub::from_env().map_err(|source| Error::Hub { given: repo.to_string(), source })?;
            let (folder, options) = crate::hub::fetch(&hub, &repo, options, &|_| ())?;
            return Self::find(&folder, &options);
        }
        let metadata = fs::metadata(path).map_err(|source| Error::Io {
            path: path.to_path_buf(),
            doing: "find the file or folder of the data set",
            source,
        })?;
        let found = if metadata.is_file() { single(path)? } else { search(path, options)? };
        let Found { format, splits, card, configuration, by_card } = found;
        // One shard that is named itself is asked for.
        for (split, files) in splits.iter().filter(|_| metadata.is_dir()) {
            check_shards(path, split, files, by_card)?;
        }
        Ok(DataSource::new(path, options, splits, Self { format, card, configuration }))
    }

    /// Whether a label of the split is none that stands for "without": ImageNet's test split has -1 throughout.
    fn has_labels(&self, files: &[PathBuf], options: &ReadOptions) -> Result<bool> {
        for file in files {
            let labels = self.format.open(file, options).and_then(|table| table.labels());
            match labels {
                Ok(labels) if labels.iter().all(|label| *label == Label::Number(-1)) => (),
                Err(Error::Column { option: "label_column", .. }) => (),
                Err(Error::Null { at, .. }) if at.row == Some(0) => (),
                Ok(_) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

impl Source {
    /// The tables of `split`, and which part of them is meant.
    pub(crate) fn tables(&self, split: Split) -> Result<(Vec<Box<dyn Table>>, Slice)> {
        let (files, part) = self.files(split)?;
        Ok((self.opened(files)?, part.slice))
    }

    /// The tables that the classes are counted in.
    pub(crate) fn tables_of_classes(&self) -> Result<Vec<Box<dyn Table>>> {
        self.opened(self.files_of_classes()?)
    }

    fn opened(&self, files: &[PathBuf]) -> Result<Vec<Box<dyn Table>>> {
        files.iter().map(|file| self.layout.format.open(file, &self.options)).collect()
    }

    /// The names of a label column's classes that the card has.
    pub(crate) fn card_names(&self, column: &str) -> Option<Vec<String>> {
        self.layout.card.class_names(column, self.layout.configuration.as_deref())
    }
}

/// What a search ends with.
struct Found {
    format: &'static dyn Format,
    splits: Splits,
    card: Card,
    configuration: Option<String>,
    /// Whether the card names the files, from several folders if it likes.
    by_card: bool,
}

/// A table on its own: its name says which split it is.
fn single(file: &Path) -> Result<Found> {
    let format = FORMATS.into_iter().find(|format| format.takes(file)).ok_or_else(|| Error::NoData {
        path: file.to_path_buf(),
        found: "a file that is neither `.parquet`, `.csv`, a batch of CIFAR nor IDX by its name".to_owned(),
    })?;
    let splits = BTreeMap::from([(split_of(file), vec![file.to_path_buf()])]);
    let card = Card::read(file.parent().unwrap_or(Path::new(""))).unwrap_or_default();
    Ok(Found { format, splits, card, configuration: None, by_card: false })
}

fn search(folder: &Path, options: &ReadOptions) -> Result<Found> {
    let card = Card::read(folder)?;
    let files = |patterns: &[String]| card.files(folder, patterns);
    if let Some((format, splits, name)) = by_card(folder, &card, options, &files)? {
        return Ok(Found { format, splits, card, configuration: Some(name), by_card: true });
    }
    for format in FORMATS {
        // Each with its name, if it is one folder down.
        let mut places = Vec::new();
        if let Some(name) = &options.configuration {
            places.push((None, format.splits(&folder.join(name), options)?));
        } else {
            places.push((None, format.splits(folder, options)?));
            places.push((None, format.splits(&folder.join("data"), options)?));
            for child in entries(folder)?.into_iter().filter(|entry| entry.is_dir() && name(entry) != "data") {
                places.push((Some(name(&child)), format.splits(&child, options)?));
            }
        }
        places.retain(|(_, splits)| !splits.is_empty());
        // A stray table does not hide where the splits are.
        if places.iter().any(|(_, splits)| has_usual(splits)) {
            places.retain(|(_, splits)| has_usual(splits));
        }
        if let Some((Some(_), _)) = places.first().filter(|_| places.len() > 1) {
            let found = places.into_iter().filter_map(|(name, _)| name).collect();
            return Err(Error::ConfigurationNeeded { path: folder.to_path_buf(), wanted: None, found });
        }
        if !places.is_empty() {
            let (name, splits) = places.swap_remove(0);
            let configuration = options.configuration.clone().or(name);
            return Ok(Found { format, splits, card, configuration, by_card: false });
        }
    }
    let names: Vec<String> = entries(folder)?.iter().take(10).map(|entry| name(entry)).collect();
    let found = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    Err(Error::NoData { path: folder.to_path_buf(), found })
}

fn has_usual(splits: &Splits) -> bool {
    splits.keys().any(|name| is_usual(name))
}

/// A data set that was downloaded in part, or twice, would train without a word, so the counts in the names are believed.
fn check_shards(folder: &Path, split: &str, files: &[PathBuf], by_card: bool) -> Result<()> {
    // What must be the same for all files (of one folder, if a card gathers them): into how many shards the split was
    // cut, if it was.
    let mut counts: BTreeMap<Option<&Path>, (Option<usize>, &PathBuf)> = BTreeMap::new();
    let mut numbers: BTreeMap<(Option<&Path>, usize), &PathBuf> = BTreeMap::new();
    let relative = |file: &Path| file.strip_prefix(folder).unwrap_or(file).display().to_string();
    let twice = |first: &Path, second: &Path| Error::TwoGenerations {
        folder: folder.to_path_buf(),
        split: split.to_owned(),
        first: relative(first),
        second: relative(second),
    };
    for file in files {
        let (parent, shard) = (file.parent().filter(|_| by_card), shard(file));
        let count = shard.as_ref().map(|shard| shard.count);
        let (known, first) = counts.entry(parent).or_insert((count, file));
        let elsewhere = !by_card && first.parent() != file.parent();
        let folders = *first != file && file.is_dir();
        if *known != count || elsewhere || folders {
            return Err(twice(first, file));
        }
        if let Some(first) = shard.and_then(|shard| numbers.insert((parent, shard.number), file)) {
            return Err(twice(first, file));
        }
    }
    for (parent, (count, _)) in counts {
        let expected = count.unwrap_or(0);
        if let Some(missing) = (0..expected).find(|i| !numbers.contains_key(&(parent, *i))) {
            let folder = parent.unwrap_or(folder).to_path_buf();
            return Err(Error::MissingShard { folder, split: split.to_owned(), expected, missing });
        }
    }
    Ok(())
}
