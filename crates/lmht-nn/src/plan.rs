//! How each part of a network will run, and why.

use std::fmt;

use crate::pass::Mode;
use crate::trace::{Op, Trace};

/// What [`Network::plan`](crate::Network::plan) answers.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// The mode it is for.
    pub mode: Mode,
    /// Every layer, in the order in which they compute.
    pub parts: Vec<PlanPart>,
    /// Why the engine does not run the network, if it does not.
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
    /// As a Candle operation.
    LayerByLayer,
}

impl Plan {
    pub(crate) fn new(trace: &Trace, mode: Mode, refused: Option<String>) -> Self {
        let how = if refused.is_none() { How::Engine } else { How::LayerByLayer };
        let parts = trace.nodes[1..].iter().map(|node| PlanPart { name: node.name.clone(), what: word(&node.op), how });
        Self { mode, parts: parts.collect(), refused }
    }

    /// Why a part of the network runs slowly, if one does.
    pub fn slow(&self) -> Option<&str> {
        self.refused.as_deref()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.refused {
            None => writeln!(f, "{:?}: {} layers in the engine, as one program", self.mode, self.parts.len())?,
            Some(why) => writeln!(f, "{:?}: {} layers one by one, since {why}", self.mode, self.parts.len())?,
        }
        for part in &self.parts {
            writeln!(f, "  {:<12} {}", part.what, part.name)?;
        }
        Ok(())
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
