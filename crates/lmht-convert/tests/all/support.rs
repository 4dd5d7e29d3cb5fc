//! What the tests share.

use std::path::PathBuf;
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use lmht_convert::Model;
use lmht_nn::{Backbone, ModelConfig, Network, NeuronConfig, ParamStore};

/// A file of `fixtures/`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/all/fixtures").join(name)
}

pub(crate) fn fixture_bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).expect("a fixture")
}

/// The values of a tensor of real numbers.
pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().and_then(|flat| flat.to_dtype(DType::F64)?.to_vec1()).expect("a tensor of real numbers")
}

/// Fails unless `result` is an error that says all of `parts`.
#[track_caller]
pub(crate) fn assert_refused<T>(result: lmht_convert::Result<T>, parts: &[&str]) {
    let message = match result {
        Ok(_) => panic!("expected an error with {parts:?}"),
        Err(error) => error.to_string(),
    };
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in: {message}");
    }
}

/// The network of `fixtures/resnet20_qcfs.pth`.
pub(crate) fn qcfs() -> ModelConfig {
    let neuron = NeuronConfig::qcfs(4);
    ModelConfig { width: 1, timesteps: 1, neuron, ..ModelConfig::resnet20(3) }
}

/// A small network of a family.
pub(crate) fn small(backbone: Backbone) -> ModelConfig {
    let (width, heads) = if backbone == Backbone::Spikformer { (8, Some(2)) } else { (2, None) };
    ModelConfig { backbone, width, heads, ..ModelConfig::resnet18(10) }
}

/// A model whose tensors all have values of their own, as training gives them.
pub(crate) fn model(config: &ModelConfig, dtype: DType) -> Model {
    let params = ParamStore::new(7);
    Network::new(config, params.builder(dtype, &Device::Cpu)).expect("a valid configuration");
    let mut model = Model::of(config, &params);
    let mut names: Vec<_> = model.tensors.keys().cloned().collect();
    names.sort();
    for (i, name) in names.iter().enumerate() {
        let old = &model.tensors[name];
        let moved = Tensor::arange(0f64, old.elem_count() as f64, &Device::Cpu)
            .and_then(|xs| xs.affine(0.25, 0.5 + i as f64)?.reshape(old.dims())?.to_dtype(dtype));
        model.tensors.insert(name.clone(), moved.expect("the same shape"));
    }
    model
}

/// The bytes of a model, in the order of names.
pub(crate) fn bytes(model: &Model) -> Vec<u8> {
    let dtype = model.tensors.values().next().expect("a model has tensors").dtype();
    let (_, params) = model.build(dtype, &Device::Cpu).expect("a model that fits its configuration");
    params.to_safetensors().expect("tensors on the CPU")
}

/// A Python with torch and safetensors: `LMHT_PYTHON`, else `python3`. `None` with a printed line if there is none.
pub(crate) fn python() -> Option<Command> {
    let program = std::env::var("LMHT_PYTHON").unwrap_or_else(|_| "python3".into());
    let found = Command::new(&program).args(["-c", "import torch, safetensors"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        println!("skipped: {program} has no torch and safetensors; set LMHT_PYTHON to a Python that has");
        return None;
    }
    Some(Command::new(program))
}
