//! Any bytes as an image, for a network that takes 8x8 pixels: an error, or an input of that size.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lmht_datasets::{Fit, Normalize, Preprocessor};

static PREPROCESSOR: LazyLock<Preprocessor> =
    LazyLock::new(|| Preprocessor { fit: Fit::Cover, ..Preprocessor::new(3, (8, 8), Normalize::unit(3)) });

fuzz_target!(init: lmht_fuzz::allow_caught_panics(), |bytes: &[u8]| {
    if let Ok(input) = PREPROCESSOR.apply(bytes) {
        assert_eq!(input.dims(), [3, 8, 8]);
    }
});
