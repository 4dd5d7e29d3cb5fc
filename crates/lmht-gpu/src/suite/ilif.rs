//! I-LIF against `lmht_core::ilif::reference`.

use crate::plans::ilif;
use crate::{HostBuffer, Machine};
use lmht_core::ilif::reference;
use lmht_core::{GradientMode, IlifConfig};

use super::support::*;

fn check_as<R: Number, M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    let detached = IlifConfig { gradient: GradientMode::Detached, leak: 0.5, ..IlifConfig::ilif(8, 3) };
    for config in [IlifConfig::ilif(4, 2), detached] {
        let neuron = config.check().expect("a neuron");
        for n in [1, 45, 484] {
            let (len, mut rng) = (n * config.timesteps, Rng(n as u64));
            let (xs, grads) = (rng.with_ties(len, -2., 9., 0.5), rng.values(len, -0.5, 0.5));
            let (mut ys, mut grad_xs) = (vec![R::ZERO; len], vec![R::ZERO; len]);
            reference::forward(&neuron, &typed::<R>(&xs), &mut ys);
            reference::backward(&neuron, &typed::<R>(&xs), &typed(&grads), &mut grad_xs);
            let (xs, grads) = (HostBuffer::new(R::DTYPE, &xs), HostBuffer::new(R::DTYPE, &grads));
            let what = format!("of {config:?} n {n} {}", R::DTYPE);
            same(&format!("ys {what}"), &ran(ilif::forward(m, &neuron, &xs))?, &ys, 0.)?;
            same(&format!("grad_xs {what}"), &ran(ilif::backward(m, &neuron, &xs, &grads))?, &grad_xs, 0.)?;
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
