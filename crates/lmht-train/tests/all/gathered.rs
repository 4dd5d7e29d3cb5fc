//! Batches that a GPU makes of images that it has, on the emulator: the bits of those that the cores make.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use candle_core::{DType, Device};
use lmht_datasets::{Augment, AutoAugment, ImageDataset, Loader, LoaderConfig, Mix, Normalize, Policy};
use lmht_nn::{ModelConfig, Network, ParamStore, Precision, gpu};
use lmht_train::optim::{OptimizerConfig, SgdConfig};
use lmht_train::{
    Batch, BatchSource, Batches, Error, FirstImages, Progress, Result, RunInfo, RunRecord, TrainConfig, fit,
};

use crate::device::emulated;
use crate::numbers;
use crate::record::assert_same;

const PLAIN: Augment =
    Augment { crop_padding: 0, flip: false, cutout: 0, resized_crop: None, auto_augment: None, erasing: None };

/// `n` images of three classes: noise, and brighter the higher the class.
fn loader((c, h, w): (usize, usize, usize), n: usize, config: &LoaderConfig) -> Loader {
    let len = c * h * w;
    let pixel = |(i, x): (usize, f64)| (60. + 60. * (i / len % 3) as f64 + 59. * x) as u8;
    let pixels = numbers(3, n * len).into_iter().enumerate().map(pixel).collect();
    let data = ImageDataset::new(pixels, (0..n).map(|i| i as u32 % 3).collect(), (c, h, w), 3).unwrap();
    let normalize = Normalize { mean: vec![0.3; c], std: (1..=c).map(|i| 0.2 / i as f32).collect() };
    Loader::new(data.into(), config, &normalize, &Device::Cpu).unwrap()
}

/// A loader whose batches the cores make, GPU or not.
struct OnCores<'a>(&'a Loader);

impl BatchSource for OnCores<'_> {
    fn n_batches(&self) -> usize {
        self.0.n_batches()
    }

    fn batches(&self, epoch: usize, first: usize) -> Result<Batches<'_>> {
        let batches = self.0.epoch_from(epoch as u64, first)?;
        Ok(Box::new(
            batches.map(|batch| batch.map(|batch| Batch::with_labels(batch.images, batch.labels)).map_err(Into::into)),
        ))
    }
}

fn bits(source: &dyn BatchSource, epoch: usize, first: usize) -> Vec<(Vec<u32>, Vec<usize>, Vec<u32>)> {
    let bits = |batch: Batch| {
        let values = batch.images.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let labels = batch.targets.labels().unwrap().to_vec1().unwrap();
        (values.into_iter().map(f32::to_bits).collect(), batch.images.dims().to_vec(), labels)
    };
    source.batches(epoch, first).unwrap().map(|batch| bits(batch.unwrap())).collect()
}

fn recipes() -> Vec<LoaderConfig> {
    let train = |augment| LoaderConfig { augment, ..LoaderConfig::train(4, 5) };
    vec![
        LoaderConfig::eval(4),
        LoaderConfig { center_crop: Some((4, 3)), ..LoaderConfig::eval(4) },
        train(PLAIN),
        train(Augment { crop_padding: 2, ..PLAIN }),
        train(Augment { flip: true, ..PLAIN }),
        train(Augment { crop_padding: 4, flip: true, ..PLAIN }),
        train(Augment { crop_padding: 1, flip: true, cutout: 3, ..PLAIN }),
        train(Augment { cutout: 6, ..PLAIN }),
        train(Augment { crop_padding: 1, flip: true, erasing: Some(0.7), ..PLAIN }),
        LoaderConfig { drop_last: false, ..train(Augment { crop_padding: 2, flip: true, cutout: 2, ..PLAIN }) },
        LoaderConfig { center_crop: Some((4, 4)), ..train(Augment { crop_padding: 2, flip: true, ..PLAIN }) },
    ]
}

#[test]
fn a_gpu_makes_the_bits_of_the_cores() {
    for (shape, config) in
        [(3, 5, 6), (1, 6, 6)].into_iter().flat_map(|shape| recipes().into_iter().map(move |config| (shape, config)))
    {
        let loader = loader(shape, 11, &config);
        let (cores, first) = (OnCores(&loader), FirstImages::new(&loader, 6));
        for epoch in [0, 7] {
            let expected = bits(&cores, epoch, 0);
            let Some(got) = emulated(|| bits(&loader, epoch, 0)) else { return };
            assert_eq!(got, expected, "{config:?}");
            // An epoch that begins in its middle, and one that is cut short.
            for step in 0..=loader.n_batches() {
                assert_eq!(
                    emulated(|| bits(&loader, epoch, step)).unwrap(),
                    expected[step..],
                    "{config:?} from {step}"
                );
            }
            let cut = emulated(|| bits(&first, epoch, 0)).unwrap();
            assert_eq!((&cut[0], &cut[1].2[..]), (&expected[0], &expected[1].2[..2]), "{config:?}");
        }
        assert_eq!(gpu::emulated(|| loader.note()), Some(None));
        let beyond = |loader: &Loader| loader.batches(0, 9).err().unwrap().to_string();
        assert_eq!(emulated(|| beyond(&loader)).unwrap(), beyond(&loader));
    }
}

