//! Where a hybrid start is not the function of its ANN, and how far it is off.

use candle_core::{D, DType, Tensor};
use lmht_nn::trace::Op;
use lmht_nn::{Network, NeuronConfig, Pass, Stem, readout};

use crate::layers::{called, spike_poolings};
use crate::{Error, Model, Result};

/// A layer in which a hybrid start and its ANN part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deviation {
    /// The layer.
    pub layer: String,
    /// Why it does not do what it does in the ANN.
    pub why: String,
}

/// The logits of two networks on the same images.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LogitComparison {
    /// Images shown.
    pub n_images: u64,
    /// The largest difference of a logit.
    pub largest: f64,
    /// The mean difference of a logit.
    pub mean: f64,
    /// The largest logit of the first network, without its sign: what differences are to be held against.
    pub magnitude: f64,
    /// Images that the first network puts into the right class.
    pub correct_before: u64,
    /// Images that the second network puts into the right class.
    pub correct_after: u64,
    /// Images that the two put into different classes.
    pub class_differs: u64,
    /// Cross-entropy of the first network, the mean over images, in nats.
    pub loss_before: f64,
    /// Cross-entropy of the second network, likewise.
    pub loss_after: f64,
}

/// What [`hybrid_report`] found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HybridReport {
    /// Whether a maximum is taken before its neuron now, which the ANN takes after.
    pub pools_first: bool,
    /// Where the networks part, in the order of the forward pass; none if they are the same function up to rounding.
    pub deviations: Vec<Deviation>,
    /// What was measured; nothing without images.
    pub measured: Option<LogitComparison>,
}

/// Says where `spiking`, a hybrid start of `ann`, is not the same function, and shows images to both.
///
/// # Shapes
/// - each batch: images as [`Network::forward`] takes them, labels `[B]`
///
/// # Errors
/// If a model does not fit its configuration, an image or a label does not fit, or what gives the batches fails
/// ([`Error::data`] makes its error one of these).
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_convert::{HybridStart, Model, hybrid_report, qcfs_to_lmht};
/// use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore};
///
/// # fn main() -> lmht_convert::Result<()> {
/// let ann = ModelConfig { width: 4, neuron: NeuronConfig::qcfs(8), timesteps: 1, ..ModelConfig::resnet20(10) };
/// let params = ParamStore::new(42);
/// Network::new(&ann, params.builder(DType::F32, &Device::Cpu))?;
/// let ann = Model::of(&ann, &params);
/// let spiking = qcfs_to_lmht(&ann, 2, 2, HybridStart::Exact)?;
/// let images = Tensor::rand(0f32, 1., (2, 3, 8, 8), &Device::Cpu)?;
/// let labels = Tensor::zeros(2, DType::U32, &Device::Cpu)?;
/// let report = hybrid_report(&ann, &spiking, [Ok((images, labels))])?;
/// assert!(report.deviations[0].why.contains("Q = 8"));
/// assert_eq!(report.measured.unwrap().n_images, 2);
/// # Ok(()) }
/// ```
pub fn hybrid_report(
    ann: &Model,
    spiking: &Model,
    batches: impl IntoIterator<Item = Result<(Tensor, Tensor)>>,
) -> Result<HybridReport> {
    let deviations = deviations(ann, spiking)?;
    let dtype = spiking.tensors.values().next().map_or(DType::F32, Tensor::dtype);
    let mut networks = None;
    let mut sum = LogitComparison::default();
    for batch in batches {
        let (images, labels) = batch?;
        let (before, after) = match &networks {
            Some(networks) => networks,
            None => {
                let build = |model: &Model| -> Result<Network> { Ok(model.build(dtype, images.device())?.0) };
                networks.insert((build(ann)?, build(spiking)?))
            }
        };
        sum.add(
            &readout(&before.forward(&images, &mut Pass::eval())?)?,
            &readout(&after.forward(&images, &mut Pass::eval())?)?,
            &labels,
        )?;
    }
    let pools_first = spiking.config.stem == Stem::ImagenetPoolFirst && ann.config.stem != spiking.config.stem;
    Ok(HybridReport { pools_first, deviations, measured: networks.map(|_| sum.averaged()) })
}

