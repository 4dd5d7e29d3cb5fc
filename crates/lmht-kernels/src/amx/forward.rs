//! The forward pass.

use super::split::{PARTS, bf16, count, pairs};
use super::unit::{DEPTH, RIGHT, ROWS, Step, Sums, Unit};
use super::{SIDE, fits};
use crate::ConvShape;
use crate::lines::Lines;
use crate::number::{Kernel, run_vectorized};
use rayon::prelude::*;
use std::ops::Range;

/// Positions of a task, all images together; what they read stays in the second-level cache (2 MB where there is a unit).
const POSITIONS: usize = 2048;
/// Steps whose weights (24 kB) stay in the first-level cache while all positions of a task pass by.
const STEPS: usize = 4;
/// Tasks to have at least. A constant and not the number of threads.
const TASKS: usize = 4;

/// Weights in the order in which the unit reads them.
#[derive(Debug)]
pub(crate) struct Weights {
    /// For each block of outputs `[taps, steps, PARTS, RIGHT]`.
    panels: Vec<Lines<u32>>,
}

impl Weights {
    /// From `weight`, `[c_out, c_in, k, k]`.
    pub(crate) fn new(s: &ConvShape, weight: &[f32]) -> Self {
        let taps = s.k * s.k;
        let panels = weight.par_chunks_exact(SIDE * s.c_in * taps).map(|weight| {
            let mut panel = Lines::zeros(taps * s.c_in / DEPTH * PARTS * RIGHT);
            run_vectorized(Pack { weight, c_in: s.c_in, taps, panel: &mut panel });
            panel
        });
        Self { panels: panels.collect() }
    }
}

/// One panel.
struct Pack<'a> {
    /// `[SIDE, c_in, taps]`.
    weight: &'a [f32],
    c_in: usize,
    taps: usize,
    panel: &'a mut [u32],
}

impl Kernel for Pack<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { weight, c_in, taps, panel } = self;
        let n_steps = c_in / DEPTH;
        // [taps, DEPTH, SIDE]: outputs innermost.
        let mut turned = vec![[0_f32; SIDE]; taps * DEPTH];
        for step in 0..n_steps {
            for o in 0..SIDE {
                for i in 0..DEPTH {
                    let from = &weight[(o * c_in + step * DEPTH + i) * taps..][..taps];
                    for (tap, &w) in from.iter().enumerate() {
                        turned[tap * DEPTH + i][o] = w;
                    }
                }
            }
            for (tap, turned) in turned.chunks_exact(DEPTH).enumerate() {
                let to = &mut panel[(tap * n_steps + step) * PARTS * RIGHT..][..PARTS * RIGHT];
                for (i, [even, odd]) in turned.as_chunks::<2>().0.iter().enumerate() {
                    for (tile, (even, odd)) in even.as_chunks::<16>().0.iter().zip(odd.as_chunks::<16>().0).enumerate()
                    {
                        for (part, pairs) in pairs(even, odd).iter().enumerate() {
                            to[part * RIGHT + (tile * DEPTH / 2 + i) * 16..][..16].copy_from_slice(pairs);
                        }
                    }
                }
            }
        }
    }
}

/// `ys[n, y, x, o] = Σ_{i, ky, kx} weight[o, i, ky, kx] s[n, y stride + ky - p, x stride + kx - p, i]`; a shape that
/// [`fits`].
///
/// `spikes` is `[n, h, w, c_in]`, packed; `ys` `[n, h_out, w_out, c_out]`, which is overwritten.
pub(crate) fn forward(unit: Unit, s: &ConvShape, spikes: &[u8], weights: &Weights, ys: &mut [f32]) {
    debug_assert!(fits(s));
    Plan { unit, shape: s, rows: Axis::rows(s), cols: Axis::cols(s), spikes, weights }.run(ys);
}

/// Which positions along an axis are read for which.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    size: usize,
    k: usize,
    stride: usize,
    padding: usize,
}

impl Axis {
    pub(super) fn rows(s: &ConvShape) -> Self {
        Self { size: s.h, k: s.k, stride: s.stride, padding: s.padding }
    }

    pub(super) fn cols(s: &ConvShape) -> Self {
        Self { size: s.w, ..Self::rows(s) }
    }

