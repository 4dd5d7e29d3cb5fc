//! QCFS against `lmht_core::qcfs`.

use crate::plans::qcfs;
use crate::{HostBuffer, Machine};
use lmht_core::{QcfsGate, qcfs as reference};

use super::support::*;

fn check_as<R: Number, M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    for (gate, levels, scale) in [(QcfsGate::AfterFloor, 4, 2.), (QcfsGate::BeforeFloor, 3, 1.5)] {
        for n in [1, 45, 484] {
            let mut rng = Rng(n as u64);
            // Multiples of half a step: where the floor and where the gate changes.
            let xs = rng.with_ties(n, -1., 3., scale / f64::from(levels) / 2.);
            let grads = rng.values(n, -0.5, 0.5);
            let (mut ys, mut grad_xs) = (vec![R::ZERO; n], vec![R::ZERO; n]);
            let ceiling = R::from_f64(scale);
            reference::forward(&typed::<R>(&xs), ceiling, levels, &mut ys);
            let (xs_r, grads_r) = (typed::<R>(&xs), typed::<R>(&grads));
            let grad = reference::backward_in(gate, &xs_r, ceiling, levels, &grads_r, &mut grad_xs);
            let (xs, grads) = (HostBuffer::new(R::DTYPE, &xs), HostBuffer::new(R::DTYPE, &grads));
            let scale = HostBuffer::new(R::DTYPE, &[scale]);
            let what = format!("of {gate:?} Q {levels} n {n} {}", R::DTYPE);
            same(&format!("ys {what}"), &ran(qcfs::forward(m, levels, &xs, &scale))?, &ys, 0.)?;
            let got = ran(qcfs::backward(m, levels, gate, &xs, &scale, &grads))?;
            same(&format!("grad_xs {what}"), &got.xs, &grad_xs, 0.)?;
            same(&format!("scale {what}"), &got.learned, &[grad], R::TOLERANCE)?;
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
