//! The sample that comes with the crate.

use std::path::PathBuf;

/// The folder of the sample: 10,000 training and 2,000 test images of Fashion-MNIST (28x28, gray, 10 classes, equally
/// many of each), as parquet in the Hugging Face layout. `README.md` there is its data card.
///
/// The path is that of the source tree in which the crate was compiled; a program that is moved elsewhere without it
/// brings its own data.
///
/// ```
/// assert!(lmht_datasets::sample_path().join("README.md").is_file());
/// ```
pub fn sample_path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/sample"))
}
