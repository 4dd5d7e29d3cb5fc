//! The forward pass: sums of weight rows.
//!
//! After the first timestep only what changes is added up: a convolution is linear, so `y(t) = y(t−1) + W (s(t) − s(t−1))`.
//! A unit that keeps its count from one timestep to the next costs nothing there, and the neurons of a network that has
//! learnt from a quantized ANN fire evenly.

use super::scan::List;
use super::{Band, LINE, Line, TASKS, bands, panel_lines, transposed_lines};
use crate::number::{Kernel, Number, run_vectorized, run_vectorized_narrow};
use crate::{ConvShape, Images, Source};
use rayon::prelude::*;
use std::ops::Range;

/// Output positions of a band, at all timesteps together. Their sums for one block of output channels stay in the second-level cache.
const POSITIONS: usize = 512;
/// With fewer positions than this most time goes into fetching the weights.
const FEW: usize = 128;

/// Weights in the order in which [`forward_packed`] reads them.
#[derive(Debug)]
pub(crate) struct PackedWeights<T> {
    /// For each block of output channels `[input blocks, k, k, per_block, vectors]`.
    blocks: Vec<Vec<Line<T>>>,
    /// Lines of a block of output channels.
    vectors: usize,
    /// Input channels of a block.
    per_block: usize,
    k: usize,
}

impl<T: Number> PackedWeights<T> {
    /// Packs `weight`, `[c_out, c_in, k, k]`, for convolutions of these channels and this kernel.
    pub(crate) fn new(s: &ConvShape, weight: &[T]) -> Self {
        // Four registers of sums, and as many again for every second row.
        let wide = 4 * size_of::<f32>() / size_of::<T>();
        let vectors = if s.c_out <= wide / 2 * LINE { wide / 2 } else { wide };
        let input_blocks = s.c_in.div_ceil((panel_lines::<T>() / (s.k * vectors)).max(1));
        let per_block = s.c_in.div_ceil(input_blocks);
        let blocks = vec![Vec::new(); s.c_out.div_ceil(vectors * LINE)];
        let mut packed = Self { blocks, vectors, per_block, k: s.k };
        packed.update(s, weight);
        packed
    }

    /// Packs other numbers of the same shape, into the memory at hand: fresh memory would cost more than the packing.
    pub(crate) fn update(&mut self, s: &ConvShape, weight: &[T]) {
        let &mut Self { ref mut blocks, vectors, per_block, .. } = self;
        blocks.par_iter_mut().enumerate().for_each(|(block, lines)| {
            run_vectorized(Pack { shape: s, weight, block, vectors, per_block, lines });
        });
    }

    /// The weights that the window row `ky` of one block of inputs has to one block of outputs.
    fn panel(&self, output_block: usize, input_block: usize, ky: usize) -> &[Line<T>] {
        let len = self.k * self.per_block * self.vectors;
        &self.blocks[output_block][(input_block * self.k + ky) * len..][..len]
    }
}

/// One block of output channels.
struct Pack<'a, T> {
    shape: &'a ConvShape,
    weight: &'a [T],
    block: usize,
    vectors: usize,
    per_block: usize,
    lines: &'a mut Vec<Line<T>>,
}

impl<T: Number> Kernel for Pack<'_, T> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { shape: s, weight, block, vectors, per_block, lines } = self;
        let taps = s.k * s.k;
        let groups = block * vectors..s.c_out.div_ceil(LINE).min((block + 1) * vectors);
        let len = taps * per_block * vectors;
        lines.clear();
        lines.reserve_exact(s.c_in.div_ceil(per_block) * len);
        for first in (0..s.c_in).step_by(per_block) {
            let channels = first..s.c_in.min(first + per_block);
            // Zeros first, part by part: they are still in the cache when they are overwritten.
            let start = lines.len();
            lines.resize(start + len, Line::default());
            let lines = &mut lines[start..];
            transposed_lines(weight, (s.c_in, taps), channels, groups.clone(), |c, tap, group, line| {
                lines[(tap * per_block + c - first) * vectors + group - groups.start] = line;
            });
        }
    }
}

