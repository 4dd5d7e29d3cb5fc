//! `.dat` of Prophesee's cameras, as in N-CARS (Sironi et al., "HATS: Histograms of Averaged Time Surfaces for Robust
//! Event-based Object Classification", CVPR 2018): lines that begin with `%`, then eight bytes an event, little-endian.

use std::path::Path;

use super::{Format, Read, one, take};
use crate::events::{EventOptions, Events};

pub(super) struct Dat;

/// How every such file starts.
const START: &[u8] = b"% Data file containing ";
/// The numbers of an event from a pixel: Prophesee's own, and its "contrast detection".
const KINDS: [u8; 2] = [0, 12];

impl Format for Dat {
    fn name(&self) -> &'static str {
        "a whole `.dat` file of version 2 of a Prophesee camera"
    }

    fn takes(&self, bytes: &[u8], _path: &Path) -> bool {
        bytes.starts_with(START)
    }

    /// Microseconds, then from the lowest bit on 14 for the column, 14 for the row, and one that is set for on.
    fn read(&self, bytes: &[u8], options: &EventOptions) -> Read {
        let mut data = bytes;
        let (mut version, mut height, mut width) = (None, None, None);
        while data.starts_with(b"%") {
            let end = data.iter().position(|byte| *byte == b'\n').ok_or("it ends within the lines at its start")?;
            let line = String::from_utf8_lossy(&data[1..end]);
            let mut words = line.split_whitespace();
            let (key, number) = (words.next(), words.next().and_then(|word| word.parse::<usize>().ok()));
            match key {
                Some("Version") => version = number,
                Some("Height") => height = number,
                Some("Width") => width = number,
                _ => {}
            }
            data = &data[end + 1..];
        }
        if version != Some(2) {
            let found = version.map_or("none".to_owned(), |version| version.to_string());
            return Err(format!(
                "expected a line `% Version 2`, found {found}; others pack their events in another way"
            ));
        }
        let [kind, size] = take(&mut data).ok_or("it ends before the kind of its events")?;
        if !KINDS.contains(&kind) || size != 8 {
            return Err(format!("its events are of kind {kind} and {size} bytes, expected kind 0 or 12 and 8 bytes"));
        }
        if !data.len().is_multiple_of(8) {
            return Err(format!("its {} bytes after the start end within an event of 8 bytes", data.len()));
        }
        let mut events = Events { n_polarities: 2, ..Events::default() };
        while let (Some(time), Some(place)) = (take(&mut data), take(&mut data)) {
            let place = u32::from_le_bytes(place);
            events.t.push(i64::from(u32::from_le_bytes(time)));
            events.x.push((place & 0x3fff) as u16);
            events.y.push((place >> 14 & 0x3fff) as u16);
            events.p.push((place >> 28 & 1) as u8);
        }
        Ok(one(Events::checked(events, height.zip(width), options)?))
    }
}
