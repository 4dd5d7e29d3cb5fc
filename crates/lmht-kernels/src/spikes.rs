//! Convolutions that skip what is zero: NHWC maps of packed spikes.
//!
//! A byte of a map holds two things: its low 7 bits the spike count s, its top bit whether the gradient of the unit is
//! wanted (the membrane potential was inside the surrogate's window). Products with s = 0 are left out in the forward
//! pass and the weight gradient, units without the top bit in the input gradient. So all three cost what the active
//! units cost, and beat a dense convolution while these are few.
//!
//! All three find the active units once and keep the numbers of the inner loop in the first-level cache:
//!
//! - [`forward()`]: each output position adds up the weight rows of the active inputs of its window, after the first
//!   timestep those of the inputs that change. They are in each row of the window one run of one list, because
//!   neighbouring pixels lie side by side; a panel of weights `[k * channels, lanes]` (24 kB) is kept while a band of
//!   positions passes by.
//! - [`grad_weight()`]: for each input channel the list of positions at which it is active, in a tile of the map; all
//!   taps of the kernel stay in registers while the output gradients around the positions are added.
//! - [`grad_input()`]: a piece of the output gradient around a position stays in registers while the weight rows of the
//!   wanted channels pass by.
//!
//! Work is cut by the shapes alone, and every sum has one order, so results do not depend on the number of threads.

mod forward;
mod grad_input;
mod grad_weight;
mod scan;
#[cfg(test)]
mod tests;

pub(crate) use forward::{PackedWeights, forward, forward_packed};
pub(crate) use grad_input::grad_input;
#[cfg(test)]
use grad_input::{PackedColumns, grad_input_packed};
pub(crate) use grad_weight::grad_weight;

use super::number::{Number, has_wide_vectors};
use super::phase::Phase;
use super::{ConvShape, winograd};
use std::ops::Range;

/// Whether [`forward()`] beats the dense kernels on inputs of which a share `changes` is not what it was a timestep before.
///
/// The limits of these three are below the place where both take the same time on the shapes and the machines of
/// docs/performance.md, "Spikes or dense". Few channels leave the vectors empty and the lists short. Vectors of 512 bits
/// help the dense kernels more.
pub(crate) fn pays_forward(s: &ConvShape, changes: f64) -> bool {
    let limit = match s.c_in {
        ..32 => by_width(0., 0.),
        32..64 => by_width(0.25, 0.22),
        ..128 if s.k == 1 => by_width(0.33, 0.08),
        _ if s.k == 1 => by_width(0.33, 0.18),
        _ if winograd::pays(s) => by_width(0.3, 0.15),
        _ => by_width(0.5, 0.2),
    };
    changes <= limit
}

/// Whether [`grad_weight()`] beats the dense kernels on inputs that hold `spikes` spikes a unit, all counts added up.
pub(crate) fn pays_grad_weight(s: &ConvShape, spikes: f64) -> bool {
    let limit = match s.c_in {
        ..16 => by_width(0., 0.),
        16..32 => by_width(0.12, 0.3),
        32..64 if s.k > 1 => by_width(0.42, 0.45),
        _ if s.k == 1 => by_width(0.35, 0.35),
        _ if winograd::pays_grad_weight(s) => by_width(0.37, 0.25),
        _ => by_width(0.42, 0.33),
    };
    spikes <= limit
}

/// Whether [`grad_input()`] beats the dense kernels when a share `wanted` of the units wants a gradient.
pub(crate) fn pays_grad_input(s: &ConvShape, wanted: f64) -> bool {
    let limit = match s.c_in {
        ..32 => by_width(0., 0.),
        32..64 if s.k > 1 => by_width(0.38, 0.28),
        ..128 if s.k == 1 => by_width(0.2, 0.08),
        _ if s.k == 1 => by_width(0.2, 0.18),
        _ if winograd::pays(s) && s.stride > 1 => by_width(0.3, 0.12),
        _ if winograd::pays(s) => by_width(0.3, 0.17),
        _ => by_width(0.38, 0.21),
    };
    wanted <= limit
}

