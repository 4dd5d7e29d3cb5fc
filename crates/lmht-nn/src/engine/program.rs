//! What a network does, step by step, with the layers that do it: the forward pass once written down.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::prepared::Slots;
use crate::graph::{Graph, Node, Op};
use crate::layers::{BatchNorm, Conv2d, Linear, Neuron};
use crate::ops::Pool2dParams;
use crate::{Network, Pass, Result};
use lmht_kernels::ConvShape;

/// A layer that a pass went through.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    Conv2d(Conv2d),
    Linear(Linear),
    /// And how many copies of its input the input stands for.
    BatchNorm(BatchNorm, usize),
    Neuron(Neuron),
    /// θ of unit spikes on a shortcut.
    ShortcutScale(Tensor),
}

/// How the rows of a value become the rows of all timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spread {
    /// `[B]` for every timestep.
    Repeated,
    /// `[T / n, B]`, each row for n timesteps in a row.
    Held(usize),
}

impl Spread {
    /// The timestep of the value that timestep `t` reads.
    #[inline(always)]
    pub(super) fn source(spread: Option<Self>, t: usize) -> usize {
        match spread {
            None => t,
            Some(Self::Repeated) => 0,
            Some(Self::Held(n)) => t / n,
        }
    }
}

/// The layers of one recorded pass, by node.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    parts: HashMap<usize, Part>,
    spreads: HashMap<usize, Spread>,
}

impl Parts {
    pub(crate) fn insert(&mut self, node: usize, part: Part) {
        self.parts.insert(node, part);
    }

    pub(crate) fn spread(&mut self, node: usize, spread: Spread) {
        self.spreads.insert(node, spread);
    }
}

/// Height, width and channels of a value; a vector is a map of one position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MapShape {
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) c: usize,
}

impl MapShape {
    fn of(dims: &[usize]) -> Option<Self> {
        match *dims {
            [c, h, w] => Some(Self { h, w, c }),
            [c] => Some(Self { h: 1, w: 1, c }),
            _ => None,
        }
    }

    /// Values in one row (an image at a timestep).
    pub(super) fn len(self) -> usize {
        self.h * self.w * self.c
    }
}

/// One step of a program.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) action: Action,
    pub(super) inputs: Vec<usize>,
    pub(super) shape: MapShape,
    /// Applied to the value before anybody reads it.
    pub(super) spread: Option<Spread>,
    /// Whether the value is left as a sum of terms for its only reader to add up.
    pub(super) is_lazy: bool,
    /// The last step that reads the value, through lazy ones too.
    pub(super) last_reader: usize,
    /// Whether the backward pass of a reader reads the value.
    pub(super) is_saved: bool,
    /// Whether a training pass computes once more what the synapse gave that this batch norm normalises, because that
    /// costs next to nothing.
    pub(super) is_cheap: bool,
}

/// What a step does.
#[derive(Debug)]
pub(super) enum Action {
    Input,
    Synapse(Synapse),
    /// And how many copies of its input the input stands for.
    BatchNorm(BatchNorm, usize),
    Neuron(Neuron),
    MaxPool(Pool2dParams),
    AvgPool(Pool2dParams),
    Mean,
    Scale(f64),
    ShortcutScale(Tensor),
    Add,
    /// A map read as one vector: nothing moves.
    Flatten,
}

/// A layer with weights; a fully connected one is a convolution whose kernel covers the whole map.
#[derive(Debug)]
pub(super) enum Synapse {
    Conv2d(Conv2d),
    Linear(Linear),
}

impl Synapse {
    pub(super) fn weight(&self) -> &Tensor {
        match self {
            Self::Conv2d(conv) => conv.weight(),
            Self::Linear(linear) => linear.weight(),
        }
    }

    pub(super) fn bias(&self) -> Option<&Tensor> {
        match self {
            Self::Conv2d(conv) => conv.bias(),
            Self::Linear(linear) => Some(linear.bias()),
        }
    }

    /// As a convolution of `n` rows.
    pub(super) fn shape(&self, n: usize, input: MapShape, output: MapShape) -> ConvShape {
        let MapShape { h, w, c: c_in } = input;
        let (k, stride, padding) = match self {
            Self::Conv2d(conv) => (conv.weight().dims()[2], conv.params().stride, conv.params().padding),
            Self::Linear(_) => (h, 1, 0),
        };
        ConvShape { n, c_in, h, w, c_out: output.c, k, stride, padding, groups: 1, h_out: output.h, w_out: output.w }
    }
}

/// The steps of a network for one size of images.
#[derive(Debug)]
pub(crate) struct Program {
    pub(super) steps: Vec<Step>,
    pub(super) slots: Slots,
}

impl Program {
    /// Writes down what `network` does with one image of `[C, H, W]` (or with a frame for every timestep), or returns
    /// nothing if some of that is unknown here.
    pub(crate) fn record(network: &Network, dims: [usize; 3], is_frames: bool, dtype: DType) -> Result<Option<Self>> {
        let [c, h, w] = dims;
        let mut graph = Graph::default();
        graph.nodes.push(Node { name: "input".into(), op: Op::Input, inputs: vec![], shape: vec![c, h, w] });
        let mut parts = Parts::default();
        let sample = if is_frames {
            Tensor::zeros((network.config().n_frames(), 1, c, h, w), dtype, &Device::Cpu)?
        } else {
            Tensor::zeros((1, c, h, w), dtype, &Device::Cpu)?
        };
        network.forward(&sample, &mut Pass::eval().kept_in(&mut graph, &mut parts))?;
        Ok(Self::of(graph, parts))
    }

