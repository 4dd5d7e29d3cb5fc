//! The integer leaky integrate-and-fire neuron, I-LIF (Luo et al., "Integer-Valued Training and Spike-Driven Inference
//! Spiking Neural Network for High-performance and Energy-efficient Object Detection", SpikeYOLO, ECCV 2024).
//!
//! ```text
//! m(t) = λ v(t-1) + x(t)                            v(0) = 0
//! s(t) = #{ k in 1..=D : m(t) >= k - 1/2 }          m clipped to 0..=D and rounded; the next synapse receives s(t)
//! v(t) = m(t) - s(t)
//! ds/dm = 1 for 0 <= m <= D                         0 elsewhere
//! ```
//!
//! A tie goes up; the published code sends it to the even number, which differs at m = k + 1/2 for even k. In training the
//! counts are integers; for inference each stands for D timesteps of single spikes.
//!
//! It is the M-HT neuron of D levels, θ = 1, seen from a potential that is 1/2 lower: with v(0) = 1/2 and currents
//! x(t) + (1 - λ)/2 that neuron sends the same s(t), and its gate is open at the same timesteps.

// One index runs over several arrays at once; an iterator over one of them would hide that.
#![allow(clippy::needless_range_loop)]

use std::hint::select_unpredictable;

use crate::dynamics::{assert_packs, assert_shared};
use crate::lengths::units;
use crate::tile::{fire, inside, reset};
use crate::walk::{self, Cell, Write};
use crate::{Code, ConfigError, Dynamics, GradientMode, MAX_LEVELS, MAX_TIMESTEPS, Potentials, Real};

/// The configuration of an I-LIF layer. Nothing in it is learned.
///
/// ```
/// use lmht_core::IlifConfig;
/// let neuron = IlifConfig { leak: 0.5, ..IlifConfig::ilif(4, 2) }.check()?;
/// let mut counts = [0.0; 2];
/// neuron.forward(&[1.75, 0.5], &mut counts); // one unit
/// assert_eq!(counts, [2.0, 0.0]); // m = 1.75, and -0.25/2 + 0.5 = 0.375
/// # Ok::<(), lmht_core::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IlifConfig {
    /// T, `1..=MAX_TIMESTEPS`.
    pub timesteps: usize,
    /// D, the largest count; `1..=MAX_LEVELS`.
    pub levels: u32,
    /// λ >= 0, the factor on v(t-1); 1/4 as published.
    pub leak: f64,
    /// [`Full`](GradientMode::Full), as published: through λ v(t-1), with s(t) a constant in the reset.
    /// [`Detached`](GradientMode::Detached): none through v.
    pub gradient: GradientMode,
}

impl IlifConfig {
    /// The published neuron: λ = 1/4, and the gradient passes through the potential.
    ///
    /// ```
    /// # use lmht_core::IlifConfig;
    /// assert_eq!(IlifConfig::ilif(4, 1).leak, 0.25);
    /// ```
    pub fn ilif(levels: u32, timesteps: usize) -> Self {
        Self { timesteps, levels, leak: 0.25, gradient: GradientMode::Full }
    }

    /// The checked neuron.
    ///
    /// # Errors
    /// The first field that is out of range, with its value and what is allowed.
    ///
    /// ```
    /// # use lmht_core::IlifConfig;
    /// let error = IlifConfig { leak: -1.0, ..IlifConfig::ilif(4, 1) }.check().unwrap_err();
    /// assert_eq!(error.to_string(), "leak: expected a finite number of at least 0 (0.25 is the published choice), got -1");
    /// ```
    pub fn check(self) -> Result<IlifNeuron, ConfigError> {
        if self.timesteps == 0 || self.timesteps > MAX_TIMESTEPS {
            return Err(ConfigError::Timesteps { timesteps: self.timesteps });
        }
        if self.levels == 0 || self.levels > MAX_LEVELS {
            return Err(ConfigError::Levels { levels: self.levels });
        }
        ConfigError::check_leak(self.leak)?;
        Ok(IlifNeuron { config: self })
    }
}

/// An [`IlifConfig`] that passed its check.
///
/// ```
/// # use lmht_core::IlifConfig;
/// let config = IlifConfig::ilif(4, 2);
/// assert_eq!(config.check()?.config(), config);
/// # Ok::<(), lmht_core::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IlifNeuron {
    config: IlifConfig,
}

