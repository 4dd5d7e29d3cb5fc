//! The pieces of a network: synapses, neurons, pooling, and what flows between them.
//!
//! Inside a network time is folded into the batch, time outermost: `[T, B, ...]` is kept as `[T·B, ...]`. Convolution,
//! normalisation and pooling treat all rows alike; only the neuron needs to know T.
//!
//! A network of one's own is put together like this; an error in it begins with the name of the layer:
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use lmht_nn::layers::{BatchNorm, Conv2d, ConvNorm, Flow, Linear, Neuron, Site, global_avg_pool};
//! use lmht_nn::{ModelConfig, ParamStore, Pass, ops::Conv2dParams};
//!
//! # fn main() -> lmht_nn::Result<()> {
//! let config = ModelConfig::resnet18(10); // T = 2, L = 2
//! let params = ParamStore::new(42);
//! let vb = params.builder(DType::F32, &Device::Cpu);
//! let conv = Conv2d::new(3, 8, 3, Conv2dParams { stride: 1, padding: 1, groups: 1 }, false, vb.pp("conv"))?;
//! let synapse = ConvNorm::new(conv, BatchNorm::new(8, vb.pp("bn"))?);
//! let neuron = Neuron::new(&config, Site::Maps, vb.pp("sn"))?;
//! let readout = Linear::new(8, 10, vb.pp("fc"))?;
//!
//! let frames = Flow::analog(Tensor::ones((2 * 4, 3, 16, 16), DType::F32, &Device::Cpu)?); // T = 2, B = 4
//! let mut pass = Pass::eval();
//! let spikes = neuron.forward(&synapse.forward(&frames, &mut pass)?, &mut pass)?;
//! let logits = readout.forward(&global_avg_pool(&spikes, &mut pass)?, &mut pass)?;
//! assert_eq!(logits.xs.dims(), [2 * 4, 10]);
//! # Ok(()) }
//! ```

use candle_core::{Tensor, Var};
use candle_nn::VarBuilder;
use candle_nn::init::{FanInOut, Init, NonLinearity, NormalOrUniform};

use lmht_core::{Schedule, Tgim};

use crate::config::{Dynamics, ModelConfig};
use crate::engine::Part;
use crate::graph::Op;
use crate::ops::{self, Conv2dParams, Learned, Pool2dParams, Relative};
use crate::{Mode, NeuronConfig, NeuronEvent, Pass, Result, Signal, SynapseEvent, SynapseKind};

/// A tensor on its way through the network, and whether its values are spikes.
#[derive(Debug, Clone)]
pub struct Flow {
    /// `[N, C, H, W]` or `[N, F]`, N = T·B, time outermost (N = B where time has not begun); tokens are rows, N = T·B·tokens.
    pub xs: Tensor,
    /// What the values are.
    pub signal: Signal,
    /// The node that gave them in the [`Graph`](crate::graph::Graph) that the pass writes down; 0 if it writes none.
    pub node: usize,
}

impl Flow {
    /// Real values from outside: the input of a network.
    pub fn analog(xs: Tensor) -> Self {
        Self { xs, signal: Signal::Analog, node: 0 }
    }
}

/// A square convolution without groups; the bias is optional.
#[derive(Debug, Clone)]
pub struct Conv2d {
    name: String,
    weight: Tensor,
    bias: Option<Tensor>,
    params: Conv2dParams,
}

impl Conv2d {
    /// A `kernel` x `kernel` convolution with `weight` `[c_out, c_in, kernel, kernel]`, started from a normal
    /// distribution of variance 2 / (c_out · kernel²) (He et al. 2015, fan-out), bias 0.
    ///
    /// # Errors
    /// If the builder has a tensor of that name and another shape.
    pub fn new(
        c_in: usize,
        c_out: usize,
        kernel: usize,
        params: Conv2dParams,
        bias: bool,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let init =
            Init::Kaiming { dist: NormalOrUniform::Normal, fan: FanInOut::FanOut, non_linearity: NonLinearity::ReLU };
        let weight = vb.get_with_hints((c_out, c_in, kernel, kernel), "weight", init)?;
        let bias = if bias { Some(vb.get_with_hints(c_out, "bias", Init::Const(0.))?) } else { None };
        Ok(Self { name: vb.prefix(), weight, bias, params })
    }

