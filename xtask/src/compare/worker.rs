//! Our side: networks and operations by the public interface, as a user of the crates calls them.
//!
//! A training step is that of `lmht_train::fit`, an evaluation step that of `lmht_train::evaluate`.

use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor, Var};
use lmht_bench::ActivityCounter;
use lmht_datasets::{Loader, LoaderConfig, ReadOptions};
use lmht_kernels::{ConvShape, Images, Maps, WeightMaps};
use lmht_nn::ops::{self, Learned};
use lmht_nn::{ModelCard, ModelConfig, Network, ParamStore, Pass, from_pretrained, readout, save_pretrained};
use lmht_train::loss;
use lmht_train::optim::{OptimizerConfig, SgdConfig, find_non_finite, grad_norm};
use lmht_train::schedule::{ScheduleConfig, UpdateEvery};
use lmht_train::{FirstImages, Progress, TrainConfig, fit};
use rayon::prelude::*;

use super::protocol::{Case, ConvCase, ConvPass, Hello, Memory, NetworkCase, Number, Outputs, Rate, Reply, Request};
use crate::data;
use crate::experiment::DataConfig;

/// Serve `cargo xtask compare`: requests on standard input, replies on standard output, a line of JSON each.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// The optimizer of both sides. The rate is small: the network is to stay the trained one however many steps are timed.
const SGD: SgdConfig = SgdConfig { lr: 1e-4, momentum: 0.9, nesterov: true, weight_decay: 5e-4 };
/// Images in a step of [`Request::Fit`].
const FIT_BATCH: usize = 16;
/// Numbers that one task copies: 256 KiB, so that tasks are many and starting one costs nothing beside it.
const CHUNK: usize = 1 << 16;

/// A step of a prepared case.
type Step = Box<dyn FnMut() -> Result<()>>;

/// Answers until the input ends.
pub(crate) fn run(_: &Args) -> Result<()> {
    let mut prepared = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let reply = serde_json::from_str(&line)
            .map_err(|error| anyhow::anyhow!("expected a request in JSON, got {line:.200?}: {error}"))
            .and_then(|request| answer(request, &mut prepared))
            .unwrap_or_else(|error| Reply::Error(format!("{error:#}")));
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&reply)?)?;
        out.flush()?;
    }
    Ok(())
}

fn answer(request: Request, prepared: &mut HashMap<String, Step>) -> Result<Reply> {
    Ok(match request {
        Request::Hello => {
            let version = format!("{} ({})", env!("CARGO_PKG_VERSION"), crate::provenance::commit());
            let versions = BTreeMap::from([("lmht".to_string(), version)]);
            Reply::Hello(Hello { versions, threads: rayon::current_num_threads() })
        }
        Request::Prepare { id, case } => {
            let mut step = build(&case)?;
            // What a first step allocates for good is no part of the others' time.
            step()?;
            let seconds = timed(&mut step, 1)?;
            prepared.insert(id, step);
            Reply::Prepared { seconds, note: None }
        }
        Request::Run { id, warm, steps } => {
            let step = prepared.get_mut(&id).with_context(|| format!("{id}: run before it was prepared"))?;
            for _ in 0..warm {
                step()?;
            }
            Reply::Seconds(timed(step, steps)?)
        }
        Request::Drop { id } => {
            prepared.remove(&id);
            Reply::Done
        }
        Request::Memory { case, steps } => Reply::Memory(memory(&case, steps)?),
        Request::Outputs { network, dtype } => Reply::Outputs(outputs(&network, dtype)?),
        Request::Fit { model, data, steps, out } => {
            train_a_little(&model, &data, steps, &out)?;
            Reply::Done
        }
    })
}

fn timed(step: &mut Step, steps: usize) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..steps {
        step()?;
    }
    Ok(start.elapsed().as_secs_f64())
}

fn build(case: &Case) -> Result<Step> {
    match case {
        Case::Train(network) => train_step(network, &batch(network, DType::F32)?),
        Case::Eval(network) => eval_step(network, &batch(network, DType::F32)?),
        Case::Neuron { shape, levels } => neuron_step(*shape, *levels),
        Case::NeuronCore { shape, levels } => core_step(*shape, *levels),
        Case::Copy { len } => Ok(copy_step(*len)),
        Case::Conv(case) => conv_step(*case),
        Case::Matmul { size } => {
            let (a, b) = (tensor(&[*size, *size], 1)?, tensor(&[*size, *size], 2)?);
            Ok(Box::new(move || {
                black_box(a.matmul(&b)?);
                Ok(())
            }))
        }
    }
}

