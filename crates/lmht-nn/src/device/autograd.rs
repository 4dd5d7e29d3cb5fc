//! A pass over the steps as operations of Candle's graph: `engine/autograd.rs` says how a token leads the gradients to the
//! parameters.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor, TensorId};

use super::run::{Gradients, Run, params};
use super::steps::{Action, Step, Steps};
use crate::ops::with_gradient::with_gradient;
use crate::trace::Op;
use crate::{Mode, Pass, Result};

/// The logits `[T·B, K]` of rows of images, with gradients for every parameter that is tracked, if the pass trains, and for
/// images that want one.
pub(crate) fn forward(steps: &Steps, rows: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
    let dtype = pass.precision().dtype().unwrap_or(rows.dtype());
    let thresholds = thresholds(steps)?;
    let run = Run { mode: pass.mode(), dtype, thresholds: &thresholds };
    let wants_images = rows.track_op();
    let maps = rows.detach().to_dtype(dtype)?;
    let maps = if maps.rank() == 4 { maps.permute((0, 2, 3, 1))?.contiguous()? } else { maps };
    let (logits, way) = run.forward(steps, maps, wants_images)?;
    let logits = logits.to_dtype(rows.dtype())?;
    let mut learning: Vec<Tensor> = Vec::new();
    for param in steps.steps.iter().flat_map(|step| params(&step.action)) {
        let is_new = learning.iter().all(|known| known.id() != param.id());
        if pass.mode() == Mode::Train && param.track_op() && is_new {
            learning.push(param.clone());
        }
    }
    if learning.is_empty() && !wants_images {
        return Ok(logits);
    }
    let slot = Slot::default();
    let mut token = Tensor::zeros(1, DType::F32, rows.device())?;
    if wants_images {
        token = deliver(&token, rows, &slot)?;
    }
    for param in &learning {
        token = deliver(&token, param, &slot)?;
    }
    let (way, images, is_map) = (Mutex::new(Some(way)), rows.id(), rows.rank() == 4);
    Ok(with_gradient("network", logits, (&token, &token, &token), move |token, _, _, grad| {
        let Some(way) = lock(&way).take() else {
            candle_core::bail!(
                "network: a second backward pass through one forward pass; the first has given the activations up, so run \
                 the forward pass again, or add the losses before the first backward pass"
            )
        };
        let (gradients, of_rows) = way.run(grad.to_dtype(dtype)?)?;
        let of_rows = of_rows.map(|grad| if is_map { grad.permute((0, 3, 1, 2))?.contiguous() } else { Ok(grad) });
        let of_rows = of_rows.transpose()?.map(|grad| (images, grad));
        *lock(&slot) = Some((gradients, of_rows));
        Ok((Some(token.zeros_like()?), None, None))
    })?)
}

/// Where the way back leaves the gradients: those of parameters, and that of the images.
type Slot = Arc<Mutex<Option<(Gradients, Option<(TensorId, Tensor)>)>>>;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A token behind which `param` finds its gradient.
fn deliver(token: &Tensor, param: &Tensor, slot: &Slot) -> candle_core::Result<Tensor> {
    let slot = Arc::clone(slot);
    with_gradient("deliver", token.detach(), (token, param, token), move |token, param, _, _| {
        let mut slot = lock(&slot);
        let found = slot.as_mut().and_then(|(gradients, images)| match images {
            Some((id, _)) if *id == param.id() => images.take().map(|(_, grad)| grad),
            _ => gradients.take(param.id()),
        });
        let grad = found.map_or_else(|| param.zeros_like(), |grad| grad.to_dtype(param.dtype()))?;
        let token = if token.track_op() { Some(token.zeros_like()?) } else { None };
        Ok((token, Some(grad), None))
    })
}

/// θ of all layers of neurons that kernels take, in one transfer: a checkpoint may have set them since the last pass.
fn thresholds(steps: &Steps) -> Result<HashMap<TensorId, f64>> {
    let of_step = |step: &Step| match &step.action {
        Action::NormNeuron { cell, .. } | Action::Layer(Op::Neuron(cell)) => cell.threshold().cloned(),
        _ => None,
    };
    let all: Vec<Tensor> = steps.steps.iter().filter_map(of_step).collect();
    if all.is_empty() {
        return Ok(HashMap::new());
    }
    let flat = all.iter().map(|theta| theta.detach().flatten_all()).collect::<candle_core::Result<Vec<_>>>()?;
    let numbers = Tensor::cat(&flat, 0)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    Ok(all.iter().map(Tensor::id).zip(numbers).collect())
}
