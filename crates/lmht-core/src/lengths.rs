//! What the lengths of slices must be.

/// The number of units n of currents `[T, n]`, after asserting that `others` have the same length.
pub(crate) fn units(timesteps: usize, xs: usize, others: &[(&str, usize)]) -> usize {
    assert!(
        xs.is_multiple_of(timesteps),
        "xs: expected [T, n] with T = {timesteps} timesteps (from the config), got {xs} values, which {timesteps} \
         does not divide; put time first"
    );
    for &(name, len) in others {
        assert!(len == xs, "{name}: expected the {xs} values of xs, [T, n], got {len}");
    }
    xs / timesteps
}
