//! Any bytes as the index of shards, beside two of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lmht_convert::checkpoint;

fuzz_target!(init: {
    let (_, params) = lmht_fuzz::network();
    let all = params.all();
    let tensor = |range: std::ops::Range<usize>| {
        let tensors = all[range].iter().map(|(name, var)| (name.clone(), var.as_tensor().clone()));
        lmht_nn::to_safetensors(tensors).expect("tensors")
    };
    lmht_fuzz::write("shards/1.safetensors", &tensor(0..2));
    lmht_fuzz::write("shards/2.safetensors", &tensor(2..4));
}, |bytes: &[u8]| {
    let index = lmht_fuzz::write("shards/model.safetensors.index.json", bytes);
    let _ = checkpoint::read(index);
});
