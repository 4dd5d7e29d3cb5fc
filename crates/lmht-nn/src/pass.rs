//! One forward pass: its mode, and an observer that is shown what flows through the network.

use candle_core::Tensor;
use lmht_core::Tgim;

use crate::Result;
use crate::engine::{Part, Parts, Spread};
use crate::graph::{Graph, Node, Op};

/// Whether batch norm uses the statistics of the batch or the running ones, and whether gradients are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics, running statistics are updated, gradients are recorded.
    Train,
    /// Running statistics, nothing is changed and nothing is recorded for a backward pass.
    Eval,
}

/// What kind of values a synapse receives: this decides what one of its operations costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Signal {
    /// Whole multiples of a firing threshold: an accumulate for each spike.
    Spikes {
        /// The amplitude θ of one spike.
        v_threshold: f64,
    },
    /// Averages of spikes, as average pooling leaves them: real values, so a multiply-accumulate for each.
    Averaged {
        /// The amplitude θ of the spikes that were averaged.
        v_threshold: f64,
    },
    /// Real values (an image, a residual stream, an activation of an ANN): a multiply-accumulate for each.
    Analog,
}

/// What an [`Observer`] is shown when a pass begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassEvent {
    /// T.
    pub timesteps: usize,
    /// B. The rows that later events show are B, for what a static image needs once, or T·B times the tokens of an image,
    /// time outermost.
    pub n_images: usize,
}

/// The connections of a synapse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SynapseKind {
    /// A square convolution without groups.
    Conv2d {
        /// Output channels.
        c_out: usize,
        /// Side of the kernel.
        kernel: usize,
        /// Stride in both directions.
        stride: usize,
        /// Zero padding on every side; padding has no synapse.
        padding: usize,
    },
    /// A fully connected layer.
    Linear {
        /// Output features.
        f_out: usize,
    },
}

/// What an [`Observer`] is shown of a synapse.
#[derive(Debug)]
pub struct SynapseEvent<'a> {
    /// The path of its weight, without the last part: `layer1.0.conv1.0`.
    pub name: &'a str,
    /// Its connections.
    pub kind: SynapseKind,
    /// What it receives, `[N, C, H, W]` or `[N, F]`, where N counts images, or images times timesteps (time first), times tokens.
    pub input: &'a Tensor,
    /// Its weight, `[c_out, c_in, k, k]` or `[f_out, f_in]`.
    pub weight: &'a Tensor,
    /// Spikes or analog values.
    pub signal: Signal,
}

/// What an [`Observer`] is shown of a neuron layer.
#[derive(Debug)]
pub struct NeuronEvent<'a> {
    /// Its path: `layer1.0.sn1`.
    pub name: &'a str,
    /// T.
    pub timesteps: usize,
    /// What it sends, s(t)·θ, `[T·B, ...]`, time outermost.
    pub output: &'a Tensor,
    /// θ for spikes; analog for activations that are no spikes.
    pub signal: Signal,
    /// The largest number of spikes a timestep can have.
    pub levels: u32,
    /// Which entries of Ω mix the timesteps; [`Tgim::Identity`] where none do.
    pub tgim: Tgim,
    /// Timesteps in a window of a reparameterized neuron, between whose windows Ω mixes; 1 of any other.
    pub window: usize,
    /// Whether a leak λ multiplies the potential on entering a window.
    pub has_leak: bool,
}

/// What an [`Observer`] is shown of a matrix product of two activations, as attention has them. No synapse has a weight
/// there: each value of the result sums over pairs of what two neuron layers sent.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_nn::{ModelConfig, Network, Observer, ParamStore, Pass, ProductEvent};
///
/// /// Multiplications that dense products would need.
/// #[derive(Default)]
/// struct Dense(usize);
///
/// impl Observer for Dense {
///     fn product(&mut self, event: &ProductEvent<'_>) -> lmht_nn::Result<()> {
///         self.0 += event.left.elem_count() * event.right.dim(3)?;
///         Ok(())
///     }
/// }
///
/// # fn main() -> lmht_nn::Result<()> {
/// let config = ModelConfig { width: 16, depth: Some(1), heads: Some(4), ..ModelConfig::spikformer(10) };
/// let network = Network::new(&config, ParamStore::new(42).builder(DType::F32, &Device::Cpu))?;
/// let image = Tensor::zeros((1, 3, 16, 16), DType::F32, &Device::Cpu)?;
/// let mut dense = Dense::default();
/// network.forward(&image, &mut Pass::eval().observed_by(&mut dense))?;
/// // T = 4, 4 heads, 4x4 tokens: q kᵀ and (q kᵀ) v need 16 · 16 · 4 each.
/// assert_eq!(dense.0, 4 * 4 * 2 * 16 * 16 * 4);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ProductEvent<'a> {
    /// The path of the attention and what is multiplied: `block.0.attn.q_k`, then `block.0.attn.qk_v`.
    pub name: &'a str,
    /// `[T·B, heads, N, K]`, time outermost.
    pub left: &'a Tensor,
    /// Spikes or analog values.
    pub left_signal: Signal,
    /// `[T·B, heads, K, M]`.
    pub right: &'a Tensor,
    /// Spikes or analog values.
    pub right_signal: Signal,
}

