//! The record of a run: one folder that says what was run, what came of it, and lets it continue.
//!
//! | file | what | same bytes for the same run |
//! |---|---|---|
//! | `config.json` | the resolved configuration | yes |
//! | `metrics.jsonl` | one line per epoch | yes |
//! | `metrics.json` | the result, written last: a record without it is not finished | yes |
//! | `model/` | the model folder: `config.json`, `model.safetensors`, `README.md` | yes |
//! | `checkpoints/` | the newest checkpoint | yes |
//! | `run.json` | command, commit, machine | no |
//! | `timing.jsonl` | seconds and images/s per epoch | no |
//! | `tensorboard/` | the same figures as TensorBoard events | no, they hold times |

use std::io::Write;
use std::path::{Path, PathBuf};

use lmht_nn::atomic::{clean_stale, write_file};
use lmht_nn::{ModelCard, ModelConfig, ParamStore, save_pretrained};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, State};
use crate::optim::Optimizer;
use crate::tensorboard::EventWriter;
use crate::{EpochMetrics, Error, Metrics, Result};

/// Where and how a run was made: the record's `run.json`, and part of the model card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The command line.
    pub command: String,
    /// The commit of the program, with `-dirty` if the tree was changed; "unknown" outside a repository.
    pub commit: String,
    /// Processor and number of threads.
    pub machine: String,
    /// The data set and split, in words.
    pub data: String,
}

/// A run's folder, open for writing.
#[derive(Debug)]
pub struct RunRecord {
    path: PathBuf,
    config: String,
    info: RunInfo,
    events: EventWriter,
}

impl RunRecord {
    /// Opens the record at `path`: makes the folder, or continues the run that is there.
    ///
    /// `config` is everything that decides the result, and is compared to the byte.
    ///
    /// # Errors
    /// If the folder holds a run of another configuration, or cannot be written.
    pub fn open(path: &Path, config: &impl Serialize, info: RunInfo) -> Result<Self> {
        let config = checkpoint::to_json(config);
        let checkpoints = path.join("checkpoints");
        std::fs::create_dir_all(&checkpoints).map_err(|error| Error::file(&checkpoints, error))?;
        let config_path = path.join("config.json");
        match std::fs::read_to_string(&config_path) {
            Ok(there) if there != config => {
                return Err(Error::file(
                    &config_path,
                    "this folder holds a run of another configuration; choose another folder, or remove this one to start anew",
                ));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                write_file(&config_path, config.as_bytes())?;
            }
            Err(error) => return Err(Error::file(&config_path, error)),
        }
        clean_stale(path)?;
        clean_stale(&checkpoints)?;
        write_file(&path.join("run.json"), checkpoint::to_json(&info).as_bytes())?;
        let events = EventWriter::create(&path.join("tensorboard"))?;
        Ok(Self { path: path.to_path_buf(), config, info, events })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    pub(crate) fn restore(&self, params: &ParamStore, optimizer: &mut dyn Optimizer) -> Result<Option<State>> {
        checkpoint::load(&self.checkpoints(), &self.config, params, optimizer)
    }

    pub(crate) fn checkpoint(&mut self, state: &State, params: &ParamStore, optimizer: &dyn Optimizer) -> Result<()> {
        checkpoint::save(&self.checkpoints(), state, &self.config, params, optimizer)
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

    pub(crate) fn log_epoch(&mut self, metrics: &EpochMetrics, seconds: f64, n_images: usize) -> Result<()> {
        let images_per_second = n_images as f64 / seconds;
        let path = self.path.join("timing.jsonl");
        let line = serde_json::json!({
            "epoch": metrics.epoch, "train_seconds": seconds, "images_per_second": images_per_second
        });
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|error| Error::file(&path, error))?;
        writeln!(file, "{line}").map_err(|error| Error::file(&path, error))?;
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
        self.events.flush()
    }

    pub(crate) fn finish(&mut self, metrics: &Metrics, config: &ModelConfig, params: &ParamStore) -> Result<()> {
        let card = ModelCard {
            command: self.info.command.clone(),
            data: self.info.data.clone(),
            top1: Some(metrics.top1),
            config: self.config.clone(),
        };
        save_pretrained(&self.path.join("model"), config, params, &card)?;
        Ok(write_file(&self.path.join("metrics.json"), checkpoint::to_json(metrics).as_bytes())?)
    }
}
