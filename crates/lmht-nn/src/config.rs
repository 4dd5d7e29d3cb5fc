//! What a network is: everything needed to build it again, as a value that is checked once and saved beside the weights.

use candle_core::bail;
use lmht_core::{GradientMode, QcfsWindow, Schedule, Tgim};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The version of `config.json`. A reader refuses a newer one.
pub const FORMAT_VERSION: u32 = 1;

/// The largest width and numbers of channels and classes: beyond any use, and a product of two of them cannot overflow.
const MAX_SIZE: usize = 1 << 16;

/// The body of a network.
///
/// Widths are in units of [`ModelConfig::width`]; A stands for average pooling.
///
/// ```
/// use lmht_nn::Backbone;
///
/// assert_eq!((Backbone::Spikformer.title(), Backbone::Spikformer.published_width()), ("Spikformer", 384));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
}

impl Backbone {
    /// Channels of the first stage in the published network; the embedding size of a Transformer.
    pub fn published_width(self) -> usize {
        match self {
            Self::Resnet20 => 16,
            Self::Cifarnet => 128,
            Self::Spikformer => 384,
            _ => 64,
        }
    }

    /// The name that the paper uses; what the paper has no name for is called as in the literature.
    pub fn title(self) -> &'static str {
        match self {
            Self::Resnet18 => "ResNet-18",
            Self::Resnet19 => "ResNet-19",
            Self::Resnet20 => "ResNet-20",
            Self::Resnet34 => "ResNet-34",
            Self::MsResnet18 => "MS-ResNet-18",
            Self::MsResnet34 => "MS-ResNet-34",
            Self::Vgg11 => "VGG-11",
            Self::Vgg13 => "VGG-13",
            Self::Vgg13Standard => "VGG-13 (standard)",
            Self::Vgg16 => "VGG-16",
            Self::Vgg19 => "VGG-19",
            Self::Cifarnet => "CIFARNet",
            Self::Spikformer => "Spikformer",
        }
    }

    fn has_imagenet_stem(self) -> bool {
        matches!(self, Self::Resnet18 | Self::Resnet19 | Self::Resnet34 | Self::MsResnet18 | Self::MsResnet34)
    }

    /// The smallest and the largest side of an image that the strides and the linear layers can take.
    fn image_sides(self) -> (usize, usize) {
        match self {
            // Four or five poolings halve the side and drop a remainder.
            Self::Vgg13 => (16, usize::MAX),
            Self::Vgg11 | Self::Vgg13Standard | Self::Vgg16 | Self::Vgg19 => (32, usize::MAX),
            // The first linear layer reads a map of 8x8.
            Self::Cifarnet => (32, 35),
            // Padded convolutions and poolings leave one position of any map.
            _ => (1, usize::MAX),
        }
    }
}

/// How an image enters a residual network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// 3x3 convolution, stride 1.
    #[default]
    Cifar,
    /// 7x7 convolution, stride 2, then 3x3 max-pooling, stride 2.
    Imagenet,
}

