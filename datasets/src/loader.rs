//! Seeded batches: [`Loader`] knows what an epoch looks like, [`Batches`] delivers it, prepared ahead on a thread of its
//! own.
//!
//! The order of an epoch depends on (seed, epoch) alone, what happens to an image on (seed, epoch, image) alone, and how a
//! batch is mixed on (seed, epoch, step) alone. So
//! a run that stops after any step and resumes there sees the batches that it would have seen, without replaying what
//! came before, and the number of cores changes nothing.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::dataset::{Dataset, ImageDataset};
use crate::error::{Error, Result};
use crate::mix::{self, Mix};
use crate::random::{Purpose, keyed, shuffle};
use crate::seen::{DeviceImages, Images, Seen};
use crate::stream::{ImageStream, Reader};
use crate::transform::{Augment, Cut, Normalize};

/// How images become batches.
///
/// ```
/// use lmht_datasets::{Augment, LoaderConfig};
///
/// let train = LoaderConfig { augment: Augment::cifar10(), ..LoaderConfig::train(64, 42) };
/// assert!(train.shuffle && train.drop_last);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderConfig {
    /// B, images in a batch, at least 1.
    pub batch_size: usize,
    /// A new random order in every epoch; otherwise that of the files.
    pub shuffle: bool,
    /// Leaves out the last batch of an epoch if it is smaller; otherwise it is delivered as it is.
    pub drop_last: bool,
    /// Decides order and augmentation, together with the epoch.
    pub seed: u64,
    /// Batches prepared ahead by a background thread; 0 prepares each when it is asked for.
    pub prefetch: usize,
    /// Random changes to the images.
    pub augment: Augment,
    /// (height, width) of the middle that is cut out of every image, which must be as large: torchvision's `CenterCrop`.
    /// For evaluation; not together with a resized crop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub center_crop: Option<(usize, usize)>,
    /// Mixes the images of each batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<Mix>,
    /// Repeated augmentation: how often an image is in an epoch, each time with random changes of its own, at least 1. The
    /// copies follow each other, and an epoch stays as long: it has the first N / `aug_repeats` images of its order, rounded
    /// up, and the last of them is cut short (Hoffer et al. 2020, arXiv 1901.09335). This is timm's `RepeatAugSampler` of
    /// one process with `selected_round=0`.
    #[serde(default = "once")]
    pub aug_repeats: usize,
    /// Images of an [`ImageStream`] among which the next one of an epoch is drawn, at least 1; with `shuffle` alone.
    #[serde(default = "LoaderConfig::default_shuffle_buffer")]
    pub shuffle_buffer: usize,
}

fn once() -> usize {
    1
}

impl LoaderConfig {
    /// 10,000 images.
    pub const fn default_shuffle_buffer() -> usize {
        10_000
    }

    /// For training: shuffled by `seed`, only whole batches, two ahead, no augmentation yet.
    pub fn train(batch_size: usize, seed: u64) -> Self {
        Self { shuffle: true, drop_last: true, seed, ..Self::eval(batch_size) }
    }

    /// For evaluation: every image once, in the order of the files, normalized and nothing else, two batches ahead.
    pub fn eval(batch_size: usize) -> Self {
        Self {
            batch_size,
            shuffle: false,
            drop_last: false,
            seed: 0,
            prefetch: 2,
            augment: Augment::default(),
            center_crop: None,
            mix: None,
            aug_repeats: 1,
            shuffle_buffer: Self::default_shuffle_buffer(),
        }
    }
}

/// Images and labels of one step.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The batch's number in its epoch, from 0.
    pub step: usize,
    /// Normalized images, `f32`, `[B, C, H, W]`, or frames `[T, B, C, H, W]`.
    pub images: Tensor,
    /// Classes, `u32`, `[B]`.
    pub labels: Tensor,
    /// Distributions over the classes, `f32`, `[B, K]`, if the batch is mixed; the labels are then those of the images
    /// themselves.
    pub targets: Option<Tensor>,
    /// Which images of the data set these are, `[B]`.
    pub indices: Vec<usize>,
}

