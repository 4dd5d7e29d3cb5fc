//! The conversions that hybrid training is compared with (Table 4): RMP and SNM from a ReLU network, SRP and COS from a QCFS
//! network. QCFS inference itself is [`qcfs_to_if`](crate::qcfs_to_if).

use lmht_nn::neurons;
use lmht_nn::{GradientMode, ModelConfig, NeuronConfig};

use crate::calibration::{Calibration, calibrated};
use crate::hybrid::{scale_of, spiking};
use crate::{Model, Result};

/// RMP (Han et al., CVPR 2020): IF neurons with reset by subtraction, v(0) = 0 and a threshold for each layer, the (percentile
/// of the) largest current that the layer has in the ANN.
///
/// Its authors balance thresholds layer by layer on spikes: [`Calibration::on_spikes`]; [`Calibration::of`] takes the ANN's own
/// activations. They train without bias and batch norm; here both stay.
///
/// # Errors
/// If the network is not a ReLU network, its tensors do not fit its configuration, T is 0, or a layer has no positive
/// ceiling (it is named).
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_convert::{Calibration, Model, relu_to_if, relu_to_snm};
/// use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore};
///
/// # fn main() -> lmht_convert::Result<()> {
/// let ann = ModelConfig { width: 4, neuron: NeuronConfig::relu(), timesteps: 1, ..ModelConfig::resnet20(10) };
/// let params = ParamStore::new(42);
/// let network = Network::new(&ann, params.builder(DType::F32, &Device::Cpu))?;
/// let images = Tensor::rand(0f32, 1., (2, 3, 8, 8), &Device::Cpu)?;
/// let calibration = Calibration::of(&network, &images, 100.)?;
/// let ann = Model::of(&ann, &params);
/// let (rmp, snm) = (relu_to_if(&ann, &calibration, 32)?, relu_to_snm(&ann, &calibration, 32)?);
/// assert_eq!((rmp.config.timesteps, snm.config.timesteps), (32, 32));
/// # Ok(()) }
/// ```
pub fn relu_to_if(model: &Model, calibration: &Calibration, timesteps: usize) -> Result<Model> {
    let neuron = NeuronConfig::If(neurons::If { v_threshold: 1., v_init: 0., gradient: GradientMode::Full });
    calibrated(model, calibration, neuron, timesteps, "v_threshold")
}

/// SNM (Wang et al., IJCAI 2022): neurons that can take back a spike, a threshold for each layer.
///
/// Its authors give every unit a threshold of its own: [`relu_to_unit_snm`](crate::relu_to_unit_snm).
///
/// # Errors
/// As [`relu_to_if`], where there is an example of both.
pub fn relu_to_snm(model: &Model, calibration: &Calibration, timesteps: usize) -> Result<Model> {
    let neuron = NeuronConfig::Snm(neurons::Snm { v_threshold: 1., v_init: 0., units: Default::default() });
    calibrated(model, calibration, neuron, timesteps, "v_threshold")
}

/// SRP (Hao et al., AAAI 2023): the QCFS network's IF neurons, silenced where the potential after τ timesteps shows that a
/// unit sent too much. The network has τ + T timesteps and answers after the last T.
///
/// # Errors
/// If the network is not a QCFS network, its tensors do not fit its configuration, or τ or T is 0.
///
/// ```
/// use candle_core::{DType, Device};
/// use lmht_convert::{Model, qcfs_to_cos, qcfs_to_srp};
/// use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore};
///
/// # fn main() -> lmht_convert::Result<()> {
/// let ann = ModelConfig { width: 4, neuron: NeuronConfig::qcfs(4), timesteps: 1, ..ModelConfig::resnet20(10) };
/// let params = ParamStore::new(42);
/// Network::new(&ann, params.builder(DType::F32, &Device::Cpu))?;
/// let ann = Model::of(&ann, &params);
/// assert_eq!(qcfs_to_srp(&ann, 4, 2)?.config.timesteps, 6);
/// assert_eq!(qcfs_to_cos(&ann, 4, 8)?.config.timesteps, 12);
/// # Ok(()) }
/// ```
pub fn qcfs_to_srp(model: &Model, tau: usize, timesteps: usize) -> Result<Model> {
    let v_threshold = scale_of(model)?;
    staged(model, NeuronConfig::Srp(neurons::Srp { tau, v_threshold }), tau, timesteps)
}

/// COS (Hao et al., ICLR 2023): the QCFS network's IF neurons, started with an offset that ρ timesteps have shown to be
/// missing. The network has ρ + T timesteps and answers after the last T.
///
/// # Errors
/// As [`qcfs_to_srp`], where there is an example of both.
pub fn qcfs_to_cos(model: &Model, rho: usize, timesteps: usize) -> Result<Model> {
    let v_threshold = scale_of(model)?;
    staged(model, NeuronConfig::Cos(neurons::Cos { rho, v_threshold }), rho, timesteps)
}

fn staged(model: &Model, neuron: NeuronConfig, stage: usize, timesteps: usize) -> Result<Model> {
    spiking(model, ModelConfig { neuron, timesteps: stage.saturating_add(timesteps), ..model.config.clone() }, 1.)
}
