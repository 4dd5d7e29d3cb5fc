//! The learnable numbers behind Ω and λ.

use lmht_core::{Real, Tgim, leak_from_logit, leak_logit_gradient, tgim_from_logits, tgim_logit_gradient};

use crate::Rng;

const KINDS: [Tgim; 3] = [Tgim::Full, Tgim::Causal, Tgim::Identity];

/// dLoss/dlogit against central differences, for Loss = Σ c ω with random c.
#[test]
fn tgim_gradient_equals_finite_differences() {
    const H: f64 = 1e-5;
    let mut rng = Rng(11);
    for timesteps in 1..=6 {
        for kind in KINDS {
            let logits: Vec<f64> = rng.vec(timesteps * timesteps, -4.0, 4.0);
            let c: Vec<f64> = rng.vec(timesteps * timesteps, -1.0, 1.0);
            let grad = tgim_logit_gradient(kind, timesteps, &logits, &c);
            let loss = |e: usize, h: f64| -> f64 {
                let mut logits = logits.clone();
                logits[e] += h;
                tgim_from_logits(kind, timesteps, &logits).iter().zip(&c).map(|(w, c)| w * c).sum()
            };
            for (e, grad) in grad.into_iter().enumerate() {
                let difference = (loss(e, H) - loss(e, -H)) / (2.0 * H);
                assert!((grad - difference).abs() < 1e-9, "{kind:?} {e}: {grad} against {difference}");
            }
        }
    }
}

#[test]
fn leak_gradient_equals_finite_differences() {
    const H: f64 = 1e-5;
    for logit in [-8.0, -1.5, -1e-3, 0.0, 0.7, 8.0] {
        let difference = (leak_from_logit(logit + H) - leak_from_logit(logit - H)) / (2.0 * H);
        assert!((3.0 * difference - leak_logit_gradient(logit, 3.0)).abs() < 1e-9, "{logit}");
    }
}

/// Entries lie where Eq. 7 says, row = receiving timestep.
#[test]
fn entries_are_where_the_kind_allows() {
    let logits: Vec<f64> = (0..9).map(f64::from).collect();
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    for kind in KINDS {
        let omega = tgim_from_logits(kind, 3, &logits);
        for t in 0..3 {
            for j in 0..3 {
                let expected = match kind {
                    Tgim::Identity => f64::from(t == j),
                    Tgim::Causal if j > t => 0.0,
                    _ => 2.0 * sigmoid(logits[t * 3 + j]) / 3.0,
                };
                assert!((omega[t * 3 + j] - expected).abs() < 1e-15, "{kind:?} {t} {j}");
            }
        }
    }
}

fn extremes<R: Real>() {
    for (logit, omega, leak) in
        [(-1e4, 0.0, 0.5), (-700.0, 0.0, 0.5), (0.0, 0.5, 1.0), (700.0, 1.0, 1.5), (1e4, 1.0, 1.5)]
    {
        let logit = R::from_f64(logit);
        let found = tgim_from_logits(Tgim::Full, 2, &[logit; 4])[0].to_f64();
        assert!((found - omega).abs() < 1e-300_f64.max(if omega == 0.0 { 1e-30 } else { 0.0 }), "{logit:?}: {found}");
        assert_eq!(leak_from_logit(logit).to_f64(), leak, "{logit:?}");
        let slopes = [
            leak_logit_gradient(logit, R::ONE).to_f64(),
            2.0 * tgim_logit_gradient(Tgim::Full, 2, &[logit; 4], &[R::HALF; 4])[3].to_f64(),
        ];
        assert!(slopes.iter().all(|slope| (0.0..=0.5).contains(slope)), "{logit:?}: {slopes:?}");
    }
}

/// Far out the sigmoid saturates; nothing overflows or becomes NaN.
#[test]
fn extreme_logits_saturate() {
    extremes::<f32>();
    extremes::<f64>();
}

/// σ'(x) is symmetric, and keeps its digits where 1 - σ(x) is 0 in the number type.
#[test]
fn slopes_keep_their_digits() {
    for logit in [1.0_f64, 20.0, 40.0, 300.0] {
        let slope = leak_logit_gradient(logit, 1.0);
        assert_eq!(slope, leak_logit_gradient(-logit, 1.0));
        let expected = (-logit).exp() / (1.0 + (-logit).exp()).powi(2);
        assert!(slope > 0.0 && (slope / expected - 1.0).abs() < 1e-14, "{logit}");
    }
}

#[test]
fn identity_needs_no_logits() {
    assert_eq!(tgim_from_logits::<f64>(Tgim::Identity, 2, &[]), [1.0, 0.0, 0.0, 1.0]);
    assert_eq!(tgim_logit_gradient::<f64>(Tgim::Identity, 2, &[], &[]), []);
}

#[test]
#[should_panic(expected = "logits: expected [T, T] with T = 2, got 3 values")]
fn logits_of_another_size_are_refused() {
    tgim_from_logits(Tgim::Full, 2, &[0.0; 3]);
}

#[test]
#[should_panic(expected = "grad_omega: expected one value for each of the 4 logits, got 1")]
fn gradients_of_another_size_are_refused() {
    tgim_logit_gradient(Tgim::Full, 2, &[0.0; 4], &[0.0; 1]);
}
