//! LM-HT spiking neurons, layers and backbones on Candle, and the training of them.
//!
//! - [`ModelConfig`] says what a network is; [`Network`] is built from it and a Candle `VarBuilder`.
//! - [`ParamStore`] holds its tensors by name, in a fixed order, started from a seed.
//! - [`Inference`] is a network for evaluation alone, of parameters that stay as they are.
//! - [`train::fit`] trains it, [`train::evaluate`] measures it, [`train::RunRecord`] keeps what happened.
//! - [`graph::Graph`] lists the layers of a network and what feeds what.
//! - [`ops`] are the differentiable operations underneath; [`layers`] the pieces between.
//! - [`save_pretrained`] and [`from_pretrained`] write and read model folders.
//!
//! Tensors are time first: `[T, B, C, H, W]`. The mathematics of the neurons is in `lmht-core`, the method in Hao et al.,
//! "LM-HT SNN: Enhancing the Performance of SNN to ANN Counterpart through Learnable Multi-hierarchical Threshold
//! Model", NeurIPS 2024 (arXiv 2402.00411).

pub mod atomic;
mod backbones;
mod config;
mod engine;
mod error;
pub mod graph;
mod inference;
pub mod layers;
pub mod ops;
mod params;
mod pass;
mod pretrained;
mod readout;

pub use backbones::Network;
pub use config::{Backbone, FORMAT_VERSION, ModelConfig, NeuronConfig, Stem};
pub use error::{Error, Result};
pub use inference::Inference;
pub use lmht_core::{GradientMode, QcfsWindow, Schedule, Tgim};
pub use params::{ParamKind, ParamStore};
pub use params::{read_safetensors, to_safetensors};
pub use pass::{Mode, NeuronEvent, Observer, Pass, PassEvent, ProductEvent, Signal, SynapseEvent, SynapseKind};
pub use pretrained::{ModelCard, from_pretrained, save_pretrained};
pub use readout::{cumulative_readout, readout};

/// The README's example, so that `cargo test` runs it.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
