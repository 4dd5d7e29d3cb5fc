//! The folder of a run: stopping, going on, extending, damage.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device, Tensor};
use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore, Pretrained, checkpoints, from_pretrained};
use lmht_train::optim::{OptimizerConfig, SgdConfig};
use lmht_train::schedule::{Decay, ScheduleConfig};
use lmht_train::{
    Batch, BatchSource, Batches, Error, Metrics, Progress, Result, RunInfo, RunRecord, TensorSource, TrainConfig, fit,
};
use serde::Serialize;

/// As commands record it.
#[derive(Serialize)]
struct Experiment {
    model: ModelConfig,
    train: TrainConfig,
}

fn experiment(epochs: usize) -> Experiment {
    let train = TrainConfig {
        epochs,
        batch_size: 4,
        seed: 1,
        optimizer: OptimizerConfig::Sgd(SgdConfig { lr: 0.05, ..SgdConfig::default() }),
        schedule: ScheduleConfig { decay: Decay::Constant {}, ..ScheduleConfig::default() },
        checkpoint_every_steps: Some(2),
        ..TrainConfig::default()
    };
    Experiment { model: ModelConfig { width: 4, in_channels: 1, ..ModelConfig::resnet20(2) }, train }
}

fn images(n: usize) -> TensorSource {
    let values: Vec<f32> = crate::numbers(7, n * 64).into_iter().map(|x| x as f32).collect();
    let images = Tensor::from_vec(values, (n, 1, 8, 8), &Device::Cpu).unwrap();
    let labels = Tensor::from_vec((0..n as u32).map(|i| i % 2).collect::<Vec<_>>(), n, &Device::Cpu).unwrap();
    TensorSource::test(images, labels, 4).unwrap()
}

/// Sets a flag when it is asked for a batch: its number, counted over a run.
struct Stops {
    images: TensorSource,
    at: usize,
    given: AtomicBool,
    stop: Arc<AtomicBool>,
}

impl BatchSource for Stops {
    fn n_batches(&self) -> usize {
        self.images.n_batches()
    }
    fn batches(&self, epoch: usize, first: usize) -> Result<Batches<'_>> {
        let n = self.n_batches();
        let count = move |batch: (usize, Result<Batch>)| {
            if epoch * n + first + batch.0 == self.at {
                self.given.store(true, Ordering::Relaxed);
                self.stop.store(true, Ordering::Relaxed);
            }
            batch.1
        };
        Ok(Box::new(self.images.batches(epoch, first)?.enumerate().map(count)))
    }
}

fn info() -> RunInfo {
    RunInfo {
        command: "test".into(),
        commit: "none".into(),
        machine: "any".into(),
        data: "made up".into(),
        ..RunInfo::default()
    }
}

/// Trains in a folder; `stop_at` is the batch at which the run is asked to stop.
fn train(experiment: &Experiment, folder: &Path, stop_at: Option<usize>) -> Result<Metrics> {
    let params = ParamStore::new(experiment.train.seed);
    let network = Network::new(&experiment.model, params.builder(DType::F32, &Device::Cpu))?;
    let stop = Arc::new(AtomicBool::new(false));
    let (at, given) = (stop_at.unwrap_or(usize::MAX), AtomicBool::new(false));
    let source = Stops { images: images(16), at, given, stop: Arc::clone(&stop) };
    let mut record = RunRecord::open(folder, experiment, info())?.stopped_by(stop);
    fit(&network, &params, &experiment.train, &source, &images(8), Some(&mut record), Progress::Silent)
}

/// Everything in a run that must be the same for the same run.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut all, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let below = path.strip_prefix(folder).unwrap().to_path_buf();
            match () {
                () if ["run.json", "timing.jsonl", "tensorboard"].iter().any(|name| below == Path::new(name)) => {}
                () if path.is_dir() => folders.push(path),
                () => all.push((below, std::fs::read(&path).unwrap())),
            }
        }
    }
    all.sort();
    all
}

#[track_caller]
pub(crate) fn assert_same(a: &Path, b: &Path, what: &str) {
    let (a, b) = (files(a), files(b));
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&a), names(&b), "{what}");
    for ((name, a), (_, b)) in a.iter().zip(&b) {
        assert!(a == b, "{what}: {} differs", name.display());
    }
}

