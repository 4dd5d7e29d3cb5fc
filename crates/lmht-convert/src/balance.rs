//! The thresholds of RMP and SNM as their authors choose them: of a layer on spikes, and of each unit.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor, Var};
use lmht_nn::{
    CurrentEvent, GradientMode, ModelConfig, Network, NeuronConfig, NeuronEvent, Observer, ParamStore, Pass, neurons,
};

use crate::calibration::{Calibration, calibrated, check_percentile, check_relu, percentile_of};
use crate::{Error, Model, Result};

impl Calibration {
    /// Balances the thresholds of a ReLU network on spikes, as RMP does (Han et al., CVPR 2020; the rule is that of Sengupta et
    /// al. 2019): layer by layer, θ is the given percentile of the currents that the layer receives at any of `timesteps`
    /// timesteps while the layers before it spike with their thresholds; 100 is the largest.
    ///
    /// One pass over all images: it keeps the currents of a layer at all timesteps, in f64 for the percentile. A layer that
    /// the network goes through twice has the larger of two thresholds.
    ///
    /// # Errors
    /// As [`relu_to_if`](crate::relu_to_if); if the percentile is not in 0..=100, or a layer gets no current above 0 (it is
    /// named).
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use lmht_convert::{Calibration, Model, relu_to_if};
    /// use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore};
    ///
    /// # fn main() -> lmht_convert::Result<()> {
    /// let ann = ModelConfig { width: 4, neuron: NeuronConfig::relu(), timesteps: 1, ..ModelConfig::resnet20(10) };
    /// let params = ParamStore::new(42);
    /// let network = Network::new(&ann, params.builder(DType::F32, &Device::Cpu))?;
    /// let (ann, images) = (Model::of(&ann, &params), Tensor::rand(0f32, 1., (2, 3, 8, 8), &Device::Cpu)?);
    /// let on_spikes = Calibration::on_spikes(&ann, &images, 8, 100.)?;
    /// // Images are no spikes: the first layer is that of the ANN. Spikes come in bursts: behind it more may come at once.
    /// let of_ann = Calibration::of(&network, &images, 100.)?;
    /// assert!((on_spikes.ceilings["conv1.2"] - of_ann.ceilings["conv1.2"]).abs() < 1e-6);
    /// assert!(on_spikes.ceilings["conv2_x.0.relu"] != of_ann.ceilings["conv2_x.0.relu"]);
    /// let rmp = relu_to_if(&ann, &on_spikes, 8)?;
    /// # Ok(()) }
    /// ```
    pub fn on_spikes(model: &Model, images: &Tensor, timesteps: usize, percentile: f64) -> Result<Self> {
        check_percentile(percentile)?;
        let neuron = NeuronConfig::If(neurons::If { v_threshold: 1., v_init: 0., gradient: GradientMode::Full });
        // Each threshold is set before its layer fires.
        let any = Self { ceilings: layers(model, &neuron, timesteps)?.into_iter().map(|name| (name, 1.)).collect() };
        let (network, params) =
            calibrated(model, &any, neuron, timesteps, "v_threshold")?.build(images.dtype(), images.device())?;
        let thresholds = params.all().into_iter();
        let thresholds = thresholds.filter_map(|(name, var)| Some((name.strip_suffix(".v_threshold")?.into(), var)));
        let mut balancing = Balancing { percentile, thresholds: thresholds.collect(), balanced: Self::default() };
        network.forward(images, &mut Pass::eval().observed_by(&mut balancing))?;
        Ok(balancing.balanced)
    }
}

/// The layers of `neuron` in the network of `model`.
fn layers(model: &Model, neuron: &NeuronConfig, timesteps: usize) -> Result<Vec<String>> {
    let config = ModelConfig { neuron: neuron.clone(), timesteps, ..model.config.clone() };
    let outline = ParamStore::blank();
    Network::new(&config, outline.builder(DType::F32, &Device::Cpu))?;
    let names = outline.all().into_iter();
    Ok(names.filter_map(|(name, _)| Some(name.strip_suffix(".v_threshold")?.to_string())).collect())
}

struct Balancing {
    percentile: f64,
    thresholds: HashMap<String, Var>,
    balanced: Calibration,
}

impl Observer for Balancing {
    fn wants_currents(&self) -> bool {
        true
    }

    fn current(&mut self, event: &CurrentEvent<'_>) -> lmht_nn::Result<()> {
        let found = percentile_of(event.current, self.percentile)?;
        let ceiling = self.balanced.ceilings.entry(event.name.to_string()).or_insert(found);
        *ceiling = ceiling.max(found);
        if !(ceiling.is_finite() && *ceiling > 0.) {
            return Err(lmht_nn::Error::Config(format!(
                "{}: the current to become its threshold is {ceiling}; expected a number above 0: calibrate with more images, \
                 at a higher percentile or with more timesteps, or train the network",
                event.name
            )));
        }
        if let Some(threshold) = self.thresholds.get(event.name) {
            threshold.set(&Tensor::new(&[*ceiling], threshold.device())?.to_dtype(threshold.dtype())?)?;
        }
        Ok(())
    }
}

