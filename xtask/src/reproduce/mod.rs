//! `cargo xtask reproduce-tables`: the paper's tables, each row beside what this machine measured.

mod paper;
mod plan;
mod report;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lmht_bench::{CostCounter, EnergyModel};
use lmht_nn::atomic::write_file;
use lmht_nn::train::{Metrics, Progress, evaluate};
use serde::{Deserialize, Serialize};

use crate::experiment::Experiment;
use crate::{provenance, train};
use plan::Preset;

/// Reproduce the paper's tables on data that ships with the repository.
///
/// Trains each row's stand-in network, counts its operations, and prints every row beside the paper's figure. Rows that
/// were recorded before are read, not trained again. Needs no network.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask reproduce-tables                    Tables 1 and 3 as stand-ins, at most 10 minutes on 2 cores
  cargo xtask reproduce-tables --preset smoke     the same path in under a minute, accuracies without meaning
  cargo xtask reproduce-tables --retrain          train every row again")]
pub(crate) struct Args {
    /// How much is trained.
    #[arg(long, value_enum, default_value_t = Preset::Laptop)]
    preset: Preset,
    /// Folder of the run records and tables [default: runs/reproduce-tables/<preset>].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Train rows again that are recorded already.
    #[arg(long)]
    retrain: bool,
    /// No progress on standard error.
    #[arg(long, short)]
    quiet: bool,
}

/// What one run of a row gave; kept in the run's folder as `outcome.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Outcome {
    /// Start of every random number.
    seed: u64,
    /// The run's folder.
    run: PathBuf,
    /// The commit that trained it.
    commit: String,
    /// Accuracy.
    metrics: Metrics,
    /// Per image: accumulates caused by spikes.
    sops: f64,
    /// Per image: multiply-accumulates of analog inputs.
    macs: f64,
    /// Per image: the paper's count.
    paper_sops: f64,
    /// Per image: SOPs and MACs at 45 nm float32 prices, estimated.
    energy_mj: f64,
    /// Per image: the paper's count at its price, estimated.
    paper_energy_mj: f64,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("runs/reproduce-tables").join(args.preset.name()));
    let progress = if args.quiet { Progress::Silent } else { Progress::Shown };
    let rows = plan::rows(args.preset)?;
    let n_runs: usize = rows.iter().map(|row| row.seeds.len()).sum();
    let mut results = Vec::new();
    let mut done = 0;
    let mut retrained = Vec::new();
    for row in rows {
        let mut outcomes = Vec::new();
        for &seed in &row.seeds {
            done += 1;
            let mut experiment = row.experiment.clone();
            experiment.train.seed = seed;
            let folder = out.join(format!("{}-seed{seed}", row.id));
            // A run that two tables share is trained once.
            if args.retrain && !retrained.contains(&folder) && folder.exists() {
                std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
            }
            retrained.push(folder.clone());
            outcomes.push(match recorded(&experiment, &folder)? {
                Some(outcome) => outcome,
                None => {
                    if progress == Progress::Shown {
                        eprintln!("run {done} of {n_runs}: {}, seed {seed}", row.title);
                    }
                    train_row(&experiment, &folder, progress)?
                }
            });
        }
        results.push((row, outcomes));
    }
    let report = report::Report::new(args.preset, &results);
    let markdown = report.markdown();
    write_file(&out.join("tables.md"), markdown.as_bytes())?;
    write_file(&out.join("tables.json"), (serde_json::to_string_pretty(&report)? + "\n").as_bytes())?;
    print!("{markdown}");
    println!("\nWritten to {} and tables.json beside it.", out.join("tables.md").display());
    Ok(())
}

/// The outcome of a finished run of this very experiment.
fn recorded(experiment: &Experiment, folder: &Path) -> Result<Option<Outcome>> {
    let path = folder.join("outcome.json");
    let Ok(json) = std::fs::read_to_string(&path) else { return Ok(None) };
    let config_path = folder.join("config.json");
    let config = std::fs::read_to_string(&config_path).with_context(|| config_path.display().to_string())?;
    let recorded: Experiment = serde_json::from_str(&config)
        .with_context(|| format!("{}: expected a recorded configuration; --retrain trains anew", config_path.display()))?;
    anyhow::ensure!(
        recorded == *experiment,
        "{}: recorded with another configuration than this version's; --retrain trains anew",
        folder.display()
    );
    let outcome = serde_json::from_str(&json)
        .with_context(|| format!("{}: expected a recorded outcome; --retrain trains anew", path.display()))?;
    Ok(Some(outcome))
}

/// Trains a run and counts what an image of the test set costs.
fn train_row(experiment: &Experiment, folder: &Path, progress: Progress) -> Result<Outcome> {
    let trained = train::train(experiment, folder, progress)?;
    let mut counter = CostCounter::new();
    let evaluation = evaluate(&trained.network, &trained.test, progress, Some(&mut counter))?;
    let cost = counter.report(evaluation.n_images);
    let energy = EnergyModel::default();
    let outcome = Outcome {
        seed: experiment.train.seed,
        run: folder.to_path_buf(),
        commit: provenance::commit(),
        metrics: trained.metrics,
        sops: cost.sops(),
        macs: cost.macs(),
        paper_sops: cost.paper_sops(),
        energy_mj: energy.energy_mj(&cost),
        paper_energy_mj: energy.paper_energy_mj(cost.paper_sops()),
    };
    write_file(&folder.join("cost.json"), (serde_json::to_string_pretty(&cost)? + "\n").as_bytes())?;
    write_file(&folder.join("outcome.json"), (serde_json::to_string_pretty(&outcome)? + "\n").as_bytes())?;
    Ok(outcome)
}
