//! What the checks share: numbers and comparisons.

use crate::{Dtype, HostBuffer, Result};
use lmht_core::Real;

/// Nothing, or what differs, in words.
pub type Outcome = std::result::Result<(), String>;

/// Numbers from a seed.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f64 / (1u64 << 24) as f64
    }

    /// In `low..high`.
    pub(super) fn values(&mut self, n: usize, low: f64, high: f64) -> Vec<f64> {
        (0..n).map(|_| low + (high - low) * self.next()).collect()
    }

    /// The same, every second one a multiple of `step`: ties.
    pub(super) fn with_ties(&mut self, n: usize, low: f64, high: f64, step: f64) -> Vec<f64> {
        let tie = |(i, x): (usize, f64)| if i % 2 == 0 { (x / step).floor() * step } else { x };
        self.values(n, low, high).into_iter().enumerate().map(tie).collect()
    }
}

/// A type that references compute in.
pub(super) trait Number: Real {
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
pub(super) fn typed<R: Real>(values: &[f64]) -> Vec<R> {
    values.iter().map(|&x| R::from_f64(x)).collect()
}

/// The values of a buffer against those of a reference; a `tolerance` of 0 is for equal ones.
pub(super) fn same<R: Real>(what: &str, got: &HostBuffer, want: &[R], tolerance: f64) -> Outcome {
    let want: Vec<f64> = want.iter().map(|x| x.to_f64()).collect();
    near(what, &got.to_f64(), &want, tolerance)
}

pub(super) fn near(what: &str, got: &[f64], want: &[f64], tolerance: f64) -> Outcome {
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
pub(super) fn ran<T>(result: Result<T>) -> std::result::Result<T, String> {
    result.map_err(|error| error.to_string())
}

/// Rounds as a store of a 16-bit type does.
pub(super) fn rounded(dtype: Dtype, values: &[f64]) -> Vec<f64> {
    HostBuffer::new(dtype, values).to_f64()
}
