//! The subcommands that make one network of another.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use indicatif::{ProgressBar, ProgressStyle};
use lmht_convert::nir::{self, Profile};
use lmht_convert::{
    Calibration, HybridReport, HybridStart, Model, SpikeComparison, UnitCalibration, absorb_bn, absorb_thresholds,
    compare_spikes, hybrid_report, qcfs_to_cos, qcfs_to_if, qcfs_to_lmht, qcfs_to_srp, relu_to_if, relu_to_lmht,
    relu_to_snm, relu_to_unit_snm, reparameterize,
};
use lmht_datasets::{Loader, Preprocessing};
use lmht_nn::{ModelCard, Network, NeuronConfig, Pretrained, Schedule, from_pretrained, save_pretrained};
use lmht_train::{BatchSource, FirstImages};

use crate::data;
use crate::device::DeviceArgs;
use crate::experiment::DataConfig;
use crate::provenance;
use crate::trained::Trained;

/// Make an LM-HT network of a QCFS or ReLU network, ready to be used or fine-tuned (hybrid training).
///
/// θ of each layer comes from its learned scale; Ω = 1/T, λ = 1, v(0) = θ/2. With L·T = Q the exact start is the same
/// function as the QCFS network; a max-pooling behind the stem's neuron is moved before it for that. Where it is another
/// function, the layer is named, and what that does to the logits of the test images is measured.
///
/// Of a ReLU network each layer is calibrated on some training images: its θ gives the staircase of L·T steps the least
/// squared error (as H-MT), or is a percentile of the activations over L. More levels come nearer: with L = 15, T = 2
/// little is lost.
#[derive(clap::Args)]
#[command(after_help = "Example, from an ANN to its fine-tuned network:
  cargo xtask train resnet20-cifar100-qcfs-Q4
  cargo xtask convert hybrid runs/resnet20-cifar100-qcfs-Q4-seed42 --levels 2 --timesteps 2 --out hybrid-start
  cargo xtask train resnet20-cifar100-Q4-L2T2 --start hybrid-start

Of a ReLU network, without training:
  cargo xtask convert hybrid runs/relu --levels 15 --timesteps 2 --out relu-L15T2
  cargo xtask convert hybrid models/torchvision --data data/imagenet --levels 15 --limit 1000 --out spiking")]
pub(super) struct Hybrid {
    /// A run, finished or interrupted, a checkpoint, a model folder or OWNER/NAME on the Hub, of a QCFS or ReLU network.
    model: PathBuf,
    /// L.
    #[arg(long, default_value_t = 2)]
    levels: u32,
    /// T.
    #[arg(long, default_value_t = 2)]
    timesteps: usize,
    /// How it starts: `exact` keeps the function of the ANN, `published` is the paper's Algorithm 1.
    #[arg(long, value_enum, default_value_t = Start::Exact)]
    start: Start,
    /// Training images that calibrate a ReLU network.
    #[arg(long, value_name = "N", default_value_t = 500)]
    calibration_images: usize,
    /// Calibrate by this percentile of the activations, in place of the least error.
    #[arg(long)]
    percentile: Option<f64>,
    /// A data set to measure and calibrate on [default: the data of the run; for a model folder the repository's sample].
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    splits: data::SplitArgs,
    /// Measure on the first N test images only; 0 measures nothing and reads no test images.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
    /// The model folder to write; a model folder there is replaced.
    #[arg(long)]
    pub(super) out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Start {
    Exact,
    Published,
}

/// Convert an ANN without training, by QCFS inference, RMP, SNM, SRP or COS.
///
/// The thresholds of rmp and snm come from training images, by default as their authors choose them: of rmp layer by layer the
/// largest current that comes at a timestep while the layers before spike, of snm the largest activation of each unit, for
/// images of that size.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask convert inference runs/qcfs --method if --timesteps 4 --out qcfs-4
  cargo xtask convert inference runs/qcfs --method srp --first-stage 4 --timesteps 2 --out srp-4-2
  cargo xtask convert inference runs/relu --method rmp --timesteps 32 --percentile 99.9 --out rmp-32
  cargo xtask convert inference runs/relu --method snm --timesteps 32 --thresholds activations --out snm-32
  cargo xtask eval rmp-32")]
pub(super) struct Inference {
    /// A run, a checkpoint, a model folder or OWNER/NAME on the Hub: a QCFS network for if, srp and cos, a ReLU network for rmp
    /// and snm.
    model: PathBuf,
    /// The method.
    #[arg(long, value_enum)]
    method: Method,
    /// Timesteps that answer.
    #[arg(long)]
    timesteps: usize,
    /// Timesteps of the first stage of srp and cos (τ, ρ).
    #[arg(long, default_value_t = 4)]
    first_stage: usize,
    /// What becomes the thresholds of rmp and snm.
    #[arg(long, value_enum, default_value_t = Thresholds::Published)]
    thresholds: Thresholds,
    /// Percentile of currents or activations in place of the largest; not of snm's published ones [default: 100].
    #[arg(long)]
    percentile: Option<f64>,
    /// Training images that are shown for that; for rmp all at once, at all timesteps.
    #[arg(long, default_value_t = 500)]
    calibration_images: usize,
    /// A data set for that [default: the data of the run; for a model folder the repository's sample].
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    splits: data::SplitArgs,
    /// The model folder to write; a model folder there is replaced.
    #[arg(long)]
    pub(super) out: PathBuf,
}

/// Where the thresholds of a method come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Thresholds {
    /// As the method's authors have them.
    Published,
    /// The activations of the ANN, one threshold for a layer.
    Activations,
}

