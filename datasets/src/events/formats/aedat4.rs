//! AEDAT 4 (iniVation's DV): a head that names the streams, then packets, each a flatbuffer that may be compressed.

use std::io::Read as _;
use std::path::Path;

use super::{Format, Read, one, take};
use crate::events::{EventOptions, Events, MAX_EVENTS};

pub(super) struct Aedat4;

/// Bytes that a packet may become; DV writes a few thousand events into one.
const MAX_PACKET: usize = 1 << 26;
/// Bytes of an event in a flatbuffer: time, column, row, polarity, and three of nothing.
const EVENT: usize = 16;

impl Format for Aedat4 {
    fn name(&self) -> &'static str {
        "a whole AEDAT 4 file"
    }

    fn takes(&self, bytes: &[u8], _path: &Path) -> bool {
        bytes.starts_with(b"#!AER-DAT4.")
    }

    fn read(&self, bytes: &[u8], options: &EventOptions) -> Read {
        let mut rest = bytes.get(14..).ok_or("it ends within its first line")?;
        let size = take(&mut rest).map(u32::from_le_bytes).ok_or("it ends within its head")? as usize;
        let head = rest.get(..size).ok_or("it ends within its head")?;
        rest = &rest[size..];
        let damaged = || "its head is damaged".to_owned();
        let head = Flat::new(head).ok_or_else(damaged)?;
        let compression = head.number::<4>(0).map_or(0, i32::from_le_bytes);
        let table = head.number::<8>(1).map_or(-1, i64::from_le_bytes);
        let info = head.text(2).ok_or_else(damaged)?;
        let (stream, sensor) = event_stream(&info)?;
        // The packets end where the table of their places begins; a file that was cut off has none.
        if let Ok(at) = usize::try_from(table) {
            let start = bytes.len() - rest.len();
            let n_packets = at.checked_sub(start).filter(|n| *n <= rest.len());
            rest = &rest
                [..n_packets.ok_or_else(|| format!("its table of packets should be at byte {at}: it is cut off"))?];
        }
        let mut events = Events { n_polarities: 2, ..Events::default() };
        for packet in 0.. {
            if rest.is_empty() {
                break;
            }
            let cut = || format!("it ends within packet {packet}");
            let found = take(&mut rest).map(i32::from_le_bytes).ok_or_else(cut)?;
            let size = take(&mut rest).map(i32::from_le_bytes).ok_or_else(cut)?;
            let content = usize::try_from(size).ok().and_then(|size| rest.split_at_checked(size)).ok_or_else(cut)?;
            rest = content.1;
            if found == stream {
                let content = inflate(content.0, compression).map_err(|reason| format!("packet {packet} {reason}"))?;
                append(&content, &mut events).ok_or_else(|| format!("packet {packet} is no packet of events"))?;
                if events.t.len() > MAX_EVENTS {
                    return Err(format!("it has more than {MAX_EVENTS} events"));
                }
            }
        }
        Ok(one(Events::checked(events, Some(sensor), options)?))
    }
}

/// The number of the first stream of events, and (height, width) of its sensor, from the XML in the head.
fn event_stream(info: &str) -> std::result::Result<(i32, (usize, usize)), String> {
    // Every stream is a node `<node name="0" path="/mainloop/Recorder/outInfo/0/">` with its attributes inside.
    let mut streams =
        info.split("<node name=\"").filter(|node| node.contains("/outInfo/") && !node.starts_with("outInfo"));
    let attribute = |node: &str, key: &str| {
        let at = node.find(&format!("key=\"{key}\""))?;
        let value = node[at..].split_once('>')?.1.split_once('<')?.0;
        Some(value.trim().to_owned())
    };
    let number = |node: &str| node.split('"').next().and_then(|name| name.parse().ok());
    let first = streams
        .find(|node| attribute(node, "typeIdentifier").as_deref() == Some("EVTS"))
        .and_then(number)
        .ok_or("it has no stream of events")?;
    let inside = format!("/outInfo/{first}/info/");
    let side = |key| {
        let node = info.split("<node name=\"").find(|node| node.contains(&inside));
        node.and_then(|node| attribute(node, key)).and_then(|value| value.parse().ok())
    };
    let sensor = side("sizeY").zip(side("sizeX")).ok_or("its stream of events has no sizeX and sizeY")?;
    Ok((first, sensor))
}

/// What a packet was before it was compressed, at most [`MAX_PACKET`] bytes.
fn inflate(packet: &[u8], compression: i32) -> std::result::Result<Vec<u8>, String> {
    fn all(reader: impl std::io::Read) -> std::io::Result<Vec<u8>> {
        let mut content = Vec::new();
        reader.take(MAX_PACKET as u64 + 1).read_to_end(&mut content)?;
        Ok(content)
    }
    let content = match compression {
        0 => Ok(packet.to_vec()),
        1 | 2 => all(lz4_flex::frame::FrameDecoder::new(packet)),
        3 | 4 => zstd::Decoder::new(packet).and_then(all),
        other => return Err(format!("is compressed in a way ({other}) that is not known")),
    };
    let content = content.map_err(|error| format!("cannot be decompressed ({error})"))?;
    if content.len() > MAX_PACKET {
        return Err(format!("becomes more than {MAX_PACKET} bytes"));
    }
    Ok(content)
}

/// Appends the events of a packet; nothing if it has another form.
fn append(packet: &[u8], events: &mut Events) -> Option<()> {
    let mut rest = packet;
    let size = take(&mut rest).map(u32::from_le_bytes)? as usize;
    let flat = Flat::new(rest.get(..size)?)?;
    for event in flat.vector(0, EVENT)?.chunks_exact(EVENT) {
        let mut event = event;
        events.t.push(i64::from_le_bytes(take(&mut event)?));
        events.x.push(u16::try_from(i16::from_le_bytes(take(&mut event)?)).ok()?);
        events.y.push(u16::try_from(i16::from_le_bytes(take(&mut event)?)).ok()?);
        events.p.push(event[0]);
    }
    Some(())
}

/// The root table of a flatbuffer.
struct Flat<'a> {
    bytes: &'a [u8],
    table: usize,
    /// Offsets of the fields in the table, two bytes each.
    fields: &'a [u8],
}

impl<'a> Flat<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let table = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
        let back = i32::from_le_bytes(*bytes.get(table..)?.first_chunk()?);
        let fields = bytes.get(usize::try_from(table as i64 - i64::from(back)).ok()?..)?;
        let size = u16::from_le_bytes(*fields.first_chunk()?);
        Some(Self { bytes, table, fields: fields.get(4..usize::from(size))? })
    }

    /// What follows the place of a field, if the table has it.
    fn field(&self, index: usize) -> Option<&'a [u8]> {
        let offset = u16::from_le_bytes(*self.fields.get(2 * index..)?.first_chunk()?);
        if offset == 0 {
            return None;
        }
        self.bytes.get(self.table + usize::from(offset)..)
    }

    fn number<const N: usize>(&self, index: usize) -> Option<[u8; N]> {
        self.field(index)?.first_chunk().copied()
    }

    /// The bytes of a vector whose elements have that many.
    fn vector(&self, index: usize, element: usize) -> Option<&'a [u8]> {
        let Some(field) = self.field(index) else { return Some(&[]) };
        let vector = field.get(u32::from_le_bytes(*field.first_chunk()?) as usize..)?;
        let n = u32::from_le_bytes(*vector.first_chunk()?) as usize;
        vector.get(4..4 + n.checked_mul(element)?)
    }

    fn text(&self, index: usize) -> Option<String> {
        Some(String::from_utf8_lossy(self.vector(index, 1)?).into_owned())
    }
}
