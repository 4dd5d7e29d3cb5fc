//! The forward pass, and with the flipped kernel the input gradient.

use super::form::{Form, MOST, all_matrices, all_places, factors, weights_along};
use super::plain::Plain;
use super::run::{load, store};
use super::strided::{Backward, Strided};
use super::{TAPS, Tiles, fits, for_runs, pitch, with_run};
use crate::dense::Packing;
use crate::lines::Lines;
use crate::number::{Number, VectorKernel, Vectors};
use crate::tile::{self, for_blocks, for_rows};
use crate::{ConvShape, Source};
use rayon::prelude::*;

/// Tiles that share a pass over the weights, and beyond [`MANY`] weights of a tap. With few channels the planes of the tiles
/// fit the second-level cache; with many the weights come from further away, and it matters more how often.
const TILES: usize = 48;
const MORE_TILES: usize = 96;
const MANY: usize = 128 * 128;
/// Products of a tile and an output in one go: their weights (16 kB) stay in the first-level cache.
const PRODUCTS: usize = 256;
/// Number of tasks to aim at; even, and more than there are threads in most machines that have no accelerator.
const TASKS: usize = 32;

/// Kernels, transformed.
#[derive(Debug)]
pub(crate) struct Weights<T> {
    /// For each block of `L` output channels, for each sum `[planes, c_in, L]`.
    blocks: Vec<Lines<T>>,
    kind: Kind,
}

/// The form that weights are for.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Plain,
    Strided,
    Backward,
}

/// Evaluates the expression with the form of a [`Kind`] in `$form`.
macro_rules! with_form {
    ($form:ident of $kind:expr => $body:expr) => {
        match $kind {
            Kind::Plain => {
                let $form = Plain;
                $body
            }
            Kind::Strided => {
                let $form = Strided;
                $body
            }
            Kind::Backward => {
                let $form = Backward;
                $body
            }
        }
    };
}

impl<T: Number> Weights<T> {
    /// From `weight`, `[c_out, c_in, 3, 3]`.
    pub(crate) fn new(s: &ConvShape, weight: &[T]) -> Self {
        let taps = (0..TAPS).collect();
        let kind = if s.stride == 1 { Kind::Plain } else { Kind::Strided };
        Self::of(kind, s.c_out, Packing::new(weight, (s.c_out, s.c_in * TAPS), (s.c_in, TAPS), TAPS, taps))
    }

    /// For [`grad_input`]: of the convolution that the input gradient is.
    pub(crate) fn flipped(s: &ConvShape, weight: &[T]) -> Self {
        let taps = (0..TAPS).rev().collect();
        let kind = if s.stride == 1 { Kind::Plain } else { Kind::Backward };
        Self::of(kind, s.c_in, Packing::new(weight, (s.c_in, TAPS), (s.c_out, s.c_in * TAPS), TAPS, taps))
    }

    fn of(kind: Kind, c_out: usize, packing: Packing<'_, T>) -> Self {
        let blocks = (0..c_out.div_ceil(T::LANES)).into_par_iter().map_init(Lines::default, |room, block| {
            let taps = packing.block(block, room);
            with_form!(form of kind => transformed(form, taps))
        });
        Self { blocks: blocks.collect(), kind }
    }
}

/// `[9, channels, L]` to `[planes, channels, L]` for each sum.
fn transformed<T: Number, F: Form>(form: F, taps: &[T]) -> Lines<T> {
    let along = weights_along::<F>();
    let (matrices, places) = (all_matrices(&along), all_places(&along));
    let n = taps.len() / TAPS;
    let at: Vec<usize> = places.iter().map(|place| (matrices[place.matrix].first + place.plane) * n).collect();
    let mut planes = Lines::zeros(places.len() * n);
    T::run_with_vectors(WeightBlock { form, taps, at: &at, planes: &mut planes });
    planes
}

/// [`transformed`], to be compiled for the best vectors.
struct WeightBlock<'a, T, F> {
    form: F,
    taps: &'a [T],
    /// Where the planes are.
    at: &'a [usize],
    planes: &'a mut [T],
}

impl<T: Number, F: Form> VectorKernel<T> for WeightBlock<'_, T, F> {
    #[inline(always)]
    fn run<V: Vectors<T>>(self, _: V) {
        let n = self.taps.len() / TAPS;
        with_run!(RUN of T, V => {
            for i in (0..n).step_by(RUN) {
                self.form.weights::<T, RUN>(
                    #[inline(always)]
                    |tap| load::<_, _, RUN, true>(&self.taps[tap * n + i..]),
                    #[inline(always)]
                    |plane, run| store::<_, RUN, true>(run, &mut self.planes[self.at[plane] + i..]),
                );
            }
        });
    }
}

/// `ys[n, y, x, o] = Σ_{i, ky, kx} weight[o, i, ky, kx] xs[n, y stride + ky - p, x stride + kx - p, i]`; a shape that [`fits`].
///
/// `xs` is `[n, h, w, c_in]`, `ys` `[n, h_out, w_out, c_out]`, which is overwritten.
pub(crate) fn forward<T: Number, X: Source<T>>(s: &ConvShape, xs: &[X], weights: &Weights<T>, ys: &mut [T]) {
    debug_assert!(fits(s));
    correlate(s, xs, weights, ys);
}

