//! The VGG networks: 3x3 convolutions with bias, average pooling between the stages.
//!
//! Two layouts, with different names:
//!
//! - the paper's VGG-13, which is not the standard one: ten convolutions, no pooling after the last of them but the mean
//!   over the map, one linear layer. Names: `layerS.{3i}.0` (convolution), `layerS.{3i}.1` (batch norm),
//!   `layerS.{3i + 1}` (neuron), `classifier.0`;
//! - the standard ones (Simonyan and Zisserman 2015, Table 1: configurations A, B, D, E) as the published QCFS networks
//!   have them: batch norm, average pooling after every stage, two hidden linear layers. Names: `layerS.{4i}`
//!   (convolution), `layerS.{4i + 1}` (batch norm), `layerS.{4i + 2}` (neuron), `classifier.{1, 4, 7}` (linear),
//!   `classifier.{2, 5}` (neuron); the numbers between belong to flattening and dropout, which have no parameters.
//!
//! Of the standard ones only VGG-16 is in the paper. VGG-11, -13 and -19 follow its pattern. Our reading: no dropout; the
//! hidden layers have 64 times the width (4096 in the published networks); images larger than 32 x 32 are averaged
//! over the last map, which for 32 x 32 has one position, so that the first linear layer always reads 8 times the width.
//!
//! With [`Stem::Imagenet`] a standard VGG is torchvision's: the poolings take the maximum, and the first linear layer reads all
//! 7 x 7 positions of the last map, channel by channel, so that images have sides of 224 to 255. With
//! [`Stem::ImagenetPoolFirst`] each maximum is taken before the neuron.
//!
//! The hidden linear layers have no batch norm: from random weights hardly a neuron there reaches its threshold. Hybrid
//! training starts from the weights of a QCFS network instead.

use candle_nn::VarBuilder;

use super::classifier::{Classifier, ClassifierNames};
use crate::layers::{ConvNorm, Neuron, Site, avg_pool2d, flatten, global_avg_pool, max_pool2d};
use crate::ops::{Conv2dParams, Pool2dParams};
use crate::{Architecture, Backbone, Body, InputShape, ModelConfig, Pass, Result, Signal, Stem};

/// The members of the family.
#[derive(Debug, Clone, Copy)]
pub(super) enum Vgg {
    V11,
    V13,
    V13Standard,
    V16,
    V19,
}

impl Vgg {
    fn plan(self) -> Plan {
        match self {
            Self::V11 => Plan::standard([1, 1, 2, 2, 2]),
            Self::V13 => Plan::vgg13(),
            Self::V13Standard => Plan::standard([2, 2, 2, 2, 2]),
            Self::V16 => Plan::standard([2, 2, 3, 3, 3]),
            Self::V19 => Plan::standard([2, 2, 4, 4, 4]),
        }
    }
}

impl Architecture for Vgg {
    fn name(&self) -> &str {
        match self {
            Self::V11 => "vgg11",
            Self::V13 => "vgg13",
            Self::V13Standard => "vgg13_standard",
            Self::V16 => "vgg16",
            Self::V19 => "vgg19",
        }
    }

    fn title(&self) -> &str {
        match self {
            Self::V11 => "VGG-11",
            Self::V13 => "VGG-13",
            Self::V13Standard => "VGG-13 (standard)",
            Self::V16 => "VGG-16",
            Self::V19 => "VGG-19",
        }
    }

    fn input(&self) -> InputShape {
        // Four or five poolings halve the side and drop a remainder.
        let smallest = match self {
            Self::V13 => 16,
            Self::V11 | Self::V13Standard | Self::V16 | Self::V19 => 32,
        };
        InputShape::Images { sides: smallest..=usize::MAX }
    }

    fn input_of(&self, config: &ModelConfig) -> InputShape {
        match config.stem {
            Stem::Cifar => self.input(),
            // Five poolings leave a map of 7x7.
            Stem::Imagenet | Stem::ImagenetPoolFirst => {
                InputShape::Images { sides: 32 * MAP_SIDE..=32 * MAP_SIDE + 31 }
            }
        }
    }

    fn check(&self, config: &ModelConfig) -> Result<()> {
        config.refuse_stem_and_depth(!matches!(self, Self::V13))
    }

    fn build(&self, config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Body>> {
        Ok(Box::new(Layers::new(&self.plan(), config, vb)?))
    }
}

impl ModelConfig {
    /// The standard VGG-11, LM-HT with L = 2, T = 2.
    pub fn vgg11(n_classes: usize) -> Self {
        Self::of(Backbone::Vgg11, 64, n_classes)
    }

    /// The paper's VGG-13, LM-HT with L = 2, T = 2.
    pub fn vgg13(n_classes: usize) -> Self {
        Self::of(Backbone::Vgg13, 64, n_classes)
    }

    /// The standard VGG-13, LM-HT with L = 2, T = 2.
    pub fn vgg13_standard(n_classes: usize) -> Self {
        Self::of(Backbone::Vgg13Standard, 64, n_classes)
    }

