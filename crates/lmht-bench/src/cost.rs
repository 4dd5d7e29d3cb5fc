//! Counting the operations of synapses, neurons and attention during forward passes.

use lmht_nn::{NeuronEvent, Numbers, Observer, PassEvent, ProductEvent, SignalKind, SynapseEvent, Tgim};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::MAX_SPIKE;
use crate::tally::{TOLERANCE, Tally, amplitude, tally_rows, with_values};
use crate::{Connections, Error, Result};

/// An [`Observer`] that counts what it is shown, over any number of passes: whole numbers, exact.
///
/// Watching changes no value of a pass. Without an observer a pass counts nothing and takes no longer.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_bench::CostCounter;
/// use lmht_nn::{ModelConfig, Network, ParamStore, Pass};
///
/// # fn main() -> lmht_nn::Result<()> {
/// let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
/// let network = Network::new(&config, ParamStore::new(42).builder(DType::F32, &Device::Cpu))?;
/// let images = Tensor::ones((3, 3, 16, 16), DType::F32, &Device::Cpu)?;
/// let mut counter = CostCounter::new();
/// network.forward(&images, &mut Pass::eval().observed_by(&mut counter))?;
///
/// let conv = &counter.synapses()[1];
/// assert_eq!((conv.name.as_str(), counter.n_images()), ("layer1.0.conv1.0", 3));
/// // Per layer, image and timestep: T = 2.
/// let cells = (0..3).flat_map(|image| (0..2).map(move |t| (image, t)));
/// assert_eq!(cells.map(|(image, t)| conv.sops_at(image, t)).sum::<u64>(), conv.total.sops);
/// # Ok(()) }
/// ```
#[derive(Debug, Default, Clone)]
pub struct CostCounter {
    pass: Option<PassEvent>,
    /// Images of the passes before this one.
    first_image: usize,
    n_images: usize,
    /// Timesteps in a window; 0 before a neuron was seen.
    window: usize,
    synapses: Vec<SynapseTotal>,
    neurons: Vec<NeuronTotal>,
    products: Vec<ProductTotal>,
}

/// What a synapse receives; this decides what one of its operations is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputKind {
    /// The image: the first synapse, whose input is real values. Multiply-accumulates.
    Image,
    /// Spikes: accumulates.
    #[default]
    Spikes,
    /// Averages of spikes, after average pooling: multiply-accumulates.
    Averaged,
    /// Other real values, such as a residual stream or an ANN's activations: multiply-accumulates.
    Analog,
}

impl InputKind {
    /// As tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Spikes => "spikes",
            Self::Averaged => "averaged",
            Self::Analog => "analog",
        }
    }
}

/// Totals of one synapse over all passes.
#[derive(Debug, Clone)]
pub struct SynapseTotal {
    /// The path of the synapse's weight.
    pub name: String,
    /// Its sizes, those of the last input.
    pub connections: Connections,
    /// What it receives.
    pub input: InputKind,
    /// Inputs that were counted: images times timesteps (times tokens); images alone for what a static image needs once.
    pub n_rows: u64,
    /// Spikes, active values, operations.
    pub total: Tally,
    /// Multiply-accumulates, zeros included, padding not; 0 where the input is spikes.
    pub macs: u64,
    /// The paper's count: amplitude over θ for spikes and for averages of spikes, 0 for other inputs.
    pub paper: f64,
    /// Images, each as often as it went through the synapse.
    uses: u64,
    /// What was counted by the sizes of the input: a network may go through one synapse with maps of several.
    sizes: Vec<Size>,
    /// [`Tally::sops`] of every image and timestep, image by image.
    sops: Vec<u64>,
    timesteps: usize,
}

/// Inputs of one size.
#[derive(Debug, Clone)]
struct Size {
    connections: Connections,
    n_rows: u64,
    spikes: u64,
}

impl SynapseTotal {
    /// Synaptic operations of one image at one timestep, both counted from 0; 0 for what was not seen.
    pub fn sops_at(&self, image: usize, t: usize) -> u64 {
        if t >= self.timesteps { 0 } else { self.sops.get(image * self.timesteps + t).copied().unwrap_or(0) }
    }

    /// T of the passes.
    pub fn timesteps(&self) -> usize {
        self.timesteps
    }
}

