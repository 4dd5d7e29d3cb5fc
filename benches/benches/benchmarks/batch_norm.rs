//! Batch normalisation of [32, 64, 32, 32], f32, with batch statistics, beside copies of the bytes that two passes over
//! the data move.
//!
//! Throughput is in bytes. Forward reads x for the statistics, then reads x and writes y: 3 times the tensor. Backward
//! reads x and dLoss/dy for two sums, then both again and writes dLoss/dx: 5 times.

use criterion::{Criterion, Throughput};
use lmht_nn::ops::batch_norm_train;

use super::{Result, Traffic, done, pull, size, tensor, var};

pub(crate) fn bench(c: &mut Criterion) {
    run(c).expect("batch norm's benchmarks run on valid inputs");
}

fn run(c: &mut Criterion) -> Result<()> {
    let shape = [size(32, 2), 64, size(32, 4), size(32, 4)];
    let len = shape.iter().product::<usize>();
    let (xs, weight, bias) = (var(&shape, 1)?, var(&[64], 2)?, var(&[64], 3)?);
    let grad = tensor(&shape, 4)?;
    let mut traffic = Traffic::new(len);

    let mut group = c.benchmark_group("batch_norm");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(3 * 4 * len as u64));
    group.bench_function("train forward", |b| {
        b.iter(|| {
            done(batch_norm_train(
                &xs.as_detached_tensor(),
                &weight.as_detached_tensor(),
                &bias.as_detached_tensor(),
                1e-5,
            ))
        });
    });
    group.bench_function("copy the bytes of forward", |b| b.iter(|| traffic.add(len)));
    group.throughput(Throughput::Bytes(8 * 4 * len as u64));
    group.bench_function("train forward+backward", |b| {
        b.iter(|| done(pull(&done(batch_norm_train(&xs, &weight, &bias, 1e-5)).0, &grad).and_then(|y| y.backward())));
    });
    group.bench_function("copy the bytes of forward+backward", |b| {
        b.iter(|| {
            // 3 + 3 + 2 passes.
            traffic.add(len);
            traffic.add(len);
            traffic.copy(len);
        });
    });
    group.finish();
    Ok(())
}
