//! Where the recordings of a data set are, and which of them are learned from and measured on. No recording is read here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::formats::is_recording;
use crate::ReadOptions;
use crate::choice::{DataSource, Layout};
use crate::error::{Error, Result};
use crate::formats::{ends_in, entries, files, name};
use crate::split::{canonical, is_usual};

/// A data set of recordings whose splits are found.
///
/// It is one of
/// - folders of recordings, one for each class: `Train/3/60004.bin` (N-MNIST), `airplane/cifar10_airplane_0.aedat` without
///   splits (CIFAR10-DVS, N-Caltech101, ST-MNIST), `train/3/1.npz` (what SpikingJelly has made of any of them);
/// - DVS128 Gesture: `trials_to_train.txt` and `trials_to_test.txt`, which name `.aedat` files with their labels beside them;
/// - SHD: `shd_train.h5` and `shd_test.h5`.
///
/// in the folder itself or in the only sub-folder that holds such. Recordings without splits are called `all`; parts are
/// named as those of images, `all[:90%]` is the first nine tenths of every class in the order of the files' names.
pub type EventSource = DataSource<Recordings>;

/// Recordings in folders.
#[derive(Debug)]
pub struct Recordings {
    /// The names of classes that a file beside the recordings has.
    names: Option<Vec<String>>,
}

/// A file and the class that its folder names.
#[derive(Clone, Debug)]
pub struct Entry {
    pub(super) file: PathBuf,
    pub(super) class: Option<String>,
}

impl AsRef<Path> for Entry {
    fn as_ref(&self) -> &Path {
        &self.file
    }
}

type Splits = BTreeMap<String, Vec<Entry>>;

/// The ways in which recordings lie in a folder: a further one is a line here.
const LAYOUTS: [fn(&Path) -> Result<Splits>; 3] = [gesture, tables, class_folders];

impl Layout for Recordings {
    type File = Entry;

    /// Of the options, the splits, classes and `max_per_class` are for recordings, too.
    fn find(path: &Path, options: &ReadOptions) -> Result<EventSource> {
        let of_images = ReadOptions {
            train_split: None,
            test_split: None,
            n_classes: None,
            class_names: None,
            max_per_class: None,
            ..options.clone()
        };
        if of_images != ReadOptions::default() {
            return Err(Error::Config(
                "ReadOptions: expected splits, classes and max_per_class for recordings of events, found options of \
                 images; size and sensor belong to the recipe"
                    .to_owned(),
            ));
        }
        let io = |source| Error::Io { path: path.to_path_buf(), doing: "find the folder of the recordings", source };
        fs::metadata(path).map_err(io)?;
        let (splits, folder) = search(path)?;
        Ok(DataSource::new(path, options, splits, Self { names: gesture_names(&folder)? }))
    }
}

impl EventSource {
    /// The names of the classes: of the options, else of the folders, else of the file beside the recordings.
    pub(super) fn class_names(&self) -> Result<Option<Vec<String>>> {
        if self.options.class_names.is_some() {
            return Ok(self.options.class_names.clone());
        }
        let of_folders: BTreeSet<&String> =
            self.files_of_classes()?.iter().filter_map(|entry| entry.class.as_ref()).collect();
        let names = of_folders.into_iter().cloned().collect();
        Ok(Some(names).filter(|names: &Vec<_>| !names.is_empty()).or_else(|| self.layout.names.clone()))
    }
}

/// The recordings in a folder and below it, in the order of their names; what is hidden, and what is no recording by its
/// name, is passed over.
///
/// # Errors
/// [`Error::Io`] if a folder cannot be listed.
pub fn recording_files(folder: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    files(folder.as_ref(), &is_recording)
}

