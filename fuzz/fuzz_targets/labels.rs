//! Any bytes as a CSV of file names and labels, beside two images.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lmht_datasets::{ImageDataset, ReadOptions, Split};

fuzz_target!(init: {
    lmht_fuzz::allow_caught_panics();
    lmht_fuzz::write("labels/a.png", lmht_fuzz::PNG);
    lmht_fuzz::write("labels/b.png", lmht_fuzz::PNG);
}, |bytes: &[u8]| {
    let table = lmht_fuzz::write("labels/train.csv", bytes);
    if let Ok(data) = ImageDataset::read(table.parent().unwrap(), Split::Train, &ReadOptions::default()) {
        assert!(data.labels().iter().all(|&label| (label as usize) < data.n_classes()));
    }
});
