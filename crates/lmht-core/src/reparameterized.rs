//! The reparameterized neuron (§4.5), [`Windowed`], and when the current of a window arrives, [`Schedule`].
//!
//! A neuron with L levels and T timesteps becomes one with a single threshold and L timesteps, a *window*, for each of the
//! T. A window's spikes are the binary form of one count, and what it delivers is mixed by a matrix of size `[LT, LT]`.

use crate::dynamics::assert_shared;
use crate::lengths::units;
use crate::sum::ordered_sum;
use crate::{Code, Dynamics, LmhtNeuron, Real, Tgim};

/// When the timesteps of a window receive the current that is meant for the window.
///
/// With Ω `[T, T]`, windows of L timesteps, and what window i delivered (the sum over its timesteps):
///
/// ```
/// use lmht_core::Schedule;
/// let omega = [0.5, 0.25, 0.75, 1.0];
/// // Two windows of two timesteps. The rows of the second timesteps are 0.
/// let front_loaded = [
///     0.5, 0.5, 0.25, 0.25, //
///     0.0, 0.0, 0.0, 0.0, //
///     0.75, 0.75, 1.0, 1.0, //
///     0.0, 0.0, 0.0, 0.0,
/// ];
/// assert_eq!(Schedule::FrontLoaded.expand(&omega, 2, 2), front_loaded);
/// assert_eq!(Schedule::Uniform.expand(&omega, 2, 2)[4..8], [0.25, 0.25, 0.125, 0.125]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Schedule {
    /// The first timestep of window t receives ω_ti of what window i delivered, the others nothing.
    ///
    /// Ours, and lossless for every current, leak, Ω and v(0): the window starts from λv + I(t) = m(t) and receives
    /// nothing more, so its timestep j fires exactly if m(t) >= jθ. The spikes are the thermometer code of s(t).
    #[default]
    FrontLoaded,
    /// Every timestep of window t receives ω_ti/L of what window i delivered: the paper's (Theorem A.2).
    ///
    /// Lossless only while neither (λv > θ and I < 0) nor (λv < 0 and I > Lθ) happens, and not across a max-pooling.
    Uniform,
}

impl Schedule {
    /// The matrix `[LT, LT]` between timesteps, from Ω `[T, T]` between windows of L = `window` timesteps; rows receive.
    ///
    /// # Panics
    /// If `omega` does not have T² values or `window` is 0.
    pub fn expand<R: Real>(self, omega: &[R], timesteps: usize, window: usize) -> Vec<R> {
        assert!(
            omega.len() == timesteps * timesteps,
            "omega: expected [T, T] with T = {timesteps}, got {} values",
            omega.len()
        );
        assert!(window > 0, "window: expected at least 1 timestep, got 0");
        let steps = timesteps * window;
        let share = R::ONE / R::from_f64(window as f64);
        let entry = |to: usize, from: usize| {
            let between = omega[to / window * timesteps + from / window];
            match self {
                Self::FrontLoaded if to.is_multiple_of(window) => between,
                Self::FrontLoaded => R::ZERO,
                Self::Uniform => between * share,
            }
        };
        (0..steps).flat_map(|to| (0..steps).map(move |from| entry(to, from))).collect()
    }
}