    /// `[N, c_in, H, W]` to `[N, c_out, H', W']`.
    ///
    /// # Errors
    /// If the input does not fit; the message names this layer.
    pub fn forward(&self, flow: &Flow, pass: &mut Pass<'_>) -> Result<Flow> {
        self.show(&flow.xs, flow.signal, pass)?;
        let bias = self.bias.as_ref().map(|bias| pass.param(bias));
        let ys = ops::conv2d(&flow.xs, &pass.param(&self.weight), bias.as_ref(), self.params);
        let xs = named(&self.name, ys)?;
        let op = Op::Conv2d { kernel: self.weight.dims()[2], params: self.params };
        let node = pass.record(&self.name, op, &[flow.node], &xs);
        pass.keep(node, || Part::Conv2d(self.clone()));
        Ok(Flow { xs, signal: Signal::Analog, node })
    }

    /// Shows the observer what this layer is about to receive.
    pub(crate) fn show(&self, input: &Tensor, signal: Signal, pass: &mut Pass<'_>) -> Result<()> {
        let kind = SynapseKind::Conv2d {
            c_out: self.weight.dims()[0],
            kernel: self.weight.dims()[2],
            stride: self.params.stride,
            padding: self.params.padding,
        };
        pass.show_synapse(&SynapseEvent { name: &self.name, kind, input, weight: &self.weight, signal })
    }

    pub(crate) fn weight(&self) -> &Tensor {
        &self.weight
    }

    pub(crate) fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    pub(crate) fn params(&self) -> Conv2dParams {
        self.params
    }

    /// Replaces every tensor by a copy.
    pub(crate) fn own_tensors(&mut self) -> Result<()> {
        own(&mut self.weight)?;
        self.bias.as_mut().map_or(Ok(()), own)
    }
}

/// Replaces a tensor by a copy that nobody else has.
pub(crate) fn own(tensor: &mut Tensor) -> Result<()> {
    *tensor = tensor.detach().copy()?;
    Ok(())
}

/// Batch norm over every axis but the second (Ioffe and Szegedy 2015), with running statistics of momentum 0.1.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    name: String,
    weight: Tensor,
    bias: Tensor,
    running_mean: Var,
    running_var: Var,
}

impl BatchNorm {
    /// ε, added to the variance.
    pub const EPS: f64 = 1e-5;
    const MOMENTUM: f64 = 0.1;

