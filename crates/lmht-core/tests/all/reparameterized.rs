//! `Windowed` against the matrix that `Schedule::expand` writes out, and against the neuron whose twin it is.

use lmht_core::{Dynamics, IN_GATE, Lmht, LmhtConfig, Real, Schedule, Tgim, Windowed};
use proptest::prelude::*;

use crate::{Rng, forward, seeded};

const SCHEDULES: [Schedule; 2] = [Schedule::FrontLoaded, Schedule::Uniform];

/// The matrix [LT, LT] times the currents, timesteps ascending.
fn times<R: Real>(matrix: &[R], xs: &[R], n: usize) -> Vec<R> {
    let steps = xs.len() / n;
    (0..xs.len())
        .map(|e| (0..steps).fold(R::ZERO, |sum, from| sum + matrix[e / n * steps + from] * xs[from * n + e % n]))
        .collect()
}

/// Multiples of 1/16, so that sums and products are exact.
fn dyadic(rng: &mut Rng, len: usize, low: f64, high: f64) -> Vec<f64> {
    (0..len).map(|_| (rng.uniform(low, high) * 16.).round() / 16.).collect()
}

fn identity(windows: usize) -> Vec<f64> {
    (0..windows * windows).map(|e| f64::from(e / windows == e % windows)).collect()
}

/// One case: the layer, its Ω written out, its currents and gradients.
struct Problem {
    layer: Windowed<f64>,
    omega: Vec<f64>,
    n: usize,
    xs: Vec<f64>,
    grad_out: Vec<f64>,
}

fn problems() -> Vec<Problem> {
    let mut rng = Rng(41);
    let mut problems = Vec::new();
    for schedule in SCHEDULES {
        for (windows, window, levels) in [(1, 2, 1), (2, 1, 1), (2, 2, 1), (3, 4, 1), (2, 2, 3)] {
            for with_omega in [true, false] {
                let timesteps = windows * window;
                let config = LmhtConfig { levels, window, v_init: 0.5, ..LmhtConfig::lif(timesteps) };
                let n = 70;
                let omega = if with_omega { dyadic(&mut rng, windows * windows, -0.25, 1.) } else { identity(windows) };
                let given = if with_omega { omega.clone() } else { vec![] };
                problems.push(Problem {
                    layer: Windowed::new(config.check().unwrap(), schedule, given, 0.75),
                    omega,
                    n,
                    xs: dyadic(&mut rng, timesteps * n, -1., 2.),
                    grad_out: dyadic(&mut rng, timesteps * n, -1., 1.),
                });
            }
        }
    }
    problems
}

#[test]
fn is_the_expanded_matrix_and_the_neuron() {
    let (mut n_fired, mut n_values) = (0, 0);
    for Problem { layer, omega, n, xs, .. } in problems() {
        let window = layer.neuron().window();
        let matrix = layer.schedule().expand(&omega, layer.timesteps() / window, window);
        let currents = times(&matrix, &xs, n);
        let mut out = vec![f64::NAN; xs.len()];
        layer.forward(&xs, &mut out);
        assert_eq!(out, forward(layer.neuron(), &[], layer.leak(), &currents), "{layer:?}");
        n_fired += out.iter().filter(|&&s| s > 0.).count();
        n_values += out.len();
        let (mut packed, mut expected) = (vec![9; xs.len()], vec![9; xs.len()]);
        layer.packed(&xs, &mut packed);
        layer.neuron().packed(&[], layer.leak(), &currents, &mut expected);
        assert_eq!(packed, expected, "{layer:?}");
    }
    assert!(
        n_fired > n_values / 10 && n_fired < n_values / 2,
        "spikes and silence must occur: {n_fired} of {n_values}"
    );
}

