//! The fully connected layer.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use candle_nn::init::Init;

use super::named::named;
use crate::observer::{SynapseEvent, SynapseKind, Values};
use crate::ops;
use crate::trace::Op;
use crate::{Pass, Result, Signal, SignalKind};

/// A fully connected layer with bias.
#[derive(Debug, Clone)]
pub struct Linear {
    name: String,
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// `weight` `[f_out, f_in]` and `bias` `[f_out]`, both started uniformly in ±1/√f_in, as PyTorch does.
    ///
    /// # Errors
    /// If the builder has a tensor of that name and another shape.
    pub fn new(f_in: usize, f_out: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let bound = 1. / (f_in as f64).sqrt();
        let init = Init::Uniform { lo: -bound, up: bound };
        let weight = vb.get_with_hints((f_out, f_in), "weight", init)?;
        Ok(Self { name: vb.prefix(), weight, bias: vb.get_with_hints(f_out, "bias", init)? })
    }

    /// `[N, f_in]` to `[N, f_out]`.
    ///
    /// # Errors
    /// If the input does not fit; the message names this layer.
    pub fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
        let Self { name, weight, bias } = self;
        let kind = SynapseKind::Linear { f_out: weight.dims()[0] };
        pass.show_synapse(&SynapseEvent::new(name, kind, Values::Tensor(xs.values()), weight, xs.kind()))?;
        let ys = pass.values(
            xs.values(),
            || ops::linear_dims(xs.values(), weight, Some(bias)),
            || ops::linear(xs.values(), &pass.param(weight), Some(&pass.param(bias))),
        );
        let op = || Op::Linear { weight: weight.clone(), bias: bias.clone() };
        Ok(pass.give(name, op, &[xs], named(name, ys)?, SignalKind::Analog, xs.broadcast()))
    }
}
