//! AEDAT 3.1 as in DVS128 Gesture: lines of text, then packets, little-endian; and the labels beside it.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Format, Read, header, one, shown, take};
use crate::error::{Error, Result};
use crate::events::{EventOptions, Events, MAX_EVENTS};

pub(super) struct Aedat3;

/// Cameras by a word of their name, and their sensors.
const SOURCES: [(&str, (usize, usize)); 3] =
    [("DVS128", (128, 128)), ("DAVIS240", (180, 240)), ("DAVIS346", (260, 346))];
/// The type of a packet of polarity events, and the bytes of one.
const POLARITY: u16 = 1;
const EVENT: u32 = 8;

impl Format for Aedat3 {
    fn name(&self) -> &'static str {
        "a whole AEDAT 3.1 file"
    }

    fn takes(&self, bytes: &[u8], _path: &Path) -> bool {
        bytes.starts_with(b"#!AER-DAT3.")
    }

    /// A packet is a head of 28 bytes (type, source, size of an event, place of its time, overflows of the clock, room,
    /// events, valid ones) and its events. One of a polarity is a word (bit 0 valid, bit 1 on, 15 bits of the row, 15 of
    /// the column) and its microseconds, to which each overflow of the clock adds 2^31.
    fn read(&self, bytes: &[u8], options: &EventOptions) -> Read {
        let (text, mut data) = header(bytes, 1);
        if !text.trim_end().ends_with("#!END-HEADER") {
            return Err("it ends within the text at its start, or has no line `#!END-HEADER`".into());
        }
        let entry = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        if let Some(format) = entry("#Format:").filter(|format| *format != "RAW") {
            return Err(format!("its packets are `{}`; only `RAW` ones are read", shown(format)));
        }
        let source = entry("#Source 1:").unwrap_or_default();
        let sensor = SOURCES.into_iter().find(|(name, _)| source.contains(name)).map(|(_, sensor)| sensor);
        if sensor.is_none() && options.sensor.is_none() {
            let known = SOURCES.map(|(name, _)| name).join(", ");
            return Err(format!(
                "its camera is `{}`, expected one of {known}; say its size with `sensor`",
                shown(source)
            ));
        }
        let mut events = Events { n_polarities: 2, ..Events::default() };
        for packet in 0.. {
            if data.is_empty() {
                break;
            }
            let cut = || format!("it ends within packet {packet}");
            let head = take::<28>(&mut data).ok_or_else(cut)?;
            let kind = u16::from_le_bytes([head[0], head[1]]);
            let word = |i: usize| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
            let (size, overflows, room, number) = (word(4), word(12), word(16), word(20));
            let n_bytes = usize::try_from(u64::from(size) * u64::from(room)).unwrap_or(usize::MAX);
            let content = data.get(..n_bytes).ok_or_else(cut)?;
            data = &data[n_bytes..];
            if kind != POLARITY {
                continue;
            }
            if size != EVENT || number > room {
                return Err(format!(
                    "packet {packet} has {number} events of {size} bytes in room for {room}, expected {EVENT} bytes each"
                ));
            }
            if overflows > i32::MAX as u32 {
                return Err(format!("packet {packet} claims that the clock ran over {overflows} times"));
            }
            if events.t.len() + number as usize > MAX_EVENTS {
                return Err(format!("it has more than {MAX_EVENTS} events"));
            }
            for event in content.chunks_exact(EVENT as usize).take(number as usize) {
                let word = |at: usize| u32::from_le_bytes([event[at], event[at + 1], event[at + 2], event[at + 3]]);
                let (data, time) = (word(0), word(4));
                // The file itself says that it means nothing.
                if data & 1 == 0 {
                    continue;
                }
                if time >= 1 << 31 {
                    return Err(format!("an event of packet {packet} has the time {time}, expected less than 2^31"));
                }
                events.t.push(i64::from(overflows) << 31 | i64::from(time));
                events.x.push((data >> 17) as u16);
                events.y.push((data >> 2 & 0x7fff) as u16);
                events.p.push((data >> 1 & 1) as u8);
            }
        }
        Ok(one(Events::checked(events, sensor, options)?))
    }
}

/// `NAME_labels.csv` beside `NAME.aedat`, if it is there.
pub(in crate::events) fn labels_beside(recording: &Path) -> Option<PathBuf> {
    let name = format!("{}_labels.csv", recording.file_stem()?.to_str()?);
    Some(recording.with_file_name(name)).filter(|path| path.is_file())
}

/// What DVS128 Gesture's labels say: class (from 0; the file counts from 1), begin and end in microseconds.
pub(in crate::events) fn gesture_labels(path: &Path) -> Result<Vec<(u32, i64, i64)>> {
    let text = fs::read_to_string(path).map_err(|source| Error::Io {
        path: path.to_path_buf(),
        doing: "read the labels",
        source,
    })?;
    let wrong = |line: usize, found: &str| Error::Csv {
        path: path.to_path_buf(),
        reason: format!("line {line} is `{found}`, expected `class,startTime_usec,endTime_usec` with a class from 1"),
    };
    let mut labels = Vec::new();
    for (i, line) in text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty()) {
        let numbers: Vec<i64> = line.split(',').map_while(|word| word.trim().parse().ok()).collect();
        let [class, from, to] = numbers[..] else { return Err(wrong(i + 1, line)) };
        let label = u32::try_from(class - 1).ok().filter(|_| from < to).ok_or_else(|| wrong(i + 1, line))?;
        labels.push((label, from, to));
    }
    Ok(labels)
}
