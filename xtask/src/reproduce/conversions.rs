//! Tables 2 and 4: what conversions make of the networks that were trained.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use lmht_bench::CostCounter;
use lmht_convert::{HybridStart, Model, qcfs_to_if, qcfs_to_lmht, qcfs_to_srp, reparameterize};
use lmht_nn::atomic::write_file;
use lmht_nn::neurons;
use lmht_nn::{ModelCard, ModelConfig, NeuronConfig, QcfsGate, Schedule, save_pretrained};
use lmht_train::optim::OptimizerConfig;
use lmht_train::{FirstImages, Progress, evaluate};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::plan::Preset;
use super::runs::{Outcome, Run, read_json};
use crate::convert::networks::{Shown, compare, read, rmp};
use crate::data;
use crate::experiment::Experiment;
use crate::published;

/// Table 2, one schedule of one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reparameterized {
    /// The network as the paper names it.
    pub(crate) arch: String,
    /// `front_loaded` or `uniform`.
    pub(crate) schedule: Schedule,
    /// Test images.
    pub(crate) n_images: u64,
    /// Top-1 before, %.
    pub(crate) top1_before: f64,
    /// Top-1 after, %.
    pub(crate) top1_after: f64,
    /// Images put into another class.
    pub(crate) class_differs: u64,
    /// Spike counts compared: units times windows times images, in all layers.
    pub(crate) n_counts: u64,
    /// Counts that differ.
    pub(crate) differing: u64,
    /// SOPs an image before, 10^6.
    pub(crate) sops_before_m: f64,
    /// SOPs an image after, 10^6.
    pub(crate) sops_after_m: f64,
    /// The run it was made of.
    pub(crate) run: PathBuf,
}

/// Table 4, a conversion without training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Inference {
    /// The method as the paper names it.
    pub(crate) method: String,
    /// Timesteps as the table counts them, those of a first stage included.
    pub(crate) timesteps: usize,
    /// Top-1, %.
    pub(crate) top1: f64,
    /// The ANN's run.
    pub(crate) run: PathBuf,
}

/// Table 4, everything that was run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Table4 {
    /// The QCFS network.
    pub(crate) qcfs: Outcome,
    /// The ReLU network.
    pub(crate) relu: Outcome,
    /// Conversions without training.
    pub(crate) inference: Vec<Inference>,
    /// Fine-tuned networks.
    pub(crate) hybrid: Vec<Hybrid>,
    /// What was trained first.
    pub(crate) ann: Experiment,
    /// Epochs of fine-tuning.
    pub(crate) fine_tuning_epochs: usize,
}

/// Table 4, a network after hybrid training.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Hybrid {
    /// L.
    pub(crate) levels: u32,
    /// T.
    pub(crate) timesteps: usize,
    /// Top-1 of the start, before fine-tuning, %.
    pub(crate) top1_start: f64,
    /// The fine-tuning.
    pub(crate) outcome: Outcome,
}

/// Q of the QCFS network.
pub(crate) const QUANT_LEVELS: u32 = 4;

/// L and T of the fine-tuned networks: those of the table.
const HYBRIDS: [(u32, usize); 3] = [(2, 2), (2, 4), (4, 2)];

/// τ of SRP in the table.
const TAU: usize = 4;

/// The seed of everything here.
const SEED: u64 = 42;

/// The ANNs that Table 4 starts from: QCFS, ReLU.
pub(crate) fn ann_runs(preset: Preset, out: &Path) -> [Run; 2] {
    let run = |name: &str, neuron| {
        let experiment = ann(preset, neuron);
        Run::of(&format!("table4-resnet20-{name}"), &format!("Table 4, ResNet-20, {name}"), &experiment, SEED, out)
    };
    [run("qcfs-q4", qcfs()), run("relu", NeuronConfig::relu())]
}

/// The published scale starts at 8, for 300 epochs; a run of a few starts where the currents are.
fn qcfs() -> NeuronConfig {
    NeuronConfig::Qcfs(neurons::Qcfs { quant_levels: QUANT_LEVELS, scale: 2., gate: QcfsGate::default() })
}

fn ann(preset: Preset, neuron: NeuronConfig) -> Experiment {
    let model = ModelConfig { neuron, timesteps: 1, ..ModelConfig::resnet20(10) };
    let mut experiment = super::plan::stand_in(preset, model);
    experiment.model.width = preset.hybrid_width();
    // A quarter of the pixels: ten minutes are for all tables together.
    experiment.data.parquet.resize = Some((14, 14));
    experiment
}

/// The fine-tuning runs, after writing what they start from.
pub(crate) fn hybrid_runs(preset: Preset, qcfs: &Run, out: &Path) -> Result<Vec<Run>> {
    let model = read(&qcfs.folder.join("model"))?;
    let mut runs = Vec::new();
    for (levels, timesteps) in HYBRIDS {
        let start = out.join(format!("table4-start-l{levels}t{timesteps}"));
        let spiking = qcfs_to_lmht(&model, levels, timesteps, HybridStart::Exact)?;
        let (_, params) = spiking.build(DType::F32, &Device::Cpu)?;
        save_pretrained(&start, &spiking.config, &params, &ModelCard::default())?;
        let mut experiment = ann(preset, spiking.config.neuron.clone());
        experiment.model = spiking.config;
        experiment.start = Some(start);
        experiment.train.epochs = preset.fine_tuning_epochs();
        if let OptimizerConfig::Sgd(sgd) = &mut experiment.train.optimizer {
            // Higher than published, for a budget that is a small part of the published one.
            sgd.lr = 5e-3;
        }
        let name = format!("table4-resnet20-l{levels}t{timesteps}");
        let title = format!("Table 4, ResNet-20, hybrid L = {levels}, T = {timesteps}");
        runs.push(Run::of(&name, &title, &experiment, SEED, out));
    }
    Ok(runs)
}

