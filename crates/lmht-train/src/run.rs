//! The record of a run: one folder that says what was run, what came of it, and lets it continue.
//!
//! | file | what | same bytes for the same run |
//! |---|---|---|
//! | `config.json` | the resolved configuration | yes |
//! | `metrics.jsonl` | one line per epoch | yes |
//! | `metrics.json` | the result, written last: a record without it is not finished | yes |
//! | `model/` | the result, a model folder | yes |
//! | `best/` | a model folder of the epoch with the best test accuracy, which is chosen on the test set | yes |
//! | `preprocessor_config.json` | what turns an image into the network's input | yes |
//! | `checkpoints/` | the newest two checkpoints, of a finished run the last one; the weights of the best epoch | yes |
//! | `.lock` | the process that works here; gone afterwards | |
//! | `run.json` | command, commit, machine | no |
//! | `timing.jsonl` | seconds and images/s per epoch | no |
//! | `tensorboard/` | the same figures as TensorBoard events | no, they hold times |

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lmht_nn::atomic::{FolderWriter, clean_stale, is_temporary, write_file};
use lmht_nn::{ModelCard, ModelConfig, ParamStore, checksums, save_pretrained};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Found, State};
use crate::lock::RunLock;
use crate::optim::Optimizer;
use crate::tensorboard::EventWriter;
use crate::{EpochMetrics, Error, Metrics, Result};

