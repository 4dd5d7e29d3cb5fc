//! A network for evaluation alone gives what the network gives: on every backbone and neuron, for any number of images,
//! from any number of threads, whatever happens to the network's parameters.

use candle_core::{DType, Device, Tensor};
use lmht_nn::{Inference, ModelConfig, Network, Observer, Pass, Result, readout};
use lmht_train::loss;
use lmht_train::{Batch, BatchSource, Batches, Progress, evaluate};
use rayon::prelude::*;

use crate::engine::{build, cases, converted, images};
use crate::support::{assert_close, assert_error, tensor, values};

const CPU: Device = Device::Cpu;

fn bits(tensor: &Tensor) -> Result<Vec<u64>> {
    Ok(values(tensor)?.into_iter().map(f64::to_bits).collect())
}

#[test]
fn it_equals_the_network_and_the_layers() -> Result<()> {
    for (name, config, side) in cases().into_iter().chain(converted()) {
        for is_frames in [false, true] {
            let what = format!("{name}, frames: {is_frames}");
            let (network, _) = build(&config, DType::F64)?;
            let inference = network.inference()?;
            assert_eq!(inference.config(), network.config());
            let all = images(&config, side, is_frames, DType::F64)?;
            for n in [1, 3] {
                let images = all.narrow(all.rank() - 4, 0, n)?;
                let got = inference.forward(&images)?;
                let layers = network.forward(&images, &mut Pass::eval().layer_by_layer())?;
                assert!(values(&layers)?.iter().any(|&x| x != 0.), "{what}: the test must see something");
                assert_close(&what, &got, &layers, 1e-12)?;
                // A second time, with what the first has kept.
                for got in [got, inference.forward(&images)?] {
                    assert_eq!(bits(&got)?, bits(&network.forward(&images, &mut Pass::eval())?)?, "{what}");
                }
            }
        }
    }
    Ok(())
}

/// Images so large that the engine takes a few at a time, some active and some nearly silent, so that not all parts take
/// the same kernels.
fn several_parts(dtype: DType) -> Result<(ModelConfig, Tensor)> {
    let config = ModelConfig { width: 32, n_classes: 5, timesteps: 2, ..ModelConfig::cifarnet(5) };
    let n = if dtype == DType::F64 { 20 } else { 36 };
    let bright = tensor(5, &[n, 3, 32, 32], DType::F64, &CPU)?;
    let factors: Vec<f64> = (0..n).map(|i| if i < n / 2 { 0.01 } else { 3. }).collect();
    let images = bright.broadcast_mul(&Tensor::from_vec(factors, (n, 1, 1, 1), &CPU)?)?;
    Ok((config, images.to_dtype(dtype)?))
}

/// Does nothing but watch.
struct Blind;
impl Observer for Blind {}

#[test]
fn parts_make_a_whole() -> Result<()> {
    for (dtype, tolerance) in [(DType::F64, 1e-11), (DType::F32, 1e-4)] {
        let (config, images) = several_parts(dtype)?;
        let (network, _) = build(&config, dtype)?;
        let inference = network.inference()?;
        let got = inference.forward(&images)?;
        assert_eq!(bits(&got)?, bits(&network.forward(&images, &mut Pass::eval())?)?, "{dtype:?}");
        let watched = network.forward(&images, &mut Pass::eval().observed_by(&mut Blind))?;
        assert_eq!(bits(&got)?, bits(&watched)?, "{dtype:?}: an observed pass takes all images at once");
        let frames = Tensor::stack(&[&images, &images], 0)?;
        assert_close("frames", &inference.forward(&frames)?, &got, tolerance)?;
        for i in [0, 9, 10, 17, 18, 19] {
            let alone = inference.forward(&images.narrow(0, i, 1)?)?;
            assert_close(&format!("{dtype:?}: image {i}"), &got.narrow(1, i, 1)?, &alone, tolerance)?;
        }
    }
    Ok(())
}

#[test]
fn it_does_not_see_later_changes() -> Result<()> {
    for (name, config, side) in cases().into_iter().chain(converted()) {
        let (network, params) = build(&config, DType::F32)?;
        let images = images(&config, side, false, DType::F32)?;
        let expected = bits(&network.forward(&images, &mut Pass::eval())?)?;
        let inference = network.inference()?;
        for (_, var) in params.all() {
            var.set(&(var.as_detached_tensor() * 0.5)?)?;
        }
        assert_ne!(bits(&network.forward(&images, &mut Pass::eval())?)?, expected, "{name}: the network does");
        for _ in 0..2 {
            assert_eq!(bits(&inference.forward(&images)?)?, expected, "{name}");
        }
    }
    Ok(())
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() -> Result<()> {
    let (config, images) = several_parts(DType::F32)?;
    let run = |threads: usize| -> Result<Vec<u64>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        let (network, _) = build(&config, DType::F32)?;
        bits(&pool.install(|| network.inference()?.forward(&images))?)
    };
    let one = run(1)?;
    for threads in [2, 3] {
        assert!(one == run(threads)?, "{threads} threads give other bits than one");
    }
    Ok(())
}

