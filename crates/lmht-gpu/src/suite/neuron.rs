//! LM-HT, M-HT, IF and LIF against `lmht_core::reference`.

use crate::plans::neuron;
use crate::{Dtype, HostBuffer, Machine};
use lmht_core::{GradientMode, LmhtConfig, LmhtNeuron, Tgim, reference};

use super::support::*;

pub(super) fn neurons() -> Vec<LmhtNeuron> {
    let lmht = LmhtConfig { v_threshold: 0.75, v_init: 0.5, ..LmhtConfig::lmht(3, 4) };
    [
        LmhtConfig { gradient: GradientMode::Full, tgim: Tgim::Causal, window: 2, ..lmht },
        LmhtConfig { v_threshold: 2. / 3., ..LmhtConfig::lmht(3, 2) },
        LmhtConfig { timesteps: 3, ..LmhtConfig::lif(3) },
        LmhtConfig { timesteps: 6, levels: 1, tgim: Tgim::Identity, window: 3, ..lmht },
        LmhtConfig { timesteps: 10, levels: 2, gradient: GradientMode::Full, ..lmht },
    ]
    .map(|config| config.check().expect("a neuron"))
    .to_vec()
}

/// Ω and λ as the reference takes them, and as the kernel does.
pub(super) struct Learned<R> {
    pub(super) omega: Vec<R>,
    pub(super) leak: R,
    pub(super) buffer: HostBuffer,
}

pub(super) fn learned<R: Number>(neuron: &LmhtNeuron, rng: &mut Rng) -> Learned<R> {
    let timesteps = neuron.timesteps();
    let omega: Vec<f64> = match neuron.tgim() {
        Tgim::Identity => Vec::new(),
        // Above the diagonal of a causal one, too, where nobody may read.
        Tgim::Causal | Tgim::Full => (0..timesteps * timesteps).map(|_| (rng.next() * 4.).ceil() / 4.).collect(),
    };
    let leak = 0.75;
    let buffer = HostBuffer::new(R::DTYPE, &[&omega[..], &[leak]].concat());
    Learned { omega: typed(&omega), leak: R::from_f64(leak), buffer }
}

fn check_one<R: Number, M: Machine<Buffer = HostBuffer>>(
    m: &M,
    neuron: &LmhtNeuron,
    n: usize,
    offset: usize,
) -> Outcome {
    let (timesteps, what) = (neuron.timesteps(), format!("{neuron:?} n {n} {}", R::DTYPE));
    let mut rng = Rng(n as u64 + 5);
    let xs = rng.with_ties(timesteps * n, -1.5, 4.5, neuron.v_threshold() / 2.);
    let grads = rng.values(timesteps * n, -0.5, 0.5);
    let Learned { omega, leak, buffer } = learned::<R>(neuron, &mut rng);
    let (xs_r, grads_r) = (typed::<R>(&xs), typed::<R>(&grads));
    let (mut ys, mut grad_xs) = (vec![R::ZERO; xs.len()], vec![R::ZERO; xs.len()]);
    let mut grad_learned = vec![R::ZERO; omega.len()];
    reference::forward(neuron, &omega, leak, &xs_r, &mut ys);
    let grad_leak = reference::backward(neuron, &omega, leak, &xs_r, &grads_r, &mut grad_xs, &mut grad_learned);
    grad_learned.push(grad_leak);

    let (xs, grads) = (HostBuffer::at_offset(R::DTYPE, &xs, offset), HostBuffer::new(R::DTYPE, &grads));
    same(&format!("ys of {what}"), &ran(neuron::forward(m, neuron, &xs, &buffer))?, &ys, 0.)?;
    let got = ran(neuron::backward(m, neuron, &xs, &buffer, &grads))?;
    same(&format!("grad_xs of {what}"), &got.xs, &grad_xs, 0.)?;
    same(&format!("learned of {what}"), &got.learned, &grad_learned, R::TOLERANCE)
}

pub(super) fn check<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    for neuron in neurons() {
        // One unit, a part of a block, and more than all blocks at once, by one element and by 16 bytes at a time.
        for n in [1, 31, 233, 484] {
            check_one::<f64, M>(m, &neuron, n, 0)?;
        }
    }
    Ok(())
}

/// In f32, also where a view is not aligned and is read one by one, and in the 16-bit types, which are rounded once.
pub(super) fn check_f32<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    for neuron in neurons() {
        for n in [7, 484] {
            check_one::<f32, M>(m, &neuron, n, 0)?;
        }
    }
    check_one::<f32, M>(m, &neurons()[1], 64, 4)?;
    // One by one, 16 and 8 bytes at a time.
    for (dtype, n) in [Dtype::F16, Dtype::Bf16].into_iter().flat_map(|dtype| [5, 264, 12].map(|n| (dtype, n))) {
        let (neuron, mut rng) = (neurons()[1], Rng(3));
        let (xs, grads) = (rng.values(2 * n, -1., 4.), rng.values(2 * n, -0.5, 0.5));
        let (xs, grads) = (rounded(dtype, &xs), rounded(dtype, &grads));
        let Learned { omega, leak, buffer } = learned::<f32>(&neuron, &mut rng);
        let (mut ys, mut grad_xs, mut grad_omega) = (vec![0.; 2 * n], vec![0.; 2 * n], vec![0.; 4]);
        reference::forward(&neuron, &omega, leak, &typed(&xs), &mut ys);
        reference::backward(&neuron, &omega, leak, &typed(&xs), &typed(&grads), &mut grad_xs, &mut grad_omega);
        let once = |values: &[f32]| rounded(dtype, &values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
        let (xs, grads) = (HostBuffer::new(dtype, &xs), HostBuffer::new(dtype, &grads));
        let got = ran(neuron::forward(m, &neuron, &xs, &buffer))?;
        near(&format!("ys in {dtype}, n {n}"), &got.to_f64(), &once(&ys), 0.)?;
        let got = ran(neuron::backward(m, &neuron, &xs, &buffer, &grads))?;
        near(&format!("grad_xs in {dtype}, n {n}"), &got.xs.to_f64(), &once(&grad_xs), 0.)?;
    }
    Ok(())
}
