//! What an evaluation pass computes from the parameters alone.

use std::sync::OnceLock;

use super::Number;
use super::norm::running;
use super::program::{Action, Program};
use super::run::mixing;
use super::synapse::Weights;
use super::value::Norm;
use crate::Result;
use crate::layers::Neuron;

/// The parameters of a program's steps as an evaluation pass reads them.
#[derive(Debug)]
pub(crate) struct Prepared<T> {
    steps: Vec<Ready<T>>,
}

/// The parameters of a step.
#[derive(Debug)]
pub(super) enum Ready<T> {
    /// It has none, or runs as it does outside of the engine.
    Nothing,
    Synapse(Weights<T>),
    /// Slope and offset of each channel; what it normalises is missing.
    Norm(Norm<T>),
    Neuron(Firing<T>),
}

/// The numbers of a spiking layer.
#[derive(Debug, Clone)]
pub(super) struct Firing<T> {
    pub(super) neuron: lmht_core::Neuron,
    /// Ω, empty without a T-GIM.
    pub(super) omega: Vec<T>,
    /// λ.
    pub(super) leak: T,
    /// What one spike counts for in the next layer.
    pub(super) amplitude: f64,
}

impl<T: Number> Firing<T> {
    /// Nothing for a layer that runs as it does outside of the engine.
    pub(super) fn of(layer: &Neuron) -> Result<Option<Self>> {
        let Some(parts) = layer.spiking()? else { return Ok(None) };
        let (omega, leak) = mixing(&parts)?;
        Ok(Some(Self { neuron: parts.neuron, omega, leak, amplitude: parts.amplitude }))
    }
}

impl<T: Number> Prepared<T> {
    pub(super) fn new(program: &Program) -> Result<Self> {
        let step = |action: &Action, input: Option<&Action>| -> Result<Ready<T>> {
            Ok(match action {
                Action::Synapse(synapse) => Ready::Synapse(Weights::new(synapse.weight())),
                Action::BatchNorm(norm, _) => {
                    let bias = match input {
                        Some(Action::Synapse(synapse)) => synapse.bias(),
                        _ => None,
                    };
                    Ready::Norm(running(norm, bias)?)
                }
                Action::Neuron(neuron) => Firing::of(neuron)?.map_or(Ready::Nothing, Ready::Neuron),
                _ => Ready::Nothing,
            })
        };
        let steps = program.steps.iter().map(|s| step(&s.action, s.inputs.first().map(|&i| &program.steps[i].action)));
        Ok(Self { steps: steps.collect::<Result<_>>()? })
    }

    pub(super) fn step(&self, i: usize) -> &Ready<T> {
        &self.steps[i]
    }
}

/// Where the [`Prepared`] of a network is kept whose parameters stay as they are; one for each number type.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    pub(super) single: OnceLock<Prepared<f32>>,
    pub(super) double: OnceLock<Prepared<f64>>,
}
