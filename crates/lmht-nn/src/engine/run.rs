//! The forward pass of a program.

use candle_core::Tensor;

use super::Number;
use super::layout::{from_tensor, to_tensor};
use super::prepared::{Firing, Prepared, Ready};
use super::program::{Action, MapShape, Program, Spread, Synapse};
use super::room::Room;
use super::stage::{self, Current, Operand, Rows};
use super::synapse::{Maps, forward_once};
use super::value::{Line, Norm, Packed, Term, TermSource, Value};
use super::{norm, pool};
use crate::layers::{Flow, Neuron, SpikingParts, averaged};
use crate::ops::storage::with_slice;
use crate::{Pass, Result, Signal};
use lmht_kernels::{ConvShape, Images};

/// Bytes of the largest value of the images that an evaluation takes at a time: 32 images of a ResNet-18 of width 64 at
/// T = 2. It and what it is computed from stay in a last-level cache of 32 MB; with fewer images the weights, which do not,
/// are fetched too often. A constant and not a property of the machine, because which kernel a synapse takes depends on the
/// spikes of the images that it sees together.
const PART: usize = 16 << 20;

/// The logits `[T·B, K]` of an evaluation pass over images `[B, C, H, W]` or frames `[n, B, C, H, W]`.
pub(super) fn evaluate<T: Number>(
    program: &Program,
    prepared: &Prepared<T>,
    images: &Tensor,
    timesteps: usize,
    room: &mut Room<T>,
    pass: &mut Pass<'_>,
) -> Result<Vec<T>> {
    let axis = images.rank() - 4;
    let n_images = images.dims()[axis];
    let largest = program.steps.iter().map(|step| step.shape.len()).max().unwrap_or(1);
    let n_parts = n_images.div_ceil((PART / (timesteps * largest * size_of::<T>())).max(1));
    let part = n_images.div_ceil(n_parts);
    let is_observed = pass.is_observed();
    let rows = |images: &Tensor| if axis == 1 { images.flatten(0, 1) } else { Ok(images.clone()) };
    let mut run = |images: &Tensor, n_images: usize| {
        let eval = Eval { prepared, n_images, part };
        let mut state = State::new(program, timesteps, std::mem::take(room));
        let logits = state.run(program, &rows(images)?, Some(eval), (false, false), pass)?;
        *room = state.room;
        Ok(logits)
    };
    if is_observed || n_parts == 1 {
        // The observer is shown all images at once.
        return run(images, n_images);
    }
    let mut parts = Vec::with_capacity(n_parts);
    for first in (0..n_images).step_by(part) {
        let n = part.min(n_images - first);
        parts.push(run(&images.narrow(axis, first, n)?, n)?);
    }
    // Time is outermost, within a part as in the whole.
    let mut logits = Vec::with_capacity(parts.iter().map(Vec::len).sum());
    for t in 0..timesteps {
        for part in &parts {
            let len = part.len() / timesteps;
            logits.extend_from_slice(&part[t * len..][..len]);
        }
    }
    Ok(logits)
}

/// What an evaluation pass knows beforehand.
#[derive(Debug)]
struct Eval<'a, T> {
    prepared: &'a Prepared<T>,
    /// B.
    n_images: usize,
    /// How many images decide together which kernel a synapse takes.
    part: usize,
}

impl<T> Clone for Eval<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Eval<'_, T> {}

/// A program at work: what its steps have computed, and after a training pass what the way back needs.
#[derive(Debug)]
pub(super) struct State<T> {
    pub(super) timesteps: usize,
    pub(super) values: Vec<Value<T>>,
    pub(super) norms: Vec<Option<Norm<T>>>,
    signals: Vec<Signal>,
    pub(super) room: Room<T>,
}

impl<T: Number> State<T> {
    fn new(program: &Program, timesteps: usize, room: Room<T>) -> Self {
        let n = program.steps.len();
        Self {
            timesteps,
            values: (0..n).map(|_| Value::Empty).collect(),
            norms: (0..n).map(|_| None).collect(),
            signals: vec![Signal::Analog; n],
            room,
        }
    }