/// The splits of a folder or of the only one in it that has any, and where they are.
fn search(path: &Path) -> Result<(Splits, PathBuf)> {
    let children: Vec<PathBuf> = entries(path)?.into_iter().filter(|entry| entry.is_dir()).collect();
    let mut below = Vec::new();
    // One after the other: a folder of classes looks like nearly anything.
    for layout in LAYOUTS {
        let splits = layout(path)?;
        if !splits.is_empty() {
            return Ok((splits, path.to_path_buf()));
        }
        for child in &children {
            below.push((layout(child)?, child.clone()));
        }
        below.retain(|(splits, _)| !splits.is_empty());
        if !below.is_empty() {
            break;
        }
    }
    match <[_; 1]>::try_from(below) {
        Ok([found]) => Ok(found),
        Err(below) => {
            let names =
                |paths: Vec<PathBuf>| paths.iter().take(10).map(|path| name(path)).collect::<Vec<_>>().join(", ");
            let found = match below.len() {
                0 => names(entries(path)?),
                n => {
                    format!("{n} folders with recordings: {}", names(below.into_iter().map(|(_, path)| path).collect()))
                }
            };
            let found = if found.is_empty() { "nothing".to_owned() } else { found };
            Err(Error::NoRecordings { path: path.to_path_buf(), found })
        }
    }
}

/// DVS128 Gesture.
fn gesture(folder: &Path) -> Result<Splits> {
    let mut splits = Splits::new();
    for split in ["train", "test"] {
        let list = folder.join(format!("trials_to_{split}.txt"));
        if !list.is_file() {
            continue;
        }
        let io = |source| Error::Io { path: list.clone(), doing: "read the list of recordings", source };
        let text = fs::read_to_string(&list).map_err(io)?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let is_name = !line.contains(['/', '\\', ':']) && ends_in(Path::new(line), "aedat");
            let file = folder.join(line);
            if !is_name || !file.is_file() || super::formats::labels_beside(&file).is_none() {
                let found = format!("`{line}` in {}, which is no recording with labels beside it", name(&list));
                return Err(Error::NoRecordings { path: folder.to_path_buf(), found });
            }
            splits.entry(split.to_owned()).or_default().push(Entry { file, class: None });
        }
    }
    Ok(splits)
}

/// `gesture_mapping.csv`: `hand_clapping,1` and so on, from 1; it has none for the last class of the data set.
fn gesture_names(folder: &Path) -> Result<Option<Vec<String>>> {
    let path = folder.join("gesture_mapping.csv");
    if !path.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(|source| Error::Io { path, doing: "read the names", source })?;
    let pairs = text.lines().filter_map(|line| line.rsplit_once(','));
    let mut pairs: Vec<(u32, String)> =
        pairs.filter_map(|(name, number)| Some((number.trim().parse().ok()?, name.trim().to_owned()))).collect();
    pairs.sort();
    let is_whole = pairs.iter().enumerate().all(|(i, (number, _))| *number as usize == i + 1);
    Ok((is_whole && !pairs.is_empty()).then(|| pairs.into_iter().map(|(_, name)| name).collect()))
}

/// Files that hold a split each: SHD.
fn tables(folder: &Path) -> Result<Splits> {
    let mut splits = Splits::new();
    for file in entries(folder)?.into_iter().filter(|file| ends_in(file, "h5") || ends_in(file, "hdf5")) {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let split = canonical(stem.rsplit('_').next().unwrap_or_default()).to_owned();
        if is_usual(&split) {
            splits.entry(split).or_default().push(Entry { file, class: None });
        }
    }
    Ok(splits)
}

/// The folders that are named as splits are, if they hold folders of recordings; else the folder itself, as `all`.
fn class_folders(folder: &Path) -> Result<Splits> {
    let classes = |folder: &Path| -> Result<Vec<Entry>> {
        let mut found = Vec::new();
        for class in entries(folder)?.into_iter().filter(|entry| entry.is_dir()) {
            let files = entries(&class)?.into_iter().filter(|file| is_recording(file) && file.is_file());
            let with_class = |file| Entry { file, class: Some(name(&class)) };
            found.extend(files.map(with_class));
        }
        Ok(found)
    };
    let mut splits = Splits::new();
    for split in entries(folder)?.into_iter().filter(|entry| entry.is_dir() && is_usual(&name(entry))) {
        let found = classes(&split)?;
        if !found.is_empty() {
            splits.entry(canonical(&name(&split)).to_owned()).or_default().extend(found);
        }
    }
    if splits.is_empty() {
        let all = classes(folder)?;
        if !all.is_empty() {
            splits.insert("all".to_owned(), all);
        }
    }
    Ok(splits)
}
