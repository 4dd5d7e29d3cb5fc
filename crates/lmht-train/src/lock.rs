//! One process at a time works in the folder of a run.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The name of the lock.
pub(crate) const FILE: &str = ".lock";

/// A lock on the folder of a run. The operating system gives it up when the process ends, however that happens.
#[derive(Debug)]
pub(crate) struct RunLock {
    path: PathBuf,
    _file: File,
}

impl RunLock {
    /// Takes the lock, or says which process has it.
    pub(crate) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let failed = |error: std::io::Error| Error::file(&path, error);
        loop {
            let mut file =
                OpenOptions::new().create(true).read(true).write(true).truncate(false).open(&path).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut process = String::new();
                    // Only for the message.
                    let _ = file.read_to_string(&mut process);
                    let process = if process.trim().is_empty() { "?" } else { process.trim() };
                    let what =
                        format!("process {process} works in this run folder; wait for it, or choose another folder");
                    return Err(Error::file(folder, what));
                }
                // A file system without locks: as well as it can be.
                Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            // The process before removes the file while it has the lock: ours may be gone already, and another one here.
            if !is_at(&file, &path) {
                continue;
            }
            file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).map_err(failed)?;
            writeln!(file, "{}", std::process::id()).map_err(failed)?;
            return Ok(Self { path, _file: file });
        }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // A lock that cannot be removed is free all the same.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether `path` is this file still.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: std::io::Result<std::fs::Metadata>| metadata.ok().map(|it| (it.dev(), it.ino()));
    id(file.metadata()).is_some_and(|here| Some(here) == id(path.metadata()))
}

/// Elsewhere an open file cannot be removed.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_refused_by_number_and_a_later_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunLock::take(folder.path()).unwrap();
        // Locks belong to open files, so a second one in this process is as good as another process.
        let message = RunLock::take(folder.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("process {} works in this run folder", std::process::id())), "{message}");
        drop(first);
        assert!(!folder.path().join(FILE).exists());
        // One that a crash left behind.
        std::fs::write(folder.path().join(FILE), "4294967295\n").unwrap();
        RunLock::take(folder.path()).unwrap();
    }
}
