//! Conversion of networks: a pretrained ANN into an LM-HT network, a trained LM-HT network into a single-threshold one.
//!
//! A conversion is a pure function from a configuration and named tensors to a configuration and named tensors: Candle has
//! no tree of modules to walk, and a pure function can be tested on a handful of tensors. [`Model`] is what goes
//! in and what comes out.
//!
//! What the layers are, the [trace](lmht_nn::trace) of the network says, and what its neurons are, their
//! [traits](lmht_nn::neurons::NeuronTraits): a network of one's own ([`lmht_nn::Architecture`]) is converted as a built-in one
//! is. Whatever cannot be converted is refused by its name, with what to do about it.
//!
//! - [`qcfs_to_lmht`] and [`qcfs_to_if`] make a spiking network of a pretrained QCFS network (§4.4),
//!   [`relu_to_lmht`] of a ReLU network; [`hybrid_report`] says where it is not the same function, and how far it is off;
//! - [`relu_to_if`] (RMP), [`relu_to_snm`], [`relu_to_unit_snm`], [`qcfs_to_srp`] and [`qcfs_to_cos`] are the conversions that the
//!   paper compares with;
//! - [`reparameterize`] makes single-threshold neurons of multi-level ones, with nothing lost (§4.5);
//! - [`absorb_bn`] and [`absorb_thresholds`] take batch norm and the amplitude of spikes into the weights;
//! - [`compare_spikes`] says whether two networks send the same spikes;
//! - [`checkpoint`] reads what PyTorch saved and writes what it loads;
//! - with the feature `nir`, the module `nir` exports IF and LIF networks to NIR files and verifies them.
//!
//! ```
//! use candle_core::{DType, Device};
//! use lmht_convert::Model;
//! use lmht_nn::{ModelConfig, Network, ParamStore};
//!
//! # fn main() -> lmht_convert::Result<()> {
//! let config = ModelConfig { width: 4, ..ModelConfig::resnet20(10) };
//! let params = ParamStore::new(42);
//! Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
//! let model = Model::of(&config, &params);
//! let (_network, copies) = model.build(DType::F32, &Device::Cpu)?;
//! assert_eq!(copies.to_safetensors()?, params.to_safetensors()?);
//! # Ok(()) }
//! ```

mod absorb;
mod balance;
mod baselines;
mod calibration;
pub mod checkpoint;
mod compare;
mod error;
mod hybrid;
mod layers;
#[cfg(feature = "nir")]
pub mod nir;
mod reparameterize;
mod report;

pub use absorb::{absorb_bn, absorb_thresholds};
pub use balance::{UnitCalibration, relu_to_unit_snm};
pub use baselines::{qcfs_to_cos, qcfs_to_srp, relu_to_if, relu_to_snm};
pub use calibration::Calibration;
pub use compare::{LayerSpikes, SpikeComparison, compare_spikes};
pub use error::{Error, Result};
pub use hybrid::{HybridStart, qcfs_to_if, qcfs_to_lmht, relu_to_lmht};
pub use reparameterize::reparameterize;
pub use report::{Deviation, HybridReport, LogitComparison, hybrid_report};

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use lmht_nn::trace::Trace;
use lmht_nn::{ModelConfig, Network, ParamStore};

/// A network as a value: its configuration and its tensors under their published names.
#[derive(Debug, Clone)]
pub struct Model {
    /// What the network is.
    pub config: ModelConfig,
    /// Parameters and buffers by name.
    pub tensors: HashMap<String, Tensor>,
}

impl Model {
    /// The value of a network that exists; the tensors are shared, not copied.
    pub fn of(config: &ModelConfig, params: &ParamStore) -> Self {
        let tensors = params.all().into_iter().map(|(name, var)| (name, var.as_detached_tensor()));
        Self { config: config.clone(), tensors: tensors.collect() }
    }

    /// Checks that the tensors are those of the configuration, and lists the network's layers for an input of
    /// [`ModelConfig::example_input`]. The trace holds empty tensors, not those of the model.
    ///
    /// # Errors
    /// If the configuration is not valid or the tensors do not fit it; all differences are listed.
    pub fn check(&self) -> Result<Trace> {
        let blank = ParamStore::blank();
        let network = Network::new(&self.config, blank.builder(DType::F32, &Device::Cpu))?;
        blank.check("converted model", &self.tensors)?;
        Ok(network.trace(&self.config.example_input())?)
    }

    /// As [`Model::check`], for a conversion, which must know every layer.
    fn layers(&self) -> Result<Trace> {
        let trace = self.check()?;
        layers::check_known(&trace, &self.config)?;
        Ok(trace)
    }

    /// Builds the network, with tensors of its own.
    ///
    /// # Errors
    /// If the configuration is not valid or the tensors do not fit it; all differences are listed.
    pub fn build(&self, dtype: DType, device: &Device) -> Result<(Network, ParamStore)> {
        let params = ParamStore::blank();
        let network = Network::new(&self.config, params.builder(dtype, device))?;
        params.load("converted model", &self.tensors)?;
        Ok((network, params))
    }
}
