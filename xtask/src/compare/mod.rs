//! `cargo xtask compare`: this implementation beside PyTorch and SpikingJelly, on this machine, in one run.

mod load;
mod measure;
mod protocol;
mod report;
pub(crate) mod worker;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use indicatif::{ProgressBar, ProgressStyle};
use lmht_nn::atomic::write_file;
use lmht_nn::{ModelCard, ModelConfig, Network, NeuronConfig, ParamStore, Stem, save_pretrained};
use lmht_train::{BatchSource, FirstImages};

use self::load::Usage;
use self::measure::{Row, Side, measure};
use self::protocol::{Ask, Case, ConvCase, ConvPass, NetworkCase, Number, Outputs, Reply, Request, Worker, unexpected};
pub(crate) use self::report::today;
use self::report::{Agreement, MemoryRow, Report};
use crate::data;
use crate::experiment::DataConfig;
use crate::repository;
use crate::trained::Trained;

/// Measure this implementation beside PyTorch and SpikingJelly on the CPU.
///
/// Three processes hold the same network (ResNet-18 with the CIFAR stem; SpikingJelly's has LIF neurons) and take turns,
/// with as many threads each. What is reported is the median of the quotients within rounds. Before anything is timed the
/// logits, the loss and the gradients of both LM-HT implementations must agree. The result goes between two markers of
/// docs/performance.md; if a side fails, nothing is written.
///
/// Python needs torch, safetensors and numpy; SpikingJelly is left out if it is not installed.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask compare --width 8 --rounds 2 --no-docs             # a quick look, about two minutes
  cargo xtask compare --weights runs/mine --json compare.json    # everything, at the run's width, about half an hour
  cargo xtask compare --only train,memory --batch 16 --no-docs
  cargo xtask compare --python ~/venv/bin/python --data path/to/cifar10-parquet

Make an environment for it:
  python3 -m venv venv && venv/bin/pip install torch safetensors numpy spikingjelly")]
pub(crate) struct Args {
    /// A run or model folder of ResNet-18 with LM-HT neurons, or its model.safetensors [default: a network that is
    /// trained a little first].
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Width of the network [default: that of the weights, or 64].
    #[arg(long)]
    width: Option<usize>,
    /// A parquet folder of images with 10 classes; images are brought to 3x32x32.
    #[arg(long, default_value = "sample")]
    data: PathBuf,
    /// Updates of 16 images that make a network of new weights fire like a trained one, without --weights.
    #[arg(long, default_value_t = 60)]
    train_steps: usize,
    /// Parts to measure [default: all].
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Part>,
    /// Batch sizes of training and memory; evaluation takes the largest, the scaling over T and L the smallest.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 16])]
    batch: Vec<usize>,
    /// Rounds; the medians are over them.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long one side runs in a round, at least one step.
    #[arg(long, default_value_t = 1.5)]
    round_seconds: f64,
    /// Threads of each side [default: all that this process may use].
    #[arg(long)]
    threads: Option<usize>,
    /// The interpreter that has torch.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Write everything that was measured to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The file with the markers [default: docs/performance.md of the repository].
    #[arg(long)]
    docs: Option<PathBuf>,
    /// Print the section and leave the file alone.
    #[arg(long)]
    no_docs: bool,
}

/// A part of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The training step.
    Train,
    /// Evaluation of a batch.
    Eval,
    /// Evaluation of a single image.
    Latency,
    /// Peak memory of training and evaluation.
    Memory,
    /// The neuron alone.
    Neuron,
    /// The convolution alone, beside a matrix product.
    Conv,
    /// The training step over batch size, T and L.
    Scaling,
}

const PARTS: [Part; 7] =
    [Part::Train, Part::Eval, Part::Latency, Part::Memory, Part::Neuron, Part::Conv, Part::Scaling];

/// Names of the sides in the report, which are also those of the processes.
const OURS: &str = "ours";
const TORCH: &str = "PyTorch";
const SPIKINGJELLY: &str = "SpikingJelly";
/// Our training step by `Pass::recomputing`.
const RECOMPUTING: &str = "ours, recomputing";

