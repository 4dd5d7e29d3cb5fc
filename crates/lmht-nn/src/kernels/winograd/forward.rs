//! The forward pass, and with the flipped kernel the input gradient.

use super::transform::{self, load, store};
use super::{POINTS, Tiles, fits, pitch, with_run};
use crate::kernels::dense::Packing;
use crate::kernels::lines::Lines;
use crate::kernels::real::{Real, VectorKernel, Vectors};
use crate::kernels::tile::{self, for_blocks, for_rows};
use crate::kernels::{ConvShape, Source};
use rayon::prelude::*;

/// Tiles that share a pass over the weights, and from [`MANY`] weights of a tap on. With few channels, what the tiles are
/// at the 16 points fits the second-level cache; with many the weights come from further away, and it matters more how
/// often.
const TILES: usize = 48;
const MORE_TILES: usize = 96;
const MANY: usize = 128 * 128;
/// Products of a tile and an output in one go: their weights (16 kB) stay in the first-level cache.
const STEP: usize = 256;
/// Number of tasks to aim at; even, and more than there are threads in most machines that have no accelerator.
const TASKS: usize = 32;

/// The kernels at the 16 points.
#[derive(Debug)]
pub(crate) struct Weights<T> {
    /// For each block of `L` output channels `[POINTS, c_in, L]`.
    blocks: Vec<Lines<T>>,
}

impl<T: Real> Weights<T> {
    /// From `weight`, `[c_out, c_in, 3, 3]`.
    pub(crate) fn new(s: &ConvShape, weight: &[T]) -> Self {
        let taps = (0..9).collect();
        Self::of(s.c_out, s.c_in, Packing::new(weight, (s.c_out, s.c_in * 9), (s.c_in, 9), 9, taps))
    }

    /// For [`grad_input`]: of the convolution that the input gradient is.
    pub(crate) fn flipped(s: &ConvShape, weight: &[T]) -> Self {
        let taps = (0..9).rev().collect();
        Self::of(s.c_in, s.c_out, Packing::new(weight, (s.c_in, 9), (s.c_out, s.c_in * 9), 9, taps))
    }

    fn of(c_out: usize, c_in: usize, packing: Packing<'_, T>) -> Self {
        let blocks = (0..c_out.div_ceil(T::LANES)).into_par_iter().map_init(Lines::default, |room, block| {
            let taps = packing.block(block, room);
            let mut points = Lines::zeros(POINTS * c_in * T::LANES);
            T::run_with_vectors(WeightBlock { taps, points: &mut points });
            points
        });
        Self { blocks: blocks.collect() }
    }
}

/// `[9, channels, L]` to `[POINTS, channels, L]`.
struct WeightBlock<'a, T> {
    taps: &'a [T],
    points: &'a mut [T],
}

impl<T: Real> VectorKernel<T> for WeightBlock<'_, T> {
    #[inline(always)]
    fn run<V: Vectors<T>>(self, _: V) {
        let n = self.taps.len() / 9;
        with_run!(RUN of T, V => {
            for i in (0..n).step_by(RUN) {
                let points = transform::weight::<T, RUN>(#[inline(always)] |tap| load(&self.taps[tap * n + i..]));
                for (point, run) in points.as_flattened().iter().enumerate() {
                    store(run, &mut self.points[point * n + i..]);
                }
            }
        });
    }
}

/// `ys[n, y, x, o] = Σ_{i, ky, kx} weight[o, i, ky, kx] xs[n, y + ky - p, x + kx - p, i]`; a shape that [`fits`].
///
/// `xs` is `[n, h, w, c_in]`, `ys` `[n, h_out, w_out, c_out]`, which is overwritten.
pub(crate) fn forward<T: Real, X: Source<T>>(s: &ConvShape, xs: &[X], weights: &Weights<T>, ys: &mut [T]) {
    let (tiles, per_pass) = (Tiles::of(s), rows_of_a_pass(s));
    let mut rows = rows_of_tiles(s, ys);
    let per_task = rows.len().div_ceil(per_pass).div_ceil(TASKS).max(1) * per_pass;
    let zeros = vec![X::default(); s.c_in];
    rows.par_chunks_mut(per_task).enumerate().for_each_init(Scratch::default, |scratch, (task, rows)| {
        let first = task * per_task;
        T::run_with_vectors(Task { shape: s, tiles, xs, zeros: &zeros, weights, first, rows, per_pass, scratch });
    });
}

