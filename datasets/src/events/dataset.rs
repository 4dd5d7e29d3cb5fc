//! [`EventDataset`]: labelled frames in memory, and how recordings become them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::cache::{self, Cached};
use super::formats::hdf5_class_names;
use super::layout::{Entry, EventSource};
use super::{EventAugment, EventOptions, Frames, Recording, SplitBy, recordings};
use crate::error::{Error, Place, Result};
use crate::part::WHOLE;
use crate::{Dataset, Split};

/// Files that are read together.
const AT_ONCE: usize = 32;
/// Most frames of a recording, and longest side that they are brought to.
const MAX_FRAMES: usize = 1 << 12;
const MAX_SIDE: usize = 1 << 11;

/// What the network is shown of a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventInput {
    /// A frame at every timestep.
    #[default]
    Frames,
    /// The mean of the frames, one static image that is shown at every timestep: what the published code of LM-HT does.
    /// When things happened is lost.
    Mean,
}

/// How a recording becomes the input of a network.
///
/// ```
/// use lmht_datasets::events::EventRecipe;
///
/// let recipe = EventRecipe { size: Some((48, 48)), ..EventRecipe::new(10) };
/// assert!(recipe.sensor.is_none());
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventRecipe {
    /// Frames that a recording is divided into; with [`EventInput::Frames`] the timesteps.
    pub frames: usize,
    /// By what it is divided.
    #[serde(default)]
    pub by: SplitBy,
    /// (height, width) that frames are brought to by antialiased bilinear interpolation; absent: the sensor's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<(usize, usize)>,
    /// What the network is shown.
    #[serde(default)]
    pub input: EventInput,
    /// (height, width) of the sensor; absent: see [`EventOptions::sensor`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensor: Option<(usize, usize)>,
    /// Brings events into the order of time in place of refusing those that are not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sort: bool,
}

impl EventRecipe {
    /// `frames` frames with as many events each, at the size of the sensor, as the timesteps.
    pub fn new(frames: usize) -> Self {
        Self { frames, by: SplitBy::Number, size: None, input: EventInput::Frames, sensor: None, sort: false }
    }

    pub(super) fn check(&self) -> Result<()> {
        if !(1..=MAX_FRAMES).contains(&self.frames) {
            return Err(Error::Config(format!(
                "EventRecipe::frames: expected 1 to {MAX_FRAMES} frames, found {}",
                self.frames
            )));
        }
        if let Some((h, w)) = self.size.filter(|(h, w)| ![h, w].iter().all(|side| (1..=MAX_SIDE).contains(side))) {
            return Err(Error::Config(format!(
                "EventRecipe::size: expected (height, width) of 1 to {MAX_SIDE} pixels, found ({h}, {w})"
            )));
        }
        Ok(())
    }

    pub(super) fn options(&self) -> EventOptions {
        EventOptions { sensor: self.sensor, sort: self.sort }
    }

    /// What the network is shown of a recording, and (height, width) of the sensor.
    pub(super) fn apply(&self, recording: &Recording) -> std::result::Result<(Frames, (usize, usize)), String> {
        let frames = match recording {
            Recording::Events(events) => events.frames(self.frames, self.by).map_err(|error| error.to_string())?,
            Recording::Frames(frames) => frames.clone(),
        };
        let [t, _, h, w] = frames.dims();
        if t != self.frames {
            return Err(format!("it holds {t} frames, expected {}", self.frames));
        }
        if let Some((rows, columns)) = self.sensor.filter(|sensor| *sensor != (h, w)) {
            return Err(format!("its frames have {h}x{w} pixels, expected {rows}x{columns} as `sensor` says"));
        }
        let frames = frames.resized(self.size.unwrap_or((h, w)));
        Ok((if self.input == EventInput::Mean { frames.mean() } else { frames }, (h, w)))
    }

    /// The shape of what a network takes: without a time axis for the mean.
    pub(super) fn input_dims(&self, [t, p, h, w]: [usize; 4]) -> Vec<usize> {
        match self.input {
            EventInput::Frames => vec![t, p, h, w],
            EventInput::Mean => vec![p, h, w],
        }
    }
}

