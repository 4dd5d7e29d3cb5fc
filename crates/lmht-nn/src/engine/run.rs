//! The forward pass of a program.

use std::any::Any;

use candle_core::Tensor;
use lmht_kernels::attention::{self, AttentionShape as Heads, Tokens};
use lmht_kernels::{ConvShape, Images, Maps, pool};

use super::buffers::BufferPool;
use super::layout::from_tensor;
use super::norm;
use super::prepared::{Firing, Prepared, Ready};
use super::program::{Action, Geometry, MapShape, Program, Synapse};
use super::stage::{self, Current, Operand, Rows};
use super::value::{ChannelAffine, Norm, Packed, Term, TermSource, Value};
use crate::neurons::NeuronCell;
use crate::observer::{
    ChannelsLast, Form, NeuronEvent, Numbers, PackedSpikes, ProductEvent, SynapseEvent, SynapseKind, Values,
};
use crate::ops::storage::{Element, with_slice};
use crate::signal::{SignalKind, TimeBroadcast};
use crate::trace::AttentionShape;
use crate::{Pass, Result};

/// Bytes of the largest value of the images that an evaluation takes at a time: 32 images of a ResNet-18 of width 64 at
/// T = 2. It and what it is computed from stay in a last-level cache of 32 MB; with fewer images the weights, which do not,
/// are fetched too often. A constant and not a property of the machine, because which kernel a synapse takes depends on the
/// spikes of the images that it sees together.
const PART: usize = 16 << 20;

/// What a program is shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a> {
    /// `[B, ...]`, or `[n, B, ...]` of frames.
    pub(super) images: &'a Tensor,
    /// T.
    pub(super) timesteps: usize,
    pub(super) is_frames: bool,
}

impl Input<'_> {
    pub(super) fn n_images(&self) -> usize {
        self.images.dims()[usize::from(self.is_frames)]
    }

    /// Time folded into the batch.
    pub(super) fn rows(&self) -> candle_core::Result<Tensor> {
        if self.is_frames { self.images.flatten(0, 1) } else { Ok(self.images.clone()) }
    }
}

/// The logits `[T·B, K]` of an evaluation pass.
pub(super) fn evaluate<T: Element>(
    program: &Program,
    prepared: &Prepared<T>,
    input: Input<'_>,
    pool: &mut BufferPool<T>,
    pass: &mut Pass<'_>,
) -> Result<Vec<T>> {
    let Input { images, timesteps, is_frames } = input;
    let n_images = input.n_images();
    let largest = program.steps.iter().map(|step| step.shape.len()).max().unwrap_or(1);
    let n_parts = n_images.div_ceil((PART / (timesteps * largest * size_of::<T>())).max(1));
    let part = n_images.div_ceil(n_parts);
    let mut run = |input: Input<'_>, pass: &mut Pass<'_>| {
        let n_images = input.n_images();
        pass.begin(timesteps, n_images)?;
        let eval = Eval { prepared, n_images, part };
        let mut state = State::new(program, timesteps, std::mem::take(pool));
        let logits = state.run(program, &input.rows()?, Some(eval), Keep::Nothing, pass)?;
        *pool = state.pool;
        Ok(logits)
    };
    if n_parts == 1 || !pass.takes_parts() {
        return run(input, pass);
    }
    let mut parts = Vec::with_capacity(n_parts);
    for first in (0..n_images).step_by(part) {
        let images = images.narrow(usize::from(is_frames), first, part.min(n_images - first))?;
        parts.push(run(Input { images: &images, ..input }, pass)?);
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
pub(super) struct Eval<'a, T> {
    prepared: &'a Prepared<T>,
    /// B.
    n_images: usize,
    /// How many images decide together which kernel a synapse takes.
    part: usize,
}

impl<'a, T> Eval<'a, T> {
    /// All images at once.
    pub(super) fn whole(prepared: &'a Prepared<T>, n_images: usize) -> Self {
        Self { prepared, n_images, part: n_images }
    }
}

impl<T> Clone for Eval<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Eval<'_, T> {}

/// What a pass keeps for the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Nothing,
    /// All that the way back reads, but what costs next to nothing to compute once more.
    Values,
    /// Of what synapses gave nothing: it is computed once more.
    Inputs,
}

