//! `cargo xtask eval`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use lmht_bench::{CostCounter, EnergyModel};
use lmht_nn::from_pretrained;
use lmht_train::{Progress, evaluate};

use crate::data;
use crate::experiment::{DataConfig, Experiment};

/// Evaluate a model folder on the test split of a parquet folder.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask eval runs/fashion-resnet18-L2T2-seed42
  cargo xtask eval path/to/model --data path/to/parquet --json")]
pub(crate) struct Args {
    /// A run folder, or a model folder with config.json and model.safetensors.
    model: PathBuf,
    /// A parquet folder [default: the data of the run; for a model folder the repository's sample].
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    splits: data::SplitArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The model folder of a run and the data of that run; of a model folder itself, and the repository's sample.
pub(crate) fn locate(model: &Path) -> Result<(PathBuf, DataConfig)> {
    let of_run = model.join("model");
    if !of_run.join("config.json").exists() {
        return Ok((model.to_path_buf(), DataConfig::default()));
    }
    let path = model.join("config.json");
    let json = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let experiment: Experiment = serde_json::from_str(&json).with_context(|| path.display().to_string())?;
    Ok((of_run, experiment.data))
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (folder, mut data) = locate(&args.model)?;
    if let Some(path) = &args.data {
        data.path = path.clone();
    }
    args.splits.apply(&mut data);
    let (network, _params) = from_pretrained(&folder, DType::F32, &Device::Cpu)?;
    let test = data::open_test(&data, network.config())?;
    let mut counter = CostCounter::new();
    let evaluation = evaluate(&network, &test, Progress::Shown, Some(&mut counter))?;
    let cost = counter.report(evaluation.n_images);
    let energy = EnergyModel::default();
    if args.json {
        let json = serde_json::json!({
            "model": folder, "evaluation": evaluation, "cost": cost, "energy_mj_estimated": energy.energy_mj(&cost)
        });
        println!("{}", serde_json::to_string_pretty(&json)?);
        return Ok(());
    }
    println!("{} test images, cross-entropy {:.4}", evaluation.n_images, evaluation.loss);
    for (t, top1) in evaluation.top1_by_timestep.iter().enumerate() {
        println!("  top-1 after timestep {}: {:.2} %", t + 1, 100. * top1);
    }
    println!(
        "per image: {:.2} M SOPs, {:.2} M MACs, {:.4} mJ (estimated, 45 nm float32)",
        cost.sops() / 1e6,
        cost.macs() / 1e6,
        energy.energy_mj(&cost)
    );
    Ok(())
}