/// The neuron between two synapses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum NeuronConfig {
    /// L thresholds, learnable T-GIM and leak (Eq. 7).
    Lmht {
        /// L, the number of equidistant thresholds, at least 1.
        levels: u32,
        /// Which entries of Ω are free.
        #[serde(default)]
        tgim: Tgim,
        /// θ; absent: 2/L for L > 1, 1 for L = 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        v_threshold: Option<f64>,
        /// v(0) as a fraction of θ, in [0, 1).
        #[serde(default)]
        v_init: f64,
        /// Whether the gradient passes through v(t-1); the published networks detach it.
        #[serde(default = "detached")]
        gradient: GradientMode,
    },
    /// L thresholds, no T-GIM, a fixed leak (Eqs. 5-6): the paper's "without T-GIM".
    Mht {
        /// L, the number of equidistant thresholds, at least 1.
        levels: u32,
        /// λ; 1 keeps the whole potential.
        #[serde(default = "one")]
        leak: f64,
        /// θ; absent: 2/L for L > 1, 1 for L = 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        v_threshold: Option<f64>,
        /// v(0) as a fraction of θ, in [0, 1).
        #[serde(default)]
        v_init: f64,
        /// Whether the gradient passes through v(t-1).
        #[serde(default = "detached")]
        gradient: GradientMode,
    },
    /// One threshold, no leak (Eqs. 1-2 with λ = 1), trained with the whole temporal gradient: the paper's L = 1 baseline.
    If {
        /// θ, 1 unless given.
        #[serde(default = "one")]
        v_threshold: f64,
        /// v(0) as a fraction of θ, in [0, 1).
        #[serde(default)]
        v_init: f64,
        /// Whether the gradient passes through v(t-1).
        #[serde(default = "full")]
        gradient: GradientMode,
    },
    /// One threshold, a fixed leak (Eqs. 1-2).
    Lif {
        /// λ, the factor on v(t-1).
        leak: f64,
        /// θ, 1 unless given.
        #[serde(default = "one")]
        v_threshold: f64,
        /// v(0) as a fraction of θ, in [0, 1).
        #[serde(default)]
        v_init: f64,
        /// Whether the gradient passes through v(t-1).
        #[serde(default = "full")]
        gradient: GradientMode,
    },
    /// The single-threshold twin of a neuron with L levels (§4.5): a window of L timesteps for each of its timesteps. λ acts
    /// on entering a window and is 1 inside it; Ω mixes what whole windows delivered. Made by a conversion.
    Reparameterized {
        /// L, the timesteps of a window: a divisor of the network's timesteps.
        window: usize,
        /// When a window receives its current.
        #[serde(default)]
        schedule: Schedule,
        /// Which entries of the Ω between windows are free.
        #[serde(default)]
        tgim: Tgim,
        /// λ where it is fixed, as in an M-HT neuron; absent: learned, as in an LM-HT neuron. Only with [`Tgim::Identity`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        leak: Option<f64>,
        /// θ.
        v_threshold: f64,
        /// v(0) as a fraction of θ, in [0, 1).
        #[serde(default)]
        v_init: f64,
    },
    /// Signed spikes with memory ([`lmht_core::relatives::snm`]): may take back what it sent. For inference.
    Snm {
        /// θ.
        v_threshold: f64,
        /// v(0) as a fraction of θ, in [0, 1).
        #[serde(default)]
        v_init: f64,
    },
    /// IF neurons silenced by their residual potential ([`lmht_core::relatives::srp`]). For inference.
    Srp {
        /// τ, the timesteps of the first stage; the logits are those of the others.
        tau: usize,
        /// θ.
        v_threshold: f64,
    },
    /// IF neurons started with a calibrated offset ([`lmht_core::relatives::cos`]). For inference.
    Cos {
        /// ρ, the timesteps of the first stage; the logits are those of the others.
        rho: usize,
        /// θ.
        v_threshold: f64,
    },
    /// Quantized clip-floor-shift activation (Eq. 4) with a learnable ceiling: an ANN, one timestep.
    Qcfs {
        /// Q, the number of steps of the activation ("T_q" in the LM-HT paper, "L" in the QCFS paper), at least 1.
        quant_levels: u32,
        /// ϑ before training.
        #[serde(default = "eight")]
        scale: f64,
        /// Where the gradient is 1.
        #[serde(default)]
        window: QcfsWindow,
    },
    /// max(x, 0): an ANN, one timestep.
    // Without this, serde ignores whatever stands beside the tag of a variant without fields.
    #[serde(deserialize_with = "no_fields")]
    Relu,
}

/// Accepts a map without keys, and names the first key of any other.
fn no_fields<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<(), D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct NoFields {}
    NoFields::deserialize(deserializer).map(|NoFields {}| ())
}

fn detached() -> GradientMode {
    GradientMode::Detached
}
fn full() -> GradientMode {
    GradientMode::Full
}
fn one() -> f64 {
    1.
}
fn eight() -> f64 {
    8.
}

impl NeuronConfig {
    /// LM-HT with L levels, full T-GIM, θ = 2/L, v(0) = 0: direct training.
    pub fn lmht(levels: u32) -> Self {
        Self::Lmht { levels, tgim: Tgim::Full, v_threshold: None, v_init: 0., gradient: GradientMode::Detached }
    }

    /// M-HT with L levels: LM-HT without T-GIM, λ = 1.
    pub fn mht(levels: u32) -> Self {
        Self::Mht { levels, leak: 1., v_threshold: None, v_init: 0., gradient: GradientMode::Detached }
    }

