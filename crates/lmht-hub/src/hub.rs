//! [`Hub`]: what a repository has, and its files in the cache, verified.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::cache::{Cache, RemoteFile, create_parent, remove};
use crate::digest::Hash;
use crate::error::{Error, Result};
use crate::http::{Http, Times, Trouble, quoted};
use crate::name::{Repo, check_path, is_hex};
use crate::settings::Settings;

/// The files of a model folder, and whether it is one without it.
pub const MODEL_FILES: [(&str, bool); 5] = [
    ("config.json", true),
    ("model.safetensors", true),
    ("preprocessor_config.json", false),
    ("SHA256SUMS", false),
    ("README.md", false),
];

const MAX_PAGES: usize = 1000;
const MAX_FILES: usize = 1 << 20;

/// What is done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Its digest is computed: it is in the cache, or has just arrived.
    Verifying,
    /// It arrives.
    Downloading,
    /// Another process fetches it.
    Waiting,
    /// It is there, and verified.
    Done,
}

/// How far a file is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Its path in the repository.
    pub file: &'a str,
    /// What is done with it.
    pub doing: Doing,
    /// Bytes that are done.
    pub done: u64,
    /// Bytes in all.
    pub size: u64,
}

/// What is told about progress, possibly nothing.
pub type Observer<'a> = &'a dyn Fn(Progress<'_>);

/// What a repository has at a commit.
#[derive(Debug, Clone)]
pub struct Listing {
    repo: Repo,
    commit: String,
    /// Sorted by path.
    pub files: Vec<RemoteFile>,
    /// Whether these are all: offline, another client may have left some.
    is_whole: bool,
}

impl Listing {
    /// 40 hexadecimal digits.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// A file by its path.
    pub fn file(&self, path: &str) -> Option<&RemoteFile> {
        self.files.iter().find(|file| file.path == path)
    }
}

/// The Hub and its cache.
pub struct Hub {
    settings: Settings,
    http: Http,
}

/// An answer of `/revision/`.
#[derive(Deserialize)]
struct Revision {
    sha: String,
}

/// An entry of `/tree/`.
#[derive(Deserialize)]
struct Entry {
    r#type: String,
    path: String,
    #[serde(default)]
    oid: String,
    #[serde(default)]
    size: u64,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Hub {
    /// As the environment says ([`Settings::from_env`]).
    ///
    /// # Errors
    /// As [`Settings::from_env`]; [`Error::File`] for certificates that cannot be read.
    pub fn from_env() -> Result<Self> {
        Self::new(Settings::from_env()?)
    }

    /// With these settings.
    ///
    /// # Errors
    /// [`Error::File`] for certificates that cannot be read.
    pub fn new(settings: Settings) -> Result<Self> {
        Ok(Self { http: Http::new(&settings, Times::default())?, settings })
    }

    /// The same with other times: the pause before a second try, and how long nothing may arrive.
    ///
    /// # Errors
    /// As [`Hub::new`].
    pub fn with_times(self, pause: Duration, silence: Duration) -> Result<Self> {
        Ok(Self { http: Http::new(&self.settings, Times { pause, silence })?, settings: self.settings })
    }

    /// What it works with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn cache(&self, repo: &Repo) -> Cache {
        Cache::new(&self.settings.cache, repo, self.settings.links)
    }

    /// What a repository has. A commit that is known, and everything offline, is not asked for again.
    ///
    /// # Errors
    /// [`Error::Status`] if it is not there, private or gated; [`Error::Answer`] if a name in it is not safe to write to;
    /// [`Error::Offline`], [`Error::Network`], [`Error::File`].
    pub fn listing(&self, repo: &Repo) -> Result<Listing> {
        let cache = self.cache(repo);
        let of = |commit: String, files, is_whole| Listing { repo: repo.clone(), commit, files, is_whole };
        let is_commit = is_hex(repo.revision(), 40);
        if self.settings.offline || is_commit {
            let offline = || Error::Offline { what: repo.to_string(), cache: self.settings.cache.clone() };
            let commit = match cache.commit(repo.revision())? {
                Some(commit) => commit,
                None => return Err(offline()),
            };
            if let Some(files) = cache.listing(&commit)? {
                check(&files, &commit)?;
                return Ok(of(commit, files, true));
            }
            if self.settings.offline {
                let files = cache.left_by_others(&commit)?;
                return if files.is_empty() { Err(offline()) } else { Ok(of(commit, files, false)) };
            }
        }
        let api = format!("{}/api/{}/{}", self.settings.endpoint, repo.plural(), repo.name());
        let commit = if is_commit {
            repo.revision().to_owned()
        } else {
            let url = format!("{api}/revision/{}", quoted(repo.revision(), false));
            let Revision { sha } = self.http.json(&url)?.0;
            if !is_hex(&sha, 40) {
                let reason = format!("expected a commit of 40 hexadecimal digits, found {sha:?}; is it a Hub?");
                return Err(Error::answer(&url, reason));
            }
            sha
        };
        let url = format!("{api}/tree/{commit}?recursive=true");
        let files = self.tree(&url)?;
        check(&files, &url)?;
        cache.remember_listing(&commit, &files)?;
        cache.remember_commit(repo.revision(), &commit)?;
        Ok(of(commit, files, true))
    }

    /// All pages of a tree.
    fn tree(&self, url: &str) -> Result<Vec<RemoteFile>> {
        let (mut files, mut page, mut seen) = (Vec::new(), url.to_owned(), BTreeSet::new());
        loop {
            if !seen.insert(page.clone()) || seen.len() > MAX_PAGES || files.len() > MAX_FILES {
                return Err(Error::answer(url, "expected a list that ends, found one without an end; is it a Hub?"));
            }
            let (entries, next): (Vec<Entry>, _) = self.http.json(&page)?;
            for entry in entries.into_iter().filter(|entry| entry.r#type == "file") {
                let (hash, size) = match entry.lfs {
                    Some(lfs) => (lfs.oid, lfs.size),
                    None => (entry.oid, entry.size),
                };
                files.push(RemoteFile { path: entry.path, size, hash });
            }
            match next {
                Some(next) => page = next,
                None => break,
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// Files of a repository in the cache; what is missing or damaged there is downloaded. Gives the folder of the snapshot.
    ///
    /// # Errors
    /// [`Error::NoSuchFile`]; [`Error::Answer`] if what came is not what its digest says; as [`Hub::listing`].
    pub fn fetch(&self, listing: &Listing, paths: &[&str], observer: Observer<'_>) -> Result<PathBuf> {
        let mut files = Vec::new();
        for path in paths {
            files.push(listing.file(path).ok_or_else(|| self.no_such_file(listing, path))?);
        }
        let total = files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.size));
        if total.is_none_or(|total| total > self.settings.max_bytes) {
            let reason = format!("expected at most {} bytes, and the files have more", self.settings.max_bytes);
            return Err(Error::answer(&listing.repo.to_string(), reason));
        }
        for file in files {
            self.one(listing, file, observer)?;
        }
        Ok(self.cache(&listing.repo).snapshot(&listing.commit))
    }

    /// The files of a model folder ([`MODEL_FILES`]) in the cache. Gives the folder.
    ///
    /// # Errors
    /// As [`Hub::fetch`].
    pub fn model(&self, repo: &Repo, observer: Observer<'_>) -> Result<PathBuf> {
        let listing = self.listing(repo)?;
        let mut paths = Vec::new();
        for (path, is_needed) in MODEL_FILES {
            if is_needed || listing.file(path).is_some() {
                paths.push(path);
            } else if listing.is_whole && !self.settings.offline {
                self.cache(repo).remember_missing(&listing.commit, path)?;
            }
        }
        self.fetch(&listing, &paths, observer)
    }

    fn no_such_file(&self, listing: &Listing, path: &str) -> Error {
        let repo = listing.repo.to_string();
        if !listing.is_whole {
            return Error::Offline { what: format!("{repo}: {path}"), cache: self.settings.cache.clone() };
        }
        let names: Vec<&str> = listing.files.iter().take(10).map(|file| file.path.as_str()).collect();
        let hint = format!("it has {}; is it a repository for this program?", names.join(", "));
        Error::NoSuchFile { repo, path: path.to_owned(), hint }
    }

    fn one(&self, listing: &Listing, file: &RemoteFile, observer: Observer<'_>) -> Result<()> {
        check_path(&file.path)?;
        let cache = self.cache(&listing.repo);
        let tell = |doing, done| observer(Progress { file: &file.path, doing, done, size: file.size });
        let hash = Hash::parse(&file.hash).expect("a listing is checked");
        let (pointer, blob) = (cache.pointer(&listing.commit, file), cache.blob(&hash));
        let is_good = |path: &Path| -> Result<bool> {
            let size = fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|found| found.len());
            if size != Some(file.size) {
                return Ok(false);
            }
            let found = hash.of_file(path, &mut |done| tell(Doing::Verifying, done));
            Ok(found.map_err(|error| Error::file(path, format!("cannot read: {error}")))? == hash.as_str())
        };
        // Before any lock, as a cache may be for reading alone.
        if !is_good(&pointer)? {
            if self.settings.offline && !blob.exists() && fs::symlink_metadata(&pointer).is_err() {
                let what = format!("{}: {}", listing.repo, file.path);
                return Err(Error::Offline { what, cache: self.settings.cache.clone() });
            }
            let _lock = cache.lock(&hash, &mut || tell(Doing::Waiting, 0))?;
            if is_good(&blob)? {
                cache.point(&blob, &pointer)?;
            } else if self.settings.offline {
                let reason = format!(
                    "damaged: it is not what its {} {} says; remove it, and unset HF_HUB_OFFLINE once to download it again",
                    hash.kind(),
                    hash.as_str()
                );
                return Err(Error::file(&pointer, reason));
            } else {
                // Who waited for another process may find it done, also where there are no blobs.
                if !is_good(&pointer)? {
                    remove(&blob)?;
                    self.download(listing, file, &hash, &cache, &tell)?;
                    cache.adopt(&hash, &pointer)?;
                }
            }
        }
        tell(Doing::Done, file.size);
        Ok(())
    }

    /// Brings the verified bytes of a file to [`Cache::part`].
    fn download(
        &self,
        listing: &Listing,
        file: &RemoteFile,
        hash: &Hash,
        cache: &Cache,
        tell: &dyn Fn(Doing, u64),
    ) -> Result<()> {
        let (endpoint, page) = (&self.settings.endpoint, listing.repo.page());
        let url = format!("{endpoint}/{page}/resolve/{}/{}", listing.commit, quoted(&file.path, true));
        let part = cache.part(hash);
        create_parent(&part)?;
        let mut n_wrong = 0;
        self.http.retrying(|| {
            self.attempt(&url, &part, file.size, tell)?;
            let found = hash.of_file(&part, &mut |done| tell(Doing::Verifying, done));
            let found = found.map_err(|error| Error::file(&part, format!("cannot read: {error}")))?;
            if found == hash.as_str() {
                return Ok(());
            }
            remove(&part)?;
            n_wrong += 1;
            let (kind, expected) = (hash.kind(), hash.as_str());
            let error = Error::answer(
                &url,
                format!(
                    "damaged on its way: expected bytes with the {kind} {expected}, found {found}; nothing of it was kept. \
                     Try again; if it stays, the repository or what is between is at fault"
                ),
            );
            // What was resumed may have been damaged before; whole and wrong twice is no accident.
            Err(if n_wrong < 2 { Trouble::passing(error) } else { Trouble::Final(error) })
        })
    }

    /// One question for what is missing of a part, which has all bytes afterwards.
    fn attempt(
        &self,
        url: &str,
        part: &Path,
        size: u64,
        tell: &dyn Fn(Doing, u64),
    ) -> std::result::Result<(), Trouble> {
        let disk = |error: std::io::Error| Error::file(part, format!("cannot write: {error}"));
        let mut out = File::options().create(true).write(true).truncate(false).open(part).map_err(disk)?;
        let mut have = out.metadata().map_err(disk)?.len();
        if have > size {
            out.set_len(0).map_err(disk)?;
            have = 0;
        }
        if have == size {
            return Ok(());
        }
        let answer = self.http.get(url, (have > 0).then_some(have))?;
        let wrong = |reason: String| Trouble::passing(Error::answer(url, reason));
        let start = match answer.status {
            200 => 0,
            206 if have > 0 && answer.header("content-range").is_some_and(|range| is_range(range, have, size)) => have,
            status => {
                let range = answer.header("content-range").unwrap_or("none").to_owned();
                out.set_len(0).map_err(disk)?;
                return Err(wrong(format!(
                    "expected the {size} bytes of the file, from {have} on, found status {status} with Content-Range {range}"
                )));
            }
        };
        let length = answer.header("content-length").and_then(|text| text.parse::<u64>().ok());
        if let Some(length) = length.filter(|length| start.checked_add(*length) != Some(size)) {
            return Err(wrong(format!("expected {} bytes, as the list of files says, found {length}", size - start)));
        }
        if answer.header("content-encoding").is_some_and(|encoding| encoding != "identity") {
            return Err(wrong("expected the bytes as they are, found a Content-Encoding".to_owned()));
        }
        out.set_len(start).and_then(|()| out.seek(std::io::SeekFrom::Start(start))).map_err(disk)?;
        let (mut body, mut buffer, mut done) = (answer.body(), vec![0; 1 << 17], start);
        let broken = loop {
            match body.read(&mut buffer) {
                Ok(0) => break "the file ended".to_owned(),
                Ok(n) if done + n as u64 > size => {
                    out.set_len(0).map_err(disk)?;
                    return Err(wrong(format!("expected {size} bytes, as the list of files says, and more came")));
                }
                Ok(n) => {
                    out.write_all(&buffer[..n]).map_err(disk)?;
                    done += n as u64;
                    tell(Doing::Downloading, done);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => break format!("the connection broke ({error})"),
            }
        };
        out.sync_all().map_err(disk)?;
        if done == size {
            return Ok(());
        }
        let error = Error::Network { url: url.to_owned(), reason: format!("{broken} after {done} of {size} bytes") };
        Err(Trouble::Passing { error, after: None, progressed: done > have })
    }
}

/// `bytes <from>-<last>/<size>`.
fn is_range(text: &str, from: u64, size: u64) -> bool {
    let parts = text.strip_prefix("bytes ").and_then(|text| {
        let (range, total) = text.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        Some((first.trim().parse::<u64>().ok()?, last.trim().parse::<u64>().ok()?, total.trim()))
    });
    parts
        .is_some_and(|(first, last, total)| first == from && last < size && (total == "*" || total.parse() == Ok(size)))
}

/// Refuses a list with a digest that is none, or with a name twice. A name that leads elsewhere is refused once its file is
/// wanted: a repository may have files that are none of our business.
fn check(files: &[RemoteFile], origin: &str) -> Result<()> {
    for file in files {
        if Hash::parse(&file.hash).is_none() {
            let (path, hash) = (&file.path, &file.hash);
            return Err(Error::answer(
                origin,
                format!("{path:?}: expected a SHA-1 or SHA-256 of the file, found {hash:?}"),
            ));
        }
    }
    if let Some(twice) = files.windows(2).find(|pair| pair[0].path == pair[1].path) {
        return Err(Error::answer(origin, format!("expected every file once, found {:?} twice", twice[0].path)));
    }
    Ok(())
}