/// Totals of one neuron layer over all passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeuronTotal {
    /// Its path.
    pub name: String,
    /// Neurons of the layer, for one image.
    pub n_units: u64,
    /// Potentials computed: units times timesteps, all images.
    pub updates: u64,
    /// Multiplications by entries of Ω: T² for each unit, T(T + 1)/2 for a causal T-GIM, none without.
    pub tgim_macs: u64,
    /// Multiplications by λ.
    pub leak_muls: u64,
    /// Whether it sends spikes; an activation of an ANN has no potential.
    pub is_spiking: bool,
}

/// Totals of one product of two activations over all passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProductTotal {
    /// The path of the attention and what is multiplied.
    pub name: String,
    /// Accumulates: where both sides are spikes, one for each pair of spikes that meet; where one is, one for each of its
    /// spikes and value of the other side that it meets, zeros included. 0 where none is.
    pub acs: u64,
    /// Multiply-accumulates, zeros included; 0 where a side is spikes.
    pub macs: u64,
    /// Pairs of values other than 0 that meet.
    pub effective: u64,
    /// What a dense product multiplies.
    pub dense: u64,
}

impl CostCounter {
    /// A counter that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Images seen so far. A network of one's own has to say with [`lmht_nn::Pass::begin`] how many it is shown.
    pub fn n_images(&self) -> usize {
        self.n_images
    }

    /// Every synapse, in the order of the network.
    pub fn synapses(&self) -> &[SynapseTotal] {
        &self.synapses
    }

    /// Every neuron layer, in the order of the network.
    pub fn neurons(&self) -> &[NeuronTotal] {
        &self.neurons
    }

    /// Every product of two activations, in the order of the network.
    pub fn products(&self) -> &[ProductTotal] {
        &self.products
    }

    /// SOPs of each image over all synapses and timesteps.
    pub fn sops_by_image(&self) -> Vec<u64> {
        let of_image = |image| {
            let of_layer = |layer: &SynapseTotal| (0..layer.timesteps).map(|t| layer.sops_at(image, t)).sum::<u64>();
            self.synapses.iter().map(of_layer).sum()
        };
        (0..self.n_images).map(of_image).collect()
    }

    /// SOPs of every synapse so far, over all images and timesteps, in the order of the network.
    pub fn total_sops(&self) -> Vec<(&str, u64)> {
        self.synapses.iter().map(|layer| (layer.name.as_str(), layer.total.sops)).collect()
    }

    /// What was counted, for each of the `n_images` images that were shown.
    pub fn report(&self, n_images: usize) -> CostReport {
        let per_image = |total: f64| if n_images == 0 { 0. } else { total / n_images as f64 };
        let mean = |total: u64| per_image(total as f64);
        let layers = self.synapses.iter().map(|layer| {
            let of_sizes = |figure: &dyn Fn(&Size) -> f64| layer.sizes.iter().map(figure).fold(0., std::ops::Add::add);
            let of_rows = |figure: fn(&Connections) -> u64| {
                of_sizes(&|size| mean(size.n_rows) * figure(&size.connections) as f64)
            };
            let by_timestep = |t| (0..self.n_images).map(|image| layer.sops_at(image, t)).sum::<u64>();
            LayerCost {
                name: layer.name.clone(),
                sops: mean(layer.total.sops),
                macs: mean(layer.macs),
                paper_sops: per_image(layer.paper),
                input: layer.input,
                spikes: mean(layer.total.spikes),
                sops_nz: if layer.input == InputKind::Spikes { mean(layer.total.effective) } else { 0. },
                macs_nz: if layer.input == InputKind::Spikes { 0. } else { mean(layer.total.effective) },
                sop_rate: of_sizes(&|Size { connections, spikes, .. }| {
                    mean(*spikes) * connections.dense_padded() as f64 / connections.n_inputs().max(1) as f64
                }),
                dense: of_rows(Connections::dense),
                dense_padded: of_rows(Connections::dense_padded),
                inputs: of_rows(Connections::n_inputs),
                outputs: of_rows(Connections::n_outputs),
                n_weights: layer.connections.n_weights(),
                runs: mean(layer.n_rows),
                uses: mean(layer.uses),
                sops_by_timestep: (0..layer.timesteps).map(|t| mean(by_timestep(t))).collect(),
            }
        });
        let neurons = self.neurons.iter().map(|layer| NeuronCost {
            name: layer.name.clone(),
            n_units: layer.n_units,
            is_spiking: layer.is_spiking,
            updates: mean(layer.updates),
            tgim_macs: mean(layer.tgim_macs),
            leak_muls: mean(layer.leak_muls),
        });
        let products = self.products.iter().map(|product| ProductCost {
            name: product.name.clone(),
            acs: mean(product.acs),
            macs: mean(product.macs),
            effective: mean(product.effective),
            dense: mean(product.dense),
        });
        CostReport {
            n_images,
            timesteps: self.pass.map_or(1, |pass| pass.timesteps),
            window: self.window.max(1),
            layers: layers.collect(),
            neurons: neurons.collect(),
            products: products.collect(),
        }
    }

