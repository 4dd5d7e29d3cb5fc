//! Who watches a forward pass, and what is shown: synapses, neuron layers, products.

use candle_core::{DType, Device, Tensor};
use lmht_core::{IN_GATE, Tgim};

use crate::Result;
use crate::signal::SignalKind;

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
#[non_exhaustive]
pub enum SynapseKind {
    /// A square convolution.
    Conv2d {
        /// Output channels.
        c_out: usize,
        /// Side of the kernel.
        kernel: usize,
        /// Stride in both directions.
        stride: usize,
        /// Zero padding on every side; padding has no synapse.
        padding: usize,
        /// Groups of channels that do not see each other.
        groups: usize,
    },
    /// A fully connected layer.
    Linear {
        /// Output features.
        f_out: usize,
    },
}

/// Values that an event shows, as the pass has them: nothing is converted for an observer that does not ask.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    /// A tensor `[N, C, H, W]` or `[N, F]`.
    Tensor(&'a Tensor),
    /// Spikes, a byte a unit.
    Packed(PackedSpikes<'a>),
    /// Numbers of a pass that keeps channels innermost.
    Numbers(ChannelsLast<'a>),
}

/// Spikes as the engine keeps them.
#[derive(Debug, Clone, Copy)]
pub struct PackedSpikes<'a> {
    /// `[rows, h, w, c]`: the low 7 bits of a byte are the count s, the highest says where a gradient passes.
    pub bytes: &'a [u8],
    /// Height, width and channels of a row; a vector is a map of one position.
    pub shape: [usize; 3],
    /// What one spike counts for.
    pub amplitude: f64,
    /// What the axes stand for.
    pub form: Form,
    /// The number type of the pass.
    pub dtype: DType,
}

impl PackedSpikes<'_> {
    /// The count s of a byte.
    #[inline(always)]
    pub fn count(byte: u8) -> u8 {
        byte & !IN_GATE
    }
}

/// Numbers as the engine keeps them.
#[derive(Debug, Clone, Copy)]
pub struct ChannelsLast<'a> {
    /// `[rows, h, w, c]`.
    pub numbers: Numbers<'a>,
    /// Height, width and channels of a row; a vector is a map of one position.
    pub shape: [usize; 3],
    /// What the axes stand for.
    pub form: Form,
}

/// Numbers of either type.
#[derive(Debug, Clone, Copy)]
pub enum Numbers<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Double precision.
    F64(&'a [f64]),
}

/// What the axes of `[rows, h, w, c]` stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A tensor `[rows, c, h, w]`.
    Maps,
    /// A tensor `[rows, c · h · w]`.
    Vector,
    /// A tensor `[rows · h · w, c]`: every position is a token.
    Tokens,
}

impl Form {
    fn dims(self, rows: usize, [h, w, c]: [usize; 3]) -> Vec<usize> {
        match self {
            Self::Maps => vec![rows, c, h, w],
            Self::Vector => vec![rows, c * h * w],
            Self::Tokens => vec![rows * h * w, c],
        }
    }

    /// Numbers `[rows, h, w, c]` as the tensor that a layer outside of the engine would see.
    pub(crate) fn tensor<T: candle_core::WithDType>(self, values: Vec<T>, shape: [usize; 3]) -> Result<Tensor> {
        let [h, w, c] = shape;
        let rows = values.len() / (h * w * c).max(1);
        let dims = self.dims(rows, shape);
        if self == Self::Tokens || h * w == 1 || c == 1 {
            return Ok(Tensor::from_vec(values, dims, &Device::Cpu)?);
        }
        let maps = Tensor::from_vec(values, (rows, h * w, c), &Device::Cpu)?;
        Ok(maps.transpose(1, 2)?.contiguous()?.reshape(dims)?)
    }
}

