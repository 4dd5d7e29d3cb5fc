//! Which kernel the forward pass of a synapse takes, and its weights in the order in which that kernel reads them.

use std::sync::OnceLock;

use candle_core::Tensor;

use super::Number;
use super::value::{Value, count, share};
use crate::Result;
use crate::ops::storage::with_slice;
use lmht_kernels::{ConvShape, Images, Path, Source, amx, choice, dense, spikes, winograd};

/// What a synapse reads.
#[derive(Debug, Clone, Copy)]
pub(super) enum Maps<'a, T> {
    Numbers(&'a [T]),
    Spikes {
        bytes: &'a [u8],
        /// What one spike counts for.
        amplitude: f64,
        /// Share of units whose count changes from one timestep to the next.
        changes: f64,
    },
}

impl<'a, T> Maps<'a, T> {
    /// The maps of a value, if it has some.
    pub(super) fn of(value: &'a Value<T>) -> Option<Self> {
        match value {
            Value::Real(xs) => Some(Self::Numbers(xs)),
            Value::Packed(packed) => {
                Some(Self::Spikes { bytes: &packed.bytes, amplitude: packed.amplitude, changes: packed.changes })
            }
            Value::Empty | Value::Lazy(_) => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Numbers(xs) => xs.len(),
            Self::Spikes { bytes, .. } => bytes.len(),
        }
    }

    /// The same maps, of which only those of `images` count, `len` units each.
    pub(super) fn only(self, images: &Images, len: usize) -> Self {
        match self {
            Self::Spikes { bytes, amplitude, .. } if images.range.len() < images.all => {
                let changes = share(count(bytes, images.stretches(len)).changes, images.rows() * len);
                Self::Spikes { bytes, amplitude, changes }
            }
            all => all,
        }
    }

    /// What the weights are multiplied by before they are packed.
    fn amplitude(&self) -> f64 {
        match *self {
            Self::Numbers(_) => 1.,
            Self::Spikes { amplitude, .. } => amplitude,
        }
    }
}

/// The kernel for some images.
fn path<T: Number>(shape: &ConvShape, images: &Images, maps: &Maps<'_, T>) -> Path {
    match *maps {
        Maps::Numbers(_) => choice::dense(shape),
        Maps::Spikes { changes, .. } => choice::forward::<T>(shape, images.rows(), changes),
    }
}

/// What a synapse gives for some images, without its bias, by weights that will be others the next time.
pub(super) fn forward_once<T: Number>(
    shape: &ConvShape,
    images: &Images,
    maps: Maps<'_, T>,
    weight: &[T],
    ys: &mut [T],
) {
    let scaled = scaled(weight, maps.amplitude());
    let weight = scaled.as_deref().unwrap_or(weight);
    match (path(shape, images, &maps), maps) {
        (Path::Spikes, Maps::Spikes { bytes, .. }) => spikes::forward(shape, images, bytes, weight, ys),
        (Path::Matrix(unit), Maps::Spikes { bytes, .. }) => {
            let singles = T::singles(weight).zip(T::singles_mut(ys)).expect("the unit is for f32");
            matrix(unit, shape, images, bytes, &amx::Weights::new(shape, singles.0), singles.1);
        }
        (path, Maps::Spikes { bytes, .. }) => dense_once(path, shape, images, bytes, weight, ys),
        (path, Maps::Numbers(xs)) => dense_once(path, shape, images, xs, weight, ys),
    }
}

fn dense_once<T: Number, X: Source<T>>(
    path: Path,
    shape: &ConvShape,
    images: &Images,
    xs: &[X],
    weight: &[T],
    ys: &mut [T],
) {
    if path == Path::Winograd {
        let weights = winograd::Weights::new(shape, weight);
        by_stretch(shape, images, xs, ys, |shape, xs, ys| winograd::forward(shape, xs, &weights, ys));
    } else {
        by_stretch(shape, images, xs, ys, |shape, xs, ys| dense::forward(shape, xs, weight, None, ys));
    }
}

fn matrix(unit: amx::Unit, shape: &ConvShape, images: &Images, bytes: &[u8], weights: &amx::Weights, ys: &mut [f32]) {
    by_stretch(shape, images, bytes, ys, |shape, bytes, ys| amx::forward(unit, shape, bytes, weights, ys));
}

/// Calls `f` with maps that lie together in memory: all of them, or those of a timestep.
fn by_stretch<X, T>(
    shape: &ConvShape,
    images: &Images,
    xs: &[X],
    ys: &mut [T],
    mut f: impl FnMut(&ConvShape, &[X], &mut [T]),
) {
    if images.range.len() == images.all {
        return f(shape, xs, ys);
    }
    let shape = ConvShape { n: images.range.len(), ..*shape };
    let x_map = shape.h * shape.w * shape.c_in;
    let y_map = shape.h_out * shape.w_out * shape.c_out;
    for (x_range, y_range) in images.stretches(x_map).zip(images.stretches(y_map)) {
        f(&shape, &xs[x_range], &mut ys[y_range]);
    }
}