/// A program at work: what its steps have computed, and after a pass that keeps it what the way back needs.
#[derive(Debug)]
pub(super) struct State<T> {
    pub(super) timesteps: usize,
    pub(super) values: Vec<Value<T>>,
    pub(super) norms: Vec<Option<Norm<T>>>,
    kinds: Vec<SignalKind>,
    pub(super) pool: BufferPool<T>,
}

impl<T: Element> State<T> {
    pub(super) fn new(program: &Program, timesteps: usize, pool: BufferPool<T>) -> Self {
        let n = program.steps.len();
        Self {
            timesteps,
            values: (0..n).map(|_| Value::Empty).collect(),
            norms: (0..n).map(|_| None).collect(),
            kinds: vec![SignalKind::Analog; n],
            pool,
        }
    }

    /// The logits `[T·B, K]` of rows `[rows, ...]`: by prepared parameters and running statistics with `eval`, otherwise by the
    /// statistics of the batch.
    pub(super) fn run(
        &mut self,
        program: &Program,
        rows: &Tensor,
        eval: Option<Eval<'_, T>>,
        keep: Keep,
        pass: &mut Pass<'_>,
    ) -> Result<Vec<T>> {
        let n = program.steps.len();
        for i in 0..n {
            self.step(program, i, rows, eval, pass)?;
            for (j, step) in program.steps.iter().enumerate().take(i) {
                if step.last_reader != i {
                    continue;
                }
                if keep == Keep::Nothing || !step.is_saved {
                    self.drop_value(j);
                }
                if keep != Keep::Values || step.is_cheap {
                    self.drop_normalized(j);
                }
            }
        }
        match std::mem::replace(&mut self.values[n - 1], Value::Empty) {
            Value::Real(logits) => Ok(logits),
            // A body may end with spikes.
            Value::Packed(packed) => Ok(packed.to_real()),
            other => bail_bug(&format!("the last step gave {other:?}")),
        }
    }

    /// Nobody reads the value of step `i` any more.
    pub(super) fn drop_value(&mut self, i: usize) {
        match std::mem::replace(&mut self.values[i], Value::Empty) {
            Value::Real(numbers) => self.pool.numbers.give(numbers),
            Value::Packed(packed) => self.pool.bytes.give(packed.bytes),
            Value::Empty | Value::Deferred(_) => {}
        }
    }

    /// Nobody reads what batch norm `i` normalises until it is computed again.
    pub(super) fn drop_normalized(&mut self, i: usize) {
        if let Some(norm) = &mut self.norms[i] {
            self.pool.numbers.give(std::mem::take(&mut norm.ys));
        }
    }

