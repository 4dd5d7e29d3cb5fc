//! The steps of a network on a GPU, or why it has none.

use crate::neurons::NeuronCell;
use crate::trace::{Node, NormTensors, Op, Trace};

/// One step; it has the number of its node in the trace.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) action: Action,
    pub(super) inputs: Vec<usize>,
    /// The last step that reads the value.
    pub(super) last_reader: usize,
}

#[derive(Debug)]
pub(super) enum Action {
    /// A layer by itself.
    Layer(Op),
    /// The values as they are: tokens are the positions of a map, which lie in a row.
    Same,
    /// A part of the neuron behind it, which has no value of its own.
    Within,
    /// Batch norm, sum and neuron: reads the synapse and, unless nothing is added, what is added.
    NormNeuron { norm: NormTensors, added: Added, cell: NeuronCell },
}

/// What is added to the normalised synapse.
#[derive(Debug)]
pub(super) enum Added {
    Nothing,
    Plain,
    Normalized(NormTensors),
}

/// The steps of a network.
#[derive(Debug)]
pub(crate) struct Steps {
    pub(super) steps: Vec<Step>,
}

impl Steps {
    /// The steps of a trace.
    ///
    /// # Errors
    /// Why there are none, in words.
    pub(crate) fn compile(trace: &Trace) -> Result<Self, String> {
        let layer = |node: &Node| {
            let reads_map = node.inputs.first().is_some_and(|&input| trace.nodes[input].shape.len() == 3);
            let action = match &node.op {
                Op::Opaque { what } => return Err(what.clone()),
                // Its features are the last axis, which is not that of the channels.
                Op::Linear { .. } if reads_map => return Err(format!("{} reads the rows of a map", node.name)),
                Op::Tokens => Action::Same,
                Op::Flatten if !reads_map => Action::Same,
                op => Action::Layer(op.clone()),
            };
            Ok(Step { name: node.name.clone(), action, inputs: node.inputs.clone(), last_reader: 0 })
        };
        let mut steps = trace.nodes.iter().map(layer).collect::<Result<Vec<_>, _>>()?;
        for i in 0..steps.len() {
            let Some(fused) = norm_neuron(trace, i) else { continue };
            for within in fused.within {
                (steps[within].action, steps[within].inputs) = (Action::Within, Vec::new());
            }
            (steps[i].action, steps[i].inputs) = (fused.action, fused.inputs);
        }
        for i in 0..steps.len() {
            for j in steps[i].inputs.clone() {
                steps[j].last_reader = i;
            }
        }
        // The logits are for the caller.
        if let Some(last) = steps.last_mut() {
            last.last_reader = usize::MAX;
        }
        Ok(Self { steps })
    }

    /// Whether a layer is part of the neuron behind it.
    pub(crate) fn is_within(&self, node: usize) -> bool {
        matches!(self.steps[node].action, Action::Within)
    }
}

struct Fused {
    action: Action,
    inputs: Vec<usize>,
    within: Vec<usize>,
}

/// The neuron `i` with the batch norm before it, and the sum between them, if there is nothing else that sees these.
fn norm_neuron(trace: &Trace, i: usize) -> Option<Fused> {
    let Op::Neuron(cell) = &trace.nodes[i].op else { return None };
    cell.multi_threshold()?;
    // What nobody else reads; the trace names a reader once, however often it reads.
    let only_for = |node: usize, reader: usize| {
        let readers = (0..trace.nodes.len()).filter(|&other| trace.nodes[other].inputs.contains(&node));
        readers.eq([reader]) && node + 1 < trace.nodes.len()
    };
    let norm = |node: usize, reader: usize| match &trace.nodes[node].op {
        Op::BatchNorm(norm) if only_for(node, reader) => Some((norm.clone(), trace.nodes[node].inputs[0])),
        _ => None,
    };
    let source = trace.nodes[i].inputs[0];
    if let Some((norm, xs)) = norm(source, i) {
        let action = Action::NormNeuron { norm, added: Added::Nothing, cell: cell.clone() };
        return Some(Fused { action, inputs: vec![xs], within: vec![source] });
    }
    let (Op::Add, &[a, b]) = (&trace.nodes[source].op, &trace.nodes[source].inputs[..]) else { return None };
    if a == b || !only_for(source, i) {
        return None;
    }
    let (main, other) = if norm(a, source).is_some() { (a, b) } else { (b, a) };
    let (own, xs) = norm(main, source)?;
    let (added, from, mut within) = match norm(other, source) {
        Some((norm, from)) => (Added::Normalized(norm), from, vec![other]),
        None => (Added::Plain, other, vec![]),
    };
    within.extend([main, source]);
    let action = Action::NormNeuron { norm: own, added, cell: cell.clone() };
    Some(Fused { action, inputs: vec![xs, from], within })
}
