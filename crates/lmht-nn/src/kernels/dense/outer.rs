//! Sums of outer products over positions: the weight gradient.
//!
//! Input and output gradient of some rows are copied into panels: the input in blocks of about 16 channels
//! `[blocks, lines, columns, cb]` with its zero border, the output gradient in blocks of `L` channels
//! `[blocks, positions, L]`. A panel of either fits the first-level cache beside one of the other. A tile of 6 weights x
//! `L` output channels stays in registers and runs along the positions ([`outer_tile`]).

use super::maps::Maps;
use crate::kernels::real::{Real, VectorKernel, Vectors};
use crate::kernels::{ConvShape, Source};
use rayon::prelude::*;
use std::ops::Range;

/// Weights in a register tile, as in a correlation.
const TILE: usize = 6;
/// Positions of a pass; their panels of input and gradients stay in the first-level cache.
const POSITIONS: usize = 128;
/// Number of tasks to aim at. A constant and not the number of threads, so that sums keep their order.
const TASKS: usize = 8;

/// Adds to 6 x `L` sums the products of six source numbers and `L` output gradients, over positions.
///
/// Each of `rows` is (start in the source, start in the gradients) of `len` positions; `step` lies between positions in
/// the source.
#[inline(always)]
fn outer_tile<T: Real, V: Vectors<T>>(
    vectors: V,
    sums: &mut [T],
    source: &[T],
    grads: &[T],
    rows: &[(usize, usize)],
    len: usize,
    step: usize,
) {
    let sums = V::pairs_mut(sums).first_chunk_mut::<TILE>().expect("a tile of sums");
    let mut tile = *sums;
    for &(x, g) in rows {
        let source = &source[x..][..(len - 1) * step + TILE];
        let grads = V::pairs(&grads[g..][..len * T::LANES]);
        for (i, &[g0, g1]) in grads.iter().enumerate() {
            let xs: &[T; TILE] = source[i * step..].first_chunk().expect("a tile of the source");
            for (acc, &x) in tile.iter_mut().zip(xs) {
                let x = vectors.splat(x);
                *acc = [vectors.mul_add(x, g0, acc[0]), vectors.mul_add(x, g1, acc[1])];
            }
        }
    }
    *sums = tile;
}

/// How the weights are laid out while they are summed up: `[blocks, c_out / L, k, run, L]`, `run` rounded up to tiles.
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
    fn new<T: Real>(s: &ConvShape) -> Self {
        // Between 8 and 24 channels, so that least is lost to rounding.
        let best = (8..=24).min_by_key(|&cb| {
            let (cb, blocks) = (cb.min(s.c_in), s.c_in.div_ceil(cb));
            (blocks * (s.k * cb).next_multiple_of(TILE), cb.abs_diff(16))
        });
        let cb = best.unwrap_or(16).min(s.c_in);
        Self {
            cb,
            blocks: s.c_in.div_ceil(cb),
            grad_blocks: s.c_out.div_ceil(T::LANES),
            k: s.k,
            run: (s.k * cb).next_multiple_of(TILE),
        }
    }
}

/// The weight gradient of some rows of the output (counted over all images), for some blocks of input channels.
struct Task<'a, T, X> {
    shape: ConvShape,
    layout: Blocks,
    blocks: Range<usize>,
    rows: Range<usize>,
    xs: Maps<'a, X>,
    grads: Maps<'a, T>,
    sums: &'a mut [T],
}

