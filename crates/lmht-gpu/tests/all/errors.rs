//! What plans refuse, and how they say it.

use lmht_core::LmhtConfig;
use lmht_gpu::plans::batch_norm::{self, Affine, Statistics};
use lmht_gpu::plans::loss::{CrossEntropy, cross_entropy};
use lmht_gpu::plans::pool::{self, Windows};
use lmht_gpu::plans::{cast, neuron};
use lmht_gpu::{Dtype, Error, HostBuffer};

use crate::support::emulators;

fn zeros(len: usize) -> HostBuffer {
    HostBuffer::new(Dtype::F32, &vec![0.; len])
}

#[test]
fn operands_of_a_neuron() {
    for m in emulators() {
        let layer = LmhtConfig::lif(2).check().expect("a neuron");
        let error = neuron::forward(&m, &layer, &zeros(4), &zeros(4)).expect_err("four learned numbers");
        assert_eq!(error.to_string(), "neuron: learned numbers: expected 1 values of f32, got 4 of f32");
        assert!(matches!(neuron::forward(&m, &layer, &zeros(3), &zeros(1)), Err(Error::Size { .. })));
        let long = LmhtConfig::lmht(2, 100).check().expect("a neuron");
        let error = neuron::forward(&m, &long, &zeros(100), &zeros(1)).expect_err("T = 100");
        assert!(error.to_string().contains("at most 64"), "{error}");
    }
}

#[test]
fn one_value_has_no_variance() {
    for m in emulators() {
        let how = Statistics { eps: 1e-5, momentum: 0.1, repeats: 1 };
        let affine = Affine { weight: &zeros(1), bias: &zeros(1) };
        let running = (&mut zeros(1), &mut zeros(1));
        let error = batch_norm::statistics(&m, how, &zeros(1), &affine, running).expect_err("one row");
        assert_eq!(error.to_string(), "batch norm: xs: expected at least two rows for a variance, got 1");
    }
}

#[test]
fn a_label_beyond_the_classes_is_not_a_number() {
    for m in emulators() {
        let how = CrossEntropy { timesteps: 1, label_smoothing: 0., loss_scale: 1. };
        let labels = HostBuffer::new(Dtype::U32, &[0., 2.]);
        let (loss, _) = cross_entropy(&m, how, &zeros(4), &labels).expect("a loss");
        assert!(loss.to_f64()[0].is_nan());
    }
}

#[test]
fn windows_have_to_fit() {
    for m in emulators() {
        let windows = Windows { images: 2, h: 5, w: 7, c: 3, kernel: 3, stride: 0, padding: 1 };
        let error = pool::max_forward(&m, &windows, &zeros(210)).expect_err("stride 0");
        assert!(error.to_string().starts_with("pool: expected a stride above 0"), "{error}");
    }
}

#[test]
fn casts_know_their_types() {
    for m in emulators() {
        let error = cast::narrow(&m, &zeros(2), Dtype::U8).expect_err("no float");
        assert_eq!(error.to_string(), "narrow: to: expected f32, f16 or bf16, got u8");
    }
}
