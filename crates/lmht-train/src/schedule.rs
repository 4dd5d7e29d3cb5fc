//! Learning-rate schedules: pure functions of where a run stands.
//!
//! A schedule has no state. The learning rate follows from the configuration, the base learning rate and a [`Position`],
//! so a resumed run needs nothing but its epoch to go on exactly as it would have.
//!
//! With `e` the epoch (from 0), `E` the epochs of the run, `W` those of the warm-up and `f` its start factor:
//!
//! ```text
//! e < W     lr = base (f + (1 - f) e / W)                                                  linear warm-up
//! e >= W    lr = min_lr + (base - min_lr) (1 + cos(π (e - W) / (E - W))) / 2               cosine
//!           lr = base gamma^n, n the decays that are due at e                              step, multi-step
//! ```
//!
//! These are PyTorch's `CosineAnnealingLR(T_max = E - W)`, `StepLR`, `MultiStepLR` in their closed form, and
//! `LinearLR(start_factor = f, total_iters = W)` before them (`SequentialLR`). The published runs use the cosine to 0 over
//! all epochs, stepped once per epoch, which is [`ScheduleConfig::default`]. The published code's optional warm-up is
//! another one: it multiplies warm-up and cosine (`ChainedScheduler`); no published command switches it on.
//!
//! ```
//! use lmht_train::schedule::{Position, ScheduleConfig};
//! let schedule = ScheduleConfig::default();
//! let half_way = Position { epoch: 150, step: 0, epochs: 300, steps_per_epoch: 782 };
//! assert!((schedule.lr(0.025, &half_way)? - 0.0125).abs() < 1e-15);
//! # Ok::<(), lmht_train::Error>(())
//! ```

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What happens to the learning rate after the warm-up.
///
/// In JSON a table with its `kind`: `{"kind": "multi_step", "milestones": [150, 225], "gamma": 0.1}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Decay {
    /// Nothing.
    Constant {},
    /// Half a cosine from the base learning rate, reached at the end of the warm-up, to `min_lr`, reached at the end of
    /// the run (Loshchilov & Hutter 2017, Eq. 5, without restarts).
    Cosine {
        /// The learning rate at the end; not above the base learning rate. PyTorch's `eta_min`.
        #[serde(default)]
        min_lr: f64,
    },
    /// Times `gamma` after every `every_epochs` epochs.
    Step {
        /// Epochs from one decay to the next, counted from the start of the run, at least 1 and not below the warm-up.
        every_epochs: usize,
        /// Factor of one decay, above 0, at most 1.
        gamma: f64,
    },
    /// Times `gamma` at each milestone.
    MultiStep {
        /// Epochs at whose start the learning rate decays, counted from the start of the run, increasing, none before the
        /// warm-up ends. Those after the end of the run do nothing.
        milestones: Vec<usize>,
        /// Factor of one decay, above 0, at most 1.
        gamma: f64,
    },
}

/// When the learning rate moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateEvery {
    /// At the start of an epoch: all its steps have the same learning rate. As published.
    #[default]
    Epoch,
    /// At every step: warm-up and cosine take `e` as a fraction, `epoch + step / steps_per_epoch`. Decays in steps stay at
    /// the start of an epoch.
    Step,
}

/// A learning-rate schedule.
///
/// ```
/// use lmht_train::schedule::{Decay, Position, ScheduleConfig, UpdateEvery};
/// let schedule = ScheduleConfig {
///     decay: Decay::MultiStep { milestones: vec![100, 150], gamma: 0.1 },
///     ..ScheduleConfig::default()
/// };
/// let json = serde_json::to_string(&schedule).unwrap();
/// assert_eq!(serde_json::from_str::<ScheduleConfig>(&json).unwrap(), schedule);
///
/// let late = Position { epoch: 160, step: 0, epochs: 200, steps_per_epoch: 100 };
/// assert!((schedule.lr(0.1, &late)? - 0.001).abs() < 1e-15);
/// # Ok::<(), lmht_train::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// What follows the warm-up.
    pub decay: Decay,
    /// Epochs of linear warm-up; 0 for none. Fewer than the run has.
    pub warmup_epochs: usize,
    /// The warm-up begins at this fraction of the base learning rate, above 0, at most 1; PyTorch's `start_factor`.
    pub warmup_start_factor: f64,
    /// Per epoch or per step.
    pub update_every: UpdateEvery,
}

impl Default for ScheduleConfig {
    /// The published schedule: cosine to 0, no warm-up, stepped per epoch.
    fn default() -> Self {
        Self {
            decay: Decay::Cosine { min_lr: 0. },
            warmup_epochs: 0,
            // PyTorch's default, to mean the same with only `warmup_epochs` set.
            warmup_start_factor: 1. / 3.,
            update_every: UpdateEvery::Epoch,
        }
    }
}

/// Where a run stands, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Finished epochs, `0..=epochs`; at `epochs` the run is over, and [`ScheduleConfig::lr`] gives the value it ended at.
    pub epoch: usize,
    /// Finished steps of this epoch, `0..steps_per_epoch`.
    pub step: usize,
    /// Epochs of the whole run, warm-up included, at least 1.
    pub epochs: usize,
    /// Optimizer updates in one epoch, at least 1.
    pub steps_per_epoch: usize,
}

