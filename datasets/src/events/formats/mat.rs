//! MATLAB's `.mat` of ST-MNIST (See et al., "ST-MNIST: The Spiking Tactile MNIST Neuromorphic Dataset", 2020): a matrix
//! `spiketrain`, 101 x N, a row for each of 10x10 taxels and one for the time in seconds.
//!
//! Read here and not by a library: those that there are put no bound on what a compressed element becomes, and refuse a
//! file for whatever else lies in it.

use std::io::Read as _;
use std::path::Path;

use flate2::read::ZlibDecoder;

use super::numbers::{Kind, microseconds};
use super::{Format, Read, one, shown};
use crate::events::{EventOptions, Events, MAX_EVENTS};

pub(super) struct Mat;

/// The sensor of ST-MNIST.
const SENSOR: (usize, usize) = (10, 10);
const N_TAXELS: usize = SENSOR.0 * SENSOR.1;
const N_ROWS: usize = N_TAXELS + 1;
/// The matrix.
const NAME: &str = "spiketrain";

/// Bytes of the text, the version and the order of bytes at the start.
const HEADER: usize = 128;
/// Types of elements.
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
/// The bit of a matrix's flags that marks it as complex, and its classes of numbers.
const COMPLEX: u32 = 1 << 11;
const CLASSES: std::ops::RangeInclusive<u32> = 6..=15;
/// Bytes that compressed elements may become, all of them: recordings have a few thousand columns, this is 80,000.
const MAX_CONTENT: usize = 1 << 26;
/// Matrices whose names are told.
const MAX_NAMES: usize = 10;

type Result<T> = std::result::Result<T, String>;

impl Format for Mat {
    fn name(&self) -> &'static str {
        "a whole MATLAB file of ST-MNIST"
    }

    fn takes(&self, bytes: &[u8], path: &Path) -> bool {
        bytes.starts_with(b"MATLAB ") || crate::formats::ends_in(path, "mat")
    }

    /// Every value that is not 0 is an event: 1 is on, -1 off; taxel i is column i mod 10 of row i div 10.
    fn read(&self, bytes: &[u8], options: &EventOptions) -> Read {
        let (kind, matrix) = spiketrain(bytes)?;
        let mut events = Events { n_polarities: 2, ..Events::default() };
        for (column, values) in matrix.chunks_exact(N_ROWS * kind.width).enumerate() {
            let values = kind.numbers(values);
            let (spikes, time) = (&values[..N_TAXELS], values[N_TAXELS]);
            let wrong = |what: String| format!("column {column} of `{NAME}` {what}");
            if events.t.len() + N_TAXELS > MAX_EVENTS {
                return Err(format!("it has more than {MAX_EVENTS} events"));
            }
            for (taxel, spike) in spikes.iter().enumerate().filter(|(_, spike)| **spike != 0.0) {
                if spike.abs() != 1.0 {
                    return Err(wrong(format!("has the value {spike} for taxel {taxel}, expected -1, 0 or 1")));
                }
                events.t.push(microseconds(time).map_err(wrong)?);
                events.x.push((taxel % SENSOR.1) as u16);
                events.y.push((taxel / SENSOR.1) as u16);
                events.p.push(u8::from(*spike > 0.0));
            }
        }
        Ok(one(Events::checked(events, Some(SENSOR), options)?))
    }
}

/// The numbers of the matrix, one column after the other.
fn spiketrain(bytes: &[u8]) -> Result<(Kind, Vec<u8>)> {
    if bytes.starts_with(b"MATLAB 7.3") {
        return Err("it is of version 7.3, which is HDF5; save it with `-v7`".into());
    }
    match bytes.get(HEADER - 2..HEADER) {
        Some(b"IM") => {}
        Some(b"MI") => return Err("its numbers are big-endian; load it with MATLAB or scipy and save it again".into()),
        _ => return Err(format!("its {} bytes do not start like a file of MATLAB's versions 5 to 7", bytes.len())),
    }
    let mut names = Vec::new();
    let mut elements = Elements(&bytes[HEADER..]);
    let mut room = MAX_CONTENT;
    while let Some((kind, content)) = elements.take()? {
        let inflated;
        let content = match kind {
            MATRIX => Some(content),
            COMPRESSED => {
                inflated = inflate(content, room)?;
                room -= inflated.len();
                Elements(&inflated).take()?.filter(|(kind, _)| *kind == MATRIX).map(|(_, content)| content)
            }
            _ => None,
        };
        match content.map(Matrix::head).transpose()? {
            Some(matrix) if matrix.name == NAME => return matrix.columns(),
            Some(other) if names.len() < MAX_NAMES => names.push(format!("`{}`", other.name)),
            _ => {}
        }
    }
    let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Err(format!("it has no matrix `{NAME}`; of others it has {found}"))
}