/// Makes the batches of any epoch of a data set.
///
/// ```
/// use std::sync::Arc;
///
/// use candle_core::Device;
/// use lmht_datasets::{ImageDataset, Loader, LoaderConfig, Normalize};
///
/// // Five images of one channel, two rows, three columns.
/// let data = Arc::new(ImageDataset::new((0..30).collect(), vec![0, 1, 0, 1, 0], (1, 2, 3), 2)?);
/// let loader = Loader::new(data, &LoaderConfig::eval(2), &Normalize::unit(1), &Device::Cpu)?;
/// let mut sizes = Vec::new();
/// for batch in loader.epoch(0)? {
///     sizes.push(batch?.images.dim(0)?);
/// }
/// assert_eq!(sizes, [2, 2, 1]);
/// # Ok::<(), lmht_datasets::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Loader {
    data: Arc<dyn Dataset>,
    /// The images, where it is a loader of these.
    images: Option<Arc<Seen>>,
    config: LoaderConfig,
    normalize: Normalize,
    device: Device,
    sends_bytes: bool,
    /// The images on the device, once they were asked for, or why they are not there.
    there: Arc<OnceLock<std::result::Result<DeviceImages, String>>>,
}

impl Loader {
    /// A loader of `data` whose tensors are on `device`.
    ///
    /// # Errors
    /// [`Error::Config`] if the batch size is 0, if it is more than the images while smaller batches are dropped, if
    /// `normalize` has another number of channels, a standard deviation that is not above 0, or if the augmentation
    /// does not fit the size of the images.
    pub fn new(data: Arc<ImageDataset>, config: &LoaderConfig, normalize: &Normalize, device: &Device) -> Result<Self> {
        Self::of_images(Images::Memory(data), config, normalize, device)
    }

    /// A loader of images that are read from their files in every epoch. With `shuffle`, the parts of all files (row groups
    /// of parquet) are shuffled, and every image is then drawn from the next [`LoaderConfig::shuffle_buffer`] ones that were
    /// not yet; with as many as there are images, every order is equally likely, but is another one than that of images in
    /// memory. Without, batches are those of images in memory to the bit.
    ///
    /// An epoch that starts in its middle reads only the parts of files that images still to come are in.
    ///
    /// ```
    /// use candle_core::Device;
    /// use lmht_datasets::{ImageStream, Loader, LoaderConfig, Normalize, ReadOptions, Source, Split, sample_path};
    ///
    /// let options = ReadOptions { channels: Some(1), ..ReadOptions::default() };
    /// let train = ImageStream::open(&Source::open(sample_path(), &options)?, Split::Train)?;
    /// let config = LoaderConfig { shuffle_buffer: 1_000, ..LoaderConfig::train(64, 42) };
    /// let loader = Loader::streaming(train.into(), &config, &Normalize::unit(1), &Device::Cpu)?;
    /// let whole = loader.epoch(3)?.nth(100).unwrap()?;
    /// let resumed = loader.epoch_from(3, 100)?.next().unwrap()?;
    /// assert_eq!(resumed.indices, whole.indices);
    /// # Ok::<(), lmht_datasets::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Loader::new`]; [`Error::Config`] for a shuffle buffer of no image. What is wrong with an image is an error of the
    /// batch that it is in.
    pub fn streaming(
        data: Arc<ImageStream>,
        config: &LoaderConfig,
        normalize: &Normalize,
        device: &Device,
    ) -> Result<Self> {
        if config.shuffle_buffer == 0 {
            return Err(Error::Config("LoaderConfig::shuffle_buffer: expected at least 1, found 0".to_owned()));
        }
        Self::of_images(Images::Disk(data), config, normalize, device)
    }

    fn of_images(images: Images, config: &LoaderConfig, normalize: &Normalize, device: &Device) -> Result<Self> {
        let (c, h, w) = images.about().shape();
        check_batches(config, images.about().len())?;
        normalize.check(c)?;
        if let Some((rows, columns)) = config.center_crop {
            if !(1..=h).contains(&rows) || !(1..=w).contains(&columns) {
                return Err(Error::Config(format!(
                    "LoaderConfig::center_crop: expected at most the size of the {h}x{w} images, found {rows}x{columns}; \
                     ReadOptions::cover makes larger ones"
                )));
            }
            if config.augment.resized_crop.is_some() {
                return Err(Error::Config(
                    "LoaderConfig: expected center_crop or Augment::resized_crop, found both; the one is for evaluation, \
                     the other for training"
                        .to_owned(),
                ));
            }
        }
        let (h, w) = config.center_crop.unwrap_or((h, w));
        config.augment.check((c, h, w))?;
        let (augment, center_crop, table) = (config.augment, config.center_crop, normalize.table());
        let seen = Arc::new(Seen { images, augment, center_crop, table });
        Ok(Self {
            data: seen.clone(),
            images: Some(seen),
            config: config.clone(),
            normalize: normalize.clone(),
            device: device.clone(),
            sends_bytes: !device.is_cpu(),
            there: Arc::default(),
        })
    }