fn deviations(ann: &Model, spiking: &Model) -> Result<Vec<Deviation>> {
    let (trace, timesteps) = (spiking.check()?, spiking.config.timesteps);
    ann.check()?;
    let NeuronConfig::Lmht(neuron) = &spiking.config.neuron else {
        let title = spiking.config.neuron.traits().title;
        return Err(Error::Refused(format!("expected a hybrid start, of LM-HT neurons, got {title} neurons")));
    };
    let steps = u64::from(neuron.levels) * timesteps as u64;
    let n_neurons = trace.nodes.iter().filter(|node| matches!(node.op, Op::Neuron(_))).count();
    let everywhere = |why| Deviation { layer: format!("all {n_neurons} neuron layers"), why };
    let mut deviations = Vec::new();
    match &ann.config.neuron {
        NeuronConfig::Qcfs(qcfs) if u64::from(qcfs.quant_levels) == steps => {}
        NeuronConfig::Qcfs(qcfs) => deviations.push(everywhere(format!(
            "the ANN has steps of 1/Q, Q = {}, the spikes of L·T = {steps}: equal in expectation only; choose L·T = Q",
            qcfs.quant_levels
        ))),
        NeuronConfig::Relu(_) => deviations.push(everywhere(format!(
            "a ReLU becomes a staircase of L·T = {steps} steps up to a calibrated ceiling; more steps come nearer"
        ))),
        other => {
            let title = other.traits().title;
            return Err(Error::Refused(format!(
                "expected the ANN of a hybrid start, QCFS or ReLU, got {title} neurons"
            )));
        }
    }
    let exact = |scale: f64| Some(scale / f64::from(neuron.levels.max(1)));
    if matches!(&ann.config.neuron, NeuronConfig::Qcfs(qcfs) if neuron.v_threshold != exact(qcfs.scale)) {
        let why = "the published start leaves biases and batch-norm means behind the first neurons at the ANN's scale";
        deviations.push(everywhere(format!("{why}, {} times too small; the exact start does not", neuron.levels)));
    }
    // At a single timestep a spike count is the activation itself.
    if timesteps > 1 {
        let pools = spike_poolings(&trace);
        for (i, node) in trace.nodes.iter().enumerate() {
            if pools.contains(&i) {
                deviations.push(Deviation {
                    layer: format!("max-pooling after {}", called(&trace.nodes[node.inputs[0]])),
                    why: "it takes the maximum at every timestep, the ANN that of activations, which are means over time; average pooling, or \
                          a maximum before the first neurons, is exact"
                        .into(),
                });
            } else if matches!(node.op, Op::Attention(_)) {
                deviations.push(Deviation {
                    layer: called(node),
                    why: "it multiplies spikes at every timestep, and the mean of products is no product of means"
                        .into(),
                });
            }
        }
    }
    Ok(deviations)
}

impl LogitComparison {
    /// Adds a batch; means are sums until [`LogitComparison::averaged`].
    fn add(&mut self, before: &Tensor, after: &Tensor, labels: &Tensor) -> Result<()> {
        let (before, after) = (before.to_dtype(DType::F64)?, after.to_dtype(DType::F64)?);
        let number = |xs: Tensor| -> Result<f64> { Ok(xs.to_scalar::<f64>()?) };
        let difference = (&before - &after)?.abs()?;
        self.largest = self.largest.max(number(difference.max_all()?)?);
        self.magnitude = self.magnitude.max(number(before.abs()?.max_all()?)?);
        self.mean += number(difference.mean(D::Minus1)?.sum_all()?)?;
        self.loss_before += summed_loss(&before, labels)?;
        self.loss_after += summed_loss(&after, labels)?;
        let classes = |logits: &Tensor| -> Result<Vec<u32>> { Ok(logits.argmax(1)?.to_vec1::<u32>()?) };
        let (before, after) = (classes(&before)?, classes(&after)?);
        let labels = labels.to_dtype(DType::U32)?.to_vec1::<u32>()?;
        let same = |a: &[u32], b: &[u32]| a.iter().zip(b).filter(|(a, b)| a == b).count() as u64;
        self.n_images += labels.len() as u64;
        self.correct_before += same(&before, &labels);
        self.correct_after += same(&after, &labels);
        self.class_differs += before.len() as u64 - same(&before, &after);
        Ok(())
    }

    fn averaged(mut self) -> Self {
        for sum in [&mut self.mean, &mut self.loss_before, &mut self.loss_after] {
            *sum /= self.n_images.max(1) as f64;
        }
        self
    }
}

/// The cross-entropies of a batch, added up.
fn summed_loss(logits: &Tensor, labels: &Tensor) -> Result<f64> {
    let labels = labels.to_dtype(DType::U32)?.unsqueeze(1)?;
    let of_label = logits.gather(&labels, 1)?.squeeze(1)?;
    Ok((logits.log_sum_exp(1)? - of_label)?.sum_all()?.to_scalar()?)
}
