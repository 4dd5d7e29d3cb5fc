//! Conversions of ResNet-18 at its published width: time, and memory beside that of the weights.

use std::hint::black_box;
use std::time::Duration;

use candle_core::{DType, Device};
use criterion::Criterion;
use lmht_convert::{HybridStart, Model, absorb_bn, absorb_thresholds, qcfs_to_lmht, reparameterize};
use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore, Schedule};

use super::memory::{memory_of, status_kib};
use super::{done, size};

const GROUP: &str = "convert";

/// What each conversion is called here, and the neuron that it starts from.
fn conversions() -> [(&'static str, NeuronConfig); 4] {
    [
        ("convert: hybrid start", NeuronConfig::qcfs(4)),
        ("convert: reparameterize", NeuronConfig::lmht(2)),
        ("convert: batch norm folded", NeuronConfig::lmht(2)),
        ("convert: thresholds folded", NeuronConfig::lmht(2)),
    ]
}

fn model(neuron: NeuronConfig) -> super::AnyResult<Model> {
    let timesteps = if neuron.is_spiking() { 2 } else { 1 };
    let config = ModelConfig { width: size(64, 4), neuron, timesteps, ..ModelConfig::resnet18(10) };
    let params = ParamStore::new(42);
    Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
    Ok(Model::of(&config, &params))
}

fn convert(name: &str, model: &Model) -> lmht_convert::Result<Model> {
    match name {
        "convert: hybrid start" => qcfs_to_lmht(model, 2, 2, HybridStart::Exact),
        "convert: reparameterize" => reparameterize(model, Schedule::FrontLoaded),
        "convert: batch norm folded" => absorb_bn(model),
        _ => absorb_thresholds(model),
    }
}

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group(GROUP);
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    let mut lines = Vec::new();
    for (name, neuron) in conversions() {
        let model = done(model(neuron));
        let mib = model.tensors.values().map(|tensor| 4 * tensor.elem_count()).sum::<usize>() as f64 / 1048576.;
        let mut ran = false;
        group.bench_function(name, |b| {
            ran = true;
            b.iter(|| black_box(done(convert(name, &model))));
        });
        if ran {
            lines.push(format!("{name:<28} {mib:>12.1} {:>12}", memory_of(name)));
        }
    }
    group.finish();
    if !lines.is_empty() {
        println!("\n{GROUP}: ResNet-18, memory beyond the model that is converted");
        println!("{:<28} {:>12} {:>12}", "", "weights MiB", "peak MiB");
        lines.iter().for_each(|line| println!("{line}"));
    }
}

/// Whether `title` is a conversion; then its peak memory, in MiB beyond the model's, was printed.
pub(crate) fn printed_memory(title: &str) -> bool {
    let Some((name, neuron)) = conversions().into_iter().find(|(name, _)| *name == title) else { return false };
    let model = done(model(neuron));
    let before = status_kib("VmRSS");
    let converted = done(convert(name, &model));
    match (before, status_kib("VmHWM")) {
        (Some(before), Some(peak)) => println!("{:.1}", (peak - before) / 1024.),
        _ => println!("no /proc"),
    }
    drop(converted);
    true
}
