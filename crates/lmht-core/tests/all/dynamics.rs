//! What must hold of every kind behind the one trait.

use lmht_core::baselines::{Cos, Snm, Srp};
use lmht_core::{
    Code, Dynamics, GradientMode, IN_GATE, Ilif, IlifConfig, Lmht, LmhtConfig, QcfsGate, QcfsLayer, Real, Relu,
    Schedule, Ternary, TernaryConfig, Tgim, Windowed,
};

use crate::Rng;

fn layers<R: Real>() -> Vec<Box<dyn Dynamics<R>>> {
    let real = R::from_f64;
    let detached = GradientMode::Detached;
    let lmht = |config: LmhtConfig, omega: &[f64]| {
        Box::new(Lmht::new(config.check().unwrap(), omega.iter().map(|&w| real(w)).collect(), real(0.75)))
    };
    let windowed = |schedule, omega: Vec<R>| {
        let config = LmhtConfig { window: 2, ..LmhtConfig::lif(4) };
        Box::new(Windowed::new(config.check().unwrap(), schedule, omega, real(1.25)))
    };
    vec![
        lmht(LmhtConfig::lmht(2, 2), &[0.5, 0.25, 0.75, 1.]),
        lmht(LmhtConfig { tgim: Tgim::Causal, gradient: GradientMode::Full, ..LmhtConfig::lmht(3, 3) }, &[0.5; 9]),
        lmht(LmhtConfig::mht(4, 3), &[]),
        lmht(LmhtConfig::lif(4), &[]),
        lmht(LmhtConfig { window: 2, gradient: detached, ..LmhtConfig::lif(4) }, &[]),
        windowed(Schedule::FrontLoaded, vec![]),
        windowed(Schedule::Uniform, vec![real(0.5); 4]),
        Box::new(Ilif::new(IlifConfig::ilif(4, 2).check().unwrap())),
        Box::new(Ilif::new(IlifConfig { gradient: detached, ..IlifConfig::ilif(127, 3) }.check().unwrap())),
        Box::new(Ternary::new(TernaryConfig::ternary(3).check().unwrap(), real(1.5))),
        Box::new(Ternary::new(
            TernaryConfig { gradient: detached, ..TernaryConfig::ternary(2) }.check().unwrap(),
            real(1.5),
        )),
        Box::new(QcfsLayer::new(real(2.), 4, QcfsGate::AfterFloor)),
        Box::new(QcfsLayer::new(real(2.7), 6, QcfsGate::BeforeFloor)),
        Box::new(Relu),
        Box::new(Snm::new(4, real(0.7), real(0.5))),
        Box::new(Srp::new(4, 2, real(0.7))),
        Box::new(Cos::new(4, 2, real(0.7))),
    ]
}

fn panics(work: impl FnOnce()) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err()
}

fn currents<R: Real>(layer: &dyn Dynamics<R>, n: usize) -> Vec<R> {
    Rng(51).vec(layer.timesteps() * n, -2., 5.)
}

fn check_codes<R: Real>() {
    for layer in layers::<R>() {
        let xs = currents(&*layer, 301);
        let mut out = vec![R::from_f64(f64::NAN); xs.len()];
        layer.forward(&xs, &mut out);
        let mut packed = vec![u8::MAX; xs.len()];
        match layer.code() {
            Code::Counts { levels, amplitude } => {
                layer.packed(&xs, &mut packed);
                for (out, packed) in out.iter().zip(&packed) {
                    let count = packed & !IN_GATE;
                    assert!(u32::from(count) <= levels, "{layer:?}");
                    let expected = f64::from(count) * amplitude;
                    assert!((out.to_f64() - expected).abs() <= 1e-6 * amplitude * f64::from(levels), "{layer:?}");
                }
                let gates = packed.iter().filter(|&&p| p & IN_GATE != 0).count();
                if layer.has_gradient() {
                    assert!(gates > 0 && gates < xs.len(), "{layer:?}: both must occur for the test to mean something");
                } else {
                    assert_eq!(gates, 0, "{layer:?}");
                }
            }
            Code::Signed { levels, amplitude } => {
                for out in out {
                    let count = out.to_f64() / amplitude;
                    assert!((count - count.round()).abs() < 1e-6 && count.abs() <= f64::from(levels), "{layer:?}");
                }
                assert!(panics(|| layer.packed(&xs, &mut packed)), "{layer:?}");
            }
            Code::Real => assert!(panics(|| layer.packed(&xs, &mut packed)), "{layer:?}"),
        }
    }
}

#[test]
fn outputs_are_what_the_code_says() {
    check_codes::<f32>();
    check_codes::<f64>();
}

/// The bytes of QCFS are the very q that the activation multiplies: ϑ · (count / Q), to the bit, at values where the
/// comparison rounds.
#[test]
fn qcfs_counts_round_as_the_activation_does() {
    for (scale, levels) in [(2.7_f32, 6), (0.3, 3), (8., 127), (1.1, 10)] {
        let mut xs = Vec::new();
        for k in 0..=levels {
            let tie = (k as f32 + 0.5) * scale / levels as f32;
            xs.extend([
                -tie,
                tie.next_down().next_down(),
                tie.next_down(),
                tie,
                tie.next_up(),
                tie.next_up().next_up(),
            ]);
        }
        xs.extend([f32::INFINITY, f32::NEG_INFINITY, 1e30, -0.]);
        for gate in [QcfsGate::AfterFloor, QcfsGate::BeforeFloor] {
            let layer = QcfsLayer::new(scale, levels, gate);
            let (mut out, mut packed, mut grad_xs) = (vec![9.; xs.len()], vec![0; xs.len()], vec![9.; xs.len()]);
            layer.forward(&xs, &mut out);
            layer.packed(&xs, &mut packed);
            layer.backward(&xs, &vec![1.; xs.len()], &mut grad_xs, &mut [0.]);
            for (e, &p) in packed.iter().enumerate() {
                assert_eq!(out[e], scale * (f32::from(p & !IN_GATE) / levels as f32), "x = {}", xs[e]);
                assert_eq!(p & IN_GATE != 0, grad_xs[e] == 1., "x = {}", xs[e]);
            }
        }
    }
}

