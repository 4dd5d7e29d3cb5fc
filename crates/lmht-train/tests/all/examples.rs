//! The examples run and do what they say: networks of one's own are trained, converted, counted, saved and loaded again, and
//! the trained one that comes with the source is put to use.

#[path = "../../examples/own_perceptron.rs"]
mod own_perceptron;
#[path = "../../examples/own_residual.rs"]
mod own_residual;
#[path = "../../examples/pretrained.rs"]
mod pretrained;

#[test]
fn a_perceptron_of_ones_own_goes_all_the_way() {
    own_perceptron::main().expect("the example runs");
}

#[test]
fn a_residual_network_of_ones_own_goes_all_the_way() {
    own_residual::main().expect("the example runs");
}

#[test]
fn the_trained_network_of_the_repository_is_of_use() {
    pretrained::main().expect("the example runs");
}
