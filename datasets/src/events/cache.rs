//! Frames on the disk: what takes minutes to make of thousands of recordings is made once.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use flate2::Crc;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// How a file begins; the number changes with the format and with what frames are. The length of a [`Head`] in JSON, that and
/// the numbers follow, and the CRC-32 of both.
const MAGIC: &[u8; 8] = b"LMHTFRM2";

/// What a file holds.
pub(super) struct Cached {
    /// `[N, T, P, H, W]`.
    pub(super) counts: Vec<f32>,
    pub(super) dims: [usize; 4],
    pub(super) labels: Vec<u32>,
    pub(super) sensor: (usize, usize),
}

#[derive(Serialize, Deserialize)]
struct Head {
    dims: [usize; 4],
    labels: Vec<u32>,
    sensor: (usize, usize),
}

impl Cached {
    /// Leaves only those that are marked.
    pub(super) fn retain(&mut self, keep: &[bool]) {
        let size: usize = self.dims.iter().product::<usize>().max(1);
        let kept = self.counts.chunks_exact(size).zip(keep).filter(|(_, keep)| **keep);
        self.counts = kept.flat_map(|(counts, _)| counts).copied().collect();
        let mut marks = keep.iter();
        self.labels.retain(|_| marks.next().copied().unwrap_or(false));
    }
}

/// The file of these recordings under this recipe.
pub(super) fn file<'a>(
    folder: &Path,
    root: &Path,
    what: &impl Serialize,
    recordings: impl Iterator<Item = &'a Path>,
) -> PathBuf {
    let mut digest = Sha256::new();
    digest.update(MAGIC);
    digest.update(serde_json::to_vec(what).unwrap_or_default());
    for path in recordings {
        let labels = super::formats::labels_beside(path);
        for path in [Some(path), labels.as_deref()].into_iter().flatten() {
            let metadata = fs::metadata(path).ok();
            let modified = metadata.as_ref().and_then(|found| found.modified().ok()?.duration_since(UNIX_EPOCH).ok());
            let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy();
            let line = format!("{name}\0{:?}\0{modified:?}\n", metadata.map(|found| found.len()));
            digest.update(line.as_bytes());
        }
    }
    let name: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    folder.join(format!("{name}.frames"))
}

/// The frames of a file, if it is there and whole.
pub(super) fn load(path: &Path) -> Option<Cached> {
    let bytes = fs::read(path).ok()?;
    let rest = bytes.strip_prefix(MAGIC)?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (rest, crc) = rest.split_last_chunk::<4>()?;
    let (head, numbers) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let mut sum = Crc::new();
    sum.update(rest);
    if sum.sum().to_le_bytes() != *crc {
        return None;
    }
    let Head { dims, labels, sensor } = serde_json::from_slice(head).ok()?;
    if dims.iter().try_fold(4 * labels.len(), |n, side| n.checked_mul(*side)) != Some(numbers.len()) {
        return None;
    }
    let counts = numbers.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect();
    Some(Cached { counts, dims, labels, sensor })
}

/// Writes a file, whole or not at all.
pub(super) fn store(path: &Path, cached: &Cached) -> Result<()> {
    let io = |source| Error::Io { path: path.to_path_buf(), doing: "write the frames", source };
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(io)?;
    let head = Head { dims: cached.dims, labels: cached.labels.clone(), sensor: cached.sensor };
    let head = serde_json::to_vec(&head).map_err(|error| io(error.into()))?;
    let file = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
    let write = |file: &File| -> std::io::Result<()> {
        let mut out = BufWriter::new(file);
        out.write_all(MAGIC)?;
        out.write_all(&(head.len() as u64).to_le_bytes())?;
        let mut sum = Crc::new();
        let mut write = |part: &[u8]| {
            sum.update(part);
            out.write_all(part)
        };
        write(&head)?;
        // Some at a time: a second copy of all of them may not fit.
        for part in cached.counts.chunks(1 << 16) {
            write(&part.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>())?;
        }
        out.write_all(&sum.sum().to_le_bytes())?;
        out.flush()?;
        file.sync_all()
    };
    write(file.as_file()).map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    Ok(())
}
