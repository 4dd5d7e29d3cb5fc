//! [`ImageDataset`]: labelled images in memory, as `u8`, and how they get there from parquet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::decode::{self, Fit, Pixels, Refusal};
use crate::error::{Error, Result};
use crate::random::{Purpose, keyed, shuffle};
use crate::table::{Rows, Table, guard};
use crate::{Normalize, ParquetOptions, Split, files};

/// Rows read and decoded together: enough to keep every core busy, few enough that their decoded copies stay small.
const CHUNK: usize = 512;

/// Labelled images of one size, in memory.
///
/// Pixels are bytes: a quarter of the memory of `f32`, and normalized only when a batch is made. CIFAR-10's training
/// split takes 154 MB, Tiny-ImageNet's 1.2 GB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDataset {
    /// `[N, C, H, W]`.
    pixels: Vec<u8>,
    labels: Vec<u32>,
    /// (C, H, W).
    shape: (usize, usize, usize),
    n_classes: usize,
    class_names: Option<Vec<String>>,
}

impl ImageDataset {
    /// Wraps pixels that are in memory already.
    ///
    /// # Shapes
    /// - `pixels` `[N, C, H, W]` for `shape` = (C, H, W), values 0..=255
    /// - `labels` `[N]`, each in `0..n_classes`
    ///
    /// # Errors
    /// [`Error::Config`] if the sizes do not fit together, if there is no image, or if a label is out of range.
    ///
    /// ```
    /// use lmht_datasets::ImageDataset;
    ///
    /// // Two images of one channel, one row and three columns.
    /// let data = ImageDataset::new(vec![0, 1, 2, 253, 254, 255], vec![0, 1], (1, 1, 3), 2)?;
    /// assert_eq!(data.image(1), Some(&[253, 254, 255][..]));
    /// # Ok::<(), lmht_datasets::Error>(())
    /// ```
    pub fn new(pixels: Vec<u8>, labels: Vec<u32>, shape: (usize, usize, usize), n_classes: usize) -> Result<Self> {
        let (c, h, w) = shape;
        let expected = [c, h, w].iter().try_fold(labels.len(), |n, side| n.checked_mul(*side)).unwrap_or(0);
        if expected == 0 || pixels.len() != expected {
            return Err(Error::Config(format!(
                "expected the pixels of {} images of shape [{c}, {h}, {w}], at least one, found {} bytes",
                labels.len(),
                pixels.len()
            )));
        }
        if let Some(i) = labels.iter().position(|label| *label as usize >= n_classes) {
            return Err(Error::Config(format!("expected labels in 0..{n_classes}, found {} at {i}", labels[i])));
        }
        Ok(Self { pixels, labels, shape, n_classes, class_names: None })
    }

    /// Reads a split from parquet files as Hugging Face's `datasets` and the Hub write them.
    ///
    /// `path` is a folder or a single file. In a folder (or its `data/`), the training split is `train.parquet`,
    /// `train-*.parquet` or what lies in `train/`; the test split likewise, and where there is none, `valid`,
    /// `validation` or `val`. A single file is read whatever it is called. Images are PNG or JPEG of 8 or 16 bits; an
    /// alpha channel is dropped, an EXIF orientation not applied (as in torchvision). Decoding uses all cores.
    ///
    /// # Errors
    /// Every fault names the file, and where it is in a row, the row: a truncated or foreign file, a missing column, an
    /// image that cannot be decoded or has another size, a label that is null or out of range. Damage is found as far
    /// as the formats can tell: PNG and pages with a checksum protect their content, JPEG and other pages do not.
    ///
    /// ```
    /// use lmht_datasets::{ImageDataset, ParquetOptions, Split, sample_path};
    ///
    /// let test = ImageDataset::from_parquet(sample_path(), Split::Test, &ParquetOptions::default())?;
    /// assert_eq!((test.len(), test.shape(), test.n_classes()), (2_000, (1, 28, 28), 10));
    /// # Ok::<(), lmht_datasets::Error>(())
    /// ```
    pub fn from_parquet(path: impl AsRef<Path>, split: Split, options: &ParquetOptions) -> Result<Self> {
        Self::from_parquet_with(path, split, options, &|_, _| ())
    }

