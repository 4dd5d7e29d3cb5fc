//! What a network costs: synaptic operations and energy, counted while it runs.
//!
//! One synaptic operation (SOP) is one accumulate caused by one spike through one existing synapse. A spike of level k
//! counts k; padding has no synapse; stride counts as it is. Real-valued inputs (images, averages, residual streams)
//! cost a multiply-accumulate (MAC) for each connection and are stated apart. All energies are estimates from the
//! operation counts.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use lmht_bench::{CostCounter, EnergyModel};
//! use lmht_nn::{ModelConfig, Network, ParamStore, Pass};
//!
//! # fn main() -> lmht_nn::Result<()> {
//! let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
//! let network = Network::new(&config, ParamStore::new(42).builder(DType::F32, &Device::Cpu))?;
//! let images = Tensor::ones((2, 3, 16, 16), DType::F32, &Device::Cpu)?;
//!
//! let mut counter = CostCounter::new();
//! network.forward(&images, &mut Pass::eval().observed_by(&mut counter))?;
//! let cost = counter.report(2);
//! println!("{:.0} SOPs, {:.6} mJ an image", cost.sops(), EnergyModel::default().energy_mj(&cost));
//! # Ok(()) }
//! ```

mod cost;
mod energy;

pub use cost::{CostCounter, CostReport, LayerCost};
pub use energy::EnergyModel;
