//! The weight gradient: for each input channel, sums of output gradients around the positions where it is active.

use super::scan::{Active, List, mask, transpose_bits};
use super::{Axis, Band, GradTile, LINE, Line, PANEL_BYTES, Phase, bands};
use crate::ConvShape;
use crate::number::{Kernel, Number, run_vectorized};
use rayon::prelude::*;
use std::ops::Range;

/// Tasks to aim at. More of them would be more partial sums to add up.
const TASKS: usize = 8;
/// Channels of a task: their sums and the tile of output gradients stay in the second-level cache.
const INPUTS: usize = 128;
const OUTPUTS: usize = 64;
/// Taps along one axis that are worked on together; 3 x 3 accumulators and what is added fit 16 registers.
const TAPS: usize = 3;

/// The taps of one phase (or a part of them) that stay in registers together.
#[derive(Debug, Clone, Copy)]
struct Job {
    /// Index of the phase pair.
    phase: usize,
    /// Where the window of these taps begins in the window of all taps of the phases.
    window: (usize, usize),
    /// Number of taps.
    taps: (usize, usize),
    /// Kernel row and column of the first tap; the others follow in steps of the stride, and lie before it in the window.
    r: (usize, usize),
    /// Taps of all jobs before.
    before: usize,
}

/// How the convolution is cut, the same for all tasks.
struct Plan<'a> {
    shape: &'a ConvShape,
    rows: Axis,
    cols: Axis,
    jobs: Vec<Job>,
    /// Lines of a block of output channels.
    vectors: usize,
}

impl<'a> Plan<'a> {
    fn new(shape: &'a ConvShape) -> Self {
        let s = shape;
        let rows = Axis::new(s.h, s.h_out, s.k, s.stride, s.padding);
        let cols = Axis::new(s.w, s.w_out, s.k, s.stride, s.padding);
        let mut jobs = Vec::new();
        let mut before = 0;
        for (i, row) in rows.phases.iter().enumerate() {
            for (j, col) in cols.phases.iter().enumerate() {
                let phase = i * cols.phases.len() + j;
                for y in (0..row.taps).step_by(TAPS) {
                    for x in (0..col.taps).step_by(TAPS) {
                        let taps = (TAPS.min(row.taps - y), TAPS.min(col.taps - x));
                        let r = (row.r + y * s.stride, col.r + x * s.stride);
                        let window = (row.taps - y - taps.0, col.taps - x - taps.1);
                        jobs.push(Job { phase, window, taps, r, before });
                        before += taps.0 * taps.1;
                    }
                }
            }
        }
        // Few taps: several lines of output channels, so that additions need not wait for each other.
        let most = jobs.iter().map(|job| job.taps.0 * job.taps.1).max().unwrap_or(1);
        let wanted = if most == 1 {
            8
        } else if most <= 4 {
            2
        } else {
            1
        };
        let vectors = wanted.min(s.c_out.div_ceil(LINE).next_power_of_two());
        Self { shape, rows, cols, jobs, vectors }
    }

    /// The pixels of a band that belong to a pair of phases: index in the map, and the position in the tile of output
    /// gradients where the window of all their taps begins.
    #[inline(always)]
    fn pixels(&self, band: &Band, row: &Phase, col: &Phase, pixels: &mut Vec<(usize, u32)>) {
        let s = self.shape;
        let (tile_rows, tile_cols) = (self.rows.reach(band.rows.len()), self.cols.reach(self.cols.n));
        pixels.clear();
        for frame in band.frames.clone() {
            for i in band.rows.start..band.rows.end.min(row.n) {
                let pixel = (frame * s.h + row.first + i * s.stride) * s.w + col.first;
                let line = (frame - band.frames.start) * tile_rows + i - band.rows.start + self.rows.first(row);
                let position = (line * tile_cols + self.cols.first(col)) as u32;
                pixels.extend((0..col.n).map(|j| (pixel + j * s.stride, position + j as u32)));
            }
        }
    }
}

