//! The backward pass of a program.

use std::sync::Arc;

use candle_core::Tensor;
use lmht_kernels::{WeightMaps, attention, pool};

use super::buffers::BufferPool;
use super::layout::turn;
use super::program::{Action, Program, Synapse};
use super::run::{State, bail_bug, number};
use super::value::{ChannelAffine, TermSource, Value};
use super::{norm, stage};
use crate::Result;
use crate::graph::{Gradients, add};
use crate::neurons::NeuronCell;
use crate::ops::storage::{Element, with_slice};
use crate::signal::TimeBroadcast;
use crate::trace::{AttentionShape, NormTensors};

/// Who wants a gradient.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Parameters that are tracked.
    pub(super) params: bool,
    /// The images.
    pub(super) images: Option<Tensor>,
}

/// Per step, whether it or anything before it has something to learn.
pub(super) fn needs_gradient(program: &Program, wanted: &Wanted) -> Vec<bool> {
    let mut needs = Vec::with_capacity(program.steps.len());
    for step in &program.steps {
        let learns = wanted.params && params(&step.action).iter().any(|tensor| tensor.track_op());
        let is_wanted = matches!(step.action, Action::Input) && wanted.images.is_some();
        needs.push(learns || is_wanted || step.inputs.iter().any(|&input| needs[input]));
    }
    needs
}

/// What a step could learn.
pub(super) fn params(action: &Action) -> Vec<&Tensor> {
    match action {
        Action::Synapse(synapse) => [Some(&synapse.weight), synapse.bias.as_ref()].into_iter().flatten().collect(),
        Action::BatchNorm(tensors) => vec![&tensors.weight, &tensors.bias],
        Action::Neuron(cell) => cell.learned(),
        Action::Input
        | Action::MaxPool(_)
        | Action::AvgPool(_)
        | Action::Mean
        | Action::Scale(_)
        | Action::ShortcutScale(_)
        | Action::Add
        | Action::Broadcast(_)
        | Action::Attention(_) => vec![],
    }
}

/// The way back through a program. Everything that was kept is given up as soon as it has been used.
pub(super) struct Backward<'a, T> {
    program: &'a Program,
    state: State<T>,
    wanted: Wanted,
    needs: Vec<bool>,
    /// dLoss/d(value) of each step, with the rows that its readers see.
    grads: Vec<Option<Arc<Vec<T>>>>,
    gradients: Gradients,
}

impl<'a, T: Element> Backward<'a, T> {
    /// The gradients of everything that is wanted, from those of the logits `[T·B, K]`, and the memory of the pass.
    pub(super) fn run(
        program: &'a Program,
        state: State<T>,
        wanted: Wanted,
        logits: Vec<T>,
    ) -> Result<(Gradients, BufferPool<T>)> {
        let n = program.steps.len();
        let needs = needs_gradient(program, &wanted);
        let mut this = Self { program, state, wanted, needs, grads: vec![None; n], gradients: Gradients::new() };
        this.grads[n - 1] = Some(Arc::new(logits));
        for i in (0..n).rev() {
            if let Some(grad) = this.grads[i].take().filter(|_| this.needs[i]) {
                this.step(i, grad)?;
            }
            this.state.drop_value(i);
            this.state.drop_normalized(i);
        }
        Ok((this.gradients, this.state.pool))
    }