/// Where a gate is whole and no T-GIM mixes, dLoss/dx is nothing but `grad_out` behind the gate.
#[test]
fn whole_gates_decide_alone() {
    let mut n_checked = 0;
    for layer in layers::<f64>() {
        let counts = matches!(layer.code(), Code::Counts { .. });
        let mixes = layer.n_shared() > 1;
        if !(layer.has_gradient() && layer.gate_is_whole() && counts) || mixes {
            continue;
        }
        let xs = currents(&*layer, 301);
        let (mut packed, mut grad_xs) = (vec![0; xs.len()], vec![f64::NAN; xs.len()]);
        layer.packed(&xs, &mut packed);
        layer.backward(&xs, &vec![2.; xs.len()], &mut grad_xs, &mut vec![0.; layer.n_shared()]);
        for (p, grad) in packed.iter().zip(&grad_xs) {
            assert_eq!(*grad, if p & IN_GATE != 0 { 2. } else { 0. }, "{layer:?}");
        }
        n_checked += 1;
    }
    assert_eq!(n_checked, 2, "M-HT and the detached I-LIF");
}

/// Gradients are overwritten, and shared ones add up over any split of the units into two calls.
#[test]
fn gradients_are_written_and_add_up() {
    for layer in layers::<f64>() {
        let (timesteps, n, cut) = (layer.timesteps(), 301, 128);
        let xs = currents(&*layer, n);
        let grad_out: Vec<f64> = Rng(52).vec(xs.len(), -1., 1.);
        let backward = |xs: &[f64], grad_out: &[f64]| {
            let (mut grad_xs, mut shared) = (vec![f64::NAN; xs.len()], vec![f64::NAN; layer.n_shared()]);
            layer.backward(xs, grad_out, &mut grad_xs, &mut shared);
            (grad_xs, shared)
        };
        if !layer.has_gradient() {
            assert!(panics(|| drop(backward(&xs, &grad_out))), "{layer:?}");
            continue;
        }
        let part = |values: &[f64], units: std::ops::Range<usize>| -> Vec<f64> {
            (0..timesteps).flat_map(|t| values[t * n..][units.clone()].to_vec()).collect()
        };
        let (grad_xs, shared) = backward(&xs, &grad_out);
        let (head, head_shared) = backward(&part(&xs, 0..cut), &part(&grad_out, 0..cut));
        let (tail, tail_shared) = backward(&part(&xs, cut..n), &part(&grad_out, cut..n));
        assert_eq!((part(&grad_xs, 0..cut), part(&grad_xs, cut..n)), (head, tail), "{layer:?}");
        for (k, whole) in shared.iter().enumerate() {
            assert!((whole - head_shared[k] - tail_shared[k]).abs() < 1e-9, "{layer:?}: {k}");
        }
    }
}

#[test]
fn no_units_are_no_work() {
    for layer in layers::<f32>() {
        layer.forward(&[], &mut []);
        if layer.has_gradient() {
            let mut shared = vec![f32::NAN; layer.n_shared()];
            layer.backward(&[], &[], &mut [], &mut shared);
            assert!(shared.iter().all(|&grad| grad == 0.), "{layer:?}");
        }
    }
}

#[test]
fn slices_of_other_lengths_are_refused() {
    for layer in layers::<f32>() {
        let n = 2 * layer.timesteps();
        let (xs, mut out) = (vec![1.; n], vec![0.; n + 1]);
        assert!(panics(|| layer.forward(&xs, &mut out)), "{layer:?}");
        assert!(panics(|| layer.packed(&xs, &mut vec![0; n + 1])), "{layer:?}");
        assert!(panics(|| layer.backward(&xs, &xs, &mut out, &mut vec![0.; layer.n_shared()])), "{layer:?}");
        assert!(panics(|| layer.backward(&xs, &xs, &mut out[..n], &mut vec![0.; layer.n_shared() + 1])), "{layer:?}");
    }
}

#[test]
#[should_panic(
    expected = "packed: expected outputs that are counts 0..=levels, got Signed { levels: 1, amplitude: 2.0 }"
)]
fn signed_spikes_do_not_pack() {
    Ternary::new(TernaryConfig::ternary(1).check().unwrap(), 2.0_f32).packed(&[1.], &mut [0]);
}

#[test]
#[should_panic(expected = "backward: expected a neuron that can be trained, got SRP, which is for inference only")]
fn baselines_do_not_train() {
    Srp::new(2, 1, 1.0_f32).backward(&[1.; 2], &[1.; 2], &mut [0.; 2], &mut []);
}

#[test]
#[should_panic(expected = "tau: expected at most the 2 timesteps, got 3")]
fn a_stage_beyond_the_timesteps_is_refused() {
    Srp::new(2, 3, 1.0_f32);
}