#[test]
fn a_run_that_is_asked_to_stop_ends_later_with_the_same_bytes() -> Result<()> {
    let parent = tempfile::tempdir().unwrap();
    let whole = parent.path().join("whole");
    train(&experiment(3), &whole, None)?;
    // In the first step, between checkpoints, in the last step of an epoch (which stops in the evaluation), in the last epoch.
    for at in [0, 2, 3, 6, 10] {
        let run = parent.path().join(format!("stopped-{at}"));
        let error = train(&experiment(3), &run, Some(at)).unwrap_err();
        assert!(matches!(error, Error::Stopped { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains(&format!("epoch {}", at / 4 + 1)) && message.contains("goes on"), "{message}");
        // An interrupted run is a model, too.
        from_pretrained(&run, DType::F32, &Device::Cpu)?;
        train(&experiment(3), &run, None)?;
        assert_same(&whole, &run, &format!("stopped at {at}"));
    }
    Ok(())
}

#[test]
fn a_finished_run_can_be_extended_to_the_bytes_of_a_longer_one() -> Result<()> {
    let parent = tempfile::tempdir().unwrap();
    let (long, extended) = (parent.path().join("long"), parent.path().join("extended"));
    train(&experiment(3), &long, None)?;
    train(&experiment(1), &extended, None)?;
    // Stopped on the way: the shorter run's result is none of this one.
    train(&experiment(3), &extended, Some(5)).unwrap_err();
    assert!(!extended.join("metrics.json").exists());
    assert_eq!(train(&experiment(3), &extended, None)?.epochs, 3);
    assert_same(&long, &extended, "extended");

    // Fewer epochs than there are, and a schedule that depends on their number.
    let message = train(&experiment(2), &extended, None).unwrap_err().to_string();
    assert!(message.contains("train.epochs is 3 there and 2 here"), "{message}");
    let cosine = |epochs| {
        let mut experiment = experiment(epochs);
        experiment.train.schedule = ScheduleConfig::default();
        experiment
    };
    let run = parent.path().join("cosine");
    train(&cosine(1), &run, None)?;
    let before = files(&run);
    let message = train(&cosine(2), &run, None).unwrap_err().to_string();
    assert!(message.contains("schedule.decay") && message.contains("--start"), "{message}");
    assert!(files(&run) == before, "the finished run was touched");
    Ok(())
}

#[test]
fn a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used() -> Result<()> {
    let parent = tempfile::tempdir().unwrap();
    let whole = parent.path().join("whole");
    train(&experiment(3), &whole, None)?;
    for name in ["model.safetensors", "optimizer.safetensors", "state.json", "config.json", "SHA256SUMS"] {
        let run = parent.path().join(name);
        train(&experiment(3), &run, Some(6)).unwrap_err();
        let all = checkpoints(&run.join("checkpoints"))?;
        assert_eq!(all.len(), 2, "the last two are kept");
        let newest = &all[1];
        let mut bytes = std::fs::read(newest.join(name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(newest.join(name), bytes).unwrap();
        // Those that only want the network do without it as well, if the network is what is damaged.
        if ["model.safetensors", "config.json"].contains(&name) {
            assert_eq!(Pretrained::locate(&run)?.folder, all[0]);
        }
        train(&experiment(3), &run, None)?;
        let aside = newest.with_file_name(format!("damaged-{}", newest.file_name().unwrap().to_string_lossy()));
        assert!(aside.exists(), "{name}");
        std::fs::remove_dir_all(aside).unwrap();
        assert_same(&whole, &run, name);
    }
    // None is whole.
    let run = parent.path().join("none");
    train(&experiment(3), &run, Some(6)).unwrap_err();
    for checkpoint in checkpoints(&run.join("checkpoints"))? {
        std::fs::write(checkpoint.join("state.json"), "{}").unwrap();
    }
    let message = train(&experiment(3), &run, None).unwrap_err().to_string();
    assert!(message.contains("no checkpoint is whole") && message.contains("state.json"), "{message}");
    Ok(())
}

#[test]
fn folders_of_others_are_left_alone() -> Result<()> {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("thesis");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("run.json"), "mine").unwrap();
    let message = train(&experiment(1), &folder, None).unwrap_err().to_string();
    assert!(message.contains("thesis") && message.contains("run.json"), "{message}");
    assert_eq!(files(&folder).len() + 1, std::fs::read_dir(&folder).unwrap().count());
    assert_eq!(std::fs::read_to_string(folder.join("run.json")).unwrap(), "mine");

    let run = parent.path().join("run");
    let record = RunRecord::open(&run, &experiment(1), info())?;
    let message = train(&experiment(1), &run, None).unwrap_err().to_string();
    assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
    drop(record);
    train(&experiment(1), &run, None)?;
    Ok(())
}

#[test]
fn runs_and_checkpoints_are_models_and_the_best_epoch_is_kept() -> Result<()> {
    let parent = tempfile::tempdir().unwrap();
    let run = parent.path().join("run");
    let metrics = train(&experiment(3), &run, None)?;
    let bytes = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert_eq!(Pretrained::locate(&run)?.folder, run.join("model"));
    let last = checkpoints(&run.join("checkpoints"))?;
    assert_eq!(last.len(), 1, "of a finished run the last one is kept");
    let (_, params) = from_pretrained(&last[0], DType::F32, &Device::Cpu)?;
    assert!(params.to_safetensors()? == bytes(&run.join("model")));

    // The best one has the bytes of a run that ended there.
    let shorter = parent.path().join("shorter");
    train(&experiment(metrics.best_epoch), &shorter, None)?;
    assert!(bytes(&run.join("best")) == bytes(&shorter.join("model")));
    let card = std::fs::read_to_string(run.join("best/README.md")).unwrap();
    assert!(card.contains("best on the test set"), "{card}");
    Ok(())
}

#[test]
fn statistics_that_are_not_finite_end_a_run_before_it_saves() {
    /// The last batch of the second epoch is beyond what f32 squares.
    struct Diverges(TensorSource);
    impl BatchSource for Diverges {
        fn n_batches(&self) -> usize {
            self.0.n_batches()
        }
        fn batches(&self, epoch: usize, first: usize) -> Result<Batches<'_>> {
            let last = self.n_batches() - 1 - first;
            Ok(Box::new(self.0.batches(epoch, first)?.enumerate().map(move |(i, batch)| {
                let Batch { images, targets, .. } = batch?;
                let images = if epoch == 1 && i == last { (images * 1e25)? } else { images };
                match targets {
                    lmht_train::Targets::Labels(labels) => Ok(Batch::with_labels(images, labels)),
                    _ => unreachable!("these have labels"),
                }
            })))
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let experiment = experiment(3);
    let params = ParamStore::new(1);
    let network = Network::new(&experiment.model, params.builder(DType::F32, &Device::Cpu)).unwrap();
    let mut record = RunRecord::open(folder.path(), &experiment, info()).unwrap();
    let error = fit(
        &network,
        &params,
        &experiment.train,
        &Diverges(images(16)),
        &images(8),
        Some(&mut record),
        Progress::Silent,
    )
    .unwrap_err();
    assert!(matches!(error, Error::NonFinite(_)), "{error}");
    assert!(error.to_string().contains("epoch 2, step 4"), "{error}");
    let lines = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 1, "{lines}");
    let newest = checkpoints(&folder.path().join("checkpoints")).unwrap().pop().unwrap();
    assert!(newest.ends_with("epoch-0001-step-000002"), "{newest:?}");
    from_pretrained(folder.path(), DType::F32, &Device::Cpu).unwrap();
}

#[test]
fn the_ceiling_of_qcfs_stays_above_zero() -> Result<()> {
    let model = ModelConfig { neuron: NeuronConfig::qcfs(4), timesteps: 1, ..experiment(1).model };
    let params = ParamStore::new(1);
    let network = Network::new(&model, params.builder(DType::F32, &Device::Cpu))?;
    // A step so large that the ceilings fell to -25 and below without the bound.
    let sgd = SgdConfig { lr: 20., momentum: 0.9, ..SgdConfig::default() };
    let train = TrainConfig { optimizer: OptimizerConfig::Sgd(sgd), ..experiment(2).train };
    fit(&network, &params, &train, &images(16), &images(8), None, Progress::Silent).ok();
    let mut smallest = f64::INFINITY;
    for (name, var) in params.all() {
        if name.ends_with("thresh") {
            smallest = smallest.min(var.to_dtype(DType::F64)?.to_vec1::<f64>()?[0]);
        }
    }
    assert!(smallest > 0. && smallest < 4., "{smallest}");
    Ok(())
}
