//! Correlation of feature maps with a kernel: the forward pass and the input gradient.
//!
//! A *band* is some rows of the output. The pixels that its windows cover are copied once, channels innermost, so that
//! what one row of the kernel reads is one run of `kw * c` neighbouring numbers. A register tile of positions x output
//! channels runs along such numbers and the packed weights ([`tile::multiply`]).
//!
//! The reduction over taps and channels is cut into steps whose `L` columns of weights stay in the first-level cache
//! while all positions of the band pass by. With many channels a step lies within one tap, and positions whose pixel
//! would be in the zero border are left out: of a map of 4x4 that is a third.

use super::maps::Maps;
use super::pack::Packing;
use crate::Source;
use crate::lines::Lines;
use crate::number::{Number, VectorKernel, Vectors};
use crate::tile::{self, BLOCKS, for_blocks, for_rows};
use rayon::prelude::*;
use std::ops::Range;

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

/// Correlations of one source, and where they write: maps `[h, w, c_out]`.
#[derive(Debug)]
pub(super) struct Plan<'a, T, X> {
    pub(super) source: Maps<'a, X>,
    pub(super) correlations: Vec<Correlation<'a, T>>,
    pub(super) n: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) c_out: usize,
}

/// Buffers of a task, for one band after the other.
#[derive(Debug, Default)]
struct Scratch<T> {
    /// The copied pixels.
    source: Lines<T>,
    /// Outputs of a block of channels that is not full, `[positions, L]`.
    block: Lines<T>,
    /// Blocks of weights that no task before has packed.
    weights: [Lines<T>; BLOCKS],
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

impl<T: Number, X: Source<T>> VectorKernel<T> for Band<'_, '_, T, X> {
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
            self.copy(&cover);
            let lists = self.list_places(correlation, &cover, &steps);
            self.multiply(vectors, correlation, &cover, &steps, &lists);
        }
    }
}

impl<T: Number, X: Source<T>> Band<'_, '_, T, X> {
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
    fn copy(&mut self, cover: &Cover) {
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
                maps.copy_row((fragment.image, y as usize), cols, &mut row[left..], cover.pixel);
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
        let Scratch { source, block: partial, weights: rooms, places } = &mut *self.scratch;
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
        let job = Job { steps, lists, places, segments: &segments, positions: &positions, source };
        for_blocks!(block, B in width / T::LANES, V => {
            let first = self.blocks.start + block;
            let mut weights: [&[T]; B] = [&[]; B];
            for (b, (weights, room)) in weights.iter_mut().zip(&mut *rooms).enumerate() {
                *weights = correlation.weights.block(first + b, room);
            }
            job.run::<V, B>(vectors, weights, &mut self.outputs[block * T::LANES..], width);
        });
        let lane = width / T::LANES * T::LANES;
        if lane < width {
            // A block that is not full is computed aside.
            let block = self.blocks.end - 1;
            partial.resize(self.outputs.len() / width * T::LANES);
            job.run::<V, 1>(vectors, [correlation.weights.block(block, &mut rooms[0])], partial, T::LANES);
            for to in &positions {
                let from = &partial[to * T::LANES..][..width - lane];
                self.outputs[to * width + lane..][..width - lane].copy_from_slice(from);
            }
        }
    }
}

/// The products of a band with the weights of any output channels.
struct Job<'a, T> {
    steps: &'a [Step],
    /// For every step the positions that read something, in `places`.
    lists: &'a [Range<usize>],
    /// (place in the source, output position).
    places: &'a [(usize, usize)],
    /// Where the rows of the kernel are, relative to a place.
    segments: &'a [usize],
    /// All output positions.
    positions: &'a [usize],
    source: &'a [T],
}

impl<T: Number> Job<'_, T> {
    /// Writes `B` blocks of outputs, `to_row` numbers from position to position; `weights` are
    /// `[kh, kw, c, L]`.
    #[inline(always)]
    fn run<V: Vectors<T>, const B: usize>(&self, vectors: V, weights: [&[T]; B], outputs: &mut [T], to_row: usize) {
        // A single step writes its outputs without reading them.
        let single = self.steps.len() == 1;
        if !single {
            self.positions.iter().for_each(|to| outputs[to * to_row..][..B * T::LANES].fill(T::default()));
        }
        for (step, list) in self.steps.iter().zip(self.lists) {
            let run = step.run;
            let places = &self.places[list.clone()];
            for_rows!(row, R in places.len() => {
                let place = |r: usize, b| places[row + r].1 * to_row + b * T::LANES;
                let mut tile = if single {
                    tile::zeros::<T, V, R, B>(vectors)
                } else {
                    tile::load::<T, V, R, B>(vectors, outputs, place)
                };
                for (i, &segment) in self.segments[..step.rows.len()].iter().enumerate() {
                    let rows: [&[T]; R] =
                        tile::each(|r| &self.source[places[row + r].0 + step.channel + segment..]);
                    let weights: [&[V::Block]; B] = tile::each(|b| {
                        V::blocks(&weights[b][(step.first + i * run) * T::LANES..][..run * T::LANES])
                    });
                    tile::multiply::<T, V, R, B>(vectors, &mut tile, rows, weights);
                }
                tile::store::<T, V, R, B>(tile, outputs, place);
            });
        }
    }
}

impl<T: Number, X: Source<T>> Plan<'_, T, X> {
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
    pub(super) fn run(mut self, outputs: &mut [T]) {
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
}
