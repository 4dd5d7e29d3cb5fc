//! Any bytes as a NIR file: HDF5, its graph, and the replay of the graph beside the network that it was made of.
#![no_main]

use std::sync::LazyLock;

use candle_core::{DType, Device, Tensor};
use libfuzzer_sys::fuzz_target;
use lmht_convert::{Model, nir};

static MODEL: LazyLock<(Model, Tensor)> = LazyLock::new(|| {
    let (config, params) = lmht_fuzz::network();
    let tensors = params.all().into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect();
    let images = Tensor::ones((1, 1, 4, 4), DType::F32, &Device::Cpu).expect("an image");
    (Model { config, tensors }, images)
});

fuzz_target!(|bytes: &[u8]| {
    let (model, images) = &*MODEL;
    let _ = nir::verify(bytes, model, images);
});
