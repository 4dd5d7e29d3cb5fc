//! The forward pass of a program.

use candle_core::{Tensor, bail};

use super::Number;
use super::layout::{from_tensor, to_tensor};
use super::program::{Action, MapShape, Program, Spread, Synapse};
use super::stage::{self, Current, Operand, Rows};
use super::value::{Line, Norm, Packed, Term, TermSource, Value};
use super::{norm, pool};
use crate::kernels::{self, ConvShape, spikes};
use crate::layers::{BatchNorm, Flow, Neuron, SpikingParts, averaged};
use crate::ops::BatchStats;
use crate::ops::storage::with_slice;
use crate::{Mode, Pass, Result, Signal};

/// A program at work: what its steps have computed, and after a training pass what the way back needs.
#[derive(Debug)]
pub(super) struct State<T> {
    pub(super) timesteps: usize,
    pub(super) values: Vec<Value<T>>,
    pub(super) norms: Vec<Option<Norm<T>>>,
    signals: Vec<Signal>,
}

impl<T: Number> State<T> {
    /// Runs `program` on images `[rows, C, H, W]` and returns the logits `[T·B, K]`. With `keeps`, everything that the
    /// backward pass reads is kept; with `recomputes` as well, what can be computed once more is not.
    pub(super) fn forward(
        program: &Program,
        images: &Tensor,
        timesteps: usize,
        (keeps, recomputes): (bool, bool),
        pass: &mut Pass<'_>,
    ) -> Result<(Vec<T>, Self)> {
        let n = program.steps.len();
        let mut state = Self {
            timesteps,
            values: (0..n).map(|_| Value::Empty).collect(),
            norms: (0..n).map(|_| None).collect(),
            signals: vec![Signal::Analog; n],
        };
        for i in 0..n {
            state.step(program, i, images, pass)?;
            for (j, step) in program.steps.iter().enumerate().take(i) {
                if step.last_reader != i {
                    continue;
                }
                if !(keeps && step.is_saved) {
                    state.values[j] = Value::Empty;
                }
                if !keeps {
                    state.norms[j] = None;
                } else if recomputes && let Some(norm) = &mut state.norms[j] {
                    norm.ys = Vec::new();
                }
            }
        }
        match std::mem::replace(&mut state.values[n - 1], Value::Empty) {
            Value::Real(logits) => Ok((logits, state)),
            other => bail_bug(&format!("the last step gave {other:?}")),
        }
    }