/// For each phase and input channel the positions of a tile where it is active.
struct Lists {
    band: Band,
    /// Positions in the tile of output gradients where the window of all taps begins, once for each spike.
    entries: List,
    /// `[phases, c_in + 1]`.
    starts: Vec<u32>,
}

struct ListTask<'a, 'b> {
    plan: &'a Plan<'b>,
    spikes: &'a [u8],
    lists: &'a mut Lists,
}

impl Kernel for ListTask<'_, '_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { plan, spikes, lists } = self;
        let Lists { band, entries, starts } = lists;
        let c_in = plan.shape.c_in;
        let mut pixels = Vec::new();
        // For 64 channels: masks of 64 pixels each, and which these are.
        let mut masks: Vec<(usize, [u64; 64])> = Vec::new();
        for row in &plan.rows.phases {
            for col in &plan.cols.phases {
                plan.pixels(band, row, col, &mut pixels);
                let mut positions = vec![[0; 64]; pixels.len().div_ceil(64)];
                for (position, pixel) in positions.as_flattened_mut().iter_mut().zip(&pixels) {
                    *position = pixel.1;
                }
                for first in (0..c_in).step_by(64) {
                    let channels = first..c_in.min(first + 64);
                    masks.clear();
                    for (group, pixels) in pixels.chunks(64).enumerate() {
                        for level in 1..=127 {
                            let mut words = [0; 64];
                            for (word, pixel) in words.iter_mut().zip(pixels) {
                                *word = mask(&spikes[pixel.0 * c_in..][channels.clone()], Active::Count(level));
                            }
                            if words == [0; 64] {
                                break;
                            }
                            transpose_bits(&mut words);
                            masks.push((group, words));
                        }
                    }
                    for c in 0..channels.len() {
                        starts.push(entries.len() as u32);
                        for (group, words) in &masks {
                            entries.push_chosen(&positions[*group], words[c]);
                        }
                    }
                }
                starts.push(entries.len() as u32);
            }
        }
    }
}

/// `dweight[o, i, ky, kx] = Σ_{n, y, x} s[n, y stride + ky - p, x stride + kx - p, i] dys[n, y, x, o]`.
pub(crate) fn grad_weight<T: Number>(s: &ConvShape, spikes: &[u8], grads: &[T], dweight: &mut [T]) {
    let plan = Plan::new(s);
    // The tile of output gradients, of one block of channels, stays in the first-level cache.
    let positions = PANEL_BYTES / (plan.vectors * size_of::<Line<T>>());
    // Inputs whose windows together fill it.
    let (around, cols) = (plan.rows.reach(0), plan.cols.reach(plan.cols.n));
    let tile_rows = (positions / cols).max(1);
    let whole_map = plan.rows.n + around;
    let rows =
        if whole_map > tile_rows { tile_rows.saturating_sub(around) } else { tile_rows / whole_map * plan.rows.n };
    let mut tiles: Vec<_> = bands(s.n, plan.rows.n, plan.cols.n, rows * plan.cols.n)
        .into_iter()
        .map(|band| Lists { band, entries: List::default(), starts: Vec::new() })
        .collect();
    tiles.par_iter_mut().for_each(|lists| run_vectorized(ListTask { plan: &plan, spikes, lists }));

    let blocks = s.c_out.div_ceil(plan.vectors * LINE);
    let cut = Cut {
        blocks,
        blocks_per_task: (OUTPUTS / (plan.vectors * LINE)).clamp(1, blocks),
        inputs_per_task: s.c_in.div_ceil(s.c_in.div_ceil(INPUTS)),
        taps: plan.jobs.iter().map(|job| job.taps.0 * job.taps.1).sum(),
    };
    let (outputs, inputs) = (blocks.div_ceil(cut.blocks_per_task), s.c_in.div_ceil(cut.inputs_per_task));
    let groups = TASKS.div_ceil(outputs * inputs).min(tiles.len()).max(1);
    let per_group = tiles.len().div_ceil(groups).max(1);
    let groups = tiles.len().div_ceil(per_group);

    let partials: Vec<Vec<Line<T>>> = (0..outputs * inputs * groups)
        .into_par_iter()
        .map(|task| {
            let (output, input, group) = (task / (inputs * groups), task / groups % inputs, task % groups);
            let first = input * cut.inputs_per_task;
            let inputs = first..s.c_in.min(first + cut.inputs_per_task);
            let first = output * cut.blocks_per_task;
            let blocks = first..cut.blocks.min(first + cut.blocks_per_task);
            let mut partial = vec![Line::default(); blocks.len() * inputs.len() * cut.taps * plan.vectors];
            let tiles = &tiles[group * per_group..tiles.len().min((group + 1) * per_group)];
            run_vectorized(Task { plan: &plan, cut, tiles, grads, blocks, inputs, partial: &mut partial });
            partial
        })
        .collect();

    let len = s.c_in * s.k * s.k;
    dweight.par_chunks_mut(plan.vectors * LINE * len).enumerate().for_each(|(block, dweight)| {
        let partials = &partials[block / cut.blocks_per_task * inputs * groups..][..inputs * groups];
        run_vectorized(Sum { plan: &plan, cut, block: block % cut.blocks_per_task, partials, groups, dweight });
    });
}

