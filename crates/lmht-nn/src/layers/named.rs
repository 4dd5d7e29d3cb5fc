//! Whose error it is.

use candle_core::Tensor;

use crate::Result;

/// Puts a layer's name before the message of a failed operation.
pub(super) fn named(name: &str, result: candle_core::Result<Tensor>) -> Result<Tensor> {
    Ok(result.map_err(|error| error.context(name.to_string()))?)
}
