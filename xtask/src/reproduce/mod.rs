//! `cargo xtask reproduce-tables`: the paper's tables, each row beside what this machine measured.

mod conversions;
mod paper;
mod plan;
mod report;
mod runs;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, Result};
use lmht_nn::atomic::write_file;
use lmht_train::Progress;

use plan::Preset;
use runs::Run;

/// Reproduce the paper's tables on data that ships with the repository.
///
/// Trains each row's stand-in network, counts its operations, and prints every row beside the paper's figure. Rows that
/// were recorded before are read, not trained again; interrupted ones continue. Needs no network.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask reproduce-tables                    Tables 1 to 4 as stand-ins, at most 10 minutes on 2 cores
  cargo xtask reproduce-tables --preset smoke     the same path in under a minute, accuracies without meaning
  cargo xtask reproduce-tables --retrain          train every row again")]
pub(crate) struct Args {
    /// How much is trained.
    #[arg(long, value_enum, default_value_t = Preset::Laptop)]
    preset: Preset,
    /// Folder of the run records and tables [default: runs/reproduce-tables/PRESET].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Train rows again that are recorded already.
    #[arg(long)]
    retrain: bool,
    /// Runs at the same time; the cores are shared among them, and the results are the same [default: one per core].
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
    /// No progress on standard error.
    #[arg(long, short)]
    quiet: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("runs/reproduce-tables").join(args.preset.name()));
    let progress = if args.quiet { Progress::Silent } else { Progress::Shown };
    let rows = plan::rows(args.preset)?;
    let mut all: Vec<Run> = Vec::new();
    for row in &rows {
        for &seed in &row.seeds {
            let run = Run::new(row, seed, &out);
            // Rows may share a run.
            if all.iter().all(|other| other.folder != run.folder) {
                all.push(run);
            }
        }
    }
    let anns = conversions::ann_runs(args.preset, &out);
    all.extend(anns.iter().cloned());
    if args.retrain {
        all.iter().try_for_each(forget)?;
    }
    runs::train_missing(&all, args.jobs, progress)?;
    let hybrids = conversions::hybrid_runs(args.preset, &anns[0], &out)?;
    if args.retrain {
        hybrids.iter().try_for_each(forget)?;
    }
    runs::train_missing(&hybrids, args.jobs, progress)?;
    let mut reparameterized = Vec::new();
    for (arch, row) in [("VGG-13", "table3-vgg13-l2t2"), ("ResNet-18", "table1-resnet18-l2t2")] {
        let run = all.iter().find(|run| run.row == row).with_context(|| format!("no run of {row}"))?;
        reparameterized.extend(conversions::table2(args.preset, arch, run, progress)?);
    }
    let table4 = conversions::table4(args.preset, &anns, &hybrids, progress)?;
    let mut results = Vec::new();
    for row in rows {
        let of_row = all.iter().filter(|run| run.row == row.id);
        let outcomes = of_row.map(Run::outcome).collect::<Result<Vec<_>>>()?;
        results.push((row, outcomes));
    }
    let report = report::Report::new(args.preset, &results, reparameterized, table4);
    let markdown = report.markdown();
    write_file(&out.join("tables.md"), markdown.as_bytes())?;
    write_file(&out.join("tables.json"), (serde_json::to_string_pretty(&report)? + "\n").as_bytes())?;
    print!("{markdown}");
    println!("\nWritten to {} and tables.json beside it.", out.join("tables.md").display());
    Ok(())
}

/// Removes the record of a run, if there is one.
fn forget(run: &Run) -> Result<()> {
    match std::fs::remove_dir_all(&run.folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| run.folder.display().to_string())
        }
        _ => Ok(()),
    }
}
