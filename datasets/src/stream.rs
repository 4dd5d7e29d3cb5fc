//! [`ImageStream`]: labelled images that stay on the disk, in their files, and are decoded when a batch is made of them.
//!
//! An epoch's order is known before an image is read: the parts of all files (row groups of parquet) are shuffled, and then
//! every image is drawn from a buffer that the next one in that sequence fills up, as `datasets` and TensorFlow shuffle. It
//! depends on (seed, epoch, size of the buffer) alone. So a [`Reader`] that starts in the middle of an epoch knows which
//! images are still to come, passes over the parts that have none of them, and gives the others as if it had started at the
//! beginning.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::dataset::{Choice, Classes, ImageDataset, check_image, refuse};
use crate::decode;
use crate::error::{Error, Place, Result};
use crate::formats::Table;
use crate::guard::guard;
use crate::part::WHOLE;
use crate::random::{Purpose, below, keyed, shuffle};
use crate::{Fit, ReadOptions, Source, Split};

/// Rows read together; they are copied into the buffer one by one.
const CHUNK: usize = 64;

/// Labelled images of one size that are read from their files in every epoch, for a data set that does not fit in memory.
///
/// Held are, encoded as in the files, at most the images of the shuffle buffer, of a batch and of one part of a file: a row
/// group of parquet, an image of a folder, a whole file of CIFAR or IDX. Beside them are 20 bytes for each image of the split.
/// [`Loader::streaming`](crate::Loader::streaming) makes batches of it; without shuffling they are those of an
/// [`ImageDataset`] to the bit.
pub struct ImageStream {
    /// Everything but pixels.
    about: ImageDataset,
    options: ReadOptions,
    classes: Classes,
    tables: Vec<Box<dyn Table>>,
    /// The first row of each table, counted over all of them.
    starts: Vec<usize>,
    /// The row of each image, likewise: rows that the options leave out are no images.
    rows: Vec<usize>,
    /// Those with images, in the order of the files.
    parts: Vec<Part>,
    peak: AtomicU64,
}

/// What is read at once.
struct Part {
    table: usize,
    group: usize,
    images: Range<usize>,
}

