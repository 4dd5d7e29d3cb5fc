//! ResNet-18 with a neuron after every sum: stem, four stages of two basic blocks, one linear layer.
//!
//! Names: `conv1`, `bn1`, `sn1`, then `layerS.B.{conv1.0, conv1.1, sn1, conv2.0, conv2.1, sn2, downsample.0.0,
//! downsample.0.1}` and `fc.0`.

use candle_nn::VarBuilder;

use super::{Input, join};
use crate::config::{ModelConfig, Stem};
use crate::layers::{BatchNorm, Conv2d, ConvNorm, Flow, Linear, Neuron, Site, global_avg_pool, max_pool2d};
use crate::ops::{Conv2dParams, Pool2dParams};
use crate::{Pass, Result};

#[derive(Debug, Clone)]
pub(super) struct Resnet18 {
    stem: ConvNorm,
    sn1: Neuron,
    pool: bool,
    blocks: Vec<Block>,
    fc: Linear,
}

#[derive(Debug, Clone)]
struct Block {
    conv1: ConvNorm,
    sn1: Neuron,
    conv2: ConvNorm,
    sn2: Neuron,
    downsample: Option<ConvNorm>,
}

/// Convolution and batch norm as the published blocks name them: `.0` and `.1`.
fn conv_norm(c_in: usize, c_out: usize, kernel: usize, stride: usize, vb: VarBuilder<'_>) -> Result<ConvNorm> {
    let params = Conv2dParams { stride, padding: kernel / 2 };
    Ok(ConvNorm::new(Conv2d::new(c_in, c_out, kernel, params, false, vb.pp(0))?, BatchNorm::new(c_out, vb.pp(1))?))
}

impl Block {
    fn new(config: &ModelConfig, c_in: usize, c_out: usize, stride: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let downsample = if stride != 1 || c_in != c_out {
            Some(conv_norm(c_in, c_out, 1, stride, vb.pp("downsample.0"))?)
        } else {
            None
        };
        Ok(Self {
            conv1: conv_norm(c_in, c_out, 3, stride, vb.pp("conv1"))?,
            sn1: Neuron::new(config, Site::Maps, vb.pp("sn1"))?,
            conv2: conv_norm(c_out, c_out, 3, 1, vb.pp("conv2"))?,
            sn2: Neuron::new(config, Site::Maps, vb.pp("sn2"))?,
            downsample,
        })
    }

    fn forward(&self, xs: &Flow, pass: &mut Pass<'_>) -> Result<Flow> {
        let ys = self.conv1.forward(xs, pass)?;
        let ys = self.sn1.forward(&ys, pass)?;
        let ys = self.conv2.forward(&ys, pass)?;
        let current = match &self.downsample {
            Some(downsample) => join(&ys, &downsample.forward(xs, pass)?)?,
            None => join(&ys, xs)?,
        };
        self.sn2.forward(&current, pass)
    }
}

impl Resnet18 {
    pub(super) fn new(config: &ModelConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let width = config.width;
        let (kernel, params) = match config.stem {
            Stem::Cifar => (3, Conv2dParams { stride: 1, padding: 1 }),
            Stem::Imagenet => (7, Conv2dParams { stride: 2, padding: 3 }),
        };
        let mut blocks = Vec::new();
        let mut c_in = width;
        for stage in 0..4 {
            let c_out = width << stage;
            for block in 0..2 {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let vb = vb.pp(format!("layer{}.{block}", stage + 1));
                blocks.push(Block::new(config, c_in, c_out, stride, vb)?);
                c_in = c_out;
            }
        }
        Ok(Self {
            stem: ConvNorm::new(
                Conv2d::new(config.in_channels, width, kernel, params, false, vb.pp("conv1"))?,
                BatchNorm::new(width, vb.pp("bn1"))?,
            ),
            sn1: Neuron::new(config, Site::Maps, vb.pp("sn1"))?.with_input_scale(config.input_scale),
            pool: config.stem == Stem::Imagenet,
            blocks,
            fc: Linear::new(c_in, config.n_classes, vb.pp("fc.0"))?,
        })
    }

    pub(super) fn forward(&self, input: &Input, timesteps: usize, pass: &mut Pass<'_>) -> Result<Flow> {
        // The published network computes the stem's current once, statistics included, and repeats it.
        let current = input.through_stem(timesteps, |images, _| self.stem.forward(images, pass))?;
        let mut xs = self.sn1.forward(&current, pass)?;
        if self.pool {
            xs = max_pool2d(&xs, Pool2dParams { kernel: 3, stride: 2, padding: 1 })?;
        }
        for block in &self.blocks {
            xs = block.forward(&xs, pass)?;
        }
        self.fc.forward(&global_avg_pool(&xs)?, pass)
    }
}
