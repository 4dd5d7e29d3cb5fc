//! Correlation of feature maps with a kernel: the forward pass and the input gradient.
//!
//! A *band* is some rows of the output. The pixels that its windows cover are copied once, channels innermost, so that
//! what one row of the kernel reads is one run of `kw * c` neighbouring numbers. A tile of 6 positions x `L` output
//! channels stays in registers and runs along such numbers and the packed weights ([`multiply_tile`]).
//!
//! The reduction over taps and channels is cut into steps whose `L` columns of weights stay in the first-level cache
//! while all positions of the band pass by. With many channels a step lies within one tap, and positions whose pixel
//! would be in the zero border are left out: of a map of 4x4 that is a third.

use super::maps::{Maps, transpose};
use super::pack::Packing;
use crate::kernels::Source;
use crate::kernels::lines::Lines;
use crate::kernels::real::{Real, VectorKernel, Vectors};
use rayon::prelude::*;
use std::ops::Range;

/// Positions in a register tile; 6 x 2 accumulators, 2 vectors and a broadcast fit 16 registers.
const TILE: usize = 6;
/// Products of a position in a step: `STEP * L` weights (20 kB) stay in the first-level cache.
const STEP: usize = 320;
/// From this many channels on, each tap is a step of its own.
const TAP: usize = 128;
/// Positions that share a pass over the weights.
const POSITIONS: usize = 240;
/// Bytes of a band's copy; half of the second-level cache, the rest is for weights and output.
const BAND: usize = 256 << 10;
/// Number of tasks to aim at. A constant and not the number of threads, so that results do not depend on it.
const TASKS: usize = 8;

/// Some taps and channels that are summed up in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    /// Taps: rows and columns of the kernel.
    rows: Range<usize>,
    cols: Range<usize>,
    /// First channel.
    channel: usize,
    /// Numbers that lie side by side in one row of the kernel.
    run: usize,
    /// Where the weights of this step begin, in rows of `L`.
    first: usize,
}

/// The zeros around the maps that the copy of a band has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Border {
    /// All that the windows cover.
    Full,
    /// Columns only: steps lie within a row of the kernel, and know which positions have it inside of the map.
    Columns,
    /// None: steps lie within a tap.
    None,
}

/// Cuts the reduction over `kh * kw * channels` products into steps.
fn steps((kh, kw): (usize, usize), channels: usize) -> (Vec<Step>, Border) {
    let mut steps = Vec::new();
    let at = |ky: usize, kx: usize, c: usize| (ky * kw + kx) * channels + c;
    if kh * kw * channels <= STEP {
        steps.push(Step { rows: 0..kh, cols: 0..kw, channel: 0, run: kw * channels, first: 0 });
        return (steps, Border::Full);
    }
    if channels >= TAP {
        let part = channels.div_ceil(channels.div_ceil(STEP));
        for ky in 0..kh {
            for kx in 0..kw {
                for channel in (0..channels).step_by(part) {
                    let run = part.min(channels - channel);
                    let first = at(ky, kx, channel);
                    steps.push(Step { rows: ky..ky + 1, cols: kx..kx + 1, channel, run, first });
                }
            }
        }
        return (steps, Border::None);
    }
    let taps = kw.div_ceil((kw * channels).div_ceil(STEP));
    for ky in 0..kh {
        for kx in (0..kw).step_by(taps) {
            let cols = kx..kw.min(kx + taps);
            let run = cols.len() * channels;
            steps.push(Step { rows: ky..ky + 1, cols, channel: 0, run, first: at(ky, kx, 0) });
        }
    }
    (steps, Border::Columns)
}

