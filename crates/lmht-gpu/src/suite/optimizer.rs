//! Updates against loops.

use crate::plans::optimizer::{AdamW, Parameters, Scaling, Sgd, adamw, sgd, sum_squares};
use crate::{Dtype, HostBuffer, Machine};

use super::support::*;

/// Tensors of 1, 40, 3 and 120 elements, with their own weight decay.
const ENDS: [f64; 4] = [1., 41., 44., 164.];
const DECAYS: [f64; 4] = [0.5, 0., 0.25, 0.125];
const N: usize = 164;

fn decay(i: usize) -> f64 {
    DECAYS[ENDS.iter().position(|&end| (i as f64) < end).expect("a tensor")]
}

struct Run<'a, M> {
    m: &'a M,
    dtype: Dtype,
    scaling: Scaling,
    params: HostBuffer,
    copies: HostBuffer,
    states: [HostBuffer; 2],
}

impl<'a, M: Machine<Buffer = HostBuffer>> Run<'a, M> {
    fn new(m: &'a M, dtype: Dtype, scaling: Scaling, params: &[f64]) -> Self {
        let real = |values: &[f64]| HostBuffer::new(dtype.real(), values);
        let zeros = [0.; N];
        let copies = HostBuffer::new(dtype, &zeros);
        Self { m, dtype, scaling, params: real(params), copies, states: [real(&zeros), real(&zeros)] }
    }

    fn step(&mut self, rule: Rule, update: u64, grads: &[f64]) -> Outcome {
        let (m, real) = (self.m, |values: &[f64]| HostBuffer::new(self.dtype.real(), values));
        let grads = HostBuffer::new(self.dtype, grads);
        let sum = ran(sum_squares(m, &grads))?;
        let (ends, decays) = (HostBuffer::new(Dtype::U32, &ENDS), real(&DECAYS));
        let parts = Parameters {
            grads: &grads,
            ends: &ends,
            decays: &decays,
            sum_squares: &sum,
            params: &mut self.params,
            copies: &mut self.copies,
        };
        let [first, second] = &mut self.states;
        match rule {
            Rule::Sgd(rule) => ran(sgd(m, rule, self.scaling, parts, first)),
            Rule::AdamW(rule) => ran(adamw(m, AdamW { update, ..rule }, self.scaling, parts, (first, second))),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Rule {
    Sgd(Sgd),
    AdamW(AdamW),
}

fn rules() -> [Rule; 3] {
    [
        Rule::Sgd(Sgd { lr: 0.1, momentum: 0.9, nesterov: true }),
        Rule::Sgd(Sgd { lr: 0.1, momentum: 0., nesterov: false }),
        Rule::AdamW(AdamW { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8, update: 1 }),
    ]
}

fn check_as<M: Machine<Buffer = HostBuffer>>(m: &M, dtype: Dtype, tolerance: f64) -> Outcome {
    for (rule, max_norm) in rules().into_iter().flat_map(|rule| [0., 2.].map(|max_norm| (rule, max_norm))) {
        let (mut rng, scaling) = (Rng(2), Scaling { loss_scale: 16., max_norm });
        let mut params = rng.values(N, -1., 1.);
        let (mut first, mut second) = (vec![0.; N], vec![0.; N]);
        let mut run = Run::new(m, dtype, scaling, &params);
        for update in 1..=3 {
            let scaled = rounded(dtype, &rng.values(N, -8., 8.));
            run.step(rule, update, &scaled)?;
            let norm = scaled.iter().map(|g| (g / 16.).powi(2)).sum::<f64>().sqrt();
            let factor = if max_norm > 0. && norm > max_norm { max_norm / norm } else { 1. } / 16.;
            for i in 0..N {
                let g = scaled[i] * factor;
                match rule {
                    Rule::Sgd(Sgd { lr, momentum, nesterov }) => {
                        let d = g + decay(i) * params[i];
                        first[i] = momentum * first[i] + d;
                        params[i] -= lr * if nesterov { d + momentum * first[i] } else { first[i] };
                    }
                    Rule::AdamW(AdamW { lr, beta1, beta2, eps, .. }) => {
                        first[i] += (1. - beta1) * (g - first[i]);
                        second[i] = beta2 * second[i] + (1. - beta2) * g * g;
                        let (m, v) =
                            (first[i] / (1. - beta1.powf(update as f64)), second[i] / (1. - beta2.powf(update as f64)));
                        params[i] = (1. - lr * decay(i)) * params[i] - lr * m / (v.sqrt() + eps);
                    }
                }
            }
            let what = format!("of {rule:?} {scaling:?} update {update} {dtype}");
            near(&format!("params {what}"), &run.params.to_f64(), &params, tolerance)?;
            near(&format!("state {what}"), &run.states[0].to_f64(), &first, tolerance)?;
            near(&format!("state 2 {what}"), &run.states[1].to_f64(), &second, tolerance)?;
            near(&format!("copies {what}"), &run.copies.to_f64(), &rounded(dtype, &run.params.to_f64()), 0.)?;
        }
        // A gradient that is not finite changes nothing.
        for bad in [f64::NAN, f64::INFINITY] {
            let (before, mut grads) = (run.params.to_f64(), vec![1.; N]);
            grads[N - 1] = bad;
            run.step(rule, 4, &grads)?;
            near(&format!("after {bad} {rule:?}"), &run.params.to_f64(), &before, 0.)?;
            near(&format!("state after {bad} {rule:?}"), &run.states[0].to_f64(), &first, tolerance)?;
        }
    }
    Ok(())
}

pub(super) fn check<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    check_as(m, Dtype::F64, 1e-11)
}

/// In f32, with gradients of f32 and of a 16-bit type.
pub(super) fn check_f32<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    check_as(m, Dtype::F32, 1e-5)?;
    check_as(m, Dtype::F16, 1e-5)
}
