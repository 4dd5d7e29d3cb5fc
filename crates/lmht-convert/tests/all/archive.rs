//! Zip archives byte by byte, for the tests of every crate: the writers of libraries refuse to write what is tested.

/// An entry, with what its header claims.
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a str,
    pub(crate) data: &'a [u8],
    pub(crate) method: u16,
    /// What the headers say of size and checksum of the content, where that is not what `data` has.
    pub(crate) claimed: Option<u32>,
    pub(crate) checksum: Option<u32>,
}

/// A stored entry.
pub(crate) fn entry<'a>(name: &'a str, data: &'a [u8]) -> Entry<'a> {
    Entry { name, data, method: 0, claimed: None, checksum: None }
}

pub(crate) fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for Entry { name, data, method, claimed, checksum } in entries {
        let stored = data.len() as u32;
        // Version, flags, method, time and date, checksum, both sizes, lengths of name and extra fields.
        let mut fields = vec![20, 0, 0, 0];
        fields.extend(method.to_le_bytes());
        fields.extend([0; 4]);
        fields.extend(checksum.unwrap_or_else(|| crc32(data)).to_le_bytes());
        fields.extend(if *method == 0 { claimed.unwrap_or(stored) } else { stored }.to_le_bytes());
        fields.extend(claimed.unwrap_or(stored).to_le_bytes());
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
        file.extend(*data);
    }
    let start = file.len() as u32;
    let n = entries.len() as u16;
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([n.to_le_bytes(), n.to_le_bytes()].concat());
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend([0; 2]);
    file
}

/// The checksum of zip archives and of PNG, bit by bit.
pub(crate) fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}