/// Evaluates the conversions of Table 4, or reads what was recorded.
pub(crate) fn table4(preset: Preset, [qcfs, relu]: &[Run; 2], hybrids: &[Run], progress: Progress) -> Result<Table4> {
    let experiment = &qcfs.experiment;
    let model = read(&qcfs.folder.join("model"))?;
    let inference = recorded(&qcfs.folder.join("conversions.json"), || {
        let relu_model = read(&relu.folder.join("model"))?;
        let images = Shown { data: &relu.experiment.data, preprocessor: None, n_images: 500, device: &Device::Cpu };
        let mut converted = Vec::new();
        let [of_rmp, srp, qcfs_if] = preset.inference_timesteps();
        for &timesteps in of_rmp {
            converted.push(("RMP", timesteps, rmp(&relu_model, images, timesteps, 100.)?, relu));
        }
        for &timesteps in srp {
            converted.push(("SRP", TAU + timesteps, qcfs_to_srp(&model, TAU, timesteps)?, qcfs));
        }
        for &timesteps in qcfs_if {
            converted.push(("QCFS", timesteps, qcfs_to_if(&model, timesteps)?, qcfs));
        }
        let mut inference = Vec::new();
        for (method, timesteps, model, run) in converted {
            let top1 =
                top1(preset, &model, experiment, progress).with_context(|| format!("{method}, T = {timesteps}"))?;
            inference.push(Inference { method: method.into(), timesteps, top1, run: run.folder.clone() });
        }
        Ok(inference)
    })?;
    let mut rows = Vec::new();
    for (run, (levels, timesteps)) in hybrids.iter().zip(HYBRIDS) {
        let start = run.experiment.start.as_deref().context("a fine-tuning run has a start")?;
        let top1_start =
            recorded(&run.folder.join("start.json"), || top1(preset, &read(start)?, experiment, progress))?;
        rows.push(Hybrid { levels, timesteps, top1_start, outcome: run.outcome()? });
    }
    Ok(Table4 {
        qcfs: qcfs.outcome()?,
        relu: relu.outcome()?,
        inference,
        hybrid: rows,
        ann: experiment.clone(),
        fine_tuning_epochs: preset.fine_tuning_epochs(),
    })
}

/// Top-1 on the test images, %.
fn top1(preset: Preset, model: &Model, experiment: &Experiment, progress: Progress) -> Result<f64> {
    let (network, _) = model.build(DType::F32, &Device::Cpu)?;
    let test = data::open_test_of_training(&experiment.data, &model.config, &Device::Cpu)?;
    let shown = FirstImages::new(&test, preset.compared_images().unwrap_or(test.data().len()));
    Ok(100. * evaluate(&network, &shown, progress, None)?.top1)
}

/// Both schedules of Table 2 for a trained network, or what was recorded.
pub(crate) fn table2(preset: Preset, arch: &str, run: &Run, progress: Progress) -> Result<Vec<Reparameterized>> {
    recorded(&run.folder.join("reparameterized.json"), || {
        let model = read(&run.folder.join("model"))?;
        let test = data::open_test_of_training(&run.experiment.data, &model.config, &Device::Cpu)?;
        let shown = FirstImages::new(&test, preset.compared_images().unwrap_or(test.data().len()));
        let sops_m = |model: &Model| -> Result<f64> {
            let (network, _) = model.build(DType::F32, &Device::Cpu)?;
            let mut counter = CostCounter::new();
            let evaluation = evaluate(&network, &shown, progress, Some(&mut counter))?;
            Ok(counter.report(evaluation.n_images).sops() / 1e6)
        };
        let sops_before_m = sops_m(&model)?;
        let mut rows = Vec::new();
        for schedule in [Schedule::Uniform, Schedule::FrontLoaded] {
            let single = reparameterize(&model, schedule)?;
            let comparison = compare(&model, &single, &test, preset.compared_images(), &Device::Cpu)?;
            let percent = |correct: u64| 100. * correct as f64 / comparison.n_images as f64;
            rows.push(Reparameterized {
                arch: arch.to_string(),
                schedule,
                n_images: comparison.n_images,
                top1_before: percent(comparison.correct_before),
                top1_after: percent(comparison.correct_after),
                class_differs: comparison.class_differs,
                n_counts: comparison.layers.iter().map(|layer| layer.n_counts).sum(),
                differing: comparison.differing(),
                sops_before_m,
                sops_after_m: sops_m(&single)?,
                run: run.folder.clone(),
            });
        }
        Ok(rows)
    })
}

/// The published accuracy of a row, for people.
pub(crate) fn published_acc(wanted: impl Fn(&published::Row) -> bool) -> Result<String> {
    let rows = published::rows()?;
    Ok(rows.iter().find(|row| wanted(row)).map_or("-".to_string(), |row| format!("{:.2}", row.acc)))
}

/// What a file recorded, or what `measure` gives, which is then recorded.
fn recorded<T: Serialize + DeserializeOwned>(path: &Path, measure: impl FnOnce() -> Result<T>) -> Result<T> {
    if path.try_exists().with_context(|| path.display().to_string())? {
        return read_json(path);
    }
    let value = measure()?;
    write_file(path, (serde_json::to_string_pretty(&value)? + "\n").as_bytes())?;
    Ok(value)
}
