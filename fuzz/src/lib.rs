//! What reads files, a function for each fuzz target: any bytes in, and no panic.
//!
//! `fuzz_targets/` hands them to libFuzzer. `xtask/tests/damage.rs` compiles the same functions with a stable compiler and
//! calls them with the damaged files of `seeds/`.

#[path = "../../crates/lmht-convert/tests/all/archive.rs"]
#[allow(dead_code)]
mod archive;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Once};

use archive::{archive, entry};
use candle_core::{DType, Device, Tensor};
use lmht_bench::EnergyModel;
use lmht_bench::report::Report;
use lmht_convert::checkpoint::{self, ImportOptions};
use lmht_convert::{Model, nir};
use lmht_datasets::events::{self, EventOptions, Recording, SplitBy};
use lmht_datasets::{Augment, Fit, ImageDataset, Mix, Normalize, Preprocessor, ReadOptions, Split};
use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore, checksums};
use lmht_train::{Progress, RunInfo, RunRecord, TensorSource, TrainConfig, fit};
use serde::Deserialize;

/// The name of a folder in `seeds/`, and what reads such files.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("card", card),
    ("checkpoint", checkpoint_state),
    ("cifar", cifar),
    ("energy", energy),
    ("events", recordings),
    ("experiment", experiment),
    ("idx", idx),
    ("image", image),
    ("labels", labels),
    ("model", model),
    ("nir", nir_graph),
    ("parquet", parquet),
    ("preprocessor", preprocessor),
    ("pytorch", pytorch),
    ("renames", renames),
    ("report", report),
    ("safetensors", safetensors),
    ("shards", shards),
];

/// An image of 2x3 gray pixels.
const PNG: &[u8] = include_bytes!("../seeds/image/gray.png");

/// A folder of this process that inputs are written to. With `TMPDIR=/dev/shm` it is in memory.
fn folder() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = std::env::temp_dir().join(format!("lmht-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        folder
    });
    &FOLDER
}

/// Writes a file below [`folder`] and returns its path.
fn write(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(&path, bytes).expect("a file");
    path
}

/// Removes what targets have written.
pub fn clean() {
    let _ = fs::remove_dir_all(folder());
}

/// Before the first input, for libFuzzer: panics of decoders that a library catches itself are no findings. One that reaches
/// the target still is.
pub fn allow_caught_panics() {
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
}

/// A network of few tensors, and they themselves.
fn network() -> (ModelConfig, ParamStore) {
    let neuron = NeuronConfig::integrate_and_fire();
    let config = ModelConfig { width: 1, in_channels: 1, timesteps: 1, neuron, ..ModelConfig::resnet20(2) };
    let params = ParamStore::new(1);
    Network::new(&config, params.builder(DType::F32, &Device::Cpu)).expect("a network");
    (config, params)
}

/// Any bytes as an image, for a network that takes 8x8 pixels: an error, or an input of that size.
pub fn image(bytes: &[u8]) {
    let preprocessor = Preprocessor { fit: Fit::Cover, ..Preprocessor::new(3, (8, 8), Normalize::unit(3)) };
    if let Ok(input) = preprocessor.apply(bytes) {
        assert_eq!(input.dims(), [3, 8, 8]);
    }
}

fn read(path: &Path, options: &ReadOptions) {
    let Ok(data) = ImageDataset::read(path, Split::Train, options) else { return };
    let (channels, h, w) = data.shape();
    assert_eq!(data.pixels().len(), data.len() * channels * h * w);
    assert!(data.labels().iter().all(|&label| (label as usize) < data.n_classes()));
}

/// Any bytes as a parquet file of images: an error, or images of the size that was asked for with labels in range.
pub fn parquet(bytes: &[u8]) {
    let file = write("train.parquet", bytes);
    read(&file, &ReadOptions { resize: Some((4, 4)), ..ReadOptions::default() });
}

/// Any bytes as a binary batch of CIFAR.
pub fn cifar(bytes: &[u8]) {
    read(&write("cifar/train.bin", bytes), &ReadOptions { resize: Some((4, 4)), ..ReadOptions::default() });
}

