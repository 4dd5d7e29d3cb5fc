//! Any bytes as a PyTorch file: the archive, its pickle, the tensors, or the format before PyTorch 1.6. Also the pickle alone,
//! in an archive made for it, since few changes of a whole file get past the archive's checksums.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lmht_convert::checkpoint;

fuzz_target!(|bytes: &[u8]| {
    let read = match bytes.split_first() {
        Some((b'P' | 0x80, _)) => checkpoint::parse("fuzz.pth", bytes),
        Some((_, pickle)) => checkpoint::parse("fuzz.pth", &archive(pickle)),
        None => return,
    };
    if let Ok(checkpoint) = read {
        for (name, tensor) in &checkpoint.tensors {
            // Each tensor has the memory that its shape asks for.
            assert!(tensor.flatten_all().is_ok(), "{name}");
        }
    }
});

/// A stored archive of the pickle and two storages of 64 zero bytes: a valid file for every pickle that describes one.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    let entries: [(&str, &[u8]); 3] = [("a/data.pkl", pickle), ("a/data/0", &[0; 64]), ("a/data/1", &[0; 64])];
    for (name, data) in entries {
        // Version, flags, method (stored), time and date; checksum; both sizes; length of the name, none of extra fields.
        let mut fields = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        fields.extend(crc32(data).to_le_bytes());
        fields.extend((data.len() as u32).to_le_bytes());
        fields.extend((data.len() as u32).to_le_bytes());
        fields.extend((name.len() as u16).to_le_bytes());
        fields.extend([0; 2]);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&fields);
        directory.extend([0; 10]);
        directory.extend((file.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        file.extend(b"PK\x03\x04");
        file.extend(&fields);
        file.extend(name.as_bytes());
        file.extend(data);
    }
    let start = file.len() as u32;
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0\x03\0\x03\0");
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend([0; 2]);
    file
}

/// The checksum of zip archives, bit by bit.
fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}
