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
//! On the CPU one loop reads and writes each number once, on all threads; on other devices the same rule runs as tensor
//! operations. Every element is computed by itself, so the number of threads does not change the result.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use candle_core::{Device, Var};
//! use lmht_nn::optim::{OptimizerConfig, SgdConfig};
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

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, Device, FloatDType, InplaceOp2, Layout, Shape, Storage, Tensor, Var, bail};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Why an optimizer could not be built, changed or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is out of its range.
    #[error("optimizer: expected {field} {expected}, got {got}")]
    InvalidConfig {
        /// The field, as it is written in the configuration.
        field: &'static str,
        /// Its range, in words.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// A parameter cannot be optimized.
    #[error("optimizer: parameter {name}: expected {expected}, got {got}")]
    InvalidParameter {
        /// Name of the parameter.
        name: String,
        /// What it should be, in words.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// The saved state lacks an entry.
    #[error(
        "optimizer state: {name} is missing; the state was saved by another optimizer, with other settings or for another \
         network: resume with the configuration of the checkpoint"
    )]
    MissingState {
        /// Name of the entry.
        name: String,
    },
    /// The saved state has an entry that belongs to no parameter, or to no part of this rule.
    #[error(
        "optimizer state: {name} belongs to no parameter of this optimizer; the state was saved by another optimizer, with \
         other settings or for another network: resume with the configuration of the checkpoint"
    )]
    UnexpectedState {
        /// Name of the entry.
        name: String,
    },
    /// An entry of the saved state does not fit its parameter.
    #[error("optimizer state: {name}: expected {expected}, got {got}; is the checkpoint that of this network?")]
    InvalidState {
        /// Name of the entry.
        name: String,
        /// Shape and type, or range, that it should have.
        expected: String,
        /// What came.
        got: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Settings of [`Sgd`]. The default is PyTorch's: plain gradient descent, without momentum or weight decay.
///
/// ```
/// use lmht_nn::optim::SgdConfig;
/// // CIFAR as published.
/// let config = SgdConfig { lr: 0.025, momentum: 0.9, nesterov: true, weight_decay: 5e-4 };
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SgdConfig {
    /// Learning rate η, finite and not negative; default 0.001.
    pub lr: f64,
    /// Momentum μ, in `0..1`; default 0.
    pub momentum: f64,
    /// Look one step ahead (Nesterov); needs a momentum. Default false.
    pub nesterov: bool,
    /// Weight decay λ, added to the gradient as `λ p`; finite and not negative; default 0.
    pub weight_decay: f64,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self { lr: 1e-3, momentum: 0., nesterov: false, weight_decay: 0. }
    }
}

impl SgdConfig {
    /// Checks the ranges of the fields.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], naming the field.
    ///
    /// ```
    /// use lmht_nn::optim::SgdConfig;
    /// let error = SgdConfig { momentum: 1.5, ..SgdConfig::default() }.validate().unwrap_err();
    /// assert_eq!(error.to_string(), "optimizer: expected momentum in 0..1, got 1.5");
    /// ```
    pub fn validate(&self) -> Result<(), Error> {
        check_lr(self.lr)?;
        require((0. ..1.).contains(&self.momentum), "momentum", "in 0..1", self.momentum)?;
        require(!self.nesterov || self.momentum > 0., "momentum", "above 0, because nesterov is set", self.momentum)?;
        check_weight_decay(self.weight_decay)
    }
}

/// Settings of [`AdamW`]. The default is PyTorch's.
///
/// ```
/// use lmht_nn::optim::AdamWConfig;
/// // CIFAR10-DVS as published.
/// let config = AdamWConfig { lr: 0.02, weight_decay: 0.01, ..AdamWConfig::default() };
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Learning rate η, finite and not negative; default 0.001.
    pub lr: f64,
    /// Decay β1 of the mean of gradients, in `0..1`; default 0.9.
    pub beta1: f64,
    /// Decay β2 of the mean of squared gradients, in `0..1`; default 0.999.
    pub beta2: f64,
    /// Added to the root of the second mean, finite and not negative; default 1e-8.
    pub eps: f64,
    /// Weight decay λ, taken from the parameter as `η λ p`, past the two means; finite and not negative; default 0.01.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}

