//! Batch norm, and batch norm with shortcut and neuron as one pass, over maps with channels last. Nothing here is tracked.
//!
//! Learned tensors, statistics, norms and their gradients have the type that arithmetic is in: f32, or f64 with f64.

use candle_core::{DType, Result, Tensor, bail};
use lmht_core::LmhtNeuron;
use lmht_gpu::plans::batch_norm::{self, Affine, Statistics};
use lmht_gpu::plans::cast;
use lmht_gpu::plans::norm_neuron::{self, Inputs, Shortcut};
use lmht_gpu::{Dtype, Machine};

use super::kernel::flat;
use super::run::run;
use super::work::Work;

/// What a batch norm is made of, `[C]` each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NormInputs<'a> {
    pub(crate) weight: &'a Tensor,
    pub(crate) bias: &'a Tensor,
    pub(crate) mean: &'a Tensor,
    pub(crate) var: &'a Tensor,
}

/// The norm `[4, C]` of a batch, and the running mean and variance after it. `momentum` is the batch's share in these;
/// `repeats` how often each row stands.
pub(crate) fn batch_statistics(
    xs: &Tensor,
    inputs: NormInputs<'_>,
    (eps, momentum): (f64, f64),
    repeats: usize,
) -> Result<[Tensor; 3]> {
    let NormInputs { weight, bias, mean, var } = inputs;
    let how = Statistics { eps, momentum, repeats: repeats as u32 };
    three("batch norm", run(&OfBatch(how), &[xs, weight, bias, mean, var])?.into_iter().map(flat))
}

/// The norm `[4, C]` by running statistics, for values like `xs`.
pub(crate) fn running_norm(xs: &Tensor, inputs: NormInputs<'_>, eps: f64) -> Result<Tensor> {
    let NormInputs { weight, bias, mean, var } = inputs;
    first("batch norm", run(&OfRunning(eps), &[xs, weight, bias, mean, var])?.into_iter().map(flat))
}

/// Values by a norm, in the shape of `xs`.
pub(crate) fn normalize(xs: &Tensor, norm: &Tensor) -> Result<Tensor> {
    first("batch norm", run(&Normalize, &[xs, norm])?.into_iter().map(flat))?.reshape(xs.shape())
}

/// dLoss/dxs, and `[2, C]`: dLoss/dbias and dLoss/dweight. `frozen`: the statistics are constants.
pub(crate) fn normalize_backward(frozen: bool, xs: &Tensor, norm: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
    let mut outputs = run(&NormalizeBackward(frozen), &[xs, norm, grad])?.into_iter().map(flat);
    match (outputs.next(), outputs.next()) {
        (Some(grad_xs), Some(affine)) => Ok((grad_xs.reshape(xs.shape())?, affine.reshape((2, ()))?)),
        _ => bail!("batch norm: no gradients; this is a bug of lmht-nn, please report it"),
    }
}

/// What is added to a normalised synapse before its neuron: nothing, a value, or a value with a norm of its own.
#[derive(Debug, Clone)]
pub(crate) enum Added {
    Nothing,
    Plain(Tensor),
    Normalized(Tensor, Tensor),
}

/// Batch norm, sum and neuron as one pass; the current between them is never written.
#[derive(Debug, Clone)]
pub(crate) struct NormNeuron {
    pub(crate) neuron: LmhtNeuron,
    /// The synapse's output, all timesteps.
    pub(crate) xs: Tensor,
    pub(crate) norm: Tensor,
    pub(crate) added: Added,
    /// Ω row by row unless it is the identity, λ.
    pub(crate) learned: Tensor,
}

/// What flows back from [`NormNeuron`].
#[derive(Debug)]
pub(crate) struct NormNeuronGradients {
    pub(crate) xs: Tensor,
    pub(crate) added: Option<Tensor>,
    /// `[2, C]`: dLoss/dbias and dLoss/dweight; with a norm of what is added `[3, C]`, whose bias has the first and whose weight
    /// the third.
    pub(crate) affine: Tensor,
    pub(crate) learned: Tensor,
}

impl NormNeuron {
    fn inputs(&self) -> Vec<&Tensor> {
        let mut inputs = vec![&self.xs, &self.norm, &self.learned];
        match &self.added {
            Added::Nothing => {}
            Added::Plain(added) => inputs.push(added),
            Added::Normalized(added, norm) => inputs.extend([added, norm]),
        }
        inputs
    }

    /// The spikes s·θ, in the shape of the synapse's output, and if `packs` as bytes, for [`unpack`].
    pub(crate) fn forward(&self, packs: bool) -> Result<(Tensor, Option<Tensor>)> {
        let mut outputs = run(&NormNeuronForward { layer: self, packs }, &self.inputs())?.into_iter().map(flat);
        let ys = first("neuron", outputs.by_ref())?.reshape(self.xs.shape())?;
        Ok((ys, outputs.next()))
    }

    /// The gradients for that of the spikes; the currents are computed once more.
    pub(crate) fn backward(&self, frozen: bool, grad: &Tensor) -> Result<NormNeuronGradients> {
        let mut inputs = self.inputs();
        inputs.push(grad);
        let mut outputs = run(&NormNeuronBackward { layer: self, frozen }, &inputs)?.into_iter().map(flat);
        let [xs, affine, learned] = three("neuron", outputs.by_ref().take(3))?;
        let rows = if matches!(self.added, Added::Normalized(..)) { 3 } else { 2 };
        let added = outputs.next().map(|added| added.reshape(self.xs.shape())).transpose()?;
        Ok(NormNeuronGradients {
            xs: xs.reshape(self.xs.shape())?,
            added,
            affine: affine.reshape((rows, ()))?,
            learned,
        })
    }

