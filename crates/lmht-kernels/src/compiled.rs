//! What callers see of a synapse. The kernels behind it are compiled here, for `f32` and for `f64`: generic functions would be
//! compiled once more in every crate that calls them, which took longer than all the rest of that crate.

use crate::{ConvShape, Images, Maps, Number, WeightMaps, Weights, gradients, synapse};

/// A [`Number`] for which the kernels of a synapse are compiled: `f32` and `f64`.
pub trait Compiled: Number {
    #[doc(hidden)]
    fn forward(shape: &ConvShape, images: &Images, maps: Maps<'_, Self>, weight: &[Self], ys: &mut [Self]);

    #[doc(hidden)]
    fn forward_with(
        weights: &Weights<Self>,
        images: (&ConvShape, &Images),
        maps: Maps<'_, Self>,
        weight: &[Self],
        ys: &mut [Self],
    );

    #[doc(hidden)]
    fn grad_weight(shape: &ConvShape, maps: WeightMaps<'_, Self>, grads: &[Self], dweight: &mut [Self]);

    #[doc(hidden)]
    fn grad_input(shape: &ConvShape, grads: &[Self], weight: &[Self], wanted: Option<(&[u8], f64)>, dxs: &mut [Self]);
}

macro_rules! compiled {
    ($t:ty) => {
        impl Compiled for $t {
            fn forward(shape: &ConvShape, images: &Images, maps: Maps<'_, $t>, weight: &[$t], ys: &mut [$t]) {
                synapse::forward(shape, images, maps, weight, ys);
            }

            fn forward_with(
                weights: &Weights<$t>,
                (shape, images): (&ConvShape, &Images),
                maps: Maps<'_, $t>,
                weight: &[$t],
                ys: &mut [$t],
            ) {
                weights.run(shape, images, maps, weight, ys);
            }

            fn grad_weight(shape: &ConvShape, maps: WeightMaps<'_, $t>, grads: &[$t], dweight: &mut [$t]) {
                gradients::grad_weight(shape, maps, grads, dweight);
            }

            fn grad_input(
                shape: &ConvShape,
                grads: &[$t],
                weight: &[$t],
                wanted: Option<(&[u8], f64)>,
                dxs: &mut [$t],
            ) {
                gradients::grad_input(shape, grads, weight, wanted, dxs);
            }
        }
    };
}
compiled!(f32);
compiled!(f64);

/// What a synapse gives for some images, without its bias, by weights that will be others the next time.
///
/// `maps` and `ys` are those of all images, `shape.n` is the number of maps that are worked on, `images.rows()`. Panics if a
/// slice has another length than the sizes say.
///
/// ```
/// use lmht_kernels::{ConvShape, Images, Maps, forward};
///
/// // Two units to one, at two timesteps of one image.
/// let shape = ConvShape::linear(2, 2, 1);
/// let mut ys = [0.; 2];
/// forward(&shape, &Images::all(2, 1), Maps::Numbers(&[1., 2., 3., 4.]), &[10., 1.], &mut ys);
/// assert_eq!(ys, [12., 34.]);
///
/// // Spikes that count for a half each.
/// let maps = Maps::Spikes { bytes: &[0, 2, 0, 3], amplitude: 0.5, changes: 0.5 };
/// forward(&shape, &Images::all(2, 1), maps, &[10., 1.], &mut ys);
/// assert_eq!(ys, [1., 1.5]);
/// ```
pub fn forward<T: Compiled>(shape: &ConvShape, images: &Images, maps: Maps<'_, T>, weight: &[T], ys: &mut [T]) {
    <T as Compiled>::forward(shape, images, maps, weight, ys);
}

impl<T: Compiled> Weights<T> {
    /// As [`forward`](crate::forward()), with the same bits. `weight` must be the same at every call, and so must the sizes,
    /// except for the number of maps and of their pixels.
    ///
    /// ```
    /// use lmht_kernels::{ConvShape, Images, Maps, Weights};
    ///
    /// let (shape, weight) = (ConvShape::linear(1, 2, 1), [10., 1.]);
    /// let weights = Weights::new();
    /// let mut ys = [0.];
    /// for (xs, expected) in [([1., 2.], 12.), ([3., 4.], 34.)] {
    ///     weights.forward(&shape, &Images::all(1, 1), Maps::Numbers(&xs), &weight, &mut ys);
    ///     assert_eq!(ys, [expected]);
    /// }
    /// ```
    pub fn forward(&self, shape: &ConvShape, images: &Images, maps: Maps<'_, T>, weight: &[T], ys: &mut [T]) {
        T::forward_with(self, (shape, images), maps, weight, ys);
    }
}

/// `dweight[o, i, ky, kx] = Σ_{n, y, x} grads[n, y, x, o] xs[n, y s + ky - p, x s + kx - p, i]`.
///
/// `grads` is `[n, h_out, w_out, c_out]`, `dweight` `[c_out, c_in / groups, k, k]`; `dweight` is overwritten. Panics if a
/// slice has another length than the sizes say.
///
/// ```
/// use lmht_kernels::{ConvShape, WeightMaps, grad_weight};
///
/// // Two units to one, of two rows.
/// let shape = ConvShape::linear(2, 2, 1);
/// let mut dweight = [0.; 2];
/// grad_weight(&shape, WeightMaps::Numbers(&[1., 2., 3., 4.]), &[10., 1.], &mut dweight);
/// assert_eq!(dweight, [13., 24.]);
///
/// let maps = WeightMaps::Spikes { bytes: &[0, 2, 1, 0], amplitude: 0.5, spikes: 0.75 };
/// grad_weight(&shape, maps, &[10., 1.], &mut dweight);
/// assert_eq!(dweight, [0.5, 10.]);
/// ```
pub fn grad_weight<T: Compiled>(shape: &ConvShape, maps: WeightMaps<'_, T>, grads: &[T], dweight: &mut [T]) {
    T::grad_weight(shape, maps, grads, dweight);
}

/// `dxs[n, y s + ky - p, x s + kx - p, i] = Σ_{o, y, x, ky, kx} weight[o, i, ky, kx] grads[n, y, x, o]`.
///
/// With `wanted`, packed units `[n, h, w, c_in]` and the share of those with the top bit: only of these. What the others
/// get is zero or their gradient, whatever is faster.
///
/// `grads` is `[n, h_out, w_out, c_out]`, `weight` `[c_out, c_in / groups, k, k]`, `dxs` `[n, h, w, c_in]`; `dxs` is
/// overwritten. Panics if a slice has another length than the sizes say.
///
/// ```
/// use lmht_kernels::{ConvShape, grad_input};
///
/// // Two units to one, of two rows.
/// let mut dxs = [0.; 4];
/// grad_input(&ConvShape::linear(2, 2, 1), &[1., 2.], &[10., 1.], None, &mut dxs);
/// assert_eq!(dxs, [10., 1., 20., 2.]);
/// ```
pub fn grad_input<T: Compiled>(
    shape: &ConvShape,
    grads: &[T],
    weight: &[T],
    wanted: Option<(&[u8], f64)>,
    dxs: &mut [T],
) {
    T::grad_input(shape, grads, weight, wanted, dxs);
}
