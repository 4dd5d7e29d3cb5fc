//! `cargo xtask package`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use lmht_bench::{CostReport, EnergyModel};
use lmht_hub::{Evaluation, MODEL_FILES, ModelCardHead, Repo, RepoKind};
use lmht_nn::atomic::FolderWriter;
use lmht_nn::{Pretrained, checksums, markdown};
use lmht_train::{EpochMetrics, Metrics, RunInfo};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::experiment::Experiment;
use crate::repository;

/// Make a model folder for the Hugging Face Hub of a finished run, with a complete card, and say how to upload it.
///
/// The weights are those of the first run after its last epoch; more runs of the same configuration with other seeds give the
/// spread. Each run's record goes with them as run-seedSEED.json, with that of the run whose weights it started from, without the
/// folder where it was made. Uploading stays with Hugging Face's own tool, whose command is printed.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask package runs/mine --out models/mine --license mit
  cargo xtask package runs/mine-seed42 runs/mine-seed43 runs/mine-seed44 --out hub/mine --license mit --repo owner/mine")]
pub(crate) struct Args {
    /// Finished runs of one configuration, which differ in their seed alone.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The folder to write; a model folder that is there is replaced.
    #[arg(long)]
    out: PathBuf,
    /// The licence of the weights, by the Hub's identifier, such as mit.
    #[arg(long)]
    license: String,
    /// Where it will be on the Hub, for what the card says of its use [default: the card says it of the folder].
    #[arg(long, value_name = "OWNER/NAME")]
    repo: Option<String>,
    /// The data set's name on the Hub, OWNER/NAME, or a name without an owner for one that is not there [default: as the
    /// configuration of the run says].
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Where the record of the run can be read [default: the repository of this program].
    #[arg(long, value_name = "URL", default_value = env!("CARGO_PKG_REPOSITORY"))]
    source: String,
}

/// A finished run.
struct Run {
    path: PathBuf,
    /// The run whose weights it started from, if it was one.
    start: Option<Box<Run>>,
    experiment: Experiment,
    config: String,
    info: RunInfo,
    metrics: Metrics,
    epochs: Vec<EpochMetrics>,
    cost: CostReport,
}

/// What a package keeps of a run: everything that decided its result, and the result.
#[derive(Serialize)]
struct Record<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<Box<Record<'a>>>,
    run: &'a RunInfo,
    config: &'a Experiment,
    metrics: &'a Metrics,
    epochs: &'a [EpochMetrics],
}

impl Run {
    fn read(path: &Path) -> Result<Self> {
        Self::read_after(path, 0)
    }

    /// A run that `n_later` others started from, one from the other.
    fn read_after(path: &Path, n_later: usize) -> Result<Self> {
        ensure!(n_later < 100, "{}: expected a run that started somewhere, found a circle of runs", path.display());
        ensure!(
            Self::is_finished(path),
            "{}: expected a finished run, with metrics.json and model/; train it to its end first",
            path.display()
        );
        let config = path.join("config.json");
        let experiment: Experiment = json(&config)?;
        let mut info: RunInfo = json(&path.join("run.json"))?;
        // Where it was made says something of its maker's machine and nothing of the result.
        let directory = std::mem::take(&mut info.directory);
        let start = experiment.start.as_deref().map(|start| [directory.join(start), start.to_path_buf()]);
        let start = start.and_then(|places| places.into_iter().find(|place| Self::is_finished(place)));
        if let (Some(missing), None) = (&experiment.start, &start) {
            eprintln!(
                "note: {}: it started from {}, which is no finished run here: the package has no record of that",
                path.display(),
                missing.display()
            );
        }
        Ok(Self {
            path: path.to_path_buf(),
            start: start.map(|start| Self::read_after(&start, n_later + 1).map(Box::new)).transpose()?,
            experiment,
            config: read(&config)?,
            info,
            metrics: json(&path.join("metrics.json"))?,
            epochs: lines(&path.join("metrics.jsonl"))?,
            cost: json(&path.join("cost.json"))?,
        })
    }

    fn is_finished(path: &Path) -> bool {
        path.join("metrics.json").exists() && path.join("model").exists()
    }