    /// The buffers of [`Self::inputs`] as the plan takes them.
    fn buffers<'a, B>(&self, buffers: &'a [B]) -> Inputs<'a, B> {
        let shortcut = match self.added {
            Added::Nothing => Shortcut::None,
            Added::Plain(_) => Shortcut::Plain(&buffers[3]),
            Added::Normalized(..) => Shortcut::Normalized(&buffers[3], &buffers[4]),
        };
        Inputs { xs: &buffers[0], norm: &buffers[1], shortcut, learned: &buffers[2] }
    }
}

/// Spikes s·θ from their bytes, flat.
pub(crate) fn unpack(bytes: &Tensor, theta: f64, dtype: DType) -> Result<Tensor> {
    first("spikes", run(&Unpack { theta, to: float(dtype)? }, &[bytes])?.into_iter().map(flat))
}

fn float(dtype: DType) -> Result<Dtype> {
    Ok(match dtype {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::Bf16,
        dtype => bail!("spikes: expected a float type, got {dtype:?}"),
    })
}

struct Unpack {
    theta: f64,
    to: Dtype,
}

impl Work for Unpack {
    fn run<M: Machine>(&self, m: &M, inputs: &[M::Buffer]) -> lmht_gpu::Result<Vec<M::Buffer>> {
        Ok(vec![cast::unpack(m, self.theta, &inputs[0], self.to)?])
    }
}

struct NormNeuronForward<'a> {
    layer: &'a NormNeuron,
    packs: bool,
}

impl Work for NormNeuronForward<'_> {
    fn run<M: Machine>(&self, m: &M, inputs: &[M::Buffer]) -> lmht_gpu::Result<Vec<M::Buffer>> {
        let spikes = norm_neuron::forward(m, &self.layer.neuron, self.packs, &self.layer.buffers(inputs))?;
        Ok([spikes.ys].into_iter().chain(spikes.packed).collect())
    }
}

struct NormNeuronBackward<'a> {
    layer: &'a NormNeuron,
    frozen: bool,
}

impl Work for NormNeuronBackward<'_> {
    fn run<M: Machine>(&self, m: &M, inputs: &[M::Buffer]) -> lmht_gpu::Result<Vec<M::Buffer>> {
        let (buffers, grad) = (self.layer.buffers(inputs), &inputs[inputs.len() - 1]);
        let gradients = norm_neuron::backward(m, &self.layer.neuron, self.frozen, &buffers, grad)?;
        Ok([gradients.xs, gradients.affine, gradients.learned].into_iter().chain(gradients.shortcut).collect())
    }
}

struct OfBatch(Statistics);

impl Work for OfBatch {
    fn run<M: Machine>(&self, m: &M, inputs: &[M::Buffer]) -> lmht_gpu::Result<Vec<M::Buffer>> {
        let affine = Affine { weight: &inputs[1], bias: &inputs[2] };
        // Copies: a kernel writes no tensor that somebody else sees.
        let (mut mean, mut var) = (cast::widen(m, &inputs[3])?, cast::widen(m, &inputs[4])?);
        let norm = batch_norm::statistics(m, self.0, &inputs[0], &affine, (&mut mean, &mut var))?;
        Ok(vec![norm, mean, var])
    }
}

struct OfRunning(f64);

impl Work for OfRunning {
    fn run<M: Machine>(&self, m: &M, inputs: &[M::Buffer]) -> lmht_gpu::Result<Vec<M::Buffer>> {
        let affine = Affine { weight: &inputs[1], bias: &inputs[2] };
        Ok(vec![batch_norm::running_norm(m, m.dtype(&inputs[0]), self.0, &affine, (&inputs[3], &inputs[4]))?])
    }
}

struct Normalize;

impl Work for Normalize {
    fn run<M: Machine>(&self, m: &M, inputs: &[M::Buffer]) -> lmht_gpu::Result<Vec<M::Buffer>> {
        Ok(vec![batch_norm::forward(m, &inputs[0], &inputs[1])?])
    }
}

struct NormalizeBackward(bool);

impl Work for NormalizeBackward {
    fn run<M: Machine>(&self, m: &M, inputs: &[M::Buffer]) -> lmht_gpu::Result<Vec<M::Buffer>> {
        let gradients = batch_norm::backward(m, self.0, &inputs[0], &inputs[1], &inputs[2])?;
        Ok(vec![gradients.xs, gradients.affine])
    }
}

fn first(what: &str, mut outputs: impl Iterator<Item = Tensor>) -> Result<Tensor> {
    match outputs.next() {
        Some(output) => Ok(output),
        None => bail!("{what}: no output; this is a bug of lmht-nn, please report it"),
    }
}

fn three(what: &str, mut outputs: impl Iterator<Item = Tensor>) -> Result<[Tensor; 3]> {
    match (outputs.next(), outputs.next(), outputs.next()) {
        (Some(a), Some(b), Some(c)) => Ok([a, b, c]),
        _ => bail!("{what}: too few outputs; this is a bug of lmht-nn, please report it"),
    }
}