/// [`forward`] without sharing the work out.
pub(in crate::kernels) fn forward_alone<T: Real, X: Source<T>>(
    s: &ConvShape,
    xs: &[X],
    weights: &Weights<T>,
    ys: &mut [T],
    scratch: &mut Scratch<T>,
) {
    let (tiles, per_pass) = (Tiles::of(s), rows_of_a_pass(s));
    let (rows, zeros) = (&mut *rows_of_tiles(s, ys), &*vec![X::default(); s.c_in]);
    T::run_with_vectors(Task { shape: s, tiles, xs, zeros, weights, first: 0, rows, per_pass, scratch });
}

/// Tiles of a pass over the weights.
fn tiles_of_a_pass(s: &ConvShape) -> usize {
    if s.c_in * s.c_out > MANY { MORE_TILES } else { TILES }
}

fn rows_of_a_pass(s: &ConvShape) -> usize {
    (tiles_of_a_pass(s) / Tiles::of(s).cols.max(1)).max(1)
}

/// The outputs of each row of tiles: two rows, or one at the end of a map.
fn rows_of_tiles<'a, T>(s: &ConvShape, ys: &'a mut [T]) -> Vec<&'a mut [T]> {
    debug_assert!(fits(s));
    if ys.is_empty() {
        return Vec::new();
    }
    let map = s.h_out * s.w_out * s.c_out;
    ys.chunks_exact_mut(map).flat_map(|map| map.chunks_mut(2 * s.w_out * s.c_out)).collect()
}

/// `dxs[n, y + ky - p, x + kx - p, i] = Σ_{o, y, x, ky, kx} weight[o, i, ky, kx] grads[n, y, x, o]`, for a shape that
/// [`fits`] with a padding of 2 at most.
///
/// `grads` is `[n, h_out, w_out, c_out]`, `dxs` `[n, h, w, c_in]`, which is overwritten; `weights` are
/// [flipped](Weights::flipped).
pub(crate) fn grad_input<T: Real>(s: &ConvShape, grads: &[T], weights: &Weights<T>, dxs: &mut [T]) {
    forward(&backwards(s), grads, weights, dxs);
}

/// The convolution with the flipped kernel that the input gradient is.
pub(in crate::kernels) fn backwards(s: &ConvShape) -> ConvShape {
    ConvShape {
        c_in: s.c_out,
        h: s.h_out,
        w: s.w_out,
        c_out: s.c_in,
        h_out: s.h,
        w_out: s.w,
        padding: 2 - s.padding,
        ..*s
    }
}

/// Pixels `[4, 4]` that a tile reads; `zeros` in the border.
#[inline(always)]
pub(super) fn patch<'a, X>(
    s: &ConvShape,
    xs: &'a [X],
    zeros: &'a [X],
    (image, row, col): (usize, usize, usize),
) -> [&'a [X]; POINTS] {
    let map = &xs[image * s.h * s.w * s.c_in..][..s.h * s.w * s.c_in];
    let mut pixels = [zeros; POINTS];
    for (i, pixel) in pixels.iter_mut().enumerate() {
        let y = (2 * row + i / 4).wrapping_sub(s.padding);
        let x = (2 * col + i % 4).wrapping_sub(s.padding);
        if y < s.h && x < s.w {
            *pixel = &map[(y * s.w + x) * s.c_in..][..s.c_in];
        }
    }
    pixels
}

