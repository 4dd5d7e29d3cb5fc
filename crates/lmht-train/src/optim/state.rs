//! What an optimizer keeps of its parameters between two steps, and how that goes into a checkpoint and comes back.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var, bail};
use lmht_nn::gpu;

use super::at_once::{self, Update};
use super::means::{Means, Slot};
use super::rule::{Rule, update};
use crate::{Error, Result};

/// Parameters and their states, in one order.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) params: Vec<(String, Var)>,
    slots: Vec<Slot>,
    pub(super) steps: u64,
    /// Σ g² of the last step, where a kernel has computed it.
    pub(super) sum_squares: Option<Tensor>,
}

impl Slots {
    pub(super) fn new(params: Vec<(String, Var)>) -> Result<Self> {
        let mut names = HashMap::new();
        let mut ids = HashMap::new();
        for (name, var) in &params {
            let invalid = |expected, got| Err(Error::InvalidParameter { name: name.clone(), expected, got });
            if name.is_empty() {
                return invalid("a name", "an empty one".into());
            }
            if names.insert(name.as_str(), ()).is_some() {
                return invalid("a name of its own", "a second parameter of that name".into());
            }
            // It would be updated twice per step.
            if let Some(other) = ids.insert(var.id(), name.as_str()) {
                return invalid("a variable of its own", format!("the variable of {other}"));
            }
            if !matches!(var.dtype(), DType::F32 | DType::F64) {
                let expected = "type f32 or f64 (keep the parameters in f32, and cast them in the forward pass)";
                return invalid(expected, format!("{:?}", var.dtype()));
            }
            if !var.is_contiguous() {
                return invalid("a contiguous variable", format!("strides {:?}", var.stride()));
            }
        }
        let slots = params.iter().map(|_| Slot::default()).collect();
        Ok(Self { params, slots, steps: 0, sum_squares: None })
    }

    pub(super) fn step<R: Rule>(&mut self, grads: &GradStore, rule: &R) -> candle_core::Result<()> {
        // All gradients are looked at before the first parameter moves.
        let mut found = Vec::with_capacity(self.params.len());
        for (name, var) in &self.params {
            let Some(grad) = grads.get(var) else {
                found.push(None);
                continue;
            };
            if grad.shape() != var.shape() || grad.dtype() != var.dtype() || !grad.device().same_device(var.device()) {
                bail!(
                    "optimizer: {name}: expected a gradient of shape {:?}, type {:?} on {:?} (its parameter's), got {:?}, \
                     {:?} on {:?}",
                    var.dims(),
                    var.dtype(),
                    var.device().location(),
                    grad.dims(),
                    grad.dtype(),
                    grad.device().location()
                );
            }
            found.push(Some(grad.detach().contiguous()?));
        }
        if self.params.iter().any(|(_, var)| gpu::takes(var)) {
            let all = self.slots.iter_mut().zip(&self.params).zip(found);
            let updates = all.filter_map(|((slot, (_, var)), grad)| Some(Update { slot, var, grad: grad? }));
            self.sum_squares = at_once::update(rule, updates.collect()).map_err(|error| error.context("optimizer"))?;
            self.steps += 1;
            return Ok(());
        }
        for ((slot, (name, var)), grad) in self.slots.iter_mut().zip(&self.params).zip(found) {
            if let Some(grad) = grad {
                update(rule, slot, var, &grad).map_err(|error| error.context(format!("optimizer: {name}")))?;
            }
        }
        self.steps += 1;
        Ok(())
    }

    pub(super) fn end_momentum(&mut self, name: &str, stopped: &Tensor) -> candle_core::Result<()> {
        for (slot, (_, var)) in self.slots.iter_mut().zip(&self.params).filter(|(_, (other, _))| other == name) {
            let Some(means) = &slot.means else { continue };
            let mut tensors = means.to_tensors(var.shape())?;
            if let Some(first) = tensors.first_mut() {
                *first = stopped.where_cond(&first.zeros_like()?, first)?;
            }
            slot.means = Some(Means::from_tensors(var, &tensors.iter().collect::<Vec<_>>())?);
        }
        Ok(())
    }

    pub(super) fn state<R: Rule>(&self, rule: &R) -> Result<Vec<(String, Tensor)>> {
        let mut state = vec![(STEPS.to_string(), count_tensor(self.steps)?)];
        for (slot, (name, var)) in self.slots.iter().zip(&self.params) {
            state.push((step_entry(name), count_tensor(slot.updates)?));
            if let Some(means) = &slot.means {
                let tensors = means.to_tensors(var.shape())?;
                state.extend(rule.means().iter().zip(tensors).map(|(mean, tensor)| (format!("{name}.{mean}"), tensor)));
            }
        }
        state.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(state)
    }

