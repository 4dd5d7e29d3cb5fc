//! The ternary spike: traces by hand, the fast loop against the readable one, its symmetry and its gradients.

use lmht_core::sum::{BLOCK, LANES};
use lmht_core::ternary::reference;
use lmht_core::{ConfigError, GradientMode, Real, TernaryConfig, TernaryNeuron};
use proptest::prelude::*;
use serde::Deserialize;

use crate::{Rng, bits, repeat, seeded};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    v_threshold: f64,
    leak: f64,
    amplitude: f64,
    xs: Vec<f64>,
    v_charged: Vec<f64>,
    v: Vec<f64>,
    spikes: Vec<i32>,
    grad_out: Vec<f64>,
    detached: Vec<f64>,
    full: Vec<f64>,
    grad_amplitude: f64,
}

/// Output, dLoss/dx and dLoss/da of the readable or the fast loop. The results start as NaN: all must be written.
fn both<R: Real>(readable: bool, neuron: &TernaryNeuron, a: R, xs: &[R], grad_out: &[R]) -> (Vec<R>, Vec<R>, R) {
    let nan = vec![R::from_f64(f64::NAN); xs.len()];
    let (mut out, mut grad_xs) = (nan.clone(), nan);
    let grad_amplitude = if readable {
        reference::forward(neuron, a, xs, &mut out);
        reference::backward(neuron, a, xs, grad_out, &mut grad_xs)
    } else {
        neuron.forward(a, xs, &mut out);
        neuron.backward(a, xs, grad_out, &mut grad_xs)
    };
    (out, grad_xs, grad_amplitude)
}

fn check_traces<R: Real>(copies: usize) {
    let file: File = toml::from_str(include_str!("../../testdata/ternary.toml")).unwrap();
    assert!(file.case.len() >= 5, "the traces are gone");
    for case in file.case {
        let name = &case.name;
        let (amplitude, xs) = (R::from_f64(case.amplitude), repeat::<R>(&case.xs, copies));
        for (gradient, grad_xs) in [(GradientMode::Detached, &case.detached), (GradientMode::Full, &case.full)] {
            let (v_threshold, leak) = (case.v_threshold, case.leak);
            let neuron = TernaryConfig { timesteps: case.xs.len(), v_threshold, leak, gradient }.check().unwrap();

            let course = neuron.potentials(&xs);
            assert_eq!(course.v_charged, repeat(&case.v_charged, copies), "{name}");
            assert_eq!(course.v, repeat(&case.v, copies), "{name}");
            let spikes: Vec<i32> = case.spikes.iter().flat_map(|&s| std::iter::repeat_n(s, copies)).collect();
            assert_eq!(course.spikes, spikes, "{name}");

            let out: Vec<f64> = case.spikes.iter().map(|&s| f64::from(s) * case.amplitude).collect();
            let grad_amplitude = R::from_f64(case.grad_amplitude * copies as f64);
            let expected = (repeat(&out, copies), repeat(grad_xs, copies), grad_amplitude);
            for readable in [true, false] {
                let found = both(readable, &neuron, amplitude, &xs, &repeat(&case.grad_out, copies));
                assert_eq!(found, expected, "{name}: {gradient:?}, readable = {readable}");
            }
        }
    }
}

#[test]
fn traces() {
    check_traces::<f32>(1);
    check_traces::<f64>(1);
    check_traces::<f32>(300);
    check_traces::<f64>(300);
}

fn check_kernel<R: Real>() {
    let mut rng = Rng(31);
    let sizes = [0, 1, LANES - 1, LANES + 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + LANES + 3, 12_007];
    for (case, n) in sizes.into_iter().cycle().take(4 * sizes.len()).enumerate() {
        let timesteps = [1, 2, 4, 5][case % 4];
        let config = TernaryConfig {
            v_threshold: [0.5, 0.3, 1.4][case % 3],
            leak: rng.uniform(0., 1.5),
            gradient: [GradientMode::Full, GradientMode::Detached][case / 9 % 2],
            ..TernaryConfig::ternary(timesteps)
        };
        let neuron = config.check().unwrap();
        let amplitude = R::from_f64(rng.uniform(-2., 2.));
        let xs: Vec<R> = rng.vec(timesteps * n, -1.6, 1.6);
        let grad_out: Vec<R> = rng.vec(timesteps * n, -1., 1.);
        let expected = both(true, &neuron, amplitude, &xs, &grad_out);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let found = pool.install(|| both(false, &neuron, amplitude, &xs, &grad_out));
            let name = format!("n = {n}, {threads} threads, {config:?}");
            assert_eq!(bits(&found.0), bits(&expected.0), "{name}");
            assert_eq!(bits(&found.1), bits(&expected.1), "{name}");
            assert_eq!(bits(&[found.2]), bits(&[expected.2]), "{name}");
        }
    }
}

