//! One act of firing (Eq. 6) and its surrogate derivative (Eq. 8): the two lines that everything else repeats.

use crate::Real;

/// Fires a multi-hierarchical threshold (M-HT) neuron and resets it by subtraction.
///
/// `spikes` counts the thresholds `k * v_threshold`, `k` in `1..=levels`, that `v_charged` has reached;
/// `v = v_charged - spikes * v_threshold` (Hao et al. 2024, Eq. 6). The count compares with kθ: `floor(m/θ)` differs
/// near ties, where m/θ rounds to a whole number that m has not reached.
///
/// Returns `(spikes, v)`: a whole number without unit, and a potential in the unit of `v_threshold`. A potential that
/// is not a number reaches no threshold and stays what it is.
///
/// ```
/// # use lmht_core::fire;
/// // Two levels at threshold 1: a potential of 2.75 crosses both and keeps the rest.
/// assert_eq!(fire(2.75, 1.0, 2), (2, 0.75));
/// // Reaching a threshold exactly is enough; beyond the highest one the rest is carried.
/// assert_eq!(fire(1.0, 1.0, 2), (1, 0.0));
/// assert_eq!(fire(4.5, 1.0, 2), (2, 2.5));
/// ```
#[inline]
pub fn fire<R: Real>(v_charged: R, v_threshold: R, levels: u32) -> (u32, R) {
    let reached = |k: &u32| v_charged >= R::from_count(*k) * v_threshold;
    let spikes = (1..=levels).filter(reached).count() as u32;
    (spikes, v_charged - R::from_count(spikes) * v_threshold)
}

/// Whether the surrogate lets the gradient pass: d(sθ)/dm is 1 for θ/2 <= m <= (L + 1/2)θ, both ends included, and 0
/// elsewhere (Eq. 8).
///
/// The paper prints ∂s/∂m = 1; its authors' code has d(sθ)/dm = 1, and so have we. The two agree for θ = 1.
///
/// ```
/// # use lmht_core::in_gate;
/// assert_eq!([0.25, 0.5, 1.0, 2.5, 2.75].map(|m| in_gate(m, 1.0, 2)), [false, true, true, true, false]);
/// ```
#[inline]
pub fn in_gate<R: Real>(v_charged: R, v_threshold: R, levels: u32) -> bool {
    let (lowest, highest) = gate(v_threshold, levels);
    lowest <= v_charged && v_charged <= highest
}

/// The two ends of the gate, θ/2 and (L + 1/2)θ.
#[inline]
pub(crate) fn gate<R: Real>(v_threshold: R, levels: u32) -> (R, R) {
    (R::HALF * v_threshold, (R::from_count(levels) + R::HALF) * v_threshold)
}
