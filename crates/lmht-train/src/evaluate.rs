//! Accuracy over a whole data set, after every timestep.

use lmht_nn::{Network, Observer};
use serde::{Deserialize, Serialize};

use crate::loss::scalar;
use crate::{BatchSource, Confusion, Error, Progress, Result, Targets, loss};

/// What a network reaches on a data set; every image counts once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Number of images.
    pub n_images: usize,
    /// Mean cross-entropy of the readout.
    pub loss: f64,
    /// Share of images whose readout is right, 0..1.
    pub top1: f64,
    /// The same after each timestep that has logits: entry t is the readout over the first t + 1 of them.
    pub top1_by_timestep: Vec<f64>,
}

/// Evaluates `network` on all of `data`, watched by `observer` if one is given.
///
/// # Errors
/// If the data cannot be read, does not fit the network, or is empty.
pub fn evaluate(
    network: &Network,
    data: &dyn BatchSource,
    progress: Progress,
    observer: Option<&mut dyn Observer>,
) -> Result<Evaluation> {
    Ok(evaluate_classes(network, data, progress, observer)?.0)
}

/// As [`evaluate`], with which class was taken for which, in the same pass.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_classes(
    network: &Network,
    data: &dyn BatchSource,
    progress: Progress,
    observer: Option<&mut dyn Observer>,
) -> Result<(Evaluation, Confusion)> {
    let all = pass(network, data, progress, (observer, usize::MAX), &|| false)?;
    Ok(all.expect("nobody stopped it"))
}

/// As [`evaluate`], with an observer of the first so many batches; nothing if `stop` says so before the end.
pub(crate) fn evaluate_until(
    network: &Network,
    data: &dyn BatchSource,
    progress: Progress,
    observer: (Option<&mut dyn Observer>, usize),
    stop: &dyn Fn() -> bool,
) -> Result<Option<Evaluation>> {
    Ok(pass(network, data, progress, observer, stop)?.map(|(evaluation, _)| evaluation))
}

fn pass(
    network: &Network,
    data: &dyn BatchSource,
    progress: Progress,
    (mut observer, n_observed): (Option<&mut dyn Observer>, usize),
    stop: &dyn Fn() -> bool,
) -> Result<Option<(Evaluation, Confusion)>> {
    // Parameters stay as they are until the end of the data.
    let fixed = network.inference()?;
    let mut bar = progress.bar("evaluating", data.n_batches(), 0);
    let mut n_images = 0;
    let mut loss_sum = 0.;
    let config = network.config();
    let mut correct = vec![0; config.timesteps - config.neuron.first_stage()];
    let mut confusion = Confusion::new(config.n_classes);
    for (index, batch) in data.batches(0, 0)?.enumerate() {
        let batch = batch?;
        if stop() {
            bar.finish();
            return Ok(None);
        }
        let Targets::Labels(labels) = batch.targets else {
            return Err(Error::Config(
                "the data to evaluate on has target distributions; expected labels, from a source that mixes no images"
                    .into(),
            ));
        };
        let logits = match observer.as_deref_mut().filter(|_| index < n_observed) {
            None => fixed.forward(&batch.images)?,
            Some(observer) => fixed.forward_observed(&batch.images, observer)?,
        };
        let b = labels.dim(0)?;
        let readout = loss::readout(&logits)?;
        let loss = loss::cross_entropy(&readout, &labels, 0.)?;
        loss_sum += scalar(&loss)? * b as f64;
        for (total, hits) in correct.iter_mut().zip(loss::cumulative_top1(&logits, &labels)?) {
            *total += hits;
        }
        for (label, answer) in labels.to_vec1::<u32>()?.into_iter().zip(loss::answers(&readout)?) {
            confusion.count(label as usize, answer)?;
        }
        n_images += b;
        bar.step(String::new);
    }
    bar.finish();
    if n_images == 0 {
        return Err(Error::Config("expected images to evaluate on, got none".into()));
    }
    let share = |hits: usize| hits as f64 / n_images as f64;
    let top1_by_timestep: Vec<_> = correct.into_iter().map(share).collect();
    let top1 = *top1_by_timestep.last().expect("a network has at least one timestep");
    Ok(Some((Evaluation { n_images, loss: loss_sum / n_images as f64, top1, top1_by_timestep }, confusion)))
}
