//! How a network fires: rates, silent and saturated neurons, levels, uniformity over time.

use lmht_nn::{NeuronEvent, Observer, PassEvent, Result, Signal};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::tally::{Values, with_values};

/// Neurons of one layer that a [`Raster`] keeps.
const RASTER_UNITS: usize = 96;
/// Units that one task counts: their values of one timestep fit the first cache.
const CHUNK: usize = 2048;

/// An [`Observer`] that gathers what every neuron layer sends, over any number of passes.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_bench::ActivityCounter;
/// use lmht_nn::{ModelConfig, Network, ParamStore, Pass};
///
/// # fn main() -> lmht_nn::Result<()> {
/// let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
/// let network = Network::new(&config, ParamStore::new(42).builder(DType::F32, &Device::Cpu))?;
/// let images = Tensor::ones((3, 3, 16, 16), DType::F32, &Device::Cpu)?;
/// let mut activity = ActivityCounter::new();
/// network.forward(&images, &mut Pass::eval().observed_by(&mut activity))?;
/// for layer in activity.report() {
///     assert!(layer.rate_eq <= layer.rate_nz); // L = 2: a spike of level 1 is half of what is possible
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Default, Clone)]
pub struct ActivityCounter {
    pass: Option<PassEvent>,
    layers: Vec<Layer>,
}

/// How one neuron layer fires. Rates are means over units, timesteps and images, 0..1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerActivity {
    /// The path of the neuron layer.
    pub name: String,
    /// Neurons of the layer.
    pub n_units: usize,
    /// T.
    pub timesteps: usize,
    /// L; for an ANN's activation the number of its steps, which says nothing about [`LayerActivity::histogram`].
    pub levels: u32,
    /// Whether it sends spikes. An ANN's activation has only [`LayerActivity::rate_nz`], `silent`, `uniform`.
    pub is_spiking: bool,
    /// Share of values other than 0: how often a timestep has a spike, whatever its level.
    pub rate_nz: f64,
    /// Σ s / (L · values): the rate of the L·T binary timesteps that stand for it.
    pub rate_eq: f64,
    /// Share of units that are 0 at every timestep of every image.
    pub silent: f64,
    /// Share of units at level L at every timestep of every image.
    pub saturated: f64,
    /// Share of units and images whose s(t) is the same at all t: the uniform firing of Corollary 4.3, silence included.
    pub uniform: f64,
    /// The same among those that fire at all; absent if none does.
    pub uniform_firing: Option<f64>,
    /// Share of values at each level 0..=L.
    pub histogram: Vec<f64>,
    /// Mean of s / L at each timestep.
    pub rate_by_timestep: Vec<f64>,
}

/// Spikes of one image: some neurons of a layer, evenly chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raster {
    /// The path of the neuron layer.
    pub name: String,
    /// L.
    pub levels: u32,
    /// s(t) of each chosen neuron, one list for each timestep.
    pub spikes: Vec<Vec<u32>>,
}

/// Totals of one layer.
#[derive(Debug, Clone)]
struct Layer {
    name: String,
    timesteps: usize,
    levels: u32,
    is_spiking: bool,
    n_units: usize,
    n_images: u64,
    /// Values of at least each level 1..=L, at each timestep: `[T, L]`. Activations of an ANN have one level: not 0.
    at_least: Vec<u64>,
    same: u64,
    fired: u64,
    /// Smallest and largest level of each unit.
    lowest: Vec<u32>,
    highest: Vec<u32>,
    raster: Raster,
}

impl ActivityCounter {
    /// A counter that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every layer, in the order of the network.
    pub fn report(&self) -> Vec<LayerActivity> {
        self.layers.iter().map(Layer::report).collect()
    }

    /// The spikes of the first image, of every layer that spikes.
    pub fn rasters(&self) -> Vec<&Raster> {
        self.layers.iter().filter(|layer| layer.is_spiking).map(|layer| &layer.raster).collect()
    }
}

