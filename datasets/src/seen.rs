//! Images as a loader's configuration has them seen, by the cores or by a device that has the bytes.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::dataset::{Dataset, ImageDataset};
use crate::error::Result;
use crate::stream::{Encoded, ImageStream};
use crate::transform::{Augment, Cut, View, Window};

/// Images as a configuration has them seen.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) images: Images,
    pub(crate) augment: Augment,
    pub(crate) center_crop: Option<(usize, usize)>,
    /// The normalized value of each byte, `[C][256]`.
    pub(crate) table: Vec<[f32; 256]>,
}

/// Where they are.
#[derive(Debug)]
pub(crate) enum Images {
    Memory(Arc<ImageDataset>),
    Disk(Arc<ImageStream>),
}

impl Images {
    /// What is known of them; the pixels only of those in memory.
    pub(crate) fn about(&self) -> &ImageDataset {
        match self {
            Self::Memory(data) => data,
            Self::Disk(stream) => stream.about(),
        }
    }
}

impl Dataset for Seen {
    fn labels(&self) -> &[u32] {
        self.images.about().labels()
    }

    fn n_classes(&self) -> usize {
        self.images.about().n_classes()
    }

    fn class_names(&self) -> Option<&[String]> {
        self.images.about().class_names()
    }

    fn dims(&self) -> Vec<usize> {
        let (c, h, w) = self.shape();
        let (h, w) = self.augment.size(h, w);
        vec![c, h, w]
    }

    fn write(&self, index: usize, key: (u64, u64), out: &mut [f32]) -> Result<()> {
        self.render(index, None, key, &self.table, out).map(|_| ())
    }
}

impl Seen {
    /// Of an image before it is augmented: its middle, if that is cut out.
    fn shape(&self) -> (usize, usize, usize) {
        let (c, h, w) = self.images.about().shape();
        let (h, w) = self.center_crop.unwrap_or((h, w));
        (c, h, w)
    }

    /// The bytes of such an image, as it was read of one on the disk.
    fn bytes(&self, index: usize, read: Option<&Encoded>) -> Result<Cow<'_, [u8]>> {
        let (c, h, w) = self.images.about().shape();
        let image = match (&self.images, read) {
            (Images::Memory(data), _) => Cow::Borrowed(&data.pixels()[index * c * h * w..(index + 1) * c * h * w]),
            (Images::Disk(stream), Some(read)) => stream.decode(read)?.into(),
            (Images::Disk(stream), None) => stream.image(index)?.into(),
        };
        Ok(match self.center_crop {
            Some(size) => Window::centre((h, w), size).cut(&image, h, w).into(),
            None => image,
        })
    }

    /// An image, as it was read of one on the disk, by a table for each channel; gives what is cut out of it.
    pub(crate) fn render<T: Copy + Default>(
        &self,
        index: usize,
        read: Option<&Encoded>,
        (seed, epoch): (u64, u64),
        table: &[[T; 256]],
        out: &mut [T],
    ) -> Result<Option<Cut>> {
        Ok(self.augment.write(&self.bytes(index, read)?, self.shape(), (seed, epoch, index), table, out))
    }

    /// Where the pixels of an image come from, if nothing but pixels move.
    pub(crate) fn view(&self, index: usize, (seed, epoch): (u64, u64)) -> View {
        let (_, h, w) = self.shape();
        self.augment.draw(h, w, seed, epoch, index)
    }
}

/// All images of a [`Loader`](crate::Loader) on its device.
#[derive(Debug)]
#[non_exhaustive]
pub struct DeviceImages {
    /// `u8`, `[N, C, H, W]`: before they are augmented.
    pub bytes: Tensor,
    /// The normalized value of each byte, `f32`, `[C, 256]`.
    pub table: Tensor,
}

/// Bytes that kernels count: in 32 bits, signed.
const MOST: usize = i32::MAX as usize;

impl DeviceImages {
    /// The images on `device`, or why they are not put there.
    pub(crate) fn new(seen: &Seen, device: &Device) -> std::result::Result<Self, String> {
        if let Some(beyond) = seen.augment.beyond_moves() {
            return Err(format!("{beyond} computes pixels, and a device moves them"));
        }
        let Images::Memory(data) = &seen.images else {
            return Err("they are read from their files in every epoch".to_owned());
        };
        let ((c, h, w), n) = (seen.shape(), data.len());
        let len = n * c * h * w;
        if len > MOST {
            return Err(format!("they have {len} bytes, expected at most {MOST}"));
        }
        let copy = || -> Result<Self> {
            let bytes = match seen.center_crop {
                // No copy here of what is whole.
                None => Tensor::from_slice(data.pixels(), (n, c, h, w), device)?,
                Some(_) => {
                    let mut middles = Vec::with_capacity(len);
                    for index in 0..n {
                        middles.extend_from_slice(&seen.bytes(index, None)?);
                    }
                    Tensor::from_vec(middles, (n, c, h, w), device)?
                }
            };
            let table = Tensor::from_slice(seen.table.as_flattened(), (c, 256), device)?;
            // For whichever thread, which on CUDA means stream, reads them.
            device.synchronize()?;
            Ok(Self { bytes, table })
        };
        copy().map_err(|error| format!("the device did not take them: {error}"))
    }
}
