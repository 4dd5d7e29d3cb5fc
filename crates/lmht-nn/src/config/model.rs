//! The description of a network, and what a body of one's own has to say of itself.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::version::{FORMAT_VERSION, format_version};
use crate::body::Body;
use crate::neurons::NeuronConfig;
use crate::{Error, Result};

/// The body of a network: one of the published ones, or one of one's own.
///
/// Widths are in units of [`ModelConfig::width`]; A stands for average pooling. The built-in bodies have no privilege: each is
/// an [`Architecture`] like any other, in a file of its own.
///
/// ```
/// use lmht_nn::Backbone;
/// assert_eq!(Backbone::Spikformer.title(), "Spikformer");
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Backbone {
    /// Post-activation basic blocks, 2 in each of 4 stages; shortcuts of 1x1 convolution and batch norm.
    Resnet18,
    /// A stem of width 1, then 3, 3, 2 post-activation blocks of widths 2, 4, 8; linear layers over 256 features.
    Resnet19,
    /// The CIFAR network of hybrid training: 3 basic blocks in each of 3 stages, widths 1, 2, 4.
    Resnet20,
    /// As ResNet-18 with 3, 4, 6, 3 blocks.
    Resnet34,
    /// ResNet-18 with membrane shortcuts (Hu et al. 2024): neurons before the convolutions, an analog residual stream.
    MsResnet18,
    /// ResNet-34 with membrane shortcuts: the "ResNet-34" of the paper's ImageNet-1k results.
    MsResnet34,
    /// The standard VGG-11 (configuration A) with batch norm and average pooling: 1,A | 2,A | 4,4,A | 8,8,A | 8,8,A and
    /// hidden linear layers of 64 and 64.
    Vgg11,
    /// The paper's VGG-13: 1,1,A | 2,2,A | 4,4,A | 8,8,8,A | 8, global average, linear.
    Vgg13,
    /// The standard VGG-13 (configuration B): 1,1,A | 2,2,A | 4,4,A | 8,8,A | 8,8,A and hidden linear layers of 64 and 64.
    Vgg13Standard,
    /// The standard VGG-16 (configuration D), the large network of hybrid training: 2, 2, 3, 3, 3 convolutions.
    Vgg16,
    /// The standard VGG-19 (configuration E): 2, 2, 4, 4, 4 convolutions.
    Vgg19,
    /// CIFARNet (Wu et al. 2019): 1 | 2,A | 4,A | 8 | 4 and hidden linear layers of 8 and 4; images of 32x32.
    Cifarnet,
    /// Spikformer (Zhou et al. 2023), the paper's Transformer-4-384: the width is the embedding size.
    Spikformer,
    /// A body that a program defines.
    Own(Own),
}

/// An [`Architecture`] of one's own in a configuration. Two are equal if name and parameters are.
#[derive(Clone)]
pub struct Own(pub(super) Arc<dyn Architecture>);

impl Own {
    /// The architecture.
    pub fn architecture(&self) -> &dyn Architecture {
        &*self.0
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0.name(), self.0.parameters())
    }
}

impl PartialEq for Own {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name() && self.0.parameters() == other.0.parameters()
    }
}

/// What a network is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputShape {
    /// Images `[B, C, H, W]` or frames `[T, B, C, H, W]` whose sides are in this range.
    Images {
        /// Allowed heights and widths.
        sides: RangeInclusive<usize>,
    },
    /// Features `[B, F]` or `[T, B, F]`, F = [`ModelConfig::in_channels`].
    Features,
}

impl InputShape {
    /// Images of any size.
    pub fn images() -> Self {
        Self::Images { sides: 1..=usize::MAX }
    }
}