/// The single-threshold twin of an LM-HT neuron: T windows of L timesteps, mixed by an Ω between windows.
///
/// The current of a timestep is the row of [`Schedule::expand`] times `xs`; what a window delivered is added first, so that
/// the work is a T-th to an L-th of that matrix:
///
/// ```text
/// d(j) = Σ_k x(jL + k)                     what window j delivered
/// W(t) = Σ_j ω_tj d(j)                     Ω = 1 where it is not given
/// I(tL + k) = W(t) for k = 0, else 0       Schedule::FrontLoaded
/// I(tL + k) = W(t)/L                       Schedule::Uniform
/// ```
///
/// From I on it is the [`LmhtNeuron`] that was given, window and all. With G(t) = dLoss/dW(t), which is dLoss/dI(tL) or the
/// L-th part of their sum:
///
/// ```text
/// dLoss/dx(jL + k) = Σ_t ω_tj G(t)         dLoss/dω_tj = Σ_units G(t) d(j)
/// ```
///
/// Sums over timesteps ascend; sums over units follow [`sum`](crate::sum). Shared numbers: Ω row by row, if given, then λ.
///
/// ```
/// use lmht_core::{Dynamics, LmhtConfig, Schedule, Windowed};
/// // Two windows of two timesteps, θ = 1: the twin of a neuron with two levels.
/// let neuron = LmhtConfig { window: 2, ..LmhtConfig::lif(4) }.check()?;
/// let twin = Windowed::new(neuron, Schedule::FrontLoaded, vec![0.5, 0.5, 0.0, 1.0], 1.0);
/// let mut out = [0.0; 4];
/// twin.forward(&[1.0, 1.0, 1.0, 1.5], &mut out); // delivered: 2 and 2.5, so W = 2.25 and 2.5
/// assert_eq!(out, [1.0, 1.0, 1.0, 1.0]); // the thermometer codes of 2 and of 2
/// # Ok::<(), lmht_core::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Windowed<R> {
    neuron: LmhtNeuron,
    schedule: Schedule,
    omega: Vec<R>,
    leak: R,
}

impl<R: Real> Windowed<R> {
    /// A neuron over LT timesteps whose [`window`](crate::LmhtConfig::window) is L, with Ω `[T, T]` between windows, row =
    /// receiving window, and λ. An empty Ω is the identity.
    ///
    /// # Panics
    /// If the neuron has a T-GIM of its own, or `omega` is neither empty nor `[T, T]`.
    pub fn new(neuron: LmhtNeuron, schedule: Schedule, omega: Vec<R>, leak: R) -> Self {
        assert!(
            neuron.tgim() == Tgim::Identity,
            "neuron: expected Tgim::Identity between timesteps (Ω mixes windows), got {:?}",
            neuron.tgim()
        );
        let windows = neuron.timesteps() / neuron.window();
        assert!(
            omega.is_empty() || omega.len() == windows * windows,
            "omega: expected [T, T] with T = {windows} windows or nothing, got {} values",
            omega.len()
        );
        Self { neuron, schedule, omega, leak }
    }

    /// The neuron, over LT timesteps.
    pub fn neuron(&self) -> &LmhtNeuron {
        &self.neuron
    }

    /// When a window receives its current.
    pub fn schedule(&self) -> Schedule {
        self.schedule
    }

    /// Ω between windows; empty for the identity.
    pub fn omega(&self) -> &[R] {
        &self.omega
    }

    /// λ.
    pub fn leak(&self) -> R {
        self.leak
    }

    /// T.
    fn windows(&self) -> usize {
        self.neuron.timesteps() / self.neuron.window()
    }

    /// d, `[T, n]`, from the currents `[LT, n]`.
    fn delivered(&self, xs: &[R], n: usize) -> Vec<R> {
        let window = self.neuron.window();
        let mut delivered = Vec::with_capacity(self.windows() * n);
        for rows in xs.chunks_exact((window * n).max(1)) {
            let (first, later) = rows.split_at(n);
            delivered.extend_from_slice(first);
            let start = delivered.len() - n;
            for row in later.chunks_exact(n) {
                add(&mut delivered[start..], row, |x| x);
            }
        }
        delivered
    }

    /// I, `[LT, n]`, from d `[T, n]`.
    fn currents(&self, delivered: Vec<R>, n: usize) -> Vec<R> {
        let (window, windows) = (self.neuron.window(), self.windows());
        let of_windows = if self.omega.is_empty() {
            delivered
        } else {
            mixed(windows, n, &delivered, |t, j| self.omega[t * windows + j])
        };
        let mut currents = Vec::with_capacity(window * of_windows.len());
        for row in of_windows.chunks_exact(n.max(1)) {
            match self.schedule {
                Schedule::FrontLoaded => {
                    currents.extend_from_slice(row);
                    currents.resize(currents.len() + (window - 1) * n, R::ZERO);
                }
                Schedule::Uniform => {
                    let share = share(window);
                    (0..window).for_each(|_| currents.extend(row.iter().map(|&current| current * share)));
                }
            }
        }
        currents
    }

