//! Where batches come from.

#[cfg(feature = "datasets")]
mod datasets;
mod tensors;

#[cfg(feature = "datasets")]
pub use datasets::FirstImages;
pub use tensors::TensorSource;

use candle_core::Tensor;

use crate::Result;

/// What the images of a batch are to be taken for.
#[derive(Clone, Debug)]
pub enum Targets {
    /// The class of each image: `[B]`, `u32`, each below the number of classes K.
    Labels(Tensor),
    /// A distribution over the classes for each image: `[B, K]`, float, rows that sum to 1. For training on batches that mix
    /// images; an image then counts as right if it is given the class with the largest target.
    Distributions(Tensor),
}

impl Targets {
    /// The class of each image: `[B]`, `u32`.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data) if the targets are distributions.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use lmht_train::Targets;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let labels = Targets::Labels(Tensor::new(&[4u32, 0], &Device::Cpu)?);
    /// assert_eq!(labels.labels()?.to_vec1::<u32>()?, [4, 0]);
    /// let mixed = Targets::Distributions(Tensor::new(&[[0.3f32, 0.7]], &Device::Cpu)?);
    /// assert!(mixed.labels().is_err());
    /// # Ok(()) }
    /// ```
    pub fn labels(&self) -> Result<&Tensor> {
        match self {
            Self::Labels(labels) => Ok(labels),
            Self::Distributions(distributions) => Err(crate::Error::data(format!(
                "the targets are distributions of shape {:?}, expected one class per image; ask a source that does not mix images",
                distributions.dims()
            ))),
        }
    }
}

/// Images and targets of one step.
///
/// The shapes are checked where the batch is used, by the network and the loss.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_train::{Batch, Targets};
///
/// # fn main() -> candle_core::Result<()> {
/// let images = Tensor::zeros((2, 3, 8, 8), DType::F32, &Device::Cpu)?;
/// let plain = Batch::with_labels(images.clone(), Tensor::new(&[4u32, 0], &Device::Cpu)?);
/// assert!(matches!(plain.targets, Targets::Labels(_)));
///
/// // The second image is mixed: seven tenths of class 0, three of class 1.
/// let mixed = Batch::with_distributions(images, Tensor::new(&[[0f32, 1.], [0.7, 0.3]], &Device::Cpu)?);
/// assert!(matches!(mixed.targets, Targets::Distributions(_)));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Batch {
    /// Images `[B, C, H, W]` or frames `[T, B, C, H, W]`, float.
    pub images: Tensor,
    /// What they are to be taken for.
    pub targets: Targets,
}

impl Batch {
    /// Images `[B, C, H, W]` or frames `[T, B, C, H, W]`, each of one class: `labels` `[B]`, `u32`.
    pub fn with_labels(images: Tensor, labels: Tensor) -> Self {
        Self { images, targets: Targets::Labels(labels) }
    }

    /// Images `[B, C, H, W]` or frames `[T, B, C, H, W]` with `distributions` `[B, K]` over the classes, float.
    pub fn with_distributions(images: Tensor, distributions: Tensor) -> Self {
        Self { images, targets: Targets::Distributions(distributions) }
    }
}

/// An iterator over the batches of one epoch, in their order.
pub type Batches<'a> = Box<dyn Iterator<Item = Result<Batch>> + 'a>;

/// Where batches come from.
///
/// A resumed run asks for an epoch from the step where it was interrupted: the source must give the same batches then as
/// it would have given without the interruption.
///
/// A source of your own, whose images are made when they are asked for:
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_train::{Batch, BatchSource, Batches, Result};
///
/// /// Noise of one class.
/// struct Noise;
///
/// impl BatchSource for Noise {
///     fn n_batches(&self) -> usize {
///         10
///     }
///
///     fn batches(&self, _epoch: usize, first: usize) -> Result<Batches<'_>> {
///         Ok(Box::new((first..self.n_batches()).map(|_| {
///             let images = Tensor::randn(0f32, 1., (4, 3, 8, 8), &Device::Cpu)?;
///             Ok(Batch::with_labels(images, Tensor::zeros(4, DType::U32, &Device::Cpu)?))
///         })))
///     }
/// }
/// assert_eq!(Noise.batches(0, 7)?.count(), 3);
/// # Ok::<(), lmht_train::Error>(())
/// ```
pub trait BatchSource {
    /// The number of batches in an epoch.
    fn n_batches(&self) -> usize;

    /// What [`fit`](crate::fit) is to say of it at the start, such as why it is slower than it could be.
    fn note(&self) -> Option<String> {
        None
    }

    /// The batches of `epoch` (0 first), from batch `first` on; none if `first` is [`Self::n_batches`].
    ///
    /// # Errors
    /// If the data cannot be read; an error that is not of this crate goes through [`Error::data`](crate::Error::data).
    fn batches(&self, epoch: usize, first: usize) -> Result<Batches<'_>>;
}