impl AdamWConfig {
    /// Checks the ranges of the fields.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], naming the field.
    ///
    /// ```
    /// use lmht_nn::optim::AdamWConfig;
    /// let error = AdamWConfig { beta2: 1., ..AdamWConfig::default() }.validate().unwrap_err();
    /// assert_eq!(error.to_string(), "optimizer: expected beta2 in 0..1, got 1");
    /// ```
    pub fn validate(&self) -> Result<(), Error> {
        check_lr(self.lr)?;
        require((0. ..1.).contains(&self.beta1), "beta1", "in 0..1", self.beta1)?;
        require((0. ..1.).contains(&self.beta2), "beta2", "in 0..1", self.beta2)?;
        require(self.eps.is_finite() && self.eps >= 0., "eps", "finite and not negative", self.eps)?;
        check_weight_decay(self.weight_decay)
    }
}

/// Which optimizer, and its settings; in JSON `{"kind": "sgd", "lr": 0.025, "momentum": 0.9, …}` or `{"kind": "adamw", …}`.
///
/// ```
/// use lmht_nn::optim::OptimizerConfig;
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
    /// [`Error::InvalidConfig`], naming the field.
    pub fn validate(&self) -> Result<(), Error> {
        match self {
            Self::Sgd(config) => config.validate(),
            Self::AdamW(config) => config.validate(),
        }
    }

    /// Builds the optimizer over `params`.
    ///
    /// # Errors
    /// As [`Sgd::new`] and [`AdamW::new`].
    pub fn build(&self, params: Vec<(String, Var)>) -> Result<Box<dyn Optimizer>, Error> {
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

    /// The parameters, in the order in which they were given.
    fn params(&self) -> &[(String, Var)];

    /// The learning rate of the next step.
    fn lr(&self) -> f64;

    /// Sets the learning rate of the next steps.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if it is negative or not finite.
    fn set_lr(&mut self, lr: f64) -> Result<(), Error>;

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
    fn state(&self) -> Result<Vec<(String, Tensor)>, Error>;

    /// Takes over what [`Self::state`] returned, in any order; on any device.
    ///
    /// # Errors
    /// [`Error::MissingState`], [`Error::UnexpectedState`] or [`Error::InvalidState`], naming the entry; then nothing has
    /// been changed.
    fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<(), Error>;
}

/// Stochastic gradient descent with momentum: `torch.optim.SGD`, dampening 0.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use candle_core::{Device, Var};
/// use lmht_nn::optim::{Optimizer, Sgd, SgdConfig};
/// let p = Var::new(&[4f64], &Device::Cpu)?;
/// let config = SgdConfig { lr: 1., momentum: 0.5, ..SgdConfig::default() };
/// let mut sgd = Sgd::new(vec![("p".into(), p.clone())], config)?;
/// // The gradient is 1. First update: u = 1. Second: u = 0.5 · 1 + 1.
/// for expected in [3., 1.5] {
///     sgd.step(&p.sum_all()?.backward()?)?;
///     assert_eq!(p.to_vec1::<f64>()?, [expected]);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sgd {
    config: SgdConfig,
    slots: Slots,
}

impl Sgd {
    /// An optimizer over `params`, in their order.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] as [`SgdConfig::validate`]; [`Error::InvalidParameter`] if a name is empty or given twice,
    /// a variable is given twice, is not contiguous or neither `f32` nor `f64`.
    pub fn new(params: Vec<(String, Var)>, config: SgdConfig) -> Result<Self, Error> {
        config.validate()?;
        Ok(Self { config, slots: Slots::new(params)? })
    }
}

/// Adam with decoupled weight decay: `torch.optim.AdamW`, without AMSGrad.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use candle_core::{Device, Var};
/// use lmht_nn::optim::{AdamW, AdamWConfig, Optimizer};
/// let p = Var::new(&[4f64], &Device::Cpu)?;
/// let config = AdamWConfig { lr: 0.5, weight_decay: 0.5, eps: 0., ..AdamWConfig::default() };
/// let mut adamw = AdamW::new(vec![("p".into(), p.clone())], config)?;
/// // Whatever the gradient's size, the first update is η in its direction, after the decay 4 - 0.5 · 0.5 · 4.
/// adamw.step(&(p.sum_all()? * 100.)?.backward()?)?;
/// assert!((p.to_vec1::<f64>()?[0] - 2.5).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    slots: Slots,
}

