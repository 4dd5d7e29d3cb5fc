//! `.bin` of N-MNIST and N-Caltech101 (Orchard et al., "Converting Static Image Datasets to Spiking Neuromorphic Datasets
//! Using Saccades", Frontiers in Neuroscience 2015): five bytes an event.

use std::path::Path;

use super::{Format, Read, one};
use crate::events::{EventOptions, Events};

pub(super) struct Bin;

/// An event in this row says that the clock ran over, and nothing else.
const OVERFLOW_ROW: u8 = 240;
/// Microseconds that the authors' reader adds for it.
const OVERFLOW: i64 = 1 << 13;

impl Format for Bin {
    fn name(&self) -> &'static str {
        "a whole `.bin` file of N-MNIST or N-Caltech101"
    }

    fn takes(&self, _bytes: &[u8], path: &Path) -> bool {
        crate::formats::ends_in(path, "bin")
    }

    /// Column, row, and 24 bits, big-endian: on or off, and 23 bits of microseconds.
    fn read(&self, bytes: &[u8], options: &EventOptions) -> Read {
        if !bytes.len().is_multiple_of(5) {
            return Err(format!("its {} bytes end within an event of 5 bytes", bytes.len()));
        }
        let mut events = Events { n_polarities: 2, ..Events::default() };
        let mut before = 0;
        for event in bytes.chunks_exact(5) {
            if event[1] == OVERFLOW_ROW {
                before += OVERFLOW;
                continue;
            }
            let time = u32::from_be_bytes([0, event[2] & 0x7f, event[3], event[4]]);
            events.t.push(before + i64::from(time));
            events.x.push(u16::from(event[0]));
            events.y.push(u16::from(event[1]));
            events.p.push(event[2] >> 7);
        }
        Ok(one(Events::checked(events, None, options)?))
    }
}
