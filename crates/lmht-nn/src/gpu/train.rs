//! What a training step does after the network, by kernels: the loss, and the update of all parameters at once.

use candle_core::{DType, Device, Result, Tensor, bail};
use lmht_gpu::Machine;
use lmht_gpu::plans::cast;
use lmht_gpu::plans::loss::{self, CrossEntropy};
use lmht_gpu::plans::optimizer::{self, AdamW, Parameters, Scaling, Sgd};

use super::kernel::flat;
use super::run::run;
use super::work::Work;
use crate::ops::as_real;
use crate::ops::with_gradient::with_gradient;

/// The mean cross-entropy of logits `[B, K]` with labels `[B]` (u32), differentiable, in one launch. Logits and labels are on
/// one device that [`takes`](super::takes) them; a label beyond the classes makes the loss not a number.
///
/// # Errors
/// If shapes or types differ from these, or `label_smoothing` is not in `0..=1`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::gpu;
///
/// # fn main() -> candle_core::Result<()> {
/// let (logits, labels) = (Tensor::zeros((2, 4), candle_core::DType::F64, &Device::Cpu)?, Tensor::new(&[3u32, 0], &Device::Cpu)?);
/// let Some(loss) = gpu::emulated(|| gpu::cross_entropy(&logits, &labels, 0.)) else { return Ok(()) };
/// assert!((loss?.to_scalar::<f64>()? - 4f64.ln()).abs() < 1e-15);
/// # Ok(()) }
/// ```
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, label_smoothing: f64) -> Result<Tensor> {
    let (b, _) = logits.dims2()?;
    if labels.dims() != [b] || labels.dtype() != DType::U32 || b == 0 {
        bail!("cross_entropy: expected u32 labels [{b}], got {:?} of type {:?}", labels.dims(), labels.dtype())
    }
    let how = CrossEntropy { timesteps: 1, label_smoothing, loss_scale: 1. };
    let mut outputs = run(&Loss(how), &[logits, labels])?.into_iter().map(flat);
    let (Some(loss), Some(grad)) = (outputs.next(), outputs.next()) else { bail!("cross_entropy: no loss") };
    let grad = grad.reshape(logits.shape())?;
    with_gradient("cross_entropy", loss.reshape(())?, (logits, logits, logits), move |logits, _, _, upstream| {
        let upstream = upstream.to_dtype(grad.dtype())?;
        Ok((logits.track_op().then(|| grad.broadcast_mul(&upstream)).transpose()?, None, None))
    })
}

struct Loss(CrossEntropy);

impl Work for Loss {
    fn run<M: Machine>(&self, m: &M, inputs: &[M::Buffer]) -> lmht_gpu::Result<Vec<M::Buffer>> {
        let (loss, grad) = loss::cross_entropy(m, self.0, &inputs[0], &inputs[1])?;
        Ok(vec![loss, grad])
    }
}

/// Σ g² of all elements, `[1]`, in f32, or f64 with f64: not finite if one of them is not.
///
/// # Errors
/// If no kernel takes such a tensor.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::gpu;
///
/// # fn main() -> candle_core::Result<()> {
/// let grads = Tensor::new(&[3f64, 4.], &Device::Cpu)?;
/// let Some(sum) = gpu::emulated(|| gpu::sum_squares(&grads)) else { return Ok(()) };
/// assert_eq!(sum?.to_vec1::<f64>()?, [25.]);
/// # Ok(()) }
/// ```
pub fn sum_squares(grads: &Tensor) -> Result<Tensor> {
    match run(&SumSquares, &[grads])?.into_iter().next() {
        Some(sum) => Ok(flat(sum)),
        None => bail!("sum_squares: no sum"),
    }
}

struct SumSquares;

impl Work for SumSquares {
    fn run<M: Machine>(&self, m: &M, inputs: &[M::Buffer]) -> lmht_gpu::Result<Vec<M::Buffer>> {
        Ok(vec![optimizer::sum_squares(m, &inputs[0])?])
    }
}

/// An update rule and its numbers.
#[derive(Debug, Clone, Copy)]
pub enum Rule {
    /// Keeps a velocity.
    Sgd(Sgd),
    /// Keeps the mean of the gradients, then that of their squares.
    AdamW(AdamW),
}

