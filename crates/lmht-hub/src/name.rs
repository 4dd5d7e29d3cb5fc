//! Names: of repositories, their revisions and their files. What could leave the cache, or be a device, is refused.

use std::fmt;
use std::path::Path;

use crate::error::{Error, Result};

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoKind {
    /// A network.
    Model,
    /// A data set.
    Dataset,
}

/// A repository of the Hub at a revision.
///
/// ```
/// use lmht_hub::{Repo, RepoKind};
///
/// let repo = Repo::parse(RepoKind::Dataset, "uoft-cs/cifar10@refs/convert/parquet")?;
/// assert_eq!((repo.name(), repo.revision()), ("uoft-cs/cifar10", "refs/convert/parquet"));
/// assert_eq!(Repo::parse(RepoKind::Model, "owner/name")?.revision(), "main");
/// assert!(Repo::parse(RepoKind::Model, "../name").is_err());
/// # Ok::<(), lmht_hub::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repo {
    kind: RepoKind,
    name: String,
    revision: String,
}

impl Repo {
    /// `owner/name`, or `owner/name@revision` with a branch, a tag or a commit.
    ///
    /// # Errors
    /// [`Error::Name`] if the Hub would not take it for a name, or it would be no safe path.
    pub fn parse(kind: RepoKind, text: &str) -> Result<Self> {
        let wrong = |expected: &str| Error::Name { given: text.to_owned(), expected: expected.to_owned() };
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let is_name = name.len() <= 96
            && name.split_once('/').is_some_and(|(owner, name)| Self::is_part(owner) && Self::is_part(name));
        if !is_name {
            return Err(wrong("a name of the Hub, owner/name or owner/name@revision (letters, digits, -, _ and .)"));
        }
        if check_path(revision).is_err() {
            return Err(wrong("a branch, a tag or a commit after the @"));
        }
        Ok(Self { kind, name: name.to_owned(), revision: revision.to_owned() })
    }

    /// Whether the Hub takes it for an owner, or for a name below one.
    pub(crate) fn is_part(part: &str) -> bool {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_edge = |c: char| c == '-' || c == '.';
        !part.is_empty()
            && part.chars().all(allowed)
            && !part.starts_with(is_edge)
            && !part.ends_with(is_edge)
            && !part.contains("--")
            && !part.contains("..")
    }

    /// The repository that `path` names, if it can only be one: there is nothing on the disk, and no folder `owner` that it
    /// could be missing in.
    pub fn at(kind: RepoKind, path: &Path) -> Option<Self> {
        let is_local = path.exists() || path.parent().is_some_and(|parent| parent != Path::new("") && parent.exists());
        Self::parse(kind, path.to_str().filter(|_| !is_local)?).ok()
    }

    /// `owner/name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A branch, a tag or a commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// What it holds.
    pub fn kind(&self) -> RepoKind {
        self.kind
    }

    /// Its folder in the cache.
    pub(crate) fn folder(&self) -> String {
        format!("{}--{}", self.plural(), self.name.replace('/', "--"))
    }

    pub(crate) fn plural(&self) -> &'static str {
        match self.kind {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        }
    }

    /// Its page, below the Hub's address.
    pub fn page(&self) -> String {
        match self.kind {
            RepoKind::Model => self.name.clone(),
            RepoKind::Dataset => format!("datasets/{}", self.name),
        }
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.revision)
    }
}

/// A commit is 40 hexadecimal digits, and so is git's SHA-1; a SHA-256 is 64.
pub(crate) fn is_hex(text: &str, n_digits: usize) -> bool {
    text.len() == n_digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Refuses what is no path of a file below a folder, on any system: every part must be a plain name.
pub(crate) fn check_path(path: &str) -> Result<()> {
    let wrong = |reason: &str| {
        Err(Error::Name {
            given: path.to_owned(),
            expected: format!("the path of a file in a repository, and {reason}"),
        })
    };
    if path.len() > 1024 {
        return wrong("it is longer than 1024 bytes");
    }
    for part in path.split('/') {
        // What Windows opens as a device, whatever the ending.
        let stem = part.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
        let is_numbered = |name: &str| {
            stem.strip_prefix(name)
                .is_some_and(|n| n.chars().count() == 1 && n.chars().all(|c| "0123456789¹²³".contains(c)))
        };
        if part.is_empty() || part == "." || part == ".." {
            return wrong("it is absolute or leads out of it");
        }
        if part.chars().any(|c| c.is_control() || "\\:*?\"<>|".contains(c)) {
            return wrong("it has a character that some systems do not take in a name");
        }
        if part.len() > 255 || part.ends_with(['.', ' ']) {
            return wrong("a part of it is too long or ends in a dot or a space");
        }
        let is_device = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].contains(&stem.as_str());
        if is_device || is_numbered("COM") || is_numbered("LPT") {
            return wrong("a part of it is the name of a device");
        }
    }
    Ok(())
}
