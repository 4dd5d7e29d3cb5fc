//! The input gradient of a strided convolution, taken apart.

/// One phase along one axis: the inputs `first, first + s, …` and the taps `r, r + s, …`.
///
/// Input `first + s i` reaches output `q + i - m` through tap `r + s m`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Phase {
    /// The first tap, and how many there are.
    pub(super) r: usize,
    pub(super) taps: usize,
    /// The first input, and how many there are.
    pub(super) first: usize,
    pub(super) n: usize,
    /// The output that the first input reaches through the first tap.
    pub(super) q: usize,
}

impl Phase {
    /// The phases of an axis of `size` inputs that have inputs and taps.
    pub(super) fn all(size: usize, k: usize, stride: usize, padding: usize) -> Vec<Self> {
        let phase = |r: usize| {
            // The smallest input y with (y + p) mod s = r.
            let first = (r + stride - padding % stride) % stride;
            let n = size.saturating_sub(first).div_ceil(stride);
            Self { r, taps: k.saturating_sub(r).div_ceil(stride), first, n, q: (first + padding) / stride }
        };
        (0..stride).map(phase).filter(|phase| phase.n > 0 && phase.taps > 0).collect()
    }
}
