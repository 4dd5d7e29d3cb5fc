//! [`ImageDataset`]: labelled images in memory, as `u8`, and how they get there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::Path;

use rayon::prelude::*;

use crate::decode::{self, Fit, Header, Refusal};
use crate::error::{Error, Place, Result};
use crate::formats::{Encoded, Label, Rows, Table};
use crate::guard::guard;
use crate::part::{Slice, WHOLE};
use crate::random::{Purpose, keyed, shuffle};
use crate::{Normalize, ReadOptions, Source, Split};

/// Rows read together: enough to keep every core busy.
const CHUNK: usize = 512;
/// Bytes of pixels decoded together, unless one image has more: what the cores hold beside the data set itself.
const AT_ONCE: u64 = 1 << 26;
/// How many bytes of pixels a byte of a file may become; deflate itself ends at 1032.
const MAX_RATIO: u64 = 1024;

/// Labelled examples in memory that a [`Loader`](crate::Loader) makes batches of: a further form of data is a type that
/// implements this, and goes to [`Loader::of`](crate::Loader::of).
pub trait Dataset: Debug + Send + Sync {
    /// The class of each example, `[N]`, each below [`n_classes`](Self::n_classes).
    fn labels(&self) -> &[u32];

    /// The number of classes.
    fn n_classes(&self) -> usize;

    /// The name of each class, where they have any.
    fn class_names(&self) -> Option<&[String]>;

    /// The shape of an example as a network takes it: `[C, H, W]`, or `[T, C, H, W]` for a frame at every timestep.
    fn dims(&self) -> Vec<usize>;

    /// Writes example `index` as it is seen under (seed, epoch), which decide with `index` alone what is random in it.
    ///
    /// # Errors
    /// If it is not in memory and cannot be read.
    fn write(&self, index: usize, key: (u64, u64), out: &mut [f32]) -> Result<()>;

