//! The suite on the emulator.

use lmht_core::LmhtConfig;
use lmht_gpu::plans::neuron;
use lmht_gpu::suite::checks;
use lmht_gpu::{Dtype, HostBuffer};

use crate::support::emulators;

fn in_every_order(operation: &str) {
    for emulator in emulators() {
        let checks: Vec<_> = checks().into_iter().filter(|check| check.operation == operation).collect();
        assert!(!checks.is_empty(), "no check of {operation}");
        for check in checks {
            if let Err(message) = (check.run)(&emulator) {
                panic!("{:?}: {message}", emulator.order);
            }
        }
    }
}

#[test]
fn neuron() {
    in_every_order("neuron");
}

#[test]
fn norm_neuron() {
    in_every_order("norm_neuron");
}

#[test]
fn batch_norm() {
    in_every_order("batch_norm");
}

#[test]
fn ilif() {
    in_every_order("ilif");
}

#[test]
fn ternary() {
    in_every_order("ternary");
}

#[test]
fn qcfs() {
    in_every_order("qcfs");
}

#[test]
fn pool() {
    in_every_order("pool");
}

#[test]
fn im2col() {
    in_every_order("im2col");
}

#[test]
fn gather() {
    in_every_order("gather");
}

#[test]
fn loss() {
    in_every_order("loss");
}

#[test]
fn optimizer() {
    in_every_order("optimizer");
}

#[test]
fn cast() {
    in_every_order("cast");
}

/// The order of a sum over blocks is the plan's, not the scheduler's.
#[test]
fn sums_are_the_same_bits_in_every_order_of_threads() {
    let layer = LmhtConfig::lmht(2, 2).check().expect("a neuron");
    let numbers: Vec<f64> = (0..1000_u32).map(|i| f64::from(i.wrapping_mul(2_654_435_761) >> 8) / 4e6).collect();
    let (xs, learned) =
        (HostBuffer::new(Dtype::F32, &numbers), HostBuffer::new(Dtype::F32, &[0.3, 0.7, 0.4, 0.6, 0.9]));
    let sums: Vec<Vec<u8>> = emulators()
        .iter()
        .map(|m| neuron::backward(m, &layer, &xs, &learned, &xs).expect("gradients").learned.bytes())
        .collect();
    assert!(sums.windows(2).all(|pair| pair[0] == pair[1]), "{sums:?}");
}