    /// [`from_parquet`](Self::from_parquet) that calls `progress(done, total)` from this thread as rows are decoded:
    /// first with `done` = 0, at the end with `done` = `total`, in rows of the split.
    ///
    /// # Errors
    /// As [`from_parquet`](Self::from_parquet).
    pub fn from_parquet_with(
        path: impl AsRef<Path>,
        split: Split,
        options: &ParquetOptions,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        options.check()?;
        let path = path.as_ref();
        let open = |path: PathBuf| Ok((Table::open(&path, options)?, path));
        let tables = files::find(path, split)?.into_iter().map(open).collect::<Result<Vec<_>>>()?;
        let class_names = tables.iter().find_map(|(table, _)| table.class_names.clone());
        let n_classes = match options.n_classes.or(class_names.as_ref().map(Vec::len)) {
            Some(n) => n,
            None => one_more_than_the_largest_label(path, split, &tables, options)?,
        };
        let total = tables.iter().map(|(table, _)| table.n_rows).fold(0, usize::saturating_add);
        let mut builder = Builder::new(options, n_classes, total);
        let mut done = 0;
        progress(done, total);
        for (table, path) in &tables {
            table.for_each_chunk(CHUNK, |rows| {
                done += rows.labels.len();
                guard(path, || builder.push(path, rows))?;
                progress(done, total);
                Ok(())
            })?;
        }
        // Names that do not fit the number of classes belong to something else.
        let class_names = class_names.filter(|names| names.len() == n_classes);
        builder.finish(path, n_classes, class_names)
    }

    /// N, the number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image; never true, as no constructor makes an empty data set.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// (C, H, W): channels, height and width of every image.
    pub fn shape(&self) -> (usize, usize, usize) {
        self.shape
    }

    /// The number of classes; labels are in `0..n_classes`.
    pub fn n_classes(&self) -> usize {
        self.n_classes
    }

    /// The name of each class, where the files had them.
    pub fn class_names(&self) -> Option<&[String]> {
        self.class_names.as_deref()
    }

    /// The label of each image, `[N]`.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// All pixels, `[N, C, H, W]`, 0..=255.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The pixels of image `index`, `[C, H, W]`, 0..=255; `None` past the end.
    pub fn image(&self, index: usize) -> Option<&[u8]> {
        let (c, h, w) = self.shape;
        self.pixels.chunks_exact(c * h * w).nth(index)
    }

    /// The images at `indices`, in that order, as a data set of their own.
    ///
    /// # Errors
    /// [`Error::Config`] if there is no index, or one is past the end.
    pub fn select(&self, indices: &[usize]) -> Result<Self> {
        let mut pixels = Vec::with_capacity(indices.len() * self.pixels.len() / self.len());
        let mut labels = Vec::with_capacity(indices.len());
        for &index in indices {
            let image = self.image(index).ok_or_else(|| {
                Error::Config(format!("select: expected indices in 0..{}, found {index}", self.len()))
            })?;
            pixels.extend_from_slice(image);
            labels.push(self.labels[index]);
        }
        let class_names = self.class_names.clone();
        Ok(Self { class_names, ..Self::new(pixels, labels, self.shape, self.n_classes)? })
    }

    /// `n` images chosen by `seed` with every class equally often, for quick runs; they keep their order.
    ///
    /// Where `n` is not a multiple of the number of classes, the lower classes get one more; a class that runs out
    /// leaves its share to the others. A smaller subset of the same seed is contained in a larger one.
    ///
    /// # Errors
    /// [`Error::Config`] unless `n` is in `1..=N`.
    ///
    /// ```
    /// # use lmht_datasets::ImageDataset;
    /// let data = ImageDataset::new(vec![0; 6], vec![0, 0, 0, 0, 1, 1], (1, 1, 1), 2)?;
    /// assert_eq!(data.subset(4, 7)?.labels(), [0, 0, 1, 1]);
    /// # Ok::<(), lmht_datasets::Error>(())
    /// ```
    pub fn subset(&self, n: usize, seed: u64) -> Result<Self> {
        if !(1..=self.len()).contains(&n) {
            return Err(Error::Config(format!("subset: expected 1 to {} images, found {n}", self.len())));
        }
        let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (index, label) in self.labels.iter().enumerate() {
            classes.entry(*label).or_default().push(index);
        }
        for (label, members) in &mut classes {
            shuffle(&mut keyed(Purpose::Subset, seed, u64::from(*label), 0), members);
        }
        // One of each class in turn: sort by (turn, class) and take the first n.
        let turns = classes.values().flat_map(|members| members.iter().enumerate());
        let mut turns: Vec<(usize, u32, usize)> = turns.map(|(turn, &i)| (turn, self.labels[i], i)).collect();
        turns.sort_unstable();
        let mut chosen: Vec<usize> = turns[..n].iter().map(|&(_, _, index)| index).collect();
        chosen.sort_unstable();
        self.select(&chosen)
    }

