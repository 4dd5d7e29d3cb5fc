//! The training loop.

use std::collections::BTreeSet;
use std::time::Instant;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use lmht_nn::{Mode, Network, Observer, ParamStore, Pass, Precision, gpu};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Partial, State};
use crate::evaluate::evaluate_until;
use crate::optim::{OptimizerConfig, Positive, SgdConfig, find_non_finite};
use crate::schedule::{Decay, Position, ScheduleConfig};
use crate::watch::{Layers, shared_numbers};
use crate::{BatchSource, EpochMetrics, Error, Metrics, Progress, Result, RunRecord, Targets, loss};

/// How a network is trained; with the network's own configuration and the data it decides every bit of the result.
///
/// The default is the published recipe of ResNet-18 on CIFAR-100: 300 epochs of 64 images a step, SGD with Nesterov momentum
/// 0.9 and weight decay 5e-4, the learning rate from 0.025 to 0 along a cosine (Hao et al. 2024; batch size, epochs,
/// momentum and the seed 42 from the published code).
///
/// ```
/// use lmht_train::TrainConfig;
/// let config = TrainConfig { epochs: 0, ..TrainConfig::default() };
/// assert_eq!(config.check().unwrap_err().to_string(), "configuration: epochs is 0; expected at least 1");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the training data.
    pub epochs: usize,
    /// Images in a step.
    pub batch_size: usize,
    /// Start of every random number: initial weights, order of the images, augmentation.
    pub seed: u64,
    /// The update rule and its base learning rate.
    pub optimizer: OptimizerConfig,
    /// How the learning rate changes with time.
    #[serde(default)]
    pub schedule: ScheduleConfig,
    /// Weight of the uniform distribution in the targets, 0..1; of mixed targets, too.
    #[serde(default)]
    pub label_smoothing: f64,
    /// Write a checkpoint after this many steps, beside the one after each epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_every_steps: Option<usize>,
    /// Trade time for memory as [`Pass::recomputing`] does; no bit of the result changes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recompute: bool,
    /// The type of maps, products and their gradients; in 16 bits on a GPU alone. Parameters, statistics and sums stay f32. In
    /// f16 the loss is scaled so that small gradients are not lost, and a step whose gradients overflow is left out.
    #[serde(default, skip_serializing_if = "is_whole")]
    pub precision: Precision,
}

fn is_whole(precision: &Precision) -> bool {
    *precision == Precision::F32
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 300,
            batch_size: 64,
            seed: 42,
            optimizer: OptimizerConfig::Sgd(SgdConfig { lr: 0.025, momentum: 0.9, nesterov: true, weight_decay: 5e-4 }),
            schedule: ScheduleConfig::default(),
            label_smoothing: 0.,
            checkpoint_every_steps: None,
            recompute: false,
            precision: Precision::F32,
        }
    }
}

/// Steps on a GPU between two looks at their losses, each of which waits for the GPU.
const LOOK_EVERY: usize = 20;
/// Batches of an evaluation whose layers of neurons are looked at on a GPU, where such a pass runs layer by layer.
const LOOK_AT: usize = 8;

impl TrainConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// Names the first field that cannot be, its value and what is allowed.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [
            ("epochs", self.epochs),
            ("batch_size", self.batch_size),
            ("checkpoint_every_steps", self.checkpoint_every_steps.unwrap_or(1)),
        ] {
            if value == 0 {
                return Err(Error::Config(format!("{name} is 0; expected at least 1")));
            }
        }
        if !(0. ..1.).contains(&self.label_smoothing) {
            let value = self.label_smoothing;
            return Err(Error::Config(format!("label_smoothing is {value}; expected at least 0 and below 1")));
        }
        self.optimizer.validate()?;
        self.schedule.validate(self.optimizer.lr(), self.epochs)
    }
}

