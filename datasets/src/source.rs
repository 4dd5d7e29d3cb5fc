//! What a path holds: its splits, and which of them is learned from and which is measured on. No image is read here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::card::Card;
use crate::configuration::by_card;
use crate::error::{Error, Result};
use crate::formats::{FORMATS, Format, Label, Splits, Table, entries, name, shard, split_of};
use crate::split::{canonical, is_usual};
use crate::{ReadOptions, Split};

/// A data set whose splits are found and of which nothing long has been read.
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
pub struct Source {
    path: PathBuf,
    options: ReadOptions,
    format: &'static dyn Format,
    splits: Splits,
    card: Card,
    configuration: Option<String>,
    train: Option<Part>,
    test: Option<Part>,
    notes: Vec<String>,
}

/// A split, or a part of it.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    /// Per cent of each class at which it begins and ends.
    pub(crate) slice: Slice,
}

/// From and to, in per cent of the images of a class.
pub(crate) type Slice = (usize, usize);
/// All of them.
pub(crate) const WHOLE: Slice = (0, 100);

impl Source {
    /// Finds the splits of `path`, a folder or a file, and checks that those to learn from and to measure on differ.
    ///
    /// # Errors
    /// [`Error::NoData`] if there is none; [`Error::ConfigurationNeeded`] if there are several;
    /// [`Error::TwoGenerations`] and [`Error::MissingShard`] if the files of a split are not there once each;
    /// [`Error::SameImages`]; [`Error::Card`] for a card that cannot be followed; [`Error::Config`] for options.
    /// A split that is missing is an error once it is asked for.
    pub fn open(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Self> {
        let source = Self::find(path.as_ref(), options)?;
        if let (Some(train), Some(test)) = (&source.train, &source.test)
            && source.shared(train, test)
        {
            let (train, test) = (train.words(), test.words());
            return Err(Error::SameImages { path: source.path, train, test });
        }
        Ok(source)
    }

    /// The same for a network that is trained already: any split may be measured on, and none is there to learn from.
    ///
    /// # Errors
    /// As [`Source::open`], without [`Error::SameImages`].
    pub fn to_measure(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Self> {
        Ok(Self { train: None, ..Self::find(path.as_ref(), options)? })
    }

    fn find(path: &Path, options: &ReadOptions) -> Result<Self> {
        options.check()?;
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
        let path = path.to_path_buf();
        let options = options.clone();
        let (train, test, notes) = (None, None, Vec::new());
        let mut source = Self { path, options, format, splits, card, configuration, train, test, notes };
        source.train = source.choose(Split::Train)?;
        source.test = source.choose(Split::Test)?;
        Ok(source)
    }

    /// The names of the splits, sorted.
    pub fn splits(&self) -> impl Iterator<Item = &str> {
        self.splits.keys().map(String::as_str)
    }

    /// What stands for `split`, if anything does: `validation`, or `all[:80%]`.
    pub fn chosen(&self, split: Split) -> Option<String> {
        self.part(split).map(Part::words)
    }

    /// Refuses a data set in which nothing stands for `split`: to be asked before the other one is read.
    ///
    /// # Errors
    /// [`Error::SplitNeeded`], with the splits that are there.
    pub fn require(&self, split: Split) -> Result<()> {
        self.part(split).map(|_| ()).ok_or_else(|| self.needed(split))
    }

    /// What a user should know about the choice, one sentence each: that the validation split stands for the test split.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn part(&self, split: Split) -> Option<&Part> {
        match split {
            Split::Train => self.train.as_ref(),
            Split::Test => self.test.as_ref(),
        }
    }

    fn needed(&self, split: Split) -> Error {
        Error::SplitNeeded {
            path: self.path.clone(),
            split,
            wanted: self.options.split(split).map(str::to_owned),
            found: self.splits().map(str::to_owned).collect(),
        }
    }

    /// The part that the options or the usual names give to `split`; none if it is not there.
    fn choose(&mut self, split: Split) -> Result<Option<Part>> {
        if let Some(words) = self.options.split(split) {
            let part = Part::parse(words, split)?;
            let name = [part.name.as_str(), canonical(&part.name)].into_iter().find(|n| self.splits.contains_key(*n));
            return Ok(name.map(|name| Part { name: name.to_owned(), ..part.clone() }));
        }
        let has = |name: &str| self.splits.contains_key(name);
        let whole = |name: &str| Part { name: name.to_owned(), slice: WHOLE };
        Ok(match split {
            Split::Train => has("train").then(|| whole("train")),
            Split::Test => {
                let reason = match (has("test"), has("validation")) {
                    (true, true) if self.has_labels("test")? => None,
                    (true, true) => Some("its test split has no labels"),
                    (true, false) => None,
                    (false, true) => Some("it has no test split"),
                    (false, false) => return Ok(None),
                };
                if let Some(reason) = reason {
                    let path = self.path.display();
                    self.notes.push(format!("{path}: {reason}, so accuracy is measured on its validation split"));
                }
                Some(whole(if reason.is_some() { "validation" } else { "test" }))
            }
        })
    }

    /// Whether a label of the split is none that stands for "without": ImageNet's test split has -1 throughout.
    fn has_labels(&self, split: &str) -> Result<bool> {
        for file in &self.splits[split] {
            let labels = self.format.open(file, &self.options).and_then(|table| table.labels());
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

    /// Whether two parts have images in common.
    fn shared(&self, train: &Part, test: &Part) -> bool {
        let real = |part: &Part| -> Vec<PathBuf> {
            self.splits[&part.name].iter().map(|file| fs::canonicalize(file).unwrap_or_else(|_| file.clone())).collect()
        };
        let overlap = train.slice.0.max(test.slice.0) < train.slice.1.min(test.slice.1);
        let tests = real(test);
        overlap && real(train).iter().any(|file| tests.contains(file))
    }

    /// The tables of `split`, and which part of them is meant.
    pub(crate) fn tables(&self, split: Split) -> Result<(Vec<Box<dyn Table>>, Slice)> {
        let part = self.part(split).ok_or_else(|| self.needed(split))?;
        let open = |file: &PathBuf| self.format.open(file, &self.options);
        let tables = self.splits[&part.name].iter().map(open).collect::<Result<Vec<_>>>()?;
        Ok((tables, part.slice))
    }

    /// The tables that the classes are counted in: those of the training split, so that a class without test images is
    /// not lost; where there is none, those of the test split.
    pub(crate) fn tables_of_classes(&self) -> Result<Vec<Box<dyn Table>>> {
        Ok(self.tables(if self.train.is_some() { Split::Train } else { Split::Test })?.0)
    }

    /// The names of a label column's classes that the card has.
    pub(crate) fn card_names(&self, column: &str) -> Option<Vec<String>> {
        self.card.class_names(column, self.configuration.as_deref())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn options(&self) -> &ReadOptions {
        &self.options
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("path", &self.path).field("splits", &self.splits).finish_non_exhaustive()
    }
}

impl Part {
    /// `train`, `train[:80%]`, `train[80%:]` or `train[10%:20%]`.
    pub(crate) fn parse(words: &str, split: Split) -> Result<Self> {
        let wrong = || {
            Error::Config(format!(
                "ReadOptions::{}_split: expected the name of a split or a part of one, such as `all[:80%]`, found \
                 `{words}`",
                split.name()
            ))
        };
        let Some((name, range)) = words.split_once('[') else {
            return Ok(Self { name: words.to_owned(), slice: WHOLE });
        };
        let (from, to) = range.strip_suffix(']').and_then(|range| range.split_once(':')).ok_or_else(wrong)?;
        let percent = |text: &str, otherwise| match text {
            "" => Ok(otherwise),
            text => text.strip_suffix('%').and_then(|number| number.parse().ok()).ok_or_else(wrong),
        };
        let slice = (percent(from, WHOLE.0)?, percent(to, WHOLE.1)?);
        if slice.0 >= slice.1 || slice.1 > WHOLE.1 {
            return Err(wrong());
        }
        Ok(Self { name: name.to_owned(), slice })
    }

    pub(crate) fn words(&self) -> String {
        let (name, (from, to)) = (&self.name, self.slice);
        match (from, to) {
            WHOLE => name.clone(),
            (0, to) => format!("{name}[:{to}%]"),
            (from, 100) => format!("{name}[{from}%:]"),
            (from, to) => format!("{name}[{from}%:{to}%]"),
        }
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
