//! Convolutions of ResNet-18, f32, ours beside Candle's.
//!
//! Throughput counts floating-point operations: criterion's "elem/s" is FLOP/s here, as the group's name says. A
//! multiply-accumulate is two. Forward is 2 N C_in C_out k² H_out W_out, backward twice that, padding counted as if it
//! were computed. Backward goes through Candle's `backward`, which adds each gradient to zeros; that is in the time.

use candle_core::{Tensor, Var};
use criterion::{BenchmarkId, Criterion, Throughput};
use lmht_nn::ops::{Conv2dParams, conv2d};

use super::{Result, done, pull, quick, size, tensor, var};

/// One convolution with k/2 padding.
#[derive(Clone, Copy)]
struct Case {
    /// Images, T·B.
    n: usize,
    c_in: usize,
    c_out: usize,
    /// Height and width of the input.
    side: usize,
    kernel: usize,
    stride: usize,
    /// Whether Candle's own is measured forward and backward too.
    contrast: bool,
}

/// The 3x3 convolutions of ResNet-18 at CIFAR size, T·B = 32.
const CIFAR: [Case; 5] = [
    Case { n: 32, c_in: 64, c_out: 64, side: 32, kernel: 3, stride: 1, contrast: true },
    Case { n: 32, c_in: 64, c_out: 128, side: 32, kernel: 3, stride: 2, contrast: false },
    Case { n: 32, c_in: 128, c_out: 128, side: 16, kernel: 3, stride: 1, contrast: false },
    Case { n: 32, c_in: 256, c_out: 256, side: 8, kernel: 3, stride: 1, contrast: true },
    Case { n: 32, c_in: 512, c_out: 512, side: 4, kernel: 3, stride: 1, contrast: false },
];

/// ResNet-18 at a quarter of its width on 28x28 images, T·B = 128: both stems, the four stages, one shortcut.
const SMALL: [Case; 7] = [
    Case { n: 64, c_in: 1, c_out: 16, side: 28, kernel: 7, stride: 2, contrast: false },
    Case { n: 64, c_in: 1, c_out: 16, side: 28, kernel: 3, stride: 1, contrast: false },
    Case { n: 128, c_in: 16, c_out: 16, side: 28, kernel: 3, stride: 1, contrast: false },
    Case { n: 128, c_in: 32, c_out: 32, side: 14, kernel: 3, stride: 1, contrast: false },
    Case { n: 128, c_in: 64, c_out: 64, side: 7, kernel: 3, stride: 1, contrast: false },
    Case { n: 128, c_in: 128, c_out: 128, side: 4, kernel: 3, stride: 1, contrast: false },
    Case { n: 128, c_in: 64, c_out: 128, side: 7, kernel: 1, stride: 2, contrast: false },
];

impl Case {
    fn params(&self) -> Conv2dParams {
        Conv2dParams { stride: self.stride, padding: self.kernel / 2, groups: 1 }
    }

    fn flop(&self) -> u64 {
        let side = (self.side + 2 * (self.kernel / 2) - self.kernel) / self.stride + 1;
        (2 * self.n * self.c_in * self.c_out * self.kernel * self.kernel * side * side) as u64
    }

    fn name(&self) -> String {
        let Self { n, c_in, c_out, side, kernel, stride, .. } = self;
        format!("{n}x {c_in}to{c_out} {side}x{side} k{kernel} s{stride}")
    }
}

pub(crate) fn bench(c: &mut Criterion) {
    run(c).expect("the convolution's benchmarks run on valid inputs");
}

fn run(c: &mut Criterion) -> Result<()> {
    let mut group = c.benchmark_group("conv2d_flop");
    group.sample_size(if quick() { 10 } else { 15 });
    for mut case in CIFAR.into_iter().chain(SMALL) {
        case.n = size(case.n, 1);
        let Case { n, c_in, c_out, side, kernel, stride, contrast } = case;
        let p = case.params();
        let xs = var(&[n, c_in, side, side], 1)?;
        let weight = var(&[c_out, c_in, kernel, kernel], 2)?;
        let ours = |xs: &Tensor, weight: &Tensor| conv2d(xs, weight, None, p);
        let candle = |xs: &Tensor, weight: &Tensor| xs.conv2d(weight, p.padding, stride, 1, 1);
        let grad = tensor(ours(&xs, &weight)?.dims(), 3)?;
        // An image has no gradient.
        let image = c_in == 1;
        let step = |conv: &dyn Fn(&Tensor, &Tensor) -> Result<Tensor>, xs: &Var, weight: &Var| {
            let xs = if image { xs.as_detached_tensor() } else { xs.as_tensor().clone() };
            pull(&conv(&xs, weight)?, &grad)?.backward()
        };

        group.throughput(Throughput::Elements(case.flop()));
        group.bench_function(BenchmarkId::new("ours forward", case.name()), |b| {
            b.iter(|| done(ours(&xs.as_detached_tensor(), &weight.as_detached_tensor())));
        });
        group.bench_function(BenchmarkId::new("candle forward", case.name()), |b| {
            b.iter(|| done(candle(&xs.as_detached_tensor(), &weight.as_detached_tensor())));
        });
        group.throughput(Throughput::Elements(case.flop() * if image { 2 } else { 3 }));
        group.bench_function(BenchmarkId::new("ours forward+backward", case.name()), |b| {
            b.iter(|| done(step(&ours, &xs, &weight)));
        });
        if contrast {
            group.bench_function(BenchmarkId::new("candle forward+backward", case.name()), |b| {
                b.iter(|| done(step(&candle, &xs, &weight)));
            });
        }
    }

    // What the machine gives for the same arithmetic in its best form.
    let n = size(1024, 64);
    let (a, b) = (tensor(&[n, n], 1)?, tensor(&[n, n], 2)?);
    group.throughput(Throughput::Elements(2 * (n * n * n) as u64));
    group.bench_function(BenchmarkId::new("matrix product", format!("{n}x{n}")), |bench| {
        bench.iter(|| done(a.matmul(&b)))
    });
    group.finish();
    Ok(())
}
