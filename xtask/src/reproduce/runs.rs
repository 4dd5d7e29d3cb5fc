//! The training runs behind the rows: several at a time, each in a process of its own.
//!
//! A small network leaves cores idle between its layers. Two runs with a thread each finish about 1.6 times as many
//! images as one run with two, and the results do not depend on the number of threads.

use std::io::{BufRead, BufReader};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use lmht_bench::{CostReport, EnergyModel};
use lmht_nn::atomic::write_file;
use lmht_train::{Metrics, Progress, RunInfo};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::plan::Row;
use crate::experiment::Experiment;

/// One seed of a row.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// The row's name.
    pub(crate) row: String,
    /// For people.
    title: String,
    /// What is run, with its seed.
    pub(crate) experiment: Experiment,
    /// Where the record is or will be.
    pub(crate) folder: PathBuf,
}

/// What one run gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Start of every random number.
    pub(crate) seed: u64,
    /// The run's folder.
    pub(crate) run: PathBuf,
    /// Command, commit and machine of the run.
    pub(crate) info: RunInfo,
    /// Accuracy.
    pub(crate) metrics: Metrics,
    /// Per image: accumulates caused by spikes.
    pub(crate) sops: f64,
    /// Per image: multiply-accumulates of analog inputs.
    pub(crate) macs: f64,
    /// Per image: the paper's count.
    pub(crate) paper_sops: f64,
    /// Per image: SOPs and MACs at 45 nm float32 prices, estimated.
    pub(crate) energy_mj: f64,
    /// Per image: the paper's count at its price, estimated.
    pub(crate) paper_energy_mj: f64,
}

impl Run {
    /// The run of `row` with `seed`, recorded below `out`.
    pub(crate) fn new(row: &Row, seed: u64, out: &Path) -> Self {
        Self::of(&row.id, &row.title, &row.experiment, seed, out)
    }

    /// A run of `experiment` with `seed`, recorded below `out`.
    pub(crate) fn of(id: &str, title: &str, experiment: &Experiment, seed: u64, out: &Path) -> Self {
        let mut experiment = experiment.clone();
        experiment.train.seed = seed;
        Self {
            row: id.to_string(),
            title: format!("{title}, seed {seed}"),
            experiment,
            folder: out.join(format!("{id}-seed{seed}")),
        }
    }

    /// Whether the record is complete. One of another configuration is an error: its figures would be mixed up.
    fn is_recorded(&self) -> Result<bool> {
        let path = self.folder.join("config.json");
        let exists = |path: &Path| path.try_exists().with_context(|| path.display().to_string());
        if !exists(&path)? {
            return Ok(false);
        }
        let mut recorded: Experiment = read_json(&path)?;
        // Where the start lies depends on how --out was given; what it holds depends on the run that it was made of.
        if recorded.start.is_some() && self.experiment.start.is_some() {
            recorded.start.clone_from(&self.experiment.start);
        }
        ensure!(
            recorded == self.experiment,
            "{}: recorded with another configuration than this version's; --retrain trains anew",
            self.folder.display()
        );
        // Written after everything else.
        exists(&self.folder.join("cost.json"))
    }

    /// Reads the complete record.
    pub(crate) fn outcome(&self) -> Result<Outcome> {
        let cost: CostReport = read_json(&self.folder.join("cost.json"))?;
        let energy = EnergyModel::default();
        Ok(Outcome {
            seed: self.experiment.train.seed,
            run: self.folder.clone(),
            info: read_json(&self.folder.join("run.json"))?,
            metrics: read_json(&self.folder.join("metrics.json"))?,
            sops: cost.sops(),
            macs: cost.macs(),
            paper_sops: cost.paper_sops(),
            energy_mj: energy.energy_mj(&cost),
            paper_energy_mj: energy.paper_energy_mj(cost.paper_sops()),
        })
    }

    /// Trains in a process with `threads` threads; what it says of its epochs is passed on behind the run's title.
    fn train(&self, threads: usize, progress: Progress) -> Result<()> {
        let parent = self.folder.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        let name = self.folder.file_name().unwrap_or_default().to_string_lossy();
        let config = parent.join(format!("{name}.toml"));
        write_file(&config, self.experiment.to_toml()?.as_bytes())?;
        let threads = threads.to_string();
        let mut command = Command::new(std::env::current_exe().context("cannot find this program to start a run")?);
        command.arg("train").arg(&config).arg("--run").arg(&self.folder);
        command.env("RAYON_NUM_THREADS", &threads).env("CANDLE_NUM_THREADS", &threads);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{}: cannot start the run", self.title))?;
        let mut last = String::new();
        for line in BufReader::new(child.stderr.take().expect("piped")).lines() {
            last = line.with_context(|| self.title.clone())?;
            if progress == Progress::Shown {
                eprintln!("[{}] {last}", self.title);
            }
        }
        let status = child.wait().with_context(|| self.title.clone())?;
        ensure!(status.success(), "{}: the run ended with {status}: {last}", self.title);
        Ok(())
    }
}

/// Trains every run that is not recorded, `jobs` at a time.
pub(crate) fn train_missing(runs: &[Run], jobs: Option<NonZeroUsize>, progress: Progress) -> Result<()> {
    let mut missing = Vec::new();
    for run in runs {
        if !run.is_recorded()? {
            missing.push(run);
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let jobs = jobs.map_or(cores, NonZeroUsize::get).min(missing.len()).max(1);
    let threads = (cores / jobs).max(1);
    if progress == Progress::Shown && !missing.is_empty() {
        let recorded = runs.len() - missing.len();
        eprintln!("{} runs to train, {recorded} recorded; {jobs} at a time, {threads} threads each", missing.len());
    }
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let worker = || -> Result<()> {
        while let Some(run) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            run.train(threads, progress)?;
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if progress == Progress::Shown {
                eprintln!("[{}] finished, {done} of {}", run.title, missing.len());
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let json = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&json).with_context(|| format!("{}: not a record; --retrain trains anew", path.display()))
}
