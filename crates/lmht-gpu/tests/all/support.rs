//! What the tests share: numbers, comparisons, and the orders of threads in which everything runs.

use lmht_core::Real;
use lmht_gpu::emulator::{Emulator, HostBuffer, Order};
use lmht_gpu::{Dtype, Result};

/// What differs, in words.
pub(crate) type Outcome = std::result::Result<(), String>;

/// The emulators that everything runs on, or none, said in a line, without a C++ compiler.
pub(crate) fn emulators() -> Vec<Emulator> {
    if Emulator::compiler().is_none() {
        println!("skipped: no C++ compiler to run kernels with; install g++ or clang++, or set CXX");
        return Vec::new();
    }
    let folder = concat!(env!("CARGO_TARGET_TMPDIR"), "/kernels");
    let orders = [Order::Ascending, Order::Descending, Order::Shuffled(7)];
    orders.map(|order| Emulator { order, ..Emulator::new(folder) }).to_vec()
}

/// Runs a check in every order.
pub(crate) fn in_every_order(check: fn(&Emulator) -> Outcome) {
    for emulator in emulators() {
        if let Err(message) = check(&emulator) {
            panic!("{:?}: {message}", emulator.order);
        }
    }
}

/// Numbers from a seed.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f64 / (1u64 << 24) as f64
    }

    /// In `low..high`.
    pub(crate) fn values(&mut self, n: usize, low: f64, high: f64) -> Vec<f64> {
        (0..n).map(|_| low + (high - low) * self.next()).collect()
    }

    /// The same, every second one a multiple of `step`: ties.
    pub(crate) fn with_ties(&mut self, n: usize, low: f64, high: f64, step: f64) -> Vec<f64> {
        let tie = |(i, x): (usize, f64)| if i % 2 == 0 { (x / step).floor() * step } else { x };
        self.values(n, low, high).into_iter().enumerate().map(tie).collect()
    }
}

/// A type that references compute in.
pub(crate) trait Number: Real {
    const DTYPE: Dtype;
    /// How far gradients may be off, in parts of their size.
    const TOLERANCE: f64;
}

impl Number for f32 {
    const DTYPE: Dtype = Dtype::F32;
    const TOLERANCE: f64 = 2e-4;
}

impl Number for f64 {
    const DTYPE: Dtype = Dtype::F64;
    const TOLERANCE: f64 = 1e-11;
}

/// Numbers as the type of a reference.
pub(crate) fn typed<R: Real>(values: &[f64]) -> Vec<R> {
    values.iter().map(|&x| R::from_f64(x)).collect()
}

/// The values of a buffer against those of a reference; a `tolerance` of 0 is for equal ones.
pub(crate) fn same<R: Real>(what: &str, got: &HostBuffer, want: &[R], tolerance: f64) -> Outcome {
    let want: Vec<f64> = want.iter().map(|x| x.to_f64()).collect();
    near(what, &got.to_f64(), &want, tolerance)
}

pub(crate) fn near(what: &str, got: &[f64], want: &[f64], tolerance: f64) -> Outcome {
    if got.len() != want.len() {
        return Err(format!("{what}: {} values, expected {}", got.len(), want.len()));
    }
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        // A comparison with NaN is false.
        let close = if tolerance == 0. { got == want } else { (got - want).abs() <= tolerance * (1. + want.abs()) };
        if !close {
            return Err(format!("{what}[{i}]: {got}, expected {want}"));
        }
    }
    Ok(())
}

/// A result of the machine as one of a check.
pub(crate) fn ran<T>(result: Result<T>) -> std::result::Result<T, String> {
    result.map_err(|error| error.to_string())
}

/// Rounds as a store of a 16-bit type does.
pub(crate) fn rounded(dtype: Dtype, values: &[f64]) -> Vec<f64> {
    HostBuffer::new(dtype, values).to_f64()
}
