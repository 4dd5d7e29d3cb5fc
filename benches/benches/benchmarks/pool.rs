//! Pooling of [32, 64, 32, 32], f32, beside copies of as many bytes.
//!
//! Throughput is in bytes: forward reads the maps and writes the smaller ones; backward the other way round. What Candle
//! adds to a backward pass (gradients summed onto zeros) is in the time and not in the bytes.

use candle_core::{Tensor, Var};
use criterion::{Criterion, Throughput};
use lmht_nn::ops::{Pool2dParams, avg_pool2d, global_avg_pool, max_pool2d};

use super::{Result, Traffic, done, pull, size, tensor, var};

/// After the stem of the ImageNet networks.
const STEM: Pool2dParams = Pool2dParams { kernel: 3, stride: 2, padding: 1 };
/// Between the stages of a VGG.
const HALVES: Pool2dParams = Pool2dParams { kernel: 2, stride: 2, padding: 0 };

/// A pooling of given size.
type Pool = dyn Fn(&Tensor) -> Result<Tensor>;

pub(crate) fn bench(c: &mut Criterion) {
    run(c).expect("pooling's benchmarks run on valid inputs");
}

fn run(c: &mut Criterion) -> Result<()> {
    let shape = [size(32, 1), 64, size(32, 4), size(32, 4)];
    let len = shape.iter().product::<usize>();
    let xs = var(&shape, 1)?;
    let mut traffic = Traffic::new(len);

    let mut group = c.benchmark_group("pool");
    group.sample_size(20);
    let cases: [(&str, &Pool); 4] = [
        ("max 3x3 stride 2", &|xs| max_pool2d(xs, STEM)),
        ("max 2x2", &|xs| max_pool2d(xs, HALVES)),
        ("avg 2x2", &|xs| avg_pool2d(xs, HALVES)),
        ("global avg", &global_avg_pool),
    ];
    for (name, op) in cases {
        let pooled = op(&xs)?.detach();
        let bytes = 4 * (len + pooled.elem_count()) as u64;
        let grad = tensor(pooled.dims(), 2)?;
        let step = |xs: &Var| pull(&op(xs)?, &grad)?.backward();
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function(format!("{name} forward"), |b| b.iter(|| done(op(&xs.as_detached_tensor()))));
        group.throughput(Throughput::Bytes(2 * bytes));
        group.bench_function(format!("{name} forward+backward"), |b| b.iter(|| done(step(&xs))));
    }
    group.throughput(Throughput::Bytes(2 * 4 * len as u64));
    group.bench_function("copy of the whole maps", |b| b.iter(|| traffic.copy(len)));
    group.finish();
    Ok(())
}
