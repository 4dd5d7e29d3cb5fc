//! Windows of the reparameterized neuron (§4.5): when the current of a window arrives.
//!
//! A neuron with L levels and T timesteps becomes one with a single threshold and L timesteps, a *window*, for each of the
//! T. A window's spikes are the binary form of one count, and what it delivers is mixed by a matrix of size `[LT, LT]`.

use crate::Real;

/// When the timesteps of a window receive the current that is meant for the window.
///
/// With Ω `[T, T]`, windows of L timesteps, and what window i delivered (the sum over its timesteps):
///
/// ```
/// use lmht_core::Schedule;
/// let omega = [0.5, 0.25, 0.75, 1.0];
/// // Two windows of two timesteps. The rows of the second timesteps are 0.
/// let front_loaded = [
///     0.5, 0.5, 0.25, 0.25, //
///     0.0, 0.0, 0.0, 0.0, //
///     0.75, 0.75, 1.0, 1.0, //
///     0.0, 0.0, 0.0, 0.0,
/// ];
/// assert_eq!(Schedule::FrontLoaded.expand(&omega, 2, 2), front_loaded);
/// assert_eq!(Schedule::Uniform.expand(&omega, 2, 2)[4..8], [0.25, 0.25, 0.125, 0.125]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Schedule {
    /// The first timestep of window t receives ω_ti of what window i delivered, the others nothing.
    ///
    /// Ours, and lossless for every current, leak, Ω and v(0): the window starts from λv + I(t) = m(t) and receives
    /// nothing more, so its timestep j fires exactly if m(t) >= jθ. The spikes are the thermometer code of s(t).
    #[default]
    FrontLoaded,
    /// Every timestep of window t receives ω_ti/L of what window i delivered: the paper's (Theorem A.2).
    ///
    /// Lossless only while neither (λv > θ and I < 0) nor (λv < 0 and I > Lθ) happens, and not across a max-pooling.
    Uniform,
}

impl Schedule {
    /// The matrix `[LT, LT]` between timesteps, from Ω `[T, T]` between windows of L = `window` timesteps; rows receive.
    ///
    /// # Panics
    /// If `omega` does not have T² values or `window` is 0.
    pub fn expand<R: Real>(self, omega: &[R], timesteps: usize, window: usize) -> Vec<R> {
        assert!(
            omega.len() == timesteps * timesteps,
            "omega: expected [T, T] with T = {timesteps}, got {} values",
            omega.len()
        );
        assert!(window > 0, "window: expected at least 1 timestep, got 0");
        let steps = timesteps * window;
        let share = R::ONE / R::from_f64(window as f64);
        let entry = |to: usize, from: usize| {
            let between = omega[to / window * timesteps + from / window];
            match self {
                Self::FrontLoaded if to.is_multiple_of(window) => between,
                Self::FrontLoaded => R::ZERO,
                Self::Uniform => between * share,
            }
        };
        (0..steps).flat_map(|to| (0..steps).map(move |from| entry(to, from))).collect()
    }
}