/// Any bytes as IDX: the images, beside three labels that are whole.
pub fn idx(bytes: &[u8]) {
    static LABELS: Once = Once::new();
    LABELS.call_once(|| {
        write("idx/train-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x03\0\x01\0");
    });
    read(&write("idx/train-images-idx3-ubyte", bytes), &ReadOptions::default());
}

/// Any bytes as a recording of an event camera, and its frames; what has no start to be told by is `.bin`.
pub fn recordings(bytes: &[u8]) {
    let options = EventOptions { sort: true, ..EventOptions::default() };
    for (recording, _) in events::parse(bytes, "fuzz.bin", &options).unwrap_or_default() {
        if let Recording::Events(events) = recording
            && let Ok(frames) = events.frames(2, SplitBy::Time)
        {
            assert_eq!(frames.counts().iter().sum::<f32>(), events.len() as f32);
        }
    }
}

/// Any bytes as the YAML of a data card, beside a folder of images.
pub fn card(bytes: &[u8]) {
    static IMAGES: Once = Once::new();
    IMAGES.call_once(|| {
        write("card/train/cat/a.png", PNG);
        write("card/train/dog/b.png", PNG);
    });
    write("card/README.md", &[b"---\n", bytes, b"\n---\n"].concat());
    read(&folder().join("card"), &ReadOptions::default());
}

/// Any bytes as a CSV of file names and labels, beside two images.
pub fn labels(bytes: &[u8]) {
    static IMAGES: Once = Once::new();
    IMAGES.call_once(|| {
        write("labels/a.png", PNG);
        write("labels/b.png", PNG);
    });
    write("labels/train.csv", bytes);
    read(&folder().join("labels"), &ReadOptions::default());
}

/// Any text as a `preprocessor_config.json`; what is read is put to use and is the same after it was written.
pub fn preprocessor(bytes: &[u8]) {
    let Ok(preprocessor) = serde_json::from_slice::<Preprocessor>(bytes) else { return };
    let again: Preprocessor = serde_json::from_str(&preprocessor.to_json()).expect("what was written is read");
    assert_eq!(again, preprocessor);
    // Not for pixels that would take the time.
    if preprocessor.size.0.saturating_mul(preprocessor.size.1) < 1 << 16 {
        let _ = preprocessor.apply(PNG);
    }
}

/// Any text as a `config.json`; what is read is the same after it was written, and is held against the weights of another
/// network without memory for what it asks for.
pub fn model(bytes: &[u8]) {
    static WEIGHTS: Once = Once::new();
    WEIGHTS.call_once(|| {
        write("model/model.safetensors", &network().1.to_safetensors().expect("tensors"));
    });
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(config) = ModelConfig::from_json(text) else { return };
    assert_eq!(ModelConfig::from_json(&config.to_json()).expect("what was written is read"), config);
    write("model/config.json", bytes);
    let _ = lmht_nn::from_pretrained(folder().join("model"), DType::F32, &Device::Cpu);
}

/// The tables of an experiment that libraries know.
#[derive(Deserialize)]
struct Experiment {
    model: ModelConfig,
    train: TrainConfig,
    #[serde(default)]
    #[allow(dead_code)]
    data: Data,
}

#[derive(Deserialize, Default)]
#[serde(default)]
#[allow(dead_code)]
struct Data {
    parquet: ReadOptions,
    augment: Augment,
    mix: Option<Mix>,
    normalize: Option<Normalize>,
}

/// Any text as the TOML of an experiment.
pub fn experiment(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(experiment) = toml::from_str::<Experiment>(text) else { return };
    let _ = (experiment.model.check(), experiment.train.check());
}

/// Any text as the TOML of an energy model; one that is read has prices that can be computed with.
pub fn energy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(model) = EnergyModel::from_toml(text) {
        model.check().expect("it was checked");
        assert!(model.mac_pj.is_finite() && model.ac_pj.is_finite());
    }
}

/// Any text as a cost report; one that is read is shown in every form.
pub fn report(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(report) = Report::from_json(text) {
        let _ = (report.to_text_within(80), report.to_markdown(), report.layers_csv(), report.to_html());
    }
}

