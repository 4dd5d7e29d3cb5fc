//! Event files, read back by a decoder of our own and compared with bytes worked by hand.

use std::fs;
use std::path::Path;

use lmht_train::Error;
use lmht_train::tensorboard::EventWriter;

/// crc32c bit by bit, from its polynomial: shares nothing with the crate that the writer uses.
fn masked_crc_of(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    mask(!crc)
}

fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Event {
    wall_time: f64,
    step: u64,
    file_version: Option<String>,
    pub(crate) scalar: Option<(String, f32)>,
}

/// Splits a file into records and checks both checksums of each.
fn payloads(bytes: &[u8]) -> Vec<&[u8]> {
    let u32_at = |i: usize| u32::from_le_bytes(bytes[i..i + 4].try_into().expect("four bytes"));
    let (mut at, mut payloads) = (0, Vec::new());
    while at < bytes.len() {
        let length = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")) as usize;
        assert_eq!(u32_at(at + 8), masked_crc_of(&bytes[at..at + 8]), "checksum of the length at byte {at}");
        let payload = &bytes[at + 12..at + 12 + length];
        assert_eq!(u32_at(at + 12 + length), masked_crc_of(payload), "checksum of the payload at byte {at}");
        payloads.push(payload);
        at += length + 16;
    }
    payloads
}

enum Value<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        number |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return number;
        }
    }
}

/// The fields of a protocol buffer.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Value<'_>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut bytes)),
            1 => {
                let (head, tail) = bytes.split_at(8);
                bytes = tail;
                Value::Fixed64(head.try_into().expect("eight bytes"))
            }
            2 => {
                let length = varint(&mut bytes) as usize;
                let (head, tail) = bytes.split_at(length);
                bytes = tail;
                Value::Bytes(head)
            }
            5 => {
                let (head, tail) = bytes.split_at(4);
                bytes = tail;
                Value::Fixed32(head.try_into().expect("four bytes"))
            }
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, value));
    }
    fields
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.into()).expect("UTF-8")
}

fn decode(payload: &[u8]) -> Event {
    let mut event = Event::default();
    for (field, value) in fields(payload) {
        match (field, value) {
            (1, Value::Fixed64(bytes)) => event.wall_time = f64::from_le_bytes(bytes),
            (2, Value::Varint(step)) => event.step = step,
            (3, Value::Bytes(version)) => event.file_version = Some(text(version)),
            (5, Value::Bytes(summary)) => {
                for (field, value) in fields(summary) {
                    let (1, Value::Bytes(value)) = (field, value) else { panic!("summary field {field}") };
                    let mut scalar = (String::new(), f32::INFINITY);
                    for (field, value) in fields(value) {
                        match (field, value) {
                            (1, Value::Bytes(tag)) => scalar.0 = text(tag),
                            (2, Value::Fixed32(bytes)) => scalar.1 = f32::from_le_bytes(bytes),
                            (field, _) => panic!("value field {field}"),
                        }
                    }
                    assert!(event.scalar.replace(scalar).is_none(), "one scalar per event");
                }
            }
            (field, _) => panic!("event field {field}"),
        }
    }
    event
}

pub(crate) fn read(path: &Path) -> Vec<Event> {
    payloads(&fs::read(path).expect("the event file")).into_iter().map(decode).collect()
}

#[test]
fn the_checksum_of_these_tests_is_the_published_one() {
    // Our own checksum, with a vector of RFC 3720, B.4.
    let counting: Vec<u8> = (0..32).collect();
    assert_eq!(masked_crc_of(&counting), mask(0x46dd_794e));
}

