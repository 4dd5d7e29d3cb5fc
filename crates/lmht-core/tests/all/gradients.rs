//! The gradients of the neuron, against the formulas written out naively, and against finite differences.
//!
//! Spike counts are piecewise constant, so finite differences of the neuron itself are 0. What is differentiated instead
//! is its straight-through twin: at the point in question freeze s(t), the gate w(t) and m(t), and let
//! sθ = s̄θ + w̄ (m - m̄), the smooth function whose derivative the surrogate is. In detached mode v(t-1) is frozen too.

use lmht_core::{GradientMode, LmhtConfig, Tgim};

use crate::{Gradients, Rng, backward};

struct Problem {
    config: LmhtConfig,
    omega: Vec<f64>,
    leak: f64,
    xs: Vec<f64>,
    grad_out: Vec<f64>,
}

/// m, v(t-1), s and w at the point in question, all `[T, n]`.
struct Trajectory {
    m: Vec<f64>,
    v_before: Vec<f64>,
    spikes: Vec<f64>,
    inside: Vec<bool>,
}

impl Problem {
    fn random(tgim: Tgim, gradient: GradientMode, timesteps: usize, levels: u32, window: usize, n: usize) -> Self {
        let mut rng = Rng(timesteps as u64 * 1000 + u64::from(levels) * 100 + n as u64);
        let config =
            LmhtConfig { v_threshold: 0.7, v_init: 0.5, tgim, gradient, window, ..LmhtConfig::lmht(levels, timesteps) };
        Self {
            config,
            omega: rng.vec(timesteps * timesteps, 0.0, 2.0 / timesteps as f64),
            leak: rng.uniform(0.5, 1.5),
            xs: rng.vec(timesteps * n, -1.0, f64::from(levels)),
            grad_out: rng.vec(timesteps * n, -1.0, 1.0),
        }
    }

    fn n(&self) -> usize {
        self.xs.len() / self.config.timesteps
    }

    fn mixes(&self, t: usize, j: usize) -> bool {
        match self.config.tgim {
            Tgim::Full => true,
            Tgim::Causal => j <= t,
            Tgim::Identity => false,
        }
    }

    fn weight(&self, omega: &[f64], t: usize, j: usize) -> f64 {
        if self.mixes(t, j) {
            omega[t * self.config.timesteps + j]
        } else {
            f64::from(self.config.tgim == Tgim::Identity && t == j)
        }
    }

    fn leak_at(&self, leak: f64, t: usize) -> f64 {
        if t.is_multiple_of(self.config.window) { leak } else { 1.0 }
    }

    fn trajectory(&self) -> Trajectory {
        let (timesteps, n, theta) = (self.config.timesteps, self.n(), self.config.v_threshold);
        let zeros = vec![0.0; timesteps * n];
        let mut at =
            Trajectory { m: zeros.clone(), v_before: zeros.clone(), spikes: zeros, inside: vec![false; timesteps * n] };
        for i in 0..n {
            let mut v = self.config.v_init * theta;
            for t in 0..timesteps {
                let current: f64 = (0..timesteps).map(|j| self.weight(&self.omega, t, j) * self.xs[j * n + i]).sum();
                let m = self.leak_at(self.leak, t) * v + current;
                let spikes = (m / theta).floor().clamp(0.0, f64::from(self.config.levels));
                let e = t * n + i;
                (at.m[e], at.v_before[e], at.spikes[e]) = (m, v, spikes);
                at.inside[e] = m >= theta / 2.0 && m <= (f64::from(self.config.levels) + 0.5) * theta;
                v = m - spikes * theta;
            }
        }
        at
    }

    /// Σ grad_out · sθ of the straight-through twin.
    fn twin_loss(&self, at: &Trajectory, omega: &[f64], leak: f64, xs: &[f64]) -> f64 {
        let (timesteps, n, theta) = (self.config.timesteps, self.n(), self.config.v_threshold);
        let mut loss = 0.0;
        for i in 0..n {
            let mut v = self.config.v_init * theta;
            for t in 0..timesteps {
                let e = t * n + i;
                if self.config.gradient == GradientMode::Detached {
                    v = at.v_before[e];
                }
                let current: f64 = (0..timesteps).map(|j| self.weight(omega, t, j) * xs[j * n + i]).sum();
                let m = self.leak_at(leak, t) * v + current;
                let output = at.spikes[e] * theta + if at.inside[e] { m - at.m[e] } else { 0.0 };
                loss += self.grad_out[e] * output;
                v = m - output;
            }
        }
        loss
    }