#[test]
fn kernel_equals_the_readable_loop() {
    check_kernel::<f32>();
    check_kernel::<f64>();
}

proptest! {
    #![proptest_config(seeded())]

    /// Opposite currents send opposite spikes. The gradient of x is even for equal `grad_out`, that of a is odd.
    #[test]
    fn is_symmetric(
        xs in prop::collection::vec(-1.6..1.6_f64, 1..=6), leak in 0.0..1.5_f64, amplitude in -2.0..2.0_f64,
    ) {
        let neuron = TernaryConfig { leak, ..TernaryConfig::ternary(xs.len()) }.check().unwrap();
        let grad_out: Vec<f64> = (0..xs.len()).map(|t| 1. - 0.3 * t as f64).collect();
        let opposite = |values: &[f64]| values.iter().map(|x| -x).collect::<Vec<_>>();
        let (out, grad_xs, grad_amplitude) = both(false, &neuron, amplitude, &xs, &grad_out);
        let mirrored = both(false, &neuron, amplitude, &opposite(&xs), &grad_out);
        prop_assert_eq!(mirrored, (opposite(&out), grad_xs, -grad_amplitude));
    }
}

/// The straight-through twin: s = s̄ + w̄ (m - m̄), |s| = |s̄| + s̄ w̄ (m - m̄) in the reset, v(t-1) frozen if detached.
#[test]
fn gradients_equal_finite_differences_of_the_straight_through_twin() {
    const H: f64 = 1e-4;
    let mut rng = Rng(32);
    for gradient in [GradientMode::Full, GradientMode::Detached] {
        let config = TernaryConfig { leak: 0.7, gradient, ..TernaryConfig::ternary(5) };
        let (neuron, a) = (config.check().unwrap(), 1.3);
        let (xs, grad_out): (Vec<f64>, Vec<f64>) = (rng.vec(5 * 40, -1.5, 1.5), rng.vec(5 * 40, -1., 1.));
        let at = neuron.potentials(&xs);
        let loss = |xs: &[f64], a: f64| {
            let mut loss = 0.;
            for i in 0..40 {
                let mut v = 0.;
                for e in (0..5).map(|t| t * 40 + i) {
                    let (m, spikes) = (config.leak * v + xs[e], f64::from(at.spikes[e]));
                    let moved = f64::from((-1. ..=1.).contains(&at.v_charged[e])) * (m - at.v_charged[e]);
                    loss += grad_out[e] * a * (spikes + moved);
                    v = if gradient == GradientMode::Full { m * (1. - spikes.abs() - spikes * moved) } else { at.v[e] };
                }
            }
            loss
        };
        let (_, grad_xs, grad_amplitude) = both(false, &neuron, a, &xs, &grad_out);
        for e in 0..xs.len() {
            let shifted = |h: f64| {
                let mut xs = xs.clone();
                xs[e] += h;
                loss(&xs, a)
            };
            let difference = (shifted(H) - shifted(-H)) / (2. * H);
            assert!((grad_xs[e] - difference).abs() < 1e-6, "{gradient:?}: {} against {difference}", grad_xs[e]);
        }
        let difference = (loss(&xs, a + H) - loss(&xs, a - H)) / (2. * H);
        assert!((grad_amplitude - difference).abs() < 1e-8, "{gradient:?}: {grad_amplitude} against {difference}");
    }
}

#[test]
fn a_potential_that_is_not_a_number_fires_nothing() {
    let mut out = [9.; 2];
    TernaryConfig::ternary(2).check().unwrap().forward(1., &[f32::NAN, 5.], &mut out);
    assert_eq!(out, [0.; 2]);
}

#[test]
fn configurations_out_of_range_are_refused() {
    let good = TernaryConfig::ternary(2);
    let refused = |config: TernaryConfig| config.check().unwrap_err();
    assert_eq!(refused(TernaryConfig { timesteps: 0, ..good }), ConfigError::Timesteps { timesteps: 0 });
    assert_eq!(refused(TernaryConfig { leak: -1., ..good }), ConfigError::Leak { leak: -1. });
    for v_threshold in [0., -0.5, f64::INFINITY, 1e300, 1e-300] {
        assert_eq!(refused(TernaryConfig { v_threshold, ..good }), ConfigError::TernaryThreshold { v_threshold });
    }
    assert!(refused(TernaryConfig { v_threshold: f64::NAN, ..good }).to_string().contains("got NaN"));
}
