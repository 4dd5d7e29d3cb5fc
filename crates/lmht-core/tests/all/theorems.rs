//! The paper's statements about the neuron, on random dyadic inputs, where arithmetic is exact and `==` is meant.

use lmht_core::{GradientMode, LmhtConfig, Tgim, fire, qcfs};
use proptest::prelude::*;

use crate::{backward, forward, seeded};

/// The unit that all potentials are multiples of.
const GRAIN: f64 = 1.0 / 64.0;

/// θ, as a multiple of the grain.
fn v_threshold() -> impl Strategy<Value = i32> {
    1..=128_i32
}

fn potential(grains: i32) -> f64 {
    f64::from(grains) * GRAIN
}

/// Ω = 1, λ = 1 and the given v(0) in grains, below θ.
fn plain(levels: u32, timesteps: usize, theta: i32, v: i32) -> LmhtConfig {
    // v/θ is rounded, but v/θ·θ is v again for these small whole numbers of grains or the test is skipped.
    let v_init = f64::from(v) / f64::from(theta);
    LmhtConfig { v_threshold: potential(theta), v_init, ..LmhtConfig::mht(levels, timesteps) }
}

fn spikes(config: LmhtConfig, omega: &[f64], leak: f64, xs: &[f64]) -> Vec<u32> {
    let mut spikes = vec![u32::MAX; xs.len()];
    config.check().unwrap().spikes(omega, leak, xs, &mut spikes);
    spikes
}

/// The IF neuron with every current spread over `levels` timesteps.
fn single_threshold(config: LmhtConfig) -> LmhtConfig {
    LmhtConfig { levels: 1, timesteps: config.timesteps * config.levels as usize, ..config }
}