    /// T and B of this pass; without a word on it, one timestep and an image in every row.
    fn shape(&self, rows: usize) -> (usize, usize) {
        match self.pass {
            Some(PassEvent { timesteps, n_images }) => {
                // What a static image needs once comes as B rows.
                let t = if rows == n_images { 1 } else { timesteps };
                (t, n_images)
            }
            None => (1, rows),
        }
    }
}

/// Operations per image of a whole network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CostReport {
    /// Number of images the figures are a mean of.
    pub n_images: usize,
    /// T.
    #[serde(default = "one")]
    pub timesteps: usize,
    /// Timesteps in a window of a reparameterized network; 1 of any other.
    #[serde(default = "one")]
    pub window: usize,
    /// Every synapse, in the order of the network.
    pub layers: Vec<LayerCost>,
    /// Every neuron layer, in the order of the network.
    #[serde(default)]
    pub neurons: Vec<NeuronCost>,
    /// Every product of two activations, in the order of the network.
    #[serde(default)]
    pub products: Vec<ProductCost>,
}

fn one() -> usize {
    1
}

fn once() -> f64 {
    1.
}

/// Operations per image of one synapse; over all timesteps. `docs/cost.md` has the definitions side by side.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerCost {
    /// The path of the synapse's weight.
    pub name: String,
    /// `sop_exact`: accumulates caused by spikes, Σ |s| · connections, padding excluded; 0 where the input is no spikes.
    pub sops: f64,
    /// Multiply-accumulates, padding excluded; 0 where the input is spikes.
    pub macs: f64,
    /// The paper's count: amplitude over θ for spikes and for averages of spikes, 0 for analog inputs.
    pub paper_sops: f64,
    /// What it receives.
    #[serde(default)]
    pub input: InputKind,
    /// Spikes received, a level-k spike counting k.
    #[serde(default)]
    pub spikes: f64,
    /// `sop_exact_nz`: a spike counts 1 whatever its level, weights of 0 do not count (NeuroBench's effective operations).
    #[serde(default)]
    pub sops_nz: f64,
    /// Multiply-accumulates without zeros of input and weight (NeuroBench's effective operations); 0 for spikes.
    #[serde(default)]
    pub macs_nz: f64,
    /// `sop_rate`: mean of s · T · multiplications of the dense layer, padding included (syops, and most papers).
    #[serde(default)]
    pub sop_rate: f64,
    /// Multiplications that the dense layer would need in all its runs, padding excluded (NeuroBench's Dense).
    #[serde(default)]
    pub dense: f64,
    /// The same with padding.
    #[serde(default)]
    pub dense_padded: f64,
    /// Values received.
    #[serde(default)]
    pub inputs: f64,
    /// Values computed; also the additions of a bias, which a folded batch norm has.
    #[serde(default)]
    pub outputs: f64,
    /// Weights, without the bias.
    #[serde(default)]
    pub n_weights: u64,
    /// How often it runs: T times (times tokens), or once for a static image, each time that the network goes through it.
    #[serde(default)]
    pub runs: f64,
    /// How often the network goes through it in a pass: once, unless layers share its weights.
    #[serde(default = "once")]
    pub uses: f64,
    /// [`LayerCost::sops`] at each timestep.
    #[serde(default)]
    pub sops_by_timestep: Vec<f64>,
}

