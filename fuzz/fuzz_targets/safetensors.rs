//! Any bytes as a safetensors file. A file whose length is a multiple of eight, as that of a real one is, is also fitted to
//! a small network, and written for PyTorch where it fits; this costs a hundred times as much as reading.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lmht_convert::checkpoint::{self, ImportOptions};
use lmht_nn::{ModelConfig, NeuronConfig};

fuzz_target!(|bytes: &[u8]| {
    let Ok(checkpoint) = checkpoint::parse("fuzz.safetensors", bytes) else { return };
    if !bytes.len().is_multiple_of(8) {
        return;
    }
    let neuron = NeuronConfig::integrate_and_fire();
    let config = ModelConfig { width: 1, in_channels: 1, neuron, ..ModelConfig::vgg13(2) };
    // The names of wrappers, and a new head.
    let options = ImportOptions { new_head: Some(1), ..ImportOptions::default() };
    let _ = checkpoint::parse_for("fuzz.safetensors", bytes, &config, &options).map(|read| read.into_model(&config));
    let Ok(model) = checkpoint.into_model(&config) else { return };
    let tensors = checkpoint::to_published(&model).expect("a model that fits its configuration");
    for (name, tensor) in &model.tensors {
        assert_eq!(tensors[name].dims(), tensor.dims(), "{name}");
    }
});
