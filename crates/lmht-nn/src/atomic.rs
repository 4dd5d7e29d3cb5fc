//! Files and folders that are there as a whole or not at all.
//!
//! A run may be killed at any moment, and a disk may be full at any byte. A checkpoint is therefore written beside its
//! place under a temporary name, brought to the disk (`fsync`), and only then renamed to its own: whoever finds the name
//! finds the whole. What was there before is not touched, unless it is to be replaced, and then not before the new one is
//! complete.
//!
//! Temporary names are `.NAME.tmp-PID` with the process that writes them, so that [`clean_stale`] can tell the leftovers of
//! a killed run from the work of a living one. This takes for granted that the folder is written by one machine (and one
//! container) at a time. A folder that is being replaced is called `.NAME.old-PID` for the moment in which the new one
//! takes its name; a process that dies in that moment loses nothing, because [`clean_stale`] and
//! [`FolderWriter::replacing`] give the old one its name back.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use lmht_nn::atomic::FolderWriter;
//! let run = tempfile::tempdir()?;
//! let path = run.path().join("epoch-0003");
//! let mut checkpoint = FolderWriter::new(&path)?;
//! checkpoint.write("model.safetensors", b"weights")?;
//! checkpoint.write("state.json", b"{}")?;
//! assert!(!path.exists());
//! checkpoint.commit()?;
//! assert_eq!(std::fs::read(path.join("state.json"))?, b"{}");
//! # Ok(())
//! # }
//! ```

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// Why something could not be written; the temporary file or folder is gone, and what existed before is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}; {}", path.display(), advice(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder that was to be written, or that stood in the way.
        path: PathBuf,
        /// The reason that the operating system gives.
        source: io::Error,
    },
    /// The path is taken.
    #[error("{}: expected a path that is free, but something exists there; choose another name, or remove it first", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// This process is writing a folder of that name already.
    #[error("{}: this process is writing it already; commit or drop the first FolderWriter", path.display())]
    Busy {
        /// The path of the folder.
        path: PathBuf,
    },
    /// The name cannot be used.
    #[error("{name:?}: expected {expected}")]
    InvalidName {
        /// The name.
        name: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The folder that was to be replaced holds something that the new one does not.
    #[error(
        "{}: not replaced, because it holds {name:?}, which the new folder does not; move that elsewhere, or choose another name",
        path.display()
    )]
    Foreign {
        /// The path of the folder.
        path: PathBuf,
        /// The first such name.
        name: String,
    },
    /// A file of the folder could not be written before, so the folder must not be committed.
    #[error("{}: not committed, because a file of it could not be written; start again with a new FolderWriter", path.display())]
    Incomplete {
        /// The path of the folder.
        path: PathBuf,
    },
}

impl Error {
    fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { action, path: path.into(), source }
    }
}

/// What the reader of an operating system's error can do about it.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space and resume; what was saved earlier is intact"
        }
        io::ErrorKind::FileTooLarge => {
            "raise the limit on file sizes (ulimit -f, or the file system's) and resume; what was saved earlier is intact"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "make the folder writable, or choose another"
        }
        io::ErrorKind::NotFound => "does the folder that should hold it exist?",
        io::ErrorKind::NotADirectory => "a part of the path is a file; choose another path",
        io::ErrorKind::IsADirectory => "a folder is in its place; choose another path",
        _ => "what was saved earlier is intact",
    }
}

/// Replaces the content of a file, or makes the file, in one act.
///
/// Writes a temporary file beside it, brings it to the disk, renames it to `path`, and brings the folder's new entry to the
/// disk. A reader, or a run that comes after a power cut, sees the old content or the new. A symbolic link at `path` is
/// replaced, not followed; the file has the permissions of a new one.
///
/// # Errors
/// [`Error::Io`] if the operating system refuses, [`Error::InvalidName`] if `path` ends in no file name. Then the content
/// is the old one and no temporary file remains.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let run = tempfile::tempdir()?;
/// let path = run.path().join("metrics.json");
/// lmht_nn::atomic::write_file(&path, b"{\"epoch\": 1}")?;
/// lmht_nn::atomic::write_file(&path, b"{\"epoch\": 2}")?;
/// assert_eq!(std::fs::read_to_string(&path)?, "{\"epoch\": 2}");
/// # Ok(())
/// # }
/// ```
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    // Two threads may write the same file: the last one wins, and neither spoils the other's temporary file.
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let suffix = format!("-{}", COUNTER.fetch_add(1, Ordering::Relaxed));
    if path.is_dir() {
        return Err(Error::io("write the file", path)(io::ErrorKind::IsADirectory.into()));
    }
    let claim = Claim::new(path, &suffix)?;
    let written = write_synced(&claim.temporary, |file| file.write_all(bytes))
        .and_then(|()| fs::rename(&claim.temporary, path))
        .map_err(Error::io("write the file", path));
    if written.is_err() {
        // Nothing more can be done about a file that cannot even be removed; clean_stale will try again.
        let _ = fs::remove_file(&claim.temporary);
        return written;
    }
    sync_folder(parent(path)).map_err(Error::io("bring the folder's entries to the disk", parent(path)))
}

