//! The kernel for `f32` and for `f64`, compiled here: a crate that calls the functions of [`LmhtNeuron`] over any
//! [`Real`](crate::Real) compiles none of it again.

use crate::LmhtNeuron;

/// One function for each of the public ones; what they do is said there.
pub trait Compiled: Sized {
    fn forward(neuron: &LmhtNeuron, omega: &[Self], leak: Self, xs: &[Self], out: &mut [Self]);
    fn output(neuron: &LmhtNeuron, omega: &[Self], leak: Self, xs: &[Self]) -> Vec<Self>;
    fn packed(neuron: &LmhtNeuron, omega: &[Self], leak: Self, xs: &[Self], out: &mut [u8]);
    fn backward(
        neuron: &LmhtNeuron,
        shared: (&[Self], Self),
        xs: &[Self],
        grad_out: &[Self],
        grad_xs: &mut [Self],
        grad_omega: &mut [Self],
    ) -> Self;
    fn gradients(
        neuron: &LmhtNeuron,
        shared: (&[Self], Self),
        xs: &[Self],
        grad_out: &[Self],
        grad_omega: &mut [Self],
    ) -> (Self, Vec<Self>);
}

macro_rules! compiled {
    ($t:ty) => {
        impl Compiled for $t {
            fn forward(neuron: &LmhtNeuron, omega: &[$t], leak: $t, xs: &[$t], out: &mut [$t]) {
                neuron.forward_of(omega, leak, xs, out);
            }

            fn output(neuron: &LmhtNeuron, omega: &[$t], leak: $t, xs: &[$t]) -> Vec<$t> {
                neuron.output_of(omega, leak, xs)
            }

            fn packed(neuron: &LmhtNeuron, omega: &[$t], leak: $t, xs: &[$t], out: &mut [u8]) {
                neuron.packed_of(omega, leak, xs, out);
            }

            fn backward(
                neuron: &LmhtNeuron,
                shared: (&[$t], $t),
                xs: &[$t],
                grad_out: &[$t],
                grad_xs: &mut [$t],
                grad_omega: &mut [$t],
            ) -> $t {
                neuron.backward_of(shared, xs, grad_out, grad_xs, grad_omega)
            }

            fn gradients(
                neuron: &LmhtNeuron,
                shared: (&[$t], $t),
                xs: &[$t],
                grad_out: &[$t],
                grad_omega: &mut [$t],
            ) -> ($t, Vec<$t>) {
                neuron.gradients_of(shared, xs, grad_out, grad_omega)
            }
        }
    };
}
compiled!(f32);
compiled!(f64);
