//! The fast kernel equals the reference to the bit, for any shape, configuration and number of threads.

use std::sync::Arc;

use lmht_core::sum::{BLOCK, LANES, ordered_sum};
use lmht_core::{GradientMode, IN_GATE, LmhtConfig, Real, Tgim, reference};

use crate::{Gradients, Rng, backward, bits, forward};

const TGIMS: [Tgim; 3] = [Tgim::Full, Tgim::Causal, Tgim::Identity];
const GRADIENTS: [GradientMode; 2] = [GradientMode::Detached, GradientMode::Full];

/// Sizes on both sides of every border of the kernel.
fn sizes() -> Vec<usize> {
    let mut sizes: Vec<usize> = (0..=2 * LANES + 1).collect();
    for border in [BLOCK, 2 * BLOCK, 3 * BLOCK + LANES] {
        sizes.extend([border - 1, border, border + 1, border + LANES]);
    }
    sizes.push(3000);
    sizes
}

struct Problem<R> {
    neuron: lmht_core::LmhtNeuron,
    omega: Vec<R>,
    leak: R,
    xs: Vec<R>,
    grad_out: Vec<R>,
}

impl<R: Real> Problem<R> {
    fn random(config: LmhtConfig, n: usize, seed: u64) -> Self {
        let mut rng = Rng(seed);
        let (timesteps, v) = (config.timesteps, config.v_threshold);
        let mix = if config.tgim == Tgim::Identity { 0 } else { timesteps * timesteps };
        Self {
            neuron: config.check().unwrap(),
            // Around 1/T and of both signs now and then, so that open and closed gates, saturation and negative potentials
            // all occur.
            omega: rng.vec(mix, -0.5 / timesteps as f64, 2.5 / timesteps as f64),
            leak: R::from_f64(rng.uniform(0.5, 1.5)),
            xs: rng.vec(timesteps * n, -1.5 * v, (f64::from(config.levels) + 1.5) * v),
            grad_out: rng.vec(timesteps * n, -1.0, 1.0),
        }
    }

    fn check(&self) {
        let config = self.neuron.config();
        let mut readable = vec![R::ONE; self.xs.len()];
        reference::forward(&self.neuron, &self.omega, self.leak, &self.xs, &mut readable);
        let fast = forward(&self.neuron, &self.omega, self.leak, &self.xs);
        assert_eq!(bits(&fast), bits(&readable), "forward, n = {}, {config:?}", self.xs.len() / config.timesteps);

        let returned = self.neuron.output(&self.omega, self.leak, &self.xs);
        assert_eq!(bits(&returned), bits(&readable), "output, n = {}, {config:?}", self.xs.len() / config.timesteps);

        let (readable, fast) = (self.backward(true), self.backward(false));
        let name = format!("backward, n = {}, {config:?}", self.xs.len() / config.timesteps);
        assert_eq!(bits(&fast.xs), bits(&readable.xs), "{name}");
        assert_eq!(bits(&fast.omega), bits(&readable.omega), "{name}");
        assert_eq!(bits(&[fast.leak]), bits(&[readable.leak]), "{name}");

        let mut omega = vec![R::ONE; self.omega.len()];
        let (leak, xs) = self.neuron.gradients(&self.omega, self.leak, &self.xs, &self.grad_out, &mut omega);
        assert_eq!(bits(&xs), bits(&readable.xs), "gradients: {name}");
        assert_eq!(bits(&omega), bits(&readable.omega[..omega.len()]), "gradients: {name}");
        assert_eq!(bits(&[leak]), bits(&[readable.leak]), "gradients: {name}");
    }

    fn backward(&self, readable: bool) -> Gradients<R> {
        backward(readable, &self.neuron, &self.omega, self.leak, &self.xs, &self.grad_out)
    }
}

fn check_all<R: Real>() {
    let mut seed = 0;
    for timesteps in 1..=6 {
        for levels in 1..=5 {
            for tgim in TGIMS {
                for gradient in GRADIENTS {
                    // All sizes once over the loop, a few at each configuration.
                    let sizes = sizes();
                    for k in 0..3 {
                        let n = sizes[(seed as usize * 3 + k) % sizes.len()];
                        let windows: Vec<usize> = (1..=timesteps).filter(|w| timesteps % w == 0).collect();
                        let config = LmhtConfig {
                            v_threshold: [0.7, 1.0, 0.3][k],
                            v_init: [0.0, 0.5, 0.875][k],
                            tgim,
                            gradient,
                            window: windows[seed as usize % windows.len()],
                            ..LmhtConfig::lmht(levels, timesteps)
                        };
                        Problem::<R>::random(config, n, seed).check();
                    }
                    seed += 1;
                }
            }
        }
    }
}