/// Where and how a run was made: the record's `run.json`, and part of the model card.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RunInfo {
    /// The command line.
    pub command: String,
    /// The commit of the program, with `-dirty` if the tree was changed; "unknown" outside a repository.
    pub commit: String,
    /// Processor and number of threads.
    pub machine: String,
    /// The data set and split, in words.
    pub data: String,
    /// The split that is measured on, by the data set's name for it.
    #[serde(default)]
    pub test_split: String,
    /// Where the command was given: relative paths of the configuration start there.
    #[serde(default, serialize_with = "as_text", skip_serializing_if = "is_empty")]
    pub directory: PathBuf,
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// A path that is no text is recorded as well as it can be: only a person reads it.
fn as_text<S: serde::Serializer>(path: &Path, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// A run's folder, open for writing.
#[derive(Debug)]
pub struct RunRecord {
    path: PathBuf,
    config: String,
    info: RunInfo,
    events: EventWriter,
    preprocessor: Option<String>,
    stop: Arc<AtomicBool>,
    /// Whether the configuration that the folder holds has fewer epochs.
    is_extended: bool,
    _lock: RunLock,
}

impl RunRecord {
    /// Opens the record at `path`: makes the folder, or continues the run that is there. No other process can open it
    /// meanwhile.
    ///
    /// `config` is everything that decides the result. A run goes on with the same configuration, or with more epochs.
    ///
    /// # Errors
    /// If the folder holds a run of another configuration or something else than a run, another process works in it, or it
    /// cannot be written.
    pub fn open(path: &Path, config: &impl Serialize, info: RunInfo) -> Result<Self> {
        let config = serde_json::to_string_pretty(config)
            .map_err(|error| Error::Config(format!("it cannot be recorded as JSON: {error}")))?
            + "\n";
        // Before anything is made there.
        if config_of(path, &config)?.is_none() {
            check_empty(path)?;
        }
        std::fs::create_dir_all(path).map_err(|error| Error::file(path, error))?;
        let lock = RunLock::take(path)?;
        let there = config_of(path, &config)?;
        if there.is_none() {
            write_file(&path.join(CONFIG), config.as_bytes())?;
        }
        let is_extended = there.is_some_and(|there| there != config);
        let checkpoints = path.join(CHECKPOINTS);
        std::fs::create_dir_all(&checkpoints).map_err(|error| Error::file(&checkpoints, error))?;
        clean_stale(path)?;
        clean_stale(&checkpoints)?;
        write_file(&path.join("run.json"), checkpoint::to_json(&info).as_bytes())?;
        let events = EventWriter::create(&path.join("tensorboard"))?;
        let (path, stop) = (path.to_path_buf(), Arc::default());
        Ok(Self { path, config, info, events, preprocessor: None, stop, is_extended, _lock: lock })
    }

    /// The same record, whose model folders get this `preprocessor_config.json`.
    ///
    /// # Errors
    /// If the folder of the run cannot be written.
    pub fn with_preprocessor(mut self, json: String) -> Result<Self> {
        write_file(&self.path.join(PREPROCESSOR), json.as_bytes())?;
        self.preprocessor = Some(json);
        Ok(self)
    }

    /// The same record, whose run stops with [`Error::Stopped`] soon after `stop` becomes true: the step is finished and a
    /// checkpoint written, from which the run goes on the next time.
    pub fn stopped_by(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = stop;
        self
    }

    pub(crate) fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether the run that the folder holds had fewer epochs.
    pub(crate) fn is_extended(&self) -> bool {
        self.is_extended
    }

    /// The folder holds this run from now on.
    pub(crate) fn begin(&mut self) -> Result<()> {
        if self.is_extended {
            // Without its result it is an unfinished run, which it is as soon as the configuration says so.
            remove_file(&self.path.join(METRICS))?;
            write_file(&self.path.join(CONFIG), self.config.as_bytes())?;
            self.is_extended = false;
        }
        Ok(())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }

    /// The newest whole checkpoint.
    pub(crate) fn find(&self) -> Result<Option<Found>> {
        checkpoint::find(&self.checkpoints(), &self.config)
    }

    pub(crate) fn checkpoint(&mut self, state: &State, params: &ParamStore, optimizer: &dyn Optimizer) -> Result<()> {
        checkpoint::save(&self.checkpoints(), state, &self.config, params, optimizer)
    }

    fn best_weights(&self, epoch: usize) -> PathBuf {
        self.checkpoints().join(format!("best-{epoch:04}"))
    }

    /// Keeps the weights of an epoch that is the best so far. Before its checkpoint, which says that it is.
    pub(crate) fn keep_best(&mut self, epoch: usize, params: &ParamStore) -> Result<()> {
        let weights = params.to_safetensors()?;
        let mut folder = FolderWriter::replacing(self.best_weights(epoch))?;
        folder.write(WEIGHTS, &weights)?;
        folder.write(checksums::FILE, checksums::of(&[(WEIGHTS, &weights)]).as_bytes())?;
        folder.commit()?;
        Ok(())
    }

    /// Removes the weights of epochs that are not the best any more. After the checkpoint.
    pub(crate) fn forget_others(&mut self, best: usize) -> Result<()> {
        let (folder, kept) = (self.checkpoints(), self.best_weights(best));
        for entry in std::fs::read_dir(&folder).map_err(|error| Error::file(&folder, error))? {
            let path = entry.map_err(|error| Error::file(&folder, error))?.path();
            let is_best = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("best-"));
            if is_best && path != kept {
                std::fs::remove_dir_all(&path).map_err(|error| Error::file(&path, error))?;
            }
        }
        Ok(())
    }

    /// A step for TensorBoard.
    pub(crate) fn log_step(&mut self, step: usize, loss: f64, lr: f64) -> Result<()> {
        self.events.scalar("step/loss", step as u64, loss)?;
        self.events.scalar("step/lr", step as u64, lr)
    }

    /// What layers do, for TensorBoard.
    pub(crate) fn log_layers(&mut self, epoch: usize, numbers: &[(String, f64)]) -> Result<()> {
        numbers.iter().try_for_each(|(tag, value)| self.events.scalar(tag, epoch as u64, *value))
    }

    /// Writes `metrics.jsonl` anew: after a crash it may be an epoch behind the checkpoint, never ahead of it.
    pub(crate) fn write_history(&mut self, history: &[EpochMetrics]) -> Result<()> {
        let mut lines = String::new();
        for metrics in history {
            lines += &serde_json::to_string(metrics).expect("metrics serialize");
            lines.push('\n');
        }
        Ok(write_file(&self.path.join("metrics.jsonl"), lines.as_bytes())?)
    }

    /// Adds a line to the timing. Before the checkpoint of the epoch, after which nobody comes back for it; so a line of an epoch
    /// that is trained again is replaced.
    pub(crate) fn log_timing(&self, epoch: usize, seconds: f64, n_images: usize) -> Result<()> {
        let path = self.path.join("timing.jsonl");
        let earlier = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::file(&path, error)),
            earlier => earlier.unwrap_or_default(),
        };
        let epoch_of = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["epoch"].as_u64();
        let is_earlier = |line: &&str| epoch_of(line).is_some_and(|of_line| of_line < epoch as u64);
        let mut lines: String = earlier.lines().filter(is_earlier).flat_map(|line| [line, "\n"]).collect();
        let line = serde_json::json!({
            "epoch": epoch, "train_seconds": seconds, "images_per_second": n_images as f64 / seconds
        });
        lines += &format!("{line}\n");
        Ok(write_file(&path, lines.as_bytes())?)
    }

    pub(crate) fn log_epoch(&mut self, metrics: &EpochMetrics, seconds: f64, n_images: usize) -> Result<()> {
        let images_per_second = n_images as f64 / seconds;
        let step = metrics.epoch as u64;
        for (tag, value) in [
            ("train/loss", metrics.train_loss),
            ("train/top1", metrics.train_top1),
            ("train/lr", metrics.lr),
            ("train/images_per_second", images_per_second),
            ("test/loss", metrics.test.loss),
            ("test/top1", metrics.test.top1),
        ] {
            self.events.scalar(tag, step, value)?;
        }
        for (t, &top1) in metrics.test.top1_by_timestep.iter().enumerate() {
            self.events.scalar(&format!("test/top1_at_timestep_{}", t + 1), step, top1)?;
        }
        self.events.flush()
    }

    /// Writes what the run gave.
    pub(crate) fn finish(&mut self, metrics: &Metrics, config: &ModelConfig, params: &ParamStore) -> Result<()> {
        let mut card = ModelCard {
            command: self.info.command.clone(),
            data: self.info.data.clone(),
            top1: Some(metrics.top1),
            config: self.config.clone(),
            preprocessor: self.preprocessor.clone(),
        };
        save_pretrained(&self.path.join("model"), config, params, &card)?;
        let best = self.best_weights(metrics.best_epoch);
        // None of a run whose weights of the best epoch somebody took away.
        if best.try_exists().map_err(|error| Error::file(&best, error))? {
            let weights = ParamStore::blank();
            let dtype = params.all().first().map_or(candle_core::DType::F32, |(_, var)| var.dtype());
            lmht_nn::Network::new(config, weights.builder(dtype, &candle_core::Device::Cpu))?;
            checksums::verify(&best, &[WEIGHTS])?;
            weights.load_file(&best.join(WEIGHTS))?;
            card.top1 = Some(metrics.best_top1);
            card.data += &format!(
                "; these are the weights after epoch {} of {}, the best on the test set: an optimistic choice",
                metrics.best_epoch, metrics.epochs
            );
            save_pretrained(&self.path.join("best"), config, &weights, &card)?;
        }
        write_file(&self.path.join(METRICS), checkpoint::to_json(metrics).as_bytes())?;
        checkpoint::prune(&self.checkpoints(), 1)
    }
}

