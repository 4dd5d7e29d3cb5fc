//! Recordings in every format, made byte by byte.

use std::io::Write;

use hdf5_writer::{ByteOrder, DatasetBuilder, Datatype, Hdf5Builder, WriteOptions};

use crate::archive::{self, Entry, crc32, entry};

/// (t, x, y, p).
pub(crate) type Event = (i64, u16, u16, u8);

/// Four events on a small sensor, in order.
pub(crate) const EVENTS: [Event; 4] = [(100, 1, 2, 1), (150, 3, 0, 0), (150, 0, 5, 1), (400, 7, 6, 0)];

pub(crate) fn bin(events: &[Event]) -> Vec<u8> {
    let one = |&(t, x, y, p): &Event| {
        let word = (u32::from(p) << 23 | t as u32).to_be_bytes();
        [x as u8, y as u8, word[1], word[2], word[3]]
    };
    events.iter().flat_map(one).collect()
}

/// Of a camera that does not name its size, as in N-CARS.
pub(crate) fn dat(events: &[Event]) -> Vec<u8> {
    let mut bytes = b"% Data file containing Event2d events.\n% Version 2\n\x00\x08".to_vec();
    for &(t, x, y, p) in events {
        bytes.extend((t as u32).to_le_bytes());
        bytes.extend((u32::from(x) | u32::from(y) << 14 | u32::from(p) << 28).to_le_bytes());
    }
    bytes
}

/// As the camera sent them before the picture was turned.
pub(crate) fn aedat2(events: &[Event]) -> Vec<u8> {
    let mut bytes = b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n".to_vec();
    for &(t, x, y, p) in events {
        let address = u32::from(127 - x) << 8 | u32::from(127 - y) << 1 | u32::from(1 - p);
        bytes.extend(address.to_be_bytes());
        bytes.extend((t as i32).to_be_bytes());
    }
    bytes
}

/// As jAER writes those of a DAVIS346: counted from the lower right.
pub(crate) fn davis(events: &[Event]) -> Vec<u8> {
    let mut bytes =
        b"#!AER-DAT2.0\r\n# AEChip: eu.seebetter.ini.chips.davis.Davis346red\r\n#End Of ASCII Header\r\n".to_vec();
    for &(t, x, y, p) in events {
        let address = u32::from(259 - y) << 22 | u32::from(345 - x) << 12 | u32::from(p) << 11;
        bytes.extend(address.to_be_bytes());
        bytes.extend((t as u32).to_be_bytes());
    }
    bytes
}

