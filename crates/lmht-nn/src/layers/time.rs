//! From rows that stand for several timesteps to the rows of all timesteps.

use crate::ops;
use crate::signal::TimeBroadcast;
use crate::trace::Op;
use crate::{Pass, Result, Signal};

/// The same signal with a row for every timestep. What depends on a static image alone has fewer ([`Signal::broadcast`]); a
/// neuron asks for all by itself.
///
/// # Errors
/// If the signal is empty.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_nn::layers::at_every_timestep;
/// use lmht_nn::{Pass, Signal};
///
/// # fn main() -> lmht_nn::Result<()> {
/// let frames = Signal::analog(Tensor::ones((2 * 4, 3), DType::F32, &Device::Cpu)?);
/// assert_eq!(at_every_timestep(&frames, &mut Pass::eval())?.values().dims(), [8, 3]); // it had all
/// # Ok(()) }
/// ```
pub fn at_every_timestep(xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
    let Some(broadcast) = xs.broadcast() else { return Ok(xs.clone()) };
    let mut dims = xs.values().dims().to_vec();
    dims[0] *= broadcast.factor();
    let values = pass.values(
        xs.values(),
        || Ok(dims.clone()),
        || match broadcast {
            TimeBroadcast::Repeated(timesteps) => ops::repeat_time(xs.values(), timesteps)?.flatten(0, 1),
            TimeBroadcast::Held { windows, window } => {
                let frames = xs.values().reshape((windows, 1, xs.values().elem_count() / windows))?;
                frames.repeat((1, window, 1))?.reshape(dims.clone())
            }
        },
    )?;
    Ok(pass.give("", || Op::Broadcast(broadcast), &[xs], values, xs.kind(), None))
}
