//! Recordings of event cameras: what a file holds, as events or as frames, and data sets of them.
//!
//! - [`read`] gives the [`Events`] of a file, [`recordings`] all that it holds with their labels;
//! - [`Events::frames`] counts them into [`Frames`] by SpikingJelly's rule;
//! - [`EventDataset`] is a labelled data set of frames, [`EventRecipe`] how recordings become them, [`EventAugment`] what
//!   changes in training, [`EventPreprocessor`] what a trained network wants to see of a recording.
//!
//! `docs/guides/events.md` shows all of it.

mod augment;
mod cache;
mod dataset;
mod formats;
mod frames;
mod layout;
mod preprocessor;

use std::fs;
use std::path::Path;

pub use augment::EventAugment;
pub use dataset::{EventDataset, EventInput, EventRecipe};
pub use formats::{Recording, parse};
pub use frames::{Frames, SplitBy};
pub use layout::{EventSource, recording_files};
pub use preprocessor::EventPreprocessor;

use crate::error::{Error, Result};

/// Bytes that a file of events may have: it is read as a whole.
const MAX_FILE: u64 = 1 << 33;
/// Events that a file may hold.
pub(crate) const MAX_EVENTS: usize = 1 << 27;
/// Longest side of a sensor, and most pixels of one.
const MAX_SIDE: usize = 1 << 13;

/// Events of one recording, in the order of time.
///
/// Made by [`read`], or of numbers in memory by [`Events::new`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    t: Vec<i64>,
    x: Vec<u16>,
    y: Vec<u16>,
    p: Vec<u8>,
    sensor: (usize, usize),
    n_polarities: usize,
}

/// What a file does not say of its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventOptions {
    /// (height, width) of the sensor in pixels. Otherwise what the file says; `.bin`, `.npz` and the `.dat` of N-CARS do
    /// not: for them the smallest that holds all events of 34x34 (N-MNIST), 128x128 (DVS128), 180x240 (ATIS as in
    /// N-Caltech101, DAVIS240), 240x304 (ATIS) and 260x346 (DAVIS346). For AEDAT 2 of no camera that is known, 180x240 or
    /// 260x346 also says that it is of a DAVIS.
    pub sensor: Option<(usize, usize)>,
    /// Brings events into the order of time; otherwise one that goes back in time is an error.
    pub sort: bool,
}

/// Sensors of files that name none.
const SENSORS: [(usize, usize); 5] = [(34, 34), (128, 128), (180, 240), (240, 304), (260, 346)];

impl Events {
    /// Events of two polarities.
    ///
    /// # Shapes
    /// - `t`, `x`, `y`, `p`: `[N]`; `t` in microseconds, not falling; `x` below the width and `y` below the height of
    ///   `sensor` = (height, width); `p` 0 (off) or 1 (on)
    ///
    /// # Errors
    /// [`Error::Config`], which names the first event that is wrong.
    ///
    /// ```
    /// use lmht_datasets::events::{Events, SplitBy};
    ///
    /// let events = Events::new(vec![0, 10, 25], vec![0, 1, 1], vec![0, 0, 0], vec![1, 1, 0], (1, 2))?;
    /// let frames = events.frames(2, SplitBy::Number)?;
    /// // [T, P, H, W]: the first frame has one event, the last one the rest.
    /// assert_eq!(frames.dims(), [2, 2, 1, 2]);
    /// assert_eq!(frames.counts(), [0., 0., 1., 0., 0., 1., 0., 1.]);
    /// # Ok::<(), lmht_datasets::Error>(())
    /// ```
    pub fn new(t: Vec<i64>, x: Vec<u16>, y: Vec<u16>, p: Vec<u8>, sensor: (usize, usize)) -> Result<Self> {
        let options = EventOptions { sensor: Some(sensor), sort: false };
        Self::checked(Self { t, x, y, p, n_polarities: 2, ..Self::default() }, None, &options)
            .map_err(|reason| Error::Config(format!("Events::new: {reason}")))
    }

