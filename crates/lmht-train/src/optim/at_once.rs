//! An update of all parameters by one launch of a GPU's kernel.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor, Var};
use lmht_nn::gpu::{self, Flat};

use super::means::{Means, Slot};
use super::rule::Rule;

/// A parameter with its gradient.
pub(super) struct Update<'a> {
    pub(super) slot: &'a mut Slot,
    pub(super) var: &'a Var,
    pub(super) grad: Tensor,
}

/// Updates all, or nothing where a gradient is not finite. Gives Σ g².
///
/// Parameters that have had the same number of updates go together: all, unless some had no gradient in a step.
pub(super) fn update<R: Rule>(rule: &R, updates: Vec<Update<'_>>) -> candle_core::Result<Option<Tensor>> {
    let mut groups: BTreeMap<(u64, bool), Vec<Update<'_>>> = BTreeMap::new();
    for update in updates {
        groups.entry((update.slot.updates, update.var.dtype() == DType::F64)).or_default().push(update);
    }
    let mut sum: Option<Tensor> = None;
    let mut ready = Vec::new();
    for ((n, _), group) in groups {
        let grads = flat(group.iter().map(|update| &update.grad))?;
        let share = gpu::sum_squares(&grads)?;
        sum = Some(match sum {
            Some(sum) if sum.dtype() == share.dtype() => (sum + share)?,
            Some(sum) => (sum.to_dtype(DType::F64)? + share.to_dtype(DType::F64)?)?,
            None => share,
        });
        ready.push((n + 1, grads, group));
    }
    let Some(sum) = sum else { return Ok(None) };
    for (n, grads, group) in ready {
        apply(rule, n, &grads, &sum.to_dtype(grads.dtype())?, group)?;
    }
    Ok(Some(sum))
}

fn apply<R: Rule>(
    rule: &R,
    n: u64,
    grads: &Tensor,
    sum_squares: &Tensor,
    group: Vec<Update<'_>>,
) -> candle_core::Result<()> {
    let (kernel, weight_decay) = rule.kernel(n);
    let vars: Vec<Tensor> = group.iter().map(|update| update.var.as_detached_tensor()).collect();
    let params = flat(vars.iter())?;
    let n_means = rule.means().len();
    let mut states = Vec::new();
    for mean in 0..n_means {
        let of = |update: &Update<'_>| match &update.slot.means {
            Some(means) => means.to_tensors(update.var.shape())?.swap_remove(mean).to_device(update.var.device()),
            None => update.var.as_tensor().zeros_like(),
        };
        states.push(flat(group.iter().map(of).collect::<candle_core::Result<Vec<_>>>()?.iter())?);
    }
    if states.is_empty() {
        // The kernel of SGD writes a velocity, with a momentum of 0, too.
        states.push(params.zeros_like()?);
    }
    let (params, states) =
        gpu::update(kernel, &Flat { params: &params, grads, sum_squares, states: &states, weight_decay })?;
    let mut first = 0;
    for Update { slot, var, .. } in group {
        let len = var.elem_count();
        let part = |flat: &Tensor| flat.narrow(0, first, len)?.reshape(var.shape());
        var.set(&part(&params)?)?;
        let means = states[..n_means].iter().map(part).collect::<candle_core::Result<Vec<_>>>()?;
        slot.means = Some(Means::Tensors(means));
        slot.updates = n;
        first += len;
    }
    Ok(())
}

/// Tensors one after the other.
fn flat<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> candle_core::Result<Tensor> {
    let flat = tensors.map(Tensor::flatten_all).collect::<candle_core::Result<Vec<_>>>()?;
    Tensor::cat(&flat, 0)
}
