//! Spikformer (Zhou et al. 2023), the paper's Transformer-4-384: spiking patch splitting, blocks of spiking
//! self-attention and a two-layer perceptron, the mean over the tokens, one linear layer.
//!
//! In units of the embedding size D (the configuration's width):
//!
//! - patch splitting: 3x3 convolutions to D/8, D/4, D/2, D channels, each with batch norm and neuron, max-pooling after
//!   the last two neurons; then the pooled map plus a convolution of it with batch norm and neuron (the relative
//!   position). Every position of the map, a quarter of the image's side, becomes a token;
//! - attention: linear, batch norm, neuron each for q, k and v; `(q kᵀ) v / 8` in every head without a softmax, then a
//!   neuron, linear, batch norm, neuron. The scale is 1/8 whatever the head's size;
//! - perceptron: linear to 4D, batch norm, neuron, linear to D, batch norm, neuron.
//!
//! Attention and perceptron are added to what they read, so the tokens between blocks are sums of spikes: whole
//! multiples of θ, as long as all neurons have the same one.
//!
//! Names: `patch_embed.{proj_conv, proj_bn, proj_lif}`, the same with 1, 2, 3 appended, `patch_embed.{rpe_conv, rpe_bn,
//! rpe_lif}`, `block.B.attn.{q, k, v, proj}_{linear, bn, lif}`, `block.B.attn.attn_lif`, `block.B.mlp.{fc1, fc2}_{linear,
//! bn, lif}`, `head` (`lif` whatever the neuron is).
//!
//! Tokens `[T, B, N, D]` flow as rows `[T·B·N, D]`: linear layers and batch norm treat all rows alike, and a neuron needs
//! to know T only.

use candle_nn::VarBuilder;

use super::Input;
use crate::config::ModelConfig;
use crate::graph::Op;
use crate::layers::{BatchNorm, ConvNorm, Flow, Linear, Neuron, Site, averaged, max_pool2d};
use crate::ops::{Conv2dParams, Pool2dParams};
use crate::{Pass, ProductEvent, Result, Signal, ops};

/// The factor on the attention products.
const SCALE: f64 = 0.125;

/// Features between the two layers of a perceptron, in units of the embedding size.
const MLP_RATIO: usize = 4;

#[derive(Debug, Clone)]
pub(super) struct Spikformer {
    patches: PatchSplitting,
    blocks: Vec<Block>,
    head: Linear,
}

impl Spikformer {
    /// Replaces every tensor by a copy.
    pub(super) fn own_tensors(&mut self) -> Result<()> {
        for (synapse, neuron) in self.patches.convs.iter_mut().chain([&mut self.patches.position]) {
            synapse.own_tensors()?;
            neuron.own_tensors()?;
        }
        for Block { attention, fc1, fc2, .. } in &mut self.blocks {
            let Attention { q, k, v, proj, neuron, .. } = attention;
            neuron.own_tensors()?;
            for layer in [q, k, v, proj, fc1, fc2] {
                layer.linear.own_tensors()?;
                layer.norm.as_mut().map_or(Ok(()), BatchNorm::own_tensors)?;
                layer.neuron.own_tensors()?;
            }
        }
        self.head.own_tensors()
    }

    pub(super) fn new(config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let (depth, heads) = config.transformer();
        let blocks = (0..depth).map(|block| Block::new(config, heads, &vb.pp("block").pp(block)));
        Ok(Self {
            patches: PatchSplitting::new(config, &vb.pp("patch_embed"))?,
            blocks: blocks.collect::<Result<_>>()?,
            head: Linear::new(config.width, config.n_classes, vb.pp("head"))?,
        })
    }

    pub(super) fn forward(&self, input: &Input, timesteps: usize, pass: &mut Pass<'_>) -> Result<Flow> {
        let maps = self.patches.forward(input, timesteps, pass)?;
        let (rows, channels, h, w) = maps.xs.dims4()?;
        let tokens = maps.xs.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        let tokens = tokens.reshape((rows * h * w, channels))?;
        let node = pass.record("", Op::Reshape, &[maps.node], &tokens);
        let mut xs = Flow { xs: tokens, signal: maps.signal, node };
        for block in &self.blocks {
            xs = block.forward(&xs, h * w, pass)?;
        }
        let mean = xs.xs.reshape((rows, h * w, channels))?.mean(1)?;
        let node = pass.record("", Op::Mean, &[xs.node], &mean);
        self.head.forward(&Flow { xs: mean, signal: averaged(xs.signal), node }, pass)
    }
}