impl Values<'_> {
    /// The shape of the tensor: `[N, C, H, W]` or `[N, F]`, where N counts images, or images times timesteps (time first),
    /// times tokens.
    pub fn dims(&self) -> Vec<usize> {
        match self {
            Self::Tensor(tensor) => tensor.dims().to_vec(),
            Self::Packed(packed) => {
                let [h, w, c] = packed.shape;
                packed.form.dims(packed.bytes.len() / (h * w * c).max(1), packed.shape)
            }
            Self::Numbers(values) => {
                let len = match values.numbers {
                    Numbers::F32(numbers) => numbers.len(),
                    Numbers::F64(numbers) => numbers.len(),
                };
                let [h, w, c] = values.shape;
                values.form.dims(len / (h * w * c).max(1), values.shape)
            }
        }
    }

    /// How many values there are.
    pub fn elem_count(&self) -> usize {
        match self {
            Self::Tensor(tensor) => tensor.elem_count(),
            Self::Packed(packed) => packed.bytes.len(),
            Self::Numbers(values) => match values.numbers {
                Numbers::F32(numbers) => numbers.len(),
                Numbers::F64(numbers) => numbers.len(),
            },
        }
    }

    /// The values as a tensor; of packed spikes s·θ. A copy, unless they are a tensor already.
    ///
    /// # Errors
    /// Only if Candle cannot make the tensor.
    pub fn to_tensor(&self) -> Result<Tensor> {
        match self {
            Self::Tensor(tensor) => Ok((*tensor).clone()),
            Self::Packed(packed) => {
                let count = |byte: &u8| f64::from(PackedSpikes::count(*byte));
                if packed.dtype == DType::F64 {
                    let values = packed.bytes.iter().map(|byte| count(byte) * packed.amplitude).collect();
                    packed.form.tensor::<f64>(values, packed.shape)
                } else {
                    let amplitude = packed.amplitude as f32;
                    let values = packed.bytes.iter().map(|byte| count(byte) as f32 * amplitude).collect();
                    packed.form.tensor::<f32>(values, packed.shape)
                }
            }
            Self::Numbers(ChannelsLast { numbers, shape, form }) => match numbers {
                Numbers::F32(numbers) => form.tensor(numbers.to_vec(), *shape),
                Numbers::F64(numbers) => form.tensor(numbers.to_vec(), *shape),
            },
        }
    }
}

/// What an [`Observer`] is shown of a synapse.
#[derive(Debug)]
#[non_exhaustive]
pub struct SynapseEvent<'a> {
    /// The path of its weight, without the last part: `layer1.0.conv1.0`.
    pub name: &'a str,
    /// Its connections.
    pub kind: SynapseKind,
    /// What it receives, `[N, C, H, W]` or `[N, F]`, where N counts images, or images times timesteps (time first), times tokens.
    pub input: Values<'a>,
    /// Its weight, `[c_out, c_in / groups, k, k]` or `[f_out, f_in]`.
    pub weight: &'a Tensor,
    /// Spikes or analog values.
    pub signal: SignalKind,
}

impl<'a> SynapseEvent<'a> {
    /// An event, for code that feeds an observer without a network.
    pub fn new(name: &'a str, kind: SynapseKind, input: Values<'a>, weight: &'a Tensor, signal: SignalKind) -> Self {
        Self { name, kind, input, weight, signal }
    }
}

/// What an [`Observer`] is shown of a neuron layer.
#[derive(Debug)]
#[non_exhaustive]
pub struct NeuronEvent<'a> {
    /// Its path: `layer1.0.sn1`.
    pub name: &'a str,
    /// T.
    pub timesteps: usize,
    /// What it sends, s(t)·θ, `[T·B, ...]`, time outermost.
    pub output: Values<'a>,
    /// θ for spikes; analog for activations that are no spikes.
    pub signal: SignalKind,
    /// The largest number of spikes a timestep can have.
    pub levels: u32,
    /// Which entries of Ω mix the timesteps; [`Tgim::Identity`] where none do.
    pub tgim: Tgim,
    /// Timesteps in a window of a reparameterized neuron, between whose windows Ω mixes; 1 of any other.
    pub window: usize,
    /// Whether a leak λ multiplies the potential on entering a window.
    pub has_leak: bool,
}

