//! A digest of every file of a folder, so that damage is seen before it is used.
//!
//! The file `SHA256SUMS` is what `sha256sum` writes and `sha256sum --check` reads: a line for each file, its digest in
//! hexadecimal, two spaces, its name.

use std::fmt::Write;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// The name of the file.
pub const FILE: &str = "SHA256SUMS";

/// The content of `SHA256SUMS` for files by name.
///
/// ```
/// let sums = lmht_nn::checksums::of(&[("state.json", b"abc")]);
/// assert_eq!(sums, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  state.json\n");
/// ```
pub fn of(files: &[(&str, &[u8])]) -> String {
    files.iter().map(|(name, bytes)| format!("{}  {name}\n", digest(bytes))).collect()
}

/// Whether the folder has a `SHA256SUMS`.
///
/// # Errors
/// [`Error::Read`] if that cannot be known.
pub fn exist(folder: &Path) -> Result<bool> {
    let list = folder.join(FILE);
    list.try_exists().map_err(Error::read(&list))
}

/// Checks the files `names` of a folder against its `SHA256SUMS`.
///
/// # Errors
/// [`Error::File`] names the first file that is damaged or not listed, [`Error::Read`] one that cannot be read or is missing.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use lmht_nn::checksums;
/// let folder = tempfile::tempdir()?;
/// std::fs::write(folder.path().join("state.json"), b"abc")?;
/// std::fs::write(folder.path().join(checksums::FILE), checksums::of(&[("state.json", b"abc")]))?;
/// checksums::verify(folder.path(), &["state.json"])?;
///
/// std::fs::write(folder.path().join("state.json"), b"abd")?;
/// assert!(checksums::verify(folder.path(), &["state.json"]).unwrap_err().to_string().contains("damaged"));
/// # Ok(()) }
/// ```
pub fn verify(folder: &Path, names: &[&str]) -> Result<()> {
    let list = folder.join(FILE);
    let text = std::fs::read_to_string(&list).map_err(Error::read(&list))?;
    for name in names {
        let Some(expected) = listed(&text, name) else {
            return Err(Error::file(&list, format!("expected a line with the SHA-256 of {name}, found none")));
        };
        compare(&folder.join(name), expected)?;
    }
    Ok(())
}

/// Checks a file that may be part of a folder with digests: nothing is wrong if no `SHA256SUMS` beside it names it.
///
/// # Errors
/// [`Error::File`] if it is damaged, [`Error::Read`] if it or `SHA256SUMS` is there and cannot be read.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use lmht_nn::checksums;
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("weights.pt");
/// std::fs::write(&path, b"abc")?;
/// checksums::verify_if_listed(&path)?;
///
/// std::fs::write(folder.path().join(checksums::FILE), checksums::of(&[("weights.pt", b"abd")]))?;
/// assert!(checksums::verify_if_listed(&path).unwrap_err().to_string().contains("damaged"));
/// # Ok(()) }
/// ```
pub fn verify_if_listed(path: &Path) -> Result<()> {
    let list = path.with_file_name(FILE);
    let text = match std::fs::read(&list) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        text => text.map_err(Error::read(&list))?,
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    listed(&String::from_utf8_lossy(&text), &name).map_or(Ok(()), |expected| compare(path, expected))
}

fn listed<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.get(64..) == Some(&format!("  {name}")))?;
    Some(&line[..64])
}

fn compare(path: &Path, expected: &str) -> Result<()> {
    let found = digest(&std::fs::read(path).map_err(Error::read(path))?);
    if found == expected {
        return Ok(());
    }
    let what = format!(
        "damaged: its SHA-256 is {found}, and {FILE} beside it says {expected}; restore it from a copy, or remove {FILE} if \
         you changed it on purpose"
    );
    Err(Error::file(path, what))
}

/// The SHA-256 of some bytes, in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
