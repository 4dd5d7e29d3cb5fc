//! One training step of every backbone at its published width: images of 32x32, L = 2, T = 2, batch 4, SGD.
//!
//! Beside criterion's report, one line a backbone: the median time of a step, images a second, and the memory that training
//! needs. Memory is measured in a process of its own, since an allocator keeps pages that it has once got: the peak of the
//! resident memory over two steps (`VmHWM` of `/proc/self/status`, real pages), less what was resident before them.
//! Parameters and batch are there before; activations, gradients and the optimizer's state are what is counted. Where
//! there is no `/proc`, the line says so.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use criterion::{Criterion, SamplingMode, Throughput};
use lmht_nn::{Backbone, ModelConfig, Network, NeuronConfig, ParamStore, Pass, readout};
use lmht_train::loss;
use lmht_train::optim::{Optimizer, OptimizerConfig, SgdConfig};

use super::memory::{memory_of, status_kib};
use super::{done, quick, size, tensor};

const GROUP: &str = "backbones";

const CLASSES: usize = 100;

/// Every backbone as it was published, but for the number of timesteps: T = 2 for all, so that the rows compare.
fn configs() -> impl Iterator<Item = ModelConfig> {
    let published: [fn(usize) -> ModelConfig; 13] = [
        ModelConfig::resnet18,
        ModelConfig::resnet19,
        ModelConfig::resnet20,
        ModelConfig::resnet34,
        ModelConfig::ms_resnet18,
        ModelConfig::ms_resnet34,
        ModelConfig::vgg11,
        ModelConfig::vgg13,
        ModelConfig::vgg13_standard,
        ModelConfig::vgg16,
        ModelConfig::vgg19,
        ModelConfig::cifarnet,
        ModelConfig::spikformer,
    ];
    published.into_iter().map(|published| {
        let config = ModelConfig { timesteps: 2, neuron: NeuronConfig::lmht(2), ..published(CLASSES) };
        match (quick(), &config.backbone) {
            (false, _) => config,
            (true, Backbone::Spikformer) => ModelConfig { width: 16, depth: Some(1), heads: Some(4), ..config },
            (true, _) => ModelConfig { width: 4, ..config },
        }
    })
}

/// A network, its optimizer and a batch.
struct Training {
    network: Network,
    optimizer: Box<dyn Optimizer>,
    images: Tensor,
    labels: Tensor,
}

impl Training {
    fn new(config: &ModelConfig) -> super::AnyResult<Self> {
        let batch = batch();
        let params = ParamStore::new(42);
        let network = Network::new(config, params.builder(DType::F32, &Device::Cpu))?;
        let sgd = SgdConfig { lr: 1e-3, momentum: 0.9, nesterov: true, weight_decay: 5e-4 };
        Ok(Self {
            network,
            optimizer: OptimizerConfig::Sgd(sgd).build(params.trainable())?,
            images: tensor(&[batch, config.in_channels, 32, 32], 1)?,
            labels: Tensor::from_vec((0..batch as u32).collect(), batch, &Device::Cpu)?,
        })
    }

    /// Forward, loss, backward, update.
    fn step(&mut self) -> super::AnyResult<()> {
        let readout = readout(&self.network.forward(&self.images, &mut Pass::train())?)?;
        let loss = loss::cross_entropy(&readout, &self.labels, 0.)?;
        Ok(self.optimizer.step(&loss.backward()?)?)
    }
}

fn batch() -> usize {
    size(4, 2)
}

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group(GROUP);
    // One iteration a sample where a step is long: a linear number of iterations would take five times as long.
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(4));
    group.throughput(Throughput::Elements(batch() as u64));
    let mut lines = Vec::new();
    for config in configs() {
        let title = config.backbone.title();
        let times = RefCell::new(Vec::new());
        group.bench_function(format!("{title} w{} L2T2 batch {}", config.width, batch()), |b| {
            let mut training = done(Training::new(&config));
            // What a first step allocates for good is no part of the others' time.
            done(training.step());
            // Warm-up and samples alike: the median below is of all these steps.
            b.iter_custom(|iterations| {
                let start = Instant::now();
                for _ in 0..iterations {
                    let start = Instant::now();
                    done(training.step());
                    times.borrow_mut().push(start.elapsed().as_secs_f64());
                }
                start.elapsed()
            });
        });
        let mut times = times.into_inner();
        // Nothing was run if a filter or `--list` left it out.
        if !times.is_empty() {
            times.sort_by(f64::total_cmp);
            let seconds = times[(times.len() - 1) / 2];
            let (ms, rate) = (1e3 * seconds, batch() as f64 / seconds);
            lines.push(format!("{title:<18} {:>5} {ms:>9.1} {rate:>9.2} {:>9}", config.width, memory_of(title)));
        }
    }
    group.finish();
    if !lines.is_empty() {
        println!("\n{GROUP}: a training step, L = 2, T = 2, 32x32, batch {}", batch());
        println!("{:<18} {:>5} {:>9} {:>9} {:>9}", "", "width", "ms/step", "images/s", "peak MiB");
        lines.iter().for_each(|line| println!("{line}"));
    }
}

/// Whether `title` is a backbone; then the peak memory of two training steps, in MiB beyond the network's, was printed.
pub(crate) fn printed_memory(title: &str) -> bool {
    let Some(config) = configs().find(|config| config.backbone.title() == title) else { return false };
    let mut training = done(Training::new(&config));
    let before = status_kib("VmRSS");
    for _ in 0..2 {
        done(training.step());
    }
    match (before, status_kib("VmHWM")) {
        (Some(before), Some(peak)) => println!("{:.1}", (peak - before) / 1024.),
        _ => println!("no /proc"),
    }
    true
}
