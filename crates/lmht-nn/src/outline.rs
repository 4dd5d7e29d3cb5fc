//! The tensors of a network by name and shape, without memory for them: a configuration of a few bytes can ask for more than
//! any machine has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::init::Init;
use candle_nn::var_builder::SimpleBackend;

use crate::lock::lock;
use crate::{Error, ModelConfig, Result};

/// Shapes by name.
pub(crate) type Shapes = BTreeMap<String, Vec<usize>>;

#[derive(Debug, Clone, Default)]
struct Outline(Arc<Mutex<Shapes>>);

impl SimpleBackend for Outline {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let mut shapes = lock(&self.0);
        shapes.insert(name.to_string(), shape.dims().to_vec());
        // One number that stands for all of them.
        let value = if let Init::Const(value) = init { value } else { 0. };
        Tensor::full(value, (), device)?.to_dtype(dtype)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name}: its shape is not known here")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// The tensors that the network of a configuration asks for.
pub(crate) fn shapes(config: &ModelConfig) -> Result<Shapes> {
    config.check()?;
    let outline = Outline::default();
    let vb = VarBuilder::from_backend(Box::new(outline.clone()), DType::F32, Device::Cpu);
    config.backbone.architecture().build(config, &vb)?;
    let shapes = lock(&outline.0).clone();
    Ok(shapes)
}

/// Refuses a network whose tensors this machine has no memory for.
pub(crate) fn check_memory(config: &ModelConfig, dtype: DType) -> Result<()> {
    let numbers = |dims: &Vec<usize>| dims.iter().map(|&n| n as u128).product::<u128>();
    let shapes = shapes(config)?;
    let bytes = shapes.values().map(numbers).sum::<u128>() * dtype.size_in_bytes() as u128;
    let Some(limit) = memory().filter(|&limit| bytes > u128::from(limit)) else { return Ok(()) };
    let largest = shapes.iter().max_by_key(|(_, dims)| numbers(dims)).map(|(name, dims)| format!("{name} {dims:?}"));
    let gb = |bytes: f64| format!("{:.1} GB", bytes / 1e9);
    Err(Error::Config(format!(
        "the tensors of this network take {}, the largest is {}, and this process can have {}; expected a smaller width (it is \
         {}) or fewer classes (they are {})",
        gb(bytes as f64),
        largest.unwrap_or_default(),
        gb(limit as f64),
        config.width,
        config.n_classes
    )))
}

/// Bytes that this process can have at most, where Linux says it: the memory of the machine, or the limit on its addresses.
fn memory() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    });
    let limit = std::fs::read_to_string("/proc/self/limits").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("Max address space"))?;
        line.split_whitespace().next()?.parse().ok()
    });
    machine.into_iter().chain(limit).min()
}
