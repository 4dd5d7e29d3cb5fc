//! `cargo xtask predict`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use lmht_datasets::events::recording_files;
use lmht_datasets::{Preprocessing, image_files};
use lmht_train::{Answer, Prediction, Predictor};
use serde_json::{Value, json};

use crate::device::DeviceArgs;
use crate::hub;
use crate::terminal::csv;

/// Images that go through the network together.
const BATCH: usize = 32;

/// Tell what images show: the most probable classes of a trained network.
///
/// A probability is the softmax of the logits' mean over all timesteps. Images may have any size if the network was trained
/// with a size to bring them to (data.parquet.resize or cover). A file that is no image is named, the others go on, and the
/// exit status is 1 then.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask predict runs/mine cat.png dog.jpg
  cargo xtask predict runs/mine photos --top-k 1 --format csv > answers.csv
      every image in the folder and below it
  cargo xtask predict runs/mine cat.png --timesteps
      also the answer after each timestep")]
pub(crate) struct Args {
    /// A run, finished or interrupted, one of its checkpoints, a model folder, or OWNER/NAME on the Hugging Face Hub.
    model: PathBuf,
    /// Images (PNG, JPEG, WebP, BMP, GIF, TIFF), or folders of them; recordings of events for a network that learned from
    /// such.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// How many classes of an image are told.
    #[arg(long, default_value_t = 5, value_name = "K")]
    top_k: usize,
    /// Also the answer after each timestep.
    #[arg(long)]
    timesteps: bool,
    /// What is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    device: DeviceArgs,
}

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For a terminal.
    Text,
    /// One object with all images.
    Json,
    /// A line for each class that is told.
    Csv,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.top_k > 0, "--top-k is 0; expected at least one class");
    let predictor = Predictor::from_pretrained_on(hub::model(&args.model)?, &args.device.open()?)?;
    let mut files = Vec::new();
    for path in &args.images {
        if path.is_dir() {
            let (found, what) = match predictor.preprocessor() {
                Preprocessing::Images(_) => (image_files(path)?, "images"),
                Preprocessing::Events(_) => (recording_files(path)?, "recordings of events"),
            };
            ensure!(!found.is_empty(), "{}: expected {what} in the folder or below it, found none", path.display());
            files.extend(found);
        } else {
            files.push(path.clone());
        }
    }
    if args.format == Format::Csv {
        println!("file,timestep,rank,class,name,probability");
    }
    let (mut shown, mut failed) = (Vec::new(), Vec::new());
    for files in files.chunks(BATCH) {
        let (mut readable, mut inputs) = (Vec::new(), Vec::new());
        for file in files {
            match predictor.preprocessor().open(file) {
                Ok(found) => {
                    // A file of events may hold several recordings.
                    let name = |i| match found.len() {
                        1 => file.clone(),
                        _ => PathBuf::from(format!("{}[{i}]", file.display())),
                    };
                    readable.extend((0..found.len()).map(name));
                    inputs.extend(found);
                }
                Err(error) => {
                    let error = advice(&error.to_string());
                    eprintln!("error: {error}");
                    failed.push(json!({ "file": file.to_string_lossy(), "error": error }));
                }
            }
        }
        if inputs.is_empty() {
            continue;
        }
        for (files, inputs) in readable.chunks(BATCH).zip(inputs.chunks(BATCH)) {
            for (file, prediction) in files.iter().zip(predictor.predict(&Predictor::stack(inputs)?)?) {
                match args.format {
                    Format::Text => print!("{}", text(args, &predictor, file, &prediction)),
                    Format::Csv => print!("{}", lines(args, &predictor, file, &prediction)),
                    Format::Json => shown.push(object(args, &predictor, file, &prediction)),
                }
            }
        }
    }
    let n_failed = failed.len();
    if args.format == Format::Json {
        let all = json!({ "model": args.model.to_string_lossy(), "images": shown, "errors": failed });
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    if n_failed > 0 {
        bail!("{n_failed} of {} files were not read", files.len());
    }
    Ok(())
}

/// The library's words for what a training run would set.
fn advice(error: &str) -> String {
    error.replace(
        "remove the row, or set ReadOptions::resize or cover to bring every image to one size",
        "bring it to that size, or train with data.parquet.resize or cover, which a model keeps",
    )
}

fn percent(probability: f64) -> String {
    format!("{:.2} %", 100. * probability)
}

fn text(args: &Args, predictor: &Predictor, file: &Path, prediction: &Prediction) -> String {
    let mut text = format!("{}\n", file.display());
    if args.timesteps {
        for (t, answer) in prediction.first_by_timestep().into_iter().enumerate() {
            let (name, p) = (name(predictor, answer), percent(answer.probability));
            text += &format!("  after timestep {}: {name} {p}\n", t + 1);
        }
    }
    for answer in prediction.top(args.top_k) {
        text += &format!("  {:>8}  {}\n", percent(answer.probability), name(predictor, answer));
    }
    text
}

/// A name that cannot move a terminal.
fn name(predictor: &Predictor, answer: Answer) -> String {
    predictor.class_name(answer.class).chars().filter(|c| !c.is_control()).collect()
}

/// The answers after a timestep, counted from 1: of the last one, or on request of each.
fn by_timestep(args: &Args, prediction: &Prediction) -> Vec<(usize, Vec<Answer>)> {
    let n = prediction.by_timestep.len();
    let first = if args.timesteps { 1 } else { n };
    (first..=n).map(|t| (t, prediction.top_after(t, args.top_k))).collect()
}

fn lines(args: &Args, predictor: &Predictor, file: &Path, prediction: &Prediction) -> String {
    let mut text = String::new();
    for (t, answers) in by_timestep(args, prediction) {
        for (rank, answer) in answers.into_iter().enumerate() {
            let (file, name) = (csv(&file.to_string_lossy()), csv(&predictor.class_name(answer.class)));
            text += &format!("{file},{t},{},{},{name},{}\n", rank + 1, answer.class, answer.probability);
        }
    }
    text
}

fn object(args: &Args, predictor: &Predictor, file: &Path, prediction: &Prediction) -> Value {
    let list = |answers: Vec<Answer>| -> Value {
        let object = |answer: Answer| {
            json!({
                "class": answer.class,
                "name": predictor.class_name(answer.class),
                "probability": answer.probability,
            })
        };
        answers.into_iter().map(object).collect()
    };
    let mut image = json!({ "file": file.to_string_lossy(), "top": list(prediction.top(args.top_k)) });
    if args.timesteps {
        image["by_timestep"] = by_timestep(args, prediction).into_iter().map(|(_, answers)| list(answers)).collect();
    }
    image
}
