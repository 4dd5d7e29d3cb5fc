//! Repeating a static input at every timestep.

use candle_core::{Result, Tensor, bail};

use super::check_operands;

/// Gives every timestep the same input: `ys[t] = xs` for `t` in `0..timesteps`.
///
/// The stem's current of a static image is computed once and repeated. The gradient is the sum over timesteps.
///
/// # Shapes
/// - `xs`: `[B, ...]`
/// - output: `[T, B, ...]`
///
/// # Errors
/// If `timesteps` is 0 or `xs` is empty or not floating point.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::ops::repeat_time;
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[1f32, 2.], &Device::Cpu)?;
/// assert_eq!(repeat_time(&xs, 3)?.to_vec2::<f32>()?, [[1., 2.], [1., 2.], [1., 2.]]);
/// # Ok(())
/// # }
/// ```
pub fn repeat_time(xs: &Tensor, timesteps: usize) -> Result<Tensor> {
    check_operands("repeat_time", &[("xs", xs)])?;
    if timesteps == 0 {
        bail!("repeat_time: expected at least one timestep, got 0 for xs {:?}", xs.dims());
    }
    xs.unsqueeze(0)?.broadcast_as([&[timesteps], xs.dims()].concat())?.contiguous()
}
