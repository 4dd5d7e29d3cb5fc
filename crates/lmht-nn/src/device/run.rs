//! The forward pass over the steps, and the way back that each of them leaves.

use std::collections::HashMap;

use candle_core::{DType, Tensor, TensorId, Var};
use lmht_kernels::ConvShape;

use super::steps::{Action, Added, Step, Steps};
use crate::gpu::norm::{self, NormInputs, NormNeuron};
use crate::gpu::{self, Kernel, Windows, convolution};
use crate::graph::{Gradients, add};
use crate::layers::{Attention, at_every_timestep};
use crate::neurons::NeuronCell;
use crate::ops::{self, BATCH_NORM_EPS, Conv2dParams, MOMENTUM, Pool2dParams, as_real};
use crate::signal::SignalKind;
use crate::trace::{NormTensors, Op};
use crate::{Error, Mode, Pass, Result, Signal};

/// From the gradient of a step's value to those of what it reads, in order; those of parameters are added up.
type Back = Box<dyn FnOnce(&Tensor, &mut Gradients) -> candle_core::Result<Vec<Option<Tensor>>> + Send>;

/// What a step has computed.
#[derive(Debug, Clone)]
struct Value {
    ys: Tensor,
    /// Spikes as bytes, and θ.
    packed: Option<(Tensor, f64)>,
}

impl From<Tensor> for Value {
    fn from(ys: Tensor) -> Self {
        Self { ys, packed: None }
    }
}

impl Value {
    /// What waits for the way back.
    fn keep(&self) -> Kept {
        match &self.packed {
            Some((bytes, theta)) => Kept::Packed { bytes: bytes.clone(), theta: *theta, like: Outline::of(&self.ys) },
            None => Kept::Whole(self.ys.clone()),
        }
    }
}

#[derive(Debug)]
struct Outline(Vec<usize>, DType);

impl Outline {
    fn of(tensor: &Tensor) -> Self {
        Self(tensor.dims().to_vec(), tensor.dtype())
    }
}

/// A value that waits for the way back.
#[derive(Debug)]
enum Kept {
    Whole(Tensor),
    Packed { bytes: Tensor, theta: f64, like: Outline },
}

impl Kept {
    fn get(self) -> candle_core::Result<Tensor> {
        match self {
            Self::Whole(tensor) => Ok(tensor),
            Self::Packed { bytes, theta, like: Outline(dims, dtype) } => {
                norm::unpack(&bytes, theta, dtype)?.reshape(dims)
            }
        }
    }
}

/// One pass.
pub(super) struct Run<'a> {
    pub(super) mode: Mode,
    /// The type of maps and products.
    pub(super) dtype: DType,
    /// θ of every layer of neurons by its tensor.
    pub(super) thresholds: &'a HashMap<TensorId, f64>,
}

/// What leads from the gradient of the logits to all others.
pub(super) struct WayBack {
    steps: Vec<(usize, Vec<usize>, Back)>,
    n: usize,
}

impl WayBack {
    /// The gradients of all parameters, and that of the rows of images if they want one.
    pub(super) fn run(self, grad: Tensor) -> candle_core::Result<(Gradients, Option<Tensor>)> {
        let mut gradients = Gradients::new();
        let mut of_values: Vec<Option<Tensor>> = (0..self.n).map(|_| None).collect();
        of_values[self.n - 1] = Some(grad);
        for (step, inputs, back) in self.steps.into_iter().rev() {
            let Some(grad) = of_values[step].take() else { continue };
            for (input, grad) in inputs.into_iter().zip(back(&grad.contiguous()?, &mut gradients)?) {
                let Some(grad) = grad else { continue };
                of_values[input] = Some(match of_values[input].take() {
                    Some(sum) => (sum + grad)?,
                    None => grad,
                });
            }
        }
        Ok((gradients, of_values[0].take()))
    }
}