/// Operations per image of one neuron layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NeuronCost {
    /// Its path.
    pub name: String,
    /// Neurons of the layer.
    pub n_units: u64,
    /// Whether it sends spikes.
    pub is_spiking: bool,
    /// Potentials computed: units · T.
    pub updates: f64,
    /// Multiplications by entries of Ω: units · T², or units · T(T + 1)/2 if Ω is causal.
    pub tgim_macs: f64,
    /// Multiplications by λ.
    pub leak_muls: f64,
}

/// Operations per image of one product of two activations, as attention has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProductCost {
    /// The path of the attention and what is multiplied.
    pub name: String,
    /// Accumulates, see [`ProductTotal::acs`].
    pub acs: f64,
    /// Multiply-accumulates where no side is spikes.
    pub macs: f64,
    /// Pairs of values other than 0 that meet.
    pub effective: f64,
    /// What a dense product multiplies.
    pub dense: f64,
}

impl CostReport {
    /// SOPs per image (`sop_exact`), attention apart.
    pub fn sops(&self) -> f64 {
        self.sum(|layer| layer.sops)
    }

    /// MACs per image, attention apart.
    pub fn macs(&self) -> f64 {
        self.sum(|layer| layer.macs)
    }

    /// Operations per image by the paper's definition: every synapse but the stem, averages of spikes counted as if they
    /// were spikes.
    pub fn paper_sops(&self) -> f64 {
        self.sum(|layer| layer.paper_sops)
    }

    /// MACs per image of synapses that receive `input`.
    pub fn macs_of(&self, input: InputKind) -> f64 {
        self.sum(|layer| if layer.input == input { layer.macs } else { 0. })
    }

    /// The sum of a figure over all synapses.
    pub fn sum(&self, figure: impl Fn(&LayerCost) -> f64) -> f64 {
        // Not `sum`, which is -0 of nothing.
        self.layers.iter().map(figure).fold(0., std::ops::Add::add)
    }

    /// MACs of one image in a dense ANN of the same structure: every synapse once for each of its uses, attention included, no spikes.
    pub fn ann_macs(&self) -> f64 {
        let t = self.timesteps as f64;
        // A stem runs once for a static image and once a window for frames that are held; all else runs T times, and once
        // for each token.
        let once = |layer: &LayerCost| layer.dense / (layer.runs / layer.uses.max(1.)).clamp(1., t.max(1.));
        // Attention runs once a window.
        let windows = t / self.window.max(1) as f64;
        self.sum(once) + self.products.iter().map(|product| product.dense / windows).sum::<f64>()
    }

    /// Bytes that the activations of one image need while training in `float_bytes`, as an estimate from below: the output
    /// of every synapse, which batch norm keeps, and input and output of every neuron layer. Sums of two paths, pooled maps
    /// and whatever the framework adds are not in it.
    pub fn training_bytes(&self, float_bytes: u64) -> f64 {
        let neurons: f64 = self.neurons.iter().map(|layer| 2. * layer.updates).sum();
        (self.sum(|layer| layer.outputs) + neurons) * float_bytes as f64
    }
}

