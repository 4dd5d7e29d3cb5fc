//! Scalars for TensorBoard: event files, written without TensorFlow.
//!
//! An event file is a sequence of records, each framed as a TFRecord, all numbers little-endian:
//!
//! ```text
//! u64 length | u32 masked crc32c of the 8 length bytes | payload | u32 masked crc32c of the payload
//! masked crc = rotate_right(crc, 15) + 0xa282ead8
//! ```
//!
//! The payload is a protocol buffer, of which a scalar needs five fields (`event.proto`, `summary.proto` of TensorFlow):
//!
//! ```text
//! Event   { wall_time: double = 1, step: int64 = 2, file_version: string = 3, summary: Summary = 5 }
//! Summary { repeated value: Value = 1 }    Value { tag: string = 1, simple_value: float = 2 }
//! ```
//!
//! The first record says `file_version: "brain.Event:2"`, the others hold one scalar each.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use lmht_train::tensorboard::EventWriter;
//! let run = tempfile::tempdir()?;
//! let mut events = EventWriter::create(run.path())?;
//! events.scalar("loss/train", 0, 2.30)?;
//! events.scalar("loss/train", 1, 2.11)?;
//! events.flush()?;
//! // Now `tensorboard --logdir` on the folder shows the curve.
//! assert!(events.path().metadata()?.len() > 0);
//! # Ok(())
//! # }
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Error, Result};

/// Writes scalars to one event file.
///
/// Events are buffered. [`Self::flush`] (once per epoch, say) hands them to the operating system; dropping the writer does
/// so too, but cannot tell if it failed.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventWriter {
    /// Opens a new event file in the folder `dir`, which is made if need be, and writes its first record.
    ///
    /// The name is `events.out.tfevents.<unix seconds>.<host>`, and `.1`, `.2`, … after it if that file exists. The host is
    /// `HOSTNAME` or the content of `/etc/hostname`, else `lmht`. TensorBoard reads all event files of a folder as one run,
    /// so a resumed run opens a new one beside the old.
    ///
    /// # Errors
    /// [`Error::EventFile`], with the path.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(io_error("make the folder", dir))?;
        let now = wall_time();
        let name = format!("events.out.tfevents.{}.{}", now as u64, host());
        let mut n = 0;
        let (path, file) = loop {
            let path = dir.join(if n == 0 { name.clone() } else { format!("{name}.{n}") });
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => break (path, file),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => n += 1,
                Err(source) => return Err(Error::EventFile { action: "create the event file", path, source }),
            }
        };
        let mut writer = Self { path, file: BufWriter::new(file) };
        writer.record(&version_event(now))?;
        // At once, so that a file that cannot be written is noticed before an epoch has passed.
        writer.flush()?;
        Ok(writer)
    }

    /// The file that is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a scalar, with the present time.
    ///
    /// `tag` names the curve; a `/` in it groups curves: `top1/test`. `step` is the position on the horizontal axis. The
    /// value is stored in single precision; NaN and infinities are allowed, and marked by TensorBoard.
    ///
    /// # Errors
    /// [`Error::InvalidScalar`] if the tag is empty or the step exceeds `i64`; [`Error::EventFile`], with the path.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) -> Result<()> {
        self.scalar_at(tag, step, value, wall_time())
    }

    /// Adds a scalar with the given wall-clock time, in seconds since 1970: to carry over curves that were measured before.
    ///
    /// # Errors
    /// As [`Self::scalar`].
    pub fn scalar_at(&mut self, tag: &str, step: u64, value: f64, wall_time: f64) -> Result<()> {
        let invalid = |expected| Err(Error::InvalidScalar { tag: tag.into(), step, expected });
        if tag.is_empty() {
            return invalid("a tag that is not empty");
        }
        if i64::try_from(step).is_err() {
            return invalid("a step that fits an i64");
        }
        self.record(&scalar_event(tag, step, value as f32, wall_time))
    }

    /// Hands everything to the operating system, so that TensorBoard sees it.
    ///
    /// # Errors
    /// [`Error::EventFile`], with the path.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(io_error("write", &self.path))
    }

    fn record(&mut self, payload: &[u8]) -> Result<()> {
        let length = (payload.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(payload.len() + 16);
        record.extend_from_slice(&length);
        record.extend_from_slice(&masked_crc32c(&length).to_le_bytes());
        record.extend_from_slice(payload);
        record.extend_from_slice(&masked_crc32c(payload).to_le_bytes());
        self.file.write_all(&record).map_err(io_error("write", &self.path))
    }
}

/// The checksum of a TFRecord: crc32c (Castagnoli), rotated and shifted, because a crc over data that holds its own crc
/// is a weak check.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// `Event { wall_time, file_version }`.
fn version_event(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    put_double(&mut event, 1, wall_time);
    put_bytes(&mut event, 3, b"brain.Event:2");
    event
}

/// `Event { wall_time, step, summary { value { tag, simple_value } } }`.
fn scalar_event(tag: &str, step: u64, value: f32, wall_time: f64) -> Vec<u8> {
    let mut scalar = Vec::new();
    put_bytes(&mut scalar, 1, tag.as_bytes());
    put_key(&mut scalar, 2, WIRE_FIXED32);
    scalar.extend_from_slice(&value.to_le_bytes());

    let mut summary = Vec::new();
    put_bytes(&mut summary, 1, &scalar);

    let mut event = Vec::new();
    put_double(&mut event, 1, wall_time);
    // A zero is left out, as every protocol buffer library does. The value is written even so: it is one of several kinds,
    // and its presence says which.
    if step != 0 {
        put_key(&mut event, 2, WIRE_VARINT);
        put_varint(&mut event, step);
    }
    put_bytes(&mut event, 5, &summary);
    event
}

// Wire types of protocol buffers.
const WIRE_VARINT: u64 = 0;
const WIRE_FIXED64: u64 = 1;
const WIRE_BYTES: u64 = 2;
const WIRE_FIXED32: u64 = 5;

fn put_key(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    put_varint(out, field << 3 | wire_type);
}

/// Seven bits a byte, lowest first; the top bit says that more follow.
fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_double(out: &mut Vec<u8>, field: u64, number: f64) {
    put_key(out, field, WIRE_FIXED64);
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_key(out, field, WIRE_BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Seconds since 1970; 0 for a clock that is set before.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0., |since| since.as_secs_f64())
}

/// A name for this machine that is safe in a file name.
fn host() -> String {
    let name = std::env::var("HOSTNAME").or_else(|_| fs::read_to_string("/etc/hostname")).unwrap_or_default();
    let safe: String =
        name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).take(64).collect();
    if safe.is_empty() { "lmht".into() } else { safe }
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::EventFile { action, path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_the_published_ones() {
        // The check value of crc32c, 0xe3069283: rotated right by 15 bits it is 0x2507c60d, and 0xa282ead8 added.
        assert_eq!(masked_crc32c(b"123456789"), 0xc78a_b0e5);
        // The vectors of RFC 3720, B.4: 32 bytes of 0x00, of 0xff, and 0..32.
        let mask = |crc: u32| crc.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(masked_crc32c(&[0; 32]), mask(0x8a91_36aa));
        assert_eq!(masked_crc32c(&[0xff; 32]), mask(0x62a8_ab43));
        let counting: Vec<u8> = (0..32).collect();
        assert_eq!(masked_crc32c(&counting), mask(0x46dd_794e));
    }
}
