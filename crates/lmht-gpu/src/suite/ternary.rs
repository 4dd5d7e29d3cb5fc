//! Ternary neurons against `lmht_core::ternary::reference`.

use crate::plans::ternary;
use crate::{HostBuffer, Machine};
use lmht_core::ternary::reference;
use lmht_core::{GradientMode, TernaryConfig};

use super::support::*;

fn check_as<R: Number, M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    let detached = TernaryConfig { gradient: GradientMode::Detached, leak: 0.5, ..TernaryConfig::ternary(3) };
    for config in [TernaryConfig::ternary(2), detached] {
        let neuron = config.check().expect("a neuron");
        for n in [1, 45, 484] {
            let (len, mut rng) = (n * config.timesteps, Rng(n as u64));
            let (xs, grads) = (rng.with_ties(len, -1.5, 1.5, 0.5), rng.values(len, -0.5, 0.5));
            let amplitude = R::from_f64(0.75);
            let (mut ys, mut grad_xs) = (vec![R::ZERO; len], vec![R::ZERO; len]);
            reference::forward(&neuron, amplitude, &typed::<R>(&xs), &mut ys);
            let grad = reference::backward(&neuron, amplitude, &typed::<R>(&xs), &typed(&grads), &mut grad_xs);
            let (xs, grads) = (HostBuffer::new(R::DTYPE, &xs), HostBuffer::new(R::DTYPE, &grads));
            let amplitude = HostBuffer::new(R::DTYPE, &[0.75]);
            let what = format!("of {config:?} n {n} {}", R::DTYPE);
            same(&format!("ys {what}"), &ran(ternary::forward(m, &neuron, &xs, &amplitude))?, &ys, 0.)?;
            let got = ran(ternary::backward(m, &neuron, &xs, &amplitude, &grads))?;
            same(&format!("grad_xs {what}"), &got.xs, &grad_xs, R::TOLERANCE)?;
            same(&format!("amplitude {what}"), &got.learned, &[grad], R::TOLERANCE)?;
        }
    }
    Ok(())
}

pub(super) fn check<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    check_as::<f64, M>(m)
}

/// In f32.
pub(super) fn check_f32<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    check_as::<f32, M>(m)
}
