//! AEDAT 2 of jAER, as in CIFAR10-DVS: lines of text, then eight bytes an event, an address and microseconds, big-endian.
//! What an address means is the camera's business (iniVation, "AEDAT 2.0").

use std::path::Path;

use super::{Format, Read, header, one, shown};
use crate::events::{EventOptions, Events};

pub(super) struct Aedat2;

/// The sensor of CIFAR10-DVS.
const DVS128: (usize, usize) = (128, 128);
/// DAVIS cameras by the number in their names.
const DAVIS: [(&str, (usize, usize)); 4] =
    [("128", (128, 128)), ("240", (180, 240)), ("346", (260, 346)), ("640", (480, 640))];
/// Those that a file may be of that names no camera, or one that is not known, if `sensor` says so; a DVS of 480x640 sends
/// other addresses.
const UNNAMED: [(usize, usize); 2] = [(180, 240), (260, 346)];
const SAY: &str = "if it is a DAVIS, say which with `sensor`, 180x240 or 260x346";
/// Bytes of an event.
const EVENT: usize = 8;

impl Format for Aedat2 {
    fn name(&self) -> &'static str {
        "a whole AEDAT 2 file of a DVS128 or a DAVIS"
    }

    fn takes(&self, bytes: &[u8], path: &Path) -> bool {
        // Files without the first line exist; their name tells.
        let is_named = crate::formats::ends_in(path, "aedat") && !bytes.is_empty() && !bytes.starts_with(b"#!");
        bytes.starts_with(b"#!AER-DAT2.") || is_named
    }

    fn read(&self, bytes: &[u8], options: &EventOptions) -> Read {
        let (text, data) = header(bytes, EVENT);
        let chip = text.lines().find_map(|line| line.strip_prefix("# AEChip:")).map(str::trim);
        let said = options.sensor.filter(|sensor| UNNAMED.contains(sensor)).map(Camera::Davis);
        let camera = match chip {
            Some(chip) => Camera::named(chip).or(said).ok_or_else(|| {
                let known = DAVIS.map(|(number, _)| format!("DAVIS{number}")).join(", ");
                let chip = shown(chip);
                format!(
                    "its camera is `{chip}`, expected one of DVS128, {known}; {SAY}, or export its events as AEDAT 4 or \
                     `.npz`"
                )
            })?,
            None => said.unwrap_or(Camera::Dvs128),
        };
        if !data.len().is_multiple_of(EVENT) {
            return Err(format!("its {} bytes after the text end within an event of {EVENT} bytes", data.len()));
        }
        let mut events = Events { n_polarities: 2, ..Events::default() };
        let mut time: Option<(u32, i64)> = None;
        for (i, event) in data.chunks_exact(EVENT).enumerate() {
            let word = |at: usize| u32::from_be_bytes([event[at], event[at + 1], event[at + 2], event[at + 3]]);
            // The clock has 32 bits: from one event to the next, of a pixel or not, it goes the shorter way around.
            let clock = word(4);
            let passed = |(last, time)| time + i64::from(clock.wrapping_sub(last) as i32);
            let now = time.map_or(i64::from(clock), passed);
            time = Some((clock, now));
            let wrong = |what: String| {
                let hint = if chip.is_none() { format!("; {SAY}") } else { String::new() };
                format!("event {i} {what}{hint}")
            };
            let Some((x, y, p)) = camera.pixel(word(0)).map_err(wrong)? else { continue };
            events.t.push(now);
            events.x.push(x);
            events.y.push(y);
            events.p.push(p);
        }
        Ok(one(Events::checked(events, Some(camera.sensor()), options)?))
    }
}

/// How the bits of an address are read.
#[derive(Clone, Copy)]
enum Camera {
    Dvs128,
    /// (height, width).
    Davis((usize, usize)),
}

impl Camera {
    /// The class of jAER: `ch.unizh.ini.jaer.chip.retina.DVS128`, `eu.seebetter.ini.chips.davis.Davis346red`.
    fn named(chip: &str) -> Option<Self> {
        let class = chip.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
        if class == "dvs128" {
            return Some(Self::Dvs128);
        }
        let rest = class.strip_prefix("davis")?;
        let number = &rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())];
        DAVIS.into_iter().find(|(known, _)| *known == number).map(|(_, sensor)| Self::Davis(sensor))
    }

    fn sensor(self) -> (usize, usize) {
        match self {
            Self::Dvs128 => DVS128,
            Self::Davis(sensor) => sensor,
        }
    }

    /// (x, y, p) of an event, from the upper left; none if it is not of a pixel.
    fn pixel(self, address: u32) -> Result<Option<(u16, u16, u8)>, String> {
        match self {
            // Bits 1 to 7 are the column, 8 to 14 the row, bit 0 is set for off, bit 15 for a signal from outside; the picture
            // of CIFAR10-DVS lies on its side (SpikingJelly's `x = 127 - y, y = 127 - x`).
            Self::Dvs128 => {
                if address >= 1 << 16 {
                    return Err(format!("has the address {address:#x}, which a DVS128 does not send"));
                }
                let (column, row) = (address >> 1 & 0x7f, address >> 8 & 0x7f);
                let is_pixel = address >> 15 == 0;
                Ok(is_pixel.then_some((127 - row as u16, 127 - column as u16, 1 - (address & 1) as u8)))
            }
            // Bit 11 is set for on, bits 12 to 21 are the column, counted from the right, 22 to 30 the row, from below
            // (jAER's `DavisBaseCamera`); bit 10 is set for a signal from outside, 31 for samples of pictures and of motion.
            Self::Davis((height, width)) => {
                if address & (1 << 31 | 1 << 10) != 0 {
                    return Ok(None);
                }
                let (column, row) = ((address >> 12 & 0x3ff) as usize, (address >> 22 & 0x1ff) as usize);
                if column >= width || row >= height {
                    return Err(format!(
                        "has the address {address:#x}, column {column} of row {row}, outside of the sensor of \
                         {height}x{width} pixels"
                    ));
                }
                Ok(Some(((width - 1 - column) as u16, (height - 1 - row) as u16, (address >> 11 & 1) as u8)))
            }
        }
    }
}
