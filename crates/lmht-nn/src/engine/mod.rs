//! How a whole network runs on the CPU: one program instead of one tensor operation a layer.
//!
//! [`Network::forward`] comes here when it can; what comes out are the logits, with the same spikes and gradients as layer
//! by layer up to rounding. What is different:
//!
//! - values are `[T·B, H, W, C]`: a convolution reads runs of neighbouring numbers, and nothing is turned around between layers;
//! - spikes are bytes, with a bit that says where the surrogate's window lets a gradient pass;
//! - batch norm, the sum with a shortcut and the neuron are one pass over what the synapse gave; the current between them is
//!   never written down;
//! - a synapse of few spikes adds up the weights of the active inputs, after the first timestep of those that change; the
//!   way back computes input gradients only for units that want one. How many there are decides in each layer and pass;
//! - an evaluation pass takes some images at a time, so that what flows between the layers stays in the cache;
//! - a training pass keeps what each synapse gave, unless that is cheap to compute once more, and the packed spikes, and
//!   gives both up while it goes back;
//! - a pass works in the memory of the one before.
//!
//! | file | what |
//! |---|---|
//! | `program.rs` | the steps of a network, written down by one forward pass |
//! | `value.rs` | numbers, packed spikes, sums that wait for their reader |
//! | `run.rs`, `backward.rs` | the forward and the backward pass over the steps |
//! | `synapse.rs` | which kernel a synapse takes, and its weights in the order of that kernel |
//! | `prepared.rs` | what an evaluation pass computes from the parameters alone |
//! | `room.rs` | memory between passes |
//! | `stage.rs`, `norm.rs`, `pool.rs`, `layout.rs` | what happens between convolutions, which are in `kernels/` |
//! | `autograd.rs` | a training pass as one operation of Candle's graph |
//!
//! It takes over f32 and f64 on the CPU, from images that need no gradient. Attention it does not know, nor the training of
//! neurons other than IF, LIF, M-HT and LM-HT: such networks run layer by layer, as everything does on other devices.

mod autograd;
mod backward;
mod layout;
mod norm;
mod pool;
mod prepared;
mod program;
mod room;
mod run;
mod stage;
mod synapse;
mod value;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use candle_core::{DType, Tensor};

pub(crate) use program::{Part, Parts, Spread};

use crate::ops::storage::Element;
use crate::{Mode, Network, Pass, Result};
use prepared::{Prepared, Slots};
use program::Program;
use room::{Room, Rooms};

/// The number types that the engine computes in.
pub(crate) trait Number: Element + pool::Comparable {
    /// The place for what is prepared in this type.
    fn slot(slots: &Slots) -> &OnceLock<Prepared<Self>>;
    /// The memory for numbers of this type.
    fn room(rooms: &mut Rooms) -> &mut Room<Self>;
}

macro_rules! number {
    ($t:ty, $slot:ident) => {
        impl Number for $t {
            fn slot(slots: &Slots) -> &OnceLock<Prepared<Self>> {
                &slots.$slot
            }
            fn room(rooms: &mut Rooms) -> &mut Room<Self> {
                &mut rooms.$slot
            }
        }
    };
}
number!(f32, single);
number!(f64, double);

/// Height and width of the images, whether there is one for every timestep, and the number type.
type Key = (usize, usize, bool, DType);

/// The programs of a network, by the images they take.
#[derive(Debug, Default)]
pub(crate) struct Engine {
    programs: Mutex<HashMap<Key, Option<Arc<Program>>>>,
    rooms: Arc<Mutex<Rooms>>,
    /// Whether the parameters of the network stay as they are.
    is_fixed: bool,
}

impl Engine {
    /// For a network whose parameters nobody changes: what is computed from them alone is kept.
    pub(crate) fn fixed() -> Self {
        Self { is_fixed: true, ..Self::default() }
    }

    /// Forgets the memory of the last pass.
    pub(crate) fn free_memory(&self) {
        *lock(&self.rooms) = Rooms::default();
    }

    /// The logits `[T·B, K]`, or nothing if the network has to run layer by layer. The images must have been checked.
    pub(crate) fn forward(&self, network: &Network, images: &Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        if !images.device().is_cpu() || images.track_op() || pass.is_recording() || pass.is_layer_by_layer() {
            return Ok(None);
        }
        match images.dtype() {
            DType::F32 => self.forward_as::<f32>(network, images, pass),
            DType::F64 => self.forward_as::<f64>(network, images, pass),
            _ => Ok(None),
        }
    }

