//! Convolution.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use candle_nn::init::{FanInOut, Init, NonLinearity, NormalOrUniform};

use super::named::named;
use crate::observer::{SynapseEvent, SynapseKind, Values};
use crate::ops::{self, Conv2dParams};
use crate::trace::Op;
use crate::{Pass, Result, Signal, SignalKind};

/// A square convolution, in groups of channels if wanted; the bias is optional.
#[derive(Debug, Clone)]
pub struct Conv2d {
    name: String,
    weight: Tensor,
    bias: Option<Tensor>,
    params: Conv2dParams,
}

impl Conv2d {
    /// A `kernel` x `kernel` convolution with `weight` `[c_out, c_in / groups, kernel, kernel]`, started from a normal
    /// distribution of variance 2 / (c_out · kernel²) (He et al. 2015, fan-out), bias 0. With as many groups as channels it is
    /// depthwise.
    ///
    /// # Errors
    /// If the groups do not divide the channels, or the builder has a tensor of that name and another shape.
    pub fn new(
        c_in: usize,
        c_out: usize,
        kernel: usize,
        params: Conv2dParams,
        bias: bool,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let groups = params.groups;
        if groups == 0 || !c_in.is_multiple_of(groups) || !c_out.is_multiple_of(groups) {
            return Err(crate::Error::Config(format!(
                "{}: expected a number of groups that divides {c_in} and {c_out} channels, got {groups}",
                vb.prefix()
            )));
        }
        let init =
            Init::Kaiming { dist: NormalOrUniform::Normal, fan: FanInOut::FanOut, non_linearity: NonLinearity::ReLU };
        let weight = vb.get_with_hints((c_out, c_in / groups, kernel, kernel), "weight", init)?;
        let bias = if bias { Some(vb.get_with_hints(c_out, "bias", Init::Const(0.))?) } else { None };
        Ok(Self { name: vb.prefix(), weight, bias, params })
    }

    /// `[N, c_in, H, W]` to `[N, c_out, H', W']`.
    ///
    /// # Errors
    /// If the input does not fit; the message names this layer.
    pub fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
        let Self { name, weight, bias, params } = self;
        let kind = SynapseKind::Conv2d {
            c_out: weight.dims()[0],
            kernel: weight.dims()[2],
            stride: params.stride,
            padding: params.padding,
            groups: params.groups,
        };
        pass.show_synapse(&SynapseEvent::new(name, kind, Values::Tensor(xs.values()), weight, xs.kind()))?;
        let ys = pass.values(
            xs.values(),
            || ops::conv2d_dims(xs.values(), weight, bias.as_ref(), *params),
            || {
                let bias = bias.as_ref().map(|bias| pass.param(bias));
                ops::conv2d(xs.values(), &pass.param(weight), bias.as_ref(), *params)
            },
        );
        let op = || Op::Conv2d { weight: weight.clone(), bias: bias.clone(), params: *params };
        Ok(pass.give(name, op, &[xs], named(name, ys)?, SignalKind::Analog, xs.broadcast()))
    }
}
