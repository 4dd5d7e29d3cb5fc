//! Batch norm against loops.

use crate::plans::batch_norm::{self, Affine, Statistics};
use crate::{Dtype, HostBuffer, Machine};

use super::support::*;

/// mean, 1/√(variance + eps), scale, bias of `[rows, channels]`, and the variances.
pub(super) fn norm(xs: &[f64], channels: usize, weight: &[f64], bias: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
    let rows = (xs.len() / channels) as f64;
    let column = |c: usize| xs.iter().skip(c).step_by(channels);
    let mean: Vec<f64> = (0..channels).map(|c| column(c).sum::<f64>() / rows).collect();
    let variance: Vec<f64> =
        (0..channels).map(|c| column(c).map(|x| (x - mean[c]).powi(2)).sum::<f64>() / rows).collect();
    let inverse: Vec<f64> = variance.iter().map(|v| 1. / (v + eps).sqrt()).collect();
    let scale: Vec<f64> = inverse.iter().zip(weight).map(|(i, w)| i * w).collect();
    ([mean, inverse, scale, bias.to_vec()].concat(), variance)
}

/// From dLoss/dy to dLoss/dx, and the sums `[2, channels]`.
pub(super) fn norm_backward(xs: &[f64], norm: &[f64], grads: &[f64], frozen: bool) -> (Vec<f64>, Vec<f64>) {
    let channels = norm.len() / 4;
    let rows = (xs.len() / channels) as f64;
    let unit = |i: usize| (xs[i] - norm[i % channels]) * norm[channels + i % channels];
    let mut sums = vec![0.; 2 * channels];
    for (i, grad) in grads.iter().enumerate() {
        sums[i % channels] += grad;
        sums[channels + i % channels] += grad * unit(i);
    }
    let means: Vec<f64> = sums.iter().map(|s| if frozen { 0. } else { s / rows }).collect();
    let grad_x = |(i, grad): (usize, &f64)| {
        let c = i % channels;
        norm[2 * channels + c] * (grad - means[c] - unit(i) * means[channels + c])
    };
    (grads.iter().enumerate().map(grad_x).collect(), sums)
}

fn check_as<M: Machine<Buffer = HostBuffer>>(m: &M, dtype: Dtype, tolerance: f64) -> Outcome {
    // Channels: fewer than a tile, no multiple of 16 bytes, more than one tile. Values far from zero: squares would
    // cancel.
    for (rows, channels) in [(2, 1), (37, 6), (150, 5), (9, 80)] {
        let (len, mut rng) = (rows * channels, Rng(rows as u64));
        let xs = rounded(dtype, &rng.values(len, 9., 11.));
        let grads = rounded(dtype, &rng.values(len, -0.5, 0.5));
        let (weight, bias) = (rng.values(channels, 0.5, 2.), rng.values(channels, -1., 1.));
        let (want, variance) = norm(&xs, channels, &weight, &bias, 1e-5);
        let what = format!("of [{rows}, {channels}] {dtype}");
        let real = |values: &[f64]| HostBuffer::new(dtype.real(), values);
        let (w, b, x, g) = (real(&weight), real(&bias), HostBuffer::new(dtype, &xs), HostBuffer::new(dtype, &grads));
        let affine = Affine { weight: &w, bias: &b };
        let (mut mean, mut var) = (real(&vec![1.; channels]), real(&vec![2.; channels]));
        let how = Statistics { eps: 1e-5, momentum: 0.1, repeats: 3 };
        let got = ran(batch_norm::statistics(m, how, &x, &affine, (&mut mean, &mut var)))?;
        near(&format!("norm {what}"), &got.to_f64(), &want, tolerance)?;
        let n = 3. * rows as f64;
        let moved = |old: f64, new: f64| 0.9 * old + 0.1 * new;
        let means: Vec<f64> = want[..channels].iter().map(|&new| moved(1., new)).collect();
        let variances: Vec<f64> = variance.iter().map(|&new| moved(2., new * n / (n - 1.))).collect();
        near(&format!("running mean {what}"), &mean.to_f64(), &means, tolerance)?;
        near(&format!("running var {what}"), &var.to_f64(), &variances, tolerance)?;

        let normed = real(&want);
        let ys: Vec<f64> = xs
            .iter()
            .enumerate()
            .map(|(i, x)| {
                let c = i % channels;
                (x - want[c]) * want[2 * channels + c] + want[3 * channels + c]
            })
            .collect();
        near(&format!("ys {what}"), &ran(batch_norm::forward(m, &x, &normed))?.to_f64(), &ys, tolerance)?;
        for frozen in [false, true] {
            let (grad_xs, sums) = norm_backward(&xs, &want, &grads, frozen);
            let got = ran(batch_norm::backward(m, frozen, &x, &normed, &g))?;
            near(&format!("grad_xs {what}"), &got.xs.to_f64(), &grad_xs, tolerance)?;
            near(&format!("affine {what}"), &got.affine.to_f64(), &sums, tolerance)?;
        }

        let running = ran(batch_norm::running_norm(m, dtype, 1e-5, &affine, (&real(&means), &real(&variances))))?;
        let inverse: Vec<f64> = variances.iter().map(|v| 1. / (v + 1e-5).sqrt()).collect();
        let scale = inverse.iter().zip(&weight).map(|(i, w)| i * w).collect();
        near(&format!("running norm {what}"), &running.to_f64(), &[means, inverse, scale, bias].concat(), tolerance)?;
    }
    Ok(())
}

pub(super) fn check<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    check_as(m, Dtype::F64, 1e-11)
}

/// In f32 and a 16-bit type.
pub(super) fn check_f32<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    check_as(m, Dtype::F32, 1e-4)?;
    check_as(m, Dtype::Bf16, 2e-2)
}
