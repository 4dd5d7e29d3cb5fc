//! Files and folders that are there as a whole or not at all.
//!
//! A run may be killed at any moment, and a disk may be full at any byte. A checkpoint is therefore written beside its
//! place under a temporary name, brought to the disk (`fsync`), and only then renamed to its own: whoever finds the name
//! finds the whole. What was there before is not touched, unless it is to be replaced, and then not before the new one is
//! complete.
//!
//! A temporary name is `.NAME.lmht-new-TOKEN` with 16 random digits, made exclusively, so that nothing that lies there is
//! opened or followed. Whoever writes it holds a lock on it, which the operating system gives up when the process ends,
//! however that happens: what nobody holds is the leftover of a killed process, and the next writer in the folder, or
//! [`clean_stale`], removes it. Where there are no locks (some network file systems), a leftover is one after a day. A folder
//! that is being replaced is called `.NAME.lmht-old-TOKEN` for the moment in which the new one takes its name; a process that
//! dies in that moment loses nothing, because whoever cleans gives the old one its name back.
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

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

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
    check_named(path)?;
    if path.is_dir() {
        return Err(Error::io("write the file", path)(io::ErrorKind::IsADirectory.into()));
    }
    clean_before_writing(path);
    let create = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path).map(Some);
    let (temporary, file) = Temporary::make(path, create).map_err(Error::io("write the file", path))?;
    write_synced(file.expect("a file is open"), |file| file.write_all(bytes))
        .and_then(|_held| fs::rename(&temporary.path, path))
        .map_err(Error::io("write the file", path))
        // Nothing more can be done about a file that cannot even be removed; the next writer will try again.
        .inspect_err(|_| _ = fs::remove_file(&temporary.path))?;
    sync_folder(parent(path)).map_err(Error::io("bring the folder's entries to the disk", parent(path)))
}

/// Writes a folder that appears under its name when it is complete.
///
/// The files go to a temporary folder beside `final_path`. [`Self::commit`] renames it; dropping the writer without a commit
/// removes it. Of several writers for one path, the first to commit has it.
///
/// A writer made by [`Self::new`] refuses a path that is taken: use names with a number, such as `epoch-0003`, and remove
/// old ones after the commit. One made by [`Self::replacing`] takes the place of an older folder of the same files.
#[derive(Debug)]
pub struct FolderWriter {
    temporary: Temporary,
    /// Held, where folders can be locked.
    _lock: Option<File>,
    final_path: PathBuf,
    replaces: bool,
    failed: bool,
    committed: bool,
}

impl FolderWriter {
    /// Makes the temporary folder, and removes what killed processes left beside it.
    ///
    /// # Errors
    /// [`Error::Exists`] if something is at `final_path`; [`Error::InvalidName`] if the path ends in no name; [`Error::Io`]
    /// if the parent folder does not exist, is a file, or cannot be written.
    pub fn new(final_path: impl Into<PathBuf>) -> Result<Self, Error> {
        let final_path = final_path.into();
        check_named(&final_path)?;
        check_free(&final_path)?;
        Self::begin(final_path, false)
    }

    /// As [`Self::new`], but a folder at `final_path` is replaced by the commit.
    ///
    /// Two renames are needed for that, so there is a moment in which neither folder has the name. The new folder is
    /// complete and on the disk before; the old one, moved aside, is removed only when the new one has its name. If the
    /// process dies in that moment, the next writer beside it, or [`clean_stale`] of the parent, gives the old folder its
    /// name back.
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
        check_named(&final_path)?;
        check_replaceable(&final_path)?;
        Self::begin(final_path, true)
    }

    fn begin(final_path: PathBuf, replaces: bool) -> Result<Self, Error> {
        clean_before_writing(&final_path);
        let create = |path: &Path| fs::create_dir(path).and_then(|()| open_folder(path));
        let (temporary, lock) =
            Temporary::make(&final_path, create).map_err(Error::io("make the folder", &final_path))?;
        Ok(Self { temporary, _lock: lock, final_path, replaces, failed: false, committed: false })
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
        let path = self.temporary.path.join(name);
        let file = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(Error::Exists { path: shown }),
            opened => opened.map_err(Error::io("write the file", &shown))?,
        };
        write_synced(file, content).map_err(Error::io("write the file", &shown))?;
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
        sync_folder(&self.temporary.path).map_err(Error::io("bring the folder to the disk", &self.final_path))?;
        let aside = if self.replaces { self.move_aside()? } else { None };
        // A rename onto an empty folder would succeed.
        let renamed = check_free(&self.final_path).and_then(|()| {
            fs::rename(&self.temporary.path, &self.final_path).map_err(Error::io("rename to it", &self.final_path))
        });
        if let (Err(_), Some(aside)) = (&renamed, &aside) {
            // If even this fails, the next writer will try again; the first error is the one to tell.
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
            if !exists(&self.temporary.path.join(&name)).map_err(read_error)? {
                let (path, name) = (self.final_path.clone(), name.to_string_lossy().into_owned());
                return Err(Error::Foreign { path, name });
            }
        }
        let aside = hidden(&self.final_path, OLD, &self.temporary.token);
        fs::rename(&self.final_path, &aside).map_err(Error::io("move aside", &self.final_path))?;
        Ok(Some(aside))
    }
}