    /// Batch norm of `channels` channels: weight 1, bias 0, running mean 0, running variance 1.
    ///
    /// # Errors
    /// If the builder has a tensor of one of these names and another shape.
    pub fn new(channels: usize, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            name: vb.prefix(),
            weight: vb.get_with_hints(channels, "weight", Init::Const(1.))?,
            bias: vb.get_with_hints(channels, "bias", Init::Const(0.))?,
            running_mean: Var::from_tensor(&vb.get_with_hints(channels, "running_mean", Init::Const(0.))?)?,
            running_var: Var::from_tensor(&vb.get_with_hints(channels, "running_var", Init::Const(1.))?)?,
        })
    }

    /// Normalises; a training pass uses the batch's statistics and moves the running ones (with the unbiased variance).
    ///
    /// # Errors
    /// If the channels differ; the message names this layer.
    pub fn forward(&self, flow: &Flow, pass: &mut Pass<'_>) -> Result<Flow> {
        self.forward_repeated(flow, 1, pass)
    }

    /// As [`BatchNorm::forward`], for an input that stands for `repeats` equal copies of itself (a static image at every
    /// timestep). Only the unbiased variance of the running statistics can tell the difference.
    ///
    /// # Errors
    /// As [`BatchNorm::forward`].
    pub fn forward_repeated(&self, flow: &Flow, repeats: usize, pass: &mut Pass<'_>) -> Result<Flow> {
        let (weight, bias) = (pass.param(&self.weight), pass.param(&self.bias));
        let ys = match pass.mode() {
            Mode::Eval => ops::batch_norm_eval(
                &flow.xs,
                &weight,
                &bias,
                &self.running_mean.as_detached_tensor(),
                &self.running_var.as_detached_tensor(),
                Self::EPS,
            ),
            Mode::Train => ops::batch_norm_train(&flow.xs, &weight, &bias, Self::EPS).and_then(|(ys, stats)| {
                let n = flow.xs.elem_count() / self.weight.elem_count();
                self.follow(&stats, n, repeats)?;
                Ok(ys)
            }),
        };
        let xs = named(&self.name, ys)?;
        let node = pass.record(&self.name, Op::BatchNorm, &[flow.node], &xs);
        pass.keep(node, || Part::BatchNorm(self.clone(), repeats));
        Ok(Flow { xs, signal: Signal::Analog, node })
    }

    /// Moves the running statistics towards those of a batch of `n` values a channel that stand for `repeats` times as many.
    pub(crate) fn follow(&self, stats: &ops::BatchStats, n: usize, repeats: usize) -> candle_core::Result<()> {
        let n = n as f64;
        let repeated = n * repeats as f64;
        let unbiased = if repeats == 1 { 1. } else { (n - 1.) / n * repeated / (repeated - 1.) };
        for (running, batch, factor) in
            [(&self.running_mean, &stats.mean, 1.), (&self.running_var, &stats.var_unbiased, unbiased)]
        {
            let kept = (running.as_detached_tensor() * (1. - Self::MOMENTUM))?;
            running.set(&(kept + (batch * (Self::MOMENTUM * factor))?)?)?;
        }
        Ok(())
    }

    /// Weight and bias.
    pub(crate) fn affine(&self) -> (&Tensor, &Tensor) {
        (&self.weight, &self.bias)
    }

    /// Running mean and running variance.
    pub(crate) fn running(&self) -> (Tensor, Tensor) {
        (self.running_mean.as_detached_tensor(), self.running_var.as_detached_tensor())
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Replaces every tensor by a copy.
    pub(crate) fn own_tensors(&mut self) -> Result<()> {
        for running in [&mut self.running_mean, &mut self.running_var] {
            *running = Var::from_tensor(&running.as_detached_tensor().copy()?)?;
        }
        own(&mut self.weight)?;
        own(&mut self.bias)
    }
}

/// A fully connected layer with bias.
#[derive(Debug, Clone)]
pub struct Linear {
    name: String,
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// `weight` `[f_out, f_in]` and `bias` `[f_out]`, both started uniformly in ±1/√f_in, as PyTorch does.
    ///
    /// # Errors
    /// If the builder has a tensor of that name and another shape.
    pub fn new(f_in: usize, f_out: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let bound = 1. / (f_in as f64).sqrt();
        let init = Init::Uniform { lo: -bound, up: bound };
        let weight = vb.get_with_hints((f_out, f_in), "weight", init)?;
        Ok(Self { name: vb.prefix(), weight, bias: vb.get_with_hints(f_out, "bias", init)? })
    }

    /// `[N, f_in]` to `[N, f_out]`.
    ///
    /// # Errors
    /// If the input does not fit; the message names this layer.
    pub fn forward(&self, flow: &Flow, pass: &mut Pass<'_>) -> Result<Flow> {
        self.show(&flow.xs, flow.signal, pass)?;
        let bias = pass.param(&self.bias);
        let xs = named(&self.name, ops::linear(&flow.xs, &pass.param(&self.weight), Some(&bias)))?;
        let node = pass.record(&self.name, Op::Linear, &[flow.node], &xs);
        pass.keep(node, || Part::Linear(self.clone()));
        Ok(Flow { xs, signal: Signal::Analog, node })
    }

    /// Shows the observer what this layer is about to receive.
    pub(crate) fn show(&self, input: &Tensor, signal: Signal, pass: &mut Pass<'_>) -> Result<()> {
        let kind = SynapseKind::Linear { f_out: self.weight.dims()[0] };
        pass.show_synapse(&SynapseEvent { name: &self.name, kind, input, weight: &self.weight, signal })
    }

    pub(crate) fn weight(&self) -> &Tensor {
        &self.weight
    }

    pub(crate) fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// Replaces every tensor by a copy.
    pub(crate) fn own_tensors(&mut self) -> Result<()> {
        own(&mut self.weight)?;
        own(&mut self.bias)
    }
}

