//! How fast a device is: the neuron against a copy, the training step.

use std::cell::RefCell;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use lmht_core::LmhtConfig;
use lmht_gpu::emulator::Emulator;
#[cfg(any(feature = "cuda", feature = "metal"))]
use lmht_gpu::suite::Device as _;
use lmht_gpu::{Dtype, HostBuffer, Machine, plans};
use lmht_nn::{ModelConfig, Network, ParamStore, gpu};
use lmht_train::{Batch, BatchSource, Batches, Progress, TrainConfig, fit};
use serde_json::{Value, json};

use super::setup::{Setup, Skipped, none_failed};
use crate::repository;

/// Measurements of which the median is taken.
const ROUNDS: usize = 7;

/// The neuron's forward and backward kernels beside the device's copy, by the bytes that they have to move.
pub(super) fn neuron(setup: &Setup<'_>) -> Result<Value> {
    let device = setup.open()?;
    let (shape, repeats) = if setup.is_small() { ([2, 2, 4, 8, 8], 1) } else { ([4, 128, 64, 32, 32], 20) };
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for (dtype, name) in [(DType::F32, Dtype::F32), (DType::BF16, Dtype::Bf16)] {
        let times = neuron_times(&device, shape, name, repeats)
            .and_then(|times| Ok((times, copy_rate(&device, shape.iter().product(), dtype, repeats)?)));
        let (times, copy) = match times {
            Ok(measured) => measured,
            Err(error) => {
                failures.push(format!("{name}: {error:#}"));
                continue;
            }
        };
        let bytes = (shape.iter().product::<usize>() * name.size()) as f64;
        // Forward reads the current and writes spikes; backward reads current and gradient and writes a gradient.
        let rates = [2. * bytes / times[0], 3. * bytes / times[1]];
        println!("{name}: copy {:.1} GB/s, forward {:.1}, backward {:.1}", copy / 1e9, rates[0] / 1e9, rates[1] / 1e9);
        rows.push(json!({
            "dtype": name.to_string(), "copy_gb_s": copy / 1e9,
            "forward_ms": 1e3 * times[0], "forward_gb_s": rates[0] / 1e9, "forward_of_copy": rates[0] / copy,
            "backward_ms": 1e3 * times[1], "backward_gb_s": rates[1] / 1e9, "backward_of_copy": rates[1] / copy,
        }));
    }
    none_failed(&failures)?;
    Ok(json!({ "shape": shape, "rows": rows }))
}

/// Seconds of a forward and of a backward kernel.
fn neuron_times(device: &Device, shape: [usize; 5], dtype: Dtype, repeats: usize) -> Result<[f64; 2]> {
    match device {
        Device::Cpu => {
            Emulator::compiler().context("the emulator needs a C++ compiler: install g++ or clang++, or set CXX")?;
            let machine = Emulator::new(repository::root()?.join("target/emulated-kernels"));
            kernel_times(&machine, &|buffer| Ok(buffer), device, shape, dtype, repeats)
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            let machine = lmht_nn::gpu::Cuda::new(cuda)?;
            kernel_times(&machine, &|buffer| Ok(machine.upload(&buffer)?), device, shape, dtype, repeats)
        }
        #[cfg(feature = "metal")]
        Device::Metal(metal) => {
            let machine = lmht_nn::gpu::Metal::new(metal);
            kernel_times(&machine, &|buffer| Ok(machine.upload(&buffer)?), device, shape, dtype, repeats)
        }
        #[allow(unreachable_patterns)]
        other => bail!("no kernels for {:?} in this build", other.location()),
    }
}