    fn step(&mut self, i: usize, grad: Arc<Vec<T>>) -> Result<()> {
        let program = self.program;
        let step = &program.steps[i];
        let to = step.shape;
        let Some(&input) = step.inputs.first() else { return self.images(to.dims(), &grad) };
        let from = program.steps[input].shape;
        match &step.action {
            Action::Input => return bail_bug("an input that reads something"),
            Action::Synapse(synapse) => {
                self.synapse(i, synapse, &grad)?;
                self.release(grad);
            }
            Action::BatchNorm(tensors) => {
                let grad = self.owned(grad);
                let grad = self.batch_norm(i, tensors, grad)?;
                self.pass_on(input, grad);
            }
            Action::Neuron(cell) => {
                let grad = self.owned(grad);
                let grad = self.neuron(i, cell, grad)?;
                self.pass_on(input, grad);
            }
            Action::MaxPool(p) => {
                let shape = from.pool(*p, to);
                let mut result = self.state.pool.numbers.take(grad.len() / to.len() * from.len());
                match &self.state.values[input] {
                    Value::Real(xs) => pool::max_backward(&shape, xs, &grad, &mut result),
                    Value::Packed(packed) => pool::max_backward(&shape, &packed.bytes, &grad, &mut result),
                    _ => return bail_bug("max-pooling has lost its input"),
                }
                self.release(grad);
                self.pass_on(input, result);
            }
            Action::AvgPool(p) => {
                let mut result = self.state.pool.numbers.take(grad.len() / to.len() * from.len());
                pool::average_backward(&from.pool(*p, to), &grad, &mut result);
                self.release(grad);
                self.pass_on(input, result);
            }
            Action::Mean => {
                let mut result = self.state.pool.numbers.take(grad.len() / to.len() * from.len());
                pool::mean_backward(&grad, (from.positions(), from.c), &mut result);
                self.release(grad);
                self.pass_on(input, result);
            }
            Action::Scale(factor) => self.scaled(input, *factor, grad),
            Action::ShortcutScale(factor) => self.scaled(input, number(factor)?, grad),
            Action::Broadcast(broadcast) => {
                let each = broadcast.factor();
                // What is repeated comes back as one sum over all timesteps, what is held as one for each window.
                let windows = match *broadcast {
                    TimeBroadcast::Repeated(_) => 1,
                    TimeBroadcast::Held { windows, .. } => windows,
                };
                let mut sums = self.state.pool.numbers.take(grad.len() / each);
                gather(&grad, each, grad.len() / (each * windows), &mut sums);
                self.release(grad);
                self.pass_on(input, sums);
            }
            Action::Add => {
                for &input in &step.inputs {
                    self.accumulate(input, Arc::clone(&grad));
                }
                self.release(grad);
            }
            Action::Attention(shape) => {
                let parts = self.attention(i, shape, &grad)?;
                self.release(grad);
                for (&input, part) in step.inputs.iter().zip(parts) {
                    self.pass_on(input, part);
                }
            }
        }
        Ok(())
    }

    fn scaled(&mut self, input: usize, factor: f64, grad: Arc<Vec<T>>) {
        let mut grad = self.owned(grad);
        grad.iter_mut().for_each(|g| *g *= T::of(factor));
        self.pass_on(input, grad);
    }

    /// The gradient has arrived at the images.
    fn images(&mut self, [h, w, c]: [usize; 3], grad: &[T]) -> Result<()> {
        if let Some(images) = &self.wanted.images {
            let values = if h * w == 1 || c == 1 { grad.to_vec() } else { turn(grad, h * w, c) };
            deliver(&mut self.gradients, images, values)?;
        }
        Ok(())
    }

    fn pass_on(&mut self, input: usize, grad: Vec<T>) {
        self.accumulate(input, Arc::new(grad));
    }

    /// Adds to the gradient of a step's value.
    fn accumulate(&mut self, i: usize, grad: Arc<Vec<T>>) {
        if !self.needs[i] {
            return self.release(grad);
        }
        let Some(there) = self.grads[i].take() else {
            self.grads[i] = Some(grad);
            return;
        };
        // Whichever of the two nobody else holds takes the sum.
        let (sum, other) = if Arc::strong_count(&there) == 1 { (there, grad) } else { (grad, there) };
        let mut sum = self.owned(sum);
        norm::add(&mut sum, &other);
        self.release(other);
        self.grads[i] = Some(Arc::new(sum));
    }

    /// A gradient to write in; if others read it, too, a copy.
    fn owned(&mut self, grad: Arc<Vec<T>>) -> Vec<T> {
        Arc::try_unwrap(grad).unwrap_or_else(|grad| {
            let mut copy = self.state.pool.numbers.take(grad.len());
            norm::copy(&mut copy, &grad);
            copy
        })
    }

    /// One reader of a gradient needs it no more.
    fn release(&mut self, grad: Arc<Vec<T>>) {
        if let Ok(grad) = Arc::try_unwrap(grad) {
            self.state.pool.numbers.give(grad);
        }
    }

