//! What a network is trained on and scored by: readout, cross-entropy, top-1.
//!
//! A spiking network answers at every timestep. Its answer is the **readout**, the mean over the `T` timesteps of the
//! logits (Hao et al. 2024, section 4.4; the published code averages the last linear layer's output), and its loss is the
//! cross-entropy of that mean, not the mean of the cross-entropies of the timesteps.
//!
//! Everything here is composed of differentiable tensor operations, so it runs on every device; on a GPU
//! [`cross_entropy`] is a kernel. Logits of 16 bits are raised to `f32` first: a sum of exponentials in `f16` overflows, one in
//! `bf16` has three digits.
//!
//! ```
//! # fn main() -> candle_core::Result<()> {
//! use candle_core::{Device, Tensor};
//! use lmht_train::loss::{cross_entropy, readout, top1};
//!
//! // Two timesteps, one image, two classes: the readout is [1, 0].
//! let logits = Tensor::new(&[[[2f64, 0.]], [[0., 0.]]], &Device::Cpu)?;
//! let labels = Tensor::new(&[0u32], &Device::Cpu)?;
//! let mean = readout(&logits)?;
//! assert_eq!(mean.to_vec2::<f64>()?, [[1., 0.]]);
//! assert_eq!(top1(&mean, &labels)?, 1);
//!
//! // -ln( e / (e + 1) )
//! let loss = cross_entropy(&mean, &labels, 0.)?.to_scalar::<f64>()?;
//! assert!((loss - 0.313_261_687_518_222_8).abs() < 1e-15);
//! # Ok(())
//! # }
//! ```

use candle_core::{D, DType, Device, Result, Tensor, bail};
use lmht_nn::gpu;
pub use lmht_nn::{cumulative_readout, readout};

/// Counts the correct answers of the readout after each timestep: entry `t` is [`top1`] of the mean over `0..=t`.
///
/// # Shapes
/// - `logits` `[T, B, K]`, `T >= 1`
/// - `labels` `[B]`, `u32`, each below `K`
/// - returns `T` counts, each in `0..=B`; divide by the number of images for the fraction
///
/// # Errors
/// As [`readout`] and [`top1`].
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// // Wrong after the first timestep, right once the second is in.
/// let logits = Tensor::new(&[[[1f32, 0.]], [[0., 3.]]], &Device::Cpu)?;
/// let labels = Tensor::new(&[1u32], &Device::Cpu)?;
/// assert_eq!(lmht_train::loss::cumulative_top1(&logits, &labels)?, [0, 1]);
/// # Ok(())
/// # }
/// ```
pub fn cumulative_top1(logits: &Tensor, labels: &Tensor) -> Result<Vec<usize>> {
    let readouts = cumulative_readout(logits)?;
    (0..readouts.dim(0)?).map(|t| top1(&readouts.get(t)?, labels)).collect()
}

/// Cross-entropy with the labels, mean over the batch, with optional label smoothing.
///
/// With `q` the target distribution, `1 - ε + ε/K` at the label and `ε/K` elsewhere (Szegedy et al. 2016, section 7;
/// as `torch.nn.CrossEntropyLoss`):
///
/// ```text
/// loss = -1/B Σ_b Σ_k q_bk log softmax(logits)_bk        dloss/dlogits = (softmax(logits) - q) / B
/// ```
///
/// Logits of any finite size are safe: the row's maximum is subtracted before the exponential.
///
/// # Shapes
/// - `logits` `[B, K]`
/// - `labels` `[B]`, `u32`, each below `K`
/// - returns a scalar, in nats; `f64` for `f64` logits, else `f32`
///
/// # Errors
/// If shapes or types differ from these, the batch is empty, a label is not below `K`, or `label_smoothing` (ε) is not in
/// `0..=1`. On a GPU whose kernels the program has, labels are not looked at: one that is not below `K` makes the loss not a
/// number.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// use lmht_train::loss::cross_entropy;
/// // Equal logits: every class has 1/4, so the loss is ln 4, smoothed or not.
/// let logits = Tensor::zeros((2, 4), candle_core::DType::F64, &Device::Cpu)?;
/// let labels = Tensor::new(&[3u32, 0], &Device::Cpu)?;
/// for label_smoothing in [0., 0.1] {
///     let loss = cross_entropy(&logits, &labels, label_smoothing)?.to_scalar::<f64>()?;
///     assert!((loss - 4f64.ln()).abs() < 1e-15);
/// }
/// # Ok(())
/// # }
/// ```
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, label_smoothing: f64) -> Result<Tensor> {
    let (b, n_classes) = check_logits("cross_entropy", logits)?;
    // On a GPU nobody waits to look at them: a label beyond the classes makes the loss not a number.
    if labels.device().is_cpu() || !gpu::takes(logits) {
        check_labels("cross_entropy", labels, b, n_classes)?;
    }
    if !(0. ..=1.).contains(&label_smoothing) {
        bail!("cross_entropy: expected label_smoothing in 0..=1, got {label_smoothing}; 0 switches it off");
    }
    if gpu::takes(logits) {
        let loss = gpu::cross_entropy(logits, &labels.to_device(logits.device())?, label_smoothing)?;
        return Ok(loss);
    }
    let log_p = log_softmax(logits)?;
    let nll = log_p.gather(&labels.contiguous()?.unsqueeze(1)?, 1)?.sum_all()?.affine(-1. / b as f64, 0.)?;
    if label_smoothing == 0. {
        return Ok(nll);
    }
    // (1 - ε) of the hard loss and ε of the loss against the uniform distribution.
    let uniform = log_p.sum_all()?.affine(-label_smoothing / (b * n_classes) as f64, 0.)?;
    nll.affine(1. - label_smoothing, 0.)? + uniform
}