impl<T: Real, X: Source<T>> VectorKernel<T> for Task<'_, T, X> {
    #[inline(always)]
    fn run<V: Vectors<T>>(self, vectors: V) {
        let s = self.shape;
        let Blocks { cb, grad_blocks, k, run, .. } = self.layout;
        let n_rows = (POSITIONS / s.w_out).clamp(1, self.rows.len());
        let columns = (s.w_out - 1) * s.stride + k;
        let line = columns * cb;
        let (mut source, mut grads): (Vec<T>, Vec<T>) = (Vec::new(), Vec::new());
        let mut lists: Vec<Vec<(usize, usize)>> = vec![Vec::with_capacity(n_rows); k];
        let mut lines: Vec<(usize, Option<usize>)> = Vec::new();

        // Columns of the input that the windows cover, as columns of a line: the border is to the left and the right.
        let left = s.padding.min(columns);
        let right = (s.padding + s.w).min(columns).max(left);

        for first in self.rows.clone().step_by(n_rows) {
            let rows = first..self.rows.end.min(first + n_rows);
            lists.iter_mut().for_each(Vec::clear);
            // (image, row of the input or none in the border)
            lines.clear();
            let mut row = rows.start;
            while row < rows.end {
                let image = row / s.h_out;
                let end = rows.end.min((image + 1) * s.h_out);
                let (from, to) = (row - image * s.h_out, end - image * s.h_out);
                for (ky, list) in lists.iter_mut().enumerate() {
                    for y in from..to {
                        // A row of the kernel that lies in the border adds nothing.
                        if (s.padding..s.padding + s.h).contains(&(y * s.stride + ky)) {
                            let x = (lines.len() + (y - from) * s.stride) * line;
                            list.push((x, (image * s.h_out + y - rows.start) * s.w_out * T::LANES));
                        }
                    }
                }
                let covered = from * s.stride..(to - 1) * s.stride + k;
                lines.extend(covered.map(|y| (image, y.checked_sub(s.padding).filter(|&y| y < s.h))));
                row = end;
            }

            // The last tile of a run may read past the end; what it computes there is dropped.
            let block_len = lines.len() * line;
            source.resize(self.blocks.len() * block_len + TILE, T::default());
            for (block, source) in self.blocks.clone().zip(source.chunks_exact_mut(block_len)) {
                let channels = block * cb..s.c_in.min((block + 1) * cb);
                for (&(image, y), line) in lines.iter().zip(source.chunks_exact_mut(line)) {
                    // What lies in a row of the border is never read.
                    let Some(y) = y else { continue };
                    line[..left * cb].fill(T::default());
                    line[right * cb..].fill(T::default());
                    if left < right {
                        let cols = left - s.padding..right - s.padding;
                        self.xs.copy_row((image, y), cols, channels.clone(), &mut line[left * cb..], cb);
                    }
                }
            }
            let panel = rows.len() * s.w_out * T::LANES;
            grads.resize(grad_blocks * panel, T::default());
            for (block, grads) in grads.chunks_exact_mut(panel).enumerate() {
                let channels = block * T::LANES..s.c_out.min((block + 1) * T::LANES);
                for (row, grads) in rows.clone().zip(grads.chunks_exact_mut(s.w_out * T::LANES)) {
                    let at = (row / s.h_out, row % s.h_out);
                    self.grads.copy_row(at, 0..s.w_out, channels.clone(), grads, T::LANES);
                }
            }

            let mut tiles = self.sums.chunks_exact_mut(TILE * T::LANES);
            for block in 0..self.blocks.len() {
                for grads in grads.chunks_exact(panel) {
                    for (ky, list) in lists.iter().enumerate() {
                        let source = &source[block * block_len..];
                        for r in (0..run).step_by(TILE) {
                            let tile = tiles.next().expect("one tile for every step of the four loops");
                            let source = &source[(ky * line + r).min(source.len())..];
                            outer_tile::<T, V>(vectors, tile, source, grads, list, s.w_out, s.stride * cb);
                        }
                    }
                }
            }
        }
    }
}

/// `dweight[o, i, ky, kx] = Σ_{n, y, x} dys[n, y, x, o] xs[n, y s + ky - p, x s + kx - p, i]`.
pub(super) fn grad_weight<T: Real, X: Source<T>>(
    s: &ConvShape,
    xs: Maps<'_, X>,
    grads: Maps<'_, T>,
    dweight: &mut [T],
) {
    let layout = Blocks::new::<T>(s);
    let n_rows = s.n * s.h_out;
    // Tasks share out blocks of input channels, or rows. Rows need sums of their own for each task, blocks of channels a
    // copy of the output gradient each: many channels prefer the one, large maps the other.
    let cost = |ranges: usize| 2 * TASKS.div_ceil(ranges).min(n_rows) * s.weight_len() + ranges * s.y_len();
    let ranges = (0..4).map(|i| 1 << i).filter(|&ranges| ranges <= layout.blocks).min_by_key(|&ranges| cost(ranges));
    let per_range = layout.blocks.div_ceil(ranges.unwrap_or(1));
    let n_ranges = layout.blocks.div_ceil(per_range);
    let per_group = n_rows.div_ceil(TASKS.div_ceil(n_ranges));
    let n_groups = n_rows.div_ceil(per_group);

    // Sums of one block of input with one of output channels.
    let pair = layout.k * layout.run * T::LANES;
    // Ordered by range of channels, then by group of rows.
    let sums: Vec<Vec<T>> = (0..n_ranges * n_groups)
        .into_par_iter()
        .map(|task| {
            let (range, group) = (task / n_groups, task % n_groups);
            let blocks = range * per_range..layout.blocks.min((range + 1) * per_range);
            let rows = group * per_group..n_rows.min((group + 1) * per_group);
            let mut sums = vec![T::default(); blocks.len() * layout.grad_blocks * pair];
            T::run_with_vectors(Task::<T, X> { shape: *s, layout, blocks, rows, xs, grads, sums: &mut sums });
            sums
        })
        .collect();

    let per_output = s.c_in * s.k * s.k;
    dweight.par_chunks_mut(T::LANES * per_output).enumerate().for_each(|(grad_block, dweight)| {
        let mut total = vec![T::default(); pair];
        for block in 0..layout.blocks {
            let (range, inside) = (block / per_range, block % per_range);
            let first = (inside * layout.grad_blocks + grad_block) * pair;
            let groups = &sums[range * n_groups..(range + 1) * n_groups];
            total.copy_from_slice(&groups[0][first..][..pair]);
            for sums in &groups[1..] {
                for (total, &sum) in total.iter_mut().zip(&sums[first..][..pair]) {
                    *total += sum;
                }
            }
            let channels = block * layout.cb..s.c_in.min((block + 1) * layout.cb);
            for (lane, dweight) in dweight.chunks_exact_mut(per_output).enumerate() {
                let dweight = &mut dweight[channels.start * s.k * s.k..channels.end * s.k * s.k];
                for (c, dweight) in dweight.chunks_exact_mut(s.k * s.k).enumerate() {
                    for (ky, dweight) in dweight.chunks_exact_mut(s.k).enumerate() {
                        for (kx, dweight) in dweight.iter_mut().enumerate() {
                            *dweight = total[(ky * layout.run + kx * layout.cb + c) * T::LANES + lane];
                        }
                    }
                }
            }
        }
    });
}
