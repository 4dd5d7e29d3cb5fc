//! Taking constants into the weights, as hardware wants them: batch norm, and the amplitude of spikes.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Tensor};
use lmht_nn::ModelConfig;
use lmht_nn::layers::BatchNorm;
use lmht_nn::neurons::Equation;
use lmht_nn::trace::{Op, Trace};

use crate::layers::{called, missing, outline, path};
use crate::{Error, Model, Result};

/// Folds batch norm into the synapses before it: w' = wγ/√(σ² + ε), b' = (b - μ)γ/√(σ² + ε) + β.
///
/// The same function of an image, without batch norm: for inference. Computed in float64 and rounded once to the tensors' type.
///
/// # Errors
/// [`Error::Refused`] if the network has no batch norm, or one does not follow a synapse that feeds nothing else; a synapse
/// that is gone through more than once must have the same batch norm behind it each time. If the tensors do not fit the
/// configuration (every difference is listed).
///
/// ```
/// use candle_core::{DType, Device};
/// use lmht_convert::{Model, absorb_bn};
/// use lmht_nn::{ModelConfig, Network, ParamStore};
///
/// # fn main() -> lmht_convert::Result<()> {
/// let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
/// let params = ParamStore::new(42);
/// Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
/// let folded = absorb_bn(&Model::of(&config, &params))?;
/// assert!(folded.tensors.contains_key("conv1.bias") && !folded.tensors.contains_key("bn1.bias"));
/// # Ok(()) }
/// ```
pub fn absorb_bn(model: &Model) -> Result<Model> {
    let trace = model.layers()?;
    if !model.config.batch_norm {
        return Err(Error::Refused("the network has no batch norm: nothing to fold".into()));
    }
    let mut tensors = model.tensors.clone();
    for (norm, synapse) in norms(&trace)? {
        let mut take = |part: &str| -> Result<(Tensor, DType)> {
            let name = path(&norm, part);
            let tensor = tensors.remove(&name).ok_or_else(|| missing(&name))?;
            Ok((tensor.to_dtype(DType::F64)?, tensor.dtype()))
        };
        let ((gamma, dtype), (beta, _)) = (take("weight")?, take("bias")?);
        let ((mean, _), (var, _)) = (take("running_mean")?, take("running_var")?);
        let factor = gamma.div(&(var + BatchNorm::EPS)?.sqrt()?)?;
        let name = path(&synapse, "weight");
        let weight = tensors.get(&name).ok_or_else(|| missing(&name))?;
        let mut per_channel = vec![1; weight.rank()];
        per_channel[0] = weight.dim(0)?;
        let folded = weight.to_dtype(DType::F64)?.broadcast_mul(&factor.reshape(per_channel)?)?;
        let dtype_of_weight = weight.dtype();
        tensors.insert(name, folded.to_dtype(dtype_of_weight)?);
        let name = path(&synapse, "bias");
        let before = match tensors.get(&name) {
            Some(bias) => (bias.to_dtype(DType::F64)? - mean)?,
            None => mean.neg()?,
        };
        tensors.insert(name, (before.mul(&factor)? + beta)?.to_dtype(dtype)?);
    }
    let folded = Model { config: ModelConfig { batch_norm: false, ..model.config.clone() }, tensors };
    folded.check().map_err(|error| {
        Error::Refused(format!(
            "{} is another network where batch_norm is false, not the same with biases; build its synapses with \
             ModelConfig::conv_norm ({error})",
            model.config.backbone.title()
        ))
    })?;
    Ok(folded)
}

