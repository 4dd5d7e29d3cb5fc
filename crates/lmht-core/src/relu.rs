//! The rectifier of an ordinary network, so that an analog twin runs in the same program as its spiking relatives.

use crate::dynamics::{assert_shared, no_counts};
use crate::lengths::units;
use crate::{Code, Dynamics, Real};

/// max(x, 0), with derivative 1 for x > 0 and 0 elsewhere, at 0 too. It knows no time: any number of units.
///
/// A current that is not a number stays one, so that a diverged network is seen.
///
/// ```
/// use lmht_core::{Code, Dynamics, Relu};
/// let (mut out, mut grad_xs) = ([0.0; 3], [0.0; 3]);
/// Relu.forward(&[-1.0, 0.0, 2.5], &mut out);
/// Relu.backward(&[-1.0, 0.0, 2.5], &[1.0, 1.0, 3.0], &mut grad_xs, &mut []);
/// assert_eq!((out, grad_xs), ([0.0, 0.0, 2.5], [0.0, 0.0, 3.0]));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relu;

impl<R: Real> Dynamics<R> for Relu {
    fn timesteps(&self) -> usize {
        1
    }

    fn code(&self) -> Code {
        Code::Real
    }

    fn forward(&self, xs: &[R], out: &mut [R]) {
        units(1, xs.len(), &[("out", out.len())]);
        for (out, &x) in out.iter_mut().zip(xs) {
            *out = if x <= R::ZERO { R::ZERO } else { x };
        }
    }

    fn packed(&self, _xs: &[R], _out: &mut [u8]) {
        no_counts(Code::Real)
    }

    fn has_gradient(&self) -> bool {
        true
    }

    fn gate_is_whole(&self) -> bool {
        true
    }

    fn n_shared(&self) -> usize {
        0
    }

    fn backward(&self, xs: &[R], grad_out: &[R], grad_xs: &mut [R], grad_shared: &mut [R]) {
        units(1, xs.len(), &[("grad_out", grad_out.len()), ("grad_xs", grad_xs.len())]);
        assert_shared(0, grad_shared.len());
        for ((grad_x, &x), &grad) in grad_xs.iter_mut().zip(xs).zip(grad_out) {
            *grad_x = if x > R::ZERO { grad } else { R::ZERO };
        }
    }
}
