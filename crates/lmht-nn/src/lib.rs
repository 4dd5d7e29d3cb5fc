//! LM-HT spiking neurons, layers and networks on Candle.
//!
//! - [`ModelConfig`] says what a network is; [`Network`] is built from it and a Candle `VarBuilder`.
//! - [`Architecture`] and [`Body`] make a network of one's own, which everything takes as it takes a built-in one.
//! - [`layers`] are the pieces, [`neurons`] the kinds of neurons, [`ops`] the differentiable operations underneath.
//! - [`ParamStore`] holds tensors by name, in a fixed order, started from a seed.
//! - [`trace::Trace`] lists the layers of a network and what feeds what; [`Network::plan`] says how each will run.
//! - [`Inference`] is a network for evaluation alone, of parameters that stay as they are.
//! - [`Observer`] watches a pass: spikes as they are, a byte a unit, without a copy.
//! - [`gpu`] runs the kernels of `lmht-gpu` where the tensors are on a GPU.
//! - [`save_pretrained`] and [`from_pretrained`] write and read model folders.
//!
//! `lmht-train` trains networks, `lmht-convert` converts them, `lmht-bench` counts what they cost.
//!
//! Tensors are time first: `[T, B, C, H, W]`. The mathematics of the neurons is in `lmht-core`, the method in Hao et al.,
//! "LM-HT SNN: Enhancing the Performance of SNN to ANN Counterpart through Learnable Multi-hierarchical Threshold
//! Model", NeurIPS 2024 (arXiv 2402.00411).

pub mod atomic;
mod backbones;
mod body;
pub mod checksums;
mod config;
mod device;
mod engine;
mod error;
pub mod gpu;
mod graph;
mod inference;
pub mod layers;
mod lock;
pub mod markdown;
mod network;
pub mod neurons;
mod observer;
pub mod ops;
mod outline;
mod param_kind;
mod params;
mod pass;
mod plan;
mod precision;
mod pretrained;
mod readout;
mod signal;
mod tensors;
pub mod trace;

pub use body::Body;
pub use config::{Architecture, Backbone, FORMAT_VERSION, InputShape, ModelConfig, Own, Stem};
pub use error::{Error, Result};
pub use inference::Inference;
pub use lmht_core::{GradientMode, QcfsGate, Schedule, Tgim};
pub use network::Network;
pub use neurons::NeuronConfig;
pub use observer::{
    ChannelsLast, CurrentEvent, Form, NeuronEvent, Numbers, Observer, PackedSpikes, PassEvent, ProductEvent,
    SynapseEvent, SynapseKind, Values,
};
pub use param_kind::ParamKind;
pub use params::{ParamStore, read_safetensors, to_safetensors};
pub use pass::{Mode, Pass};
pub use plan::{How, Plan, PlanPart};
pub use precision::Precision;
pub use pretrained::{
    ModelCard, Pretrained, checkpoints, from_pretrained, from_pretrained_as, is_damage, save_pretrained,
};
pub use readout::{cumulative_readout, readout};
pub use signal::{Signal, SignalKind, TimeBroadcast};

/// The README's example, so that `cargo test` runs it.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
