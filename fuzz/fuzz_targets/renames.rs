//! Any text as a rename map, for the weights of a network.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lmht_convert::checkpoint::{self, ImportOptions};
use lmht_nn::ModelConfig;

static NETWORK: LazyLock<(ModelConfig, Vec<u8>)> = LazyLock::new(|| {
    let (config, params) = lmht_fuzz::network();
    (config, params.to_safetensors().expect("tensors"))
});

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(renames) = toml::from_str::<BTreeMap<String, String>>(text) else { return };
    let (config, weights) = &*NETWORK;
    let options = ImportOptions { renames, ..ImportOptions::default() };
    let _ = checkpoint::parse_for("fuzz.safetensors", weights, config, &options).map(|read| read.into_model(config));
});