/// A limit with vectors of 256 bits or fewer, or of 512.
fn by_width(narrow: f64, wide: f64) -> f64 {
    if has_wide_vectors() { wide } else { narrow }
}

/// What is kept in the first-level cache (32 kB on the processors at hand) while the rest streams by.
const PANEL_BYTES: usize = 24 * 1024;
/// Numbers in a [`Line`].
const LINE: usize = 8;

/// Eight numbers, one vector register for `f32`. Aligned, because a load across two cache lines takes twice as long.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(32))]
struct Line<T>([T; LINE]);

impl<T: Number> Line<T> {
    #[inline(always)]
    fn add(&mut self, other: &Self) {
        for (x, &y) in self.0.iter_mut().zip(&other.0) {
            *x += y;
        }
    }
}

/// The panel limit in lines of `T`.
const fn panel_lines<T>() -> usize {
    PANEL_BYTES / size_of::<Line<T>>()
}

/// Frames and rows of a map that one task works on.
#[derive(Debug, Clone)]
struct Band {
    frames: Range<usize>,
    rows: Range<usize>,
}

/// Tasks to have at least. A constant and not the number of threads, so that sums keep their order.
const TASKS: usize = 4;

/// Cuts `n` maps of `rows` rows and `cols` columns into bands of about `positions`, fewer if there are few: parts of a
/// map, or several whole maps.
fn bands(n: usize, rows: usize, cols: usize, positions: usize) -> Vec<Band> {
    if n == 0 || rows == 0 || cols == 0 {
        return Vec::new();
    }
    // With fewer than this what is done once for a band would count.
    const LEAST: usize = 64;
    let target = (positions.min((n * rows * cols).div_ceil(TASKS).max(LEAST)) / cols).max(1);
    if rows > target {
        let per_band = rows.div_ceil(rows.div_ceil(target));
        let starts = (0..rows).step_by(per_band);
        let parts: Vec<_> = starts.map(|y| y..rows.min(y + per_band)).collect();
        (0..n).flat_map(|i| parts.iter().map(move |part| Band { frames: i..i + 1, rows: part.clone() })).collect()
    } else {
        let per_band = n.div_ceil(n.div_ceil(target / rows));
        (0..n).step_by(per_band).map(|i| Band { frames: i..n.min(i + per_band), rows: 0..rows }).collect()
    }
}

/// The phases of one axis, and which outputs they reach.
#[derive(Debug, Clone)]
struct Axis {
    phases: Vec<Phase>,
    /// Inputs of the longest phase.
    n: usize,
    /// First output (relative to `i`) that a phase reaches, and the last.
    low: isize,
    high: isize,
    /// Number of outputs.
    n_out: usize,
}

impl Axis {
    fn new(size: usize, n_out: usize, k: usize, stride: usize, padding: usize) -> Self {
        let phases = Phase::all(size, k, stride, padding);
        let low = phases.iter().map(|p| p.q as isize - (p.taps as isize - 1)).min().unwrap_or(0);
        let high = phases.iter().map(|p| p.q as isize).max().unwrap_or(0);
        Self { n: phases.iter().map(|p| p.n).max().unwrap_or(0), phases, low, high, n_out }
    }

    /// The first output that a phase reaches from its first input, counted from the first of any phase.
    fn first(&self, phase: &Phase) -> usize {
        (phase.q as isize + 1 - phase.taps as isize - self.low) as usize
    }

    /// Outputs that a run of `n` inputs of every phase reaches.
    fn reach(&self, n: usize) -> usize {
        n + (self.high - self.low) as usize
    }
}

/// The output gradients that a band of inputs reaches, with zeros where there is no output:
/// `[blocks of channels, frames, rows, cols, lines]`.
#[derive(Default)]
struct GradTile<T> {
    lines: Vec<Line<T>>,
    rows: usize,
    cols: usize,
    /// Lines of a position in a block.
    vectors: usize,
}