/// dLoss/dx is the transposed matrix times dLoss/dI; dLoss/dω collects the entries of dLoss/dMatrix that ω_tj fills.
#[test]
fn gradients_are_those_of_the_expanded_matrix() {
    for Problem { layer, omega, n, xs, grad_out } in problems() {
        let (window, steps) = (layer.neuron().window(), layer.timesteps());
        let windows = steps / window;
        let matrix = layer.schedule().expand(&omega, windows, window);
        let currents = times(&matrix, &xs, n);
        let (leak, grad_currents) = layer.neuron().gradients(&[], layer.leak(), &currents, &grad_out, &mut []);
        let transposed: Vec<f64> = (0..steps * steps).map(|e| matrix[e % steps * steps + e / steps]).collect();
        let mut grad_omega = vec![0.; windows * windows];
        for to in 0..steps {
            for from in 0..steps {
                let by_matrix: f64 = (0..n).map(|i| grad_currents[to * n + i] * xs[from * n + i]).sum();
                let weight = match layer.schedule() {
                    Schedule::FrontLoaded => f64::from(to % window == 0),
                    Schedule::Uniform => 1. / window as f64,
                };
                grad_omega[to / window * windows + from / window] += by_matrix * weight;
            }
        }

        let (mut grad_xs, mut shared) = (vec![f64::NAN; xs.len()], vec![f64::NAN; layer.n_shared()]);
        layer.backward(&xs, &grad_out, &mut grad_xs, &mut shared);
        assert_eq!(grad_xs, times(&transposed, &grad_currents, n), "{layer:?}");
        assert_eq!(shared.pop(), Some(leak), "{layer:?}");
        // Everything is dyadic and small: exact in any order.
        assert_eq!(shared, if layer.omega().is_empty() { vec![] } else { grad_omega }, "{layer:?}");
    }
}

proptest! {
    #![proptest_config(seeded())]

    /// Front-loaded, the counts of a window are those of the neuron whose twin it is, for any number: that neuron receives
    /// what the windows delivered.
    #[test]
    fn front_loaded_counts_are_those_of_the_neuron_with_levels(
        levels in 1..=4_u32, windows in 1..=3_usize, leak in 0.5..1.5_f64, theta in 0.3..1.5_f64, seed in 0..1000_u64,
    ) {
        let (mut rng, window) = (Rng(seed), levels as usize);
        let omega: Vec<f64> = rng.vec(windows * windows, 0., 2. / windows as f64);
        let xs: Vec<f64> = rng.vec(windows * window, -1., 2.);
        let config = LmhtConfig { v_threshold: theta, ..LmhtConfig::lmht(levels, windows) };
        let twin = LmhtConfig { levels: 1, timesteps: xs.len(), window, tgim: Tgim::Identity, ..config };
        let twin = Windowed::new(twin.check().unwrap(), Schedule::FrontLoaded, omega.clone(), leak);
        let layer = Lmht::new(config.check().unwrap(), omega, leak);

        let delivered: Vec<f64> = xs.chunks(window).map(|xs| xs.iter().fold(0., |sum, x| sum + x)).collect();
        let (mut of_windows, mut counts) = (vec![9; xs.len()], vec![9; windows]);
        twin.packed(&xs, &mut of_windows);
        layer.packed(&delivered, &mut counts);
        let sums: Vec<u8> = of_windows.chunks(window).map(|s| s.iter().map(|s| s & !IN_GATE).sum()).collect();
        prop_assert_eq!(sums, counts.iter().map(|s| s & !IN_GATE).collect::<Vec<_>>());
    }
}

#[test]
#[should_panic(expected = "neuron: expected Tgim::Identity between timesteps (Ω mixes windows), got Full")]
fn a_mixing_neuron_is_refused() {
    Windowed::new(LmhtConfig::lmht(1, 2).check().unwrap(), Schedule::Uniform, vec![], 1.0_f32);
}

#[test]
#[should_panic(expected = "omega: expected [T, T] with T = 2 windows or nothing, got 16 values")]
fn a_matrix_between_timesteps_is_refused() {
    let neuron = LmhtConfig { window: 2, ..LmhtConfig::lif(4) }.check().unwrap();
    Windowed::new(neuron, Schedule::Uniform, vec![0.5_f32; 16], 1.0);
}