impl ScheduleConfig {
    /// The learning rate at a position, by the equations of the [module](self).
    ///
    /// `base_lr` is the learning rate that the warm-up reaches and the decay starts from.
    ///
    /// # Errors
    /// [`Error::InvalidSchedule`] as [`Self::validate`], [`Error::InvalidPosition`] if the position is outside the run.
    ///
    /// ```
    /// use lmht_train::schedule::{Position, ScheduleConfig};
    /// let schedule = ScheduleConfig { warmup_epochs: 2, warmup_start_factor: 0.5, ..ScheduleConfig::default() };
    /// let at = |epoch| schedule.lr(1., &Position { epoch, step: 0, epochs: 4, steps_per_epoch: 10 });
    /// // Two epochs up from one half, then two epochs of cosine: 1 and (1 + cos(π/2)) / 2.
    /// let lrs = [at(0)?, at(1)?, at(2)?, at(3)?];
    /// assert!(lrs.iter().zip([0.5, 0.75, 1., 0.5]).all(|(lr, expected)| (lr - expected).abs() < 1e-15));
    /// # Ok::<(), lmht_train::Error>(())
    /// ```
    pub fn lr(&self, base_lr: f64, position: &Position) -> Result<f64> {
        let Position { epoch, step, epochs, steps_per_epoch } = *position;
        self.validate(base_lr, epochs)?;
        if steps_per_epoch == 0 {
            return Err(invalid_position("steps_per_epoch", "of at least 1".into(), steps_per_epoch));
        }
        if epoch > epochs {
            return Err(invalid_position("epoch", format!("of at most {epochs}, the epochs of the run"), epoch));
        }
        if step >= steps_per_epoch {
            return Err(invalid_position("step", format!("below {steps_per_epoch}, the steps of an epoch"), step));
        }
        let progress = match self.update_every {
            UpdateEvery::Epoch => epoch as f64,
            // At the end of the run nothing is left of a further epoch.
            UpdateEvery::Step if epoch == epochs => epochs as f64,
            UpdateEvery::Step => epoch as f64 + step as f64 / steps_per_epoch as f64,
        };
        if epoch < self.warmup_epochs {
            let start = self.warmup_start_factor;
            return Ok(base_lr * (start + (1. - start) * progress / self.warmup_epochs as f64));
        }
        Ok(match &self.decay {
            Decay::Constant {} => base_lr,
            Decay::Cosine { min_lr } => {
                let warmup = self.warmup_epochs as f64;
                let done = (progress - warmup) / (epochs as f64 - warmup);
                min_lr + (base_lr - min_lr) * (1. + (PI * done).cos()) / 2.
            }
            Decay::Step { every_epochs, gamma } => base_lr * power(*gamma, epoch / every_epochs),
            Decay::MultiStep { milestones, gamma } => {
                base_lr * power(*gamma, milestones.iter().filter(|&&milestone| milestone <= epoch).count())
            }
        })
    }

    /// Checks the schedule for a run of `epochs` epochs; a run calls it before its first epoch, [`Self::lr`] every time.
    ///
    /// # Errors
    /// [`Error::InvalidSchedule`], naming the field.
    ///
    /// ```
    /// use lmht_train::schedule::ScheduleConfig;
    /// let schedule = ScheduleConfig { warmup_epochs: 5, ..ScheduleConfig::default() };
    /// let error = schedule.validate(0.1, 3).unwrap_err();
    /// assert_eq!(error.to_string(), "schedule: expected warmup_epochs below 3, the epochs of the run, got 5");
    /// ```
    pub fn validate(&self, base_lr: f64, epochs: usize) -> Result<()> {
        require(base_lr.is_finite() && base_lr >= 0., "base_lr", "finite and not negative", base_lr)?;
        require(epochs >= 1, "epochs", "of at least 1", epochs)?;
        let warmup = self.warmup_epochs;
        if warmup >= epochs {
            let expected = format!("below {epochs}, the epochs of the run");
            return Err(Error::InvalidSchedule { field: "warmup_epochs", expected, got: warmup.to_string() });
        }
        let start = self.warmup_start_factor;
        // A start at zero would spend the first update on nothing.
        require(start > 0. && start <= 1., "warmup_start_factor", "above 0 and at most 1", start)?;
        let gamma_fits = |gamma: f64| require(gamma > 0. && gamma <= 1., "gamma", "above 0 and at most 1", gamma);
        match &self.decay {
            Decay::Constant {} => Ok(()),
            Decay::Cosine { min_lr } => {
                let expected = "not negative and not above the base learning rate";
                require(*min_lr >= 0. && *min_lr <= base_lr, "min_lr", expected, min_lr)
            }
            Decay::Step { every_epochs, gamma } => {
                gamma_fits(*gamma)?;
                let expected = "of at least 1 and not below warmup_epochs";
                require(*every_epochs >= warmup.max(1), "every_epochs", expected, every_epochs)
            }
            Decay::MultiStep { milestones, gamma } => {
                gamma_fits(*gamma)?;
                let increasing = milestones.windows(2).all(|pair| pair[0] < pair[1]);
                let after_warmup = milestones.first().is_none_or(|&first| first >= warmup.max(1));
                let expected = "increasing, from 1 on and not before the warm-up ends";
                require(increasing && after_warmup, "milestones", expected, format!("{milestones:?}"))
            }
        }
    }
}

/// `gamma^n`; more decays than an `i32` holds are 0 or, for a gamma of 1, still 1.
fn power(gamma: f64, n: usize) -> f64 {
    gamma.powi(i32::try_from(n).unwrap_or(i32::MAX))
}

fn require(holds: bool, field: &'static str, expected: &str, got: impl ToString) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::InvalidSchedule { field, expected: expected.into(), got: got.to_string() }) }
}

fn invalid_position(field: &'static str, expected: String, got: usize) -> Error {
    Error::InvalidPosition { field, expected, got }
}
