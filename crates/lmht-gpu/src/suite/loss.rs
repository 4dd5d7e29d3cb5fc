//! Cross-entropy against a loop.

use crate::plans::loss::{CrossEntropy, cross_entropy};
use crate::{Dtype, HostBuffer, Machine};

use super::support::*;

fn check_as<M: Machine<Buffer = HostBuffer>>(m: &M, dtype: Dtype, tolerance: f64) -> Outcome {
    for (timesteps, images, classes, smoothing) in [(1, 3, 10, 0.), (2, 5, 100, 0.1), (3, 1, 33, 0.5), (2, 40, 2, 0.)] {
        let (mut rng, len) = (Rng(4), timesteps * images * classes);
        // Far below zero, too: an exponential without the maximum taken off would vanish.
        let logits = rounded(dtype, &rng.values(len, -900., -880.));
        let labels: Vec<f64> = rng.values(images, 0., classes as f64).iter().map(|x| x.floor()).collect();
        let (mut loss, mut grad) = (0., vec![0.; len]);
        for (image, &true_label) in labels.iter().enumerate() {
            let at = |t: usize, k: usize| (t * images + image) * classes + k;
            let mean = |k| (0..timesteps).map(|t| logits[at(t, k)]).sum::<f64>() / timesteps as f64;
            let readout: Vec<f64> = (0..classes).map(mean).collect();
            let highest = readout.iter().copied().fold(f64::MIN, f64::max);
            let log_sum = highest + readout.iter().map(|x| (x - highest).exp()).sum::<f64>().ln();
            for (k, x) in readout.iter().enumerate() {
                let label = if k as f64 == true_label { 1. - smoothing } else { 0. };
                let target = label + smoothing / classes as f64;
                loss -= target * (x - log_sum) / images as f64;
                for t in 0..timesteps {
                    grad[at(t, k)] = 8. * ((x - log_sum).exp() - target) / (images * timesteps) as f64;
                }
            }
        }
        let how = CrossEntropy { timesteps, label_smoothing: smoothing, loss_scale: 8. };
        let (logits, labels) = (HostBuffer::new(dtype, &logits), HostBuffer::new(Dtype::U32, &labels));
        let (got, gradient) = ran(cross_entropy(m, how, &logits, &labels))?;
        let what = format!("of {how:?} [{timesteps}, {images}, {classes}] {dtype}");
        near(&format!("loss {what}"), &got.to_f64(), &[loss], tolerance)?;
        near(&format!("gradient {what}"), &gradient.to_f64(), &grad, tolerance)?;
    }
    Ok(())
}

pub(super) fn check<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    check_as(m, Dtype::F64, 1e-11)
}

/// In f32 and a 16-bit type.
pub(super) fn check_f32<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    check_as(m, Dtype::F32, 1e-3)?;
    check_as(m, Dtype::F16, 1e-2)
}
