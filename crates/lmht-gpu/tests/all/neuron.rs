//! LM-HT, M-HT, IF and LIF against `lmht_core::reference`.

use lmht_core::{GradientMode, LmhtConfig, LmhtNeuron, Tgim, reference};
use lmht_gpu::emulator::{Emulator, HostBuffer};
use lmht_gpu::plans::neuron;
use lmht_gpu::{Dtype, Error};

use crate::support::*;

pub(crate) fn neurons() -> Vec<LmhtNeuron> {
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
pub(crate) struct Learned<R> {
    pub(crate) omega: Vec<R>,
    pub(crate) leak: R,
    pub(crate) buffer: HostBuffer,
}

pub(crate) fn learned<R: Number>(neuron: &LmhtNeuron, rng: &mut Rng) -> Learned<R> {
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

fn check_one<R: Number>(m: &Emulator, neuron: &LmhtNeuron, n: usize, offset: usize) -> Outcome {
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

pub(crate) fn check(m: &Emulator) -> Outcome {
    for neuron in neurons() {
        // One unit, a part of a block, and more than all blocks at once, by one element and by 16 bytes at a time.
        for n in [1, 31, 233, 484] {
            check_one::<f64>(m, &neuron, n, 0)?;
        }
    }
    Ok(())
}

#[test]
fn float64_is_the_reference() {
    in_every_order(check);
}

#[test]
fn float32_is_the_reference() {
    in_every_order(|m| {
        for neuron in neurons() {
            for n in [7, 484] {
                check_one::<f32>(m, &neuron, n, 0)?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_view_that_is_not_aligned_is_read_one_by_one() {
    in_every_order(|m| check_one::<f32>(m, &neurons()[1], 64, 4));
}

#[test]
fn half_types_are_computed_in_float32_and_rounded_once() {
    in_every_order(|m| {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            for n in [5, 264] {
                let (neuron, mut rng) = (neurons()[1], Rng(3));
                let xs = rounded(dtype, &rng.values(2 * n, -1., 4.));
                let grads = rounded(dtype, &rng.values(2 * n, -0.5, 0.5));
                let Learned { omega, leak, buffer } = learned::<f32>(&neuron, &mut rng);
                let (mut ys, mut grad_xs, mut grad_omega) = (vec![0.; 2 * n], vec![0.; 2 * n], vec![0.; 4]);
                reference::forward(&neuron, &omega, leak, &typed(&xs), &mut ys);
                reference::backward(&neuron, &omega, leak, &typed(&xs), &typed(&grads), &mut grad_xs, &mut grad_omega);
                let once = |values: &[f32]| rounded(dtype, &values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
                let (xs, grads) = (HostBuffer::new(dtype, &xs), HostBuffer::new(dtype, &grads));
                same("ys", &ran(neuron::forward(m, &neuron, &xs, &buffer))?, &once(&ys), 0.)?;
                let got = ran(neuron::backward(m, &neuron, &xs, &buffer, &grads))?;
                same("grad_xs", &got.xs, &once(&grad_xs), 0.)?;
            }
        }
        Ok(())
    });
}

#[test]
fn operands_are_checked() {
    for m in emulators() {
        let neuron = LmhtConfig::lif(2).check().expect("a neuron");
        let (xs, leak) = (HostBuffer::new(Dtype::F32, &[0.; 4]), HostBuffer::new(Dtype::F32, &[1.]));
        let error = neuron::forward(&m, &neuron, &xs, &xs).expect_err("four learned numbers");
        assert_eq!(error.to_string(), "neuron: learned numbers: expected 1 values of f32, got 4 of f32");
        let odd = HostBuffer::new(Dtype::F32, &[0.; 3]);
        assert!(matches!(neuron::forward(&m, &neuron, &odd, &leak), Err(Error::Size { .. })));
        let long = LmhtConfig::lmht(2, 100).check().expect("a neuron");
        let error = neuron::forward(&m, &long, &HostBuffer::new(Dtype::F32, &[0.; 100]), &leak).expect_err("T = 100");
        assert!(error.to_string().contains("at most 64"), "{error}");
    }
}