/// `ys[n, y, x, o] = Σ_{ky, kx, i} weight[o, i, ky, kx] s[n, y stride + ky - p, x stride + kx - p, i]` for the maps n of
/// `images`; the other outputs stay as they are.
pub(crate) fn forward<T: Number>(s: &ConvShape, images: &Images, spikes: &[u8], weight: &[T], ys: &mut [T]) {
    forward_packed(s, images, spikes, &PackedWeights::new(s, weight), ys);
}

/// [`forward()`] with weights that were packed before.
pub(crate) fn forward_packed<T: Number>(
    s: &ConvShape,
    images: &Images,
    spikes: &[u8],
    weights: &PackedWeights<T>,
    ys: &mut [T],
) {
    let map = s.h_out * s.w_out * s.c_out;
    if map == 0 || images.rows() == 0 {
        return;
    }
    let bands = bands(images.range.len(), s.h_out, s.w_out, POSITIONS.div_ceil(images.timesteps));
    let lanes = weights.vectors * LINE;
    // Few positions: the output channels are shared out as well.
    let output_blocks = s.c_out.div_ceil(lanes);
    let per_range = output_blocks.div_ceil(TASKS.div_ceil(bands.len()).min(output_blocks));
    let ranges = output_blocks.div_ceil(per_range);

    // What is left of each timestep.
    let steps = ys.chunks_exact_mut(images.all * map).take(images.timesteps);
    let mut rest: Vec<&mut [T]> = steps.map(|ys| &mut ys[images.range.start * map..images.range.end * map]).collect();
    let mut tasks = Vec::with_capacity(bands.len() * ranges);
    for band in bands {
        let n = band.frames.len() * band.rows.len() * s.w_out;
        let mut ranges: Vec<Vec<&mut [T]>> = (0..ranges).map(|_| Vec::with_capacity(images.timesteps * n)).collect();
        for rest in &mut rest {
            let (positions, others) = std::mem::take(rest).split_at_mut(n * s.c_out);
            *rest = others;
            for position in positions.chunks_exact_mut(s.c_out) {
                for (range, outputs) in ranges.iter_mut().zip(position.chunks_mut(per_range * lanes)) {
                    range.push(outputs);
                }
            }
        }
        for (i, outputs) in ranges.into_iter().enumerate() {
            let blocks = i * per_range..output_blocks.min((i + 1) * per_range);
            tasks.push(Task { shape: s, images, spikes, weights, band: band.clone(), blocks, outputs });
        }
    }
    // Which was a tenth faster than with longer vectors.
    tasks.into_par_iter().for_each_init(Lists::default, |lists, task| run_vectorized_narrow(Listed { task, lists }));
}

/// The outputs of a band of positions, for some blocks of output channels.
struct Task<'a, 'out, T> {
    shape: &'a ConvShape,
    images: &'a Images,
    spikes: &'a [u8],
    weights: &'a PackedWeights<T>,
    /// Of the maps at each timestep.
    band: Band,
    blocks: Range<usize>,
    /// One for each position, timestep by timestep.
    outputs: Vec<&'out mut [T]>,
}

/// A task with the memory of the one before: fresh pages would cost a twentieth of the time.
struct Listed<'a, 'out, 'lists, T> {
    task: Task<'a, 'out, T>,
    lists: &'lists mut Lists<T>,
}

impl<T: Number> Kernel for Listed<'_, '_, '_, T> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { task, lists } = self;
        task.fill(lists);
        match task.weights.vectors {
            1 => task.run_wide::<1, FMA>(lists),
            2 => task.run_wide::<2, FMA>(lists),
            _ => task.run_wide::<4, FMA>(lists),
        }
    }
}

/// The changing inputs of a part of an output's window: one row of the window, one block of input channels.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    /// Entries.
    start: u32,
    end: u32,
    /// What to subtract from an entry to get a row of the panel.
    first: u32,
    /// Output position in the band.
    output: u32,
}

/// Which rows of which panel belong to which output.
#[derive(Debug, Default)]
struct Lists<T> {
    /// `pixel * per_block + channel` of the inputs that change; the pixel is counted in its padded row.
    entries: List,
    /// By how much.
    changes: Vec<T>,
    /// For each block and row of the window.
    runs: Vec<Vec<Run>>,
    /// Where the list of a pixel begins, in the block at hand: `[timesteps, frames, rows, padded columns + 1]`.
    starts: Vec<u32>,
    /// What is not 0 where the counts of a pixel change.
    differences: Vec<u8>,
}

