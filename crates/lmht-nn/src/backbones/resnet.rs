//! The residual networks: a stem, stages of basic blocks, the mean over the map, linear layers.
//!
//! Two orders of a block, with the same parameters:
//!
//! - post-activation (ResNet-18, -19, -20, -34): convolution, neuron, convolution, and a neuron that fires on the sum of
//!   both paths: spikes everywhere;
//! - membrane shortcut (MS-ResNet-18, -34): neuron, convolution, neuron, convolution, and the sum is handed on as it is:
//!   an analog stream from the stem to the readout, which no neuron interrupts. The first convolution of a shortcut and
//!   the linear layer read that stream.
//!
//! Wherever stride or channels change, the shortcut is a 1x1 convolution with batch norm.
//!
//! Names: `conv1`, `bn1`, `sn1` (not in MS-ResNets), then `layerS.B.{conv1.0, conv1.1, sn1, conv2.0, conv2.1, sn2,
//! downsample.0.0, downsample.0.1}` and `fc.0`; ResNet-19 has no `layer1` and ends with `fc.0.0`, `fc.1`, `fc.2.0`.
//! ResNet-20: `conv1.{0, 1, 2}`, `convS_x.B.residual_function.{0, 1, 2, 3, 4}`, `convS_x.B.shortcut.{0, 1}`,
//! `convS_x.B.relu` (whatever the neuron is) and `fc`. With unit spikes, a block whose shortcut has no convolution keeps the
//! amplitude of what passes there as `shortcut_scale`; no published network has that.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use candle_nn::init::Init;

use super::classifier::{Classifier, ClassifierNames};
use crate::layers::{
    ConvNorm, Neuron, Site, add, at_every_timestep, global_avg_pool, max_pool2d, scale, shortcut_scale,
};
use crate::ops::{Conv2dParams, Pool2dParams};
use crate::{Architecture, Backbone, Body, InputShape, ModelConfig, Pass, Result, Signal, Stem};

/// The members of the family.
#[derive(Debug, Clone, Copy)]
pub(super) enum Resnet {
    R18,
    R19,
    R20,
    R34,
    Ms18,
    Ms34,
}

impl Resnet {
    fn plan(self) -> Plan {
        match self {
            Self::R18 => Plan::resnet18(),
            Self::R19 => Plan::resnet19(),
            Self::R20 => Plan::resnet20(),
            Self::R34 => Plan::resnet34(),
            Self::Ms18 => Plan::ms_resnet18(),
            Self::Ms34 => Plan::ms_resnet34(),
        }
    }
}

impl Architecture for Resnet {
    fn name(&self) -> &str {
        match self {
            Self::R18 => "resnet18",
            Self::R19 => "resnet19",
            Self::R20 => "resnet20",
            Self::R34 => "resnet34",
            Self::Ms18 => "ms_resnet18",
            Self::Ms34 => "ms_resnet34",
        }
    }

    fn title(&self) -> &str {
        match self {
            Self::R18 => "ResNet-18",
            Self::R19 => "ResNet-19",
            Self::R20 => "ResNet-20",
            Self::R34 => "ResNet-34",
            Self::Ms18 => "MS-ResNet-18",
            Self::Ms34 => "MS-ResNet-34",
        }
    }

    fn input(&self) -> InputShape {
        // Padded convolutions and poolings leave one position of any map.
        InputShape::images()
    }

    fn check(&self, config: &ModelConfig) -> Result<()> {
        config.refuse_stem_and_depth(!matches!(self, Self::R20))
    }

    fn build(&self, config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Body>> {
        Ok(Box::new(Layers::new(&self.plan(), config, vb)?))
    }
}

impl ModelConfig {
    /// ResNet-18 with the CIFAR stem, LM-HT with L = 2, T = 2.
    pub fn resnet18(n_classes: usize) -> Self {
        Self::of(Backbone::Resnet18, 64, n_classes)
    }

    /// ResNet-19, LM-HT with L = 2, T = 2.
    pub fn resnet19(n_classes: usize) -> Self {
        Self::of(Backbone::Resnet19, 64, n_classes)
    }