    /// Runs `program` on images `[rows, C, H, W]` and returns the logits `[T·B, K]` of a training pass. With `keeps`,
    /// everything that the backward pass reads is kept; with `recomputes` as well, what can be computed once more is not.
    pub(super) fn train(
        program: &Program,
        images: &Tensor,
        timesteps: usize,
        room: Room<T>,
        (keeps, recomputes): (bool, bool),
        pass: &mut Pass<'_>,
    ) -> Result<(Vec<T>, Self)> {
        let mut state = Self::new(program, timesteps, room);
        let logits = state.run(program, images, None, (keeps, recomputes), pass)?;
        Ok((logits, state))
    }

    fn run(
        &mut self,
        program: &Program,
        images: &Tensor,
        eval: Option<Eval<'_, T>>,
        (keeps, recomputes): (bool, bool),
        pass: &mut Pass<'_>,
    ) -> Result<Vec<T>> {
        let n = program.steps.len();
        for i in 0..n {
            self.step(program, i, images, eval, pass)?;
            for (j, step) in program.steps.iter().enumerate().take(i) {
                if step.last_reader != i {
                    continue;
                }
                if !keeps || !step.is_saved {
                    self.drop_value(j);
                }
                if !keeps || recomputes || step.is_cheap {
                    self.drop_normalized(j);
                }
            }
        }
        match std::mem::replace(&mut self.values[n - 1], Value::Empty) {
            Value::Real(logits) => Ok(logits),
            other => bail_bug(&format!("the last step gave {other:?}")),
        }
    }

    /// Nobody reads the value of step `i` any more.
    pub(super) fn drop_value(&mut self, i: usize) {
        match std::mem::replace(&mut self.values[i], Value::Empty) {
            Value::Real(numbers) => self.room.numbers.give(numbers),
            Value::Packed(packed) => self.room.bytes.give(packed.bytes),
            Value::Empty | Value::Lazy(_) => {}
        }
    }

    /// Nobody reads what batch norm `i` normalises until it is computed again.
    pub(super) fn drop_normalized(&mut self, i: usize) {
        if let Some(norm) = &mut self.norms[i] {
            self.room.numbers.give(std::mem::take(&mut norm.ys));
        }
    }

