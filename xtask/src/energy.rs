//! `cargo xtask energy`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::DType;
use lmht_bench::report::{Report, Subject, images_csv};
use lmht_bench::{EnergyModel, Footprint, Profiler};
use lmht_nn::atomic::FolderWriter;
use lmht_nn::from_pretrained;
use lmht_train::{FirstImages, Progress, evaluate};

use crate::device::DeviceArgs;
use crate::trained::Trained;
use crate::{data, provenance, repository, terminal};

/// Report what a network costs: operations by several definitions, estimated energy, firing rates, memory.
///
/// Shows the network the test images and counts. Every energy is an estimate from counted operations; docs/cost.md says how
/// each figure is defined. Counting changes no output of the network.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask energy runs/fashion-resnet18-L2T2-seed42 sample
      tables in the terminal, over all test images of the sample
  cargo xtask energy path/to/model path/to/parquet --limit 500 --out cost
      also writes cost/index.html with charts, report.json, report.md, *.csv, *.svg
  cargo xtask energy path/to/model sample --format json > cost.json
  cargo xtask energy path/to/model sample --energy-model int8-45nm --energy-model my-chip.toml
      prices of one's own; the first model is the one of the charts

An energy model is a TOML file:
  name = \"my chip\"
  source = \"data sheet, table 3\"
  mac_pj = 1.2
  ac_pj = 0.1
  value_bits = 16                 # only memory needs the rest
  [memory]
  source = \"data sheet, table 4\"
  access_bits = 64
  access_pj = [[8192, 10.0], [32768, 20.0]]   # bytes of a memory, pJ of an access")]
pub(crate) struct Args {
    /// A run, finished or interrupted, one of its checkpoints, a model folder, or OWNER/NAME on the Hugging Face Hub.
    model: PathBuf,
    /// A data set, as a path or as OWNER/NAME on the Hub, or `sample`.
    data: PathBuf,
    #[command(flatten)]
    splits: data::SplitArgs,
    /// What is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Also write every form and the charts into this folder; an older report there is replaced.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Prices: float32-45nm, float16-45nm, int8-45nm, float32-45nm-memory, or a TOML file; may be repeated [default: all
    /// four].
    #[arg(long, value_name = "FILE|NAME")]
    energy_model: Vec<String>,
    /// Only the first N test images.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
    /// No progress on standard error.
    #[arg(long, short)]
    quiet: bool,
}

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Tables for a terminal.
    Text,
    /// The same tables as Markdown.
    Markdown,
    /// Synapses, a line each.
    Csv,
    /// Everything, documented in docs/cost.md.
    Json,
    /// A page with charts.
    Html,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let models = energy_models(&args.energy_model)?;
    ensure!(args.limit != Some(0), "--limit is 0; expected at least one image");
    // Said before minutes of counting, not after.
    if let Some(path) = &args.out {
        repository::make_parent(path)?;
    }
    let out = args.out.as_ref().map(|path| FolderWriter::replacing(path.as_path())).transpose()?;
    let mut trained = Trained { device: args.device.open()?, ..Trained::locate(&args.model, Some(&args.data))? };
    args.splits.apply(&mut trained.data);
    let (network, params) = from_pretrained(&trained.folder, DType::F32, &trained.device)?;
    let test = trained.test(network.config())?;
    let n_images = args.limit.unwrap_or(usize::MAX).min(test.data().len());
    let what = if n_images < test.data().len() { format!("the first {n_images}") } else { "all".to_string() };
    let progress = if args.quiet { Progress::Silent } else { Progress::Shown };
    let mut profiler = Profiler::new();
    let source = FirstImages::new(&test, n_images);
    let evaluation = evaluate(&network, &source, progress, Some(&mut profiler))?;

    let subject = Subject {
        model: network.config().clone(),
        data: format!("{what} of the test images of {}", data::name(&args.data)),
        command: provenance::command(),
        top1: Some(evaluation.top1),
    };
    let report = Report::new(subject, &profiler, Footprint::of(&params), &models);
    if let Some(folder) = out {
        let written = write(&report, &profiler, folder)?;
        eprintln!("{}: open index.html", written.display());
    }
    print!(
        "{}",
        match args.format {
            Format::Text => report.to_text_within(terminal::width()),
            Format::Markdown => report.to_markdown(),
            Format::Csv => report.layers_csv(),
            Format::Json => report.to_json(),
            Format::Html => report.to_html(),
        }
    );
    Ok(())
}

/// The folder of a report, whole or not at all.
fn write(report: &Report, profiler: &Profiler, mut folder: FolderWriter) -> Result<PathBuf> {
    folder.write("index.html", report.to_html().as_bytes())?;
    folder.write("report.json", report.to_json().as_bytes())?;
    folder.write("report.md", report.to_markdown().as_bytes())?;
    folder.write("layers.csv", report.layers_csv().as_bytes())?;
    folder.write("neurons.csv", report.neurons_csv().as_bytes())?;
    folder.write("images.csv", images_csv(&profiler.cost).as_bytes())?;
    for chart in report.charts() {
        folder.write(&format!("{}.svg", chart.name), chart.file().as_bytes())?;
    }
    Ok(folder.commit()?)
}

/// The models of these names and files; all that the crate has if none is given.
fn energy_models(names: &[String]) -> Result<Vec<EnergyModel>> {
    if names.is_empty() {
        return Ok(EnergyModel::all());
    }
    let load = |name: &String| {
        if let Some(model) = EnergyModel::named(name) {
            return Ok(model);
        }
        let path = Path::new(name);
        if !path.exists() {
            let known: Vec<_> = EnergyModel::all().into_iter().map(|model| model.name).collect();
            let near = terminal::did_you_mean(name, known.iter().map(String::as_str));
            bail!("{name}: neither a file nor an energy model{near}; the models are {}", known.join(", "));
        }
        let toml = std::fs::read_to_string(path).with_context(|| format!("{name}: expected a TOML file"))?;
        EnergyModel::from_toml(&toml).map_err(|error| anyhow::anyhow!("{name}: {error}"))
    };
    names.iter().map(load).collect()
}
