//! The LM-HT neuron, L = 2, f32, forward and backward, beside a copy of the bytes that it cannot avoid moving.
//!
//! Throughput is in bytes: five times the tensor (read x, write y; read x and dLoss/dy, write dLoss/dx), whatever the
//! measured function moves beyond that.

use std::hint::black_box;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use criterion::{BenchmarkId, Criterion, Throughput};
use lmht_core::{LmhtConfig, LmhtNeuron};
use lmht_nn::ops::{self, Learned};

use super::{Result, Traffic, done, quick, size, uniform, var};

/// L.
const LEVELS: u32 = 2;

/// A layer over preallocated slices, without Candle.
pub(crate) struct Slices {
    neuron: LmhtNeuron,
    omega: Vec<f32>,
    xs: Vec<f32>,
    ys: Vec<f32>,
    grad_ys: Vec<f32>,
    grad_xs: Vec<f32>,
    grad_omega: Vec<f32>,
}

impl Slices {
    pub(crate) fn new(timesteps: usize, len: usize) -> Self {
        let logits = uniform(timesteps * timesteps, (-0.5, 0.5), 3);
        Self {
            neuron: checked(timesteps),
            omega: lmht_core::tgim_from_logits(lmht_core::Tgim::Full, timesteps, &logits),
            // Currents that cross no, one and two thresholds about equally often.
            xs: uniform(len, (-1., 3.), 4),
            ys: vec![1.; len],
            grad_ys: uniform(len, (-1., 1.), 5),
            grad_xs: vec![1.; len],
            grad_omega: vec![0.; timesteps * timesteps],
        }
    }

    pub(crate) fn forward(&mut self) {
        self.neuron.forward(&self.omega, 1.1, &self.xs, &mut self.ys);
    }

    pub(crate) fn backward(&mut self) {
        let Self { neuron, omega, xs, grad_ys, grad_xs, grad_omega, .. } = self;
        black_box(neuron.backward(omega, 1.1, xs, grad_ys, grad_xs, grad_omega));
    }
}

/// A layer as an operation of Candle, with everything that it learns tracked.
pub(crate) struct Op {
    neuron: LmhtNeuron,
    xs: Var,
    learned: Learned,
}

impl Op {
    pub(crate) fn new(timesteps: usize, shape: &[usize]) -> Result<Self> {
        let xs = (var(shape, 4)?.affine(2., 1.))?;
        Ok(Self {
            neuron: checked(timesteps),
            xs: Var::from_tensor(&xs)?,
            learned: Learned::TgimAndLeak {
                tgim_logit: var(&[timesteps, timesteps], 3)?.as_tensor().clone(),
                leak_logit: var(&[1], 6)?.as_tensor().clone(),
            },
        })
    }

    /// The output is allocated and freed.
    pub(crate) fn forward(&self) -> Result<Tensor> {
        ops::neuron(&self.xs, &self.neuron, &self.learned)
    }

    /// Forward and backward, the latter with a gradient of ones, which is what Candle starts from; everything that is
    /// made on the way is freed.
    pub(crate) fn step(&self) -> Result<GradStore> {
        self.forward()?.backward()
    }

    /// [`step`](Self::step) as a chain of Candle's operations.
    fn step_composed(&self) -> Result<GradStore> {
        ops::neuron_composed(&self.xs, &self.neuron, &self.learned)?.backward()
    }

