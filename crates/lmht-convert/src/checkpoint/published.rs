//! A model as a `state_dict` of the published networks.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lmht_nn::neurons::{Equation, Leak};
use lmht_nn::{Backbone, NeuronConfig, Tgim, atomic};

use super::save;
use crate::{Error, Model, Result};

/// A logit whose sigmoid is exactly 0, in float32 and in float64.
const LOGIT_OF_ZERO: f64 = -1000.;

/// The tensors of a model under the names of the published PyTorch networks, complete for `load_state_dict(strict=True)`.
///
/// Beside the model's own tensors these are
/// - the T-GIM copy that a neuron does not use, with the same values: `mask` `[T, T, 1, 1, 1, 1]` and `mask_linear`
///   `[T, T, 1, 1, 1]` are both in every LM-HT neuron,
/// - `num_batches_tracked` of every batch norm, an int64 0 of shape `[]`; with the fixed momentum of the published networks
///   it counts and does nothing else,
/// - for MS-ResNets the neuron `sn1`, which no current reaches: logits 0 and the threshold of the other neurons.
///
/// The entries that a causal T-GIM holds at 0 get the logit −1000, whose σ is 0.
///
/// Not in a `state_dict`, there or here: L, v(0) and the factor on the first current. They are arguments of the PyTorch
/// network.
///
/// # Errors
/// [`Error::Refused`] for a neuron that the published networks do not have, such as M-HT, LIF, and LM-HT with the identity
/// for a T-GIM. As [`Model::build`] if the tensors do not fit the configuration.
///
/// ```
/// use candle_core::{DType, Device};
/// use lmht_convert::{Model, checkpoint};
/// use lmht_nn::{ModelConfig, Network, ParamStore};
///
/// # fn main() -> lmht_convert::Result<()> {
/// let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
/// let params = ParamStore::new(42);
/// Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
/// let tensors = checkpoint::to_published(&Model::of(&config, &params))?;
/// assert_eq!(tensors["layer1.0.sn1.mask"].dims(), [2, 2, 1, 1, 1, 1]);
/// assert_eq!(tensors["layer1.0.sn1.mask_linear"].dims(), [2, 2, 1, 1, 1]);
/// assert_eq!(tensors["bn1.num_batches_tracked"].to_scalar::<i64>()?, 0);
/// # Ok(()) }
/// ```
pub fn to_published(model: &Model) -> Result<BTreeMap<String, Tensor>> {
    let config = &model.config;
    check_published(&config.neuron)?;
    if !config.batch_norm || config.unit_spikes {
        return Err(Error::Refused(
            "batch norm or θ was folded into the weights, which the published networks do not know; write the model before \
             folding"
                .into(),
        ));
    }
    // Building checks names and shapes, and gives the tensors a fixed order.
    let is_double = model.tensors.values().any(|tensor| tensor.dtype() == DType::F64);
    let dtype = if is_double { DType::F64 } else { DType::F32 };
    let (_network, params) = model.build(dtype, &Device::Cpu)?;
    let mut fitted = Model::of(config, &params);
    if config.neuron.traits().tgim == Tgim::Causal {
        set_future(&mut fitted, LOGIT_OF_ZERO)?;
    }
    let mut tensors: BTreeMap<String, Tensor> = fitted.tensors.into_iter().collect();
    let t = config.timesteps;
    let mut added = Vec::new();
    for (name, tensor) in &tensors {
        match name.rsplit_once('.') {
            Some((layer, "mask")) => added.push((format!("{layer}.mask_linear"), tensor.reshape((t, t, 1, 1, 1))?)),
            Some((layer, "mask_linear")) => added.push((format!("{layer}.mask"), tensor.reshape((t, t, 1, 1, 1, 1))?)),
            Some((layer, "running_mean")) => {
                added.push((format!("{layer}.num_batches_tracked"), Tensor::new(0i64, &Device::Cpu)?));
            }
            _ => {}
        }
    }
    if matches!(config.backbone, Backbone::MsResnet18 | Backbone::MsResnet34) {
        let threshold =
            tensors.iter().find(|(name, _)| name.ends_with(".v_threshold")).map(|(_, tensor)| tensor.clone());
        if let Some(v_threshold) = threshold {
            added.push(("sn1.v_threshold".into(), v_threshold));
        }
        if config.neuron.traits().leak == Leak::Learned {
            added.push(("sn1.alpha".into(), Tensor::zeros(1, dtype, &Device::Cpu)?));
            added.push(("sn1.mask".into(), Tensor::zeros((t, t, 1, 1, 1, 1), dtype, &Device::Cpu)?));
            added.push(("sn1.mask_linear".into(), Tensor::zeros((t, t, 1, 1, 1), dtype, &Device::Cpu)?));
        }
    }
    tensors.extend(added);
    Ok(tensors)
}