#[test]
fn equals_the_reference_in_f32() {
    check_all::<f32>();
}

#[test]
fn equals_the_reference_in_f64() {
    check_all::<f64>();
}

#[test]
fn every_size_at_the_published_configuration() {
    for n in sizes() {
        Problem::<f32>::random(LmhtConfig::lmht(2, 2), n, n as u64).check();
        Problem::<f64>::random(LmhtConfig::lmht(4, 4), n, n as u64).check();
        Problem::<f32>::random(LmhtConfig::lif(4), n, n as u64).check();
    }
}

/// Every loop of the kernel, whole and with a rest, with so few units that Miri can run it, which sees whether a number is
/// read that nobody has written.
#[test]
fn every_loop_of_the_kernel() {
    for timesteps in 1..=4 {
        for tgim in TGIMS {
            for gradient in GRADIENTS {
                let config = LmhtConfig { tgim, gradient, ..LmhtConfig::lmht(2, timesteps) };
                Problem::<f32>::random(config, 2 * LANES + 1, 1).check();
                Problem::<f64>::random(config, LANES - 1, 2).check();
            }
        }
    }
    Problem::<f32>::random(LmhtConfig::lmht(2, 2), BLOCK + 1, 3).check();
}

/// Beyond the size where threads begin: one thread, two, and three give the same bits as the reference.
#[test]
fn the_number_of_threads_changes_nothing() {
    for (config, n) in [
        (LmhtConfig::lmht(2, 2), 70_001),
        (LmhtConfig::lmht(3, 3), 40_000),
        (LmhtConfig::lif(4), 33_333),
        (LmhtConfig { tgim: Tgim::Causal, ..LmhtConfig::lmht(2, 5) }, 20_011),
    ] {
        let problem = Arc::new(Problem::<f32>::random(config, n, 7));
        let expected = problem.backward(true);
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let problem = Arc::clone(&problem);
            pool.install(|| problem.check());
            let grads = pool.install(|| problem.backward(false));
            assert_eq!(bits(&grads.omega), bits(&expected.omega), "{threads} threads");
            assert_eq!(bits(&[grads.leak]), bits(&[expected.leak]), "{threads} threads");
        }
    }
}

/// An identity T-GIM may come with a matrix; it is not read, and its gradient is zero.
#[test]
fn identity_accepts_a_matrix_and_ignores_it() {
    let neuron = LmhtConfig::lif(2).check().unwrap();
    let (xs, nan) = ([0.75, 1.0, 0.5, 1.5], [f64::NAN; 4]);
    assert_eq!(forward(&neuron, &nan, 0.5, &xs), forward(&neuron, &[], 0.5, &xs));
    let with = backward(false, &neuron, &nan, 0.5, &xs, &[1.0; 4]);
    assert_eq!(with.omega, [0.0; 4]);
    assert_eq!(with, backward(true, &neuron, &nan, 0.5, &xs, &[1.0; 4]));
    assert_eq!(with.xs, backward(false, &neuron, &[], 0.5, &xs, &[1.0; 4]).xs);
}

/// `spikes` is the output divided by θ, in every integer type.
#[test]
fn spike_counts_match_the_outputs() {
    for levels in [1, 2, 3, 5, 300] {
        let config = LmhtConfig { v_threshold: 0.5, ..LmhtConfig::lmht(levels, 3) };
        let problem = Problem::<f64>::random(config, 777, u64::from(levels));
        let output = forward(&problem.neuron, &problem.omega, problem.leak, &problem.xs);
        let mut wide = vec![u32::MAX; output.len()];
        problem.neuron.spikes(&problem.omega, problem.leak, &problem.xs, &mut wide);
        assert!(wide.iter().zip(&output).all(|(&s, &o)| f64::from(s) * 0.5 == o));
        let mut middle = vec![u16::MAX; output.len()];
        problem.neuron.spikes(&problem.omega, problem.leak, &problem.xs, &mut middle);
        assert!(wide.iter().zip(&middle).all(|(&w, &m)| w == u32::from(m)));
        if levels <= 255 {
            let mut narrow = vec![u8::MAX; output.len()];
            problem.neuron.spikes(&problem.omega, problem.leak, &problem.xs, &mut narrow);
            assert!(wide.iter().zip(&narrow).all(|(&w, &m)| w == u32::from(m)));
        }
        assert!(wide.contains(&levels) && wide.contains(&0), "both ends must occur for the test to mean something");
    }
}

