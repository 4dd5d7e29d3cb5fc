//! Pooling.

use candle_core::bail;

use crate::ops::{self, Pool2dParams};
use crate::trace::Op;
use crate::{Pass, Result, Signal};

/// Max-pooling. Of spikes it gives spikes: the largest count in the window.
///
/// # Errors
/// If the window does not fit.
pub fn max_pool2d(xs: &Signal, params: Pool2dParams, pass: &mut Pass<'_>) -> Result<Signal> {
    let values = xs.values();
    let ys = pass.values(values, || ops::pool_dims(values, params), || ops::max_pool2d(values, params))?;
    Ok(pass.give("", || Op::MaxPool(params), &[xs], ys, xs.kind(), xs.broadcast()))
}

/// Average pooling. Of spikes it gives real values.
///
/// # Errors
/// If the window does not fit.
pub fn avg_pool2d(xs: &Signal, params: Pool2dParams, pass: &mut Pass<'_>) -> Result<Signal> {
    let values = xs.values();
    let ys = pass.values(values, || ops::pool_dims(values, params), || ops::avg_pool2d(values, params))?;
    Ok(pass.give("", || Op::AvgPool(params), &[xs], ys, xs.kind().averaged(), xs.broadcast()))
}

/// The mean over all positions, `[N, C, H, W]` to `[N, C]`.
///
/// # Errors
/// If the input is not four-dimensional.
pub fn global_avg_pool(xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
    let values = xs.values();
    let dims = || {
        let &[n, c, _, _] = values.dims() else {
            bail!("global_avg_pool: expected maps [N, C, H, W], got {:?}", values.dims())
        };
        Ok(vec![n, c])
    };
    let ys = pass.values(values, dims, || ops::global_avg_pool(values))?;
    Ok(pass.give("", || Op::Mean, &[xs], ys, xs.kind().averaged(), xs.broadcast()))
}

/// The mean over the tokens of each image, rows `[N·tokens, D]` to `[N, D]`.
///
/// # Errors
/// If the rows are not those of whole images.
pub fn mean_of_tokens(xs: &Signal, n_tokens: usize, pass: &mut Pass<'_>) -> Result<Signal> {
    let values = xs.values();
    let (rows, width) = values.dims2()?;
    if n_tokens == 0 || !rows.is_multiple_of(n_tokens) {
        let message = format!("mean_of_tokens: expected a multiple of {n_tokens} tokens, got {rows} rows");
        return Err(candle_core::Error::Msg(message).into());
    }
    let dims = || Ok(vec![rows / n_tokens, width]);
    let ys = pass.values(values, dims, || values.reshape((rows / n_tokens, n_tokens, width))?.mean(1))?;
    Ok(pass.give("", || Op::Mean, &[xs], ys, xs.kind().averaged(), xs.broadcast()))
}