/// Writes a folder that appears under its name when it is complete.
///
/// The files go to a temporary folder `.NAME.tmp-PID` beside `final_path`. [`Self::commit`] renames it; dropping the writer
/// without a commit removes it.
///
/// A writer made by [`Self::new`] refuses a path that is taken: use names with a number, such as `epoch-0003`, and remove
/// old ones after the commit. One made by [`Self::replacing`] takes the place of an older folder of the same files.
#[derive(Debug)]
pub struct FolderWriter {
    claim: Claim,
    final_path: PathBuf,
    replaces: bool,
    failed: bool,
    committed: bool,
}

impl FolderWriter {
    /// Makes the temporary folder. A leftover of the same name, of an earlier process with our number, is removed.
    ///
    /// # Errors
    /// [`Error::Exists`] if something is at `final_path`; [`Error::Busy`] if this process has another writer for it;
    /// [`Error::InvalidName`] if the path ends in no name; [`Error::Io`] if the parent folder does not exist, is a file,
    /// or cannot be written.
    pub fn new(final_path: impl Into<PathBuf>) -> Result<Self, Error> {
        let final_path = final_path.into();
        let claim = Claim::new(&final_path, "")?;
        check_free(&final_path)?;
        Self::begin(claim, final_path, false)
    }

    /// As [`Self::new`], but a folder at `final_path` is replaced by the commit.
    ///
    /// Two renames are needed for that, so there is a moment in which neither folder has the name. The new folder is
    /// complete and on the disk before; the old one, moved aside as `.NAME.old-PID`, is removed only when the new one has
    /// its name. If the process dies in that moment, the next `replacing` of the same path, or [`clean_stale`] of the
    /// parent, gives the old folder its name back.
    ///
    /// Only a folder whose files all have a namesake in the new one is replaced: what the writer does not write, it does
    /// not delete.
    ///
    /// # Errors
    /// [`Error::Exists`] if something other than a folder is at `final_path` (a symbolic link to one, too); otherwise as
    /// [`Self::new`].
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use lmht_nn::atomic::FolderWriter;
    /// let run = tempfile::tempdir()?;
    /// let path = run.path().join("model");
    /// for version in ["first", "second"] {
    ///     let mut folder = FolderWriter::replacing(&path)?;
    ///     folder.write("config.json", version.as_bytes())?;
    ///     folder.commit()?;
    ///     assert_eq!(std::fs::read_to_string(path.join("config.json"))?, version);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn replacing(final_path: impl Into<PathBuf>) -> Result<Self, Error> {
        let final_path = final_path.into();
        let claim = Claim::new(&final_path, "")?;
        recover(&final_path)?;
        check_replaceable(&final_path)?;
        Self::begin(claim, final_path, true)
    }

    fn begin(claim: Claim, final_path: PathBuf, replaces: bool) -> Result<Self, Error> {
        let temporary = &claim.temporary;
        // The claim says that no living writer of this process owns it.
        if temporary.symlink_metadata().is_ok() {
            fs::remove_dir_all(temporary).map_err(Error::io("remove the leftover of an earlier run", temporary))?;
        }
        fs::create_dir(temporary).map_err(Error::io("make the folder", &final_path))?;
        Ok(Self { claim, final_path, replaces, failed: false, committed: false })
    }

    /// Adds a file, complete and on the disk when this returns.
    ///
    /// `name` is a plain file name, without folders.
    ///
    /// # Errors
    /// [`Error::InvalidName`]; [`Error::Exists`] if the folder has a file of that name; [`Error::Io`]. After any of these
    /// the folder can no longer be committed.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.write_with(name, |file| file.write_all(bytes))
    }

    /// Adds a file through a writer, for content that need not be in memory as a whole.
    ///
    /// # Errors
    /// As [`Self::write`], and the error of `content` as [`Error::Io`].
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::io::Write;
    /// let run = tempfile::tempdir()?;
    /// let path = run.path().join("epoch-0001");
    /// let mut checkpoint = lmht_nn::atomic::FolderWriter::new(&path)?;
    /// checkpoint.write_with("epochs.jsonl", |file| {
    ///     (0..2).try_for_each(|epoch| writeln!(file, "{{\"epoch\": {epoch}}}"))
    /// })?;
    /// checkpoint.commit()?;
    /// assert_eq!(std::fs::read_to_string(path.join("epochs.jsonl"))?, "{\"epoch\": 0}\n{\"epoch\": 1}\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn write_with(
        &mut self,
        name: &str,
        content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<(), Error> {
        // Until it has succeeded: a caller that ignores the error, or whose closure panics, must not commit a torn folder.
        let failed_before = std::mem::replace(&mut self.failed, true);
        let mut components = Path::new(name).components();
        // Compared with the name itself: "a/" has one normal component, too.
        let plain = matches!(components.next(), Some(Component::Normal(only)) if only == OsStr::new(name));
        if !plain || components.next().is_some() {
            return Err(Error::InvalidName { name: name.into(), expected: "a plain file name, without folders" });
        }
        let shown = self.final_path.join(name);
        let path = self.claim.temporary.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(Error::Exists { path: shown });
        }
        write_synced(&path, content).map_err(Error::io("write the file", &shown))?;
        self.failed = failed_before;
        Ok(())
    }

    /// Gives the folder its name and returns its path.
    ///
    /// # Errors
    /// [`Error::Incomplete`] if a file could not be written before; [`Error::Exists`] if something has come to the path
    /// meanwhile (a folder does not matter to a writer made by [`Self::replacing`]); [`Error::Foreign`] if the folder to be
    /// replaced holds something that this one does not; [`Error::Io`]. Then the temporary folder is removed, and what was at
    /// the path is there still. One exception: if the rename has succeeded and only its way to the disk, or the removal of
    /// the replaced folder, fails, the error says so, and the new folder stays.
    pub fn commit(mut self) -> Result<PathBuf, Error> {
        if self.failed {
            return Err(Error::Incomplete { path: self.final_path.clone() });
        }
        sync_folder(&self.claim.temporary).map_err(Error::io("bring the folder to the disk", &self.final_path))?;
        let aside = if self.replaces { self.move_aside()? } else { None };
        // A rename onto an empty folder would succeed.
        let renamed = check_free(&self.final_path).and_then(|()| {
            fs::rename(&self.claim.temporary, &self.final_path).map_err(Error::io("rename to it", &self.final_path))
        });
        if let (Err(_), Some(aside)) = (&renamed, &aside) {
            // If even this fails, clean_stale will try again; the first error is the one to tell.
            let _ = fs::rename(aside, &self.final_path);
        }
        renamed?;
        self.committed = true;
        let parent = parent(&self.final_path);
        sync_folder(parent).map_err(Error::io("bring the folder's entries to the disk", parent))?;
        if let Some(aside) = aside {
            // Not before the new name is on the disk.
            fs::remove_dir_all(&aside).map_err(Error::io("remove the replaced folder", &aside))?;
        }
        Ok(self.final_path.clone())
    }

    /// Moves the folder that is to be replaced out of the way, and returns where it is; `None` if there is none.
    fn move_aside(&self) -> Result<Option<PathBuf>, Error> {
        if !check_replaceable(&self.final_path)? {
            return Ok(None);
        }
        let read_error = |source| Error::Io { action: "read the folder", path: self.final_path.clone(), source };
        for entry in fs::read_dir(&self.final_path).map_err(read_error)? {
            let name = entry.map_err(read_error)?.file_name();
            if self.claim.temporary.join(&name).symlink_metadata().is_err() {
                let (path, name) = (self.final_path.clone(), name.to_string_lossy().into_owned());
                return Err(Error::Foreign { path, name });
            }
        }
        let aside = hidden(&self.final_path, "old", "")?;
        if aside.symlink_metadata().is_ok() {
            // Of a process with our number that died after it had given the new folder its name.
            fs::remove_dir_all(&aside).map_err(Error::io("remove the leftover of an earlier run", &aside))?;
        }
        fs::rename(&self.final_path, &aside).map_err(Error::io("move aside", &self.final_path))?;
        Ok(Some(aside))
    }
}

