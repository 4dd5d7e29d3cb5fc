//! The operations that have kernels, as differentiable operations of Candle.

use candle_core::op::BackpropOp;
use candle_core::{Result, Shape, Storage, Tensor};
use lmht_core::{IlifNeuron, LmhtNeuron, QcfsGate, TernaryNeuron};
use lmht_gpu::Machine;
use lmht_gpu::plans::batch_norm::{self, Affine, Statistics};
use lmht_gpu::plans::pool::{self, Windows};
use lmht_gpu::plans::{cast, ilif, neuron, qcfs, ternary};

use super::run::run;
use super::work::Work;
use crate::ops::with_gradient::with_storage;

/// An operation and what it is specialised by. Inputs that are learned, statistics and sums have the type that arithmetic is
/// in: f64 with f64, else f32.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kernel {
    /// Currents `[T, n]`, Ω row by row unless it is the identity, λ.
    Neuron(LmhtNeuron),
    /// Currents `[T, n]`.
    Ilif(IlifNeuron),
    /// Currents `[T, n]`, the amplitude `[1]`.
    Ternary(TernaryNeuron),
    /// Numbers, ϑ `[1]`.
    Qcfs(u32, QcfsGate),
    /// Maps, channels last; also gives where the maxima were.
    MaxPool(Windows),
    /// Maps, channels last.
    AvgPool(Windows),
    /// Maps, channels last, weight, bias, zeros `[C]`; also gives the norm, the mean and the unbiased variance.
    BatchNorm { eps: f64 },
    /// Maps, channels last, weight, bias, running mean and variance; also gives the norm.
    RunningNorm { eps: f64 },
}

impl Kernel {
    fn name(&self) -> &'static str {
        match self {
            Self::Neuron(_) => "spiking-neuron",
            Self::Ilif(_) => "ilif-neuron",
            Self::Ternary(_) => "ternary-neuron",
            Self::Qcfs(..) => "qcfs",
            Self::MaxPool(_) => "max_pool2d",
            Self::AvgPool(_) => "avg_pool2d",
            Self::BatchNorm { .. } | Self::RunningNorm { .. } => "batch_norm",
        }
    }
}

struct Forward<'a>(&'a Kernel);

impl Work for Forward<'_> {
    /// The output, then what else the operation gives.
    fn run<M: Machine>(&self, m: &M, inputs: &[M::Buffer]) -> lmht_gpu::Result<Vec<M::Buffer>> {
        let xs = &inputs[0];
        Ok(match self.0 {
            Kernel::Neuron(layer) => vec![neuron::forward(m, layer, xs, &inputs[1])?],
            Kernel::Ilif(layer) => vec![ilif::forward(m, layer, xs)?],
            Kernel::Ternary(layer) => vec![ternary::forward(m, layer, xs, &inputs[1])?],
            Kernel::Qcfs(levels, _) => vec![qcfs::forward(m, *levels, xs, &inputs[1])?],
            Kernel::MaxPool(windows) => {
                let (ys, best) = pool::max_forward(m, windows, xs)?;
                vec![ys, best]
            }
            Kernel::AvgPool(windows) => vec![pool::average_forward(m, windows, xs)?],
            Kernel::BatchNorm { eps } => {
                let affine = Affine { weight: &inputs[1], bias: &inputs[2] };
                // All of the batch and nothing of what was there: its mean and unbiased variance.
                let how = Statistics { eps: *eps, momentum: 1., repeats: 1 };
                let (mut mean, mut var) = (cast::widen(m, &inputs[3])?, cast::widen(m, &inputs[3])?);
                let norm = batch_norm::statistics(m, how, xs, &affine, (&mut mean, &mut var))?;
                vec![batch_norm::forward(m, xs, &norm)?, norm, mean, var]
            }
            Kernel::RunningNorm { eps } => {
                let affine = Affine { weight: &inputs[1], bias: &inputs[2] };
                let norm = batch_norm::running_norm(m, m.dtype(xs), *eps, &affine, (&inputs[3], &inputs[4]))?;
                vec![batch_norm::forward(m, xs, &norm)?, norm]
            }
        })
    }
}

/// The way back for the gradient of the output, whose buffer is the last input. Between the operation's own inputs and it
/// stands what the forward pass kept.
struct Backward<'a>(&'a Kernel);