    /// Checks what a format has read; `sensor` is what the file says.
    fn checked(
        mut events: Self,
        sensor: Option<(usize, usize)>,
        options: &EventOptions,
    ) -> std::result::Result<Self, String> {
        let n = events.t.len();
        let Self { t, x, y, p, .. } = &events;
        if [x.len(), y.len(), p.len()].iter().any(|len| *len != n) {
            return Err(format!(
                "expected as many x, y and p as t, {n}, found {}, {} and {}",
                x.len(),
                y.len(),
                p.len()
            ));
        }
        if n > MAX_EVENTS {
            return Err(format!("expected at most {MAX_EVENTS} events, found {n}"));
        }
        let reach = |values: &[u16]| values.iter().max().map_or(0, |most| usize::from(*most) + 1);
        let needed = (reach(y), reach(x));
        let holds = |(h, w): &(usize, usize)| needed.0 <= *h && needed.1 <= *w;
        let guessed = || SENSORS.into_iter().find(holds);
        let (h, w) = options.sensor.or(sensor).or_else(guessed).ok_or_else(|| {
            format!(
                "its events need a sensor of {}x{} pixels (height x width), larger than any that is known; say which with \
                 `sensor`",
                needed.0, needed.1
            )
        })?;
        if ![h, w].iter().all(|side| (1..=MAX_SIDE).contains(side)) {
            return Err(format!("expected a sensor of 1 to {MAX_SIDE} pixels a side, found {h}x{w}"));
        }
        if let Some(i) = (0..n).find(|&i| usize::from(x[i]) >= w || usize::from(y[i]) >= h) {
            return Err(format!("event {i} is at x = {}, y = {}, outside of the sensor of {h}x{w} pixels", x[i], y[i]));
        }
        if let Some(i) = p.iter().position(|p| *p > 1) {
            return Err(format!("event {i} has polarity {}, expected 0 (off) or 1 (on)", p[i]));
        }
        if let Some(i) = (1..n).find(|&i| t[i] < t[i - 1]) {
            if !options.sort {
                return Err(format!(
                    "event {i} goes back in time, from {} to {} microseconds; `sort` brings them into order",
                    t[i - 1],
                    t[i]
                ));
            }
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by_key(|&i| t[i]);
            events = Self {
                t: order.iter().map(|&i| t[i]).collect(),
                x: order.iter().map(|&i| x[i]).collect(),
                y: order.iter().map(|&i| y[i]).collect(),
                p: order.iter().map(|&i| p[i]).collect(),
                ..events
            };
        }
        events.sensor = (h, w);
        Ok(events)
    }

    /// N, the number of events.
    pub fn len(&self) -> usize {
        self.t.len()
    }

    /// Whether there is no event.
    pub fn is_empty(&self) -> bool {
        self.t.is_empty()
    }

    /// Time in microseconds, `[N]`, not falling; from where is the camera's choice.
    pub fn t(&self) -> &[i64] {
        &self.t
    }

    /// Columns, `[N]`, from the left.
    pub fn x(&self) -> &[u16] {
        &self.x
    }

    /// Rows, `[N]`, from the top.
    pub fn y(&self) -> &[u16] {
        &self.y
    }

    /// Polarities, `[N]`: 0 is off (darker), 1 on (brighter).
    pub fn p(&self) -> &[u8] {
        &self.p
    }

    /// (height, width) in pixels.
    pub fn sensor(&self) -> (usize, usize) {
        self.sensor
    }

    /// 2, or 1 where a sensor has no polarity: an ear.
    pub fn n_polarities(&self) -> usize {
        self.n_polarities
    }

    /// Microseconds from the first event to the last.
    pub fn span(&self) -> i64 {
        self.t.first().map_or(0, |first| self.t[self.t.len() - 1].saturating_sub(*first))
    }

