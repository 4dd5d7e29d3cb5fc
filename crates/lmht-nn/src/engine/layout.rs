//! From Candle's `[rows, C, H, W]` to the engine's `[rows, H, W, C]`, and back.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::program::MapShape;
use crate::ops::storage::Element;

/// Channels and positions that are turned at a time, so that both sides stay in the cache.
const BLOCK: usize = 16;

/// `[rows, a, b]` to `[rows, b, a]`.
pub(super) fn turn<T: Element>(values: &[T], a: usize, b: usize) -> Vec<T> {
    let mut turned = vec![T::default(); values.len()];
    turned.par_chunks_mut(a * b).zip(values.par_chunks(a * b)).for_each(|(turned, values)| {
        for i0 in (0..a).step_by(BLOCK) {
            for j0 in (0..b).step_by(BLOCK) {
                for j in j0..b.min(j0 + BLOCK) {
                    for i in i0..a.min(i0 + BLOCK) {
                        turned[j * a + i] = values[i * b + j];
                    }
                }
            }
        }
    });
    turned
}

/// A tensor `[rows, C, H, W]` or `[rows, F]` of the shape of `shape`, as the engine keeps it.
pub(super) fn from_tensor<T: Element>(tensor: &Tensor, shape: MapShape) -> Result<Vec<T>> {
    let values = tensor.flatten_all()?.to_vec1::<T>()?;
    Ok(if shape.h * shape.w == 1 || shape.c == 1 { values } else { turn(&values, shape.c, shape.h * shape.w) })
}