/// A convolution and its batch norm: one synapse.
#[derive(Debug, Clone)]
pub struct ConvNorm {
    conv: Conv2d,
    norm: Option<BatchNorm>,
}

impl ConvNorm {
    /// From the two layers.
    pub fn new(conv: Conv2d, norm: BatchNorm) -> Self {
        Self { conv, norm: Some(norm) }
    }

    /// A convolution as in [`Conv2d::new`] and its batch norm; without batch norm in `config`, a convolution with bias.
    ///
    /// # Errors
    /// If the builder has a tensor of one of these names and another shape.
    pub(crate) fn build(
        config: &ModelConfig,
        (c_in, c_out, kernel): (usize, usize, usize),
        params: Conv2dParams,
        bias: bool,
        (conv, norm): (VarBuilder<'_>, VarBuilder<'_>),
    ) -> Result<Self> {
        let conv = Conv2d::new(c_in, c_out, kernel, params, bias || !config.batch_norm, conv)?;
        let norm = if config.batch_norm { Some(BatchNorm::new(c_out, norm)?) } else { None };
        Ok(Self { conv, norm })
    }

    /// Convolves and normalises.
    ///
    /// # Errors
    /// If the input does not fit; the message names the layer.
    pub fn forward(&self, flow: &Flow, pass: &mut Pass<'_>) -> Result<Flow> {
        self.forward_repeated(flow, 1, pass)
    }

    /// As [`ConvNorm::forward`], for an input that stands for `repeats` equal copies of itself.
    ///
    /// # Errors
    /// As [`ConvNorm::forward`].
    pub fn forward_repeated(&self, flow: &Flow, repeats: usize, pass: &mut Pass<'_>) -> Result<Flow> {
        let ys = self.conv.forward(flow, pass)?;
        self.norm.as_ref().map_or(Ok(ys.clone()), |norm| norm.forward_repeated(&ys, repeats, pass))
    }

    /// Replaces every tensor by a copy.
    pub(crate) fn own_tensors(&mut self) -> Result<()> {
        self.conv.own_tensors()?;
        self.norm.as_mut().map_or(Ok(()), BatchNorm::own_tensors)
    }
}

/// Where a neuron layer sits: the published networks keep a T-GIM for each, under different names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// Feature maps `[T, B, C, H, W]`: the T-GIM is called `mask`.
    Maps,
    /// Tokens or features `[T, B, N, D]`, `[T, B, F]`: the T-GIM is called `mask_linear`.
    Features,
}

/// A layer of neurons, or of activations in an ANN.
///
/// # Parameters
/// - `mask` `[T, T, 1, 1, 1, 1]` or `mask_linear` `[T, T, 1, 1, 1]`: logits of Ω; zeros give Ω = 1/T; in a reparameterized
///   network T counts windows
/// - `alpha` `[1]`: logit of λ; zero gives λ = 1
/// - `v_threshold` `[1]`: θ, not trained
/// - `thresh` `[1]`: the scale of a QCFS activation
#[derive(Debug, Clone)]
pub struct Neuron {
    name: String,
    timesteps: usize,
    input_scale: f64,
    unit_spikes: bool,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Spiking {
        dynamics: Dynamics,
        windows: Option<Windows>,
        tgim_logit: Option<Tensor>,
        leak_logit: Option<Tensor>,
        v_threshold: Tensor,
    },
    Relative {
        relative: Relative,
        dynamics: Dynamics,
        v_threshold: Tensor,
    },
    Qcfs {
        quant_levels: u32,
        scale: Tensor,
        window: lmht_core::QcfsWindow,
    },
    Relu,
}

/// How a reparameterized layer mixes its currents.
#[derive(Debug, Clone, Copy)]
struct Windows {
    window: usize,
    schedule: Schedule,
    tgim: Tgim,
}

