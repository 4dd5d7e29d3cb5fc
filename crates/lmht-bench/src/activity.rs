//! How a network fires: rates, silent and saturated neurons, levels, uniformity over time.

use candle_core::Tensor;
use lmht_kernels::{Kernel, run_vectorized};
use lmht_nn::{Form, NeuronEvent, Numbers, Observer, PackedSpikes, PassEvent, SignalKind, Values};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::tally::with_values;
use crate::{Error, Result};

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
    /// Smallest and largest level of each unit, in the order of the values that came last.
    order: Order,
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

/// Where the units of an image are among its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// As in the tensor `[N, C, H, W]`.
    Tensor,
    /// Channels innermost.
    ChannelsLast {
        /// C.
        channels: usize,
        /// H · W.
        positions: usize,
    },
}

impl Order {
    fn of(form: Form, [h, w, c]: [usize; 3]) -> Self {
        match form {
            Form::Maps | Form::Vector if h * w > 1 && c > 1 => Self::ChannelsLast { channels: c, positions: h * w },
            // Tokens are rows: their tensor has channels innermost too.
            Form::Maps | Form::Vector | Form::Tokens => Self::Tensor,
        }
    }

    /// Where the unit is that the tensor has at `unit`.
    fn place(self, unit: usize) -> usize {
        match self {
            Self::Tensor => unit,
            Self::ChannelsLast { channels, positions } => {
                let (map, at) = (unit / (channels * positions), unit % (channels * positions));
                map * channels * positions + at % positions * channels + at / positions
            }
        }
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

impl ActivityCounter {
    /// Counts what a layer sent.
    fn add(&mut self, event: &NeuronEvent<'_>) -> Result<()> {
        let fail = |what: String| Error::Shape(what).in_layer(event.name);
        let (timesteps, dims) = (event.timesteps, event.output.dims());
        let rows = dims.first().copied().unwrap_or(0);
        let n_images = self.pass.map_or(rows / timesteps.max(1), |pass| pass.n_images);
        let values = event.output.elem_count();
        if values == 0 || timesteps == 0 || event.levels == 0 || !values.is_multiple_of(timesteps * n_images.max(1)) {
            return Err(fail(format!("expected {timesteps} timesteps of {n_images} images, got shape {dims:?}")));
        }
        let n_units = values / (timesteps * n_images);
        // An amplitude may be negative where it is learned.
        let (is_spiking, v_threshold) = match event.signal {
            SignalKind::Spikes { v_threshold } => (true, v_threshold.abs()),
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
                order: Order::Tensor,
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
        match &event.output {
            // Spikes of another amplitude than the announced one are compared with thresholds, as numbers are.
            Values::Packed(packed) if !is_spiking || packed.amplitude == v_threshold => {
                layer.reorder(Order::of(packed.form, packed.shape));
                layer.add_packed(packed.bytes, shape);
            }
            Values::Packed(_) => layer.add_tensor(&event.output.to_tensor()?, shape, v_threshold)?,
            Values::Tensor(output) => layer.add_tensor(output, shape, v_threshold)?,
            Values::Numbers(values) => {
                layer.reorder(Order::of(values.form, values.shape));
                layer.add_numbers(values.numbers, shape, v_threshold);
            }
        }
        Ok(())
    }
}

impl Observer for ActivityCounter {
    fn begin(&mut self, event: &PassEvent) -> lmht_nn::Result<()> {
        self.pass = Some(*event);
        Ok(())
    }

    /// Passes add up.
    fn takes_parts(&self) -> bool {
        true
    }

    fn neuron(&mut self, event: &NeuronEvent<'_>) -> lmht_nn::Result<()> {
        Ok(self.add(event)?)
    }
}

impl Layer {
    /// Has the units in another order from now on.
    fn reorder(&mut self, order: Order) {
        if self.order == order {
            return;
        }
        for bounds in [&mut self.lowest, &mut self.highest] {
            let mut moved = vec![0; bounds.len()];
            for unit in 0..moved.len() {
                moved[order.place(unit)] = bounds[self.order.place(unit)];
            }
            *bounds = moved;
        }
        self.order = order;
    }

    fn add_tensor(&mut self, output: &Tensor, shape: (usize, usize, usize), v_threshold: f64) -> Result<()> {
        self.reorder(Order::Tensor);
        with_values(output, |values| self.add_numbers(values, shape, v_threshold))
    }

    fn add_numbers(&mut self, values: Numbers<'_>, shape: (usize, usize, usize), v_threshold: f64) {
        match (values, self.is_spiking) {
            (Numbers::F32(values), true) => {
                let theta = v_threshold as f32;
                self.add(values, shape, |value, k| value.abs() >= (k as f32 - 0.5) * theta);
            }
            (Numbers::F64(values), true) => {
                self.add(values, shape, |value, k| value.abs() >= (k as f64 - 0.5) * v_threshold);
            }
            (Numbers::F32(values), false) => self.add(values, shape, |value, _| value != 0.),
            (Numbers::F64(values), false) => self.add(values, shape, |value, _| value != 0.),
        }
    }

    /// Counts the outputs of one pass, `[T, B, units]`.
    fn add<R: Copy + PartialEq + Sync>(
        &mut self,
        values: &[R],
        shape: (usize, usize, usize),
        is_at_least: impl Fn(R, usize) -> bool + Sync,
    ) {
        let n_levels = self.n_levels();
        self.draw(values, shape, |value| (1..=n_levels).filter(|k| is_at_least(value, *k)).count() as u32);
        self.gather(shape.1, |first, bounds| count(values, shape, first, n_levels, bounds, &is_at_least));
    }

    /// Counts the outputs of one pass, `[T, B, units]`, a byte each.
    fn add_packed(&mut self, bytes: &[u8], shape: (usize, usize, usize)) {
        let n_levels = self.n_levels();
        self.draw(bytes, shape, |byte| u32::from(PackedSpikes::count(byte)).min(n_levels as u32));
        self.gather(shape.1, |first, (lowest, highest)| {
            let mut part = Part { at_least: vec![0; shape.0 * n_levels], same: 0, fired: 0 };
            run_vectorized(PackedUnits { bytes, shape, first, n_levels, lowest, highest, part: &mut part });
            part
        });
    }

    /// Keeps the spikes of the first image that ever comes.
    fn draw<V: Copy>(
        &mut self,
        values: &[V],
        (timesteps, n_images, n_units): (usize, usize, usize),
        level: impl Fn(V) -> u32,
    ) {
        if !self.raster.spikes.is_empty() {
            return;
        }
        let step = n_units.div_ceil(RASTER_UNITS);
        let order = self.order;
        let row = |t: usize| {
            let image = &values[t * n_images * n_units..][..n_units];
            (0..n_units).step_by(step).map(|unit| level(image[order.place(unit)])).collect()
        };
        self.raster.spikes = (0..timesteps).map(row).collect();
    }

    /// Adds up what tasks count, each given its first unit and the bounds of its units.
    fn gather(&mut self, n_images: usize, count: impl Fn(usize, (&mut [u32], &mut [u32])) -> Part + Sync) {
        let bounds = self.lowest.par_chunks_mut(CHUNK).zip(self.highest.par_chunks_mut(CHUNK)).enumerate();
        let parts: Vec<Part> = bounds.map(|(chunk, bounds)| count(chunk * CHUNK, bounds)).collect();
        for part in parts {
            self.at_least.iter_mut().zip(&part.at_least).for_each(|(sum, part)| *sum += part);
            self.same += part.same;
            self.fired += part.fired;
        }
        self.n_images += n_images as u64;
    }
}

/// What [`count`] does, of packed spikes.
struct PackedUnits<'a> {
    bytes: &'a [u8],
    shape: (usize, usize, usize),
    first: usize,
    n_levels: usize,
    lowest: &'a mut [u32],
    highest: &'a mut [u32],
    part: &'a mut Part,
}

impl Kernel for PackedUnits<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { bytes, shape: (timesteps, n_images, n_units), first, n_levels, lowest, highest, part } = self;
        let len = lowest.len();
        // A count is below 128, so more levels than that are never reached.
        let top = n_levels.min(127) as u8;
        let [mut low, mut high, mut same, mut fired] = [[u8::MAX; CHUNK], [0; CHUNK], [0; CHUNK], [0; CHUNK]];
        for image in 0..n_images {
            let row = |t: usize| &bytes[(t * n_images + image) * n_units + first..][..len];
            let start = row(0);
            same[..len].fill(1);
            fired[..len].fill(0);
            for t in 0..timesteps {
                let row = row(t);
                for k in 1..=top {
                    // Sums of so few fit a byte, and a vector holds most of these.
                    let reached_of =
                        |run: &[u8]| run.iter().fold(0u8, |n, &byte| n + u8::from(PackedSpikes::count(byte) >= k));
                    let reached: u32 = row.chunks(128).map(|run| u32::from(reached_of(run))).sum();
                    part.at_least[t * n_levels + usize::from(k) - 1] += u64::from(reached);
                }
                for ((&byte, &start), same) in row.iter().zip(start).zip(&mut same) {
                    *same &= u8::from(PackedSpikes::count(byte) == PackedSpikes::count(start));
                }
                for (&byte, fired) in row.iter().zip(&mut fired) {
                    *fired |= PackedSpikes::count(byte);
                }
                for ((&byte, low), high) in row.iter().zip(&mut low).zip(&mut high) {
                    *low = PackedSpikes::count(byte).min(*low);
                    *high = PackedSpikes::count(byte).max(*high);
                }
            }
            part.same += u64::from(same[..len].iter().map(|&same| u32::from(same)).sum::<u32>());
            part.fired += u64::from(fired[..len].iter().map(|&fired| u32::from(fired != 0)).sum::<u32>());
        }
        for ((lowest, highest), (&low, &high)) in lowest.iter_mut().zip(highest).zip(low.iter().zip(&high)) {
            *lowest = (*lowest).min(low.min(top).into());
            *highest = (*highest).max(high.min(top).into());
        }
    }
}