// Networks

/// Images and labels of a case.
fn batch(case: &NetworkCase, dtype: DType) -> Result<(Tensor, Tensor)> {
    let path = case.images.display();
    let tensors = candle_core::safetensors::load(&case.images, &Device::Cpu).with_context(|| path.to_string())?;
    let tensor = |name: &str| {
        let tensor = tensors.get(name).with_context(|| format!("{path}: expected a tensor {name}, there is none"))?;
        let n = tensor.dim(0)?;
        ensure!(n >= case.batch, "{path}: expected at least {} {name}, got {n}", case.batch);
        Ok(tensor.narrow(0, 0, case.batch)?.contiguous()?)
    };
    Ok((tensor("images")?.to_dtype(dtype)?, tensor("labels")?.to_dtype(DType::U32)?))
}

fn load(case: &NetworkCase, dtype: DType) -> Result<(Network, ParamStore)> {
    let (network, params) = from_pretrained(&case.model, dtype, &Device::Cpu)?;
    let timesteps = network.config().timesteps;
    let path = case.model.display();
    ensure!(timesteps == case.timesteps, "{path}: expected a network of {} timesteps, got {timesteps}", case.timesteps);
    Ok((network, params))
}

fn train_step(case: &NetworkCase, (images, labels): &(Tensor, Tensor)) -> Result<Step> {
    let (network, params) = load(case, DType::F32)?;
    let mut optimizer = OptimizerConfig::Sgd(SGD).build(params.trainable())?;
    let (images, labels) = (images.clone(), labels.clone());
    let recomputes = case.recomputes;
    Ok(Box::new(move || {
        let pass = Pass::train();
        let mut pass = if recomputes { pass.recomputing() } else { pass };
        let readout = readout(&network.forward(&images, &mut pass)?)?;
        let loss = loss::cross_entropy(&readout, &labels, 0.)?;
        let value = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        let gradients = loss.backward()?;
        let culprit = find_non_finite(&gradients, optimizer.params())?;
        ensure!(
            value.is_finite() && culprit.is_none(),
            "the loss is {value}, the gradient of {culprit:?} is not finite; use other weights"
        );
        optimizer.step(&gradients)?;
        black_box(loss::top1(&readout.detach(), &labels)?);
        Ok(())
    }))
}

fn eval_step(case: &NetworkCase, (images, labels): &(Tensor, Tensor)) -> Result<Step> {
    let (network, _params) = load(case, DType::F32)?;
    let network = network.inference()?;
    let (images, labels) = (images.clone(), labels.clone());
    Ok(Box::new(move || {
        let logits = network.forward(&images)?;
        let loss = loss::cross_entropy(&readout(&logits)?, &labels, 0.)?;
        black_box(loss.to_dtype(DType::F64)?.to_scalar::<f64>()?);
        black_box(loss::cumulative_top1(&logits, &labels)?);
        Ok(())
    }))
}

/// An evaluation and a training pass; each on a network as it was saved.
fn outputs(case: &NetworkCase, dtype: Number) -> Result<Outputs> {
    let dtype = match dtype {
        Number::F32 => DType::F32,
        Number::F64 => DType::F64,
    };
    let (images, labels) = batch(case, dtype)?;
    let (network, params) = load(case, dtype)?;
    // Once without an observer: this is what is timed.
    let logits = network.inference()?.forward(&images)?;
    let mut activity = ActivityCounter::new();
    network.forward(&images, &mut Pass::eval().observed_by(&mut activity))?;
    let readout = readout(&network.forward(&images, &mut Pass::train())?)?;
    let loss = loss::cross_entropy(&readout, &labels, 0.)?;
    Ok(Outputs {
        logits: logits.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?,
        loss: loss.to_dtype(DType::F64)?.to_scalar()?,
        grad_norm: grad_norm(&loss.backward()?, &params.trainable())?,
        rates: activity
            .report()
            .into_iter()
            .map(|layer| Rate { name: layer.name, n_units: layer.n_units, nonzero: layer.rate_nz, rate: layer.rate_eq })
            .collect(),
    })
}