impl<T: Number> Task<'_, '_, T> {
    /// Rows of the input that the band reads, from the first that exists to the last.
    #[inline(always)]
    fn input_rows(&self) -> Range<usize> {
        let s = self.shape;
        let first = (self.band.rows.start * s.stride).saturating_sub(s.padding).min(s.h);
        let end = ((self.band.rows.end - 1) * s.stride + s.k).saturating_sub(s.padding).min(s.h);
        first..end.max(first)
    }

    #[inline(always)]
    fn fill(&self, lists: &mut Lists<T>) {
        let s = self.shape;
        let per_block = self.weights.per_block;
        let rows = self.input_rows();
        let padded = s.w + 2 * s.padding;
        // A stride longer than the kernel leaves rows and columns out.
        let read = |i: usize| (i + s.padding) % s.stride < s.k;
        let frames = || (0..self.images.timesteps).flat_map(|t| self.band.frames.clone().map(move |i| (t, i)));
        let n_frames = self.images.timesteps * self.band.frames.len();
        let Lists { entries, changes, runs: all_runs, starts, differences } = lists;
        entries.clear();
        changes.clear();
        differences.resize(per_block, 0);
        all_runs.resize_with(s.c_in.div_ceil(per_block) * s.k, Vec::new);
        let mut passes = all_runs.iter_mut();
        for first in (0..s.c_in).step_by(per_block) {
            let channels = first..s.c_in.min(first + per_block);
            starts.clear();
            for (t, frame) in frames() {
                for y in rows.clone() {
                    let row = self.input_row(t, frame, y);
                    let before = t.checked_sub(1).map(|t| self.input_row(t, frame, y));
                    starts.extend(std::iter::repeat_n(entries.len() as u32, s.padding));
                    for (x, pixel) in row.chunks_exact(s.c_in).enumerate() {
                        starts.push(entries.len() as u32);
                        if !read(x) || !read(y) {
                            continue;
                        }
                        let (place, units) = (((s.padding + x) * per_block) as u32, &pixel[channels.clone()]);
                        let before = before.map(|row| &row[x * s.c_in..][channels.clone()]);
                        let Some(before) = before else {
                            entries.push_active(place, units);
                            let new = &entries.as_slice()[changes.len()..];
                            changes.extend(new.iter().map(|entry| count::<T>(units[(entry - place) as usize])));
                            continue;
                        };
                        let differences = &mut differences[..units.len()];
                        for ((difference, unit), before) in differences.iter_mut().zip(units).zip(before) {
                            *difference = unit ^ before;
                        }
                        entries.push_active(place, differences);
                        let new = &entries.as_slice()[changes.len()..];
                        changes.extend(new.iter().map(|entry| {
                            let i = (entry - place) as usize;
                            count::<T>(units[i]) - count(before[i])
                        }));
                    }
                    starts.extend(std::iter::repeat_n(entries.len() as u32, s.padding + 1));
                }
            }
            for ky in 0..s.k {
                let Some(runs) = passes.next() else { return };
                runs.clear();
                for frame in 0..n_frames {
                    for (i, y) in self.band.rows.clone().enumerate() {
                        let output = ((frame * self.band.rows.len() + i) * s.w_out) as u32;
                        let y = (y * s.stride + ky).checked_sub(s.padding).filter(|&y| y < s.h);
                        let Some(y) = y else {
                            // The first of all runs of an output overwrites what was there.
                            if (first, ky) == (0, 0) {
                                runs.extend((0..s.w_out as u32).map(|x| Run { output: output + x, ..Run::default() }));
                            }
                            continue;
                        };
                        let starts = &starts[(frame * rows.len() + y - rows.start) * (padded + 1)..][..padded + 1];
                        let ends = starts[s.k..].iter().step_by(s.stride);
                        let starts = starts.iter().step_by(s.stride).zip(ends).take(s.w_out);
                        runs.extend((0..).zip(starts).map(|(x, (&start, &end))| {
                            let first = x * (s.stride * per_block) as u32;
                            Run { start, end, first, output: output + x }
                        }));
                    }
                }
            }
        }
    }

    /// A row of an input map; `frame` is counted among the images at hand.
    #[inline(always)]
    fn input_row(&self, t: usize, frame: usize, y: usize) -> &[u8] {
        let Self { shape: s, images, .. } = self;
        let map = t * images.all + images.range.start + frame;
        &self.spikes[(map * s.h + y) * s.w * s.c_in..][..s.w * s.c_in]
    }

