//! The backward pass of a program.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{Tensor, TensorId};

use super::Number;
use super::program::{Action, Program, Spread, Synapse};
use super::room::Room;
use super::run::{State, bail_bug, mixing};
use super::value::{Line, TermSource, Value};
use super::{norm, pool, stage};
use crate::Result;
use crate::layers::{BatchNorm, Neuron};
use crate::ops::storage::with_slice;
use lmht_kernels as kernels;

/// Gradients of the parameters, by tensor.
pub(super) type Gradients = HashMap<TensorId, Tensor>;

/// Per step, whether it or anything before it has something to learn.
pub(super) fn needs_gradient(program: &Program) -> Result<Vec<bool>> {
    let mut needs = Vec::with_capacity(program.steps.len());
    for step in &program.steps {
        let learns = params(&step.action)?.iter().any(|tensor| tensor.track_op());
        needs.push(learns || step.inputs.iter().any(|&input| needs[input]));
    }
    Ok(needs)
}

/// What a step could learn.
pub(super) fn params(action: &Action) -> Result<Vec<Tensor>> {
    Ok(match action {
        Action::Synapse(synapse) => [Some(synapse.weight()), synapse.bias()].into_iter().flatten().cloned().collect(),
        Action::BatchNorm(norm, _) => vec![norm.affine().0.clone(), norm.affine().1.clone()],
        Action::Neuron(neuron) => neuron.spiking()?.map_or_else(Vec::new, |parts| {
            [parts.tgim_logit, parts.leak_logit].into_iter().flatten().cloned().collect()
        }),
        _ => vec![],
    })
}

/// The way back through a program. Everything that was kept is given up as soon as it has been used.
pub(super) struct Backward<'a, T> {
    program: &'a Program,
    state: State<T>,
    needs: Vec<bool>,
    /// dLoss/d(value) of each step, with the rows that its readers see.
    grads: Vec<Option<Arc<Vec<T>>>>,
    gradients: Gradients,
}

impl<'a, T: Number> Backward<'a, T> {
    /// The gradients of everything that is tracked, from those of the logits `[T·B, K]`, and the memory of the pass.
    pub(super) fn run(program: &'a Program, state: State<T>, logits: Vec<T>) -> Result<(Gradients, Room<T>)> {
        let n = program.steps.len();
        let needs = needs_gradient(program)?;
        let mut this = Self { program, state, needs, grads: vec![None; n], gradients: HashMap::new() };
        this.grads[n - 1] = Some(Arc::new(logits));
        for i in (0..n).rev() {
            if let Some(grad) = this.grads[i].take().filter(|_| this.needs[i]) {
                this.step(i, grad)?;
            }
            this.state.drop_value(i);
            this.state.drop_normalized(i);
        }
        Ok((this.gradients, this.state.room))
    }