/// A conversion method without training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Method {
    /// IF neurons with v(0) = θ/2: QCFS inference.
    If,
    /// IF neurons with the largest activation for a threshold.
    Rmp,
    /// Signed spikes with memory.
    Snm,
    /// Two stages: neurons that sent too much are silenced.
    Srp,
    /// Two stages: a calibrated initial potential.
    Cos,
}

/// Rewrite a network as one of single-threshold neurons over L·T timesteps.
///
/// Then shows both networks the test images and says, layer by layer, how many spikes differ: none but where float32
/// rounding meets a tie, with the front-loaded schedule.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask convert reparameterize runs/fashion-resnet18-L2T2-seed42 --out single
  cargo xtask convert reparameterize models/mine --schedule uniform --out single --limit 500
  cargo xtask eval single")]
pub(super) struct Reparameterize {
    /// A run, finished or interrupted, one of its checkpoints, a model folder, or OWNER/NAME on the Hugging Face Hub.
    model: PathBuf,
    /// When a window of L timesteps receives its current: at its first timestep (ours, lossless) or evenly (the paper's).
    #[arg(long, value_enum, default_value_t = WindowSchedule::FrontLoaded)]
    schedule: WindowSchedule,
    /// A data set to compare on [default: the data of the run; for a model folder the repository's sample].
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    splits: data::SplitArgs,
    /// Compare on the first N test images only; 0 compares nothing.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
    /// The model folder to write; a model folder there is replaced.
    #[arg(long)]
    pub(super) out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum WindowSchedule {
    FrontLoaded,
    Uniform,
}

/// Fold batch norm, and the amplitude of spikes, into the weights.
///
/// Without options both are folded. The result is for inference; it gives the same spikes up to rounding.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask convert fold single --out folded
  cargo xtask convert fold models/spikformer --batch-norm --out folded")]
pub(super) struct Fold {
    /// A run, finished or interrupted, one of its checkpoints, a model folder, or OWNER/NAME on the Hugging Face Hub.
    model: PathBuf,
    /// Fold batch norm.
    #[arg(long)]
    batch_norm: bool,
    /// Fold θ, so that a spike is a 1.
    #[arg(long)]
    thresholds: bool,
    /// The model folder to write; a model folder there is replaced.
    #[arg(long)]
    pub(super) out: PathBuf,
}

impl Hybrid {
    pub(super) fn run(&self) -> Result<()> {
        let (model, mut trained) = load(&self.model, self.data.as_deref(), &self.splits)?;
        trained.device = self.device.open()?;
        let spiking = self.convert(&model, &trained).with_context(|| shown(&self.model))?;
        // Before anything is written, so that a wrong data set leaves nothing behind.
        let test = match self.limit {
            Some(0) => None,
            _ => Some(trained.test(&model.config).context("no images to measure on; --limit 0 measures nothing")?),
        };
        let report = match &test {
            Some(test) => {
                with_images(test, self.limit, "measuring", |batches| hybrid_report(&model, &spiking, batches))?
            }
            None => hybrid_report(&model, &spiking, [])?,
        };
        save(&self.out, &spiking, &self.model, &trained)?;
        print!("{}", describe_hybrid(&report));
        Ok(())
    }