    /// dLoss/dm(t) without recursion: what leaves at t' >= t, times every factor on the way.
    fn grad_m(&self, at: &Trajectory) -> Vec<f64> {
        let (timesteps, n) = (self.config.timesteps, self.n());
        let w = |t: usize, i: usize| f64::from(at.inside[t * n + i]);
        let mut grad = vec![0.0; timesteps * n];
        for i in 0..n {
            for t in 0..timesteps {
                let last = if self.config.gradient == GradientMode::Full { timesteps } else { t + 1 };
                grad[t * n + i] = (t..last)
                    .map(|later| {
                        let way: f64 = (t..later).map(|u| (1.0 - w(u, i)) * self.leak_at(self.leak, u + 1)).product();
                        self.grad_out[later * n + i] * w(later, i) * way
                    })
                    .sum();
            }
        }
        grad
    }

    /// Eqs. 3, 8 and 9 as sums.
    fn formulas(&self) -> Gradients<f64> {
        let (timesteps, n, at) = (self.config.timesteps, self.n(), self.trajectory());
        let g = self.grad_m(&at);
        let units = |f: &dyn Fn(usize) -> f64| (0..n).map(f).sum::<f64>();
        Gradients {
            xs: (0..timesteps * n)
                .map(|e| (0..timesteps).map(|t| self.weight(&self.omega, t, e / n) * g[t * n + e % n]).sum())
                .collect(),
            omega: (0..timesteps * timesteps)
                .map(|e| (e / timesteps, e % timesteps))
                .map(|(t, j)| if self.mixes(t, j) { units(&|i| g[t * n + i] * self.xs[j * n + i]) } else { 0.0 })
                .collect(),
            leak: (0..timesteps)
                .filter(|t| t.is_multiple_of(self.config.window))
                .map(|t| units(&|i| g[t * n + i] * at.v_before[t * n + i]))
                .sum(),
        }
    }

    fn engine(&self, readable: bool) -> Gradients<f64> {
        backward(readable, &self.config.check().unwrap(), &self.omega, self.leak, &self.xs, &self.grad_out)
    }
}

fn problems(n: usize) -> Vec<Problem> {
    let mut problems = Vec::new();
    for tgim in [Tgim::Full, Tgim::Causal, Tgim::Identity] {
        for gradient in [GradientMode::Detached, GradientMode::Full] {
            for (timesteps, levels, window) in [(1, 2, 1), (2, 1, 1), (2, 2, 2), (4, 4, 1), (4, 1, 2), (6, 3, 3)] {
                problems.push(Problem::random(tgim, gradient, timesteps, levels, window, n));
            }
        }
    }
    problems
}

fn assert_close(a: &[f64], b: &[f64], tolerance: f64, name: &str) {
    assert_eq!(a.len(), b.len(), "{name}");
    let size = b.iter().fold(1.0_f64, |size, b| size.max(b.abs()));
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= tolerance * size, "{name}: {a} against {b}");
    }
}

#[test]
fn equal_the_formulas() {
    for problem in problems(333) {
        let expected = problem.formulas();
        for readable in [true, false] {
            let (name, grads) = (format!("{:?}, readable = {readable}", problem.config), problem.engine(readable));
            assert_close(&grads.xs, &expected.xs, 1e-13, &name);
            assert_close(&grads.omega, &expected.omega, 1e-13, &name);
            assert_close(&[grads.leak], &[expected.leak], 1e-13, &name);
        }
    }
}

#[test]
fn equal_finite_differences_of_the_straight_through_twin() {
    const H: f64 = 1e-4;
    for problem in problems(8) {
        let (at, grads, name) = (problem.trajectory(), problem.engine(false), format!("{:?}", problem.config));
        assert!(at.inside.contains(&true), "{name}: no gradient would pass");
        // A central difference in each coordinate of a vector.
        let differences = |values: &[f64], loss: &dyn Fn(&[f64]) -> f64| -> Vec<f64> {
            (0..values.len())
                .map(|e| {
                    let shifted = |h: f64| {
                        let mut values = values.to_vec();
                        values[e] += h;
                        loss(&values)
                    };
                    (shifted(H) - shifted(-H)) / (2.0 * H)
                })
                .collect()
        };
        let by_xs = differences(&problem.xs, &|xs| problem.twin_loss(&at, &problem.omega, problem.leak, xs));
        assert_close(&grads.xs, &by_xs, 1e-7, &name);
        let by_omega = differences(&problem.omega, &|omega| problem.twin_loss(&at, omega, problem.leak, &problem.xs));
        assert_close(&grads.omega, &by_omega, 1e-7, &name);
        let by_leak =
            differences(&[problem.leak], &|leak| problem.twin_loss(&at, &problem.omega, leak[0], &problem.xs));
        assert_close(&[grads.leak], &by_leak, 1e-7, &name);
    }
}

/// The two modes differ where a potential outside the gate feeds a later spike: the tests above can tell them apart.
#[test]
fn the_modes_differ_where_they_should() {
    let [full, detached] = [GradientMode::Full, GradientMode::Detached].map(|gradient| {
        let grads = Problem::random(Tgim::Full, gradient, 4, 2, 1, 50).engine(false);
        (grads.xs, grads.omega, grads.leak)
    });
    assert!(full.0 != detached.0 && full.1 != detached.1 && full.2 != detached.2);
}