impl AdamW {
    /// An optimizer over `params`, in their order.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] as [`AdamWConfig::validate`]; [`Error::InvalidParameter`] as [`Sgd::new`].
    pub fn new(params: Vec<(String, Var)>, config: AdamWConfig) -> Result<Self, Error> {
        config.validate()?;
        Ok(Self { config, slots: Slots::new(params)? })
    }
}

macro_rules! impl_optimizer {
    ($optimizer:ty) => {
        impl Optimizer for $optimizer {
            fn step(&mut self, grads: &GradStore) -> candle_core::Result<()> {
                self.slots.step(grads, &self.config)
            }

            fn params(&self) -> &[(String, Var)] {
                &self.slots.params
            }

            fn lr(&self) -> f64 {
                self.config.lr
            }

            fn set_lr(&mut self, lr: f64) -> Result<(), Error> {
                check_lr(lr)?;
                self.config.lr = lr;
                Ok(())
            }

            fn steps(&self) -> u64 {
                self.slots.steps
            }

            fn state(&self) -> Result<Vec<(String, Tensor)>, Error> {
                self.slots.state(&self.config)
            }

            fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<(), Error> {
                self.slots.load_state(state, &self.config)
            }
        }
    };
}
impl_optimizer!(Sgd);
impl_optimizer!(AdamW);

/// Euclidean norm of all gradients together, `sqrt(Σ g²)`, summed in `f64`; a parameter without a gradient adds nothing.
///
/// Summed in a fixed order: the same gradients give the same bits, on any number of threads. NaN or infinite if a gradient
/// is (see [`find_non_finite`]).
///
/// # Errors
/// If a gradient cannot be read.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Var};
/// let p = Var::new(&[3f32, 4.], &Device::Cpu)?;
/// let grads = (p.sqr()?.sum_all()? * 0.5)?.backward()?;
/// assert_eq!(lmht_nn::optim::grad_norm(&grads, &[("p".into(), p)])?, 5.);
/// # Ok(())
/// # }
/// ```
pub fn grad_norm(grads: &GradStore, params: &[(String, Var)]) -> candle_core::Result<f64> {
    let mut total = 0.;
    for (_, var) in params {
        if let Some(grad) = grads.get(var) {
            total += reduce_grad(grad, sum_of_squares::<f32>, sum_of_squares::<f64>)?.iter().sum::<f64>();
        }
    }
    Ok(total.sqrt())
}

/// The first parameter, in the order of `params`, whose gradient holds a NaN or an infinity.
///
/// To be asked before a step: one such number spreads over the whole network with it.
///
/// # Errors
/// If a gradient cannot be read.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Var};
/// use lmht_nn::optim::find_non_finite;
/// // The square root has an infinite slope at 0.
/// let p = Var::new(&[1f32, 0.], &Device::Cpu)?;
/// let grads = p.sqrt()?.sum_all()?.backward()?;
/// assert_eq!(find_non_finite(&grads, &[("fc.weight".into(), p)])?.as_deref(), Some("fc.weight"));
/// # Ok(())
/// # }
/// ```
pub fn find_non_finite(grads: &GradStore, params: &[(String, Var)]) -> candle_core::Result<Option<String>> {
    for (name, var) in params {
        if let Some(grad) = grads.get(var)
            && reduce_grad(grad, all_finite::<f32>, all_finite::<f64>)?.contains(&false)
        {
            return Ok(Some(name.clone()));
        }
    }
    Ok(None)
}

/// Numbers that one task handles: large enough to hide the cost of a task, small enough to stay in the cache.
const CHUNK: usize = 1 << 14;