/// `dxs[n, y stride + ky - p, x stride + kx - p, i] = Σ_{o, y, x, ky, kx} weight[o, i, ky, kx] grads[n, y, x, o]`, for a shape that
/// [`fits`] with a padding of 2 at most.
///
/// `grads` is `[n, h_out, w_out, c_out]`, `dxs` `[n, h, w, c_in]`, which is overwritten; `weights` are
/// [flipped](Weights::flipped).
pub(crate) fn grad_input<T: Number>(s: &ConvShape, grads: &[T], weights: &Weights<T>, dxs: &mut [T]) {
    debug_assert!(fits(s));
    correlate(&backwards(s), grads, weights, dxs);
}

/// The input gradient as something that reads and writes maps: it has the sizes of those, and in `padding` how far before
/// the maps the first tile begins to read.
fn backwards(s: &ConvShape) -> ConvShape {
    ConvShape {
        c_in: s.c_out,
        h: s.h_out,
        w: s.w_out,
        c_out: s.c_in,
        h_out: s.h,
        w_out: s.w,
        padding: if s.stride == 1 { 2 - s.padding } else { 0 },
        ..*s
    }
}

/// What the weights are for, [`forward`] or what [`backwards`] describes.
fn correlate<T: Number, X: Source<T>>(s: &ConvShape, xs: &[X], weights: &Weights<T>, ys: &mut [T]) {
    with_form!(form of weights.kind => share_out(form, s, xs, weights, ys));
}

fn share_out<T: Number, X: Source<T>, F: Form>(form: F, s: &ConvShape, xs: &[X], weights: &Weights<T>, ys: &mut [T]) {
    let (tiles, per_pass) = (Tiles::of_side(F::WRITTEN, s), rows_of_a_pass::<F>(s));
    let mut rows = rows_of_tiles::<T, F>(s, ys);
    let per_task = rows.len().div_ceil(per_pass).div_ceil(TASKS).max(1) * per_pass;
    let zeros = vec![X::default(); s.c_in];
    rows.par_chunks_mut(per_task).enumerate().for_each_init(Scratch::default, |scratch, (task, rows)| {
        let first = task * per_task;
        T::run_with_vectors(Task { form, shape: s, tiles, xs, zeros: &zeros, weights, first, rows, per_pass, scratch });
    });
}

/// Rows of tiles of a pass over the weights.
fn rows_of_a_pass<F: Form>(s: &ConvShape) -> usize {
    let tiles = if s.c_in * s.c_out > MANY { MORE_TILES } else { TILES };
    (tiles / Tiles::of_side(F::WRITTEN, s).cols.max(1)).max(1)
}

/// The outputs of each row of tiles: a few rows, or fewer at the end of a map.
fn rows_of_tiles<'a, T, F: Form>(s: &ConvShape, ys: &'a mut [T]) -> Vec<&'a mut [T]> {
    if ys.is_empty() {
        return Vec::new();
    }
    let map = s.h_out * s.w_out * s.c_out;
    ys.chunks_exact_mut(map).flat_map(|map| map.chunks_mut(F::WRITTEN * s.w_out * s.c_out)).collect()
}

/// The pixels that a tile reads, row by row; `zeros` in the border.
#[inline(always)]
pub(super) fn patch<'a, X, F: Form>(
    s: &ConvShape,
    xs: &'a [X],
    zeros: &'a [X],
    (image, row, col): (usize, usize, usize),
) -> [&'a [X]; MOST * MOST] {
    let map = &xs[image * s.h * s.w * s.c_in..][..s.h * s.w * s.c_in];
    let mut pixels = [zeros; MOST * MOST];
    for (i, pixel) in pixels[..F::READ * F::READ].iter_mut().enumerate() {
        let y = (F::STEP * row + i / F::READ).wrapping_sub(s.padding);
        let x = (F::STEP * col + i % F::READ).wrapping_sub(s.padding);
        if y < s.h && x < s.w {
            *pixel = &map[(y * s.w + x) * s.c_in..][..s.c_in];
        }
    }
    pixels
}

/// Some rows of tiles, a few in a pass.
struct Task<'a, 'out, T, X, F> {
    form: F,
    shape: &'a ConvShape,
    tiles: Tiles,
    xs: &'a [X],
    zeros: &'a [X],
    weights: &'a Weights<T>,
    /// The first row, counted over all images.
    first: usize,
    /// What each row of tiles writes.
    rows: &'a mut [&'out mut [T]],
    per_pass: usize,
    scratch: &'a mut Scratch<T>,
}

/// Buffers of a task, for one after the other: the matrices `[tiles, planes c_in]`, and the sums `[tiles, c_out]`.
#[derive(Debug, Default)]
struct Scratch<T> {
    inputs: Lines<T>,
    products: Lines<T>,
}