/// How a network is built: a description that knows its layers. Implement it for a type of your own, in any crate, and
/// [`ModelConfig::own`] makes it a network that everything here takes as it takes a ResNet-18: training, evaluation, model
/// folders, conversions, counting, export, the engine.
///
/// A conversion builds the network again from a changed [`ModelConfig`]: other neurons, another number of timesteps, no batch
/// norm. So [`Architecture::build`] takes all that from `config`, most easily by [`ModelConfig::neuron_layer`] and
/// [`ModelConfig::conv_norm`].
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::VarBuilder;
/// use lmht_nn::layers::{Linear, Neuron, Site};
/// use lmht_nn::{Architecture, Body, InputShape, ModelConfig, Network, ParamStore, Pass, Result, Signal};
///
/// /// Two linear layers with neurons between.
/// #[derive(Debug)]
/// struct Perceptron {
///     hidden: usize,
/// }
///
/// #[derive(Debug)]
/// struct Layers(Linear, Neuron, Linear);
///
/// impl Architecture for Perceptron {
///     fn name(&self) -> &str {
///         "perceptron"
///     }
///     fn parameters(&self) -> serde_json::Value {
///         serde_json::json!({ "hidden": self.hidden })
///     }
///     fn input(&self) -> InputShape {
///         InputShape::Features
///     }
///     fn build(&self, config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Body>> {
///         Ok(Box::new(Layers(
///             Linear::new(config.in_channels, self.hidden, vb.pp("fc1"))?,
///             config.neuron_layer(Site::Features, vb.pp("sn1"))?,
///             Linear::new(self.hidden, config.n_classes, vb.pp("fc2"))?,
///         )))
///     }
/// }
///
/// impl Body for Layers {
///     fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
///         let Layers(fc1, sn1, fc2) = self;
///         fc2.forward(&sn1.forward(&fc1.forward(xs, pass)?, pass)?, pass)
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let config = ModelConfig { in_channels: 5, ..ModelConfig::own(Perceptron { hidden: 16 }, 3) };
/// let network = Network::new(&config, ParamStore::new(42).builder(DType::F32, &Device::Cpu))?;
/// let logits = network.forward(&Tensor::ones((4, 5), DType::F32, &Device::Cpu)?, &mut Pass::eval())?;
/// assert_eq!(logits.dims(), [2, 4, 3]); // T = 2
/// # Ok(()) }
/// ```
pub trait Architecture: fmt::Debug + Send + Sync + 'static {
    /// What a `config.json` calls it: a short name without spaces.
    fn name(&self) -> &str;

    /// What people call it; the name unless overridden.
    fn title(&self) -> &str {
        self.name()
    }

    /// Everything else that decides which layers there are, as a `config.json` holds it.
    fn parameters(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// What it is shown.
    fn input(&self) -> InputShape;

    /// What it is shown in the network of `config`, where that depends on more than the body.
    fn input_of(&self, config: &ModelConfig) -> InputShape {
        let _ = config;
        self.input()
    }

    /// Checks what no other part of the configuration knows.
    ///
    /// # Errors
    /// [`Error::Config`] names the field, its value and what is allowed.
    fn check(&self, config: &ModelConfig) -> Result<()> {
        let _ = config;
        Ok(())
    }

    /// Builds the layers from the tensors of `vb`.
    ///
    /// # Errors
    /// If a tensor is missing or misshapen.
    fn build(&self, config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Body>>;
}

/// How an image enters a residual network, and which of two forms a standard VGG has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// 3x3 convolution, stride 1. Of a VGG: poolings take the mean, the linear layers read the mean over the last map.
    #[default]
    Cifar,
    /// 7x7 convolution, stride 2, the neuron, then 3x3 max-pooling, stride 2. Of a VGG, as torchvision has it: poolings take
    /// the maximum, the linear layers read all 7x7 positions of the last map.
    Imagenet,
    /// As [`Stem::Imagenet`], the neurons after the max-poolings. It is the same function of activations that grow with their
    /// input, but not of spikes, whose maximum is taken at every timestep. A hybrid start has this stem.
    ImagenetPoolFirst,
}

