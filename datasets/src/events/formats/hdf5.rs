//! HDF5 of the Spiking Heidelberg Digits (Cramer et al., "The Heidelberg Spiking Data Sets for the Systematic Evaluation of
//! Spiking Neural Networks", IEEE TNNLS 2022): `spikes/times` in seconds, `spikes/units`, `labels`, `extra/keys`.

use std::path::Path;

use hdf5_reader::{Datatype, Hdf5File, OpenOptions};

use super::numbers::{Kind, microseconds};
use super::{Format, Read, Recording};
use crate::events::{EventOptions, Events, MAX_EVENTS};

pub(super) struct Hdf5;

/// Channels of the cochlea.
const SENSOR: (usize, usize) = (1, 700);
/// Bytes that a read may decode at once.
const MAX_READ: usize = 1 << 30;

impl Format for Hdf5 {
    fn name(&self) -> &'static str {
        "a whole HDF5 file of SHD"
    }

    fn takes(&self, bytes: &[u8], _path: &Path) -> bool {
        bytes.starts_with(b"\x89HDF\r\n\x1a\n")
    }

    fn read(&self, bytes: &[u8], options: &EventOptions) -> Read {
        let file = open(bytes)?;
        let mut budget = bytes.len();
        let times = sequences(&file, "spikes/times", &mut budget)?;
        let units = sequences(&file, "spikes/units", &mut budget)?;
        let labels = numbers(&file, "labels")?;
        if times.len() != units.len() || times.len() != labels.len() {
            return Err(format!(
                "it has times of {} recordings, units of {} and labels of {}",
                times.len(),
                units.len(),
                labels.len()
            ));
        }
        let mut all = Vec::with_capacity(times.len());
        for (i, ((times, units), label)) in times.into_iter().zip(units).zip(labels).enumerate() {
            let wrong = |what: String| format!("recording {i} {what}");
            let t = times.iter().map(|time| microseconds(*time).map_err(wrong)).collect::<Result<Vec<_>, _>>()?;
            let unit = |unit: &f64| {
                let is_whole = unit.fract() == 0.0 && (0.0..=f64::from(u16::MAX)).contains(unit);
                is_whole.then_some(*unit as u16).ok_or_else(|| wrong(format!("has a spike of unit {unit}")))
            };
            let x = units.iter().map(unit).collect::<Result<Vec<_>, _>>()?;
            let is_label = label.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&label);
            let label = is_label.then_some(label as u32).ok_or_else(|| wrong(format!("has the label {label}")))?;
            let n = t.len();
            let events = Events { t, x, y: vec![0; n], p: vec![0; n], n_polarities: 1, ..Events::default() };
            let events = Events::checked(events, Some(SENSOR), options).map_err(wrong)?;
            all.push((Recording::Events(events), Some(label)));
        }
        Ok(all)
    }
}

/// `extra/keys`: the names of the classes, if the file has them.
pub(in crate::events) fn class_names(bytes: &[u8]) -> Option<Vec<String>> {
    open(bytes).ok()?.dataset("extra/keys").ok()?.read_strings().ok()
}

fn open(bytes: &[u8]) -> std::result::Result<Hdf5File, String> {
    let options = OpenOptions::default().with_max_read_bytes(MAX_READ);
    Hdf5File::from_bytes_with_options(bytes, options).map_err(|error| format!("it is damaged ({error})"))
}

/// A number for each recording.
fn numbers(file: &Hdf5File, name: &str) -> std::result::Result<Vec<f64>, String> {
    let wrong = |error: hdf5_reader::error::Error| format!("`{name}` is missing or damaged ({error})");
    let dataset = file.dataset(name).map_err(wrong)?;
    let kind = kind_of(dataset.dtype()).ok_or_else(|| format!("`{name}` holds no numbers"))?;
    let bytes = dataset.read_native_bytes().map_err(wrong)?;
    Ok(kind.numbers(&bytes))
}

/// A sequence of numbers for each recording; all of them take at most `budget` bytes, which are those of the file.
fn sequences(file: &Hdf5File, name: &str, budget: &mut usize) -> std::result::Result<Vec<Vec<f64>>, String> {
    let wrong = |error: hdf5_reader::error::Error| format!("`{name}` is missing or damaged ({error})");
    let dataset = file.dataset(name).map_err(wrong)?;
    let kind = match dataset.dtype() {
        Datatype::VarLen { base, .. } => kind_of(base),
        _ => None,
    };
    let kind = kind.ok_or_else(|| format!("`{name}` holds no sequences of numbers"))?;
    let too_much = || format!("`{name}` claims more than a file of this length can hold");
    if dataset.raw_byte_len().map_err(wrong)? > *budget {
        return Err(too_much());
    }
    let references = dataset.read_raw_bytes().map_err(wrong)?;
    let mut all = Vec::new();
    for reference in references.chunks_exact(dataset.vlen_reference_size().max(1)) {
        let bytes = dataset.resolve_vlen_reference_bytes(reference, kind.width).map_err(wrong)?;
        *budget = budget.checked_sub(bytes.len()).ok_or_else(too_much)?;
        if bytes.len() / kind.width > MAX_EVENTS {
            return Err(too_much());
        }
        all.push(kind.numbers(&bytes));
    }
    Ok(all)
}

/// Little-endian, as HDF5 is on every machine that SHD came from.
fn kind_of(datatype: &Datatype) -> Option<Kind> {
    let (is_float, is_signed, size) = match datatype {
        Datatype::FloatingPoint { size, .. } => (true, true, size),
        Datatype::FixedPoint { size, signed, .. } => (false, *signed, size),
        _ => return None,
    };
    let kind = Kind { is_float, is_signed, width: usize::from(*size), is_big: false };
    let widths: &[usize] = if is_float { &[2, 4, 8] } else { &[1, 2, 4, 8] };
    widths.contains(&kind.width).then_some(kind)
}
