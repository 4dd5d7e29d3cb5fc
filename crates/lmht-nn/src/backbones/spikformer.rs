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

use crate::layers::{Attention, BatchNorm, ConvNorm, Linear, Neuron, Site, add, max_pool2d, mean_of_tokens, tokens};
use crate::ops::{Conv2dParams, Pool2dParams};
use crate::{Architecture, Backbone, Body, Error, InputShape, ModelConfig, Pass, Result, Signal};

/// Blocks of the published Transformer.
const PUBLISHED_DEPTH: usize = 4;
/// Attention heads of the published Transformer.
const PUBLISHED_HEADS: usize = 12;

/// The network.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spikformer;

impl Spikformer {
    /// Blocks and heads.
    fn sizes(config: &ModelConfig) -> (usize, usize) {
        (config.depth.unwrap_or(PUBLISHED_DEPTH), config.heads.unwrap_or(PUBLISHED_HEADS))
    }
}

impl Architecture for Spikformer {
    fn name(&self) -> &str {
        "spikformer"
    }

    fn title(&self) -> &str {
        "Spikformer"
    }

    fn input(&self) -> InputShape {
        InputShape::images()
    }

    fn check(&self, config: &ModelConfig) -> Result<()> {
        // The fields that it has are looked at below.
        ModelConfig { depth: None, heads: None, ..config.clone() }.refuse_stem_and_depth(false)?;
        let (depth, heads) = Self::sizes(config);
        for (name, value) in [("depth", depth), ("heads", heads)] {
            if value == 0 {
                return Err(Error::Config(format!("{name} is 0; expected at least 1")));
            }
        }
        if !config.width.is_multiple_of(8) {
            return Err(Error::Config(format!(
                "width is {}; expected a multiple of 8, since Spikformer starts with an eighth of it",
                config.width
            )));
        }
        if !config.width.is_multiple_of(heads) {
            return Err(Error::Config(format!(
                "heads is {heads}; expected a divisor of the width, {}, which the heads share",
                config.width
            )));
        }
        config.refuse_unit_spikes("its attention multiplies spikes, and no weight there stands for θ")
    }

    fn build(&self, config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Body>> {
        Ok(Box::new(Layers::new(config, vb)?))
    }
}

impl ModelConfig {
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
        let published = Self::of(Backbone::Spikformer, 384, n_classes);
        Self { timesteps: 4, depth: Some(PUBLISHED_DEPTH), heads: Some(PUBLISHED_HEADS), ..published }
    }
}

/// The factor on the attention products.
const SCALE: f64 = 0.125;

/// Features between the two layers of a perceptron, in units of the embedding size.
const MLP_RATIO: usize = 4;

#[derive(Debug)]
struct Layers {
    patches: PatchSplitting,
    blocks: Vec<Block>,
    head: Linear,
}

impl Layers {
    fn new(config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let (depth, heads) = Spikformer::sizes(config);
        let blocks = (0..depth).map(|block| Block::new(config, heads, &vb.pp("block").pp(block)));
        Ok(Self {
            patches: PatchSplitting::new(config, &vb.pp("patch_embed"))?,
            blocks: blocks.collect::<Result<_>>()?,
            head: config.readout_layer(config.width, vb.pp("head"))?,
        })
    }
}

impl Body for Layers {
    fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
        let maps = self.patches.forward(xs, pass)?;
        let n_tokens = maps.values().dims()[2..].iter().product();
        let mut xs = tokens(&maps, pass)?;
        for block in &self.blocks {
            xs = block.forward(&xs, n_tokens, pass)?;
        }
        self.head.forward(&mean_of_tokens(&xs, n_tokens, pass)?, pass)
    }
}

/// Images to maps of D channels at a quarter of the side.
#[derive(Debug)]
struct PatchSplitting {
    convs: Vec<(ConvNorm, Neuron)>,
    position: (ConvNorm, Neuron),
}

impl PatchSplitting {
    fn new(config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let layer = |c_in, c_out, name: &str, number: &str| -> Result<(ConvNorm, Neuron)> {
            let part = |part| vb.pp(format!("{name}_{part}{number}"));
            let params = Conv2dParams { padding: 1, ..Conv2dParams::default() };
            let synapse = config.conv_norm((c_in, c_out, 3), params, false, (part("conv"), part("bn")))?;
            Ok((synapse, config.neuron_layer(Site::Maps, part("lif"))?))
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

    /// The published network computes the stem's current once, statistics included, and repeats it.
    fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
        let mut xs = xs.clone();
        for (i, (synapse, neuron)) in self.convs.iter().enumerate() {
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
#[derive(Debug)]
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
            neuron: config.neuron_layer(Site::Features, part("lif"))?,
        })
    }

    fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
        let current = self.linear.forward(xs, pass)?;
        let current = match &self.norm {
            Some(norm) => norm.forward(&current, pass)?,
            None => current,
        };
        self.neuron.forward(&current, pass)
    }
}

#[derive(Debug)]
struct Block {
    name: String,
    attention: SelfAttention,
    fc1: Layer,
    fc2: Layer,
}

impl Block {
    fn new(config: &ModelConfig, heads: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let (width, hidden) = (config.width, MLP_RATIO * config.width);
        let mlp = vb.pp("mlp");
        Ok(Self {
            name: vb.prefix(),
            attention: SelfAttention::new(config, heads, &vb.pp("attn"))?,
            fc1: Layer::new(config, width, hidden, "fc1", &mlp)?,
            fc2: Layer::new(config, hidden, width, "fc2", &mlp)?,
        })
    }

    fn forward(&self, xs: &Signal, n_tokens: usize, pass: &mut Pass<'_>) -> Result<Signal> {
        let attention = self.attention.forward(xs, n_tokens, pass)?;
        let xs = add(&self.name, xs, &attention, pass)?;
        let hidden = self.fc1.forward(&xs, pass)?;
        let ys = self.fc2.forward(&hidden, pass)?;
        add(&self.name, &xs, &ys, pass)
    }
}

/// Spiking self-attention.
#[derive(Debug)]
struct SelfAttention {
    q: Layer,
    k: Layer,
    v: Layer,
    products: Attention,
    neuron: Neuron,
    proj: Layer,
}

impl SelfAttention {
    fn new(config: &ModelConfig, heads: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let layer = |name| Layer::new(config, config.width, config.width, name, vb);
        let windows = (config.n_frames(), config.neuron.window());
        Ok(Self {
            q: layer("q")?,
            k: layer("k")?,
            v: layer("v")?,
            products: Attention::new(vb.prefix(), heads, SCALE, windows),
            neuron: config.neuron_layer(Site::Features, vb.pp("attn_lif"))?,
            proj: layer("proj")?,
        })
    }

    /// Rows `[T·B·N, D]` to the same shape; N = `n_tokens`.
    fn forward(&self, xs: &Signal, n_tokens: usize, pass: &mut Pass<'_>) -> Result<Signal> {
        let q = self.q.forward(xs, pass)?;
        let k = self.k.forward(xs, pass)?;
        let v = self.v.forward(xs, pass)?;
        let current = self.products.forward([&q, &k, &v], n_tokens, pass)?;
        let spikes = self.neuron.forward(&current, pass)?;
        self.proj.forward(&spikes, pass)
    }
}
