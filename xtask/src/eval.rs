//! `cargo xtask eval`.

use std::path::PathBuf;

use anyhow::Result;
use candle_core::{DType, Device};
use lmht_bench::{CostCounter, EnergyModel};
use lmht_nn::from_pretrained;
use lmht_train::{Progress, evaluate};

use crate::data;
use crate::trained::Trained;

/// Evaluate a trained network on a test split.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask eval runs/fashion-resnet18-L2T2-seed42
  cargo xtask eval path/to/model --data path/to/parquet --json")]
pub(crate) struct Args {
    /// A run, finished or interrupted, one of its checkpoints, or a model folder.
    model: PathBuf,
    /// A data set [default: the data of the run; for a model folder the repository's sample].
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    splits: data::SplitArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut trained = Trained::locate(&args.model, args.data.as_deref())?;
    args.splits.apply(&mut trained.data);
    let (network, _params) = from_pretrained(&trained.folder, DType::F32, &Device::Cpu)?;
    let test = trained.test(network.config())?;
    let mut counter = CostCounter::new();
    let evaluation = evaluate(&network, &test, Progress::Shown, Some(&mut counter))?;
    let cost = counter.report(evaluation.n_images);
    let energy = EnergyModel::default();
    if args.json {
        let json = serde_json::json!({
            "model": trained.folder, "data": trained.data.path, "evaluation": evaluation, "cost": cost, "energy_mj_estimated": energy.energy_mj(&cost)
        });
        println!("{}", serde_json::to_string_pretty(&json)?);
        return Ok(());
    }
    println!(
        "{} test images of {}, cross-entropy {:.4}",
        evaluation.n_images,
        data::name(&trained.data.path),
        evaluation.loss
    );
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