/// Reduces a gradient chunk by chunk, on all threads; the chunks' results come in their order.
fn reduce_grad<R: Send>(
    grad: &Tensor,
    of_f32: impl Fn(&[f32]) -> R + Sync + Send,
    of_f64: impl Fn(&[f64]) -> R + Sync + Send,
) -> candle_core::Result<Vec<R>> {
    // Another device's gradient is brought here: a reduction over there would have an order, and a result, of its own.
    let grad = grad.detach().to_device(&Device::Cpu)?.contiguous()?;
    let (storage, layout) = grad.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        bail!("optimizer: a gradient copied to the CPU is not there; this is a bug")
    };
    let range = layout.start_offset()..layout.start_offset() + layout.shape().elem_count();
    match storage {
        CpuStorage::F32(g) => Ok(g[range].par_chunks(CHUNK).map(of_f32).collect()),
        CpuStorage::F64(g) => Ok(g[range].par_chunks(CHUNK).map(of_f64).collect()),
        _ => bail!("optimizer: expected gradients of type f32 or f64, got {:?}", grad.dtype()),
    }
}

fn sum_of_squares<T: Copy + Into<f64>>(chunk: &[T]) -> f64 {
    chunk.iter().map(|&g| g.into() * g.into()).sum()
}

fn all_finite<T: Copy + Into<f64>>(chunk: &[T]) -> bool {
    chunk.iter().all(|&g| g.into().is_finite())
}

/// The numbers that the fused loops work on.
trait Real: FloatDType {
    fn root(self) -> Self;
}

impl Real for f32 {
    fn root(self) -> Self {
        self.sqrt()
    }
}

impl Real for f64 {
    fn root(self) -> Self {
        self.sqrt()
    }
}

/// An update rule: how one parameter, its gradient and its running means become the next.
trait Rule {
    /// Names of the running means, tensors in the parameter's shape that start at zero.
    fn means(&self) -> &'static [&'static str];

    /// The rule on slices of equal lengths, in place; `n` is the number of this update, from 1.
    fn fused<T: Real>(&self, n: u64, p: &mut [T], g: &[T], means: &mut [Vec<T>]);

    /// The rule as tensor operations: returns the next parameter and replaces the running means.
    fn composed(&self, n: u64, p: &Tensor, g: &Tensor, means: &mut [Tensor]) -> candle_core::Result<Tensor>;
}

impl Rule for SgdConfig {
    fn means(&self) -> &'static [&'static str] {
        if self.momentum == 0. { &[] } else { &["momentum_buffer"] }
    }

    fn fused<T: Real>(&self, _: u64, p: &mut [T], g: &[T], means: &mut [Vec<T>]) {
        let [lr, momentum, weight_decay] = [self.lr, self.momentum, self.weight_decay].map(T::from_f64);
        let (nesterov, decays) = (self.nesterov, self.weight_decay != 0.);
        // Without decay the parameter must not enter the gradient: 0 times an infinity is not 0.
        let decayed = move |g: T, p: T| if decays { g + weight_decay * p } else { g };
        let tasks = p.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK));
        let Some(buffer) = means.first_mut() else {
            return tasks.for_each(|(p, g)| {
                let (lr, decayed) = (lr, decayed);
                for (p, &g) in p.iter_mut().zip(g) {
                    *p -= lr * decayed(g, *p);
                }
            });
        };
        tasks.zip(buffer.par_chunks_mut(CHUNK)).for_each(|((p, g), buffer)| {
            // Copies, which the compiler knows that no store can change. Measured: with the captured variables in their place
            // an update of 11 M parameters takes three times as long.
            let (lr, momentum, decayed, nesterov) = (lr, momentum, decayed, nesterov);
            for ((p, &g), u) in p.iter_mut().zip(g).zip(buffer) {
                let d = decayed(g, *p);
                *u = momentum * *u + d;
                let direction = if nesterov { d + momentum * *u } else { *u };
                *p -= lr * direction;
            }
        });
    }

    fn composed(&self, _: u64, p: &Tensor, g: &Tensor, means: &mut [Tensor]) -> candle_core::Result<Tensor> {
        let d = if self.weight_decay != 0. { (g + (p * self.weight_decay)?)? } else { g.clone() };
        let direction = match means.first_mut() {
            None => d,
            Some(buffer) => {
                *buffer = ((&*buffer * self.momentum)? + &d)?;
                if self.nesterov { (d + (&*buffer * self.momentum)?)? } else { buffer.clone() }
            }
        };
        p - (direction * self.lr)?
    }
}

impl AdamWConfig {
    /// `η / (1 - β1^n)` and `√(1 - β2^n)`: the bias corrections of update `n`, as PyTorch applies them.
    fn corrections(&self, n: u64) -> (f64, f64) {
        let n = n as f64;
        (self.lr / (1. - self.beta1.powf(n)), (1. - self.beta2.powf(n)).sqrt())
    }
}