/// Labelled frames of one size, in memory; what a [`Loader`](crate::Loader) takes by
/// [`Loader::of`](crate::Loader::of).
#[derive(Clone, Debug)]
pub struct EventDataset {
    /// `[N, T, P, H, W]`.
    counts: Vec<f32>,
    /// [T, P, H, W]; T is 1 for a mean.
    dims: [usize; 4],
    labels: Vec<u32>,
    n_classes: usize,
    class_names: Option<Vec<String>>,
    recipe: EventRecipe,
    augment: EventAugment,
}

impl EventDataset {
    /// Reads the recordings of a split, on all cores, and makes frames of them. With a folder for `cache`, the frames are
    /// kept there under a digest of the recipe, the split and the names, sizes and times of the files, and taken from there
    /// when all of these are the same.
    ///
    /// `progress(done, total)` is called from this thread, in files.
    ///
    /// # Errors
    /// [`Error::SplitNeeded`]; [`Error::Events`] by the file, also if its sensor or number of frames is another;
    /// [`Error::LabelOutOfRange`], [`Error::UnknownLabel`]; [`Error::Empty`]; [`Error::Memory`]; [`Error::Config`] for the
    /// recipe; [`Error::Io`] if the cache cannot be written. A damaged file of the cache is made again.
    pub fn read(
        source: &EventSource,
        split: Split,
        recipe: &EventRecipe,
        cache: Option<&Path>,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        recipe.check()?;
        let (all, part) = source.files(split)?;
        let options = &source.options;
        let names = source.class_names()?;
        let by_folder = all.iter().map(|entry| class(entry, names.as_deref())).collect::<Result<Option<Vec<u32>>>>()?;
        let keep = |labels: &[u32]| chosen(labels, part.slice, options.max_per_class);
        let entries: Vec<&Entry> = match &by_folder {
            Some(labels) => all.iter().zip(keep(labels)).filter(|(_, keep)| *keep).map(|(entry, _)| entry).collect(),
            None => all.iter().collect(),
        };
        let file = cache.map(|folder| {
            let what = (recipe, part.words(), options.max_per_class, &names);
            cache::file(folder, source.path(), &what, entries.iter().map(|entry| entry.file.as_path()))
        });
        let mut found = file.as_deref().and_then(cache::load);
        if let Some(found) = &mut found {
            progress(entries.len(), entries.len());
            if found.labels.is_empty() {
                return Err(Error::Empty { path: source.path().to_path_buf() });
            }
        } else {
            let mut read = read_all(&entries, names.as_deref(), recipe, progress)?;
            if by_folder.is_none() && (part.slice != WHOLE || options.max_per_class.is_some()) {
                read.retain(&keep(&read.labels));
            }
            if read.labels.is_empty() {
                return Err(Error::Empty { path: source.path().to_path_buf() });
            }
            if let Some(file) = &file {
                cache::store(file, &read)?;
            }
            found = Some(read);
        }
        let Some(Cached { counts, dims, labels, sensor }) = found else { unreachable!("it was read or found") };
        let names = names.or_else(|| {
            let first = entries.first().filter(|entry| super::formats::is_recording(&entry.file))?;
            hdf5_class_names(&std::fs::read(&first.file).ok()?)
        });
        let most = labels.iter().max().map_or(0, |most| *most as usize + 1);
        let n_classes = options.n_classes.or(names.as_ref().map(Vec::len)).unwrap_or(most);
        if let Some(i) = labels.iter().position(|label| *label as usize >= n_classes) {
            let at = Place { path: source.path().to_path_buf(), row: Some(i) };
            return Err(Error::LabelOutOfRange { at, label: i64::from(labels[i]), n_classes });
        }
        let class_names = names.filter(|names| names.len() == n_classes);
        let recipe = EventRecipe { sensor: Some(sensor), ..recipe.clone() };
        Ok(Self { counts, dims, labels, n_classes, class_names, recipe, augment: EventAugment::default() })
    }

    /// The same with random changes in training.
    ///
    /// # Errors
    /// [`Error::Config`] for strengths out of range.
    pub fn with_augment(self, augment: EventAugment) -> Result<Self> {
        augment.check()?;
        Ok(Self { augment, ..self })
    }

    /// How its recordings became frames, with the sensor that they have.
    pub fn recipe(&self) -> &EventRecipe {
        &self.recipe
    }

    /// The frames of recording `index`, `[T, P, H, W]`, without changes; `None` past the end.
    pub fn frames(&self, index: usize) -> Option<&[f32]> {
        self.counts.chunks_exact(self.dims.iter().product()).nth(index)
    }
}