impl Run<'_> {
    /// The logits of rows `[T·B, ...]`, which are channels last, and the way back from them; `wants_images`: to the images, too.
    pub(super) fn forward(&self, steps: &Steps, rows: Tensor, wants_images: bool) -> Result<(Tensor, WayBack)> {
        let n = steps.steps.len();
        let mut values: Vec<Option<Value>> = (0..n).map(|_| None).collect();
        let mut wants = vec![false; n];
        let mut way = WayBack { steps: Vec::new(), n };
        for (i, step) in steps.steps.iter().enumerate() {
            if matches!(step.action, Action::Within) {
                continue;
            }
            if i == 0 {
                (values[0], wants[0]) = (Some(rows.clone().into()), wants_images);
                continue;
            }
            let inputs: Option<Vec<Value>> = step.inputs.iter().map(|&input| values[input].clone()).collect();
            let Some(inputs) = inputs else { return Err(bug(&step.name, "reads a value that is gone")) };
            let wanted: Vec<bool> = step.inputs.iter().map(|&input| wants[input]).collect();
            let learns = self.mode == Mode::Train && params(&step.action).iter().any(|param| param.track_op());
            wants[i] = learns || wanted.contains(&true);
            let named = |error: Error| match error {
                Error::Candle(error) if !step.name.is_empty() => Error::Candle(error.context(step.name.clone())),
                error => error,
            };
            let (value, back) = self.step(step, inputs, &wanted, wants[i]).map_err(named)?;
            if wants[i] {
                way.steps.push((i, step.inputs.clone(), back));
            }
            values[i] = Some(value);
            for &input in &step.inputs {
                if steps.steps[input].last_reader == i {
                    values[input] = None;
                }
            }
        }
        match values.pop().flatten() {
            Some(logits) => Ok((logits.ys, way)),
            None => Err(bug("the network", "gave nothing")),
        }
    }

    fn step(&self, step: &Step, inputs: Vec<Value>, wanted: &[bool], keeps: bool) -> Result<(Value, Back)> {
        match &step.action {
            Action::NormNeuron { norm, added, cell } => self.norm_neuron(norm, added, cell, &inputs, keeps),
            Action::Layer(Op::Conv2d { weight, bias, params }) => {
                self.conv2d((weight, bias.as_ref()), *params, &inputs[0], wanted[0])
            }
            Action::Layer(Op::BatchNorm(tensors)) => self.batch_norm(tensors, &inputs[0]),
            Action::Layer(Op::MaxPool(params)) if params.kernel <= 15 => pool(Kernel::MaxPool, *params, &inputs[0]),
            Action::Layer(Op::AvgPool(params)) if params.kernel <= 15 => pool(Kernel::AvgPool, *params, &inputs[0]),
            Action::Layer(Op::Neuron(cell)) if cell.multi_threshold().is_some() => self.neuron(cell, &inputs[0]),
            Action::Same => {
                let back: Back = Box::new(|grad, _| Ok(vec![Some(grad.clone())]));
                Ok((inputs[0].clone(), back))
            }
            Action::Layer(Op::Add) => {
                let back: Back = Box::new(|grad, _| Ok(vec![Some(grad.clone()), Some(grad.clone())]));
                Ok(((&inputs[0].ys + &inputs[1].ys)?.into(), back))
            }
            Action::Layer(op) => self.composed(op, &inputs, wanted, keeps),
            Action::Within => Err(bug(&step.name, "is no step of its own")),
        }
    }

    /// A learned tensor in the type of the maps, out of every graph.
    fn plain(&self, tensor: &Tensor) -> candle_core::Result<Tensor> {
        tensor.detach().to_dtype(self.dtype)
    }

    fn conv2d(
        &self,
        (weight, bias): (&Tensor, Option<&Tensor>),
        p: Conv2dParams,
        xs: &Value,
        wants_input: bool,
    ) -> Result<(Value, Back)> {
        let s = conv_shape(&xs.ys, weight, p)?;
        let cast = self.plain(weight)?.contiguous()?;
        let mut ys = convolution::forward(&xs.ys, &cast, &s)?;
        if let Some(bias) = bias {
            ys = ys.broadcast_add(&self.plain(bias)?)?;
        }
        let (kept, weight, bias, learns) = (xs.keep(), weight.clone(), bias.cloned(), self.mode == Mode::Train);
        let back: Back = Box::new(move |grad, gradients| {
            if learns && weight.track_op() {
                add(gradients, &weight, &convolution::grad_weight(&kept.get()?, grad, &s)?)?;
            }
            if let Some(bias) = bias.filter(|bias| learns && bias.track_op()) {
                add(gradients, &bias, &as_real(grad)?.sum((0, 1, 2))?)?;
            }
            Ok(vec![wants_input.then(|| convolution::grad_input(grad, &cast, &s)).transpose()?])
        });
        Ok((ys.into(), back))
    }

    /// The norm `[4, C]` of a batch norm for such values; a training pass moves the running statistics.
    fn norm(&self, tensors: &NormTensors, xs: &Tensor) -> candle_core::Result<Tensor> {
        let NormTensors { weight, bias, running_mean, running_var, repeats } = tensors;
        let channels = xs.dims().last().copied().unwrap_or_default();
        if weight.elem_count() != channels {
            candle_core::bail!("batch norm: expected {} channels, got {:?}", weight.elem_count(), xs.dims())
        }
        let real = |tensor: &Tensor| as_real(&tensor.detach());
        let (weight, bias) = (real(weight)?, real(bias)?);
        let (mean, var) = (real(running_mean)?, real(running_var)?);
        let inputs = NormInputs { weight: &weight, bias: &bias, mean: &mean, var: &var };
        if self.mode == Mode::Eval {
            return norm::running_norm(xs, inputs, BATCH_NORM_EPS);
        }
        let [norm, mean, var] = norm::batch_statistics(xs, inputs, (BATCH_NORM_EPS, MOMENTUM), *repeats)?;
        running_mean.set(&mean.to_dtype(running_mean.dtype())?)?;
        running_var.set(&var.to_dtype(running_var.dtype())?)?;
        Ok(norm)
    }

    fn batch_norm(&self, tensors: &NormTensors, xs: &Value) -> Result<(Value, Back)> {
        let norm = self.norm(tensors, &xs.ys)?;
        let ys = norm::normalize(&xs.ys, &norm)?;
        let (xs, frozen, learned) =
            (xs.keep(), self.mode == Mode::Eval, (tensors.weight.clone(), tensors.bias.clone()));
        let back: Back = Box::new(move |grad, gradients| {
            let (grad_xs, affine) = norm::normalize_backward(frozen, &xs.get()?, &norm, grad)?;
            if !frozen {
                add(gradients, &learned.1, &affine.get(0)?)?;
                add(gradients, &learned.0, &affine.get(1)?)?;
            }
            Ok(vec![Some(grad_xs)])
        });
        Ok((ys.into(), back))
    }

    /// A layer's neuron, and its learned numbers as a function of its tensors.
    fn numbers(&self, cell: &NeuronCell, like: &Tensor) -> Result<(lmht_core::LmhtNeuron, Tensor)> {
        let theta = cell.threshold().and_then(|theta| self.thresholds.get(&theta.id()));
        let Some(theta) = theta else { return Err(bug(cell.name(), "has no threshold")) };
        let is_training = self.mode == Mode::Train;
        cell.kernel_numbers(*theta, like, &|tensor| if is_training { tensor.clone() } else { tensor.detach() })
    }

    fn neuron(&self, cell: &NeuronCell, xs: &Value) -> Result<(Value, Back)> {
        let (neuron, numbers) = self.numbers(cell, &xs.ys)?;
        let kernel = Kernel::Neuron(neuron);
        let Some(ys) = gpu::forward(&kernel, &[&xs.ys, &numbers.detach()])?.into_iter().next() else {
            return Err(bug(cell.name(), "gave nothing"));
        };
        let value = ys.reshape(xs.ys.shape())?.into();
        let (xs, learned) = (xs.keep(), tracked(cell));
        let back: Back = Box::new(move |grad, gradients| {
            let xs = xs.get()?;
            let mut outputs = gpu::backward(&kernel, &[&xs, &numbers.detach(), grad])?.into_iter();
            let grad_xs = outputs.next().map(|grad| grad.reshape(xs.shape())).transpose()?;
            if let Some(of_numbers) = outputs.next() {
                chain(&numbers, &of_numbers, &learned, gradients)?;
            }
            Ok(vec![grad_xs])
        });
        Ok((value, back))
    }

    fn norm_neuron(
        &self,
        own: &NormTensors,
        added: &Added,
        cell: &NeuronCell,
        inputs: &[Value],
        keeps: bool,
    ) -> Result<(Value, Back)> {
        let xs = &inputs[0].ys;
        let norm = self.norm(own, xs)?;
        let other = inputs.get(1);
        let (operand, second) = match (added, other) {
            (Added::Normalized(tensors), Some(other)) => {
                (norm::Added::Normalized(other.ys.clone(), self.norm(tensors, &other.ys)?), Some(tensors.clone()))
            }
            (Added::Plain, Some(other)) => (norm::Added::Plain(other.ys.clone()), None),
            _ => (norm::Added::Nothing, None),
        };
        if let Some(other) = other.filter(|other| other.ys.dims() != xs.dims()) {
            let what = format!("the two paths of the block differ: {:?} and {:?}", xs.dims(), other.ys.dims());
            return Err(candle_core::Error::Msg(what).into());
        }
        let (neuron, numbers) = self.numbers(cell, xs)?;
        let layer = NormNeuron { neuron, xs: xs.clone(), norm, added: operand, learned: numbers.detach() };
        let packs = keeps && neuron.levels() <= 127;
        let (ys, packed) = layer.forward(packs)?;
        let value = Value { ys, packed: packed.map(|bytes| (bytes, neuron.v_threshold())) };
        // A shortcut waits as what it is: bytes, if it is spikes.
        let (plain, layer) = match (&layer.added, other) {
            (norm::Added::Plain(_), Some(other)) => {
                (Some(other.keep()), NormNeuron { added: norm::Added::Nothing, ..layer })
            }
            _ => (None, layer),
        };
        let (own, learned, frozen) = (own.clone(), tracked(cell), self.mode == Mode::Eval);
        let back: Back = Box::new(move |grad, gradients| {
            let mut layer = layer;
            if let Some(plain) = plain {
                layer.added = norm::Added::Plain(plain.get()?);
            }
            let flows = layer.backward(frozen, grad)?;
            if !frozen {
                add(gradients, &own.bias, &flows.affine.get(0)?)?;
                add(gradients, &own.weight, &flows.affine.get(1)?)?;
                if let Some(second) = second {
                    add(gradients, &second.bias, &flows.affine.get(0)?)?;
                    add(gradients, &second.weight, &flows.affine.get(2)?)?;
                }
                chain(&numbers, &flows.learned, &learned, gradients)?;
            }
            Ok(vec![Some(flows.xs), flows.added])
        });
        Ok((value, back))
    }

    /// Any other layer: composed of Candle's operations, with a graph of its own.
    fn composed(&self, op: &Op, inputs: &[Value], wanted: &[bool], keeps: bool) -> Result<(Value, Back)> {
        let leaf = |(value, &wanted): (&Value, &bool)| match wanted {
            true => Ok(Var::from_tensor(&value.ys)?.into_inner()),
            false => Ok(value.ys.clone()),
        };
        let leaves = inputs.iter().zip(wanted).map(leaf).collect::<candle_core::Result<Vec<_>>>()?;
        let ys = self.apply(op, &leaves)?.contiguous()?;
        let value = ys.detach().into();
        if !keeps {
            return Ok((value, Box::new(|_, _| Ok(Vec::new()))));
        }
        let learned: Vec<Tensor> = params_of(op).into_iter().cloned().collect();
        let wanted = wanted.to_vec();
        let back: Back = Box::new(move |grad, gradients| {
            let store = (ys * grad)?.sum_all()?.backward()?;
            for param in &learned {
                if let Some(grad) = store.get(param) {
                    add(gradients, param, grad)?;
                }
            }
            Ok(leaves.iter().zip(wanted).map(|(leaf, wanted)| store.get(leaf).filter(|_| wanted).cloned()).collect())
        });
        Ok((value, back))
    }

    /// Values with channels last.
    fn apply(&self, op: &Op, xs: &[Tensor]) -> Result<Tensor> {
        let is_training = self.mode == Mode::Train;
        let param = |tensor: &Tensor| if is_training { tensor.clone() } else { tensor.detach() };
        let cast = |tensor: &Tensor| param(tensor).to_dtype(self.dtype);
        let first = &xs[0];
        Ok(match op {
            Op::Neuron(cell) => {
                // In the type of what it learns.
                let real = cell.learned().first().map_or(first.dtype(), |tensor| tensor.dtype());
                cell.forward(&first.to_dtype(real)?, &param)?.to_dtype(self.dtype)?
            }
            Op::Linear { weight, bias } => ops::linear(first, &cast(weight)?, Some(&cast(bias)?))?,
            Op::MaxPool(params) => in_maps(first, |maps| ops::max_pool2d(maps, *params))?,
            Op::AvgPool(params) => in_maps(first, |maps| ops::avg_pool2d(maps, *params))?,
            // Candle adds 16 bits up in 16 bits.
            Op::Mean => as_real(first)?.mean((1, 2))?.to_dtype(first.dtype())?,
            Op::Scale(factor) => (first * *factor)?,
            Op::ShortcutScale(factor) => first.broadcast_mul(&factor.detach().to_dtype(first.dtype())?)?,
            Op::Broadcast(broadcast) => {
                let signal = Signal::of(first.clone(), SignalKind::Analog, Some(*broadcast), None);
                at_every_timestep(&signal, &mut Pass::new(self.mode))?.values().clone()
            }
            Op::Flatten => first.permute((0, 3, 1, 2))?.contiguous()?.flatten_from(1)?,
            Op::Attention(shape) => {
                let (n, h, w, c) = first.dims4()?;
                let row = |xs: &Tensor| xs.reshape((n * h * w, c)).map(Signal::analog);
                let [q, k, v] = [row(first)?, row(&xs[1])?, row(&xs[2])?];
                let attention = Attention::new(String::new(), shape.heads, shape.scale, (shape.windows, shape.window));
                let mixed = attention.forward([&q, &k, &v], h * w, &mut Pass::new(self.mode))?;
                mixed.values().reshape((n, h, w, c))?
            }
            Op::Input | Op::Conv2d { .. } | Op::BatchNorm(_) | Op::Add | Op::Tokens | Op::Opaque { .. } => {
                return Err(bug("a step", "is not composed"));
            }
        })
    }
}