    /// G, `[T, n]`, from dLoss/dI `[LT, n]`.
    fn grad_windows(&self, grad_currents: &[R], n: usize) -> Vec<R> {
        let window = self.neuron.window();
        let rows = grad_currents.chunks_exact((window * n).max(1));
        match self.schedule {
            Schedule::FrontLoaded => rows.flat_map(|rows| &rows[..n]).copied().collect(),
            Schedule::Uniform => {
                let mut grad = self.delivered(grad_currents, n);
                let share = share(window);
                grad.iter_mut().for_each(|grad| *grad *= share);
                grad
            }
        }
    }
}

impl<R: Real> Dynamics<R> for Windowed<R> {
    fn timesteps(&self) -> usize {
        self.neuron.timesteps()
    }

    fn code(&self) -> Code {
        self.neuron.code()
    }

    fn forward(&self, xs: &[R], out: &mut [R]) {
        let n = units(self.neuron.timesteps(), xs.len(), &[("out", out.len())]);
        self.neuron.forward(&[], self.leak, &self.currents(self.delivered(xs, n), n), out);
    }

    fn packed(&self, xs: &[R], out: &mut [u8]) {
        let n = units(self.neuron.timesteps(), xs.len(), &[("out", out.len())]);
        self.neuron.packed(&[], self.leak, &self.currents(self.delivered(xs, n), n), out);
    }

    fn has_gradient(&self) -> bool {
        true
    }

    /// A current is spread over its window and mixed with others'.
    fn gate_is_whole(&self) -> bool {
        false
    }

    fn n_shared(&self) -> usize {
        self.omega.len() + 1
    }

    fn backward(&self, xs: &[R], grad_out: &[R], grad_xs: &mut [R], grad_shared: &mut [R]) {
        let n = units(self.neuron.timesteps(), xs.len(), &[("grad_out", grad_out.len()), ("grad_xs", grad_xs.len())]);
        assert_shared(self.omega.len() + 1, grad_shared.len());
        let (grad_omega, grad_leak) = grad_shared.split_at_mut(self.omega.len());
        let (window, windows) = (self.neuron.window(), self.windows());

        let delivered = self.delivered(xs, n);
        let currents = self.currents(delivered.clone(), n);
        let (leak, grad_currents) = self.neuron.gradients(&[], self.leak, &currents, grad_out, &mut []);
        grad_leak[0] = leak;

        let grad_windows = self.grad_windows(&grad_currents, n);
        for (entry, grad) in grad_omega.iter_mut().enumerate() {
            let (t, j) = (entry / windows, entry % windows);
            let (g, d) = (&grad_windows[t * n..][..n], &delivered[j * n..][..n]);
            *grad = ordered_sum(g.iter().zip(d).map(|(&g, &d)| g * d));
        }
        let grad_delivered = if self.omega.is_empty() {
            grad_windows
        } else {
            mixed(windows, n, &grad_windows, |j, t| self.omega[t * windows + j])
        };
        let sources = grad_delivered.chunks_exact(n.max(1)).flat_map(|row| std::iter::repeat_n(row, window));
        for (grad_xs, source) in grad_xs.chunks_exact_mut(n.max(1)).zip(sources) {
            grad_xs.copy_from_slice(source);
        }
    }
}

/// What each of L timesteps receives of a whole: 1/L.
fn share<R: Real>(window: usize) -> R {
    R::ONE / R::from_f64(window as f64)
}

/// `out(t) = Σ_j weight(t, j) rows(j)`, j ascending, for `[T, n]` with T = `windows`.
fn mixed<R: Real>(windows: usize, n: usize, rows: &[R], weight: impl Fn(usize, usize) -> R) -> Vec<R> {
    let mut out = Vec::with_capacity(rows.len());
    for t in 0..windows {
        let first = weight(t, 0);
        out.extend(rows[..n].iter().map(|&row| first * row));
        for j in 1..windows {
            let weight = weight(t, j);
            add(&mut out[t * n..], &rows[j * n..][..n], |row| weight * row);
        }
    }
    out
}

/// `sums[i] += term(row[i])`.
fn add<R: Real>(sums: &mut [R], row: &[R], term: impl Fn(R) -> R) {
    for (sum, &value) in sums.iter_mut().zip(row) {
        *sum += term(value);
    }
}