    fn step(
        &mut self,
        program: &Program,
        i: usize,
        rows: &Tensor,
        eval: Option<Eval<'_, T>>,
        pass: &mut Pass<'_>,
    ) -> Result<()> {
        let step = &program.steps[i];
        let input = step.inputs.first().copied().unwrap_or(0);
        let (from, to) = (program.steps[input].shape, step.shape);
        self.kinds[i] = self.kinds[input];
        self.values[i] = match &step.action {
            Action::Input => Value::Real(from_tensor(rows, to)?),
            Action::Synapse(synapse) => {
                if pass.is_observed() {
                    self.show_synapse(program, i, synapse, rows, pass)?;
                }
                self.kinds[i] = SignalKind::Analog;
                let mut ys = self.synapse(program, i, synapse, eval)?;
                if let Some(bias) = synapse.bias.as_ref().filter(|_| !step.feeds_norm) {
                    with_slice::<T, _>(bias, |bias| {
                        for row in ys.chunks_exact_mut(bias.len()) {
                            row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
                        }
                        Ok(())
                    })?;
                }
                Value::Real(ys)
            }
            Action::BatchNorm(tensors) => {
                let Value::Real(ys) = std::mem::replace(&mut self.values[input], Value::Empty) else {
                    return bail_bug("batch norm has nothing to normalise");
                };
                self.norms[i] = Some(match eval.map(|eval| eval.prepared.step(i)) {
                    Some(Ready::Norm(norm)) => Norm { ys, ..norm.clone() },
                    _ => {
                        let bias = match &program.steps[input].action {
                            Action::Synapse(synapse) => synapse.bias.as_ref(),
                            _ => None,
                        };
                        norm::of_batch((tensors, &step.name), ys, bias)?
                    }
                });
                self.waiting(program, i, vec![Term { source: TermSource::Norm(i), factor: 1., broadcast: None }])
            }
            Action::Neuron(cell) => return self.neuron(program, i, cell, eval, pass),
            Action::MaxPool(p) => {
                let shape = from.pool(*p, to);
                match &self.values[input] {
                    Value::Real(xs) => {
                        let mut pooled = self.pool.numbers.take(xs.len() / from.len() * to.len());
                        pool::max(&shape, xs, &mut pooled);
                        Value::Real(pooled)
                    }
                    Value::Packed(packed) => {
                        let Packed { amplitude, most, has_gate, .. } = *packed;
                        let mut bytes = self.pool.bytes.take(packed.bytes.len() / from.len() * to.len());
                        pool::max(&shape, &packed.bytes, &mut bytes);
                        Value::Packed(Packed::new(bytes, self.timesteps, amplitude, most, has_gate))
                    }
                    _ => return bail_bug("max-pooling has nothing to pool"),
                }
            }
            Action::AvgPool(p) => {
                self.kinds[i] = self.kinds[input].averaged();
                let (shape, area) = (from.pool(*p, to), p.kernel * p.kernel);
                let average = |xs: &[T], buffers: &mut BufferPool<T>| {
                    let mut pooled = buffers.numbers.take(xs.len() / from.len() * to.len());
                    pool::average(&shape, xs, &mut pooled);
                    Value::Real(pooled)
                };
                match &self.values[input] {
                    Value::Packed(packed) if packed.most as usize * area <= 127 => {
                        let mut bytes = self.pool.bytes.take(packed.bytes.len() / from.len() * to.len());
                        pool::sum_packed(&shape, &packed.bytes, &mut bytes);
                        let most = packed.most * area as u32;
                        let amplitude = packed.amplitude / area as f64;
                        Value::Packed(Packed::new(bytes, self.timesteps, amplitude, most, packed.has_gate))
                    }
                    Value::Packed(packed) => average(&packed.to_real(), &mut self.pool),
                    Value::Real(xs) => average(xs, &mut self.pool),
                    _ => return bail_bug("average pooling has nothing to pool"),
                }
            }
            Action::Mean => {
                self.kinds[i] = self.kinds[input].averaged();
                let shape = (from.positions(), from.c);
                Value::Real(match &self.values[input] {
                    Value::Real(xs) => pool::mean(xs, shape),
                    Value::Packed(packed) => pool::mean_packed(&packed.bytes, shape, packed.amplitude),
                    _ => return bail_bug("there is nothing to take the mean of"),
                })
            }
            Action::Scale(factor) => {
                self.kinds[i] = SignalKind::Analog;
                self.scaled(program, i, *factor)
            }
            Action::ShortcutScale(factor) => {
                self.kinds[i] = SignalKind::Analog;
                let factor = number(factor)?;
                self.scaled(program, i, factor)
            }
            Action::Broadcast(broadcast) => {
                let terms = self.terms_of(input).into_iter();
                let terms = terms.map(|term| Term { broadcast: Some(*broadcast), ..term }).collect();
                self.waiting(program, i, terms)
            }
            Action::Add => {
                self.kinds[i] = match (self.kinds[step.inputs[0]], self.kinds[step.inputs[1]]) {
                    (SignalKind::Spikes { v_threshold: a }, SignalKind::Spikes { v_threshold: b }) if a == b => {
                        SignalKind::Spikes { v_threshold: a }
                    }
                    _ => SignalKind::Analog,
                };
                match self.packed_sum(program, i) {
                    Some(packed) => Value::Packed(packed),
                    None => {
                        let terms = step.inputs.iter().flat_map(|&input| self.terms_of(input)).collect();
                        self.waiting(program, i, terms)
                    }
                }
            }
            Action::Attention(shape) => {
                self.kinds[i] = SignalKind::Analog;
                if pass.is_observed() {
                    self.show_products(program, i, shape, pass)?;
                }
                let len = self.values[input].maps().map_or(0, |queries| queries.len()) / shape.window;
                let mut out = self.pool.numbers.take(len);
                let (heads, qkv) = self.attention_inputs(program, i, shape)?;
                attention::forward(&heads, qkv.each_ref().map(Tokened::tokens), shape.scale, &mut out);
                Value::Real(front_loaded(out, shape))
            }
        };
        Ok(())
    }

