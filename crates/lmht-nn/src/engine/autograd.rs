//! A training pass of the engine as an operation of Candle's graph.
//!
//! Candle's custom operations take three arguments at most, and a network has a hundred parameters. So a token, one number
//! that means nothing, passes from parameter to parameter and then into the logits:
//!
//! ```text
//! token ── deliver(weight₁) ── deliver(weight₂) ── … ── network ── logits
//! ```
//!
//! On the way back `network` comes first, runs the backward pass of the whole program and leaves the gradients in a shared
//! place; each `deliver` hands its parameter the one that is meant for it. To Candle this is an ordinary graph:
//! `loss.backward()` and everything that is built on it works.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Shape, Tensor, TensorId, bail};

use super::backward::{Backward, Gradients, params};
use super::program::Program;
use super::room::Rooms;
use super::run::State;
use super::{Number, lock};
use crate::ops::storage::with_slice;
use crate::{Pass, Result};

/// Where the backward pass leaves the gradients.
type Place = Arc<Mutex<Gradients>>;

/// The logits `[T·B, K]` of a training pass, with gradients for every parameter that is tracked.
pub(super) fn train<T: Number>(
    program: Arc<Program>,
    images: &Tensor,
    (timesteps, classes): (usize, usize),
    rooms: Arc<Mutex<Rooms>>,
    pass: &mut Pass<'_>,
) -> Result<Tensor> {
    let mut learning: Vec<Tensor> = Vec::new();
    for step in &program.steps {
        for param in params(&step.action)? {
            if param.track_op() && learning.iter().all(|known| known.id() != param.id()) {
                learning.push(param);
            }
        }
    }
    let keeps = !learning.is_empty();
    let room = lock(&rooms).take::<T>();
    let (logits, state) = State::train(&program, images, timesteps, room, (keeps, pass.is_recomputing()), pass)?;
    let shape = Shape::from((logits.len() / classes, classes));
    if !keeps {
        lock(&rooms).give(state.room);
        return Ok(Tensor::from_vec(logits, shape, images.device())?);
    }
    let place = Place::default();
    let mut token = Tensor::zeros(1, DType::F32, images.device())?;
    for param in &learning {
        token = token.apply_op2(param, Deliver { place: Arc::clone(&place), param: param.id() })?;
    }
    let once = Mutex::new(Some(Once { logits, state }));
    Ok(token.apply_op1(Whole { program, shape, once, rooms, place })?)
}

/// What a pass has computed.
struct Once<T> {
    /// Taken by the forward pass.
    logits: Vec<T>,
    /// Taken by the backward pass, which gives up what it has used.
    state: State<T>,
}

/// The network.
struct Whole<T> {
    program: Arc<Program>,
    shape: Shape,
    once: Mutex<Option<Once<T>>>,
    /// Where the memory goes afterwards.
    rooms: Arc<Mutex<Rooms>>,
    place: Place,
}

impl<T: Number> CustomOp1 for Whole<T> {
    fn name(&self) -> &'static str {
        "network"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut once = lock(&self.once);
        let Some(Once { logits, .. }) = once.as_mut() else {
            bail!("network: the forward pass of this operation ran twice")
        };
        Ok((T::to_cpu_storage_owned(std::mem::take(logits)), self.shape.clone()))
    }

    fn bwd(&self, token: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let Some(Once { state, .. }) = lock(&self.once).take() else {
            bail!(
                "network: a second backward pass through one forward pass; the first has given the activations up, so run \
                 the forward pass again, or add the losses before the first backward pass"
            );
        };
        let grad = with_slice::<T, _>(grad, |grad| Ok(grad.to_vec()))?;
        let (gradients, room) = Backward::run(&self.program, state, grad).map_err(candle_core::Error::wrap)?;
        lock(&self.rooms).give(room);
        *lock(&self.place) = gradients;
        token.zeros_like().map(Some)
    }
}

/// Hands a parameter its gradient.
struct Deliver {
    place: Place,
    param: TensorId,
}

impl CustomOp2 for Deliver {
    fn name(&self) -> &'static str {
        "deliver"
    }

    fn cpu_fwd(
        &self,
        token: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((token.clone(), Shape::from(1)))
    }

    fn bwd(
        &self,
        token: &Tensor,
        param: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = lock(&self.place).remove(&self.param);
        let grad = grad.map_or_else(|| param.zeros_like(), Ok)?;
        let token = if token.track_op() { Some(token.zeros_like()?) } else { None };
        Ok((token, Some(grad)))
    }
}
