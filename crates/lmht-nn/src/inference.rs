//! A network for evaluation alone.

use candle_core::{Device, Tensor};

use crate::network::Network;
use crate::{ModelConfig, Pass, Result};

/// A network whose parameters stay as they are: what an evaluation pass computes from them alone is computed once.
///
/// [`Network::inference`] makes it. It has copies of all parameters and running statistics: what happens to those of the
/// network afterwards, a training step for example, it does not see. The weights are packed for a kernel when that first
/// runs, batch norm is a slope and an offset for each channel, Ω and λ are numbers; this memory comes on top of the copies.
///
/// A network that the engine does not run ([`Network::plan`] says why) runs layer by layer, as it does in
/// [`Network::forward`]; nothing is gained then, and the results are the same.
///
/// It can be used from several threads at once.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_nn::{ModelConfig, Network, ParamStore, Pass};
///
/// # fn main() -> lmht_nn::Result<()> {
/// let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
/// let params = ParamStore::new(42);
/// let network = Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
/// let images = Tensor::ones((3, 3, 8, 8), DType::F32, &Device::Cpu)?;
/// let expected = network.forward(&images, &mut Pass::eval())?.flatten_all()?.to_vec1::<f32>()?;
///
/// let inference = network.inference()?;
/// for (_, var) in params.all() {
///     var.set(&var.zeros_like()?)?; // later than the copies
/// }
/// let logits = inference.forward(&images)?;
/// assert_eq!(logits.dims(), [2, 3, 10]);
/// assert_eq!(logits.flatten_all()?.to_vec1::<f32>()?, expected);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Inference {
    /// Nobody else has its tensors.
    network: Network,
}

impl Network {
    /// The same network for evaluation alone: its parameters as they are now, ready for the kernels.
    ///
    /// # Errors
    /// If a tensor cannot be copied.
    pub fn inference(&self) -> Result<Inference> {
        Ok(Inference { network: self.fixed()? })
    }
}

impl Inference {
    /// The configuration of the network.
    pub fn config(&self) -> &ModelConfig {
        self.network.config()
    }

    /// Where its tensors are, and its images must be.
    pub fn device(&self) -> Device {
        self.network.device()
    }

    /// As [`Network::free_memory`].
    pub fn free_memory(&self) {
        self.network.free_memory();
    }

    /// Logits at every timestep, `[T, B, K]`: those of [`Network::forward`] in an evaluation pass, bit by bit.
    ///
    /// # Errors
    /// As [`Network::forward`].
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        self.network.forward(images, &mut Pass::eval())
    }

    /// The same, watched.
    ///
    /// # Errors
    /// As [`Network::forward`], and what the observer returns.
    pub fn forward_observed(&self, images: &Tensor, observer: &mut dyn crate::Observer) -> Result<Tensor> {
        self.network.forward(images, &mut Pass::eval().observed_by(observer))
    }
}