/// An array of MATLAB.
struct Matrix<'a> {
    name: String,
    flags: u32,
    /// Four bytes each.
    dims: &'a [u8],
    /// What comes after.
    rest: Elements<'a>,
}

impl<'a> Matrix<'a> {
    fn head(content: &'a [u8]) -> Result<Self> {
        let mut rest = Elements(content);
        let mut part =
            |what: &str| Ok::<_, String>(rest.take()?.ok_or_else(|| format!("it has a matrix without {what}"))?.1);
        let (flags, dims, name) = (part("flags")?, part("dimensions")?, part("a name")?);
        Ok(Self {
            // Longer than names of MATLAB are.
            name: shown(&String::from_utf8_lossy(&name[..name.len().min(64)])),
            flags: flags.first_chunk().copied().map_or(0, u32::from_le_bytes),
            dims,
            rest,
        })
    }

    /// The numbers of a matrix of ST-MNIST, and their type.
    fn columns(mut self) -> Result<(Kind, Vec<u8>)> {
        if !CLASSES.contains(&(self.flags & 0xff)) || self.flags & COMPLEX != 0 {
            return Err(format!("`{NAME}` is no full matrix of real numbers"));
        }
        let (sides, []) = self.dims.as_chunks() else {
            return Err(format!("`{NAME}` has no whole dimensions"));
        };
        let &[rows, columns] = sides else {
            return Err(format!("`{NAME}` has {} dimensions, expected two", sides.len()));
        };
        let [rows, columns] = [rows, columns].map(|side| u32::from_le_bytes(side) as usize);
        if rows != N_ROWS {
            return Err(format!(
                "`{NAME}` is {rows} x {columns}, expected {N_ROWS} x N: {N_TAXELS} taxels and the time"
            ));
        }
        let (kind, values) = self.rest.take()?.ok_or_else(|| format!("`{NAME}` has no values"))?;
        let kind = numbers_of(kind).ok_or_else(|| format!("`{NAME}` holds no numbers (type {kind})"))?;
        let (n, width) = (values.len(), kind.width);
        if rows.checked_mul(columns).and_then(|n| n.checked_mul(width)) != Some(n) {
            return Err(format!("`{NAME}` has {n} bytes, but is {rows} x {columns} of {width} bytes each"));
        }
        Ok((kind, values.to_vec()))
    }
}

/// The type of numbers that an element has; MATLAB stores whole ones in fewer bytes than their class has.
fn numbers_of(kind: u32) -> Option<Kind> {
    let (is_float, is_signed, width) = match kind {
        1 => (false, true, 1),
        2 => (false, false, 1),
        3 => (false, true, 2),
        4 => (false, false, 2),
        5 => (false, true, 4),
        6 => (false, false, 4),
        7 => (true, true, 4),
        9 => (true, true, 8),
        12 => (false, true, 8),
        13 => (false, false, 8),
        _ => return None,
    };
    Some(Kind { is_float, is_signed, width, is_big: false })
}

fn inflate(bytes: &[u8], room: usize) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let wrong = |error| format!("an element of it cannot be decompressed ({error})");
    ZlibDecoder::new(bytes).take(room as u64 + 1).read_to_end(&mut content).map_err(wrong)?;
    if content.len() > room {
        return Err(format!("its elements become more than {MAX_CONTENT} bytes"));
    }
    Ok(content)
}

/// Elements in a row: a type, a number of bytes, and as many bytes, filled up to a multiple of 8; where there are at most 4,
/// number and type share a word and the bytes follow in the next.
struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    fn take(&mut self) -> Result<Option<(u32, &'a [u8])>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let cut = || "it ends within an element".to_owned();
        let word = |at: usize| self.0.get(at..).and_then(<[u8]>::first_chunk).copied().map(u32::from_le_bytes);
        let first = word(0).ok_or_else(cut)?;
        let (kind, start, n) = match first >> 16 {
            0 => (first, 8, word(4).ok_or_else(cut)? as usize),
            n if n <= 4 => (first & 0xffff, 4, n as usize),
            n => return Err(format!("it has an element of {n} bytes where 4 have room")),
        };
        let content = self.0[start..].get(..n).ok_or_else(cut)?;
        let end = match kind {
            // Compressed ones are not filled up.
            COMPRESSED => start + n,
            _ => (start + n).next_multiple_of(8),
        };
        // The last one may lack what fills it up.
        self.0 = self.0.get(end..).unwrap_or_default();
        Ok(Some((kind, content)))
    }
}