/// How the sums are shared out.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// Blocks of output channels, in all and of a task.
    blocks: usize,
    blocks_per_task: usize,
    inputs_per_task: usize,
    taps: usize,
}

/// The sums of one block of output channels, put where they belong.
struct Sum<'a, 'b, T> {
    plan: &'a Plan<'b>,
    cut: Cut,
    /// Among the blocks of its task.
    block: usize,
    /// Of each range of input channels all groups of tiles.
    partials: &'a [Vec<Line<T>>],
    groups: usize,
    /// `[channels of the block, c_in, k, k]`.
    dweight: &'a mut [T],
}

impl<T: Number> Kernel for Sum<'_, '_, T> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { plan, cut, block, partials, groups, dweight } = self;
        let s = plan.shape;
        let (kernel, vectors) = (s.k * s.k, plan.vectors);
        dweight.fill(T::default());
        for (range, partials) in partials.chunks(groups.max(1)).enumerate() {
            let first = range * cut.inputs_per_task;
            let n = cut.inputs_per_task.min(s.c_in - first);
            for c in 0..n {
                for job in &plan.jobs {
                    for tap in 0..job.taps.0 * job.taps.1 {
                        // Neighbouring positions belong to falling taps.
                        let ky = job.r.0 + (job.taps.0 - 1 - tap / job.taps.1) * s.stride;
                        let kx = job.r.1 + (job.taps.1 - 1 - tap % job.taps.1) * s.stride;
                        let sums = block * n * cut.taps + n * job.before + c * job.taps.0 * job.taps.1 + tap;
                        let from = sums * vectors;
                        let to = (first + c) * kernel + ky * s.k + kx;
                        let mut rows = dweight[to..].chunks_mut(s.c_in * kernel);
                        for vector in 0..vectors {
                            let mut sum = Line::default();
                            for partial in partials {
                                sum.add(&partial[from + vector]);
                            }
                            for (x, row) in sum.0.into_iter().zip(rows.by_ref()) {
                                row[0] = x;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The sums over some tiles, for some blocks of output channels and a range of input channels.
struct Task<'a, 'b, T> {
    plan: &'a Plan<'b>,
    cut: Cut,
    tiles: &'a [Lists],
    grads: &'a [T],
    blocks: Range<usize>,
    inputs: Range<usize>,
    /// For each block and job `[inputs, taps, vectors]`.
    partial: &'a mut [Line<T>],
}

impl<T: Number> Kernel for Task<'_, '_, T> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { plan, cut, tiles, grads, blocks, inputs, partial } = self;
        let s = plan.shape;
        let lanes = plan.vectors * LINE;
        let channels = blocks.start * lanes..s.c_out.min(blocks.end * lanes);
        let mut tile = GradTile::default();
        for lists in tiles {
            tile.fill((&plan.rows, &plan.cols), &lists.band, grads, s.c_out, channels.clone(), plan.vectors);
            let block_len = tile.block_len(&lists.band);
            let sums = partial.chunks_exact_mut(inputs.len() * cut.taps * plan.vectors);
            for (lines, sums) in tile.lines.chunks_exact(block_len).zip(sums) {
                for job in &plan.jobs {
                    let starts = &lists.starts[job.phase * (s.c_in + 1)..][..s.c_in + 1][inputs.start..=inputs.end];
                    let taps = job.taps.0 * job.taps.1;
                    let sums =
                        &mut sums[inputs.len() * job.before * plan.vectors..][..inputs.len() * taps * plan.vectors];
                    let runs = Runs {
                        sums,
                        starts,
                        entries: lists.entries.as_slice(),
                        lines,
                        cols: tile.cols,
                        first: job.window,
                    };
                    match (plan.vectors, job.taps.0, job.taps.1) {
                        (1, 1, 1) => runs.add::<1, 1, 1>(),
                        (1, 1, 2) => runs.add::<1, 1, 2>(),
                        (1, 1, 3) => runs.add::<1, 1, 3>(),
                        (1, 2, 1) => runs.add::<1, 2, 1>(),
                        (1, 2, 2) => runs.add::<1, 2, 2>(),
                        (1, 2, 3) => runs.add::<1, 2, 3>(),
                        (1, 3, 1) => runs.add::<1, 3, 1>(),
                        (1, 3, 2) => runs.add::<1, 3, 2>(),
                        (1, 3, 3) => runs.add::<1, 3, 3>(),
                        (2, 1, 1) => runs.add::<2, 1, 1>(),
                        (2, 1, 2) => runs.add::<2, 1, 2>(),
                        (2, 2, 1) => runs.add::<2, 2, 1>(),
                        (2, 2, 2) => runs.add::<2, 2, 2>(),
                        (4, 1, 1) => runs.add::<4, 1, 1>(),
                        (8, 1, 1) => runs.add::<8, 1, 1>(),
                        (vectors, y, x) => unreachable!("no kernel for {vectors} lines and {y}x{x} taps"),
                    }
                }
            }
        }
    }
}

/// One job on one block of a tile.
struct Runs<'a, T> {
    sums: &'a mut [Line<T>],
    starts: &'a [u32],
    entries: &'a [u32],
    lines: &'a [Line<T>],
    cols: usize,
    /// Row and column of the first of the job's taps in the window of all taps.
    first: (usize, usize),
}

impl<T: Number> Runs<'_, T> {
    /// `G` lines, `Y` x `X` taps.
    #[inline(always)]
    fn add<const G: usize, const Y: usize, const X: usize>(self) {
        let lines = self.lines.as_chunks::<G>().0;
        // The rows of the window as slices of one length: one check of an entry is enough for all.
        let first = self.first.0 * self.cols + self.first.1;
        let len = lines.len() - first - (Y - 1) * self.cols;
        let rows: [&[[Line<T>; G]]; Y] = std::array::from_fn(|y| &lines[first + y * self.cols..][..len]);
        let sums = self.sums.as_chunks_mut::<G>().0.as_chunks_mut::<X>().0.as_chunks_mut::<Y>().0;
        for (sums, ends) in sums.iter_mut().zip(self.starts.windows(2)) {
            let mut window = *sums;
            for &entry in &self.entries[ends[0] as usize..ends[1] as usize] {
                let at = entry as usize;
                for (sums, row) in window.iter_mut().zip(&rows) {
                    for (sums, lines) in sums.iter_mut().zip(&row[..len][at..at + X]) {
                        for (sum, line) in sums.iter_mut().zip(lines) {
                            sum.add(line);
                        }
                    }
                }
            }
            *sums = window;
        }
    }
}
