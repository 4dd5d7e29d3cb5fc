//! Reparameterization (§4.5): a trained LM-HT network becomes a network of single-threshold LIF neurons.

use lmht_nn::graph::Op;
use lmht_nn::{Error, ModelConfig, NeuronConfig, Result, Schedule, Tgim};

use crate::Model;

/// Rewrites a network of L levels and T timesteps as one of a single threshold and LT timesteps, a window of L for each.
///
/// Biases and running means are divided by L, everywhere but in the analog stem, whose current is divided instead. θ, Ω
/// and λ stay; λ acts on entering a window. Logits are those of the network before, summed over a window.
///
/// With [`Schedule::FrontLoaded`] nothing is lost: each window has the same spikes in every layer, for every input, Ω,
/// λ and v(0), across max-pooling too. A neuron's own arithmetic is the same to the bit; what remains is the rounding of
/// the currents, which are sums of L parts now: next to a threshold it can move a spike, in float32 now and then
/// ([`compare_spikes`](crate::compare_spikes) counts), in float64 only where a potential sits on a threshold to 16 digits. Attention multiplies spikes, which is not linear: it runs once a window, on
/// the window's counts. The price is latency: a layer starts a window when the one before has finished it.
///
/// [`Schedule::Uniform`] is the paper's; see there for what it loses.
///
/// # Errors
/// If the network does not spike or is a reparameterized one already, its tensors do not fit its configuration (every
/// difference is listed), or LT is too large.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_convert::{Model, reparameterize};
/// use lmht_nn::{ModelConfig, Network, ParamStore, Pass, Schedule, loss};
///
/// # fn main() -> lmht_nn::Result<()> {
/// let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) }; // L = 2, T = 2
/// let params = ParamStore::new(42);
/// let network = Network::new(&config, params.builder(DType::F64, &Device::Cpu))?;
/// let single = reparameterize(&Model::of(&config, &params), Schedule::FrontLoaded)?;
/// assert_eq!(single.config.timesteps, 4);
///
/// let (twin, _) = single.build(DType::F64, &Device::Cpu)?;
/// let image = Tensor::ones((1, 3, 8, 8), DType::F64, &Device::Cpu)?;
/// let before = loss::readout(&network.forward(&image, &mut Pass::eval())?)?;
/// let after = loss::readout(&twin.forward(&image, &mut Pass::eval())?)?; // a mean over twice the timesteps
/// assert!(((after * 2.)? - before)?.abs()?.max_all()?.to_scalar::<f64>()? < 1e-12);
/// # Ok(()) }
/// ```
pub fn reparameterize(model: &Model, schedule: Schedule) -> Result<Model> {
    let graph = model.check()?;
    let config = &model.config;
    let (tgim, leak, v_init) = match &config.neuron {
        NeuronConfig::Lmht(neurons::Lmht { tgim, v_init, .. }) => (*tgim, None, *v_init),
        NeuronConfig::Mht(neurons::Mht { leak, v_init, .. }) | NeuronConfig::Lif(neurons::Lif { leak, v_init, .. }) => {
            (Tgim::Identity, Some(*leak), *v_init)
        }
        NeuronConfig::If(neurons::If { v_init, .. }) => (Tgim::Identity, Some(1.), *v_init),
        NeuronConfig::Reparameterized(_) => {
            return Err(Error::Config("the network has single-threshold neurons already: nothing to convert".into()));
        }
        other => {
            return Err(Error::Config(format!(
                "expected IF, LIF, M-HT or LM-HT neurons, got {other:?}; make an LM-HT network of a QCFS network with \
                 qcfs_to_lmht first"
            )));
        }
    };
    let levels = config.neuron.levels();
    let window = levels as usize;
    let v_threshold = config.neuron.v_threshold().unwrap_or(1.);
    let neuron = NeuronConfig::Reparameterized(neurons::Reparameterized { window, schedule, tgim, leak, v_threshold, v_init });
    let config = ModelConfig {
        timesteps: config.timesteps.saturating_mul(window),
        neuron,
        input_scale: config.input_scale / f64::from(levels),
        ..config.clone()
    };
    config.check()?;

    let mut tensors = model.tensors.clone();
    let mut divide = |name: String| -> Result<()> {
        if let Some(tensor) = tensors.get_mut(&name) {
            *tensor = (&*tensor / f64::from(levels))?;
        }
        Ok(())
    };
    for (_, node) in graph.nodes.iter().enumerate().filter(|(i, _)| !graph.is_stem(*i)) {
        match node.op {
            Op::Conv2d { .. } | Op::Linear => divide(format!("{}.bias", node.name))?,
            Op::BatchNorm => {
                divide(format!("{}.bias", node.name))?;
                divide(format!("{}.running_mean", node.name))?;
            }
            _ => {}
        }
    }
    Ok(Model { config, tensors })
}
