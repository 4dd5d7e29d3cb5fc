//! The cache on the disk, laid out as Python's (hub-docs, `local-cache.md`), so that both use each other's files:
//!
//! ```text
//! models--owner--name/blobs/<hash>               bytes, named by their own digest
//!                     snapshots/<commit>/<file>  links to blobs; the files themselves where there are no links
//!                     refs/<branch>              a commit
//!                     .no_exist/<commit>/<file>  known to be missing
//!                     .lmht/<commit>.json        ours: what the commit has, with digests
//! .locks/models--owner--name/<hash>.lock
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::Hash;
use crate::error::{Error, Result};
use crate::name::{Repo, check_path, is_hex};

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteFile {
    /// Its path in the repository, with slashes.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256, or git's SHA-1 of a plain file, in hexadecimal.
    pub(crate) hash: String,
}

/// The folder of a repository in the cache.
pub(crate) struct Cache {
    root: PathBuf,
    locks: PathBuf,
    links: bool,
}

impl Cache {
    pub(crate) fn new(cache: &Path, repo: &Repo, links: bool) -> Self {
        Self { root: cache.join(repo.folder()), locks: cache.join(".locks").join(repo.folder()), links }
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub(crate) fn pointer(&self, commit: &str, file: &RemoteFile) -> PathBuf {
        self.snapshot(commit).join(&file.path)
    }

    pub(crate) fn blob(&self, hash: &Hash) -> PathBuf {
        self.root.join("blobs").join(hash.as_str())
    }

    /// What has arrived of a blob; Python has the same name for it.
    pub(crate) fn part(&self, hash: &Hash) -> PathBuf {
        self.root.join("blobs").join(format!("{}.incomplete", hash.as_str()))
    }

    /// The commit that a branch, a tag or itself was when it was last asked for.
    pub(crate) fn commit(&self, revision: &str) -> Result<Option<String>> {
        if is_hex(revision, 40) {
            return Ok(Some(revision.to_owned()));
        }
        let path = self.root.join("refs").join(revision);
        let Some(text) = read(&path)? else { return Ok(None) };
        let commit = text.trim();
        if !is_hex(commit, 40) {
            return Err(Error::file(&path, "expected a commit of 40 hexadecimal digits; remove the file"));
        }
        Ok(Some(commit.to_owned()))
    }

    pub(crate) fn remember_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if is_hex(revision, 40) {
            return Ok(());
        }
        write_new(&self.root.join("refs").join(revision), commit.as_bytes())
    }

    fn listing_path(&self, commit: &str) -> PathBuf {
        self.root.join(".lmht").join(format!("{commit}.json"))
    }

    /// The files of a commit, as the Hub has told.
    pub(crate) fn listing(&self, commit: &str) -> Result<Option<Vec<RemoteFile>>> {
        let path = self.listing_path(commit);
        let Some(text) = read(&path)? else { return Ok(None) };
        let files: Vec<RemoteFile> = serde_json::from_str(&text)
            .map_err(|error| Error::file(&path, format!("damaged: {error}; remove the file")))?;
        Ok(Some(files))
    }

    pub(crate) fn remember_listing(&self, commit: &str, files: &[RemoteFile]) -> Result<()> {
        let json = serde_json::to_string(files).expect("a list of names serializes");
        write_new(&self.listing_path(commit), json.as_bytes())
    }

    /// The files of a snapshot that another client left: a link says by its name what the bytes should be.
    pub(crate) fn left_by_others(&self, commit: &str) -> Result<Vec<RemoteFile>> {
        let root = self.snapshot(commit);
        let (mut folders, mut files) = (vec![root.clone()], Vec::new());
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(|error| Error::file(&folder, error))?,
            };
            for entry in entries {
                let entry = entry.map_err(|error| Error::file(&folder, error))?;
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                    continue;
                }
                let name = path.strip_prefix(&root).ok().and_then(Path::to_str).map(|name| name.replace('\\', "/"));
                let hash = fs::read_link(&path).ok().and_then(|to| to.file_name()?.to_str().and_then(Hash::parse));
                let size = fs::metadata(&path).map(|found| found.len());
                if let (Some(path), Some(hash), Ok(size)) = (name, hash, size)
                    && check_path(&path).is_ok()
                {
                    files.push(RemoteFile { path, size, hash: hash.as_str().to_owned() });
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// Notes that a commit has no such file, as Python does.
    pub(crate) fn remember_missing(&self, commit: &str, path: &str) -> Result<()> {
        write_new(&self.root.join(".no_exist").join(commit).join(path), b"")
    }

    /// Waits until no other process fetches this blob. The lock ends with the value, or with the process.
    pub(crate) fn lock(&self, hash: &Hash, waiting: &mut dyn FnMut()) -> Result<File> {
        let path = self.locks.join(format!("{}.lock", hash.as_str()));
        let wrong = |error: io::Error| Error::file(&path, format!("cannot lock: {error}"));
        create_parent(&path)?;
        let file = File::options().create(true).append(true).open(&path).map_err(wrong)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => waiting(),
                Err(TryLockError::Error(error)) => return Err(wrong(error)),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Makes a verified part a blob, and the file of a snapshot.
    pub(crate) fn adopt(&self, hash: &Hash, pointer: &Path) -> Result<()> {
        let (part, blob) = (self.part(hash), self.blob(hash));
        rename(&part, &blob)?;
        if self.point(&blob, pointer)? { Ok(()) } else { remove(&blob) }
    }

    /// Makes a verified blob the file of a snapshot; by a link, or else by a copy, which is what Python makes of it.
    pub(crate) fn point(&self, blob: &Path, pointer: &Path) -> Result<bool> {
        create_parent(pointer)?;
        let temporary = temporary(pointer);
        if self.links {
            let up = pointer.strip_prefix(&self.root).map_or(1, |below| below.components().count()) - 1;
            let mut target: PathBuf = std::iter::repeat_n("..", up).collect();
            target.extend(blob.strip_prefix(&self.root));
            _ = fs::remove_file(&temporary);
            match link(&target, &temporary) {
                Ok(()) => return rename(&temporary, pointer).map(|()| true),
                // Windows wants a right for it, and some disks have none.
                Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {}
                Err(error) if cfg!(windows) => _ = error,
                Err(error) => return Err(Error::file(pointer, format!("cannot make the link: {error}"))),
            }
        }
        fs::copy(blob, &temporary).map_err(|error| Error::file(pointer, format!("cannot write: {error}")))?;
        rename(&temporary, pointer).map(|()| false)
    }
}

#[cfg(windows)]
fn link(target: &Path, path: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, path)
}

#[cfg(not(windows))]
fn link(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

pub(crate) fn create_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent)
        .map_err(|error| Error::file(parent, format!("cannot make the folder: {error}; is HF_HUB_CACHE writable?")))
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| Error::file(to, format!("cannot move {} there: {error}", from.display())))
}

/// Removes a file that need not be there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::file(path, format!("cannot remove: {error}")))
        }
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::file(path, error)),
    }
}

fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A name may be as long as the system takes.
    let name: String = name.chars().take(40).collect();
    // Threads write the same files as processes do.
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.tmp-{}-{n}", std::process::id()))
}

/// Writes a small file whole, or leaves it if it is the same: a cache may be for reading alone.
fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    create_parent(path)?;
    let temporary = temporary(path);
    let written = File::create(&temporary).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(|error| Error::file(&temporary, error))?;
    rename(&temporary, path)
}