#[test]
fn a_record_byte_for_byte() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let mut events = EventWriter::create(dir.path())?;
    let before = fs::metadata(events.path())?.len() as usize;
    events.scalar_at("a", 300, 0.5, 2.)?;
    events.flush()?;
    let bytes = fs::read(events.path())?;
    #[rustfmt::skip]
    let payload = [
        0x09, 0, 0, 0, 0, 0, 0, 0, 0x40,     // field 1, 64 bits: 2.0
        0x10, 0xac, 0x02,                    // field 2, varint: 300 = 2 · 128 + 44
        0x2a, 0x0a,                          // field 5, 10 bytes: the summary
        0x0a, 0x08,                          //   field 1, 8 bytes: its value
        0x0a, 0x01, b'a',                    //     field 1, 1 byte: the tag
        0x15, 0, 0, 0, 0x3f,                 //     field 2, 32 bits: 0.5
    ];
    let mut expected = vec![24, 0, 0, 0, 0, 0, 0, 0];
    expected.extend(masked_crc_of(&expected).to_le_bytes());
    expected.extend(payload);
    expected.extend(masked_crc_of(&payload).to_le_bytes());
    assert_eq!(bytes[before..], expected);
    Ok(())
}

#[test]
fn every_record_is_read_back() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let run = dir.path().join("runs/one");
    let mut events = EventWriter::create(&run)?;
    let steps = [0, 1, 127, 128, 16_384, u64::from(u32::MAX) + 1, i64::MAX as u64];
    let long_tag = "loss/".repeat(60);
    for (i, &step) in steps.iter().enumerate() {
        events.scalar_at(&long_tag, step, i as f64 / 3., 1000. + i as f64)?;
    }
    events.scalar_at("θ", 5, f64::NAN, 1.)?;
    events.scalar("now", 0, 0.)?;
    let path = events.path().to_path_buf();
    drop(events);

    let read = read(&path);
    assert_eq!(read.len(), steps.len() + 3);
    assert_eq!(read[0].file_version.as_deref(), Some("brain.Event:2"));
    assert!(read[0].scalar.is_none());
    for (i, event) in read[1..=steps.len()].iter().enumerate() {
        let scalar = Some((long_tag.clone(), (i as f64 / 3.) as f32));
        assert_eq!(*event, Event { wall_time: 1000. + i as f64, step: steps[i], file_version: None, scalar });
    }
    let [nan, now] = &read[steps.len() + 1..] else { panic!("two more") };
    let (tag, value) = nan.scalar.as_ref().expect("a scalar");
    assert!(tag == "θ" && value.is_nan());
    // A zero is there, not left out.
    assert_eq!(now.scalar, Some(("now".into(), 0.)));
    // Between 2020 and 2100: seconds, since 1970.
    assert!(now.wall_time > 1.577e9 && now.wall_time < 4.1e9, "{}", now.wall_time);
    assert!(now.wall_time >= read[0].wall_time);

    let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
    let rest = name.strip_prefix("events.out.tfevents.").expect("the prefix that TensorBoard looks for");
    let (seconds, host) = rest.split_once('.').expect("seconds and host");
    assert_eq!(seconds.parse::<u64>()?, read[0].wall_time as u64);
    assert!(!host.is_empty());
    Ok(())
}

#[test]
fn writers_of_one_second_have_files_of_their_own() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let mut writers = (0..3).map(|_| EventWriter::create(dir.path())).collect::<Result<Vec<_>, _>>()?;
    for (i, writer) in writers.iter_mut().enumerate() {
        writer.scalar("i", i as u64, i as f64)?;
        writer.flush()?;
    }
    assert_eq!(fs::read_dir(dir.path())?.count(), 3);
    for (i, writer) in writers.iter().enumerate() {
        assert_eq!(read(writer.path())[1].scalar, Some(("i".into(), i as f32)));
    }
    Ok(())
}

#[test]
fn errors_name_the_path_and_the_scalar() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("file");
    fs::write(&file, "")?;
    let error = EventWriter::create(&file).expect_err("a file is no folder");
    assert!(matches!(&error, Error::EventFile { path, .. } if *path == file));
    assert!(error.to_string().starts_with(&format!("{}: cannot make the folder: ", file.display())), "{error}");

    let mut events = EventWriter::create(dir.path())?;
    let error = events.scalar("", 0, 1.).unwrap_err();
    assert!(error.to_string().contains("a tag that is not empty"), "{error}");
    let error = events.scalar("loss", u64::MAX, 1.).unwrap_err();
    assert!(error.to_string().contains("\"loss\" at step 18446744073709551615"), "{error}");
    // Neither has left half a record.
    events.flush()?;
    assert_eq!(read(events.path()).len(), 1);
    Ok(())
}