/// One correlation with a small kernel, written to every `step`-th position of the output maps.
#[derive(Debug)]
pub(super) struct Correlation<'a, T> {
    /// Kernel size.
    pub(super) kh: usize,
    pub(super) kw: usize,
    /// Row and column in the source where the window of the first position starts; negative in the zero border.
    pub(super) row: isize,
    pub(super) col: isize,
    /// Step of the window in the source.
    pub(super) stride: usize,
    /// Number of output positions, the first of them and the step between them in the output map.
    pub(super) n_rows: usize,
    pub(super) n_cols: usize,
    pub(super) y0: usize,
    pub(super) x0: usize,
    pub(super) step: usize,
    /// `[kh, kw, c, L]` for every block of `L` output channels.
    pub(super) weights: Packing<'a, T>,
}

/// Adds to `R` x `L` outputs the products of the source at `R` positions with the weights of `L` output channels.
///
/// `segments` are the places, relative to a position, of runs of `run` numbers; `weights` is `[segments, run, L]`. Sums
/// begin at `start`, if there is one, and at the outputs otherwise.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn multiply_tile<T: Real, V: Vectors<T>, const R: usize>(
    vectors: V,
    outputs: &mut [T],
    rows: [usize; R],
    start: Option<&[V::V; 2]>,
    source: &[T],
    positions: [usize; R],
    segments: &[usize],
    run: usize,
    weights: &[T],
) {
    let mut tile = [[vectors.splat(T::default()); 2]; R];
    for (tile, row) in tile.iter_mut().zip(rows) {
        *tile = match start {
            Some(start) => *start,
            None => V::pairs(&outputs[row..][..T::LANES])[0],
        };
    }
    for (&segment, weights) in segments.iter().zip(weights.chunks_exact(run * T::LANES)) {
        let mut sources: [&[T]; R] = [&[]; R];
        for (from, p) in sources.iter_mut().zip(positions) {
            *from = &source[p + segment..][..run];
        }
        for (r, &[w0, w1]) in V::pairs(weights).iter().enumerate().take(run) {
            for (acc, source) in tile.iter_mut().zip(&sources) {
                let x = vectors.splat(source[r]);
                *acc = [vectors.mul_add(x, w0, acc[0]), vectors.mul_add(x, w1, acc[1])];
            }
        }
    }
    for (row, tile) in rows.into_iter().zip(tile) {
        V::pairs_mut(&mut outputs[row..][..T::LANES])[0] = tile;
    }
}

/// Correlations of one source, and where they write: maps `[h, w, c_out]`.
#[derive(Debug)]
pub(super) struct Plan<'a, T, X> {
    pub(super) source: Maps<'a, X>,
    pub(super) correlations: Vec<Correlation<'a, T>>,
    pub(super) n: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) c_out: usize,
    pub(super) bias: Option<&'a [T]>,
}

/// Buffers of a task, for one band after the other.
#[derive(Debug, Default)]
struct Scratch<T> {
    /// The copied pixels.
    source: Lines<T>,
    /// Outputs of a block of channels that is not full, `[positions, L]`.
    block: Lines<T>,
    /// Weights that no task before has packed.
    weights: Lines<T>,
    /// (place in the copy, output position) of all positions of every list.
    places: Vec<(usize, usize)>,
}

/// Rows of one image in a band.
#[derive(Debug)]
struct Fragment {
    image: usize,
    /// Of the correlation's positions.
    rows: Range<usize>,
    /// The rows of the source that are copied.
    source: Range<isize>,
    /// Where the copy begins.
    start: usize,
    /// Output position of the first column of row 0 of the correlation; may lie before the band.
    output: isize,
}

/// The pixels that a correlation reads for a band: where they lie in the copy.
#[derive(Debug)]
struct Cover {
    border: Border,
    fragments: Vec<Fragment>,
    /// Columns of the source that are copied.
    cols: Range<isize>,
    /// Numbers from pixel to pixel, from row to row, and in the copy.
    pixel: usize,
    line: usize,
    len: usize,
}

/// Computes rows `rows` (counted over all images) of the output channels in `blocks`, to `outputs` `[rows, w, width]`.
struct Band<'a, 'b, T, X> {
    plan: &'a Plan<'a, T, X>,
    rows: Range<usize>,
    blocks: Range<usize>,
    outputs: &'b mut [T],
    scratch: &'b mut Scratch<T>,
}