/// A short training by the ordinary loop: cosine from 0.05 to 0.
fn train_a_little(model: &ModelConfig, path: &Path, steps: usize, out: &Path) -> Result<()> {
    let per_class = (steps * FIT_BATCH).div_ceil(model.n_classes);
    let data = DataConfig { path: path.to_path_buf(), parquet: parquet(Some(per_class)), ..DataConfig::default() };
    let (train, normalize) = data::read_train(&data, model)?;
    let source =
        |config: &LoaderConfig| -> Result<Loader> { Ok(Loader::new(train.clone(), config, &normalize, &Device::Cpu)?) };
    // As a configuration file has it: what it does not name keeps its default.
    let config: TrainConfig = serde_json::from_value(serde_json::json!({
        "epochs": 1,
        "batch_size": FIT_BATCH,
        "seed": 42,
        "optimizer": OptimizerConfig::Sgd(SgdConfig { lr: 0.05, ..SGD }),
        "schedule": ScheduleConfig { update_every: UpdateEvery::Step, ..ScheduleConfig::default() },
    }))?;
    let params = ParamStore::new(config.seed);
    let network = Network::new(model, params.builder(DType::F32, &Device::Cpu))?;
    let train_source = source(&LoaderConfig::train(FIT_BATCH, config.seed))?;
    // What it reaches is told by the driver, on test images; the loop asks for something to evaluate.
    let test_source = source(&LoaderConfig::eval(FIT_BATCH))?;
    let first = FirstImages::new(&test_source, FIT_BATCH);
    fit(&network, &params, &config, &train_source, &first, None, Progress::Silent)?;
    let card = ModelCard {
        command: crate::provenance::command(),
        data: format!("{}: {} training images", path.display(), train.len()),
        ..ModelCard::default()
    };
    Ok(save_pretrained(out, model, &params, &card)?)
}

/// How a data set is read: colour, 32x32.
pub(super) fn parquet(max_per_class: Option<usize>) -> ReadOptions {
    ReadOptions { channels: Some(3), resize: Some((32, 32)), max_per_class, ..ReadOptions::default() }
}

/// The peak over some steps. The images are there before, and what a first step loads for good; the network is not.
fn memory(case: &Case, steps: usize) -> Result<Memory> {
    let (Case::Train(network) | Case::Eval(network)) = case else {
        bail!("memory is measured of networks, not of {case:?}")
    };
    let make = if matches!(case, Case::Train(_)) { train_step } else { eval_step };
    let batch = batch(network, DType::F32)?;
    first_step()?;
    // Linux sets VmHWM to what is resident now. Where it does not, an earlier peak could count.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let before_kib = status_kib("VmRSS")?;
    let mut step = make(network, &batch)?;
    timed(&mut step, steps)?;
    Ok(Memory { before_kib, peak_kib: status_kib("VmHWM")? })
}

/// A training step of a tiny network: threads start, buffers that stay are made.
fn first_step() -> Result<()> {
    let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
    let params = ParamStore::new(42);
    let network = Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
    let mut optimizer = OptimizerConfig::Sgd(SGD).build(params.trainable())?;
    let readout = readout(&network.forward(&tensor(&[2, 3, 8, 8], 1)?, &mut Pass::train())?)?;
    let loss = loss::cross_entropy(&readout, &Tensor::new(&[0u32, 1], &Device::Cpu)?, 0.)?;
    Ok(optimizer.step(&loss.backward()?)?)
}