/// An operation of maps `[N, C, H, W]` on such with channels last.
fn in_maps(xs: &Tensor, f: impl Fn(&Tensor) -> candle_core::Result<Tensor>) -> candle_core::Result<Tensor> {
    f(&xs.permute((0, 3, 1, 2))?)?.permute((0, 2, 3, 1))
}

fn pool(kernel: fn(Windows) -> Kernel, p: Pool2dParams, xs: &Value) -> Result<(Value, Back)> {
    let (images, h, w, c) = xs.ys.dims4()?;
    let windows = Windows { images, h, w, c, kernel: p.kernel, stride: p.stride, padding: p.padding };
    let (h_out, w_out) = windows.output();
    let kernel = kernel(windows);
    let mut outputs = gpu::forward(&kernel, &[&xs.ys])?.into_iter();
    let Some(ys) = outputs.next() else { return Err(bug("pooling", "gave nothing")) };
    // Where the maxima were.
    let places: Vec<Tensor> = outputs.collect();
    let dims = (images, h, w, c);
    let back: Back = Box::new(move |grad, _| {
        // The first one is not read.
        let inputs: Vec<&Tensor> = [grad].into_iter().chain(&places).chain([grad]).collect();
        let grad_xs = gpu::backward(&kernel, &inputs)?.into_iter().next();
        Ok(vec![grad_xs.map(|grad| grad.reshape(dims)).transpose()?])
    });
    Ok((ys.reshape((images, h_out, w_out, c))?.into(), back))
}