impl<T: Real, X: Source<T>> VectorKernel<T> for Band<'_, '_, T, X> {
    #[inline(always)]
    fn run<V: Vectors<T>>(mut self, vectors: V) {
        let plan = self.plan;
        let covered: usize = plan.correlations.iter().map(|c| c.n_rows * c.n_cols).sum();
        if covered < plan.h * plan.w {
            // Inputs that no window covers have no gradient.
            self.outputs.fill(T::default());
        }
        for correlation in &plan.correlations {
            let (steps, border) = steps((correlation.kh, correlation.kw), plan.source.channels);
            let cover = self.cover(correlation, border);
            if cover.fragments.is_empty() {
                continue;
            }
            self.copy(vectors, &cover);
            let lists = self.list_places(correlation, &cover, &steps);
            self.multiply(vectors, correlation, &cover, &steps, &lists);
        }
    }
}

impl<T: Real, X: Source<T>> Band<'_, '_, T, X> {
    fn cover(&self, correlation: &Correlation<'_, T>, border: Border) -> Cover {
        let plan = self.plan;
        let Correlation { kh, kw, stride, .. } = *correlation;
        let channels = plan.source.channels;
        let (h, w) = plan.source.size();
        // A line between pixels, so that those of one tile do not all fall on the same few sets of the cache.
        let pixel = if border == Border::None { channels + T::LANES } else { channels };
        let last_col = correlation.col + ((correlation.n_cols - 1) * stride + kw) as isize;
        let cols = if border == Border::None { 0..w as isize } else { correlation.col..last_col };
        let line = cols.len() * pixel;

        let mut fragments = Vec::new();
        let mut len = 0;
        let mut first = self.rows.start;
        while first < self.rows.end {
            let image = first / plan.h;
            let end = self.rows.end.min((image + 1) * plan.h);
            let index = |row: usize| (row - image * plan.h).saturating_sub(correlation.y0).div_ceil(correlation.step);
            let rows = index(first)..index(end).min(correlation.n_rows);
            if !rows.is_empty() {
                let mut from = correlation.row + (rows.start * stride) as isize;
                let mut to = correlation.row + ((rows.end - 1) * stride + kh) as isize;
                if border != Border::Full {
                    (from, to) = (from.clamp(0, h as isize), to.clamp(0, h as isize));
                }
                let row = (image * plan.h + correlation.y0) as isize - self.rows.start as isize;
                let output = row * plan.w as isize + correlation.x0 as isize;
                fragments.push(Fragment { image, rows, source: from..to, start: len, output });
                len += (from..to).len() * line;
            }
            first = end;
        }
        Cover { border, fragments, cols, pixel, line, len }
    }

    #[inline(always)]
    fn copy<V: Vectors<T>>(&mut self, vectors: V, cover: &Cover) {
        let maps = &self.plan.source;
        let (h, w) = maps.size();
        let source = &mut self.scratch.source;
        source.resize(cover.len);
        let inside = cover.cols.start.clamp(0, w as isize)..cover.cols.end.clamp(0, w as isize);
        let left = (inside.start - cover.cols.start) as usize * cover.pixel;
        let right = left + inside.len() * cover.pixel;
        for fragment in &cover.fragments {
            for (i, y) in fragment.source.clone().enumerate() {
                let row = &mut source[fragment.start + i * cover.line..][..cover.line];
                if y < 0 || y >= h as isize || inside.is_empty() {
                    row.fill(T::default());
                    continue;
                }
                row[..left].fill(T::default());
                row[right..].fill(T::default());
                let cols = inside.start as usize..inside.end as usize;
                maps.copy_row(
                    vectors,
                    (fragment.image, y as usize),
                    cols,
                    0..maps.channels,
                    &mut row[left..],
                    cover.pixel,
                );
            }
        }
    }

