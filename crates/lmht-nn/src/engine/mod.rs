//! How a whole network runs on the CPU: one program instead of one tensor operation a layer.
//!
//! It is built from a [`Trace`](crate::trace::Trace) and knows no network, no layer and no backbone. What comes out are the
//! logits, with the same spikes and gradients as layer by layer up to rounding. What is different:
//!
//! - values are `[T·B, H, W, C]`: a convolution reads runs of neighbouring numbers, tokens are the positions of a map, and
//!   nothing is turned around between layers;
//! - spikes are bytes, with a bit that says where the surrogate's gate lets a gradient pass;
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
//! | `program.rs` | the steps of a trace, or why there are none |
//! | `value.rs` | numbers, packed spikes, sums that wait for their reader |
//! | `run.rs`, `backward.rs` | the forward and the backward pass over the steps |
//! | `prepared.rs` | what an evaluation pass computes from the parameters alone |
//! | `buffers.rs` | memory between passes |
//! | `stage.rs`, `norm.rs`, `layout.rs` | what happens between synapses, whose kernels are those of `lmht-kernels` |
//! | `autograd.rs` | a pass as one operation of Candle's graph |
//!
//! It runs f32 and f64 on the CPU. What it refuses, it says ([`Program::compile`], [`Engine::refuses`]); the network then runs
//! layer by layer.

mod autograd;
mod backward;
mod buffers;
mod layout;
mod norm;
mod prepared;
mod program;
mod run;
mod stage;
mod value;

use std::any::Any;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Tensor};

pub(crate) use program::Program;

use crate::lock::lock;
use crate::ops::storage::Element;
use crate::{Mode, Pass, Result};
use buffers::BufferPools;
use prepared::{Prepared, once};
use run::Input;

/// What runs the programs of a network, with the memory that they share.
#[derive(Debug, Default)]
pub(crate) struct Engine {
    pools: Arc<Mutex<BufferPools>>,
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
        *lock(&self.pools) = BufferPools::default();
    }

    /// Why it takes no such input, whatever the network, if it does not.
    pub(crate) fn refuses(images: &Tensor) -> Option<String> {
        match (images.device().is_cpu(), images.dtype()) {
            (false, _) => Some(format!("it runs on {:?}, not on the CPU", images.device().location())),
            (true, DType::F32 | DType::F64) => None,
            (true, dtype) => Some(format!("its numbers are {dtype:?}, neither F32 nor F64")),
        }
    }

    /// The logits `[T·B, K]`. The images must have been checked.
    pub(crate) fn forward(
        &self,
        program: &Arc<Program>,
        images: &Tensor,
        (timesteps, is_frames): (usize, bool),
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let input = Input { images, timesteps, is_frames };
        match images.dtype() {
            DType::F64 => self.forward_as::<f64>(program, input, pass),
            _ => self.forward_as::<f32>(program, input, pass),
        }
    }

    fn forward_as<T: Element>(&self, program: &Arc<Program>, input: Input<'_>, pass: &mut Pass<'_>) -> Result<Tensor> {
        if pass.mode() == Mode::Train || input.images.track_op() {
            return autograd::forward::<T>(program, input, Arc::clone(&self.pools), pass);
        }
        let mut pool = lock(&self.pools).take::<T>();
        let logits = if self.is_fixed {
            let prepared = once(&program.prepared, || {
                let prepared: Box<dyn Any + Send + Sync> = Box::new(Prepared::<T>::new(program)?);
                Ok(prepared)
            })?;
            match prepared.downcast_ref::<Prepared<T>>() {
                Some(prepared) => run::evaluate(program, prepared, input, &mut pool, pass)?,
                None => return run::bail_bug("a program was prepared for another number type"),
            }
        } else {
            run::evaluate(program, &Prepared::new(program)?, input, &mut pool, pass)?
        };
        lock(&self.pools).give(pool);
        let classes = program.steps.last().map_or(1, |step| step.shape.len());
        Ok(Tensor::from_vec(logits, ((), classes), input.images.device())?)
    }
}