    /// The sum of two spike trains of one amplitude, if it is written down and its counts fit: the synapses that read it skip
    /// what is zero, as they do of either.
    fn packed_sum(&mut self, program: &Program, i: usize) -> Option<Packed> {
        let step = &program.steps[i];
        let [a, b] = step.inputs[..] else { return None };
        let (Value::Packed(a), Value::Packed(b)) = (&self.values[a], &self.values[b]) else { return None };
        let most = a.most + b.most;
        if step.is_lazy || a.amplitude != b.amplitude || a.bytes.len() != b.bytes.len() || most > 127 {
            return None;
        }
        let (amplitude, mut bytes) = (a.amplitude, self.pool.bytes.take(a.bytes.len()));
        for ((sum, &a), &b) in bytes.iter_mut().zip(&a.bytes).zip(&b.bytes) {
            *sum = (a & !lmht_core::IN_GATE) + (b & !lmht_core::IN_GATE);
        }
        // The gradient of the sum is wanted where that of either is; nobody keeps account.
        Some(Packed::new(bytes, self.timesteps, amplitude, most, false))
    }

    /// The terms of the value of step `i`.
    pub(super) fn terms_of(&self, i: usize) -> Vec<Term> {
        match &self.values[i] {
            Value::Deferred(terms) => terms.clone(),
            _ => vec![Term { source: TermSource::Value(i), factor: 1., broadcast: None }],
        }
    }

    fn scaled(&mut self, program: &Program, i: usize, factor: f64) -> Value<T> {
        let terms = self.terms_of(program.steps[i].inputs[0]).into_iter();
        let terms = terms.map(|term| Term { factor: term.factor * factor, ..term }).collect();
        self.waiting(program, i, terms)
    }

    /// A sum of terms, added up now unless its readers do.
    fn waiting(&mut self, program: &Program, i: usize, terms: Vec<Term>) -> Value<T> {
        if program.steps[i].is_lazy {
            return Value::Deferred(terms);
        }
        // Without a broadcast among the terms their rows are those of the value, whatever they stand for.
        let broadcasts = terms.iter().any(|term| term.broadcast.is_some());
        let timesteps = if broadcasts { self.timesteps } else { 1 };
        let shape = program.steps[i].shape;
        let len = self.current(&terms, 1., timesteps, shape).len();
        let mut xs = self.pool.numbers.take(len);
        stage::materialize(&self.current(&terms, 1., timesteps, shape), &mut xs);
        Value::Real(xs)
    }