/// The first pass of each thread packs; so many at once that some wait for others.
#[test]
fn several_threads_share_it() -> Result<()> {
    fn shared<V: Send + Sync>(_: &V) {}
    for config in
        [ModelConfig::resnet18(5), ModelConfig { depth: Some(1), heads: Some(2), ..ModelConfig::spikformer(5) }]
    {
        let config = ModelConfig { width: 8, n_classes: 5, ..config };
        let (network, _) = build(&config, DType::F32)?;
        let images = images(&config, 16, false, DType::F32)?;
        let expected = bits(&network.forward(&images, &mut Pass::eval())?)?;
        let inference: Inference = network.inference()?;
        shared(&inference);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| bits(&inference.forward(&images)?))).collect();
            for thread in threads {
                assert_eq!(thread.join().expect("a thread that does not panic")?, expected);
            }
            Ok::<_, lmht_nn::Error>(())
        })?;
        // From within the pool whose threads do the work: one that waits in a pass takes up another, first passes too.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a thread pool");
        let (network, _) = build(&config, DType::F32)?;
        let inference = network.inference()?;
        pool.install(|| {
            (0..16).into_par_iter().try_for_each(|i| {
                let logits = if i % 2 == 0 {
                    inference.forward(&images)?
                } else {
                    network.forward(&images, &mut Pass::eval())?
                };
                assert_eq!(bits(&logits)?, expected);
                Ok::<_, lmht_nn::Error>(())
            })
        })?;
    }
    Ok(())
}

/// Without the backtrace that may follow.
fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or_default()
}

#[test]
fn bad_images_give_the_errors_of_the_network() -> Result<()> {
    let config = ModelConfig { width: 2, n_classes: 5, ..ModelConfig::vgg13(5) };
    let (network, _) = build(&config, DType::F32)?;
    let inference = network.inference()?;
    for shape in [&[3, 16, 16][..], &[2, 1, 16, 16], &[0, 3, 16, 16], &[3, 2, 3, 16, 16], &[2, 3, 2, 2]] {
        let images = Tensor::zeros(shape, DType::F32, &CPU)?;
        let expected = network.forward(&images, &mut Pass::eval()).expect_err("a bad shape").to_string();
        assert_error(inference.forward(&images), &[first_line(&expected)]);
    }
    let images = Tensor::zeros((1, 3, 16, 16), DType::F64, &CPU)?;
    let expected = network.forward(&images, &mut Pass::eval()).expect_err("another type").to_string();
    assert_error(inference.forward(&images), &[first_line(&expected)]);
    Ok(())
}

/// Random images in batches of two.
struct Random(Network);

impl BatchSource for Random {
    fn n_batches(&self) -> usize {
        3
    }

    fn batches(&self, _: usize, _: usize) -> lmht_train::Result<Batches<'_>> {
        Ok(Box::new((0..3).map(|i| {
            let config = self.0.config();
            let images = tensor(i, &[2, config.in_channels, 16, 16], DType::F32, &CPU)?;
            Ok(Batch::with_labels(images, Tensor::new(&[i as u32, 4], &CPU)?))
        })))
    }
}

#[test]
fn an_evaluation_equals_the_passes() -> lmht_train::Result<()> {
    let config = ModelConfig { width: 4, n_classes: 5, ..ModelConfig::resnet20(5) };
    let data = Random(build(&config, DType::F32)?.0);
    let fixed = evaluate(&data.0, &data, Progress::Silent, None)?;
    assert_eq!(fixed, evaluate(&data.0, &data, Progress::Silent, Some(&mut Blind))?, "watched");
    let mut sum = 0.;
    for batch in data.batches(0, 0)? {
        let batch = batch?;
        let readout = readout(&data.0.forward(&batch.images, &mut Pass::eval())?)?;
        sum += f64::from(loss::cross_entropy(&readout, batch.targets.labels()?, 0.)?.to_scalar::<f32>()?);
    }
    assert!((fixed.loss - sum / 3.).abs() < 1e-6, "{} and {}", fixed.loss, sum / 3.);
    Ok(())
}