    fn step(&mut self, program: &Program, i: usize, images: &Tensor, pass: &mut Pass<'_>) -> Result<()> {
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
                let mut ys = self.synapse(program, i, synapse)?;
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
                let bias = match &program.steps[input].action {
                    Action::Synapse(synapse) => synapse.bias(),
                    _ => None,
                };
                self.norms[i] = Some(normalise(norm, *repeats, ys, bias, pass.mode())?);
                self.waiting(program, i, vec![Term { source: TermSource::Norm(i), factor: 1., spread: None }])
            }
            Action::Neuron(neuron) => return self.neuron(program, i, neuron, pass),
            Action::MaxPool(p) => match &self.values[input] {
                Value::Real(xs) => Value::Real(pool::max(xs, *p, from, to)),
                Value::Packed(packed) => {
                    let Packed { amplitude, most, has_window, .. } = *packed;
                    let bytes = pool::max(&packed.bytes, *p, from, to);
                    Value::Packed(Packed::new(bytes, amplitude, most, has_window))
                }
                _ => return bail_bug("max-pooling has nothing to pool"),
            },
            Action::AvgPool(p) => {
                self.signals[i] = averaged(self.signals[input]);
                let area = p.kernel * p.kernel;
                match &self.values[input] {
                    Value::Packed(packed) if packed.most as usize * area <= 127 => {
                        let bytes = pool::sum_packed(&packed.bytes, *p, from, to);
                        let most = packed.most * area as u32;
                        Value::Packed(Packed::new(bytes, packed.amplitude / area as f64, most, packed.has_window))
                    }
                    Value::Packed(packed) => Value::Real(pool::average(&packed.to_real::<T>(), *p, from, to)),
                    Value::Real(xs) => Value::Real(pool::average(xs, *p, from, to)),
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

    fn scaled(&self, program: &Program, i: usize, factor: f64) -> Value<T> {
        let terms = self.terms_of(program, program.steps[i].inputs[0]).into_iter();
        let terms = terms.map(|term| Term { factor: term.factor * factor, ..term }).collect();
        self.waiting(program, i, terms)
    }

    /// A sum of terms, added up now unless its reader does.
    fn waiting(&self, program: &Program, i: usize, terms: Vec<Term>) -> Value<T> {
        if program.steps[i].is_lazy {
            return Value::Lazy(terms);
        }
        // Without a spread among the terms their rows are those of the value, whatever they stand for.
        let spreads = terms.iter().any(|term| term.spread.is_some());
        let timesteps = if spreads { self.timesteps } else { 1 };
        Value::Real(stage::materialize(&self.current(&terms, 1., timesteps, program.steps[i].shape)))
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
    pub(super) fn synapse(&self, program: &Program, i: usize, synapse: &Synapse) -> Result<Vec<T>> {
        let step = &program.steps[i];
        let input = step.inputs[0];
        let (from, to) = (program.steps[input].shape, step.shape);
        let shape = |len: usize| synapse.shape(len / from.len(), from, to);
        Ok(with_slice::<T, _>(synapse.weight(), |weight| match &self.values[input] {
            Value::Real(xs) => {
                let shape = shape(xs.len());
                let mut ys = vec![T::default(); shape.n * to.len()];
                kernels::forward(&shape, xs, weight, &mut ys);
                Ok(ys)
            }
            Value::Packed(packed) => {
                let shape = shape(packed.bytes.len());
                let scaled: Vec<T>;
                let weight = if packed.amplitude == 1. {
                    weight
                } else {
                    let amplitude = T::of(packed.amplitude);
                    scaled = weight.iter().map(|&w| w * amplitude).collect();
                    &scaled
                };
                let mut ys = vec![T::default(); shape.n * to.len()];
                if spikes::pays_forward(&shape, packed.active) {
                    spikes::forward(&shape, &packed.bytes, weight, &mut ys);
                } else {
                    kernels::forward(&shape, &packed.bytes, weight, &mut ys);
                }
                Ok(ys)
            }
            _ => bail!("{}: has nothing to read; this is a bug of lmht-nn, please report it", describe(&shape(0))),
        })?)
    }

    fn neuron(&mut self, program: &Program, i: usize, neuron: &Neuron, pass: &mut Pass<'_>) -> Result<()> {
        let (input, shape) = (program.steps[i].inputs[0], program.steps[i].shape);
        let terms = self.terms_of(program, input);
        let t = self.timesteps;
        let Some(parts) = neuron.spiking()? else {
            // Any other layer runs as it does outside of the engine.
            let current = stage::materialize(&self.current(&terms, 1., t, shape));
            let is_vector = is_vector(program, i);
            let flow = Flow { xs: to_tensor(current, shape, is_vector)?, signal: Signal::Analog, node: 0 };
            let sent = neuron.forward(&flow, pass)?;
            self.signals[i] = sent.signal;
            let values = from_tensor::<T>(&sent.xs, shape)?;
            self.values[i] = match sent.signal {
                Signal::Spikes { v_threshold } => pack(values, v_threshold),
                _ => Value::Real(values),
            };
            return Ok(());
        };
        let (omega, leak) = mixing::<T>(&parts)?;
        let has_window = parts.neuron.gradient() == lmht_core::GradientMode::Detached;
        let current = self.current(&terms, neuron.input_scale(), t, shape);
        let packed = stage::fire(&current, &parts.neuron, (&omega, leak), (parts.amplitude, has_window));
        self.signals[i] = Signal::Spikes { v_threshold: parts.amplitude };
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
fn pack<T: Number>(values: Vec<T>, v_threshold: f64) -> Value<T> {
    let count = |x: T| (x.wide() / v_threshold).round();
    let most = values.iter().fold(0., |most: f64, &x| most.max(count(x)));
    if !(0. ..=127.).contains(&most) || values.iter().any(|&x| count(x) < 0.) {
        return Value::Real(values);
    }
    let bytes = values.iter().map(|&x| count(x) as u8).collect();
    Value::Packed(Packed::new(bytes, v_threshold, most as u32, false))
}

/// Statistics, running or of the batch, of what a synapse gave. `bias` is the synapse's, which is not in `ys`.
fn normalise<T: Number>(
    layer: &BatchNorm,
    repeats: usize,
    ys: Vec<T>,
    bias: Option<&Tensor>,
    mode: Mode,
) -> Result<Norm<T>> {
    let (weight, offset) = layer.affine();
    let c = weight.elem_count();
    let wide = |tensor: &Tensor| tensor.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>();
    let bias = bias.map(wide).transpose()?.unwrap_or_else(|| vec![0.; c]);
    let (mean, var) = match mode {
        Mode::Eval => {
            let (mean, var) = layer.running();
            (wide(&mean)?.iter().zip(&bias).map(|(mean, bias)| mean - bias).collect(), wide(&var)?)
        }
        Mode::Train => {
            let count = ys.len() / c;
            if count < 2 {
                bail_shape(layer, count)?;
            }
            let shift = &ys[..c];
            let (sums, squares) = norm::moments(&ys, shift);
            let n = count as f64;
            let moments = sums.iter().zip(&squares).zip(shift).map(|((sum, square), shift)| {
                let mean = sum / n;
                // Rounding may leave a constant channel a hair below zero.
                (shift.wide() + mean, (square / n - mean * mean).max(0.))
            });
            let (mean, var): (Vec<f64>, Vec<f64>) = moments.unzip();
            let tensor = |values: Vec<f64>| Tensor::new(values, weight.device())?.to_dtype(weight.dtype());
            let stats = BatchStats {
                mean: tensor(mean.iter().zip(&bias).map(|(mean, bias)| mean + bias).collect())?,
                var_unbiased: tensor(var.iter().map(|var| var * (n / (n - 1.))).collect())?,
            };
            layer.follow(&stats, count, repeats)?;
            (mean, var)
        }
    };
    let rstd: Vec<f64> = var.iter().map(|var| (var + BatchNorm::EPS).sqrt().recip()).collect();
    let (weight, offset) = (wide(weight)?, wide(offset)?);
    let line = Line::new(&mean, |c| (rstd[c] * weight[c], offset[c]));
    Ok(Norm { ys, mean, rstd, line, sums: None })
}

fn bail_shape(layer: &BatchNorm, count: usize) -> Result<()> {
    Err(candle_core::Error::Msg(format!(
        "{}: a variance needs at least two values per channel, got {count}; use a larger batch, or an evaluation pass",
        layer.name()
    ))
    .into())
}

fn describe(s: &ConvShape) -> String {
    format!("the synapse {}x{}x{} to {}x{}x{}", s.c_in, s.h, s.w, s.c_out, s.h_out, s.w_out)
}

pub(super) fn bail_bug<R>(what: &str) -> Result<R> {
    Err(candle_core::Error::Msg(format!("engine: {what}; this is a bug of lmht-nn, please report it")).into())
}
