//! I-LIF: traces by hand, the fast loop against the readable one, and what it has in common with M-HT.

use lmht_core::ilif::reference;
use lmht_core::sum::{BLOCK, LANES};
use lmht_core::{ConfigError, GradientMode, IN_GATE, IlifConfig, LmhtConfig, Real};
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
    levels: u32,
    leak: f64,
    xs: Vec<f64>,
    v_charged: Vec<f64>,
    v: Vec<f64>,
    spikes: Vec<i32>,
    grad_out: Vec<f64>,
    detached: Vec<f64>,
    full: Vec<f64>,
}

fn check_traces<R: Real>(copies: usize) {
    let file: File = toml::from_str(include_str!("../../testdata/ilif.toml")).unwrap();
    assert!(file.case.len() >= 4, "the traces are gone");
    for case in file.case {
        let name = &case.name;
        let xs = repeat::<R>(&case.xs, copies);
        for (gradient, grad_xs) in [(GradientMode::Detached, &case.detached), (GradientMode::Full, &case.full)] {
            let config = IlifConfig { timesteps: case.xs.len(), levels: case.levels, leak: case.leak, gradient };
            let neuron = config.check().unwrap();

            let course = neuron.potentials(&xs);
            assert_eq!(course.v_charged, repeat(&case.v_charged, copies), "{name}");
            assert_eq!(course.v, repeat(&case.v, copies), "{name}");
            let counts: Vec<f64> = case.spikes.iter().map(|&s| f64::from(s)).collect();
            assert_eq!(course.spikes, repeat::<f64>(&counts, copies).iter().map(|&s| s as i32).collect::<Vec<_>>());

            let (mut readable, mut fast) = (vec![R::HALF; xs.len()], vec![R::HALF; xs.len()]);
            reference::forward(&neuron, &xs, &mut readable);
            neuron.forward(&xs, &mut fast);
            assert_eq!(readable, repeat(&counts, copies), "{name}: reference");
            assert_eq!(fast, readable, "{name}");

            let grad_out = repeat(&case.grad_out, copies);
            reference::backward(&neuron, &xs, &grad_out, &mut readable);
            neuron.backward(&xs, &grad_out, &mut fast);
            assert_eq!(readable, repeat(grad_xs, copies), "{name}: reference, {gradient:?}");
            assert_eq!(fast, readable, "{name}: {gradient:?}");
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
    let mut rng = Rng(21);
    let sizes = [0, 1, LANES - 1, LANES + 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + LANES + 3, 12_007];
    for (case, n) in sizes.into_iter().cycle().take(4 * sizes.len()).enumerate() {
        let timesteps = [1, 2, 4, 5][case % 4];
        let config = IlifConfig {
            levels: [1, 2, 3, 4, 8, 11][case % 6],
            leak: rng.uniform(0., 1.5),
            gradient: [GradientMode::Full, GradientMode::Detached][case / 9 % 2],
            ..IlifConfig::ilif(1, timesteps)
        };
        let neuron = config.check().unwrap();
        let xs: Vec<R> = rng.vec(timesteps * n, -1.5, f64::from(config.levels) + 1.5);
        let grad_out: Vec<R> = rng.vec(timesteps * n, -1., 1.);
        let nan = vec![R::from_f64(f64::NAN); xs.len()];
        let (mut out, mut grad_xs) = (nan.clone(), nan.clone());
        reference::forward(&neuron, &xs, &mut out);
        reference::backward(&neuron, &xs, &grad_out, &mut grad_xs);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (mut fast, mut fast_grad, mut packed) = (nan.clone(), nan.clone(), vec![u8::MAX; xs.len()]);
            pool.install(|| {
                neuron.forward(&xs, &mut fast);
                neuron.packed(&xs, &mut packed);
                neuron.backward(&xs, &grad_out, &mut fast_grad);
            });
            let name = format!("n = {n}, {threads} threads, {config:?}");
            assert_eq!(bits(&fast), bits(&out), "{name}");
            assert_eq!(bits(&fast_grad), bits(&grad_xs), "{name}");
            let course = neuron.potentials(&xs);
            for (e, &p) in packed.iter().enumerate() {
                let m = course.v_charged[e].to_f64();
                assert_eq!(f64::from(p & !IN_GATE), out[e].to_f64(), "{name}");
                assert_eq!(p & IN_GATE != 0, (0. ..=f64::from(config.levels)).contains(&m), "{name}");
            }
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

    /// With u = m + 1/2: u >= k exactly if m >= k - 1/2, and u - s = v + 1/2. So M-HT with θ = 1, v(0) = 1/2 and currents
    /// x + (1 - λ)/2 has the potential u and the same counts; its gate 1/2 <= u <= D + 1/2 is ours.
    #[test]
    fn is_m_ht_half_a_threshold_higher(
        levels in 1..=6_u32, leak in 0..=4_i32, xs in prop::collection::vec(-200..500_i32, 1..=6),
    ) {
        let leak = f64::from(leak) / 4.;
        let xs: Vec<f64> = xs.into_iter().map(|x| f64::from(x) / 64.).collect();
        let gradient = GradientMode::Detached;
        let ilif = IlifConfig { leak, gradient, ..IlifConfig::ilif(levels, xs.len()) }.check().unwrap();
        let mht = LmhtConfig { v_threshold: 1., v_init: 0.5, ..LmhtConfig::mht(levels, xs.len()) }.check().unwrap();
        let shifted: Vec<f64> = xs.iter().map(|x| x + (1. - leak) / 2.).collect();

        let (mut ours, mut theirs) = (vec![0; xs.len()], vec![0; xs.len()]);
        ilif.packed(&xs, &mut ours);
        mht.packed(&[], leak, &shifted, &mut theirs);
        prop_assert_eq!(ours, theirs);
        let (ours, theirs) = (ilif.potentials(&xs), mht.potentials(&[], leak, &shifted));
        let half_higher = |values: &[f64]| values.iter().map(|v| v + 0.5).collect::<Vec<_>>();
        prop_assert_eq!(half_higher(&ours.v_charged), theirs.v_charged);
        prop_assert_eq!(half_higher(&ours.v), theirs.v);

        let grad_out: Vec<f64> = (0..xs.len()).map(|t| f64::from(1 << t)).collect();
        let mut grad_xs = vec![f64::NAN; xs.len()];
        ilif.backward(&xs, &grad_out, &mut grad_xs);
        prop_assert_eq!(grad_xs, mht.gradients(&[], leak, &shifted, &grad_out, &mut []).1);
    }
}

/// The straight-through twin: s = s̄ + w̄ (m - m̄) in the output, s̄ in the reset, and v(t-1) frozen if detached.
#[test]
fn gradients_equal_finite_differences_of_the_straight_through_twin() {
    const H: f64 = 1e-4;
    let mut rng = Rng(22);
    for gradient in [GradientMode::Full, GradientMode::Detached] {
        let config = IlifConfig { leak: 0.7, gradient, ..IlifConfig::ilif(3, 5) };
        let neuron = config.check().unwrap();
        let (xs, grad_out): (Vec<f64>, Vec<f64>) = (rng.vec(5 * 40, -1.5, 3.5), rng.vec(5 * 40, -1., 1.));
        let at = neuron.potentials(&xs);
        let loss = |xs: &[f64]| {
            let mut loss = 0.;
            for i in 0..40 {
                let mut v = 0.;
                for e in (0..5).map(|t| t * 40 + i) {
                    let m = config.leak * v + xs[e];
                    let w = f64::from((0. ..=3.).contains(&at.v_charged[e]));
                    loss += grad_out[e] * (f64::from(at.spikes[e]) + w * (m - at.v_charged[e]));
                    v = if gradient == GradientMode::Full { m - f64::from(at.spikes[e]) } else { at.v[e] };
                }
            }
            loss
        };
        let mut grad_xs = vec![f64::NAN; xs.len()];
        neuron.backward(&xs, &grad_out, &mut grad_xs);
        for e in 0..xs.len() {
            let shifted = |h: f64| {
                let mut xs = xs.clone();
                xs[e] += h;
                loss(&xs)
            };
            let difference = (shifted(H) - shifted(-H)) / (2. * H);
            assert!((grad_xs[e] - difference).abs() < 1e-8, "{gradient:?}: {} against {difference}", grad_xs[e]);
        }
    }
}

#[test]
fn a_potential_that_is_not_a_number_fires_nothing() {
    let neuron = IlifConfig::ilif(2, 2).check().unwrap();
    let (mut out, mut packed) = ([9.; 2], [9; 2]);
    neuron.forward(&[f32::NAN, 5.], &mut out);
    neuron.packed(&[f32::NAN, 5.], &mut packed);
    assert_eq!((out, packed), ([0.; 2], [0; 2]));
}

#[test]
fn configurations_out_of_range_are_refused() {
    let good = IlifConfig::ilif(4, 2);
    let refused = |config: IlifConfig| config.check().unwrap_err();
    assert_eq!(refused(IlifConfig { timesteps: 0, ..good }), ConfigError::Timesteps { timesteps: 0 });
    assert_eq!(refused(IlifConfig { levels: 0, ..good }), ConfigError::Levels { levels: 0 });
    for leak in [-0.25, f64::INFINITY, 1e300] {
        assert_eq!(refused(IlifConfig { leak, ..good }), ConfigError::Leak { leak });
    }
    assert!(refused(IlifConfig { leak: f64::NAN, ..good }).to_string().contains("got NaN"));
    assert!(IlifConfig { leak: 0., ..good }.check().is_ok());
}
