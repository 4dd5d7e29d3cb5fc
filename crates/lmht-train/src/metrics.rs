//! What a run reaches.

use serde::{Deserialize, Serialize};

use crate::Evaluation;

/// One epoch: what the record's `metrics.jsonl` holds, one line each. No times, so that equal runs have equal files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// 1 for the first epoch.
    pub epoch: usize,
    /// Learning rate of the epoch's first step.
    pub lr: f64,
    /// Mean training loss.
    pub train_loss: f64,
    /// Share of training images that were right when they were seen, 0..1.
    pub train_top1: f64,
    /// The whole test set after the epoch.
    pub test: Evaluation,
}

/// The result of a run: the record's `metrics.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Number of epochs trained.
    pub epochs: usize,
    /// Test accuracy after the last epoch, 0..1: the headline.
    pub top1: f64,
    /// The best test accuracy of any epoch, 0..1. Chosen on the test set, so an optimistic figure.
    pub best_top1: f64,
    /// The epoch of [`Metrics::best_top1`].
    pub best_epoch: usize,
    /// Test accuracy of the last epoch after each timestep, 0..1.
    pub top1_by_timestep: Vec<f64>,
    /// Number of trained values.
    pub n_params: usize,
}
