//! The pieces of a network: synapses, neurons, pooling, sums, attention.
//!
//! Inside a network time is folded into the batch, time outermost: `[T, B, ...]` is kept as `[T·B, ...]`. Convolution,
//! normalisation and pooling treat all rows alike; only the neuron needs to know T.
//!
//! A network of one's own calls them one after the other in its [`Body::forward`](crate::Body::forward); `examples/` of
//! `lmht-train` has two. They also work by themselves; an error begins with the name of the layer:
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use lmht_nn::layers::{BatchNorm, Conv2d, ConvNorm, Linear, Neuron, Site, global_avg_pool};
//! use lmht_nn::{NeuronConfig, ParamStore, Pass, Signal, ops::Conv2dParams};
//!
//! # fn main() -> lmht_nn::Result<()> {
//! let params = ParamStore::new(42);
//! let vb = params.builder(DType::F32, &Device::Cpu);
//! let shape = Conv2dParams { padding: 1, ..Conv2dParams::default() };
//! let conv = Conv2d::new(3, 8, 3, shape, false, vb.pp("conv"))?;
//! let synapse = ConvNorm::new(conv, BatchNorm::new(8, vb.pp("bn"))?);
//! let neuron = Neuron::new(&NeuronConfig::lmht(2), 2, Site::Maps, vb.pp("sn"))?; // L = 2, T = 2
//! let readout = Linear::new(8, 10, vb.pp("fc"))?;
//!
//! let frames = Signal::analog(Tensor::ones((2 * 4, 3, 16, 16), DType::F32, &Device::Cpu)?); // T = 2, B = 4
//! let mut pass = Pass::eval();
//! let spikes = neuron.forward(&synapse.forward(&frames, &mut pass)?, &mut pass)?;
//! let logits = readout.forward(&global_avg_pool(&spikes, &mut pass)?, &mut pass)?;
//! assert_eq!(logits.values().dims(), [2 * 4, 10]);
//! # Ok(()) }
//! ```

mod attention;
mod batch_norm;
mod conv2d;
mod conv_norm;
mod linear;
mod named;
mod neuron;
mod pool;
mod shape;
mod time;

pub use crate::neurons::Site;
pub use attention::Attention;
pub use batch_norm::BatchNorm;
pub use conv_norm::ConvNorm;
pub use conv2d::Conv2d;
pub use linear::Linear;
pub use neuron::Neuron;
pub use pool::{avg_pool2d, global_avg_pool, max_pool2d, mean_of_tokens};
pub use shape::{add, apply, flatten, scale, shortcut_scale, tokens};
pub use time::at_every_timestep;