impl<T: Number> GradTile<T> {
    /// Copies `channels` of `grads` (`[n, h_out, w_out, c_out]`) in, `vectors` lines to a block; what is missing in the
    /// last line or block is zero.
    #[inline(always)]
    fn fill(
        &mut self,
        (ys, xs): (&Axis, &Axis),
        band: &Band,
        grads: &[T],
        c_out: usize,
        channels: Range<usize>,
        vectors: usize,
    ) {
        (self.rows, self.cols, self.vectors) = (ys.reach(band.rows.len()), xs.reach(xs.n), vectors);
        let block_len = self.block_len(band);
        self.lines.clear();
        self.lines.resize(channels.len().div_ceil(vectors * LINE) * block_len, Line::default());
        // Columns that exist on both sides.
        let first = (-xs.low).max(0) as usize;
        let first_out = xs.low.max(0) as usize;
        let n = xs.n_out.saturating_sub(first_out).min(self.cols.saturating_sub(first));
        for frame in 0..band.frames.len() {
            for row in 0..self.rows {
                let y = (band.rows.start + row) as isize + ys.low;
                if y < 0 || y >= ys.n_out as isize {
                    continue;
                }
                let source = ((band.frames.start + frame) * ys.n_out + y as usize) * xs.n_out + first_out;
                let to = (frame * self.rows + row) * self.cols + first;
                for (x, pixel) in grads[source * c_out..][..n * c_out].chunks_exact(c_out).enumerate() {
                    let (whole, rest) = pixel[channels.clone()].as_chunks::<LINE>();
                    let mut places = self.lines[(to + x) * vectors..].chunks_mut(block_len);
                    for lines in whole.chunks(vectors) {
                        let Some(place) = places.next() else { break };
                        for (to, line) in place.iter_mut().zip(lines) {
                            to.0 = *line;
                        }
                    }
                    if !rest.is_empty() {
                        let (block, line) = (whole.len() / vectors, whole.len() % vectors);
                        self.lines[block * block_len + (to + x) * vectors + line].0[..rest.len()].copy_from_slice(rest);
                    }
                }
            }
        }
    }

    /// Lines of one block.
    fn block_len(&self, band: &Band) -> usize {
        band.frames.len() * self.rows * self.cols * self.vectors
    }
}

/// Reads `weight`, `[rows, c_in, taps]`, eight rows at a time: calls `put(channel, tap, group, line)` with
/// `line[l] = weight[8 group + l, channel, tap]`, zero for a row that does not exist.
#[inline(always)]
fn transposed_lines<T: Number>(
    weight: &[T],
    (c_in, taps): (usize, usize),
    channels: Range<usize>,
    groups: Range<usize>,
    mut put: impl FnMut(usize, usize, usize, Line<T>),
) {
    // Some numbers of some rows are copied together first: rows that lie a power of two apart would push each other out
    // of the first-level cache.
    const GROUPS: usize = 4;
    const STEP: usize = 144;
    let mut rows = [[T::default(); STEP + LINE]; GROUPS * LINE];
    let taps_per_step = taps.min(STEP);
    let per_step = STEP / taps_per_step;
    for first in channels.clone().step_by(per_step) {
        let n = per_step.min(channels.end - first);
        for first_tap in (0..taps).step_by(taps_per_step) {
            let n_taps = taps_per_step.min(taps - first_tap);
            for first_group in groups.clone().step_by(GROUPS) {
                let n_groups = GROUPS.min(groups.end - first_group);
                for (i, row) in rows.iter_mut().enumerate().take(n_groups * LINE) {
                    match weight.get(((first_group * LINE + i) * c_in + first) * taps + first_tap..) {
                        Some(weight) if !weight.is_empty() => row[..n * n_taps].copy_from_slice(&weight[..n * n_taps]),
                        _ => row.fill(T::default()),
                    }
                }
                let (blocks, _) = rows.as_chunks::<LINE>();
                for tap in 0..n_taps {
                    for c in 0..n {
                        for (group, block) in blocks[..n_groups].iter().enumerate() {
                            let line = block.each_ref().map(|row| row[c * n_taps + tap]);
                            put(first + c, first_tap + tap, first_group + group, Line(line));
                        }
                    }
                }
            }
        }
    }
}
