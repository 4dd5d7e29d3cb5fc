//! One process at a time works in the folder of a run.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
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
            // Making it never follows a link; opening one that is there makes and changes nothing yet.
            let mut options = OpenOptions::new();
            options.read(true).write(true);
            let mut file = match options.clone().create_new(true).open(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if !is_lock(folder).map_err(failed)? {
                        let what =
                            "expected the lock of a run, found something else; move it away, or choose another folder";
                        return Err(Error::file(&path, what));
                    }
                    match options.open(&path) {
                        Err(error) if error.kind() == ErrorKind::NotFound => continue,
                        opened => opened.map_err(failed)?,
                    }
                }
                opened => opened.map_err(failed)?,
            };
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

/// Whether the lock in a folder is one that a run made: a file with the number of a process, or gone meanwhile.
pub(crate) fn is_lock(folder: &Path) -> std::io::Result<bool> {
    let path = folder.join(FILE);
    let found = path.symlink_metadata().and_then(|metadata| {
        let is_small = metadata.is_file() && metadata.len() <= 20;
        Ok(is_small && std::fs::read(&path)?.trim_ascii().iter().all(u8::is_ascii_digit))
    });
    match found {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        found => found,
    }
}

/// Whether `path` is this file still, and no link to it.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: std::io::Result<std::fs::Metadata>| metadata.ok().map(|it| (it.dev(), it.ino()));
    id(file.metadata()).is_some_and(|here| Some(here) == id(path.symlink_metadata()))
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

    #[test]
    #[cfg(unix)]
    fn what_is_no_lock_is_neither_followed_nor_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (victim, lock) = (folder.path().join("victim"), folder.path().join(FILE));
        std::fs::write(&victim, "17\n").unwrap();
        std::os::unix::fs::symlink(&victim, &lock).unwrap();
        let message = RunLock::take(folder.path()).unwrap_err().to_string();
        assert!(message.contains("expected the lock of a run"), "{message}");
        std::fs::remove_file(&lock).unwrap();
        std::fs::write(&lock, "the lock of another program").unwrap();
        RunLock::take(folder.path()).unwrap_err();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "17\n");
        assert_eq!(std::fs::read_to_string(&lock).unwrap(), "the lock of another program");
    }
}