impl Drop for FolderWriter {
    fn drop(&mut self) {
        if !self.committed {
            // Nobody is left to tell; the next writer will try again.
            let _ = fs::remove_dir_all(&self.temporary.path);
        }
    }
}

/// Removes the temporary files and folders that killed processes left in the folder `parent`, and returns their paths, sorted.
///
/// Those that a living process holds stay. So does everything that is not ours: whose name is of another form, symbolic links,
/// and folders that hold anything but files.
///
/// A folder `.NAME.lmht-old-TOKEN` was being replaced. If the new one has taken its name, it is removed as well; if not, it
/// gets the name back, and is not among the paths that are returned.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be read or a leftover cannot be removed or renamed.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let run = tempfile::tempdir()?;
/// let leftover = run.path().join(".epoch-0002.lmht-new-0123456789abcdef");
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
        match leftover.clean(&path, entry.file_type().map_err(read_error)?.is_dir()) {
            Ok(true) => removed.push(path),
            Ok(false) => {}
            // Another process cleans as well.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Io { action: "clear away the leftover of an earlier run", path, source }),
        }
    }
    removed.sort();
    Ok(removed)
}

/// Whether a file of this name is a temporary one of this module's, at work or left behind.
///
/// ```
/// use lmht_nn::atomic::is_temporary;
/// assert!(is_temporary(".model.lmht-new-0123456789abcdef".as_ref()));
/// assert!(!is_temporary(".model.tmp-17".as_ref()));
/// ```
pub fn is_temporary(file_name: &OsStr) -> bool {
    Leftover::of(file_name).is_some()
}

/// What lies about beside `path` has no say in whether `path` can be written.
fn clean_before_writing(path: &Path) {
    let _ = clean_stale(parent(path));
}

/// Kinds of temporary names.
const NEW: &str = "new";
const OLD: &str = "old";

/// Where locks are unknown, whoever wrote nothing for so long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// A path of ours that nobody had before.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    token: String,
}

impl Temporary {
    /// Makes a file or folder beside `final_path` and locks it.
    fn make(final_path: &Path, create: impl Fn(&Path) -> io::Result<Option<File>>) -> io::Result<(Self, Option<File>)> {
        loop {
            let token = format!("{:016x}", getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?);
            let path = hidden(final_path, NEW, &token);
            let made = create(&path)?;
            let is_taken = matches!(made.as_ref().map(File::try_lock), Some(Err(TryLockError::WouldBlock)));
            // Whoever cleans may have found it before it was locked.
            if !is_taken && exists(&path)? {
                return Ok((Self { path, token }, made));
            }
        }
    }
}

/// A folder as a file that can be locked: on Unix.
fn open_folder(path: &Path) -> io::Result<Option<File>> {
    if cfg!(unix) { File::open(path).map(Some) } else { Ok(None) }
}

/// The lock of what a dead process made; `None` if its maker lives.
fn hold(path: &Path, is_folder: bool) -> io::Result<Option<Option<File>>> {
    let file = if is_folder { open_folder(path)? } else { Some(File::open(path)?) };
    match file.as_ref().map(File::try_lock) {
        Some(Ok(())) => Ok(Some(file)),
        Some(Err(TryLockError::WouldBlock)) => Ok(None),
        Some(Err(TryLockError::Error(_))) | None => {
            let age = path.symlink_metadata()?.modified()?.elapsed().unwrap_or_default();
            Ok((age > DEAD_AFTER).then_some(file))
        }
    }
}

/// `.NAME.lmht-KIND-TOKEN`, beside `final_path`.
fn hidden(final_path: &Path, kind: &str, token: &str) -> PathBuf {
    let mut hidden = OsString::from(".");
    hidden.push(final_path.file_name().unwrap_or_default());
    hidden.push(format!(".lmht-{kind}-{token}"));
    parent(final_path).join(hidden)
}