    fn step(&mut self, i: usize, grad: Arc<Vec<T>>) -> Result<()> {
        let program = self.program;
        let step = &program.steps[i];
        let to = step.shape;
        let grad = match step.spread {
            None => grad,
            Some(spread) => {
                let timesteps = self.state.timesteps;
                let each = match spread {
                    Spread::Repeated => timesteps,
                    Spread::Held(n) => n,
                };
                let mut sums = self.state.room.numbers.take(grad.len() / each);
                gather(&grad, each, grad.len() / timesteps, &mut sums);
                self.release(grad);
                Arc::new(sums)
            }
        };
        let Some(&input) = step.inputs.first() else { return Ok(()) };
        let from = program.steps[input].shape;
        match &step.action {
            Action::Input => {}
            Action::Synapse(synapse) => {
                self.synapse(i, synapse, &grad)?;
                self.release(grad);
            }
            Action::BatchNorm(layer, _) => {
                let grad = self.owned(grad);
                let grad = self.batch_norm(i, layer, grad)?;
                self.pass_on(input, grad);
            }
            Action::Neuron(neuron) => {
                let grad = self.owned(grad);
                let grad = self.neuron(i, neuron, grad)?;
                self.pass_on(input, grad);
            }
            Action::MaxPool(p) => {
                let mut result = self.state.room.numbers.take(grad.len() / to.len() * from.len());
                match &self.state.values[input] {
                    Value::Real(xs) => pool::max_backward(xs, &grad, *p, from, to, &mut result),
                    Value::Packed(packed) => pool::max_backward(&packed.bytes, &grad, *p, from, to, &mut result),
                    _ => return bail_bug("max-pooling has lost its input"),
                }
                self.release(grad);
                self.pass_on(input, result);
            }
            Action::AvgPool(p) => {
                let mut result = self.state.room.numbers.take(grad.len() / to.len() * from.len());
                pool::average_backward(&grad, *p, from, to, &mut result);
                self.release(grad);
                self.pass_on(input, result);
            }
            Action::Mean => {
                let mut result = self.state.room.numbers.take(grad.len() / to.len() * from.len());
                pool::mean_backward(&grad, from, &mut result);
                self.release(grad);
                self.pass_on(input, result);
            }
            Action::Scale(factor) => {
                let mut grad = self.owned(grad);
                grad.iter_mut().for_each(|g| *g *= T::of(*factor));
                self.pass_on(input, grad);
            }
            Action::ShortcutScale(_) => return bail_bug("unit spikes have no gradient here"),
            Action::Add => {
                for &input in &step.inputs {
                    self.accumulate(input, Arc::clone(&grad));
                }
                self.release(grad);
            }
            Action::Flatten => self.accumulate(input, grad),
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
            let mut copy = self.state.room.numbers.take(grad.len());
            norm::copy(&mut copy, &grad);
            copy
        })
    }

    /// One reader of a gradient needs it no more.
    fn release(&mut self, grad: Arc<Vec<T>>) {
        if let Ok(grad) = Arc::try_unwrap(grad) {
            self.state.room.numbers.give(grad);
        }
    }

    fn synapse(&mut self, i: usize, synapse: &Synapse, grad: &[T]) -> Result<()> {
        let step = &self.program.steps[i];
        let input = step.inputs[0];
        let (from, to) = (self.program.steps[input].shape, step.shape);
        let shape = synapse.shape(grad.len() / to.len(), from, to);
        let weight = synapse.weight();
        if let Some(bias) = synapse.bias().filter(|bias| bias.track_op()) {
            let sums = norm::channel_sums(grad, to.c).into_iter().map(T::of).collect();
            deliver(&mut self.gradients, bias, sums)?;
        }
        if weight.track_op() {
            let mut dweight = vec![T::default(); weight.elem_count()];
            match &self.state.values[input] {
                Value::Real(xs) => kernels::grad_weight(&shape, xs, grad, &mut dweight),
                Value::Packed(packed) => {
                    kernels::grad_weight_of_spikes(&shape, &packed.bytes, packed.spikes, grad, &mut dweight);
                    if packed.amplitude != 1. {
                        dweight.iter_mut().for_each(|d| *d *= T::of(packed.amplitude));
                    }
                }
                _ => return bail_bug("a synapse has lost its input"),
            }
            deliver(&mut self.gradients, weight, dweight)?;
        }
        if self.needs[input] {
            let mut dxs = self.state.room.numbers.take(shape.n * from.len());
            with_slice::<T, _>(weight, |weight| {
                // Where it is not wanted, the neuron before multiplies it by zero.
                let wanted = match &self.state.values[input] {
                    Value::Packed(packed) if packed.has_window => Some((&*packed.bytes, packed.wanted)),
                    _ => None,
                };
                kernels::grad_input_at(&shape, grad, weight, wanted, &mut dxs);
                Ok(())
            })?;
            self.pass_on(input, dxs);
        }
        Ok(())
    }

    /// dLoss/dy in the place of dLoss/d(normalised y).
    fn batch_norm(&mut self, i: usize, layer: &BatchNorm, mut grad: Vec<T>) -> Result<Vec<T>> {
        self.restore(i)?;
        let Some(norm) = &mut self.state.norms[i] else { return bail_bug("batch norm has lost its input") };
        let c = norm.mean.len();
        let count = (norm.ys.len() / c) as f64;
        let sums = norm.sums.take();
        let (sums, products) = sums.unwrap_or_else(|| norm::gradient_sums(&norm.ys, &grad, &norm.line.mean));
        // The mean as the kernel sees it is rounded.
        let products: Vec<f64> =
            (0..c).map(|c| products[c] - (norm.mean[c] - norm.line.mean[c].wide()) * sums[c]).collect();
        let (weight, bias) = layer.affine();
        if weight.track_op() {
            let values = products.iter().zip(&norm.rstd).map(|(product, rstd)| T::of(product * rstd)).collect();
            deliver(&mut self.gradients, weight, values)?;
        }
        if bias.track_op() {
            deliver(&mut self.gradients, bias, sums.iter().map(|&sum| T::of(sum)).collect())?;
        }
        let input = self.program.steps[i].inputs[0];
        if self.needs[input] {
            let weights = weight.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?;
            let scale: Vec<f64> = norm.rstd.iter().zip(&weights).map(|(rstd, weight)| rstd * weight).collect();
            // dy = rstd weight (g - Σ g / n - (y - mean) rstd² Σ g (y - mean) / n)
            let line = Line::new(&norm.mean, |c| {
                let slope = norm.rstd[c] * norm.rstd[c] * products[c] / count;
                (-scale[c] * slope, -scale[c] * sums[c] / count)
            });
            let scale: Vec<T> = scale.into_iter().map(T::of).collect();
            norm::combine(&norm.ys, &mut grad, &scale, &line);
        }
        Ok(grad)
    }

    /// dLoss/dx in the place of dLoss/d(sθ).
    fn neuron(&mut self, i: usize, neuron: &Neuron, mut grad: Vec<T>) -> Result<Vec<T>> {
        let Some(parts) = neuron.spiking()? else { return bail_bug("a neuron without a gradient") };
        let (omega, leak) = mixing::<T>(&parts)?;
        let (input, shape) = (self.program.steps[i].inputs[0], self.program.steps[i].shape);
        let terms = self.state.terms_of(self.program, input);
        for term in &terms {
            if let TermSource::Norm(norm) = term.source {
                self.restore(norm)?;
            }
        }
        let scale = neuron.input_scale();
        let current = self.state.current(&terms, scale, self.state.timesteps, shape);
        let sums = stage::backward(&current, &parts.neuron, (&omega, leak), scale, &mut grad);
        for (term, line) in terms.iter().zip(sums.lines) {
            if let (TermSource::Norm(i), 1., Some(line)) = (term.source, term.factor, line)
                && let Some(norm) = &mut self.state.norms[i]
            {
                norm.sums = Some(line);
            }
        }
        let config = parts.neuron.config();
        if let Some(logit) = parts.tgim_logit.filter(|logit| logit.track_op()) {
            let values = logit.flatten_all()?.to_vec1::<T>()?;
            let grad_omega: Vec<T> = sums.omega.into_iter().map(T::of).collect();
            let grads = lmht_core::tgim_logit_gradient(config.tgim, config.timesteps, &values, &grad_omega);
            deliver(&mut self.gradients, logit, grads)?;
        }
        if let Some(logit) = parts.leak_logit.filter(|logit| logit.track_op()) {
            let value = logit.to_vec1::<T>()?[0];
            deliver(&mut self.gradients, logit, vec![lmht_core::leak_logit_gradient(value, T::of(sums.leak))])?;
        }
        Ok(grad)
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
fn gather<T: Number>(grad: &[T], each: usize, row: usize, sums: &mut [T]) {
    for (sums, grads) in sums.chunks_exact_mut(row).zip(grad.chunks_exact(each * row)) {
        norm::copy(sums, &grads[..row]);
        for grads in grads[row..].chunks_exact(row) {
            norm::add(sums, grads);
        }
    }
}

/// Puts a parameter's gradient down; a parameter that is used twice gets the sum.
fn deliver<T: Number>(gradients: &mut Gradients, param: &Tensor, values: Vec<T>) -> Result<()> {
    let mut grad = Tensor::from_vec(values, param.shape(), param.device())?;
    if let Some(before) = gradients.remove(&param.id()) {
        grad = (before + grad)?;
    }
    gradients.insert(param.id(), grad);
    Ok(())
}