    /// VGG-16, LM-HT with L = 2, T = 2: what hybrid training makes of the QCFS network.
    pub fn vgg16(n_classes: usize) -> Self {
        Self::of(Backbone::Vgg16, 64, n_classes)
    }

    /// The standard VGG-19, LM-HT with L = 2, T = 2.
    pub fn vgg19(n_classes: usize) -> Self {
        Self::of(Backbone::Vgg19, 64, n_classes)
    }
}

/// Side of the map that the first linear layer of torchvision's reads.
const MAP_SIDE: usize = 7;

/// What tells one VGG from another.
struct Plan {
    /// Channels of each stage in units of the width, and how many convolutions it has.
    stages: [(usize, usize); 5],
    layout: Layout,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Paper,
    Standard,
}

impl Plan {
    /// 1,1,A | 2,2,A | 4,4,A | 8,8,8,A | 8 in units of the width, A for average pooling.
    fn vgg13() -> Self {
        Self { stages: [(1, 2), (2, 2), (4, 2), (8, 3), (8, 1)], layout: Layout::Paper }
    }

    fn standard(n_convs: [usize; 5]) -> Self {
        let [a, b, c, d, e] = n_convs;
        Self { stages: [(1, a), (2, b), (4, c), (8, d), (8, e)], layout: Layout::Standard }
    }
}

impl Layout {
    /// The names of the i-th convolution of a stage, its batch norm and its neuron.
    fn names(self, i: usize) -> [String; 3] {
        match self {
            Self::Paper => [format!("{}.0", 3 * i), format!("{}.1", 3 * i), format!("{}", 3 * i + 1)],
            Self::Standard => [0, 1, 2].map(|part| format!("{}", 4 * i + part)),
        }
    }

    fn classifier(self, config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Classifier> {
        let width = config.width;
        let (hidden, names) = match self {
            Self::Paper => {
                let linear = |i| format!("classifier.{}", 3 * i);
                (vec![], ClassifierNames { linear, neuron: |i| format!("classifier.{}", 3 * i + 1) })
            }
            Self::Standard => {
                let linear = |i| format!("classifier.{}", 3 * i + 1);
                (vec![64 * width; 2], ClassifierNames { linear, neuron: |i| format!("classifier.{}", 3 * i + 2) })
            }
        };
        let n_positions = if config.stem == Stem::Cifar { 1 } else { MAP_SIDE * MAP_SIDE };
        Classifier::new(config, 8 * width * n_positions, &hidden, &names, vb)
    }
}

#[derive(Debug)]
struct Layers {
    stages: Vec<Vec<(ConvNorm, Neuron)>>,
    /// Whether a pooling follows the last stage too.
    pool_last: bool,
    stem: Stem,
    classifier: Classifier,
}

impl Layers {
    fn new(plan: &Plan, config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let mut c_in = config.in_channels;
        let mut stages = Vec::new();
        for (stage, (factor, n_convs)) in plan.stages.into_iter().enumerate() {
            let vb = vb.pp(format!("layer{}", stage + 1));
            let c_out = config.width * factor;
            let mut layers = Vec::new();
            for i in 0..n_convs {
                let [conv, norm, neuron] = plan.layout.names(i);
                let params = Conv2dParams { padding: 1, ..Conv2dParams::default() };
                let synapse = config.conv_norm((c_in, c_out, 3), params, true, (vb.pp(conv), vb.pp(norm)))?;
                let mut neuron = config.neuron_layer(Site::Maps, vb.pp(neuron))?;
                let is_stem = stage == 0 && i == 0;
                // The published network repeats the image, not the current: its running variance counts every timestep.
                let synapse = synapse.counting_repeats(is_stem);
                if is_stem {
                    neuron = neuron.with_input_scale(config.input_scale);
                }
                layers.push((synapse, neuron));
                c_in = c_out;
            }
            stages.push(layers);
        }
        let pool_last = plan.layout == Layout::Standard;
        Ok(Self { stages, pool_last, stem: config.stem, classifier: plan.layout.classifier(config, vb)? })
    }
}

impl Body for Layers {
    fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
        let window = Pool2dParams { kernel: 2, stride: 2, padding: 0 };
        let mut xs = xs.clone();
        for (stage, layers) in self.stages.iter().enumerate() {
            let pools = self.pool_last || stage + 1 < self.stages.len();
            for (i, (synapse, neuron)) in layers.iter().enumerate() {
                let is_last = i + 1 == layers.len();
                let mut current = synapse.forward(&xs, pass)?;
                if pools && is_last && self.stem == Stem::ImagenetPoolFirst {
                    current = max_pool2d(&current, window, pass)?;
                }
                xs = neuron.forward(&current, pass)?;
            }
            if pools {
                xs = match self.stem {
                    Stem::Cifar => avg_pool2d(&xs, window, pass)?,
                    Stem::Imagenet => max_pool2d(&xs, window, pass)?,
                    Stem::ImagenetPoolFirst => xs,
                };
            }
        }
        let features = match self.stem {
            Stem::Cifar => global_avg_pool(&xs, pass)?,
            Stem::Imagenet | Stem::ImagenetPoolFirst => flatten(&xs, pass)?,
        };
        self.classifier.forward(&features, pass)
    }
}
