//! Reparameterization (§4.5): a trained LM-HT network becomes a network of single-threshold LIF neurons.

use std::collections::BTreeSet;

use lmht_nn::neurons::{self, Equation, Leak};
use lmht_nn::trace::{Op, Trace};
use lmht_nn::{ModelConfig, NeuronConfig, Schedule};

use crate::layers::{before_neurons, called, outline, path, scale_first_current};
use crate::{Error, Model, Result};

/// Rewrites a network of L levels and T timesteps as one of a single threshold and LT timesteps, a window of L for each.
///
/// Biases and running means are divided by L, everywhere but before the first neurons, whose current is divided instead: by
/// `input_scale`, or in the last tensors before them if the body does not look at it. θ, Ω and λ stay; λ acts on entering a
/// window. Logits are those of the network before, summed over a window.
///
/// With [`Schedule::FrontLoaded`] nothing is lost: each window has the same spikes in every layer, for every input, Ω,
/// λ and v(0), across max-pooling too. A neuron's own arithmetic is the same to the bit; what remains is the rounding of
/// the currents, which are sums of L parts now: next to a threshold it can move a spike, in float32 now and then
/// ([`compare_spikes`](crate::compare_spikes) counts), in float64 only where a potential sits on a threshold to 16 digits.
/// Attention multiplies spikes, which is not linear: it runs once a window, on the window's counts. The price is latency: a
/// layer starts a window when the one before has finished it.
///
/// [`Schedule::Uniform`] is the paper's; see there for what it loses.
///
/// # Errors
/// [`Error::Refused`] if the neurons are not those of Eqs. 5-7 or single-threshold ones already, or a layer cannot be
/// rewritten: an operation that only the body knows, a max-pooling of currents, a layer that is gone through before and after
/// the first neurons. If the tensors do not fit the configuration (every difference is listed), or LT is too large.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_convert::{Model, reparameterize};
/// use lmht_nn::{ModelConfig, Network, ParamStore, Pass, Schedule, readout};
///
/// # fn main() -> lmht_convert::Result<()> {
/// let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) }; // L = 2, T = 2
/// let params = ParamStore::new(42);
/// let network = Network::new(&config, params.builder(DType::F64, &Device::Cpu))?;
/// let single = reparameterize(&Model::of(&config, &params), Schedule::FrontLoaded)?;
/// assert_eq!(single.config.timesteps, 4);
///
/// let (twin, _) = single.build(DType::F64, &Device::Cpu)?;
/// let image = Tensor::ones((1, 3, 8, 8), DType::F64, &Device::Cpu)?;
/// let before = readout(&network.forward(&image, &mut Pass::eval())?)?;
/// let after = readout(&twin.forward(&image, &mut Pass::eval())?)?; // a mean over twice the timesteps
/// assert!(((after * 2.)? - before)?.abs()?.max_all()?.to_scalar::<f64>()? < 1e-12);
/// # Ok(()) }
/// ```
pub fn reparameterize(model: &Model, schedule: Schedule) -> Result<Model> {
    let trace = model.layers()?;
    let traits = model.config.neuron.traits();
    let refused = |what: &str| {
        let title = traits.title;
        Err(Error::Refused(format!("expected neurons of Eqs. 5-7 (IF, LIF, M-HT or LM-HT), got {title}; {what}")))
    };
    let v_threshold = match (traits.equation, traits.v_threshold) {
        (Equation::MultiThreshold, Some(v_threshold)) => v_threshold,
        (Equation::Quantized, _) => return refused("make an LM-HT network of a QCFS network with qcfs_to_lmht first"),
        (Equation::Analog, _) => return refused("train an LM-HT network, or a QCFS network for qcfs_to_lmht"),
        (Equation::Inference, _) => {
            return refused("convert the ANN that they come from with qcfs_to_lmht or qcfs_to_if");
        }
        (Equation::Other | Equation::MultiThreshold, _) => {
            return refused("their equations have no single-threshold twin; train an LM-HT network");
        }
    };
    let levels = traits.levels;
    let window = levels as usize;
    let leak = match traits.leak {
        Leak::Learned => None,
        Leak::Fixed(leak) => Some(leak),
    };
    let (tgim, v_init) = (traits.tgim, traits.v_init);
    let neuron: NeuronConfig = neurons::Reparameterized { window, schedule, tgim, leak, v_threshold, v_init }.into();
    if traits.window != 1 || neuron == model.config.neuron {
        return Err(Error::Refused("the network has single-threshold neurons already: nothing to convert".into()));
    }
    let timesteps = model.config.timesteps.saturating_mul(window);
    let config = ModelConfig { timesteps, neuron, ..model.config.clone() };
    config.check()?;
    check_windows(&trace, &config)?;

    let is_before = before_neurons(&trace);
    let (mut kept, mut divided) = (BTreeSet::new(), BTreeSet::new());
    for (node, is_before) in trace.nodes.iter().zip(&is_before) {
        let parts: &[&str] = match node.op {
            Op::Conv2d { .. } | Op::Linear { .. } => &["bias"],
            Op::BatchNorm(_) => &["bias", "running_mean"],
            _ => continue,
        };
        let names = parts.iter().map(|part| (path(&node.name, part), called(node)));
        if *is_before { kept.extend(names) } else { divided.extend(names) }
    }
    if let Some((_, layer)) = kept.intersection(&divided).next() {
        return Err(Error::Refused(format!(
            "{layer} is gone through before the first neurons and again after them, and only the second would have its bias \
             divided by L; give the network two layers"
        )));
    }
    let mut tensors = model.tensors.clone();
    for (name, _) in &divided {
        if let Some(tensor) = tensors.get_mut(name) {
            *tensor = (&*tensor / f64::from(levels))?;
        }
    }
    scale_first_current(Model { config, tensors }, 1. / f64::from(levels))
}

/// Refuses layers that do not commute with windows of timesteps.
fn check_windows(trace: &Trace, config: &ModelConfig) -> Result<()> {
    let is_before = before_neurons(trace);
    for (i, node) in trace.nodes.iter().enumerate() {
        if matches!(node.op, Op::MaxPool(_)) && !is_before[i] && !is_spikes(trace, node.inputs[0]) {
            let before = called(&trace.nodes[trace.source(node.inputs[0])]);
            return Err(Error::Refused(format!(
                "the max-pooling after {before} pools currents or sums, whose maximum in a window is not that of the timesteps \
                 in it; pool the spikes of a neuron layer, or average"
            )));
        }
    }
    let (window, windows) = (config.neuron.window(), config.n_frames());
    for node in &outline(config)?.1.nodes {
        if let Op::Attention(shape) = node.op
            && (shape.window, shape.windows) != (window, windows)
        {
            return Err(Error::Refused(format!(
                "{}: it multiplies {} windows of {} timesteps, the reparameterized network has {windows} of {window}; build it \
                 with (config.n_frames(), config.neuron.window())",
                called(node),
                shape.windows,
                shape.window
            )));
        }
    }
    Ok(())
}

/// Whether a node gives the spikes of one neuron layer, pooled at most by maximum.
fn is_spikes(trace: &Trace, node: usize) -> bool {
    match trace.nodes[node].op {
        Op::Neuron(_) => true,
        Op::MaxPool(_) | Op::Broadcast(_) => is_spikes(trace, trace.nodes[node].inputs[0]),
        _ => false,
    }
}