    /// The events of `from..to` in time.
    fn between(&self, from: i64, to: i64) -> Self {
        let start = self.t.partition_point(|t| *t < from);
        let end = self.t.partition_point(|t| *t < to).max(start);
        Self {
            t: self.t[start..end].to_vec(),
            x: self.x[start..end].to_vec(),
            y: self.y[start..end].to_vec(),
            p: self.p[start..end].to_vec(),
            ..*self
        }
    }
}

/// The events of a file that holds one recording: AEDAT 2 (CIFAR10-DVS, and what jAER writes of a DAVIS), AEDAT 3.1 (DVS128
/// Gesture), AEDAT 4, `.bin` (N-MNIST, N-Caltech101), `.dat` (N-CARS), `.mat` (ST-MNIST), `.npz` (SpikingJelly); times in
/// microseconds. The format is told by the content.
///
/// Coordinates are those that SpikingJelly gives: a CIFAR10-DVS recording is turned upright. So is one of a DAVIS, as jAER
/// shows it; ST-MNIST is as tonic gives it.
///
/// # Errors
/// [`Error::Io`]; [`Error::Events`] for a file that is none of these, cut off, damaged, with events outside of the sensor or
/// backwards in time, or with more than one recording or none of events ([`recordings`] reads those).
///
/// ```no_run
/// let events = lmht_datasets::events::read("60004.bin")?;
/// println!("{} events in {} us", events.len(), events.span());
/// # Ok::<(), lmht_datasets::Error>(())
/// ```
pub fn read(path: impl AsRef<Path>) -> Result<Events> {
    read_with(path, &EventOptions::default())
}

/// [`read`] of a file that lacks something.
///
/// # Errors
/// As [`read`].
pub fn read_with(path: impl AsRef<Path>, options: &EventOptions) -> Result<Events> {
    let path = path.as_ref();
    let (bytes, format) = load(path)?;
    let found = formats::whole(&bytes, path, options)?;
    let wrong = |reason: String| Error::Events { path: path.to_path_buf(), format, reason };
    match <[(Recording, Option<u32>); 1]>::try_from(found) {
        Ok([(Recording::Events(events), _)]) => Ok(events),
        Ok([(Recording::Frames(_), _)]) => {
            Err(wrong("it holds frames in place of events; `recordings` reads them".into()))
        }
        Err(found) => Err(wrong(format!("it holds {} recordings; `recordings` reads them", found.len()))),
    }
}

/// Every recording of a file with its label, if the file or what lies beside it has one: as [`read`], the frames of
/// SpikingJelly's `.npz`, the spoken digits of SHD's HDF5, and the gestures of an AEDAT 3.1 file with `NAME_labels.csv`
/// beside it, cut out at their times.
///
/// # Errors
/// As [`read`], without the demand for one recording.
pub fn recordings(path: impl AsRef<Path>, options: &EventOptions) -> Result<Vec<(Recording, Option<u32>)>> {
    let path = path.as_ref();
    let (bytes, _) = load(path)?;
    let whole = formats::whole(&bytes, path, options)?;
    let Some(labels) = formats::labels_beside(path) else { return Ok(whole) };
    let [(Recording::Events(events), _)] = &whole[..] else { return Ok(whole) };
    let cut = |(label, from, to)| (Recording::Events(events.between(from, to)), Some(label));
    Ok(formats::gesture_labels(&labels)?.into_iter().map(cut).collect())
}

/// The bytes of a file and the name of its format.
fn load(path: &Path) -> Result<(Vec<u8>, &'static str)> {
    let io = |source| Error::Io { path: path.to_path_buf(), doing: "read the recording", source };
    let metadata = fs::metadata(path).map_err(io)?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        let what = if metadata.is_file() { "it has more than 2^33 bytes" } else { "it is no file" };
        return Err(Error::Events { path: path.to_path_buf(), format: formats::ANY, reason: what.to_owned() });
    }
    let bytes = fs::read(path).map_err(io)?;
    let format = formats::name_of(&bytes, path);
    Ok((bytes, format))
}