impl Neuron {
    /// The layer that `config` describes.
    ///
    /// # Errors
    /// If the configuration is not valid, or the builder has a tensor of one of these names and another shape.
    pub fn new(config: &ModelConfig, site: Site, vb: VarBuilder<'_>) -> Result<Self> {
        let t = config.n_frames();
        let kind = match (&config.neuron, config.neuron.dynamics(config.timesteps)?) {
            (neuron, Some(dynamics)) => {
                let learns_leak = dynamics.leak.is_none();
                let leak_logit = if learns_leak { Some(vb.get_with_hints(1, "alpha", Init::Const(0.))?) } else { None };
                let tgim_logit = if neuron.tgim() == Tgim::Identity {
                    None
                } else {
                    Some(match site {
                        Site::Maps => vb.get_with_hints((t, t, 1, 1, 1, 1), "mask", Init::Const(0.))?,
                        Site::Features => vb.get_with_hints((t, t, 1, 1, 1), "mask_linear", Init::Const(0.))?,
                    })
                };
                let init = Init::Const(dynamics.config.v_threshold);
                let v_threshold = vb.get_with_hints(1, "v_threshold", init)?;
                let relative = match neuron {
                    NeuronConfig::Snm { v_init, .. } => Some(Relative::Snm { v_init: *v_init }),
                    NeuronConfig::Srp { tau, .. } => Some(Relative::Srp { tau: *tau }),
                    NeuronConfig::Cos { rho, .. } => Some(Relative::Cos { rho: *rho }),
                    _ => None,
                };
                let windows = match neuron {
                    NeuronConfig::Reparameterized { window, schedule, tgim, .. } => {
                        Some(Windows { window: *window, schedule: *schedule, tgim: *tgim })
                    }
                    _ => None,
                };
                match relative {
                    Some(relative) => Kind::Relative { relative, dynamics, v_threshold },
                    None => Kind::Spiking { dynamics, windows, tgim_logit, leak_logit, v_threshold },
                }
            }
            (NeuronConfig::Qcfs { quant_levels, scale, window }, None) => Kind::Qcfs {
                quant_levels: *quant_levels,
                scale: vb.get_with_hints(1, "thresh", Init::Const(*scale))?,
                window: *window,
            },
            (_, None) => Kind::Relu,
        };
        let unit_spikes = config.unit_spikes;
        Ok(Self { name: vb.prefix(), timesteps: config.timesteps, input_scale: 1., unit_spikes, kind })
    }

    /// The same layer with a factor on its current, 1 unless set: the paper's hybrid start multiplies the first neuron's
    /// current by L.
    pub fn with_input_scale(self, input_scale: f64) -> Self {
        Self { input_scale, ..self }
    }

    /// Currents `[T·B, ...]` to outputs s·θ of the same shape (Eqs. 5-7); activations a (Eq. 4) in an ANN.
    ///
    /// # Errors
    /// If the input does not hold T timesteps, or the stored threshold is not positive; the message names this layer.
    pub fn forward(&self, flow: &Flow, pass: &mut Pass<'_>) -> Result<Flow> {
        let scaled;
        let xs = if self.input_scale == 1. {
            &flow.xs
        } else {
            scaled = (&flow.xs * self.input_scale)?;
            &scaled
        };
        let (ys, signal) = match &self.kind {
            Kind::Spiking { dynamics, windows, tgim_logit, leak_logit, v_threshold } => {
                let (neuron, theta) = with_threshold(&self.name, dynamics, v_threshold)?;
                let t = self.timesteps;
                let mixed;
                let (xs, tgim_logit) = match windows {
                    None => (xs, tgim_logit.as_ref()),
                    Some(Windows { window, schedule, tgim }) => {
                        let windows = t / window;
                        let logit = tgim_logit.as_ref().map(|logit| pass.param(logit).reshape((windows, windows)));
                        let omega = logit.transpose()?.map(|logit| ops::tgim(&logit, *tgim)).transpose()?;
                        let current = ops::mix_windows(xs, omega.as_ref(), windows, *window, *schedule);
                        mixed = named(&self.name, current)?;
                        (&mixed, None)
                    }
                };
                let learned = match (tgim_logit, leak_logit) {
                    (Some(tgim), Some(leak)) => Learned::TgimAndLeak {
                        tgim_logit: pass.param(tgim).reshape((t, t))?,
                        leak_logit: pass.param(leak),
                    },
                    (None, Some(leak)) => Learned::Leak { leak_logit: pass.param(leak) },
                    _ => Learned::Nothing { leak: dynamics.leak.unwrap_or(1.) },
                };
                let ys = ops::neuron(xs, &neuron, &learned);
                self.sent(ys, theta)
            }
            Kind::Relative { relative, dynamics, v_threshold } => {
                if pass.mode() == Mode::Train {
                    let what = "these neurons have no gradient; train an ANN or an LM-HT network and convert it";
                    return Err(crate::Error::Config(format!("{}: {what}", self.name)));
                }
                let (_, theta) = with_threshold(&self.name, dynamics, v_threshold)?;
                self.sent(ops::relative(xs, self.timesteps, theta, *relative), theta)
            }
            Kind::Qcfs { quant_levels, scale, window } => {
                (ops::qcfs(xs, &pass.param(scale), *quant_levels, *window), Signal::Analog)
            }
            Kind::Relu => (xs.relu(), Signal::Analog),
        };
        let ys = named(&self.name, ys)?;
        self.show(&ys, signal, pass)?;
        let node = pass.record(&self.name, Op::Neuron { input_scale: self.input_scale }, &[flow.node], &ys);
        pass.keep(node, || Part::Neuron(self.clone()));
        Ok(Flow { xs: ys, signal, node })
    }
}