impl Drop for FolderWriter {
    fn drop(&mut self) {
        if !self.committed {
            // Nobody is left to tell; clean_stale will try again.
            let _ = fs::remove_dir_all(&self.claim.temporary);
        }
    }
}

/// Removes the temporary files and folders that killed runs left in the folder `parent`, and returns their paths, sorted.
///
/// Those of living processes stay; so does everything whose name is not of the form `.NAME.tmp-PID` or `.NAME.old-PID`. On
/// systems where a process cannot be looked up, only this process's own leftovers are removed.
///
/// A folder `.NAME.old-PID` was being replaced. If the new one has taken its name, it is removed as well; if not, it gets
/// the name back, and is not among the paths that are returned.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be read or a leftover cannot be removed or renamed.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let run = tempfile::tempdir()?;
/// // No process has this number: it is above what any system hands out.
/// let leftover = run.path().join(".epoch-0002.tmp-4294967295");
/// std::fs::create_dir(&leftover)?;
/// assert_eq!(lmht_nn::atomic::clean_stale(run.path())?, [leftover]);
/// # Ok(())
/// # }
/// ```
pub fn clean_stale(parent: &Path) -> Result<Vec<PathBuf>, Error> {
    let read_error = |source| Error::Io { action: "read the folder", path: parent.into(), source };
    let mut removed = Vec::new();
    for entry in fs::read_dir(parent).map_err(read_error)? {
        let entry = entry.map_err(read_error)?;
        let name = entry.file_name();
        let Some(leftover) = Leftover::of(&name) else { continue };
        let path = entry.path();
        // Held while removing, so that no writer of this process takes the name in between.
        let claimed = claimed();
        if leftover.is_in_use(&path, &claimed) {
            continue;
        }
        if leftover.is_replaced {
            let original = path.with_file_name(leftover.name);
            if original.symlink_metadata().is_err() {
                match fs::rename(&path, &original) {
                    Ok(()) => {}
                    // Another run cleans as well.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(source) => return Err(Error::Io { action: "give the name back to", path, source }),
                }
                continue;
            }
        }
        let is_folder = entry.file_type().map_err(read_error)?.is_dir();
        let result = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match result {
            Ok(()) => removed.push(path),
            // Another run cleans as well.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Io { action: "remove the leftover of an earlier run", path, source }),
        }
    }
    removed.sort();
    Ok(removed)
}

