//! Spiking self-attention without a softmax (Zhou et al. 2023, Spikformer).

use crate::observer::ProductEvent;
use crate::ops;
use crate::trace::{AttentionShape, Op};
use crate::{Pass, Result, Signal, SignalKind};

use super::named::named;

/// `scale · (q kᵀ) v` in every head, over the tokens of each image at each timestep. It has no parameters.
///
/// Products of spikes are not linear, so in a reparameterized network they run once a window, on the window's counts, and the
/// first timestep of the window gets the result.
#[derive(Debug, Clone)]
pub struct Attention {
    name: String,
    shape: AttentionShape,
}

impl Attention {
    /// An attention called `name`, whose heads share the channels, over `windows` windows of `window` timesteps (T windows of
    /// 1 in a network that is not reparameterized).
    pub fn new(name: String, heads: usize, scale: f64, (windows, window): (usize, usize)) -> Self {
        Self { name, shape: AttentionShape { heads, scale, window, windows } }
    }

    /// Queries, keys and values, rows `[T·B·N, D]` each, N = `n_tokens`, to a current of the same shape.
    ///
    /// # Errors
    /// If the shapes differ or the heads do not share the channels evenly; the message names this layer.
    pub fn forward(&self, [q, k, v]: [&Signal; 3], n_tokens: usize, pass: &mut Pass<'_>) -> Result<Signal> {
        let AttentionShape { heads, scale, window, windows } = self.shape;
        let values = q.values();
        let (rows, width) = values.dims2()?;
        let fits = [k, v].iter().all(|other| other.values().dims() == values.dims());
        if !fits
            || heads == 0
            || !width.is_multiple_of(heads)
            || n_tokens == 0
            || !rows.is_multiple_of(n_tokens * window)
        {
            let message = format!(
                "{}: expected queries, keys and values [T·B·{n_tokens}, D] with D a multiple of {heads} heads, got {:?}, {:?} \
                 and {:?}",
                self.name,
                q.values().dims(),
                k.values().dims(),
                v.values().dims()
            );
            return Err(candle_core::Error::Msg(message).into());
        }
        let op = || Op::Attention(self.shape);
        if pass.is_recording() {
            return Ok(pass.give(&self.name, op, &[q, k, v], values.clone(), SignalKind::Analog, None));
        }
        // [LT·B·N, D] to the counts of every window, [T·B, heads, N, D / heads].
        let by_head = |xs: &Signal| -> candle_core::Result<_> {
            let counts = ops::sum_windows(xs.values(), windows, window)?;
            let rows = counts.dims()[0];
            let xs = counts.reshape((rows / n_tokens, n_tokens, heads, width / heads))?;
            xs.transpose(1, 2)?.contiguous()
        };
        let split = || -> candle_core::Result<_> { Ok((by_head(q)?, by_head(k)?.transpose(2, 3)?, by_head(v)?)) };
        let (left, right, weighed) = split().map_err(|error| error.context(self.name.clone()))?;
        let name = format!("{}.q_k", self.name);
        pass.show_product(&ProductEvent::new(&name, (&left, q.kind()), (&right, k.kind())))?;
        let scores = named(&name, left.matmul(&right).and_then(|scores| scores * scale))?;
        let name = format!("{}.qk_v", self.name);
        pass.show_product(&ProductEvent::new(&name, (&scores, SignalKind::Analog), (&weighed, v.kind())))?;
        let mixed = scores.matmul(&weighed).and_then(|mixed| {
            let rows = mixed.transpose(1, 2)?.contiguous()?.reshape((rows / window, width))?;
            ops::front_load(&rows, windows, window)
        });
        Ok(pass.give(&self.name, op, &[q, k, v], named(&name, mixed)?, SignalKind::Analog, None))
    }
}