/// The entry of that name, made at the end if there is none.
fn entry<T>(list: &mut Vec<T>, is_it: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> &mut T {
    let at = list.iter().position(is_it).unwrap_or(list.len());
    if at == list.len() {
        list.push(make());
    }
    &mut list[at]
}

impl CostCounter {
    /// Counts the inputs of a synapse.
    fn add_synapse(&mut self, event: &SynapseEvent<'_>) -> Result<()> {
        let connections = Connections::of(event)?;
        let named = |error: Error| error.in_layer(event.name);
        let rows = tally_rows(&connections, event.weight, &event.input, event.signal).map_err(named)?;
        let n_rows = rows.len() as u64;
        let (t, n_images) = self.shape(rows.len());
        let per_step = rows.len() / t;
        let tokens = (per_step / n_images.max(1)).max(1);

        let timesteps = self.pass.map_or(1, |pass| pass.timesteps);
        let first_image = self.first_image;
        let is_first = self.synapses.is_empty();
        let layer = entry(
            &mut self.synapses,
            |layer| layer.name == event.name,
            || {
                let input = match event.signal {
                    SignalKind::Spikes { .. } => InputKind::Spikes,
                    SignalKind::Averaged { .. } => InputKind::Averaged,
                    SignalKind::Analog if is_first => InputKind::Image,
                    SignalKind::Analog => InputKind::Analog,
                };
                SynapseTotal {
                    name: event.name.to_string(),
                    connections,
                    input,
                    n_rows: 0,
                    total: Tally::default(),
                    macs: 0,
                    paper: 0.,
                    uses: 0,
                    sizes: Vec::new(),
                    sops: Vec::new(),
                    timesteps,
                }
            },
        );
        let mut total = Tally::default();
        let is_spikes = matches!(event.signal, SignalKind::Spikes { .. });
        if is_spikes {
            layer.sops.resize((first_image + n_images) * timesteps, 0);
        }
        for (row, tally) in rows.into_iter().enumerate() {
            total += tally;
            if is_spikes {
                let (step, image) = (row / per_step, row % per_step / tokens);
                layer.sops[(first_image + image) * timesteps + step] += tally.sops;
            }
        }
        layer.connections = connections;
        layer.n_rows += n_rows;
        layer.uses += n_images as u64;
        layer.total += total;
        let size = entry(
            &mut layer.sizes,
            |size| size.connections == connections,
            || Size { connections, n_rows: 0, spikes: 0 },
        );
        size.n_rows += n_rows;
        size.spikes += total.spikes;
        match event.signal {
            SignalKind::Spikes { .. } => layer.paper += total.sops as f64,
            SignalKind::Averaged { v_threshold } => {
                layer.macs += n_rows * connections.dense();
                layer.paper += amplitude(&connections, &event.input)? / v_threshold;
            }
            SignalKind::Analog => layer.macs += n_rows * connections.dense(),
        }
        Ok(())
    }
}

impl Observer for CostCounter {
    fn begin(&mut self, event: &PassEvent) -> lmht_nn::Result<()> {
        if let Some(pass) = self.pass.filter(|pass| pass.timesteps != event.timesteps) {
            let (had, got) = (pass.timesteps, event.timesteps);
            let message = format!("expected {had} timesteps as in the passes before, got {got}; count each in its own");
            return Err(Error::Shape(message).into());
        }
        self.pass = Some(*event);
        self.first_image = self.n_images;
        self.n_images += event.n_images;
        Ok(())
    }

    /// Passes add up.
    fn takes_parts(&self) -> bool {
        true
    }

    fn synapse(&mut self, event: &SynapseEvent<'_>) -> lmht_nn::Result<()> {
        Ok(self.add_synapse(event)?)
    }

    fn neuron(&mut self, event: &NeuronEvent<'_>) -> lmht_nn::Result<()> {
        let rows = event.output.dims().first().copied().unwrap_or(0);
        let (_, n_images) = match self.pass {
            Some(pass) => (pass.timesteps, pass.n_images),
            None => (event.timesteps, rows / event.timesteps.max(1)),
        };
        let values = event.output.elem_count() as u64;
        let t = event.timesteps as u64;
        let per_step = values / t.max(1);
        let is_spiking = matches!(event.signal, SignalKind::Spikes { .. });
        let layer = entry(
            &mut self.neurons,
            |layer| layer.name == event.name,
            || NeuronTotal {
                name: event.name.to_string(),
                n_units: per_step / n_images.max(1) as u64,
                updates: 0,
                tgim_macs: 0,
                leak_muls: 0,
                is_spiking,
            },
        );
        layer.updates += values;
        self.window = event.window;
        // λ acts on entering a window, and Ω mixes what whole windows delivered; a window is a timestep before
        // reparameterization.
        let windows = t / event.window.max(1) as u64;
        layer.leak_muls += if event.has_leak { per_step * windows } else { 0 };
        layer.tgim_macs += per_step
            * match event.tgim {
                Tgim::Full => windows * windows,
                Tgim::Causal => windows * (windows + 1) / 2,
                Tgim::Identity => 0,
            };
        Ok(())
    }

    fn product(&mut self, event: &ProductEvent<'_>) -> lmht_nn::Result<()> {
        let counted = product(event)?;
        let name = || event.name.to_string();
        let empty = || ProductTotal { name: name(), acs: 0, macs: 0, effective: 0, dense: 0 };
        let total = entry(&mut self.products, |total| total.name == event.name, empty);
        total.acs += counted.acs;
        total.macs += counted.macs;
        total.effective += counted.effective;
        total.dense += counted.dense;
        Ok(())
    }
}

/// Counts one product, `[rows, N, K]` times `[rows, K, M]`, whatever the axes before the last two.
fn product(event: &ProductEvent<'_>) -> Result<ProductTotal> {
    let bad = |what: String| Error::Shape(what).in_layer(event.name);
    let (left, right) = (event.left.dims(), event.right.dims());
    let (&[.., n, k], &[.., right_k, m]) = (left, right) else {
        return Err(bad(format!("expected two matrices, got shapes {left:?} and {right:?}")));
    };
    let maps: usize = left[..left.len() - 2].iter().product();
    if k != right_k || left[..left.len() - 2] != right[..right.len() - 2] {
        return Err(bad(format!("expected shapes [.., N, K] and [.., K, M], got {left:?} and {right:?}")));
    }
    let dense = (maps * n * k * m) as u64;
    let counted = ProductTotal { name: String::new(), acs: 0, macs: 0, effective: 0, dense };
    if dense == 0 {
        return Ok(counted);
    }
    // Spikes and active values of every column of the left side, and of every row of the right one.
    let named = |error: Error| error.in_layer(event.name);
    let left = sides(event.left, event.left_signal, k).map_err(named)?;
    let right = sides(&event.right.t()?, event.right_signal, k).map_err(named)?;
    let pairs = |left: &[u64], right: &[u64]| left.iter().zip(right).map(|(left, right)| left * right).sum::<u64>();
    let effective = pairs(&left.active, &right.active);
    let is_spikes = |signal| matches!(signal, SignalKind::Spikes { .. });
    Ok(match (is_spikes(event.left_signal), is_spikes(event.right_signal)) {
        (true, true) => ProductTotal { acs: pairs(&left.spikes, &right.spikes), effective, ..counted },
        (true, false) => ProductTotal { acs: left.spikes.iter().sum::<u64>() * m as u64, effective, ..counted },
        (false, true) => ProductTotal { acs: right.spikes.iter().sum::<u64>() * n as u64, effective, ..counted },
        (false, false) => ProductTotal { macs: dense, effective, ..counted },
    })
}

/// Of each map and index k: Σ |s| and the number of values other than 0.
struct Side {
    spikes: Vec<u64>,
    active: Vec<u64>,
}

/// Sums a tensor `[.., N, K]` over N.
fn sides(tensor: &candle_core::Tensor, signal: SignalKind, k: usize) -> Result<Side> {
    let v_threshold = match signal {
        SignalKind::Spikes { v_threshold } => Some(v_threshold),
        SignalKind::Averaged { .. } | SignalKind::Analog => None,
    };
    let n = tensor.dims()[tensor.rank() - 2];
    let of_map = |map: &[f64]| {
        let (mut spikes, mut active) = (vec![0; k], vec![0; k]);
        for row in map.chunks_exact(k) {
            for ((value, spikes), active) in row.iter().zip(&mut spikes).zip(&mut active) {
                if let Some(v_threshold) = v_threshold {
                    let count = (value / v_threshold).abs();
                    let off = (count - count.round()).abs();
                    // Written so that a value that is no number is refused.
                    if !(off <= TOLERANCE && count <= f64::from(MAX_SPIKE)) {
                        return Err(Error::NotSpikes { v_threshold, value: *value });
                    }
                    *spikes += count.round() as u64;
                }
                *active += u64::from(*value != 0.);
            }
        }
        Ok((spikes, active))
    };
    let maps = with_values(tensor, |values| match values {
        Numbers::F32(values) => values
            .par_chunks_exact(n * k)
            .map(|map| of_map(&map.iter().map(|value| f64::from(*value)).collect::<Vec<_>>()))
            .collect::<Result<Vec<_>>>(),
        Numbers::F64(values) => values.par_chunks_exact(n * k).map(of_map).collect(),
    });
    let maps = maps??;
    let (spikes, active): (Vec<_>, Vec<_>) = maps.into_iter().unzip();
    Ok(Side { spikes: spikes.concat(), active: active.concat() })
}
