//! Training: [`fit`] a network to batches, [`evaluate`] it, and keep a record that survives being killed.

mod checkpoint;
mod evaluate;
mod fit;
mod progress;
mod run;

pub use evaluate::{Evaluation, evaluate};
pub use fit::{EpochMetrics, Metrics, TrainConfig, fit};
pub use progress::Progress;
pub use run::{RunInfo, RunRecord};

use candle_core::Tensor;

use crate::Result;

/// An iterator over one epoch's batches: images `[B, C, H, W]` or frames `[T, B, C, H, W]`, and labels `[B]` (u32).
///
/// Training also takes target distributions `[B, K]` (float) in place of the labels, for batches that mix images; an image
/// then counts as right if it is given the class with the largest target.
pub type Batches<'a> = Box<dyn Iterator<Item = Result<(Tensor, Tensor)>> + 'a>;

/// Where batches come from.
///
/// A resumed run asks for an epoch from the step where it was interrupted: the source must give the same batches then as
/// it would have given without the interruption.
pub trait BatchSource {
    /// The number of batches in an epoch.
    fn n_batches(&self) -> usize;

    /// The batches of `epoch` (0 first), from batch `first` on.
    ///
    /// # Errors
    /// If the data cannot be read.
    fn batches(&self, epoch: usize, first: usize) -> Result<Batches<'_>>;
}
