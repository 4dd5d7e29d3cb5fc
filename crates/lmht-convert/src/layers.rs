//! What conversions ask of the layers of a network, beside what its trace answers.

use std::collections::BTreeSet;

use candle_core::{DType, Device};
use lmht_nn::trace::{Node, Op, Trace};
use lmht_nn::{ModelConfig, Network, ParamStore};

use crate::{Error, Model, Result};

/// The name of a tensor of a layer; a layer at the root of a network has no path.
pub(crate) fn path(layer: &str, part: &str) -> String {
    if layer.is_empty() { part.into() } else { format!("{layer}.{part}") }
}

/// What messages call a layer.
pub(crate) fn called(node: &Node) -> String {
    if !node.name.is_empty() {
        return node.name.clone();
    }
    match node.op {
        Op::MaxPool(_) => "a max-pooling",
        Op::AvgPool(_) | Op::Mean => "an average pooling",
        Op::Flatten | Op::Tokens => "a change of shape",
        _ => "a layer at the root of the network",
    }
    .into()
}

/// The error for a tensor that a model lacks.
pub(crate) fn missing(name: &str) -> Error {
    Error::Refused(format!("the tensor {name} is missing; load a whole model"))
}

/// An empty network of a configuration, and its layers.
pub(crate) fn outline(config: &ModelConfig) -> Result<(Network, Trace)> {
    let network = Network::new(config, ParamStore::blank().builder(DType::F32, &Device::Cpu))?;
    let trace = network.trace(&config.example_input())?;
    Ok((network, trace))
}

/// Refuses what a conversion cannot look into: operations that only a body knows, and neurons that are not those of the
/// configuration, which a conversion would not reach.
pub(crate) fn check_known(trace: &Trace, config: &ModelConfig) -> Result<()> {
    for node in &trace.nodes {
        match &node.op {
            Op::Neuron(cell) if cell.config() != &config.neuron => {
                return Err(Error::Refused(format!(
                    "{} has {} neurons of its own, not those of the configuration ({}); build it with \
                     ModelConfig::neuron_layer",
                    called(node),
                    cell.traits().title,
                    config.neuron.traits().title
                )));
            }
            Op::Input
            | Op::Conv2d { .. }
            | Op::Linear { .. }
            | Op::BatchNorm(_)
            | Op::Neuron(_)
            | Op::MaxPool(_)
            | Op::AvgPool(_)
            | Op::Mean
            | Op::Scale(_)
            | Op::ShortcutScale(_)
            | Op::Add
            | Op::Broadcast(_)
            | Op::Flatten
            | Op::Tokens
            | Op::Attention(_) => {}
            Op::Opaque { what } => {
                return Err(Error::Refused(format!(
                    "{what}, and a conversion cannot look into it; build the network of lmht_nn::layers"
                )));
            }
            _ => {
                return Err(Error::Refused(format!("{} is of a kind that conversions do not know yet", called(node))));
            }
        }
    }
    Ok(())
}

/// Which layers see the image through no neuron: their values are the same at every timestep of a window. Wider than
/// [`Trace::is_stem`], which ends at the first layer that is no synapse and no batch norm.
pub(crate) fn before_neurons(trace: &Trace) -> Vec<bool> {
    let mut is_before: Vec<bool> = Vec::with_capacity(trace.nodes.len());
    for node in &trace.nodes {
        let is = match node.op {
            Op::Neuron(_) | Op::Attention(_) => false,
            _ => node.inputs.iter().all(|&input| is_before[input]),
        };
        is_before.push(is);
    }
    is_before
}

/// The max-poolings of what neurons send, by number.
pub(crate) fn spike_poolings(trace: &Trace) -> Vec<usize> {
    let is_before = before_neurons(trace);
    (0..trace.nodes.len()).filter(|&i| matches!(trace.nodes[i].op, Op::MaxPool(_)) && !is_before[i]).collect()
}

fn is_synapse_or_norm(op: &Op) -> bool {
    matches!(op, Op::Conv2d { .. } | Op::Linear { .. } | Op::BatchNorm(_))
}

/// The constant factors of a network, in the order of its forward pass.
struct Factors {
    /// On what goes from a layer before the neurons into one that is not: the node that it leaves, and the factor.
    first: Vec<(usize, f64)>,
    /// All others.
    other: Vec<f64>,
}

