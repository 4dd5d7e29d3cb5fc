//! Whether two networks send the same spikes: the proof that a conversion lost nothing, or the size of what it lost.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use lmht_nn::{Error, Network, NeuronConfig, NeuronEvent, Observer, Pass, Result, Signal, loss, ops};

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
/// If the networks have different layers or timesteps (windows), or an image does not fit.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_convert::{Model, compare_spikes, reparameterize};
/// use lmht_nn::{ModelConfig, Network, ParamStore, Schedule};
///
/// # fn main() -> lmht_nn::Result<()> {
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
    if !first.order.iter().eq(&second.order) {
        return Err(Error::Config(format!(
            "the networks have different neuron layers: {:?} and {:?}; compare a network with its own conversion",
            first.order, second.order
        )));
    }
    let mut layers = Vec::with_capacity(first.order.len());
    for name in first.order {
        let (a, b) = (&first.counts[&name], &second.counts[&name]);
        if a.dims() != b.dims() {
            return Err(Error::Config(format!(
                "{name}: the networks give {:?} and {:?} spike counts; compare networks of equal windows",
                a.dims(),
                b.dims()
            )));
        }
        let sum =
            |x: &Tensor| -> Result<u64> { Ok(x.to_dtype(DType::F64)?.abs()?.sum_all()?.to_scalar::<f64>()? as u64) };
        layers.push(LayerSpikes {
            n_counts: a.elem_count() as u64,
            differing: sum(&a.ne(b)?)?,
            spikes_before: sum(a)?,
            spikes_after: sum(b)?,
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
    let neuron = &network.config().neuron;
    let takes_back = matches!(neuron, NeuronConfig::Snm(_));
    let mut counts = Counts { window: neuron.window(), takes_back, ..Counts::default() };
    let logits = network.forward(images, &mut Pass::eval().observed_by(&mut counts))?;
    let classes = loss::readout(&logits)?.argmax(1)?.to_vec1::<u32>()?;
    Ok((counts, classes))
}

#[derive(Default)]
struct Counts {
    window: usize,
    /// Whether a spike may be negative.
    takes_back: bool,
    order: Vec<String>,
    counts: BTreeMap<String, Tensor>,
}

impl Observer for Counts {
    fn neuron(&mut self, event: &NeuronEvent<'_>) -> Result<()> {
        let SignalKind::Spikes { v_threshold } = event.signal else {
            return Err(Error::Config(format!("{}: expected spikes, got activations of an ANN", event.name)));
        };
        let spikes = (event.output / v_threshold)?.round()?;
        let counts = ops::sum_windows(&spikes, event.timesteps / self.window, self.window)?;
        // One byte each where it holds them: a layer's counts outlive the pass.
        let dtype = match (self.takes_back, event.levels as usize * self.window) {
            (true, _) => DType::F32,
            (false, ..=255) => DType::U8,
            (false, _) => DType::U32,
        };
        self.order.push(event.name.to_string());
        self.counts.insert(event.name.to_string(), counts.to_dtype(dtype)?);
        Ok(())
    }
}
