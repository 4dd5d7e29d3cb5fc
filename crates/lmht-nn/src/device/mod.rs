//! How a whole network runs on a GPU: the steps of its trace, one after the other, with a way back of its own.
//!
//! It is built from a [`Trace`](crate::trace::Trace), as the engine of the CPU is, and knows no network, no layer and no
//! backbone. What it has over one Candle operation a layer:
//!
//! - maps are `[T·B, H, W, C]` from the first layer to the last, gradients too: nothing is turned around between layers;
//! - batch norm, the sum with a shortcut and the neuron are one kernel each way (`norm_neuron`). The current between them is
//!   never written, and computed once more on the way back; only that of a stem, which stands for all timesteps, is;
//! - what waits for the way back are the outputs of synapses, and spikes as bytes;
//! - gradients go from step to step, without the zeros that Candle's graph begins each of its sums with;
//! - it can run in 16 bits ([`Precision`](crate::Precision)): maps, weights in products and their gradients; parameters,
//!   statistics, potentials and sums over them stay f32.
//!
//! | file | what |
//! |---|---|
//! | `steps.rs` | the steps of a trace, or why there are none |
//! | `run.rs` | the forward pass, which leaves a way back for each step |
//! | `autograd.rs` | a pass as operations of Candle's graph |
//!
//! An observed pass runs layer by layer, and so does one that asks for it.

mod autograd;
mod run;
mod steps;

pub(crate) use autograd::forward;
pub(crate) use steps::Steps;
