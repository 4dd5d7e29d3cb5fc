//! Whether a device computes what it should: kernels, golden cases, networks against the CPU.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use lmht_gpu::emulator::Emulator;
#[cfg(any(feature = "cuda", feature = "metal"))]
use lmht_gpu::suite::Hosted;
use lmht_gpu::suite::checks;
use lmht_gpu::{HostBuffer, Machine};
use lmht_nn::{Backbone, ModelConfig, Network, NeuronConfig, ParamStore, Pass, gpu, neurons, readout};
use lmht_train::loss;
use lmht_train::optim::{OptimizerConfig, SgdConfig};
use serde_json::{Value, json};

use super::setup::{Setup, Skipped, none_failed};
use crate::device::Executor;
use crate::{golden, repository};

/// The device opens, and what it is.
pub(super) fn machine(setup: &Setup<'_>) -> Result<Value> {
    let device = setup.open()?;
    // Something runs on it.
    let sum = Tensor::ones(1000, DType::F32, &device)?.sum_all()?.to_scalar::<f32>()?;
    ensure!(sum == 1000., "the sum of 1000 ones is {sum}");
    let gpu = setup.device.gpu().map(|gpu| query(gpu, "name,driver_version,memory.total,clocks.max.sm")).transpose()?;
    Ok(json!({ "cpu": crate::provenance::machine(), "gpu": gpu, "device": format!("{:?}", device.location()) }))
}

/// What nvidia-smi says of a GPU.
fn query(gpu: usize, fields: &str) -> Result<String> {
    let arguments =
        ["--format=csv,noheader", &format!("--query-gpu={fields}"), "-i", &gpu.to_string()].map(String::from);
    let Ok(output) = std::process::Command::new("nvidia-smi").args(&arguments).output() else {
        return Ok("nvidia-smi is not there".to_string());
    };
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}