    /// Lists the places of all positions, and for every step those that read something; returns where the lists are.
    #[inline(always)]
    fn list_places(&mut self, correlation: &Correlation<'_, T>, cover: &Cover, steps: &[Step]) -> Vec<Range<usize>> {
        let (h, w) = self.plan.source.size();
        let places = &mut self.scratch.places;
        places.clear();
        let mut lists: Vec<Range<usize>> = Vec::with_capacity(steps.len());
        for (i, step) in steps.iter().enumerate() {
            if i > 0 && steps[i - 1].rows == step.rows && steps[i - 1].cols == step.cols {
                lists.push(lists[i - 1].clone());
                continue;
            }
            let before = places.len();
            for fragment in &cover.fragments {
                for row in fragment.rows.clone() {
                    let y = correlation.row + (row * correlation.stride + step.rows.start) as isize;
                    if cover.border != Border::Full && (y < 0 || y >= h as isize) {
                        continue;
                    }
                    let from = fragment.start + (y - fragment.source.start) as usize * cover.line;
                    let to = (fragment.output + (row * correlation.step * self.plan.w) as isize) as usize;
                    for col in 0..correlation.n_cols {
                        let x = correlation.col + (col * correlation.stride + step.cols.start) as isize;
                        if cover.border == Border::None && (x < 0 || x >= w as isize) {
                            continue;
                        }
                        let from = from + (x - cover.cols.start) as usize * cover.pixel;
                        places.push((from, to + col * correlation.step));
                    }
                }
            }
            lists.push(before..places.len());
        }
        lists
    }

    #[inline(always)]
    fn multiply<V: Vectors<T>>(
        &mut self,
        vectors: V,
        correlation: &Correlation<'_, T>,
        cover: &Cover,
        steps: &[Step],
        lists: &[Range<usize>],
    ) {
        let plan = self.plan;
        let Scratch { source, block: partial, weights: room, places } = &mut *self.scratch;
        let source: &[T] = source;
        let segments: Vec<usize> = (0..correlation.kh).map(|ky| ky * cover.line).collect();
        let positions: Vec<usize> = cover
            .fragments
            .iter()
            .flat_map(|fragment| fragment.rows.clone().map(move |row| (fragment, row)))
            .map(|(fragment, row)| (fragment.output + (row * correlation.step * plan.w) as isize) as usize)
            .flat_map(|first| (0..correlation.n_cols).map(move |col| first + col * correlation.step))
            .collect();

        let width = plan.c_out.min(self.blocks.end * T::LANES) - self.blocks.start * T::LANES;
        let n_outputs = self.outputs.len() / width;
        for block in self.blocks.clone() {
            let lane = (block - self.blocks.start) * T::LANES;
            let n_lanes = T::LANES.min(width - lane);
            let mut start = Lines::zeros(T::LANES);
            if let Some(bias) = plan.bias {
                start[..n_lanes].copy_from_slice(&bias[block * T::LANES..][..n_lanes]);
            }
            let full = n_lanes == T::LANES;
            let (outputs, to_row): (&mut [T], _) = if full {
                (&mut self.outputs[lane..], width)
            } else {
                partial.resize(n_outputs * T::LANES);
                (partial, T::LANES)
            };
            // A single step writes its outputs without reading them.
            let single = steps.len() == 1;
            if !single {
                positions.iter().for_each(|to| outputs[to * to_row..][..T::LANES].copy_from_slice(&start));
            }
            let start = single.then(|| &V::pairs(&start)[0]);
            let weights = correlation.weights.block(block, room);
            for (step, list) in steps.iter().zip(lists) {
                let (run, segments) = (step.run, &segments[..step.rows.len()]);
                let weights = &weights[step.first * T::LANES..][..segments.len() * run * T::LANES];
                let mut places = &places[list.clone()];
                macro_rules! tile {
                    ($r:expr) => {{
                        let (tile, rest) = places.split_at($r);
                        places = rest;
                        let (mut from, mut to) = ([0; $r], [0; $r]);
                        for ((from, to), &place) in from.iter_mut().zip(&mut to).zip(tile) {
                            (*from, *to) = (place.0 + step.channel, place.1 * to_row);
                        }
                        multiply_tile::<T, V, $r>(vectors, outputs, to, start, source, from, segments, run, weights);
                    }};
                }
                while places.len() >= TILE {
                    tile!(TILE);
                }
                if places.len() >= 4 {
                    tile!(4);
                }
                if places.len() >= 2 {
                    tile!(2);
                }
                if !places.is_empty() {
                    tile!(1);
                }
                debug_assert!(places.is_empty());
            }
            if !full {
                for to in &positions {
                    let from = &partial[to * T::LANES..][..n_lanes];
                    self.outputs[to * width + lane..][..n_lanes].copy_from_slice(from);
                }
            }
        }
    }
}