/// Files and folders of a run.
const CONFIG: &str = "config.json";
const METRICS: &str = "metrics.json";
const PREPROCESSOR: &str = "preprocessor_config.json";
const CHECKPOINTS: &str = "checkpoints";
const WEIGHTS: &str = "model.safetensors";

/// The configuration of the run that a folder holds, if it holds one.
fn config_of(folder: &Path, config: &str) -> Result<Option<String>> {
    let path = folder.join(CONFIG);
    match std::fs::read_to_string(&path) {
        Ok(there) => match checkpoint::first_difference(&there, config) {
            Some(difference) => Err(Error::file(path, checkpoint::of_another_run("folder", &difference))),
            None => Ok(Some(there)),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file(path, error)),
    }
}

/// Refuses a folder that holds anything but what a run that died in its first moments leaves.
fn check_empty(folder: &Path) -> Result<()> {
    let failed = |error| Error::file(folder, error);
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let is_ours =
            is_temporary(&name) || (name == crate::lock::FILE && crate::lock::is_lock(folder).map_err(failed)?);
        if !is_ours {
            let what =
                format!("it holds {name:?} and no run (config.json is missing); choose a new or an empty folder");
            return Err(Error::file(folder, what));
        }
    }
    Ok(())
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file(path, error)),
        _ => Ok(()),
    }
}
