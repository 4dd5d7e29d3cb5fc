//! What a network is: everything needed to build it again, as a value that is checked once and saved beside the weights.

mod build;
mod check;
mod json;
mod model;
mod version;

pub use model::{Architecture, Backbone, InputShape, ModelConfig, Own, Stem};
pub use version::FORMAT_VERSION;