/// Cross-entropy with target distributions, mean over the batch: for Mixup, CutMix and distillation.
///
/// ```text
/// loss = -1/B Σ_b Σ_k q_bk log softmax(logits)_bk        dloss/dlogits = (softmax(logits) - q) / B
/// ```
///
/// The gradient holds for rows of `targets` that sum to 1, which is not checked (as in PyTorch, a row counts by its sum).
/// The targets are constants: no gradient reaches them.
///
/// # Shapes
/// - `logits` `[B, K]`
/// - `targets` `[B, K]`, any float type
/// - returns a scalar, in nats; `f64` for `f64` logits, else `f32`
///
/// # Errors
/// If the shapes differ from each other, are not of rank 2 or empty, or a type is no float.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// use lmht_train::loss::{cross_entropy, soft_cross_entropy};
/// let logits = Tensor::new(&[[0.5f64, -1., 2.]], &Device::Cpu)?;
/// let one_hot = Tensor::new(&[[0f64, 1., 0.]], &Device::Cpu)?;
/// let label = Tensor::new(&[1u32], &Device::Cpu)?;
/// let soft = soft_cross_entropy(&logits, &one_hot)?.to_scalar::<f64>()?;
/// let hard = cross_entropy(&logits, &label, 0.)?.to_scalar::<f64>()?;
/// assert!((soft - hard).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn soft_cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (b, _) = check_logits("soft_cross_entropy", logits)?;
    if targets.dims() != logits.dims() || !targets.dtype().is_float() {
        bail!(
            "soft_cross_entropy: expected float targets of the logits' shape {:?}, got {:?} of type {:?}; \
             labels (one number per image) go to cross_entropy",
            logits.dims(),
            targets.dims(),
            targets.dtype()
        );
    }
    let log_p = log_softmax(logits)?;
    let targets = targets.detach().to_dtype(log_p.dtype())?;
    (log_p * targets)?.sum_all()?.affine(-1. / b as f64, 0.)
}

/// Mixes target distributions with the uniform one: `(1 - ε) q + ε/K`, label smoothing for targets that are no labels.
///
/// Smoothing the targets of Mixup is the same as mixing smoothed ones, which is what timm does.
///
/// # Shapes
/// - `targets` `[B, K]`, any float type
/// - returns `[B, K]`
///
/// # Errors
/// If `targets` is no float tensor of rank 2 or has no class, or `label_smoothing` (ε) is not in `0..=1`.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// let targets = Tensor::new(&[[1f64, 0.]], &Device::Cpu)?;
/// assert_eq!(lmht_train::loss::smooth_targets(&targets, 0.5)?.to_vec2::<f64>()?, [[0.75, 0.25]]);
/// # Ok(())
/// # }
/// ```
pub fn smooth_targets(targets: &Tensor, label_smoothing: f64) -> Result<Tensor> {
    let n_classes = match *targets.dims() {
        [_, n_classes] if n_classes > 0 && targets.dtype().is_float() => n_classes,
        ref dims => {
            bail!(
                "smooth_targets: expected float targets [B, K] with K >= 1, got {dims:?} of type {:?}",
                targets.dtype()
            )
        }
    };
    if !(0. ..=1.).contains(&label_smoothing) {
        bail!("smooth_targets: expected label_smoothing in 0..=1, got {label_smoothing}; 0 switches it off");
    }
    targets.affine(1. - label_smoothing, label_smoothing / n_classes as f64)
}