impl Dataset for EventDataset {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn n_classes(&self) -> usize {
        self.n_classes
    }

    fn class_names(&self) -> Option<&[String]> {
        self.class_names.as_deref()
    }

    fn dims(&self) -> Vec<usize> {
        self.recipe.input_dims(self.dims)
    }

    fn write(&self, index: usize, (seed, epoch): (u64, u64), out: &mut [f32]) -> Result<()> {
        let size: usize = self.dims.iter().product();
        out.copy_from_slice(&self.counts[index * size..(index + 1) * size]);
        self.augment.apply(out, (self.dims[2], self.dims[3]), seed, epoch, index);
        Ok(())
    }
}

/// The number of the class that an entry's folder names, if it names one.
fn class(entry: &Entry, names: Option<&[String]>) -> Result<Option<u32>> {
    let (Some(class), Some(names)) = (&entry.class, names) else { return Ok(None) };
    let number = names.iter().position(|name| name == class).ok_or_else(|| Error::UnknownLabel {
        at: Place { path: entry.file.clone(), row: None },
        label: class.clone(),
        names: names.to_vec(),
    })?;
    Ok(Some(number as u32))
}

/// Which of them belong to a part of each class, and to the first so many of it.
fn chosen(labels: &[u32], (from, to): (usize, usize), max_per_class: Option<usize>) -> Vec<bool> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    labels.iter().for_each(|label| *counts.entry(*label).or_default() += 1);
    let mut seen: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
    let keep = |label: &u32| {
        let (n, (seen, kept)) = (counts[label], seen.entry(*label).or_default());
        let is_kept = (n * from / 100..n * to / 100).contains(seen) && max_per_class.is_none_or(|most| *kept < most);
        *seen += 1;
        *kept += usize::from(is_kept);
        is_kept
    };
    labels.iter().map(keep).collect()
}

/// Reads and converts files, some at a time.
fn read_all(
    entries: &[&Entry],
    names: Option<&[String]>,
    recipe: &EventRecipe,
    progress: &dyn Fn(usize, usize),
) -> Result<Cached> {
    let mut all = Cached { counts: Vec::new(), dims: [0; 4], labels: Vec::new(), sensor: (0, 0) };
    progress(0, entries.len());
    for (i, some) in entries.chunks(AT_ONCE).enumerate() {
        let read: Vec<Result<Vec<Example>>> = some.par_iter().map(|entry| read_one(entry, names, recipe)).collect();
        for (entry, examples) in some.iter().zip(read) {
            for Example { frames, sensor, label } in examples? {
                if all.labels.is_empty() {
                    (all.dims, all.sensor) = (frames.dims(), sensor);
                }
                if (frames.dims(), sensor) != (all.dims, all.sensor) {
                    let ((h, w), (rows, columns)) = (sensor, all.sensor);
                    let reason = format!(
                        "its sensor has {h}x{w} pixels and its frames {:?}, those before it {rows}x{columns} and {:?}; say \
                         which with `sensor`",
                        frames.dims(),
                        all.dims
                    );
                    return Err(Error::Events { path: entry.file.clone(), format: "recordings of one sensor", reason });
                }
                all.counts
                    .try_reserve(frames.counts().len())
                    .map_err(|_| Error::Memory { bytes: (all.counts.len() + frames.counts().len()) * 4 })?;
                all.counts.extend_from_slice(frames.counts());
                all.labels.push(label);
            }
        }
        progress(i * AT_ONCE + some.len(), entries.len());
    }
    Ok(all)
}

struct Example {
    frames: Frames,
    sensor: (usize, usize),
    label: u32,
}

fn read_one(entry: &Entry, names: Option<&[String]>, recipe: &EventRecipe) -> Result<Vec<Example>> {
    let folder = class(entry, names)?;
    let wrong = |reason: String| Error::Events {
        path: PathBuf::from(&entry.file),
        format: "recordings that frames can be made of",
        reason,
    };
    let mut examples = Vec::new();
    for (recording, label) in recordings(&entry.file, &recipe.options())? {
        let (frames, sensor) = recipe.apply(&recording).map_err(wrong)?;
        let label = folder.or(label).ok_or_else(|| wrong("nothing says which class it shows".to_owned()))?;
        examples.push(Example { frames, sensor, label });
    }
    Ok(examples)
}
