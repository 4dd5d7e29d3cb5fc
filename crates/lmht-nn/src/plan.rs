//! How each part of a network will run, and why.

use std::fmt;

use candle_core::Tensor;

use crate::neurons::Equation;
use crate::pass::Mode;
use crate::trace::{Node, Op, Trace};
use crate::{gpu, ops};

/// What [`Network::plan`](crate::Network::plan) answers.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// The mode it is for.
    pub mode: Mode,
    /// Every layer, in the order in which they compute.
    pub parts: Vec<PlanPart>,
    /// Why the network does not run as a whole, in the engine or as the steps of a GPU, if it does not.
    pub refused: Option<String>,
}

/// How a layer will run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlanPart {
    /// The path of its parameters, or the block it belongs to.
    pub name: String,
    /// What it does, in a word.
    pub what: &'static str,
    /// How.
    pub how: How,
}

/// The ways to run a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum How {
    /// In the engine, with the whole network as one program.
    Engine,
    /// Composed of Candle's operations.
    LayerByLayer,
    /// On a GPU, by kernels of `lmht-gpu` or of cuDNN.
    Kernel,
    /// On a GPU, as a part of the kernel of the neurons behind it; what it gives is never written.
    Fused,
    /// On the CPU, whatever the device: its input travels there and its output back.
    Host,
}

impl Plan {
    /// `sample` is of the type and on the device of the network's tensors.
    pub(crate) fn new(trace: &Trace, mode: Mode, sample: &Tensor, refused: Option<String>) -> Self {
        let how = |op: &Op| if refused.is_none() { How::Engine } else { layer_by_layer(op, sample) };
        let part = |node: &Node| PlanPart { name: node.name.clone(), what: word(&node.op), how: how(&node.op) };
        let parts = trace.nodes[1..].iter().map(part);
        Self { mode, parts: parts.collect(), refused }
    }

    /// The plan of a network whose steps run on a GPU; `is_within` says which layers are part of the neuron behind them.
    pub(crate) fn on_device(trace: &Trace, mode: Mode, sample: &Tensor, is_within: &dyn Fn(usize) -> bool) -> Self {
        let mut plan = Self::new(trace, mode, sample, Some(String::new()));
        plan.refused = None;
        for (node, part) in (1..).zip(&mut plan.parts) {
            if is_within(node) {
                part.how = How::Fused;
            }
        }
        plan
    }

    /// Why a part of the network runs slowly, if one does.
    pub fn slow(&self) -> Option<&str> {
        self.refused.as_deref()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.refused {
            None if self.parts.iter().any(|part| part.how != How::Engine) => {
                writeln!(f, "{:?}: {} layers on the GPU", self.mode, self.parts.len())?;
            }
            None => writeln!(f, "{:?}: {} layers in the engine, as one program", self.mode, self.parts.len())?,
            Some(why) => writeln!(f, "{:?}: {} layers one by one, since {why}", self.mode, self.parts.len())?,
        }
        for part in &self.parts {
            let how = match part.how {
                How::Engine | How::LayerByLayer => "",
                How::Kernel => ", by a kernel",
                How::Fused => ", with the neurons behind it",
                How::Host => ", on the CPU",
            };
            writeln!(f, "  {:<12} {}{how}", part.what, part.name)?;
        }
        Ok(())
    }
}

/// How an operation runs outside of the engine: what `ops` does with such a tensor.
fn layer_by_layer(op: &Op, sample: &Tensor) -> How {
    let by_kernel = |is: bool| if is { How::Kernel } else { How::LayerByLayer };
    match op {
        Op::Neuron(cell) => match cell.traits().equation {
            Equation::Inference if !sample.device().is_cpu() => How::Host,
            Equation::Inference | Equation::Analog => How::LayerByLayer,
            Equation::MultiThreshold | Equation::Other | Equation::Quantized => by_kernel(gpu::takes(sample)),
        },
        Op::BatchNorm(_) | Op::Conv2d { .. } => by_kernel(gpu::takes(sample)),
        Op::MaxPool(params) | Op::AvgPool(params) => by_kernel(ops::is_pool_by_kernel(sample, *params)),
        Op::Input
        | Op::Linear { .. }
        | Op::Mean
        | Op::Scale(_)
        | Op::ShortcutScale(_)
        | Op::Add
        | Op::Broadcast(_)
        | Op::Flatten
        | Op::Tokens
        | Op::Attention(_)
        | Op::Opaque { .. } => How::LayerByLayer,
    }
}

fn word(op: &Op) -> &'static str {
    match op {
        Op::Input => "input",
        Op::Conv2d { .. } => "convolution",
        Op::Linear { .. } => "linear",
        Op::BatchNorm(_) => "batch norm",
        Op::Neuron(_) => "neurons",
        Op::MaxPool(_) => "max-pooling",
        Op::AvgPool(_) => "averaging",
        Op::Mean => "mean",
        Op::Scale(_) | Op::ShortcutScale(_) => "factor",
        Op::Add => "sum",
        Op::Broadcast(_) => "repetition",
        Op::Flatten | Op::Tokens => "reshape",
        Op::Attention(_) => "attention",
        Op::Opaque { .. } => "other",
    }
}