/// A load average above this is not that of a quiet machine.
const QUIET: f64 = 0.3;
/// Steps over which memory is measured.
const MEMORY_STEPS: usize = 3;
/// Images on which the sides are held against each other in float64.
const AGREE_IMAGES: usize = 8;
/// The largest relative error of logits, loss and gradient norm in float64.
const AGREE_F64: f64 = 1e-9;
/// The same in float32: not much to ask, but of the numbers that are timed. A spike that rounding flips moves logits by up
/// to a tenth (docs/paper.md, "Float32"), and under batch statistics the whole batch with them.
const AGREE_F32: f64 = 0.2;

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    check(args)?;
    // A file without markers is an error now, not after half an hour.
    let docs = match &args.docs {
        Some(path) => path.clone(),
        None if args.no_docs => PathBuf::new(),
        None => repository::root().context("give the file with --docs, or --no-docs")?.join("docs/performance.md"),
    };
    let document = (!args.no_docs).then(|| read_document(&docs)).transpose()?;
    let temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
    let load_before = load_average();
    if let Some(load) = load_before.filter(|load| *load > QUIET) {
        eprintln!(
            "the load average is {load:.2}: other processes seem to run. OpenMP waits for threads that have lost their \
             processor, so the factors will flatter us; the report says how much of the processors others had"
        );
    }
    let launcher = Launcher::new(args)?;
    let mut driver = Driver::start(args, &launcher, temporary.path())?;
    let report = driver.report(args, &launcher, load_before)?;
    let section = report.markdown();
    println!("{section}");
    if let Some(path) = &args.json {
        repository::make_parent(path)?;
        write_file(path, (serde_json::to_string_pretty(&report)? + "\n").as_bytes())?;
    }
    if let Some(document) = document {
        write_file(&docs, report::replace_section(&document, &section)?.as_bytes())?;
        eprintln!("written to {}", docs.display());
    }
    Ok(())
}

fn check(args: &Args) -> Result<()> {
    for (name, value) in [
        ("rounds", args.rounds),
        ("batch", args.batch.iter().copied().min().unwrap_or(0)),
        ("width", args.width.unwrap_or(1)),
        ("threads", args.threads.unwrap_or(1)),
        ("train-steps", args.train_steps),
    ] {
        ensure!(value > 0, "--{name} is 0; expected at least 1");
    }
    let seconds = args.round_seconds;
    ensure!(seconds.is_finite() && seconds > 0., "--round-seconds is {seconds}; expected a positive number");
    Ok(())
}

fn read_document(path: &Path) -> Result<String> {
    let document = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    report::replace_section(&document, "").with_context(|| path.display().to_string())?;
    Ok(document)
}

/// How the processes of all sides are started: as many threads, the same processors.
struct Launcher {
    python: PathBuf,
    threads: usize,
    /// Processors for `taskset`, and how that is told; none if all are used anyway or there is no `taskset`.
    pinned: Option<String>,
}

impl Launcher {
    fn new(args: &Args) -> Result<Self> {
        let available = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = args.threads.unwrap_or(available);
        ensure!(threads <= available, "--threads is {threads}, but this process may use {available} processors");
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).and_then(parse_cpus);
        let has_taskset = Command::new("taskset").arg("--version").output().is_ok_and(|output| output.status.success());
        let pinned = allowed.filter(|cpus| has_taskset && cpus.len() > threads).map(|cpus| {
            let first: Vec<String> = cpus.iter().take(threads).map(usize::to_string).collect();
            first.join(",")
        });
        Ok(Self { python: args.python.clone(), threads, pinned })
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = match &self.pinned {
            Some(cpus) => {
                let mut command = Command::new("taskset");
                command.args(["-c", cpus]).arg(program);
                command
            }
            None => Command::new(program),
        };
        for name in ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"] {
            command.env(name, self.threads.to_string());
        }
        command
    }

    fn start(&self, side: &str) -> Result<Worker> {
        let mut command = match side {
            OURS => {
                let mut command = self.command(&std::env::current_exe()?);
                command.arg("compare-worker");
                command
            }
            _ => {
                let mut command = self.command(&self.python);
                command.arg(repository::root()?.join("benches/compare/worker.py"));
                command.arg(side.to_lowercase());
                command
            }
        };
        Worker::start(side, &mut command)
    }

    fn describe(&self) -> String {
        match &self.pinned {
            Some(cpus) => format!("threads of each side: {}, all on processors {cpus} (taskset)", self.threads),
            None => format!("threads of each side: {}, not pinned to processors", self.threads),
        }
    }
}

