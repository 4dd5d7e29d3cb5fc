//! A network: layers with a configuration and tensors by name, and the many ways to run it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use crate::body::Body;
use crate::config::ModelConfig;
use crate::device::{self, Steps};
use crate::engine::{Engine, Program};
use crate::lock::lock;
use crate::outline::check_memory;
use crate::pass::{Mode, Pass};
use crate::plan::Plan;
use crate::precision::Precision;
use crate::signal::{Signal, SignalKind, TimeBroadcast};
use crate::tensors::{Tensors, copies};
use crate::trace::Trace;
use crate::{Error, Result, gpu};

/// A body with its neurons: images in, logits at every timestep out.
///
/// It is written down once ([`Network::trace`]) and run as a whole from then on, which [`Network::plan`] tells about.
/// On the CPU it keeps the memory that its last pass worked in for the next one, as a caching allocator does; that goes back when the
/// network and its clones are dropped.
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
    body: Arc<dyn Body>,
    tensors: Tensors,
    /// Shared by clones, as the tensors are.
    programs: Arc<Programs>,
    engine: Arc<Engine>,
}

/// The shape of an input without its batch, whether it has a time axis, its number type, the mode.
type Key = (Vec<usize>, bool, DType, Mode);

/// What is made of a trace, or why it cannot be.
type Made<P> = std::result::Result<Arc<P>, String>;

/// The programs of a network by the inputs they take: those of the engine, and of a GPU.
#[derive(Debug, Default)]
struct Programs {
    engine: Mutex<HashMap<Key, Made<Program>>>,
    device: Mutex<HashMap<Key, Made<Steps>>>,
}

/// How a pass runs.
enum Way {
    Engine(Arc<Program>),
    Device(Arc<Steps>),
    Layers,
}

impl Network {
    /// Builds the network that `config` describes from the tensors of `vb`.
    ///
    /// # Errors
    /// If the configuration is not valid, its tensors take more memory than there is, or a tensor is missing or misshapen.
    pub fn new(config: &ModelConfig, vb: VarBuilder<'_>) -> Result<Self> {
        check_memory(config, vb.dtype())?;
        Self::with_engine(config, vb, Engine::default())
    }

    fn with_engine(config: &ModelConfig, vb: VarBuilder<'_>, engine: Engine) -> Result<Self> {
        config.check()?;
        let tensors = Tensors::default();
        let body = config.backbone.architecture().build(config, &tensors.noting(vb))?;
        let (programs, engine) = (Arc::default(), Arc::new(engine));
        Ok(Self { config: config.clone(), body: Arc::from(body), tensors, programs, engine })
    }

