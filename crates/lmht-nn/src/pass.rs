//! One forward pass: its mode, who watches it, and whether it is written down.

use candle_core::Tensor;

use crate::Result;
use crate::observer::{CurrentEvent, NeuronEvent, Observer, PassEvent, ProductEvent, SynapseEvent};
use crate::precision::Precision;
use crate::signal::{Signal, SignalKind, TimeBroadcast};
use crate::trace::{Node, Op, Trace};

/// Whether batch norm uses the statistics of the batch or the running ones, and whether gradients are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Batch statistics, running statistics are updated, gradients are recorded.
    Train,
    /// Running statistics, nothing is changed; of gradients only that of images that want one is recorded.
    Eval,
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
    trace: Option<&'a mut Trace>,
    layer_by_layer: bool,
    recomputing: bool,
    precision: Precision,
}

impl<'a> Pass<'a> {
    /// A pass that trains: batch statistics, gradients.
    pub fn train() -> Self {
        Self::new(Mode::Train)
    }

    /// A pass that evaluates: running statistics, no gradients of parameters.
    pub fn eval() -> Self {
        Self::new(Mode::Eval)
    }

    /// A pass in a given mode.
    pub fn new(mode: Mode) -> Self {
        Self { mode, observer: None, trace: None, layer_by_layer: false, recomputing: false, precision: Precision::F32 }
    }

    /// The same pass with a Candle operation for every layer: readable, slower, with more memory. What the engine and the steps
    /// of a GPU do is tested against it.
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
    /// It has no effect on a GPU, nor on a pass that runs [layer by layer](Pass::layer_by_layer).
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

    /// The same pass with maps and products in 16 bits, on a GPU. See [`Precision`].
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use lmht_nn::{ModelConfig, Network, ParamStore, Pass, Precision};
    ///
    /// # fn main() -> lmht_nn::Result<()> {
    /// let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
    /// let network = Network::new(&config, ParamStore::new(42).builder(DType::F32, &Device::Cpu))?;
    /// let images = Tensor::ones((1, 3, 8, 8), DType::F32, &Device::Cpu)?;
    /// let refused = network.forward(&images, &mut Pass::train().with_precision(Precision::Bf16)).unwrap_err();
    /// assert!(refused.to_string().contains("precision is bf16"), "{refused}");
    /// # Ok(()) }
    /// ```
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// The same pass, watched.
    pub fn observed_by(self, observer: &'a mut dyn Observer) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// The same pass, writing down each layer it goes through. Layers give outlines, not values, and change nothing.
    pub(crate) fn recorded_in(self, trace: &'a mut Trace) -> Self {
        Self { trace: Some(trace), ..self }
    }

    pub(crate) fn is_layer_by_layer(&self) -> bool {
        self.layer_by_layer || self.wants_currents()
    }

    pub(crate) fn is_recomputing(&self) -> bool {
        self.recomputing
    }

    pub(crate) fn is_observed(&self) -> bool {
        self.observer.is_some()
    }

    /// Whether the observer, if there is one, lets an evaluation take some images at a time.
    pub(crate) fn takes_parts(&self) -> bool {
        self.observer.as_ref().is_none_or(|observer| observer.takes_parts())
    }

    /// Whether the observer, if there is one, is to see currents.
    pub(crate) fn wants_currents(&self) -> bool {
        self.observer.as_ref().is_some_and(|observer| observer.wants_currents())
    }

    /// Whether this pass only writes down what the network does.
    pub(crate) fn is_recording(&self) -> bool {
        self.trace.is_some()
    }

    /// The values of a layer: computed, or in a pass that only writes down an outline of the shape `dims`, which takes no
    /// memory.
    pub(crate) fn values(
        &self,
        like: &Tensor,
        dims: impl FnOnce() -> candle_core::Result<Vec<usize>>,
        compute: impl FnOnce() -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<Tensor> {
        if self.is_recording() {
            Tensor::zeros(1, like.dtype(), like.device())?.broadcast_as(dims()?)
        } else {
            compute()
        }
    }

    /// The signal that a layer gives, written down if this pass does that.
    pub(crate) fn give(
        &mut self,
        name: &str,
        op: impl FnOnce() -> Op,
        inputs: &[&Signal],
        values: Tensor,
        kind: SignalKind,
        broadcast: Option<TimeBroadcast>,
    ) -> Signal {
        let node = self.trace.as_mut().map(|trace| {
            let inputs = inputs.iter().map(|input| {
                input.node().unwrap_or_else(|| {
                    let what =
                        format!("{} reads a tensor that no layer gave", if name.is_empty() { "a layer" } else { name });
                    let shape = input.values().dims()[1..].to_vec();
                    trace.nodes.push(Node { name: name.into(), op: Op::Opaque { what }, inputs: vec![], shape });
                    trace.nodes.len() - 1
                })
            });
            let inputs = inputs.collect();
            let shape = values.dims().get(1..).unwrap_or_default().to_vec();
            trace.nodes.push(Node { name: name.to_string(), op: op(), inputs, shape });
            trace.nodes.len() - 1
        });
        Signal::of(values, kind, broadcast, node)
    }

    /// Tells the observer what is about to pass: T, and B images. [`Network::forward`](crate::Network::forward) does; code
    /// that calls layers without a network, and wants costs told apart by timestep and image, calls this first.
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

    pub(crate) fn show_current(&mut self, event: &CurrentEvent<'_>) -> Result<()> {
        self.observer.as_mut().map_or(Ok(()), |observer| observer.current(event))
    }

    pub(crate) fn show_neuron(&mut self, event: &NeuronEvent<'_>) -> Result<()> {
        self.observer.as_mut().map_or(Ok(()), |observer| observer.neuron(event))
    }

    pub(crate) fn show_product(&mut self, event: &ProductEvent<'_>) -> Result<()> {
        self.observer.as_mut().map_or(Ok(()), |observer| observer.product(event))
    }
}