    pub(super) fn load_state<R: Rule>(&mut self, state: &[(String, Tensor)], rule: &R) -> Result<()> {
        let mut entries: HashMap<&str, &Tensor> = HashMap::with_capacity(state.len());
        for (name, tensor) in state {
            if entries.insert(name, tensor).is_some() {
                return Err(invalid_state(name, "one entry of that name".into(), "two".into()));
            }
        }
        let steps = take_count(&mut entries, STEPS)?;
        let mut slots = Vec::with_capacity(self.params.len());
        for (name, var) in &self.params {
            let updates = take_count(&mut entries, &step_entry(name))?;
            if updates == 0 {
                slots.push(Slot::default());
                continue;
            }
            let mut tensors = Vec::new();
            for mean in rule.means() {
                let entry = format!("{name}.{mean}");
                let Some(tensor) = entries.remove(entry.as_str()) else {
                    return Err(Error::MissingState { name: entry });
                };
                if tensor.shape() != var.shape() || tensor.dtype() != var.dtype() {
                    let describe = |t: &Tensor| format!("shape {:?} of type {:?}", t.dims(), t.dtype());
                    return Err(invalid_state(&entry, describe(var), describe(tensor)));
                }
                tensors.push(tensor);
            }
            slots.push(Slot { updates, means: Some(Means::from_tensors(var, &tensors)?) });
        }
        // The smallest name, so that the message does not depend on the order of a hash map.
        if let Some(name) = entries.keys().min() {
            return Err(Error::UnexpectedState { name: name.to_string() });
        }
        self.slots = slots;
        self.steps = steps;
        Ok(())
    }
}

/// The entry that counts the steps of the optimizer; no parameter's entry has its name, they all hold a dot.
const STEPS: &str = "steps";

fn step_entry(name: &str) -> String {
    format!("{name}.step")
}

fn count_tensor(count: u64) -> candle_core::Result<Tensor> {
    Tensor::new(count as i64, &Device::Cpu)
}

fn take_count(entries: &mut HashMap<&str, &Tensor>, name: &str) -> Result<u64> {
    let Some(tensor) = entries.remove(name) else {
        return Err(Error::MissingState { name: name.into() });
    };
    let expected = "a count: shape [] of type I64, not negative";
    if tensor.rank() != 0 || tensor.dtype() != DType::I64 {
        let got = format!("shape {:?} of type {:?}", tensor.dims(), tensor.dtype());
        return Err(invalid_state(name, expected.into(), got));
    }
    let count = tensor.to_scalar::<i64>()?;
    u64::try_from(count).map_err(|_| invalid_state(name, expected.into(), count.to_string()))
}

fn invalid_state(name: &str, expected: String, got: String) -> Error {
    Error::InvalidState { name: name.into(), expected, got }
}

/// [`Optimizer`](super::Optimizer) for a struct of a `config`, which is a [`Rule`] with an `lr`, and its `slots`.
macro_rules! impl_optimizer {
    ($optimizer:ty) => {
        impl $crate::optim::Optimizer for $optimizer {
            fn step(&mut self, grads: &candle_core::backprop::GradStore) -> candle_core::Result<()> {
                self.slots.step(grads, &self.config)
            }

            fn sum_squares(&self) -> Option<&Tensor> {
                self.slots.sum_squares.as_ref()
            }

            fn params(&self) -> &[(String, Var)] {
                &self.slots.params
            }

            fn lr(&self) -> f64 {
                self.config.lr
            }

            fn set_lr(&mut self, lr: f64) -> $crate::Result<()> {
                $crate::optim::check_lr(lr)?;
                self.config.lr = lr;
                Ok(())
            }

            fn end_momentum(&mut self, name: &str, stopped: &Tensor) -> candle_core::Result<()> {
                self.slots.end_momentum(name, stopped)
            }

            fn steps(&self) -> u64 {
                self.slots.steps
            }

            fn state(&self) -> $crate::Result<Vec<(String, Tensor)>> {
                self.slots.state(&self.config)
            }

            fn load_state(&mut self, state: &[(String, Tensor)]) -> $crate::Result<()> {
                self.slots.load_state(state, &self.config)
            }
        }
    };
}

pub(super) use impl_optimizer;
