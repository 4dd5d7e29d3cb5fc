//! A pass over a whole network as an operation of Candle's graph.
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

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Result, Tensor, TensorId, bail};

use crate::lock::lock;
use crate::ops::with_gradient::with_gradient;

/// Gradients by the tensors that they are for.
pub(crate) type Gradients = HashMap<TensorId, Tensor>;

/// Adds a share of a tensor's gradient, if it wants one: a parameter that is used twice gets the sum.
pub(crate) fn add(gradients: &mut Gradients, param: &Tensor, grad: &Tensor) -> Result<()> {
    if !param.track_op() {
        return Ok(());
    }
    let grad = grad.reshape(param.shape())?.to_dtype(param.dtype())?;
    let sum = match gradients.remove(&param.id()) {
        Some(sum) => (sum + grad)?,
        None => grad,
    };
    gradients.insert(param.id(), sum);
    Ok(())
}

/// Those that want a gradient, each once.
pub(crate) fn tracked<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Vec<Tensor> {
    let mut tracked: Vec<Tensor> = Vec::new();
    for tensor in tensors.filter(|tensor| tensor.track_op()) {
        if tracked.iter().all(|known| known.id() != tensor.id()) {
            tracked.push(tensor.clone());
        }
    }
    tracked
}

/// The logits of a pass, from whose gradient `backward` leads to those of `wanted`: zeros for one that it does not give.
pub(crate) fn with_way_back(
    logits: Tensor,
    wanted: &[Tensor],
    backward: impl FnOnce(&Tensor) -> Result<Gradients> + Send + 'static,
) -> Result<Tensor> {
    let slot = Arc::new(Mutex::new(Gradients::new()));
    let mut token = Tensor::zeros(1, DType::F32, logits.device())?;
    for tensor in wanted {
        let slot = Arc::clone(&slot);
        token = with_gradient("deliver", token.detach(), (&token, tensor, &token), move |token, tensor, _, _| {
            let grad = lock(&slot).remove(&tensor.id()).map_or_else(|| tensor.zeros_like(), Ok)?;
            let token = if token.track_op() { Some(token.zeros_like()?) } else { None };
            Ok((token, Some(grad), None))
        })?;
    }
    let backward = Mutex::new(Some(backward));
    with_gradient("network", logits, (&token, &token, &token), move |token, _, _, grad| {
        let Some(backward) = lock(&backward).take() else {
            bail!(
                "network: a second backward pass through one forward pass; the first has given the activations up, so run \
                 the forward pass again, or add the losses before the first backward pass"
            )
        };
        *lock(&slot) = backward(grad)?;
        Ok((Some(token.zeros_like()?), None, None))
    })
}