impl Layer {
    fn report(&self) -> LayerActivity {
        let share = |part: u64, whole: u64| if whole == 0 { 0. } else { part as f64 / whole as f64 };
        let units = self.n_units as u64;
        let (pairs, steps) = (units * self.n_images, self.timesteps as u64);
        let levels = self.n_levels();
        let level = |k: usize| self.at_least.iter().skip(k - 1).step_by(levels).sum::<u64>();
        let values = pairs * steps;
        let mut histogram = vec![share(values - level(1), values)];
        for k in 1..=levels {
            histogram.push(share(level(k) - if k < levels { level(k + 1) } else { 0 }, values));
        }
        let spikes = |at_least: &[u64]| at_least.iter().sum::<u64>();
        let of_units = |is_it: &dyn Fn(usize) -> bool| (0..self.n_units).filter(|unit| is_it(*unit)).count() as u64;
        let silent = of_units(&|unit| self.highest[unit] == 0);
        let saturated = of_units(&|unit| self.lowest[unit] as usize == levels);
        // Silence is the same at all t, so whoever is uniform and fires is uniform and not silent.
        let uniform_firing = self.same - (pairs - self.fired);
        LayerActivity {
            name: self.name.clone(),
            n_units: self.n_units,
            timesteps: self.timesteps,
            levels: self.levels,
            is_spiking: self.is_spiking,
            rate_nz: share(level(1), values),
            rate_eq: if self.is_spiking { share(spikes(&self.at_least), values * levels as u64) } else { 0. },
            silent: share(silent, units),
            saturated: if self.is_spiking { share(saturated, units) } else { 0. },
            uniform: share(self.same, pairs),
            uniform_firing: (self.fired > 0).then(|| share(uniform_firing, self.fired)),
            histogram: if self.is_spiking { histogram } else { Vec::new() },
            rate_by_timestep: self
                .at_least
                .chunks(levels)
                .map(|at_least| share(spikes(at_least), pairs * levels as u64))
                .collect(),
        }
    }

    /// Levels that are told apart.
    fn n_levels(&self) -> usize {
        if self.is_spiking { self.levels as usize } else { 1 }
    }
}

/// What one task counts.
struct Part {
    at_least: Vec<u64>,
    same: u64,
    fired: u64,
}

/// Counts the units `first..first + lowest.len()` of all images. `values` is `[T, B, units]`, `level` tells a value's.
fn count<R: Copy + PartialEq + Sync>(
    values: &[R],
    shape: (usize, usize, usize),
    first: usize,
    n_levels: usize,
    bounds: (&mut [u32], &mut [u32]),
    is_at_least: &(impl Fn(R, usize) -> bool + Sync),
) -> Part {
    let (timesteps, n_images, n_units) = shape;
    let (lowest, highest) = bounds;
    let len = lowest.len();
    let mut part = Part { at_least: vec![0; timesteps * n_levels], same: 0, fired: 0 };
    let (mut same, mut fired) = (vec![1u8; len], vec![0u8; len]);
    let mut level = vec![0u32; len];
    for image in 0..n_images {
        let row = |t: usize| &values[(t * n_images + image) * n_units + first..][..len];
        let start = row(0);
        same.fill(1);
        fired.fill(0);
        for t in 0..timesteps {
            let row = row(t);
            level.fill(0);
            for k in 1..=n_levels {
                let mut reached = 0u32;
                for (value, level) in row.iter().zip(&mut level) {
                    let is = u32::from(is_at_least(*value, k));
                    reached += is;
                    *level += is;
                }
                part.at_least[t * n_levels + k - 1] += u64::from(reached);
            }
            for ((value, start), same) in row.iter().zip(start).zip(&mut same) {
                *same &= u8::from(value == start);
            }
            for (level, fired) in level.iter().zip(&mut fired) {
                *fired |= u8::from(*level > 0);
            }
            for ((level, lowest), highest) in level.iter().zip(lowest.iter_mut()).zip(highest.iter_mut()) {
                *lowest = (*lowest).min(*level);
                *highest = (*highest).max(*level);
            }
        }
        part.same += same.iter().map(|same| u64::from(*same)).sum::<u64>();
        part.fired += fired.iter().map(|fired| u64::from(*fired)).sum::<u64>();
    }
    part
}

impl Observer for ActivityCounter {
    fn begin(&mut self, event: &PassEvent) -> Result<()> {
        self.pass = Some(*event);
        Ok(())
    }