    /// The current that `terms` are the parts of, times `scale`.
    pub(super) fn current(&self, terms: &[Term], scale: f64, timesteps: usize, shape: MapShape) -> Current<'_, T> {
        let mut n = 0;
        let terms = terms.iter().map(|term| {
            let factor = term.factor * scale;
            let (rows, len) = match term.source {
                TermSource::Norm(i) => {
                    let norm = self.norms[i].as_ref();
                    let (ys, affine) = norm.map_or((&[][..], None), |norm| (&norm.ys[..], Some(&norm.affine)));
                    let affine = affine.map_or_else(
                        || ChannelAffine { mean: vec![], slope: vec![], offset: vec![] },
                        |affine| affine.scaled(factor),
                    );
                    (Rows::Affine(ys, affine), ys.len())
                }
                TermSource::Value(i) => match &self.values[i] {
                    Value::Real(xs) => (Rows::Real(xs, T::of(factor)), xs.len()),
                    Value::Packed(packed) => {
                        (Rows::Packed(&packed.bytes, T::of(factor * packed.amplitude)), packed.bytes.len())
                    }
                    Value::Empty | Value::Deferred(_) => (Rows::Real(&[], T::of(factor)), 0),
                },
            };
            n = n.max(match term.broadcast {
                None => len / timesteps,
                Some(TimeBroadcast::Repeated(_)) => len,
                Some(TimeBroadcast::Held { windows, .. }) => len / windows,
            });
            Operand { rows, broadcast: term.broadcast }
        });
        let terms = terms.collect();
        Current { terms, timesteps, n, c: shape.c }
    }

    /// What a synapse gives, without its bias.
    fn synapse(&mut self, program: &Program, i: usize, synapse: &Synapse, eval: Option<Eval<'_, T>>) -> Result<Vec<T>> {
        let len = self.read(program, i, synapse)?.0.y_len();
        let mut ys = self.pool.numbers.take(len);
        let (shape, maps) = self.read(program, i, synapse)?;
        let n_images = match (eval, maps) {
            (Some(eval), _) => eval.n_images,
            (None, Maps::Spikes { .. }) => shape.n / self.timesteps,
            (None, Maps::Numbers(_)) => shape.n,
        };
        let all = Images::all(shape.n / n_images, n_images);
        let Some(eval) = eval else {
            with_slice::<T, _>(&synapse.weight, |weight| {
                lmht_kernels::forward(&shape, &all, maps, weight, &mut ys);
                Ok(())
            })?;
            return Ok(ys);
        };
        let Ready::Synapse(weights) = eval.prepared.step(i) else {
            return bail_bug("a synapse has no weights");
        };
        with_slice::<T, _>(&synapse.weight, |weight| {
            // Each part of the images takes the kernel that it would take alone: watching changes no bit.
            for first in (0..n_images).step_by(eval.part) {
                let images = Images { range: first..n_images.min(first + eval.part), ..all.clone() };
                let maps = maps.only(&images, shape.x_len() / shape.n);
                weights.forward(&ConvShape { n: images.rows(), ..shape }, &images, maps, weight, &mut ys);
            }
            Ok(())
        })?;
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
        let Some(maps) = self.values[input].maps() else {
            return bail_bug(&format!("{} has nothing to read", step.name));
        };
        Ok((synapse.shape(maps.len() / from.len(), from, to), maps))
    }

    fn neuron(
        &mut self,
        program: &Program,
        i: usize,
        cell: &NeuronCell,
        eval: Option<Eval<'_, T>>,
        pass: &mut Pass<'_>,
    ) -> Result<()> {
        let step = &program.steps[i];
        let (terms, t, scale) = (self.terms_of(step.inputs[0]), self.timesteps, cell.input_scale());
        let of_now;
        let firing = match eval.map(|eval| eval.prepared.step(i)) {
            Some(Ready::Neuron(firing)) => firing,
            _ => {
                of_now = Firing::of(cell)?;
                &of_now
            }
        };
        let len = self.current(&terms, scale, t, step.shape).len();
        self.values[i] = match firing.counts {
            Some(counts) => {
                let bytes = self.pool.bytes.take(len);
                Value::Packed(stage::fire(&self.current(&terms, scale, t, step.shape), firing, counts, bytes))
            }
            None => {
                let mut sent = self.pool.numbers.take(len);
                stage::send(&self.current(&terms, scale, t, step.shape), firing, &mut sent);
                Value::Real(sent)
            }
        };
        self.kinds[i] = cell.signal()?;
        if pass.is_observed() {
            let output = self.view(i, step.shape, step.form)?;
            pass.show_neuron(&NeuronEvent::of(cell.name(), cell.observed(), output, self.kinds[i]))?;
        }
        Ok(())
    }

    /// The value of step `i` as an observer is shown it.
    fn view(&self, i: usize, shape: MapShape, form: Form) -> Result<Values<'_>> {
        let shape = shape.dims();
        Ok(match &self.values[i] {
            Value::Real(xs) => Values::Numbers(ChannelsLast { numbers: numbers(xs), shape, form }),
            Value::Packed(Packed { bytes, amplitude, .. }) => {
                Values::Packed(PackedSpikes { bytes, shape, amplitude: *amplitude, form, dtype: T::DTYPE })
            }
            _ => return bail_bug("there is nothing to show"),
        })
    }

    fn show_synapse(
        &self,
        program: &Program,
        i: usize,
        synapse: &Synapse,
        rows: &Tensor,
        pass: &mut Pass<'_>,
    ) -> Result<()> {
        let step = &program.steps[i];
        let input = step.inputs[0];
        let xs = match &program.steps[input].action {
            Action::Input => Values::Tensor(rows),
            _ => self.view(input, program.steps[input].shape, step.form)?,
        };
        let c_out = synapse.weight.dims()[0];
        let kind = match synapse.geometry {
            Geometry::Conv(p) => SynapseKind::Conv2d {
                c_out,
                kernel: synapse.weight.dims()[2],
                stride: p.stride,
                padding: p.padding,
                groups: p.groups,
            },
            Geometry::Whole | Geometry::Each => SynapseKind::Linear { f_out: c_out },
        };
        pass.show_synapse(&SynapseEvent::new(&step.name, kind, xs, &synapse.weight, self.kinds[input]))
    }

    /// Queries, keys and values of the attention of step `i`, summed over windows where there are some.
    pub(super) fn attention_inputs(
        &self,
        program: &Program,
        i: usize,
        shape: &AttentionShape,
    ) -> Result<(Heads, [Tokened<'_, T>; 3])> {
        let step = &program.steps[i];
        let [q, k, v] = step.inputs[..] else { return bail_bug("an attention without three inputs") };
        let of = |input: usize| Tokened::of(&self.values[input], shape);
        let (Some(q), Some(k), Some(v)) = (of(q), of(k), of(v)) else {
            return bail_bug(&format!("{} has nothing to read", step.name));
        };
        let MapShape { c: channels, .. } = step.shape;
        let rows = q.len() / step.shape.len();
        Ok((Heads { rows, tokens: step.shape.positions(), channels, heads: shape.heads }, [q, k, v]))
    }

    fn show_products(&self, program: &Program, i: usize, shape: &AttentionShape, pass: &mut Pass<'_>) -> Result<()> {
        let step = &program.steps[i];
        let (heads, [q, k, v]) = self.attention_inputs(program, i, shape)?;
        let by_head = |xs: &Tokened<'_, T>| -> Result<Tensor> {
            let dims = (heads.rows, heads.tokens, heads.heads, heads.channels / heads.heads);
            let xs = Tensor::from_vec(xs.numbers(), dims, &candle_core::Device::Cpu)?;
            Ok(xs.transpose(1, 2)?.contiguous()?)
        };
        let kind = |input: usize| self.kinds[step.inputs[input]];
        let (left, right) = (by_head(&q)?, by_head(&k)?.transpose(2, 3)?);
        let name = format!("{}.q_k", step.name);
        pass.show_product(&ProductEvent::new(&name, (&left, kind(0)), (&right, kind(1))))?;
        let mut scores = vec![T::default(); heads.scores_len()];
        attention::scores(&heads, q.tokens(), k.tokens(), shape.scale, &mut scores);
        let dims = (heads.rows, heads.heads, heads.tokens, heads.tokens);
        let scores = Tensor::from_vec(scores, dims, &candle_core::Device::Cpu)?;
        let name = format!("{}.qk_v", step.name);
        pass.show_product(&ProductEvent::new(&name, (&scores, SignalKind::Analog), (&by_head(&v)?, kind(2))))
    }
}