    /// A loader of any data set, whose examples are what it writes. What a configuration says of images has to be absent.
    ///
    /// # Errors
    /// [`Error::Config`] as [`Loader::new`]; if the configuration has a crop or an augmentation of images; if the examples
    /// are neither `[C, H, W]` nor `[T, C, H, W]`.
    pub fn of(data: Arc<dyn Dataset>, config: &LoaderConfig, device: &Device) -> Result<Self> {
        check_batches(config, data.len())?;
        if config.augment != Augment::default() || config.center_crop.is_some() {
            return Err(Error::Config(
                "LoaderConfig: expected no augment and no center_crop for a data set that is none of images, found some; \
                 they change images"
                    .to_owned(),
            ));
        }
        let dims = data.dims();
        if ![3, 4].contains(&dims.len()) || dims.contains(&0) || data.is_empty() {
            return Err(Error::Config(format!(
                "expected at least one example of shape [C, H, W] or [T, C, H, W], found {} of {dims:?}",
                data.len()
            )));
        }
        let normalize = Normalize::unit(dims[dims.len() - 3]);
        let (config, device) = (config.clone(), device.clone());
        Ok(Self { data, images: None, config, normalize, device, sends_bytes: false, there: Arc::default() })
    }

    /// The same loader whose images travel to the device as bytes, a quarter of the numbers, and are normalized there: the
    /// same bits. One for another device than the CPU does so by itself; mixed batches are numbers before they travel.
    ///
    /// ```
    /// use candle_core::Device;
    /// use lmht_datasets::{ImageDataset, Loader, LoaderConfig, Normalize};
    ///
    /// let data = ImageDataset::new(vec![0, 51, 255, 102], vec![0], (1, 2, 2), 1)?;
    /// let loader = Loader::new(data.into(), &LoaderConfig::eval(1), &Normalize::unit(1), &Device::Cpu)?.sending_bytes();
    /// let batch = loader.epoch(0)?.next().expect("a batch")?;
    /// assert_eq!(batch.images.flatten_all()?.to_vec1::<f32>()?, [0., 0.2, 1., 0.4]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sending_bytes(self) -> Self {
        Self { sends_bytes: true, ..self }
    }

    /// The images on the device, for one that makes batches of them by itself, with [`choices`](Self::choices); they are
    /// copied there at the first call, for all clones of the loader. Or why that is not possible, in words: where a batch is
    /// more than pixels that move, or the images have more than 2³¹ - 1 bytes, or the device has no memory for them.
    pub fn on_device(&self) -> std::result::Result<&DeviceImages, &str> {
        let make = || match (&self.images, &self.config.mix) {
            (None, _) => Err("they are recordings, or of a data set of one's own".to_owned()),
            (_, Some(_)) => Err("images are mixed after they are normalized".to_owned()),
            _ if self.config.aug_repeats > 1 => Err("copies of an image change each in its own way".to_owned()),
            (Some(seen), None) => DeviceImages::new(seen, &self.device),
        };
        self.there.get_or_init(make).as_ref().map_err(String::as_str)
    }

    /// What happens to the images `indices` in `epoch`, if nothing but pixels move, `u32` on the device, `[9, B]`: the image;
    /// how many rows down and columns right of its place a pixel comes from, wrapping below 0; whether right and left change
    /// places after that; the first row that is 0 and the one behind the last; columns likewise; the label.
    ///
    /// [`Self::epoch`] makes its batches by the same choices.
    ///
    /// # Errors
    /// [`Error::Config`] if an index is beyond the data, or [`on_device`](Self::on_device) says that more than pixels move.
    pub fn choices(&self, epoch: u64, indices: &[usize]) -> Result<Tensor> {
        let (Some(seen), Ok(_)) = (&self.images, self.on_device()) else {
            return Err(Error::Config("Loader::choices: expected a loader whose images are on the device".to_owned()));
        };
        if let Some(index) = indices.iter().find(|index| **index >= self.data.len()) {
            let n = self.data.len();
            return Err(Error::Config(format!("Loader::choices: expected indices below {n}, found {index}")));
        }
        let (b, labels) = (indices.len(), self.data.labels());
        let mut rows = vec![0; 9 * b];
        for (at, &index) in indices.iter().enumerate() {
            let choices = seen.view(index, (self.config.seed, epoch)).choices();
            let numbers = [index as u32].into_iter().chain(choices).chain([labels[index]]);
            numbers.enumerate().for_each(|(row, number)| rows[row * b + at] = number);
        }
        Ok(Tensor::from_vec(rows, (9, b), &self.device)?)
    }

    /// (height, width) of the images in a batch.
    pub fn size(&self) -> (usize, usize) {
        let dims = self.data.dims();
        (dims[dims.len() - 2], dims[dims.len() - 1])
    }

    /// The examples.
    pub fn data(&self) -> &dyn Dataset {
        &*self.data
    }

    /// The images as they are in memory, if it is a loader of such.
    pub fn images(&self) -> Option<&ImageDataset> {
        match &self.images.as_deref()?.images {
            Images::Memory(data) => Some(data),
            Images::Disk(_) => None,
        }
    }

    /// The images on the disk, if it is a loader of such.
    pub fn stream(&self) -> Option<&Arc<ImageStream>> {
        match &self.images.as_deref()?.images {
            Images::Memory(_) => None,
            Images::Disk(stream) => Some(stream),
        }
    }

    /// What is known of the images, if it is a loader of images.
    pub(crate) fn about(&self) -> Option<&ImageDataset> {
        self.images.as_deref().map(|seen| seen.images.about())
    }

    /// Where the tensors are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How they become batches.
    pub fn config(&self) -> &LoaderConfig {
        &self.config
    }

    /// How pixels are normalized.
    pub fn normalize(&self) -> &Normalize {
        &self.normalize
    }

    /// Batches, and so training steps, in an epoch.
    pub fn n_batches(&self) -> usize {
        match self.config.drop_last {
            true => self.data.len() / self.config.batch_size,
            false => self.data.len().div_ceil(self.config.batch_size),
        }
    }

    /// The images of `epoch` in their order, `[N]`, batches not yet cut.
    pub fn order(&self, epoch: u64) -> Vec<usize> {
        self.parts_and_order(epoch).1
    }

    /// The parts of the files in the order in which they are read, if they are, and the images in theirs.
    fn parts_and_order(&self, epoch: u64) -> (Vec<usize>, Vec<usize>) {
        let LoaderConfig { shuffle: shuffled, seed, aug_repeats, shuffle_buffer, .. } = self.config;
        let (parts, mut order) = match self.stream() {
            Some(stream) => stream.order(shuffled.then_some((seed, epoch)), shuffle_buffer),
            None => (Vec::new(), (0..self.data.len()).collect()),
        };
        if shuffled && self.stream().is_none() {
            shuffle(&mut keyed(Purpose::Order, seed, epoch, 0), &mut order);
        }
        if aug_repeats > 1 {
            order = (0..order.len()).map(|place| order[place / aug_repeats]).collect();
        }
        (parts, order)
    }

    /// The batches of `epoch`.
    ///
    /// # Errors
    /// [`Error::Io`] if the system has no thread to prepare them on.
    pub fn epoch(&self, epoch: u64) -> Result<Batches> {
        self.epoch_from(epoch, 0)
    }

    /// The batches of `epoch` from number `step` on, each as it would be in the whole epoch; none if `step` is the
    /// number of batches.
    ///
    /// # Errors
    /// [`Error::Config`] if `step` is more than that; [`Error::Io`] if the system has no thread to prepare them on.
    pub fn epoch_from(&self, epoch: u64, step: usize) -> Result<Batches> {
        let end = self.n_batches();
        if step > end {
            return Err(Error::Config(format!("expected to start at a step in 0..={end} of the epoch, found {step}")));
        }
        let mut plan = Plan::new(self, epoch, step);
        let ahead = self.config.prefetch.min(end - step);
        let source = if ahead == 0 {
            Source::Here(Box::new(plan))
        } else {
            // The thread holds one finished batch in its hands while the channel is full.
            let (sender, receiver) = sync_channel(ahead - 1);
            let work = move || {
                for step in step..end {
                    // On CUDA each thread has a stream of its own: what this one has begun is to have ended before
                    // another one reads it.
                    let batch = plan.batch(step).and_then(|batch| {
                        plan.loader.device.synchronize()?;
                        Ok(batch)
                    });
                    let failed = batch.is_err();
                    // Sending fails when the receiver is gone: nobody wants the rest.
                    if sender.send(batch).is_err() || failed {
                        return;
                    }
                }
            };
            let thread = thread::Builder::new().name("lmht-batches".to_owned()).spawn(work).map_err(|source| {
                Error::Io { path: "lmht-batches".into(), doing: "start the thread that prepares batches", source }
            })?;
            Source::Ahead { receiver: Some(receiver), thread: Some(thread) }
        };
        Ok(Batches { next: step, end, source })
    }
}