/// Something that watches a forward pass: counts operations, draws histograms, compares spikes.
///
/// Watching changes no value of the pass. The methods do nothing unless overridden.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_nn::{ModelConfig, Network, NeuronEvent, Observer, ParamStore, Pass, Result};
///
/// /// Counts the neuron layers that a pass goes through.
/// #[derive(Default)]
/// struct Layers(usize);
///
/// impl Observer for Layers {
///     fn neuron(&mut self, event: &NeuronEvent<'_>) -> Result<()> {
///         assert_eq!(event.output.dims()[0], 2 * 3); // T·B
///         self.0 += 1;
///         Ok(())
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let config = ModelConfig { width: 4, ..ModelConfig::resnet20(10) };
/// let network = Network::new(&config, ParamStore::new(42).builder(DType::F32, &Device::Cpu))?;
/// let images = Tensor::ones((3, 3, 8, 8), DType::F32, &Device::Cpu)?;
/// let mut layers = Layers::default();
/// network.forward(&images, &mut Pass::eval().observed_by(&mut layers))?;
/// assert_eq!(layers.0, 19); // the stem's, and two in each of nine blocks
/// # Ok(()) }
/// ```
pub trait Observer {
    /// Called before anything else of a pass.
    ///
    /// # Errors
    /// An error ends the pass.
    fn begin(&mut self, event: &PassEvent) -> Result<()> {
        let _ = event;
        Ok(())
    }

    /// Called before a synapse computes.
    ///
    /// # Errors
    /// An error ends the pass.
    fn synapse(&mut self, event: &SynapseEvent<'_>) -> Result<()> {
        let _ = event;
        Ok(())
    }

    /// Called after a neuron layer has fired.
    ///
    /// # Errors
    /// An error ends the pass.
    fn neuron(&mut self, event: &NeuronEvent<'_>) -> Result<()> {
        let _ = event;
        Ok(())
    }

    /// Called before two activations are multiplied.
    ///
    /// # Errors
    /// An error ends the pass.
    fn product(&mut self, event: &ProductEvent<'_>) -> Result<()> {
        let _ = event;
        Ok(())
    }
}

/// The context of one forward pass.
///
/// ```
/// use lmht_nn::{Mode, Pass};
/// assert_eq!(Pass::eval().mode(), Mode::Eval);
/// ```
pub struct Pass<'a> {
    mode: Mode,
    observer: Option<&'a mut dyn Observer>,
    graph: Option<&'a mut Graph>,
    parts: Option<&'a mut Parts>,
    layer_by_layer: bool,
    recomputing: bool,
}

impl<'a> Pass<'a> {
    /// A pass that trains: batch statistics, gradients.
    pub fn train() -> Self {
        Self::new(Mode::Train)
    }

    /// A pass that evaluates: running statistics, no gradients.
    pub fn eval() -> Self {
        Self::new(Mode::Eval)
    }

    fn new(mode: Mode) -> Self {
        Self { mode, observer: None, graph: None, parts: None, layer_by_layer: false, recomputing: false }
    }

    /// The same pass with a Candle operation for every layer, as on devices other than the CPU: slower, with more memory,
    /// and differentiable in the images as well.
    ///
    /// A network of numbers that are no f32 or f64, or with attention, always runs like this.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use lmht_nn::{ModelConfig, Network, ParamStore, Pass};
    ///
    /// # fn main() -> lmht_nn::Result<()> {
    /// let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
    /// let network = Network::new(&config, ParamStore::new(42).builder(DType::F64, &Device::Cpu))?;
    /// let images = Tensor::ones((1, 3, 8, 8), DType::F64, &Device::Cpu)?;
    /// let logits = network.forward(&images, &mut Pass::eval())?;
    /// let same = network.forward(&images, &mut Pass::eval().layer_by_layer())?;
    /// assert!((logits - same)?.abs()?.max_all()?.to_scalar::<f64>()? < 1e-12);
    /// # Ok(()) }
    /// ```
    pub fn layer_by_layer(self) -> Self {
        Self { layer_by_layer: true, ..self }
    }

