//! The loader of `lmht-datasets` as a source.

use candle_core::Tensor;
use lmht_datasets::Loader;

use crate::{Batch, BatchSource, Batches, Result, Targets};

/// The batches of a data set; mixed ones have [`Targets::Distributions`].
impl BatchSource for Loader {
    fn n_batches(&self) -> usize {
        Loader::n_batches(self)
    }

    fn batches(&self, epoch: usize, first: usize) -> Result<Batches<'_>> {
        let batches = self.epoch_from(epoch as u64, first)?;
        Ok(Box::new(batches.map(|batch| {
            let batch = batch?;
            let targets = batch.targets.map_or(Targets::Labels(batch.labels), Targets::Distributions);
            Ok(Batch { images: batch.images, targets })
        })))
    }
}

/// The first images of a loader's epoch, in the loader's batches, of which the last may be cut: for a quick look at a
/// large test set.
///
/// ```
/// use candle_core::Device;
/// use lmht_datasets::{ImageDataset, Loader, LoaderConfig, Normalize};
/// use lmht_train::{BatchSource, FirstImages};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Ten images of one channel, two rows, three columns.
/// let data = ImageDataset::new(vec![0; 60], vec![0; 10], (1, 2, 3), 2)?;
/// let loader = Loader::new(data.into(), &LoaderConfig::eval(4), &Normalize::unit(1), &Device::Cpu)?;
/// let mut sizes = Vec::new();
/// for batch in FirstImages::new(&loader, 6).batches(0, 0)? {
///     sizes.push(batch?.images.dim(0)?);
/// }
/// assert_eq!(sizes, [4, 2]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct FirstImages<'a> {
    loader: &'a Loader,
    n_images: usize,
}

impl<'a> FirstImages<'a> {
    /// The first `n_images` of every epoch of `loader`, or all of them if it has no more.
    pub fn new(loader: &'a Loader, n_images: usize) -> Self {
        Self { loader, n_images }
    }
}

impl BatchSource for FirstImages<'_> {
    fn n_batches(&self) -> usize {
        self.n_images.div_ceil(self.loader.config().batch_size).min(self.loader.n_batches())
    }

    fn batches(&self, epoch: usize, first: usize) -> Result<Batches<'_>> {
        let batch_size = self.loader.config().batch_size;
        // The numbers first: the loader is not to make a batch that nobody takes.
        let batches = (first..self.n_batches()).zip(self.loader.batches(epoch, first)?);
        Ok(Box::new(batches.map(move |(index, batch)| cut(batch?, self.n_images - index * batch_size))))
    }
}

/// The first `n` images of a batch `[B, C, H, W]` or frames `[T, B, C, H, W]`, or all of them.
fn cut(batch: Batch, n: usize) -> Result<Batch> {
    let first_of = |xs: &Tensor, dim: usize| xs.narrow(dim, 0, n.min(xs.dim(dim)?));
    let first = |xs: &Tensor| first_of(xs, 0);
    let targets = match &batch.targets {
        Targets::Labels(labels) => Targets::Labels(first(labels)?),
        Targets::Distributions(distributions) => Targets::Distributions(first(distributions)?),
    };
    let images = first_of(&batch.images, usize::from(batch.images.rank() == 5))?;
    Ok(Batch { images, targets })
}
