//! The training loop on a handful of made-up images: evaluation, records, resuming.

use std::cell::Cell;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lmht_nn::{ModelConfig, Network, NeuronConfig, NeuronEvent, Observer, ParamStore, Precision};
use lmht_train::optim::{OptimizerConfig, SgdConfig};
use lmht_train::schedule::ScheduleConfig;
use lmht_train::{
    Batch, BatchSource, Batches, Error, Metrics, Progress, Result, RunInfo, RunRecord, Targets, TensorSource,
    TrainConfig, evaluate, fit,
};

/// Numbers in -1..1, of neighbouring seeds as different as of others: the seed is scrambled first.
fn numbers(seed: u64, n: usize) -> Vec<f64> {
    crate::numbers(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x0123_4567_89AB_CDEF, n)
}

/// Bright images are class 1, dark ones class 0; the last batch is smaller. Fails at a given batch, counted over a run.
/// With `soft` the labels are given as distributions, with so much for the class.
struct Images {
    soft: Option<f64>,
    sizes: Vec<usize>,
    fail_at: Option<usize>,
    given: Cell<usize>,
}

impl Images {
    fn new(sizes: &[usize]) -> Self {
        Self { soft: None, sizes: sizes.to_vec(), fail_at: None, given: Cell::new(0) }
    }

    fn batch(&self, epoch: usize, index: usize) -> Result<Batch> {
        let count = self.given.get();
        self.given.set(count + 1);
        if self.fail_at == Some(count) {
            return Err(Error::data("the disk came off"));
        }
        let b = self.sizes[index];
        let noise = numbers((epoch * 1000 + index) as u64, b * 64);
        let values =
            noise.iter().enumerate().map(|(i, x)| (x + if i / 64 % 2 == 1 { 2. } else { 0. }) as f32).collect();
        let images = Tensor::from_vec::<_, f32>(values, (b, 1, 8, 8), &Device::Cpu)?;
        let labels = Tensor::from_vec((0..b as u32).map(|i| i % 2).collect::<Vec<_>>(), b, &Device::Cpu)?;
        let Some(share) = self.soft else { return Ok(Batch::with_labels(images, labels)) };
        let rows = (0..b).flat_map(|i| if i % 2 == 1 { [1. - share, share] } else { [share, 1. - share] });
        let targets = Tensor::from_vec(rows.map(|x| x as f32).collect::<Vec<_>>(), (b, 2), &Device::Cpu)?;
        Ok(Batch::with_distributions(images, targets))
    }
}

impl BatchSource for Images {
    fn n_batches(&self) -> usize {
        self.sizes.len()
    }

    fn batches(&self, epoch: usize, first: usize) -> Result<Batches<'_>> {
        Ok(Box::new((first..self.sizes.len()).map(move |index| self.batch(epoch, index))))
    }
}

fn model() -> ModelConfig {
    ModelConfig { width: 4, in_channels: 1, neuron: NeuronConfig::lmht(2), ..ModelConfig::resnet20(2) }
}