impl ImageStream {
    /// A split of a data set whose images are not read yet, but one that tells their size.
    ///
    /// Every file is opened, its columns are found and all labels are read, so that what is wrong with them is said
    /// before the first batch; an image is checked when it is decoded. [`ReadOptions::max_decoded_bytes`] does not apply.
    ///
    /// # Errors
    /// As [`ImageDataset::read`]; [`Error::Config`] if the first image is gray and [`ReadOptions::channels`] is absent, since
    /// only reading all images would tell whether the others are.
    ///
    /// ```
    /// use lmht_datasets::{ImageStream, ReadOptions, Source, Split, sample_path};
    ///
    /// let options = ReadOptions { channels: Some(1), ..ReadOptions::default() };
    /// let test = ImageStream::open(&Source::open(sample_path(), &options)?, Split::Test)?;
    /// assert_eq!((test.len(), test.shape(), test.n_classes()), (2_000, (1, 28, 28), 10));
    /// assert_eq!(test.image(1_999)?.len(), 28 * 28);
    /// # Ok::<(), lmht_datasets::Error>(())
    /// ```
    pub fn open(source: &Source, split: Split) -> Result<Self> {
        let (tables, slice) = source.tables(split)?;
        let classes = Classes::find(source, &tables)?;
        let options = source.options.clone();
        let mut choice = Choice::new(&options);
        if slice != WHOLE {
            choice.slice = Some((slice, classes.count(&tables)?));
        }
        let (mut starts, mut rows, mut labels, mut parts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut row = 0;
        for (number, table) in tables.iter().enumerate() {
            starts.push(row);
            for (i, label) in table.labels()?.iter().enumerate() {
                let class = classes.of(label, || table.place(i))?;
                if choice.wants(class) {
                    rows.push(row + i);
                    labels.push(class);
                }
            }
            for (group, n_rows) in table.groups().into_iter().enumerate() {
                let find = |row| rows.partition_point(|known| *known < row);
                let images = find(row)..find(row + n_rows);
                row += n_rows;
                if !images.is_empty() {
                    parts.push(Part { table: number, group, images });
                }
            }
        }
        if labels.is_empty() {
            return Err(Error::Empty { path: source.path().to_path_buf() });
        }
        let columns = tables.first().and_then(|table| table.columns());
        let about = ImageDataset::without_pixels(labels, &classes, columns);
        let mut stream = Self { about, options, classes, tables, starts, rows, parts, peak: AtomicU64::new(0) };
        stream.find_shape(source.path())?;
        Ok(stream)
    }

    /// The shape of every image, from the options or the first one.
    fn find_shape(&mut self, path: &Path) -> Result<()> {
        let first = self.encoded(0)?;
        let header = guard(&first.at.path, || first.header())?;
        let channels = self.options.channels.or((!header.is_gray).then_some(3)).ok_or_else(|| {
            Error::Config(format!(
                "{}: expected ReadOptions::channels for a data set that is streamed and whose first image is gray: 1 if all \
                 are, 3 if one has colours; to find out, all would have to be read",
                path.display()
            ))
        })?;
        let (size, fit) = self.options.target();
        let size = size.unwrap_or(header.size);
        self.about.set_shape((channels, size.0, size.1), fit);
        check_image(&header, fit, size, &self.options, || first.at.clone())
    }

    /// N, the number of images.
    pub fn len(&self) -> usize {
        self.about.len()
    }

    /// Whether there is no image; never true.
    pub fn is_empty(&self) -> bool {
        self.about.is_empty()
    }

    /// (C, H, W): channels, height and width of every image.
    pub fn shape(&self) -> (usize, usize, usize) {
        self.about.shape()
    }

    /// The number of classes; labels are in `0..n_classes`.
    pub fn n_classes(&self) -> usize {
        self.about.n_classes()
    }

    /// The name of each class, where the files had them.
    pub fn class_names(&self) -> Option<&[String]> {
        self.about.class_names()
    }

    /// The label of each image, `[N]`.
    pub fn labels(&self) -> &[u32] {
        self.about.labels()
    }

    /// How images of another size come to this one.
    pub fn fit(&self) -> Fit {
        self.about.fit()
    }

    /// The pixels of image `index`, `[C, H, W]`, 0..=255. Reads the part of the file that it is in: a batch is quicker.
    ///
    /// # Errors
    /// [`Error::Config`] past the end; as [`ImageDataset::read`] for a file that is damaged.
    pub fn image(&self, index: usize) -> Result<Vec<u8>> {
        if index >= self.len() {
            return Err(Error::Config(format!("image: expected an index in 0..{}, found {index}", self.len())));
        }
        self.decode(&*self.encoded(index)?)
    }

    /// The most bytes of encoded images that any epoch has held at once so far: those in its buffer and those just read.
    pub fn peak_bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Everything but pixels.
    pub(crate) fn about(&self) -> &ImageDataset {
        &self.about
    }

    /// The parts in the order in which an epoch reads them, and the images in the order in which it sees them: those of the
    /// files unless `key`, (seed, epoch), shuffles them.
    pub(crate) fn order(&self, key: Option<(u64, u64)>, buffer: usize) -> (Vec<usize>, Vec<usize>) {
        let mut parts: Vec<usize> = (0..self.parts.len()).collect();
        let Some((seed, epoch)) = key else { return (parts, (0..self.len()).collect()) };
        let mut rng = keyed(Purpose::Order, seed, epoch, 0);
        shuffle(&mut rng, &mut parts);
        let mut images = parts.iter().flat_map(|part| self.parts[*part].images.clone());
        let mut held: Vec<usize> = images.by_ref().take(buffer).collect();
        let mut order = Vec::with_capacity(self.len());
        while !held.is_empty() {
            let drawn = below(&mut rng, held.len());
            order.push(match images.next() {
                Some(next) => std::mem::replace(&mut held[drawn], next),
                None => held.swap_remove(drawn),
            });
        }
        (parts, order)
    }

    /// Reads a part of a file and holds what is wanted of it.
    fn read(&self, part: usize, mut wants: impl FnMut(usize) -> bool, held: &mut Held) -> Result<()> {
        let Part { table: number, group, .. } = self.parts[part];
        let table = &self.tables[number];
        table.read_group(group, CHUNK, &mut |rows| {
            let read: u64 = rows.images.iter().map(|image| image.data().len() as u64).sum();
            for (row, (image, label)) in (rows.first..).zip(rows.images.iter().zip(&rows.labels)) {
                // Rows that the options leave out are no images.
                let Ok(index) = self.rows.binary_search(&(self.starts[number] + row)) else { continue };
                let at = table.place(row);
                if self.classes.of(label, || at.clone())? != self.about.labels()[index] {
                    let reason = format!("the label in row {row} is another one than when it was opened first");
                    return Err(Error::Parquet { path: at.path, reason });
                }
                if wants(index) {
                    held.n_bytes += image.data().len() as u64;
                    held.images.insert(index, Arc::new(Encoded { at, bytes: image.data().into() }));
                }
            }
            self.peak.fetch_max(held.n_bytes + read, Ordering::Relaxed);
            Ok(())
        })
    }

    /// One image, of a part that is read for it.
    fn encoded(&self, index: usize) -> Result<Arc<Encoded>> {
        let mut held = Held::default();
        let part = self.parts.partition_point(|part| part.images.end <= index);
        self.read(part, |image| image == index, &mut held)?;
        held.images.remove(&index).ok_or_else(|| self.missing(index))
    }

    /// What no table that keeps its word leads to.
    fn missing(&self, index: usize) -> Error {
        let table = self.starts.partition_point(|start| *start <= self.rows[index]) - 1;
        let row = self.rows[index] - self.starts[table];
        Error::Decode { at: self.tables[table].place(row), reason: "it is not there any more".to_owned() }
    }

    /// An image as a network takes it, before it is augmented.
    pub(crate) fn decode(&self, image: &Encoded) -> Result<Vec<u8>> {
        let ((channels, h, w), fit) = (self.shape(), self.fit());
        let at = || image.at.clone();
        guard(&image.at.path, || {
            check_image(&image.header()?, fit, (h, w), &self.options, at)?;
            let pixels = decode::decode(&image.bytes, (h, w), fit).map_err(|e| refuse(at(), e, (h, w)))?;
            let mut chw = vec![0; channels * h * w];
            decode::write_chw(&pixels, channels, &mut chw);
            Ok(chw)
        })
    }
}

impl fmt::Debug for ImageStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageStream").field("len", &self.len()).field("shape", &self.shape()).finish_non_exhaustive()
    }
}