impl Work for Backward<'_> {
    /// dLoss/dxs, then that of what is learned.
    fn run<M: Machine>(&self, m: &M, inputs: &[M::Buffer]) -> lmht_gpu::Result<Vec<M::Buffer>> {
        let (xs, grad) = (&inputs[0], &inputs[inputs.len() - 1]);
        let both = |gradients: lmht_gpu::plans::Gradients<M::Buffer>| vec![gradients.xs, gradients.learned];
        Ok(match self.0 {
            Kernel::Neuron(layer) => both(neuron::backward(m, layer, xs, &inputs[1], grad)?),
            Kernel::Ilif(layer) => vec![ilif::backward(m, layer, xs, grad)?],
            Kernel::Ternary(layer) => both(ternary::backward(m, layer, xs, &inputs[1], grad)?),
            Kernel::Qcfs(levels, gate) => both(qcfs::backward(m, *levels, *gate, xs, &inputs[1], grad)?),
            Kernel::MaxPool(windows) => vec![pool::max_backward(m, windows, grad, &inputs[inputs.len() - 2])?],
            Kernel::AvgPool(windows) => vec![pool::average_backward(m, windows, grad)?],
            Kernel::BatchNorm { .. } | Kernel::RunningNorm { .. } => {
                let frozen = matches!(self.0, Kernel::RunningNorm { .. });
                let gradients = batch_norm::backward(m, frozen, xs, &inputs[inputs.len() - 2], grad)?;
                vec![gradients.xs, gradients.affine]
            }
        })
    }
}

/// What the operation gives for `inputs`, flat: the output first.
pub(crate) fn forward(kernel: &Kernel, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    Ok(run(&Forward(kernel), inputs)?.into_iter().map(flat).collect())
}

/// The gradients, flat: of the operation's first input, then of what is learned. `inputs` are its own, what the forward pass
/// gave beside the output, and the gradient of the output.
pub(crate) fn backward(kernel: &Kernel, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    Ok(run(&Backward(kernel), inputs)?.into_iter().map(flat).collect())
}

/// The output of `shape`, differentiable in `xs` and up to two `learned` tensors, and what else the forward pass gives, flat.
/// `constants` follow them as inputs.
///
/// `xs` must be tracked where it wants a gradient; everything is on one device.
pub(crate) fn apply(
    kernel: Kernel,
    xs: &Tensor,
    learned: &[&Tensor],
    constants: &[&Tensor],
    shape: impl Into<Shape>,
) -> Result<(Tensor, Vec<Tensor>)> {
    let inputs: Vec<&Tensor> = [xs].into_iter().chain(learned.iter().chain(constants).copied()).collect();
    let mut outputs = run(&Forward(&kernel), &inputs)?.into_iter();
    let Some((ys, _)) = outputs.next() else { candle_core::bail!("{}: no output", kernel.name()) };
    let others: Vec<Tensor> = outputs.map(flat).collect();
    let n_learned = learned.len();
    // What the backward pass reads: the norm, or where the maxima were.
    let kept: Vec<Tensor> = others.iter().take(1).cloned().collect();
    let args = (xs, *learned.first().unwrap_or(&xs), *learned.get(1).unwrap_or(&xs));
    let ys = with_storage(kernel.name(), (ys, shape.into()), args, move |xs, first, second, grad| {
        let learned = &[first, second][..n_learned];
        let inputs: Vec<&Tensor> = [xs].into_iter().chain(learned.iter().copied()).chain(&kept).chain([grad]).collect();
        let mut outputs = backward(&kernel, &inputs)?.into_iter();
        let grad_xs = outputs.next().map(|grad| grad.reshape(xs.shape())).transpose()?;
        let of_learned = outputs.next();
        let (of_first, of_second) = match (n_learned, of_learned) {
            (2, Some(of_learned)) => {
                // dLoss/dbias comes first.
                let halves = of_learned.reshape((2, first.elem_count()))?;
                (Some(halves.get(1)?), Some(halves.get(0)?))
            }
            (_, of_learned) => (of_learned.map(|grad| grad.reshape(first.shape())).transpose()?, None),
        };
        let tracked = |of: &Tensor, grad: Option<Tensor>| grad.filter(|_| of.track_op());
        Ok((tracked(xs, grad_xs), tracked(first, of_first), tracked(second, of_second)))
    })?;
    Ok((ys, others))
}

/// A result as a tensor `[n]`.
pub(super) fn flat((storage, n): (Storage, usize)) -> Tensor {
    Tensor::from_storage(storage, n, BackpropOp::none(), false)
}
