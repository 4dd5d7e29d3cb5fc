//! Sums of outer products over positions: the weight gradient.
//!
//! Input and output gradient of some rows (a *slab*) are copied into panels: the input in blocks of about 16 channels
//! `[blocks, lines, columns, cb]` with its zero border, the output gradient in blocks of `L` channels
//! `[blocks, positions, L]`. A slab stays in the second-level cache, and what a pass over some of its rows reads of one
//! block of either in the first-level cache. A register tile runs along the positions ([`tile::add_outer`]).

use super::maps::{Maps, transpose};
use crate::lines::Lines;
use crate::number::{Number, VectorKernel, Vectors};
use crate::tile::{self, ROWS, for_blocks};
use crate::{ConvShape, Source};
use rayon::prelude::*;
use std::ops::Range;

/// Positions of a pass; their panels of input and gradients stay in the first-level cache.
const POSITIONS: usize = 128;
/// Bytes of a slab's copy of the input, or of the output gradient; a third of the second-level cache.
const SLAB: usize = 160 << 10;
/// Number of tasks to aim at. A constant and not the number of threads, so that sums keep their order.
const TASKS: usize = 8;

/// How the weights are laid out while they are summed up: `[c_out / L, blocks, k, run, L]`, `run` rounded up to tiles.
#[derive(Debug, Clone, Copy)]
struct Blocks {
    /// Input channels of a block.
    cb: usize,
    blocks: usize,
    /// Blocks of output channels.
    grad_blocks: usize,
    k: usize,
    /// Numbers under one row of the kernel, rounded up to whole tiles.
    run: usize,
}

impl Blocks {
    fn new<T: Number>(s: &ConvShape) -> Self {
        // Between 8 and 24 channels, so that least is lost to rounding.
        let best = (8..=24).min_by_key(|&cb| {
            let (cb, blocks) = (cb.min(s.c_in), s.c_in.div_ceil(cb));
            (blocks * (s.k * cb).next_multiple_of(ROWS), cb.abs_diff(16))
        });
        let cb = best.unwrap_or(16).min(s.c_in);
        Self {
            cb,
            blocks: s.c_in.div_ceil(cb),
            grad_blocks: s.c_out.div_ceil(T::LANES),
            k: s.k,
            run: (s.k * cb).next_multiple_of(ROWS),
        }
    }

    /// Sums of one block of input channels with one of output channels.
    fn pair<T: Number>(&self) -> usize {
        self.k * self.run * T::LANES
    }
}

/// Rows of the output (counted over all images) that are copied together.
#[derive(Debug, Default)]
struct Slab {
    /// For every line of the input's copy its image and row; no row in the border.
    lines: Vec<(usize, Option<usize>)>,
    /// (start in the input's block, start in the gradients' block) of all rows of every list.
    places: Vec<(usize, usize)>,
    /// For every pass and row of the kernel its places.
    lists: Vec<Range<usize>>,
}

impl Slab {
    /// Lists rows `rows` in passes of `per_pass`; `line` and `grad_line` are the numbers of a row in a block.
    fn list(&mut self, s: &ConvShape, rows: Range<usize>, per_pass: usize, line: usize, grad_line: usize) {
        self.lines.clear();
        self.places.clear();
        self.lists.clear();
        let mut starts = Vec::with_capacity(rows.len());
        let mut row = rows.start;
        while row < rows.end {
            let image = row / s.h_out;
            let end = rows.end.min((image + 1) * s.h_out);
            let (from, to) = (row - image * s.h_out, end - image * s.h_out);
            starts.extend((from..to).map(|y| (y, (self.lines.len() + (y - from) * s.stride) * line)));
            let covered = from * s.stride..(to - 1) * s.stride + s.k;
            self.lines.extend(covered.map(|y| (image, y.checked_sub(s.padding).filter(|&y| y < s.h))));
            row = end;
        }
        for (pass, starts) in starts.chunks(per_pass).enumerate() {
            for ky in 0..s.k {
                let before = self.places.len();
                for (i, &(y, start)) in starts.iter().enumerate() {
                    // A row of the kernel that lies in the border adds nothing.
                    if (s.padding..s.padding + s.h).contains(&(y * s.stride + ky)) {
                        self.places.push((start, (pass * per_pass + i) * grad_line));
                    }
                }
                self.lists.push(before..self.places.len());
            }
        }
    }
}