    fn step(
        &mut self,
        program: &Program,
        i: usize,
        images: &Tensor,
        eval: Option<Eval<'_, T>>,
        pass: &mut Pass<'_>,
    ) -> Result<()> {
        let step = &program.steps[i];
        let input = step.inputs.first().copied().unwrap_or(0);
        let (from, to) = (program.steps[input].shape, step.shape);
        self.signals[i] = self.signals[input];
        self.values[i] = match &step.action {
            Action::Input => Value::Real(from_tensor(images, to)?),
            Action::Synapse(synapse) => {
                if pass.is_observed() {
                    self.show_synapse(program, i, synapse, images, pass)?;
                }
                self.signals[i] = Signal::Analog;
                let mut ys = self.synapse(program, i, synapse, eval)?;
                let has_norm =
                    program.steps.iter().any(|s| s.inputs.contains(&i) && matches!(s.action, Action::BatchNorm(..)));
                if let Some(bias) = synapse.bias().filter(|_| !has_norm) {
                    with_slice::<T, _>(bias, |bias| {
                        for row in ys.chunks_exact_mut(bias.len()) {
                            row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
                        }
                        Ok(())
                    })?;
                }
                Value::Real(ys)
            }
            Action::BatchNorm(norm, repeats) => {
                let Value::Real(ys) = std::mem::replace(&mut self.values[input], Value::Empty) else {
                    return bail_bug("batch norm has nothing to normalise");
                };
                self.norms[i] = Some(match eval.map(|eval| eval.prepared.step(i)) {
                    Some(Ready::Norm(norm)) => Norm { ys, ..norm.clone() },
                    _ => {
                        let bias = match &program.steps[input].action {
                            Action::Synapse(synapse) => synapse.bias(),
                            _ => None,
                        };
                        norm::of_batch(norm, *repeats, ys, bias)?
                    }
                });
                self.waiting(program, i, vec![Term { source: TermSource::Norm(i), factor: 1., spread: None }])
            }
            Action::Neuron(neuron) => return self.neuron(program, i, neuron, eval, pass),
            Action::MaxPool(p) => match &self.values[input] {
                Value::Real(xs) => {
                    let mut pooled = self.room.numbers.take(xs.len() / from.len() * to.len());
                    pool::max(xs, *p, from, to, &mut pooled);
                    Value::Real(pooled)
                }
                Value::Packed(packed) => {
                    let Packed { amplitude, most, has_window, .. } = *packed;
                    let mut bytes = self.room.bytes.take(packed.bytes.len() / from.len() * to.len());
                    pool::max(&packed.bytes, *p, from, to, &mut bytes);
                    Value::Packed(Packed::new(bytes, self.timesteps, amplitude, most, has_window))
                }
                _ => return bail_bug("max-pooling has nothing to pool"),
            },
            Action::AvgPool(p) => {
                self.signals[i] = averaged(self.signals[input]);
                let area = p.kernel * p.kernel;
                let average = |xs: &[T], room: &mut Room<T>| {
                    let mut pooled = room.numbers.take(xs.len() / from.len() * to.len());
                    pool::average(xs, *p, from, to, &mut pooled);
                    Value::Real(pooled)
                };
                match &self.values[input] {
                    Value::Packed(packed) if packed.most as usize * area <= 127 => {
                        let mut bytes = self.room.bytes.take(packed.bytes.len() / from.len() * to.len());
                        pool::sum_packed(&packed.bytes, *p, from, to, &mut bytes);
                        let most = packed.most * area as u32;
                        let amplitude = packed.amplitude / area as f64;
                        Value::Packed(Packed::new(bytes, self.timesteps, amplitude, most, packed.has_window))
                    }
                    Value::Packed(packed) => average(&packed.to_real(), &mut self.room),
                    Value::Real(xs) => average(xs, &mut self.room),
                    _ => return bail_bug("average pooling has nothing to pool"),
                }
            }
            Action::Mean => {
                self.signals[i] = averaged(self.signals[input]);
                Value::Real(match &self.values[input] {
                    Value::Real(xs) => pool::mean(xs, from, 1., |x: T| x.wide()),
                    Value::Packed(packed) => pool::mean(&packed.bytes, from, packed.amplitude, |byte| {
                        f64::from(byte & !lmht_core::IN_WINDOW)
                    }),
                    _ => return bail_bug("there is nothing to take the mean of"),
                })
            }
            Action::Scale(factor) => {
                self.signals[i] = Signal::Analog;
                self.scaled(program, i, *factor)
            }
            Action::ShortcutScale(scale) => {
                self.signals[i] = Signal::Analog;
                let factor = scale.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?[0];
                self.scaled(program, i, factor)
            }
            Action::Add => {
                self.signals[i] = Signal::Analog;
                let terms = step.inputs.iter().flat_map(|&input| self.terms_of(program, input)).collect();
                self.waiting(program, i, terms)
            }
            Action::Flatten => std::mem::replace(&mut self.values[input], Value::Empty),
        };
        Ok(())
    }

    /// The terms of the value of step `i`, as its readers see it.
    pub(super) fn terms_of(&self, program: &Program, i: usize) -> Vec<Term> {
        let spread = program.steps[i].spread;
        match &self.values[i] {
            Value::Lazy(terms) => terms.iter().map(|term| Term { spread: spread.or(term.spread), ..*term }).collect(),
            _ => vec![Term { source: TermSource::Value(i), factor: 1., spread }],
        }
    }

    fn scaled(&mut self, program: &Program, i: usize, factor: f64) -> Value<T> {
        let terms = self.terms_of(program, program.steps[i].inputs[0]).into_iter();
        let terms = terms.map(|term| Term { factor: term.factor * factor, ..term }).collect();
        self.waiting(program, i, terms)
    }

    /// A sum of terms, added up now unless its reader does.
    fn waiting(&mut self, program: &Program, i: usize, terms: Vec<Term>) -> Value<T> {
        if program.steps[i].is_lazy {
            return Value::Lazy(terms);
        }
        // Without a spread among the terms their rows are those of the value, whatever they stand for.
        let spreads = terms.iter().any(|term| term.spread.is_some());
        let timesteps = if spreads { self.timesteps } else { 1 };
        Value::Real(self.materialize(&terms, timesteps, program.steps[i].shape))
    }

    /// The sum of the terms, written down.
    fn materialize(&mut self, terms: &[Term], timesteps: usize, shape: MapShape) -> Vec<T> {
        let len = self.current(terms, 1., timesteps, shape).len();
        let mut xs = self.room.numbers.take(len);
        stage::materialize(&self.current(terms, 1., timesteps, shape), &mut xs);
        xs
    }

