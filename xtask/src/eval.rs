//! `cargo xtask eval`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::DType;
use lmht_bench::{CostCounter, EnergyModel};
use lmht_nn::atomic::write_file;
use lmht_nn::{from_pretrained, markdown};
use lmht_train::{Confusion, Progress, evaluate_classes};
use serde_json::Value;

use crate::device::DeviceArgs;
use crate::terminal;
use crate::trained::Trained;
use crate::{data, repository};

/// Evaluate a trained network on a test split.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask eval runs/fashion-resnet18-L2T2-seed42
  cargo xtask eval path/to/model --data path/to/parquet --format json
  cargo xtask eval runs/mine --confusion                    accuracy of each class, what is taken for what
  cargo xtask eval runs/mine --confusion confusion.svg      and as a picture")]
pub(crate) struct Args {
    /// A run, finished or interrupted, one of its checkpoints, a model folder, or OWNER/NAME on the Hugging Face Hub.
    model: PathBuf,
    /// A data set, as a path or as OWNER/NAME on the Hub [default: the data of the run; for a model folder the repository's sample].
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    splits: data::SplitArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print the accuracy of each class and the confusion matrix; also write them to FILE, whose name ends in .csv, .svg or
    /// .json.
    #[arg(long, value_name = "FILE", num_args = 0..=1, value_parser = confusion_file)]
    confusion: Option<Option<PathBuf>>,
    /// What is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The same as --format json.
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For a terminal.
    Text,
    /// Everything.
    Json,
    /// Tables for a document.
    Markdown,
}

/// A file that a confusion matrix can be written to.
fn confusion_file(name: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(name);
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    if ["csv", "svg", "json"].contains(&ending) {
        return Ok(path);
    }
    Err("expected a file whose name ends in .csv, .svg or .json (the model goes before --confusion)".into())
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    // Said, or made, before minutes of counting.
    let file = args.confusion.as_ref().and_then(Option::as_ref);
    file.map_or(Ok(()), |file| repository::make_parent(file))?;
    let mut trained = Trained::locate(&args.model, args.data.as_deref())?;
    args.splits.apply(&mut trained.data);
    trained.device = args.device.open()?;
    let (network, _params) = from_pretrained(&trained.folder, DType::F32, &trained.device)?;
    let test = trained.test(network.config())?;
    let mut counter = CostCounter::new();
    let (evaluation, confusion) = evaluate_classes(&network, &test, Progress::Shown, Some(&mut counter))?;
    let cost = counter.report(evaluation.n_images);
    let energy_mj = EnergyModel::default().energy_mj(&cost);
    let names = test.data().class_names();
    if let Some(file) = file {
        write_file(file, written(&confusion, names, file).as_bytes())?;
    }
    let data = data::name(&trained.data.path);
    let by_timestep = evaluation.top1_by_timestep.iter().enumerate().map(|(t, top1)| (t + 1, 100. * top1));
    match if args.json { Format::Json } else { args.format } {
        Format::Json => {
            let mut json = serde_json::json!({
                "model": trained.folder.to_string_lossy(), "data": trained.data.path.to_string_lossy(), "evaluation": evaluation, "cost": cost,
                "energy_mj_estimated": energy_mj
            });
            if args.confusion.is_some() {
                json["confusion"] = confusion.to_json(names);
            }
            println!("{}", serde_json::to_string_pretty(&json)?);
        }
        Format::Text => {
            println!("{} test images of {data}, cross-entropy {:.4}", evaluation.n_images, evaluation.loss);
            for (t, top1) in by_timestep {
                println!("  top-1 after timestep {t}: {top1:.2} %");
            }
            println!(
                "per image: {:.2} M SOPs, {:.2} M MACs, {energy_mj:.4} mJ (estimated, 45 nm float32)",
                cost.sops() / 1e6,
                cost.macs() / 1e6
            );
            if args.confusion.is_some() {
                print!("\n{}", confusion.to_text(names, terminal::width()));
            }
        }
        Format::Markdown => {
            println!("{} test images of {}\n\n| | |\n|---|---|", evaluation.n_images, markdown::text(&data));
            for (t, top1) in by_timestep {
                println!("| top-1 after timestep {t} | {top1:.2} % |");
            }
            println!("| cross-entropy | {:.4} |", evaluation.loss);
            println!(
                "| SOPs per image | {:.2} M |\n| MACs per image | {:.2} M |",
                cost.sops() / 1e6,
                cost.macs() / 1e6
            );
            println!("| energy per image, estimated, 45 nm float32 | {energy_mj:.4} mJ |");
            if args.confusion.is_some() {
                print!("\n{}", markdown(&confusion, names));
            }
        }
    }
    if let Some(file) = file {
        eprintln!("written to {}", file.display());
    }
    Ok(())
}

/// The matrix as the name of a file asks for it.
fn written(confusion: &Confusion, names: Option<&[String]>, file: &Path) -> String {
    match file.extension().and_then(|ending| ending.to_str()) {
        Some("svg") => confusion.to_svg(names),
        Some("json") => format!("{:#}\n", confusion.to_json(names)),
        _ => confusion.to_csv(names),
    }
}

/// Accuracy of each class.
fn markdown(confusion: &Confusion, names: Option<&[String]>) -> String {
    let mut text = "| class | images | top-1 |\n|---|---:|---:|\n".to_owned();
    let json = confusion.to_json(names);
    for class in json["classes"].as_array().into_iter().flatten() {
        let name = markdown::text(class["name"].as_str().unwrap_or_default());
        let top1 = class["top1"].as_f64().map_or("–".into(), |top1| format!("{:.2} %", 100. * top1));
        text += &format!("| {name} | {} | {top1} |\n", Value::to_string(&class["n_images"]));
    }
    text
}