/// The low bits of `packed` are `spikes`; its top bit says where the gradient with respect to an output of 1 passes.
#[test]
fn packed_spikes_match_the_counts_and_the_gradient() {
    for (levels, timesteps, window) in [(1, 1, 1), (2, 2, 1), (4, 4, 1), (3, 5, 1), (127, 2, 1), (1, 6, 3)] {
        let gradient = GradientMode::Detached;
        let base = LmhtConfig { v_threshold: 0.5, window, gradient, ..LmhtConfig::lmht(levels, timesteps) };
        for tgim in TGIMS {
            let mut problem = Problem::<f32>::random(LmhtConfig { tgim, ..base }, 1003, u64::from(levels));
            problem.grad_out.fill(1.0);
            let Problem { neuron, omega, leak, xs, .. } = &problem;
            let mut packed = vec![u8::MAX; xs.len()];
            neuron.packed(omega, *leak, xs, &mut packed);
            let mut counts = vec![u8::MAX; xs.len()];
            neuron.spikes(omega, *leak, xs, &mut counts);
            assert!(packed.iter().zip(&counts).all(|(&p, &count)| p & !IN_GATE == count), "{tgim:?}, L = {levels}");
            let (inside, outside) = (packed.iter().any(|p| p & IN_GATE != 0), packed.iter().any(|p| p & IN_GATE == 0));
            assert!(inside && outside, "both must occur for the test to mean something: {tgim:?}, L = {levels}");
            if tgim == Tgim::Identity {
                let passes = problem.backward(false).xs;
                assert!(packed.iter().zip(&passes).all(|(&p, &g)| (p & IN_GATE != 0) == (g == 1.0)), "L = {levels}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "out: expected at most 127 levels, got 128")]
fn levels_that_do_not_fit_seven_bits_are_refused() {
    let neuron = LmhtConfig::lmht(128, 1).check().unwrap();
    neuron.packed(&[1.0], 1.0, &[1.0], &mut [0]);
}

#[test]
#[should_panic(expected = "out: expected an integer type that holds 300 levels, got one that ends at 255")]
fn levels_that_do_not_fit_a_byte_are_refused() {
    let neuron = LmhtConfig::lmht(300, 1).check().unwrap();
    neuron.spikes(&[1.0], 1.0, &[1.0], &mut [0_u8]);
}

#[test]
#[should_panic(expected = "xs: expected [T, n] with T = 2 timesteps (from the config), got 3 values")]
fn currents_that_do_not_divide_into_timesteps_are_refused() {
    forward(&LmhtConfig::lif(2).check().unwrap(), &[], 1.0, &[1.0; 3]);
}

#[test]
#[should_panic(expected = "out: expected the 4 values of xs, [T, n], got 3")]
fn a_short_output_is_refused() {
    LmhtConfig::lif(2).check().unwrap().forward(&[], 1.0, &[1.0; 4], &mut [0.0; 3]);
}

#[test]
#[should_panic(expected = "omega: expected [T, T] with T = 2 timesteps (from the config), got 0 values")]
fn a_missing_tgim_is_refused() {
    forward(&LmhtConfig::lmht(2, 2).check().unwrap(), &[], 1.0, &[1.0; 4]);
}

#[test]
#[should_panic(
    expected = "grad_omega: expected [T, T] with T = 2 timesteps (from the config) or nothing, got 3 values"
)]
fn a_tgim_gradient_of_another_size_is_refused() {
    LmhtConfig::lif(2).check().unwrap().backward(&[], 1.0, &[1.0; 4], &[1.0; 4], &mut [0.0; 4], &mut [0.0; 3]);
}

#[test]
fn no_units_are_no_work() {
    let neuron = LmhtConfig::lmht(2, 3).check().unwrap();
    assert_eq!(forward::<f64>(&neuron, &[0.5; 9], 1.0, &[]), []);
    let grads = backward::<f64>(false, &neuron, &[0.5; 9], 1.0, &[], &[]);
    assert_eq!((grads.omega, grads.leak), (vec![0.0; 9], 0.0));
}

/// The order of a sum, written out once more with indices.
#[test]
fn sums_follow_the_documented_order() {
    let mut rng = Rng(3);
    for n in sizes() {
        let terms: Vec<f32> = rng.vec(n, -1.0, 1.0);
        let mut total = 0.0_f64;
        for block in 0..n.div_ceil(BLOCK) {
            let units = block * BLOCK..n.min((block + 1) * BLOCK);
            let lane = |l| units.clone().filter(|i| i % LANES == l).fold(0.0_f32, |sum, i| sum + terms[i]);
            total += (0..LANES).fold(0.0, |sum, l| sum + f64::from(lane(l)));
        }
        assert_eq!(ordered_sum(terms.iter().copied()), total as f32, "n = {n}");
    }
}