    fn convert(&self, model: &Model, trained: &Trained) -> Result<Model> {
        if !matches!(model.config.neuron, NeuronConfig::Relu(_)) {
            ensure!(
                self.percentile.is_none(),
                "--percentile is for ReLU networks; a QCFS network has learned its scales"
            );
            let start = match self.start {
                Start::Exact => HybridStart::Exact,
                Start::Published => HybridStart::Published,
            };
            return Ok(qcfs_to_lmht(model, self.levels, self.timesteps, start)?);
        }
        ensure!(self.start == Start::Exact, "--start published is for QCFS networks; leave it out for a ReLU network");
        let steps = u32::try_from(self.timesteps).ok().and_then(|timesteps| timesteps.checked_mul(self.levels));
        let steps = steps.filter(|&steps| steps > 0).context("--levels and --timesteps: expected 1 or more of each")?;
        let rule = self.percentile.map_or(Rule::LeastError { steps }, Rule::Percentile);
        let images = Shown {
            data: &trained.data,
            preprocessor: trained.preprocessor.as_ref(),
            n_images: self.calibration_images,
            device: &trained.device,
        };
        let calibration = calibrate(model, images, rule)?;
        Ok(relu_to_lmht(model, &calibration, self.levels, self.timesteps)?)
    }
}

impl Inference {
    pub(super) fn run(&self) -> Result<()> {
        let (model, mut trained) = load(&self.model, self.data.as_deref(), &self.splits)?;
        trained.device = self.device.open()?;
        let converted = self.convert(&model, &trained).with_context(|| shown(&self.model))?;
        save(&self.out, &converted, &self.model, &trained)
    }