    /// The integrate-and-fire baseline with θ = 1 and the whole temporal gradient.
    pub fn integrate_and_fire() -> Self {
        Self::If { v_threshold: 1., v_init: 0., gradient: GradientMode::Full }
    }

    /// QCFS with Q steps and an initial scale of 8.
    pub fn qcfs(quant_levels: u32) -> Self {
        Self::Qcfs { quant_levels, scale: 8., window: QcfsWindow::default() }
    }

    /// L: how many spikes a timestep can have. 1 for activations that do not spike.
    pub fn levels(&self) -> u32 {
        match self {
            Self::Lmht { levels, .. } | Self::Mht { levels, .. } => *levels,
            _ => 1,
        }
    }

    /// Whether the neuron spikes; QCFS and ReLU do not.
    pub fn is_spiking(&self) -> bool {
        !matches!(self, Self::Qcfs { .. } | Self::Relu)
    }

    /// Timesteps that stand for one timestep of the network before reparameterization: 1 for every other neuron.
    ///
    /// ```
    /// assert_eq!(lmht_nn::NeuronConfig::lmht(2).window(), 1);
    /// ```
    pub fn window(&self) -> usize {
        match self {
            Self::Reparameterized { window, .. } => *window,
            _ => 1,
        }
    }

    /// Timesteps that only prepare the answer and have no logits: τ of SRP, ρ of COS, 0 of every other neuron.
    ///
    /// ```
    /// use lmht_nn::NeuronConfig;
    /// assert_eq!(NeuronConfig::Srp { tau: 4, v_threshold: 1. }.first_stage(), 4);
    /// assert_eq!(NeuronConfig::lmht(2).first_stage(), 0);
    /// ```
    pub fn first_stage(&self) -> usize {
        match self {
            Self::Srp { tau, .. } => *tau,
            Self::Cos { rho, .. } => *rho,
            _ => 0,
        }
    }

    /// θ before training, which every layer starts from; `None` for activations that do not spike.
    ///
    /// ```
    /// assert_eq!(lmht_nn::NeuronConfig::lmht(4).v_threshold(), Some(0.5)); // 2/L
    /// ```
    pub fn v_threshold(&self) -> Option<f64> {
        match self {
            Self::Lmht { levels, v_threshold, .. } | Self::Mht { levels, v_threshold, .. } => {
                Some(v_threshold.unwrap_or(if *levels > 1 { 2. / f64::from(*levels) } else { 1. }))
            }
            Self::If { v_threshold, .. } | Self::Lif { v_threshold, .. } => Some(*v_threshold),
            Self::Reparameterized { v_threshold, .. }
            | Self::Snm { v_threshold, .. }
            | Self::Srp { v_threshold, .. }
            | Self::Cos { v_threshold, .. } => Some(*v_threshold),
            Self::Qcfs { .. } | Self::Relu => None,
        }
    }

    /// Whether a layer has a T-GIM, and which.
    pub(crate) fn tgim(&self) -> Tgim {
        match self {
            Self::Lmht { tgim, .. } | Self::Reparameterized { tgim, .. } => *tgim,
            _ => Tgim::Identity,
        }
    }