/// An image as it is in its file.
pub(crate) struct Encoded {
    at: Place,
    /// Of its own: a slice of a page would keep the whole page.
    bytes: Box<[u8]>,
}

impl Encoded {
    fn header(&self) -> Result<decode::Header> {
        decode::header(&self.bytes).map_err(|refusal| refuse(self.at.clone(), refusal, (0, 0)))
    }
}

/// Images that are read and not used yet.
#[derive(Default)]
struct Held {
    images: HashMap<usize, Arc<Encoded>>,
    n_bytes: u64,
}

/// Reads the images of an epoch in their order.
pub(crate) struct Reader {
    stream: Arc<ImageStream>,
    /// The parts that are to be read, in their order.
    parts: std::vec::IntoIter<usize>,
    /// Which images are still to come, and are not held yet.
    wanted: Vec<bool>,
    held: Held,
}

impl Reader {
    /// For the images `order` of an epoch that reads the parts in this order; each may be there several times in a row.
    pub(crate) fn new(stream: Arc<ImageStream>, parts: Vec<usize>, order: &[usize]) -> Self {
        let mut wanted = vec![false; stream.len()];
        order.iter().for_each(|image| wanted[*image] = true);
        Self { stream, parts: parts.into_iter(), wanted, held: Held::default() }
    }

    /// The next images, and whether the last of them is wanted once more.
    pub(crate) fn take(&mut self, images: &[usize], again: bool) -> Result<Vec<Arc<Encoded>>> {
        for image in images {
            while !self.held.images.contains_key(image) {
                let wanted = &mut self.wanted;
                let part = self.parts.find(|part| wanted[self.stream.parts[*part].images.clone()].contains(&true));
                let Some(part) = part else { return Err(self.stream.missing(*image)) };
                self.stream.read(part, |image| std::mem::take(&mut wanted[image]), &mut self.held)?;
            }
        }
        let taken: Vec<_> = images.iter().filter_map(|image| self.held.images.get(image).cloned()).collect();
        let kept = images.last().filter(|_| again);
        for image in images.iter().filter(|image| Some(*image) != kept) {
            let removed = self.held.images.remove(image);
            self.held.n_bytes -= removed.map_or(0, |encoded| encoded.bytes.len() as u64);
        }
        Ok(taken)
    }
}