/// The weight gradient of some rows of the output (counted over all images), for some blocks of output channels.
struct Task<'a, T, X> {
    shape: ConvShape,
    layout: Blocks,
    grad_blocks: Range<usize>,
    rows: Range<usize>,
    xs: Maps<'a, X>,
    grads: Maps<'a, T>,
    sums: &'a mut [T],
}

impl<T: Number, X: Source<T>> VectorKernel<T> for Task<'_, T, X> {
    #[inline(always)]
    fn run<V: Vectors<T>>(self, vectors: V) {
        let s = self.shape;
        let Blocks { cb, k, run, .. } = self.layout;
        let pair = self.layout.pair::<T>();
        let columns = (s.w_out - 1) * s.stride + k;
        let (line, grad_line) = (columns * cb, s.w_out * T::LANES);
        let out_channels = self.grad_blocks.start * T::LANES..s.c_out.min(self.grad_blocks.end * T::LANES);

        let per_pass = (POSITIONS / (s.w_out * s.stride)).clamp(1, self.rows.len());
        let per_slab = SLAB / size_of::<T>() / (grad_line * self.grad_blocks.len());
        let per_slab = (per_slab / per_pass * per_pass).clamp(per_pass, self.rows.len());

        // Columns of the input that the windows cover, as columns of a line: the border is to the left and the right.
        let left = s.padding.min(columns);
        let right = (s.padding + s.w).min(columns).max(left);

        let (mut source, mut grads) = (Lines::default(), Lines::default());
        let mut slab = Slab::default();
        for first in self.rows.clone().step_by(per_slab) {
            let rows = first..self.rows.end.min(first + per_slab);
            slab.list(&s, rows.clone(), per_pass, line, grad_line);

            let panel = rows.len() * grad_line;
            grads.resize(self.grad_blocks.len() * panel);
            for (i, row) in rows.clone().enumerate() {
                let at = (row / s.h_out, row % s.h_out);
                let to = &mut grads[i * grad_line..];
                self.grads.copy_blocks(at, 0..s.w_out, out_channels.clone(), to, (T::LANES, panel));
            }

            let block_len = slab.lines.len() * line;
            let n_blocks = (SLAB / size_of::<T>() / block_len).clamp(1, self.layout.blocks);
            // The last tile of a run may read past the end; what it computes there is dropped.
            source.resize(n_blocks * block_len + ROWS);
            for first in (0..self.layout.blocks).step_by(n_blocks) {
                let blocks = first..self.layout.blocks.min(first + n_blocks);
                let channels = blocks.start * cb..s.c_in.min(blocks.end * cb);
                for (i, &(image, y)) in slab.lines.iter().enumerate() {
                    // What lies in a row of the border is never read.
                    let Some(y) = y else { continue };
                    for block in 0..blocks.len() {
                        let line = &mut source[block * block_len + i * line..][..line];
                        line[..left * cb].fill(T::default());
                        line[right * cb..].fill(T::default());
                    }
                    if left < right {
                        let cols = left - s.padding..right - s.padding;
                        let to = &mut source[i * line + left * cb..];
                        self.xs.copy_blocks((image, y), cols, channels.clone(), to, (cb, block_len));
                    }
                }
                // A tile is some weights of some blocks of output channels, and runs along the positions.
                for_blocks!(grad_block, B in self.grad_blocks.len(), V => {
                    for (i, block) in blocks.clone().enumerate() {
                        let source = &source[i * block_len..];
                        let sums = &mut self.sums[(grad_block * self.layout.blocks + block) * pair..];
                        for lists in slab.lists.chunks_exact(k) {
                            for (ky, list) in lists.iter().enumerate() {
                                for r in (0..run).step_by(ROWS) {
                                    let place = |row, b| (b * self.layout.blocks * k * run + ky * run + r + row) * T::LANES;
                                    let mut tile = tile::load::<T, V, ROWS, B>(vectors, sums, place);
                                    for &(x, g) in &slab.places[list.clone()] {
                                        let grads: [&[V::Block]; B] = tile::each(|b| {
                                            V::blocks(&grads[(grad_block + b) * panel + g..][..grad_line])
                                        });
                                        let source = &source[ky * line + r + x..];
                                        tile::add_outer::<T, V, ROWS, B>(
                                            vectors, &mut tile, source, s.stride * cb, grads,
                                        );
                                    }
                                    tile::store::<T, V, ROWS, B>(tile, sums, place);
                                }
                            }
                        }
                    }
                });
            }
        }
    }
}