impl Rule for AdamWConfig {
    fn means(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_avg_sq"]
    }

    fn fused<T: Real>(&self, n: u64, p: &mut [T], g: &[T], means: &mut [Vec<T>]) {
        let [m, v] = means else { return };
        let (step_size, correction) = self.corrections(n);
        let [step_size, correction, eps] = [step_size, correction, self.eps].map(T::from_f64);
        let [keep, toward] = [1. - self.lr * self.weight_decay, 1. - self.beta1].map(T::from_f64);
        let [beta2, toward_sq] = [self.beta2, 1. - self.beta2].map(T::from_f64);
        p.par_chunks_mut(CHUNK)
            .zip(g.par_chunks(CHUNK))
            .zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)))
            .for_each(|((p, g), (m, v))| {
                for ((p, &g), (m, v)) in p.iter_mut().zip(g).zip(m.iter_mut().zip(v)) {
                    *m += toward * (g - *m);
                    *v = beta2 * *v + toward_sq * g * g;
                    *p = keep * *p - step_size * *m / (v.root() / correction + eps);
                }
            });
    }

    fn composed(&self, n: u64, p: &Tensor, g: &Tensor, means: &mut [Tensor]) -> candle_core::Result<Tensor> {
        let [m, v] = means else { bail!("optimizer: AdamW keeps two means, got {}; this is a bug", means.len()) };
        let (step_size, correction) = self.corrections(n);
        *m = (&*m + ((g - &*m)? * (1. - self.beta1))?)?;
        *v = ((&*v * self.beta2)? + ((g * (1. - self.beta2))? * g)?)?;
        let denominator = ((v.sqrt()? / correction)? + self.eps)?;
        (p * (1. - self.lr * self.weight_decay))? - ((&*m * step_size)? / denominator)?
    }
}

/// The running means of one parameter.
#[derive(Debug)]
enum Means {
    /// On the CPU: updated in place.
    F32(Vec<Vec<f32>>),
    /// On the CPU: updated in place.
    F64(Vec<Vec<f64>>),
    /// On another device: replaced at each update.
    Tensors(Vec<Tensor>),
}

impl Means {
    /// `count` means of zeros for a parameter, in the form that suits its device.
    fn zeros(var: &Var, count: usize) -> candle_core::Result<Self> {
        let n = var.elem_count();
        Ok(match (var.device().is_cpu(), var.dtype()) {
            (true, DType::F32) => Self::F32(vec![vec![0.; n]; count]),
            (true, DType::F64) => Self::F64(vec![vec![0.; n]; count]),
            _ => Self::Tensors((0..count).map(|_| var.as_tensor().zeros_like()).collect::<candle_core::Result<_>>()?),
        })
    }

    /// Means for a parameter from tensors of its shape and type.
    fn from_tensors(var: &Var, tensors: &[&Tensor]) -> candle_core::Result<Self> {
        let flat = || tensors.iter().map(|t| t.flatten_all());
        Ok(match (var.device().is_cpu(), var.dtype()) {
            (true, DType::F32) => Self::F32(flat().map(|t| t?.to_vec1()).collect::<candle_core::Result<_>>()?),
            (true, DType::F64) => Self::F64(flat().map(|t| t?.to_vec1()).collect::<candle_core::Result<_>>()?),
            _ => {
                let placed = tensors.iter().map(|t| t.to_device(var.device())?.copy());
                Self::Tensors(placed.collect::<candle_core::Result<_>>()?)
            }
        })
    }

    /// Copies for a checkpoint, on the CPU or the parameter's device.
    fn to_tensors(&self, shape: &Shape) -> candle_core::Result<Vec<Tensor>> {
        let cpu = &Device::Cpu;
        match self {
            Self::F32(means) => means.iter().map(|m| Tensor::from_slice(m, shape, cpu)).collect(),
            Self::F64(means) => means.iter().map(|m| Tensor::from_slice(m, shape, cpu)).collect(),
            Self::Tensors(means) => Ok(means.clone()),
        }
    }
}

/// State of one parameter: how often it was updated, and from the first update on its means.
#[derive(Debug, Default)]
struct Slot {
    updates: u64,
    means: Option<Means>,
}

