//! Adam with decoupled weight decay.

use candle_core::{Tensor, Var, bail};
use lmht_nn::gpu;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::rule::{CHUNK, Real, Rule};
use super::state::{Slots, impl_optimizer};
use super::{check_lr, check_weight_decay, require};
use crate::Result;

/// Settings of [`AdamW`]. The default is PyTorch's.
///
/// ```
/// use lmht_train::optim::AdamWConfig;
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
    /// [`Error::InvalidOptimizer`](crate::Error::InvalidOptimizer), naming the field.
    ///
    /// ```
    /// use lmht_train::optim::AdamWConfig;
    /// let error = AdamWConfig { beta2: 1., ..AdamWConfig::default() }.validate().unwrap_err();
    /// assert_eq!(error.to_string(), "optimizer: expected beta2 in 0..1, got 1");
    /// ```
    pub fn validate(&self) -> Result<()> {
        check_lr(self.lr)?;
        require((0. ..1.).contains(&self.beta1), "beta1", "in 0..1", self.beta1)?;
        require((0. ..1.).contains(&self.beta2), "beta2", "in 0..1", self.beta2)?;
        require(self.eps.is_finite() && self.eps >= 0., "eps", "finite and not negative", self.eps)?;
        check_weight_decay(self.weight_decay)
    }
}

/// Adam with decoupled weight decay: `torch.optim.AdamW`, without AMSGrad.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use candle_core::{Device, Var};
/// use lmht_train::optim::{AdamW, AdamWConfig, Optimizer};
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
    /// [`Error::InvalidOptimizer`](crate::Error::InvalidOptimizer) as [`AdamWConfig::validate`];
    /// [`Error::InvalidParameter`](crate::Error::InvalidParameter) as [`Sgd::new`](super::Sgd::new).
    pub fn new(params: Vec<(String, Var)>, config: AdamWConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self { config, slots: Slots::new(params)? })
    }
}

impl_optimizer!(AdamW);

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

    fn kernel(&self, n: u64) -> (gpu::Rule, f64) {
        let Self { lr, beta1, beta2, eps, weight_decay } = *self;
        (gpu::Rule::AdamW(gpu::AdamW { lr, beta1, beta2, eps, update: n }), weight_decay)
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