/// Trains `network`, whose tensors `params` holds, and evaluates it on `test` after every epoch.
///
/// The loss is the cross-entropy of the logits' mean over time (Hao et al. 2024, section 4.4), with the labels or with the
/// target distributions that `train` gives instead. With a `record`, the run continues where its last checkpoint left it,
/// and a run that was killed ends with the same bytes as one that was not; without one, nothing is written. A finished run
/// goes on if the configuration has more epochs, and a schedule that does not depend on their number.
///
/// A parameter that means nothing at or below 0, the ceiling of QCFS, is halved at most by an update, which ends its
/// momentum. Layers of neurons that are dead or saturated on all of `test`, on a GPU on its first batches, and a loss that runs
/// away, are said after the epoch.
///
/// # Shapes
/// As the network takes them: images `[B, C, H, W]` or frames `[T, B, C, H, W]`, labels `[B]` or distributions `[B, K]`;
/// see [`Batch`](crate::Batch).
///
/// # Errors
/// [`Error::NonFinite`] as soon as the loss or a gradient is not finite, before a parameter is moved (on a GPU
/// that step moves none, and it is said some steps later, before anything is saved), or a parameter or running statistic,
/// before it is saved; [`Error::Stopped`] if the record was asked to stop; otherwise if the configuration, the data or the
/// record do not fit, or the disk cannot be written: earlier checkpoints are intact then, and the message says how to go
/// on.
///
/// The [crate's example](crate) trains a network on tensors in memory.
pub fn fit(
    network: &Network,
    params: &ParamStore,
    config: &TrainConfig,
    train: &dyn BatchSource,
    test: &dyn BatchSource,
    mut record: Option<&mut RunRecord>,
    progress: Progress,
) -> Result<Metrics> {
    config.check()?;
    let n_steps = train.n_batches();
    if n_steps == 0 {
        return Err(Error::Config(format!(
            "the training data has no whole batch of batch_size = {}; use a smaller one",
            config.batch_size
        )));
    }
    if let Some(why) = network.plan(Mode::Train)?.slow() {
        progress.line(&format!(
            "note: this network trains layer by layer, with more time and memory than in one program: {why}"
        ));
    }
    if let Some(note) = train.note() {
        progress.line(&format!("note: {note}"));
    }
    let mut optimizer = config.optimizer.build(params.trainable())?;
    let mut state = State::default();
    if let Some(record) = record.as_deref_mut() {
        if let Some(found) = record.find()? {
            for note in found.notes {
                progress.line(&format!("note: {note}"));
            }
            state = found.state;
            check_state(&state, config, n_steps, record)?;
            checkpoint::load(&found.path, params, optimizer.as_mut())?;
        }
        record.begin()?;
        // What a kill after the checkpoint has left undone.
        record.forget_others(best(&state).map_or(0, |best| best.epoch))?;
        record.write_history(&state.history)?;
    }
    let has_kernels = !params.trainable().is_empty() && params.trainable().iter().all(|(_, var)| gpu::takes(var));
    if config.precision != Precision::F32 && !has_kernels {
        return Err(Error::Config(format!(
            "precision is {}, and the network is not on a GPU that this program has kernels for; expected f32 there, or a GPU \
             (--device of the command)",
            config.precision
        )));
    }
    let mut positive = Positive::of(&params.trainable())?;
    let mut unseen = Vec::new();
    let mut told = BTreeSet::new();
    let mut first_loss = state.history.first().map(|first| first.train_loss);
    // Where nothing useful can be said by a network that knows nothing.
    let uninformed = (network.config().n_classes as f64).ln();
    while state.epoch < config.epochs {
        let epoch = state.epoch;
        let started = Instant::now();
        let first = state.step;
        let mut bar = progress.bar(&format!("epoch {}/{}", epoch + 1, config.epochs), n_steps, first);
        let first_lr = learning_rate(config, epoch, 0, n_steps)?;
        for batch in train.batches(epoch, first)? {
            let batch = batch?;
            let lr = learning_rate(config, epoch, state.step, n_steps)?;
            optimizer.set_lr(lr)?;
            let pass = Pass::train().with_precision(config.precision);
            let mut pass = if config.recompute { pass.recomputing() } else { pass };
            let logits = network.forward(&batch.images, &mut pass)?;
            let readout = loss::readout(&logits)?;
            let (loss, labels) = match batch.targets {
                Targets::Labels(labels) => (loss::cross_entropy(&readout, &labels, config.label_smoothing)?, labels),
                Targets::Distributions(targets) => {
                    let smoothed = loss::smooth_targets(&targets, config.label_smoothing)?;
                    (loss::soft_cross_entropy(&readout, &smoothed)?, targets.argmax(1)?)
                }
            };
            let not_finite =
                |culprit: &str, step| Error::NonFinite(non_finite(culprit, epoch, step, lr, record.is_some()));
            if config.precision == Precision::F16 {
                let scale = state.loss_scale.get_or_insert_default();
                let gradients = scaled_gradients(&loss, scale.factor(), optimizer.params())?;
                match find_non_finite(&gradients, optimizer.params())? {
                    None => {
                        optimizer.step(&gradients)?;
                        scale.grow();
                    }
                    Some(_) if scale.shrink() => {}
                    Some(name) => return Err(not_finite(&format!("the gradient of {name}"), state.step)),
                }
            } else {
                let gradients = loss.backward()?;
                if !has_kernels {
                    // A spike or a ReLU turns NaN into 0, so a network full of NaN can have a finite loss: the gradients tell.
                    let value = loss::scalar(&loss)?;
                    let culprit = if value.is_finite() {
                        find_non_finite(&gradients, optimizer.params())?.map(|name| format!("the gradient of {name}"))
                    } else {
                        Some(format!("the loss ({value})"))
                    };
                    if let Some(culprit) = culprit {
                        return Err(not_finite(&culprit, state.step));
                    }
                }
                optimizer.step(&gradients)?;
            }
            let sum_squares = optimizer.sum_squares().filter(|_| config.precision != Precision::F16).cloned();
            unseen.push(Unseen {
                step: state.step,
                lr,
                loss: loss.detach(),
                readout: readout.detach(),
                labels,
                sum_squares,
            });
            for name in positive.keep(optimizer.as_mut())? {
                if told.insert(name.clone()) {
                    progress.line(&format!(
                        "note: {name} must stay above 0, and an update would have taken it to less than half; it was halved. \
                         If this goes on, train with a smaller lr"
                    ));
                }
            }
            state.step += 1;
            let is_due = config.checkpoint_every_steps.is_some_and(|every| state.step.is_multiple_of(every));
            let stops = record.as_deref().is_some_and(RunRecord::should_stop);
            if !has_kernels || unseen.len() == LOOK_EVERY || state.step == n_steps || is_due || stops {
                for seen in look(&mut unseen)? {
                    if let Some(culprit) = seen.culprit {
                        let has_record = record.is_some();
                        return Err(Error::NonFinite(non_finite(&culprit, epoch, seen.step, seen.lr, has_record)));
                    }
                    state.partial.add(seen.loss, seen.n_correct, seen.n_images);
                    first_loss.get_or_insert(seen.loss);
                    if let Some(record) = record.as_deref_mut() {
                        record.log_step(epoch * n_steps + seen.step + 1, seen.loss, seen.lr)?;
                    }
                }
            }
            bar.step(|| {
                let message = state.partial.message(started, (state.step - first) * config.batch_size);
                let first = first_loss.unwrap_or(f64::INFINITY);
                message + &runaway(state.partial.loss(), first, uninformed).unwrap_or_default()
            });
            let Some(record) = record.as_deref_mut() else { continue };
            // The one after an epoch's last step follows its evaluation.
            if (is_due || stops) && state.step < n_steps {
                check_finite(params, epoch, state.step - 1, lr)?;
                record.checkpoint(&state, params, optimizer.as_ref())?;
            }
            if stops && state.step < n_steps {
                return Err(stopped(&state, record));
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        let images = (state.step - first) * config.batch_size;
        bar.finish();

        let last_lr = learning_rate(config, epoch, n_steps - 1, n_steps)?;
        check_finite(params, epoch, n_steps - 1, last_lr)?;
        let stop = || record.as_deref().is_some_and(RunRecord::should_stop);
        let mut layers = (record.is_some() || progress == Progress::Shown).then(Layers::default);
        let observer = layers.as_mut().map(|layers| layers as &mut dyn Observer);
        let n_observed = if has_kernels { LOOK_AT } else { usize::MAX };
        let Some(evaluation) = evaluate_until(network, test, progress, (observer, n_observed), &stop)? else {
            let record = record.as_deref_mut().expect("only a record stops a run");
            record.checkpoint(&state, params, optimizer.as_ref())?;
            return Err(stopped(&state, record));
        };
        if !evaluation.loss.is_finite() {
            let what = format!("the loss on the test set ({})", evaluation.loss);
            return Err(Error::NonFinite(non_finite(&what, epoch, n_steps - 1, last_lr, record.is_some())));
        }
        let metrics = EpochMetrics {
            epoch: epoch + 1,
            lr: first_lr,
            train_loss: state.partial.loss(),
            train_top1: state.partial.top1(),
            test: evaluation,
        };
        progress.line(&format!(
            "epoch {}/{}  loss {:.4}  train {:.2} %  test {:.2} %  {:.0} images/s{}",
            metrics.epoch,
            config.epochs,
            metrics.train_loss,
            100. * metrics.train_top1,
            100. * metrics.test.top1,
            images as f64 / seconds,
            runaway(metrics.train_loss, first_loss.unwrap_or(f64::INFINITY), uninformed).unwrap_or_default()
        ));
        state.history.push(metrics);
        (state.epoch, state.step, state.partial) = (epoch + 1, 0, Partial::default());
        if let Some(layers) = &layers {
            tell_of_layers(network, layers, epoch + 1, progress, record.as_deref_mut())?;
        }
        if let Some(record) = record.as_deref_mut() {
            record.log_timing(epoch + 1, seconds, images)?;
            let best = best(&state).map_or(0, |best| best.epoch);
            if best == epoch + 1 {
                record.keep_best(best, params)?;
            }
            record.checkpoint(&state, params, optimizer.as_ref())?;
            record.forget_others(best)?;
            record.write_history(&state.history)?;
            record.log_epoch(&state.history[epoch], seconds, images)?;
            if record.should_stop() && state.epoch < config.epochs {
                return Err(stopped(&state, record));
            }
        }
    }
    let metrics = summarize(&state, params)?;
    if let Some(record) = record {
        record.finish(&metrics, network.config(), params)?;
    }
    Ok(metrics)
}

/// What a step has left on the device.
struct Unseen {
    step: usize,
    lr: f64,
    loss: Tensor,
    readout: Tensor,
    labels: Tensor,
    /// Σ g² of its gradients, where a kernel has computed it.
    sum_squares: Option<Tensor>,
}

/// The numbers of a step.
struct Seen {
    step: usize,
    lr: f64,
    loss: f64,
    n_correct: usize,
    n_images: usize,
    /// What of it is not finite.
    culprit: Option<String>,
}

/// Brings the numbers of all steps here.
fn look(unseen: &mut Vec<Unseen>) -> Result<Vec<Seen>> {
    let see = |Unseen { step, lr, loss, readout, labels, sum_squares }: Unseen| {
        let loss = loss::scalar(&loss)?;
        let squares = sum_squares.map(|sum| loss::scalar(&sum.reshape(())?)).transpose()?;
        let culprit = if !loss.is_finite() {
            Some(format!("the loss ({loss})"))
        } else {
            squares.filter(|sum| !sum.is_finite()).map(|_| "a gradient".to_string())
        };
        let n_correct = if culprit.is_none() { loss::top1(&readout, &labels)? } else { 0 };
        Ok(Seen { step, lr, loss, n_correct, n_images: labels.dim(0)?, culprit })
    };
    unseen.drain(..).map(see).collect()
}

/// The gradients of a loss, computed with a factor on it that they have not at the end.
fn scaled_gradients(loss: &Tensor, factor: f64, params: &[(String, Var)]) -> Result<GradStore> {
    let mut gradients = (loss * factor)?.backward()?;
    for (_, var) in params {
        if let Some(grad) = gradients.remove(var) {
            gradients.insert(var, (grad / factor)?);
        }
    }
    Ok(gradients)
}

fn learning_rate(config: &TrainConfig, epoch: usize, step: usize, steps_per_epoch: usize) -> Result<f64> {
    let position = Position { epoch, step, steps_per_epoch, epochs: config.epochs };
    config.schedule.lr(config.optimizer.lr(), &position)
}

/// The epoch with the best test accuracy, the first of equal ones.
fn best(state: &State) -> Option<&EpochMetrics> {
    // `max_by` would give the last.
    state.history.iter().rev().max_by(|a, b| a.test.top1.total_cmp(&b.test.top1))
}

/// Checks that a checkpoint fits the data and the configuration.
fn check_state(state: &State, config: &TrainConfig, n_steps: usize, record: &RunRecord) -> Result<()> {
    let path = record.path();
    if record.is_extended() && matches!(config.schedule.decay, Decay::Cosine { .. }) {
        let what = format!(
            "this run had fewer than epochs = {}, and its learning rate follows a cosine over all epochs (schedule.decay), so \
             a longer run would have had another one from the start. Train the longer run in a folder of its own; or start \
             a run from the result of this one, as fine-tuning does (--start of the command, the field start)",
            config.epochs
        );
        return Err(Error::file(path, what));
    }
    if state.step > n_steps || state.epoch > config.epochs {
        let what = format!(
            "the state.json of its checkpoint stands at epoch {}, step {}, and this run has {} epochs of {n_steps} steps; is \
             the training data another one than before?",
            state.epoch + 1,
            state.step,
            config.epochs
        );
        return Err(Error::file(path, what));
    }
    Ok(())
}

/// Refuses what must not be saved: parameters and running statistics that are not finite after a step.
fn check_finite(params: &ParamStore, epoch: usize, step: usize, lr: f64) -> Result<()> {
    let all = params.all();
    let checked = ParamStore::check_values("", all.iter().map(|(name, var)| (name.as_str(), var.as_tensor())));
    checked.map_err(|error| {
        let lines = error.to_string();
        let culprit = lines.lines().find_map(|line| Some(line.trim().split_once(": expected")?.0));
        Error::NonFinite(non_finite(culprit.unwrap_or("a parameter"), epoch, step, lr, true))
    })
}

fn stopped(state: &State, record: &RunRecord) -> Error {
    let epoch = state.epoch + usize::from(state.step > 0);
    Error::Stopped { epoch, step: state.step, path: record.path().to_path_buf() }
}

/// What to say of a loss that is far beyond the first one, and beyond that of a network that knows nothing.
fn runaway(loss: f64, first: f64, uninformed: f64) -> Option<String> {
    let times = loss / first;
    (times > 2. && loss > uninformed).then(|| format!("  {times:.1} times the first loss"))
}

/// What the layers of neurons do after an epoch: for TensorBoard, and a line for those that do nothing.
fn tell_of_layers(
    network: &Network,
    Layers(layers): &Layers,
    epoch: usize,
    progress: Progress,
    record: Option<&mut RunRecord>,
) -> Result<()> {
    for (layer, activity) in layers {
        if let Some(complaint) = activity.complaint() {
            progress.line(&format!("note: {layer} is {complaint} on the test images after epoch {epoch}"));
        }
    }
    let Some(record) = record else { return Ok(()) };
    let mut numbers = shared_numbers(network)?;
    for (layer, activity) in layers {
        numbers.push((format!("{layer}/firing_rate"), activity.rate()));
        numbers.extend(activity.in_gate().map(|share| (format!("{layer}/in_gate"), share)));
    }
    record.log_layers(epoch, &numbers)
}

fn summarize(state: &State, params: &ParamStore) -> Result<Metrics> {
    // `check` has made sure of at least one epoch.
    let Some(last) = state.history.last() else { return Err(Error::Config("no epoch was trained".into())) };
    let best = best(state).unwrap_or(last);
    Ok(Metrics {
        epochs: state.epoch,
        top1: last.test.top1,
        best_top1: best.test.top1,
        best_epoch: best.epoch,
        top1_by_timestep: last.test.top1_by_timestep.clone(),
        n_params: params.n_params(),
    })
}

/// The message for a value that is not finite: what, where, at which rate, and what to do.
fn non_finite(culprit: &str, epoch: usize, step: usize, lr: f64, has_checkpoints: bool) -> String {
    let kept = if has_checkpoints { " Earlier checkpoints are intact." } else { "" };
    format!(
        "{culprit} is not finite in epoch {}, step {} at a learning rate of {lr}.{kept} Train with a smaller lr or a \
         warm-up, or look for values in the images that are not finite.",
        epoch + 1,
        step + 1
    )
}