/// An element of MATLAB's files, little-endian.
pub(crate) fn element(kind: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = [kind.to_le_bytes(), (content.len() as u32).to_le_bytes()].concat();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// A matrix of MATLAB: its class, its sides, the type of its numbers, and those.
pub(crate) fn matrix(name: &str, class: u32, dims: &[i32], kind: u32, values: &[u8]) -> Vec<u8> {
    let flags = [class.to_le_bytes(), 0u32.to_le_bytes()].concat();
    let dims: Vec<u8> = dims.iter().flat_map(|side| side.to_le_bytes()).collect();
    let name = match name.len() {
        // Type, length and content in eight bytes.
        n @ 1..=4 => [&(1 | (n as u32) << 16).to_le_bytes()[..], name.as_bytes(), &[0; 3][..4 - n]].concat(),
        _ => element(1, name.as_bytes()),
    };
    element(14, &[element(6, &flags), element(5, &dims), name, element(kind, values)].concat())
}

/// A file of MATLAB, with each element compressed or as it is.
pub(crate) fn matlab(elements: &[Vec<u8>], is_compressed: bool) -> Vec<u8> {
    let mut bytes = b"MATLAB 5.0 MAT-file, Platform: PCWIN64".to_vec();
    bytes.resize(124, b' ');
    bytes.extend(b"\0\x01IM");
    for element in elements {
        if !is_compressed {
            bytes.extend(element);
            continue;
        }
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(element).unwrap();
        let packed = encoder.finish().unwrap();
        bytes.extend([15u32.to_le_bytes(), (packed.len() as u32).to_le_bytes()].concat());
        bytes.extend(packed);
    }
    bytes
}

/// `spiketrain` of ST-MNIST: a column for each event.
pub(crate) fn spiketrain(events: &[Event]) -> Vec<u8> {
    let mut values = Vec::new();
    for &(t, x, y, p) in events {
        let mut column = [0.0; 101];
        column[usize::from(10 * y + x)] = if p == 1 { 1.0 } else { -1.0 };
        column[100] = t as f64 * 1e-6;
        values.extend(column.iter().flat_map(|value: &f64| value.to_le_bytes()));
    }
    matrix("spiketrain", 6, &[101, events.len() as i32], 9, &values)
}

/// The head of a packet of AEDAT 3.1.
pub(crate) fn head3(kind: u16, size: u32, overflows: u32, room: u32, number: u32) -> Vec<u8> {
    let mut bytes = [kind.to_le_bytes(), 1u16.to_le_bytes()].concat();
    for word in [size, 4, overflows, room, number, number] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

pub(crate) const HEADER3: &[u8] = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n";

/// A packet of something else first, then the events.
pub(crate) fn aedat3(events: &[Event]) -> Vec<u8> {
    let mut bytes = HEADER3.to_vec();
    bytes.extend(head3(0, 8, 0, 1, 1));
    bytes.extend([0; 8]);
    bytes.extend(head3(1, 8, 0, events.len() as u32, events.len() as u32));
    for &(t, x, y, p) in events {
        let data = u32::from(x) << 17 | u32::from(y) << 2 | u32::from(p) << 1 | 1;
        bytes.extend(data.to_le_bytes());
        bytes.extend((t as i32).to_le_bytes());
    }
    bytes
}

/// A flatbuffer whose root table has these fields in a row, each as it lies in the table, and what they point at.
fn flat(identifier: &[u8; 4], fields: &[&[u8]], after: &[u8]) -> Vec<u8> {
    let table: usize = fields.iter().map(|field| field.len()).sum::<usize>() + 4;
    // Root offset, identifier, the offsets of the fields, the table.
    let offsets = 4 + 2 * fields.len();
    let mut bytes = ((8 + offsets) as u32).to_le_bytes().to_vec();
    bytes.extend(identifier);
    bytes.extend((offsets as u16).to_le_bytes());
    bytes.extend((table as u16).to_le_bytes());
    let mut at = 4u16;
    for field in fields {
        bytes.extend(at.to_le_bytes());
        at += field.len() as u16;
    }
    bytes.extend((offsets as i32).to_le_bytes());
    bytes.extend(fields.concat());
    bytes.extend(after);
    bytes
}

/// How the packets of an AEDAT 4 file are compressed.
pub(crate) fn compress(compression: i32, bytes: &[u8]) -> Vec<u8> {
    match compression {
        0 => bytes.to_vec(),
        1 | 2 => {
            let mut out = lz4_flex::frame::FrameEncoder::new(Vec::new());
            out.write_all(bytes).unwrap();
            out.finish().unwrap()
        }
        _ => zstd::encode_all(bytes, 0).unwrap(),
    }
}

pub(crate) fn head4(compression: i32, sensor: (usize, usize)) -> Vec<u8> {
    let (h, w) = sensor;
    let info = format!(
        "<dv version=\"2.0\"><node name=\"outInfo\" path=\"/mainloop/Recorder/outInfo/\">\
         <node name=\"0\" path=\"/mainloop/Recorder/outInfo/0/\">\
         <attr key=\"typeIdentifier\" type=\"string\">EVTS</attr>\
         <node name=\"info\" path=\"/mainloop/Recorder/outInfo/0/info/\">\
         <attr key=\"sizeX\" type=\"int\">{w}</attr><attr key=\"sizeY\" type=\"int\">{h}</attr></node></node></node></dv>"
    );
    let mut text = (info.len() as u32).to_le_bytes().to_vec();
    text.extend(info.bytes());
    // The third field points past itself, where the text begins.
    let fields: [&[u8]; 3] = [&compression.to_le_bytes(), &(-1i64).to_le_bytes(), &4u32.to_le_bytes()];
    let head = flat(b"IOHE", &fields, &text);
    let mut bytes = b"#!AER-DAT4.0\r\n".to_vec();
    bytes.extend((head.len() as u32).to_le_bytes());
    bytes.extend(head);
    bytes
}

/// A packet of stream 0.
pub(crate) fn packet4(content: &[u8]) -> Vec<u8> {
    let mut bytes = 0i32.to_le_bytes().to_vec();
    bytes.extend((content.len() as i32).to_le_bytes());
    bytes.extend(content);
    bytes
}

/// One packet for every two events, and one of another stream between them.
pub(crate) fn aedat4(events: &[Event], compression: i32) -> Vec<u8> {
    let mut bytes = head4(compression, (8, 9));
    for some in events.chunks(2) {
        let mut vector = (some.len() as u32).to_le_bytes().to_vec();
        for &(t, x, y, p) in some {
            vector.extend(t.to_le_bytes());
            vector.extend(x.to_le_bytes());
            vector.extend(y.to_le_bytes());
            vector.extend([p, 0, 0, 0]);
        }
        let packet = flat(b"EVTS", &[&4u32.to_le_bytes()], &vector);
        let content = [&(packet.len() as u32).to_le_bytes()[..], &packet].concat();
        bytes.extend(packet4(&compress(compression, &content)));
        bytes.extend(3i32.to_le_bytes());
        bytes.extend(2i32.to_le_bytes());
        bytes.extend([1, 2]);
    }
    bytes
}

pub(crate) fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.bytes());
    bytes.extend(data);
    bytes
}