fn config() -> TrainConfig {
    TrainConfig {
        epochs: 3,
        batch_size: 8,
        seed: 1,
        optimizer: OptimizerConfig::Sgd(SgdConfig { lr: 0.05, momentum: 0.9, nesterov: true, weight_decay: 5e-4 }),
        schedule: ScheduleConfig::default(),
        label_smoothing: 0.,
        checkpoint_every_steps: Some(2),
        recompute: false,
        precision: Precision::F32,
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

fn train(train: &Images, record: Option<&Path>) -> Result<(Metrics, Vec<u8>)> {
    let params = ParamStore::new(config().seed);
    let network = Network::new(&model(), params.builder(DType::F32, &Device::Cpu))?;
    let test = Images::new(&[8, 8, 3]);
    let mut record = match record {
        Some(path) => Some(RunRecord::open(path, &(model(), config()), info())?),
        None => None,
    };
    let metrics = fit(&network, &params, &config(), train, &test, record.as_mut(), Progress::Silent)?;
    Ok((metrics, params.to_safetensors()?))
}

#[test]
fn a_network_learns_and_the_same_seed_gives_the_same_bytes() -> Result<()> {
    let (metrics, weights) = train(&Images::new(&[8; 6]), None)?;
    assert_eq!(metrics.top1, 1., "bright and dark are told apart: {metrics:?}");
    assert_eq!(metrics.top1_by_timestep.len(), 2);
    let (again, same) = train(&Images::new(&[8; 6]), None)?;
    assert_eq!(metrics, again);
    assert!(weights == same, "the same run has other weights");
    Ok(())
}

#[test]
fn recomputing_changes_no_bit() -> Result<()> {
    let weights = |recompute| -> Result<Vec<u8>> {
        let params = ParamStore::new(1);
        let network = Network::new(&model(), params.builder(DType::F32, &Device::Cpu))?;
        let start = params.to_safetensors()?;
        let config = TrainConfig { epochs: 1, recompute, ..config() };
        let (train, test) = (Images::new(&[8; 3]), Images::new(&[8]));
        fit(&network, &params, &config, &train, &test, None, Progress::Silent)?;
        let end = params.to_safetensors()?;
        assert!(start != end, "nothing was learned");
        Ok(end)
    };
    assert!(weights(false)? == weights(true)?, "recomputing gives other weights");
    Ok(())
}

#[test]
fn evaluation_wants_labels_and_says_so() -> Result<()> {
    let network = Network::new(&model(), ParamStore::new(1).builder(DType::F32, &Device::Cpu))?;
    let mixed = Images { soft: Some(0.9), ..Images::new(&[8]) };
    let message = evaluate(&network, &mixed, Progress::Silent, None).unwrap_err().to_string();
    assert!(message.contains("expected labels"), "{message}");
    Ok(())
}

#[test]
fn distributions_in_place_of_labels_train_as_well() -> Result<()> {
    let mut losses = Vec::new();
    for (share, label_smoothing) in [(1., 0.2), (0.9, 0.), (0.6, 0.)] {
        let params = ParamStore::new(1);
        let network = Network::new(&model(), params.builder(DType::F32, &Device::Cpu))?;
        let train = Images { soft: Some(share), ..Images::new(&[8; 6]) };
        let config = TrainConfig { label_smoothing, ..config() };
        let folder = tempfile::tempdir().unwrap();
        let mut record = RunRecord::open(folder.path(), &config, info())?;
        let test = Images::new(&[8, 8]);
        let metrics = fit(&network, &params, &config, &train, &test, Some(&mut record), Progress::Silent)?;
        let lines = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
        let last: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        if share > 0.8 {
            assert!(metrics.top1 == 1. && last["train_top1"].as_f64().unwrap() > 0.9, "{last}");
        }
        losses.push(last["train_loss"].as_f64().unwrap());
    }
    // One-hot targets smoothed by 0.2 are those of 0.9 and 0.1; 0.6 and 0.4 cannot be learned below their entropy.
    assert!((losses[0] - losses[1]).abs() < 1e-5, "{losses:?}");
    assert!(losses[2] > 0.6f64 * -0.6f64.ln() + 0.4 * -0.4f64.ln(), "{losses:?}");
    Ok(())
}

#[test]
fn an_interrupted_run_ends_with_the_bytes_of_a_whole_one() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let (metrics, weights) = train(&Images::new(&[8; 6]), Some(&folder.path().join("whole")))?;
    // In the first step; between checkpoints; on one; in a later epoch. Of the 18 batches the resumed run asks for those
    // since the last checkpoint: it must not come to the same end by starting anew.
    for (fail_at, n_left) in [(0, 18), (3, 16), (4, 14), (13, 6)] {
        let run = folder.path().join(format!("interrupted-{fail_at}"));
        let message = train(&Images { fail_at: Some(fail_at), ..Images::new(&[8; 6]) }, Some(&run)).unwrap_err();
        assert!(message.to_string().contains("the disk came off"), "{message}");
        let rest = Images::new(&[8; 6]);
        let (resumed, same) = train(&rest, Some(&run))?;
        assert_eq!(rest.given.get(), n_left, "interrupted at {fail_at}: batches of the resumed run");
        assert_eq!(metrics, resumed, "interrupted at {fail_at}");
        assert!(weights == same, "interrupted at {fail_at}: other weights");
        for file in ["metrics.json", "metrics.jsonl", "model/README.md", "model/model.safetensors", "config.json"] {
            let read = |run: &Path| std::fs::read(run.join(file)).unwrap();
            assert!(read(&run) == read(&folder.path().join("whole")), "interrupted at {fail_at}: {file} differs");
        }
    }
    Ok(())
}

#[test]
fn a_finished_run_is_not_trained_again() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let (metrics, _) = train(&Images::new(&[8; 6]), Some(folder.path()))?;
    let images = Images::new(&[8; 6]);
    assert_eq!(train(&images, Some(folder.path()))?.0, metrics);
    assert_eq!(images.given.get(), 0, "batches were asked for");
    Ok(())
}

#[test]
fn evaluation_counts_every_image_once() -> Result<()> {
    let network = Network::new(&model(), ParamStore::new(1).builder(DType::F32, &Device::Cpu))?;
    let evaluation = evaluate(&network, &Images::new(&[8, 8, 3]), Progress::Silent, None)?;
    assert_eq!(evaluation.n_images, 19);
    // One large batch of the same images must agree; only the last addition of the mean may round.
    let data = Images::new(&[8, 8, 3]);
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for batch in data.batches(0, 0)? {
        let batch = batch?;
        let Targets::Labels(batch_labels) = batch.targets else { panic!("these images have labels") };
        images.push(batch.images);
        labels.push(batch_labels);
    }
    let one = TensorSource::test(Tensor::cat(&images, 0)?, Tensor::cat(&labels, 0)?, 19)?;
    let whole = evaluate(&network, &one, Progress::Silent, None)?;
    assert_eq!(whole.top1_by_timestep, evaluation.top1_by_timestep);
    assert!((whole.loss - evaluation.loss).abs() < 1e-6);
    Ok(())
}