    fn of(graph: Graph, mut parts: Parts) -> Option<Self> {
        let mut steps: Vec<Step> = Vec::with_capacity(graph.nodes.len());
        for (i, node) in graph.nodes.into_iter().enumerate() {
            let shape = match node.op {
                // A vector of another order than ours; only a layer that reads the whole map can make sense of it.
                Op::Reshape => steps[node.inputs[0]].shape,
                _ => MapShape::of(&node.shape)?,
            };
            let action = match (node.op, parts.parts.remove(&i)) {
                (Op::Input, _) => Action::Input,
                (Op::Conv2d { .. }, Some(Part::Conv2d(conv))) => Action::Synapse(Synapse::Conv2d(conv)),
                (Op::Linear, Some(Part::Linear(linear))) => {
                    let input = steps[node.inputs[0]].shape;
                    if input.h != input.w || linear.weight().dims()[1] != input.len() {
                        return None;
                    }
                    Action::Synapse(Synapse::Linear(linear))
                }
                (Op::BatchNorm, Some(Part::BatchNorm(norm, repeats))) => {
                    // Statistics of a sum would need the sum; all known networks normalise what a synapse gives.
                    if !matches!(steps[node.inputs[0]].action, Action::Synapse(_)) {
                        return None;
                    }
                    Action::BatchNorm(norm, repeats)
                }
                (Op::Neuron { .. }, Some(Part::Neuron(neuron))) => Action::Neuron(neuron),
                (Op::MaxPool(p), _) => Action::MaxPool(p),
                (Op::AvgPool(p), _) => Action::AvgPool(p),
                (Op::Mean, _) => Action::Mean,
                (Op::Scale(factor), _) => Action::Scale(factor),
                (Op::ShortcutScale, Some(Part::ShortcutScale(scale))) => Action::ShortcutScale(scale),
                (Op::Add, _) => Action::Add,
                (Op::Reshape, _) => Action::Flatten,
                _ => return None,
            };
            let spread = parts.spreads.get(&i).copied();
            steps.push(Step {
                action,
                inputs: node.inputs,
                shape,
                spread,
                is_lazy: false,
                last_reader: i,
                is_saved: false,
                is_cheap: false,
            });
        }
        // Last step first: how long a value lives depends on what its readers do with it.
        for i in (0..steps.len()).rev() {
            let readers: Vec<usize> = (i + 1..steps.len()).filter(|&r| steps[r].inputs.contains(&i)).collect();
            // Attention and the like leave branches that join by operations unknown here.
            if readers.is_empty() && i + 1 != steps.len() {
                return None;
            }
            // What takes its input over must be its only reader.
            let is_taken = readers.iter().any(|&r| matches!(steps[r].action, Action::BatchNorm(..) | Action::Flatten));
            if is_taken && readers.len() > 1 {
                return None;
            }
            // A spread is applied by those who add terms up.
            if steps[i].spread.is_some()
                && readers.iter().any(|&r| !matches!(steps[r].action, Action::Neuron(_) | Action::Add))
            {
                return None;
            }
            let adds_up = |r: usize| match steps[r].action {
                Action::Neuron(_) | Action::Add => true,
                Action::Scale(_) | Action::ShortcutScale(_) => steps[r].is_lazy,
                _ => false,
            };
            let can_wait = matches!(
                steps[i].action,
                Action::BatchNorm(..) | Action::Add | Action::Scale(_) | Action::ShortcutScale(_)
            );
            let is_lazy = can_wait && readers.len() == 1 && readers.iter().all(|&r| adds_up(r));
            let last = readers.iter().map(|&r| if steps[r].is_lazy { steps[r].last_reader } else { r }).max();
            let is_saved = readers.iter().any(|&r| match steps[r].action {
                Action::Synapse(_) | Action::Neuron(_) | Action::MaxPool(_) => true,
                _ => steps[r].is_lazy && steps[r].is_saved,
            });
            (steps[i].is_lazy, steps[i].is_saved) = (is_lazy, is_saved);
            steps[i].last_reader = last.unwrap_or(i);
        }
        mark_cheap(&mut steps);
        Some(Self { steps, slots: Slots::default() })
    }

    /// Whether the engine has gradients for all of it.
    pub(super) fn has_gradients(&self) -> Result<bool> {
        for step in &self.steps {
            match &step.action {
                Action::Neuron(neuron) if neuron.spiking()?.is_none() || neuron.has_unit_spikes() => return Ok(false),
                Action::ShortcutScale(_) => return Ok(false),
                _ => {}
            }
        }
        Ok(true)
    }
}

/// Marks the batch norms after the synapses that cost least for each number that they give: in a residual network the one
/// that reads the image, those with 1x1 kernels and the first of those with the fewest channels, a third of all numbers.
fn mark_cheap(steps: &mut [Step]) {
    /// What all together may cost of what the synapses of the network cost; a backward pass costs twice that anyway.
    const SHARE: f64 = 0.16;
    let cost = |i: usize| match &steps[i].action {
        Action::Synapse(synapse) => {
            let s = synapse.shape(1, steps[steps[i].inputs[0]].shape, steps[i].shape);
            Some((s.c_in * s.k * s.k, s.y_len()))
        }
        _ => None,
    };
    let total: usize = (0..steps.len()).filter_map(cost).map(|(each, n)| each * n).sum();
    let mut norms: Vec<(usize, usize, usize)> = (0..steps.len())
        .filter(|&i| matches!(steps[i].action, Action::BatchNorm(..)))
        .filter_map(|i| cost(steps[i].inputs[0]).map(|(each, n)| (each, each * n, i)))
        .collect();
    norms.sort_unstable();
    let mut sum = 0;
    for (_, cost, i) in norms {
        sum += cost;
        steps[i].is_cheap = sum as f64 <= SHARE * total as f64;
    }
}
