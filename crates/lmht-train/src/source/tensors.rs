//! Images in memory as a source.

use candle_core::{DType, Tensor};

use crate::random::order;
use crate::{Batch, BatchSource, Batches, Error, Result};

/// Batches of images that are one tensor in memory, on any device.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_train::{BatchSource, TensorSource};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let images = Tensor::rand(0f32, 1., (10, 3, 8, 8), &Device::Cpu)?;
/// let labels = Tensor::from_iter((0..10u32).map(|i| i % 5), &Device::Cpu)?;
/// // Ten images are two whole batches of four, or three batches with a short one.
/// let train = TensorSource::train(images.clone(), labels.clone(), 4, 42)?;
/// let test = TensorSource::test(images, labels, 4)?;
/// assert_eq!((train.n_batches(), test.n_batches()), (2, 3));
///
/// // A run that stopped after the first step of epoch 5 goes on as if it had not.
/// let resumed = train.batches(5, 1)?.next().unwrap()?.images;
/// let whole = train.batches(5, 0)?.nth(1).unwrap()?.images;
/// assert_eq!(resumed.flatten_all()?.to_vec1::<f32>()?, whole.flatten_all()?.to_vec1::<f32>()?);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct TensorSource {
    images: Tensor,
    /// The dimension of `images` that counts them.
    dim: usize,
    labels: Tensor,
    batch_size: usize,
    /// `None`: in order, and the last batch may be short.
    seed: Option<u64>,
}

impl TensorSource {
    /// For training: whole batches of `batch_size` images, in a new random order in every epoch; the images that are left
    /// over have their turn in another epoch.
    ///
    /// The order depends on `seed` and the epoch alone.
    ///
    /// # Shapes
    /// - `images` `[N, C, H, W]`, or frames `[T, N, C, H, W]`; features `[N, F]` or `[T, N, F]`
    /// - `labels` `[N]`, `u32`
    ///
    /// # Errors
    /// [`Error::Config`] if the shapes or the labels' type differ from these, or if `batch_size` is not in `1..=N`.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use lmht_train::TensorSource;
    /// # fn main() -> candle_core::Result<()> {
    /// let images = Tensor::zeros((10, 1, 8, 8), DType::F32, &Device::Cpu)?;
    /// let labels = Tensor::zeros(9, DType::U32, &Device::Cpu)?;
    /// let error = TensorSource::train(images, labels, 4, 42).unwrap_err().to_string();
    /// assert!(error.contains("expected labels of shape [10]"), "{error}");
    /// # Ok(()) }
    /// ```
    pub fn train(images: Tensor, labels: Tensor, batch_size: usize, seed: u64) -> Result<Self> {
        let source = Self { seed: Some(seed), ..Self::test(images, labels, batch_size)? };
        let n = source.n_images();
        if batch_size > n {
            return Err(Error::Config(format!(
                "batch_size is {batch_size}; expected at most {n}, the number of images: only whole batches are trained on"
            )));
        }
        Ok(source)
    }

    /// For evaluation: every image once, in order; the last batch may be smaller than `batch_size`.
    ///
    /// # Shapes
    /// As [`Self::train`]; N may be smaller than `batch_size`.
    ///
    /// # Errors
    /// [`Error::Config`] if the shapes or the labels' type differ from these, or if `batch_size` is 0.
    pub fn test(images: Tensor, labels: Tensor, batch_size: usize) -> Result<Self> {
        let dim = match images.rank() {
            2 | 4 => 0,
            3 | 5 => 1,
            _ => {
                return Err(Error::Config(format!(
                    "expected images [N, C, H, W] or [T, N, C, H, W], or features [N, F] or [T, N, F], got {:?}",
                    images.dims()
                )));
            }
        };
        let n = images.dims()[dim];
        if labels.dims() != [n] || labels.dtype() != DType::U32 {
            return Err(Error::Config(format!(
                "expected labels of shape [{n}] and type u32, one for each of the images {:?}, got {:?} of type {:?}",
                images.dims(),
                labels.dims(),
                labels.dtype()
            )));
        }
        if u32::try_from(n).is_err() {
            return Err(Error::Config(format!("expected at most {} images, got {n}", u32::MAX)));
        }
        if batch_size == 0 {
            return Err(Error::Config("batch_size is 0; expected at least 1".into()));
        }
        // Detached: no gradient is to reach the data. Contiguous once, rather than in every batch.
        let (images, labels) = (images.detach().contiguous()?, labels.detach().contiguous()?);
        Ok(Self { images, dim, labels, batch_size, seed: None })
    }

    /// N.
    fn n_images(&self) -> usize {
        self.images.dims()[self.dim]
    }

    /// Batch `index` of an epoch whose order is `order`, if it has one of its own.
    fn batch(&self, order: Option<&[u32]>, index: usize) -> Result<Batch> {
        let start = index * self.batch_size;
        let len = self.batch_size.min(self.n_images() - start);
        let (images, labels) = match order {
            Some(order) => {
                let indices = Tensor::new(&order[start..start + len], self.images.device())?;
                let label_indices = indices.to_device(self.labels.device())?;
                (self.images.index_select(&indices, self.dim)?, self.labels.index_select(&label_indices, 0)?)
            }
            None => (self.images.narrow(self.dim, start, len)?.contiguous()?, self.labels.narrow(0, start, len)?),
        };
        Ok(Batch::with_labels(images, labels))
    }
}

impl BatchSource for TensorSource {
    fn n_batches(&self) -> usize {
        match self.seed {
            Some(_) => self.n_images() / self.batch_size,
            None => self.n_images().div_ceil(self.batch_size),
        }
    }

    fn batches(&self, epoch: usize, first: usize) -> Result<Batches<'_>> {
        // `test` has made sure that N is a u32.
        let order = self.seed.map(|seed| order(self.n_images() as u32, seed, epoch as u64));
        Ok(Box::new((first..self.n_batches()).map(move |index| self.batch(order.as_deref(), index))))
    }
}