    /// The same network with its parameters as they are now, copied, and everything prepared for evaluation.
    pub(crate) fn fixed(&self) -> Result<Self> {
        Self::with_engine(&self.config, copies(&self.tensors)?, Engine::fixed())
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub(crate) fn device(&self) -> Device {
        self.tensors.device()
    }

    /// Its parameters and buffers by name, sorted; they are shared, not copied.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use lmht_nn::{ModelConfig, Network, ParamStore};
    ///
    /// # fn main() -> lmht_nn::Result<()> {
    /// let params = ParamStore::new(42);
    /// let config = ModelConfig { width: 4, ..ModelConfig::resnet20(10) };
    /// let network = Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
    /// assert_eq!(network.tensors().len(), params.all().len());
    /// # Ok(()) }
    /// ```
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        self.tensors.all()
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
    ///   frame for each window ([`ModelConfig::n_frames`]) and holds it for L timesteps. Networks of features take `[B, F]` or
    ///   `[T, B, F]`
    /// - output `[T, B, K]`; without the timesteps of a first stage ([`NeuronConfig::first_stage`](crate::NeuronConfig))
    ///
    /// # Errors
    /// If the images do not fit the configuration; the message names the layer or field.
    pub fn forward(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        self.config.check_input(images.dims())?;
        let t = self.config.timesteps;
        let is_frames = self.is_frames(images);
        let n_images = images.dims()[usize::from(is_frames)];
        let rows = match self.way(images, pass)? {
            Way::Engine(program) => self.engine.forward(&program, images, (t, is_frames), pass)?,
            Way::Device(steps) => device::forward(&steps, self.input(images, is_frames, Some(0))?.values(), pass)?,
            Way::Layers => {
                pass.begin(t, n_images)?;
                let input = self.input(images, is_frames, Some(0))?;
                self.logits(self.body.forward(&input, pass)?)?
            }
        };
        let (n, classes) = rows.dims2()?;
        if n != t * n_images {
            return Err(Error::Config(format!(
                "the body gave {n} rows of logits for {n_images} inputs at {t} timesteps; it must end with a row for each"
            )));
        }
        let logits = rows.reshape((t, n / t, classes))?;
        match self.config.neuron.first_stage() {
            0 => Ok(logits),
            stage => Ok(logits.narrow(0, stage, t - stage)?),
        }
    }

    /// What the network does with an input of `shape` (without batch and time: `[C, H, W]` or `[F]`), written down.
    ///
    /// # Errors
    /// If it cannot take such an input.
    pub fn trace(&self, shape: &[usize]) -> Result<Trace> {
        let sample = Tensor::zeros([&[1], shape].concat(), self.tensors.dtype(), &Device::Cpu)?;
        self.config.check_input(sample.dims())?;
        self.record(&sample, false, Mode::Eval)
    }

    /// How each part of the network will run in this mode, and why: on the input of
    /// [`ModelConfig::example_input`], of the type and on the device of its tensors.
    ///
    /// # Errors
    /// If the network cannot take its own example.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use lmht_nn::{Mode, ModelConfig, Network, ParamStore};
    ///
    /// # fn main() -> lmht_nn::Result<()> {
    /// let config = ModelConfig { width: 8, depth: Some(1), heads: Some(2), ..ModelConfig::spikformer(10) };
    /// let network = Network::new(&config, ParamStore::new(42).builder(DType::F32, &Device::Cpu))?;
    /// let plan = network.plan(Mode::Train)?;
    /// assert!(plan.slow().is_none(), "{plan}");
    /// # Ok(()) }
    /// ```
    pub fn plan(&self, mode: Mode) -> Result<Plan> {
        let shape = [&[1], &self.config.example_input()[..]].concat();
        let sample = Tensor::zeros(shape, self.tensors.dtype(), &self.device())?;
        let trace = self.record(&sample, false, mode)?;
        if gpu::takes(&sample) {
            return Ok(match Steps::compile(&trace) {
                Ok(steps) => Plan::on_device(&trace, mode, &sample, &|node| steps.is_within(node)),
                Err(why) => Plan::new(&trace, mode, &sample, Some(why)),
            });
        }
        let refused = match Engine::refuses(&sample) {
            Some(why) => Some(why),
            None => Program::compile(&trace, self.config.timesteps).err(),
        };
        Ok(Plan::new(&trace, mode, &sample, refused))
    }

    fn is_frames(&self, images: &Tensor) -> bool {
        images.rank() == self.config.example_input().len() + 2
    }

    /// How such a pass runs.
    fn way(&self, images: &Tensor, pass: &Pass<'_>) -> Result<Way> {
        let t = self.config.timesteps;
        let made = if gpu::takes(images) {
            match pass.is_layer_by_layer() || pass.is_observed() {
                true => Err("the pass is watched, or asks to run layer by layer".into()),
                false => self.made(&self.programs.device, Steps::compile, images, pass)?.map(Way::Device),
            }
        } else if pass.precision() != Precision::F32 {
            Err(format!("it runs on {:?}, and 16 bits are for GPUs", images.device().location()))
        } else if pass.is_layer_by_layer() || Engine::refuses(images).is_some() {
            return Ok(Way::Layers);
        } else {
            let compile = |trace: &Trace| Program::compile(trace, t);
            self.made(&self.programs.engine, compile, images, pass)?.map(Way::Engine)
        };
        match made {
            Err(why) if pass.precision() != Precision::F32 => Err(Error::Config(format!(
                "precision is {}, which this pass has not: {why}; use f32, or a GPU with a program of its feature",
                pass.precision()
            ))),
            made => Ok(made.unwrap_or(Way::Layers)),
        }
    }

    /// What `compile` makes of the trace for such an input, once.
    fn made<P>(
        &self,
        known: &Mutex<HashMap<Key, Made<P>>>,
        compile: impl Fn(&Trace) -> std::result::Result<P, String>,
        images: &Tensor,
        pass: &Pass<'_>,
    ) -> Result<Made<P>> {
        let is_frames = self.is_frames(images);
        let key = (images.dims()[1 + usize::from(is_frames)..].to_vec(), is_frames, images.dtype(), pass.mode());
        if let Some(made) = lock(known).get(&key) {
            return Ok(made.clone());
        }
        // Not under the lock: a thread that waits in here for its tasks may take up another pass of the same network. If
        // two write the program down at once, the first is kept.
        let sample = images.narrow(usize::from(is_frames), 0, 1)?;
        let trace = self.record(&sample, is_frames, pass.mode())?;
        let made = compile(&trace).map(Arc::new);
        Ok(lock(known).entry(key).or_insert(made).clone())
    }

    /// Runs the body once on the outline of `sample`.
    fn record(&self, sample: &Tensor, is_frames: bool, mode: Mode) -> Result<Trace> {
        let outline = Tensor::zeros(1, sample.dtype(), sample.device())?.broadcast_as(sample.shape())?;
        let mut trace = Trace::new(&sample.dims()[1 + usize::from(is_frames)..]);
        let input = self.input(&outline, is_frames, Some(0))?;
        let output = self.body.forward(&input, &mut Pass::new(mode).recorded_in(&mut trace))?;
        let is_last = output.node().is_some_and(|node| node + 1 == trace.nodes.len());
        if !is_last {
            let what = "the body gives something else than what its last layer gave".to_string();
            let inputs = output.node().into_iter().collect();
            let op = crate::trace::Op::Opaque { what };
            let shape = output.values().dims()[1..].to_vec();
            trace.nodes.push(crate::trace::Node { name: "output".into(), op, inputs, shape });
        }
        self.logits(output)?;
        Ok(trace)
    }

    fn input(&self, images: &Tensor, is_frames: bool, node: Option<usize>) -> Result<Signal> {
        let (values, broadcast) = match (is_frames, self.config.neuron.window()) {
            (false, _) => (images.clone(), Some(TimeBroadcast::Repeated(self.config.timesteps))),
            (true, 1) => (images.flatten(0, 1)?, None),
            (true, window) => {
                let held = TimeBroadcast::Held { windows: self.config.n_frames(), window };
                (images.flatten(0, 1)?, Some(held))
            }
        };
        Ok(Signal::of(values, SignalKind::Analog, broadcast, node))
    }

    /// The values of what the body gave, if they are logits of every timestep.
    fn logits(&self, output: Signal) -> Result<Tensor> {
        let classes = self.config.n_classes;
        let dims = output.values().dims();
        let is_every = output.broadcast().is_none();
        if !is_every || dims.len() != 2 || dims[1] != classes {
            let time = if is_every { "" } else { " (no neuron has made rows of all timesteps of it)" };
            return Err(Error::Config(format!(
                "expected logits [T·B, {classes}] from the body of {} (n_classes in the config), got {dims:?}{time}",
                self.config.backbone.title()
            )));
        }
        Ok(output.values().clone())
    }
}
