//! IDX, the form of MNIST and its relatives: `train-images-idx3-ubyte` beside `train-labels-idx1-ubyte`, plain or gzip.
//!
//! A file starts with two zeros, the type (8: bytes) and the number of dimensions, then each of them as 4 bytes, the most
//! significant first; what follows are the bytes themselves.
//! Source: <http://yann.lecun.com/exdb/mnist/>, "The IDX file format".

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

use super::{Encoded, Format, Label, MAX_HELD, Rows, Splits, Table, entries, name};
use crate::ReadOptions;
use crate::error::{Error, Place, Result};
use crate::split::{canonical, is_usual};

/// What the names of image files have in common; labels have `labels` and `idx1` there.
const IMAGES: [&str; 2] = ["-images-idx3-ubyte", "-images.idx3-ubyte"];
const GZIP: &str = ".gz";
/// The first two bytes of a gzip stream.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// CRC-32 of Fashion-MNIST's labels, for training and for testing: the form has no names of classes.
const FASHION: [u32; 2] = [0x2ed6_e46a, 0x242b_c73f];
const FASHION_CLASSES: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// Pairs of files of bytes.
pub(crate) struct Idx;

impl Format for Idx {
    fn takes(&self, file: &Path) -> bool {
        prefix(file).is_some()
    }

    /// `train-images-…` is `train`, `t10k-images-…` is `test`; another name stands for itself.
    fn splits(&self, folder: &Path, _options: &ReadOptions) -> Result<Splits> {
        let mut splits = Splits::new();
        for file in entries(folder)? {
            let Some(prefix) = prefix(&file) else { continue };
            // A file that lies there packed and unpacked counts once.
            let packed = name(&file).ends_with(GZIP);
            if packed && file.with_extension("").is_file() {
                continue;
            }
            let split = match prefix.as_str() {
                "t10k" => "test".to_owned(),
                usual if is_usual(usual) => canonical(usual).to_owned(),
                _ => prefix,
            };
            splits.entry(split).or_default().push(file);
        }
        Ok(splits)
    }

    fn open(&self, file: &Path, _options: &ReadOptions) -> Result<Box<dyn Table>> {
        let (n_rows, height, width) = match Stream::open(file, 3)?.dimensions[..] {
            [n_rows, height, width] => (n_rows, height, width),
            _ => unreachable!("three were asked for"),
        };
        if height == 0 || width == 0 || u64::from(height) * u64::from(width) > MAX_HELD {
            return Err(damaged(file, format!("it promises images of {width}x{height}")));
        }
        let labels = labels_of(file)?;
        let mut stream = Stream::open(&labels, 1)?;
        if stream.dimensions[0] != n_rows {
            let reason = format!("it has {} labels for the {n_rows} images of {}", stream.dimensions[0], name(file));
            return Err(damaged(&labels, reason));
        }
        let mut numbers = Vec::new();
        stream.reader.by_ref().take(u64::from(n_rows)).read_to_end(&mut numbers).map_err(|e| stream.error(e))?;
        if numbers.len() != n_rows as usize {
            return Err(damaged(&labels, format!("it ends after {} of {n_rows} labels", numbers.len())));
        }
        stream.end()?;
        let is_fashion = FASHION.contains(&crc(&numbers));
        Ok(Box::new(Pair {
            n_bytes: [file, &labels].iter().map(|file| file.metadata().map_or(0, |metadata| metadata.len())).sum(),
            class_names: is_fashion.then(|| FASHION_CLASSES.map(str::to_owned).to_vec()),
            images: file.to_path_buf(),
            labels: numbers,
            height,
            width,
        }))
    }
}

/// `train` of `train-images-idx3-ubyte.gz`.
fn prefix(file: &Path) -> Option<String> {
    let name = name(file);
    let name = name.strip_suffix(GZIP).unwrap_or(&name);
    IMAGES.iter().find_map(|ending| name.strip_suffix(ending)).map(str::to_owned)
}

/// The labels that lie beside a file of images, packed or not.
fn labels_of(images: &Path) -> Result<PathBuf> {
    let other = name(images).replace("images-idx3", "labels-idx1").replace("images.idx3", "labels.idx1");
    let plain = images.with_file_name(other.strip_suffix(GZIP).unwrap_or(&other));
    let packed = images.with_file_name(format!("{}{GZIP}", name(&plain)));
    [&plain, &packed]
        .into_iter()
        .find(|file| file.is_file())
        .cloned()
        .ok_or_else(|| damaged(images, format!("its labels, {}, plain or {GZIP}, are not beside it", name(&plain))))
}