/// A spiking layer by its numbers, for code that keeps its spikes in bytes.
pub(crate) struct SpikingParts<'a> {
    /// The checked neuron at the stored threshold.
    pub(crate) neuron: lmht_core::Neuron,
    /// λ where it is not learned.
    pub(crate) leak: Option<f64>,
    pub(crate) tgim_logit: Option<&'a Tensor>,
    pub(crate) leak_logit: Option<&'a Tensor>,
    /// What one spike counts for in the next layer.
    pub(crate) amplitude: f64,
}

impl Neuron {
    /// Factor on the current.
    pub(crate) fn input_scale(&self) -> f64 {
        self.input_scale
    }

    /// The layer's numbers, if it is a spiking neuron without windows whose counts fit seven bits.
    ///
    /// # Errors
    /// If the stored threshold is not positive; the message names this layer.
    pub(crate) fn spiking(&self) -> Result<Option<SpikingParts<'_>>> {
        let Kind::Spiking { dynamics, windows: None, tgim_logit, leak_logit, v_threshold } = &self.kind else {
            return Ok(None);
        };
        if dynamics.config.levels >= u32::from(lmht_core::IN_WINDOW) {
            return Ok(None);
        }
        let (neuron, theta) = with_threshold(&self.name, dynamics, v_threshold)?;
        Ok(Some(SpikingParts {
            neuron,
            leak: dynamics.leak,
            tgim_logit: tgim_logit.as_ref(),
            leak_logit: leak_logit.as_ref(),
            amplitude: if self.unit_spikes { 1. } else { theta },
        }))
    }

    /// The largest count of spikes that a unit sends at a timestep, if it fits seven bits and none is negative.
    pub(crate) fn most_spikes(&self) -> Option<u32> {
        match &self.kind {
            Kind::Spiking { dynamics, .. } => {
                Some(dynamics.config.levels).filter(|&l| l < u32::from(lmht_core::IN_WINDOW))
            }
            // SNM sends negative spikes as well.
            Kind::Relative { relative: Relative::Snm { .. }, .. } => None,
            Kind::Relative { .. } => Some(1),
            Kind::Qcfs { .. } | Kind::Relu => None,
        }
    }

    /// Replaces every tensor by a copy.
    pub(crate) fn own_tensors(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Spiking { tgim_logit, leak_logit, v_threshold, .. } => {
                own(v_threshold)?;
                [tgim_logit, leak_logit].into_iter().flatten().try_for_each(own)
            }
            Kind::Relative { v_threshold, .. } => own(v_threshold),
            Kind::Qcfs { scale, .. } => own(scale),
            Kind::Relu => Ok(()),
        }
    }

    /// Whether spikes leave as ones.
    pub(crate) fn has_unit_spikes(&self) -> bool {
        self.unit_spikes
    }

    /// Shows the observer what has left this layer.
    pub(crate) fn show(&self, output: &Tensor, signal: Signal, pass: &mut Pass<'_>) -> Result<()> {
        let (levels, tgim, window, has_leak) = match &self.kind {
            Kind::Spiking { dynamics, windows, .. } => {
                let tgim = windows.map_or(dynamics.config.tgim, |windows| windows.tgim);
                (dynamics.config.levels, tgim, dynamics.config.window, dynamics.leak != Some(1.))
            }
            Kind::Relative { .. } | Kind::Relu => (1, Tgim::Identity, 1, false),
            Kind::Qcfs { quant_levels, .. } => (*quant_levels, Tgim::Identity, 1, false),
        };
        let (name, timesteps) = (&self.name, self.timesteps);
        pass.show_neuron(&NeuronEvent { name, timesteps, window, output, signal, levels, tgim, has_leak })
    }

    /// What leaves the layer: s·θ, or s where a spike is a 1.
    fn sent(&self, ys: candle_core::Result<Tensor>, theta: f64) -> (candle_core::Result<Tensor>, Signal) {
        if self.unit_spikes {
            (ys.and_then(|ys| counts(&ys, theta)), Signal::Spikes { v_threshold: 1. })
        } else {
            (ys, Signal::Spikes { v_threshold: theta })
        }
    }
}

