//! `cargo xtask train`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device};
use lmht_bench::{CostCounter, CostReport};
use lmht_nn::atomic::write_file;
use lmht_nn::neurons;
use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore, Pretrained};
use lmht_train::{Metrics, Progress, RunRecord, evaluate, fit};

use crate::device::DeviceArgs;
use crate::experiment::{Experiment, presets};
use crate::terminal::{self, Table};
use crate::{data, hub, published, stop};

/// Train a network from a configuration file or a named preset.
///
/// A run that was interrupted continues when the same command is given again, and ends with the same bytes.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask train fashion-resnet18-L2T2
  cargo xtask train --list                                             every preset, with the paper's accuracy
  cargo xtask train resnet18-cifar100-L2T2 --data path/to/parquet      a row of the paper with its recipe
  cargo xtask train resnet18-imagenet100-L2T2 --data path/to/parquet --streaming       images that do not fit in memory
  cargo xtask train fashion-resnet18-L2T2 --print-config > mine.toml
  cargo xtask train mine.toml --run runs/mine --epochs 30 --data ../cifar10")]
pub(crate) struct Args {
    /// A TOML file with the tables model, train and data, or the name of a preset.
    #[arg(required_unless_present = "list")]
    config: Option<String>,
    /// Print the presets and stop: network, L, T, data, epochs, and the accuracy that the paper published.
    #[arg(long)]
    list: bool,
    /// How --list prints them.
    #[arg(long, value_enum, default_value_t = Format::Text, requires = "list")]
    format: Format,
    /// The run's folder [default: runs/NAME-seedSEED, by the configuration].
    #[arg(long)]
    run: Option<PathBuf>,
    /// Replace the configuration's seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Replace the configuration's number of epochs.
    #[arg(long)]
    epochs: Option<usize>,
    /// Replace the configuration's data: a folder, a file, OWNER/NAME on the Hugging Face Hub, mnist or fashion-mnist.
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    splits: data::SplitArgs,
    /// With --streaming: encoded images in memory among which the next one of an epoch is drawn [default: 10000].
    #[arg(long, value_name = "IMAGES")]
    shuffle_buffer: Option<usize>,
    /// Replace the model folder, run or checkpoint whose weights training starts from.
    #[arg(long, value_name = "MODEL")]
    start: Option<PathBuf>,
    /// Print the resolved configuration and stop.
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// No progress on standard error.
    #[arg(long, short)]
    quiet: bool,
}

/// How presets are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A table for a terminal.
    Text,
    /// Every column.
    Csv,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let Some(config) = args.config.as_deref().filter(|_| !args.list) else {
        let list = list()?;
        if args.format == Format::Csv {
            print!("{}", list.to_csv());
            return Ok(());
        }
        let (text, note) = list.fitted(terminal::width());
        print!("{text}");
        if let Some(note) = note {
            eprintln!("{note}");
        }
        return Ok(());
    };
    let mut experiment = Experiment::load(config)?;
    if let Some(seed) = args.seed {
        experiment.train.seed = seed;
    }
    if let Some(epochs) = args.epochs {
        experiment.train.epochs = epochs;
    }
    if let Some(path) = &args.data {
        experiment.data.set_path(path);
    }
    args.splits.apply(&mut experiment.data);
    experiment.data.shuffle_buffer = args.shuffle_buffer.or(experiment.data.shuffle_buffer);
    if let Some(path) = &args.start {
        experiment.start = Some(path.clone());
    }
    experiment.check()?;
    if args.print_config {
        print!("{}", experiment.to_toml()?);
        return Ok(());
    }
    let folder = args.run.clone().unwrap_or_else(|| {
        let name = Path::new(config).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        PathBuf::from("runs").join(format!("{name}-seed{}", experiment.train.seed))
    });
    let progress = if args.quiet { Progress::Silent } else { Progress::Shown };
    let device = args.device.open()?;
    let params = ParamStore::new(experiment.train.seed);
    let network = Network::new(&experiment.model, params.builder(DType::F32, &device));
    let network = network.with_context(|| config.to_owned())?;
    let (metrics, cost) = train(&experiment, (&network, &params), &folder, &device, progress)?;
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
fn train(
    experiment: &Experiment,
    (network, params): (&Network, &ParamStore),
    folder: &Path,
    device: &Device,
    progress: Progress,
) -> Result<(Metrics, CostReport)> {
    if let Some(start) = &experiment.start {
        load_start(start, &experiment.model, params).with_context(|| format!("start {}", start.display()))?;
    }
    let opened = data::open(experiment, device)?;
    let info = opened.run_info(&experiment.data);
    let data::Opened { train, test, preprocessing, .. } = opened;
    let record = RunRecord::open(folder, experiment, info)?.with_preprocessor(preprocessing.to_json())?;
    let mut record = record.stopped_by(stop::requested()?);
    let metrics = fit(network, params, &experiment.train, &train, &test, Some(&mut record), progress)
        .with_context(|| format!("run {}", folder.display()))?;
    let mut counter = CostCounter::new();
    let evaluation = evaluate(network, &test, progress, Some(&mut counter))?;
    let cost = counter.report(evaluation.n_images);
    write_file(&folder.join("cost.json"), (serde_json::to_string_pretty(&cost)? + "\n").as_bytes())?;
    Ok((metrics, cost))
}

/// Loads the weights of a model folder, a run or a checkpoint into the network that is trained: the same network, thresholds
/// included, whatever its configuration calls their initial value.
fn load_start(start: &Path, model: &ModelConfig, params: &ParamStore) -> Result<()> {
    let found = Pretrained::locate(&hub::model(start)?)
        .context("train it first, for hybrid training convert a QCFS network to it, or give another with --start")?;
    let mut there = ModelConfig::from_json(&found.config).with_context(|| found.folder.display().to_string())?;
    // θ is stored with the weights.
    if let (
        NeuronConfig::Lmht(neurons::Lmht { v_threshold: there, .. }),
        NeuronConfig::Lmht(neurons::Lmht { v_threshold, .. }),
    ) = (&mut there.neuron, &model.neuron)
    {
        *there = *v_threshold;
    }
    ensure!(
        there == *model,
        "it holds another network than the one to train: {}, expected {}",
        describe(&there),
        describe(model)
    );
    params.load_file(&found.weights())?;
    Ok(())
}

/// What tells two networks apart, in a line.
fn describe(model: &ModelConfig) -> String {
    serde_json::to_string(model).unwrap_or_default()
}

/// The presets as a table.
fn list() -> Result<Table> {
    let published = published::rows()?;
    let row = |(name, preset): (&str, Experiment)| {
        let figures: Vec<String> = preset.published.iter().map(|key| key.show(&published)).collect();
        let neuron = &preset.model.neuron;
        vec![
            name.to_owned(),
            preset.model.backbone.title().to_owned(),
            if neuron.is_spiking() { neuron.levels().to_string() } else { "ANN".to_owned() },
            preset.model.timesteps.to_string(),
            preset.data.hub.clone().unwrap_or_else(|| preset.data.path.display().to_string()),
            preset.train.epochs.to_string(),
            if figures.is_empty() { "-".to_owned() } else { figures.join(", ") },
        ]
    };
    Ok(Table {
        head: vec!["preset", "network", "L", "T", "data", "epochs", "published top-1 %"],
        rows: presets()?.into_iter().map(row).collect(),
        extra: &[4, 1, 5],
    })
}