/// A network: backbone, neuron, sizes.
///
/// ```
/// use lmht_nn::{ModelConfig, NeuronConfig};
///
/// let published = ModelConfig::resnet18(10);
/// let ours = ModelConfig { timesteps: 4, neuron: NeuronConfig::lmht(4), ..published };
/// assert!(ours.check().is_ok());
/// assert!(ModelConfig { timesteps: 0, ..ours }.check().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Version of this description, [`FORMAT_VERSION`].
    #[serde(default = "format_version")]
    pub format_version: u32,
    /// The body.
    pub backbone: Backbone,
    /// The entry of a residual network, the form of a standard VGG; the others know [`Stem::Cifar`] only.
    #[serde(default)]
    pub stem: Stem,
    /// Channels of the first stage; the others are multiples of it. The embedding size of a Transformer. A body of one's own may
    /// use it or have sizes of its own.
    pub width: usize,
    /// Blocks of a Transformer; absent: 4. No other network has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
    /// Attention heads of a Transformer, a divisor of the width; absent: 12. No other network has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Channels of an image; features of an input that is none.
    #[serde(default = "three")]
    pub in_channels: usize,
    /// Number of classes.
    pub n_classes: usize,
    /// T, the simulation steps. 1 for ANNs.
    pub timesteps: usize,
    /// The neuron between two synapses.
    pub neuron: NeuronConfig,
    /// Factor on the current of the first neuron layer: the paper's hybrid initialisation sets it to L. In an MS-ResNet it
    /// scales the stem's current, which enters the residual stream.
    #[serde(default = "one")]
    pub input_scale: f64,
    /// Whether batch norm follows the synapses. Without, each has a bias that stands for it: a network for inference, made
    /// by a conversion.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub batch_norm: bool,
    /// Whether a neuron sends s instead of s·θ, so that a spike is a 1: the next synapse's weights stand for θ. Made by a
    /// conversion.
    #[serde(default, skip_serializing_if = "is_no")]
    pub unit_spikes: bool,
}

fn one() -> f64 {
    1.
}
fn three() -> usize {
    3
}
fn yes() -> bool {
    true
}
// The signatures are serde's.
fn is_yes(value: &bool) -> bool {
    *value
}
fn is_no(value: &bool) -> bool {
    !*value
}

impl ModelConfig {
    /// A body with LM-HT neurons, L = 2, T = 2, for images of three channels.
    pub(crate) fn of(backbone: Backbone, width: usize, n_classes: usize) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            backbone,
            stem: Stem::Cifar,
            width,
            depth: None,
            heads: None,
            in_channels: three(),
            n_classes,
            timesteps: 2,
            neuron: NeuronConfig::lmht(2),
            input_scale: 1.,
            batch_norm: true,
            unit_spikes: false,
        }
    }

    /// A body of one's own with LM-HT neurons, L = 2, T = 2; `in_channels` is 3 and `width` 1 unless changed. [`Architecture`]
    /// has an example.
    pub fn own(architecture: impl Architecture, n_classes: usize) -> Self {
        Self::of(Backbone::Own(Own(Arc::new(architecture))), 1, n_classes)
    }

    /// How many frames an input that changes with time has: T, or the windows of a reparameterized network, which holds a
    /// frame for a whole window.
    ///
    /// ```
    /// assert_eq!(lmht_nn::ModelConfig::resnet18(10).n_frames(), 2);
    /// ```
    pub fn n_frames(&self) -> usize {
        self.timesteps / self.neuron.window().max(1)
    }

    /// Refuses unit spikes for a body that cannot have them.
    pub(crate) fn refuse_unit_spikes(&self, why: &str) -> Result<()> {
        if self.unit_spikes {
            let title = self.backbone.title();
            return Err(Error::Config(format!("unit_spikes is true, which {title} cannot have: {why}; leave it out")));
        }
        Ok(())
    }
}