/// Every operation of the suite.
pub(super) fn suite(setup: &Setup<'_>) -> Result<Value> {
    match setup.open()? {
        Device::Cpu => {
            Emulator::compiler().context("the emulator needs a C++ compiler: install g++ or clang++, or set CXX")?;
            run_suite(&Emulator::new(repository::root()?.join("target/emulated-kernels")), true, setup.is_small())
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => run_suite(&Hosted(lmht_nn::gpu::Cuda::new(&device)?), true, false),
        #[cfg(feature = "metal")]
        Device::Metal(device) => run_suite(&Hosted(lmht_nn::gpu::Metal::new(&device)), false, false),
        #[allow(unreachable_patterns)]
        other => anyhow::bail!("no kernels for {:?} in this build", other.location()),
    }
}

fn run_suite<M: Machine<Buffer = HostBuffer>>(machine: &M, has_f64: bool, is_small: bool) -> Result<Value> {
    let (mut failures, mut passed) = (Vec::new(), 0);
    for check in
        checks().into_iter().filter(|check| (has_f64 || !check.float64) && (!is_small || check.operation == "qcfs"))
    {
        let name = format!("{}, {}", check.operation, if check.float64 { "f64" } else { "f32 and 16-bit types" });
        match (check.run)(machine) {
            Ok(()) => {
                println!("{name}: passed");
                passed += 1;
            }
            Err(message) => {
                println!("{name}: FAILED: {message}");
                failures.push(format!("{name}: {message}"));
            }
        }
    }
    none_failed(&failures)?;
    Ok(json!({ "checks": passed }))
}

/// The golden cases, in float64.
pub(super) fn golden_cases(setup: &Setup<'_>) -> Result<Value> {
    let device = setup.open()?;
    if device.is_metal() {
        return Err(Skipped("golden cases are of float64, which Metal has not".into()).into());
    }
    let mut files = golden::files(&[repository::root()?.join("xtask/testdata/golden")])?;
    if setup.is_small() {
        files.retain(|file| file.file_stem().is_some_and(|name| name == "neuron_lmht_L2_T3" || name == "qcfs_Q6"));
    }
    let executor = Executor::of_kernels(device);
    // One after the other, so that one that cannot run at all does not hide the others.
    let one = |file: &Path| executor.run(|| golden::check(&[file.to_path_buf()], 1e-9, executor.device()));
    let failures: Vec<String> =
        files.iter().filter_map(|file| one(file).err()).map(|error| format!("{error:#}")).collect();
    failures.iter().for_each(|failure| println!("FAILED: {failure}"));
    none_failed(&failures)?;
    Ok(json!({ "cases": files.len(), "tolerance": 1e-9 }))
}

/// Largest relative error of a float64 network on the device against the CPU.
const TOLERANCE: f64 = 1e-9;

/// Small networks of every kind of layer and neuron.
fn every_network() -> Vec<ModelConfig> {
    let resnet18 = ModelConfig::resnet18(10);
    let of = |backbone, neuron, config: &ModelConfig| ModelConfig { backbone, neuron, ..config.clone() };
    let mut configs = vec![
        of(Backbone::Resnet18, NeuronConfig::lmht(2), &resnet18),
        of(Backbone::Vgg13, neurons::Ilif::default().into(), &resnet18),
        of(Backbone::MsResnet18, NeuronConfig::mht(3), &resnet18),
        of(Backbone::Resnet19, neurons::Ternary { v_threshold: 0.3, ..Default::default() }.into(), &resnet18),
        of(Backbone::Resnet34, NeuronConfig::integrate_and_fire(), &resnet18),
        of(Backbone::Resnet20, NeuronConfig::qcfs(4), &ModelConfig { timesteps: 1, ..resnet18.clone() }),
        of(Backbone::Resnet20, NeuronConfig::relu(), &ModelConfig { timesteps: 1, ..resnet18.clone() }),
        ModelConfig { width: 24, depth: Some(1), heads: Some(2), ..ModelConfig::spikformer(10) },
    ];
    for config in &mut configs {
        config.width = if config.backbone == Backbone::Spikformer { 24 } else { 8 };
    }
    configs
}

/// Networks of every kind of layer and neuron: logits, gradients, statistics and parameters after two updates.
pub(super) fn networks(setup: &Setup<'_>) -> Result<Value> {
    let device = setup.open()?;
    let executor = Executor::of_kernels(device.clone());
    let mut configs = every_network();
    if setup.is_small() {
        configs = vec![ModelConfig { width: 2, ..configs[1].clone() }];
    }
    let side = if setup.is_small() { 16 } else { 32 };
    let (mut failures, mut largest, mut rows) = (Vec::new(), None::<f64>, Vec::new());
    for config in &configs {
        let name = format!("{} of {}", config.backbone.title(), serde_json::to_string(&config.neuron)?);
        // What float32 does to spikes and so to logits is told and not judged, but for what is no number.
        for (dtype, tolerance) in [(DType::F64, TOLERANCE), (DType::F32, f64::MAX)] {
            if dtype == DType::F64 && device.is_metal() {
                continue;
            }
            let expected = outcome(config, side, dtype, &Executor::on(Device::Cpu))?;
            let error = executor
                .run(|| outcome(config, side, dtype, &executor))
                .and_then(|got| difference(&got, &expected, tolerance))
                .with_context(|| format!("{name}, {dtype:?}"));
            match error {
                Ok(error) => {
                    println!("{name}, {dtype:?}: largest relative error {error:.1e}");
                    if dtype == DType::F64 {
                        largest = Some(largest.map_or(error, |largest| largest.max(error)));
                    }
                    rows.push(json!({ "network": name, "dtype": format!("{dtype:?}"), "error": error }));
                }
                Err(error) => {
                    println!("FAILED: {error:#}");
                    failures.push(format!("{error:#}"));
                }
            }
        }
    }
    none_failed(&failures)?;
    Ok(json!({ "networks": rows, "largest_f64_error": largest, "without_cudnn": gpu::without_cudnn() }))
}

/// A training pass, two updates and an evaluation.
fn outcome(config: &ModelConfig, side: usize, dtype: DType, executor: &Executor) -> Result<Vec<(String, Vec<f64>)>> {
    let device = executor.device();
    // The same weights wherever they are to be.
    let made = ParamStore::new(42);
    Network::new(config, made.builder(dtype, &Device::Cpu))?;
    let params = ParamStore::new(42);
    let network = Network::new(config, params.builder(dtype, device))?;
    for ((_, to), (_, from)) in params.all().iter().zip(made.all()) {
        to.set(&from.to_device(device)?)?;
    }
    let len = 2 * config.in_channels * side * side;
    let pixels: Vec<f64> = (0..len).map(|i| ((i * 7919 % 1009) as f64 / 1009. - 0.5) * 3.).collect();
    let images = Tensor::from_vec(pixels, (2, config.in_channels, side, side), &Device::Cpu)?;
    let images = images.to_dtype(dtype)?.to_device(device)?;
    let labels = Tensor::new(&[0u32, 3], device)?;
    let sgd = SgdConfig { lr: 0.01, momentum: 0.9, nesterov: true, weight_decay: 5e-4 };
    let mut optimizer = OptimizerConfig::Sgd(sgd).build(params.trainable())?;
    let mut all = Vec::new();
    for update in 0..2 {
        let logits = network.forward(&images, &mut Pass::train())?;
        let loss = loss::cross_entropy(&readout(&logits)?, &labels, 0.)?;
        let grads = loss.backward()?;
        if update == 0 {
            all.push(("logits".to_string(), values(&logits)?));
            for (name, var) in params.all() {
                if let Some(grad) = grads.get(&var) {
                    all.push((format!("gradient of {name}"), values(grad)?));
                }
            }
        }
        optimizer.step(&grads)?;
    }
    for (name, var) in params.all() {
        all.push((format!("{name} after two updates"), values(&var)?));
    }
    let logits = network.forward(&images, &mut Pass::eval())?;
    all.push(("logits of an evaluation".to_string(), values(&logits)?));
    Ok(all)
}

fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor
        .to_dtype(DType::F64)
        .or_else(|_| tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64))?
        .flatten_all()?
        .to_vec1()?)
}