/// Parameters and their states, in one order.
#[derive(Debug)]
struct Slots {
    params: Vec<(String, Var)>,
    slots: Vec<Slot>,
    steps: u64,
}

impl Slots {
    fn new(params: Vec<(String, Var)>) -> Result<Self, Error> {
        let mut names = HashMap::new();
        let mut ids = HashMap::new();
        for (name, var) in &params {
            let invalid = |expected, got| Err(Error::InvalidParameter { name: name.clone(), expected, got });
            if name.is_empty() {
                return invalid("a name", "an empty one".into());
            }
            if names.insert(name.as_str(), ()).is_some() {
                return invalid("a name of its own", "a second parameter of that name".into());
            }
            // It would be updated twice per step.
            if let Some(other) = ids.insert(var.id(), name.as_str()) {
                return invalid("a variable of its own", format!("the variable of {other}"));
            }
            if !matches!(var.dtype(), DType::F32 | DType::F64) {
                let expected = "type f32 or f64 (keep the parameters in f32, and cast them in the forward pass)";
                return invalid(expected, format!("{:?}", var.dtype()));
            }
            if !var.is_contiguous() {
                return invalid("a contiguous variable", format!("strides {:?}", var.stride()));
            }
        }
        let slots = params.iter().map(|_| Slot::default()).collect();
        Ok(Self { params, slots, steps: 0 })
    }

    fn step<R: Rule>(&mut self, grads: &GradStore, rule: &R) -> candle_core::Result<()> {
        // All gradients are looked at before the first parameter moves.
        let mut found = Vec::with_capacity(self.params.len());
        for (name, var) in &self.params {
            let Some(grad) = grads.get(var) else {
                found.push(None);
                continue;
            };
            if grad.shape() != var.shape() || grad.dtype() != var.dtype() || !grad.device().same_device(var.device()) {
                bail!(
                    "optimizer: {name}: expected a gradient of shape {:?}, type {:?} on {:?} (its parameter's), got {:?}, \
                     {:?} on {:?}",
                    var.dims(),
                    var.dtype(),
                    var.device().location(),
                    grad.dims(),
                    grad.dtype(),
                    grad.device().location()
                );
            }
            found.push(Some(grad.detach().contiguous()?));
        }
        for ((slot, (name, var)), grad) in self.slots.iter_mut().zip(&self.params).zip(found) {
            if let Some(grad) = grad {
                update(rule, slot, var, &grad).map_err(|error| error.context(format!("optimizer: {name}")))?;
            }
        }
        self.steps += 1;
        Ok(())
    }

    fn state<R: Rule>(&self, rule: &R) -> Result<Vec<(String, Tensor)>, Error> {
        let mut state = vec![(STEPS.to_string(), count_tensor(self.steps)?)];
        for (slot, (name, var)) in self.slots.iter().zip(&self.params) {
            state.push((step_entry(name), count_tensor(slot.updates)?));
            if let Some(means) = &slot.means {
                let tensors = means.to_tensors(var.shape())?;
                state.extend(rule.means().iter().zip(tensors).map(|(mean, tensor)| (format!("{name}.{mean}"), tensor)));
            }
        }
        state.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(state)
    }

    fn load_state<R: Rule>(&mut self, state: &[(String, Tensor)], rule: &R) -> Result<(), Error> {
        let mut entries: HashMap<&str, &Tensor> = HashMap::with_capacity(state.len());
        for (name, tensor) in state {
            if entries.insert(name, tensor).is_some() {
                return Err(invalid_state(name, "one entry of that name".into(), "two".into()));
            }
        }
        let steps = take_count(&mut entries, STEPS)?;
        let mut slots = Vec::with_capacity(self.params.len());
        for (name, var) in &self.params {
            let updates = take_count(&mut entries, &step_entry(name))?;
            if updates == 0 {
                slots.push(Slot::default());
                continue;
            }
            let mut tensors = Vec::new();
            for mean in rule.means() {
                let entry = format!("{name}.{mean}");
                let Some(tensor) = entries.remove(entry.as_str()) else {
                    return Err(Error::MissingState { name: entry });
                };
                if tensor.shape() != var.shape() || tensor.dtype() != var.dtype() {
                    let describe = |t: &Tensor| format!("shape {:?} of type {:?}", t.dims(), t.dtype());
                    return Err(invalid_state(&entry, describe(var), describe(tensor)));
                }
                tensors.push(tensor);
            }
            slots.push(Slot { updates, means: Some(Means::from_tensors(var, &tensors)?) });
        }
        // The smallest name, so that the message does not depend on the order of a hash map.
        if let Some(name) = entries.keys().min() {
            return Err(Error::UnexpectedState { name: name.to_string() });
        }
        self.slots = slots;
        self.steps = steps;
        Ok(())
    }
}

