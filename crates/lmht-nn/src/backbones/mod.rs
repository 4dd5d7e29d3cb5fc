//! The networks of the paper: bodies whose neuron is a value of the configuration.
//!
//! Parameter names are those of the published networks, so that a checkpoint of either loads in the other.

mod cifarnet;
mod classifier;
mod resnet;
mod spikformer;
mod vgg;

use std::sync::Arc;

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::config::{Backbone, ModelConfig};
use crate::engine::{Engine, Spread};
use crate::graph::Op;
use crate::layers::Flow;
use crate::{Inference, Pass, Result, Signal, ops};

/// A body with its neurons: images in, logits at every timestep out.
///
/// On the CPU the network keeps the memory that its last pass worked in for the next one, as a caching allocator does; it
/// goes back when the network and its clones are dropped.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_nn::{ModelConfig, Network, ParamStore, Pass, readout};
///
/// # fn main() -> lmht_nn::Result<()> {
/// let config = ModelConfig { width: 8, ..ModelConfig::resnet18(10) };
/// let network = Network::new(&config, ParamStore::new(42).builder(DType::F32, &Device::Cpu))?;
/// let images = Tensor::zeros((4, 3, 32, 32), DType::F32, &Device::Cpu)?;
/// let logits = network.forward(&images, &mut Pass::eval())?;
/// assert_eq!(logits.dims(), [2, 4, 10]);
/// assert_eq!(readout(&logits)?.dims(), [4, 10]);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Network {
    config: ModelConfig,
    body: Body,
    /// Shared by clones, as the tensors are.
    engine: Arc<Engine>,
}

#[derive(Debug, Clone)]
enum Body {
    Resnet(resnet::Resnet),
    Vgg(vgg::Vgg),
    Cifarnet(cifarnet::Cifarnet),
    Spikformer(spikformer::Spikformer),
}

impl Network {
    /// Builds the network that `config` describes from the tensors of `vb`.
    ///
    /// # Errors
    /// If the configuration is not valid or a tensor is missing or misshapen.
    pub fn new(config: &ModelConfig, vb: VarBuilder<'_>) -> Result<Self> {
        config.check()?;
        let resnet = |plan: resnet::Plan| resnet::Resnet::new(&plan, config, &vb).map(Body::Resnet);
        let vgg = |plan: vgg::Plan| vgg::Vgg::new(&plan, config, &vb).map(Body::Vgg);
        let body = match config.backbone {
            Backbone::Resnet18 => resnet(resnet::Plan::resnet18()),
            Backbone::Resnet19 => resnet(resnet::Plan::resnet19()),
            Backbone::Resnet20 => resnet(resnet::Plan::resnet20()),
            Backbone::Resnet34 => resnet(resnet::Plan::resnet34()),
            Backbone::MsResnet18 => resnet(resnet::Plan::ms_resnet18()),
            Backbone::MsResnet34 => resnet(resnet::Plan::ms_resnet34()),
            Backbone::Vgg11 => vgg(vgg::Plan::vgg11()),
            Backbone::Vgg13 => vgg(vgg::Plan::vgg13()),
            Backbone::Vgg13Standard => vgg(vgg::Plan::vgg13_standard()),
            Backbone::Vgg16 => vgg(vgg::Plan::vgg16()),
            Backbone::Vgg19 => vgg(vgg::Plan::vgg19()),
            Backbone::Cifarnet => cifarnet::Cifarnet::new(config, &vb).map(Body::Cifarnet),
            Backbone::Spikformer => spikformer::Spikformer::new(config, &vb).map(Body::Spikformer),
        }?;
        Ok(Self { config: config.clone(), body, engine: Arc::default() })
    }

