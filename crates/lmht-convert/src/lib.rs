//! Conversion of networks: a pretrained ANN into an LM-HT network, a trained LM-HT network into a single-threshold one.
//!
//! A conversion is a pure function from a configuration and named tensors to a configuration and named tensors: Candle has
//! no tree of modules to walk, and a pure function can be tested on a handful of tensors. [`ConvertedModel`] is what goes
//! in and what comes out.
//!
//! - [`checkpoint`] reads what PyTorch saved and writes what it loads.
//!
//! ```
//! use candle_core::{DType, Device};
//! use lmht_convert::ConvertedModel;
//! use lmht_nn::{ModelConfig, Network, ParamStore};
//!
//! # fn main() -> lmht_nn::Result<()> {
//! let config = ModelConfig { width: 4, ..ModelConfig::resnet20(10) };
//! let params = ParamStore::new(42);
//! Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
//! let model = ConvertedModel::of(&config, &params);
//! let (_network, copies) = model.build(DType::F32, &Device::Cpu)?;
//! assert_eq!(copies.to_safetensors()?, params.to_safetensors()?);
//! # Ok(()) }
//! ```

pub mod checkpoint;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use lmht_nn::{ModelConfig, Network, ParamStore, Result};

/// A network as a value: its configuration and its tensors under their published names.
#[derive(Debug, Clone)]
pub struct ConvertedModel {
    /// What the network is.
    pub config: ModelConfig,
    /// Parameters and buffers by name.
    pub tensors: HashMap<String, Tensor>,
}

impl ConvertedModel {
    /// The value of a network that exists; the tensors are shared, not copied.
    pub fn of(config: &ModelConfig, params: &ParamStore) -> Self {
        let tensors = params.all().into_iter().map(|(name, var)| (name, var.as_detached_tensor()));
        Self { config: config.clone(), tensors: tensors.collect() }
    }

    /// Builds the network, with tensors of its own.
    ///
    /// # Errors
    /// If the configuration is not valid or the tensors do not fit it; all differences are listed.
    pub fn build(&self, dtype: DType, device: &Device) -> Result<(Network, ParamStore)> {
        let params = ParamStore::new(0);
        let network = Network::new(&self.config, params.builder(dtype, device))?;
        params.load("converted model", &self.tensors)?;
        Ok((network, params))
    }
}
