//! The current of a reparameterized neuron: windows of timesteps, mixed by a T-GIM between windows (§4.5).

use candle_core::{Result, Tensor, bail};
use lmht_core::Schedule;

/// What each window delivered: the sum over its timesteps.
///
/// # Shapes
/// - `xs` `[LT·B, ...]`, time outermost, L = `window` timesteps in each of T = `windows` windows
/// - output `[T·B, ...]`
///
/// # Errors
/// If the first axis does not hold that many timesteps.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[[1f32], [2.], [3.], [4.]], &Device::Cpu)?; // two windows of two timesteps
/// assert_eq!(lmht_nn::ops::sum_windows(&xs, 2, 2)?.to_vec2::<f32>()?, [[3.], [7.]]);
/// # Ok(()) }
/// ```
pub fn sum_windows(xs: &Tensor, windows: usize, window: usize) -> Result<Tensor> {
    if window == 1 {
        return Ok(xs.clone());
    }
    let flat = by_window("sum_windows", xs, windows, window)?;
    let mut dims = xs.dims().to_vec();
    dims[0] /= window;
    flat.sum(1)?.reshape(dims)
}

/// Gives the first timestep of each window the whole of `xs` and the others nothing: [`sum_windows`] takes it back.
///
/// # Shapes
/// - `xs` `[T·B, ...]`, time outermost
/// - output `[LT·B, ...]`
///
/// # Errors
/// If the first axis does not hold T timesteps.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[[3f32], [7.]], &Device::Cpu)?;
/// assert_eq!(lmht_nn::ops::front_load(&xs, 2, 2)?.to_vec2::<f32>()?, [[3.], [0.], [7.], [0.]]);
/// # Ok(()) }
/// ```
pub fn front_load(xs: &Tensor, windows: usize, window: usize) -> Result<Tensor> {
    if window == 1 {
        return Ok(xs.clone());
    }
    let flat = by_window("front_load", xs, windows, 1)?; // [T, 1, n]
    let nothing = Tensor::zeros((windows, window - 1, flat.dim(2)?), xs.dtype(), xs.device())?;
    let mut dims = xs.dims().to_vec();
    dims[0] *= window;
    Tensor::cat(&[&flat, &nothing], 1)?.reshape(dims)
}

/// The current I of every timestep of a reparameterized neuron: the matrix of [`Schedule::expand`] times `xs`.
///
/// The matrix has two values a block, so the windows are summed, mixed by Ω and laid out, in a T-th to an L-th of the work.
///
/// # Shapes
/// - `xs` `[LT·B, ...]`, time outermost
/// - `omega` `[T, T]` between windows; `None` is the identity
/// - output: the shape of `xs`
///
/// # Errors
/// If the first axis does not hold T windows of L timesteps, or Ω has another shape or type.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::{Schedule, ops::mix_windows};
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[[1f64], [2.], [3.], [4.]], &Device::Cpu)?; // delivered: 3 and 7
/// let omega = Tensor::new(&[[0.5f64, 0.5], [1., 0.]], &Device::Cpu)?;
/// let current = |schedule| mix_windows(&xs, Some(&omega), 2, 2, schedule)?.to_vec2::<f64>();
/// assert_eq!(current(Schedule::FrontLoaded)?, [[5.], [0.], [3.], [0.]]);
/// assert_eq!(current(Schedule::Uniform)?, [[2.5], [2.5], [1.5], [1.5]]);
/// # Ok(()) }
/// ```
pub fn mix_windows(
    xs: &Tensor,
    omega: Option<&Tensor>,
    windows: usize,
    window: usize,
    schedule: Schedule,
) -> Result<Tensor> {
    let delivered = by_window("mix_windows", xs, windows, window)?.sum(1)?; // [T, n]
    let current = match omega {
        Some(omega) => omega.matmul(&delivered)?,
        None => delivered,
    };
    let (windows, n) = current.dims2()?;
    let current = match schedule {
        Schedule::FrontLoaded => front_load(&current, windows, window)?,
        Schedule::Uniform => {
            let share = (current / window as f64)?.unsqueeze(1)?;
            share.broadcast_as((windows, window, n))?.contiguous()?
        }
    };
    current.reshape(xs.shape())
}

/// `[windows · window · B, ...]` as `[windows, window, n]`.
fn by_window(op: &str, xs: &Tensor, windows: usize, window: usize) -> Result<Tensor> {
    let steps = windows * window;
    if xs.rank() == 0 || steps == 0 || !xs.dims()[0].is_multiple_of(steps) || xs.elem_count() == 0 {
        bail!(
            "{op}: expected {windows} windows of {window} timesteps, got an input of shape {:?}; its first axis must be a \
             multiple of {steps} and no axis empty",
            xs.dims()
        )
    }
    xs.contiguous()?.reshape((windows, window, xs.elem_count() / steps))
}