    /// The same network for evaluation alone: its parameters as they are now, ready for the kernels.
    ///
    /// # Errors
    /// If a tensor cannot be copied.
    pub fn inference(&self) -> Result<Inference> {
        let mut body = self.body.clone();
        match &mut body {
            Body::Resnet(body) => body.own_tensors()?,
            Body::Vgg(body) => body.own_tensors()?,
            Body::Cifarnet(body) => body.own_tensors()?,
            Body::Spikformer(body) => body.own_tensors()?,
        }
        Ok(Inference::new(Self { config: self.config.clone(), body, engine: Arc::new(Engine::fixed()) }))
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Gives back the memory that the last pass left for the next one: about as much as a pass needs at its peak. The next
    /// pass takes it again; results are the same.
    pub fn free_memory(&self) {
        self.engine.free_memory();
    }

    /// Logits at every timestep.
    ///
    /// A static image is the input of every timestep; where that is the same, its first current is computed once and
    /// repeated. For the same parameters again and again, [`Network::inference`] is faster.
    ///
    /// # Shapes
    /// - `images` `[B, C, H, W]`, or `[T, B, C, H, W]` for inputs that change with time; a reparameterized network takes a
    ///   frame for each window ([`ModelConfig::n_frames`]) and holds it for L timesteps
    /// - output `[T, B, K]`; without the timesteps of a first stage ([`NeuronConfig::first_stage`](crate::NeuronConfig))
    ///
    /// # Errors
    /// If the images do not fit the configuration; the message names the layer or field.
    pub fn forward(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        self.config.check_images(images.dims())?;
        let t = self.config.timesteps;
        pass.begin(t, images.dims()[images.rank() - 4])?;
        let rows = match self.engine.forward(self, images, pass)? {
            Some(logits) => logits,
            None => self.layer_by_layer(images, pass)?,
        };
        let (n, classes) = rows.dims2()?;
        let logits = rows.reshape((t, n / t, classes))?;
        match self.config.neuron.first_stage() {
            0 => Ok(logits),
            stage => Ok(logits.narrow(0, stage, t - stage)?),
        }
    }

    /// Logits `[T·B, K]`, each layer a Candle operation.
    fn layer_by_layer(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let t = self.config.timesteps;
        let input = if images.rank() == 4 {
            Input::Static(images.clone())
        } else {
            Input::Frames { frames: images.flatten(0, 1)?, hold: self.config.neuron.window() }
        };
        let logits = match &self.body {
            Body::Resnet(body) => body.forward(&input, t, pass)?,
            Body::Vgg(body) => body.forward(&input, t, pass)?,
            Body::Cifarnet(body) => body.forward(&input, t, pass)?,
            Body::Spikformer(body) => body.forward(&input, t, pass)?,
        };
        Ok(logits.xs)
    }
}

/// What a network is shown.
enum Input {
    /// `[B, C, H, W]`, the same at every timestep.
    Static(Tensor),
    /// `[T·B, C, H, W]`, time outermost, each for so many timesteps.
    Frames { frames: Tensor, hold: usize },
}

impl Input {
    /// The current of the first synapse at every timestep, `[T·B, ...]`. For a static image `stem` runs once; its second
    /// argument says how many equal timesteps the input stands for.
    fn through_stem<'a>(
        &self,
        timesteps: usize,
        pass: &mut Pass<'a>,
        stem: impl FnOnce(&Flow, usize, &mut Pass<'a>) -> Result<Flow>,
    ) -> Result<Flow> {
        match self {
            Self::Frames { frames, hold: 1 } => stem(&Flow::analog(frames.clone()), 1, pass),
            Self::Frames { frames, hold } => {
                let current = stem(&Flow::analog(frames.clone()), *hold, pass)?;
                pass.keep_spread(current.node, Spread::Held(*hold));
                let n = timesteps / hold;
                let mut dims = current.xs.dims().to_vec();
                let each = current.xs.reshape((n, 1, current.xs.elem_count() / n))?;
                dims[0] *= hold;
                let held = each.repeat((1, *hold, 1))?.reshape(dims)?;
                Ok(Flow { xs: held, ..current })
            }
            Self::Static(images) => {
                let current = stem(&Flow::analog(images.clone()), timesteps, pass)?;
                pass.keep_spread(current.node, Spread::Repeated);
                let repeated = ops::repeat_time(&current.xs, timesteps)?.flatten(0, 1)?;
                Ok(Flow { xs: repeated, ..current })
            }
        }
    }
}

/// The sum of the two paths of a block: real values, the current of a neuron or a stream that goes on.
fn join(name: &str, main: &Flow, shortcut: &Flow, pass: &mut Pass<'_>) -> Result<Flow> {
    if main.xs.dims() != shortcut.xs.dims() {
        let message =
            format!("{name}: the two paths of the block differ: {:?} and {:?}", main.xs.dims(), shortcut.xs.dims());
        return Err(candle_core::Error::Msg(message).into());
    }
    let xs = (&main.xs + &shortcut.xs)?;
    let node = pass.record(name, Op::Add, &[main.node, shortcut.node], &xs);
    Ok(Flow { xs, signal: Signal::Analog, node })
}
