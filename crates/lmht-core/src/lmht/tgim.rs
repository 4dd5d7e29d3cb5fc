//! The learnable numbers behind Ω and λ (Eq. 7): logits under a sigmoid, so that training cannot leave the range.
//!
//! ```text
//! ω_tj = 2 σ(tgim_logit[t, j]) / T      logit 0 -> 1/T,  range 0 .. 2/T
//! λ    = σ(leak_logit) + 1/2            logit 0 -> 1,    range 1/2 .. 3/2
//! ```

use crate::{Real, Tgim};

/// Ω, `[T, T]` with the receiving timestep as row, from its logits `[T, T]`: ω = 2σ(logit)/T (Eq. 7).
///
/// [`Tgim::Causal`] holds the entries above the diagonal at 0 whatever their logits; [`Tgim::Identity`] is the identity
/// matrix and reads no logits, which may then be empty.
///
/// # Panics
/// If the number of logits is not T².
///
/// ```
/// # use lmht_core::{Tgim, tgim_from_logits};
/// // Zeros give 1/T: every timestep receives the mean current.
/// assert_eq!(tgim_from_logits(Tgim::Full, 4, &[0.0; 16]), [0.25; 16]);
/// ```
pub fn tgim_from_logits<R: Real>(kind: Tgim, timesteps: usize, logits: &[R]) -> Vec<R> {
    assert_logits(kind, timesteps, "logits", logits.len());
    let t_count = R::from_f64(timesteps as f64);
    entries(timesteps)
        .map(|(t, j)| match kind {
            Tgim::Identity if t == j => R::ONE,
            Tgim::Identity => R::ZERO,
            Tgim::Causal if j > t => R::ZERO,
            Tgim::Full | Tgim::Causal => (R::ONE + R::ONE) * sigmoid(logits[t * timesteps + j]) / t_count,
        })
        .collect()
}

/// dLoss/dlogit, `[T, T]`, from dLoss/dΩ, `[T, T]`: dω/dlogit = 2σ(logit)σ(-logit)/T, and 0 for entries that are held.
///
/// For [`Tgim::Identity`] both slices may be empty; the result then is too.
///
/// # Panics
/// If the number of logits is not T², or differs from the number of gradients.
///
/// ```
/// # use lmht_core::{Tgim, tgim_logit_gradient};
/// assert_eq!(tgim_logit_gradient(Tgim::Causal, 2, &[0.0; 4], &[4.0; 4]), [1.0, 0.0, 1.0, 1.0]);
/// ```
pub fn tgim_logit_gradient<R: Real>(kind: Tgim, timesteps: usize, logits: &[R], grad_omega: &[R]) -> Vec<R> {
    assert_logits(kind, timesteps, "logits", logits.len());
    assert!(
        grad_omega.len() == logits.len(),
        "grad_omega: expected one value for each of the {} logits, got {}",
        logits.len(),
        grad_omega.len()
    );
    let t_count = R::from_f64(timesteps as f64);
    entries(timesteps)
        .zip(logits.iter().zip(grad_omega))
        .map(|((t, j), (&logit, &grad))| match kind {
            Tgim::Identity => R::ZERO,
            Tgim::Causal if j > t => R::ZERO,
            Tgim::Full | Tgim::Causal => grad * ((R::ONE + R::ONE) * sigmoid_slope(logit) / t_count),
        })
        .collect()
}

/// λ = σ(logit) + 1/2, between 1/2 and 3/2 (§4.3; the range is the reference's).
///
/// ```
/// # use lmht_core::leak_from_logit;
/// assert_eq!([-1000.0, 0.0, 1000.0].map(leak_from_logit), [0.5, 1.0, 1.5]);
/// ```
pub fn leak_from_logit<R: Real>(logit: R) -> R {
    sigmoid(logit) + R::HALF
}

/// dLoss/dlogit from dLoss/dλ: dλ/dlogit = σ(logit)σ(-logit).
///
/// ```
/// # use lmht_core::leak_logit_gradient;
/// assert_eq!(leak_logit_gradient(0.0, 8.0), 2.0);
/// ```
pub fn leak_logit_gradient<R: Real>(logit: R, grad_leak: R) -> R {
    grad_leak * sigmoid_slope(logit)
}

/// (t, j) of every entry of a `[T, T]` matrix, row by row.
fn entries(timesteps: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..timesteps).flat_map(move |t| (0..timesteps).map(move |j| (t, j)))
}

fn assert_logits(kind: Tgim, timesteps: usize, name: &str, len: usize) {
    let empty_is_fine = kind == Tgim::Identity;
    assert!(
        timesteps.checked_mul(timesteps) == Some(len) || (empty_is_fine && len == 0),
        "{name}: expected [T, T] with T = {timesteps}{}, got {len} values",
        if empty_is_fine { " or nothing" } else { "" }
    );
}

/// σ(x). The exponent is never positive, so nothing overflows.
fn sigmoid<R: Real>(x: R) -> R {
    let (small, denominator) = folded(x);
    if x >= R::ZERO { R::ONE / denominator } else { small / denominator }
}

/// σ'(x) = σ(x)σ(-x) = e^-|x| / (1 + e^-|x|)², which keeps its digits where 1 - σ(x) would lose them.
fn sigmoid_slope<R: Real>(x: R) -> R {
    let (small, denominator) = folded(x);
    small / (denominator * denominator)
}

/// e^-|x| and 1 + e^-|x|.
fn folded<R: Real>(x: R) -> (R, R) {
    let small = if x >= R::ZERO { (-x).exp() } else { x.exp() };
    (small, R::ONE + small)
}
