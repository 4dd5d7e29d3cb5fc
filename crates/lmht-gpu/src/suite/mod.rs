//! One suite for every machine: each operation against a naive loop or `lmht_core::reference`, with ties in the inputs
//! and sizes that are no multiples of blocks. In f64 spikes are equal to the bit and gradients within 1e-11.
//!
//! A new machine is a line in its tests: [`checks`] over a [`Machine`] whose buffers are the host's, or over a
//! [`Device`] wrapped in [`Hosted`].
//!
//! ```
//! use lmht_gpu::HostBuffer;
//! use lmht_gpu::suite::checks;
//!
//! fn run(machine: &impl lmht_gpu::Machine<Buffer = HostBuffer>, float64: bool) {
//!     for check in checks().into_iter().filter(|check| float64 || !check.float64) {
//!         match (check.run)(machine) {
//!             Ok(()) => println!("{}: passed", check.operation),
//!             Err(message) => println!("{}: {message}", check.operation),
//!         }
//!     }
//! }
//! ```

mod batch_norm;
mod cast;
mod gather;
mod hosted;
mod ilif;
mod loss;
mod neuron;
mod norm_neuron;
mod optimizer;
mod qcfs;
mod support;
mod ternary;
mod windows;

pub use hosted::{Device, Hosted};
pub use support::Outcome;

use crate::{HostBuffer, Machine};

/// A check of one operation.
#[derive(Debug)]
pub struct Check<M> {
    /// The operation's name.
    pub operation: &'static str,
    /// Whether it needs f64; else it is of f32 and 16-bit types.
    pub float64: bool,
    /// Runs it.
    pub run: fn(&M) -> Outcome,
}

/// All checks: each operation in f64, then in f32 and 16-bit types.
pub fn checks<M: Machine<Buffer = HostBuffer>>() -> Vec<Check<M>> {
    let pair = |operation, float64, float32| {
        [Check { operation, float64: true, run: float64 }, Check { operation, float64: false, run: float32 }]
    };
    let mut all: Vec<Check<M>> = [
        pair("neuron", neuron::check, neuron::check_f32),
        pair("norm_neuron", norm_neuron::check, norm_neuron::check_f32),
        pair("batch_norm", batch_norm::check, batch_norm::check_f32),
        pair("ilif", ilif::check, ilif::check_f32),
        pair("ternary", ternary::check, ternary::check_f32),
        pair("qcfs", qcfs::check, qcfs::check_f32),
        pair("pool", windows::check_pooling, windows::check_pooling_f32),
        pair("im2col", windows::check_im2col, windows::check_im2col_f32),
        pair("gather", gather::check, gather::check_f32),
        pair("loss", loss::check, loss::check_f32),
        pair("optimizer", optimizer::check, optimizer::check_f32),
    ]
    .into_iter()
    .flatten()
    .collect();
    all.push(Check { operation: "cast", float64: false, run: cast::check });
    all
}
