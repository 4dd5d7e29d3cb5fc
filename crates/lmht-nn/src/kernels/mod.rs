//! The arithmetic underneath the operations: convolutions over plain slices in NHWC.

pub(crate) mod real;
#[allow(dead_code, unused_imports, reason = "for callers that keep activations in NHWC")]
pub(crate) mod spikes;

/// Shapes of a convolution, already checked: `[n, h, w, c_in]` with `[c_out, c_in, k, k]` to `[n, h_out, w_out, c_out]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, unused_imports, reason = "for callers that keep activations in NHWC")]
pub(crate) struct ConvShape {
    pub(crate) n: usize,
    pub(crate) c_in: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
    pub(crate) c_out: usize,
    pub(crate) k: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    pub(crate) h_out: usize,
    pub(crate) w_out: usize,
}
