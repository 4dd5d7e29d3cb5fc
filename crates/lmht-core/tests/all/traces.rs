//! The hand-worked traces of `testdata/neuron.toml`, on both engines and both number types.

use lmht_core::{GradientMode, LmhtConfig, Real, Tgim, fire, in_gate, reference};
use serde::Deserialize;

use crate::{backward, forward, repeat};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    timesteps: usize,
    levels: u32,
    v_threshold: f64,
    #[serde(default)]
    v_init: f64,
    leak: f64,
    #[serde(default = "every_timestep")]
    window: usize,
    tgim: String,
    gradient: String,
    #[serde(default)]
    omega: Vec<f64>,
    xs: Vec<f64>,
    v_charged: Vec<f64>,
    spikes: Vec<u32>,
    grad_out: Option<Vec<f64>>,
    #[serde(default)]
    grad_xs: Vec<f64>,
    #[serde(default)]
    grad_omega: Vec<f64>,
    #[serde(default)]
    grad_leak: f64,
}

fn every_timestep() -> usize {
    1
}

fn cases() -> Vec<Case> {
    let file: File = toml::from_str(include_str!("../../testdata/neuron.toml")).unwrap();
    assert!(file.case.len() >= 15, "the traces are gone");
    file.case
}

impl Case {
    fn config(&self) -> LmhtConfig {
        LmhtConfig {
            timesteps: self.timesteps,
            levels: self.levels,
            v_threshold: self.v_threshold,
            v_init: self.v_init,
            tgim: match self.tgim.as_str() {
                "full" => Tgim::Full,
                "causal" => Tgim::Causal,
                "identity" => Tgim::Identity,
                other => panic!("{}: unknown tgim {other}", self.name),
            },
            gradient: match self.gradient.as_str() {
                "detached" => GradientMode::Detached,
                "full" => GradientMode::Full,
                other => panic!("{}: unknown gradient {other}", self.name),
            },
            window: self.window,
        }
    }
}

fn check<R: Real>(copies: usize) {
    for case in cases() {
        let name = &case.name;
        let neuron = case.config().check().unwrap();
        let (omega, leak) = (repeat::<R>(&case.omega, 1), R::from_f64(case.leak));
        let xs = repeat::<R>(&case.xs, copies);

        let output: Vec<f64> = case.spikes.iter().map(|&s| f64::from(s) * case.v_threshold).collect();
        let mut readable = vec![R::ONE; xs.len()];
        reference::forward(&neuron, &omega, leak, &xs, &mut readable);
        assert_eq!(readable, repeat(&output, copies), "{name}: reference");
        assert_eq!(forward(&neuron, &omega, leak, &xs), repeat(&output, copies), "{name}");

        let course = neuron.potentials(&omega, leak, &xs);
        assert_eq!(course.v_charged, repeat(&case.v_charged, copies), "{name}: m");
        let v: Vec<f64> = case.v_charged.iter().zip(&output).map(|(m, output)| m - output).collect();
        assert_eq!(course.v, repeat(&v, copies), "{name}: v");
        assert_eq!(
            course.spikes,
            case.spikes.iter().flat_map(|&s| std::iter::repeat_n(s as i32, copies)).collect::<Vec<_>>(),
            "{name}: s"
        );

        let mut spikes = vec![9_u8; xs.len()];
        neuron.spikes(&omega, leak, &xs, &mut spikes);
        let expected: Vec<u8> =
            case.spikes.iter().flat_map(|&s| std::iter::repeat_n(u8::try_from(s).unwrap(), copies)).collect();
        assert_eq!(spikes, expected, "{name}: spikes");

        let Some(grad_out) = &case.grad_out else { continue };
        for engine in [true, false] {
            let grads = backward(engine, &neuron, &omega, leak, &xs, &repeat(grad_out, copies));
            let total = |grad: &f64| R::from_f64(copies as f64 * grad);
            assert_eq!(grads.xs, repeat(&case.grad_xs, copies), "{name}: grad_xs, readable = {engine}");
            assert_eq!(
                grads.omega,
                case.grad_omega.iter().map(total).collect::<Vec<_>>(),
                "{name}: grad_omega, readable = {engine}"
            );
            assert_eq!(grads.leak, total(&case.grad_leak), "{name}: grad_leak, readable = {engine}");
        }
    }
}

#[test]
fn one_unit() {
    check::<f32>(1);
    check::<f64>(1);
}

#[test]
fn many_equal_units() {
    check::<f32>(300);
    check::<f64>(300);
}

/// m, s and the gate of every line of working in the file, through `fire` alone.
#[test]
fn fire_follows_the_working() {
    for case in cases() {
        for (t, (&m, &spikes)) in case.v_charged.iter().zip(&case.spikes).enumerate() {
            let v = m - f64::from(spikes) * case.v_threshold;
            assert_eq!(fire(m, case.v_threshold, case.levels), (spikes, v), "{}, t = {t}", case.name);
            assert_eq!(
                fire(m as f32, case.v_threshold as f32, case.levels),
                (spikes, v as f32),
                "{}, t = {t}",
                case.name
            );
            let inside = m / case.v_threshold >= 0.5 && m / case.v_threshold <= f64::from(case.levels) + 0.5;
            assert_eq!(in_gate(m, case.v_threshold, case.levels), inside, "{}, t = {t}", case.name);
        }
    }
}

/// Where `floor(m/θ)` differs from counting: at θ = 0.7, m = 3θ divides to less than 3, and the largest m below 5θ to 5.
#[test]
fn a_rounded_quotient_does_not_decide() {
    let theta = 0.7_f64;
    let tie = 3.0 * theta;
    assert_eq!((tie / theta).floor(), 2.0);
    assert_eq!(fire(tie, theta, 9).0, 3);
    let below = (5.0 * theta).next_down();
    assert_eq!((below / theta).floor(), 5.0);
    assert_eq!(fire(below, theta, 9).0, 4);
}

#[test]
fn a_potential_that_is_not_a_number_fires_nothing() {
    let (spikes, v) = fire(f64::NAN, 1.0, 4);
    assert_eq!(spikes, 0);
    assert!(v.is_nan());
}
