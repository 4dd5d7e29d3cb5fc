//! Ternary neurons against `lmht_core::ternary::reference`.

use lmht_core::ternary::reference;
use lmht_core::{GradientMode, TernaryConfig};
use lmht_gpu::emulator::{Emulator, HostBuffer};
use lmht_gpu::plans::ternary;

use crate::support::*;

fn check_as<R: Number>(m: &Emulator) -> Outcome {
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

pub(crate) fn check(m: &Emulator) -> Outcome {
    check_as::<f64>(m)
}

#[test]
fn float64_is_the_reference() {
    in_every_order(check);
}

#[test]
fn float32_is_the_reference() {
    in_every_order(check_as::<f32>);
}