/// All parameters, one after the other, `[n]`: f32 or f64.
#[derive(Debug)]
pub struct Flat<'a> {
    /// The parameters.
    pub params: &'a Tensor,
    /// Their gradients.
    pub grads: &'a Tensor,
    /// [`sum_squares`] of all gradients of the step: where it is not finite, nothing changes.
    pub sum_squares: &'a Tensor,
    /// What the rule keeps, zeros before the first update.
    pub states: &'a [Tensor],
    /// λ of the weight decay.
    pub weight_decay: f64,
}

/// The parameters and states after an update, in one launch.
///
/// # Errors
/// If the tensors differ in size, type or device, or the rule keeps another number of states.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::gpu::{self, Flat, Rule, Sgd};
///
/// # fn main() -> candle_core::Result<()> {
/// let number = |x: f64| Tensor::new(&[x], &Device::Cpu);
/// let (params, grads, states) = (number(1.)?, number(2.)?, [number(0.)?]);
/// let rule = Rule::Sgd(Sgd { lr: 0.25, momentum: 0.9, nesterov: false });
/// let Some(updated) = gpu::emulated(|| {
///     let sum_squares = &gpu::sum_squares(&grads)?;
///     gpu::update(rule, &Flat { params: &params, grads: &grads, sum_squares, states: &states, weight_decay: 0. })
/// }) else { return Ok(()) };
/// let (params, states) = updated?;
/// assert_eq!((params.to_vec1::<f64>()?, states[0].to_vec1::<f64>()?), (vec![0.5], vec![2.]));
/// # Ok(()) }
/// ```
pub fn update(rule: Rule, flat_tensors: &Flat<'_>) -> Result<(Tensor, Vec<Tensor>)> {
    let Flat { params, grads, sum_squares, states, weight_decay } = flat_tensors;
    let expected = match rule {
        Rule::Sgd(_) => 1,
        Rule::AdamW(_) => 2,
    };
    if states.len() != expected {
        bail!("update: expected {expected} states, got {}", states.len())
    }
    let there = |tensor: Tensor| tensor.to_device(params.device());
    // One tensor, as far as the weight decay goes.
    let ends = there(Tensor::new(&[params.elem_count() as u32], &Device::Cpu)?)?;
    let decays = there(as_real(&Tensor::new(&[*weight_decay], &Device::Cpu)?.to_dtype(params.dtype())?)?)?;
    let mut inputs = vec![*grads, &ends, &decays, *sum_squares, *params];
    inputs.extend(*states);
    let mut outputs = run(&Update(rule), &inputs)?.into_iter().map(flat);
    match outputs.next() {
        Some(params) => Ok((params, outputs.collect())),
        None => bail!("update: no parameters"),
    }
}

struct Update(Rule);

impl Work for Update {
    fn run<M: Machine>(&self, m: &M, inputs: &[M::Buffer]) -> lmht_gpu::Result<Vec<M::Buffer>> {
        // Copies: a kernel writes no tensor that somebody else sees.
        let mut params = cast::widen(m, &inputs[4])?;
        let mut states = inputs[5..].iter().map(|state| cast::widen(m, state)).collect::<lmht_gpu::Result<Vec<_>>>()?;
        let mut copies = m.alloc(m.dtype(&inputs[0]), m.len(&inputs[0]))?;
        let parts = Parameters {
            grads: &inputs[0],
            ends: &inputs[1],
            decays: &inputs[2],
            sum_squares: &inputs[3],
            params: &mut params,
            copies: &mut copies,
        };
        let scaling = Scaling { loss_scale: 1., max_norm: 0. };
        match (self.0, &mut states[..]) {
            (Rule::Sgd(rule), [velocity]) => optimizer::sgd(m, rule, scaling, parts, velocity)?,
            (Rule::AdamW(rule), [means, squares]) => optimizer::adamw(m, rule, scaling, parts, (means, squares))?,
            // `update` has counted them.
            _ => {}
        }
        Ok([params].into_iter().chain(states).collect())
    }
}