fn check_named(path: &Path) -> Result<(), Error> {
    let invalid = || Error::InvalidName { name: path.display().to_string(), expected: "a path that ends in a name" };
    path.file_name().map(drop).ok_or_else(invalid)
}

/// What a name of ours says.
#[derive(Debug, PartialEq)]
struct Leftover<'a> {
    /// The name that the whole would have had, or had.
    name: &'a OsStr,
    token: &'a str,
    /// Moved aside to be replaced, rather than not yet complete.
    is_replaced: bool,
}

impl<'a> Leftover<'a> {
    /// Reads `.NAME.lmht-new-TOKEN` and `.NAME.lmht-old-TOKEN`; `None` for any other name.
    fn of(file_name: &'a OsStr) -> Option<Self> {
        let bytes = file_name.as_encoded_bytes();
        let (rest, token) = bytes.split_at_checked(bytes.len().checked_sub(16)?)?;
        let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        let token = std::str::from_utf8(token).ok().filter(|token| token.as_bytes().iter().all(is_digit))?;
        let rest = rest.strip_prefix(b".")?;
        let (name, is_replaced) = match (rest.strip_suffix(b".lmht-new-"), rest.strip_suffix(b".lmht-old-")) {
            (Some(name), _) => (name, false),
            (_, Some(name)) => (name, true),
            (None, None) => return None,
        };
        (!name.is_empty()).then_some(Self { name: os_str(name)?, token, is_replaced })
    }

    /// Removes what lies at `path`, or gives it its name back; whether it was removed.
    fn clean(&self, path: &Path, is_folder: bool) -> io::Result<bool> {
        let made =
            if self.is_replaced { hidden(&path.with_file_name(self.name), NEW, self.token) } else { path.into() };
        let held = match made.symlink_metadata() {
            Ok(metadata) if metadata.is_file() || metadata.is_dir() => hold(&made, metadata.is_dir())?,
            // Not what a writer makes.
            Ok(_) => None,
            // The new folder has its name, or is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(None),
            Err(error) => return Err(error),
        };
        if held.is_none() || (self.is_replaced && !is_folder) {
            return Ok(false);
        }
        let original = path.with_file_name(self.name);
        if self.is_replaced && !exists(&original)? {
            return fs::rename(path, &original).map(|()| false);
        }
        if !is_folder {
            return fs::remove_file(path).map(|()| true);
        }
        for entry in fs::read_dir(path)? {
            if !entry?.file_type()?.is_file() {
                return Ok(false);
            }
        }
        fs::remove_dir_all(path).map(|()| true)
    }
}

#[cfg(unix)]
fn os_str(bytes: &[u8]) -> Option<&OsStr> {
    Some(std::os::unix::ffi::OsStrExt::from_bytes(bytes))
}

#[cfg(not(unix))]
fn os_str(bytes: &[u8]) -> Option<&OsStr> {
    std::str::from_utf8(bytes).ok().map(OsStr::new)
}

/// Whether something has this name, be it a link that points nowhere.
fn exists(path: &Path) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Lets `content` write a new file, and brings it to the disk. The file comes back open, with its lock.
fn write_synced(file: File, content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<File> {
    let mut writer = BufWriter::new(file);
    let written = content(&mut writer);
    // Taken apart by hand: dropping the writer after an error would try to write the rest once more.
    let (mut file, rest) = writer.into_parts();
    written?;
    file.write_all(&rest.map_err(io::Error::other)?)?;
    file.sync_all()?;
    Ok(file)
}

/// Brings a folder's entries to the disk. Only Unix lets a folder be opened for that; elsewhere the rename has to do.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

fn check_free(path: &Path) -> Result<(), Error> {
    match exists(path) {
        Ok(true) => Err(Error::Exists { path: path.into() }),
        Ok(false) => Ok(()),
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
        let token = "0123456789abcdef";
        let leftover = |name, is_replaced| Some(Leftover { name: OsStr::new(name), token, is_replaced });
        for (name, expected) in [
            (".epoch-0001.lmht-new-0123456789abcdef", leftover("epoch-0001", false)),
            (".metrics.json.lmht-new-0123456789abcdef", leftover("metrics.json", false)),
            (".model.lmht-old-0123456789abcdef", leftover("model", true)),
            (".model.lmht-older-0123456789abcdef", None),
            ("model.lmht-new-0123456789abcdef", None),
            (".lmht-new-0123456789abcdef", None),
            ("..lmht-new-0123456789abcdef", None),
            (".model.lmht-new-0123456789abcde", None),
            (".model.lmht-new-0123456789ABCDEF", None),
            (".model.lmht-new-0123456789abcdef-1", None),
            (".model.tmp-17", None),
            (".model", None),
            ("", None),
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