    /// The neuron's mathematics for `timesteps`, checked; `None` for activations that do not spike.
    pub(crate) fn dynamics(&self, timesteps: usize) -> Result<Option<Dynamics>> {
        let Some(v_threshold) = self.v_threshold() else { return Ok(None) };
        let (levels, tgim, leak, v_init, gradient) = match self {
            Self::Lmht { levels, tgim, v_init, gradient, .. } => (*levels, *tgim, None, *v_init, *gradient),
            Self::Mht { levels, leak, v_init, gradient, .. } => {
                (*levels, Tgim::Identity, Some(*leak), *v_init, *gradient)
            }
            Self::If { v_init, gradient, .. } => (1, Tgim::Identity, Some(1.), *v_init, *gradient),
            Self::Lif { leak, v_init, gradient, .. } => (1, Tgim::Identity, Some(*leak), *v_init, *gradient),
            // Ω is between windows and applied before: the neuron itself has none.
            Self::Reparameterized { tgim, leak, v_init, .. } => {
                if leak.is_some() && *tgim != Tgim::Identity {
                    return Err(Error::Config(
                        "neuron.leak is fixed beside a T-GIM, which no neuron has; leave it out, or set tgim to identity"
                            .into(),
                    ));
                }
                (1, Tgim::Identity, *leak, *v_init, GradientMode::Detached)
            }
            // The same numbers are checked; what they do differs.
            Self::Snm { v_init, .. } => (1, Tgim::Identity, Some(1.), *v_init, GradientMode::Detached),
            Self::Srp { .. } | Self::Cos { .. } => {
                let stage = self.first_stage();
                if stage == 0 || stage >= timesteps {
                    return Err(Error::Config(format!(
                        "the first stage (neuron.tau or neuron.rho) has {stage} of {timesteps} timesteps; expected at \
                         least 1, and at least 1 left for the second"
                    )));
                }
                (1, Tgim::Identity, Some(1.), 0.5, GradientMode::Detached)
            }
            Self::Qcfs { .. } | Self::Relu => return Ok(None),
        };
        if let Some(leak) = leak.filter(|leak| !(leak.is_finite() && *leak >= 0.)) {
            return Err(Error::Config(format!("neuron.leak is {leak}; expected a finite number of at least 0")));
        }
        let window = self.window();
        let config = lmht_core::NeuronConfig { timesteps, levels, v_threshold, v_init, tgim, gradient, window };
        let neuron = config.check().map_err(neuron_error)?;
        Ok(Some(Dynamics { config, neuron, leak }))
    }
}

/// Says where in a configuration the field of `error` is.
fn neuron_error(error: lmht_core::ConfigError) -> Error {
    Error::Config(format!("neuron.{error}"))
}

