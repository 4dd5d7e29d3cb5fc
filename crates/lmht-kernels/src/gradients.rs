//! The gradients of a synapse, by whichever kernel is the fastest.

use crate::{ConvShape, Number, Path, Source, amx, choice, dense, grouped, spikes, winograd};

/// What a synapse has read, as its weight gradient needs to know it: maps `[n, h, w, c_in]`.
#[derive(Debug, Clone, Copy)]
pub enum WeightMaps<'a, T> {
    /// Numbers.
    Numbers(&'a [T]),
    /// Packed spikes.
    Spikes {
        /// The count of a unit in the low 7 bits; the top bit is ignored.
        bytes: &'a [u8],
        /// What one spike counts for.
        amplitude: f64,
        /// Spikes a unit, all counts added up.
        spikes: f64,
    },
}

/// See the public function of this name.
pub(crate) fn grad_weight<T: Number>(shape: &ConvShape, maps: WeightMaps<'_, T>, grads: &[T], dweight: &mut [T]) {
    shape.check();
    let x_len = match maps {
        WeightMaps::Numbers(xs) => xs.len(),
        WeightMaps::Spikes { bytes, .. } => bytes.len(),
    };
    assert_eq!(x_len, shape.x_len(), "grad_weight: units in the input of {shape:?}");
    assert_eq!(grads.len(), shape.y_len(), "grad_weight: output gradients of {shape:?}");
    assert_eq!(dweight.len(), shape.weight_len(), "grad_weight: weights of {shape:?}");
    match maps {
        WeightMaps::Numbers(xs) => of_maps(choice::dense_grad_weight(shape), shape, xs, grads, dweight),
        WeightMaps::Spikes { bytes, amplitude, spikes } => {
            of_spikes(shape, bytes, spikes, grads, dweight);
            if amplitude != 1. {
                dweight.iter_mut().for_each(|d| *d *= T::from_f64(amplitude));
            }
        }
    }
}

fn of_maps<T: Number, X: Source<T>>(path: Path, shape: &ConvShape, xs: &[X], grads: &[T], dweight: &mut [T]) {
    match path {
        Path::Winograd => winograd::grad_weight(shape, xs, grads, dweight),
        Path::Grouped => grouped::grad_weight(shape, xs, grads, dweight),
        _ => dense::grad_weight(shape, xs, grads, dweight),
    }
}

fn of_spikes<T: Number>(shape: &ConvShape, bytes: &[u8], share: f64, grads: &[T], dweight: &mut [T]) {
    match choice::grad_weight::<T>(shape, share) {
        Path::Matrix(unit) => {
            let singles = T::singles(grads).zip(T::singles_mut(dweight)).expect("the unit is for f32");
            amx::grad_weight(unit, shape, bytes, singles.0, singles.1);
        }
        Path::Spikes => spikes::grad_weight(shape, bytes, grads, dweight),
        path => of_maps(path, shape, bytes, grads, dweight),
    }
}

/// See the public function of this name.
pub(crate) fn grad_input<T: Number>(
    shape: &ConvShape,
    grads: &[T],
    weight: &[T],
    wanted: Option<(&[u8], f64)>,
    dxs: &mut [T],
) {
    shape.check();
    assert_eq!(grads.len(), shape.y_len(), "grad_input: output gradients of {shape:?}");
    assert_eq!(weight.len(), shape.weight_len(), "grad_input: weights of {shape:?}");
    assert_eq!(dxs.len(), shape.x_len(), "grad_input: input gradients of {shape:?}");
    let path = wanted.map_or_else(|| choice::dense(shape), |(_, share)| choice::grad_input(shape, share));
    match (path, wanted) {
        (Path::Spikes, Some((units, _))) => {
            assert_eq!(units.len(), shape.x_len(), "grad_input: wanted units of {shape:?}");
            spikes::grad_input(shape, grads, weight, units, dxs);
        }
        (Path::Winograd, _) => winograd::grad_input(shape, grads, &winograd::Weights::flipped(shape, weight), dxs),
        (Path::Grouped, _) => grouped::grad_input(shape, grads, weight, dxs),
        _ => dense::grad_input(shape, grads, weight, dxs),
    }
}