    #[inline(always)]
    fn run_wide<const G: usize, const FMA: bool>(mut self, lists: &Lists<T>) {
        let k = self.shape.k;
        let (entries, changes) = (lists.entries.as_slice(), lists.changes.as_slice());
        for (i, output_block) in self.blocks.clone().enumerate() {
            let lanes = i * G * LINE..((i + 1) * G * LINE).min(self.outputs[0].len());
            for (pass, runs) in lists.runs.iter().enumerate() {
                let panel = self.weights.panel(output_block, pass / k, pass % k).as_chunks::<G>().0;
                if runs.len() < FEW {
                    // Read in order first, which the processor does ahead of time: here and there it would wait for most.
                    let touched = panel.iter().fold(T::default(), |sum, row| sum + row[0].0[0] + row[G / 2].0[0]);
                    std::hint::black_box(touched);
                }
                for run in runs {
                    let outputs = &mut self.outputs[run.output as usize][lanes.clone()];
                    let inputs = run.start as usize..run.end as usize;
                    let inputs = (&entries[inputs.clone()], &changes[inputs]);
                    add_to::<T, G, FMA>(outputs, pass == 0, inputs, run.first, panel);
                }
            }
            // From changes to outputs.
            let positions = self.outputs.len() / self.images.timesteps;
            for t in 1..self.images.timesteps {
                let (before, outputs) = self.outputs.split_at_mut(t * positions);
                for (outputs, before) in outputs.iter_mut().zip(&before[(t - 1) * positions..]) {
                    for (output, &before) in outputs[lanes.clone()].iter_mut().zip(&before[lanes.clone()]) {
                        *output += before;
                    }
                }
            }
        }
    }
}

/// The spikes of a unit.
#[inline(always)]
fn count<T: Number>(unit: u8) -> T {
    Source::<T>::value(unit)
}

/// Adds the rows `entries - first` of a panel, each times its change, to the outputs, or to zeros if `fresh`.
#[inline(always)]
fn add_to<T: Number, const G: usize, const FMA: bool>(
    outputs: &mut [T],
    fresh: bool,
    inputs: (&[u32], &[T]),
    first: u32,
    panel: &[[Line<T>; G]],
) {
    let sums = add_rows::<T, G, FMA>(inputs, first, panel);
    if let Some(outputs) = outputs.as_chunks_mut::<LINE>().0.first_chunk_mut::<G>() {
        for (output, mut sum) in outputs.iter_mut().zip(sums) {
            if !fresh {
                sum.add(&Line(*output));
            }
            *output = sum.0;
        }
    } else {
        for (outputs, sums) in outputs.chunks_mut(LINE).zip(&sums) {
            for (output, &sum) in outputs.iter_mut().zip(&sums.0) {
                *output = if fresh { sum } else { *output + sum };
            }
        }
    }
}

#[inline(always)]
fn add_rows<T: Number, const G: usize, const FMA: bool>(
    (entries, changes): (&[u32], &[T]),
    first: u32,
    panel: &[[Line<T>; G]],
) -> [Line<T>; G] {
    let add = |sums: &mut [Line<T>; G], entry: u32, change: T| {
        for (sum, line) in sums.iter_mut().zip(&panel[(entry - first) as usize]) {
            for (sum, &weight) in sum.0.iter_mut().zip(&line.0) {
                *sum = weight.mul_add::<FMA>(change, *sum);
            }
        }
    };
    // Two sets of sums: a product and its addition take four cycles, and two can begin in each.
    let mut sums = [[Line::default(); G]; 2];
    let (pairs, last) = entries.as_chunks::<2>();
    let (pair_changes, last_change) = changes.as_chunks::<2>();
    for (pair, changes) in pairs.iter().zip(pair_changes) {
        for ((sums, &entry), &change) in sums.iter_mut().zip(pair).zip(changes) {
            add(sums, entry, change);
        }
    }
    for (&entry, &change) in last.iter().zip(last_change) {
        add(&mut sums[0], entry, change);
    }
    let [mut even, odd] = sums;
    for (even, odd) in even.iter_mut().zip(&odd) {
        even.add(odd);
    }
    even
}
