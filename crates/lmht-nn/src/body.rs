//! What runs: layers, called one after the other.

use std::fmt::Debug;

use crate::{Pass, Result, Signal};

/// The layers of a network and how they follow each other.
///
/// [`Network`](crate::Network) calls it with the images or features, and expects logits `[T·B, K]`. A static input arrives with
/// a row for each image only; the first neuron makes rows of all timesteps of it, so that what comes before is computed once.
/// [`Architecture`](crate::Architecture) has an example.
pub trait Body: Debug + Send + Sync {
    /// One forward pass: `xs` through the layers.
    ///
    /// It must do the same for every input of one shape and [mode](Pass::mode): it is written down once for each and then run
    /// as a whole where that is possible.
    ///
    /// # Errors
    /// If the input does not fit a layer; the message names it.
    fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal>;
}