fn kernel_times<M: Machine>(
    machine: &M,
    upload: &dyn Fn(HostBuffer) -> Result<M::Buffer>,
    device: &Device,
    shape: [usize; 5],
    dtype: Dtype,
    repeats: usize,
) -> Result<[f64; 2]> {
    let neuron = LmhtConfig::lmht(2, shape[0]).check()?;
    // Currents that cross no, one and two thresholds about equally often.
    let numbers = |scale: f64, offset: f64| -> Vec<f64> {
        (0..shape.iter().product::<usize>()).map(|i| (i * 7919 % 1009) as f64 / 1009. * scale + offset).collect()
    };
    let xs = upload(HostBuffer::new(dtype, &numbers(4., -1.)))?;
    let grads = upload(HostBuffer::new(dtype, &numbers(1., -0.5)))?;
    let mut learned = vec![1. / shape[0] as f64; shape[0] * shape[0]];
    learned.push(1.);
    let learned = upload(HostBuffer::new(dtype.real(), &learned))?;
    let forward = || plans::neuron::forward(machine, &neuron, &xs, &learned).map(drop);
    let backward = || plans::neuron::backward(machine, &neuron, &xs, &learned, &grads).map(drop);
    Ok([
        seconds(device, repeats, &|| forward().map_err(Into::into))?,
        seconds(device, repeats, &|| backward().map_err(Into::into))?,
    ])
}

/// Bytes read and written in a second by a copy within the device.
fn copy_rate(device: &Device, len: usize, dtype: DType, repeats: usize) -> Result<f64> {
    let xs = Tensor::zeros(len, dtype, device)?;
    let bytes = 2. * (len * dtype.size_in_bytes()) as f64;
    Ok(bytes / seconds(device, repeats, &|| xs.copy().map(drop).map_err(Into::into))?)
}

/// The median time of a call, several in a row on a device that was idle, after some that do not count.
fn seconds(device: &Device, repeats: usize, call: &dyn Fn() -> Result<()>) -> Result<f64> {
    let run = || {
        device.synchronize()?;
        let started = Instant::now();
        for _ in 0..repeats {
            call()?;
        }
        device.synchronize()?;
        Ok(started.elapsed().as_secs_f64() / repeats as f64)
    };
    run()?;
    let mut times = (0..ROUNDS).map(|_| run()).collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[ROUNDS / 2])
}

/// Steps that do not count: kernels are compiled, memory is found.
pub(super) const WARM: usize = 5;

/// Another source, each of whose batches is noted when it is asked for, everything before having run.
pub(super) struct Noted<'a> {
    pub(super) source: &'a dyn BatchSource,
    pub(super) device: &'a Device,
    times: RefCell<Vec<Instant>>,
}

impl<'a> Noted<'a> {
    pub(super) fn new(source: &'a dyn BatchSource, device: &'a Device) -> Self {
        Self { source, device, times: RefCell::default() }
    }

    /// Seconds of a step, those after the first `warm` ones.
    pub(super) fn seconds_of_step(&self, warm: usize) -> Result<f64> {
        let times = self.times.borrow();
        let (Some(first), Some(last)) = (times.get(warm), times.last()) else { bail!("too few steps to time") };
        let steps = times.len() - 1 - warm;
        anyhow::ensure!(steps > 0, "too few steps to time");
        Ok((*last - *first).as_secs_f64() / steps as f64)
    }
}

impl BatchSource for Noted<'_> {
    fn n_batches(&self) -> usize {
        self.source.n_batches()
    }

    fn batches(&self, epoch: usize, first: usize) -> lmht_train::Result<Batches<'_>> {
        let n = self.n_batches() - first;
        // A GPU is behind its program by some steps: it has to be caught up with where time is read, and only there.
        Ok(Box::new(self.source.batches(epoch, first)?.enumerate().map(move |(i, batch)| {
            if i == WARM.min(n.saturating_sub(2)) || i == n - 1 {
                self.device.synchronize()?;
            }
            self.times.borrow_mut().push(Instant::now());
            batch
        })))
    }
}

/// One batch, again and again.
struct Same {
    batch: Batch,
    n: usize,
}

impl BatchSource for Same {
    fn n_batches(&self) -> usize {
        self.n
    }