/// Every batch norm with the synapse that takes it in, once each.
fn norms(trace: &Trace) -> Result<BTreeMap<String, String>> {
    let mut norms = BTreeMap::new();
    for node in trace.nodes.iter().filter(|node| matches!(node.op, Op::BatchNorm(_))) {
        let refused = |what: String| Err(Error::Refused(format!("{} cannot be folded: {what}", called(node))));
        let source = trace.source(node.inputs[0]);
        let synapse = &trace.nodes[source];
        if !is_synapse(&synapse.op) {
            return refused(format!("it follows {}, which has no weights; put it behind a synapse", called(synapse)));
        }
        // What reads the synapse without the norm would read the folded one.
        let reads_source = |i: &usize| trace.nodes[*i].inputs.iter().any(|&input| trace.source(input) == source);
        let readers = (0..trace.nodes.len()).filter(reads_source);
        if readers.filter(|&i| !matches!(trace.nodes[i].op, Op::Broadcast(_))).count() != 1 {
            return refused(format!("{} feeds other layers too; give them a synapse of their own", called(synapse)));
        }
        norms.entry(node.name.clone()).or_insert_with(|| synapse.name.clone());
        // A layer that is gone through twice has the same norm behind it each time, and the norm the same layer before it.
        let nodes = || trace.nodes.iter().enumerate();
        let each_synapse = nodes()
            .filter(|(_, other)| is_synapse(&other.op) && other.name == synapse.name)
            .all(|(i, _)| norm_behind(trace, i) == Some(&node.name));
        let each_norm = nodes()
            .filter(|(_, other)| matches!(other.op, Op::BatchNorm(_)) && other.name == node.name)
            .all(|(_, other)| trace.nodes[trace.source(other.inputs[0])].name == synapse.name);
        if !(each_synapse && each_norm) {
            return refused(format!(
                "{} is gone through more than once, and not with the same batch norm each time; give the network two layers",
                called(synapse)
            ));
        }
    }
    Ok(norms)
}

fn is_synapse(op: &Op) -> bool {
    matches!(op, Op::Conv2d { .. } | Op::Linear { .. })
}

/// The batch norm that reads a synapse.
fn norm_behind(trace: &Trace, synapse: usize) -> Option<&str> {
    let mut norms = trace.nodes.iter().filter(|node| matches!(node.op, Op::BatchNorm(_)));
    norms.find(|node| trace.source(node.inputs[0]) == synapse).map(|node| node.name.as_str())
}