    /// ResNet-20, LM-HT with L = 2, T = 2.
    pub fn resnet20(n_classes: usize) -> Self {
        Self::of(Backbone::Resnet20, 16, n_classes)
    }

    /// ResNet-34 with the CIFAR stem, LM-HT with L = 2, T = 2. The paper's Table 1 has it with [`Stem::Imagenet`].
    pub fn resnet34(n_classes: usize) -> Self {
        Self::of(Backbone::Resnet34, 64, n_classes)
    }

    /// MS-ResNet-18 with the CIFAR stem, LM-HT with T = 4 as published; the paper does not say L, this is 2.
    pub fn ms_resnet18(n_classes: usize) -> Self {
        Self { timesteps: 4, ..Self::of(Backbone::MsResnet18, 64, n_classes) }
    }

    /// MS-ResNet-34 with the CIFAR stem, LM-HT with L = 2, T = 2. The paper's ImageNet-1k result has [`Stem::Imagenet`].
    pub fn ms_resnet34(n_classes: usize) -> Self {
        Self::of(Backbone::MsResnet34, 64, n_classes)
    }
}

/// What tells one member of the family from another.
struct Plan {
    stages: Vec<Stage>,
    order: Order,
    names: &'static Names,
    /// Features of the linear layers before the last one.
    hidden: &'static [usize],
    classifier: ClassifierNames,
    /// Whether the published network repeats the image, so that the stem's running variance counts every timestep, or
    /// computes the stem's current once, statistics included, and repeats that.
    repeats_image: bool,
}

/// Blocks of one width.
struct Stage {
    name: String,
    /// Channels in units of the network's width.
    factor: usize,
    n_blocks: usize,
    /// Stride of the first block.
    stride: usize,
}

/// Where the neurons of a block stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// After each convolution, the second one after the sum of both paths.
    PostActivation,
    /// Before each convolution; the sum stays analog.
    MembraneShortcut,
}

/// How the parts are called; pairs are convolution and batch norm.
struct Names {
    stem: (&'static str, &'static str),
    stem_neuron: &'static str,
    conv1: (&'static str, &'static str),
    sn1: &'static str,
    conv2: (&'static str, &'static str),
    sn2: &'static str,
    downsample: (&'static str, &'static str),
}

/// The names of all members but ResNet-20.
const NAMES: Names = Names {
    stem: ("conv1", "bn1"),
    stem_neuron: "sn1",
    conv1: ("conv1.0", "conv1.1"),
    sn1: "sn1",
    conv2: ("conv2.0", "conv2.1"),
    sn2: "sn2",
    downsample: ("downsample.0.0", "downsample.0.1"),
};

const RESNET20_NAMES: Names = Names {
    stem: ("conv1.0", "conv1.1"),
    stem_neuron: "conv1.2",
    conv1: ("residual_function.0", "residual_function.1"),
    sn1: "residual_function.2",
    conv2: ("residual_function.3", "residual_function.4"),
    sn2: "relu",
    downsample: ("shortcut.0", "shortcut.1"),
};

impl Plan {
    /// Four stages of widths 1, 2, 4, 8 with so many blocks: ResNet-18 and -34 (He et al. 2016, Table 1).
    fn four_stages(n_blocks: [usize; 4], order: Order) -> Self {
        let stages = n_blocks.into_iter().enumerate().map(|(stage, n_blocks)| Stage {
            name: format!("layer{}", stage + 1),
            factor: 1 << stage,
            n_blocks,
            stride: if stage == 0 { 1 } else { 2 },
        });
        Self {
            stages: stages.collect(),
            order,
            names: &NAMES,
            hidden: &[],
            classifier: ClassifierNames { linear: |_| "fc.0".into(), neuron: |i| format!("fc.{}", 2 * i + 1) },
            repeats_image: false,
        }
    }

    fn resnet18() -> Self {
        Self::four_stages([2, 2, 2, 2], Order::PostActivation)
    }