/// Counts the images whose largest logit is at the label.
///
/// Of equal largest logits the first counts, as `argmax` in PyTorch on the CPU. An image with a NaN among its logits is
/// wrong, whatever its label: a network that has diverged must not score by chance.
///
/// # Shapes
/// - `logits` `[B, K]`
/// - `labels` `[B]`, `u32`, each below `K`
/// - returns a count in `0..=B`; divide by the number of images for `top1` as a fraction
///
/// # Errors
/// If shapes or types differ from these, the batch is empty, or a label is not below `K`.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// // Row 0: the maximum is class 1. Row 1: classes 0 and 2 tie, the first of them counts.
/// let logits = Tensor::new(&[[0f32, 2., 1.], [5., 0., 5.]], &Device::Cpu)?;
/// let labels = Tensor::new(&[1u32, 2], &Device::Cpu)?;
/// assert_eq!(lmht_train::loss::top1(&logits, &labels)?, 1);
/// # Ok(())
/// # }
/// ```
pub fn top1(logits: &Tensor, labels: &Tensor) -> Result<usize> {
    let (b, n_classes) = check_logits("top1", logits)?;
    let labels = check_labels("top1", labels, b, n_classes)?;
    Ok(answers(logits)?.into_iter().zip(labels).filter(|(answer, label)| *answer == Some(*label as usize)).count())
}

/// The number of a loss; Metal has no f64.
pub(crate) fn scalar(loss: &Tensor) -> Result<f64> {
    loss.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar::<f64>()
}

/// The class of each row of logits `[B, K]`, or `None` if one of them is NaN.
pub(crate) fn answers(logits: &Tensor) -> Result<Vec<Option<usize>>> {
    // f64 holds every narrower float exactly, so ties stay ties.
    let rows = logits.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    Ok(rows.iter().map(|row| first_maximum(row)).collect())
}

/// Index of the first largest number, or `None` if one is NaN.
fn first_maximum(row: &[f64]) -> Option<usize> {
    let mut best = 0;
    for (k, x) in row.iter().enumerate() {
        if x.is_nan() {
            return None;
        }
        if *x > row[best] {
            best = k;
        }
    }
    Some(best)
}

/// `logits - log Σ exp(logits)` per row, through the row's maximum.
///
/// Candle's own `softmax_last_dim` has no gradient. Its `log_softmax` has one, but sends it through the maximum too, where
/// it should cancel and leaves rounding noise; here the maximum is a constant, which changes neither value nor gradient.
fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let logits = match logits.dtype() {
        DType::F64 | DType::F32 => logits.clone(),
        _ => logits.to_dtype(DType::F32)?,
    };
    let max = logits.detach().max_keepdim(D::Minus1)?;
    let shifted = logits.broadcast_sub(&max)?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    shifted.broadcast_sub(&log_sum)
}

/// Checks non-empty float `[B, K]` and returns the two sizes.
fn check_logits(what: &str, logits: &Tensor) -> Result<(usize, usize)> {
    if !logits.dtype().is_float() {
        bail!("{what}: expected float logits, got {:?}", logits.dtype());
    }
    match *logits.dims() {
        [b, n_classes] if b > 0 && n_classes > 0 => Ok((b, n_classes)),
        ref dims => bail!(
            "{what}: expected logits of shape [B, K] with B, K >= 1, got {dims:?}; readout() averages [T, B, K] over time"
        ),
    }
}

/// Checks `u32` labels `[B]` below `n_classes` and returns them. A label out of range would index past the logits, which
/// the devices answer differently: one reports it, another reads whatever is there.
fn check_labels(what: &str, labels: &Tensor, b: usize, n_classes: usize) -> Result<Vec<u32>> {
    if labels.dtype() != DType::U32 || labels.dims() != [b] {
        bail!(
            "{what}: expected u32 labels of shape [{b}], one for each row of the logits, got {:?} of type {:?}",
            labels.dims(),
            labels.dtype()
        );
    }
    let values = labels.to_vec1::<u32>()?;
    if let Some(i) = values.iter().position(|&label| label as usize >= n_classes) {
        bail!(
            "{what}: expected labels below {n_classes}, the number of logits, got {} for image {i} of the batch; \
             does n_classes of the network match the data set?",
            values[i]
        );
    }
    Ok(values)
}
