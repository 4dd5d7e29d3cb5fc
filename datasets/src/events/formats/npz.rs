//! NumPy's `.npz` as SpikingJelly writes it: arrays `t`, `x`, `y`, `p` of events, or `frames`, `[T, 2, H, W]`.

use std::io::{Cursor, Read as _};
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::numbers::Kind;
use super::{Format, Read, Recording, one, shown};
use crate::events::{EventOptions, Events, Frames, MAX_EVENTS};

pub(super) struct Npz;

/// Bytes of an array's description.
const MAX_HEADER: usize = 1 << 16;
/// Bytes that an array may have.
const MAX_ARRAY: usize = 8 * MAX_EVENTS;

type Result<T> = std::result::Result<T, String>;

impl Format for Npz {
    fn name(&self) -> &'static str {
        "a whole `.npz` file of SpikingJelly"
    }

    fn takes(&self, bytes: &[u8], _path: &Path) -> bool {
        bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06")
    }

    fn read(&self, bytes: &[u8], options: &EventOptions) -> Read {
        let damaged = |error: zip::result::ZipError| format!("its archive is damaged ({error})");
        let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
        let names = archive.file_names().map(|name| Ok(name.map_err(damaged)?.into_owned()));
        let names = names.collect::<Result<Vec<String>>>()?;
        let mut array = |name: &str| -> Result<Option<Array>> {
            let Some(index) = names.iter().position(|found| found.strip_suffix(".npy") == Some(name)) else {
                return Ok(None);
            };
            // As it is stored: the archive's reader is built without compression, and pages of parquet use this one.
            let mut entry = archive.by_index_raw(index).map_err(damaged)?;
            let (method, size, crc) = (entry.compression(), entry.size(), entry.crc32());
            let mut stored = Vec::new();
            entry.read_to_end(&mut stored).map_err(|error| format!("`{name}` cannot be read ({error})"))?;
            let size = usize::try_from(size).ok().filter(|size| *size <= MAX_ARRAY + MAX_HEADER);
            let size = size.ok_or_else(|| format!("`{name}` claims more than {MAX_ARRAY} bytes"))?;
            let content = match method {
                CompressionMethod::Stored => stored,
                // The only one that NumPy writes.
                _ => {
                    let mut content = Vec::new();
                    let inflated = flate2::read::DeflateDecoder::new(&stored[..]).take(size as u64 + 1);
                    let wrong = |error| format!("`{name}` cannot be decompressed ({error})");
                    { inflated }.read_to_end(&mut content).map_err(wrong)?;
                    content
                }
            };
            let mut sum = flate2::Crc::new();
            sum.update(&content);
            if content.len() != size || sum.sum() != crc {
                return Err(format!("`{name}` is not what its checksum says"));
            }
            Array::parse(&content).map(Some).map_err(|reason| format!("`{name}` {reason}"))
        };
        if let Some(frames) = array("frames")? {
            let dims = <[usize; 4]>::try_from(frames.shape.clone())
                .map_err(|shape| format!("`frames` has the shape {shape:?}, expected [T, P, H, W]"))?;
            let counts: Vec<f32> = frames.numbers()?.into_iter().map(|number| number as f32).collect();
            if let Some(count) = counts.iter().find(|count| !(count.is_finite() && **count >= 0.0)) {
                return Err(format!("`frames` has the value {count}, expected counts"));
            }
            let frames = Frames::new(counts, dims).map_err(|error| error.to_string())?;
            return Ok(vec![(Recording::Frames(frames), None)]);
        }
        let mut column = |name: &str| -> Result<Vec<f64>> {
            let array = array(name)?
                .ok_or_else(|| format!("it has no array `{name}`; expected `t`, `x`, `y` and `p`, or `frames`"))?;
            if array.shape.len() != 1 {
                return Err(format!("`{name}` has the shape {:?}, expected [N]", array.shape));
            }
            array.numbers()
        };
        let (t, x, y, p) = (column("t")?, column("x")?, column("y")?, column("p")?);
        let events = Events {
            t: whole(&t, "t")?,
            x: whole(&x, "x")?,
            y: whole(&y, "y")?,
            p: whole(&p, "p")?,
            n_polarities: 2,
            ..Events::default()
        };
        Ok(one(Events::checked(events, None, options)?))
    }
}

/// Numbers that have to be whole and of the type's range.
fn whole<T: TryFrom<i64>>(numbers: &[f64], name: &str) -> Result<Vec<T>> {
    let one = |(i, number): (usize, &f64)| {
        // Larger ones are no longer exact in `f64`; as microseconds they are 285 years.
        let is_exact = number.fract() == 0.0 && number.abs() <= (1i64 << 53) as f64;
        let value = is_exact.then(|| T::try_from(*number as i64).ok()).flatten();
        value.ok_or_else(|| format!("`{name}` has the value {number} at {i}, which is out of range"))
    };
    numbers.iter().enumerate().map(one).collect()
}

/// An array of NumPy.
struct Array {
    kind: Kind,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Array {
    /// Format 1 to 3 of `.npy`: a magic word, two bytes of version, the length of the description, the description.
    fn parse(bytes: &[u8]) -> Result<Self> {
        let cut = || "is cut off".to_owned();
        let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("is no array of NumPy")?;
        let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
        let (length, rest) = match version[0] {
            1 => rest.split_first_chunk().map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest)),
            _ => rest.split_first_chunk().map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest)),
        }
        .ok_or_else(cut)?;
        let (text, data) = rest.split_at_checked(length.min(MAX_HEADER + 1)).ok_or_else(cut)?;
        let text = String::from_utf8_lossy(text);
        let wrong = || format!("has the description `{}`, which is not read", shown(text.trim_end()));
        let after = |key: &str| text.split_once(&format!("'{key}':")).map(|(_, value)| value.trim_start());
        let descr = after("descr").and_then(|value| value.split('\'').nth(1)).ok_or_else(wrong)?;
        let (order, code) = descr.split_at_checked(1).ok_or_else(wrong)?;
        let (kind, width) = code.split_at_checked(1).ok_or_else(wrong)?;
        let (kind, width): (u8, usize) = (kind.as_bytes()[0], width.parse().map_err(|_| wrong())?);
        let is_known = matches!((kind, width), (b'i' | b'u', 1 | 2 | 4 | 8) | (b'f', 4 | 8) | (b'b', 1));
        let is_ordered = after("fortran_order").is_some_and(|value| value.starts_with("False"));
        let shape = after("shape").and_then(|value| value.strip_prefix('(')?.split_once(')')).ok_or_else(wrong)?.0;
        let sides = shape.split(',').map(str::trim).filter(|side| !side.is_empty());
        let shape: Vec<usize> = sides.map(|side| side.parse().map_err(|_| wrong())).collect::<Result<_>>()?;
        if !is_known || !(is_ordered || shape.len() == 1) || !["<", ">", "|", "="].contains(&order) {
            return Err(wrong());
        }
        let n_bytes = shape.iter().try_fold(width, |n, side| n.checked_mul(*side));
        if n_bytes != Some(data.len()) {
            return Err(format!("has {} bytes, but its shape is {shape:?} of {width} bytes each", data.len()));
        }
        let kind = Kind { is_float: kind == b'f', is_signed: kind == b'i', width, is_big: order == ">" };
        Ok(Self { kind, shape, data: data.to_vec() })
    }

    fn numbers(&self) -> Result<Vec<f64>> {
        if self.data.len() / self.kind.width > 2 * MAX_EVENTS {
            return Err(format!("it has more than {} numbers", 2 * MAX_EVENTS));
        }
        Ok(self.kind.numbers(&self.data))
    }
}