    /// Whether the gradient of a parameter is wanted.
    fn learns(&self, param: &Tensor) -> bool {
        self.wanted.params && param.track_op()
    }

    fn synapse(&mut self, i: usize, synapse: &Synapse, grad: &[T]) -> Result<()> {
        let step = &self.program.steps[i];
        let input = step.inputs[0];
        let (from, to) = (self.program.steps[input].shape, step.shape);
        let shape = synapse.shape(grad.len() / to.len(), from, to);
        let weight = &synapse.weight;
        if let Some(bias) = synapse.bias.as_ref().filter(|bias| self.learns(bias)) {
            let sums = norm::channel_sums(grad, to.c).into_iter().map(T::of).collect();
            deliver(&mut self.gradients, bias, sums)?;
        }
        if self.learns(weight) {
            let mut dweight = vec![T::default(); weight.elem_count()];
            let maps = match &self.state.values[input] {
                Value::Real(xs) => WeightMaps::Numbers(xs),
                Value::Packed(packed) => {
                    WeightMaps::Spikes { bytes: &packed.bytes, amplitude: packed.amplitude, spikes: packed.spikes }
                }
                _ => return bail_bug("a synapse has lost its input"),
            };
            lmht_kernels::grad_weight(&shape, maps, grad, &mut dweight);
            deliver(&mut self.gradients, weight, dweight)?;
        }
        if self.needs[input] {
            let mut dxs = self.state.pool.numbers.take(shape.n * from.len());
            with_slice::<T, _>(weight, |weight| {
                // Where it is not wanted, the neuron before multiplies it by zero.
                let wanted = match &self.state.values[input] {
                    Value::Packed(packed) if packed.has_gate => Some((&*packed.bytes, packed.wanted)),
                    _ => None,
                };
                lmht_kernels::grad_input(&shape, grad, weight, wanted, &mut dxs);
                Ok(())
            })?;
            self.pass_on(input, dxs);
        }
        Ok(())
    }

    /// dLoss/dy in the place of dLoss/d(normalised y).
    fn batch_norm(&mut self, i: usize, tensors: &NormTensors, mut grad: Vec<T>) -> Result<Vec<T>> {
        self.restore(i)?;
        let (learns_weight, learns_bias) = (self.learns(&tensors.weight), self.learns(&tensors.bias));
        let Some(norm) = &mut self.state.norms[i] else { return bail_bug("batch norm has lost its input") };
        let c = norm.mean.len();
        let count = (norm.ys.len() / c) as f64;
        let needs_sums = learns_weight || learns_bias || norm.is_of_batch;
        let sums =
            norm.sums.take().or_else(|| needs_sums.then(|| norm::gradient_sums(&norm.ys, &grad, &norm.affine.mean)));
        let (sums, products) = sums.unwrap_or_else(|| (vec![0.; c], vec![0.; c]));
        // The mean as the kernel sees it is rounded.
        let products: Vec<f64> =
            (0..c).map(|c| products[c] - (norm.mean[c] - norm.affine.mean[c].wide()) * sums[c]).collect();
        if learns_weight {
            let values = products.iter().zip(&norm.rstd).map(|(product, rstd)| T::of(product * rstd)).collect();
            deliver(&mut self.gradients, &tensors.weight, values)?;
        }
        if learns_bias {
            deliver(&mut self.gradients, &tensors.bias, sums.iter().map(|&sum| T::of(sum)).collect())?;
        }
        let input = self.program.steps[i].inputs[0];
        if self.needs[input] {
            let weights = tensors.weight.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?;
            let scale: Vec<f64> = norm.rstd.iter().zip(&weights).map(|(rstd, weight)| rstd * weight).collect();
            // dy = rstd weight (g - Σ g / n - (y - mean) rstd² Σ g (y - mean) / n), the sums only with the statistics of the batch.
            let affine = ChannelAffine::new(&norm.mean, |c| {
                if !norm.is_of_batch {
                    return (0., 0.);
                }
                let slope = norm.rstd[c] * norm.rstd[c] * products[c] / count;
                (-scale[c] * slope, -scale[c] * sums[c] / count)
            });
            let scale: Vec<T> = scale.into_iter().map(T::of).collect();
            norm::combine(&norm.ys, &mut grad, &scale, &affine);
        }
        Ok(grad)
    }