fn scaled<T: Number>(weight: &[T], amplitude: f64) -> Option<Vec<T>> {
    (amplitude != 1.).then(|| weight.iter().map(|&w| w * T::of(amplitude)).collect())
}

/// The weights of a synapse for several forward passes: each kernel's order is made when that kernel first runs.
#[derive(Debug)]
pub(super) struct Weights<T> {
    weight: Tensor,
    numbers: Packed<T>,
    /// Times the amplitude of the spikes that the synapse reads.
    spikes: OnceLock<(f64, Packed<T>)>,
}

/// The same weights in the order of each kernel.
#[derive(Debug)]
struct Packed<T> {
    dense: OnceLock<dense::PackedWeights<T>>,
    winograd: OnceLock<winograd::Weights<T>>,
    sparse: OnceLock<spikes::PackedWeights<T>>,
    matrix: OnceLock<amx::Weights>,
}

impl<T> Default for Packed<T> {
    fn default() -> Self {
        Self { dense: OnceLock::new(), winograd: OnceLock::new(), sparse: OnceLock::new(), matrix: OnceLock::new() }
    }
}

impl<T: Number> Weights<T> {
    pub(super) fn new(weight: &Tensor) -> Self {
        Self { weight: weight.detach(), numbers: Packed::default(), spikes: OnceLock::new() }
    }

    /// What the synapse gives for some images, without its bias.
    pub(super) fn forward(&self, shape: &ConvShape, images: &Images, maps: Maps<'_, T>, ys: &mut [T]) -> Result<()> {
        let amplitude = maps.amplitude();
        let packed = if amplitude == 1. {
            &self.numbers
        } else {
            let (known, packed) = self.spikes.get_or_init(|| (amplitude, Packed::default()));
            if *known != amplitude {
                return self.with(1., |weight| forward_once(shape, images, maps, weight, ys));
            }
            packed
        };
        let path = path(shape, images, &maps);
        match (path, maps) {
            (Path::Matrix(unit), Maps::Spikes { bytes, .. }) => {
                let pack = || {
                    let pack = |weight: &[T]| T::singles(weight).map(|weight| amx::Weights::new(shape, weight));
                    Ok(self.with(amplitude, pack)?.expect("the unit is for f32"))
                };
                let ys = T::singles_mut(ys).expect("the unit is for f32");
                matrix(unit, shape, images, bytes, once(&packed.matrix, pack)?, ys);
                Ok(())
            }
            (Path::Spikes, Maps::Spikes { bytes, .. }) => {
                let pack = || self.with(amplitude, |weight| spikes::PackedWeights::new(shape, weight));
                spikes::forward_packed(shape, images, bytes, once(&packed.sparse, pack)?, ys);
                Ok(())
            }
            (_, Maps::Spikes { bytes, .. }) => self.dense(packed, path, (shape, images), bytes, amplitude, ys),
            (_, Maps::Numbers(xs)) => self.dense(packed, path, (shape, images), xs, amplitude, ys),
        }
    }

    fn dense<X: Source<T>>(
        &self,
        packed: &Packed<T>,
        path: Path,
        (shape, images): (&ConvShape, &Images),
        xs: &[X],
        amplitude: f64,
        ys: &mut [T],
    ) -> Result<()> {
        if path == Path::Winograd {
            let pack = || self.with(amplitude, |weight| winograd::Weights::new(shape, weight));
            let weights = once(&packed.winograd, pack)?;
            by_stretch(shape, images, xs, ys, |shape, xs, ys| winograd::forward(shape, xs, weights, ys));
        } else {
            let pack = || self.with(amplitude, |weight| dense::PackedWeights::new(shape, weight));
            let weights = once(&packed.dense, pack)?;
            by_stretch(shape, images, xs, ys, |shape, xs, ys| dense::forward_packed(shape, xs, weights, ys));
        }
        Ok(())
    }

    /// Hands `f` the weights times `amplitude`.
    fn with<R>(&self, amplitude: f64, f: impl FnOnce(&[T]) -> R) -> Result<R> {
        Ok(with_slice::<T, _>(&self.weight, |weight| {
            let scaled = scaled(weight, amplitude);
            Ok(f(scaled.as_deref().unwrap_or(weight)))
        })?)
    }
}

/// What is in `cell`, made now if nothing is. It is not made while others wait for the cell: it takes tasks, and a thread
/// that waits for tasks may take up another pass that asks for the same cell.
pub(super) fn once<V>(cell: &OnceLock<V>, make: impl FnOnce() -> Result<V>) -> Result<&V> {
    match cell.get() {
        Some(value) => Ok(value),
        None => {
            let value = make()?;
            Ok(cell.get_or_init(|| value))
        }
    }
}
