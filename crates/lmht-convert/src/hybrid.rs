//! Hybrid training (§4.4): a pretrained QCFS network becomes a spiking one, ready to be fine-tuned.

use std::mem::discriminant;

use candle_core::{DType, Device, Tensor};
use lmht_nn::neurons::{self, Qcfs};
use lmht_nn::trace::Trace;
use lmht_nn::{GradientMode, ModelConfig, Network, NeuronConfig, ParamStore, Stem, Tgim};

use crate::calibration::{Calibration, calibrated};
use crate::layers::{missing, outline, path, scale_first_current, spike_poolings};
use crate::{Error, Model, Result};

/// How the spiking network starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HybridStart {
    /// θ = ϑ/L and no other scaling: the network equals the QCFS network if Q = LT, and in expectation otherwise.
    #[default]
    Exact,
    /// The paper's Algorithm 1: θ = ϑ, and the first neuron's current times L. Biases and batch-norm means of the later
    /// layers stay at the ANN's scale, which is L times too small; fine-tuning has to repair that.
    Published,
}

/// Makes an LM-HT network with `levels` levels and `timesteps` timesteps of a QCFS network.
///
/// Ω = 1/T, λ = 1, v(0) = θ/2; θ from each layer's learned scale ϑ, see [`HybridStart`]. All weights are taken over.
///
/// The exact start takes the maximum before the neuron where the ANN takes it after ([`Stem::ImagenetPoolFirst`] for
/// [`Stem::Imagenet`], T > 1): the QCFS staircase grows with its input, so that is the same function of activations. The
/// spikes of a unit at one timestep do not grow with its current: at T = 2, 0.3 θ gives 0, 1 and 0.5 θ gives 1, 0, of which
/// the maximum at every timestep would be 1, 1. [`hybrid_report`](crate::hybrid_report) says where something else keeps the
/// two networks apart.
///
/// # Errors
/// If the network is not a QCFS network, its tensors do not fit its configuration (every difference is listed), a scale
/// is not positive (its layer is named), or L or T is 0.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_convert::{Model, HybridStart, qcfs_to_lmht};
/// use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore, Pass, readout};
///
/// # fn main() -> lmht_convert::Result<()> {
/// let ann = ModelConfig { width: 4, neuron: NeuronConfig::qcfs(4), timesteps: 1, ..ModelConfig::resnet20(10) };
/// let params = ParamStore::new(42);
/// let network = Network::new(&ann, params.builder(DType::F64, &Device::Cpu))?;
/// // Q = 4 = LT: the same function.
/// let spiking = qcfs_to_lmht(&Model::of(&ann, &params), 2, 2, HybridStart::Exact)?;
/// let (spiking, _) = spiking.build(DType::F64, &Device::Cpu)?;
/// let image = Tensor::ones((1, 3, 8, 8), DType::F64, &Device::Cpu)?;
/// let expected = readout(&network.forward(&image, &mut Pass::eval())?)?;
/// let actual = readout(&spiking.forward(&image, &mut Pass::eval())?)?;
/// assert!((actual - expected)?.abs()?.max_all()?.to_scalar::<f64>()? < 1e-12);
/// # Ok(()) }
/// ```
pub fn qcfs_to_lmht(model: &Model, levels: u32, timesteps: usize, start: HybridStart) -> Result<Model> {
    let scale = scale_of(model)?;
    let share = match start {
        HybridStart::Exact => f64::from(levels.max(1)),
        HybridStart::Published => 1.,
    };
    let neuron = NeuronConfig::Lmht(neurons::Lmht {
        levels,
        tgim: Tgim::Full,
        v_threshold: Some(scale / share),
        v_init: 0.5,
        gradient: GradientMode::Detached,
    });
    let mut config = ModelConfig { neuron, timesteps, ..model.config.clone() };
    if start == HybridStart::Exact && timesteps > 1 {
        config = pool_first(config)?;
    }
    let spiking = spiking(model, config, share)?;
    match start {
        HybridStart::Exact => Ok(spiking),
        HybridStart::Published => scale_first_current(spiking, f64::from(levels.max(1))),
    }
}

/// Takes the maximum before the neuron, if all layers stay and no other layer pools spikes then.
fn pool_first(config: ModelConfig) -> Result<ModelConfig> {
    if config.stem != Stem::Imagenet {
        return Ok(config);
    }
    let moved = ModelConfig { stem: Stem::ImagenetPoolFirst, ..config.clone() };
    let (before, after) = (outline(&config)?.1, outline(&moved)?.1);
    let layers = |trace: &Trace| {
        let mut layers: Vec<_> =
            trace.nodes.iter().map(|node| (node.name.clone(), format!("{:?}", discriminant(&node.op)))).collect();
        layers.sort();
        layers
    };
    let helps = spike_poolings(&after).len() < spike_poolings(&before).len();
    Ok(if helps && layers(&before) == layers(&after) { moved } else { config })
}