    /// What output `out` reads through a tap.
    pub(super) fn source(&self, out: usize, tap: usize) -> Option<usize> {
        (out * self.stride + tap).checked_sub(self.padding).filter(|&at| at < self.size)
    }

    /// All that some positions read, from the first to the last.
    pub(super) fn sources(&self, out: Range<usize>) -> Range<usize> {
        let all = || out.clone().flat_map(|out| (0..self.k).filter_map(move |tap| self.source(out, tap)));
        match (all().min(), all().max()) {
            (Some(first), Some(last)) => first..last + 1,
            _ => 0..0,
        }
    }
}

/// A convolution.
struct Plan<'a> {
    unit: Unit,
    shape: &'a ConvShape,
    rows: Axis,
    cols: Axis,
    spikes: &'a [u8],
    weights: &'a Weights,
}

/// Some rows of some images, and some blocks of channels.
struct Task<'a, 'out> {
    plan: &'a Plan<'a>,
    images: Range<usize>,
    rows: Range<usize>,
    blocks: Range<usize>,
    /// One for each position, image by image.
    outputs: Vec<&'out mut [f32]>,
}

/// The memory of a task.
#[derive(Default)]
struct Room {
    /// `[groups of 16 images, rows, columns, 16, pitch]`, then a pixel of zeros.
    left: Lines<u16>,
    steps: Vec<Step>,
    pairs: Vec<Pair>,
    jobs: Vec<Job>,
    /// Of each pair.
    sums: Vec<Sums>,
}

/// Two positions in a row (or one alone) of 16 images.
struct Pair {
    group: usize,
    row: usize,
    cols: [Option<usize>; 2],
}

/// What a pair has to do with some of the weights.
struct Job {
    pair: usize,
    steps: Range<usize>,
}

impl Plan<'_> {
    fn run(&self, outputs: &mut [f32]) {
        let s = self.shape;
        let (h, w, c) = (s.h_out, s.w_out, s.c_out);
        if outputs.is_empty() {
            return;
        }
        // Whole images, 16 or a multiple; or rows of 16 images.
        let groups = (POSITIONS / (ROWS * h * w)).clamp(1, s.n.div_ceil(ROWS));
        let rows = (POSITIONS / (ROWS * w)).max(4).min(h);
        let rows = h.div_ceil(h.div_ceil(rows));
        let per_task = groups * ROWS;
        let n_tasks = s.n.div_ceil(per_task) * h.div_ceil(rows);
        let blocks = c / SIDE;
        let per_range = blocks.div_ceil(TASKS.div_ceil(n_tasks).min(blocks));
        let n_ranges = blocks.div_ceil(per_range);

        let mut tasks = Vec::new();
        for (i, images) in outputs.chunks_mut(per_task * h * w * c).enumerate() {
            let n = images.len() / (h * w * c);
            let first = tasks.len();
            for y in (0..h).step_by(rows) {
                for range in 0..n_ranges {
                    let blocks = range * per_range..blocks.min((range + 1) * per_range);
                    let (images, rows) = (i * per_task..i * per_task + n, y..h.min(y + rows));
                    let outputs = Vec::with_capacity(n * rows.len() * w);
                    tasks.push(Task { plan: self, images, rows, blocks, outputs });
                }
            }
            for (position, outputs) in images.chunks_exact_mut(c).enumerate() {
                let task = first + position / w % h / rows * n_ranges;
                for (range, outputs) in outputs.chunks_mut(per_range * SIDE).enumerate() {
                    tasks[task + range].outputs.push(outputs);
                }
            }
        }
        tasks.into_par_iter().for_each_init(Room::default, |room, task| task.run(room));
    }
}

