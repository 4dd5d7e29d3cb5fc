//! SNM, SRP and COS: traces by hand, and what must hold for any current.

use lmht_core::LmhtConfig;
use lmht_core::baselines::{cos, snm, srp};
use proptest::prelude::*;

use crate::seeded;

/// Two units beside each other, time outermost: the slices are not mixed up.
#[test]
fn snm_by_hand() {
    let mut out = [f64::NAN; 10];
    // θ = 2, v(0) = 1. First unit: m = 3, 1, -2, 0.5, 2 -> +, 0, -, 0, +. Second: m = -5, -5, 3, -2, -2 -> 0, 0, +, -, 0.
    let xs = [2., -6., 0., 0., -3., 8., 0.5, -3., 1.5, 0.];
    snm(5, 2., 0.5, &xs, &mut out);
    assert_eq!(out, [2., 0., 0., 0., -2., 2., 0., -2., 2., 0.]);
}

/// The residue decides: exactly 0.001 θ is silenced, above is not.
#[test]
fn srp_by_hand() {
    for (x, fires) in [(0.501, 0.), (0.5011, 2.)] {
        let mut out = [f64::NAN; 4];
        // θ = 2, τ = 1: m = 1 + 1.0 + x, v(τ) = x... above or not above 0.002 after one spike.
        let first = 1. + x - 0.499;
        srp(4, 1, 2., &[first, 1., 2., 2.], &mut out);
        assert_eq!(out, [2., fires, fires, fires], "{x}");
    }
}

/// θ = 1, ρ = 2. Lower, higher, neither, and a unit that fired at every timestep.
#[test]
fn cos_by_hand() {
    let run = |xs: [f64; 4]| {
        let mut out = [f64::NAN; 4];
        cos(4, 2, 1., &xs, &mut out);
        out
    };
    // m = 1.5, then 0.5 - 1 = -0.5: lower, 1.5 - 0.999 < 1, so v(0) = -0.5. Then m = 0.75, 1.75.
    assert_eq!(run([1., -1., 1.25, 1.]), [1., 0., 0., 1.]);
    // m = 0.25, then 2.75 with one spike: v = 1.75, higher; 1.001 - 0.25 < 1, so v(0) = 1.5. Then m = 1.5, 0.5.
    assert_eq!(run([-0.25, 2.5, 0., 0.]), [0., 1., 1., 0.]);
    // A deep fall: v = -2.5 without a spike shifts by 3.501, so v(0) = 4.001.
    assert_eq!(run([-3., 5., -3.5, 0.]), [0., 1., 0., 0.]);
    assert_eq!(run([-3., 5., -3., 0.]), [0., 1., 1., 0.]);
    // m = 0.75, 1.25: v = 0.25, neither. Then 0.5 + 0.25, 1.
    assert_eq!(run([0.25, 0.5, 0.25, 0.25]), [0., 1., 0., 1.]);
    // m = 2.5, 3.5: v = 2.5, higher without a silent timestep: v(0) = 1.5.
    assert_eq!(run([2., 2., -0.5, 0.]), [1., 1., 1., 0.]);
}

fn plain_if(xs: &[f64]) -> Vec<f64> {
    let neuron = LmhtConfig { v_init: 0.5, ..LmhtConfig::lif(xs.len()) }.check().unwrap();
    neuron.output(&[], 1., xs)
}

proptest! {
    #![proptest_config(seeded())]

    #[test]
    fn stages_and_memory(currents in prop::collection::vec(-96..160_i32, 2..=12), split in 1..12_usize) {
        // Quarters are exact.
        let xs: Vec<f64> = currents.iter().map(|&x| f64::from(x) / 64.).collect();
        let (timesteps, split) = (xs.len(), split.min(xs.len() - 1));
        let mut out = vec![f64::NAN; timesteps];
        let first = plain_if(&xs[..split]);
        let second = plain_if(&xs[split..]);

        // The first stages are IF neurons; the second is one too, unless silenced or shifted.
        srp(timesteps, split, 1., &xs, &mut out);
        prop_assert_eq!(&out[..split], &first[..]);
        let residue = 0.5 + xs[..split].iter().sum::<f64>() - first.iter().sum::<f64>();
        let expected = if residue > 1e-3 { second.clone() } else { vec![0.; timesteps - split] };
        prop_assert_eq!(&out[split..], &expected[..]);

        cos(timesteps, split, 1., &xs, &mut out);
        prop_assert_eq!(&out[..split], &first[..]);
        let lower = residue < 0. && first.contains(&1.);
        if !lower && residue < 1. {
            prop_assert_eq!(&out[split..], &second[..]);
        }

        // What was sent is never negative in sum, and explains the potential: v = v(0) + Σx - Σs, below θ - as far as one
        // spike a timestep allows.
        snm(timesteps, 1., 0., &xs, &mut out);
        let mut sent = 0.;
        for spike in &out {
            sent += spike;
            prop_assert!(sent >= 0. && [-1., 0., 1.].contains(spike));
        }
        if xs.iter().all(|x| (0. ..1.).contains(x)) {
            let neuron = LmhtConfig::lif(timesteps).check().unwrap();
            prop_assert_eq!(out, neuron.output(&[], 1., &xs), "nothing to take back: SNM is IF");
        }
    }
}
