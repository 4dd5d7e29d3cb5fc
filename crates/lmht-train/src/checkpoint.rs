//! What a run needs to continue as if it had never stopped, as a folder that exists whole or not at all.
//!
//! The random numbers of a run are a function of seed, epoch and image, so the position in the schedule is the state of
//! every generator.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lmht_nn::atomic::FolderWriter;
use lmht_nn::{ParamStore, checkpoints, checksums, is_damage, read_safetensors, to_safetensors};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::optim::Optimizer;
use crate::scale::LossScale;
use crate::{EpochMetrics, Error, Result};

/// Where a run is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Whole epochs done.
    pub(crate) epoch: usize,
    /// Steps done of the epoch that has begun; all of them if it was stopped before its evaluation was over.
    pub(crate) step: usize,
    /// What those steps have summed up.
    pub(crate) partial: Partial,
    /// Metrics of the whole epochs.
    pub(crate) history: Vec<EpochMetrics>,
    /// The factor on the loss of a run in f16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) loss_scale: Option<LossScale>,
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

/// The files of a checkpoint.
const FILES: [&str; 4] = ["model.safetensors", "optimizer.safetensors", "state.json", "config.json"];

/// Checkpoints that are kept while a run goes on: if the newest is damaged, the one before is there.
const KEPT: usize = 2;

fn folder_name(state: &State) -> String {
    match state.step {
        0 => format!("epoch-{:04}", state.epoch),
        step => format!("epoch-{:04}-step-{step:06}", state.epoch),
    }
}

/// Writes a checkpoint below `parent`, then removes all but the newest ones.
pub(crate) fn save(
    parent: &Path,
    state: &State,
    config: &str,
    params: &ParamStore,
    optimizer: &dyn Optimizer,
) -> Result<()> {
    let path = parent.join(folder_name(state));
    let (model, optimizer) = (params.to_safetensors()?, to_safetensors(optimizer.state()?)?);
    let state = to_json(state);
    let files: Vec<(&str, &[u8])> =
        FILES.into_iter().zip([&model[..], &optimizer[..], state.as_bytes(), config.as_bytes()]).collect();
    // At the same point of the same run, where a resumed run came by before, it is written again rather than trusted.
    let mut folder = FolderWriter::replacing(&path)?;
    for (name, bytes) in &files {
        folder.write(name, bytes)?;
    }
    folder.write(checksums::FILE, checksums::of(&files).as_bytes())?;
    folder.commit()?;
    prune(parent, KEPT)
}

/// Removes all but the newest `kept` checkpoints.
pub(crate) fn prune(parent: &Path, kept: usize) -> Result<()> {
    let all = checkpoints(parent)?;
    let remove = |path: &PathBuf| std::fs::remove_dir_all(path).map_err(|error| Error::file(path, error));
    all[..all.len().saturating_sub(kept)].iter().try_for_each(remove)
}

/// The newest whole checkpoint, and what is to be said about newer ones that are damaged.
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) state: State,
    pub(crate) notes: Vec<String>,
}

/// Finds the newest whole checkpoint below `parent`, if there is one. Damaged ones that are newer get another name.
pub(crate) fn find(parent: &Path, config: &str) -> Result<Option<Found>> {
    let (mut damaged, mut whole) = (Vec::new(), None);
    for path in checkpoints(parent)?.into_iter().rev() {
        match read(&path, config) {
            Ok(state) => {
                whole = Some((path, state));
                break;
            }
            Err(Unusable::Whole(error)) => return Err(error),
            Err(Unusable::Damaged(error)) => damaged.push((path, error)),
        }
    }
    let Some((path, state)) = whole else {
        return match damaged.into_iter().next() {
            None => Ok(None),
            Some((path, error)) => Err(Error::file(
                parent,
                format!(
                    "no checkpoint is whole, so the run cannot go on; the newest, {}: {error}. Restore it from a copy, or \
                     remove the folder of the run to start anew",
                    path.display()
                ),
            )),
        };
    };
    let mut notes = Vec::new();
    for (path, error) in damaged {
        let aside = aside(&path);
        std::fs::rename(&path, &aside).map_err(|error| Error::file(&path, error))?;
        notes.push(format!("{error}. The checkpoint is now {}; the run goes on from the one before", aside.display()));
    }
    Ok(Some(Found { path, state, notes }))
}

