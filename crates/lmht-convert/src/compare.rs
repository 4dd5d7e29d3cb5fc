//! Whether two networks send the same spikes: the proof that a conversion lost nothing, or the size of what it lost.

use candle_core::{DType, Tensor};
use lmht_nn::neurons::Equation;
use lmht_nn::{Network, NeuronEvent, Observer, Pass, SignalKind, ops, readout};

use crate::{Error, Result};

/// The spikes of one layer in two networks, summed over the windows of the one that has windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSpikes {
    /// The neuron layer.
    pub name: String,
    /// Counts compared: units times timesteps (windows) times images.
    pub n_counts: u64,
    /// Counts that differ.
    pub differing: u64,
    /// Spikes of the first network; one that is taken back counts too.
    pub spikes_before: u64,
    /// Spikes of the second network.
    pub spikes_after: u64,
}

/// What [`compare_spikes`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpikeComparison {
    /// Every neuron layer, in the order of the forward pass.
    pub layers: Vec<LayerSpikes>,
    /// Images shown.
    pub n_images: u64,
    /// Images that the first network puts into the right class.
    pub correct_before: u64,
    /// Images that the second network puts into the right class.
    pub correct_after: u64,
    /// Images that the two put into different classes.
    pub class_differs: u64,
}

impl SpikeComparison {
    /// Counts that differ, over all layers.
    ///
    /// ```
    /// assert_eq!(lmht_convert::SpikeComparison::default().differing(), 0);
    /// ```
    pub fn differing(&self) -> u64 {
        self.layers.iter().map(|layer| layer.differing).sum()
    }

    /// Adds what another batch gave.
    fn add(&mut self, other: Self) {
        if self.layers.is_empty() {
            self.layers = other.layers;
        } else {
            for (layer, more) in self.layers.iter_mut().zip(other.layers) {
                layer.n_counts += more.n_counts;
                layer.differing += more.differing;
                layer.spikes_before += more.spikes_before;
                layer.spikes_after += more.spikes_after;
            }
        }
        self.n_images += other.n_images;
        self.correct_before += other.correct_before;
        self.correct_after += other.correct_after;
        self.class_differs += other.class_differs;
    }
}

/// Shows the same images to two networks and compares what their neurons send, layer by layer.
///
/// Either network may be a reparameterized one: a window's spikes count as those of one timestep.
///
/// # Shapes
/// - each batch: images as [`Network::forward`] takes them, labels `[B]`
///
/// # Errors
/// If the networks have different layers or timesteps (windows), an image does not fit, or what gives the batches fails
/// ([`Error::data`] makes its error one of these).
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_convert::{Model, compare_spikes, reparameterize};
/// use lmht_nn::{ModelConfig, Network, ParamStore, Schedule};
///
/// # fn main() -> lmht_convert::Result<()> {
/// let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
/// let params = ParamStore::new(42);
/// let network = Network::new(&config, params.builder(DType::F64, &Device::Cpu))?;
/// let twin = reparameterize(&Model::of(&config, &params), Schedule::FrontLoaded)?;
/// let (twin, _) = twin.build(DType::F64, &Device::Cpu)?;
/// let images = Tensor::ones((1, 3, 8, 8), DType::F64, &Device::Cpu)?;
/// let labels = Tensor::zeros(1, DType::U32, &Device::Cpu)?;
/// assert_eq!(compare_spikes(&network, &twin, [Ok((images, labels))])?.differing(), 0);
/// # Ok(()) }
/// ```
pub fn compare_spikes(
    before: &Network,
    after: &Network,
    batches: impl IntoIterator<Item = Result<(Tensor, Tensor)>>,
) -> Result<SpikeComparison> {
    let mut comparison = SpikeComparison::default();
    for batch in batches {
        let (images, labels) = batch?;
        comparison.add(compare_batch(before, after, &images, &labels)?);
    }
    Ok(comparison)
}

fn compare_batch(before: &Network, after: &Network, images: &Tensor, labels: &Tensor) -> Result<SpikeComparison> {
    let (first, class_before) = counts(before, images)?;
    let (second, class_after) = counts(after, images)?;
    let names = |counts: &Counts| counts.layers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    if names(&first) != names(&second) {
        return Err(Error::Refused(format!(
            "the networks have different neuron layers: {:?} and {:?}; compare a network with its own conversion",
            names(&first),
            names(&second)
        )));
    }
    let mut layers = Vec::with_capacity(first.layers.len());
    for ((name, a), (_, b)) in first.layers.into_iter().zip(second.layers) {
        if a.dims() != b.dims() {
            return Err(Error::Refused(format!(
                "{name}: the networks give {:?} and {:?} spike counts; compare networks of equal windows",
                a.dims(),
                b.dims()
            )));
        }
        let sum =
            |x: &Tensor| -> Result<u64> { Ok(x.to_dtype(DType::F64)?.abs()?.sum_all()?.to_scalar::<f64>()? as u64) };
        layers.push(LayerSpikes {
            n_counts: a.elem_count() as u64,
            differing: sum(&a.ne(&b)?)?,
            spikes_before: sum(&a)?,
            spikes_after: sum(&b)?,
            name,
        });
    }
    let labels = labels.to_dtype(DType::U32)?.to_vec1::<u32>()?;
    let correct = |classes: &[u32]| classes.iter().zip(&labels).filter(|(class, label)| class == label).count() as u64;
    Ok(SpikeComparison {
        layers,
        n_images: labels.len() as u64,
        correct_before: correct(&class_before),
        correct_after: correct(&class_after),
        class_differs: class_before.iter().zip(&class_after).filter(|(a, b)| a != b).count() as u64,
    })
}

/// Spike counts of every neuron layer, by window, and the class of every image.
fn counts(network: &Network, images: &Tensor) -> Result<(Counts, Vec<u32>)> {
    let traits = network.config().neuron.traits();
    let counts_up = traits.equation == Equation::MultiThreshold;
    let mut counts = Counts { window: traits.window, counts_up, layers: Vec::new() };
    let logits = network.forward(images, &mut Pass::eval().observed_by(&mut counts))?;
    let classes = readout(&logits)?.argmax(1)?.to_vec1::<u32>()?;
    Ok((counts, classes))
}

struct Counts {
    window: usize,
    /// Whether a count is a whole number of 0..=L: other equations may take spikes back.
    counts_up: bool,
    /// In the order of the pass; a layer that is gone through twice is there twice.
    layers: Vec<(String, Tensor)>,
}

impl Observer for Counts {
    fn neuron(&mut self, event: &NeuronEvent<'_>) -> lmht_nn::Result<()> {
        let spikes = spikes(event)?;
        let counts = ops::sum_windows(&spikes, event.timesteps / self.window, self.window)?;
        // One byte each where it holds them: a layer's counts outlive the pass.
        let dtype = match (self.counts_up, event.levels as usize * self.window) {
            (false, _) => DType::F32,
            (true, ..=255) => DType::U8,
            (true, _) => DType::U32,
        };
        self.layers.push((event.name.to_string(), counts.to_dtype(dtype)?));
        Ok(())
    }
}

/// s of every unit, from what a neuron layer sends.
pub(crate) fn spikes(event: &NeuronEvent<'_>) -> lmht_nn::Result<Tensor> {
    match event.signal {
        SignalKind::Spikes { v_threshold } => Ok((event.output.to_tensor()? / v_threshold)?.round()?),
        SignalKind::Averaged { .. } | SignalKind::Analog => Err(lmht_nn::Error::Config(format!(
            "{}: expected spikes, got activations of an ANN; compare spiking networks",
            event.name
        ))),
    }
}