/// The temporary paths that living writers of this process own. The process number alone would not do: in a container
/// every run may have the same, and a leftover of the last one must not block the next for ever.
static CLAIMED: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);

fn claimed() -> MutexGuard<'static, HashSet<PathBuf>> {
    // A panic elsewhere leaves the set usable: each change is one insertion or removal.
    CLAIMED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ownership of a temporary path, until dropped.
#[derive(Debug)]
struct Claim {
    temporary: PathBuf,
    /// Absolute, so that it is the same key after a change of the working directory.
    key: PathBuf,
}

impl Claim {
    fn new(final_path: &Path, suffix: &str) -> Result<Self, Error> {
        let temporary = hidden(final_path, "tmp", suffix)?;
        let key = absolute(&temporary);
        if !claimed().insert(key.clone()) {
            return Err(Error::Busy { path: final_path.into() });
        }
        Ok(Self { temporary, key })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        claimed().remove(&self.key);
    }
}

/// `.NAME.KIND-PID` and a suffix, beside `final_path`.
fn hidden(final_path: &Path, kind: &str, suffix: &str) -> Result<PathBuf, Error> {
    let Some(name) = final_path.file_name() else {
        let name = final_path.display().to_string();
        return Err(Error::InvalidName { name, expected: "a path that ends in a name" });
    };
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{kind}-{}{suffix}", std::process::id()));
    Ok(parent(final_path).join(hidden))
}

/// Gives a folder its name back that a process moved aside before it died. The caller holds the claim of `final_path`.
fn recover(final_path: &Path) -> Result<(), Error> {
    if final_path.symlink_metadata().is_ok() {
        return Ok(());
    }
    // A parent that cannot be read is reported by the attempt to make a folder in it.
    let Ok(entries) = fs::read_dir(parent(final_path)) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(leftover) = Leftover::of(&name).filter(|leftover| leftover.is_replaced) else { continue };
        // The claim is ours, so a folder of our number is not in use.
        let is_dead = leftover.pid == std::process::id() || !is_alive(leftover.pid);
        if is_dead && final_path.file_name() == Some(OsStr::new(leftover.name)) {
            let path = entry.path();
            return fs::rename(&path, final_path).map_err(Error::io("give the name back to", &path));
        }
    }
    Ok(())
}

fn absolute(path: &Path) -> PathBuf {
    // Through the parent, whose links are followed: one folder has many names.
    match (parent(path).canonicalize(), path.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        _ => path.into(),
    }
}