    fn neuron(&mut self, event: &NeuronEvent<'_>) -> Result<()> {
        let fail = |what: String| lmht_nn::Error::Candle(candle_core::Error::Msg(format!("{}: {what}", event.name)));
        let (timesteps, dims) = (event.timesteps, event.output.dims());
        let rows = dims.first().copied().unwrap_or(0);
        let n_images = self.pass.map_or(rows / timesteps.max(1), |pass| pass.n_images);
        let values = event.output.elem_count();
        if values == 0 || timesteps == 0 || event.levels == 0 || !values.is_multiple_of(timesteps * n_images.max(1)) {
            return Err(fail(format!("expected {timesteps} timesteps of {n_images} images, got shape {dims:?}")));
        }
        let n_units = values / (timesteps * n_images);
        let (is_spiking, v_threshold) = match event.signal {
            SignalKind::Spikes { v_threshold } => (true, v_threshold),
            SignalKind::Averaged { .. } | SignalKind::Analog => (false, 1.),
        };
        let at = self.layers.iter().position(|layer| layer.name == event.name).unwrap_or(self.layers.len());
        if at == self.layers.len() {
            let levels = if is_spiking { event.levels as usize } else { 1 };
            let name = event.name.to_string();
            self.layers.push(Layer {
                name: name.clone(),
                timesteps,
                levels: event.levels,
                is_spiking,
                n_units,
                n_images: 0,
                at_least: vec![0; timesteps * levels],
                same: 0,
                fired: 0,
                lowest: vec![u32::MAX; n_units],
                highest: vec![0; n_units],
                raster: Raster { name, levels: event.levels, spikes: Vec::new() },
            });
        }
        let layer = &mut self.layers[at];
        let now = (n_units, timesteps, event.levels, is_spiking);
        let before = (layer.n_units, layer.timesteps, layer.levels, layer.is_spiking);
        if now != before {
            return Err(fail(format!(
                "expected {} units, {} timesteps and {} levels as in the passes before, got {n_units}, {timesteps} and \
                 {}; images of other sizes need a counter of their own",
                before.0, before.1, before.2, event.levels
            )));
        }
        let shape = (timesteps, n_images, n_units);
        with_values(event.output, |values| match (values, is_spiking) {
            (Values::F32(values), true) => {
                let theta = v_threshold as f32;
                layer.add(values, shape, |value, k| value.abs() >= (k as f32 - 0.5) * theta);
            }
            (Values::F64(values), true) => {
                layer.add(values, shape, |value, k| value.abs() >= (k as f64 - 0.5) * v_threshold);
            }
            (Values::F32(values), false) => layer.add(values, shape, |value, _| value != 0.),
            (Values::F64(values), false) => layer.add(values, shape, |value, _| value != 0.),
        })
    }
}

impl Layer {
    /// Counts the outputs of one pass, `[T, B, units]`.
    fn add<R: Copy + PartialEq + Sync>(
        &mut self,
        values: &[R],
        shape: (usize, usize, usize),
        is_at_least: impl Fn(R, usize) -> bool + Sync,
    ) {
        let (timesteps, n_images, n_units) = shape;
        let n_levels = self.n_levels();
        if self.raster.spikes.is_empty() {
            let step = n_units.div_ceil(RASTER_UNITS);
            let level = |value: R| (1..=n_levels).filter(|k| is_at_least(value, *k)).count() as u32;
            let row = |t: usize| values[t * n_images * n_units..][..n_units].iter().step_by(step);
            self.raster.spikes = (0..timesteps).map(|t| row(t).map(|value| level(*value)).collect()).collect();
        }
        let bounds = self.lowest.par_chunks_mut(CHUNK).zip(self.highest.par_chunks_mut(CHUNK)).enumerate();
        let parts: Vec<Part> = bounds
            .map(|(chunk, bounds)| count(values, shape, chunk * CHUNK, n_levels, (bounds.0, bounds.1), &is_at_least))
            .collect();
        for part in parts {
            self.at_least.iter_mut().zip(&part.at_least).for_each(|(sum, part)| *sum += part);
            self.same += part.same;
            self.fired += part.fired;
        }
        self.n_images += n_images as u64;
    }
}
