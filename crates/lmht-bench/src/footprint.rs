//! Memory that a network's tensors need.

use lmht_nn::{ParamKind, ParamStore};
use serde::{Deserialize, Serialize};

/// Parameters and buffers of a network.
///
/// ```
/// use candle_core::{DType, Device};
/// use lmht_bench::Footprint;
/// use lmht_nn::{ModelConfig, Network, ParamStore};
///
/// # fn main() -> lmht_nn::Result<()> {
/// let params = ParamStore::new(42);
/// let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
/// Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
/// let footprint = Footprint::of(&params);
/// assert_eq!(footprint.bytes, 4 * (footprint.n_params + footprint.n_buffers));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// Trained values: weights, biases, scales of batch norm, and parameters of neurons.
    pub n_params: u64,
    /// Of these, those of neurons: T-GIM and leak, QCFS scale.
    pub n_neuron_params: u64,
    /// Values that no optimizer moves: running statistics, thresholds.
    pub n_buffers: u64,
    /// Bytes of all of them as they are in memory (NeuroBench's Footprint).
    pub bytes: u64,
}

impl Footprint {
    /// Of everything in the store.
    pub fn of(params: &ParamStore) -> Self {
        let mut footprint = Self { n_params: 0, n_neuron_params: 0, n_buffers: 0, bytes: 0 };
        for (name, var) in params.all() {
            let n = var.elem_count() as u64;
            footprint.bytes += n * var.dtype().size_in_bytes() as u64;
            match ParamKind::of(&name) {
                ParamKind::Weight => footprint.n_params += n,
                ParamKind::Neuron | ParamKind::Positive => {
                    footprint.n_params += n;
                    footprint.n_neuron_params += n;
                }
                ParamKind::Buffer => footprint.n_buffers += n,
            }
        }
        footprint
    }
}
