//! Optimizers over named parameters: SGD with momentum, AdamW, with PyTorch's update rules.
//!
//! Candle's own SGD has no momentum and its AdamW cannot be saved. These have names, a fixed order and a state that goes
//! into a checkpoint and comes back, so that a resumed run takes the same steps as one that was not interrupted.
//!
//! With `g` the gradient, `p` the parameter, `η` the learning rate, `μ` the momentum, `λ` the weight decay:
//!
//! ```text
//! Sgd     d = g + λ p;   u = μ u + d, from u = 0;   p -= η (nesterov ? d + μ u : u)
//! AdamW   p -= η λ p;    m += (1 - β1)(g - m);   v = β2 v + (1 - β2) g²;
//!         p -= η / (1 - β1^n) · m / (√v / √(1 - β2^n) + ε)                  n counts from 1
//! ```
//!
//! `torch.optim.SGD` with dampening 0 (Sutskever et al. 2013 for Nesterov's momentum) and `torch.optim.AdamW`
//! (Loshchilov & Hutter 2019, Algorithm 2). A parameter without a gradient is left alone: not decayed, its momentum kept,
//! its `n` not advanced. As published, weight decay acts on every parameter; leave one out by not passing it, or give it
//! to a second optimizer.
//!
//! On the CPU one loop reads and writes each number once, on all threads; a GPU's kernel updates all parameters in one
//! launch, or none where a gradient is not finite; on a device without kernels the same rule runs as tensor operations.
//! Every element is computed by itself, so the number of threads does not change the result.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use candle_core::{Device, Var};
//! use lmht_train::optim::{OptimizerConfig, SgdConfig};
//!
//! let weight = Var::new(&[1f64, -2.], &Device::Cpu)?;
//! let config = OptimizerConfig::Sgd(SgdConfig { lr: 0.25, ..SgdConfig::default() });
//! let mut optimizer = config.build(vec![("fc.weight".into(), weight.clone())])?;
//!
//! // The loss is the sum of squares, its gradient 2 p: each step halves the parameter.
//! let loss = weight.sqr()?.sum_all()?;
//! optimizer.step(&loss.backward()?)?;
//! assert_eq!(weight.to_vec1::<f64>()?, [0.5, -1.]);
//! # Ok(())
//! # }
//! ```

mod adamw;
mod at_once;
mod gradients;
mod means;
mod positive;
mod rule;
mod sgd;
mod state;

pub use adamw::{AdamW, AdamWConfig};
pub use gradients::{find_non_finite, grad_norm};
pub(crate) use positive::Positive;
pub use sgd::{Sgd, SgdConfig};

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Which optimizer, and its settings; in JSON `{"kind": "sgd", "lr": 0.025, "momentum": 0.9, …}` or `{"kind": "adamw", …}`.
///
/// ```
/// use lmht_train::optim::OptimizerConfig;
/// let config: OptimizerConfig = serde_json::from_str(r#"{"kind": "adamw", "lr": 0.02}"#).unwrap();
/// assert_eq!(config.lr(), 0.02);
/// // A misspelt field is an error, not a default.
/// assert!(serde_json::from_str::<OptimizerConfig>(r#"{"kind": "sgd", "learning_rate": 0.02}"#).is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum OptimizerConfig {
    /// Stochastic gradient descent.
    Sgd(SgdConfig),
    /// Adam with decoupled weight decay.
    AdamW(AdamWConfig),
}

impl OptimizerConfig {
    /// The base learning rate, from which a schedule starts.
    pub fn lr(&self) -> f64 {
        match self {
            Self::Sgd(config) => config.lr,
            Self::AdamW(config) => config.lr,
        }
    }

    /// Checks the ranges of the fields.
    ///
    /// # Errors
    /// [`Error::InvalidOptimizer`], naming the field.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Sgd(config) => config.validate(),
            Self::AdamW(config) => config.validate(),
        }
    }

    /// Builds the optimizer over `params`.
    ///
    /// # Errors
    /// As [`Sgd::new`] and [`AdamW::new`].
    pub fn build(&self, params: Vec<(String, Var)>) -> Result<Box<dyn Optimizer>> {
        Ok(match *self {
            Self::Sgd(config) => Box::new(Sgd::new(params, config)?),
            Self::AdamW(config) => Box::new(AdamW::new(params, config)?),
        })
    }
}

/// Moves named parameters along their gradients.
pub trait Optimizer: Send {
    /// Updates every parameter that has a gradient in `grads`; the others are left alone.
    ///
    /// # Errors
    /// If a gradient's shape, type or device is not its parameter's; then nothing has been updated.
    fn step(&mut self, grads: &GradStore) -> candle_core::Result<()>;

    /// Σ g² of the last step, `[1]`, if a kernel has computed it: not finite where a gradient was not, and then the step has
    /// changed nothing. Reading it waits for the device.
    fn sum_squares(&self) -> Option<&Tensor> {
        None
    }

    /// The parameters, in the order in which they were given.
    fn params(&self) -> &[(String, Var)];

    /// The learning rate of the next step.
    fn lr(&self) -> f64;

    /// Sets the learning rate of the next steps.
    ///
    /// # Errors
    /// [`Error::InvalidOptimizer`] if it is negative or not finite.
    fn set_lr(&mut self, lr: f64) -> Result<()>;

    /// Ends the momentum of the parameter `name` where `stopped` (`u8`, its shape) is not 0: whoever has held an update back calls
    /// it, since the momentum is that of a way that was not gone. The first of its means in [`Self::state`] is 0 there then.
    ///
    /// # Errors
    /// If `stopped` has another shape or device.
    fn end_momentum(&mut self, name: &str, stopped: &Tensor) -> candle_core::Result<()>;

    /// How often [`Self::step`] has run.
    fn steps(&self) -> u64;

    /// What a checkpoint needs to go on, by name, sorted.
    ///
    /// `steps` (`[]`, `i64`) is [`Self::steps`]. For each parameter, `<name>.step` (`[]`, `i64`) counts its own updates, and
    /// from the first on there are, in its shape and type, `<name>.momentum_buffer` (SGD with momentum) or
    /// `<name>.exp_avg` and `<name>.exp_avg_sq` (AdamW). The learning rate is not among them: the schedule knows it.
    ///
    /// # Errors
    /// If a tensor cannot be made.
    fn state(&self) -> Result<Vec<(String, Tensor)>>;

    /// Takes over what [`Self::state`] returned, in any order; on any device.
    ///
    /// # Errors
    /// [`Error::MissingState`], [`Error::UnexpectedState`] or [`Error::InvalidState`], naming the entry; then nothing has
    /// been changed.
    fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<()>;
}

fn check_lr(lr: f64) -> Result<()> {
    require(lr.is_finite() && lr >= 0., "lr", "finite and not negative", lr)
}

fn check_weight_decay(weight_decay: f64) -> Result<()> {
    let fits = weight_decay.is_finite() && weight_decay >= 0.;
    require(fits, "weight_decay", "finite and not negative", weight_decay)
}

fn require(holds: bool, field: &'static str, expected: &'static str, got: f64) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::InvalidOptimizer { field, expected, got: got.to_string() }) }
}