/// An archive as NumPy writes it, compressed or not.
pub(crate) fn archive(arrays: &[(&str, Vec<u8>)], is_compressed: bool) -> Vec<u8> {
    let deflate = |content: &[u8]| {
        let mut out = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        out.write_all(content).unwrap();
        out.finish().unwrap()
    };
    let deflated: Vec<_> = arrays.iter().map(|(_, content)| deflate(content)).collect();
    let entries = arrays.iter().zip(&deflated).map(|((name, content), deflated)| {
        let checksum = Some(crc32(content));
        match is_compressed {
            true => Entry { method: 8, claimed: Some(content.len() as u32), checksum, ..entry(name, deflated) },
            false => entry(name, content),
        }
    });
    archive::archive(&entries.collect::<Vec<_>>())
}

pub(crate) fn npz(events: &[Event], is_compressed: bool) -> Vec<u8> {
    let shape = format!("({},)", events.len());
    let column = |descr, data: Vec<Vec<u8>>| npy(descr, &shape, &data.concat());
    let entries = [
        ("t.npy", column("<i8", events.iter().map(|event| event.0.to_le_bytes().to_vec()).collect())),
        ("x.npy", column("<u2", events.iter().map(|event| event.1.to_le_bytes().to_vec()).collect())),
        ("y.npy", column(">i4", events.iter().map(|event| i32::from(event.2).to_be_bytes().to_vec()).collect())),
        ("p.npy", column("|b1", events.iter().map(|event| vec![event.3]).collect())),
    ];
    archive(&entries, is_compressed)
}

/// SHD: recordings of (seconds, unit), each with a label.
pub(crate) fn hdf5(recordings: &[(&[(f32, u16)], i64)]) -> Vec<u8> {
    let n = vec![recordings.len() as u64];
    let base = |size, is_float| match is_float {
        true => Datatype::FloatingPoint { size, byte_order: ByteOrder::LittleEndian },
        false => Datatype::FixedPoint { size, signed: false, byte_order: ByteOrder::LittleEndian },
    };
    let column = |of: &dyn Fn(&(f32, u16)) -> Vec<u8>| -> Vec<Vec<u8>> {
        recordings.iter().map(|(spikes, _)| spikes.iter().flat_map(of).collect()).collect()
    };
    let times = column(&|spike| spike.0.to_le_bytes().to_vec());
    let units = column(&|spike| spike.1.to_le_bytes().to_vec());
    let labels: Vec<i64> = recordings.iter().map(|(_, label)| *label).collect();
    let file = Hdf5Builder::new()
        .dataset(DatasetBuilder::vlen_sequence_data("spikes/times", base(4, true), n.clone(), times).unwrap())
        .dataset(DatasetBuilder::vlen_sequence_data("spikes/units", base(2, false), n.clone(), units).unwrap())
        .dataset(DatasetBuilder::typed_data("labels", n, &labels).unwrap());
    file.into_plan().unwrap().encode(WriteOptions::default()).unwrap()
}

/// One good file of each format with a name that it may have.
pub(crate) fn all() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("a.bin", bin(&EVENTS)),
        ("a.aedat", aedat2(&EVENTS)),
        ("davis.aedat", davis(&EVENTS)),
        ("a.dat", dat(&EVENTS)),
        ("b.aedat", aedat3(&EVENTS)),
        ("a.aedat4", aedat4(&EVENTS, 0)),
        ("lz4.aedat4", aedat4(&EVENTS, 1)),
        ("zstd.aedat4", aedat4(&EVENTS, 3)),
        ("a.npz", npz(&EVENTS, false)),
        ("b.npz", npz(&EVENTS, true)),
        ("a.mat", matlab(&[spiketrain(&EVENTS)], true)),
        ("b.mat", matlab(&[matrix("note", 4, &[1, 2], 4, b"h\0i\0"), spiketrain(&EVENTS)], false)),
        ("shd_test.h5", hdf5(&[(&[(0.5, 3), (0.25, 699)], 4), (&[(1.0, 0)], 0)])),
    ]
}
