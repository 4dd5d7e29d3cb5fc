//! Thresholds for the layers of a ReLU network, from what they send for some images.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use lmht_nn::neurons::Relu;
use lmht_nn::{ModelConfig, Network, NeuronConfig, NeuronEvent, Observer, ParamStore, Pass};

use crate::{Error, Model, Result};

/// Where the activations of each layer of a ReLU network end for its spiking twin: their maximum, a percentile of them, or what
/// gives a staircase the least error.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Calibration {
    /// By neuron layer.
    pub ceilings: BTreeMap<String, f64>,
}

impl Calibration {
    /// Shows images to a ReLU network and takes the given percentile of each layer's activations; 100 is the largest.
    ///
    /// A layer that stays silent has ceiling 0, which no conversion takes: show it more images.
    ///
    /// # Errors
    /// If the percentile is not in 0..=100, the network is not a ReLU network, or the images do not fit.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use lmht_convert::Calibration;
    /// use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore};
    ///
    /// # fn main() -> lmht_convert::Result<()> {
    /// let ann = ModelConfig { width: 4, neuron: NeuronConfig::relu(), timesteps: 1, ..ModelConfig::resnet20(10) };
    /// let network = Network::new(&ann, ParamStore::new(42).builder(DType::F32, &Device::Cpu))?;
    /// let images = Tensor::ones((2, 3, 8, 8), DType::F32, &Device::Cpu)?;
    /// let (most, all) = (Calibration::of(&network, &images, 99.9)?, Calibration::of(&network, &images, 100.)?);
    /// assert!(most.ceilings["conv1.2"] <= all.ceilings["conv1.2"]);
    /// # Ok(()) }
    /// ```
    pub fn of(network: &Network, images: &Tensor, percentile: f64) -> Result<Self> {
        check_percentile(percentile)?;
        check_relu(&network.config().neuron)?;
        let mut ceilings = Ceilings { percentile, calibration: Self::default() };
        network.forward(images, &mut Pass::eval().observed_by(&mut ceilings))?;
        Ok(ceilings.calibration)
    }

    /// Shows images to a ReLU network and takes of each layer the ceiling c that gives the staircase of
    /// [`relu_to_lmht`](crate::relu_to_lmht) the least squared error: of all activations a, the sum of (a - q(a))² with
    /// q(a) = c/n · clip(⌊a·n/c + 1/2⌋, 0, n), n = `steps` = L·T.
    ///
    /// The search is over c from the largest activation down to a thousandth of it, in steps of 4 %, then 0.1 %; of a layer of
    /// more than a million activations, evenly taken ones decide. A layer that stays silent has ceiling 0.
    ///
    /// # Errors
    /// If `steps` is 0, the network is not a ReLU network, or the images do not fit.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use lmht_convert::Calibration;
    /// use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore};
    ///
    /// # fn main() -> lmht_convert::Result<()> {
    /// let ann = ModelConfig { width: 4, neuron: NeuronConfig::relu(), timesteps: 1, ..ModelConfig::resnet20(10) };
    /// let network = Network::new(&ann, ParamStore::new(42).builder(DType::F32, &Device::Cpu))?;
    /// let images = Tensor::rand(0f32, 1., (2, 3, 8, 8), &Device::Cpu)?;
    /// let (coarse, fine) = (Calibration::least_error(&network, &images, 2)?, Calibration::least_error(&network, &images, 16)?);
    /// assert!(coarse.ceilings["conv1.2"] < fine.ceilings["conv1.2"]); // the fewer steps, the more is cut off
    /// # Ok(()) }
    /// ```
    pub fn least_error(network: &Network, images: &Tensor, steps: u32) -> Result<Self> {
        if steps == 0 {
            return Err(Error::Config("a staircase of 0 steps; expected levels and timesteps of at least 1".into()));
        }
        check_relu(&network.config().neuron)?;
        let mut activations = Activations::default();
        network.forward(images, &mut Pass::eval().observed_by(&mut activations))?;
        let of = |(name, values)| (name, least_error(values, steps));
        Ok(Self { ceilings: activations.0.into_iter().map(of).collect() })
    }

    /// The larger of two ceilings in every layer: of two batches, that of both.
    ///
    /// ```
    /// use lmht_convert::Calibration;
    /// let of = |ceiling| Calibration { ceilings: [("sn1".to_string(), ceiling)].into() };
    /// assert_eq!(of(1.).max(&of(3.)), of(3.));
    /// ```
    #[must_use]
    pub fn max(mut self, other: &Self) -> Self {
        for (name, &ceiling) in &other.ceilings {
            let entry = self.ceilings.entry(name.clone()).or_insert(ceiling);
            *entry = entry.max(ceiling);
        }
        self
    }
}

struct Ceilings {
    percentile: f64,
    calibration: Calibration,
}