    /// N, the number of examples.
    fn len(&self) -> usize {
        self.labels().len()
    }

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.labels().is_empty()
    }
}

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
    /// How an image came to its size.
    fit: Fit,
    /// The columns of images and labels, where they came from a table.
    columns: Option<(String, String)>,
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
        Ok(Self { pixels, labels, shape, n_classes, class_names: None, fit: Fit::Exact, columns: None })
    }

    /// Reads a split of a data set: parquet files as Hugging Face's `datasets` and the Hub write them, a CSV, or folders
    /// of images; [`Source`] says where they are looked for.
    ///
    /// What stands for [`Split::Train`] and [`Split::Test`] is said in the options; otherwise `train`, and `test` or, if
    /// that is not there or has no labels, `validation`. Images are PNG, JPEG, WebP, BMP, GIF (the first frame) or TIFF;
    /// an alpha channel is dropped, an EXIF orientation not applied (as in torchvision). Labels are whole numbers, or
    /// text: then the names of the classes in their sorted order count. Decoding uses all cores.
    ///
    /// # Errors
    /// Those of [`Source::open`]; [`Error::SplitNeeded`]. Every fault names the file, and where it is in a row, the row:
    /// a truncated or foreign file, a missing column, an image that cannot be decoded or has another size, a label that
    /// is null or out of range. Damage is found as far as the formats can tell: PNG and pages with a checksum protect
    /// their content, JPEG and other pages do not. [`Error::TooLarge`] before memory is taken, if the headers of the
    /// images promise more than the options allow.
    ///
    /// ```
    /// use lmht_datasets::{ImageDataset, ReadOptions, Split, sample_path};
    ///
    /// let test = ImageDataset::read(sample_path(), Split::Test, &ReadOptions::default())?;
    /// assert_eq!((test.len(), test.shape(), test.n_classes()), (2_000, (1, 28, 28), 10));
    /// # Ok::<(), lmht_datasets::Error>(())
    /// ```
    pub fn read(path: impl AsRef<Path>, split: Split, options: &ReadOptions) -> Result<Self> {
        Self::read_with(path, split, options, &|_, _| ())
    }

    /// [`read`](Self::read) that calls `progress(done, total)` from this thread as rows are decoded: first with `done` =
    /// 0, at the end with `done` = `total`, in rows of the split.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_with(
        path: impl AsRef<Path>,
        split: Split,
        options: &ReadOptions,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        Self::from_source(&Source::open(path, options)?, split, progress)
    }

    /// [`read_with`](Self::read_with) of a data set that is open already.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_source(source: &Source, split: Split, progress: &dyn Fn(usize, usize)) -> Result<Self> {
        let (tables, slice) = source.tables(split)?;
        let classes = Classes::find(source, &tables)?;
        let total = tables.iter().map(|table| table.n_rows()).fold(0, usize::saturating_add);
        let mut builder = Builder::new(&source.options, &classes, total);
        let n_bytes = tables.iter().map(|table| table.n_bytes()).fold(0, u64::saturating_add);
        builder.limit = source.options.max_decoded_bytes.unwrap_or((n_bytes.saturating_mul(MAX_RATIO)).max(1 << 30));
        if slice != WHOLE {
            builder.choice.slice = Some((slice, classes.count(&tables)?));
        }
        let mut done = 0;
        progress(done, total);
        for table in &tables {
            table.for_each_chunk(CHUNK, &mut |rows| {
                done += rows.labels.len();
                guard(&table.place(rows.first).path, || builder.push(table.as_ref(), rows))?;
                progress(done, total);
                Ok(())
            })?;
        }
        let mut data = builder.finish(source.path())?;
        let columns = tables.first().and_then(|table| table.columns());
        data.columns = columns.map(|(image, label)| (image.to_owned(), label.to_owned()));
        Ok(data)
    }

    /// What is known of images that are not in memory: of no shape yet.
    pub(crate) fn without_pixels(labels: Vec<u32>, classes: &Classes, columns: Option<(&str, &str)>) -> Self {
        Self {
            pixels: Vec::new(),
            labels,
            shape: (0, 0, 0),
            n_classes: classes.n,
            class_names: classes.names.clone(),
            fit: Fit::Exact,
            columns: columns.map(|(image, label)| (image.to_owned(), label.to_owned())),
        }
    }

    pub(crate) fn set_shape(&mut self, shape: (usize, usize, usize), fit: Fit) {
        (self.shape, self.fit) = (shape, fit);
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

    /// How images of another size came to this one.
    pub fn fit(&self) -> Fit {
        self.fit
    }

    /// The columns of images and of labels, where they came from a table.
    pub fn columns(&self) -> Option<(&str, &str)> {
        self.columns.as_ref().map(|(image, label)| (image.as_str(), label.as_str()))
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
        let (class_names, columns) = (self.class_names.clone(), self.columns.clone());
        Ok(Self { class_names, columns, fit: self.fit, ..Self::new(pixels, labels, self.shape, self.n_classes)? })
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

/// What the labels of a data set may be.
pub(crate) struct Classes {
    n: usize,
    names: Option<Vec<String>>,
    /// The label of each name, where labels are text.
    of_text: BTreeMap<String, u32>,
}

impl Classes {
    /// From the options; the metadata of the files; the card; or the labels of the training split.
    pub(crate) fn find(source: &Source, tables: &[Box<dyn Table>]) -> Result<Self> {
        let options = &source.options;
        let column = tables.iter().find_map(|table| table.columns()).map_or("label", |(_, label)| label);
        let in_files = || tables.iter().find_map(|table| table.class_names()).map(<[_]>::to_vec);
        let mut names = options.class_names.clone().or_else(in_files).or_else(|| source.card_names(column));
        // Names that do not fit the number of classes belong to something else.
        names = names.filter(|names| options.n_classes.is_none_or(|n| n == names.len()));
        let mut n = options.n_classes.or(names.as_ref().map(Vec::len));
        let mut text = BTreeSet::new();
        if names.is_none() {
            let mut largest = None;
            for table in source.tables_of_classes()? {
                for label in table.labels()? {
                    match label {
                        // What cannot be a label does not count here; reading its row will refuse it by name.
                        Label::Number(label) => largest = largest.max(u32::try_from(label).ok()),
                        Label::Text(label) => _ = text.insert(label),
                    }
                }
                if text.is_empty() && n.is_some() {
                    break;
                }
            }
            let number = || largest.map_or(1, |label| label as usize + 1);
            if text.is_empty() {
                n = n.or_else(|| Some(number()));
            } else {
                if let Some(n) = n.filter(|n| *n != text.len()) {
                    return Err(Error::Config(format!(
                        "{}: expected ReadOptions::n_classes to be the number of different labels, found {n} and {}; name \
                         them in ReadOptions::class_names",
                        source.path().display(),
                        text.len()
                    )));
                }
                names = Some(text.into_iter().collect());
                n = names.as_ref().map(Vec::len);
            }
        }
        let of_text = names.iter().flatten().cloned().zip(0..).collect();
        Ok(Self { n: n.unwrap_or(1), names, of_text })
    }

    /// The class of a label, or why it is none.
    pub(crate) fn of(&self, label: &Label, at: impl Fn() -> Place) -> Result<u32> {
        let number = match label {
            Label::Number(number) => *number,
            Label::Text(text) => {
                return self.of_text.get(text).copied().ok_or_else(|| Error::UnknownLabel {
                    at: at(),
                    label: text.clone(),
                    names: self.names.clone().unwrap_or_default(),
                });
            }
        };
        let class = u32::try_from(number).ok().filter(|label| (*label as usize) < self.n);
        class.ok_or_else(|| Error::LabelOutOfRange { at: at(), label: number, n_classes: self.n })
    }

    /// The number of images of each class.
    pub(crate) fn count(&self, tables: &[Box<dyn Table>]) -> Result<BTreeMap<u32, usize>> {
        let mut counts = BTreeMap::new();
        for table in tables {
            for (row, label) in table.labels()?.iter().enumerate() {
                *counts.entry(self.of(label, || table.place(row))?).or_default() += 1;
            }
        }
        Ok(counts)
    }
}

/// Which rows of a split are its images.
pub(crate) struct Choice {
    /// The part of each class that is kept, and how many images it has.
    pub(crate) slice: Option<(Slice, BTreeMap<u32, usize>)>,
    max_per_class: Option<usize>,
    /// Images of each class that were seen, and that were kept.
    n_of_class: BTreeMap<u32, (usize, usize)>,
}

impl Choice {
    pub(crate) fn new(options: &ReadOptions) -> Self {
        Self { slice: None, max_per_class: options.max_per_class, n_of_class: BTreeMap::new() }
    }

    /// Whether the next image of a class belongs to what is read.
    pub(crate) fn wants(&mut self, class: u32) -> bool {
        let (seen, kept) = self.n_of_class.entry(class).or_default();
        let in_slice = self.slice.as_ref().is_none_or(|((from, to), counts)| {
            let n = counts.get(&class).copied().unwrap_or(0);
            // Of 5 images, 50 % ends after 2, and the other half begins there.
            (n * from / 100..n * to / 100).contains(seen)
        });
        *seen += 1;
        let wanted = in_slice && self.max_per_class.is_none_or(|most| *kept < most);
        *kept += usize::from(wanted);
        wanted
    }
}

/// Collects decoded rows.
struct Builder<'a> {
    options: &'a ReadOptions,
    classes: &'a Classes,
    /// Rows to come at most, by the footers.
    total: usize,
    /// Bytes of pixels that may be decoded, and those of which headers were read.
    limit: u64,
    promised: u64,
    choice: Choice,
    pixels: Vec<u8>,
    labels: Vec<u32>,
    size: Option<(usize, usize)>,
    fit: Fit,
    /// 1 until an image with colour comes.
    channels: usize,
}

impl<'a> Builder<'a> {
    fn new(options: &'a ReadOptions, classes: &'a Classes, total: usize) -> Self {
        let (size, fit) = options.target();
        Self {
            options,
            classes,
            total,
            limit: u64::MAX,
            promised: 0,
            choice: Choice::new(options),
            pixels: Vec::new(),
            labels: Vec::new(),
            size,
            fit,
            channels: options.channels.unwrap_or(1),
        }
    }

    /// Checks and decodes the rows of a chunk and appends them.
    fn push(&mut self, table: &dyn Table, rows: Rows) -> Result<()> {
        let (mut kept, mut classes) = (Vec::with_capacity(rows.labels.len()), Vec::new());
        for (i, label) in rows.labels.iter().enumerate() {
            let row = rows.first + i;
            let class = self.classes.of(label, || table.place(row))?;
            if self.choice.wants(class) {
                classes.push(class);
                kept.push((row, &rows.images[i]));
            }
        }
        // Collected one by one, not as one `Result`: rayon would report any of several bad rows, we want the first.
        let headers: Vec<_> = kept.par_iter().map(|(_, encoded)| decode::header(encoded.data())).collect();
        let mut known = Vec::with_capacity(headers.len());
        for (header, (row, _)) in headers.into_iter().zip(&kept) {
            known.push(header.map_err(|refusal| refuse(table.place(*row), refusal, (0, 0)))?);
            self.check_size(&known[known.len() - 1], || table.place(*row))?;
        }
        let mut first = 0;
        while first < kept.len() {
            // As many as fit, at least one.
            let mut bytes = 0;
            let fits = |header: &&Header| {
                bytes += header.n_bytes;
                bytes <= AT_ONCE
            };
            let end = first + known[first..].iter().take_while(fits).count().max(1);
            self.decode(table, &kept[first..end], &known[first..end])?;
            first = end;
        }
        self.labels.extend(classes);
        Ok(())
    }

    /// Holds what a header promises against the size of the others and against the limits, before a pixel is decoded.
    fn check_size(&mut self, header: &Header, at: impl Fn() -> Place) -> Result<()> {
        let size = *self.size.get_or_insert(header.size);
        check_image(header, self.fit, size, self.options, &at)?;
        let kept = (size.0 as u64).saturating_mul(size.1 as u64).saturating_mul(self.channels as u64);
        self.promised = self.promised.saturating_add(header.n_bytes.max(kept));
        if self.promised > self.limit {
            let (bytes, limit, option) = (self.promised, self.limit, "max_decoded_bytes");
            return Err(Error::TooLarge { at: at(), bytes, limit, scope: "in all", option });
        }
        Ok(())
    }

    /// Decodes some images, each to its place.
    fn decode(&mut self, table: &dyn Table, images: &[(usize, &Encoded)], headers: &[Header]) -> Result<()> {
        let Some(size) = self.size else { return Ok(()) };
        let (plane, fit) = (size.0 * size.1, self.fit);
        if self.options.channels.is_none() && self.channels == 1 && headers.iter().any(|header| !header.is_gray) {
            self.become_rgb(plane)?;
        }
        let (channels, start) = (self.channels, self.pixels.len());
        let image_len = channels * plane;
        self.reserve(images.len() * image_len, image_len)?;
        self.pixels.resize(start + images.len() * image_len, 0);
        let places = self.pixels[start..].par_chunks_exact_mut(image_len);
        let results: Vec<_> = places
            .zip(images)
            .map(|(place, (_, encoded))| {
                decode::decode(encoded.data(), size, fit).map(|image| decode::write_chw(&image, channels, place))
            })
            .collect();
        for (result, (row, _)) in results.into_iter().zip(images) {
            result.map_err(|refusal| refuse(table.place(*row), refusal, size))?;
        }
        Ok(())
    }

    /// Makes room for `more` bytes, and if it can for all that is to come: growing by doubling would copy gigabytes. Only
    /// a wish, as a damaged footer can promise any number of rows.
    fn reserve(&mut self, more: usize, image_len: usize) -> Result<()> {
        if self.pixels.capacity() - self.pixels.len() >= more {
            return Ok(());
        }
        let wished = match self.options.max_per_class.is_some() || self.choice.slice.is_some() {
            true => 0,
            false => self.total.saturating_mul(image_len).saturating_sub(self.pixels.len()),
        };
        if wished > more && wished as u64 <= self.limit && self.pixels.try_reserve_exact(wished).is_ok() {
            return Ok(());
        }
        self.pixels.try_reserve(more).map_err(|_| Error::Memory { bytes: self.pixels.len().saturating_add(more) })
    }

    /// Repeats the gray planes read so far, once the first colour image shows up.
    fn become_rgb(&mut self, plane: usize) -> Result<()> {
        self.channels = 3;
        let n = self.pixels.len() / plane;
        self.reserve(2 * self.pixels.len(), 3 * plane)?;
        self.pixels.resize(3 * n * plane, 0);
        // From the last one on: what is written lies behind what is still to be read.
        for i in (0..n).rev() {
            (0..3).rev().for_each(|c| self.pixels.copy_within(i * plane..(i + 1) * plane, (3 * i + c) * plane));
        }
        Ok(())
    }

    fn finish(self, path: &Path) -> Result<ImageDataset> {
        let (Some((h, w)), false) = (self.size, self.labels.is_empty()) else {
            return Err(Error::Empty { path: path.to_path_buf() });
        };
        let names = self.classes.names.clone();
        let data = ImageDataset::new(self.pixels, self.labels, (self.channels, h, w), self.classes.n)?;
        Ok(ImageDataset { class_names: names, fit: self.fit, ..data })
    }
}

/// Holds what the header of an image promises against the size that it has to have and the limit for one image.
pub(crate) fn check_image(
    header: &Header,
    fit: Fit,
    size: (usize, usize),
    options: &ReadOptions,
    at: impl Fn() -> Place,
) -> Result<()> {
    if fit == Fit::Exact && header.size != size {
        return Err(refuse(at(), Refusal::Size(header.size), size));
    }
    let limit = options.max_image_bytes.unwrap_or(decode::MAX_IMAGE_BYTES);
    if header.n_bytes > limit {
        let (bytes, option) = (header.n_bytes, "max_image_bytes");
        return Err(Error::TooLarge { at: at(), bytes, limit, scope: "in an image", option });
    }
    Ok(())
}

/// The error for an image that is not wanted.
pub(crate) fn refuse(at: Place, refusal: Refusal, expected: (usize, usize)) -> Error {
    match refusal {
        Refusal::Decode(reason) => Error::Decode { at, reason },
        Refusal::Format(format) => Error::ImageFormat { at, format },
        Refusal::Size(found) => Error::ImageSize { at, expected, found },
    }
}