    /// Ends the run unless the operation and the chain agree in output and gradients, so that it is one thing that is
    /// measured twice. On average, because rounding may flip a spike that sits on a threshold.
    fn assert_agreement(&self) -> Result<()> {
        let (ours, chain) = (self.forward()?, ops::neuron_composed(&self.xs, &self.neuron, &self.learned)?);
        let Learned::TgimAndLeak { tgim_logit, leak_logit } = &self.learned else { return Ok(()) };
        let (our_grads, chain_grads) = (ours.backward()?, chain.backward()?);
        let mut pairs = vec![("output", Some(ours), Some(chain), 1.)];
        // The gradients of what is learned are sums over the units; their mean over the units is compared.
        let n_units = (self.xs.elem_count() / self.neuron.timesteps()) as f64;
        for (name, of, scale) in
            [("xs", self.xs.as_tensor(), 1.), ("tgim", tgim_logit, n_units), ("leak", leak_logit, n_units)]
        {
            pairs.push((name, our_grads.get(of).cloned(), chain_grads.get(of).cloned(), scale));
        }
        for (name, ours, chain, scale) in pairs {
            let (Some(ours), Some(chain)) = (ours, chain) else { panic!("{name}: expected a gradient, got none") };
            let difference = (ours - chain)?.abs()?.mean_all()?.to_scalar::<f32>()?;
            assert!(f64::from(difference) / scale < 1e-4, "{name}: op and chain differ by {difference} on average");
        }
        Ok(())
    }

    /// What Candle does around the backward pass of any operation: it starts from a tensor of ones, and adds each
    /// gradient to a tensor of zeros. Five passes over memory, as many as the neuron's own.
    pub(crate) fn candle_part(&self) -> Result<()> {
        let ones = self.xs.ones_like()?;
        let sum = self.xs.zeros_like()?.add(&ones)?;
        black_box(sum);
        Ok(())
    }
}

fn checked(timesteps: usize) -> LmhtNeuron {
    LmhtConfig::lmht(LEVELS, timesteps).check().expect("the published neuron is valid")
}

/// `[T, B, C, H, W]` of the benchmark: the same number of values for every T.
pub(crate) fn shape(timesteps: usize) -> [usize; 5] {
    [timesteps, size(64 / timesteps, 1), 64, size(32, 4), size(32, 4)]
}

pub(crate) fn bench(c: &mut Criterion) {
    run(c).expect("the neuron's benchmarks run on valid inputs");
}

fn run(c: &mut Criterion) -> Result<()> {
    for timesteps in [2, 4] {
        let shape = shape(timesteps);
        let len = shape.iter().product::<usize>();
        let id = |name: &str| BenchmarkId::new(name, format!("L{LEVELS}T{timesteps} {shape:?}"));

        let mut group = c.benchmark_group("neuron");
        group.throughput(Throughput::Bytes(5 * 4 * len as u64)).sample_size(30);
        let mut slices = Slices::new(timesteps, len);
        group.bench_function(id("core forward+backward"), |b| {
            b.iter(|| {
                slices.forward();
                slices.backward();
            });
        });
        let (mut traffic, mut ys) = (Traffic::new(len), vec![1.; len]);
        group.bench_function(id("copy the same bytes"), |b| b.iter(|| traffic.neuron(&mut ys)));
        let op = Op::new(timesteps, &shape)?;
        group.bench_function(id("op forward+backward"), |b| b.iter(|| done(op.step())));
        group.bench_function(id("of which Candle"), |b| b.iter(|| done(op.candle_part())));
        group.throughput(Throughput::Bytes(2 * 4 * len as u64));
        group.bench_function(id("op forward"), |b| b.iter(|| done(op.forward())));
        group.finish();

        // The chain is ten to twenty times slower, so it gets an eighth of the batch.
        let small = [timesteps, size(8 / timesteps, 1), shape[2], shape[3], shape[4]];
        let bytes = 5 * 4 * small.iter().product::<usize>() as u64;
        let mut group = c.benchmark_group("neuron_composed");
        group.throughput(Throughput::Bytes(bytes)).sample_size(if quick() { 10 } else { 20 });
        let op = Op::new(timesteps, &small)?;
        op.assert_agreement()?;
        let id = |name: &str| BenchmarkId::new(name, format!("L{LEVELS}T{timesteps} {small:?}"));
        group.bench_function(id("composed forward+backward"), |b| b.iter(|| done(op.step_composed())));
        group.bench_function(id("op forward+backward"), |b| b.iter(|| done(op.step())));
        group.finish();
    }
    Ok(())
}