    /// ResNet-18 with the block counts of ResNet-34; all else, names and stem included, is taken over.
    fn resnet34() -> Self {
        Self::four_stages([3, 4, 6, 3], Order::PostActivation)
    }

    fn ms_resnet18() -> Self {
        Self::four_stages([2, 2, 2, 2], Order::MembraneShortcut)
    }

    /// MS-ResNet-18 with the block counts of ResNet-34.
    fn ms_resnet34() -> Self {
        Self::four_stages([3, 4, 6, 3], Order::MembraneShortcut)
    }

    /// Three stages of twice, four times and eight times the stem, and 256 features with a neuron before the classes.
    /// The 256 do not shrink with the width.
    fn resnet19() -> Self {
        let stages = [(2, 3, 1), (4, 3, 2), (8, 2, 2)].into_iter().enumerate();
        let stages = stages.map(|(stage, (factor, n_blocks, stride))| Stage {
            // The published network numbers its stages as if the stem were the first.
            name: format!("layer{}", stage + 2),
            factor,
            n_blocks,
            stride,
        });
        Self {
            stages: stages.collect(),
            hidden: &[256],
            classifier: ClassifierNames {
                linear: |i| format!("fc.{}.0", 2 * i),
                neuron: |i| format!("fc.{}", 2 * i + 1),
            },
            ..Self::resnet18()
        }
    }

    /// The CIFAR network of hybrid training: three stages of three blocks.
    fn resnet20() -> Self {
        let stages = (0..3).map(|stage| Stage {
            name: format!("conv{}_x", stage + 2),
            factor: 1 << stage,
            n_blocks: 3,
            stride: if stage == 0 { 1 } else { 2 },
        });
        Self {
            stages: stages.collect(),
            names: &RESNET20_NAMES,
            classifier: ClassifierNames { linear: |_| "fc".into(), neuron: |i| format!("fc.{}", 2 * i + 1) },
            repeats_image: true,
            ..Self::resnet18()
        }
    }
}

#[derive(Debug)]
struct Layers {
    stem: ConvNorm,
    entry: Entry,
    stem_kind: Stem,
    blocks: Vec<Block>,
    classifier: Classifier,
}

/// How the stem's current enters the first block.
#[derive(Debug)]
enum Entry {
    /// Through a neuron.
    Spikes(Neuron),
    /// As it is, times a factor.
    Analog { input_scale: f64 },
}

#[derive(Debug)]
struct Block {
    order: Order,
    conv1: ConvNorm,
    sn1: Neuron,
    conv2: ConvNorm,
    sn2: Neuron,
    downsample: Option<ConvNorm>,
    /// θ of the unit spikes that pass by the convolutions.
    shortcut_scale: Option<Tensor>,
    name: String,
}

/// Channels in and out of a convolution, the side of its kernel, its stride.
type Shape = (usize, usize, usize, usize);

/// A convolution without bias that keeps the map's size up to the stride, and its batch norm.
fn conv_norm(
    config: &ModelConfig,
    (c_in, c_out, kernel, stride): Shape,
    names: (&str, &str),
    vb: &VarBuilder<'_>,
) -> Result<ConvNorm> {
    let params = Conv2dParams { stride, padding: kernel / 2, ..Conv2dParams::default() };
    config.conv_norm((c_in, c_out, kernel), params, false, (vb.pp(names.0), vb.pp(names.1)))
}

impl Block {
    fn new(
        config: &ModelConfig,
        plan: &Plan,
        c_in: usize,
        c_out: usize,
        stride: usize,
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        let names = plan.names;
        let downsample = if stride != 1 || c_in != c_out {
            Some(conv_norm(config, (c_in, c_out, 1, stride), names.downsample, vb)?)
        } else {
            None
        };
        // Unit spikes have left their θ to the weights after them, and here there are none.
        let shortcut_scale = if config.unit_spikes && downsample.is_none() && plan.order == Order::PostActivation {
            Some(vb.get_with_hints(1, "shortcut_scale", Init::Const(1.))?)
        } else {
            None
        };
        Ok(Self {
            order: plan.order,
            conv1: conv_norm(config, (c_in, c_out, 3, stride), names.conv1, vb)?,
            sn1: config.neuron_layer(Site::Maps, vb.pp(names.sn1))?,
            conv2: conv_norm(config, (c_out, c_out, 3, 1), names.conv2, vb)?,
            sn2: config.neuron_layer(Site::Maps, vb.pp(names.sn2))?,
            downsample,
            shortcut_scale,
            name: vb.prefix(),
        })
    }

    fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
        let ys = match self.order {
            Order::PostActivation => {
                let ys = self.conv1.forward(xs, pass)?;
                let ys = self.sn1.forward(&ys, pass)?;
                self.conv2.forward(&ys, pass)?
            }
            Order::MembraneShortcut => {
                let ys = self.sn1.forward(xs, pass)?;
                let ys = self.conv1.forward(&ys, pass)?;
                let ys = self.sn2.forward(&ys, pass)?;
                self.conv2.forward(&ys, pass)?
            }
        };
        let shortcut = match (&self.downsample, &self.shortcut_scale) {
            (Some(downsample), _) => downsample.forward(xs, pass)?,
            (None, Some(factor)) => shortcut_scale(&self.name, xs, factor, pass)?,
            (None, None) => xs.clone(),
        };
        let sum = add(&self.name, &ys, &shortcut, pass)?;
        match self.order {
            Order::PostActivation => self.sn2.forward(&sum, pass),
            Order::MembraneShortcut => Ok(sum),
        }
    }
}

impl Layers {
    fn new(plan: &Plan, config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let (kernel, stride) = match config.stem {
            Stem::Cifar => (3, 1),
            Stem::Imagenet | Stem::ImagenetPoolFirst => (7, 2),
        };
        let stem = conv_norm(config, (config.in_channels, config.width, kernel, stride), plan.names.stem, vb)?;
        let stem = stem.counting_repeats(plan.repeats_image);
        let input_scale = config.input_scale;
        let entry = match plan.order {
            Order::PostActivation => {
                let neuron = config.neuron_layer(Site::Maps, vb.pp(plan.names.stem_neuron))?;
                Entry::Spikes(neuron.with_input_scale(input_scale))
            }
            Order::MembraneShortcut => Entry::Analog { input_scale },
        };
        let mut blocks = Vec::new();
        let mut c_in = config.width;
        for stage in &plan.stages {
            let c_out = config.width * stage.factor;
            for block in 0..stage.n_blocks {
                let stride = if block == 0 { stage.stride } else { 1 };
                let vb = vb.pp(&stage.name).pp(block);
                blocks.push(Block::new(config, plan, c_in, c_out, stride, &vb)?);
                c_in = c_out;
            }
        }
        Ok(Self {
            stem,
            entry,
            stem_kind: config.stem,
            blocks,
            classifier: Classifier::new(config, c_in, plan.hidden, &plan.classifier, vb)?,
        })
    }

    /// After the ImageNet stem's max-pooling.
    fn pooled(&self, xs: Signal, pass: &mut Pass<'_>) -> Result<Signal> {
        if self.stem_kind != Stem::Cifar {
            max_pool2d(&xs, Pool2dParams { kernel: 3, stride: 2, padding: 1 }, pass)
        } else {
            Ok(xs)
        }
    }
}

impl Body for Layers {
    fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
        let current = self.stem.forward(xs, pass)?;
        let mut xs = match &self.entry {
            Entry::Spikes(neuron) => {
                if self.stem_kind == Stem::ImagenetPoolFirst {
                    neuron.forward(&self.pooled(current, pass)?, pass)?
                } else {
                    self.pooled(neuron.forward(&current, pass)?, pass)?
                }
            }
            Entry::Analog { input_scale } => {
                // Nothing here depends on time, so it happens before the current is repeated.
                let current = scale("stem", &current, *input_scale, pass)?;
                at_every_timestep(&self.pooled(current, pass)?, pass)?
            }
        };
        for block in &self.blocks {
            xs = block.forward(&xs, pass)?;
        }
        self.classifier.forward(&global_avg_pool(&xs, pass)?, pass)
    }
}
