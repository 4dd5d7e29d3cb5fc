//! Batch norm, shortcut and neuron in one pass, against the currents written out and `lmht_core::reference`.

use crate::plans::cast;
use crate::plans::norm_neuron::{self, Inputs, Shortcut};
use crate::{Dtype, HostBuffer, Machine};
use lmht_core::{LmhtNeuron, Real, reference};

use super::batch_norm::norm_backward;
use super::neuron::{Learned, learned, neurons};
use super::support::*;

/// (x - mean)·scale + bias in the kernel's order.
fn currents<R: Real>(xs: &[R], norm: &[R]) -> Vec<R> {
    let channels = norm.len() / 4;
    let current = |(i, &x): (usize, &R)| {
        let c = i % channels;
        (x - norm[c]) * norm[2 * channels + c] + norm[3 * channels + c]
    };
    xs.iter().enumerate().map(current).collect()
}

fn check_one<R: Number, M: Machine<Buffer = HostBuffer>>(
    m: &M,
    neuron: &LmhtNeuron,
    rows: usize,
    channels: usize,
    kind: usize,
) -> Outcome {
    let (timesteps, mut rng) = (neuron.timesteps(), Rng((rows + channels) as u64));
    let len = timesteps * rows * channels;
    let what = format!("of {neuron:?} [{rows}, {channels}] shortcut {kind} {}", R::DTYPE);
    let step = neuron.v_threshold() / 2.;
    let (xs, shortcut) = (rng.with_ties(len, -1.5, 4.5, step), rng.with_ties(len, -1.5, 1.5, step));
    let grads = rng.values(len, -0.5, 0.5);
    // Powers of two as scales and whole multiples of θ/2 as offsets keep ties in the currents.
    let mut norm = || {
        let whole = |rng: &mut Rng| rng.values(channels, -1., 2.).iter().map(|x| x.round() * step).collect::<Vec<_>>();
        let (mean, bias) = (whole(&mut rng), whole(&mut rng));
        let scale: Vec<f64> = rng.values(channels, -1., 1.5).iter().map(|x| x.round().exp2()).collect();
        let inverse = rng.values(channels, 0.5, 2.);
        [mean, inverse, scale, bias].concat()
    };
    let (own, other) = (norm(), norm());
    let Learned { omega, leak, buffer } = learned::<R>(neuron, &mut rng);

    let mut current = currents::<R>(&typed(&xs), &typed(&own));
    let added: Vec<R> = match kind {
        0 => Vec::new(),
        1 => typed(&shortcut),
        _ => currents(&typed(&shortcut), &typed(&other)),
    };
    for (current, added) in current.iter_mut().zip(added) {
        *current += added;
    }
    let (mut ys, mut grad_current) = (vec![R::ZERO; len], vec![R::ZERO; len]);
    let mut grad_learned = vec![R::ZERO; omega.len()];
    reference::forward(neuron, &omega, leak, &current, &mut ys);
    let grads_r = typed::<R>(&grads);
    let grad_leak = reference::backward(neuron, &omega, leak, &current, &grads_r, &mut grad_current, &mut grad_learned);
    grad_learned.push(grad_leak);
    let grad_current: Vec<f64> = grad_current.iter().map(|g| g.to_f64()).collect();

    let of = |values: &[f64]| HostBuffer::new(R::DTYPE, values);
    let (x, s, g, own_b, other_b) = (of(&xs), of(&shortcut), of(&grads), of(&own), of(&other));
    let shortcut_in = match kind {
        0 => Shortcut::None,
        1 => Shortcut::Plain(&s),
        _ => Shortcut::Normalized(&s, &other_b),
    };
    let inputs = Inputs { xs: &x, norm: &own_b, shortcut: shortcut_in, learned: &buffer };
    let mut packed = vec![0; len];
    neuron.packed(&omega, leak, &current, &mut packed);
    let packed: Vec<f64> = packed.into_iter().map(f64::from).collect();
    for packs in [false, true] {
        let got = ran(norm_neuron::forward(m, neuron, packs, &inputs))?;
        same(&format!("ys {what}"), &got.ys, &ys, 0.)?;
        match got.packed {
            Some(bytes) if packs => near(&format!("packed {what}"), &bytes.to_f64(), &packed, 0.)?,
            None if !packs => {}
            other => return Err(format!("packed {what}: {other:?}")),
        }
    }
    for frozen in [false, true] {
        let got = ran(norm_neuron::backward(m, neuron, frozen, &inputs, &g))?;
        let (grad_xs, mut sums) = norm_backward(&xs, &own, &grad_current, frozen);
        near(&format!("grad_xs {what}"), &got.xs.to_f64(), &grad_xs, R::TOLERANCE)?;
        match (kind, &got.shortcut) {
            (0, None) => {}
            (1, Some(grad)) => near(&format!("shortcut {what}"), &grad.to_f64(), &grad_current, 0.)?,
            (2, Some(grad)) => {
                let (grad_shortcut, sums2) = norm_backward(&shortcut, &other, &grad_current, frozen);
                sums.extend(&sums2[channels..]);
                near(&format!("shortcut {what}"), &grad.to_f64(), &grad_shortcut, R::TOLERANCE)?;
            }
            _ => return Err(format!("shortcut {what}: {:?}", got.shortcut)),
        }
        near(&format!("affine {what}"), &got.affine.to_f64(), &sums, R::TOLERANCE)?;
        same(&format!("learned {what}"), &got.learned, &grad_learned, R::TOLERANCE)?;
    }
    Ok(())
}

pub(super) fn check<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    let neurons = neurons();
    for (neuron, kind) in [(0, 2), (1, 1), (2, 0), (3, 2), (4, 1)] {
        for (rows, channels) in [(45, 6), (7, 5), (3, 80)] {
            check_one::<f64, M>(m, &neurons[neuron], rows, channels, kind)?;
        }
    }
    Ok(())
}

/// In f32, and in a 16-bit type, which is rounded once.
pub(super) fn check_f32<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    check_one::<f32, M>(m, &neurons()[1], 45, 8, 2)?;
    let (neuron, mut rng, channels) = (neurons()[1], Rng(1), 16);
    let xs = rounded(Dtype::Bf16, &rng.values(2 * 11 * channels, -1.5, 4.5));
    let norm = rounded(Dtype::F32, &rng.values(4 * channels, 0.5, 1.5));
    let Learned { omega, leak, buffer } = learned::<f32>(&neuron, &mut rng);
    let current = currents::<f32>(&typed(&xs), &typed(&norm));
    let mut ys = vec![0.; xs.len()];
    reference::forward(&neuron, &omega, leak, &current, &mut ys);
    let ys: Vec<f64> = ys.iter().map(|&y| f64::from(y)).collect();
    let (x, norm) = (HostBuffer::new(Dtype::Bf16, &xs), HostBuffer::new(Dtype::F32, &norm));
    let inputs = Inputs { xs: &x, norm: &norm, shortcut: Shortcut::None, learned: &buffer };
    let got = ran(norm_neuron::forward(m, &neuron, true, &inputs))?;
    near("ys in bf16", &got.ys.to_f64(), &rounded(Dtype::Bf16, &ys), 0.)?;
    let packed = got.packed.ok_or("no bytes")?;
    let back = ran(cast::unpack(m, neuron.v_threshold(), &packed, Dtype::Bf16))?;
    near("ys in bf16, unpacked", &back.to_f64(), &got.ys.to_f64(), 0.)
}
