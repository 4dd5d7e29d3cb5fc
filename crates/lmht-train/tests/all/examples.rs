//! The examples run and do what they say: networks of one's own are trained, converted, counted, saved and loaded again.

#[path = "../../examples/own_perceptron.rs"]
mod own_perceptron;
#[path = "../../examples/own_residual.rs"]
mod own_residual;

#[test]
fn a_perceptron_of_ones_own_goes_all_the_way() {
    own_perceptron::main().expect("the example runs");
}

#[test]
fn a_residual_network_of_ones_own_goes_all_the_way() {
    own_residual::main().expect("the example runs");
}