/// Any bytes as a NIR file: HDF5, its graph, and the replay of the graph beside the network that it was made of.
pub fn nir_graph(bytes: &[u8]) {
    static MODEL: LazyLock<(Model, Tensor)> = LazyLock::new(|| {
        let (config, params) = network();
        let tensors = params.all().into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect();
        (Model { config, tensors }, Tensor::ones((1, 1, 4, 4), DType::F32, &Device::Cpu).expect("an image"))
    });
    let (model, images) = &*MODEL;
    let _ = nir::verify(bytes, model, images);
}

/// Any bytes as the index of shards, beside two of them.
pub fn shards(bytes: &[u8]) {
    static SHARDS: Once = Once::new();
    SHARDS.call_once(|| {
        let all = network().1.all();
        for (i, part) in all.chunks(2).take(2).enumerate() {
            let tensors = part.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone()));
            write(&format!("shards/{}.safetensors", i + 1), &lmht_nn::to_safetensors(tensors).expect("tensors"));
        }
    });
    let _ = checkpoint::read(write("shards/model.safetensors.index.json", bytes));
}

/// Any text as a rename map, for the weights of a network.
pub fn renames(bytes: &[u8]) {
    static NETWORK: LazyLock<(ModelConfig, Vec<u8>)> = LazyLock::new(|| {
        let (config, params) = network();
        (config, params.to_safetensors().expect("tensors"))
    });
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(renames) = toml::from_str::<BTreeMap<String, String>>(text) else { return };
    let (config, weights) = &*NETWORK;
    let options = ImportOptions { renames, ..ImportOptions::default() };
    let _ = checkpoint::parse_for("fuzz.safetensors", weights, config, &options).map(|read| read.into_model(config));
}

/// Any bytes as the state of a checkpoint or as its optimizer's tensors, with digests that say that they are whole: a run
/// that goes on from there, or an error.
pub fn checkpoint_state(bytes: &[u8]) {
    static GOOD: LazyLock<BTreeMap<&str, Vec<u8>>> = LazyLock::new(|| {
        let run = folder().join("run");
        train(&run).expect("a run of one epoch");
        let bytes = |name| fs::read(run.join("checkpoints/epoch-0001").join(name)).expect("a checkpoint");
        ["model.safetensors", "optimizer.safetensors", "state.json", "config.json"]
            .map(|name| (name, bytes(name)))
            .into()
    });
    let mut files = GOOD.clone();
    let Some((which, bytes)) = bytes.split_first() else { return };
    files.insert(["state.json", "optimizer.safetensors"][usize::from(which % 2)], bytes.to_vec());
    let all: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, &bytes[..])).collect();
    let _ = fs::remove_dir_all(folder().join("run/checkpoints/damaged-epoch-0001"));
    for (name, bytes) in &all {
        write(&format!("run/checkpoints/epoch-0001/{name}"), bytes);
    }
    write("run/checkpoints/epoch-0001/SHA256SUMS", checksums::of(&all).as_bytes());
    let _ = train(&folder().join("run"));
}

fn train(folder: &Path) -> lmht_train::Result<()> {
    let (model, params) = network();
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

/// Any bytes as a PyTorch file: the archive, its pickle, the tensors, or the format before PyTorch 1.6. Also the pickle
/// alone, in an archive made for it, since few changes of a whole file get past the archive's checksums.
pub fn pytorch(bytes: &[u8]) {
    let read = match bytes.split_first() {
        Some((b'P' | 0x80, _)) => checkpoint::parse("fuzz.pth", bytes),
        // Two storages of zeros: a valid file for every pickle that describes one.
        Some((_, pickle)) => {
            let (first, second) = (entry("a/data/0", &[0; 64]), entry("a/data/1", &[0; 64]));
            checkpoint::parse("fuzz.pth", &archive(&[entry("a/data.pkl", pickle), first, second]))
        }
        None => return,
    };
    if let Ok(checkpoint) = read {
        for (name, tensor) in &checkpoint.tensors {
            // Each tensor has the memory that its shape asks for.
            assert!(tensor.flatten_all().is_ok(), "{name}");
        }
    }
}

/// Any bytes as a safetensors file. A file whose length is a multiple of eight, as that of a real one is, is also fitted to a
/// small network, and written for PyTorch where it fits; this costs a hundred times as much as reading.
pub fn safetensors(bytes: &[u8]) {
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
}
