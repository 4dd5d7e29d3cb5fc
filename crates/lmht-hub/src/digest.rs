//! The two digests that are names of blobs.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::name::is_hex;

/// The name of a blob: git's SHA-1 of a plain file, over `blob <length>\0` and its bytes; the SHA-256 of one in LFS or Xet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hash(String);

impl Hash {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        (is_hex(text, 40) || is_hex(text, 64)).then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn kind(&self) -> &'static str {
        if self.0.len() == 64 { "SHA-256" } else { "git SHA-1" }
    }

    /// The same digest of what a file holds now.
    pub(crate) fn of_file(&self, path: &Path, seen: &mut dyn FnMut(u64)) -> io::Result<String> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        if self.0.len() == 64 {
            digest(&mut file, Sha256::new(), seen)
        } else {
            digest(&mut file, Sha1::new().chain_update(format!("blob {size}\0")), seen)
        }
    }
}

fn digest<D: Digest>(file: &mut File, mut state: D, seen: &mut dyn FnMut(u64)) -> io::Result<String> {
    let (mut buffer, mut done) = (vec![0; 1 << 18], 0);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                state.update(&buffer[..n]);
                done += n as u64;
                seen(done);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(state.finalize().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        _ = write!(hex, "{byte:02x}");
        hex
    }))
}