/// A line of `/proc/self/status`, which is in KiB.
fn status_kib(name: &str) -> Result<f64> {
    let path = "/proc/self/status";
    let status = std::fs::read_to_string(path)
        .with_context(|| format!("{path}: memory is read there, on Linux only; leave out --only memory"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{path}: expected a line {name}"))
}

// Operations

/// `len` numbers, evenly spread over `low..high`, the same for the same seed (SplitMix64).
fn uniform(len: usize, (low, high): (f32, f32), seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..len).map(|_| low + (high - low) * ((next() >> 40) as f32 / (1_u64 << 24) as f32)).collect()
}

/// A tensor of [`uniform`] numbers in -1..1.
fn tensor(shape: &[usize], seed: u64) -> Result<Tensor> {
    Ok(Tensor::from_vec(uniform(shape.iter().product(), (-1., 1.), seed), shape, &Device::Cpu)?)
}

/// Currents that cross no, one and two thresholds about equally often.
const CURRENTS: (f32, f32) = (-1., 3.);

fn neuron_step(shape: [usize; 5], levels: u32) -> Result<Step> {
    let timesteps = shape[0];
    let neuron = lmht_core::LmhtConfig::lmht(levels, timesteps).check()?;
    let currents = uniform(shape.iter().product(), CURRENTS, 3);
    let xs = Var::from_tensor(&Tensor::from_vec(currents, &shape, &Device::Cpu)?)?;
    let tgim_logit = Var::from_tensor(&tensor(&[timesteps, timesteps], 4)?)?;
    let leak_logit = Var::from_tensor(&tensor(&[1], 5)?)?;
    Ok(Box::new(move || {
        let (tgim_logit, leak_logit) = (tgim_logit.as_tensor().clone(), leak_logit.as_tensor().clone());
        let ys = ops::neuron(&xs, &neuron, &Learned::TgimAndLeak { tgim_logit, leak_logit })?;
        // Candle starts from a gradient of ones.
        black_box(ys.backward()?);
        Ok(())
    }))
}

fn core_step(shape: [usize; 5], levels: u32) -> Result<Step> {
    let (timesteps, len) = (shape[0], shape.iter().product());
    let neuron = lmht_core::LmhtConfig::lmht(levels, timesteps).check()?;
    let logits = uniform(timesteps * timesteps, (-1., 1.), 4);
    let omega = lmht_core::tgim_from_logits(lmht_core::Tgim::Full, timesteps, &logits);
    let (xs, grad_ys) = (uniform(len, CURRENTS, 3), vec![1f32; len]);
    let (mut ys, mut grad_xs, mut grad_omega) = (vec![1f32; len], vec![1f32; len], vec![0f32; timesteps * timesteps]);
    Ok(Box::new(move || {
        neuron.forward(&omega, 1.1, &xs, &mut ys);
        black_box(neuron.backward(&omega, 1.1, &xs, &grad_ys, &mut grad_xs, &mut grad_omega));
        Ok(())
    }))
}

/// Forward reads x and writes y, backward reads x and a gradient and writes a gradient.
fn copy_step(len: usize) -> Step {
    let (a, b) = (uniform(len, (-1., 1.), 1), uniform(len, (-1., 1.), 2));
    let (mut c, mut d) = (vec![1f32; len], vec![1f32; len]);
    Box::new(move || {
        c.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).for_each(|(c, a)| c.copy_from_slice(a));
        d.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK)).for_each(|((d, a), b)| {
            for ((d, a), b) in d.iter_mut().zip(a).zip(b) {
                *d = a + b;
            }
        });
        black_box((&mut c, &mut d));
        Ok(())
    })
}

/// The kernels of a convolution of numbers, as a network runs it: channels innermost, weights packed at every step.
fn conv_step(case: ConvCase) -> Result<Step> {
    let ConvCase { n, c_in, c_out, side, kernel: k, stride, pass } = case;
    let padding = k / 2;
    let out = (side + 2 * padding - k) / stride + 1;
    let shape = ConvShape { n, c_in, h: side, w: side, c_out, k, stride, padding, groups: 1, h_out: out, w_out: out };
    let numbers = |len, seed| uniform(len, (-1., 1.), seed);
    let (xs, weight, grads) = (numbers(shape.x_len(), 1), numbers(shape.weight_len(), 2), numbers(shape.y_len(), 3));
    let (mut ys, mut dxs, mut dweight) =
        (vec![0.; shape.y_len()], vec![0.; shape.x_len()], vec![0.; shape.weight_len()]);
    let runs = |one: ConvPass| pass == one || pass == ConvPass::All;
    let (forward, input, weights) =
        (runs(ConvPass::Forward), runs(ConvPass::InputGradient), runs(ConvPass::WeightGradient));
    Ok(Box::new(move || {
        if forward {
            lmht_kernels::forward(&shape, &Images::all(1, n), Maps::Numbers(&xs), &weight, &mut ys);
        }
        if input {
            lmht_kernels::grad_input(&shape, &grads, &weight, None, &mut dxs);
        }
        if weights {
            lmht_kernels::grad_weight(&shape, WeightMaps::Numbers(&xs), &grads, &mut dweight);
        }
        black_box((&mut ys, &mut dxs, &mut dweight));
        Ok(())
    }))
}

/// The mean of a layer's share over the units of all layers, and the smallest and largest of a layer.
pub(super) fn mean_rate(rates: &[Rate], of: impl Fn(&Rate) -> f64) -> [f64; 3] {
    let units: usize = rates.iter().map(|rate| rate.n_units).sum();
    let mean = rates.iter().map(|rate| of(rate) * rate.n_units as f64).sum::<f64>() / units.max(1) as f64;
    let low = rates.iter().map(&of).fold(f64::INFINITY, f64::min);
    let high = rates.iter().map(&of).fold(0., f64::max);
    [low, mean, high]
}
