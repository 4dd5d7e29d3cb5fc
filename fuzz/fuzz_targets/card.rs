//! Any bytes as the YAML of a data card, beside a folder of images.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lmht_datasets::{ImageDataset, ReadOptions, Split};

fuzz_target!(init: {
    lmht_fuzz::allow_caught_panics();
    lmht_fuzz::write("card/train/cat/a.png", lmht_fuzz::PNG);
    lmht_fuzz::write("card/train/dog/b.png", lmht_fuzz::PNG);
}, |bytes: &[u8]| {
    let card = lmht_fuzz::write("card/README.md", &[b"---\n", bytes, b"\n---\n"].concat());
    let _ = ImageDataset::read(card.parent().unwrap(), Split::Train, &ReadOptions::default());
});