/// Folds the amplitude θ of spikes into the weights that read them: the neurons then send s instead of s·θ, and a spike is
/// a 1. Thresholds stay as they are.
///
/// A shortcut without a convolution has no weight: it gets a factor, the tensor `shortcut_scale` of its block. A network of
/// one's own puts [`shortcut_scale`](lmht_nn::layers::shortcut_scale) there where `unit_spikes` of its configuration is true.
///
/// # Errors
/// [`Error::Refused`] if the spikes have amplitude 1 already, the neurons do not send s·θ, attention multiplies spikes (no
/// weight there stands for θ), or spikes meet what has another amplitude without a factor between. If the tensors do not fit
/// the configuration (every difference is listed).
///
/// ```
/// use candle_core::{DType, Device};
/// use lmht_convert::{Model, absorb_thresholds};
/// use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore};
///
/// # fn main() -> lmht_convert::Result<()> {
/// let config = ModelConfig { width: 4, neuron: NeuronConfig::lmht(4), ..ModelConfig::resnet18(10) }; // θ = 1/2
/// let params = ParamStore::new(42);
/// Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
/// let unit = absorb_thresholds(&Model::of(&config, &params))?;
/// assert_eq!(unit.tensors["layer1.0.shortcut_scale"].to_vec1::<f32>()?, [0.5]);
/// # Ok(()) }
/// ```
pub fn absorb_thresholds(model: &Model) -> Result<Model> {
    let trace = model.layers()?;
    if model.config.unit_spikes {
        return Err(Error::Refused("the spikes have amplitude 1 already: nothing to fold".into()));
    }
    let traits = model.config.neuron.traits();
    if traits.equation != Equation::MultiThreshold {
        let what = if traits.is_spiking() { "do not send s·θ with a whole number s >= 0" } else { "do not spike" };
        return Err(Error::Refused(format!(
            "{} neurons {what}, so there is no amplitude to fold; use an LM-HT, M-HT, LIF or IF network",
            traits.title
        )));
    }
    if let Some(attention) = trace.nodes.iter().find(|node| matches!(node.op, Op::Attention(_))) {
        return Err(Error::Refused(format!(
            "{}: attention multiplies spikes, and no weight there stands for their amplitude; leave the thresholds",
            called(attention)
        )));
    }
    let config = ModelConfig { unit_spikes: true, ..model.config.clone() };
    config.check()?;
    // The network of unit spikes, which has factors on shortcuts that the other one has not.
    let (network, trace) = outline(&config)?;
    let mut folded = Folded { tensors: model.tensors.clone(), factors: BTreeMap::new() };
    // What a value has to be multiplied by to be that of the network before.
    let mut pending: Vec<f64> = Vec::with_capacity(trace.nodes.len());
    for node in &trace.nodes {
        let of_input = |i: usize| pending[node.inputs[i]];
        let unscaled = |what: &str| {
            Err(Error::Refused(format!(
                "{}: {what}; where unit_spikes of the configuration is true, put lmht_nn::layers::shortcut_scale on the path \
                 of the spikes",
                called(node)
            )))
        };
        pending.push(match &node.op {
            Op::Input => 1.,
            Op::Neuron(cell) if !cell.has_unit_spikes() => {
                return Err(Error::Refused(format!(
                    "{}: it sends s·θ although unit_spikes of the configuration is true; make the neurons of the body with \
                     ModelConfig::neuron_layer, or call with_unit_spikes",
                    called(node)
                )));
            }
            Op::Neuron(_) if of_input(0) != 1. => return unscaled("it reads spikes, and no weight stands between"),
            Op::Neuron(_) => {
                let name = path(&node.name, "v_threshold");
                let theta = model.tensors.get(&name).ok_or_else(|| missing(&name))?;
                theta.to_dtype(DType::F64)?.to_vec1::<f64>()?[0]
            }
            Op::Conv2d { .. } | Op::Linear { .. } => {
                folded.multiply(path(&node.name, "weight"), of_input(0), &called(node))?;
                1.
            }
            Op::BatchNorm(_) if of_input(0) != 1. => return unscaled("it reads spikes, whose statistics would change"),
            Op::BatchNorm(_) => 1.,
            Op::ShortcutScale(tensor) => {
                // The body chooses the name; the tensor is the one that it asked for.
                let all = network.tensors();
                let known = all.into_iter().find(|(_, known)| known.id() == tensor.id()).map(|(name, _)| name);
                let name = known.unwrap_or_else(|| path(&node.name, "shortcut_scale"));
                let like = model.tensors.values().next().map_or(DType::F32, Tensor::dtype);
                if !folded.tensors.contains_key(&name) {
                    let one = Tensor::ones(1, like, tensor.device())?;
                    folded.tensors.insert(name.clone(), one);
                }
                folded.multiply(name, of_input(0), &called(node))?;
                1.
            }
            Op::Add if of_input(0) != of_input(1) => {
                return unscaled("it sums spikes with what is none, or of another θ");
            }
            Op::Add
            | Op::MaxPool(_)
            | Op::AvgPool(_)
            | Op::Mean
            | Op::Scale(_)
            | Op::Broadcast(_)
            | Op::Flatten
            | Op::Tokens => of_input(0),
            _ => return unscaled("what it makes of spikes of another amplitude is not known"),
        });
    }
    if pending.last().is_some_and(|&factor| factor != 1.) {
        return Err(Error::Refused(
            "the network ends with spikes, and no weight takes their amplitude; end it with a synapse".into(),
        ));
    }
    Ok(Model { config, tensors: folded.tensors })
}

/// Tensors, and what each has been multiplied by.
struct Folded {
    tensors: HashMap<String, Tensor>,
    factors: BTreeMap<String, f64>,
}

impl Folded {
    /// Multiplies a tensor once, however often the network goes through its layer.
    fn multiply(&mut self, name: String, factor: f64, layer: &str) -> Result<()> {
        match self.factors.insert(name.clone(), factor) {
            None => {
                let tensor = self.tensors.get(&name).ok_or_else(|| missing(&name))?;
                let scaled = (tensor.to_dtype(DType::F64)? * factor)?.to_dtype(tensor.dtype())?;
                self.tensors.insert(name, scaled);
                Ok(())
            }
            Some(before) if before == factor => Ok(()),
            Some(before) => Err(Error::Refused(format!(
                "{layer} is gone through more than once, with spikes of amplitude {before} and {factor}, which one weight \
                 cannot stand for; give the network two layers"
            ))),
        }
    }
}
