//! Any bytes as the state of a checkpoint or as its optimizer's tensors, with digests that say that they are whole: a run
//! that goes on from there, or an error.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use candle_core::{DType, Device, Tensor};
use libfuzzer_sys::fuzz_target;
use lmht_nn::{Network, checksums};
use lmht_train::{Progress, RunInfo, RunRecord, TensorSource, TrainConfig, fit};

/// A finished run of one epoch.
static RUN: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = lmht_fuzz::folder().join("run");
    train(&folder).expect("a run");
    folder
});

const FILES: [&str; 4] = ["model.safetensors", "optimizer.safetensors", "state.json", "config.json"];

fn train(folder: &std::path::Path) -> lmht_train::Result<()> {
    let (model, params) = lmht_fuzz::network();
    let network = Network::new(&model, params.builder(DType::F32, &Device::Cpu))?;
    let images = Tensor::ones((2, 1, 4, 4), DType::F32, &Device::Cpu)?;
    let labels = Tensor::new(&[0u32, 1], &Device::Cpu)?;
    let train = TensorSource::train(images.clone(), labels.clone(), 2, 1)?;
    let test = TensorSource::test(images, labels, 2)?;
    let config = TrainConfig { epochs: 1, batch_size: 2, ..TrainConfig::default() };
    let mut record = RunRecord::open(folder, &config, RunInfo::default())?;
    fit(&network, &params, &config, &train, &test, Some(&mut record), Progress::Silent)?;
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let checkpoint = RUN.join("checkpoints/epoch-0001");
    let name = if which % 2 == 0 { "state.json" } else { "optimizer.safetensors" };
    let good = std::fs::read(checkpoint.join(name)).expect("a checkpoint");
    let sign = |bytes: &[u8]| {
        std::fs::write(checkpoint.join(name), bytes).expect("a file");
        let files = FILES.map(|name| (name, std::fs::read(checkpoint.join(name)).expect("a checkpoint")));
        let files = files.each_ref().map(|(name, bytes)| (*name, &bytes[..]));
        std::fs::write(checkpoint.join(checksums::FILE), checksums::of(&files)).expect("a file");
    };
    sign(bytes);
    let _ = train(&RUN);
    // As it was, wherever the run has put it.
    if !checkpoint.exists() || std::fs::read(checkpoint.join(name)).is_ok_and(|there| there != good) {
        let damaged = RUN.join("checkpoints/damaged-epoch-0001");
        if !checkpoint.exists() {
            std::fs::rename(damaged, &checkpoint).expect("a checkpoint");
        }
        sign(&good);
    }
});
