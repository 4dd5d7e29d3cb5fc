//! The suite on the emulator.

use lmht_gpu::suite::checks;

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