    /// dLoss/dx in the place of dLoss/d(what is sent).
    fn neuron(&mut self, i: usize, cell: &NeuronCell, mut grad: Vec<T>) -> Result<Vec<T>> {
        let dynamics = cell.dynamics::<T>()?;
        if !dynamics.has_gradient() {
            return bail_bug("a neuron without a gradient");
        }
        if let Some(theta) = cell.unit()? {
            // s = s·θ / θ.
            let factor = T::of(1. / theta);
            grad.iter_mut().for_each(|g| *g *= factor);
        }
        let (input, shape) = (self.program.steps[i].inputs[0], self.program.steps[i].shape);
        let terms = self.state.terms_of(input);
        for term in &terms {
            if let TermSource::Norm(norm) = term.source {
                self.restore(norm)?;
            }
        }
        let scale = cell.input_scale();
        let current = self.state.current(&terms, scale, self.state.timesteps, shape);
        let sums = stage::backward(&current, &*dynamics, scale, &mut grad);
        for (term, of_norm) in terms.iter().zip(sums.norms) {
            if let (TermSource::Norm(i), 1., Some(of_norm)) = (term.source, term.factor, of_norm)
                && let Some(norm) = &mut self.state.norms[i]
            {
                norm.sums = Some(of_norm);
            }
        }
        if dynamics.n_shared() > 0 {
            for (param, values) in cell.gradients::<T>(&sums.shared)? {
                if self.learns(&param) {
                    deliver(&mut self.gradients, &param, values)?;
                }
            }
        }
        Ok(grad)
    }

    /// The gradients of queries, keys and values.
    fn attention(&mut self, i: usize, shape: &AttentionShape, grad: &[T]) -> Result<[Vec<T>; 3]> {
        let AttentionShape { window, windows, scale, .. } = *shape;
        let row = grad.len() / (window * windows);
        // The first timestep of a window carries the whole of it.
        let firsts: Vec<T> = grad.chunks_exact(window * row).flat_map(|of_window| &of_window[..row]).copied().collect();
        let mut parts = [(); 3].map(|()| vec![T::default(); firsts.len()]);
        let (heads, qkv) = self.state.attention_inputs(self.program, i, shape)?;
        let [dq, dk, dv] = &mut parts;
        attention::backward(&heads, qkv.each_ref().map(|xs| xs.tokens()), scale, &firsts, [dq, dk, dv]);
        if window == 1 {
            return Ok(parts);
        }
        // Every timestep of a window counts the same.
        Ok(parts.map(|part| part.chunks_exact(row).flat_map(|row| row.repeat(window)).collect()))
    }

    /// Computes once more what a batch norm normalised, if it was not kept.
    fn restore(&mut self, i: usize) -> Result<()> {
        if self.state.norms[i].as_ref().is_none_or(|norm| !norm.ys.is_empty()) {
            return Ok(());
        }
        let synapse = self.program.steps[i].inputs[0];
        let Action::Synapse(layer) = &self.program.steps[synapse].action else {
            return bail_bug("batch norm stands after no synapse");
        };
        let ys = self.state.synapse_again(self.program, synapse, layer)?;
        if let Some(norm) = &mut self.state.norms[i] {
            norm.ys = ys;
        }
        Ok(())
    }
}

/// Sums the rows, `row` numbers long, of the `each` timesteps that one row stood for.
fn gather<T: Element>(grad: &[T], each: usize, row: usize, sums: &mut [T]) {
    for (sums, grads) in sums.chunks_exact_mut(row).zip(grad.chunks_exact(each * row)) {
        norm::copy(sums, &grads[..row]);
        for grads in grads[row..].chunks_exact(row) {
            norm::add(sums, grads);
        }
    }
}

/// Puts a gradient down.
fn deliver<T: Element>(gradients: &mut Gradients, param: &Tensor, values: Vec<T>) -> Result<()> {
    Ok(add(gradients, param, &Tensor::from_vec(values, param.shape(), param.device())?)?)
}