    fn convert(&self, model: &Model, trained: &Trained) -> Result<Model> {
        let images = Shown {
            data: &trained.data,
            preprocessor: trained.preprocessor.as_ref(),
            n_images: self.calibration_images,
            device: &trained.device,
        };
        let percentile = self.percentile.unwrap_or(100.);
        let by_unit = self.method == Method::Snm && self.thresholds == Thresholds::Published;
        let is_used = matches!(self.method, Method::Rmp | Method::Snm) && !by_unit;
        ensure!(
            is_used || self.percentile.is_none(),
            "--percentile is for the thresholds of layers: --method rmp, or snm with --thresholds activations"
        );
        match (self.method, self.thresholds) {
            (Method::Rmp, Thresholds::Published) => rmp(model, images, self.timesteps, percentile),
            (Method::Snm, Thresholds::Published) => snm(model, images, self.timesteps),
            (Method::Rmp | Method::Snm, Thresholds::Activations) => {
                let calibration = calibrate(model, images, Rule::Percentile(percentile))?;
                Ok(match self.method {
                    Method::Rmp => relu_to_if(model, &calibration, self.timesteps)?,
                    _ => relu_to_snm(model, &calibration, self.timesteps)?,
                })
            }
            (Method::If, _) => Ok(qcfs_to_if(model, self.timesteps)?),
            (Method::Srp, _) => Ok(qcfs_to_srp(model, self.first_stage, self.timesteps)?),
            (Method::Cos, _) => Ok(qcfs_to_cos(model, self.first_stage, self.timesteps)?),
        }
    }
}

impl Reparameterize {
    pub(super) fn run(&self) -> Result<()> {
        let (model, mut trained) = load(&self.model, self.data.as_deref(), &self.splits)?;
        trained.device = self.device.open()?;
        let schedule = match self.schedule {
            WindowSchedule::FrontLoaded => Schedule::FrontLoaded,
            WindowSchedule::Uniform => Schedule::Uniform,
        };
        let single = reparameterize(&model, schedule).with_context(|| shown(&self.model))?;
        // Before anything is written, so that a wrong data set leaves nothing behind.
        let test = if self.limit == Some(0) { None } else { Some(trained.test(&model.config)?) };
        save(&self.out, &single, &self.model, &trained)?;
        if let Some(test) = test {
            print!("{}", describe(&compare(&model, &single, &test, self.limit, &trained.device)?));
        }
        Ok(())
    }
}

impl Fold {
    pub(super) fn run(&self) -> Result<()> {
        let (mut model, trained) = load(&self.model, None, &data::SplitArgs::default())?;
        let all = !self.batch_norm && !self.thresholds;
        if self.batch_norm || all {
            model = absorb_bn(&model).with_context(|| shown(&self.model))?;
        }
        if self.thresholds || all {
            model = absorb_thresholds(&model).with_context(|| shown(&self.model))?;
        }
        save(&self.out, &model, &self.model, &trained)
    }
}

/// RMP with thresholds balanced on spikes.
pub(crate) fn rmp(model: &Model, images: Shown<'_>, timesteps: usize, percentile: f64) -> Result<Model> {
    let mut calibration = Calibration::default();
    images.show(model, images.n_images, |images| {
        calibration = Calibration::on_spikes(model, images, timesteps, percentile)?;
        Ok(())
    })?;
    Ok(relu_to_if(model, &calibration, timesteps)?)
}

/// SNM with a threshold for each unit.
fn snm(model: &Model, images: Shown<'_>, timesteps: usize) -> Result<Model> {
    let (network, _) = model.build(DType::F32, images.device)?;
    let mut calibration = UnitCalibration::default();
    images.show(model, CALIBRATION_BATCH, |images| {
        calibration = UnitCalibration::of(&network, images)?.max(&calibration)?;
        Ok(())
    })?;
    Ok(relu_to_unit_snm(model, &calibration, timesteps)?)
}

/// Images of a calibration that go through the network at once, if they may be divided.
const CALIBRATION_BATCH: usize = 100;

/// How a calibration chooses ceilings.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rule {
    /// A percentile of the activations.
    Percentile(f64),
    /// The least error of a staircase.
    LeastError { steps: u32 },
}

/// Training images as they are, no crop, no flip: the first so many.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a> {
    pub(crate) data: &'a DataConfig,
    pub(crate) preprocessor: Option<&'a Preprocessing>,
    pub(crate) n_images: usize,
    pub(crate) device: &'a Device,
}

impl Shown<'_> {
    /// Shows them in batches, the last of which may go beyond their number.
    fn show(&self, model: &Model, batch_size: usize, mut show: impl FnMut(&Tensor) -> Result<()>) -> Result<()> {
        ensure!(self.n_images > 0, "--calibration-images is 0; expected at least one image");
        let batch_size = batch_size.min(self.n_images);
        let source = data::open_plain_train(self.data, &model.config, self.preprocessor, batch_size, self.device)?;
        for batch in source.batches(0, 0)?.take(self.n_images.div_ceil(batch_size)) {
            show(&batch?.images)?;
        }
        Ok(())
    }
}

