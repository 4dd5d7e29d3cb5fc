//! The formats of recordings: one file each, and one line in [`FORMATS`].

mod aedat2;
mod aedat3;
mod aedat4;
mod bin;
mod dat;
mod hdf5;
mod mat;
mod npz;
mod numbers;

use std::path::{Path, PathBuf};

pub(super) use aedat3::{gesture_labels, labels_beside};
pub(super) use hdf5::class_names as hdf5_class_names;

use super::{EventOptions, Events, Frames};
use crate::error::{Error, Result};
use crate::guard::guard_as;

/// Every format; `.bin` has nothing at its start to tell it by, so its name counts.
const FORMATS: [&dyn Format; 8] =
    [&aedat2::Aedat2, &aedat3::Aedat3, &aedat4::Aedat4, &dat::Dat, &npz::Npz, &hdf5::Hdf5, &mat::Mat, &bin::Bin];

/// What is expected where the format is not known.
pub(super) const ANY: &str =
    "a recording of events (AEDAT 2, 3.1 or 4, `.bin`, `.dat`, `.npz`, HDF5 of SHD, `.mat` of ST-MNIST)";

/// The names of files that are recordings.
pub(super) const ENDINGS: [&str; 8] = ["aedat", "aedat4", "bin", "dat", "npz", "h5", "hdf5", "mat"];

/// A format of recordings.
trait Format: Sync {
    /// What a whole file of it is called, after "expected".
    fn name(&self) -> &'static str;

    /// Whether a file is of this format.
    fn takes(&self, bytes: &[u8], path: &Path) -> bool;

    /// All that is in the file; the error says what is wrong with it.
    fn read(&self, bytes: &[u8], options: &EventOptions) -> Read;
}

type Read = std::result::Result<Vec<(Recording, Option<u32>)>, String>;

/// What a file holds once.
#[derive(Clone, Debug, PartialEq)]
pub enum Recording {
    /// Events as they came.
    Events(Events),
    /// Counts that someone has made of them.
    Frames(Frames),
}

fn one(events: Events) -> Vec<(Recording, Option<u32>)> {
    vec![(Recording::Events(events), None)]
}

/// What the bytes of a file hold; its name tells `.bin` files and stands in errors.
///
/// # Errors
/// [`Error::Events`], as [`recordings`](super::recordings).
pub fn parse(bytes: &[u8], name: impl AsRef<Path>, options: &EventOptions) -> Result<Vec<(Recording, Option<u32>)>> {
    whole(bytes, name.as_ref(), options)
}

pub(super) fn whole(bytes: &[u8], path: &Path, options: &EventOptions) -> Result<Vec<(Recording, Option<u32>)>> {
    let wrong = |format, reason| Error::Events { path: PathBuf::from(path), format, reason };
    let Some(format) = FORMATS.into_iter().find(|format| format.takes(bytes, path)) else {
        let reason = format!("its {} bytes do not start like one", bytes.len());
        return Err(wrong(ANY, reason));
    };
    let read = || format.read(bytes, options).map_err(|reason| wrong(format.name(), reason));
    guard_as(read, |reason| wrong(format.name(), reason))
}

pub(super) fn name_of(bytes: &[u8], path: &Path) -> &'static str {
    FORMATS.into_iter().find(|format| format.takes(bytes, path)).map_or(ANY, |format| format.name())
}

/// Whether a file is a recording by its name.
pub(super) fn is_recording(path: &Path) -> bool {
    // ST-MNIST has a table of its taxels beside the recordings, `LUT`, which tonic passes over as well.
    let is_table = crate::formats::ends_in(path, "mat") && crate::formats::name(path).contains("LUT");
    !is_table && ENDINGS.iter().any(|ending| crate::formats::ends_in(path, ending))
}

/// Takes `N` bytes off the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// The lines that begin with `#` at the start of an AEDAT file, and what follows, which is of `unit` bytes each.
///
/// The end of the lines is where it is said, if it is. Otherwise an event of a DAVIS may begin as lines do: its fourth byte is
/// zero, which no text has, and if one of the two before ends a line, then what follows is no whole number of events.
fn header(bytes: &[u8], unit: usize) -> (String, &[u8]) {
    let (mut end, mut of_text, mut last) = (0, 0, 0);
    let mut is_text = true;
    while bytes.get(end) == Some(&b'#') {
        let line = bytes[end..].split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
        end += line.len();
        let word = line[1..].trim_ascii();
        if word == b"!END-HEADER" || word.eq_ignore_ascii_case(b"End of ASCII Header") {
            (of_text, last) = (end, 0);
            break;
        }
        is_text &= !line.contains(&0);
        if is_text {
            (of_text, last) = (end, line.len());
        }
    }
    let is_whole = |end: usize| (bytes.len() - end).is_multiple_of(unit);
    if matches!(last, 2 | 3) && !is_whole(of_text) && is_whole(of_text - last) {
        of_text -= last;
    }
    (String::from_utf8_lossy(&bytes[..of_text]).into_owned(), &bytes[of_text..])
}

/// A text of a file as a message shows it: one line, and not a long one.
fn shown(text: &str) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c });
    let mut line: String = chars.by_ref().take(60).collect();
    if chars.next().is_some() {
        line.push('…');
    }
    line
}