impl<T: Real, X: Source<T>> Plan<'_, T, X> {
    /// Rows of a band.
    fn band_rows(&self) -> usize {
        let (h, w) = self.source.size();
        let rows = |c: &Correlation<'_, T>| {
            let by_positions = POSITIONS / c.n_cols * c.step;
            let bytes = w * self.source.channels * size_of::<T>() * h.div_ceil(self.h);
            let by_bytes = BAND / bytes;
            by_positions.min(by_bytes)
        };
        self.correlations.iter().map(rows).min().unwrap_or(self.h).max(1)
    }

    /// Packs the weights once if more than two tasks will read each of them.
    fn pack_for(&mut self, readers: usize) {
        if readers > 2 {
            self.correlations.iter_mut().for_each(|correlation| correlation.weights.pack_all());
        }
    }

    /// Writes all outputs, `[n, h, w, c_out]`.
    pub(super) fn run_nhwc(mut self, outputs: &mut [T]) {
        let n_rows = self.n * self.h;
        let blocks = self.c_out.div_ceil(T::LANES);
        let mut n_bands = n_rows.div_ceil(self.band_rows());
        if n_bands >= TASKS || blocks == 1 {
            // Bands of equal size, in a number that two threads share out evenly.
            n_bands = n_bands.next_multiple_of(2).min(n_rows);
        }
        let rows = n_rows.div_ceil(n_bands);
        self.pack_for(n_bands);
        if n_bands >= TASKS || blocks == 1 {
            outputs.par_chunks_mut(rows * self.w * self.c_out).enumerate().for_each(|(band, outputs)| {
                let rows = band * rows..n_rows.min((band + 1) * rows);
                let scratch = &mut Scratch::default();
                T::run_with_vectors(Band::<T, X> { plan: &self, rows, blocks: 0..blocks, outputs, scratch });
            });
            return;
        }
        // Few positions: the output channels are shared out as well, and put side by side afterwards.
        let per_task = blocks.div_ceil(TASKS.div_ceil(n_bands));
        let n_ranges = blocks.div_ceil(per_task);
        let parts: Vec<(usize, Vec<T>)> = (0..n_bands * n_ranges)
            .into_par_iter()
            .map(|task| {
                let (band, range) = (task / n_ranges, task % n_ranges);
                let rows = (band * rows).min(n_rows)..n_rows.min((band + 1) * rows);
                let blocks = range * per_task..blocks.min((range + 1) * per_task);
                let width = self.c_out.min(blocks.end * T::LANES) - blocks.start * T::LANES;
                let mut part = vec![T::default(); rows.len() * self.w * width];
                let (outputs, scratch) = (part.as_mut_slice(), &mut Scratch::default());
                T::run_with_vectors(Band::<T, X> { plan: &self, rows, blocks, outputs, scratch });
                (width, part)
            })
            .collect();
        outputs.par_chunks_mut(rows * self.w * self.c_out).zip(parts.par_chunks(n_ranges)).for_each(
            |(outputs, parts)| {
                let mut lane = 0;
                for (width, part) in parts {
                    for (to, from) in outputs.chunks_exact_mut(self.c_out).zip(part.chunks_exact(*width)) {
                        to[lane..lane + width].copy_from_slice(from);
                    }
                    lane += width;
                }
            },
        );
    }

    /// Writes all outputs, `[n, c_out, h, w]`.
    pub(super) fn run_nchw(mut self, outputs: &mut [T]) {
        let map = self.h * self.w;
        let blocks = self.c_out.div_ceil(T::LANES);
        let band_rows = self.band_rows();
        // Small maps: several images a task. Few images: the output channels are shared out as well.
        let group = (band_rows / self.h).clamp(1, self.n.div_ceil(TASKS));
        let n_ranges = TASKS.div_ceil(self.n.div_ceil(group)).min(blocks);
        let per_task = blocks.div_ceil(n_ranges);
        let n_ranges = blocks.div_ceil(per_task);

        self.pack_for((self.n * self.h).div_ceil(band_rows).max(self.n.div_ceil(group)));

        let mut tasks = Vec::new();
        for (i, outputs) in outputs.chunks_mut(group * self.c_out * map).enumerate() {
            let mut ranges: Vec<Vec<&mut [T]>> = (0..n_ranges).map(|_| Vec::with_capacity(group)).collect();
            for outputs in outputs.chunks_exact_mut(self.c_out * map) {
                for (range, outputs) in ranges.iter_mut().zip(outputs.chunks_mut(per_task * T::LANES * map)) {
                    range.push(outputs);
                }
            }
            tasks.extend(ranges.into_iter().enumerate().map(|(range, outputs)| (i * group, range, outputs)));
        }
        tasks.into_par_iter().for_each(|(image, range, outputs)| {
            let blocks = range * per_task..blocks.min((range + 1) * per_task);
            let planes = Planes::<T, X> { plan: &self, image, blocks, outputs, band_rows };
            planes.run();
        });
    }
}