/// A layer that is silent on the first batch alone was called dead.
#[test]
fn layers_are_watched_over_all_batches() -> Result<()> {
    /// Spikes and units of the stem's neurons.
    #[derive(Default)]
    struct Stem(f64, f64);
    impl Observer for Stem {
        fn neuron(&mut self, event: &NeuronEvent<'_>) -> lmht_nn::Result<()> {
            if event.name == "conv1.2" {
                let counts = event.output.to_tensor()?.ne(0.)?.to_dtype(DType::F64)?;
                self.0 += counts.sum_all()?.to_scalar::<f64>()?;
                self.1 += counts.elem_count() as f64;
            }
            Ok(())
        }
    }
    // One level: a spike is one.
    let model = ModelConfig { neuron: NeuronConfig::lmht(1), ..model() };
    let config = TrainConfig { epochs: 1, ..config() };
    let params = ParamStore::new(1);
    let network = Network::new(&model, params.builder(DType::F32, &Device::Cpu))?;
    let (folder, test) = (tempfile::tempdir().unwrap(), Images::new(&[1, 8, 3]));
    let mut record = RunRecord::open(folder.path(), &config, info())?;
    fit(&network, &params, &config, &Images::new(&[8; 6]), &test, Some(&mut record), Progress::Silent)?;
    let mut stem = Stem::default();
    evaluate(&network, &test, Progress::Silent, Some(&mut stem))?;
    let events = std::fs::read_dir(folder.path().join("tensorboard")).unwrap();
    let events = events.flat_map(|file| crate::tensorboard::read(&file.unwrap().path()));
    let scalars: Vec<_> = events.filter_map(|event| event.scalar).collect();
    let rate = scalars.iter().find(|(tag, _)| tag.contains("conv1.2/firing_rate")).expect("a rate").1;
    assert!((f64::from(rate) - stem.0 / stem.1).abs() < 1e-6 && rate > 0., "{rate}, {}", stem.0 / stem.1);
    Ok(())
}

#[test]
fn nothing_to_train_or_evaluate_on_is_an_error() -> Result<()> {
    let network = Network::new(&model(), ParamStore::new(1).builder(DType::F32, &Device::Cpu))?;
    let message = evaluate(&network, &Images::new(&[]), Progress::Silent, None).unwrap_err().to_string();
    assert!(message.contains("expected images"), "{message}");
    let message = train(&Images::new(&[]), None).unwrap_err().to_string();
    assert!(message.contains("batch_size = 8"), "{message}");
    Ok(())
}

#[test]
fn every_wrong_field_of_the_training_is_named() {
    for (wrong, part) in [
        (TrainConfig { epochs: 0, ..config() }, "epochs is 0"),
        (TrainConfig { batch_size: 0, ..config() }, "batch_size is 0"),
        (TrainConfig { checkpoint_every_steps: Some(0), ..config() }, "checkpoint_every_steps is 0"),
        (TrainConfig { label_smoothing: 1., ..config() }, "label_smoothing is 1"),
        (TrainConfig { label_smoothing: f64::NAN, ..config() }, "label_smoothing is NaN"),
        (
            TrainConfig { schedule: ScheduleConfig { warmup_epochs: 3, ..ScheduleConfig::default() }, ..config() },
            "warmup_epochs",
        ),
    ] {
        let message = wrong.check().unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_value_that_is_not_finite_names_the_place() {
    struct Broken;
    impl BatchSource for Broken {
        fn n_batches(&self) -> usize {
            1
        }
        fn batches(&self, _: usize, _: usize) -> Result<Batches<'_>> {
            let images = Tensor::full(f32::NAN, (4, 1, 8, 8), &Device::Cpu)?;
            let labels = Tensor::zeros(4, DType::U32, &Device::Cpu)?;
            Ok(Box::new(std::iter::once(Ok(Batch::with_labels(images, labels)))))
        }
    }
    let params = ParamStore::new(1);
    // The first threshold hides the NaN, so the loss is finite.
    let network = Network::new(&model(), params.builder(DType::F32, &Device::Cpu)).unwrap();
    let values = || -> candle_core::Result<Vec<Vec<f32>>> {
        params.trainable().iter().map(|(_, var)| var.flatten_all()?.to_vec1()).collect()
    };
    let before = values().unwrap();
    let error = fit(&network, &params, &config(), &Broken, &Broken, None, Progress::Silent).unwrap_err();
    assert_eq!(values().unwrap(), before, "a parameter has moved");
    assert!(matches!(error, Error::NonFinite(_)), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("the gradient of")
            && message.contains("epoch 1, step 1")
            && message.contains("learning rate of 0.05"),
        "{message}"
    );
}
