//! ResNet-20, the CIFAR network of hybrid training: three stages of three basic blocks.
//!
//! Names: `conv1.{0, 1, 2}`, then `convS_x.B.residual_function.{0, 1, 2, 3, 4}`, `convS_x.B.shortcut.{0, 1}`,
//! `convS_x.B.relu` (whatever the neuron is) and `fc`.

use candle_nn::VarBuilder;

use super::{Input, join};
use crate::config::ModelConfig;
use crate::layers::{BatchNorm, Conv2d, ConvNorm, Flow, Linear, Neuron, Site, global_avg_pool};
use crate::ops::Conv2dParams;
use crate::{Pass, Result};

#[derive(Debug, Clone)]
pub(super) struct Resnet20 {
    stem: ConvNorm,
    neuron: Neuron,
    blocks: Vec<Block>,
    fc: Linear,
}

#[derive(Debug, Clone)]
struct Block {
    first: ConvNorm,
    between: Neuron,
    second: ConvNorm,
    shortcut: Option<ConvNorm>,
    last: Neuron,
}

/// Convolution at place `at` of `vb`, batch norm at the next.
fn conv_norm(
    c_in: usize,
    c_out: usize,
    kernel: usize,
    stride: usize,
    vb: &VarBuilder<'_>,
    at: usize,
) -> Result<ConvNorm> {
    let params = Conv2dParams { stride, padding: kernel / 2 };
    Ok(ConvNorm::new(
        Conv2d::new(c_in, c_out, kernel, params, false, vb.pp(at))?,
        BatchNorm::new(c_out, vb.pp(at + 1))?,
    ))
}

impl Block {
    fn new(config: &ModelConfig, c_in: usize, c_out: usize, stride: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let residual = vb.pp("residual_function");
        let shortcut = if stride != 1 || c_in != c_out {
            Some(conv_norm(c_in, c_out, 1, stride, &vb.pp("shortcut"), 0)?)
        } else {
            None
        };
        Ok(Self {
            first: conv_norm(c_in, c_out, 3, stride, &residual, 0)?,
            between: Neuron::new(config, Site::Maps, residual.pp(2))?,
            second: conv_norm(c_out, c_out, 3, 1, &residual, 3)?,
            shortcut,
            last: Neuron::new(config, Site::Maps, vb.pp("relu"))?,
        })
    }

    fn forward(&self, xs: &Flow, pass: &mut Pass<'_>) -> Result<Flow> {
        let ys = self.first.forward(xs, pass)?;
        let ys = self.between.forward(&ys, pass)?;
        let ys = self.second.forward(&ys, pass)?;
        let current = match &self.shortcut {
            Some(shortcut) => join(&ys, &shortcut.forward(xs, pass)?)?,
            None => join(&ys, xs)?,
        };
        self.last.forward(&current, pass)
    }
}

impl Resnet20 {
    pub(super) fn new(config: &ModelConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let width = config.width;
        let mut blocks = Vec::new();
        let mut c_in = width;
        for stage in 0..3 {
            let c_out = width << stage;
            for block in 0..3 {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let vb = vb.pp(format!("conv{}_x.{block}", stage + 2));
                blocks.push(Block::new(config, c_in, c_out, stride, vb)?);
                c_in = c_out;
            }
        }
        let stem = vb.pp("conv1");
        Ok(Self {
            stem: conv_norm(config.in_channels, width, 3, 1, &stem, 0)?,
            neuron: Neuron::new(config, Site::Maps, stem.pp(2))?.with_input_scale(config.input_scale),
            blocks,
            fc: Linear::new(c_in, config.n_classes, vb.pp("fc"))?,
        })
    }

    pub(super) fn forward(&self, input: &Input, timesteps: usize, pass: &mut Pass<'_>) -> Result<Flow> {
        // The published network repeats the image, not the current: its running variance counts every timestep.
        let current =
            input.through_stem(timesteps, |images, repeats| self.stem.forward_repeated(images, repeats, pass))?;
        let mut xs = self.neuron.forward(&current, pass)?;
        for block in &self.blocks {
            xs = block.forward(&xs, pass)?;
        }
        self.fc.forward(&global_avg_pool(&xs)?, pass)
    }
}