/// What an attention reads.
#[derive(Debug)]
pub(super) enum Tokened<'a, T> {
    Numbers(&'a [T]),
    Spikes {
        bytes: &'a [u8],
        amplitude: f64,
    },
    /// Counts of whole windows.
    Summed(Vec<T>),
}

impl<'a, T: Element> Tokened<'a, T> {
    fn of(value: &'a Value<T>, shape: &AttentionShape) -> Option<Self> {
        let AttentionShape { window, windows, .. } = *shape;
        let all = match value {
            Value::Real(xs) => Self::Numbers(xs),
            Value::Packed(packed) => Self::Spikes { bytes: &packed.bytes, amplitude: packed.amplitude },
            Value::Empty | Value::Deferred(_) => return None,
        };
        if window == 1 {
            return Some(all);
        }
        let xs = all.numbers();
        let row = xs.len() / (windows * window).max(1);
        let mut sums = Vec::with_capacity(windows * row);
        for of_window in xs.chunks_exact(window * row) {
            let mut sum = of_window[..row].to_vec();
            for more in of_window[row..].chunks_exact(row) {
                sum.iter_mut().zip(more).for_each(|(sum, &x)| *sum += x);
            }
            sums.extend(sum);
        }
        Some(Self::Summed(sums))
    }

    fn len(&self) -> usize {
        match self {
            Self::Numbers(xs) => xs.len(),
            Self::Spikes { bytes, .. } => bytes.len(),
            Self::Summed(xs) => xs.len(),
        }
    }

