//! Any text as a `config.json`; what is read is the same after it was written, and is held against the weights of another
//! network without memory for what it asks for.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use candle_core::{DType, Device};
use libfuzzer_sys::fuzz_target;
use lmht_nn::ModelConfig;

static WEIGHTS: LazyLock<PathBuf> = LazyLock::new(|| {
    let (_, params) = lmht_fuzz::network();
    lmht_fuzz::write("model/model.safetensors", &params.to_safetensors().expect("tensors"))
});

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(config) = ModelConfig::from_json(text) else { return };
    assert_eq!(ModelConfig::from_json(&config.to_json()).expect("what was written is read"), config);
    let folder = WEIGHTS.parent().unwrap();
    lmht_fuzz::write("model/config.json", bytes);
    let _ = lmht_nn::from_pretrained(folder, DType::F32, &Device::Cpu);
});