    /// Mean and standard deviation of each channel over all pixels, in units of the full range (0..1): what
    /// [`Normalize`] takes. To be computed on the training split.
    ///
    /// Sums are taken over whole numbers, so the result is exact up to one rounding and independent of the order; the
    /// standard deviation is the population's (divisor N·H·W), as published figures use it.
    ///
    /// ```
    /// # use lmht_datasets::ImageDataset;
    /// let data = ImageDataset::new(vec![0, 255], vec![0], (1, 1, 2), 1)?;
    /// let stats = data.channel_stats();
    /// assert_eq!((stats.mean[0], stats.std[0]), (0.5, 0.5));
    /// # Ok::<(), lmht_datasets::Error>(())
    /// ```
    pub fn channel_stats(&self) -> Normalize {
        let (c, h, w) = self.shape;
        // Counts of each value: 256 numbers hold a channel of any size without rounding.
        let count = |mut counts: Vec<[u64; 256]>, image: &[u8]| {
            for (counts, channel) in counts.iter_mut().zip(image.chunks_exact(h * w)) {
                channel.iter().for_each(|value| counts[usize::from(*value)] += 1);
            }
            counts
        };
        let add = |mut a: Vec<[u64; 256]>, b: Vec<[u64; 256]>| {
            a.iter_mut().flatten().zip(b.iter().flatten()).for_each(|(a, b)| *a += b);
            a
        };
        let zero = || vec![[0u64; 256]; c];
        let counts = self.pixels.par_chunks_exact(c * h * w).fold(zero, count).reduce(zero, add);
        let stats = counts.iter().map(|counts| {
            let n: u128 = counts.iter().map(|n| u128::from(*n)).sum();
            let moment = |power| -> u128 { (0u128..).zip(counts).map(|(v, n)| v.pow(power) * u128::from(*n)).sum() };
            let (sum, squares) = (moment(1), moment(2));
            // n Σv² - (Σv)² in whole numbers: nothing cancels.
            let std = ((n * squares - sum * sum) as f64).sqrt() / n as f64;
            ((sum as f64 / n as f64 / 255.0) as f32, (std / 255.0) as f32)
        });
        let (mean, std) = stats.unzip();
        Normalize { mean, std }
    }
}

/// The number of classes as far as the labels tell: those of the training split, even when the test split is read, so
/// that a class without test images is not lost.
fn one_more_than_the_largest_label(
    path: &Path,
    split: Split,
    tables: &[(Table, PathBuf)],
    options: &ParquetOptions,
) -> Result<usize> {
    let mut largest = None;
    // What cannot be a label does not count here; reading its row will refuse it by name.
    let mut see = |table: &Table| {
        largest = largest.max(table.labels()?.into_iter().filter_map(|label| u32::try_from(label).ok()).max());
        Ok::<_, Error>(())
    };
    match split {
        Split::Test if path.is_dir() => match files::find(path, Split::Train) {
            Ok(train) => train.iter().try_for_each(|file| see(&Table::open(file, options)?))?,
            // Without a training split the test split must do; with half of one, the classes would be a guess.
            Err(Error::NoFiles { .. }) => tables.iter().try_for_each(|(table, _)| see(table))?,
            Err(error) => return Err(error),
        },
        _ => tables.iter().try_for_each(|(table, _)| see(table))?,
    }
    Ok(largest.map_or(1, |label| label as usize + 1))
}

/// Collects decoded rows.
struct Builder<'a> {
    options: &'a ParquetOptions,
    n_classes: usize,
    /// Rows to come at most, by the footers.
    total: usize,
    pixels: Vec<u8>,
    labels: Vec<u32>,
    size: Option<(usize, usize)>,
    /// 1 until an image with colour comes.
    channels: usize,
    n_of_class: BTreeMap<u32, usize>,
}

impl<'a> Builder<'a> {
    fn new(options: &'a ParquetOptions, n_classes: usize, total: usize) -> Self {
        Self {
            options,
            n_classes,
            total,
            pixels: Vec::new(),
            labels: Vec::new(),
            size: options.resize.or(options.cover).or(options.size),
            channels: options.channels.unwrap_or(1),
            n_of_class: BTreeMap::new(),
        }
    }