impl IlifNeuron {
    /// All of the configuration.
    pub fn config(&self) -> IlifConfig {
        self.config
    }

    /// T.
    pub fn timesteps(&self) -> usize {
        self.config.timesteps
    }

    /// D.
    pub fn levels(&self) -> u32 {
        self.config.levels
    }

    /// λ.
    pub fn leak(&self) -> f64 {
        self.config.leak
    }

    /// Which paths the gradient takes.
    pub fn gradient(&self) -> GradientMode {
        self.config.gradient
    }

    /// The counts s(t), as numbers.
    ///
    /// # Shapes
    /// - `xs`: currents x, `[T, n]`, in units of the threshold step 1
    /// - `out`: s(t), `[T, n]`, values in {0, 1, …, D}
    ///
    /// # Panics
    /// If a slice has another length than stated. A current that is not a number reaches no threshold.
    ///
    /// ```
    /// # use lmht_core::IlifConfig;
    /// let neuron = IlifConfig::ilif(2, 2).check()?;
    /// let mut counts = [0.0; 4];
    /// neuron.forward(&[0.5, 3.0, /* t = 2 */ 0.5, 0.125], &mut counts); // two units
    /// // m(1) = 0.5, 3 and m(2) = -0.5/4 + 0.5, 1/4 + 0.125: a tie goes up, and beyond D the rest is carried.
    /// assert_eq!(counts, [1.0, 2.0, 0.0, 0.0]);
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn forward<R: Real>(&self, xs: &[R], out: &mut [R]) {
        let n = units(self.timesteps(), xs.len(), &[("out", out.len())]);
        walk::forward(&Kernel::new(self), Counts, n, xs, out);
    }

    /// The counts s(t) in a byte each, with [`IN_GATE`](crate::IN_GATE) set where 0 <= m(t) <= D.
    ///
    /// # Panics
    /// If a slice has another length than stated in [`forward`](Self::forward), or D is above 127.
    ///
    /// ```
    /// # use lmht_core::{IN_GATE, IlifConfig};
    /// let mut packed = [0; 4];
    /// IlifConfig::ilif(2, 1).check()?.packed(&[-0.25, 0.0, 1.5, 2.25], &mut packed);
    /// assert_eq!(packed, [0, IN_GATE, 2 | IN_GATE, 2]);
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn packed<R: Real>(&self, xs: &[R], out: &mut [u8]) {
        let n = units(self.timesteps(), xs.len(), &[("out", out.len())]);
        assert_packs(self.levels());
        let kernel = Kernel::new(self);
        walk::forward(&kernel, Packed { gate: kernel.gate }, n, xs, out);
    }

    /// dLoss/dx `[T, n]` into `grad_xs` (overwritten), from `grad_out` = dLoss/ds `[T, n]`.
    ///
    /// With w(t) = 1 where 0 <= m(t) <= D, else 0, and δ(T+1) = 0:
    ///
    /// ```text
    /// dLoss/dx(t) = δ(t) = grad_out(t) w(t)                   GradientMode::Detached
    /// dLoss/dx(t) = δ(t) = grad_out(t) w(t) + λ δ(t+1)        GradientMode::Full
    /// ```
    ///
    /// # Panics
    /// If a slice has another length than stated.
    ///
    /// ```
    /// # use lmht_core::IlifConfig;
    /// let mut grad_xs = [0.0; 2];
    /// IlifConfig::ilif(2, 2).check()?.backward(&[3.0, 1.0], &[1.0, 8.0], &mut grad_xs); // one unit
    /// assert_eq!(grad_xs, [2.0, 8.0]); // m = 3: outside, so only 8/4 comes back through v(1)
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn backward<R: Real>(&self, xs: &[R], grad_out: &[R], grad_xs: &mut [R]) {
        let n = units(self.timesteps(), xs.len(), &[("grad_out", grad_out.len()), ("grad_xs", grad_xs.len())]);
        walk::backward(&Kernel::new(self), n, xs, grad_out, grad_xs);
    }