/// Makes an LM-HT network with `levels` levels and `timesteps` timesteps of a ReLU network, without training.
///
/// Each ReLU becomes a staircase of L·T steps up to the ceiling of its layer, and that the neuron which [`qcfs_to_lmht`] makes
/// of it: θ is the ceiling over L, v(0) = θ/2. [`Calibration::least_error`] chooses the ceilings. With L = 2ⁿ - 1 it is the
/// neuron of H-MT (Zhang et al., AAAI 2026), with Ω = 1/T in front.
///
/// # Errors
/// If the network is not a ReLU network, its tensors do not fit its configuration, a layer has no positive ceiling (it is
/// named), or L or T is 0.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_convert::{Calibration, Model, relu_to_lmht};
/// use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore};
///
/// # fn main() -> lmht_convert::Result<()> {
/// let ann = ModelConfig { width: 4, neuron: NeuronConfig::relu(), timesteps: 1, ..ModelConfig::resnet20(10) };
/// let params = ParamStore::new(42);
/// let network = Network::new(&ann, params.builder(DType::F32, &Device::Cpu))?;
/// let images = Tensor::rand(0f32, 1., (2, 3, 8, 8), &Device::Cpu)?;
/// let (levels, timesteps) = (3, 2);
/// let calibration = Calibration::least_error(&network, &images, 6)?;
/// let spiking = relu_to_lmht(&Model::of(&ann, &params), &calibration, levels, timesteps)?;
/// assert_eq!((spiking.config.neuron.levels(), spiking.config.timesteps), (3, 2));
/// # Ok(()) }
/// ```
pub fn relu_to_lmht(model: &Model, calibration: &Calibration, levels: u32, timesteps: usize) -> Result<Model> {
    let steps = u32::try_from(timesteps).ok().and_then(|timesteps| levels.checked_mul(timesteps)).unwrap_or(u32::MAX);
    // What is wrong with 0 says the conversion itself.
    let staircase = calibrated(model, calibration, NeuronConfig::qcfs(steps.max(1)), 1, "thresh")?;
    qcfs_to_lmht(&staircase, levels, timesteps, HybridStart::Exact)
}

/// Makes an IF network with `timesteps` timesteps of a QCFS network, as its authors evaluate it: θ = ϑ, v(0) = θ/2.
///
/// # Errors
/// As [`qcfs_to_lmht`].
///
/// ```
/// use candle_core::{DType, Device};
/// use lmht_convert::{Model, qcfs_to_if};
/// use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore};
///
/// # fn main() -> lmht_convert::Result<()> {
/// let ann = ModelConfig { width: 4, neuron: NeuronConfig::qcfs(4), timesteps: 1, ..ModelConfig::resnet20(10) };
/// let params = ParamStore::new(42);
/// Network::new(&ann, params.builder(DType::F32, &Device::Cpu))?;
/// let spiking = qcfs_to_if(&Model::of(&ann, &params), 8)?;
/// assert_eq!(spiking.config.timesteps, 8);
/// assert_eq!(spiking.tensors["conv1.2.v_threshold"].to_vec1::<f32>()?, [8.]); // ϑ as it starts
/// # Ok(()) }
/// ```
pub fn qcfs_to_if(model: &Model, timesteps: usize) -> Result<Model> {
    let v_threshold = scale_of(model)?;
    let neuron = NeuronConfig::If(neurons::If { v_threshold, v_init: 0.5, gradient: GradientMode::Full });
    spiking(model, ModelConfig { neuron, timesteps, ..model.config.clone() }, 1.)
}

/// ϑ of the configuration, after checking that there is one.
pub(crate) fn scale_of(model: &Model) -> Result<f64> {
    model.layers()?;
    match &model.config.neuron {
        NeuronConfig::Qcfs(Qcfs { scale, .. }) => Ok(*scale),
        other => Err(Error::Refused(format!(
            "expected a QCFS network, which hybrid training starts from, got {} neurons; train one with NeuronConfig::qcfs",
            other.traits().title
        ))),
    }
}

/// The tensors of `model` in the network of `config`: θ = ϑ/`share`, what is new as it starts.
pub(crate) fn spiking(model: &Model, config: ModelConfig, share: f64) -> Result<Model> {
    let outline = ParamStore::blank();
    Network::new(&config, outline.builder(DType::F32, &Device::Cpu))?;
    let dtype = model.tensors.values().next().map_or(DType::F32, Tensor::dtype);
    let mut tensors = std::collections::HashMap::new();
    for (name, start) in outline.all() {
        let (layer, part) = name.rsplit_once('.').unwrap_or(("", &name));
        let scale = model.tensors.get(&path(layer, "thresh"));
        let tensor = match (part, model.tensors.get(&name)) {
            ("v_threshold", _) => {
                let scale = scale.ok_or_else(|| missing(&path(layer, "thresh")))?;
                threshold(layer, scale, share)?
            }
            (_, Some(tensor)) => tensor.clone(),
            // T-GIM and leak; they take the type of the scale, which every neuron has.
            (_, None) => start.as_detached_tensor().to_dtype(scale.map_or(dtype, Tensor::dtype))?,
        };
        tensors.insert(name, tensor);
    }
    Ok(Model { config, tensors })
}

fn threshold(neuron: &str, scale: &Tensor, share: f64) -> Result<Tensor> {
    let value = scale.to_dtype(DType::F64)?.to_vec1::<f64>()?[0];
    if !(value.is_finite() && value > 0.) {
        return Err(Error::Refused(format!(
            "{neuron}.thresh is {value}; expected a scale above 0, which becomes the firing threshold: train the ANN again \
             with a lower learning rate"
        )));
    }
    Ok((scale / share)?)
}