    /// Checks and decodes the rows of a chunk and appends them.
    fn push(&mut self, path: &Path, rows: Rows) -> Result<()> {
        let mut kept = Vec::with_capacity(rows.labels.len());
        for (i, &label) in rows.labels.iter().enumerate() {
            let row = rows.first + i;
            let in_range = u32::try_from(label).ok().filter(|label| (*label as usize) < self.n_classes);
            let label = in_range.ok_or_else(|| Error::LabelOutOfRange {
                path: path.to_path_buf(),
                row,
                label,
                n_classes: self.n_classes,
            })?;
            let n = self.n_of_class.entry(label).or_default();
            if self.options.max_per_class.is_none_or(|most| *n < most) {
                *n += 1;
                self.labels.push(label);
                kept.push((row, rows.images[i].data()));
            }
        }
        let Some(&(first_row, first_image)) = kept.first() else { return Ok(()) };
        let refuse = |row: usize, refusal: Refusal, expected: (usize, usize)| match refusal {
            Refusal::Decode(reason) => Error::Decode { path: path.to_path_buf(), row, reason },
            Refusal::Size(found) => Error::ImageSize { path: path.to_path_buf(), row, expected, found },
        };
        let size = match self.size {
            Some(size) => size,
            None => decode::size(first_image).map_err(|refusal| refuse(first_row, refusal, (0, 0)))?,
        };
        self.size = Some(size);
        let fit = match (self.options.resize, self.options.cover) {
            (Some(_), _) => Fit::Stretch,
            (_, Some(_)) => Fit::Cover,
            (None, None) => Fit::Exact,
        };
        // Collected one by one, not as one `Result`: rayon would report any of several bad rows, we want the first.
        let images: Vec<std::result::Result<Pixels, Refusal>> =
            kept.par_iter().map(|(_, encoded)| decode::decode(encoded, size, fit)).collect();
        let images = images.into_iter().zip(&kept).map(|(image, (row, _))| image.map_err(|r| refuse(*row, r, size)));
        let images = images.collect::<Result<Vec<_>>>()?;

        let plane = size.0 * size.1;
        if self.options.channels.is_none() && self.channels == 1 && images.iter().any(|image| !image.is_gray) {
            self.become_rgb(plane)?;
        }
        let image_len = self.channels * plane;
        let new_len = self.pixels.len() + images.len() * image_len;
        self.reserve(new_len, image_len)?;
        let start = self.pixels.len();
        self.pixels.resize(new_len, 0);
        let channels = self.channels;
        let places = self.pixels[start..].par_chunks_exact_mut(image_len);
        places.zip(&images).for_each(|(place, image)| decode::write_chw(image, channels, place));
        Ok(())
    }

    /// Makes room for `needed` bytes in all, and if it can for all that is to come: growing by doubling would copy
    /// gigabytes. Only a wish, as a damaged footer can promise any number of rows.
    fn reserve(&mut self, needed: usize, image_len: usize) -> Result<()> {
        if self.pixels.capacity() >= needed {
            return Ok(());
        }
        let wished = match self.options.max_per_class {
            Some(_) => 0,
            None => self.total.saturating_mul(image_len).saturating_sub(self.pixels.len()),
        };
        let more = needed - self.pixels.len();
        if wished > more && self.pixels.try_reserve_exact(wished).is_ok() {
            return Ok(());
        }
        self.pixels.try_reserve(more).map_err(|_| Error::Memory { bytes: needed })
    }

    /// Repeats the gray planes read so far, once the first colour image shows up.
    fn become_rgb(&mut self, plane: usize) -> Result<()> {
        self.channels = 3;
        let gray = std::mem::take(&mut self.pixels);
        self.reserve(3 * gray.len(), 3 * plane)?;
        for image in gray.chunks_exact(plane) {
            (0..3).for_each(|_| self.pixels.extend_from_slice(image));
        }
        Ok(())
    }

    fn finish(self, path: &Path, n_classes: usize, class_names: Option<Vec<String>>) -> Result<ImageDataset> {
        let (Some((h, w)), false) = (self.size, self.labels.is_empty()) else {
            return Err(Error::Parquet { path: path.to_path_buf(), reason: "it has no rows".to_owned() });
        };
        let shape = (self.channels, h, w);
        Ok(ImageDataset { pixels: self.pixels, labels: self.labels, shape, n_classes, class_names })
    }
}