    /// m(t), v(t) and s(t) of every unit, `[T, n]` each, by the readable loop.
    ///
    /// # Panics
    /// If T does not divide the number of currents.
    ///
    /// ```
    /// # use lmht_core::IlifConfig;
    /// let neuron = IlifConfig { leak: 0.5, ..IlifConfig::ilif(2, 3) }.check()?;
    /// let course = neuron.potentials(&[1.75, 0.625, 4.0]); // one unit
    /// assert_eq!(course.v_charged, [1.75, 0.5, 3.75]); // -0.25/2 + 0.625, -0.5/2 + 4
    /// assert_eq!(course.spikes, [2, 1, 2]);
    /// assert_eq!(course.v, [-0.25, -0.5, 1.75]);
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn potentials<R: Real>(&self, xs: &[R]) -> Potentials<R> {
        let n = units(self.timesteps(), xs.len(), &[]);
        Potentials::collect(self.timesteps(), n, |i| {
            reference::charge_fire_reset(self, xs, n, i).into_iter().map(|(m, v, s)| (m, v, s as i32))
        })
    }
}

/// An [`IlifNeuron`] among the [`Dynamics`]. It has no shared numbers.
///
/// ```
/// use lmht_core::{Code, Dynamics, Ilif, IlifConfig};
/// let layer: &dyn Dynamics<f32> = &Ilif::new(IlifConfig::ilif(4, 1).check()?);
/// assert_eq!((layer.code(), layer.n_shared()), (Code::Counts { levels: 4, amplitude: 1.0 }, 0));
/// # Ok::<(), lmht_core::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ilif {
    neuron: IlifNeuron,
}

impl Ilif {
    /// The neuron as a layer.
    pub fn new(neuron: IlifNeuron) -> Self {
        Self { neuron }
    }

    /// The neuron.
    pub fn neuron(&self) -> &IlifNeuron {
        &self.neuron
    }
}

impl<R: Real> Dynamics<R> for Ilif {
    fn timesteps(&self) -> usize {
        self.neuron.timesteps()
    }

    fn code(&self) -> Code {
        Code::Counts { levels: self.neuron.levels(), amplitude: 1.0 }
    }

    fn forward(&self, xs: &[R], out: &mut [R]) {
        self.neuron.forward(xs, out);
    }

    fn packed(&self, xs: &[R], out: &mut [u8]) {
        self.neuron.packed(xs, out);
    }

    fn has_gradient(&self) -> bool {
        true
    }

    fn gate_is_whole(&self) -> bool {
        self.neuron.gradient() == GradientMode::Detached
    }

    fn n_shared(&self) -> usize {
        0
    }

    fn backward(&self, xs: &[R], grad_out: &[R], grad_xs: &mut [R], grad_shared: &mut [R]) {
        assert_shared(0, grad_shared.len());
        self.neuron.backward(xs, grad_out, grad_xs);
    }
}

/// One call's constants, in its type.
struct Kernel<R> {
    timesteps: usize,
    leak: R,
    /// 1/2, 3/2, …, D - 1/2.
    thresholds: Vec<R>,
    gate: (R, R),
    detached: bool,
}

impl<R: Real> Kernel<R> {
    fn new(neuron: &IlifNeuron) -> Self {
        Self {
            timesteps: neuron.timesteps(),
            leak: R::from_f64(neuron.leak()),
            thresholds: (1..=neuron.levels()).map(|k| R::from_count(k) - R::HALF).collect(),
            gate: (R::ZERO, R::from_count(neuron.levels())),
            detached: neuron.gradient() == GradientMode::Detached,
        }
    }
}

impl<R: Real> Cell<R> for Kernel<R> {
    const SHARED: bool = false;

    #[inline(always)]
    fn timesteps(&self) -> usize {
        self.timesteps
    }

    #[inline(always)]
    fn leak(&self) -> R {
        self.leak
    }

    #[inline(always)]
    fn detached(&self) -> bool {
        self.detached
    }

    #[inline(always)]
    fn fire(&self, m: &[R], spikes: &mut [R]) {
        fire(&self.thresholds, m, spikes);
    }

    #[inline(always)]
    fn reset(&self, m: &[R], spikes: &[R], v: &mut [R]) {
        reset(R::ONE, m, spikes, v);
    }

    #[inline(always)]
    fn pass(&self, grad_out: &[R], m: &mut [R]) {
        let (gate, grad_out) = (self.gate, &grad_out[..m.len()]);
        for i in 0..m.len() {
            m[i] = select_unpredictable(inside(gate, m[i]), grad_out[i], R::ZERO);
        }
    }

