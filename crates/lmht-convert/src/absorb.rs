//! Taking constants into the weights, as hardware wants them: batch norm, and the amplitude of spikes.

use candle_core::{DType, Tensor};
use lmht_nn::graph::{Graph, Op};
use lmht_nn::layers::BatchNorm;
use lmht_nn::{Error, ModelConfig, Result};

use crate::Model;

/// Folds batch norm into the synapses before it: w' = wγ/√(σ² + ε), b' = (b - μ)γ/√(σ² + ε) + β.
///
/// The same function of an image, without batch norm: for inference. Computed in float64 and rounded once to the tensors' type.
///
/// # Errors
/// If the network has no batch norm, or its tensors do not fit its configuration (every difference is listed).
///
/// ```
/// use candle_core::{DType, Device};
/// use lmht_convert::{Model, absorb_bn};
/// use lmht_nn::{ModelConfig, Network, ParamStore};
///
/// # fn main() -> lmht_nn::Result<()> {
/// let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
/// let params = ParamStore::new(42);
/// Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
/// let folded = absorb_bn(&Model::of(&config, &params))?;
/// assert!(folded.tensors.contains_key("conv1.bias") && !folded.tensors.contains_key("bn1.bias"));
/// # Ok(()) }
/// ```
pub fn absorb_bn(model: &Model) -> Result<Model> {
    let graph = model.check()?;
    if !model.config.batch_norm {
        return Err(Error::Config("the network has no batch norm: nothing to fold".into()));
    }
    let mut tensors = model.tensors.clone();
    for node in graph.nodes.iter().filter(|node| node.op == Op::BatchNorm) {
        let synapse = &graph.nodes[node.inputs[0]].name;
        let mut take = |part: &str| -> Result<(Tensor, DType)> {
            let name = format!("{}.{part}", node.name);
            let tensor = tensors.remove(&name).ok_or_else(|| missing(&name))?;
            Ok((tensor.to_dtype(DType::F64)?, tensor.dtype()))
        };
        let ((gamma, dtype), (beta, _)) = (take("weight")?, take("bias")?);
        let ((mean, _), (var, _)) = (take("running_mean")?, take("running_var")?);
        let factor = gamma.div(&(var + BatchNorm::EPS)?.sqrt()?)?;
        let name = format!("{synapse}.weight");
        let weight = tensors.get(&name).ok_or_else(|| missing(&name))?;
        let mut per_channel = vec![1; weight.rank()];
        per_channel[0] = weight.dim(0)?;
        let folded = weight.to_dtype(DType::F64)?.broadcast_mul(&factor.reshape(per_channel)?)?;
        let dtype_of_weight = weight.dtype();
        tensors.insert(name, folded.to_dtype(dtype_of_weight)?);
        let name = format!("{synapse}.bias");
        let before = match tensors.get(&name) {
            Some(bias) => (bias.to_dtype(DType::F64)? - mean)?,
            None => mean.neg()?,
        };
        tensors.insert(name, (before.mul(&factor)? + beta)?.to_dtype(dtype)?);
    }
    Ok(Model { config: ModelConfig { batch_norm: false, ..model.config.clone() }, tensors })
}

/// Folds the amplitude θ of spikes into the weights that read them: the neurons then send s instead of s·θ, and a spike is
/// a 1. Thresholds stay as they are.
///
/// A shortcut without a convolution has no weight: it gets a factor, the tensor `shortcut_scale` of its block.
///
/// # Errors
/// If the spikes have amplitude 1 already, the network does not spike or is a Spikformer (attention multiplies spikes, and
/// no weight there stands for θ), or its tensors do not fit its configuration (every difference is listed).
///
/// ```
/// use candle_core::{DType, Device};
/// use lmht_convert::{Model, absorb_thresholds};
/// use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore};
///
/// # fn main() -> lmht_nn::Result<()> {
/// let config = ModelConfig { width: 4, neuron: NeuronConfig::lmht(4), ..ModelConfig::resnet18(10) }; // θ = 1/2
/// let params = ParamStore::new(42);
/// Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
/// let unit = absorb_thresholds(&Model::of(&config, &params))?;
/// assert_eq!(unit.tensors["layer1.0.shortcut_scale"].to_vec1::<f32>()?, [0.5]);
/// # Ok(()) }
/// ```
pub fn absorb_thresholds(model: &Model) -> Result<Model> {
    let graph = model.check()?;
    if model.config.unit_spikes {
        return Err(Error::Config("the spikes have amplitude 1 already: nothing to fold".into()));
    }
    let config = ModelConfig { unit_spikes: true, ..model.config.clone() };
    config.check()?;
    let mut tensors = model.tensors.clone();
    for node in &graph.nodes {
        match node.op {
            Op::Conv2d { .. } | Op::Linear => {
                if let Some(neuron) = sender(&graph, node.inputs[0]) {
                    let theta = amplitude(model, neuron)?;
                    let name = format!("{}.weight", node.name);
                    let weight = tensors.get(&name).ok_or_else(|| missing(&name))?;
                    let scaled = (weight.to_dtype(DType::F64)? * theta)?.to_dtype(weight.dtype())?;
                    tensors.insert(name, scaled);
                }
            }
            Op::Add => {
                for neuron in node.inputs.iter().filter_map(|&input| sender(&graph, input)) {
                    let theta = &model.tensors[&format!("{neuron}.v_threshold")];
                    tensors.insert(format!("{}.shortcut_scale", node.name), theta.clone());
                }
            }
            _ => {}
        }
    }
    Ok(Model { config, tensors })
}

/// The neuron layer whose spikes, pooled or averaged at most, a node gives; `None` for real values.
fn sender(graph: &Graph, node: usize) -> Option<&str> {
    let node = &graph.nodes[node];
    match node.op {
        Op::Neuron { .. } => Some(&node.name),
        Op::MaxPool(_) | Op::AvgPool(_) | Op::Mean | Op::Reshape => sender(graph, node.inputs[0]),
        _ => None,
    }
}

fn amplitude(model: &Model, neuron: &str) -> Result<f64> {
    let name = format!("{neuron}.v_threshold");
    let theta = model.tensors.get(&name).ok_or_else(|| missing(&name))?;
    Ok(theta.to_dtype(DType::F64)?.to_vec1::<f64>()?[0])
}

fn missing(name: &str) -> Error {
    Error::Config(format!("the tensor {name} is missing; load a whole model"))
}