/// What an [`Observer`] is shown of the currents of a neuron layer, if it [wants](Observer::wants_currents) them.
#[derive(Debug)]
#[non_exhaustive]
pub struct CurrentEvent<'a> {
    /// Its path: `layer1.0.sn1`.
    pub name: &'a str,
    /// What it receives, before Ω: `[T·B, ...]`, time outermost.
    pub current: &'a Tensor,
}

impl<'a> CurrentEvent<'a> {
    /// An event, for code that feeds an observer without a network.
    pub fn new(name: &'a str, current: &'a Tensor) -> Self {
        Self { name, current }
    }
}

/// The numbers of a neuron that do not change with its spikes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NeuronTraits {
    pub(crate) timesteps: usize,
    pub(crate) levels: u32,
    pub(crate) tgim: Tgim,
    pub(crate) window: usize,
    pub(crate) has_leak: bool,
}

impl<'a> NeuronEvent<'a> {
    pub(crate) fn of(name: &'a str, traits: NeuronTraits, output: Values<'a>, signal: SignalKind) -> Self {
        let NeuronTraits { timesteps, levels, tgim, window, has_leak } = traits;
        Self { name, timesteps, output, signal, levels, tgim, window, has_leak }
    }

    /// An event of a neuron with `levels` levels, without T-GIM, windows and leak, for code that feeds an observer without a
    /// network.
    pub fn new(name: &'a str, timesteps: usize, output: Values<'a>, signal: SignalKind, levels: u32) -> Self {
        let traits = NeuronTraits { timesteps, levels, tgim: Tgim::Identity, window: 1, has_leak: false };
        Self::of(name, traits, output, signal)
    }
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
#[non_exhaustive]
pub struct ProductEvent<'a> {
    /// The path of the attention and what is multiplied: `block.0.attn.q_k`, then `block.0.attn.qk_v`.
    pub name: &'a str,
    /// `[T·B, heads, N, K]`, time outermost.
    pub left: &'a Tensor,
    /// Spikes or analog values.
    pub left_signal: SignalKind,
    /// `[T·B, heads, K, M]`.
    pub right: &'a Tensor,
    /// Spikes or analog values.
    pub right_signal: SignalKind,
}

impl<'a> ProductEvent<'a> {
    /// An event, for code that feeds an observer without a network.
    pub fn new(name: &'a str, left: (&'a Tensor, SignalKind), right: (&'a Tensor, SignalKind)) -> Self {
        Self { name, left: left.0, left_signal: left.1, right: right.0, right_signal: right.1 }
    }
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
    /// Called before anything else of a pass, and before each part of one if [`Observer::takes_parts`].
    ///
    /// # Errors
    /// An error ends the pass.
    fn begin(&mut self, event: &PassEvent) -> Result<()> {
        let _ = event;
        Ok(())
    }

    /// Whether a pass over many images may come as several passes over some of them each, one after the other. An
    /// evaluation does so to stay in the cache, and is slower if the observer wants all images at once.
    fn takes_parts(&self) -> bool {
        false
    }

    /// Called before a synapse computes.
    ///
    /// # Errors
    /// An error ends the pass.
    fn synapse(&mut self, event: &SynapseEvent<'_>) -> Result<()> {
        let _ = event;
        Ok(())
    }

    /// Whether [`Observer::current`] is to be called. Such a pass runs [layer by layer](crate::Pass::layer_by_layer): the
    /// engine keeps no currents.
    fn wants_currents(&self) -> bool {
        false
    }

    /// Called before a neuron layer fires, if [`Observer::wants_currents`]. A tensor of the layer that is set here counts for
    /// this pass already, but for [`Network::inference`](crate::Network::inference), which has copies.
    ///
    /// # Errors
    /// An error ends the pass.
    fn current(&mut self, event: &CurrentEvent<'_>) -> Result<()> {
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
