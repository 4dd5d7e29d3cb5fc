//! `cargo xtask golden`: float64 cases, computed elsewhere, against this implementation.
//!
//! `xtask/testdata/golden/README.md` describes the files.

mod float32;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor, Var};
use lmht_bench::CostCounter;
use lmht_convert::{Model, reparameterize};
use lmht_nn::layers::{Neuron, Site};
use lmht_nn::{
    Backbone, GradientMode, ModelConfig, Network, NeuronConfig, NeuronEvent, Observer, ParamStore, Pass, QcfsGate,
    Schedule, Signal, SignalKind, Stem, SynapseEvent, Tgim, neurons, ops, readout,
};
use lmht_train::loss;
use lmht_train::optim::{OptimizerConfig, SgdConfig};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::device::DeviceArgs;

/// Run golden cases: compare neurons, activations and whole networks with recorded float64 results.
///
/// Prints one line per quantity with its largest relative error (largest difference over largest magnitude) and ends with
/// status 1 if one is out of tolerance, after all cases have run.
///
/// With --float32 the evaluation runs in float32 instead, beside a float64 run of the same parameters: how many spikes
/// does rounding move, and what does that do to the logits?
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask golden xtask/testdata/golden            every case of a folder
  cargo xtask golden case.safetensors                 one case
  cargo xtask golden xtask/testdata/golden --device cuda
  cargo xtask golden --float32 xtask/testdata/golden  spikes that float32 moves, layer by layer")]
pub(crate) struct Args {
    /// Files, or folders of *.safetensors files.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Largest relative error allowed.
    #[arg(long, default_value_t = 1e-9)]
    tolerance: f64,
    /// Report what float32 changes instead: the spikes of each neuron layer that differ from a float64 run, and the error
    /// of the logits. Status 1 if the logits are off by more than 1e-4 although no spike differs.
    #[arg(long, conflicts_with = "tolerance")]
    float32: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let files = files(&args.paths)?;
    if args.float32 {
        ensure!(args.device.is_cpu(), "--float32 is measured on the CPU; leave out --device");
        return float32::report(&files);
    }
    check(&files, args.tolerance, &args.device.open()?)
}

/// The cases of files and folders.
pub(crate) fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
            for entry in entries {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "safetensors") {
                    files.push(path);
                }
            }
        } else {
            files.push(path.clone());
        }
    }
    files.sort();
    ensure!(!files.is_empty(), "{}: expected golden cases, found no *.safetensors file", paths[0].display());
    Ok(files)
}

/// Runs the cases, with a line for each quantity; an error if one is out of tolerance.
pub(crate) fn check(files: &[PathBuf], tolerance: f64, device: &Device) -> Result<()> {
    let mut failures = Vec::new();
    for file in files {
        println!("{}", file.display());
        let mut case = Case::read(file, tolerance, device).with_context(|| file.display().to_string())?;
        case.run().with_context(|| file.display().to_string())?;
        ensure!(case.n_checks > 0, "{}: nothing to compare in this case", file.display());
        failures.extend(case.failures.into_iter().map(|failure| format!("{}: {failure}", file.display())));
    }
    if let Some(first) = failures.first() {
        bail!("{first}; {} out of tolerance in all, marked above", failures.len());
    }
    println!("{} cases within {tolerance:e}", files.len());
    Ok(())
}

/// A case and the comparisons made so far.
struct Case {
    metadata: HashMap<String, String>,
    tensors: HashMap<String, Tensor>,
    tolerance: f64,
    n_checks: usize,
    failures: Vec<String>,
}

