//! The paper's VGG-13, which is not the standard one: average pooling, biases, ten convolutions, one linear layer.
//!
//! Names: `layerS.{3i}.0` (convolution), `layerS.{3i}.1` (batch norm), `layerS.{3i + 1}` (neuron), `classifier.0`.

use candle_nn::VarBuilder;

use super::Input;
use crate::config::ModelConfig;
use crate::layers::{BatchNorm, Conv2d, ConvNorm, Flow, Linear, Neuron, Site, avg_pool2d, global_avg_pool};
use crate::ops::{Conv2dParams, Pool2dParams};
use crate::{Pass, Result};

/// Channels of each stage in units of the width, and how many convolutions it has.
const STAGES: [(usize, usize); 5] = [(1, 2), (2, 2), (4, 2), (8, 3), (8, 1)];

#[derive(Debug, Clone)]
pub(super) struct Vgg13 {
    stages: Vec<Vec<(ConvNorm, Neuron)>>,
    classifier: Linear,
}

impl Vgg13 {
    pub(super) fn new(config: &ModelConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let mut c_in = config.in_channels;
        let mut stages = Vec::new();
        for (stage, (factor, n_convs)) in STAGES.into_iter().enumerate() {
            let vb = vb.pp(format!("layer{}", stage + 1));
            let c_out = config.width * factor;
            let mut layers = Vec::new();
            for i in 0..n_convs {
                let synapse = vb.pp(3 * i);
                let params = Conv2dParams { stride: 1, padding: 1 };
                let conv = Conv2d::new(c_in, c_out, 3, params, true, synapse.pp(0))?;
                let norm = BatchNorm::new(c_out, synapse.pp(1))?;
                let mut neuron = Neuron::new(config, Site::Maps, vb.pp(3 * i + 1))?;
                if stage == 0 && i == 0 {
                    neuron = neuron.with_input_scale(config.input_scale);
                }
                layers.push((ConvNorm::new(conv, norm), neuron));
                c_in = c_out;
            }
            stages.push(layers);
        }
        Ok(Self { stages, classifier: Linear::new(c_in, config.n_classes, vb.pp("classifier.0"))? })
    }

    pub(super) fn forward(&self, input: &Input, timesteps: usize, pass: &mut Pass<'_>) -> Result<Flow> {
        let (stem, neuron) = &self.stages[0][0];
        // The published network repeats the image, not the current: its running variance counts every timestep.
        let current = input.through_stem(timesteps, |images, repeats| stem.forward_repeated(images, repeats, pass))?;
        let mut xs = neuron.forward(&current, pass)?;
        for (stage, layers) in self.stages.iter().enumerate() {
            let rest = if stage == 0 { &layers[1..] } else { &layers[..] };
            if stage > 0 {
                xs = avg_pool2d(&xs, Pool2dParams { kernel: 2, stride: 2, padding: 0 })?;
            }
            for (synapse, neuron) in rest {
                let current = synapse.forward(&xs, pass)?;
                xs = neuron.forward(&current, pass)?;
            }
        }
        self.classifier.forward(&global_avg_pool(&xs)?, pass)
    }
}