/// What a name of ours says.
#[derive(Debug, PartialEq)]
struct Leftover<'a> {
    /// The name that the whole would have had, or had.
    name: &'a str,
    pid: u32,
    /// Moved aside to be replaced, rather than not yet complete.
    is_replaced: bool,
}

impl<'a> Leftover<'a> {
    /// Reads `.NAME.tmp-PID`, `.NAME.tmp-PID-N` and `.NAME.old-PID`; `None` for any other name.
    fn of(file_name: &'a OsStr) -> Option<Self> {
        let (rest, suffix) = file_name.to_str()?.strip_prefix('.')?.rsplit_once('.')?;
        let (kind, suffix) = suffix.split_once('-')?;
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let (is_replaced, pid) = match (kind, suffix.split_once('-')) {
            ("tmp", Some((pid, n))) if is_number(n) => (false, pid),
            ("tmp", None) => (false, suffix),
            ("old", None) => (true, suffix),
            _ => return None,
        };
        if rest.is_empty() || !is_number(pid) {
            return None;
        }
        Some(Self { name: rest, pid: pid.parse().ok()?, is_replaced })
    }

    /// Whether the writer of the leftover at `path` is at work.
    fn is_in_use(&self, path: &Path, claimed: &HashSet<PathBuf>) -> bool {
        if self.pid != std::process::id() {
            return is_alive(self.pid);
        }
        // The writer claims the temporary name, also for the folder that it moves aside.
        let claim =
            if self.is_replaced { hidden(&path.with_file_name(self.name), "tmp", "").ok() } else { Some(path.into()) };
        claim.is_some_and(|claim| claimed.contains(&absolute(&claim)))
    }
}

/// Whether a process exists; true where that cannot be known.
fn is_alive(pid: u32) -> bool {
    if cfg!(target_os = "linux") {
        return !Path::new("/proc/self").exists() || Path::new("/proc").join(pid.to_string()).exists();
    }
    if cfg!(unix) {
        let ps = std::process::Command::new("ps").args(["-p", &pid.to_string()]).output();
        return ps.map_or(true, |output| output.status.success());
    }
    true
}

/// Makes a file, lets `content` write it, and brings it to the disk.
fn write_synced(path: &Path, content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    // Truncating: a leftover of that name belongs to nobody.
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    let mut file = BufWriter::new(file);
    let written = content(&mut file);
    // Taken apart by hand: dropping the writer after an error would try to write the rest once more.
    let (mut file, rest) = file.into_parts();
    written?;
    file.write_all(&rest.map_err(io::Error::other)?)?;
    file.sync_all()
}

/// Brings a folder's entries to the disk. Only Unix lets a folder be opened for that; elsewhere the rename has to do.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

fn check_free(path: &Path) -> Result<(), Error> {
    // The link itself: one that points nowhere still takes the name.
    match path.symlink_metadata() {
        Ok(_) => Err(Error::Exists { path: path.into() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Io { action: "look at the path", path: path.into(), source }),
    }
}

/// Whether there is something to replace at `path`; an error if it is not a folder.
fn check_replaceable(path: &Path) -> Result<bool, Error> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(true),
        _ => check_free(path).map(|()| false),
    }
}

/// The folder that holds `path`; the working directory for a bare name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_our_form_count_as_leftovers() {
        let leftover = |name, is_replaced| Some(Leftover { name, pid: 17, is_replaced });
        for (name, expected) in [
            (".epoch-0001.tmp-17", leftover("epoch-0001", false)),
            (".metrics.json.tmp-17-3", leftover("metrics.json", false)),
            (".model.old-17", leftover("model", true)),
            (".model.old-17-3", None),
            (".model.older-17", None),
            (".old-17", None),
            ("epoch-0001.tmp-17", None),
            (".epoch-0001.tmp-", None),
            (".epoch-0001.tmp-x", None),
            (".epoch-0001.tmp-+7", None),
            (".epoch-0001.tmp-17-", None),
            (".epoch-0001.tmp-17-3-4", None),
            (".epoch-0001.tmp-99999999999", None),
            ("..tmp-17", None),
            (".tmp-17", None),
            (".epoch-0001", None),
        ] {
            assert_eq!(Leftover::of(OsStr::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn a_bare_name_lies_in_the_working_directory() {
        assert_eq!(parent(Path::new("epoch-0001")), Path::new("."));
        assert_eq!(parent(Path::new("runs/epoch-0001")), Path::new("runs"));
    }
}
