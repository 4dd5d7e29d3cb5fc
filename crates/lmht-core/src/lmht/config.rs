//! What an LM-HT layer is: [`LmhtConfig`], written by people, and [`LmhtNeuron`], the same after [`LmhtConfig::check`].

use std::num::FpCategory;

use crate::lengths::units;
use crate::{ConfigError, GradientMode, MAX_LEVELS, MAX_TIMESTEPS};

/// Which entries of the Temporal-Global Information Matrix Ω (T-GIM, Hao et al. 2024, Eq. 7) are free.
///
/// ```
/// use lmht_core::{Tgim, tgim_from_logits};
/// let zeros = [0.0; 4];
/// assert_eq!(tgim_from_logits(Tgim::Full, 2, &zeros), [0.5, 0.5, 0.5, 0.5]);
/// assert_eq!(tgim_from_logits(Tgim::Causal, 2, &zeros), [0.5, 0.0, 0.5, 0.5]);
/// assert_eq!(tgim_from_logits(Tgim::Identity, 2, &zeros), [1.0, 0.0, 0.0, 1.0]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Tgim {
    /// All `[T, T]`, as published: timestep t also receives the currents of later timesteps.
    #[default]
    Full,
    /// Only j <= t; the entries above the diagonal are 0 and never read, so the neuron can stream.
    Causal,
    /// Ω = 1: every timestep receives its own current, "without T-GIM".
    Identity,
}

/// The configuration of one neuron layer: IF, LIF, M-HT or LM-HT, by its numbers.
///
/// Start from a preset and change what differs. λ and Ω are not here because they are learned: they are arguments.
///
/// ```
/// use lmht_core::{LmhtConfig, Tgim};
/// // The published neuron with two levels over four timesteps, but able to stream.
/// let neuron = LmhtConfig { tgim: Tgim::Causal, ..LmhtConfig::lmht(2, 4) }.check()?;
/// assert_eq!(neuron.v_threshold(), 1.0);
/// # Ok::<(), lmht_core::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LmhtConfig {
    /// T, `1..=MAX_TIMESTEPS`.
    pub timesteps: usize,
    /// L, the number of equidistant thresholds θ, 2θ, …, Lθ; `1..=MAX_LEVELS`. 1 is IF or LIF.
    pub levels: u32,
    /// θ > 0, in the unit of the currents.
    pub v_threshold: f64,
    /// v(0) as a fraction of θ, `0 <= v_init < 1`. 0 in direct training, 1/2 in hybrid training.
    pub v_init: f64,
    /// Which entries of Ω are free.
    pub tgim: Tgim,
    /// Which paths the gradient takes.
    pub gradient: GradientMode,
    /// The leak λ acts on entering each window of this many timesteps, the first included, and is 1 elsewhere. 1: at
    /// every timestep. A divisor of T. L windows make the single-threshold twin of an L-level neuron (§4.5).
    pub window: usize,
}

impl LmhtConfig {
    /// The vanilla baseline: one level, θ = 1, v(0) = 0, no T-GIM, plain BPTT (Eqs. 1-3).
    ///
    /// It is a LIF neuron for a leak below 1 and an IF neuron for a leak of 1.
    ///
    /// ```
    /// # use lmht_core::LmhtConfig;
    /// let neuron = LmhtConfig::lif(3).check()?;
    /// let mut output = [0.0; 3];
    /// neuron.forward(&[], 0.5, &[0.75, 0.75, 0.0], &mut output); // one unit, λ = 1/2
    /// assert_eq!(output, [0.0, 1.0, 0.0]); // m = 0.75, 1.125, 0.0625
    /// # Ok::<(), lmht_core::ConfigError>(())
    /// ```
    pub fn lif(timesteps: usize) -> Self {
        Self {
            timesteps,
            levels: 1,
            v_threshold: 1.0,
            v_init: 0.0,
            tgim: Tgim::Identity,
            gradient: GradientMode::Full,
            window: 1,
        }
    }

    /// The published LM-HT neuron for direct training (Eqs. 5-9): full T-GIM, detached gradient, v(0) = 0 and θ = 2/L,
    /// or θ = 1 for a single level.
    ///
    /// ```
    /// # use lmht_core::LmhtConfig;
    /// assert_eq!(LmhtConfig::lmht(4, 2).v_threshold, 0.5);
    /// assert_eq!(LmhtConfig::lmht(1, 2).v_threshold, 1.0);
    /// ```
    pub fn lmht(levels: u32, timesteps: usize) -> Self {
        Self {
            timesteps,
            levels,
            v_threshold: if levels > 1 { 2.0 / f64::from(levels) } else { 1.0 },
            v_init: 0.0,
            tgim: Tgim::Full,
            gradient: GradientMode::Detached,
            window: 1,
        }
    }