/// Some output channels of some images, for outputs of order NCHW.
struct Planes<'a, 'out, T, X> {
    plan: &'a Plan<'a, T, X>,
    image: usize,
    blocks: Range<usize>,
    /// For each image its maps.
    outputs: Vec<&'out mut [T]>,
    band_rows: usize,
}

impl<T: Real, X: Source<T>> Planes<'_, '_, T, X> {
    fn run(mut self) {
        let plan = self.plan;
        let width = plan.c_out.min(self.blocks.end * T::LANES) - self.blocks.start * T::LANES;
        let (mut scratch, mut band) = (Scratch::default(), Vec::new());
        let n_rows = self.outputs.len() * plan.h;
        let rows = n_rows.div_ceil(n_rows.div_ceil(self.band_rows));
        for first in (0..n_rows).step_by(rows) {
            let rows = first..n_rows.min(first + rows);
            band.resize(rows.len() * plan.w * width, T::default());
            let start = self.image * plan.h;
            T::run_with_vectors(Band::<T, X> {
                plan,
                rows: start + rows.start..start + rows.end,
                blocks: self.blocks.clone(),
                outputs: &mut band,
                scratch: &mut scratch,
            });
            let mut row = rows.start;
            let mut band = band.as_slice();
            while row < rows.end {
                let end = rows.end.min((row / plan.h + 1) * plan.h);
                let (positions, rest) = band.split_at((end - row) * plan.w * width);
                let first = row % plan.h * plan.w;
                let planes = &mut *self.outputs[row / plan.h];
                T::run_with_vectors(ToPlanes { positions, width, planes, place: (plan.h * plan.w, first) });
                (row, band) = (end, rest);
            }
        }
    }
}

/// Writes positions `[positions, width]` to maps `[width, map]` of one image; `place` is (`map`, first pixel).
struct ToPlanes<'a, T> {
    positions: &'a [T],
    width: usize,
    planes: &'a mut [T],
    place: (usize, usize),
}

impl<T: Real> VectorKernel<T> for ToPlanes<'_, T> {
    #[inline(always)]
    fn run<V: Vectors<T>>(self, vectors: V) {
        let (width, (map, first)) = (self.width, self.place);
        let n = self.positions.len() / width;
        transpose(vectors, (n, width), self.positions, |i| i * width, self.planes, |c| c * map + first);
    }
}
