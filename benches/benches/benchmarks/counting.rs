//! What counting operations adds to an evaluation: the same forward pass without an observer, with one that looks at
//! nothing, with the counter of operations, and with operations and firing.
//!
//! After criterion's table come ratios of passes measured in turns: on a machine that others use too, neighbours compare
//! better than medians.

use std::hint::black_box;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use criterion::{Criterion, Throughput};
use lmht_bench::{CostCounter, Profiler};
use lmht_nn::{ModelConfig, Network, Observer, ParamStore, Pass, Stem};

use super::{done, quick, size, tensor};

/// Rounds whose median ratio is printed.
const ROUNDS: usize = 21;

/// Looks at nothing.
struct Blind;

impl Observer for Blind {}

const NAMES: [&str; 4] = ["no observer", "an observer that does nothing", "CostCounter", "Profiler"];

pub(crate) fn bench(c: &mut Criterion) {
    run(c).expect("the counting benchmarks run on valid inputs");
}

fn run(c: &mut Criterion) -> lmht_nn::Result<()> {
    for (name, width, side, batch) in [("w16 28x28", 16, 28, size(50, 2)), ("w64 32x32", 64, 32, size(10, 1))] {
        let config = ModelConfig { width, stem: Stem::Cifar, ..ModelConfig::resnet18(10) };
        let network = Network::new(&config, ParamStore::new(42).builder(DType::F32, &Device::Cpu))?;
        let images = tensor(&[batch, 3, side, side], 1)?;
        let mut group = c.benchmark_group(format!("counting, images of ResNet-18 {name} L2T2 batch {batch}"));
        group.sample_size(10).throughput(Throughput::Elements(batch as u64));
        for (what, name) in NAMES.iter().enumerate() {
            group.bench_function(*name, |b| b.iter(|| done(forward(&network, &images, what))));
        }
        group.finish();
        if !quick() {
            ratios(name, &network, &images)?;
        }
    }
    Ok(())
}

fn forward(network: &Network, images: &Tensor, what: usize) -> lmht_nn::Result<Tensor> {
    match what {
        0 => network.forward(images, &mut Pass::eval()),
        1 => network.forward(images, &mut Pass::eval().observed_by(&mut Blind)),
        2 => network.forward(images, &mut Pass::eval().observed_by(&mut CostCounter::new())),
        _ => network.forward(images, &mut Pass::eval().observed_by(&mut Profiler::new())),
    }
}

/// Prints how many times as long as without an observer: quartiles over rounds.
fn ratios(name: &str, network: &Network, images: &Tensor) -> lmht_nn::Result<()> {
    let mut times = vec![[0.; NAMES.len()]; ROUNDS];
    for (round, times) in times.iter_mut().enumerate() {
        for i in 0..NAMES.len() {
            let what = (i + round) % NAMES.len();
            let start = Instant::now();
            black_box(forward(network, images, what)?);
            times[what] = start.elapsed().as_secs_f64();
        }
    }
    println!("\ncounting, ResNet-18 {name}: time over that without an observer, {ROUNDS} rounds, quartiles");
    for (what, name) in NAMES.iter().enumerate().skip(1) {
        let mut ratios: Vec<f64> = times.iter().map(|times| times[what] / times[0]).collect();
        ratios.sort_by(f64::total_cmp);
        let [low, median, high] = [1, 2, 3].map(|quarter| ratios[(ROUNDS - 1) * quarter / 4]);
        println!("{name:<32} {median:.3} ({low:.3} .. {high:.3})");
    }
    Ok(())
}
