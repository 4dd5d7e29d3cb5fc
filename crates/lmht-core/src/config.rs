//! What the configurations of all kinds of neurons share: bounds, [`GradientMode`], and [`ConfigError`].
//!
//! A network checks each neuron once, when it is built. From then on nothing here can fail: the functions of a checked
//! neuron compute for any numbers, and assert only that the slices have the lengths that the caller promised.

/// The most timesteps a neuron may have. Ω is `[T, T]`, so far fewer are practical; the bound keeps T² a `usize`.
pub const MAX_TIMESTEPS: usize = 1 << 15;

/// The most levels a neuron may have. Up to here every kθ is a different number in `f32` too.
pub const MAX_LEVELS: u32 = 1 << 16;

/// Which paths the gradient takes through time. Each kind says what its own are; these are those of LM-HT.
///
/// ```
/// use lmht_core::{GradientMode, LmhtConfig};
/// assert_eq!(LmhtConfig::lmht(2, 4).gradient, GradientMode::Detached);
/// assert_eq!(LmhtConfig::lif(4).gradient, GradientMode::Full);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum GradientMode {
    /// None through v(t-1) and the reset (Eqs. 8-9): time is crossed by Ω alone. The published LM-HT.
    Detached,
    /// Plain backpropagation through time (Eq. 3) with the same surrogate. The published IF/LIF baseline.
    Full,
}

/// A field of a configuration that is out of range.
///
/// ```
/// # use lmht_core::{ConfigError, LmhtConfig};
/// assert_eq!(LmhtConfig::lif(0).check(), Err(ConfigError::Timesteps { timesteps: 0 }));
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// T is 0 or beyond [`MAX_TIMESTEPS`].
    #[error("timesteps: expected a whole number in 1..={MAX_TIMESTEPS}, got {timesteps}")]
    Timesteps {
        /// The value that came.
        timesteps: usize,
    },
    /// L is 0 or beyond [`MAX_LEVELS`].
    #[error("levels: expected a whole number in 1..={MAX_LEVELS} (1 is a single-threshold neuron), got {levels}")]
    Levels {
        /// The value that came.
        levels: u32,
    },
    /// θ is not positive, not a number, or so small or large that θ/2 or (L + 1/2)θ does not exist in `f32`.
    #[error(
        "v_threshold: expected a finite number above 0 whose half and whose ({levels} + 1/2)-fold are normal f32 \
         numbers (2/levels is the published choice), got {v_threshold}"
    )]
    VThreshold {
        /// The value that came.
        v_threshold: f64,
        /// The number of levels beside it.
        levels: u32,
    },
    /// v(0)/θ is outside [0, 1) or not a number.
    #[error(
        "v_init: expected a fraction of v_threshold with 0 <= v_init < 1 (0 for direct, 0.5 for hybrid training), got \
         {v_init}"
    )]
    VInit {
        /// The value that came.
        v_init: f64,
    },
    /// The window is 0 or does not divide T.
    #[error(
        "window: expected a divisor of the {timesteps} timesteps, at least 1 (1 applies the leak at every timestep), \
         got {window}"
    )]
    Window {
        /// The value that came.
        window: usize,
        /// The number of timesteps beside it.
        timesteps: usize,
    },
    /// Q is 0 or beyond [`MAX_LEVELS`].
    #[error("quant_levels: expected a whole number in 1..={MAX_LEVELS}, got {quant_levels}")]
    QuantLevels {
        /// The value that came.
        quant_levels: u32,
    },
    /// ϑ is not a finite number above 0.
    #[error("scale: expected a finite number above 0 (8 is the published start of training), got {scale}")]
    Scale {
        /// The value that came.
        scale: f64,
    },
    /// The decay of a neuron that does not learn it is negative or not a finite `f32`.
    #[error("leak: expected a finite number of at least 0 (0.25 is the published choice), got {leak}")]
    Leak {
        /// The value that came.
        leak: f64,
    },
    /// The threshold of a ternary neuron is not positive or does not exist in `f32`.
    #[error("v_threshold: expected a normal f32 number above 0 (0.5 is the published choice), got {v_threshold}")]
    TernaryThreshold {
        /// The value that came.
        v_threshold: f64,
    },
}

impl ConfigError {
    /// Checks a leak that is configured, not learned.
    pub(crate) fn check_leak(leak: f64) -> Result<(), Self> {
        if leak >= 0.0 && (leak as f32).is_finite() { Ok(()) } else { Err(Self::Leak { leak }) }
    }
}
