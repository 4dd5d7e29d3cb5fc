//! `cargo xtask train`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use lmht_bench::{CostCounter, CostReport};
use lmht_nn::atomic::write_file;
use lmht_nn::train::{Metrics, Progress, RunRecord, evaluate, fit};
use lmht_nn::{Network, ParamStore};

use crate::experiment::Experiment;
use crate::{data, provenance};

/// Train a network from a configuration file or a named preset.
///
/// A run that was interrupted continues when the same command is given again, and ends with the same bytes.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask train fashion-resnet18-L2T2
  cargo xtask train fashion-resnet18-L2T2 --print-config > mine.toml
  cargo xtask train mine.toml --run runs/mine --epochs 30 --data ../cifar10")]
pub(crate) struct Args {
    /// A TOML file with the tables model, train and data, or the name of a preset.
    config: String,
    /// The run's folder [default: runs/NAME-seedSEED, by the configuration].
    #[arg(long)]
    run: Option<PathBuf>,
    /// Replace the configuration's seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Replace the configuration's number of epochs.
    #[arg(long)]
    epochs: Option<usize>,
    /// Replace the configuration's data folder.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Print the resolved configuration and stop.
    #[arg(long)]
    print_config: bool,
    /// No progress on standard error.
    #[arg(long, short)]
    quiet: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut experiment = Experiment::load(&args.config)?;
    if let Some(seed) = args.seed {
        experiment.train.seed = seed;
    }
    if let Some(epochs) = args.epochs {
        experiment.train.epochs = epochs;
    }
    if let Some(path) = &args.data {
        experiment.data.path = path.clone();
    }
    experiment.check()?;
    if args.print_config {
        print!("{}", experiment.to_toml()?);
        return Ok(());
    }
    let folder = args.run.clone().unwrap_or_else(|| {
        let name = Path::new(&args.config).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        PathBuf::from("runs").join(format!("{name}-seed{}", experiment.train.seed))
    });
    let progress = if args.quiet { Progress::Silent } else { Progress::Shown };
    let (metrics, cost) = train(&experiment, &folder, progress)?;
    println!(
        "top-1 {:.2} % after {} epochs (best {:.2} % after epoch {}); {:.3} M SOPs and {:.3} M MACs an image; record in {}",
        100. * metrics.top1,
        metrics.epochs,
        100. * metrics.best_top1,
        metrics.best_epoch,
        cost.sops() / 1e6,
        cost.macs() / 1e6,
        folder.display()
    );
    Ok(())
}

/// Trains an experiment into a run folder, or continues the run that is there, and counts what a test image costs.
fn train(experiment: &Experiment, folder: &Path, progress: Progress) -> Result<(Metrics, CostReport)> {
    let (train, test) = data::open(experiment)?;
    let params = ParamStore::new(experiment.train.seed);
    let network = Network::new(&experiment.model, params.builder(DType::F32, &Device::Cpu))?;
    let info = provenance::run_info(data::describe(&experiment.data, &train, &test));
    let mut record = RunRecord::open(folder, experiment, info)?;
    let metrics = fit(&network, &params, &experiment.train, &train, &test, Some(&mut record), progress)
        .with_context(|| format!("run {}", folder.display()))?;
    let mut counter = CostCounter::new();
    let evaluation = evaluate(&network, &test, progress, Some(&mut counter))?;
    let cost = counter.report(evaluation.n_images);
    write_file(&folder.join("cost.json"), (serde_json::to_string_pretty(&cost)? + "\n").as_bytes())?;
    Ok((metrics, cost))
}