/// They are the cores' work, and the run says why.
#[test]
fn what_is_more_than_moves_is_said() {
    let train = |augment| LoaderConfig { augment, ..LoaderConfig::train(4, 5) };
    let policy = Augment { auto_augment: Some(AutoAugment::new(Policy::Cifar10)), ..PLAIN };
    for (config, what) in [
        (train(policy), "auto_augment"),
        (train(Augment { resized_crop: Some((4, 4)), ..PLAIN }), "resized_crop"),
        (LoaderConfig { mix: Some(Mix::default()), ..train(PLAIN) }, "mixed"),
    ] {
        let loader = loader((3, 6, 6), 9, &config);
        let Some(note) = emulated(|| loader.note()) else { return };
        assert!(note.as_ref().is_some_and(|note| note.contains(what)), "{note:?}");
        assert!(emulated(|| loader.batches(0, 0).unwrap().all(|batch| batch.is_ok())).unwrap());
        // Without a GPU there is nothing to say.
        assert_eq!(loader.note(), None);
    }
}

fn model() -> ModelConfig {
    ModelConfig { width: 2, in_channels: 1, ..ModelConfig::resnet20(3) }
}

fn config(precision: Precision) -> TrainConfig {
    let sgd = SgdConfig { lr: 0.05, momentum: 0.9, nesterov: true, weight_decay: 5e-4 };
    let optimizer = OptimizerConfig::Sgd(sgd);
    TrainConfig { epochs: 2, batch_size: 4, optimizer, precision, ..TrainConfig::default() }
}

/// To train on and to test on.
fn loaders() -> (Loader, Loader) {
    let augment = Augment { crop_padding: 2, flip: true, cutout: 2, ..PLAIN };
    let train = loader((1, 8, 8), 18, &LoaderConfig { augment, ..LoaderConfig::train(4, 5) });
    (train, loader((1, 8, 8), 6, &LoaderConfig::eval(4)))
}

#[test]
fn a_network_trains_to_the_same_bytes() -> Result<()> {
    let (model, (train, test)) = (model(), loaders());
    for precision in [Precision::F32, Precision::Bf16] {
        let config = config(precision);
        let run = |train: &dyn BatchSource, test: &dyn BatchSource| -> Result<_> {
            let params = ParamStore::new(1);
            let network = Network::new(&model, params.builder(DType::F32, &Device::Cpu))?;
            let metrics = fit(&network, &params, &config, train, test, None, Progress::Silent)?;
            let bytes = |tensor: &candle_core::Tensor| -> Result<Vec<u32>> {
                Ok(tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
            };
            Ok((metrics, params.all().iter().map(|(_, var)| bytes(var)).collect::<Result<Vec<_>>>()?))
        };
        let Some(got) = emulated(|| run(&train, &test)).transpose()? else { return Ok(()) };
        let expected = emulated(|| run(&OnCores(&train), &OnCores(&test))).unwrap()?;
        assert_eq!(got.0, expected.0, "{precision}");
        assert!(got.1 == expected.1, "{precision}: other parameters");
    }
    Ok(())
}

/// Asks a run to stop when it wants a batch.
struct Stops<'a> {
    loader: &'a Loader,
    at: usize,
    n: AtomicUsize,
    stop: Arc<AtomicBool>,
}

impl BatchSource for Stops<'_> {
    fn n_batches(&self) -> usize {
        BatchSource::n_batches(self.loader)
    }

    fn batches(&self, epoch: usize, first: usize) -> Result<Batches<'_>> {
        let batches = self.loader.batches(epoch, first)?;
        Ok(Box::new(batches.inspect(|_| {
            if self.n.fetch_add(1, Ordering::Relaxed) == self.at {
                self.stop.store(true, Ordering::Relaxed);
            }
        })))
    }
}

#[test]
fn a_run_that_was_stopped_ends_with_the_same_bytes() -> Result<()> {
    let (parent, model, (train, test)) = (tempfile::tempdir().unwrap(), model(), loaders());
    let config = config(Precision::F32);
    let run = |name: &str, at: usize| {
        let folder = parent.path().join(name);
        let stop = Arc::new(AtomicBool::new(false));
        let source = Stops { loader: &train, at, n: AtomicUsize::new(0), stop: stop.clone() };
        emulated(|| {
            let params = ParamStore::new(1);
            let network = Network::new(&model, params.builder(DType::F32, &Device::Cpu))?;
            let mut record = RunRecord::open(&folder, &config, RunInfo::default())?.stopped_by(stop);
            fit(&network, &params, &config, &source, &test, Some(&mut record), Progress::Silent).map(|_| folder)
        })
    };
    let Some(whole) = run("whole", usize::MAX).transpose()? else { return Ok(()) };
    // In the middle of the first epoch, and of the last one.
    for at in [1, 6] {
        let name = format!("stopped-{at}");
        assert!(matches!(run(&name, at).unwrap(), Err(Error::Stopped { .. })));
        assert_same(&whole, &run(&name, usize::MAX).unwrap()?, &name);
    }
    Ok(())
}
