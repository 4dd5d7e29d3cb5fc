//! A trained network put to use: the ResNet-20 of `docs/models`, which comes with the source, on the sample of Fashion-MNIST.
//!
//! ```console
//! $ cargo run --release -p lmht-train --features datasets --example pretrained
//! ```
//!
//! It names what images show, is measured after each timestep and counted, and is rewritten with single-threshold neurons.
//! About 40 seconds on two cores. With the feature `hub` the path may be a name of the Hugging Face Hub, `owner/name`.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use lmht_bench::{CostCounter, EnergyModel};
use lmht_convert::{Model, compare_spikes, reparameterize};
use lmht_datasets::{ImageDataset, Loader, LoaderConfig, Preprocessor, ReadOptions, Split, sample_path};
use lmht_nn::{Schedule, from_pretrained};
use lmht_train::{BatchSource, Predictor, Progress, evaluate};

type Error = Box<dyn std::error::Error>;

pub(crate) fn main() -> Result<(), Error> {
    let cpu = Device::Cpu;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/models/fashion-mnist-resnet20-L2T2");
    let (network, params) = from_pretrained(&path, DType::F32, &cpu)?;
    // The images as the network was trained to see them: its model folder says how.
    let preprocessor = Preprocessor::from_pretrained(&path)?;
    let test = ImageDataset::read(sample_path(), Split::Test, &ReadOptions::default())?;
    let test = Loader::new(Arc::new(test), &LoaderConfig::eval(100), &preprocessor.normalize, &cpu)?;

    // What images show. `Predictor::predict_file` takes a file instead.
    let predictor = Predictor::from_pretrained(&path)?;
    let first = test.batches(0, 0)?.next().ok_or("the sample has images")??;
    let labels = first.targets.labels()?.to_vec1::<u32>()?;
    for (prediction, label) in predictor.predict(&first.images.narrow(0, 0, 5)?)?.iter().zip(labels) {
        let answer = prediction.top(1)[0];
        let (said, right) = (predictor.class_name(answer.class), predictor.class_name(label as usize));
        println!("{said:<12} {:5.1} %   is {right}", 100. * answer.probability);
    }

    // How often it is right, and what that costs.
    let mut counter = CostCounter::new();
    let measured = evaluate(&network, &test, Progress::Silent, Some(&mut counter))?;
    let cost = counter.report(counter.n_images());
    for (t, top1) in measured.top1_by_timestep.iter().enumerate() {
        println!("after timestep {}                 {:6.2} %", t + 1, 100. * top1);
    }
    let energy = EnergyModel::default().energy_mj(&cost);
    println!("{:.2} M SOPs, {:.2} M MACs, {energy:.5} mJ an image (estimated)", cost.sops() / 1e6, cost.macs() / 1e6);

    // The same network for hardware whose neurons have one threshold: 2 levels over 2 timesteps become 4 timesteps.
    let single = reparameterize(&Model::of(network.config(), &params), Schedule::FrontLoaded)?;
    let (twin, _) = single.build(DType::F32, &cpu)?;
    let batches = test.batches(0, 0)?.map(|batch| {
        let batch = batch.map_err(lmht_convert::Error::data)?;
        let labels = batch.targets.labels().map_err(lmht_convert::Error::data)?.clone();
        Ok((batch.images, labels))
    });
    let spikes = compare_spikes(&network, &twin, batches)?;
    let after = evaluate(&twin, &test, Progress::Silent, None)?;
    let n_counts = spikes.layers.iter().map(|layer| layer.n_counts).sum::<u64>();
    println!("single-threshold neurons         {:6.2} %", 100. * after.top1);
    println!("spike counts that differ         {:>6} of {n_counts}", spikes.differing());

    // The front-loaded schedule changes no count; ties that float32 rounds the other way are rare.
    assert!(measured.top1 > 0.9, "the sample's test images are of the set that it was measured on");
    assert!((after.top1 - measured.top1).abs() < 0.003 && (spikes.differing() as f64) < 1e-4 * n_counts as f64);
    Ok(())
}