    /// The M-HT neuron (Eqs. 5-6): [`lmht`](Self::lmht) without T-GIM.
    ///
    /// ```
    /// # use lmht_core::{LmhtConfig, Tgim};
    /// assert_eq!(LmhtConfig::mht(2, 4), LmhtConfig { tgim: Tgim::Identity, ..LmhtConfig::lmht(2, 4) });
    /// ```
    pub fn mht(levels: u32, timesteps: usize) -> Self {
        Self { tgim: Tgim::Identity, ..Self::lmht(levels, timesteps) }
    }

    /// The checked neuron.
    ///
    /// # Errors
    /// The first field that is out of range, with its value and what is allowed.
    ///
    /// ```
    /// # use lmht_core::LmhtConfig;
    /// let error = LmhtConfig { window: 3, ..LmhtConfig::lif(4) }.check().unwrap_err();
    /// assert_eq!(error.to_string(), "window: expected a divisor of the 4 timesteps, at least 1 (1 applies the leak at every timestep), got 3");
    /// ```
    pub fn check(self) -> Result<LmhtNeuron, ConfigError> {
        if self.timesteps == 0 || self.timesteps > MAX_TIMESTEPS {
            return Err(ConfigError::Timesteps { timesteps: self.timesteps });
        }
        if self.levels == 0 || self.levels > MAX_LEVELS {
            return Err(ConfigError::Levels { levels: self.levels });
        }
        // The neuron may run in f32, so the smallest and the largest potential it compares with must exist there.
        let (lowest, highest) = (self.v_threshold / 2.0, (f64::from(self.levels) + 0.5) * self.v_threshold);
        let exists = |v: f64| v > 0.0 && (v as f32).classify() == FpCategory::Normal;
        if !(exists(lowest) && exists(highest)) {
            return Err(ConfigError::VThreshold { v_threshold: self.v_threshold, levels: self.levels });
        }
        if !(0.0..1.0).contains(&self.v_init) {
            return Err(ConfigError::VInit { v_init: self.v_init });
        }
        if self.window == 0 || !self.timesteps.is_multiple_of(self.window) {
            return Err(ConfigError::Window { window: self.window, timesteps: self.timesteps });
        }
        Ok(LmhtNeuron { config: self })
    }
}

/// A [`LmhtConfig`] that passed its check. The functions of a neuron layer are methods of this type.
///
/// ```
/// # use lmht_core::LmhtConfig;
/// let config = LmhtConfig::lmht(2, 4);
/// assert_eq!(config.check()?.config(), config);
/// # Ok::<(), lmht_core::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LmhtNeuron {
    config: LmhtConfig,
}

impl LmhtNeuron {
    /// All of the configuration.
    pub fn config(&self) -> LmhtConfig {
        self.config
    }
    /// T.
    pub fn timesteps(&self) -> usize {
        self.config.timesteps
    }
    /// L.
    pub fn levels(&self) -> u32 {
        self.config.levels
    }
    /// θ.
    pub fn v_threshold(&self) -> f64 {
        self.config.v_threshold
    }
    /// v(0) as a fraction of θ.
    pub fn v_init(&self) -> f64 {
        self.config.v_init
    }
    /// Which entries of Ω are free.
    pub fn tgim(&self) -> Tgim {
        self.config.tgim
    }
    /// Which paths the gradient takes.
    pub fn gradient(&self) -> GradientMode {
        self.config.gradient
    }
    /// The number of timesteps from one action of the leak to the next.
    pub fn window(&self) -> usize {
        self.config.window
    }

    /// The number of units n of currents `[T, n]`, after asserting the lengths that `forward` and `backward` share.
    pub(crate) fn units(&self, omega: usize, xs: usize, others: &[(&str, usize)]) -> usize {
        let n = units(self.config.timesteps, xs, others);
        self.assert_tgim_len("omega", omega);
        n
    }

    /// Asserts that a matrix is `[T, T]`, or empty where Ω = 1.
    pub(crate) fn assert_tgim_len(&self, name: &str, len: usize) {
        let timesteps = self.config.timesteps;
        let empty_is_fine = self.config.tgim == Tgim::Identity;
        assert!(
            len == timesteps * timesteps || (empty_is_fine && len == 0),
            "{name}: expected [T, T] with T = {timesteps} timesteps (from the config){}, got {len} values",
            if empty_is_fine { " or nothing" } else { "" }
        );
    }
}
