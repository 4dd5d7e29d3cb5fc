//! The forward pass of a synapse, by whichever kernel is the fastest, and its weights in the order of that kernel.

use std::sync::OnceLock;

use crate::{ConvShape, Images, Number, Path, Source, amx, choice, count, dense, grouped, share, spikes, winograd};

/// What a synapse reads: maps `[rows, h, w, c_in]`.
#[derive(Debug, Clone, Copy)]
pub enum Maps<'a, T> {
    /// Numbers.
    Numbers(&'a [T]),
    /// Packed spikes.
    Spikes {
        /// The count of a unit in the low 7 bits; the top bit is ignored.
        bytes: &'a [u8],
        /// What one spike counts for.
        amplitude: f64,
        /// Share of units whose count changes from one timestep to the next.
        changes: f64,
    },
}

impl<T> Maps<'_, T> {
    /// Units of all maps.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Numbers(xs) => xs.len(),
            Self::Spikes { bytes, .. } => bytes.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same maps, of which only those of `images` count, `len` units each: they take the kernel that they would take
    /// alone.
    ///
    /// ```
    /// use lmht_kernels::{Images, Maps};
    ///
    /// // Two images of one unit at one timestep: the first spikes.
    /// let maps: Maps<'_, f32> = Maps::Spikes { bytes: &[1, 0], amplitude: 1., changes: 0.5 };
    /// let second = Images { range: 1..2, ..Images::all(1, 2) };
    /// assert!(matches!(maps.only(&second, 1), Maps::Spikes { changes: 0., .. }));
    /// ```
    #[must_use]
    pub fn only(self, images: &Images, len: usize) -> Self {
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

#[track_caller]
fn check<T: Number>(shape: &ConvShape, images: &Images, maps: &Maps<'_, T>, weight: &[T], ys: &[T]) {
    shape.check();
    let all = images.timesteps * images.all;
    let map = |len: usize| all * (len / shape.n.max(1));
    assert!(images.range.end <= images.all, "forward: images {:?} of {}", images.range, images.all);
    assert_eq!(images.rows(), shape.n, "forward: the maps of some images");
    if shape.n > 0 {
        assert_eq!(maps.len(), map(shape.x_len()), "forward: units in {all} input maps of {shape:?}");
        assert_eq!(ys.len(), map(shape.y_len()), "forward: numbers in {all} output maps of {shape:?}");
    }
    assert_eq!(weight.len(), shape.weight_len(), "forward: weights of {shape:?}");
}

/// See the public function of this name.
pub(crate) fn forward<T: Number>(shape: &ConvShape, images: &Images, maps: Maps<'_, T>, weight: &[T], ys: &mut [T]) {
    check(shape, images, &maps, weight, ys);
    if shape.n == 0 {
        return;
    }
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
    match path {
        Path::Winograd => {
            let weights = winograd::Weights::new(shape, weight);
            by_stretch(shape, images, xs, ys, |shape, xs, ys| winograd::forward(shape, xs, &weights, ys));
        }
        Path::Grouped => {
            let weights = grouped::Weights::new(shape, weight);
            by_stretch(shape, images, xs, ys, |shape, xs, ys| grouped::forward(shape, xs, &weights, ys));
        }
        _ => by_stretch(shape, images, xs, ys, |shape, xs, ys| dense::forward(shape, xs, weight, ys)),
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
    (amplitude != 1.).then(|| weight.iter().map(|&w| w * T::from_f64(amplitude)).collect())
}

/// The weights of a synapse for several forward passes: each kernel's order is made when that kernel first runs, and kept.
///
/// The weights themselves stay with the caller, who passes the same ones at every call.
#[derive(Debug)]
pub struct Weights<T> {
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
    grouped: OnceLock<grouped::Weights<T>>,
}

impl<T> Default for Packed<T> {
    fn default() -> Self {
        Self {
            dense: OnceLock::new(),
            winograd: OnceLock::new(),
            sparse: OnceLock::new(),
            matrix: OnceLock::new(),
            grouped: OnceLock::new(),
        }
    }
}

impl<T> Default for Weights<T> {
    fn default() -> Self {
        Self { numbers: Packed::default(), spikes: OnceLock::new() }
    }
}

impl<T: Number> Weights<T> {
    /// Nothing packed yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// See the public function of [`Weights`].
    pub(crate) fn run(&self, shape: &ConvShape, images: &Images, maps: Maps<'_, T>, weight: &[T], ys: &mut [T]) {
        check(shape, images, &maps, weight, ys);
        if shape.n == 0 {
            return;
        }
        let amplitude = maps.amplitude();
        let packed = if amplitude == 1. {
            &self.numbers
        } else {
            let (known, packed) = self.spikes.get_or_init(|| (amplitude, Packed::default()));
            if *known != amplitude {
                return forward(shape, images, maps, weight, ys);
            }
            packed
        };
        let path = path(shape, images, &maps);
        match (path, maps) {
            (Path::Matrix(unit), Maps::Spikes { bytes, .. }) => {
                let pack = |weight: &[T]| amx::Weights::new(shape, T::singles(weight).expect("the unit is for f32"));
                let ys = T::singles_mut(ys).expect("the unit is for f32");
                matrix(unit, shape, images, bytes, once(&packed.matrix, weight, amplitude, pack), ys);
            }
            (Path::Spikes, Maps::Spikes { bytes, .. }) => {
                let pack = |weight: &[T]| spikes::PackedWeights::new(shape, weight);
                spikes::forward_packed(shape, images, bytes, once(&packed.sparse, weight, amplitude, pack), ys);
            }
            (_, Maps::Spikes { bytes, .. }) => packed.dense(path, (shape, images), bytes, (weight, amplitude), ys),
            (_, Maps::Numbers(xs)) => packed.dense(path, (shape, images), xs, (weight, amplitude), ys),
        }
    }
}

impl<T: Number> Packed<T> {
    fn dense<X: Source<T>>(
        &self,
        path: Path,
        (shape, images): (&ConvShape, &Images),
        xs: &[X],
        (weight, amplitude): (&[T], f64),
        ys: &mut [T],
    ) {
        match path {
            Path::Winograd => {
                let weights = once(&self.winograd, weight, amplitude, |weight| winograd::Weights::new(shape, weight));
                by_stretch(shape, images, xs, ys, |shape, xs, ys| winograd::forward(shape, xs, weights, ys));
            }
            Path::Grouped => {
                let weights = once(&self.grouped, weight, amplitude, |weight| grouped::Weights::new(shape, weight));
                by_stretch(shape, images, xs, ys, |shape, xs, ys| grouped::forward(shape, xs, weights, ys));
            }
            _ => {
                let weights = once(&self.dense, weight, amplitude, |weight| dense::PackedWeights::new(shape, weight));
                by_stretch(shape, images, xs, ys, |shape, xs, ys| dense::forward_packed(shape, xs, weights, ys));
            }
        }
    }
}

/// What is in `cell`, made now from the weights times `amplitude` if nothing is. It is not made while others wait for the
/// cell: it takes tasks, and a thread that waits for tasks may take up another pass that asks for the same cell.
fn once<'a, T: Number, V>(cell: &'a OnceLock<V>, weight: &[T], amplitude: f64, make: impl FnOnce(&[T]) -> V) -> &'a V {
    cell.get().unwrap_or_else(|| {
        let scaled = scaled(weight, amplitude);
        let value = make(scaled.as_deref().unwrap_or(weight));
        cell.get_or_init(|| value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes that take each of the kernels, with weights packed before and not, of all images and of some.
    #[test]
    fn packed_weights_and_parts_change_no_bit() {
        let plain = ConvShape {
            n: 4,
            c_in: 64,
            h: 14,
            w: 14,
            c_out: 64,
            k: 3,
            stride: 1,
            padding: 1,
            groups: 1,
            h_out: 14,
            w_out: 14,
        };
        let small = ConvShape { c_in: 5, c_out: 7, ..plain };
        for shape in [plain, small, ConvShape { groups: 64, ..plain }, ConvShape { groups: 2, ..plain }] {
            let numbers = |len: usize, step: usize| -> Vec<f32> {
                (0..len).map(|i| (i * step % 101) as f32 / 101. - 0.5).collect()
            };
            let (xs, weight) = (numbers(shape.x_len(), 7), numbers(shape.weight_len(), 11));
            let bytes: Vec<u8> =
                (0..shape.x_len()).map(|i| if i * 7 % 101 < 9 { (i % 3) as u8 } else { 0x80 }).collect();
            let weights = Weights::new();
            let all = Images::all(2, 2);
            // The second amplitude is not the one that was packed.
            for (changes, amplitude) in [(0.01, 1.), (0.01, 0.5), (0.9, 0.5), (0.01, 0.25)] {
                for maps in [Maps::Numbers(&xs), Maps::Spikes { bytes: &bytes, amplitude, changes }] {
                    let mut expected = vec![f32::NAN; shape.y_len()];
                    forward(&shape, &all, maps, &weight, &mut expected);
                    for _ in 0..2 {
                        let mut ys = vec![f32::NAN; shape.y_len()];
                        weights.forward(&shape, &all, maps, &weight, &mut ys);
                        assert_eq!(ys, expected, "{shape:?}");
                    }
                    // An image alone writes its own maps and no others. It may take another kernel.
                    let second = Images { range: 1..2, ..all.clone() };
                    let part = ConvShape { n: second.rows(), ..shape };
                    let mut ys = vec![f32::NAN; shape.y_len()];
                    weights.forward(&part, &second, maps, &weight, &mut ys);
                    let map = shape.y_len() / 4;
                    for (i, (y, expected)) in ys.iter().zip(&expected).enumerate() {
                        if i / map % 2 == 0 {
                            assert!(y.is_nan());
                        } else {
                            assert!((y - expected).abs() <= 1e-4, "{shape:?} at {i}: {y}, expected {expected}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "weights of")]
    fn a_weight_of_another_length_is_refused() {
        let mut ys = [0.];
        forward(&ConvShape::linear(1, 2, 1), &Images::all(1, 1), Maps::Numbers(&[1., 2.]), &[1.], &mut ys);
    }
}