/// Calibrates the layers of a ReLU network.
pub(crate) fn calibrate(model: &Model, images: Shown<'_>, rule: Rule) -> Result<Calibration> {
    let (network, _) = model.build(DType::F32, images.device)?;
    // The largest of all batches is the largest of all images; any other rule needs them in one.
    let is_largest = matches!(rule, Rule::Percentile(percentile) if percentile == 100.);
    let batch_size = if is_largest { CALIBRATION_BATCH } else { images.n_images };
    let mut calibration = Calibration::default();
    images.show(model, batch_size, |images| {
        let of_batch = match rule {
            Rule::Percentile(percentile) => Calibration::of(&network, images, percentile)?,
            Rule::LeastError { steps } => Calibration::least_error(&network, images, steps)?,
        };
        calibration = of_batch.max(&calibration);
        Ok(())
    })?;
    Ok(calibration)
}

/// The spikes of two networks on the first `limit` test images, or on all.
pub(crate) fn compare(
    before: &Model,
    after: &Model,
    test: &Loader,
    limit: Option<usize>,
    device: &Device,
) -> Result<SpikeComparison> {
    let build = |model: &Model| -> Result<Network> { Ok(model.build(DType::F32, device)?.0) };
    let (before, after) = (build(before)?, build(after)?);
    with_images(test, limit, "comparing spikes", |batches| compare_spikes(&before, &after, batches))
}

/// Shows the first `limit` test images with their labels, or all, and a bar.
fn with_images<R>(
    test: &Loader,
    limit: Option<usize>,
    title: &str,
    show: impl FnOnce(&mut dyn Iterator<Item = lmht_convert::Result<(Tensor, Tensor)>>) -> lmht_convert::Result<R>,
) -> Result<R> {
    let source = FirstImages::new(test, limit.unwrap_or(usize::MAX).min(test.data().len()));
    let bar = ProgressBar::new(source.n_batches() as u64);
    bar.set_style(ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta} left")?);
    bar.set_message(title.to_string());
    let mut batches = source.batches(0, 0)?.map(|batch| {
        bar.inc(1);
        let batch = batch.map_err(lmht_convert::Error::data)?;
        let labels = batch.targets.labels().map_err(lmht_convert::Error::data)?.clone();
        Ok((batch.images, labels))
    });
    let shown = show(&mut batches)?;
    bar.finish_and_clear();
    Ok(shown)
}

fn describe_hybrid(report: &HybridReport) -> String {
    let mut text = String::new();
    if report.pools_first {
        text += "max-pooling takes the maximum before its neuron now, which is the same function of activations\n";
    }
    if report.deviations.is_empty() {
        text += "the same function as the ANN, up to rounding\n";
    }
    for deviation in &report.deviations {
        text += &format!("not the ANN's function: {}: {}\n", deviation.layer, deviation.why);
    }
    let Some(measured) = &report.measured else { return text };
    let percent = |correct: u64| 100. * correct as f64 / measured.n_images as f64;
    text + &format!(
        "{} images: logits differ by {:.3e} at most, {:.3e} in the mean (the largest logit is {:.3})\n\
         top-1 {:.2} % before, {:.2} % after; cross-entropy {:.4} before, {:.4} after; another class for {} of them\n",
        measured.n_images,
        measured.largest,
        measured.mean,
        measured.magnitude,
        percent(measured.correct_before),
        percent(measured.correct_after),
        measured.loss_before,
        measured.loss_after,
        measured.class_differs,
    )
}

fn describe(comparison: &SpikeComparison) -> String {
    let share = |differing: u64, counts: u64| 100. * differing as f64 / counts.max(1) as f64;
    let mut text = format!("{:<32} {:>14} {:>12} {:>12}\n", "layer", "spike counts", "differing", "%");
    for layer in &comparison.layers {
        let percent = share(layer.differing, layer.n_counts);
        text += &format!("{:<32} {:>14} {:>12} {percent:>12.6}\n", layer.name, layer.n_counts, layer.differing);
    }
    let counts = comparison.layers.iter().map(|layer| layer.n_counts).sum();
    let accuracy = |correct: u64| 100. * correct as f64 / comparison.n_images.max(1) as f64;
    text + &format!(
        "{:<32} {counts:>14} {:>12} {:>12.6}\n{} images: top-1 {:.2} % before, {:.2} % after; another class for {} of them\n",
        "all",
        comparison.differing(),
        share(comparison.differing(), counts),
        comparison.n_images,
        accuracy(comparison.correct_before),
        accuracy(comparison.correct_after),
        comparison.class_differs,
    )
}

