//! What a spiking network answers: the mean of its logits over the timesteps (Hao et al. 2024, section 4.4).

use candle_core::{Result, Tensor, bail};

/// Averages the logits over the timesteps: what the network answers.
///
/// # Shapes
/// - `logits` `[T, B, K]`: the last linear layer at each timestep, `T >= 1`
/// - returns `[B, K]`
///
/// # Errors
/// If `logits` is not of rank 3 or has no timestep.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// let logits = Tensor::new(&[[[1f32, 5.]], [[3., 7.]]], &Device::Cpu)?;
/// assert_eq!(lmht_nn::readout(&logits)?.to_vec2::<f32>()?, [[2., 6.]]);
/// # Ok(())
/// # }
/// ```
pub fn readout(logits: &Tensor) -> Result<Tensor> {
    check_timestep_logits("readout", logits)?;
    logits.mean(0)
}

/// The readout as it stood after each timestep: entry `t` is the mean over the timesteps `0..=t` (counted from zero).
///
/// Shows how soon the network knows its answer. The last entry is [`readout`], bit for bit.
///
/// # Shapes
/// - `logits` `[T, B, K]`, `T >= 1`
/// - returns `[T, B, K]`
///
/// # Errors
/// If `logits` is not of rank 3 or has no timestep.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// let logits = Tensor::new(&[[[1f32, 5.]], [[3., 7.]]], &Device::Cpu)?;
/// let cumulative = lmht_nn::cumulative_readout(&logits)?;
/// assert_eq!(cumulative.to_vec3::<f32>()?, [[[1., 5.]], [[2., 6.]]]);
/// # Ok(())
/// # }
/// ```
pub fn cumulative_readout(logits: &Tensor) -> Result<Tensor> {
    let timesteps = check_timestep_logits("cumulative_readout", logits)?;
    // Each prefix is averaged anew, in the order of `readout`, so that the last entry cannot differ from it by rounding.
    let readouts = (1..=timesteps).map(|t| readout(&logits.narrow(0, 0, t)?)).collect::<Result<Vec<_>>>()?;
    Tensor::stack(&readouts, 0)
}

/// Checks `[T, B, K]` and returns `T`.
fn check_timestep_logits(what: &str, logits: &Tensor) -> Result<usize> {
    match *logits.dims() {
        [timesteps, _, _] if timesteps > 0 => Ok(timesteps),
        ref dims => bail!("{what}: expected logits of shape [T, B, K] with T >= 1, got {dims:?}"),
    }
}