/// A free name beside a damaged checkpoint.
fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let names = (0..).map(|n| if n == 0 { format!("damaged-{name}") } else { format!("damaged-{name}-{n}") });
    names
        .map(|name| path.with_file_name(name))
        .find(|path| path.symlink_metadata().is_err())
        .expect("some name is free")
}

/// Why a checkpoint cannot be used.
enum Unusable {
    /// As far as is known it is whole: of another run, or the system could not read it.
    Whole(Error),
    Damaged(Error),
}

impl From<lmht_nn::Error> for Unusable {
    fn from(error: lmht_nn::Error) -> Self {
        match error {
            lmht_nn::Error::Read { path, source } if !is_damage(&source) => Self::Whole(Error::file(
                path,
                format!(
                    "cannot read it: {source}; give the same command again. If it stays so, move this checkpoint away, and \
                     the run goes on from the one before"
                ),
            )),
            error => Self::Damaged(error.into()),
        }
    }
}

/// Checks a checkpoint and reads where the run stood.
fn read(path: &Path, config: &str) -> std::result::Result<State, Unusable> {
    checksums::verify(path, &FILES)?;
    let text = |name: &str| {
        let file = path.join(name);
        std::fs::read_to_string(&file).map_err(|source| lmht_nn::Error::Read { path: file, source })
    };
    if let Some(difference) = first_difference(&text("config.json")?, config) {
        return Err(Unusable::Whole(Error::file(path, of_another_run("checkpoint", &difference))));
    }
    let state: State = serde_json::from_str(&text("state.json")?)
        .map_err(|error| format!("expected a checkpoint's state: {error}"))
        .map_err(|what| Unusable::Damaged(Error::file(path.join("state.json"), what)))?;
    let numbered = state.history.iter().enumerate().all(|(i, metrics)| metrics.epoch == i + 1);
    if state.history.len() != state.epoch || !numbered {
        let what = format!("expected the metrics of {} whole epochs, got {}", state.epoch, state.history.len());
        return Err(Unusable::Damaged(Error::file(path.join("state.json"), what)));
    }
    Ok(state)
}

/// Sets parameters and optimizer to a checkpoint.
pub(crate) fn load(path: &Path, params: &ParamStore, optimizer: &mut dyn Optimizer) -> Result<()> {
    params.load_file(&path.join("model.safetensors"))?;
    let path = path.join("optimizer.safetensors");
    let tensors: Vec<_> = read_safetensors(&path)?.into_iter().collect();
    optimizer.load_state(&tensors).map_err(|error| Error::file(&path, error))
}

/// What to say of a run of another configuration.
pub(crate) fn of_another_run(what: &str, difference: &str) -> String {
    format!(
        "this {what} belongs to a run of another configuration: {difference}; choose another run folder, give the same \
         configuration, or remove this one to start anew"
    )
}

/// Where two configurations differ first, in words. More epochs than before are no difference: a run can be extended.
pub(crate) fn first_difference(there: &str, here: &str) -> Option<String> {
    if there == here {
        return None;
    }
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    match (parse(there), parse(here)) {
        (Some(there), Some(here)) => difference(&there, &here, ""),
        _ => Some("it cannot be read".into()),
    }
}

fn difference(there: &Value, here: &Value, path: &str) -> Option<String> {
    if let (Value::Object(there), Value::Object(here)) = (there, here) {
        let names: BTreeSet<&String> = there.keys().chain(here.keys()).collect();
        return names.into_iter().find_map(|name| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let of = |object: &serde_json::Map<String, Value>| object.get(name).cloned().unwrap_or(Value::Null);
            difference(&of(there), &of(here), &path)
        });
    }
    let is_extension = path.rsplit('.').next() == Some("epochs") && there.as_u64() < here.as_u64();
    (there != here && !is_extension).then(|| format!("{path} is {there} there and {here} here"))
}

/// Pretty JSON with a line feed at the end.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    // Our records are structs of numbers and strings, which always serialize.
    serde_json::to_string_pretty(value).expect("a record serializes") + "\n"
}
