//! Training runs whose schedule is made to fit the time that there is, and that go on where they were stopped.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device};
use lmht_datasets::{Augment, Loader, Preprocessor, ReadOptions};
use lmht_nn::atomic::write_file;
use lmht_nn::{Backbone, ModelConfig, Network, NeuronConfig, ParamStore, Stem, gpu};
use lmht_train::{BatchSource, Error, FirstImages, Progress, RunRecord, TrainConfig, evaluate, fit};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::setup::{Plan, Setup, Size, Skipped};
use super::speed::{self, Noted, WARM, sgd, with_precision};
use crate::data::{self, Opened};
use crate::experiment::{DataConfig, Experiment};
use crate::{provenance, stop};

/// The share of the time that is left that a schedule is made for: the rest is for what the probe did not see.
const PLANNED: f64 = 0.85;
/// Seconds that a run which was stopped takes for its last step and its checkpoint.
const LAST_STEP: f64 = 4.;
/// Test images by which the time of an evaluation is measured.
const PROBE_IMAGES: usize = 1000;

/// ResNet-18 of LM-HT neurons, L = 2, T = 2, on CIFAR-10.
pub(super) fn cifar10_lmht(setup: &Setup<'_>) -> Result<Value> {
    cifar10(setup, "cifar10-lmht", NeuronConfig::lmht(2), 2)
}

/// The same network of ReLUs.
pub(super) fn cifar10_relu(setup: &Setup<'_>) -> Result<Value> {
    cifar10(setup, "cifar10-relu", NeuronConfig::relu(), 1)
}

/// The same network of QCFS activations.
pub(super) fn cifar10_qcfs(setup: &Setup<'_>) -> Result<Value> {
    cifar10(setup, "cifar10-qcfs", NeuronConfig::qcfs(4), 1)
}

fn cifar10(setup: &Setup<'_>, name: &str, neuron: NeuronConfig, timesteps: usize) -> Result<Value> {
    let model = ModelConfig { neuron, timesteps, ..ModelConfig::resnet18(10) };
    let augment = Augment { crop_padding: 4, flip: true, ..Augment::default() };
    train(setup, name, model, setup.cifar10, "--cifar10", (32, 32), augment)
}

/// VGG-13 of LM-HT neurons, L = 2, T = 2, on Tiny-ImageNet.
pub(super) fn tiny_imagenet_vgg13(setup: &Setup<'_>) -> Result<Value> {
    let model = ModelConfig { timesteps: 2, ..ModelConfig::vgg13(200) };
    let augment = Augment { crop_padding: 8, flip: true, ..Augment::default() };
    train(setup, "tiny-imagenet-vgg13", model, setup.tiny_imagenet, "--tiny-imagenet", (64, 64), augment)
}

fn train(
    setup: &Setup<'_>,
    name: &str,
    model: ModelConfig,
    folder: Option<&Path>,
    option: &str,
    size: (usize, usize),
    augment: Augment,
) -> Result<Value> {
    let device = setup.open()?;
    let (model, batch_size, data) = if setup.is_small() {
        // The sample, by the smallest network there is.
        let model = ModelConfig {
            backbone: Backbone::Resnet18,
            stem: Stem::Imagenet,
            width: 4,
            in_channels: 1,
            n_classes: 10,
            ..model
        };
        let parquet = ReadOptions { max_per_class: Some(16), ..ReadOptions::default() };
        (model, 32, DataConfig { parquet, augment, ..DataConfig::default() })
    } else {
        let Some(path) = folder else { return Err(Skipped(format!("no data: {option} FOLDER names it")).into()) };
        let parquet = ReadOptions {
            channels: Some(3),
            size: Some(size),
            n_classes: Some(model.n_classes),
            ..ReadOptions::default()
        };
        (model, 256, DataConfig { path: path.to_path_buf(), parquet, augment, ..DataConfig::default() })
    };
    let experiment =
        |train| Experiment { published: vec![], start: None, model: model.clone(), train, data: data.clone() };
    let (precision, note) = precision(&device, batch_size);
    let config = |epochs| with_precision(sgd(batch_size, epochs, 0.1), precision);
    let opened = data::open(&experiment(config(1)?), &device)?;
    let info = opened.run_info(&data);
    let Opened { train, test, .. } = opened;
    println!("data read, {:.1} s left", setup.time_left().as_secs_f64());

    let run = setup.runs.join(name);
    let planned = setup.runs.join(format!("{name}.json"));
    let of = (setup.device.to_string(), setup.size, provenance::commit());
    let begun = std::fs::read(&planned).ok().and_then(|json| serde_json::from_slice::<Begun>(&json).ok());
    let plan = match begun {
        // A run that was begun goes on as it was planned.
        Some(begun) if begun.of == of => begun.plan,
        // One of another device or build would be taken for this one's.
        _ => {
            if run.exists() {
                std::fs::remove_dir_all(&run).with_context(|| format!("{}: cannot be removed", run.display()))?;
            }
            let plan = match setup.plan {
                Some(plan) => plan,
                None => {
                    let mut record = RunRecord::open(&run, &experiment(config(1)?), info.clone())?;
                    let plan = fitted(setup, &model, &config(1)?, (&train, &test), &device, &mut record)?;
                    drop(record);
                    std::fs::remove_dir_all(&run).with_context(|| format!("{}: cannot be removed", run.display()))?;
                    plan
                }
            };
            write_file(&planned, serde_json::to_string(&Begun { of, plan })?.as_bytes())?;
            plan
        }
    };
    let Plan { epochs, images_per_epoch } = plan;
    println!("{epochs} epochs of {images_per_epoch} images, {:.1} s left", setup.time_left().as_secs_f64());

    let experiment = experiment(config(epochs)?);
    let record = RunRecord::open(&run, &experiment, info)?.with_preprocessor(Preprocessor::of(&test)?.to_json())?;
    let requested = stop::requested()?;
    let mut record = record.stopped_by(requested.clone());
    if setup.stop_at_once {
        requested.store(true, Ordering::Relaxed);
    }
    let time = setup.time_left().saturating_sub(Duration::from_secs_f64(LAST_STEP));
    // Ends with the process.
    std::thread::spawn(move || {
        std::thread::sleep(time);
        requested.store(true, Ordering::Relaxed);
    });
    let params = ParamStore::new(experiment.train.seed);
    let network = Network::new(&model, params.builder(DType::F32, &device))?;
    let shortened = FirstImages::new(&train, images_per_epoch);
    let n_test = if setup.is_small() { 32 } else { test.data().len() };
    let tested = FirstImages::new(&test, n_test);
    let result = fit(&network, &params, &experiment.train, &shortened, &tested, Some(&mut record), Progress::Shown);
    let mut summary = json!({
        "network": model.backbone.title(), "neuron": model.neuron, "timesteps": model.timesteps, "data": data.path,
        "epochs": epochs, "images_per_epoch": images_per_epoch, "batch_size": batch_size,
        "precision": precision.unwrap_or("f32"), "note": note, "batches": train.note(),
        "without_cudnn": gpu::without_cudnn(),
        "history": lines(&run.join("metrics.jsonl")), "timing": lines(&run.join("timing.jsonl")),
    });
    match result {
        Ok(metrics) => {
            summary["finished"] = true.into();
            summary["metrics"] = serde_json::to_value(metrics)?;
        }
        Err(Error::Stopped { epoch, step, .. }) => {
            println!("stopped in epoch {epoch} after {step} steps; the same command goes on");
            summary["finished"] = false.into();
        }
        Err(error) => return Err(error.into()),
    }
    Ok(summary)
}