impl Case {
    fn read(path: &Path, tolerance: f64, device: &Device) -> Result<Self> {
        let bytes = std::fs::read(path)?;
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).context("expected a safetensors file")?;
        let metadata = header.metadata().clone().context("expected metadata with a `case`")?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, device)?;
        Ok(Self { metadata, tensors, tolerance, n_checks: 0, failures: Vec::new() })
    }

    /// Makes all comparisons of the case.
    fn run(&mut self) -> Result<()> {
        match self.text("case")?.as_str() {
            "neuron" => neuron(self),
            "qcfs" => qcfs(self),
            "network" => network(self),
            other => bail!("case is {other:?}; expected neuron, qcfs or network"),
        }
    }

    fn text(&self, key: &str) -> Result<String> {
        self.metadata.get(key).cloned().with_context(|| format!("the metadata lacks `{key}`"))
    }

    fn json<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let text = self.text(key)?;
        serde_json::from_str(&text).with_context(|| format!("metadata `{key}`: {text}"))
    }

    /// The `detach` of a case: whether the gradient stops at v(t-1).
    fn gradient(&self, absent: GradientMode) -> Result<GradientMode> {
        if self.metadata.contains_key("detach") { Ok(gradient(Some(self.json("detach")?), absent)) } else { Ok(absent) }
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).with_context(|| format!("the case lacks the tensor `{name}`"))
    }

    fn var(&self, name: &str) -> Result<Var> {
        Ok(Var::from_tensor(self.tensor(name)?)?)
    }

    /// The tensors whose names start with `prefix`, by the rest of their names, sorted.
    fn below(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let below = |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_string(), tensor.clone()));
        self.tensors.iter().filter_map(below).collect()
    }

    /// Compares with the case's tensor of that name.
    fn compare(&mut self, name: &str, actual: &Tensor) -> Result<()> {
        self.compare_above(name, actual, 0.)
    }

    /// The largest magnitude of all tensors below `prefix`.
    fn magnitude(&self, prefix: &str) -> Result<f64> {
        let mut largest = 0.;
        for tensor in self.below(prefix).values() {
            let values = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
            largest = values.iter().map(|value| value.abs()).fold(largest, nan_max);
        }
        Ok(largest)
    }

    /// Compares with the case's tensor of that name; magnitudes below `floor` count as `floor`.
    fn compare_above(&mut self, name: &str, actual: &Tensor, floor: f64) -> Result<()> {
        let expected = self.tensor(name)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let actual = actual.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        ensure!(
            expected.len() == actual.len(),
            "{name}: expected {} values {:?}, got {}",
            expected.len(),
            self.tensor(name)?.dims(),
            actual.len()
        );
        let difference = expected.iter().zip(&actual).map(|(e, a)| (e - a).abs()).fold(0., nan_max);
        let magnitude = expected.iter().map(|e| e.abs()).fold(floor, nan_max);
        let error = if magnitude > 0. { difference / magnitude } else { difference };
        // Written so that a value that is no number is out of tolerance.
        let ok = error <= self.tolerance;
        println!("  {name:<60} {error:.1e}  {}", if ok { "ok" } else { "OUT OF TOLERANCE" });
        if !ok {
            self.failures.push(format!("{name}: relative error {error:e}, tolerance {:e}", self.tolerance));
        }
        self.n_checks += 1;
        Ok(())
    }
}

/// A gradient this much smaller than the network's largest is compared with this share of the largest.
const NEGLIGIBLE: f64 = 1e-4;

/// The larger one, or NaN if one is.
fn nan_max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// Gradients of Σ y · grad_out.
fn backward(ys: &Tensor, grad_out: &Tensor) -> Result<candle_core::backprop::GradStore> {
    Ok((ys * grad_out)?.sum_all()?.backward()?)
}

fn gradient(detach: Option<bool>, absent: GradientMode) -> GradientMode {
    match detach {
        Some(true) => GradientMode::Detached,
        Some(false) => GradientMode::Full,
        None => absent,
    }
}

/// The neuron of a neuron case, and what the case calls its tensors.
fn neuron_config(case: &Case) -> Result<(NeuronConfig, &'static [(&'static str, &'static str)])> {
    const LMHT: &[(&str, &str)] = &[("mask", "tgim_logit"), ("alpha", "leak_logit")];
    const TERNARY: &[(&str, &str)] = &[("fire_ratio", "amplitude")];
    let v_threshold: f64 = case.json("v_threshold")?;
    let kind = case.text("kind")?;
    let leak = || case.json::<f64>("leak");
    let full = || case.gradient(GradientMode::Full);
    Ok(match kind.as_str() {
        "lmht" => {
            let (levels, v_init) = (case.json("levels")?, case.json("v_init")?);
            let gradient = case.gradient(GradientMode::Detached)?;
            let neuron = neurons::Lmht { levels, tgim: Tgim::Full, v_threshold: Some(v_threshold), v_init, gradient };
            (neuron.into(), LMHT)
        }
        "if" | "lif" | "lif_detach" => {
            let leak = if kind == "if" { case.json("leak").unwrap_or(1.) } else { leak()? };
            let absent = if kind == "lif_detach" { GradientMode::Detached } else { GradientMode::Full };
            let (levels, v_init, gradient) = (case.json("levels")?, case.json("v_init")?, case.gradient(absent)?);
            // Of one level this is the LIF neuron.
            (neurons::Mht { levels, leak, v_threshold: Some(v_threshold), v_init, gradient }.into(), &[])
        }
        "ilif" => (neurons::Ilif { levels: case.json("levels")?, leak: leak()?, gradient: full()? }.into(), &[]),
        "ternary" => (neurons::Ternary { v_threshold, leak: leak()?, gradient: full()? }.into(), TERNARY),
        other => bail!("kind is {other:?}; expected lmht, if, lif, lif_detach, ilif or ternary"),
    })
}

