//! Any bytes as a parquet file of images: an error, or images of the size that was asked for with labels in range.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lmht_datasets::{ImageDataset, ReadOptions, Split};

fuzz_target!(init: lmht_fuzz::allow_caught_panics(), |bytes: &[u8]| {
    let file = lmht_fuzz::write("train.parquet", bytes);
    let options = ReadOptions { resize: Some((4, 4)), ..ReadOptions::default() };
    if let Ok(data) = ImageDataset::read(&file, Split::Train, &options) {
        let (channels, h, w) = data.shape();
        assert_eq!(data.pixels().len(), data.len() * channels * h * w);
        assert!(data.labels().iter().all(|&label| (label as usize) < data.n_classes()));
    }
});