    /// The current that `terms` are the parts of, times `scale`.
    pub(super) fn current(&self, terms: &[Term], scale: f64, timesteps: usize, shape: MapShape) -> Current<'_, T> {
        let mut n = 0;
        let terms = terms.iter().map(|term| {
            let factor = term.factor * scale;
            let (rows, len) = match term.source {
                TermSource::Norm(i) => {
                    let norm = self.norms[i].as_ref();
                    let (ys, line) = norm.map_or((&[][..], None), |norm| (&norm.ys[..], Some(&norm.line)));
                    let line = line.map_or_else(
                        || Line { mean: vec![], slope: vec![], offset: vec![] },
                        |line| line.scaled(factor),
                    );
                    (Rows::Line(ys, line), ys.len())
                }
                TermSource::Value(i) => match &self.values[i] {
                    Value::Real(xs) => (Rows::Real(xs, T::of(factor)), xs.len()),
                    Value::Packed(packed) => {
                        (Rows::Packed(&packed.bytes, T::of(factor * packed.amplitude)), packed.bytes.len())
                    }
                    Value::Empty | Value::Lazy(_) => (Rows::Real(&[], T::of(factor)), 0),
                },
            };
            n = n.max(match term.spread {
                None => len / timesteps,
                Some(Spread::Repeated) => len,
                Some(Spread::Held(hold)) => len / (timesteps / hold),
            });
            Operand { rows, spread: term.spread }
        });
        let terms = terms.collect();
        Current { terms, timesteps, n, c: shape.c }
    }

    /// What a synapse gives, without its bias.
    fn synapse(&mut self, program: &Program, i: usize, synapse: &Synapse, eval: Option<Eval<'_, T>>) -> Result<Vec<T>> {
        let len = self.read(program, i, synapse)?.0.y_len();
        let mut ys = self.room.numbers.take(len);
        let (shape, maps) = self.read(program, i, synapse)?;
        let n_images = match (eval, maps) {
            (Some(eval), _) => eval.n_images,
            (None, Maps::Spikes { .. }) => shape.n / self.timesteps,
            (None, Maps::Numbers(_)) => shape.n,
        };
        let all = Images::all(shape.n / n_images, n_images);
        let Some(eval) = eval else {
            with_slice::<T, _>(synapse.weight(), |weight| {
                forward_once(&shape, &all, maps, weight, &mut ys);
                Ok(())
            })?;
            return Ok(ys);
        };
        let Ready::Synapse(weights) = eval.prepared.step(i) else {
            return bail_bug("a synapse has no weights");
        };
        // Each part of the images takes the kernel that it would take alone: watching changes no bit.
        for first in (0..n_images).step_by(eval.part) {
            let images = Images { range: first..n_images.min(first + eval.part), ..all.clone() };
            let maps = maps.only(&images, shape.x_len() / shape.n);
            weights.forward(&ConvShape { n: images.rows(), ..shape }, &images, maps, &mut ys)?;
        }
        Ok(ys)
    }

    /// What a synapse gives once more on the way back through a training pass, without its bias.
    pub(super) fn synapse_again(&mut self, program: &Program, i: usize, synapse: &Synapse) -> Result<Vec<T>> {
        self.synapse(program, i, synapse, None)
    }

    /// What the synapse of step `i` reads.
    fn read(&self, program: &Program, i: usize, synapse: &Synapse) -> Result<(ConvShape, Maps<'_, T>)> {
        let step = &program.steps[i];
        let input = step.inputs[0];
        let (from, to) = (program.steps[input].shape, step.shape);
        let Some(maps) = Maps::of(&self.values[input]) else {
            let s = synapse.shape(0, from, to);
            let sizes = format!("{}x{}x{} to {}x{}x{}", s.c_in, s.h, s.w, s.c_out, s.h_out, s.w_out);
            return bail_bug(&format!("the synapse {sizes} has nothing to read"));
        };
        Ok((synapse.shape(maps.len() / from.len(), from, to), maps))
    }

    fn neuron(
        &mut self,
        program: &Program,
        i: usize,
        neuron: &Neuron,
        eval: Option<Eval<'_, T>>,
        pass: &mut Pass<'_>,
    ) -> Result<()> {
        let (input, shape) = (program.steps[i].inputs[0], program.steps[i].shape);
        let terms = self.terms_of(program, input);
        let t = self.timesteps;
        let of_now;
        let firing = match eval.map(|eval| eval.prepared.step(i)) {
            Some(Ready::Neuron(firing)) => Some(firing),
            Some(_) => None,
            None => {
                of_now = Firing::of(neuron)?;
                of_now.as_ref()
            }
        };
        let Some(firing) = firing else {
            // Any other layer runs as it does outside of the engine.
            let current = self.materialize(&terms, t, shape);
            let is_vector = is_vector(program, i);
            let flow = Flow { xs: to_tensor(current, shape, is_vector)?, signal: Signal::Analog, node: 0 };
            let sent = neuron.forward(&flow, pass)?;
            self.signals[i] = sent.signal;
            let values = from_tensor::<T>(&sent.xs, shape)?;
            self.values[i] = match (sent.signal, neuron.most_spikes()) {
                (Signal::Spikes { v_threshold }, Some(most)) => pack(values, t, v_threshold, most),
                _ => Value::Real(values),
            };
            return Ok(());
        };
        let has_window = firing.neuron.gradient() == lmht_core::GradientMode::Detached;
        let scale = neuron.input_scale();
        let bytes = self.room.bytes.take(self.current(&terms, scale, t, shape).len());
        let packed = stage::fire(&self.current(&terms, scale, t, shape), firing, has_window, bytes);
        self.signals[i] = Signal::Spikes { v_threshold: firing.amplitude };
        if pass.is_observed() {
            let output = to_tensor(packed.to_real::<T>(), shape, is_vector(program, i))?;
            neuron.show(&output, self.signals[i], pass)?;
        }
        self.values[i] = Value::Packed(packed);
        Ok(())
    }

    fn show_synapse(
        &self,
        program: &Program,
        i: usize,
        synapse: &Synapse,
        images: &Tensor,
        pass: &mut Pass<'_>,
    ) -> Result<()> {
        let input = program.steps[i].inputs[0];
        let values = match &self.values[input] {
            _ if matches!(program.steps[input].action, Action::Input) => None,
            Value::Real(xs) => Some(xs.clone()),
            Value::Packed(packed) => Some(packed.to_real()),
            _ => return bail_bug("a synapse has nothing to show"),
        };
        let is_vector = matches!(synapse, Synapse::Linear(_));
        let xs = match values {
            Some(values) => to_tensor(values, program.steps[input].shape, is_vector)?,
            None => images.clone(),
        };
        match synapse {
            Synapse::Conv2d(conv) => conv.show(&xs, self.signals[input], pass),
            Synapse::Linear(linear) => linear.show(&xs, self.signals[input], pass),
        }
    }
}

