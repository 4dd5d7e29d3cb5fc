//! What a run needs to continue as if it had never stopped, as a folder that exists whole or not at all.
//!
//! The random numbers of a run are a function of seed, epoch and image, so the position in the schedule is the state of
//! every generator.

use std::path::{Path, PathBuf};
use std::time::Instant;

use lmht_nn::atomic::FolderWriter;
use lmht_nn::{ParamStore, read_safetensors, to_safetensors};
use serde::{Deserialize, Serialize};

use crate::optim::Optimizer;
use crate::{EpochMetrics, Error, Result};

/// Where a run is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Whole epochs done.
    pub(crate) epoch: usize,
    /// Steps done of the epoch that has begun.
    pub(crate) step: usize,
    /// What those steps have summed up.
    pub(crate) partial: Partial,
    /// Metrics of the whole epochs.
    pub(crate) history: Vec<EpochMetrics>,
}

/// Running sums of an epoch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Partial {
    loss_sum: f64,
    n_correct: usize,
    n_images: usize,
}

impl Partial {
    pub(crate) fn add(&mut self, loss: f64, n_correct: usize, n_images: usize) {
        self.loss_sum += loss * n_images as f64;
        self.n_correct += n_correct;
        self.n_images += n_images;
    }

    pub(crate) fn loss(&self) -> f64 {
        self.loss_sum / self.n_images.max(1) as f64
    }

    pub(crate) fn top1(&self) -> f64 {
        self.n_correct as f64 / self.n_images.max(1) as f64
    }

    /// What a progress bar says after the steps since `started`.
    pub(crate) fn message(&self, started: Instant, n_images: usize) -> String {
        let rate = n_images as f64 / started.elapsed().as_secs_f64().max(1e-9);
        format!("loss {:.4}  top-1 {:.1} %  {rate:.0} images/s ", self.loss(), 100. * self.top1())
    }
}

/// `epoch-0003` after three whole epochs, `epoch-0003-step-000120` inside the fourth: the names sort by time.
fn folder_name(state: &State) -> String {
    match state.step {
        0 => format!("epoch-{:04}", state.epoch),
        step => format!("epoch-{:04}-step-{step:06}", state.epoch),
    }
}

/// The complete checkpoints below `parent`, oldest first.
pub(crate) fn list(parent: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file(parent, error)),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Error::file(parent, error))?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("epoch-")) {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

/// Writes a checkpoint below `parent`, then removes the older ones.
pub(crate) fn save(
    parent: &Path,
    state: &State,
    config: &str,
    params: &ParamStore,
    optimizer: &dyn Optimizer,
) -> Result<()> {
    let path = parent.join(folder_name(state));
    if path.exists() {
        // The same point of the same run: a resumed run came by here before. Its content is the same by construction,
        // but it is written again rather than trusted.
        std::fs::remove_dir_all(&path).map_err(|error| Error::file(&path, error))?;
    }
    let older = list(parent)?;
    let mut folder = FolderWriter::new(&path)?;
    folder.write("model.safetensors", &params.to_safetensors()?)?;
    folder.write("optimizer.safetensors", &to_safetensors(optimizer.state()?)?)?;
    folder.write("state.json", to_json(state).as_bytes())?;
    folder.write("config.json", config.as_bytes())?;
    folder.commit()?;
    for path in older {
        std::fs::remove_dir_all(&path).map_err(|error| Error::file(&path, error))?;
    }
    Ok(())
}

/// Restores the newest checkpoint below `parent`, if there is one.
pub(crate) fn load(
    parent: &Path,
    config: &str,
    params: &ParamStore,
    optimizer: &mut dyn Optimizer,
) -> Result<Option<State>> {
    let Some(path) = list(parent)?.pop() else { return Ok(None) };
    let read = |name: &str| {
        let file = path.join(name);
        std::fs::read_to_string(&file).map_err(|error| Error::file(&file, error))
    };
    if read("config.json")? != config {
        return Err(Error::file(
            &path,
            "this checkpoint belongs to another configuration; choose another run folder, or remove this one to start anew",
        ));
    }
    let state: State = serde_json::from_str(&read("state.json")?)
        .map_err(|error| Error::file(path.join("state.json"), format!("expected a checkpoint's state: {error}")))?;
    params.load_file(&path.join("model.safetensors"))?;
    let tensors: Vec<_> = read_safetensors(&path.join("optimizer.safetensors"))?.into_iter().collect();
    optimizer.load_state(&tensors)?;
    Ok(Some(state))
}

/// Pretty JSON with a line feed at the end.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    // Our records are structs of numbers and strings, which always serialize.
    serde_json::to_string_pretty(value).expect("a record serializes") + "\n"
}