/// The smallest value that so many percent do not exceed.
pub(crate) fn percentile_of(values: &Tensor, percentile: f64) -> lmht_nn::Result<f64> {
    let mut values = values.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let rank = (percentile / 100. * values.len() as f64).ceil() as usize;
    let index = rank.clamp(1, values.len()) - 1;
    Ok(*values.select_nth_unstable_by(index, f64::total_cmp).1)
}

impl Observer for Ceilings {
    fn neuron(&mut self, event: &NeuronEvent<'_>) -> lmht_nn::Result<()> {
        let ceiling = percentile_of(&event.output.to_tensor()?, self.percentile)?;
        // A layer that is gone through twice has one threshold for both.
        let entry = self.calibration.ceilings.entry(event.name.to_string()).or_insert(ceiling);
        *entry = entry.max(ceiling);
        Ok(())
    }
}

/// Activations of a layer that decide on its ceiling, at most.
const MAX_SAMPLE: usize = 1 << 20;

/// Activations above 0 by layer; a layer that is gone through twice has one ceiling for both.
#[derive(Default)]
struct Activations(BTreeMap<String, Vec<f64>>);

impl Observer for Activations {
    fn neuron(&mut self, event: &NeuronEvent<'_>) -> lmht_nn::Result<()> {
        let values = event.output.to_tensor()?.flatten_all()?;
        // An odd step meets every column and channel of maps, whose sizes are mostly even.
        let step = values.elem_count().div_ceil(MAX_SAMPLE) | 1;
        let values = values.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let sample = values.into_iter().step_by(step).filter(|&value| value > 0.);
        self.0.entry(event.name.to_string()).or_default().extend(sample);
        Ok(())
    }
}

/// The ceiling of the staircase that is nearest to `values`, 0 of none.
fn least_error(mut values: Vec<f64>, steps: u32) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(&largest) = values.last() else { return 0. };
    let mut sums = vec![0.];
    sums.extend(values.iter().scan(0., |sum, value| {
        *sum += value;
        Some(*sum)
    }));
    // Σ (a - q)² less Σ a², which is the same for every ceiling.
    let error = |ceiling: f64| -> f64 {
        let height = ceiling / f64::from(steps);
        let from = |k: u32| values.partition_point(|&value| value < (f64::from(k) - 0.5) * height);
        let mut total = 0.;
        let mut start = from(1);
        for k in 1..=steps {
            let end = if k == steps { values.len() } else { from(k + 1) };
            let q = f64::from(k) * height;
            total += q * (q * (end - start) as f64 - 2. * (sums[end] - sums[start]));
            start = end;
            if start == values.len() {
                break;
            }
        }
        total
    };
    let best = |candidates: &mut dyn Iterator<Item = f64>| {
        candidates.map(|ceiling| (error(ceiling), ceiling)).min_by(|a, b| a.0.total_cmp(&b.0)).map_or(0., |best| best.1)
    };
    let coarse = best(&mut (0..=176).map(|i| largest * 0.96_f64.powi(i)));
    best(&mut (-40..=40).map(|i| coarse * 1.001_f64.powi(i)))
}

/// The network with other neurons, whose tensor `part` is the ceiling of their layer.
pub(crate) fn calibrated(
    model: &Model,
    calibration: &Calibration,
    neuron: NeuronConfig,
    timesteps: usize,
    part: &str,
) -> Result<Model> {
    model.layers()?;
    check_relu(&model.config.neuron)?;
    let config = ModelConfig { neuron, timesteps, ..model.config.clone() };
    let outline = ParamStore::blank();
    Network::new(&config, outline.builder(DType::F32, &Device::Cpu))?;
    let mut tensors = model.tensors.clone();
    for (name, _) in outline.all() {
        let (layer, end) = name.rsplit_once('.').unwrap_or(("", &name));
        if end != part {
            continue;
        }
        let ceiling = calibration.ceilings.get(layer).copied().unwrap_or(f64::NAN);
        if !(ceiling.is_finite() && ceiling > 0.) {
            return Err(Error::Refused(format!(
                "{layer}: its largest activation is {ceiling}; expected a number above 0 to become the firing threshold: \
                 calibrate with more images, or train the network"
            )));
        }
        let dtype = model.tensors.values().next().map_or(DType::F32, Tensor::dtype);
        tensors.insert(name, Tensor::new(&[ceiling], &Device::Cpu)?.to_dtype(dtype)?);
    }
    Ok(Model { config, tensors })
}

pub(crate) fn check_percentile(percentile: f64) -> Result<()> {
    if (0. ..=100.).contains(&percentile) {
        return Ok(());
    }
    Err(Error::Config(format!("percentile is {percentile}; expected a number in 0..=100")))
}

pub(crate) fn check_relu(neuron: &NeuronConfig) -> Result<()> {
    match neuron {
        NeuronConfig::Relu(Relu {}) => Ok(()),
        other => Err(Error::Refused(format!(
            "expected a ReLU network, which this method starts from, got {} neurons; train one with NeuronConfig::relu()",
            other.traits().title
        ))),
    }
}
