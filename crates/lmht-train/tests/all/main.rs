//! Integration tests of `lmht-train`, one binary because linking Candle is slow.

mod device;
#[cfg(feature = "datasets")]
mod examples;
mod fit;
#[cfg(feature = "datasets")]
mod gathered;
mod loss;
mod optim;
mod record;
mod schedule;
mod source;
mod tensorboard;

/// Reproducible numbers in `-1..1` (an LCG with Knuth's constants): tests must not depend on the crates they check.
fn numbers(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.
    };
    // The first numbers of neighbouring seeds resemble each other.
    (0..8 + n).map(|_| next()).skip(8).collect()
}

/// `|a - b| <= tolerance`, or a message with both.
#[track_caller]
fn assert_close(a: f64, b: f64, tolerance: f64) {
    assert!((a - b).abs() <= tolerance, "{a:e} and {b:e} differ by {:e}, more than {tolerance:e}", (a - b).abs());
}