impl Factors {
    fn of(trace: &Trace) -> Self {
        let is_before = before_neurons(trace);
        let mut factors: Vec<f64> = Vec::with_capacity(trace.nodes.len());
        let (mut first, mut other) = (Vec::new(), Vec::new());
        for (i, node) in trace.nodes.iter().enumerate() {
            let own = match &node.op {
                Op::Neuron(cell) => cell.input_scale(),
                Op::Scale(factor) => *factor,
                _ => 1.,
            };
            let ends_here = !is_before[i] || is_synapse_or_norm(&node.op);
            for &input in node.inputs.iter().filter(|_| ends_here) {
                if is_before[input] && !is_before[i] {
                    first.push((input, factors[input] * own));
                } else if is_before[input] {
                    other.push(factors[input]);
                } else {
                    other.push(own);
                }
            }
            let mut of_inputs = node.inputs.iter().map(|&input| factors[input]);
            factors.push(match (ends_here, of_inputs.next()) {
                (true, _) | (_, None) => 1.,
                // A sum of unlike factors has none: no comparison with it holds.
                (false, Some(factor)) => own * of_inputs.fold(factor, |a, b| if a == b { a } else { f64::NAN }),
            });
        }
        Self { first, other }
    }
}

/// Multiplies the current of the first neurons, which depends on the image alone.
///
/// A body that multiplies it by `input_scale` is given another one, as all built-in ones are. Of a body that does not look at
/// `input_scale` the last tensors before the first neurons are multiplied instead.
pub(crate) fn scale_first_current(model: Model, factor: f64) -> Result<Model> {
    if factor == 1. {
        return Ok(model);
    }
    let scaled = ModelConfig { input_scale: model.config.input_scale * factor, ..model.config.clone() };
    let (_, trace) = outline(&model.config)?;
    let (before, after) = (Factors::of(&trace), Factors::of(&outline(&scaled)?.1));
    let all_are = |expected: f64| {
        let near = |((_, a), (_, b)): (&(usize, f64), &(usize, f64))| (b / a / expected - 1.).abs() < 1e-9;
        before.first.len() == after.first.len() && before.first.iter().zip(&after.first).all(near)
    };
    if before.other == after.other && all_are(factor) {
        return Ok(Model { config: scaled, ..model });
    }
    if before.other == after.other && all_are(1.) {
        return scale_last_tensors(model, &trace, &before, factor);
    }
    Err(Error::Refused(format!(
        "{}: input_scale of the configuration must be a factor on the current of all first neurons, once, and on nothing \
         else; give it to them with Neuron::with_input_scale, or leave it out",
        model.config.backbone.title()
    )))
}

/// Multiplies the last synapses or batch norms before the first neurons.
fn scale_last_tensors(model: Model, trace: &Trace, factors: &Factors, factor: f64) -> Result<Model> {
    let mut last = BTreeSet::new();
    for &(source, _) in &factors.first {
        collect_last(trace, source, &mut last);
    }
    let is_before = before_neurons(trace);
    let mut read = BTreeSet::new();
    for (i, node) in trace.nodes.iter().enumerate() {
        if is_before[i] && is_synapse_or_norm(&node.op) {
            collect_last(trace, node.inputs[0], &mut read);
        }
    }
    let mut tensors = model.tensors;
    let mut done = BTreeSet::new();
    for &i in &last {
        let node = &trace.nodes[i];
        let refused = |what: &str| {
            Err(Error::Refused(format!(
                "{}: {what}; give the first neurons input_scale of the configuration with Neuron::with_input_scale",
                called(node)
            )))
        };
        if matches!(node.op, Op::Input) {
            return refused("it reaches neurons without a synapse, so no weight can take the factor on their current");
        }
        if read.contains(&i) {
            return refused(
                "it feeds neurons and another synapse, so its weights cannot take the factor on one of them",
            );
        }
        let is_elsewhere = |j: usize| trace.nodes[j].name == node.name && is_synapse_or_norm(&trace.nodes[j].op);
        if (0..trace.nodes.len()).any(|j| is_elsewhere(j) && !last.contains(&j)) {
            return refused("it is gone through again elsewhere, so its weights cannot take the factor on one current");
        }
        if !done.insert(&node.name) {
            continue;
        }
        for part in ["weight", "bias"] {
            if let Some(tensor) = tensors.get_mut(&path(&node.name, part)) {
                *tensor = (&*tensor * factor)?;
            }
        }
    }
    Ok(Model { tensors, ..model })
}

/// The last synapses, batch norms or inputs that `node` gives values of.
fn collect_last(trace: &Trace, node: usize, last: &mut BTreeSet<usize>) {
    let inputs = &trace.nodes[node].inputs;
    if inputs.is_empty() || is_synapse_or_norm(&trace.nodes[node].op) {
        last.insert(node);
    } else {
        inputs.iter().for_each(|&input| collect_last(trace, input, last));
    }
}