    /// The same training pass with less memory: of every synapse only the packed spikes are kept that it reads, and what it
    /// gave is computed once more on the way back. The results are the same bits.
    ///
    /// It has no effect on a pass that runs [layer by layer](Pass::layer_by_layer).
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use lmht_nn::{ModelConfig, Network, ParamStore, Pass, readout};
    ///
    /// # fn main() -> lmht_nn::Result<()> {
    /// let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
    /// let params = ParamStore::new(42);
    /// let network = Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
    /// let images = Tensor::ones((2, 3, 8, 8), DType::F32, &Device::Cpu)?;
    /// let logits = network.forward(&images, &mut Pass::train().recomputing())?;
    /// let gradients = readout(&logits)?.sqr()?.sum_all()?.backward()?;
    /// assert!(params.trainable().iter().all(|(_, var)| gradients.get(var).is_some()));
    /// # Ok(()) }
    /// ```
    pub fn recomputing(self) -> Self {
        Self { recomputing: true, ..self }
    }

    /// The same pass, watched.
    pub fn observed_by(self, observer: &'a mut dyn Observer) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// The same pass, writing down each layer it goes through.
    pub(crate) fn recorded_in(self, graph: &'a mut Graph) -> Self {
        Self { graph: Some(graph), ..self }
    }

    /// As [`Pass::recorded_in`], keeping the layers themselves as well.
    pub(crate) fn kept_in(self, graph: &'a mut Graph, parts: &'a mut Parts) -> Self {
        Self { graph: Some(graph), parts: Some(parts), ..self }
    }

    /// Keeps what a layer is, if this pass does; `node` is what [`Pass::record`] returned for it.
    pub(crate) fn keep(&mut self, node: usize, part: impl FnOnce() -> Part) {
        if let Some(parts) = self.parts.as_mut() {
            parts.insert(node, part());
        }
    }

    /// Notes that from here on the rows of a node stand for more timesteps than it computed.
    pub(crate) fn keep_spread(&mut self, node: usize, spread: Spread) {
        if let Some(parts) = self.parts.as_mut() {
            parts.spread(node, spread);
        }
    }

    pub(crate) fn is_layer_by_layer(&self) -> bool {
        self.layer_by_layer
    }

    pub(crate) fn is_recomputing(&self) -> bool {
        self.recomputing
    }

    pub(crate) fn is_observed(&self) -> bool {
        self.observer.is_some()
    }

    /// Whether this pass only writes down what the network does.
    pub(crate) fn is_recording(&self) -> bool {
        self.graph.is_some()
    }

    /// Writes a layer down, if this pass does, and returns its number in the graph.
    pub(crate) fn record(&mut self, name: &str, op: Op, inputs: &[usize], output: &Tensor) -> usize {
        self.graph.as_mut().map_or(0, |graph| {
            let shape = output.dims()[1..].to_vec();
            graph.nodes.push(Node { name: name.to_string(), op, inputs: inputs.to_vec(), shape });
            graph.nodes.len() - 1
        })
    }

    /// Tells the observer what is about to pass: T, and B images. [`crate::Network`] does; a network of one's own whose
    /// costs are to be told apart by timestep and image calls this first.
    ///
    /// # Errors
    /// What the observer returns.
    pub fn begin(&mut self, timesteps: usize, n_images: usize) -> Result<()> {
        self.observer.as_mut().map_or(Ok(()), |observer| observer.begin(&PassEvent { timesteps, n_images }))
    }

    /// Whether this pass trains or evaluates.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// A parameter as this pass uses it: tracked while training, cut from the graph while evaluating, so that an
    /// evaluation keeps no activations.
    pub(crate) fn param(&self, tensor: &Tensor) -> Tensor {
        match self.mode {
            Mode::Train => tensor.clone(),
            Mode::Eval => tensor.detach(),
        }
    }

    pub(crate) fn show_synapse(&mut self, event: &SynapseEvent<'_>) -> Result<()> {
        self.observer.as_mut().map_or(Ok(()), |observer| observer.synapse(event))
    }

    pub(crate) fn show_neuron(&mut self, event: &NeuronEvent<'_>) -> Result<()> {
        self.observer.as_mut().map_or(Ok(()), |observer| observer.neuron(event))
    }

    pub(crate) fn show_product(&mut self, event: &ProductEvent<'_>) -> Result<()> {
        self.observer.as_mut().map_or(Ok(()), |observer| observer.product(event))
    }
}