    fn batches(&self, _: usize, first: usize) -> lmht_train::Result<Batches<'_>> {
        Ok(Box::new((first..self.n).map(|_| Ok(self.batch.clone()))))
    }
}

/// A training configuration in the precision asked for, or why this build has none.
pub(super) fn with_precision(mut config: Value, precision: Option<&str>) -> Result<TrainConfig> {
    if let Some(precision) = precision {
        config["precision"] = precision.into();
    }
    serde_json::from_value(config).map_err(|error| match precision {
        Some(precision) if error.to_string().contains("precision") => {
            Skipped(format!("this build cannot train in {precision}: its configuration has no such `precision`")).into()
        }
        _ => error.into(),
    })
}

/// The precision to train in: 16 bits on a GPU.
pub(super) fn precision(device: &Device) -> Option<&'static str> {
    (!device.is_cpu()).then_some("bf16")
}

pub(super) fn sgd(batch_size: usize, epochs: usize, lr: f64) -> Value {
    json!({
        "epochs": epochs, "batch_size": batch_size, "seed": 42,
        "optimizer": { "kind": "sgd", "lr": lr, "momentum": 0.9, "nesterov": true, "weight_decay": 5e-4 },
        "schedule": { "decay": { "kind": "cosine" }, "update_every": "step" },
    })
}

/// The training step of ResNet-18 as `fit` makes it, on a batch that is on the device; on a GPU in bf16.
pub(super) fn step(setup: &Setup<'_>) -> Result<Value> {
    let device = setup.open()?;
    step_in(setup, &device, precision(&device))
}

/// The same in float32.
pub(super) fn step_f32(setup: &Setup<'_>) -> Result<Value> {
    step_in(setup, &setup.open()?, None)
}

fn step_in(setup: &Setup<'_>, device: &Device, precision: Option<&str>) -> Result<Value> {
    let (width, batch, side, n) = if setup.is_small() { (4, 4, 8, 3) } else { (64, 256, 32, WARM + 61) };
    let config = ModelConfig { width, ..ModelConfig::resnet18(10) };
    let train = with_precision(sgd(batch, 1, 1e-4), precision)?;
    let seconds = step_seconds(&config, device, &train, (batch, side, n))?;
    Ok(json!({
        "network": "ResNet-18, LM-HT, L = 2, T = 2", "width": width, "batch": batch, "side": side,
        "precision": precision.unwrap_or("f32"), "step_ms": 1e3 * seconds, "images_per_second": batch as f64 / seconds,
        "without_cudnn": gpu::without_cudnn(),
    }))
}

fn step_seconds(
    config: &ModelConfig,
    device: &Device,
    train: &TrainConfig,
    (batch, side, n): (usize, usize, usize),
) -> Result<f64> {
    let params = ParamStore::new(42);
    let network = Network::new(config, params.builder(DType::F32, device))?;
    let images = Tensor::rand(-1f32, 1f32, (batch, config.in_channels, side, side), &Device::Cpu)?.to_device(device)?;
    let labels =
        Tensor::from_iter((0..batch).map(|i| (i % config.n_classes) as u32), &Device::Cpu)?.to_device(device)?;
    let same = Same { batch: Batch::with_labels(images, labels), n };
    let noted = Noted::new(&same, device);
    let test = Same { batch: same.batch.clone(), n: 1 };
    fit(&network, &params, train, &noted, &test, None, Progress::Silent)?;
    noted.seconds_of_step(WARM.min(n - 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_precision_that_is_not_there_is_said() {
        assert!(with_precision(sgd(8, 1, 0.1), None).is_ok());
        let error = with_precision(sgd(8, 1, 0.1), Some("f8")).unwrap_err().to_string();
        assert!(error.contains("f8"), "{error}");
        let error = with_precision(json!({ "epochs": "three" }), None).unwrap_err().to_string();
        assert!(!error.contains("precision"), "{error}");
    }
}