impl Task<'_, '_> {
    fn run(mut self, room: &mut Room) {
        let plan = self.plan;
        let s = plan.shape;
        // With many channels a line of the cache between rows, which would otherwise fall on the same few places of it.
        let pitch = s.c_in + if s.c_in < 512 { 0 } else { DEPTH };
        let pixel = ROWS * pitch;
        let sources = plan.rows.sources(self.rows.clone());
        let map = sources.len() * s.w;
        let zeros = self.images.len().div_ceil(ROWS) * map * pixel;
        room.left.resize(zeros + pixel);
        room.left[zeros..].fill(0);
        for (i, image) in self.images.clone().enumerate() {
            let from = &plan.spikes[(image * s.h + sources.start) * s.w * s.c_in..][..map * s.c_in];
            let to = &mut room.left[(i / ROWS * map * ROWS + i % ROWS) * pitch..];
            run_vectorized(Fill { from, channels: s.c_in, to, pixel });
        }

        self.list(room, sources.start, map, pitch, zeros);
        let Room { left, steps, pairs, jobs, sums } = room;
        for (i, block) in self.blocks.clone().enumerate() {
            sums.clear();
            sums.resize(pairs.len(), Sums::ZERO);
            for job in &*jobs {
                let panel = &plan.weights.panels[block];
                plan.unit.multiply(&steps[job.steps.clone()], left, pitch, panel, &mut sums[job.pair]);
            }
            for (pair, sums) in pairs.iter().zip(&*sums) {
                for (col, sums) in pair.cols.iter().zip(sums.0.as_chunks::<ROWS>().0) {
                    let Some(col) = col else { continue };
                    let images = pair.group * ROWS..self.images.len().min((pair.group + 1) * ROWS);
                    for (image, sums) in images.zip(sums) {
                        let output = (image * self.rows.len() + pair.row) * s.w_out + col;
                        self.outputs[output][i * SIDE..][..SIDE].copy_from_slice(sums);
                    }
                }
            }
        }
    }

    /// The positions in pairs, and what each reads: some weights for all pairs, then others.
    fn list(&self, room: &mut Room, first_row: usize, map: usize, pitch: usize, zeros: usize) {
        let plan = self.plan;
        let s = plan.shape;
        let Room { steps, pairs, jobs, .. } = room;
        steps.clear();
        pairs.clear();
        jobs.clear();
        let pixel = ROWS * pitch;
        let n_steps = s.c_in / DEPTH;
        for group in 0..self.images.len().div_ceil(ROWS) {
            for row in 0..self.rows.len() {
                let cols = (0..s.w_out).step_by(2);
                let next = |col: usize| Some(col + 1).filter(|&next| next < s.w_out);
                pairs.extend(cols.map(|col| Pair { group, row, cols: [Some(col), next(col)] }));
            }
        }
        // The weights in the order of the panel.
        let rights: Vec<usize> = (0..s.k * s.k * n_steps).collect();
        for rights in rights.chunks(STEPS) {
            for (i, pair) in pairs.iter().enumerate() {
                let start = steps.len();
                for &right in rights {
                    let (tap, step) = (right / n_steps, right % n_steps);
                    let (ky, kx) = (tap / s.k, tap % s.k);
                    let Some(y) = plan.rows.source(self.rows.start + pair.row, ky) else { continue };
                    let sources = pair.cols.map(|col| col.and_then(|col| plan.cols.source(col, kx)));
                    if sources == [None; 2] {
                        continue;
                    }
                    let line = pair.group * map + (y - first_row) * s.w;
                    let place = |x: Option<usize>| x.map_or(zeros, |x| (line + x) * pixel) + step * DEPTH;
                    steps.push(Step::new(sources.map(place), right * PARTS * RIGHT, PARTS));
                }
                if start < steps.len() {
                    jobs.push(Job { pair: i, steps: start..steps.len() });
                }
            }
        }
    }
}

/// Rows of an image to bf16: the channels of a pixel to `to[pixel number * pixel..]`.
struct Fill<'a> {
    from: &'a [u8],
    channels: usize,
    to: &'a mut [u16],
    pixel: usize,
}

impl Kernel for Fill<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { from, channels, to, pixel } = self;
        for (i, from) in from.chunks_exact(channels).enumerate() {
            let to = &mut to[i * pixel..][..channels];
            for (to, from) in to.as_chunks_mut::<DEPTH>().0.iter_mut().zip(from.as_chunks::<DEPTH>().0) {
                // Aside first, which the compiler does in vectors.
                let mut run = [0; DEPTH];
                for (to, &from) in run.iter_mut().zip(from) {
                    *to = bf16(count(from));
                }
                *to = run;
            }
        }
    }
}