    fn forward_as<T: Number>(&self, network: &Network, images: &Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let Some(program) = self.program(network, images)? else { return Ok(None) };
        let timesteps = network.config().timesteps;
        match pass.mode() {
            Mode::Eval => {
                let mut room = lock(&self.rooms).take::<T>();
                let logits = if self.is_fixed {
                    let prepared = synapse::once(T::slot(&program.slots), || Prepared::new(&program))?;
                    run::evaluate(&program, prepared, images, timesteps, &mut room, pass)?
                } else {
                    run::evaluate(&program, &Prepared::new(&program)?, images, timesteps, &mut room, pass)?
                };
                lock(&self.rooms).give(room);
                Ok(Some(Tensor::from_vec(logits, ((), network.config().n_classes), images.device())?))
            }
            Mode::Train if program.has_gradients()? => {
                let images = if images.rank() == 5 { images.flatten(0, 1)? } else { images.clone() };
                let shape = (timesteps, network.config().n_classes);
                autograd::train::<T>(program, &images, shape, Arc::clone(&self.rooms), pass).map(Some)
            }
            Mode::Train => Ok(None),
        }
    }

    fn program(&self, network: &Network, images: &Tensor) -> Result<Option<Arc<Program>>> {
        let dims = images.dims();
        let [.., c, h, w] = *dims else { return Ok(None) };
        if dims.contains(&0) {
            return Ok(None);
        }
        let is_frames = dims.len() == 5;
        let key = (h, w, is_frames, images.dtype());
        if let Some(program) = lock(&self.programs).get(&key) {
            return Ok(program.clone());
        }
        // Not under the lock: a thread that waits in here for its tasks may take up another pass of the same network. If
        // two write the program down at once, the first is kept.
        let program = Program::record(network, [c, h, w], is_frames, images.dtype())?.map(Arc::new);
        Ok(lock(&self.programs).entry(key).or_insert(program).clone())
    }
}

/// A panic elsewhere cannot leave what is in here half changed: it is taken or replaced whole.
fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelConfig, ParamStore};
    use candle_core::Device;

    #[test]
    fn memory_is_given_back() -> Result<()> {
        let config = ModelConfig { width: 4, ..ModelConfig::resnet20(5) };
        let network = Network::new(&config, ParamStore::new(1).builder(DType::F32, &Device::Cpu))?;
        let images = Tensor::ones((2, 3, 8, 8), DType::F32, &Device::Cpu)?;
        let engine = Engine::default();
        let run = || -> Result<Vec<f32>> {
            let logits = engine.forward(&network, &images, &mut Pass::eval())?.expect("a program");
            Ok(logits.flatten_all()?.to_vec1()?)
        };
        let kept = || lock(&engine.rooms).single.bytes.len();
        let logits = run()?;
        assert!(kept() > 0);
        engine.free_memory();
        assert_eq!(kept(), 0);
        assert_eq!(run()?, logits);
        Ok(())
    }

    /// Otherwise the tests that compare a program with the layers would compare the layers with themselves.
    #[test]
    fn all_backbones_but_spikformer_are_programs() -> Result<()> {
        for (config, side) in [
            (ModelConfig::resnet18(5), 8),
            (ModelConfig::resnet19(5), 8),
            (ModelConfig::resnet20(5), 8),
            (ModelConfig::resnet34(5), 8),
            (ModelConfig::ms_resnet18(5), 8),
            (ModelConfig::ms_resnet34(5), 8),
            (ModelConfig::vgg11(5), 32),
            (ModelConfig::vgg13(5), 16),
            (ModelConfig::vgg13_standard(5), 32),
            (ModelConfig::vgg16(5), 32),
            (ModelConfig::vgg19(5), 32),
            (ModelConfig::cifarnet(5), 32),
            (ModelConfig { depth: Some(1), heads: Some(2), ..ModelConfig::spikformer(5) }, 16),
        ] {
            let config = ModelConfig { width: if config.heads.is_some() { 8 } else { 1 }, ..config };
            for stem in [crate::Stem::Cifar, crate::Stem::Imagenet] {
                let config = ModelConfig { stem, ..config.clone() };
                if config.check().is_err() {
                    continue;
                }
                let network = Network::new(&config, ParamStore::blank().builder(DType::F32, &Device::Cpu))?;
                for is_frames in [false, true] {
                    let side = if stem == crate::Stem::Imagenet { 24 } else { side };
                    let program = Program::record(&network, [3, side, side], is_frames, DType::F32)?;
                    assert_eq!(program.is_some(), config.heads.is_none(), "{:?}, {stem:?}", config.backbone);
                }
            }
        }
        Ok(())
    }
}
