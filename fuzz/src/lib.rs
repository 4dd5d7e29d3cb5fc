//! What the targets share: a folder for what is read from a file, and small good networks and data.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use lmht_nn::{ModelConfig, ParamStore};

/// The only image of [`folder`]: a PNG of 2x3 gray pixels.
pub const PNG: &[u8] = include_bytes!("../seeds/image/gray.png");

/// A folder of this process that inputs are written to. With `TMPDIR=/dev/shm` it is in memory.
pub fn folder() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = std::env::temp_dir().join(format!("lmht-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        folder
    });
    &FOLDER
}

/// Writes a file below [`folder`] and returns its path.
pub fn write(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(&path, bytes).expect("a file");
    path
}

/// Panics of decoders that a library catches itself are no findings; one that reaches the target still is.
pub fn allow_caught_panics() {
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
}

/// A network of few tensors, and they themselves.
pub fn network() -> (ModelConfig, ParamStore) {
    let neuron = lmht_nn::NeuronConfig::integrate_and_fire();
    let config = ModelConfig { width: 1, in_channels: 1, timesteps: 1, neuron, ..ModelConfig::resnet20(2) };
    let params = ParamStore::new(1);
    lmht_nn::Network::new(&config, params.builder(candle_core::DType::F32, &candle_core::Device::Cpu)).expect("a network");
    (config, params)
}