/// `dweight[o, i, ky, kx] = Σ_{n, y, x} dys[n, y, x, o] xs[n, y s + ky - p, x s + kx - p, i]`.
pub(super) fn grad_weight<T: Number, X: Source<T>>(
    s: &ConvShape,
    xs: Maps<'_, X>,
    grads: Maps<'_, T>,
    dweight: &mut [T],
) {
    let layout = Blocks::new::<T>(s);
    let n_rows = s.n * s.h_out;
    // Tasks share out blocks of output channels, or rows. Rows need sums of their own for each task, blocks of channels a
    // copy of the input each: many channels prefer the one, large maps the other.
    let cost = |ranges: usize| 2 * TASKS.div_ceil(ranges).min(n_rows) * s.weight_len() + ranges * s.x_len();
    let ranges = (0..4).map(|i| 1 << i).filter(|&n| n <= layout.grad_blocks).min_by_key(|&n| cost(n));
    let per_range = layout.grad_blocks.div_ceil(ranges.unwrap_or(1));
    let n_ranges = layout.grad_blocks.div_ceil(per_range);
    let per_group = n_rows.div_ceil(TASKS.div_ceil(n_ranges));
    let n_groups = n_rows.div_ceil(per_group);

    let pair = layout.pair::<T>();
    let sums_of = |range: usize, group: usize| {
        let grad_blocks = range * per_range..layout.grad_blocks.min((range + 1) * per_range);
        let rows = group * per_group..n_rows.min((group + 1) * per_group);
        let mut sums = Lines::zeros(grad_blocks.len() * layout.blocks * pair);
        T::run_with_vectors(Task::<T, X> { shape: *s, layout, grad_blocks, rows, xs, grads, sums: &mut sums });
        sums
    };
    let per_output = s.c_in * s.k * s.k;
    let per_grad_block = T::LANES * per_output;
    let unpack = |sums: &[T], dweight: &mut [T]| T::run_with_vectors(Unpack { shape: s, layout, sums, dweight });
    if n_groups == 1 {
        dweight.par_chunks_mut(per_range * per_grad_block).enumerate().for_each(|(range, dweight)| {
            let sums = sums_of(range, 0);
            let blocks = sums.chunks_exact(layout.blocks * pair);
            blocks.zip(dweight.chunks_mut(per_grad_block)).for_each(|(sums, dweight)| unpack(sums, dweight));
        });
        return;
    }
    // Ordered by range of channels, then by group of rows.
    let sums: Vec<Lines<T>> =
        (0..n_ranges * n_groups).into_par_iter().map(|task| sums_of(task / n_groups, task % n_groups)).collect();
    dweight.par_chunks_mut(per_grad_block).enumerate().for_each(|(grad_block, dweight)| {
        let (range, inside) = (grad_block / per_range, grad_block % per_range);
        let place = inside * layout.blocks * pair..(inside + 1) * layout.blocks * pair;
        let mut total = Lines::zeros(place.len());
        for sums in &sums[range * n_groups..(range + 1) * n_groups] {
            for (total, &sum) in total.iter_mut().zip(&sums[place.clone()]) {
                *total += sum;
            }
        }
        unpack(&total, dweight);
    });
}

/// Writes the sums of a block of output channels, `[blocks, k, run, L]`, to its weights, `[outputs, c_in, k, k]`.
struct Unpack<'a, T> {
    shape: &'a ConvShape,
    layout: Blocks,
    sums: &'a [T],
    dweight: &'a mut [T],
}

impl<T: Number> VectorKernel<T> for Unpack<'_, T> {
    #[inline(always)]
    fn run<V: Vectors<T>>(self, vectors: V) {
        let Blocks { cb, run, k, .. } = self.layout;
        let per_output = self.shape.c_in * k * k;
        // Where the sums of all weights of one output and one block begin, in the order of the weights.
        let rows: Vec<usize> =
            (0..cb * k * k).map(|i| (i / k % k * run + i % k * cb + i / (k * k)) * T::LANES).collect();
        let n_outputs = self.dweight.len() / per_output;
        for (block, sums) in self.sums.chunks_exact(self.layout.pair::<T>()).enumerate() {
            let first = block * cb * k * k;
            let n = rows.len().min(per_output - first);
            transpose(vectors, (n, n_outputs), sums, |i| rows[i], &mut self.dweight[first..], |o| o * per_output);
        }
    }
}