/// Checks what a configuration says of batches of `n` examples.
fn check_batches(config: &LoaderConfig, n: usize) -> Result<()> {
    if config.batch_size == 0 {
        return Err(Error::Config("LoaderConfig::batch_size: expected at least 1, found 0".to_owned()));
    }
    if config.drop_last && config.batch_size > n {
        return Err(Error::Config(format!(
            "LoaderConfig::batch_size: expected at most the {n} images of the data set, found {}; no batch would be left \
             with drop_last",
            config.batch_size
        )));
    }
    if config.aug_repeats == 0 {
        return Err(Error::Config("LoaderConfig::aug_repeats: expected at least 1, found 0".to_owned()));
    }
    config.mix.as_ref().map_or(Ok(()), |mix| mix.check())
}

/// What is left of an epoch.
struct Plan {
    loader: Loader,
    order: Vec<usize>,
    /// Of images on the disk.
    reader: Option<Reader>,
    epoch: u64,
}

impl Plan {
    /// The batches from number `step` on.
    fn new(loader: &Loader, epoch: u64, step: usize) -> Self {
        let (parts, mut order) = loader.parts_and_order(epoch);
        let b = loader.config.batch_size;
        // What no batch has is not read.
        order.truncate(loader.n_batches().saturating_mul(b));
        let reader =
            loader.stream().map(|stream| Reader::new(stream.clone(), parts, &order[(step * b).min(order.len())..]));
        Self { loader: loader.clone(), order, reader, epoch }
    }

