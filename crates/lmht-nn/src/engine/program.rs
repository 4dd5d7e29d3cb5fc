//! What the engine runs: the steps of a trace for one shape of input, or why there are none.

use std::any::Any;
use std::sync::OnceLock;

use candle_core::Tensor;
use lmht_kernels::ConvShape;
use lmht_kernels::pool::PoolShape;

use crate::neurons::NeuronCell;
use crate::observer::Form;
use crate::ops::{Conv2dParams, Pool2dParams};
use crate::signal::TimeBroadcast;
use crate::trace::{AttentionShape, Node, NormTensors, Op, Trace};

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

    pub(super) fn positions(self) -> usize {
        self.h * self.w
    }

    pub(super) fn dims(self) -> [usize; 3] {
        [self.h, self.w, self.c]
    }

    pub(super) fn pool(self, p: Pool2dParams, to: Self) -> PoolShape {
        let Self { h, w, c } = self;
        let Pool2dParams { kernel, stride, padding } = p;
        PoolShape { h, w, c, h_out: to.h, w_out: to.w, kernel, stride, padding }
    }
}

/// One step of a program.
#[derive(Debug)]
pub(super) struct Step {
    /// The layer, or the block that it belongs to.
    pub(super) name: String,
    pub(super) action: Action,
    pub(super) inputs: Vec<usize>,
    pub(super) shape: MapShape,
    /// What its axes stand for, where an observer sees it; that of what it reads, of a synapse.
    pub(super) form: Form,
    /// Whether the value is left as a sum of terms for its readers to add up.
    pub(super) is_lazy: bool,
    /// The last step that reads the value, through lazy ones too.
    pub(super) last_reader: usize,
    /// Whether the backward pass of a reader reads the value.
    pub(super) is_saved: bool,
    /// Whether a training pass computes once more what the synapse gave that this batch norm normalises, because that
    /// costs next to nothing.
    pub(super) is_cheap: bool,
    /// Whether a batch norm takes the value over, with the bias of the synapse.
    pub(super) feeds_norm: bool,
}

/// What a step does.
#[derive(Debug)]
pub(super) enum Action {
    Input,
    Synapse(Synapse),
    BatchNorm(NormTensors),
    Neuron(NeuronCell),
    MaxPool(Pool2dParams),
    AvgPool(Pool2dParams),
    Mean,
    Scale(f64),
    ShortcutScale(Tensor),
    Add,
    Broadcast(TimeBroadcast),
    Attention(AttentionShape),
}

