//! AEDAT 2 as in CIFAR10-DVS: lines of text, then eight bytes an event, an address and microseconds, big-endian.

use std::path::Path;

use super::{Format, Read, header, one};
use crate::events::{EventOptions, Events};

pub(super) struct Aedat2;

/// The sensor of CIFAR10-DVS.
const SENSOR: (usize, usize) = (128, 128);
/// The bit of an address that marks what is no event of a pixel: a signal from outside.
const SPECIAL: u32 = 1 << 15;

impl Format for Aedat2 {
    fn name(&self) -> &'static str {
        "a whole AEDAT 2 file of a DVS128"
    }

    fn takes(&self, bytes: &[u8], path: &Path) -> bool {
        // Files without the first line exist; their name tells.
        let is_named = crate::formats::ends_in(path, "aedat") && !bytes.is_empty() && !bytes.starts_with(b"#!");
        bytes.starts_with(b"#!AER-DAT2.") || is_named
    }

    /// Bits 1 to 7 of an address are the column, 8 to 14 the row, bit 0 is set for off; the picture lies on its side
    /// (SpikingJelly's `x = 127 - y, y = 127 - x`).
    fn read(&self, bytes: &[u8], options: &EventOptions) -> Read {
        let (text, data) = header(bytes);
        let chip = text.lines().find_map(|line| line.strip_prefix("# AEChip:")).map(str::trim);
        if let Some(chip) = chip.filter(|chip| !chip.contains("DVS128")) {
            return Err(format!("it was recorded by another camera, {chip}, whose addresses mean something else"));
        }
        if !data.len().is_multiple_of(8) {
            return Err(format!("its {} bytes after the text end within an event of 8 bytes", data.len()));
        }
        let mut events = Events { n_polarities: 2, ..Events::default() };
        for (i, event) in data.chunks_exact(8).enumerate() {
            let word = |at: usize| u32::from_be_bytes([event[at], event[at + 1], event[at + 2], event[at + 3]]);
            let (address, time) = (word(0), word(4) as i32);
            if address >= 1 << 16 {
                return Err(format!("event {i} has the address {address:#x}, which a DVS128 does not send"));
            }
            if address & SPECIAL != 0 {
                continue;
            }
            let (column, row) = (address >> 1 & 0x7f, address >> 8 & 0x7f);
            events.t.push(i64::from(time));
            events.x.push(127 - row as u16);
            events.y.push(127 - column as u16);
            events.p.push(1 - (address & 1) as u8);
        }
        Ok(one(Events::checked(events, Some(SENSOR), options)?))
    }
}
