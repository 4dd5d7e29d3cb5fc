//! CIFAR's binary batches.

use std::fs;
use std::path::Path;

use lmht_datasets::{ImageDataset, ReadOptions, Split};
use tempfile::tempdir;

fn read(folder: &Path, split: Split) -> lmht_datasets::Result<ImageDataset> {
    ImageDataset::read(folder, split, &ReadOptions::default())
}

/// Records with so many labels; every pixel is another, and differs by channel.
fn batch(labels: &[&[u8]]) -> Vec<u8> {
    let pixels = |i: usize| (0..3072).map(move |at| (at * 7 + i * 13 + at / 1024 * 50) as u8);
    labels.iter().enumerate().flat_map(|(i, labels)| labels.iter().copied().chain(pixels(i))).collect()
}

#[test]
fn batches_of_cifar_are_read_as_they_are() {
    let folder = tempdir().unwrap();
    let ten = folder.path().join("ten/cifar-10-batches-bin");
    fs::create_dir_all(&ten).unwrap();
    let first = batch(&[&[3], &[9]]);
    fs::write(ten.join("data_batch_1.bin"), &first).unwrap();
    fs::write(ten.join("data_batch_2.bin"), batch(&[&[0]])).unwrap();
    fs::write(ten.join("test_batch.bin"), batch(&[&[1]])).unwrap();
    let names: Vec<String> = (0..10).map(|i| format!("class {i}")).collect();
    fs::write(ten.join("batches.meta.txt"), names.join("\n") + "\n\n").unwrap();
    let train = read(&folder.path().join("ten"), Split::Train).unwrap();
    assert_eq!((train.labels(), train.shape(), train.n_classes()), (&[3, 9, 0][..], (3, 32, 32), 10));
    assert_eq!(train.class_names().unwrap(), names);
    assert_eq!((train.image(0).unwrap(), train.image(1).unwrap()), (&first[1..3073], &first[3074..]));
    assert_eq!(read(&folder.path().join("ten"), Split::Test).unwrap().labels(), [1]);

    let hundred = folder.path().join("hundred");
    fs::create_dir(&hundred).unwrap();
    fs::write(hundred.join("train.bin"), batch(&[&[4, 99], &[19, 0]])).unwrap();
    fs::write(hundred.join("test.bin"), batch(&[&[1, 98]])).unwrap();
    assert_eq!(read(&hundred, Split::Train).unwrap().labels(), [99, 0]);
    let coarse = ReadOptions { label_column: Some("coarse_label".into()), ..ReadOptions::default() };
    assert_eq!(ImageDataset::read(&hundred, Split::Train, &coarse).unwrap().labels(), [4, 19]);

    fs::write(hundred.join("train.bin"), &first[..3000]).unwrap();
    let error = read(&hundred, Split::Train).unwrap_err().to_string();
    assert!(
        error.contains("train.bin") && error.contains("3000 bytes are no whole number of records of 3074"),
        "{error}"
    );
}