proptest! {
    #![proptest_config(seeded())]

    /// Lemma 4.1: from v in [0, θ), one M-HT step with any current I gives the spikes and the potential of L IF steps
    /// with I/L.
    #[test]
    fn lemma_4_1(levels in 1..=8_u32, theta in v_threshold(), v in 0..128_i32, share in -600..600_i32) {
        let (theta, v, share) = (potential(theta), potential(v % theta), potential(share));
        let (spikes, v_after) = fire(v + share * f64::from(levels), theta, levels);
        let (mut count, mut v_if) = (0, v);
        for _ in 0..levels {
            let (spike, rest) = fire(v_if + share, theta, 1);
            count += spike;
            v_if = rest;
        }
        prop_assert_eq!((spikes, v_after), (count, v_if));
    }

    /// Theorem 4.2(i): λ = 1, v(0) in [0, θ), every current in [0, Lθ): s(t) is the number of IF spikes in window t.
    #[test]
    fn theorem_4_2_i(
        levels in 1..=6_u32, theta in v_threshold(), v in 0..128_i32,
        shares in prop::collection::vec(0..128_i32, 1..=6),
    ) {
        let config = plain(levels, shares.len(), theta, v % theta);
        prop_assume!(config.v_init * config.v_threshold == potential(v % theta));
        let shares: Vec<f64> = shares.iter().map(|share| potential(share % theta)).collect();
        let currents: Vec<f64> = shares.iter().map(|share| share * f64::from(levels)).collect();
        let spread: Vec<f64> = shares.iter().flat_map(|&s| vec![s; levels as usize]).collect();
        let single = spikes(single_threshold(config), &[], 1.0, &spread);
        let windows: Vec<u32> = single.chunks(levels as usize).map(|window| window.iter().sum()).collect();
        prop_assert_eq!(spikes(config, &[], 1.0, &currents), windows);
    }

    /// Theorem 4.2(ii): λ = 1, the same current at every timestep, of any value:
    /// Σ s(t) = clip(floor((v(0) + Σ I)/θ), 0, LT).
    #[test]
    fn theorem_4_2_ii(
        levels in 1..=6_u32, timesteps in 1..=6_usize, theta in v_threshold(), v in 0..128_i32, current in -600..1200_i32,
    ) {
        let v = v % theta;
        let config = plain(levels, timesteps, theta, v);
        prop_assume!(config.v_init * config.v_threshold == potential(v));
        let total: u32 = spikes(config, &[], 1.0, &vec![potential(current); timesteps]).iter().sum();
        let expected = (v + current * timesteps as i32).div_euclid(theta).clamp(0, levels as i32 * timesteps as i32);
        prop_assert_eq!(total as i32, expected);
    }

    /// Corollary 4.3: λ = 1, v(0) = 0, equal currents: all s(t) are equal exactly for I < 0, I >= Lθ, and I in
    /// [kθ, kθ + θ/T).
    #[test]
    fn corollary_4_3(levels in 1..=5_u32, timesteps in 1..=6_usize, theta in v_threshold(), current in -100..900_i32) {
        let counts = spikes(plain(levels, timesteps, theta, 0), &[], 1.0, &vec![potential(current); timesteps]);
        let uniform = counts.iter().all(|s| *s == counts[0]);
        let expected = current < 0
            || current >= levels as i32 * theta
            || (current % theta) * (timesteps as i32) < theta;
        prop_assert_eq!(uniform, expected, "{:?}", counts);
    }

    /// One level and no T-GIM is the LIF neuron, forward and, in the same mode, backward.
    #[test]
    fn m_ht_with_one_level_is_lif(xs in prop::collection::vec(-100..200_i32, 1..=6), leak in 0..=6_i32) {
        let xs: Vec<f64> = xs.into_iter().map(potential).collect();
        let (leak, grad_out) = (f64::from(leak) / 4.0, vec![1.0; xs.len()]);
        let lif = LmhtConfig::lif(xs.len()).check().unwrap();
        let mht = LmhtConfig { gradient: GradientMode::Full, ..LmhtConfig::mht(1, xs.len()) }.check().unwrap();
        prop_assert_eq!(forward(&lif, &[], leak, &xs), forward(&mht, &[], leak, &xs));
        prop_assert_eq!(
            backward(false, &lif, &[], leak, &xs, &grad_out),
            backward(false, &mht, &[], leak, &xs, &grad_out)
        );
        // Written out once more: Eqs. 1-2.
        let mut v = 0.0;
        let eqs: Vec<f64> = xs.iter().map(|x| {
            let m = leak * v + x;
            let s = if m >= 1.0 { 1.0 } else { 0.0 };
            v = m - s;
            s
        }).collect();
        prop_assert_eq!(forward(&lif, &[], leak, &xs), eqs);
    }

    /// A causal T-GIM gives the same outputs up to t whatever comes later, infinities and NaN included.
    #[test]
    fn causal_ignores_the_future(
        xs in prop::collection::vec(-100..200_i32, 5 * 3), omega in prop::collection::vec(0..64_i32, 25),
        t in 0..5_usize, future in prop::sample::select(vec![f64::NAN, f64::INFINITY, -1e300, 1e300, 0.0]),
    ) {
        let neuron = LmhtConfig { tgim: Tgim::Causal, ..LmhtConfig::lmht(2, 5) }.check().unwrap();
        let omega: Vec<f64> = omega.into_iter().map(potential).collect();
        let xs: Vec<f64> = xs.into_iter().map(potential).collect();
        let mut changed = xs.clone();
        changed[(t + 1) * 3..].fill(future);
        let known = ..(t + 1) * 3;
        let (before, after) = (forward(&neuron, &omega, 1.25, &xs), forward(&neuron, &omega, 1.25, &changed));
        prop_assert_eq!(&before[known], &after[known]);
    }

    /// The front-loaded single-threshold twin: the first timestep of a window gets all of the window's current, the
    /// others nothing, and the leak acts on entering a window. Its spikes are the thermometer code of s(t), for every
    /// current, every leak and every initial potential.
    #[test]
    fn front_loaded_windows_are_lossless(
        levels in 1..=5_u32, theta_log in 0..=7_u32, v in 0..128_i32, leak in 0..=6_i32,
        currents in prop::collection::vec(-600..1200_i32, 1..=6),
    ) {
        let theta = 1 << theta_log;
        let config = plain(levels, currents.len(), theta, v % theta);
        let currents: Vec<f64> = currents.into_iter().map(potential).collect();
        let leak = f64::from(leak) / 4.0;
        let mut loaded = vec![0.0; currents.len() * levels as usize];
        for (t, current) in currents.iter().enumerate() {
            loaded[t * levels as usize] = *current;
        }
        let twin = LmhtConfig { window: levels as usize, ..single_threshold(config) };
        let thermometer: Vec<u32> = spikes(config, &[], leak, &currents)
            .iter()
            .flat_map(|s| (1..=levels).map(move |k| u32::from(*s >= k)))
            .collect();
        prop_assert_eq!(spikes(twin, &[], leak, &loaded), thermometer);
    }

    /// The same where nothing is dyadic and every potential sits on a threshold, or next to one: kθ compares as it does in
    /// the neuron with L levels, and the rest of a window is that neuron's to the bit.
    #[test]
    fn front_loaded_windows_are_lossless_at_ties(
        levels in 1..=9_u32, theta in 0.01..3_f64, leak in 0.5..1.5_f64,
        steps in prop::collection::vec((-2..12_i32, -2..=2_i32), 1..=5),
    ) {
        let config = LmhtConfig {
            timesteps: steps.len(), levels, v_threshold: theta, v_init: 0.5, tgim: Tgim::Identity,
            gradient: GradientMode::Detached, window: 1,
        };
        // Each current takes the potential to kθ, give or take a few units in the last place.
        let (mut v, mut currents) = (theta * 0.5, Vec::new());
        for (k, ulps) in steps {
            let target = f64::from(k) * theta;
            let ulps = if k == 0 { 0 } else { i64::from(ulps) };
            let target = f64::from_bits((target.to_bits() as i64 + ulps) as u64);
            let current = target - leak * v;
            currents.push(current);
            v = lmht_core::fire(leak * v + current, theta, levels).1;
        }
        let mut loaded = vec![0.0; currents.len() * levels as usize];
        for (t, current) in currents.iter().enumerate() {
            loaded[t * levels as usize] = *current;
        }
        let twin = LmhtConfig { window: levels as usize, ..single_threshold(config) };
        let thermometer: Vec<u32> = spikes(config, &[], leak, &currents)
            .iter()
            .flat_map(|s| (1..=levels).map(move |k| u32::from(*s >= k)))
            .collect();
        prop_assert_eq!(spikes(twin, &[], leak, &loaded), thermometer);
    }

    /// The hybrid start: θ = ϑ/L, v(0) = θ/2, Ω = 1/T, λ = 1. The mean output over time is QCFS with Q = LT levels.
    #[test]
    fn hybrid_start_is_qcfs(
        l_log in 0..=3_u32, t_log in 0..=2_u32, scale_log in 0..=4_u32, xs in prop::collection::vec(-600..3000_i32, 1..=9),
    ) {
        let (levels, timesteps, scale) = (1_u32 << l_log, 1_usize << t_log, f64::from(1 << scale_log));
        let xs: Vec<f64> = xs.into_iter().map(potential).collect();
        let config = LmhtConfig {
            v_threshold: scale / f64::from(levels), v_init: 0.5, ..LmhtConfig::lmht(levels, timesteps)
        };
        let omega = vec![1.0 / timesteps as f64; timesteps * timesteps];
        let output = forward(&config.check().unwrap(), &omega, 1.0, &xs.repeat(timesteps));
        let mean: Vec<f64> = (0..xs.len())
            .map(|i| output.iter().skip(i).step_by(xs.len()).sum::<f64>() / timesteps as f64)
            .collect();
        let mut activations = vec![f64::NAN; xs.len()];
        qcfs::forward(&xs, scale, levels * timesteps as u32, &mut activations);
        prop_assert_eq!(mean, activations);
    }
}

/// Outside the conditions of Theorem 4.2(i) the two neurons differ, so the tests above can tell: a leak above 1 lifts v
/// beyond θ before a negative current.
#[test]
fn spreading_a_negative_current_over_a_window_loses_spikes() {
    // v(0) = 0.75 θ, λ = 1.5: v' = 1.125. M-HT: m = 1.125 - 1 = 0.125, no spike. IF, I/2 twice: 0.625, 0.125: the same.
    // With I = -0.25: M-HT m = 0.875, no spike; IF: 1.0 fires.
    let config = LmhtConfig { v_init: 0.75, ..LmhtConfig::mht(2, 1) };
    let twin = LmhtConfig { window: 2, ..single_threshold(config) };
    assert_eq!(spikes(config, &[], 1.5, &[-0.25]), [0]);
    assert_eq!(spikes(twin, &[], 1.5, &[-0.125, -0.125]), [1, 0]);
}