    fn record(&self) -> Record<'_> {
        let start = self.start.as_ref().map(|start| Box::new(start.record()));
        Record { start, run: &self.info, config: &self.experiment, metrics: &self.metrics, epochs: &self.epochs }
    }

    /// Its record in a package: the name of the file, and what is in it.
    fn record_file(&self) -> Result<(String, Vec<u8>)> {
        let mut bytes = serde_json::to_vec_pretty(&self.record())?;
        bytes.push(b'\n');
        Ok((format!("run-seed{}.json", self.experiment.train.seed), bytes))
    }

    /// Everything but the seed, of it and of the runs that it started from.
    fn recipe(&self) -> Vec<Experiment> {
        let mut recipe = self.experiment.clone();
        recipe.train.seed = 0;
        if self.start.is_some() {
            recipe.start = None;
        }
        [self.start.as_ref().map(|start| start.recipe()).unwrap_or_default(), vec![recipe]].concat()
    }

    /// The commands that made it, in their order.
    fn commands(&self) -> String {
        let before = self.start.as_ref().map(|start| format!("{}, then ", start.commands()));
        before.unwrap_or_default() + &markdown::code(&self.info.command)
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_str(&read(path)?).with_context(|| format!("{}: expected what a run writes", path.display()))
}

/// A file with a value on every line.
fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let value = |(i, line)| {
        serde_json::from_str(line)
            .with_context(|| format!("{}: expected what a run writes in line {}", path.display(), i + 1))
    };
    read(path)?.lines().enumerate().map(value).collect()
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(repo) = &args.repo {
        Repo::parse(RepoKind::Model, repo).context("--repo")?;
    }
    let runs = args.runs.iter().map(|path| Run::read(path)).collect::<Result<Vec<_>>>()?;
    for (index, run) in runs.iter().enumerate().skip(1) {
        let path = run.path.display();
        ensure!(
            run.recipe() == runs[0].recipe(),
            "{path}: expected the configuration of {}, but for the seed",
            args.runs[0].display()
        );
        let same = runs[..index].iter().find(|other| other.experiment.train.seed == run.experiment.train.seed);
        if let Some(same) = same {
            bail!(
                "{path}: expected another seed than that of {}, which would count one run twice",
                same.path.display()
            );
        }
    }
    // Damage ends here.
    let found = Pretrained::locate(&runs[0].path.join("model"))?;
    lmht_train::Predictor::from_pretrained(&found.folder)
        .context("the network of the run is to be loaded with its preprocessing")?;
    let card = card(args, &runs)?;
    repository::make_parent(&args.out)?;
    let bytes_of = |name: &str| {
        let path = found.folder.join(name);
        std::fs::read(&path).with_context(|| format!("{}: cannot read", path.display()))
    };
    // What `from_pretrained` takes from the Hub, but for the card.
    let mut files = Vec::new();
    for (name, _) in MODEL_FILES.into_iter().filter(|(name, _)| ![checksums::FILE, "README.md"].contains(name)) {
        files.push((name.to_owned(), bytes_of(name)?));
    }
    for run in &runs {
        files.push(run.record_file()?);
    }
    let named: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let mut folder = FolderWriter::replacing(&args.out)?;
    for (name, bytes) in &named {
        folder.write(name, bytes)?;
    }
    folder.write(checksums::FILE, checksums::of(&named).as_bytes())?;
    folder.write("README.md", card.as_bytes())?;
    folder.commit()?;
    println!("{}: a model folder with its card; look at README.md, then upload it with", args.out.display());
    println!("  hf upload {} {} .", args.repo.as_deref().unwrap_or("OWNER/NAME"), args.out.display());
    Ok(())
}

/// Mean and standard deviation of a sample.
fn spread(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, if values.len() > 1 { (squares / (n - 1.)).sqrt() } else { 0. })
}

