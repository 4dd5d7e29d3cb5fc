//! Which kernel the forward pass of a synapse takes, and its weights in the order in which that kernel reads them.

use std::ops::Range;
use std::sync::OnceLock;

use candle_core::Tensor;

use super::Number;
use super::value::{Value, share, tally};
use crate::Result;
use crate::kernels::{self, ConvShape, Source, dense, spikes, winograd};
use crate::ops::storage::with_slice;

/// What a synapse reads.
#[derive(Debug, Clone, Copy)]
pub(super) enum Maps<'a, T> {
    Numbers(&'a [T]),
    Spikes {
        bytes: &'a [u8],
        /// What one spike counts for.
        amplitude: f64,
        /// Spikes a unit.
        active: f64,
    },
}

impl<'a, T> Maps<'a, T> {
    /// The maps of a value, if it has some.
    pub(super) fn of(value: &'a Value<T>) -> Option<Self> {
        match value {
            Value::Real(xs) => Some(Self::Numbers(xs)),
            Value::Packed(packed) => {
                Some(Self::Spikes { bytes: &packed.bytes, amplitude: packed.amplitude, active: packed.active })
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

    /// Spikes a unit in some of the maps; nothing of numbers.
    pub(super) fn active_in(&self, ranges: impl Iterator<Item = Range<usize>>) -> f64 {
        let Self::Spikes { bytes, .. } = self else { return 0. };
        let (mut spikes, mut units) = (0, 0);
        for range in ranges {
            units += range.len();
            spikes += tally(&bytes[range]).0;
        }
        share(spikes, units)
    }

    /// Some of the maps, of which `active` is known.
    pub(super) fn part(&self, range: Range<usize>, active: f64) -> Self {
        match *self {
            Self::Numbers(xs) => Self::Numbers(&xs[range]),
            Self::Spikes { bytes, amplitude, .. } => Self::Spikes { bytes: &bytes[range], amplitude, active },
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

/// The kernels of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Dense,
    /// Dense as well, in fewer products.
    Winograd,
    /// Sums of the weights of active inputs.
    Sparse,
}

/// The choice: it looks at sizes and spikes, and at nothing else.
fn path<T>(shape: &ConvShape, maps: &Maps<'_, T>) -> Path {
    match maps {
        Maps::Spikes { active, .. } if spikes::pays_forward(shape, *active) => Path::Sparse,
        _ if winograd::pays(shape) => Path::Winograd,
        _ => Path::Dense,
    }
}

/// What a synapse gives, without its bias, by weights that will be others the next time.
pub(super) fn forward_once<T: Number>(shape: &ConvShape, maps: Maps<'_, T>, weight: &[T], ys: &mut [T]) {
    let scaled = scaled(weight, maps.amplitude());
    let weight = scaled.as_deref().unwrap_or(weight);
    match (path(shape, &maps), maps) {
        (Path::Sparse, Maps::Spikes { bytes, .. }) => spikes::forward(shape, bytes, weight, ys),
        (_, Maps::Spikes { bytes, .. }) => kernels::forward(shape, bytes, weight, ys),
        (_, Maps::Numbers(xs)) => kernels::forward(shape, xs, weight, ys),
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
}

impl<T> Default for Packed<T> {
    fn default() -> Self {
        Self { dense: OnceLock::new(), winograd: OnceLock::new(), sparse: OnceLock::new() }
    }
}

impl<T: Number> Weights<T> {
    pub(super) fn new(weight: &Tensor) -> Self {
        Self { weight: weight.detach(), numbers: Packed::default(), spikes: OnceLock::new() }
    }

    /// What the synapse gives, without its bias.
    pub(super) fn forward(&self, shape: &ConvShape, maps: Maps<'_, T>, ys: &mut [T]) -> Result<()> {
        let amplitude = maps.amplitude();
        let packed = if amplitude == 1. {
            &self.numbers
        } else {
            let (known, packed) = self.spikes.get_or_init(|| (amplitude, Packed::default()));
            if *known != amplitude {
                return self.with(1., |weight| forward_once(shape, maps, weight, ys));
            }
            packed
        };
        let path = path(shape, &maps);
        match maps {
            Maps::Spikes { bytes, .. } if path == Path::Sparse => {
                let pack = || self.with(amplitude, |weight| spikes::PackedWeights::new(shape, weight));
                spikes::forward_packed(shape, bytes, once(&packed.sparse, pack)?, ys);
                Ok(())
            }
            Maps::Spikes { bytes, .. } => self.dense(packed, path, shape, bytes, amplitude, ys),
            Maps::Numbers(xs) => self.dense(packed, path, shape, xs, amplitude, ys),
        }
    }

    fn dense<X: Source<T>>(
        &self,
        packed: &Packed<T>,
        path: Path,
        shape: &ConvShape,
        xs: &[X],
        amplitude: f64,
        ys: &mut [T],
    ) -> Result<()> {
        if path == Path::Winograd {
            let pack = || self.with(amplitude, |weight| winograd::Weights::new(shape, weight));
            winograd::forward(shape, xs, once(&packed.winograd, pack)?, ys);
        } else {
            let pack = || self.with(amplitude, |weight| dense::PackedWeights::new(shape, weight));
            dense::forward_packed(shape, xs, once(&packed.dense, pack)?, ys);
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
