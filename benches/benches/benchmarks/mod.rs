//! One module per operation, and what they share: seeded inputs, copies of known traffic, the quick mode.

pub(crate) mod backbones;
pub(crate) mod choices;
pub(crate) mod convert;
pub(crate) mod counting;
pub(crate) mod memory;
pub(crate) mod neuron;
pub(crate) mod ratio;
pub(crate) mod train_step;

use candle_core::{Device, Tensor, Var};
use rayon::prelude::*;

/// Errors end the run: a benchmark has nobody to hand them to.
pub(crate) type Result<T> = candle_core::Result<T>;

/// Of what uses several crates.
pub(crate) type AnyResult<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What an operation gave. Returned as it is, an error would pass for a very fast operation.
pub(crate) fn done<T, E: std::fmt::Display>(result: std::result::Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("the inputs of a benchmark are valid, yet it failed: {error}"))
}

/// Whether everything is to run once on small inputs. `cargo bench` passes `--bench`, `cargo test` does not.
pub(crate) fn quick() -> bool {
    let has = |name: &str| arguments().any(|argument| argument == name);
    has("--test") || !has("--bench")
}

/// The arguments of this process, those that are text.
pub(crate) fn arguments() -> impl Iterator<Item = String> {
    std::env::args_os().filter_map(|argument| argument.into_string().ok())
}

/// `size`, or `small` in quick mode.
pub(crate) fn size(size: usize, small: usize) -> usize {
    if quick() { small } else { size }
}

/// `len` numbers, evenly spread over `low..high`, the same for the same seed.
pub(crate) fn uniform(len: usize, (low, high): (f32, f32), seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..len).map(|_| low + (high - low) * ((random(&mut state) >> 40) as f32 / (1_u64 << 24) as f32)).collect()
}

/// The next number of SplitMix64.
pub(crate) fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A tensor of [`uniform`] numbers in -1..1.
pub(crate) fn tensor(shape: &[usize], seed: u64) -> Result<Tensor> {
    Tensor::from_vec(uniform(shape.iter().product(), (-1., 1.), seed), shape, &Device::Cpu)
}

/// [`tensor`] as a variable.
pub(crate) fn var(shape: &[usize], seed: u64) -> Result<Var> {
    Var::from_tensor(&tensor(shape, seed)?)
}

/// Numbers that one task copies: 256 KiB, so that tasks are many and starting one costs nothing beside it.
const CHUNK: usize = 1 << 16;

/// `dst = src` on rayon's threads: reads the bytes once and writes them once.
pub(crate) fn copy(src: &[f32], dst: &mut [f32]) {
    dst.par_chunks_mut(CHUNK).zip(src.par_chunks(CHUNK)).for_each(|(dst, src)| dst.copy_from_slice(src));
}

/// `dst = a + b` on rayon's threads: the traffic of two reads and one write, with the least arithmetic that needs both.
pub(crate) fn add(a: &[f32], b: &[f32], dst: &mut [f32]) {
    dst.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK)).for_each(|((dst, a), b)| {
        for ((dst, a), b) in dst.iter_mut().zip(a).zip(b) {
            *dst = a + b;
        }
    });
}

/// Buffers for copies whose traffic is known, allocated and touched once.
pub(crate) struct Traffic {
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
}

impl Traffic {
    /// For tensors of `len` numbers.
    pub(crate) fn new(len: usize) -> Self {
        Self { a: uniform(len, (-1., 1.), 1), b: uniform(len, (-1., 1.), 2), c: vec![1.; len] }
    }

    /// What a neuron has to move at least: forward reads x and writes y, backward reads x and the gradient and writes
    /// the gradient of x. Three reads and two writes.
    pub(crate) fn neuron(&mut self, buffers: &mut [f32]) {
        copy(&self.a, buffers);
        add(&self.a, &self.b, &mut self.c);
    }
}
