//! The loss: cross-entropy of the readout, and its gradient (`kernels/loss.h`).

use super::shared::{SUMS, count, elements, expect, finish, size};
use crate::{Arg, Dtype, Machine, Operation, Program, Result};

pub(crate) const OPERATION: Operation = Operation {
    name: "loss",
    texts: &[SUMS, include_str!("../../kernels/loss.h")],
    kernels: &["cross_entropy", "finish_sums"],
};

/// How the loss is taken.
#[derive(Debug, Clone, Copy)]
pub struct CrossEntropy {
    /// T of the logits `[T, images, classes]`.
    pub timesteps: usize,
    /// ε: the share of the loss against the uniform distribution.
    pub label_smoothing: f64,
    /// A factor of the gradient alone, for f16; 1 else.
    pub loss_scale: f64,
}

/// The mean over the images of the cross-entropy `[1]`, and `loss_scale` times its gradient, as the logits.
/// `labels` `[images]` are u32; a label beyond the classes makes the loss not a number.
///
/// # Errors
/// An operand of another size or type; a label smoothing beyond 0..=1.
pub fn cross_entropy<M: Machine>(
    m: &M,
    how: CrossEntropy,
    logits: &M::Buffer,
    labels: &M::Buffer,
) -> Result<(M::Buffer, M::Buffer)> {
    let (dtype, images, len) = (elements(m, "loss: logits", logits)?, m.len(labels), m.len(logits));
    let blocks = count("loss: labels", images)?;
    count("loss: logits", len)?;
    expect(m, "loss: labels", labels, Dtype::U32, images)?;
    if how.timesteps == 0 || !len.is_multiple_of(images * how.timesteps) {
        let expected = format!("[T, images, classes] with T = {} and {images} images", how.timesteps);
        return size("loss: logits", expected, format!("{len} values"));
    }
    if !(0.0..=1.0).contains(&how.label_smoothing) {
        return size("loss: label_smoothing", "0..=1", how.label_smoothing);
    }
    let classes = (len / images / how.timesteps) as u32;
    let defines = vec![("TIMESTEPS", how.timesteps as u32)];
    let program = Program { operation: OPERATION, dtype, width: 1, threads: m.threads(), defines };
    let (mut losses, mut grad) = (m.alloc(dtype.real(), images)?, m.alloc(dtype, len)?);
    let mut args = [
        Arg::In(logits),
        Arg::In(labels),
        Arg::Out(&mut losses),
        Arg::Out(&mut grad),
        Arg::U32(classes),
        Arg::Real(how.label_smoothing),
        Arg::Real(how.loss_scale),
    ];
    m.launch(&program, "cross_entropy", blocks, &mut args)?;
    Ok((finish(m, &program, &losses, blocks, 1)?, grad))
}
