//! What an evaluation pass computes from the parameters alone.

use std::sync::OnceLock;

use lmht_core::{Code, Dynamics};
use lmht_kernels::Weights;

use super::norm::running;
use super::program::{Action, Program, Step};
use super::value::Norm;
use crate::Result;
use crate::neurons::NeuronCell;
use crate::ops::storage::Element;

/// The parameters of a program's steps as an evaluation pass reads them.
#[derive(Debug)]
pub(super) struct Prepared<T> {
    steps: Vec<Ready<T>>,
}

/// The parameters of a step.
#[derive(Debug)]
pub(super) enum Ready<T> {
    /// It has none.
    Nothing,
    Synapse(Box<Weights<T>>),
    /// Slope and offset of each channel; what it normalises is missing.
    Norm(Norm<T>),
    Neuron(Firing<T>),
}

/// A layer of neurons with its numbers.
#[derive(Debug)]
pub(super) struct Firing<T> {
    pub(super) dynamics: Box<dyn Dynamics<T>>,
    /// θ where spikes are sent as ones.
    pub(super) unit: Option<f64>,
    /// Whether the gradient of what is sent is of use only where the byte of a unit says so.
    pub(super) has_gate: bool,
    /// Levels and amplitude of counts that fit seven bits.
    pub(super) counts: Option<(u32, f64)>,
}

/// Levels whose counts fit beside the gate.
const MOST: u32 = lmht_core::IN_GATE as u32 - 1;

impl<T: Element> Firing<T> {
    pub(super) fn of(cell: &NeuronCell) -> Result<Self> {
        let (dynamics, unit) = (cell.dynamics::<T>()?, cell.unit()?);
        let counts = match dynamics.code() {
            Code::Counts { levels, amplitude } if levels <= MOST => {
                Some((levels, if unit.is_some() { 1. } else { amplitude }))
            }
            _ => None,
        };
        let has_gate = dynamics.has_gradient() && dynamics.gate_is_whole();
        Ok(Self { dynamics, unit, has_gate, counts })
    }
}

impl<T: Element> Prepared<T> {
    pub(super) fn new(program: &Program) -> Result<Self> {
        let ready = |step: &Step| -> Result<Ready<T>> {
            Ok(match &step.action {
                Action::Synapse(_) => Ready::Synapse(Box::new(Weights::new())),
                Action::BatchNorm(tensors) => {
                    let bias = match &program.steps[step.inputs[0]].action {
                        Action::Synapse(synapse) => synapse.bias.as_ref(),
                        _ => None,
                    };
                    Ready::Norm(running(tensors, bias)?)
                }
                Action::Neuron(cell) => Ready::Neuron(Firing::of(cell)?),
                _ => Ready::Nothing,
            })
        };
        Ok(Self { steps: program.steps.iter().map(ready).collect::<Result<_>>()? })
    }

    pub(super) fn step(&self, i: usize) -> &Ready<T> {
        &self.steps[i]
    }
}

/// What is in `cell`, made now if nothing is. It is not made while others wait for the cell: it takes tasks, and a thread
/// that waits for tasks may take up another pass that asks for the same cell.
pub(super) fn once<V>(cell: &OnceLock<V>, make: impl FnOnce() -> Result<V>) -> Result<&V> {
    match cell.get() {
        Some(value) => Ok(value),
        None => {
            let value = make()?;
            Ok(cell.get_or_init(|| value))
        }
    }
}