/// Some rows of tiles, a few in a pass.
struct Task<'a, 'out, T, X> {
    shape: &'a ConvShape,
    tiles: Tiles,
    xs: &'a [X],
    zeros: &'a [X],
    weights: &'a Weights<T>,
    /// The first row, counted over all images.
    first: usize,
    /// For each row of tiles two rows of outputs, or one at the end of a map.
    rows: &'a mut [&'out mut [T]],
    per_pass: usize,
    scratch: &'a mut Scratch<T>,
}

/// Buffers of a task, for one after the other: matrices `[tiles, c_in]` and `[tiles, c_out]` for each point.
#[derive(Debug, Default)]
pub(in crate::kernels) struct Scratch<T> {
    inputs: Lines<T>,
    products: Lines<T>,
}

impl<T: Real, X: Source<T>> VectorKernel<T> for Task<'_, '_, T, X> {
    #[inline(always)]
    fn run<V: Vectors<T>>(self, vectors: V) {
        with_run!(RUN of T, V => { self.run_with::<V, RUN>(vectors) });
    }
}

impl<T: Real, X: Source<T>> Task<'_, '_, T, X> {
    /// With runs of `RUN` channels.
    #[inline(always)]
    fn run_with<V: Vectors<T>, const RUN: usize>(self, vectors: V) {
        let Self { shape: s, tiles, xs, zeros, weights, per_pass, .. } = self;
        let most = per_pass.min(self.rows.len()) * tiles.cols;
        let (pitch_in, pitch_out) = (pitch::<T>(s.c_in), pitch::<T>(s.c_out));
        let (point_in, point_out) = (most * pitch_in + T::LANES, most * pitch_out + T::LANES);
        let Scratch { inputs, products } = self.scratch;
        inputs.resize(POINTS * point_in);
        products.resize(POINTS * point_out);
        for (pass, rows) in self.rows.chunks_mut(per_pass).enumerate() {
            let n = rows.len() * tiles.cols;
            for tile in 0..n {
                let row = self.first + pass * per_pass + tile / tiles.cols;
                let pixels = patch(s, xs, zeros, (row / tiles.rows, row % tiles.rows, tile % tiles.cols));
                for c in (0..s.c_in).step_by(RUN) {
                    let points = transform::input::<T, RUN>(
                        #[inline(always)]
                        |y, x| load(&pixels[4 * y + x][c..]),
                    );
                    for (point, run) in points.as_flattened().iter().enumerate() {
                        store(run, &mut inputs[point * point_in + tile * pitch_in + c..]);
                    }
                }
            }
            for point in 0..POINTS {
                let inputs = &inputs[point * point_in..][..n * pitch_in];
                let products = &mut products[point * point_out..][..n * pitch_out];
                for_blocks!(block, B in weights.blocks.len(), V => {
                    for first in (0..s.c_in).step_by(STEP) {
                        let run = STEP.min(s.c_in - first) * T::LANES;
                        let weights: [&[V::Block]; B] = tile::each(|b| {
                            V::blocks(&weights.blocks[block + b][(point * s.c_in + first) * T::LANES..][..run])
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
                let (upper, lower) = outputs.split_at_mut(s.w_out * s.c_out);
                for col in 0..tiles.cols {
                    let tile = row * tiles.cols + col;
                    let x = 2 * col * s.c_out;
                    let [mut upper, mut lower] =
                        [&mut *upper, &mut *lower].map(|row| row.get_mut(x..).unwrap_or_default().chunks_mut(s.c_out));
                    let mut pixels = [upper.next(), upper.next(), lower.next(), lower.next()];
                    for c in (0..s.c_out).step_by(RUN) {
                        let at = tile * pitch_out + c;
                        let runs = transform::output::<T, RUN>(
                            #[inline(always)]
                            |point| load(&products[point * point_out + at..]),
                        );
                        for (run, pixel) in runs.as_flattened().iter().zip(&mut pixels) {
                            if let Some(pixel) = pixel {
                                store(run, &mut pixel[c..]);
                            }
                        }
                    }
                }
            }
        }
    }
}
