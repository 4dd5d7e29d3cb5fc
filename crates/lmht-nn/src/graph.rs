//! The layers of a network and what feeds what, as a value: for conversions, exports and reports.
//!
//! Candle has no tree of modules to walk. A [`Graph`] is written down by the forward pass itself, so it cannot say anything
//! else than what the network does.

use candle_core::{DType, Device, Tensor};

use crate::ops::{Conv2dParams, Pool2dParams};
use crate::{ModelConfig, Network, NeuronConfig, ParamStore, Pass, Result};

/// The layers of a network in the order in which they compute.
///
/// ```
/// use lmht_nn::ModelConfig;
/// use lmht_nn::graph::{Graph, Op};
///
/// # fn main() -> lmht_nn::Result<()> {
/// let graph = Graph::of(&ModelConfig { width: 4, ..ModelConfig::resnet18(10) }, (32, 32))?;
/// assert_eq!((&graph.nodes[0].op, &graph.nodes[0].shape[..]), (&Op::Input, &[3, 32, 32][..]));
/// assert_eq!((graph.nodes[1].name.as_str(), &graph.nodes[1].inputs[..]), ("conv1", &[0][..]));
/// let shortcuts = graph.nodes.iter().filter(|node| node.op == Op::Add);
/// assert_eq!(shortcuts.count(), 8);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Graph {
    /// Each after everything that feeds it. The last one gives the logits.
    pub nodes: Vec<Node>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The path of its parameters (`layer1.0.conv1.0`); the block or part it belongs to if it has none.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// The numbers of the nodes that feed it.
    pub inputs: Vec<usize>,
    /// The shape of what it gives for one image, timestep or token: `[C, H, W]` or `[F]`.
    pub shape: Vec<usize>,
}

/// What a layer does.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// The image or frame.
    Input,
    /// A convolution.
    Conv2d {
        /// Side of the kernel.
        kernel: usize,
        /// Stride and padding.
        params: Conv2dParams,
    },
    /// A fully connected layer.
    Linear,
    /// Batch norm.
    BatchNorm,
    /// A layer of neurons or activations.
    Neuron {
        /// The factor on its current.
        input_scale: f64,
    },
    /// Max-pooling.
    MaxPool(Pool2dParams),
    /// Average pooling.
    AvgPool(Pool2dParams),
    /// The mean over all positions of a map, or over all tokens.
    Mean,
    /// A constant factor.
    Scale(f64),
    /// The factor θ on a shortcut of unit spikes, the tensor `shortcut_scale` of its block.
    ShortcutScale,
    /// A sum of two.
    Add,
    /// A map as tokens, or as one vector: no value changes.
    Reshape,
    /// A matrix product of two activations.
    Product,
}

impl Graph {
    /// The graph of the network that `config` describes, for images of `(height, width)`.
    ///
    /// Builds the network with empty weights and runs it once on an empty image.
    ///
    /// # Errors
    /// If the configuration is not valid or cannot take such images.
    pub fn of(config: &ModelConfig, (height, width): (usize, usize)) -> Result<Self> {
        config.check()?;
        // The layers are the same at any T, so the fewest will do.
        let mut config = config.clone();
        config.timesteps = config.neuron.window();
        if let NeuronConfig::Srp { tau: stage, .. } | NeuronConfig::Cos { rho: stage, .. } = &mut config.neuron {
            (*stage, config.timesteps) = (1, 2);
        }
        let network = Network::new(&config, ParamStore::blank().builder(DType::F32, &Device::Cpu))?;
        let image = Tensor::zeros((1, config.in_channels, height, width), DType::F32, &Device::Cpu)?;
        let shape = vec![config.in_channels, height, width];
        let mut graph = Self { nodes: vec![Node { name: "input".into(), op: Op::Input, inputs: vec![], shape }] };
        network.forward(&image, &mut Pass::eval().recorded_in(&mut graph))?;
        Ok(graph)
    }

    /// The nodes that a node feeds.
    ///
    /// ```
    /// use lmht_nn::ModelConfig;
    /// use lmht_nn::graph::Graph;
    ///
    /// # fn main() -> lmht_nn::Result<()> {
    /// let graph = Graph::of(&ModelConfig { width: 4, ..ModelConfig::resnet18(10) }, (32, 32))?;
    /// assert_eq!(graph.readers(1).next().unwrap().name, "bn1");
    /// # Ok(()) }
    /// ```
    pub fn readers(&self, node: usize) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |reader| reader.inputs.contains(&node))
    }

    /// Whether a node sees the image through nothing but synapses and batch norm: the analog stem.
    ///
    /// ```
    /// use lmht_nn::ModelConfig;
    /// use lmht_nn::graph::Graph;
    ///
    /// # fn main() -> lmht_nn::Result<()> {
    /// let graph = Graph::of(&ModelConfig { width: 4, ..ModelConfig::ms_resnet18(10) }, (32, 32))?;
    /// let stem: Vec<_> = (1..graph.nodes.len()).filter(|&i| graph.is_stem(i)).map(|i| &graph.nodes[i].name).collect();
    /// assert_eq!(stem, ["conv1", "bn1"]);
    /// # Ok(()) }
    /// ```
    pub fn is_stem(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        match node.op {
            Op::Conv2d { .. } | Op::Linear | Op::BatchNorm => {
                let feeds = node.inputs[0];
                self.nodes[feeds].op == Op::Input || self.is_stem(feeds)
            }
            _ => false,
        }
    }
}