/// A run that was planned, and what it belongs to: device, size and commit, as results do.
#[derive(Serialize, Deserialize)]
struct Begun {
    of: (String, Size, String),
    plan: Plan,
}

/// 16 bits where the build and the device have them, and else what is missing.
fn precision(device: &Device, batch_size: usize) -> (Option<&'static str>, Option<String>) {
    let wanted = speed::precision(device);
    match with_precision(sgd(batch_size, 1, 0.1), wanted) {
        Ok(_) => (wanted, None),
        Err(error) => (None, Some(format!("{error:#}"))),
    }
}

/// Epochs that fit into the time left, by the time of some steps, a part of an evaluation and a checkpoint into `record`; or a
/// part of one epoch.
fn fitted(
    setup: &Setup<'_>,
    model: &ModelConfig,
    config: &TrainConfig,
    (train, test): (&Loader, &Loader),
    device: &Device,
    record: &mut RunRecord,
) -> Result<Plan> {
    let params = ParamStore::new(config.seed);
    let network = Network::new(model, params.builder(DType::F32, device))?;
    let n_steps = train.n_batches();
    let n = if setup.is_small() { 3 } else { WARM + 20 }.min(n_steps);
    ensure!(n > 2, "expected at least 3 batches of {} training images, got {n_steps}", config.batch_size);
    let few = FirstImages::new(train, n * config.batch_size);
    let noted = Noted::new(&few, device);
    let n_test = test.data().len();
    let n_probe = if setup.is_small() { 32 } else { PROBE_IMAGES.min(n_test) };
    let probe = FirstImages::new(test, n_probe);
    // Shown, as with a record: evaluations look at the layers of neurons in their first batches.
    fit(&network, &params, config, &noted, &probe, None, Progress::Shown)?;
    let step = noted.seconds_of_step(WARM.min(n - 2))?;
    // A step and the end of an epoch with its checkpoint, now that all kernels are compiled.
    let started = Instant::now();
    fit(&network, &params, config, &FirstImages::new(train, config.batch_size), &probe, Some(record), Progress::Shown)?;
    let end = started.elapsed().as_secs_f64() - step;
    let started = Instant::now();
    evaluate(&network, &probe, Progress::Silent, None)?;
    let plain = started.elapsed().as_secs_f64();
    let end = plain * n_test as f64 / n_probe as f64 + (end - plain).max(0.);
    let left = (setup.time_left().as_secs_f64() - LAST_STEP) * PLANNED;
    println!("{:.2} ms a step, {end:.2} s the end of an epoch, {left:.1} s to plan for", 1e3 * step);
    Ok(plan(step, end, left, n_steps, config.batch_size))
}

/// `end`: seconds of an evaluation and a checkpoint.
fn plan(step: f64, end: f64, left: f64, n_steps: usize, batch_size: usize) -> Plan {
    let epoch = step * n_steps as f64 + end;
    let epochs = (left / epoch) as usize;
    let steps = if epochs == 0 { (((left - end) / step) as usize).clamp(1, n_steps) } else { n_steps };
    Plan { epochs: epochs.max(1), images_per_epoch: steps * batch_size }
}

/// The lines of a file of JSON lines; none if there is no such file.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_fills_the_time_and_an_epoch_may_be_a_part_of_one() {
        // 100 steps of 10 ms and a second of evaluation: two seconds an epoch.
        assert_eq!(plan(0.01, 1., 20.5, 100, 8), Plan { epochs: 10, images_per_epoch: 800 });
        assert_eq!(plan(0.01, 1., 1.5, 100, 8), Plan { epochs: 1, images_per_epoch: 400 });
        assert_eq!(plan(0.01, 1., 0., 100, 8), Plan { epochs: 1, images_per_epoch: 8 });
    }
}