/// Refuses a neuron that the published networks do not have.
fn check_published(neuron: &NeuronConfig) -> Result<()> {
    let traits = neuron.traits();
    let is_published = match traits.equation {
        Equation::MultiThreshold => {
            let is_lmht = traits.leak == Leak::Learned && traits.tgim != Tgim::Identity;
            let is_if = traits.leak == Leak::Fixed(1.) && traits.levels == 1;
            (is_lmht || is_if) && traits.window == 1
        }
        Equation::Quantized | Equation::Analog => matches!(neuron, NeuronConfig::Qcfs(_) | NeuronConfig::Relu(_)),
        Equation::Other | Equation::Inference => false,
    };
    if is_published {
        return Ok(());
    }
    let without_tgim =
        if traits.leak == Leak::Learned && traits.tgim == Tgim::Identity { " with tgim = identity" } else { "" };
    Err(Error::Refused(format!(
        "the neuron is {}{without_tgim}, which the published networks do not have; expected LM-HT with a full or causal T-GIM, \
         IF, QCFS or ReLU. model.safetensors of a model folder has the tensors as they are",
        traits.title
    )))
}

/// Writes [`to_published`] as the file's name says, whole or not at all. The same model gives the same bytes.
///
/// A name that ends in `.pth` or `.pt` (or `.bin`, `.ckpt`) is what `torch.load(path, weights_only=True)` reads in PyTorch;
/// any other a safetensors file: `model.load_state_dict(safetensors.torch.load_file(path), strict=True)`.
///
/// # Errors
/// As [`to_published`], and [`Error::Write`] if the file cannot be written; what was there before is intact then.
pub fn write_published(path: impl AsRef<Path>, model: &Model) -> Result<()> {
    let tensors = to_published(model)?;
    let bytes = if is_torch(path.as_ref()) {
        save::archive(&tensors)?
    } else {
        // Hugging Face's readers ask who wrote the names. One entry only: safetensors writes them in hash order.
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        safetensors::serialize(tensors, Some(metadata))
            .map_err(|error| Error::Candle(candle_core::Error::wrap(error)))?
    };
    atomic::write_file(path.as_ref(), &bytes)?;
    Ok(())
}

/// Whether `torch.load` is expected to read a file of this name.
pub fn is_torch(path: &Path) -> bool {
    let endings = ["pth", "pt", "bin", "ckpt"];
    path.extension().is_some_and(|found| endings.iter().any(|ending| found.eq_ignore_ascii_case(ending)))
}

/// Sets the logits of what later timesteps give to earlier ones, in every T-GIM.
pub(super) fn set_future(model: &mut Model, logit: f64) -> Result<()> {
    let t = model.config.timesteps;
    for (name, tensor) in &mut model.tensors {
        if !matches!(name.rsplit('.').next(), Some("mask" | "mask_linear")) {
            continue;
        }
        let mut rows = tensor.reshape((t, t))?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        for (now, row) in rows.iter_mut().enumerate() {
            row[now + 1..].fill(logit);
        }
        *tensor = Tensor::new(rows, &Device::Cpu)?.to_dtype(tensor.dtype())?.reshape(tensor.dims())?;
    }
    Ok(())
}