/// A spiking neuron's checked mathematics, and its leak if that is not learned.
#[derive(Debug, Clone)]
pub(crate) struct Dynamics {
    pub(crate) config: lmht_core::NeuronConfig,
    pub(crate) neuron: lmht_core::Neuron,
    pub(crate) leak: Option<f64>,
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
    /// The entry of a residual network; the others know [`Stem::Cifar`] only.
    #[serde(default)]
    pub stem: Stem,
    /// Channels of the first stage; the others are multiples of it. The embedding size of a Transformer.
    pub width: usize,
    /// Blocks of a Transformer; absent: 4. No other network has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
    /// Attention heads of a Transformer, a divisor of the width; absent: 12. No other network has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Channels of an image.
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
fn format_version() -> u32 {
    FORMAT_VERSION
}
/// Blocks of the published Transformer.
const PUBLISHED_DEPTH: usize = 4;
/// Attention heads of the published Transformer.
const PUBLISHED_HEADS: usize = 12;

fn check_version(version: u32) -> Result<()> {
    match version {
        1..=FORMAT_VERSION => Ok(()),
        0 => Err(Error::Config(format!("format_version is 0; expected a whole number in 1..={FORMAT_VERSION}"))),
        _ => Err(Error::Config(format!(
            "format_version is {version}; this program reads up to {FORMAT_VERSION}: use a newer one"
        ))),
    }
}

fn three() -> usize {
    3
}

impl ModelConfig {
    fn published(backbone: Backbone, n_classes: usize) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            backbone,
            stem: Stem::Cifar,
            width: backbone.published_width(),
            depth: None,
            heads: None,
            in_channels: 3,
            n_classes,
            timesteps: 2,
            neuron: NeuronConfig::lmht(2),
            input_scale: 1.,
            batch_norm: true,
            unit_spikes: false,
        }
    }

    /// ResNet-18 with the CIFAR stem, LM-HT with L = 2, T = 2.
    pub fn resnet18(n_classes: usize) -> Self {
        Self::published(Backbone::Resnet18, n_classes)
    }

    /// ResNet-19, LM-HT with L = 2, T = 2.
    pub fn resnet19(n_classes: usize) -> Self {
        Self::published(Backbone::Resnet19, n_classes)
    }

    /// ResNet-20, LM-HT with L = 2, T = 2.
    pub fn resnet20(n_classes: usize) -> Self {
        Self::published(Backbone::Resnet20, n_classes)
    }

    /// ResNet-34 with the CIFAR stem, LM-HT with L = 2, T = 2. The paper's Table 1 has it with [`Stem::Imagenet`].
    pub fn resnet34(n_classes: usize) -> Self {
        Self::published(Backbone::Resnet34, n_classes)
    }

    /// MS-ResNet-18 with the CIFAR stem, LM-HT with T = 4 as published; the paper does not say L, this is 2.
    pub fn ms_resnet18(n_classes: usize) -> Self {
        Self { timesteps: 4, ..Self::published(Backbone::MsResnet18, n_classes) }
    }

    /// MS-ResNet-34 with the CIFAR stem, LM-HT with L = 2, T = 2. The paper's ImageNet-1k result has [`Stem::Imagenet`].
    pub fn ms_resnet34(n_classes: usize) -> Self {
        Self::published(Backbone::MsResnet34, n_classes)
    }

    /// The standard VGG-11, LM-HT with L = 2, T = 2.
    pub fn vgg11(n_classes: usize) -> Self {
        Self::published(Backbone::Vgg11, n_classes)
    }

    /// The paper's VGG-13, LM-HT with L = 2, T = 2.
    pub fn vgg13(n_classes: usize) -> Self {
        Self::published(Backbone::Vgg13, n_classes)
    }

    /// The standard VGG-13, LM-HT with L = 2, T = 2.
    pub fn vgg13_standard(n_classes: usize) -> Self {
        Self::published(Backbone::Vgg13Standard, n_classes)
    }

    /// VGG-16, LM-HT with L = 2, T = 2: what hybrid training makes of the QCFS network.
    pub fn vgg16(n_classes: usize) -> Self {
        Self::published(Backbone::Vgg16, n_classes)
    }

    /// The standard VGG-19, LM-HT with L = 2, T = 2.
    pub fn vgg19(n_classes: usize) -> Self {
        Self::published(Backbone::Vgg19, n_classes)
    }

    /// CIFARNet, LM-HT with L = 2, T = 2.
    pub fn cifarnet(n_classes: usize) -> Self {
        Self::published(Backbone::Cifarnet, n_classes)
    }

    /// Transformer-4-384 with 12 heads, LM-HT with T = 4 as published; the paper does not say L, this is 2.
    ///
    /// ```
    /// use lmht_nn::ModelConfig;
    ///
    /// let small = ModelConfig { depth: Some(2), width: 64, heads: Some(8), ..ModelConfig::spikformer(10) };
    /// assert!(small.check().is_ok());
    /// // 384 channels cannot be shared by 7 heads.
    /// assert!(ModelConfig { heads: Some(7), ..ModelConfig::spikformer(10) }.check().is_err());
    /// ```
    pub fn spikformer(n_classes: usize) -> Self {
        Self {
            timesteps: 4,
            depth: Some(PUBLISHED_DEPTH),
            heads: Some(PUBLISHED_HEADS),
            ..Self::published(Backbone::Spikformer, n_classes)
        }
    }

    /// Blocks and heads of a Transformer.
    pub(crate) fn transformer(&self) -> (usize, usize) {
        (self.depth.unwrap_or(PUBLISHED_DEPTH), self.heads.unwrap_or(PUBLISHED_HEADS))
    }

    fn check_backbone(&self) -> Result<()> {
        let title = self.backbone.title();
        if self.stem == Stem::Imagenet && !self.backbone.has_imagenet_stem() {
            return Err(Error::Config(format!(
                "stem is imagenet, which {title} does not have; expected cifar (imagenet is for ResNet-18, -19, -34 and \
                 MS-ResNet-18, -34)"
            )));
        }
        if self.backbone != Backbone::Spikformer {
            for (name, value) in [("depth", self.depth), ("heads", self.heads)] {
                if let Some(value) = value {
                    return Err(Error::Config(format!(
                        "{name} is {value}, which {title} does not have; leave it out (it is for Spikformer)"
                    )));
                }
            }
            return Ok(());
        }
        let (depth, heads) = self.transformer();
        for (name, value) in [("depth", depth), ("heads", heads)] {
            if value == 0 {
                return Err(Error::Config(format!("{name} is 0; expected at least 1")));
            }
        }
        if !self.width.is_multiple_of(8) {
            return Err(Error::Config(format!(
                "width is {}; expected a multiple of 8, since {title} starts with an eighth of it",
                self.width
            )));
        }
        if !self.width.is_multiple_of(heads) {
            return Err(Error::Config(format!(
                "heads is {heads}; expected a divisor of the width, {}, which the heads share",
                self.width
            )));
        }
        Ok(())
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Config`] names the first field that cannot be, its value and what is allowed.
    pub fn check(&self) -> Result<()> {
        check_version(self.format_version)?;
        for (name, value, max) in [
            ("width", self.width, MAX_SIZE),
            ("in_channels", self.in_channels, MAX_SIZE),
            ("n_classes", self.n_classes, MAX_SIZE),
            ("timesteps", self.timesteps, lmht_core::MAX_TIMESTEPS),
        ] {
            if value == 0 || value > max {
                return Err(Error::Config(format!("{name} is {value}; expected a whole number in 1..={max}")));
            }
        }
        self.check_backbone()?;
        if !(self.input_scale.is_finite() && self.input_scale > 0.) {
            return Err(Error::Config(format!("input_scale is {}; expected a number above 0", self.input_scale)));
        }
        match &self.neuron {
            NeuronConfig::Qcfs { quant_levels, scale, .. } => {
                lmht_core::qcfs::check(*scale, *quant_levels).map_err(neuron_error)?;
            }
            NeuronConfig::Relu => {}
            spiking => {
                spiking.dynamics(self.timesteps)?;
            }
        }
        if !self.neuron.is_spiking() && self.timesteps != 1 {
            return Err(Error::Config(format!(
                "timesteps is {}, but the neuron does not spike; an ANN has timesteps = 1",
                self.timesteps
            )));
        }
        if self.unit_spikes && !self.neuron.is_spiking() {
            return Err(Error::Config("unit_spikes is true, but the neuron does not spike; leave it out".into()));
        }
        if self.unit_spikes && self.backbone == Backbone::Spikformer {
            return Err(Error::Config(
                "unit_spikes is true, which Spikformer cannot have: its attention multiplies spikes, and no weight there \
                 stands for θ; leave it out"
                    .into(),
            ));
        }
        Ok(())
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] names the unknown key or wrong value and the line, or says that a newer program wrote this.
    pub fn from_json(json: &str) -> Result<Self> {
        // The version first and alone: a newer description may have fields that would only be called unknown here.
        #[derive(Deserialize)]
        struct Version {
            #[serde(default = "format_version")]
            format_version: u32,
        }
        let wrong = |error: serde_json::Error| Error::Config(error.to_string());
        let Version { format_version } = serde_json::from_str(json).map_err(wrong)?;
        check_version(format_version)?;
        let config: Self = serde_json::from_str(json).map_err(wrong)?;
        config.check()?;
        Ok(config)
    }

    /// The text of `config.json`.
    pub fn to_json(&self) -> String {
        // Serializing a struct of numbers and enums to a string cannot fail.
        serde_json::to_string_pretty(self).expect("a configuration serializes") + "\n"
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

    /// Checks the shape of what a network is shown: images `[B, C, H, W]` or frames `[T, B, C, H, W]`, nothing empty, sides
    /// that survive the strides.
    pub(crate) fn check_images(&self, dims: &[usize]) -> candle_core::Result<()> {
        let (t, c) = (self.n_frames(), self.in_channels);
        let fits = match dims {
            [_, channels, _, _] => *channels == c,
            [steps, _, channels, _, _] => *steps == t && *channels == c,
            _ => false,
        };
        if !fits || dims.contains(&0) {
            bail!(
                "expected images [B, {c}, H, W] or frames [{t}, B, {c}, H, W] (in_channels = {c} and timesteps = {} in the \
                 config{}), got an input of shape {dims:?}",
                self.timesteps,
                match self.neuron.window() {
                    1 => String::new(),
                    window => format!(", {window} for each frame"),
                }
            )
        }
        let (h, w) = (dims[dims.len() - 2], dims[dims.len() - 1]);
        let (smallest, largest) = self.backbone.image_sides();
        if [h, w].iter().any(|side| !(smallest..=largest).contains(side)) {
            let title = self.backbone.title();
            if largest == usize::MAX {
                bail!("the images are {h}x{w}; {title} needs sides of at least {smallest}: use larger images")
            }
            bail!("the images are {h}x{w}; {title} needs sides of {smallest} to {largest}: resize the images")
        }
        Ok(())
    }
}
