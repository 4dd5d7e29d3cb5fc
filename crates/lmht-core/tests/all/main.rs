//! The tests of `lmht-core`, in one binary.

mod baselines;
mod config;
mod dynamics;
mod gradients;
mod ilif;
mod kernel;
mod qcfs;
mod reparameterized;
mod ternary;
mod tgim;
mod theorems;
mod traces;

use lmht_core::{LmhtNeuron, Real, reference};
use proptest::prelude::ProptestConfig;
use proptest::test_runner::RngSeed;

/// Property tests draw the same cases at every run.
fn seeded() -> ProptestConfig {
    ProptestConfig { cases: 2000, rng_seed: RngSeed::Fixed(20240202), failure_persistence: None, ..Default::default() }
}

/// A small deterministic generator (SplitMix64), so that a failure can be repeated from its seed.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[low, high)`.
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn vec<R: Real>(&mut self, len: usize, low: f64, high: f64) -> Vec<R> {
        (0..len).map(|_| R::from_f64(self.uniform(low, high))).collect()
    }
}

/// The forward pass of an engine, as a new vector.
fn forward<R: Real>(neuron: &LmhtNeuron, omega: &[R], leak: R, xs: &[R]) -> Vec<R> {
    let mut out = vec![R::from_f64(f64::NAN); xs.len()];
    neuron.forward(omega, leak, xs, &mut out);
    out
}

/// What a backward pass returns.
#[derive(Clone, Debug, PartialEq)]
struct Gradients<R> {
    xs: Vec<R>,
    omega: Vec<R>,
    leak: R,
}

/// The backward pass of the readable (`readable`) or the fast engine. The results start as NaN: all must be written.
fn backward<R: Real>(
    readable: bool,
    neuron: &LmhtNeuron,
    omega: &[R],
    leak: R,
    xs: &[R],
    grad_out: &[R],
) -> Gradients<R> {
    let nan = R::from_f64(f64::NAN);
    let (mut grad_xs, mut grad_omega) = (vec![nan; xs.len()], vec![nan; omega.len()]);
    let leak = if readable {
        reference::backward(neuron, omega, leak, xs, grad_out, &mut grad_xs, &mut grad_omega)
    } else {
        neuron.backward(omega, leak, xs, grad_out, &mut grad_xs, &mut grad_omega)
    };
    Gradients { xs: grad_xs, omega: grad_omega, leak }
}

/// Every value `copies` times, so that a trace also runs through the vector part of the kernel.
fn repeat<R: Real>(values: &[f64], copies: usize) -> Vec<R> {
    values.iter().flat_map(|&v| std::iter::repeat_n(R::from_f64(v), copies)).collect()
}

/// The bits of values, for equality that tells 0 from -0.
fn bits<R: Real>(values: &[R]) -> Vec<u64> {
    values.iter().map(|v| v.to_f64().to_bits()).collect()
}
