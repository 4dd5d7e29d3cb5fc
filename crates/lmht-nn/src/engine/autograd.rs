//! A pass of the engine as an operation of Candle's graph.
//!
//! Candle's custom operations take three arguments at most, and a network has a hundred parameters. So a token, one number
//! that means nothing, passes from parameter to parameter and then into the logits:
//!
//! ```text
//! token ── deliver(weight₁) ── deliver(weight₂) ── … ── network ── logits
//! ```
//!
//! On the way back `network` comes first, runs the backward pass of the whole program and leaves the gradients in a shared
//! place; each `deliver` hands its parameter (or the images) the one that is meant for it. To Candle this is an ordinary graph:
//! `loss.backward()` and everything that is built on it works.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Shape, Tensor, TensorId, bail};

use super::backward::{Backward, Gradients, Wanted, params};
use super::buffers::BufferPools;
use super::lock::lock;
use super::prepared::Prepared;
use super::program::Program;
use super::run::{Eval, Input, Keep, State};
use crate::ops::storage::{Element, with_slice};
use crate::{Mode, Pass, Result};

/// Where the backward pass leaves the gradients.
type GradientSlot = Arc<Mutex<Gradients>>;

/// The logits `[T·B, K]` of a pass, with gradients for every parameter that is tracked, if it trains, and for images that want
/// one.
pub(super) fn forward<T: Element>(
    program: &Arc<Program>,
    input: Input<'_>,
    pools: Arc<Mutex<BufferPools>>,
    pass: &mut Pass<'_>,
) -> Result<Tensor> {
    let rows = input.rows()?;
    let images = rows.track_op().then(|| rows.clone());
    let wanted = Wanted { params: pass.mode() == Mode::Train, images };
    let mut learning: Vec<Tensor> = wanted.images.iter().cloned().collect();
    for param in program.steps.iter().flat_map(|step| params(&step.action)) {
        let is_new = learning.iter().all(|known| known.id() != param.id());
        if wanted.params && param.track_op() && is_new {
            learning.push(param.clone());
        }
    }
    let keep = match (learning.is_empty(), pass.is_recomputing()) {
        (true, _) => Keep::Nothing,
        (false, false) => Keep::Values,
        (false, true) => Keep::Inputs,
    };
    pass.begin(input.timesteps, input.n_images())?;
    let pool = lock(&pools).take::<T>();
    let mut state = State::new(program, input.timesteps, pool);
    let prepared = if pass.mode() == Mode::Eval { Some(Prepared::<T>::new(program)?) } else { None };
    let eval = prepared.as_ref().map(|prepared| Eval::whole(prepared, input.n_images()));
    let logits = state.run(program, &rows.detach(), eval, keep, pass)?;
    let classes = program.steps.last().map_or(1, |step| step.shape.len());
    let shape = Shape::from((logits.len() / classes, classes));
    if keep == Keep::Nothing {
        lock(&pools).give(state.pool);
        return Ok(Tensor::from_vec(logits, shape, rows.device())?);
    }
    let slot = GradientSlot::default();
    let mut token = Tensor::zeros(1, DType::F32, rows.device())?;
    for param in &learning {
        token = token.apply_op2(param, Deliver { slot: Arc::clone(&slot), param: param.id() })?;
    }
    let result = Mutex::new(Some(ForwardResult { logits, state }));
    let program = Arc::clone(program);
    Ok(token.apply_op1(NetworkOp { program, shape, result, wanted, pools, slot })?)
}

/// What a pass has computed.
struct ForwardResult<T> {
    /// Taken by the forward pass.
    logits: Vec<T>,
    /// Taken by the backward pass, which gives up what it has used.
    state: State<T>,
}

/// The network.
struct NetworkOp<T> {
    program: Arc<Program>,
    shape: Shape,
    result: Mutex<Option<ForwardResult<T>>>,
    wanted: Wanted,
    /// Where the memory goes afterwards.
    pools: Arc<Mutex<BufferPools>>,
    slot: GradientSlot,
}

impl<T: Element> CustomOp1 for NetworkOp<T> {
    fn name(&self) -> &'static str {
        "network"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut result = lock(&self.result);
        let Some(ForwardResult { logits, .. }) = result.as_mut() else {
            bail!("network: the forward pass of this operation ran twice")
        };
        Ok((T::to_cpu_storage_owned(std::mem::take(logits)), self.shape.clone()))
    }

    fn bwd(&self, token: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let Some(ForwardResult { state, .. }) = lock(&self.result).take() else {
            bail!(
                "network: a second backward pass through one forward pass; the first has given the activations up, so run \
                 the forward pass again, or add the losses before the first backward pass"
            );
        };
        let grad = with_slice::<T, _>(grad, |grad| Ok(grad.to_vec()))?;
        let (gradients, pool) =
            Backward::run(&self.program, state, self.wanted.clone(), grad).map_err(candle_core::Error::wrap)?;
        lock(&self.pools).give(pool);
        *lock(&self.slot) = gradients;
        token.zeros_like().map(Some)
    }
}

/// Hands a parameter its gradient.
struct Deliver {
    slot: GradientSlot,
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
        let grad = lock(&self.slot).remove(&self.param);
        let grad = grad.map_or_else(|| param.zeros_like(), Ok)?;
        let token = if token.track_op() { Some(token.zeros_like()?) } else { None };
        Ok((token, Some(grad)))
    }
}