/// Images to maps of D channels at a quarter of the side.
#[derive(Debug, Clone)]
struct PatchSplitting {
    convs: Vec<(ConvNorm, Neuron)>,
    position: (ConvNorm, Neuron),
}

impl PatchSplitting {
    fn new(config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let layer = |c_in, c_out, name: &str, number: &str| -> Result<(ConvNorm, Neuron)> {
            let part = |part| vb.pp(format!("{name}_{part}{number}"));
            let params = Conv2dParams { stride: 1, padding: 1, groups: 1 };
            let synapse = ConvNorm::build(config, (c_in, c_out, 3), params, false, (part("conv"), part("bn")))?;
            Ok((synapse, Neuron::new(config, Site::Maps, part("lif"))?))
        };
        let width = config.width;
        let mut convs = Vec::new();
        let mut c_in = config.in_channels;
        for (c_out, number) in [(width / 8, ""), (width / 4, "1"), (width / 2, "2"), (width, "3")] {
            let (synapse, mut neuron) = layer(c_in, c_out, "proj", number)?;
            if convs.is_empty() {
                neuron = neuron.with_input_scale(config.input_scale);
            }
            convs.push((synapse, neuron));
            c_in = c_out;
        }
        Ok(Self { convs, position: layer(width, width, "rpe", "")? })
    }

    fn forward(&self, input: &Input, timesteps: usize, pass: &mut Pass<'_>) -> Result<Flow> {
        let (stem, neuron) = &self.convs[0];
        // The published network computes the stem's current once, statistics included, and repeats it.
        let current = input.through_stem(timesteps, pass, |images, _, pass| stem.forward(images, pass))?;
        let mut xs = neuron.forward(&current, pass)?;
        for (i, (synapse, neuron)) in self.convs.iter().enumerate().skip(1) {
            let current = synapse.forward(&xs, pass)?;
            xs = neuron.forward(&current, pass)?;
            if i >= 2 {
                xs = max_pool2d(&xs, Pool2dParams { kernel: 3, stride: 2, padding: 1 }, pass)?;
            }
        }
        let current = self.position.0.forward(&xs, pass)?;
        let position = self.position.1.forward(&current, pass)?;
        add("patch_embed", &position, &xs, pass)
    }
}

/// Linear, batch norm, neuron.
#[derive(Debug, Clone)]
struct Layer {
    linear: Linear,
    norm: Option<BatchNorm>,
    neuron: Neuron,
}

impl Layer {
    fn new(config: &ModelConfig, f_in: usize, f_out: usize, name: &str, vb: &VarBuilder<'_>) -> Result<Self> {
        let part = |part| vb.pp(format!("{name}_{part}"));
        Ok(Self {
            linear: Linear::new(f_in, f_out, part("linear"))?,
            norm: if config.batch_norm { Some(BatchNorm::new(f_out, part("bn"))?) } else { None },
            neuron: Neuron::new(config, Site::Features, part("lif"))?,
        })
    }

    fn forward(&self, xs: &Flow, pass: &mut Pass<'_>) -> Result<Flow> {
        let current = self.linear.forward(xs, pass)?;
        let current = match &self.norm {
            Some(norm) => norm.forward(&current, pass)?,
            None => current,
        };
        self.neuron.forward(&current, pass)
    }
}

#[derive(Debug, Clone)]
struct Block {
    name: String,
    attention: Attention,
    fc1: Layer,
    fc2: Layer,
}

impl Block {
    fn new(config: &ModelConfig, heads: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let (width, hidden) = (config.width, MLP_RATIO * config.width);
        let mlp = vb.pp("mlp");
        Ok(Self {
            name: vb.prefix(),
            attention: Attention::new(config, heads, &vb.pp("attn"))?,
            fc1: Layer::new(config, width, hidden, "fc1", &mlp)?,
            fc2: Layer::new(config, hidden, width, "fc2", &mlp)?,
        })
    }