    /// Makes batch `step`, the next one, on all cores.
    fn batch(&mut self, step: usize) -> Result<Batch> {
        let Loader { data, images: seen, config, device, normalize, sends_bytes, .. } = &self.loader;
        let start = step * config.batch_size;
        let indices = &self.order[start..(start + config.batch_size).min(self.order.len())];
        let again = self.order.get(start + indices.len()) == indices.last();
        let read = self.reader.as_mut().map_or(Ok(Vec::new()), |reader| reader.take(indices, again))?;
        let labels: Vec<u32> = indices.iter().map(|index| data.labels()[*index]).collect();
        let (dims, size) = (data.dims(), self.loader.size());
        // A copy of an image changes as the image would in an epoch that no run comes to.
        let key = |i: usize| (config.seed, self.epoch | (((start + i) % config.aug_repeats) as u64) << 32);
        let b = indices.len();
        let shape = [&[b], &dims[..]].concat();
        let mut targets = None;
        let images = match seen {
            Some(seen) if *sends_bytes && config.mix.is_none() => {
                let same: [u8; 256] = std::array::from_fn(|byte| byte as u8);
                let same = vec![same; dims[0]];
                let render = |i: usize, out: &mut [u8]| {
                    seen.render(indices[i], read.get(i).map(|read| &**read), key(i), &same, out)
                };
                let (bytes, cuts) = each(b, &dims, render)?;
                normalized(&Tensor::from_vec(bytes, shape, device)?, &normalize.table(), &cuts)?
            }
            _ => {
                let write = |i: usize, out: &mut [f32]| match (seen, read.get(i)) {
                    (Some(seen), Some(read)) => {
                        seen.render(indices[i], Some(read), key(i), &seen.table, out).map(|_| ())
                    }
                    _ => data.write(indices[i], key(i), out),
                };
                let (mut images, _) = each(b, &dims, write)?;
                if let Some(mix) = &config.mix {
                    let mixtures = mix.draw(b, size, config.seed, self.epoch, step);
                    let mixed = mix::apply(&mixtures, &mut images, &labels, size, data.n_classes());
                    targets = Some(Tensor::from_vec(mixed, (b, data.n_classes()), device)?);
                }
                Tensor::from_vec(images, shape, device)?
            }
        };
        // Time comes first.
        let images = if dims.len() == 4 { images.transpose(0, 1)?.contiguous()? } else { images };
        Ok(Batch { step, images, labels: Tensor::from_vec(labels, b, device)?, targets, indices: indices.to_vec() })
    }
}

