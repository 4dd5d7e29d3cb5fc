//! A pass of the engine as an operation of Candle's graph (`graph.rs`).

use std::sync::{Arc, Mutex};

use candle_core::Tensor;

use super::backward::{Backward, Wanted, params};
use super::buffers::BufferPools;
use super::prepared::Prepared;
use super::program::Program;
use super::run::{Eval, Input, Keep, State};
use crate::graph::{tracked, with_way_back};
use crate::lock::lock;
use crate::ops::storage::{Element, with_slice};
use crate::{Mode, Pass, Result};

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
    let params = program.steps.iter().filter(|_| wanted.params).flat_map(|step| params(&step.action));
    let learning = tracked(wanted.images.iter().chain(params));
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
    let logits = Tensor::from_vec(logits, ((), classes), rows.device())?;
    if keep == Keep::Nothing {
        lock(&pools).give(state.pool);
        return Ok(logits);
    }
    let program = Arc::clone(program);
    Ok(with_way_back(logits, &learning, move |grad| {
        let grad = with_slice::<T, _>(grad, |grad| Ok(grad.to_vec()))?;
        let (gradients, pool) = Backward::run(&program, state, wanted, grad).map_err(candle_core::Error::wrap)?;
        // The memory is for the next pass.
        lock(&pools).give(pool);
        Ok(gradients)
    })?)
}