    fn forward(&self, xs: &Flow, n_tokens: usize, pass: &mut Pass<'_>) -> Result<Flow> {
        let attention = self.attention.forward(xs, n_tokens, pass)?;
        let xs = add(&self.name, xs, &attention, pass)?;
        let hidden = self.fc1.forward(&xs, pass)?;
        let ys = self.fc2.forward(&hidden, pass)?;
        add(&self.name, &xs, &ys, pass)
    }
}

/// Spiking self-attention.
#[derive(Debug, Clone)]
struct Attention {
    name: String,
    /// T, and the timesteps of each.
    windows: (usize, usize),
    heads: usize,
    q: Layer,
    k: Layer,
    v: Layer,
    neuron: Neuron,
    proj: Layer,
}

impl Attention {
    fn new(config: &ModelConfig, heads: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let layer = |name| Layer::new(config, config.width, config.width, name, vb);
        Ok(Self {
            name: vb.prefix(),
            windows: (config.n_frames(), config.neuron.window()),
            heads,
            q: layer("q")?,
            k: layer("k")?,
            v: layer("v")?,
            neuron: Neuron::new(config, Site::Features, vb.pp("attn_lif"))?,
            proj: layer("proj")?,
        })
    }

    /// Rows `[T·B·N, D]` to the same shape; N = `n_tokens`.
    ///
    /// Products of spikes are not linear, so in a reparameterized network they run once a window, on the window's counts.
    fn forward(&self, xs: &Flow, n_tokens: usize, pass: &mut Pass<'_>) -> Result<Flow> {
        let q = self.by_head(self.q.forward(xs, pass)?, n_tokens)?;
        let k = self.by_head(self.k.forward(xs, pass)?, n_tokens)?;
        let v = self.by_head(self.v.forward(xs, pass)?, n_tokens)?;
        let k = Flow { xs: k.xs.transpose(2, 3)?, ..k };
        let scores = self.product("q_k", &q, &k, pass)?;
        let scaled = (&scores.xs * SCALE)?;
        let node = pass.record(&self.name, Op::Scale(SCALE), &[scores.node], &scaled);
        let mixed = self.product("qk_v", &Flow { xs: scaled, node, ..scores }, &v, pass)?;
        let (windows, window) = self.windows;
        let (rows, width) = xs.xs.dims2()?;
        let rows = mixed.xs.transpose(1, 2)?.contiguous()?.reshape((rows / window, width))?;
        let current = Flow { xs: ops::front_load(&rows, windows, window)?, ..mixed };
        let spikes = self.neuron.forward(&current, pass)?;
        self.proj.forward(&spikes, pass)
    }

    /// Spikes of every timestep, `[LT·B·N, D]`, to counts of every window, `[T·B, heads, N, D / heads]`.
    fn by_head(&self, flow: Flow, n_tokens: usize) -> Result<Flow> {
        let (windows, window) = self.windows;
        let counts = ops::sum_windows(&flow.xs, windows, window)?;
        let (rows, width) = counts.dims2()?;
        let xs = counts.reshape((rows / n_tokens, n_tokens, self.heads, width / self.heads))?;
        Ok(Flow { xs: xs.transpose(1, 2)?.contiguous()?, ..flow })
    }

    /// Sums of products of spikes are no spikes, and neither is what they weigh.
    fn product(&self, name: &str, left: &Flow, right: &Flow, pass: &mut Pass<'_>) -> Result<Flow> {
        let name = format!("{}.{name}", self.name);
        pass.show_product(&ProductEvent {
            name: &name,
            left: &left.xs,
            left_signal: left.signal,
            right: &right.xs,
            right_signal: right.signal,
        })?;
        let xs = left.xs.matmul(&right.xs)?;
        let node = pass.record(&name, Op::Product, &[left.node, right.node], &xs);
        Ok(Flow { xs, signal: Signal::Analog, node })
    }
}

/// The sum of two spike trains, which counts the spikes of both if they have the same amplitude.
fn add(name: &str, a: &Flow, b: &Flow, pass: &mut Pass<'_>) -> Result<Flow> {
    let signal = match (a.signal, b.signal) {
        (Signal::Spikes { v_threshold }, Signal::Spikes { v_threshold: other }) if v_threshold == other => a.signal,
        _ => Signal::Analog,
    };
    let xs = (&a.xs + &b.xs)?;
    let node = pass.record(name, Op::Add, &[a.node, b.node], &xs);
    Ok(Flow { xs, signal, node })
}