/// `n` examples of these dimensions one after the other, made on all cores, and what `write` returned of each; the error of
/// the first one that has any.
fn each<T, R>(n: usize, dims: &[usize], write: impl Fn(usize, &mut [T]) -> Result<R> + Sync) -> Result<(Vec<T>, Vec<R>)>
where
    T: Copy + Default + Send,
    R: Send,
{
    let len: usize = dims.iter().product();
    let mut examples = vec![T::default(); n * len];
    // Small images go to a core several at a time: handing out one costs more than a small one takes.
    let at_once = (1 << 14) / len + 1;
    let rows = examples.par_chunks_exact_mut(len).enumerate().with_min_len(at_once);
    let returned: Vec<_> = rows.map(|(i, out)| write(i, out)).collect();
    Ok((examples, returned.into_iter().collect::<Result<_>>()?))
}

/// Bytes `[B, C, H, W]` by the table of each channel, looked up where they are; what is cut out is 0.
fn normalized(bytes: &Tensor, table: &[[f32; 256]], cuts: &[Option<Cut>]) -> candle_core::Result<Tensor> {
    let ((b, c, h, w), device) = (bytes.dims4()?, bytes.device());
    let table = Tensor::from_slice(table.as_flattened(), c * 256, device)?;
    let firsts: Vec<u32> = (0..c as u32).map(|channel| channel * 256).collect();
    let places = bytes.to_dtype(DType::U32)?.broadcast_add(&Tensor::from_vec(firsts, (1, c, 1, 1), device)?)?;
    let images = table.index_select(&places.flatten_all()?, 0)?.reshape((b, c, h, w))?;
    if cuts.iter().all(Option::is_none) {
        return Ok(images);
    }
    let mut is_cut = vec![0u8; b * h * w];
    for (is_cut, cut) in is_cut.chunks_exact_mut(h * w).zip(cuts) {
        let Some(((top, bottom), (left, right))) = *cut else { continue };
        for row in is_cut.chunks_exact_mut(w).take(bottom).skip(top) {
            row[left..right].fill(1);
        }
    }
    let is_cut = Tensor::from_vec(is_cut, (b, 1, h, w), device)?.broadcast_as(images.shape())?.contiguous()?;
    is_cut.where_cond(&images.zeros_like()?, &images)
}

/// Where batches come from.
enum Source {
    Here(Box<Plan>),
    Ahead { receiver: Option<Receiver<Result<Batch>>>, thread: Option<JoinHandle<()>> },
}

/// The batches of an epoch, in order; after an error there are no more.
///
/// Dropping it before the end stops the thread behind it and waits for the batch that is being made, no longer.
pub struct Batches {
    next: usize,
    end: usize,
    source: Source,
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.end {
            return None;
        }
        let batch = match &mut self.source {
            Source::Here(plan) => plan.batch(self.next),
            Source::Ahead { receiver, thread } => match receiver.as_ref().and_then(|batches| batches.recv().ok()) {
                Some(batch) => batch,
                // Without a word, which only a panic explains.
                None => Err(Error::Prefetch {
                    step: self.next,
                    reason: match thread.take().map(JoinHandle::join) {
                        Some(Err(panic)) => panic
                            .downcast_ref::<String>()
                            .cloned()
                            .or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()))
                            .unwrap_or_else(|| "it panicked".to_owned()),
                        _ => "it sent nothing".to_owned(),
                    },
                }),
            },
        };
        self.next = if batch.is_ok() { self.next + 1 } else { self.end };
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // An error ends the epoch early.
        (usize::from(self.next < self.end), Some(self.end - self.next))
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        if let Source::Ahead { receiver, thread } = &mut self.source {
            // First the receiver, or the thread would wait for ever to send into a full channel.
            drop(receiver.take());
            if let Some(thread) = thread.take() {
                // A panic there has been reported by its hook, and nobody waits for its batch any more.
                let _ = thread.join();
            }
        }
    }
}

impl std::fmt::Debug for Batches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batches").field("next", &self.next).field("end", &self.end).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_thread_is_an_error_and_the_end() {
        let (sender, receiver) = sync_channel(0);
        let thread = thread::spawn(move || {
            let _sender: std::sync::mpsc::SyncSender<Result<Batch>> = sender;
            panic!("out of luck");
        });
        let source = Source::Ahead { receiver: Some(receiver), thread: Some(thread) };
        let mut batches = Batches { next: 4, end: 9, source };
        let error = batches.next().unwrap().unwrap_err();
        assert!(matches!(&error, Error::Prefetch { step: 4, reason } if reason == "out of luck"), "{error}");
        assert!(batches.next().is_none());
    }
}