/// A layer with weights. A fully connected one is a convolution whose kernel covers the whole map, or of one position where
/// every position is a token.
#[derive(Debug)]
pub(super) struct Synapse {
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
    pub(super) geometry: Geometry,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Geometry {
    Conv(Conv2dParams),
    /// A linear layer that reads the whole map.
    Whole,
    /// A linear layer that reads every position by itself.
    Each,
}

impl Synapse {
    /// As a convolution of `n` rows.
    pub(super) fn shape(&self, n: usize, input: MapShape, output: MapShape) -> ConvShape {
        let MapShape { h, w, c: c_in } = input;
        let (k, p) = match self.geometry {
            Geometry::Conv(p) => (self.weight.dims()[2], p),
            Geometry::Whole => (h, Conv2dParams::default()),
            Geometry::Each => (1, Conv2dParams::default()),
        };
        let Conv2dParams { stride, padding, groups } = p;
        ConvShape { n, c_in, h, w, c_out: output.c, k, stride, padding, groups, h_out: output.h, w_out: output.w }
    }
}

/// The steps of a network for one shape of input.
#[derive(Debug)]
pub(crate) struct Program {
    pub(super) steps: Vec<Step>,
    /// What is computed from the parameters alone, of a network whose parameters stay as they are.
    pub(super) prepared: OnceLock<Box<dyn Any + Send + Sync>>,
}

/// What a node of the trace is here: the step that has its value, and how its readers see that.
#[derive(Debug, Clone, Copy)]
struct Seen {
    step: usize,
    form: Form,
}

impl Program {
    /// The steps of `trace`, or in words what stands in the way.
    pub(crate) fn compile(trace: &Trace, timesteps: usize) -> Result<Self, String> {
        let mut steps: Vec<Step> = Vec::with_capacity(trace.nodes.len());
        let mut seen: Vec<Seen> = Vec::with_capacity(trace.nodes.len());
        for node in &trace.nodes {
            let reshaped = match node.op {
                Op::Flatten => Some(Form::Vector),
                Op::Tokens => Some(Form::Tokens),
                _ => None,
            };
            if let Some(form) = reshaped {
                // The values lie in one order whatever their axes are called.
                seen.push(Seen { form, ..seen[node.inputs[0]] });
                continue;
            }
            let inputs: Vec<Seen> = node.inputs.iter().map(|&input| seen[input]).collect();
            let (action, shape, form) = action(node, &inputs, &steps, timesteps)?;
            let own_form = if matches!(action, Action::Synapse(_)) { inputs[0].form } else { form };
            seen.push(Seen { step: steps.len(), form });
            steps.push(Step {
                name: node.name.clone(),
                action,
                inputs: inputs.iter().map(|input| input.step).collect(),
                shape,
                form: own_form,
                is_lazy: false,
                last_reader: steps.len(),
                is_saved: false,
                is_cheap: false,
                feeds_norm: false,
            });
        }
        if seen.last().is_none_or(|last| last.step + 1 != steps.len()) {
            return Err("the network ends with a layer that computes nothing".into());
        }
        mark_lives(&mut steps)?;
        mark_cheap(&mut steps);
        Ok(Self { steps, prepared: OnceLock::new() })
    }
}

/// What a node does, the shape of what it gives, and what its axes stand for.
fn action(node: &Node, inputs: &[Seen], steps: &[Step], timesteps: usize) -> Result<(Action, MapShape, Form), String> {
    let name = if node.name.is_empty() { "a layer".to_string() } else { node.name.clone() };
    let from = inputs.first().map(|input| steps[input.step].shape);
    let input = || from.ok_or_else(|| format!("{name} reads nothing"));
    let form = inputs.first().map_or(Form::Vector, |input| input.form);
    let given = || MapShape::of(&node.shape).ok_or_else(|| format!("{name} gives {:?} numbers a row", node.shape));
    Ok(match &node.op {
        Op::Input => (Action::Input, given()?, if node.shape.len() == 3 { Form::Maps } else { Form::Vector }),
        Op::Conv2d { weight, bias, params } => {
            let (weight, bias) = (weight.clone(), bias.clone());
            let synapse = Synapse { weight, bias, geometry: Geometry::Conv(*params) };
            (Action::Synapse(synapse), given()?, Form::Maps)
        }
        Op::Linear { weight, bias } => {
            let (input, (f_out, f_in)) = (input()?, weight.dims2().map_err(|error| error.to_string())?);
            let (geometry, shape, form) = if form == Form::Tokens {
                (Geometry::Each, MapShape { c: f_out, ..input }, Form::Tokens)
            } else {
                (Geometry::Whole, MapShape { h: 1, w: 1, c: f_out }, Form::Vector)
            };
            let reads = if form == Form::Tokens { input.c } else { input.len() };
            if reads != f_in || (form == Form::Vector && input.h != input.w) {
                return Err(format!("{name} reads a map of {}x{}, which is not square, as a vector", input.h, input.w));
            }
            let bias = Some(bias.clone());
            (Action::Synapse(Synapse { weight: weight.clone(), bias, geometry }), shape, form)
        }
        Op::BatchNorm(tensors) => {
            let input = input()?;
            if !matches!(steps[inputs[0].step].action, Action::Synapse(_)) {
                return Err(format!("{name} normalises something else than what a synapse gives"));
            }
            if tensors.weight.elem_count() != input.c {
                return Err(format!("{name} normalises the positions of a map one by one"));
            }
            (Action::BatchNorm(tensors.clone()), input, form)
        }
        Op::Neuron(cell) if cell.has_unit_thresholds() => {
            return Err(format!("{}: each unit has a threshold of its own", cell.name()));
        }
        Op::Neuron(cell) => {
            if cell.timesteps() != timesteps {
                return Err(format!("{name} has {} timesteps, the network {timesteps}", cell.timesteps()));
            }
            (Action::Neuron(cell.clone()), input()?, form)
        }
        Op::MaxPool(p) => (Action::MaxPool(*p), given()?, Form::Maps),
        Op::AvgPool(p) => (Action::AvgPool(*p), given()?, Form::Maps),
        Op::Mean => (Action::Mean, MapShape { h: 1, w: 1, c: input()?.c }, Form::Vector),
        Op::Scale(factor) => (Action::Scale(*factor), input()?, form),
        Op::ShortcutScale(factor) => (Action::ShortcutScale(factor.clone()), input()?, form),
        Op::Add => {
            let shapes: Vec<MapShape> = inputs.iter().map(|input| steps[input.step].shape).collect();
            if shapes.iter().any(|shape| *shape != shapes[0]) {
                return Err(format!("{name} adds values of different layouts, {shapes:?}"));
            }
            (Action::Add, shapes[0], form)
        }
        Op::Broadcast(broadcast) => (Action::Broadcast(*broadcast), input()?, form),
        Op::Attention(shape) => {
            if form != Form::Tokens {
                return Err(format!("{name} attends to something else than tokens"));
            }
            (Action::Attention(*shape), input()?, form)
        }
        Op::Flatten | Op::Tokens => return Err(format!("{name} only changes a shape")),
        Op::Opaque { what } => return Err(what.clone()),
    })
}

/// Says of each value who adds it up, who reads it last, and whether the way back needs it.
fn mark_lives(steps: &mut [Step]) -> Result<(), String> {
    let readers: Vec<Vec<usize>> =
        (0..steps.len()).map(|i| (i + 1..steps.len()).filter(|&r| steps[r].inputs.contains(&i)).collect()).collect();
    // Last step first: how long a value lives depends on what its readers do with it.
    for i in (0..steps.len()).rev() {
        let readers_of = &readers[i];
        if readers_of.is_empty() && i + 1 != steps.len() {
            return Err(format!("nobody reads what {} gives, and a network has one output", steps[i].name));
        }
        let is_taken = readers_of.iter().any(|&r| matches!(steps[r].action, Action::BatchNorm(_)));
        if is_taken && readers_of.len() > 1 {
            return Err(format!("{} is read by its batch norm and by something else", steps[i].name));
        }
        let adds_up = |r: usize| match steps[r].action {
            Action::Neuron(_) | Action::Add => true,
            Action::Scale(_) | Action::ShortcutScale(_) => steps[r].is_lazy,
            // With several readers the terms would be added up several times.
            Action::Broadcast(_) => steps[r].is_lazy && readers[r].len() == 1,
            _ => false,
        };
        let (can_wait, needs_one) = match steps[i].action {
            Action::BatchNorm(_) | Action::Add | Action::Scale(_) | Action::ShortcutScale(_) => (true, true),
            Action::Broadcast(_) => (true, false),
            _ => (false, false),
        };
        let is_lazy = can_wait
            && !readers_of.is_empty()
            && (readers_of.len() == 1 || !needs_one)
            && readers_of.iter().all(|&r| adds_up(r));
        let last = readers_of.iter().map(|&r| if steps[r].is_lazy { steps[r].last_reader } else { r }).max();
        let is_saved = readers_of.iter().any(|&r| match steps[r].action {
            Action::Synapse(_) | Action::Neuron(_) | Action::MaxPool(_) | Action::Attention(_) => true,
            _ => steps[r].is_lazy && steps[r].is_saved,
        });
        let step = &mut steps[i];
        (step.is_lazy, step.is_saved, step.feeds_norm) = (is_lazy, is_saved, is_taken);
        step.last_reader = last.unwrap_or(i);
    }
    Ok(())
}

/// Marks the batch norms after the synapses that cost least for each number that they give: in a residual network the one
/// that reads the image, those with 1x1 kernels and the first of those with the fewest channels, a third of all numbers.
fn mark_cheap(steps: &mut [Step]) {
    /// What all together may cost of what the synapses of the network cost; a backward pass costs twice that anyway.
    const SHARE: f64 = 0.16;
    let cost = |i: usize| match &steps[i].action {
        Action::Synapse(synapse) => {
            let s = synapse.shape(1, steps[steps[i].inputs[0]].shape, steps[i].shape);
            Some((s.c_in / s.groups * s.k * s.k, s.y_len()))
        }
        _ => None,
    };
    let total: usize = (0..steps.len()).filter_map(cost).map(|(each, n)| each * n).sum();
    let mut norms: Vec<(usize, usize, usize)> = (0..steps.len())
        .filter(|&i| matches!(steps[i].action, Action::BatchNorm(_)))
        .filter_map(|i| cost(steps[i].inputs[0]).map(|(each, n)| (each, each * n, i)))
        .collect();
    norms.sort_unstable();
    let mut sum = 0;
    for (_, cost, i) in norms {
        sum += cost;
        steps[i].is_cheap = sum as f64 <= SHARE * total as f64;
    }
}