impl<T: Number, X: Source<T>, F: Form> VectorKernel<T> for Task<'_, '_, T, X, F> {
    #[inline(always)]
    fn run<V: Vectors<T>>(self, vectors: V) {
        with_run!(RUN of T, V => { self.run_with::<V, RUN>(vectors) });
    }
}

impl<T: Number, X: Source<T>, F: Form> Task<'_, '_, T, X, F> {
    /// With runs of `RUN` channels.
    #[inline(always)]
    fn run_with<V: Vectors<T>, const RUN: usize>(self, vectors: V) {
        let Self { form, shape: s, tiles, xs, zeros, weights, per_pass, .. } = self;
        let most = per_pass.min(self.rows.len()) * tiles.cols;
        // Of the matrices: channels, numbers from row to row, where they begin.
        let matrices = all_matrices(F::MATRICES);
        let mut len = 0;
        let layout: Vec<(usize, usize, usize)> = matrices
            .iter()
            .map(|matrix| {
                let (channels, at) = (matrix.planes * s.c_in, len);
                let pitch = pitch::<T>(channels);
                len += most * pitch + T::LANES;
                (channels, pitch, at)
            })
            .collect();
        // Of the planes: numbers from tile to tile, where they begin.
        let mut planes = [(0, 0); MOST * MOST];
        for (plane, place) in planes.iter_mut().zip(all_places(F::MATRICES)) {
            let (_, pitch, at) = layout[place.matrix];
            *plane = (pitch, at + place.plane * s.c_in);
        }
        let factors = factors::<F>();
        let firsts: Vec<usize> = all_matrices(&weights_along::<F>()).iter().map(|matrix| matrix.first).collect();
        let pitch_out = pitch::<T>(s.c_out);
        let sum_len = most * pitch_out + T::LANES;
        let Scratch { inputs, products } = self.scratch;
        inputs.resize(len);
        products.resize(factors.len() * sum_len);
        for (pass, rows) in self.rows.chunks_mut(per_pass).enumerate() {
            let n = rows.len() * tiles.cols;
            for tile in 0..n {
                let row = self.first + pass * per_pass + tile / tiles.cols;
                let at = (row / tiles.rows, row % tiles.rows, tile % tiles.cols);
                let pixels = patch::<X, F>(s, xs, zeros, at);
                for_runs!(c, WHOLE in s.c_in, RUN => {
                    form.planes::<T, RUN>(
                        #[inline(always)]
                        |y, x| load::<_, _, RUN, WHOLE>(&pixels[F::READ * y + x][c..]),
                        #[inline(always)]
                        |plane, run| {
                            let (pitch, at) = planes[plane];
                            store::<_, RUN, true>(run, &mut inputs[at + tile * pitch + c..]);
                        },
                    );
                });
            }
            for ((&factor, &first_plane), products) in
                factors.iter().zip(&firsts).zip(products.chunks_exact_mut(sum_len))
            {
                let (channels, pitch_in, at) = layout[factor];
                let inputs = &inputs[at..][..n * pitch_in];
                let products = &mut products[..n * pitch_out];
                for_blocks!(block, B in weights.blocks.len(), V => {
                    for first in (0..channels).step_by(PRODUCTS) {
                        let run = PRODUCTS.min(channels - first) * T::LANES;
                        let weights: [&[V::Block]; B] = tile::each(|b| {
                            V::blocks(&weights.blocks[block + b][(first_plane * s.c_in + first) * T::LANES..][..run])
                        });
                        let (from, to) = (&inputs[first..], &mut products[block * T::LANES..]);
                        for_rows!(row, R in n => {
                            let place = |r, b| (row + r) * pitch_out + b * T::LANES;
                            let mut tile = if first == 0 {
                                tile::zeros::<T, V, R, B>(vectors)
                            } else {
                                tile::load::<T, V, R, B>(vectors, to, place)
                            };
                            let rows: [&[T]; R] = tile::each(|r| &from[(row + r) * pitch_in..]);
                            tile::multiply::<T, V, R, B>(vectors, &mut tile, rows, weights);
                            tile::store::<T, V, R, B>(tile, to, place);
                        });
                    }
                });
            }
            for (row, outputs) in rows.iter_mut().enumerate() {
                for col in 0..tiles.cols {
                    let at = (row * tiles.cols + col) * pitch_out;
                    let mut pixels = [const { None }; MOST * MOST];
                    for (y, line) in outputs.chunks_mut(s.w_out * s.c_out).enumerate() {
                        let line = &mut line[F::WRITTEN * col * s.c_out..];
                        for (x, pixel) in line.chunks_mut(s.c_out).take(F::WRITTEN).enumerate() {
                            pixels[F::WRITTEN * y + x] = Some(pixel);
                        }
                    }
                    for_runs!(c, WHOLE in s.c_out, RUN => {
                        form.written::<T, RUN>(
                            #[inline(always)]
                            |sum| load::<_, _, RUN, true>(&products[sum * sum_len + at + c..]),
                            #[inline(always)]
                            |i, run| {
                                if let Some(pixel) = &mut pixels[i] {
                                    store::<_, RUN, WHOLE>(run, &mut pixel[c..]);
                                }
                            },
                        );
                    });
                }
            }
        }
    }
}