/// From the gradient of a layer's numbers to those of the tensors that they are made of.
fn chain(numbers: &Tensor, grad: &Tensor, learned: &[Tensor], gradients: &mut Gradients) -> candle_core::Result<()> {
    if !numbers.track_op() {
        return Ok(());
    }
    let store = (numbers * grad)?.sum_all()?.backward()?;
    for param in learned {
        if let Some(grad) = store.get(param) {
            add(gradients, param, grad)?;
        }
    }
    Ok(())
}

fn tracked(cell: &NeuronCell) -> Vec<Tensor> {
    cell.learned().into_iter().cloned().collect()
}

/// What a step learns.
pub(super) fn params(action: &Action) -> Vec<&Tensor> {
    match action {
        Action::Within | Action::Same => Vec::new(),
        Action::Layer(op) => params_of(op),
        Action::NormNeuron { norm, added, cell } => {
            let mut all = vec![&norm.weight, &norm.bias];
            if let Added::Normalized(norm) = added {
                all.extend([&norm.weight, &norm.bias]);
            }
            all.extend(cell.learned());
            all
        }
    }
}

fn params_of(op: &Op) -> Vec<&Tensor> {
    match op {
        Op::Conv2d { weight, bias, .. } => [weight].into_iter().chain(bias).collect(),
        Op::Linear { weight, bias } => vec![weight, bias],
        Op::BatchNorm(norm) => vec![&norm.weight, &norm.bias],
        Op::Neuron(cell) => cell.learned(),
        Op::Input
        | Op::MaxPool(_)
        | Op::AvgPool(_)
        | Op::Mean
        | Op::Scale(_)
        | Op::ShortcutScale(_)
        | Op::Add
        | Op::Broadcast(_)
        | Op::Flatten
        | Op::Tokens
        | Op::Attention(_)
        | Op::Opaque { .. } => Vec::new(),
    }
}

/// The sizes of a convolution of maps with channels last, which fitted when the trace was written down.
fn conv_shape(xs: &Tensor, weight: &Tensor, p: Conv2dParams) -> candle_core::Result<ConvShape> {
    let ((n, h, w, c_in), (c_out, in_group, k, _)) = (xs.dims4()?, weight.dims4()?);
    let Conv2dParams { stride, padding, groups } = p;
    if c_in != in_group * groups || k > h.min(w) + 2 * padding {
        candle_core::bail!("conv2d: expected maps for weights {:?} and {p:?}, got {:?}", weight.dims(), xs.dims())
    }
    let steps = |size: usize| (size + 2 * padding - k) / stride + 1;
    Ok(ConvShape { n, c_in, h, w, c_out, k, stride, padding, groups, h_out: steps(h), w_out: steps(w) })
}

fn bug(name: &str, what: &str) -> Error {
    Error::Candle(candle_core::Error::Msg(format!("{name} {what}; this is a bug of lmht-nn, please report it")))
}
