//! A training step of the small ResNet-18 of the Fashion-MNIST tables: width 16, 28x28 grey images, batch 64, SGD.
//!
//! Throughput counts images. The time holds forward, loss, backward and update; loading and augmenting are not in it.

use candle_core::{DType, Device, Tensor};
use criterion::{Criterion, Throughput};
use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore, Pass, Stem, readout};
use lmht_train::loss;
use lmht_train::optim::{OptimizerConfig, SgdConfig};

use super::{done, quick, size, tensor};

pub(crate) fn bench(c: &mut Criterion) {
    run(c).expect("the training step's benchmarks run on valid inputs");
}

fn run(c: &mut Criterion) -> super::AnyResult<()> {
    let batch = size(64, 2);
    let images = tensor(&[batch, 1, 28, 28], 1)?;
    let labels = Tensor::from_vec((0..batch as u32).map(|i| i % 10).collect(), batch, &Device::Cpu)?;
    let sgd = OptimizerConfig::Sgd(SgdConfig { lr: 1e-3, momentum: 0.9, nesterov: true, weight_decay: 5e-4 });

    let mut group = c.benchmark_group("train_step");
    group.sample_size(if quick() { 10 } else { 20 }).throughput(Throughput::Elements(batch as u64));
    for (stem_name, stem) in [("imagenet", Stem::Imagenet), ("cifar", Stem::Cifar)] {
        for (name, timesteps, neuron) in
            [("L2T2", 2, NeuronConfig::lmht(2)), ("L1T4", 4, NeuronConfig::integrate_and_fire())]
        {
            let config =
                ModelConfig { width: 16, stem, in_channels: 1, timesteps, neuron, ..ModelConfig::resnet18(10) };
            let params = ParamStore::new(42);
            let network = Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
            let mut optimizer = sgd.build(params.trainable())?;
            group.bench_function(format!("images of ResNet-18 w16 {stem_name} stem {name} batch {batch}"), |b| {
                let mut step = || -> super::AnyResult<()> {
                    let readout = readout(&network.forward(&images, &mut Pass::train())?)?;
                    let loss = loss::cross_entropy(&readout, &labels, 0.)?;
                    Ok(optimizer.step(&loss.backward()?)?)
                };
                b.iter(|| done(step()));
            });
        }
    }
    group.finish();
    Ok(())
}
