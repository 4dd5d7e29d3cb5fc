//! Batch norm.

use candle_core::Var;
use candle_nn::VarBuilder;
use candle_nn::init::Init;

use super::named::named;
use crate::ops;
use crate::trace::{NormTensors, Op};
use crate::{Mode, Pass, Result, Signal, SignalKind};

/// Batch norm over every axis but the second (Ioffe and Szegedy 2015), with running statistics of momentum 0.1.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    name: String,
    tensors: NormTensors,
    counts_repeats: bool,
}

impl BatchNorm {
    /// ε, added to the variance.
    pub const EPS: f64 = ops::BATCH_NORM_EPS;

    /// Batch norm of `channels` channels: weight 1, bias 0, running mean 0, running variance 1.
    ///
    /// # Errors
    /// If the builder has a tensor of one of these names and another shape.
    pub fn new(channels: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let tensors = NormTensors {
            weight: vb.get_with_hints(channels, "weight", Init::Const(1.))?,
            bias: vb.get_with_hints(channels, "bias", Init::Const(0.))?,
            running_mean: Var::from_tensor(&vb.get_with_hints(channels, "running_mean", Init::Const(0.))?)?,
            running_var: Var::from_tensor(&vb.get_with_hints(channels, "running_var", Init::Const(1.))?)?,
            repeats: 1,
        };
        Ok(Self { name: vb.prefix(), tensors, counts_repeats: false })
    }

    /// The same layer, whose running variance counts a static image at every timestep, as if it had been repeated before
    /// and not after. Only the unbiased variance can tell the difference; published networks do either.
    pub fn counting_repeats(self, counts_repeats: bool) -> Self {
        Self { counts_repeats, ..self }
    }

    /// Normalises; a training pass uses the batch's statistics and moves the running ones (with the unbiased variance).
    ///
    /// # Errors
    /// If the channels differ; the message names this layer.
    pub fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
        let repeats = xs.broadcast().filter(|_| self.counts_repeats).map_or(1, |broadcast| broadcast.factor());
        let NormTensors { weight, bias, running_mean, running_var, .. } = &self.tensors;
        let values = xs.values();
        let ys = pass.values(
            values,
            || ops::batch_norm_dims(values, weight),
            || {
                let (weight, bias) = (pass.param(weight), pass.param(bias));
                match pass.mode() {
                    Mode::Eval => {
                        let (mean, var) = (running_mean.as_detached_tensor(), running_var.as_detached_tensor());
                        ops::batch_norm_eval(values, &weight, &bias, &mean, &var, Self::EPS)
                    }
                    Mode::Train => {
                        let (ys, stats) = ops::batch_norm_train(values, &weight, &bias, Self::EPS)?;
                        let n = values.elem_count() / weight.elem_count();
                        ops::update_running_stats((running_mean, running_var), &stats, n, repeats)?;
                        Ok(ys)
                    }
                }
            },
        );
        let op = || Op::BatchNorm(NormTensors { repeats, ..self.tensors.clone() });
        Ok(pass.give(&self.name, op, &[xs], named(&self.name, ys)?, SignalKind::Analog, xs.broadcast()))
    }
}