/// s from s·θ. The quotient may miss the whole number by a rounding; the gradient is that of the quotient.
fn counts(ys: &Tensor, theta: f64) -> candle_core::Result<Tensor> {
    let quotient = (ys / theta)?;
    let rounding = (quotient.round()? - &quotient)?;
    &quotient + rounding.detach()
}

/// The neuron at the stored threshold, which a loaded checkpoint may have set to another value than the configuration's.
fn with_threshold(name: &str, dynamics: &Dynamics, v_threshold: &Tensor) -> Result<(lmht_core::Neuron, f64)> {
    let theta = v_threshold.detach().to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?[0];
    if theta == dynamics.config.v_threshold {
        return Ok((dynamics.neuron, theta));
    }
    let config = lmht_core::NeuronConfig { v_threshold: theta, ..dynamics.config };
    let neuron = config.check().map_err(|error| crate::Error::Config(format!("{name}: {error}")))?;
    Ok((neuron, theta))
}

/// Max-pooling. Of spikes it gives spikes: the largest count in the window.
///
/// # Errors
/// If the window does not fit.
pub fn max_pool2d(flow: &Flow, params: Pool2dParams, pass: &mut Pass<'_>) -> Result<Flow> {
    let xs = ops::max_pool2d(&flow.xs, params)?;
    let node = pass.record("", Op::MaxPool(params), &[flow.node], &xs);
    Ok(Flow { xs, signal: flow.signal, node })
}

/// Average pooling. Of spikes it gives real values.
///
/// # Errors
/// If the window does not fit.
pub fn avg_pool2d(flow: &Flow, params: Pool2dParams, pass: &mut Pass<'_>) -> Result<Flow> {
    let xs = ops::avg_pool2d(&flow.xs, params)?;
    let node = pass.record("", Op::AvgPool(params), &[flow.node], &xs);
    Ok(Flow { xs, signal: averaged(flow.signal), node })
}

/// The mean over all positions, `[N, C, H, W]` to `[N, C]`.
///
/// # Errors
/// If the input is not four-dimensional.
pub fn global_avg_pool(flow: &Flow, pass: &mut Pass<'_>) -> Result<Flow> {
    let xs = ops::global_avg_pool(&flow.xs)?;
    let node = pass.record("", Op::Mean, &[flow.node], &xs);
    Ok(Flow { xs, signal: averaged(flow.signal), node })
}

pub(crate) fn averaged(signal: Signal) -> Signal {
    match signal {
        Signal::Spikes { v_threshold } | Signal::Averaged { v_threshold } => Signal::Averaged { v_threshold },
        Signal::Analog => Signal::Analog,
    }
}

/// Puts a layer's name before the message of a failed operation.
fn named(name: &str, result: candle_core::Result<Tensor>) -> Result<Tensor> {
    Ok(result.map_err(|error| error.context(name.to_string()))?)
}
