//! Linear layer: one matrix product over all leading dimensions.

use super::check_operands;
use super::with_gradient::with_gradient;
use candle_core::{Result, Tensor, bail};

/// Multiplies by a weight matrix and adds a bias: `ys[.., o] = bias[o] + Σ_i weight[o, i] · xs[.., i]`.
///
/// All leading dimensions become the rows of one matrix product, so that the weight gradient is one product as well.
///
/// # Shapes
/// - `xs`: `[..., F_in]`, rank 1 at least
/// - `weight`: `[F_out, F_in]`
/// - `bias`: `[F_out]`
/// - output: `[..., F_out]`
///
/// Differentiable in `xs`, `weight` and `bias`.
///
/// # Errors
/// If shapes, dtypes or devices do not fit or a size is 0.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::ops::linear;
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[1f32, 2.], &Device::Cpu)?;
/// let weight = Tensor::new(&[[1f32, 0.], [0., 1.], [1., 1.]], &Device::Cpu)?;
/// let bias = Tensor::new(&[0f32, 0., 10.], &Device::Cpu)?;
/// assert_eq!(linear(&xs, &weight, Some(&bias))?.to_vec1::<f32>()?, [1., 2., 13.]);
/// # Ok(())
/// # }
/// ```
pub fn linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let output_shape = linear_dims(xs, weight, bias)?;
    let (xs, weight) = (xs.reshape(((), weight.dims()[1]))?, weight.contiguous()?);
    let ys = xs.detach().matmul(&weight.detach().t()?)?;
    // Without bias the weight stands in for it and gets no second gradient.
    let (ys, third) = match bias {
        Some(bias) => (ys.broadcast_add(&bias.detach())?, bias),
        None => (ys, &weight),
    };
    let has_bias = bias.is_some();
    let ys = with_gradient("linear", ys, (&xs, &weight, third), move |xs, weight, bias, grad| {
        let dxs = xs.track_op().then(|| grad.matmul(&weight.detach())).transpose()?;
        let dweight = weight.track_op().then(|| grad.t()?.matmul(&xs.detach())).transpose()?;
        let dbias = (has_bias && bias.track_op()).then(|| grad.sum(0)).transpose()?;
        Ok((dxs, dweight, dbias))
    })?;
    ys.reshape(output_shape)
}

/// The shape of what [`linear`] gives, after checking the operands.
pub(crate) fn linear_dims(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Vec<usize>> {
    let describe = || {
        let bias = bias.map_or(String::new(), |bias| format!(", bias {:?}", bias.dims()));
        format!("xs {:?}, weight {:?}{bias}", xs.dims(), weight.dims())
    };
    let (Some((&f_in, leading)), &[f_out, f_weight]) = (xs.dims().split_last(), weight.dims()) else {
        bail!("linear: expected xs [..., F_in] and weight [F_out, F_in], got {}", describe());
    };
    if f_in != f_weight {
        bail!("linear: xs has {f_in} features, weight wants {f_weight}, got {}", describe());
    }
    if bias.is_some_and(|bias| bias.dims() != [f_out]) {
        bail!("linear: expected a bias of shape [{f_out}], one number per output feature, got {}", describe());
    }
    let mut operands = vec![("xs", xs), ("weight", weight)];
    operands.extend(bias.map(|bias| ("bias", bias)));
    check_operands("linear", &operands)?;
    Ok([leading, &[f_out]].concat())
}