/// Whether a neuron stands after a fully connected layer, whose values have two axes.
fn is_vector(program: &Program, i: usize) -> bool {
    let mut at = program.steps[i].inputs[0];
    while matches!(program.steps[at].action, Action::BatchNorm(..) | Action::Scale(_)) {
        at = program.steps[at].inputs[0];
    }
    matches!(program.steps[at].action, Action::Synapse(Synapse::Linear(_)))
}

/// Ω and λ of a layer.
pub(super) fn mixing<T: Number>(parts: &SpikingParts<'_>) -> Result<(Vec<T>, T)> {
    let config = parts.neuron.config();
    let omega = match parts.tgim_logit {
        Some(logit) => {
            let logit = logit.flatten_all()?.to_vec1::<T>()?;
            lmht_core::tgim_from_logits(config.tgim, config.timesteps, &logit)
        }
        None => vec![],
    };
    let leak = match (parts.leak_logit, parts.leak) {
        (Some(logit), _) => lmht_core::leak_from_logit(logit.to_vec1::<T>()?[0]),
        (None, leak) => T::of(leak.unwrap_or(1.)),
    };
    Ok((omega, leak))
}

/// Spikes s·θ as counts, where they fit.
fn pack<T: Number>(values: Vec<T>, timesteps: usize, v_threshold: f64, most: u32) -> Value<T> {
    let count = |x: T| (x.wide() / v_threshold).round();
    if values.iter().any(|&x| !(0. ..=f64::from(most)).contains(&count(x))) {
        return Value::Real(values);
    }
    let bytes = values.iter().map(|&x| count(x) as u8).collect();
    Value::Packed(Packed::new(bytes, timesteps, v_threshold, most, false))
}

pub(super) fn bail_bug<R>(what: &str) -> Result<R> {
    Err(candle_core::Error::Msg(format!("engine: {what}; this is a bug of lmht-nn, please report it")).into())
}