/// The largest difference of a quantity over its largest magnitude; gradients count from a share of the largest of all on.
fn difference(got: &[(String, Vec<f64>)], expected: &[(String, Vec<f64>)], tolerance: f64) -> Result<f64> {
    ensure!(got.len() == expected.len(), "expected {} quantities, got {}", expected.len(), got.len());
    let magnitude = |values: &[f64]| values.iter().fold(0f64, |largest, value| largest.max(value.abs()));
    let gradients = expected.iter().filter(|(name, _)| name.starts_with("gradient"));
    let floor = 1e-4 * gradients.map(|(_, values)| magnitude(values)).fold(0., f64::max);
    let mut largest = 0f64;
    for ((name, got), (other, expected)) in got.iter().zip(expected) {
        ensure!(name == other && got.len() == expected.len(), "expected {other}, got {name}");
        ensure!(got.iter().all(|value| value.is_finite()), "{name}: a value is not finite");
        let off = got.iter().zip(expected).map(|(got, expected)| (got - expected).abs()).fold(0., f64::max);
        let error = off / magnitude(expected).max(if name.starts_with("gradient") { floor } else { 1e-6 });
        ensure!(error <= tolerance, "{name}: relative error {error:.1e}, expected at most {tolerance:.0e}");
        largest = largest.max(error);
    }
    Ok(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Here, so that no mistake of ours is found on a machine that is lent for minutes.
    #[test]
    fn every_network_runs_on_the_cpu_and_fires() {
        for config in every_network() {
            let got = outcome(&config, 32, DType::F32, &Executor::on(Device::Cpu)).unwrap();
            assert!(difference(&got, &got, 0.).unwrap() == 0., "{:?}", config.backbone);
            let gradients = got
                .iter()
                .filter(|(name, values)| name.starts_with("gradient") && values.iter().any(|value| *value != 0.));
            assert!(gradients.count() > 5, "{:?}: it does not learn", config.backbone);
        }
    }

    #[test]
    fn a_difference_is_found_and_rounding_of_a_gradient_of_nothing_is_not() {
        let of = |weight: f64, bias: f64| {
            vec![("gradient of weight".to_string(), vec![weight, -2.]), ("gradient of bias".to_string(), vec![bias])]
        };
        assert!(difference(&of(1., 1e-17), &of(1., -1e-17), 1e-9).unwrap() < 1e-9);
        let error = difference(&of(1. + 1e-8, 0.), &of(1., 0.), 1e-9).unwrap_err().to_string();
        assert!(error.contains("gradient of weight"), "{error}");
        let error = difference(&of(f64::NAN, 0.), &of(1., 0.), f64::MAX).unwrap_err().to_string();
        assert!(error.contains("not finite"), "{error}");
    }
}