/// The largest activation of each unit of a ReLU network, which SNM takes for its threshold (Wang et al., IJCAI 2022).
#[derive(Debug, Clone, Default)]
pub struct UnitCalibration {
    /// By neuron layer, with the shape of a row: `[C, H, W]` of maps, `[F]` of features.
    pub ceilings: BTreeMap<String, Tensor>,
}

impl UnitCalibration {
    /// Shows images to a ReLU network and keeps the largest activation of each unit.
    ///
    /// # Errors
    /// If the network is not a ReLU network, or the images do not fit.
    pub fn of(network: &Network, images: &Tensor) -> Result<Self> {
        check_relu(&network.config().neuron)?;
        let mut calibration = Self::default();
        network.forward(images, &mut Pass::eval().observed_by(&mut calibration))?;
        Ok(calibration)
    }

    /// The larger of two ceilings of every unit: of two batches, that of both.
    ///
    /// # Errors
    /// If the batches had images of different sizes.
    pub fn max(mut self, other: &Self) -> Result<Self> {
        other.ceilings.iter().try_for_each(|(name, ceilings)| self.add(name, ceilings))?;
        Ok(self)
    }

    fn add(&mut self, name: &str, ceilings: &Tensor) -> lmht_nn::Result<()> {
        let larger = match self.ceilings.get(name) {
            None => ceilings.clone(),
            Some(known) if known.dims() == ceilings.dims() => known.maximum(ceilings)?,
            Some(known) => {
                return Err(lmht_nn::Error::Config(format!(
                    "{name} has units {:?} and {:?}; expected the same: calibrate with images of one size",
                    known.dims(),
                    ceilings.dims()
                )));
            }
        };
        self.ceilings.insert(name.to_string(), larger);
        Ok(())
    }
}

impl Observer for UnitCalibration {
    fn neuron(&mut self, event: &NeuronEvent<'_>) -> lmht_nn::Result<()> {
        self.add(event.name, &event.output.to_tensor()?.max(0)?)
    }
}

/// SNM (Wang et al., IJCAI 2022) as its authors have it: a threshold for each unit, the largest activation that it has in the
/// ANN. A unit that stays silent has that of its layer.
///
/// The network takes images of the size that it was calibrated with.
///
/// # Errors
/// If the network is not a ReLU network, its tensors do not fit its configuration, T is 0, or a layer is not in the calibration
/// or silent (it is named).
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_convert::{Model, UnitCalibration, relu_to_unit_snm};
/// use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore};
///
/// # fn main() -> lmht_convert::Result<()> {
/// let ann = ModelConfig { width: 4, neuron: NeuronConfig::relu(), timesteps: 1, ..ModelConfig::resnet20(10) };
/// let params = ParamStore::new(42);
/// let network = Network::new(&ann, params.builder(DType::F32, &Device::Cpu))?;
/// let calibration = UnitCalibration::of(&network, &Tensor::rand(0f32, 1., (2, 3, 8, 8), &Device::Cpu)?)?;
/// let snm = relu_to_unit_snm(&Model::of(&ann, &params), &calibration, 32)?;
/// assert_eq!(snm.tensors["conv1.2.v_threshold"].dims(), [4, 8, 8]);
/// # Ok(()) }
/// ```
pub fn relu_to_unit_snm(model: &Model, calibration: &UnitCalibration, timesteps: usize) -> Result<Model> {
    model.layers()?;
    check_relu(&model.config.neuron)?;
    let dtype = model.tensors.values().next().map_or(DType::F32, Tensor::dtype);
    let one = NeuronConfig::Snm(neurons::Snm { v_threshold: 1., v_init: 0., units: BTreeMap::new() });
    let (mut units, mut tensors) = (BTreeMap::new(), model.tensors.clone());
    for layer in layers(model, &one, timesteps)? {
        let ceilings = calibration.ceilings.get(&layer).map(|ceilings| ceilings.to_dtype(DType::F64)).transpose()?;
        let largest = match &ceilings {
            Some(ceilings) => ceilings.flatten_all()?.max(0)?.to_scalar::<f64>()?,
            None => f64::NAN,
        };
        let Some(ceilings) = ceilings.filter(|_| largest.is_finite() && largest > 0.) else {
            return Err(Error::Refused(format!(
                "{layer}: its largest activation is {largest}; expected a number above 0 to become the firing threshold: \
                 calibrate with more images, or train the network"
            )));
        };
        let silent = ceilings.le(0.)?;
        let thresholds = silent.where_cond(&(ceilings.ones_like()? * largest)?, &ceilings)?.to_dtype(dtype)?;
        if thresholds.elem_count() > 1 {
            units.insert(layer.clone(), thresholds.dims().to_vec());
        }
        let thresholds = if thresholds.elem_count() > 1 { thresholds } else { thresholds.flatten_all()? };
        tensors.insert(format!("{layer}.v_threshold"), thresholds.to_device(&Device::Cpu)?);
    }
    let neuron = NeuronConfig::Snm(neurons::Snm { v_threshold: 1., v_init: 0., units });
    Ok(Model { config: ModelConfig { neuron, timesteps, ..model.config.clone() }, tensors })
}