/// The layer of a neuron case, its parameters under the case's names, and its outputs for `xs`.
fn neuron_layer(case: &Case, xs: &Tensor) -> Result<(Vec<(&'static str, Var)>, Tensor)> {
    let (config, names) = neuron_config(case)?;
    let params = ParamStore::blank();
    let layer = Neuron::new(&config, case.json("timesteps")?, Site::Maps, params.builder(xs.dtype(), xs.device()))?;
    let mut vars = Vec::new();
    for (name, var) in params.all() {
        if let Some((_, recorded)) = names.iter().find(|(ours, _)| *ours == name) {
            var.set(&case.tensor(recorded)?.to_dtype(xs.dtype())?.reshape(var.dims())?)?;
            vars.push((*recorded, var));
        }
    }
    let ys = layer.forward(&Signal::analog(xs.clone()), &mut Pass::train())?;
    Ok((vars, ys.values().clone()))
}

fn neuron(case: &mut Case) -> Result<()> {
    let xs = case.var("x")?;
    let (vars, ys) = neuron_layer(case, &xs)?;
    let gradients = backward(&ys, case.tensor("grad_out")?)?;
    case.compare("y", &ys)?;
    case.compare("grad_x", gradients.get(&xs).context("no gradient")?)?;
    for (name, var) in vars {
        case.compare(&format!("grad_{name}"), gradients.get(&var).context("no gradient")?)?;
    }
    Ok(())
}

fn qcfs(case: &mut Case) -> Result<()> {
    let (xs, scale) = (case.var("x")?, case.var("scale")?);
    let ys = ops::qcfs(&xs, &scale, case.json("quant_levels")?, QcfsGate::default())?;
    let gradients = backward(&ys, &case.tensor("grad_out")?.clone())?;
    case.compare("y", &ys)?;
    case.compare("grad_x", gradients.get(&xs).context("no gradient")?)?;
    case.compare("grad_scale", gradients.get(&scale).context("no gradient")?)
}

/// The `config` of a network case.
#[derive(Deserialize)]
struct NetworkConfig {
    arch: String,
    stem: Stem,
    width: usize,
    classes: usize,
    neuron: String,
    levels: u32,
    timesteps: usize,
    v_threshold: f64,
    v_init: f64,
    quant_levels: Option<u32>,
    scale: Option<f64>,
    leak: Option<f64>,
    detach: Option<bool>,
    input_scale: Option<f64>,
    depth: Option<usize>,
    heads: Option<usize>,
}

impl NetworkConfig {
    fn model(&self, in_channels: usize) -> Result<ModelConfig> {
        let backbone: Backbone =
            serde_json::from_value(self.arch.clone().into()).with_context(|| format!("arch {:?}", self.arch))?;
        let (v_threshold, v_init) = (self.v_threshold, self.v_init);
        let neuron = match self.neuron.as_str() {
            "lmht" => NeuronConfig::Lmht(neurons::Lmht {
                levels: self.levels,
                tgim: Tgim::Full,
                v_threshold: Some(v_threshold),
                v_init,
                gradient: gradient(self.detach, GradientMode::Detached),
            }),
            "mht" => NeuronConfig::Mht(neurons::Mht {
                levels: self.levels,
                leak: self.leak.unwrap_or(1.),
                v_threshold: Some(v_threshold),
                v_init,
                gradient: gradient(self.detach, GradientMode::Detached),
            }),
            "if" => NeuronConfig::If(neurons::If {
                v_threshold,
                v_init,
                gradient: gradient(self.detach, GradientMode::Full),
            }),
            "lif" => NeuronConfig::Lif(neurons::Lif {
                leak: self.leak.context("the config lacks leak")?,
                v_threshold,
                v_init,
                gradient: gradient(self.detach, GradientMode::Full),
            }),
            "qcfs" => NeuronConfig::Qcfs(neurons::Qcfs {
                quant_levels: self.quant_levels.context("the config lacks quant_levels")?,
                scale: self.scale.context("the config lacks scale")?,
                gate: QcfsGate::default(),
            }),
            "ilif" => neurons::Ilif {
                levels: self.levels,
                leak: self.leak.context("the config lacks leak")?,
                gradient: gradient(self.detach, GradientMode::Full),
            }
            .into(),
            "ternary" => neurons::Ternary {
                v_threshold,
                leak: self.leak.context("the config lacks leak")?,
                gradient: gradient(self.detach, GradientMode::Full),
            }
            .into(),
            other => bail!("neuron is {other:?}; expected lmht, mht, if, lif, qcfs, ilif or ternary"),
        };
        Ok(ModelConfig {
            format_version: lmht_nn::FORMAT_VERSION,
            backbone,
            stem: self.stem,
            width: self.width,
            depth: self.depth,
            heads: self.heads,
            in_channels,
            n_classes: self.classes,
            timesteps: self.timesteps,
            neuron,
            input_scale: self.input_scale.unwrap_or(1.),
            batch_norm: true,
            unit_spikes: false,
        })
    }
}

/// The `optimizer` of a network case.
#[derive(Deserialize)]
struct SgdCase {
    lr: f64,
    momentum: f64,
    weight_decay: f64,
    nesterov: bool,
    steps: usize,
}

/// Spike counts of every neuron layer at every timestep, and operations of every synapse.
#[derive(Default)]
struct Recorder {
    spikes: BTreeMap<String, Vec<f64>>,
    cost: CostCounter,
}

impl Observer for Recorder {
    fn synapse(&mut self, event: &SynapseEvent<'_>) -> lmht_nn::Result<()> {
        self.cost.synapse(event)
    }

    fn neuron(&mut self, event: &NeuronEvent<'_>) -> lmht_nn::Result<()> {
        if let SignalKind::Spikes { v_threshold } = event.signal {
            let per_step = event.output.elem_count() / event.timesteps;
            let output = event.output.to_tensor()?.reshape((event.timesteps, per_step))?;
            // A spike of either sign is one.
            let spikes = (output / v_threshold)?.round()?.abs()?.sum(1)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
            self.spikes.insert(event.name.to_string(), spikes);
        }
        Ok(())
    }
}

/// What a network case describes, ready to be built.
struct NetworkCase {
    model: ModelConfig,
    published: HashMap<String, Tensor>,
    /// Images `[B, C, H, W]` or frames `[T, B, C, H, W]`.
    input: Tensor,
}

impl NetworkCase {
    fn of(case: &Case) -> Result<Self> {
        let config: NetworkConfig = case.json("config")?;
        let input = case.tensor("input")?.clone();
        let rank = input.rank();
        ensure!(rank == 4 || rank == 5, "input: expected [B, C, H, W] or [T, B, C, H, W], got {:?}", input.dims());
        let model = config.model(input.dim(rank - 3)?)?;
        Ok(Self { model, published: case.below("param/").into_iter().collect(), input })
    }

    fn build(&self, dtype: DType) -> Result<(Network, ParamStore)> {
        let params = ParamStore::blank();
        let network = Network::new(&self.model, params.builder(dtype, self.input.device()))?;
        params.load("param/", &self.published)?;
        Ok((network, params))
    }
}

/// The single-threshold twins of a network, by both schedules: logits summed over windows, spikes at every timestep.
fn reparameterized(case: &mut Case, description: &NetworkCase) -> Result<()> {
    for (name, schedule) in [("uniform", Schedule::Uniform), ("front_loaded", Schedule::FrontLoaded)] {
        let prefix = format!("reparam/{name}/");
        let expected = case.below(&prefix);
        if expected.is_empty() {
            continue;
        }
        let (_, params) = description.build(DType::F64)?;
        let single = reparameterize(&Model::of(&description.model, &params), schedule)?;
        let (network, _) = single.build(DType::F64, description.input.device())?;
        let mut recorder = Recorder::default();
        let logits = network.forward(&description.input, &mut Pass::eval().observed_by(&mut recorder))?;
        let (steps, batch, classes) = logits.dims3()?;
        let windows = single.config.n_frames();
        let summed = ops::sum_windows(&logits.flatten(0, 1)?, windows, steps / windows)?;
        for quantity in expected.keys() {
            let full = format!("{prefix}{quantity}");
            match quantity.strip_prefix("spikes/") {
                None if quantity == "logits" => case.compare(&full, &summed.reshape((windows, batch, classes))?)?,
                None => bail!("{full}: expected logits or spikes/…"),
                Some(layer) => {
                    let spikes =
                        recorder.spikes.get(layer).with_context(|| format!("{full}: no such neuron layer here"))?;
                    case.compare(&full, &Tensor::new(spikes.as_slice(), &Device::Cpu)?)?;
                }
            }
        }
    }
    Ok(())
}

fn network(case: &mut Case) -> Result<()> {
    let description = NetworkCase::of(case)?;
    let (input, published) = (&description.input, &description.published);
    let labels = case.tensor("labels")?.to_dtype(DType::U32)?;
    let build = || description.build(DType::F64);

    let (network, _) = build()?;
    let mut recorder = Recorder::default();
    let logits = network.forward(input, &mut Pass::eval().observed_by(&mut recorder))?;
    case.compare("eval/logits", &logits)?;
    for name in case.below("eval/spikes/").keys() {
        let spikes = recorder.spikes.get(name).with_context(|| format!("{name}: no such neuron layer here"))?;
        case.compare(&format!("eval/spikes/{name}"), &Tensor::new(spikes.as_slice(), &Device::Cpu)?)?;
    }
    let report = recorder.cost.report(1);
    for name in case.below("eval/sops/").keys() {
        let layer = report.layers.iter().find(|layer| layer.name == *name);
        let layer = layer.with_context(|| format!("{name}: no such synapse here"))?;
        case.compare(&format!("eval/sops/{name}"), &Tensor::new(&[layer.paper_sops], &Device::Cpu)?)?;
    }
    reparameterized(case, &description)?;

    let (network, params) = build()?;
    let logits = network.forward(input, &mut Pass::train())?;
    let value = loss::cross_entropy(&readout(&logits)?, &labels, 0.)?;
    let gradients = value.backward()?;
    case.compare("train/logits", &logits)?;
    case.compare("train/loss", &value)?;
    let vars: HashMap<String, Var> = params.all().into_iter().collect();
    for name in case.below("train/stats/").keys() {
        let var = vars.get(name).with_context(|| format!("{name}: no such statistic here"))?;
        case.compare(&format!("train/stats/{name}"), var)?;
    }
    // The gradient of a bias before a batch norm is zero; what is recorded there is rounding, and so is ours.
    let floor = NEGLIGIBLE * case.magnitude("train/grad/")?;
    // Batch norm undoes the scale of spikes that only a convolution reads: what is left of such a gradient is rounding, and
    // all amplitudes count as one tensor.
    let mut amplitudes = 0.;
    for (name, tensor) in case.below("train/grad/") {
        if name.ends_with(".fire_ratio") {
            amplitudes = nan_max(amplitudes, tensor.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?);
        }
    }
    for name in case.below("train/grad/").keys() {
        let floor = if name.ends_with(".fire_ratio") { floor.max(amplitudes) } else { floor };
        let var = vars.get(name).with_context(|| format!("{name}: no such parameter here"))?;
        let gradient = gradients.get(var).with_context(|| format!("{name}: no gradient"))?;
        case.compare_above(&format!("train/grad/{name}"), gradient, floor)?;
    }

    let after = case.below("sgd2/");
    if !after.is_empty() {
        let sgd: SgdCase = case.json("optimizer")?;
        let (network, params) = build()?;
        let SgdCase { lr, momentum, weight_decay, nesterov, steps } = sgd;
        let mut optimizer =
            OptimizerConfig::Sgd(SgdConfig { lr, momentum, weight_decay, nesterov }).build(params.trainable())?;
        for _ in 0..steps {
            let logits = network.forward(input, &mut Pass::train())?;
            optimizer.step(&loss::cross_entropy(&readout(&logits)?, &labels, 0.)?.backward()?)?;
        }
        let vars: HashMap<String, Var> = params.all().into_iter().collect();
        for name in after.keys() {
            match vars.get(name) {
                Some(var) => case.compare(&format!("sgd2/{name}"), var)?,
                // The published networks hold parameters that nothing uses, such as a second T-GIM in every neuron. Loading
                // has refused what is not one of them, and nothing moves them.
                None if published.contains_key(name) => {}
                None => bail!("sgd2/{name}: no such parameter here"),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Executor;
    use crate::repository;

    /// Its kernels, and networks as the steps of their traces.
    #[test]
    fn every_case_is_reproduced_as_a_gpu_computes_it() {
        if lmht_gpu::emulator::Emulator::compiler().is_none() {
            println!("skipped: no C++ compiler to run kernels with; install g++ or clang++, or set CXX");
            return;
        }
        let files = files(&[repository::root().unwrap().join("xtask/testdata/golden")]).unwrap();
        let executor = Executor::of_kernels(Device::Cpu);
        executor.run(|| check(&files, 1e-9, executor.device())).unwrap();
    }
}
