//! Placeholder.
use super::{ConvShape, Real, dense};
pub(crate) fn forward<T: Real>(s: &ConvShape, spikes: &[u8], weight: &[T], ys: &mut [T]) {
    dense::forward(s, spikes, weight, None, ys)
}
pub(crate) fn grad_weight<T: Real>(s: &ConvShape, spikes: &[u8], grads: &[T], dweight: &mut [T]) {
    dense::grad_weight(s, spikes, grads, dweight)
}
pub(crate) fn grad_input<T: Real>(s: &ConvShape, grads: &[T], weight: &[T], units: &[u8], dxs: &mut [T]) {
    dense::grad_input(s, grads, weight, dxs);
    for (dx, unit) in dxs.iter_mut().zip(units) {
        if unit & 0x80 == 0 {
            *dx = T::default()
        }
    }
}