fn card(args: &Args, runs: &[Run]) -> Result<String> {
    let first = &runs[0];
    let (model, data) = (&first.experiment.model, &first.experiment.data);
    // A folder that is not here any more looks like a name of the Hub; the record says what it was.
    let is_name = |path: &&str| first.info.data.starts_with(&format!("{path} at commit "));
    let of_path = data.path.to_str().filter(is_name);
    let dataset = args.dataset.as_deref().or(data.hub.as_deref()).or(of_path);
    let dataset = dataset.and_then(|name| name.split('@').next()).with_context(|| {
        format!(
            "{}: the configuration names no data set of the Hub; name it with --dataset OWNER/NAME, or one that is not on the \
             Hub with --dataset NAME",
            first.path.display()
        )
    })?;
    // Which split it was is known when the data are read: without a test split it is the validation split.
    let split = Some(&first.info.test_split).filter(|split| !split.is_empty()).with_context(|| {
        format!(
            "{}: run.json does not say which split was measured on, as an older version wrote it; give the command of the run \
             again, which writes it anew",
            first.path.display()
        )
    })?;
    let title = format!("{}, L = {}, T = {}", model.backbone.title(), model.neuron.levels(), model.timesteps);
    let energy = EnergyModel::default().energy_mj(&first.cost);
    let evaluation = |metric: &str, metric_name: &str, value| Evaluation {
        dataset: dataset.to_owned(),
        dataset_name: first.info.data.split(':').next().unwrap_or(dataset).to_owned(),
        split: split.clone(),
        metric: metric.to_owned(),
        metric_name: metric_name.to_owned(),
        value,
        source: ("record of the run".to_owned(), args.source.clone()),
    };
    let evaluations = vec![
        evaluation("accuracy", "top-1 after the last epoch (these weights)", first.metrics.top1),
        evaluation(
            "accuracy",
            "top-1 of the best epoch, chosen on the test set (not these weights)",
            first.metrics.best_top1,
        ),
        evaluation(
            "synaptic_operations",
            "SOPs an image (counted on the test images; no measure of a chip)",
            first.cost.sops(),
        ),
        evaluation("energy_mj", "mJ an image (estimated: 45 nm float32, 0.9 pJ an AC, 4.6 pJ a MAC)", energy),
    ];
    let mut tags = vec!["lm-ht".to_owned()];
    if model.neuron.is_spiking() {
        tags.push("spiking-neural-network".to_owned());
    }
    let head = ModelCardHead {
        license: args.license.clone(),
        library_name: "lmht".to_owned(),
        pipeline_tag: "image-classification".to_owned(),
        tags,
        datasets: Some(dataset.to_owned()).filter(|name| name.contains('/')).into_iter().collect(),
        metrics: vec!["accuracy".to_owned()],
        model_name: title.clone(),
        evaluations,
    };
    let mut text = head.to_yaml()?
        + &format!(
            "\n# {}\n\nA network of {} neurons, trained by an implementation of LM-HT (Hao et al., NeurIPS 2024, arXiv 2402.00411).\n\n",
            markdown::text(&title),
            model.neuron.traits().title
        );
    let percent = |value: f64| format!("{:.2} %", 100. * value);
    text += "| | |\n|---|---|\n";
    let mut row = |name: &str, value: String| text += &format!("| {name} | {} |\n", markdown::text(&value));
    row("test accuracy after the last epoch: these weights", percent(first.metrics.top1));
    let best = first.metrics.best_epoch;
    row(
        "best test accuracy of any epoch: chosen on the test set, so optimistic; not these weights",
        format!("{} after epoch {best} of {}", percent(first.metrics.best_top1), first.metrics.epochs),
    );
    if runs.len() > 1 {
        let (mean, deviation) = spread(&runs.iter().map(|run| run.metrics.top1).collect::<Vec<_>>());
        let n = runs.len();
        row(
            &format!("last epoch over {n} seeds, mean ± standard deviation of the sample"),
            format!("{:.2} ± {:.2} %", 100. * mean, 100. * deviation),
        );
    }
    row("data", first.info.data.clone());
    row("trained values", first.metrics.n_params.to_string());
    row("SOPs an image, counted", format!("{:.3} M", first.cost.sops() / 1e6));
    row("MACs an image, counted", format!("{:.3} M", first.cost.macs() / 1e6));
    row("energy an image, **estimated** (45 nm float32: 0.9 pJ an AC, 4.6 pJ a MAC)", format!("{energy:.4} mJ"));
    row("program", format!("commit {}", first.info.commit));
    row("machine", first.info.machine.clone());
    text += "\n## Runs\n\n| seed | last epoch | best epoch (chosen on the test set) | command | record |\n|---|---|---|---|---|\n";
    for run in runs {
        let (seed, metrics) = (run.experiment.train.seed, &run.metrics);
        let (last, best) = (percent(metrics.top1), percent(metrics.best_top1));
        let command = run.commands();
        text += &format!("| {seed} | {last} | {best} | {command} | `run-seed{seed}.json` |\n");
    }
    let name = args.repo.clone().unwrap_or_else(|| args.out.display().to_string());
    text += &format!(
        "\n## Use\n\n```rust\nlet (network, _params) = lmht_nn::from_pretrained(\"{0}\", DType::F32, &Device::Cpu)?;\nlet preprocessing = \
         lmht_datasets::Preprocessing::from_pretrained(\"{0}\")?;\nlet class_names = preprocessing.class_names().unwrap_or_default();\n```\n\n\
         `cargo xtask eval {0}` measures it again. `config.json` rebuilds the network, `preprocessor_config.json` says what turns an \
         image or a recording into its input, `model.safetensors` has its tensors under the published names.\n\n\
         ## Configuration of the run\n\n{1}",
        name,
        markdown::block("json", &first.config)
    );
    Ok(text)
}