/// The entry that counts the steps of the optimizer; no parameter's entry has its name, they all hold a dot.
const STEPS: &str = "steps";

fn step_entry(name: &str) -> String {
    format!("{name}.step")
}

fn count_tensor(count: u64) -> candle_core::Result<Tensor> {
    Tensor::new(count as i64, &Device::Cpu)
}

fn take_count(entries: &mut HashMap<&str, &Tensor>, name: &str) -> Result<u64, Error> {
    let Some(tensor) = entries.remove(name) else {
        return Err(Error::MissingState { name: name.into() });
    };
    let expected = "a count: shape [] of type I64, not negative";
    if tensor.rank() != 0 || tensor.dtype() != DType::I64 {
        let got = format!("shape {:?} of type {:?}", tensor.dims(), tensor.dtype());
        return Err(invalid_state(name, expected.into(), got));
    }
    let count = tensor.to_scalar::<i64>()?;
    u64::try_from(count).map_err(|_| invalid_state(name, expected.into(), count.to_string()))
}

/// Applies a rule to one parameter, in the form in which its means are kept.
fn update<R: Rule>(rule: &R, slot: &mut Slot, var: &Var, grad: &Tensor) -> candle_core::Result<()> {
    let n = slot.updates + 1;
    let means = match &mut slot.means {
        Some(means) => means,
        empty => empty.insert(Means::zeros(var, rule.means().len())?),
    };
    if let Means::Tensors(means) = means {
        // Detached: the variable would make the operations build a graph that nobody needs.
        let mut next_means = means.clone();
        var.set(&rule.composed(n, &var.as_detached_tensor(), grad, &mut next_means)?)?;
        *means = next_means;
    } else {
        var.inplace_op2(grad, &Fused { rule, n, means: RefCell::new(means) })?;
    }
    slot.updates = n;
    Ok(())
}

/// The fused rule as Candle's in-place operation, which alone can reach the numbers of a variable. It writes one tensor,
/// but an update also writes the means: these are no tensors, but slices that come along.
struct Fused<'a, R> {
    rule: &'a R,
    n: u64,
    means: RefCell<&'a mut Means>,
}

impl<R: Rule> InplaceOp2 for Fused<'_, R> {
    fn name(&self) -> &'static str {
        "optimizer-update"
    }

    fn cpu_fwd(
        &self,
        p: &mut CpuStorage,
        p_layout: &Layout,
        g: &CpuStorage,
        g_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (Some((p_start, p_end)), Some((g_start, g_end))) =
            (p_layout.contiguous_offsets(), g_layout.contiguous_offsets())
        else {
            bail!("optimizer: expected a contiguous parameter and gradient")
        };
        match (p, g, &mut **self.means.borrow_mut()) {
            (CpuStorage::F32(p), CpuStorage::F32(g), Means::F32(means)) => {
                self.rule.fused(self.n, &mut p[p_start..p_end], &g[g_start..g_end], means);
            }
            (CpuStorage::F64(p), CpuStorage::F64(g), Means::F64(means)) => {
                self.rule.fused(self.n, &mut p[p_start..p_end], &g[g_start..g_end], means);
            }
            _ => bail!("optimizer: parameter, gradient and state differ in type; this is a bug"),
        }
        Ok(())
    }
}

fn check_lr(lr: f64) -> Result<(), Error> {
    require(lr.is_finite() && lr >= 0., "lr", "finite and not negative", lr)
}

fn check_weight_decay(weight_decay: f64) -> Result<(), Error> {
    let fits = weight_decay.is_finite() && weight_decay >= 0.;
    require(fits, "weight_decay", "finite and not negative", weight_decay)
}