/// The network of a run, a checkpoint or a model folder as a value, and what belongs to it; `data` replaces the path of
/// its data, `splits` what is used of it.
fn load(path: &Path, data: Option<&Path>, splits: &data::SplitArgs) -> Result<(Model, Trained)> {
    let mut trained = Trained::locate(path, data)?;
    splits.apply(&mut trained.data);
    Ok((read(&trained.folder)?, trained))
}

/// The network of a model folder as a value.
pub(crate) fn read(folder: &Path) -> Result<Model> {
    let (network, params) = from_pretrained(folder, DType::F32, &Device::Cpu)?;
    Ok(Model::of(network.config(), &params))
}

fn save(out: &Path, model: &Model, from: &Path, trained: &Trained) -> Result<()> {
    let (_, params) = model.build(DType::F32, &Device::Cpu)?;
    let card = ModelCard {
        command: provenance::command(),
        data: format!("that of {}, from which it was converted", from.display()),
        top1: None,
        config: model.config.to_json(),
        preprocessor: Pretrained::locate(&trained.folder)?.preprocessor()?,
    };
    save_pretrained(out, &model.config, &params, &card)?;
    let (levels, t) = (model.config.neuron.levels(), model.config.timesteps);
    println!("{}: {}, L = {levels}, T = {t}", out.display(), model.config.backbone.title());
    Ok(())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Write an IF or LIF network as a NIR file for other simulators and for neuromorphic hardware.
///
/// The file is read back, replayed by the equations of the format, and every spike compared with the network. Importers
/// read these files differently: choose the profile, and heed the notes that are printed.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask train fashion-resnet18-if-T4
  cargo xtask convert export runs/fashion-resnet18-if-T4-seed42 --profile norse --out network.nir
  cargo xtask convert export models/lif --profile spec --verify 100 --out network.nir

NIR holds neurons of one threshold without T-GIM and with a leak of at most 1.")]
pub(super) struct Export {
    /// A run, a checkpoint, a model folder or OWNER/NAME on the Hub, of an IF or LIF network.
    model: PathBuf,
    /// Who is to read the file: spec, spikingjelly, snntorch, norse or sinabs.
    #[arg(long, default_value = "spec")]
    profile: Profile,
    /// A data set whose test images give the size of the input and are replayed [default: the data of the run; for a
    /// model folder the repository's sample].
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    splits: data::SplitArgs,
    /// Test images to replay.
    #[arg(long, value_name = "N", default_value_t = 8)]
    verify: usize,
    /// The file to write; a file there is replaced.
    #[arg(long)]
    pub(super) out: PathBuf,
}

impl Export {
    pub(super) fn run(&self) -> Result<()> {
        let (model, trained) = load(&self.model, self.data.as_deref(), &self.splits)?;
        let test = trained.test(&model.config)?;
        let first = test.batches(0, 0)?.next().context("the test split has no image")??.images;
        let shape = &first.dims()[1..];
        let notes = nir::write(&self.out, &model, shape, self.profile).with_context(|| shown(&self.model))?;
        println!("{}: for {}, images of {shape:?}", self.out.display(), self.profile);
        for note in notes {
            println!("note: {note}");
        }
        if self.verify > 0 {
            let images = first.narrow(0, 0, self.verify.min(first.dim(0)?))?;
            let verification = nir::verify_file(&self.out, &model, &images)?;
            let counts: u64 = verification.layers.iter().map(|layer| layer.n_counts).sum();
            println!(
                "replayed {} images: {} of {counts} spikes differ, logits to {:.1e}",
                verification.n_images,
                verification.differing(),
                verification.logit_error
            );
        }
        Ok(())
    }
}
