//! MNIST's form: pairs of files, plain and packed, and what damages them.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use lmht_datasets::{Error, ImageDataset, ReadOptions, Split};
use tempfile::TempDir;

fn header(n: &[u32]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, n.len() as u8];
    n.iter().for_each(|n| bytes.extend(n.to_be_bytes()));
    bytes
}

fn images(n: u32) -> Vec<u8> {
    let mut bytes = header(&[n, 3, 2]);
    bytes.extend((0..n * 6).map(|pixel| pixel as u8));
    bytes
}

fn labels(n: u32) -> Vec<u8> {
    let mut bytes = header(&[n]);
    bytes.extend((0..n).map(|i| (i % 4) as u8));
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Ten images to learn from, packed, and five to measure on, plain.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, bytes: Vec<u8>| fs::write(folder.path().join(name), bytes).unwrap();
    write("train-images-idx3-ubyte.gz", gzip(&images(10)));
    write("train-labels-idx1-ubyte.gz", gzip(&labels(10)));
    write("t10k-images-idx3-ubyte", images(5));
    write("t10k-labels-idx1-ubyte", labels(5));
    folder
}

fn read(path: &Path, split: Split) -> Result<ImageDataset, Error> {
    ImageDataset::read(path, split, &ReadOptions::default())
}

#[test]
fn both_splits_have_their_pixels_and_labels() {
    let folder = folder();
    for (split, n) in [(Split::Train, 10), (Split::Test, 5)] {
        let data = read(folder.path(), split).unwrap();
        assert_eq!((data.len(), data.shape(), data.n_classes()), (n, (1, 3, 2), 4));
        for i in 0..n {
            assert_eq!(data.labels()[i], (i % 4) as u32);
            let pixels: Vec<u8> = (0..6).map(|pixel| (i * 6 + pixel) as u8).collect();
            assert_eq!(data.image(i), Some(&pixels[..]));
        }
    }
}

#[test]
fn a_file_that_is_there_packed_and_unpacked_counts_once() {
    let folder = folder();
    fs::write(folder.path().join("train-images-idx3-ubyte"), images(10)).unwrap();
    fs::write(folder.path().join("train-labels-idx1-ubyte"), labels(10)).unwrap();
    assert_eq!(read(folder.path(), Split::Train).unwrap().len(), 10);
}

#[test]
fn damage_is_named() {
    let cut = |mut bytes: Vec<u8>| {
        bytes.pop();
        bytes
    };
    let longer = |mut bytes: Vec<u8>| {
        bytes.push(0);
        bytes
    };
    let mut flipped = gzip(&images(5));
    let middle = flipped.len() - 6;
    flipped[middle] ^= 1;
    let huge = header(&[5, u32::MAX, u32::MAX]);
    let damages: [(&str, Vec<u8>, &str); 8] = [
        ("images-idx3", cut(images(5)), "it ends early"),
        ("images-idx3", cut(gzip(&images(5))), "it ends early"),
        ("images-idx3", longer(images(5)), "it goes on"),
        ("images-idx3", flipped, "checksum"),
        ("images-idx3", huge, "4294967295x4294967295"),
        ("images-idx3", b"PAR1 something else".to_vec(), "0x50415231"),
        ("labels-idx1", cut(labels(5)), "it ends after 4 of 5 labels"),
        ("labels-idx1", labels(6), "6 labels for the 5 images"),
    ];
    for (kind, bytes, reason) in damages {
        let folder = folder();
        let file = folder.path().join(format!("t10k-{kind}-ubyte"));
        fs::write(&file, bytes).unwrap();
        let error = read(folder.path(), Split::Test).unwrap_err();
        assert!(matches!(error, Error::Raw { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains(reason) && message.contains(&file.display().to_string()), "{message}");
        fs::remove_file(file).unwrap();
        let error = read(folder.path(), Split::Test).unwrap_err();
        assert!(!error.to_string().is_empty());
    }
}
