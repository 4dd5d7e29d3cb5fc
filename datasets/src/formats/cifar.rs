//! The binary batches of CIFAR-10 and CIFAR-100.

use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use image::codecs::tiff::TiffEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::{Encoded, Format, Label, Rows, Splits, Table, entries, name};
use crate::ReadOptions;
use crate::error::{Error, Place, Result};

/// Bytes that a file may have; a batch of CIFAR-100 has 154 million.
const MAX_FILE: u64 = 1 << 30;

/// `data_batch_1.bin` to `_5` and `test_batch.bin`, 3073 bytes an image; `train.bin` and `test.bin`, 3074.
pub(crate) struct Cifar;

/// Bytes of pixels of a CIFAR image.
const CIFAR: usize = 3 * 32 * 32;

impl Cifar {
    /// The split of a file by its name, and how many labels are before the pixels.
    fn split(file: &Path) -> Option<(&'static str, usize)> {
        let name = name(file);
        match name.strip_suffix(".bin")? {
            "test_batch" => Some(("test", 1)),
            "train" => Some(("train", 2)),
            "test" => Some(("test", 2)),
            batch => batch.strip_prefix("data_batch_")?.parse::<u8>().ok().map(|_| ("train", 1)),
        }
    }
}

impl Format for Cifar {
    fn takes(&self, file: &Path) -> bool {
        Self::split(file).is_some()
    }

    fn splits(&self, folder: &Path, _options: &ReadOptions) -> Result<Splits> {
        let mut splits = Splits::new();
        for file in entries(folder)?.into_iter().filter(|file| file.is_file()) {
            if let Some((split, _)) = Self::split(&file) {
                splits.entry(split.to_owned()).or_default().push(file);
            }
        }
        Ok(splits)
    }

    /// CIFAR-100 has a coarse label before the fine one, which is taken unless `label_column` is `coarse_label`.
    fn open(&self, file: &Path, options: &ReadOptions) -> Result<Box<dyn Table>> {
        let n_labels = Self::split(file).map_or(1, |(_, n)| n);
        let bytes = read(file)?;
        let record = n_labels + CIFAR;
        if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
            let reason = format!("its {} bytes are no whole number of records of {record}", bytes.len());
            return Err(Error::Raw { path: file.to_path_buf(), expected: "a batch of CIFAR images", reason });
        }
        let is_coarse = options.label_column.as_deref() == Some("coarse_label");
        let (at, list) = match (n_labels, is_coarse) {
            (1, _) => (0, "batches.meta.txt"),
            (_, true) => (0, "coarse_label_names.txt"),
            (_, false) => (1, "fine_label_names.txt"),
        };
        let labels = bytes.chunks_exact(record).map(|record| Label::Number(i64::from(record[at]))).collect();
        let pixels = bytes.chunks_exact(record).flat_map(|record| &record[n_labels..]).copied().collect();
        let names = fs::read_to_string(file.with_file_name(list)).ok();
        let names =
            names.map(|text| text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect());
        Ok(Box::new(Raw { path: file.to_path_buf(), shape: (3, 32, 32), pixels, labels, names }))
    }
}

/// A whole file.
fn read(path: &Path) -> Result<Vec<u8>> {
    let io = |source| Error::Io { path: path.to_path_buf(), doing: "read the images", source };
    let mut bytes = Vec::new();
    fs::File::open(path).map_err(io)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_FILE {
        let reason = format!("it has more than {MAX_FILE} bytes");
        return Err(Error::Raw { path: path.to_path_buf(), expected: "a batch of CIFAR images", reason });
    }
    Ok(bytes)
}

/// Pixels in memory, `[N, C, H, W]`.
struct Raw {
    path: PathBuf,
    shape: (usize, usize, usize),
    pixels: Vec<u8>,
    labels: Vec<Label>,
    names: Option<Vec<String>>,
}

impl Table for Raw {
    fn n_rows(&self) -> usize {
        self.labels.len()
    }

    fn n_bytes(&self) -> u64 {
        self.pixels.len() as u64
    }

    fn columns(&self) -> Option<(&str, &str)> {
        None
    }

    fn class_names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    fn labels(&self) -> Result<Vec<Label>> {
        Ok(self.labels.clone())
    }

    /// As images that are not compressed: sizes, colours and limits are then those of all others.
    fn read_group(&self, _group: usize, chunk: usize, visit: &mut dyn FnMut(Rows) -> Result<()>) -> Result<()> {
        let (c, h, w) = self.shape;
        for (i, (labels, pixels)) in self.labels.chunks(chunk).zip(self.pixels.chunks(chunk * c * h * w)).enumerate() {
            let encode = |(row, image): (usize, &[u8])| {
                let hwc: Vec<u8> = (0..h * w).flat_map(|i| (0..c).map(move |c| image[c * h * w + i])).collect();
                let kind = if c == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
                let mut bytes = Vec::new();
                let encoder = TiffEncoder::new(Cursor::new(&mut bytes));
                encoder.write_image(&hwc, w as u32, h as u32, kind).map_err(|error| Error::Decode {
                    at: Place { path: self.path.clone(), row: Some(i * chunk + row) },
                    reason: error.to_string(),
                })?;
                Ok(Encoded::from(bytes))
            };
            let images = pixels.chunks_exact(c * h * w).enumerate().map(encode).collect::<Result<Vec<_>>>()?;
            visit(Rows { first: i * chunk, images, labels: labels.to_vec() })?;
        }
        Ok(())
    }

    fn place(&self, row: usize) -> Place {
        Place { path: self.path.clone(), row: Some(row) }
    }
}
