//! The loader of `lmht-datasets` as a source.

use candle_core::Tensor;
use lmht_datasets::{DeviceImages, Loader};
use lmht_nn::gpu;

use crate::{Batch, BatchSource, Batches, Result, Targets};

/// The batches of a data set; mixed ones have [`Targets::Distributions`].
///
/// Where [`gpu::has_kernels`], all images are copied to the GPU once, as bytes, if [`Loader::on_device`] can do that. Each step
/// then sends what was drawn for its images, and one kernel makes the batch: the same bits as the cores make.
impl BatchSource for Loader {
    fn n_batches(&self) -> usize {
        Loader::n_batches(self)
    }

    fn note(&self) -> Option<String> {
        let why = self.on_gpu()?.err()?;
        Some(format!("batches are made on the cores and not on the GPU: {why}"))
    }

    fn batches(&self, epoch: usize, first: usize) -> Result<Batches<'_>> {
        let n = Loader::n_batches(self);
        // Beyond the end the loader says what is wrong.
        if let Some(Ok(images)) = self.on_gpu().filter(|_| first <= n) {
            let order = self.order(epoch as u64);
            return Ok(Box::new((first..n).map(move |step| gathered(self, images, epoch, &order, step))));
        }
        let batches = self.epoch_from(epoch as u64, first)?;
        Ok(Box::new(batches.map(|batch| {
            let batch = batch?;
            let targets = batch.targets.map_or(Targets::Labels(batch.labels), Targets::Distributions);
            Ok(Batch { images: batch.images, targets })
        })))
    }
}

/// What of a loader has to do with a GPU.
trait OnGpu {
    /// The images on the GPU, or why they are not there; nothing where there is none.
    fn on_gpu(&self) -> Option<std::result::Result<&DeviceImages, &str>>;
}

impl OnGpu for Loader {
    fn on_gpu(&self) -> Option<std::result::Result<&DeviceImages, &str>> {
        gpu::has_kernels(self.device()).then(|| self.on_device())
    }
}

/// A batch that the GPU makes.
fn gathered(loader: &Loader, images: &DeviceImages, epoch: usize, order: &[usize], step: usize) -> Result<Batch> {
    let size = loader.config().batch_size;
    let indices = &order[step * size..order.len().min((step + 1) * size)];
    let choices = loader.choices(epoch as u64, indices)?;
    let n_choices = choices.dim(0)? - 1;
    let labels = choices.get(n_choices)?;
    let images = gpu::gather(&images.bytes, &choices.narrow(0, 0, n_choices)?, &images.table)?;
    Ok(Batch::with_labels(images, labels))
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

    fn note(&self) -> Option<String> {
        self.loader.note()
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