    #[inline(always)]
    fn pass_back(&self, grad_out: &[R], grad_next: &[R], m: &mut [R]) {
        let (gate, leak) = (self.gate, self.leak);
        let (grad_out, grad_next) = (&grad_out[..m.len()], &grad_next[..m.len()]);
        for i in 0..m.len() {
            let passed = select_unpredictable(inside(gate, m[i]), grad_out[i], R::ZERO);
            m[i] = passed + leak * grad_next[i];
        }
    }
}

/// s(t).
#[derive(Clone, Copy)]
struct Counts;

impl<R: Real> Write<R> for Counts {
    type Out = R;

    #[inline(always)]
    fn write(self, _m: R, spikes: R) -> R {
        spikes
    }
}

/// s(t), and whether m(t) is in the gate, in one byte.
#[derive(Clone, Copy)]
struct Packed<R> {
    gate: (R, R),
}

impl<R: Real> Write<R> for Packed<R> {
    type Out = u8;

    #[inline(always)]
    fn write(self, m: R, spikes: R) -> u8 {
        spikes.to_count() as u8 | (u8::from(inside(self.gate, m)) << 7)
    }
}

/// The I-LIF neuron as loops that can be read beside the paper, one unit at a time. [`IlifNeuron`] gives the same results
/// to the bit, faster.
pub mod reference {
    use super::{GradientMode, IlifNeuron, Real, units};

    /// What [`IlifNeuron::forward`] computes.
    ///
    /// # Panics
    /// If the slices are not `[T, n]`.
    ///
    /// ```
    /// use lmht_core::{IlifConfig, ilif::reference};
    /// let mut counts = [0.0; 2];
    /// reference::forward(&IlifConfig::ilif(4, 2).check()?, &[2.75, 0.5], &mut counts);
    /// assert_eq!(counts, [3.0, 0.0]); // m = 2.75, and -0.25/4 + 0.5
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn forward<R: Real>(neuron: &IlifNeuron, xs: &[R], out: &mut [R]) {
        let n = units(neuron.timesteps(), xs.len(), &[("out", out.len())]);
        for i in 0..n {
            for (t, (_, _, spikes)) in charge_fire_reset(neuron, xs, n, i).into_iter().enumerate() {
                out[t * n + i] = R::from_count(spikes);
            }
        }
    }

    /// What [`IlifNeuron::backward`] computes.
    ///
    /// # Panics
    /// If the slices are not `[T, n]`.
    ///
    /// ```
    /// use lmht_core::{IlifConfig, ilif::reference};
    /// let mut grad_xs = [0.0; 2];
    /// reference::backward(&IlifConfig::ilif(4, 2).check()?, &[2.75, 0.5], &[1.0, 4.0], &mut grad_xs);
    /// assert_eq!(grad_xs, [2.0, 4.0]); // both in the gate: 1 + 4/4, and 4
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn backward<R: Real>(neuron: &IlifNeuron, xs: &[R], grad_out: &[R], grad_xs: &mut [R]) {
        let n = units(neuron.timesteps(), xs.len(), &[("grad_out", grad_out.len()), ("grad_xs", grad_xs.len())]);
        let (leak, highest) = (R::from_f64(neuron.leak()), R::from_count(neuron.levels()));
        for i in 0..n {
            let mut grad_next = R::ZERO; // δ(t+1); nothing follows the last timestep
            for (t, (m, _, _)) in charge_fire_reset(neuron, xs, n, i).into_iter().enumerate().rev() {
                let passed = if R::ZERO <= m && m <= highest { grad_out[t * n + i] } else { R::ZERO };
                grad_next = match neuron.gradient() {
                    GradientMode::Detached => passed,
                    GradientMode::Full => passed + leak * grad_next,
                };
                grad_xs[t * n + i] = grad_next;
            }
        }
    }

    /// m(t), v(t) and s(t) of unit `i`.
    pub(super) fn charge_fire_reset<R: Real>(neuron: &IlifNeuron, xs: &[R], n: usize, i: usize) -> Vec<(R, R, u32)> {
        let leak = R::from_f64(neuron.leak());
        let mut v = R::ZERO;
        (0..neuron.timesteps())
            .map(|t| {
                let m = leak * v + xs[t * n + i];
                let reached = |k: &u32| m >= R::from_count(*k) - R::HALF;
                let spikes = (1..=neuron.levels()).filter(reached).count() as u32;
                v = m - R::from_count(spikes);
                (m, v, spikes)
            })
            .collect()
    }
}