fn require(holds: bool, field: &'static str, expected: &'static str, got: f64) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::InvalidConfig { field, expected, got: got.to_string() }) }
}

fn invalid_state(name: &str, expected: String, got: String) -> Error {
    Error::InvalidState { name: name.into(), expected, got }
}

#[cfg(test)]
mod tests {
    //! The two forms of the rules agree. A GPU takes the composed form; here it runs on the CPU, beside the fused one,
    //! which no public call can bring about.

    use super::*;

    /// Steps two optimizers over equal parameters and gradients, one of them with its means held as tensors.
    fn largest_difference(rule: &impl Rule, dtype: DType) -> candle_core::Result<f64> {
        let n = 2 * CHUNK + 17;
        let numbers = |seed: usize| -> candle_core::Result<Tensor> {
            let values: Vec<f64> = (0..n).map(|i| ((i * 7 + seed * 13) as f64 * 0.37).sin()).collect();
            Tensor::new(values, &Device::Cpu)?.to_dtype(dtype)
        };
        let fused = Var::from_tensor(&numbers(1)?)?;
        let composed = Var::from_tensor(&numbers(1)?)?;
        let (mut fused_slot, mut composed_slot) = (Slot::default(), Slot::default());
        let zeros = vec![composed.as_tensor().zeros_like()?; rule.means().len()];
        composed_slot.means = Some(Means::Tensors(zeros));
        for step in 2..8 {
            let grad = numbers(step)?;
            update(rule, &mut fused_slot, &fused, &grad)?;
            update(rule, &mut composed_slot, &composed, &grad)?;
        }
        assert!(matches!(fused_slot.means, Some(Means::F32(_) | Means::F64(_))));
        assert!(matches!(composed_slot.means, Some(Means::Tensors(_))));
        (fused.as_tensor() - composed.as_tensor())?.abs()?.max_all()?.to_dtype(DType::F64)?.to_scalar()
    }

    #[test]
    fn fused_and_composed_updates_agree() -> candle_core::Result<()> {
        // The parameters are of size 1, so these are a few units in the last place.
        for (dtype, tolerance) in [(DType::F64, 4e-15), (DType::F32, 2e-6)] {
            for (momentum, nesterov, weight_decay) in
                [(0., false, 0.), (0., false, 0.1), (0.9, false, 0.1), (0.9, true, 0.)]
            {
                let rule = SgdConfig { lr: 0.1, momentum, nesterov, weight_decay };
                let difference = largest_difference(&rule, dtype)?;
                assert!(difference <= tolerance, "{rule:?} in {dtype:?}: {difference:e}");
            }
            let rule = AdamWConfig { lr: 0.1, weight_decay: 0.1, ..AdamWConfig::default() };
            let difference = largest_difference(&rule, dtype)?;
            assert!(difference <= tolerance, "{rule:?} in {dtype:?}: {difference:e}");
        }
        Ok(())
    }

    #[test]
    fn restored_tensor_means_go_on_as_the_saved_ones() -> candle_core::Result<()> {
        let rule = SgdConfig { lr: 0.1, momentum: 0.9, ..SgdConfig::default() };
        let var = Var::new(&[1f64, 2.], &Device::Cpu)?;
        let grad = Tensor::new(&[0.5f64, -1.], &Device::Cpu)?;
        let mut slot = Slot { updates: 0, means: Some(Means::Tensors(vec![var.as_tensor().zeros_like()?])) };
        update(&rule, &mut slot, &var, &grad)?;
        let Some(means) = &slot.means else { panic!("an update leaves means") };
        let saved = means.to_tensors(var.shape())?;
        let mut restored = Slot { updates: 1, means: Some(Means::Tensors(saved)) };
        let other = Var::from_tensor(&var.as_detached_tensor().copy()?)?;
        update(&rule, &mut slot, &var, &grad)?;
        update(&rule, &mut restored, &other, &grad)?;
        assert_eq!(var.to_vec1::<f64>()?, other.to_vec1::<f64>()?);
        // p = 1 - 0.1 (0.5) - 0.1 (0.9 · 0.5 + 0.5)
        assert!((var.to_vec1::<f64>()?[0] - 0.855).abs() < 1e-15);
        Ok(())
    }
}
