//! The sample that comes with the crate.

use std::path::PathBuf;

/// The folder of the sample: 10,000 training and 2,000 test images of Fashion-MNIST (28x28, gray, 10 classes, equally
/// many of each), as parquet in the Hugging Face layout. `README.md` there is its data card.
///
/// It is looked for in the source tree, which is the first of the current directory and those above it, of the program's
/// and those above it, that has it; cargo's `CARGO_MANIFEST_DIR` counts like the current directory. Where none has it, the
/// path is `datasets/sample`, which does not exist then: a program that is moved elsewhere brings its own data.
///
/// ```
/// assert!(lmht_datasets::sample_path().join("README.md").is_file());
/// ```
pub fn sample_path() -> PathBuf {
    let below = PathBuf::from("datasets/sample");
    let starts = [
        std::env::current_dir().ok(),
        std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from),
        std::env::current_exe().ok(),
    ];
    let folders = starts.iter().flatten().flat_map(|start| start.ancestors());
    folders.map(|folder| folder.join(&below)).find(|sample| sample.join("README.md").is_file()).unwrap_or(below)
}
