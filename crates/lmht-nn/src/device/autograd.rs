//! A pass over the steps as operations of Candle's graph (`graph.rs`).

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, TensorId};

use super::run::{Run, params};
use super::steps::{Action, Step, Steps};
use crate::graph::{tracked, with_way_back};
use crate::trace::Op;
use crate::{Mode, Pass, Result};

/// The logits `[T·B, K]` of rows of images, with gradients for every parameter that is tracked, if the pass trains, and for
/// images that want one.
pub(crate) fn forward(steps: &Steps, rows: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
    let dtype = pass.precision().dtype().unwrap_or(rows.dtype());
    let thresholds = thresholds(steps)?;
    let run = Run { mode: pass.mode(), dtype, thresholds: &thresholds };
    let (maps, is_map) = (rows.detach(), rows.rank() == 4);
    // Turned around first: a conversion of what is not contiguous gives what is, and `gpu::gather` has done it already.
    let maps = if is_map { maps.permute((0, 2, 3, 1))? } else { maps }.to_dtype(dtype)?.contiguous()?;
    let (logits, way) = run.forward(steps, maps, rows.track_op())?;
    let logits = logits.to_dtype(rows.dtype())?;
    let learned = steps.steps.iter().filter(|_| pass.mode() == Mode::Train).flat_map(|step| params(&step.action));
    let wanted = tracked([rows].into_iter().chain(learned));
    if wanted.is_empty() {
        return Ok(logits);
    }
    let (images, real) = (rows.id(), rows.dtype());
    Ok(with_way_back(logits, &wanted, move |grad| {
        let (mut gradients, of_rows) = way.run(grad.to_dtype(dtype)?)?;
        if let Some(grad) = of_rows {
            let grad = if is_map { grad.permute((0, 3, 1, 2))?.contiguous()? } else { grad };
            gradients.insert(images, grad.to_dtype(real)?);
        }
        Ok(gradients)
    })?)
}

/// θ of all layers of neurons that kernels take, in one transfer: a checkpoint may have set them since the last pass.
fn thresholds(steps: &Steps) -> Result<HashMap<TensorId, f64>> {
    let of_step = |step: &Step| match &step.action {
        Action::NormNeuron { cell, .. } | Action::Layer(Op::Neuron(cell)) => {
            cell.multi_threshold().and(cell.threshold()).cloned()
        }
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