/// The numbers of a list like `0-3,8`.
fn parse_cpus(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
    }
    Some(cpus)
}

/// The first of `/proc/loadavg`: processes that wanted to run in the last minute.
fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// The processes, and what they are shown.
struct Driver {
    workers: Vec<Worker>,
    /// Number of SpikingJelly's process, or why there is none.
    spikingjelly: Result<usize, String>,
    versions: BTreeMap<String, String>,
    /// The network that is compared.
    base: ModelConfig,
    /// Where its weights came from.
    weights: String,
    /// Its tensors.
    tensors: HashMap<String, Tensor>,
    /// Model folders by (T, L).
    models: HashMap<(usize, u32), PathBuf>,
    images: PathBuf,
    folder: PathBuf,
    rounds: usize,
    round_seconds: f64,
    bar: ProgressBar,
}

impl Driver {
    /// Starts the sides, gets weights and images.
    fn start(args: &Args, launcher: &Launcher, folder: &Path) -> Result<Self> {
        let (mut workers, mut versions) = (Vec::new(), BTreeMap::new());
        let mut spikingjelly = Err(String::new());
        for side in [OURS, TORCH, SPIKINGJELLY] {
            let mut worker = launcher.start(side)?;
            match worker.ask(&Request::Hello)? {
                Reply::Hello(hello) => {
                    let (expected, got) = (launcher.threads, hello.threads);
                    ensure!(got == expected, "{side}: expected {expected} threads, it computes with {got}");
                    versions.extend(hello.versions);
                    if side == SPIKINGJELLY {
                        spikingjelly = Ok(workers.len());
                    }
                    workers.push(worker);
                }
                Reply::Missing(what) => {
                    eprintln!("{side} is left out: {what}");
                    spikingjelly = Err(what);
                }
                reply => return Err(unexpected("hello", &reply)),
            }
        }
        let bar = ProgressBar::new(0);
        bar.set_style(ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {elapsed}")?);
        let mut driver = Self {
            workers,
            spikingjelly,
            versions,
            base: network(args.width.unwrap_or(64)),
            weights: String::new(),
            tensors: HashMap::new(),
            models: HashMap::new(),
            images: folder.join("images.safetensors"),
            folder: folder.to_path_buf(),
            rounds: args.rounds,
            round_seconds: args.round_seconds,
            bar,
        };
        driver.take_weights(args)?;
        driver.take_images(args)?;
        Ok(driver)
    }

    fn take_weights(&mut self, args: &Args) -> Result<()> {
        let file = match &args.weights {
            None => {
                let out = self.folder.join("trained");
                let steps = args.train_steps;
                eprintln!("no --weights: training width {} for {steps} steps first", self.base.width);
                self.workers[0].ask(&Request::Fit {
                    model: Box::new(self.base.clone()),
                    data: args.data.clone(),
                    steps,
                    out: out.clone(),
                })?;
                self.weights = format!("trained for {steps} steps of 16 images by this command");
                out.join("model.safetensors")
            }
            Some(path) if path.is_dir() => {
                let model = Trained::locate(path, None)?.folder;
                let config = model.join("config.json");
                let context = || config.display().to_string();
                let json = std::fs::read_to_string(&config).with_context(context)?;
                let there = ModelConfig::from_json(&json).with_context(context)?;
                check_network(&there, args.width).with_context(context)?;
                self.base = there;
                self.weights = format!("`{}`", path.display());
                model.join("model.safetensors")
            }
            Some(path) => {
                self.weights = format!("`{}`", path.display());
                path.clone()
            }
        };
        let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
        self.tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .with_context(|| format!("{}: expected a safetensors file", file.display()))?;
        Ok(())
    }

    /// The first test images, normalized, as one file that every side reads.
    fn take_images(&self, args: &Args) -> Result<()> {
        let data = DataConfig { path: args.data.clone(), parquet: worker::parquet(None), ..DataConfig::default() };
        let source = data::open_test_of_training(&data, &self.base, &Device::Cpu)?;
        let n_images = self.batches(args).into_iter().max().unwrap_or(1).max(AGREE_IMAGES);
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for batch in FirstImages::new(&source, n_images).batches(0, 0)? {
            let batch = batch?;
            images.push(batch.images);
            labels.push(batch.targets.labels()?.to_dtype(DType::I64)?);
        }
        let tensors = HashMap::from([
            ("images".to_string(), Tensor::cat(&images, 0)?),
            ("labels".to_string(), Tensor::cat(&labels, 0)?),
        ]);
        let n = tensors["labels"].dim(0)?;
        let path = args.data.display();
        ensure!(n == n_images, "{path}: expected at least {n_images} test images, got {n}; use a smaller --batch");
        Ok(candle_core::safetensors::save(&tensors, &self.images)?)
    }

    /// Every batch size that is measured.
    fn batches(&self, args: &Args) -> Vec<usize> {
        let largest = args.batch.iter().copied().max().unwrap_or(1);
        [1, 4, 16, 64].into_iter().filter(|batch| *batch <= largest).chain(args.batch.iter().copied()).collect()
    }

    /// The model folder for T timesteps and L levels: the weights that are compared, with a T-GIM of its own size and the
    /// threshold of its L where these are not those of the weights.
    fn model(&mut self, timesteps: usize, levels: u32) -> Result<PathBuf> {
        if let Some(folder) = self.models.get(&(timesteps, levels)) {
            return Ok(folder.clone());
        }
        let config = ModelConfig { timesteps, neuron: NeuronConfig::lmht(levels), ..self.base.clone() };
        let is_base = config == self.base;
        let params = ParamStore::new(42);
        Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
        if is_base {
            params.load(&self.weights, &self.tensors)?;
        } else {
            let mut tensors = HashMap::new();
            for (name, var) in params.all() {
                let keeps_own = name.ends_with("v_threshold") || name.ends_with("mask");
                let of_weights = self.tensors.get(&name).filter(|_| !keeps_own).cloned();
                tensors.insert(name, of_weights.unwrap_or_else(|| var.as_tensor().clone()));
            }
            params.load(&self.weights, &tensors)?;
        }
        let folder = self.folder.join(format!("L{levels}T{timesteps}"));
        save_pretrained(&folder, &config, &params, &ModelCard::default())?;
        self.models.insert((timesteps, levels), folder.clone());
        Ok(folder)
    }

    fn network(&mut self, timesteps: usize, levels: u32, batch: usize) -> Result<NetworkCase> {
        let (model, images) = (self.model(timesteps, levels)?, self.images.clone());
        Ok(NetworkCase { model, images, batch, timesteps, recomputes: false })
    }

    /// What a network is compared with: PyTorch's, LIF networks of T and of L·T timesteps, and for a training step our own
    /// with less memory.
    fn network_sides(&mut self, batch: usize, case: fn(NetworkCase) -> Case) -> Result<Vec<Side>> {
        let (timesteps, levels) = (self.base.timesteps, self.base.neuron.levels());
        let network = self.network(timesteps, levels, batch)?;
        let mut sides = vec![
            Side { name: OURS.into(), worker: 0, case: case(network.clone()) },
            Side { name: TORCH.into(), worker: 1, case: case(network.clone()) },
        ];
        if let Ok(worker) = self.spikingjelly {
            let mut of_lif = vec![timesteps, timesteps * levels as usize];
            of_lif.dedup();
            for timesteps in of_lif {
                let case = case(NetworkCase { timesteps, ..network.clone() });
                sides.push(Side { name: format!("{SPIKINGJELLY} LIF T={timesteps}"), worker, case });
            }
        }
        let recomputing = case(NetworkCase { recomputes: true, ..network });
        if matches!(recomputing, Case::Train(_)) {
            sides.push(Side { name: RECOMPUTING.into(), worker: 0, case: recomputing });
        }
        Ok(sides)
    }

    /// A row; `part` says on the screen what it is a row of.
    fn measure(&mut self, part: &str, what: &str, work: f64, sides: &[Side], seconds: f64) -> Result<Row> {
        self.bar.reset();
        self.bar.set_length((self.rounds * sides.len()) as u64);
        self.bar.set_message(format!("{part}: {what}"));
        let bar = self.bar.clone();
        let row = measure(&mut self.workers, what, work, sides, self.rounds, seconds, &|| bar.inc(1))?;
        let times = row.sides.iter().map(|times| {
            let [_, seconds, _] = times.quartiles;
            format!("{} {}", times.side, report::duration(seconds))
        });
        let line = format!("{part}: {what}: {}", times.collect::<Vec<_>>().join(", "));
        self.bar.suspend(|| eprintln!("{line}"));
        Ok(row)
    }

    /// What both LM-HT implementations compute.
    fn outputs(&mut self, batch: usize, dtype: Number) -> Result<[Outputs; 2]> {
        let (timesteps, levels) = (self.base.timesteps, self.base.neuron.levels());
        let request = Request::Outputs { network: self.network(timesteps, levels, batch)?, dtype };
        let mut outputs = |worker: usize| match self.workers[worker].ask(&request)? {
            Reply::Outputs(outputs) => Ok(outputs),
            reply => Err(unexpected("outputs", &reply)),
        };
        Ok([outputs(0)?, outputs(1)?])
    }

    /// Ends the run unless both LM-HT implementations compute the same.
    fn agree(&mut self, batch: usize) -> Result<Agreement> {
        let [ours, theirs] = self.outputs(AGREE_IMAGES, Number::F64)?;
        let float64 = relative_errors(&ours, &theirs)?;
        check_agreement("float64", float64, AGREE_F64)?;
        let [ours, theirs] = self.outputs(batch, Number::F32)?;
        let float32 = relative_errors(&ours, &theirs)?;
        check_agreement("float32", float32, AGREE_F32)?;
        let nonzero = worker::mean_rate(&ours.rates, |layer| layer.nonzero);
        let rate = worker::mean_rate(&ours.rates, |layer| layer.rate);
        let [low, mean, high] = nonzero.map(|share| 100. * share);
        let levels = 100. * rate[1];
        let worst = |errors: [f64; 3]| errors.into_iter().fold(0., f64::max);
        eprintln!(
            "both sides agree: relative error {:.1e} in float64, {:.1e} in float32; {mean:.1} % of the neurons' outputs \
             are not 0 (layers {low:.1} to {high:.1} %), mean s/L {levels:.1} %",
            worst(float64),
            worst(float32)
        );
        Ok(Agreement { float64, float32, nonzero, rate: rate[1] })
    }

    /// Everything that was asked for.
    fn report(&mut self, args: &Args, launcher: &Launcher, load_before: Option<f64>) -> Result<Report> {
        let wants = |part: Part| args.only.is_empty() || args.only.contains(&part);
        let largest = args.batch.iter().copied().max().unwrap_or(1);
        let agreement = self.agree(largest)?;
        let before = self.usage();
        let mut report = Report {
            date: report::today(),
            command: crate::provenance::command(),
            commit: crate::provenance::commit(),
            machine: crate::provenance::machine(),
            threads: launcher.describe(),
            load: [load_before, None],
            versions: self.versions.clone(),
            missing: self.spikingjelly.clone().err(),
            network: describe(&self.base),
            weights: self.weights.clone(),
            data: args.data.display().to_string(),
            rounds: self.rounds,
            agreement,
            ..Report::default()
        };
        for part in PARTS.into_iter().filter(|part| wants(*part)) {
            match part {
                Part::Train => {
                    for batch in args.batch.clone() {
                        let sides = self.network_sides(batch, Case::Train)?;
                        let row = self.measure(
                            "training",
                            &format!("batch {batch}"),
                            batch as f64,
                            &sides,
                            self.round_seconds,
                        )?;
                        report.train.push(row);
                    }
                }
                Part::Eval => {
                    let sides = self.network_sides(largest, Case::Eval)?;
                    let what = format!("batch {largest}");
                    report.eval.push(self.measure("evaluation", &what, largest as f64, &sides, self.round_seconds)?);
                }
                Part::Latency => {
                    let sides = self.network_sides(1, Case::Eval)?;
                    report.latency.push(self.measure(
                        "evaluation",
                        "one image",
                        1.,
                        &sides,
                        self.round_seconds / 3.,
                    )?);
                }
                Part::Memory => report.memory = self.memory(args, launcher)?,
                Part::Neuron => report.neuron = self.neuron(args)?,
                Part::Conv => (report.conv, report.matmul) = self.conv(args)?,
                Part::Scaling => report.scaling = self.scaling(args)?,
            }
        }
        self.bar.finish_and_clear();
        report.load[1] = load_average();
        report.others = self.usage().zip(before).map(|(now, before)| now.others_since(before));
        Ok(report)
    }

    fn usage(&self) -> Option<Usage> {
        Usage::now(&self.workers.iter().map(Worker::pid).collect::<Vec<_>>())
    }

    /// Memory, each side in a fresh process.
    fn memory(&mut self, args: &Args, launcher: &Launcher) -> Result<Vec<MemoryRow>> {
        let largest = args.batch.iter().copied().max().unwrap_or(1);
        let mut rows = Vec::new();
        let training = args.batch.iter().map(|batch| ("training", *batch));
        for (name, batch) in training.chain([("evaluation", largest)]) {
            let case = if name == "training" { Case::Train } else { Case::Eval };
            let (what, mut sides) = (format!("{name}, batch {batch}"), Vec::new());
            for side in self.network_sides(batch, case)? {
                let process = [OURS, TORCH, SPIKINGJELLY][side.worker];
                let mut worker = launcher.start(process)?;
                match worker.ask(&Request::Memory { case: side.case, steps: MEMORY_STEPS })? {
                    Reply::Memory(memory) => sides.push((side.name, memory)),
                    reply => return Err(unexpected("memory", &reply)),
                }
            }
            self.bar.suspend(|| eprintln!("memory measured: {what}"));
            rows.push(MemoryRow { case: what, sides });
        }
        Ok(rows)
    }

    /// The neuron's forward and backward beside a copy of its bytes.
    fn neuron(&mut self, args: &Args) -> Result<Vec<Row>> {
        let (levels, is_small) = (2, args.width.is_some_and(|width| width < 32));
        let mut rows = Vec::new();
        for timesteps in [2, 4] {
            let shape =
                if is_small { [timesteps, 8 / timesteps, 8, 32, 32] } else { [timesteps, 64 / timesteps, 64, 32, 32] };
            let len = shape.iter().product();
            let side = |name: &str, worker: usize, case: Case| Side { name: name.into(), worker, case };
            let mut sides = vec![
                side("copy (ours)", 0, Case::Copy { len }),
                side("copy (PyTorch)", 1, Case::Copy { len }),
                side("`lmht-core`, slices", 0, Case::NeuronCore { shape, levels }),
                side("`lmht-nn`, Candle op", 0, Case::Neuron { shape, levels }),
                side("PyTorch, LM-HT", 1, Case::Neuron { shape, levels }),
            ];
            if let Ok(worker) = self.spikingjelly {
                sides.push(side("SpikingJelly, LIF", worker, Case::Neuron { shape, levels }));
            }
            let what = format!("T = {timesteps}, `{shape:?}`");
            rows.push(self.measure("neuron", &what, 1., &sides, self.round_seconds / 5.)?);
        }
        Ok(rows)
    }

    /// The convolutions of ResNet-18 with 32 frames, and square matrix products.
    fn conv(&mut self, args: &Args) -> Result<(Vec<Row>, Vec<Row>)> {
        let (unit, n) = match args.width {
            Some(width) if width < 32 => (width, 4),
            _ => (64, 32),
        };
        let both = |case: &Case| {
            let side = |name: &str, worker| Side { name: name.into(), worker, case: case.clone() };
            [side(OURS, 0), side(TORCH, 1)]
        };
        let mut matmul = Vec::new();
        for size in if unit == 64 { [1024, 2048] } else { [64, 128] } {
            let sides = both(&Case::Matmul { size });
            let flop = 2. * (size as f64).powi(3);
            matmul.push(self.measure(
                "matrix product",
                &format!("{size} x {size}"),
                flop,
                &sides,
                self.round_seconds / 3.,
            )?);
        }
        let mut conv = Vec::new();
        for (c_in, c_out, side, stride) in [(1, 1, 32, 1), (1, 2, 32, 2), (2, 2, 16, 1), (4, 4, 8, 1), (8, 8, 4, 1)] {
            for pass in [ConvPass::Forward, ConvPass::InputGradient, ConvPass::WeightGradient, ConvPass::All] {
                let (c_in, c_out) = (c_in * unit, c_out * unit);
                let case = ConvCase { n, c_in, c_out, side, kernel: 3, stride, pass };
                let direction = match pass {
                    ConvPass::Forward => "forward",
                    ConvPass::InputGradient => "input gradient",
                    ConvPass::WeightGradient => "weight gradient",
                    ConvPass::All => "forward + backward",
                };
                let stride = if stride == 1 { String::new() } else { format!(" stride {stride}") };
                let what = format!("{c_in} to {c_out}, {side}x{side}{stride}, {direction}");
                conv.push(self.measure(
                    "convolution",
                    &what,
                    case.flop(),
                    &both(&Case::Conv(case)),
                    self.round_seconds / 3.,
                )?);
            }
        }
        Ok((conv, matmul))
    }

    /// The training step over batch size, T and L.
    fn scaling(&mut self, args: &Args) -> Result<Vec<Row>> {
        let (timesteps, levels) = (self.base.timesteps, self.base.neuron.levels());
        let smallest = args.batch.iter().copied().min().unwrap_or(1);
        let mut batches = self.batches(args);
        batches.sort_unstable();
        batches.dedup();
        let of_batch = batches.into_iter().map(|batch| (timesteps, levels, batch));
        let of_t = [2, 4, 8].into_iter().map(|timesteps| (timesteps, 2, smallest));
        let of_l = [1, 2, 4].into_iter().map(|levels| (2, levels, smallest));
        let mut rows: Vec<Row> = Vec::new();
        for (timesteps, levels, batch) in of_batch.chain(of_t).chain(of_l) {
            let what = format!("L = {levels}, T = {timesteps}, batch {batch}");
            if rows.iter().any(|row| row.case == what) {
                continue;
            }
            let network = self.network(timesteps, levels, batch)?;
            let side = |name: &str, worker| Side { name: name.into(), worker, case: Case::Train(network.clone()) };
            rows.push(self.measure(
                "scaling",
                &what,
                batch as f64,
                &[side(OURS, 0), side(TORCH, 1)],
                self.round_seconds,
            )?);
        }
        Ok(rows)
    }
}

/// The network without weights of its own: ResNet-18 at L = 2, T = 2 with 10 classes.
fn network(width: usize) -> ModelConfig {
    ModelConfig { width, timesteps: 2, neuron: NeuronConfig::lmht(2), ..ModelConfig::resnet18(10) }
}

/// Whether all sides can build this network.
fn check_network(config: &ModelConfig, width: Option<usize>) -> Result<()> {
    let expected = ModelConfig {
        width: width.unwrap_or(config.width),
        timesteps: config.timesteps,
        neuron: NeuronConfig::lmht(config.neuron.levels()),
        ..ModelConfig::resnet18(config.n_classes)
    };
    if *config != expected {
        bail!(
            "expected {}, which all sides can build, got {}",
            serde_json::to_string(&expected)?,
            serde_json::to_string(config)?
        );
    }
    Ok(())
}

fn describe(config: &ModelConfig) -> String {
    let stem = match config.stem {
        Stem::Cifar => "3x3",
        Stem::Imagenet | Stem::ImagenetPoolFirst => "7x7",
    };
    format!(
        "{}, {stem} stem, width {}, images of {}x32x32, {} classes, LM-HT with L = {}, T = {}, float32",
        config.backbone.title(),
        config.width,
        config.in_channels,
        config.n_classes,
        config.neuron.levels(),
        config.timesteps
    )
}

/// Relative errors of logits (root mean square), loss and gradient norm.
fn relative_errors(ours: &Outputs, theirs: &Outputs) -> Result<[f64; 3]> {
    let (n, m) = (ours.logits.len(), theirs.logits.len());
    ensure!(n == m && n > 0, "expected as many logits from both sides, got {n} and {m}");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = norm(&mut ours.logits.iter().zip(&theirs.logits).map(|(ours, theirs)| ours - theirs));
    let relative = |ours: f64, theirs: f64| (ours - theirs).abs() / theirs.abs().max(f64::MIN_POSITIVE);
    Ok([
        difference / norm(&mut theirs.logits.iter().copied()).max(f64::MIN_POSITIVE),
        relative(ours.loss, theirs.loss),
        relative(ours.grad_norm, theirs.grad_norm),
    ])
}

fn check_agreement(numbers: &str, errors: [f64; 3], tolerance: f64) -> Result<()> {
    for (what, error) in ["logits", "training loss", "gradients' norm"].into_iter().zip(errors) {
        // Written so that NaN is refused.
        ensure!(
            error <= tolerance,
            "{numbers}: the {what} of {OURS} and {TORCH} differ by {error:.1e} (relative), expected at most \
             {tolerance:.0e}; they do not compute the same network, so nothing is timed. `cargo xtask golden` says which \
             side is wrong"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_of_a_list() {
        assert_eq!(parse_cpus("\t0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_cpus("7"), Some(vec![7]));
        assert_eq!(parse_cpus("none"), None);
    }

    #[test]
    fn only_what_every_side_builds() {
        let config = network(8);
        check_network(&config, None).unwrap();
        check_network(&config, Some(8)).unwrap();
        let error = check_network(&config, Some(16)).unwrap_err().to_string();
        assert!(error.contains("\"width\":16") && error.contains("\"width\":8"), "{error}");
        let ann = ModelConfig { timesteps: 4, neuron: NeuronConfig::mht(2), ..config };
        assert!(check_network(&ann, None).is_err());
    }

    #[test]
    fn sides_that_differ_are_not_timed() {
        let ours = Outputs { logits: vec![3., 4.], loss: 2., grad_norm: 1., rates: vec![] };
        let theirs = Outputs { logits: vec![3., 3.], loss: 1., ..ours.clone() };
        assert_eq!(relative_errors(&ours, &ours).unwrap(), [0.; 3]);
        // |(0, 1)| / |(3, 3)|, |2 - 1| / 1.
        let errors = relative_errors(&ours, &theirs).unwrap();
        assert!((errors[0] - 1. / 18f64.sqrt()).abs() < 1e-15 && errors[1..] == [1., 0.], "{errors:?}");
        let error = check_agreement("float64", errors, 1e-9).unwrap_err().to_string();
        assert!(error.contains("the logits of ours and PyTorch differ by 2.4e-1"), "{error}");
        assert!(check_agreement("float64", [f64::NAN, 0., 0.], 1e-9).is_err());
        let short = Outputs { logits: vec![3.], ..ours.clone() };
        assert!(relative_errors(&ours, &short).is_err());
    }
}
