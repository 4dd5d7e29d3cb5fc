//! The Hugging Face Hub on the command line: names in the place of paths, and bars while files come.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use lmht_datasets::ReadOptions;
use lmht_hub::{Doing, Hub, Progress, Repo, RepoKind};

/// A bar for the file that comes, and every file that has come.
pub(crate) struct Bars {
    bar: ProgressBar,
    files: RefCell<Vec<(String, u64, bool)>>,
}

impl Bars {
    pub(crate) fn new() -> Result<Self> {
        let bar = ProgressBar::new(0);
        let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
        bar.set_style(ProgressStyle::with_template(template)?);
        Ok(Self { bar, files: RefCell::default() })
    }

    pub(crate) fn show(&self, it: Progress<'_>) {
        let mut files = self.files.borrow_mut();
        if files.last().is_none_or(|(file, ..)| file != it.file) {
            files.push((it.file.to_owned(), it.size, false));
            self.bar.reset();
            self.bar.set_length(it.size);
        }
        let has_come = files.last_mut().map(|(.., has_come)| has_come);
        if let Some(has_come) = has_come.filter(|has_come| it.doing == Doing::Downloading && !**has_come) {
            *has_come = true;
            // A bar that nobody sees says nothing.
            if self.bar.is_hidden() {
                eprintln!("downloading {}, {} bytes", it.file, it.size);
            }
        }
        let doing = match it.doing {
            Doing::Verifying => "verifying",
            Doing::Downloading => "downloading",
            Doing::Waiting => "waiting for another process to download",
            Doing::Done => "done:",
        };
        self.bar.set_message(format!("{doing} {}", it.file));
        self.bar.set_position(it.done);
    }

    /// The files, their sizes, and whether they were downloaded.
    pub(crate) fn finish(self) -> Vec<(String, u64, bool)> {
        self.bar.finish_and_clear();
        self.files.into_inner()
    }
}

/// A path, or where the model is now that it names on the Hub.
pub(crate) fn model(path: &Path) -> Result<PathBuf> {
    let Some(repo) = Repo::at(RepoKind::Model, path) else { return Ok(path.to_path_buf()) };
    let bars = Bars::new()?;
    let folder = Hub::from_env().and_then(|hub| hub.model(&repo, &|it| bars.show(it)));
    bars.finish();
    folder.with_context(|| format!("{}: no such folder here; as a name of the Hub", path.display()))
}

/// Data sets of this process: name and configuration, folder and how it is read.
type Known = BTreeMap<(PathBuf, Option<String>), (PathBuf, ReadOptions)>;
static KNOWN: Mutex<Known> = Mutex::new(BTreeMap::new());

/// Where the data set is now that a path names on the Hub, and how it is read there; nothing of a path.
pub(crate) fn dataset(path: &Path, options: &ReadOptions) -> Result<Option<(PathBuf, ReadOptions)>> {
    let Some(repo) = Repo::at(RepoKind::Dataset, path) else { return Ok(None) };
    // A command opens its data several times, and verifying takes a while.
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (path.to_path_buf(), options.configuration.clone());
    if let Some((folder, found)) = known.get(&key) {
        return Ok(Some((
            folder.clone(),
            ReadOptions { configuration: found.configuration.clone(), ..options.clone() },
        )));
    }
    let bars = Bars::new()?;
    let found = Hub::from_env()
        .map_err(|source| lmht_datasets::Error::Hub { given: repo.to_string(), source })
        .and_then(|hub| lmht_datasets::hub::fetch(&hub, &repo, options, &|it| bars.show(it)));
    bars.finish();
    let found = found?;
    known.insert(key, found.clone());
    Ok(Some(found))
}

/// The commit of a data set of the Hub that was read, for records.
pub(crate) fn commit(path: &Path) -> Option<String> {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, (folder, _)) = known.iter().find(|((name, _), _)| name == path)?;
    Some(folder.file_name()?.to_string_lossy().into_owned())
}
