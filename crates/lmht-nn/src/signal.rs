//! What flows between the layers of a network.

use candle_core::Tensor;

/// What the values of a [`Signal`] are: this decides what an operation of the synapse that reads them costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SignalKind {
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

impl SignalKind {
    /// What a mean of such values is.
    pub(crate) fn averaged(self) -> Self {
        match self {
            Self::Spikes { v_threshold } | Self::Averaged { v_threshold } => Self::Averaged { v_threshold },
            Self::Analog => Self::Analog,
        }
    }
}

/// How the rows of a signal become the rows of all timesteps.
///
/// What depends on a static image alone is computed once, on the rows `[B]`; the first neuron asks for all timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeBroadcast {
    /// `[B]` for each of so many timesteps: a static image.
    Repeated(usize),
    /// `[windows, B]`, each row for `window` timesteps one after the other: a frame for a window of a reparameterized network.
    Held {
        /// Rows in time.
        windows: usize,
        /// Timesteps that a row stands for.
        window: usize,
    },
}

impl TimeBroadcast {
    /// How many timesteps a row stands for.
    pub fn factor(self) -> usize {
        match self {
            Self::Repeated(n) | Self::Held { window: n, .. } => n,
        }
    }

    /// The timestep of the narrow rows that timestep `t` reads.
    #[inline(always)]
    pub(crate) fn source(broadcast: Option<Self>, t: usize) -> usize {
        match broadcast {
            None => t,
            Some(Self::Repeated(_)) => 0,
            Some(Self::Held { window, .. }) => t / window,
        }
    }
}

/// A tensor on its way through a network, with what its values are.
///
/// `[N, C, H, W]` or `[N, F]`, N = T·B, time outermost; tokens are rows, N = T·B·tokens. Where time has not begun
/// ([`Signal::broadcast`]) a row stands for several timesteps.
///
/// A layer gives a signal that the trace knows. Values that come from elsewhere, by [`Signal::analog`], are unknown to it:
/// the network still runs, layer by layer, and [`Network::plan`](crate::Network::plan) says where.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_nn::{Signal, SignalKind};
///
/// # fn main() -> candle_core::Result<()> {
/// let frames = Signal::analog(Tensor::ones((2 * 4, 3, 16, 16), DType::F32, &Device::Cpu)?); // T = 2, B = 4
/// assert_eq!((frames.kind(), frames.broadcast()), (SignalKind::Analog, None));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Signal {
    values: Tensor,
    kind: SignalKind,
    broadcast: Option<TimeBroadcast>,
    node: Option<usize>,
}

impl Signal {
    /// Real values from outside of the layers, a row for every timestep.
    pub fn analog(values: Tensor) -> Self {
        Self { values, kind: SignalKind::Analog, broadcast: None, node: None }
    }

    /// What a layer gave; `node` is its number in the trace that the pass writes down.
    pub(crate) fn of(values: Tensor, kind: SignalKind, broadcast: Option<TimeBroadcast>, node: Option<usize>) -> Self {
        Self { values, kind, broadcast, node }
    }

    /// The tensor.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// What its values are.
    pub fn kind(&self) -> SignalKind {
        self.kind
    }

    /// How its rows become those of all timesteps; `None`: they are.
    pub fn broadcast(&self) -> Option<TimeBroadcast> {
        self.broadcast
    }

    pub(crate) fn node(&self) -> Option<usize> {
        self.node
    }
}