fn damaged(path: &Path, reason: String) -> Error {
    Error::Raw { path: path.to_path_buf(), expected: "a complete IDX file", reason }
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// A file behind its header.
struct Stream {
    path: PathBuf,
    reader: Box<dyn Read>,
    dimensions: Vec<u32>,
}

impl Stream {
    fn open(path: &Path, n_dimensions: usize) -> Result<Self> {
        let open = || -> std::io::Result<Box<dyn Read>> {
            let mut magic = [0; 2];
            File::open(path)?.read_exact(&mut magic)?;
            let file = BufReader::new(File::open(path)?);
            Ok(if magic == GZIP_MAGIC { Box::new(flate2::bufread::GzDecoder::new(file)) } else { Box::new(file) })
        };
        let failed = |e| in_file(path, e);
        let mut reader = open().map_err(failed)?;
        let mut word = || -> std::io::Result<u32> {
            let mut bytes = [0; 4];
            reader.read_exact(&mut bytes).map(|()| u32::from_be_bytes(bytes))
        };
        let magic = word().map_err(failed)?;
        let expected = 0x0800 + n_dimensions as u32;
        if magic != expected {
            let reason =
                format!("it starts with {magic:#010x} where bytes in {n_dimensions} dimensions have {expected:#010x}");
            return Err(damaged(path, reason));
        }
        let dimensions = (0..n_dimensions).map(|_| word()).collect::<std::io::Result<_>>().map_err(failed)?;
        Ok(Self { path: path.to_path_buf(), reader, dimensions })
    }

    fn error(&self, error: std::io::Error) -> Error {
        in_file(&self.path, error)
    }

    /// That nothing follows; a gzip stream is held against its checksum here, too.
    fn end(&mut self) -> Result<()> {
        match self.reader.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(damaged(&self.path, "it goes on after what its header promises".to_owned())),
            Err(error) => Err(self.error(error)),
        }
    }
}

/// What a reader says of a damaged file is not the system's fault.
fn in_file(path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => damaged(path, "it ends early".to_owned()),
        ErrorKind::InvalidInput | ErrorKind::InvalidData => damaged(path, error.to_string()),
        _ => Error::Io { path: path.to_path_buf(), doing: "read the file", source: error },
    }
}

/// Images and their labels.
struct Pair {
    images: PathBuf,
    labels: Vec<u8>,
    height: u32,
    width: u32,
    n_bytes: u64,
    class_names: Option<Vec<String>>,
}

impl Table for Pair {
    fn n_rows(&self) -> usize {
        self.labels.len()
    }

    fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    fn columns(&self) -> Option<(&str, &str)> {
        None
    }

    fn class_names(&self) -> Option<&[String]> {
        self.class_names.as_deref()
    }

    fn labels(&self) -> Result<Vec<Label>> {
        Ok(self.labels.iter().map(|label| Label::Number(i64::from(*label))).collect())
    }

    /// As PNG: every image takes the same way through the decoder with its checks.
    fn read_group(&self, _group: usize, chunk: usize, visit: &mut dyn FnMut(Rows) -> Result<()>) -> Result<()> {
        let mut stream = Stream::open(&self.images, 3)?;
        let mut pixels = vec![0; self.height as usize * self.width as usize];
        let chunk = chunk.min(MAX_HELD as usize / pixels.len()).max(1);
        let labels = self.labels()?;
        for (i, labels) in labels.chunks(chunk).enumerate() {
            let mut images = Vec::with_capacity(labels.len());
            for _ in labels {
                stream.reader.read_exact(&mut pixels).map_err(|e| stream.error(e))?;
                images.push(Encoded::from(self.png(&pixels)?));
            }
            visit(Rows { first: i * chunk, images, labels: labels.to_vec() })?;
        }
        stream.end()
    }

    fn place(&self, row: usize) -> Place {
        Place { path: self.images.clone(), row: Some(row) }
    }
}

impl Pair {
    fn png(&self, pixels: &[u8]) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(pixels.len() + 128);
        PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::NoFilter)
            .write_image(pixels, self.width, self.height, ExtendedColorType::L8)
            .map_err(|e| damaged(&self.images, e.to_string()))?;
        Ok(bytes)
    }
}
