//! What a network costs: operations, energy, firing rates and memory, counted while it runs.
//!
//! One synaptic operation (SOP) is one accumulate caused by one spike through one existing synapse. A spike of level k
//! counts k; padding has no synapse; stride and groups count as they are. Real-valued inputs (images, averages, residual
//! streams) cost a multiply-accumulate (MAC) for each connection and are stated apart. Other definitions that papers and
//! tools use are counted beside this one; `docs/cost.md` of the repository has them side by side. All energies are
//! estimates from the operation counts.
//!
//! - [`CostCounter`] counts operations, [`ActivityCounter`] how neurons fire, [`Profiler`] both;
//! - [`EnergyModel`] prices operations;
//! - [`Footprint`] is what parameters need;
//! - with the feature `report`, `report` makes tables, CSV, JSON, charts and an HTML page of it.
//!
//! Wall-clock time is not measured here.
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
//! println!("{:.0} SOPs, {:.6} mJ an image (estimated)", cost.sops(), EnergyModel::default().energy_mj(&cost));
//! # Ok(()) }
//! ```

mod activity;
mod connections;
mod cost;
mod energy;
mod error;
mod footprint;
mod profiler;
mod tally;

#[cfg(feature = "report")]
pub mod report;

pub use activity::{ActivityCounter, LayerActivity, Raster};
pub use connections::Connections;
pub use cost::{
    CostCounter, CostReport, InputKind, LayerCost, NeuronCost, NeuronTotal, ProductCost, ProductTotal, SynapseTotal,
};
pub use energy::{EnergyEstimate, EnergyModel, MemoryModel};
pub use error::{Error, Result};
pub use footprint::Footprint;
pub use profiler::Profiler;
pub use tally::{Tally, tally_analog, tally_spikes};