    pub(super) fn tokens(&self) -> Tokens<'_, T> {
        match self {
            Self::Numbers(xs) => Tokens::Numbers(xs),
            Self::Spikes { bytes, amplitude } => Tokens::Spikes { bytes, amplitude: *amplitude },
            Self::Summed(xs) => Tokens::Numbers(xs),
        }
    }

    fn numbers(&self) -> Vec<T> {
        match self {
            Self::Numbers(xs) => xs.to_vec(),
            Self::Spikes { bytes, amplitude } => {
                let amplitude = T::of(*amplitude);
                bytes.iter().map(|&byte| T::from_count(u32::from(byte & !lmht_core::IN_GATE)) * amplitude).collect()
            }
            Self::Summed(xs) => xs.clone(),
        }
    }
}

/// The first timestep of each window gets the whole of it, the others nothing.
fn front_loaded<T: Element>(out: Vec<T>, shape: &AttentionShape) -> Vec<T> {
    let AttentionShape { window, windows, .. } = *shape;
    if window == 1 {
        return out;
    }
    let row = out.len() / windows.max(1);
    let mut all = vec![T::default(); out.len() * window];
    for (all, out) in all.chunks_exact_mut(window * row).zip(out.chunks_exact(row)) {
        all[..row].copy_from_slice(out);
    }
    all
}

/// The only number of a tensor.
pub(super) fn number(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.detach().to_dtype(candle_core::DType::F64)?.flatten_all()?.to_vec1::<f64>()?[0])
}

#[expect(clippy::ptr_arg, reason = "`Any` knows the vector, not the slice")]
fn numbers<T: Element>(xs: &Vec<T>) -> Numbers<'_> {
    match T::singles(xs) {
        Some(xs) => Numbers::F32(xs),
        None => Numbers::F64((xs as &dyn Any).downcast_ref::<Vec<f64>>().map_or(&[], Vec::as_slice)),
    }
}

pub(super) fn bail_bug<R>(what: &str) -> Result<R> {
    Err(candle_core::Error::Msg(format!("engine: {what}; this is a bug of lmht-nn, please report it")).into())
}
