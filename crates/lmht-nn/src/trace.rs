//! The trace: one description of a network, used by all that run, convert, count or export it.
//!
//! Candle has no tree of modules to walk. A [`Trace`] is written down by the forward pass itself, run once with outlines
//! instead of values ([`Network::trace`](crate::Network::trace)), so it cannot say anything else than what the network does.
//! It holds the tensors of each layer, and knows neither engines nor conversions nor backbones: the engine is built from it,
//! a conversion asks it which batch norm follows which synapse, an export walks it.

use candle_core::{Tensor, Var};

use crate::neurons::NeuronCell;
use crate::ops::{Conv2dParams, Pool2dParams};
use crate::signal::TimeBroadcast;

/// The layers of a network in the order in which they compute.
///
/// ```
/// use candle_core::{DType, Device};
/// use lmht_nn::trace::Op;
/// use lmht_nn::{ModelConfig, Network, ParamStore};
///
/// # fn main() -> lmht_nn::Result<()> {
/// let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
/// let network = Network::new(&config, ParamStore::blank().builder(DType::F32, &Device::Cpu))?;
/// let trace = network.trace(&[3, 32, 32])?;
/// assert_eq!(trace.nodes[0].shape, [3, 32, 32]);
/// assert_eq!((trace.nodes[1].name.as_str(), &trace.nodes[1].inputs[..]), ("conv1", &[0][..]));
/// let shortcuts = trace.nodes.iter().filter(|node| matches!(node.op, Op::Add));
/// assert_eq!(shortcuts.count(), 8);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// Each after everything that feeds it. The last one gives the logits.
    pub nodes: Vec<Node>,
}

/// One layer, as it was gone through once.
#[derive(Debug, Clone)]
pub struct Node {
    /// The path of its parameters (`layer1.0.conv1.0`); the block or part it belongs to if it has none. A layer that is gone
    /// through twice has two nodes of one name.
    pub name: String,
    /// What it does, with its tensors.
    pub op: Op,
    /// The numbers of the nodes that feed it.
    pub inputs: Vec<usize>,
    /// The shape of what it gives for one image, timestep or token: `[C, H, W]` or `[F]`.
    pub shape: Vec<usize>,
}

/// What a layer does.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Op {
    /// The image, frame or features.
    Input,
    /// A convolution.
    Conv2d {
        /// `[c_out, c_in / groups, k, k]`.
        weight: Tensor,
        /// `[c_out]`.
        bias: Option<Tensor>,
        /// Stride, padding, groups.
        params: Conv2dParams,
    },
    /// A fully connected layer.
    Linear {
        /// `[f_out, f_in]`.
        weight: Tensor,
        /// `[f_out]`.
        bias: Tensor,
    },
    /// Batch norm.
    BatchNorm(NormTensors),
    /// A layer of neurons or activations.
    Neuron(NeuronCell),
    /// Max-pooling.
    MaxPool(Pool2dParams),
    /// Average pooling.
    AvgPool(Pool2dParams),
    /// The mean over all positions of a map, or over all tokens.
    Mean,
    /// A constant factor.
    Scale(f64),
    /// The factor θ on a shortcut of unit spikes, the tensor `shortcut_scale` of its block.
    ShortcutScale(Tensor),
    /// A sum of two.
    Add,
    /// Rows that stand for several timesteps become the rows of all timesteps.
    Broadcast(TimeBroadcast),
    /// A map as one vector: no value changes.
    Flatten,
    /// The positions of a map as tokens: no value changes.
    Tokens,
    /// Spiking self-attention of three inputs, queries, keys, values: `scale · (q kᵀ) v` in every head.
    Attention(AttentionShape),
    /// Something that only the forward method itself knows how to do.
    Opaque {
        /// What it is, in words.
        what: String,
    },
}

/// The tensors of a batch norm.
#[derive(Debug, Clone)]
pub struct NormTensors {
    /// γ, `[C]`.
    pub weight: Tensor,
    /// β, `[C]`.
    pub bias: Tensor,
    /// The mean that an evaluation uses.
    pub running_mean: Var,
    /// The variance that an evaluation uses.
    pub running_var: Var,
    /// How many equal copies of its input the input stands for, as far as the unbiased variance is concerned.
    pub repeats: usize,
}

/// The sizes of an attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Heads, which share the channels.
    pub heads: usize,
    /// The factor on the scores.
    pub scale: f64,
    /// Timesteps of a window: a reparameterized network multiplies the counts of whole windows.
    pub window: usize,
    /// Windows.
    pub windows: usize,
}

impl Trace {
    /// A trace that has only its input.
    pub(crate) fn new(shape: &[usize]) -> Self {
        let input = Node { name: "input".into(), op: Op::Input, inputs: vec![], shape: shape.to_vec() };
        Self { nodes: vec![input] }
    }

    /// The nodes that a node feeds.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use lmht_nn::{ModelConfig, Network, ParamStore};
    ///
    /// # fn main() -> lmht_nn::Result<()> {
    /// let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
    /// let network = Network::new(&config, ParamStore::blank().builder(DType::F32, &Device::Cpu))?;
    /// assert_eq!(network.trace(&[3, 32, 32])?.readers(1).next().unwrap().name, "bn1");
    /// # Ok(()) }
    /// ```
    pub fn readers(&self, node: usize) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |reader| reader.inputs.contains(&node))
    }

    /// The node whose values `node` hands on unchanged, up to the timesteps that they are for: itself, unless it is a
    /// [`Op::Broadcast`].
    pub fn source(&self, node: usize) -> usize {
        match &self.nodes[node].op {
            Op::Broadcast(_) => self.source(self.nodes[node].inputs[0]),
            _ => node,
        }
    }

    /// Whether a node sees the image through nothing but synapses and batch norm: the analog stem.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use lmht_nn::{ModelConfig, Network, ParamStore};
    ///
    /// # fn main() -> lmht_nn::Result<()> {
    /// let config = ModelConfig { width: 4, ..ModelConfig::ms_resnet18(10) };
    /// let network = Network::new(&config, ParamStore::blank().builder(DType::F32, &Device::Cpu))?;
    /// let trace = network.trace(&[3, 32, 32])?;
    /// let stem: Vec<_> = (1..trace.nodes.len()).filter(|&i| trace.is_stem(i)).map(|i| &trace.nodes[i].name).collect();
    /// assert_eq!(stem, ["conv1", "bn1"]);
    /// # Ok(()) }
    /// ```
    pub fn is_stem(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        match node.op {
            Op::Conv2d { .. } | Op::Linear { .. } | Op::BatchNorm(_) => {
                let feeds = self.source(node.inputs[0]);
                matches!(self.nodes[feeds].op, Op::Input) || self.is_stem(feeds)
            }
            _ => false,
        }
    }

    /// The name of a layer with parameters that the network goes through more than once, if there is one: a conversion that
    /// rewrites the tensors of a layer by its place cannot take it.
    pub fn shared_layer(&self) -> Option<&str> {
        let has_tensors = |op: &Op| {
            matches!(
                op,
                Op::Conv2d { .. } | Op::Linear { .. } | Op::BatchNorm(_) | Op::Neuron(_) | Op::ShortcutScale(_)
            )
        };
        let named = |i: usize| (&self.nodes[i].name, std::mem::discriminant(&self.nodes[i].op));
        (0..self.nodes.len())
            .filter(|&i| has_tensors(&self.nodes[i].op))
            .find(|&i| (0..i).any(|j| named(j) == named(i)))
            .map(|i| self.nodes[i].name.as_str())
    }
}
