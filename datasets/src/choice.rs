//! [`DataSource`]: which of a data set's splits is learned from and which is measured on, of images as of recordings.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::part::{Part, WHOLE};
use crate::split::canonical;
use crate::{ReadOptions, Split};

/// A data set whose splits are found and of which nothing long has been read: a [`Source`](crate::Source) of images or an
/// [`EventSource`](crate::events::EventSource) of recordings, which say where they look.
///
/// Splits are chosen by the options; otherwise `train` is learned from, and `test` measured on, or `validation` where that
/// is not there or has no labels.
pub struct DataSource<L: Layout> {
    pub(crate) path: PathBuf,
    pub(crate) options: ReadOptions,
    pub(crate) layout: L,
    splits: BTreeMap<String, Vec<L::File>>,
    train: Option<Part>,
    test: Option<Part>,
    notes: Vec<String>,
}

/// How data of a kind lies in a folder.
pub trait Layout: Sized {
    /// What a split consists of.
    type File: AsRef<Path> + Debug;

    /// Finds the splits of a path.
    fn find(path: &Path, options: &ReadOptions) -> Result<DataSource<Self>>;

    /// Whether the files of a split say which classes they are of.
    fn has_labels(&self, _files: &[Self::File], _options: &ReadOptions) -> Result<bool> {
        Ok(true)
    }
}

impl<L: Layout> DataSource<L> {
    /// Splits of which none is chosen yet.
    pub(crate) fn new(path: &Path, options: &ReadOptions, splits: BTreeMap<String, Vec<L::File>>, layout: L) -> Self {
        let (path, options) = (path.to_path_buf(), options.clone());
        Self { path, options, layout, splits, train: None, test: None, notes: Vec::new() }
    }

    /// Finds the splits of `path`, a folder or a file, and checks that those to learn from and to measure on differ.
    ///
    /// # Errors
    /// [`Error::NoData`] or [`Error::NoRecordings`] if there is none; [`Error::ConfigurationNeeded`] if there are several;
    /// [`Error::TwoGenerations`] and [`Error::MissingShard`] if the files of a split are not there once each;
    /// [`Error::SameImages`]; [`Error::Card`] for a card that cannot be followed; [`Error::Config`] for options, those of
    /// images for recordings among them; [`Error::Io`]. A split that is missing is an error once it is asked for.
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
    /// As [`open`](Self::open), without [`Error::SameImages`].
    pub fn to_measure(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Self> {
        Ok(Self { train: None, ..Self::find(path.as_ref(), options)? })
    }

    fn find(path: &Path, options: &ReadOptions) -> Result<Self> {
        options.check()?;
        let mut source = L::find(path, options)?;
        source.train = source.choose(Split::Train)?;
        source.test = source.choose(Split::Test)?;
        Ok(source)
    }

    /// Where it was looked for.
    pub fn path(&self) -> &Path {
        &self.path
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
                    (true, true) if self.layout.has_labels(&self.splits["test"], &self.options)? => None,
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

    /// Whether two parts have files in common.
    fn shared(&self, train: &Part, test: &Part) -> bool {
        let real = |part: &Part| -> BTreeSet<PathBuf> {
            let real = |file: &L::File| fs::canonicalize(file).unwrap_or_else(|_| file.as_ref().to_path_buf());
            self.splits[&part.name].iter().map(real).collect()
        };
        let overlap = train.slice.0.max(test.slice.0) < train.slice.1.min(test.slice.1);
        overlap && (train.name == test.name || !real(train).is_disjoint(&real(test)))
    }

    /// The files of `split`, and which part of them is meant.
    pub(crate) fn files(&self, split: Split) -> Result<(&[L::File], &Part)> {
        let part = self.part(split).ok_or_else(|| self.needed(split))?;
        Ok((&self.splits[&part.name], part))
    }

    /// The files that the classes are counted in: those of the training split, so that a class without test images is not
    /// lost; where there is none, those of the test split.
    pub(crate) fn files_of_classes(&self) -> Result<&[L::File]> {
        Ok(self.files(if self.train.is_some() { Split::Train } else { Split::Test })?.0)
    }
}

impl<L: Layout> Debug for DataSource<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataSource").field("path", &self.path).field("splits", &self.splits).finish_non_exhaustive()
    }
}
