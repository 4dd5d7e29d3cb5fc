//! The input gradient at the wanted units: dot products of weight rows with the output gradients around a position.

use super::scan::List;
use super::{Axis, Band, GradTile, LINE, Line, bands, panel_lines, transposed_lines};
use crate::ConvShape;
use crate::number::{Kernel, Number, run_vectorized};
use rayon::prelude::*;
use std::ops::Range;

/// Input positions of a band, of each phase. Their sums for one block of channels stay in the second-level cache.
const POSITIONS: usize = 256;

/// A piece of one row of the window: so many lines stay in registers while weights pass by.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// Index of the phases along rows and columns.
    phase: (usize, usize),
    /// Tap along the rows.
    tap: usize,
    /// The lines of the row `[falling taps, output lines]`.
    first: usize,
    n: usize,
    /// Lines of all pieces before, for one input channel.
    before: usize,
}

struct Plan<'a> {
    shape: &'a ConvShape,
    rows: Axis,
    cols: Axis,
    pieces: Vec<Piece>,
    /// Lines of all output channels.
    vectors: usize,
    /// Input channels of a block, and the number of blocks.
    per_block: usize,
    blocks: usize,
    /// Lines of all pieces, for one input channel.
    lines: usize,
}

impl<'a> Plan<'a> {
    fn new<T>(shape: &'a ConvShape) -> Self {
        let s = shape;
        let rows = Axis::new(s.h, s.h_out, s.k, s.stride, s.padding);
        let cols = Axis::new(s.w, s.w_out, s.k, s.stride, s.padding);
        let vectors = s.c_out.div_ceil(LINE);
        // A register holds a line of f32 and half a line of f64.
        let sizes: &[usize] = if size_of::<T>() == 4 { &[12, 8, 4, 2, 1] } else { &[4, 2, 1] };
        let mut pieces = Vec::new();
        let mut lines = 0;
        for (i, row) in rows.phases.iter().enumerate() {
            for (j, col) in cols.phases.iter().enumerate() {
                for tap in 0..row.taps {
                    let mut first = 0;
                    let len = col.taps * vectors;
                    for &n in sizes {
                        while first + n <= len {
                            pieces.push(Piece { phase: (i, j), tap, first, n, before: lines });
                            first += n;
                            lines += n;
                        }
                    }
                }
            }
        }
        let longest = pieces.iter().map(|piece| piece.n).max().unwrap_or(1);
        let blocks = s.c_in.div_ceil((panel_lines::<T>() / longest).max(1));
        let per_block = s.c_in.div_ceil(blocks);
        Self { shape, rows, cols, pieces, vectors, per_block, blocks, lines }
    }
}

/// Weights in the order in which [`grad_input_packed`] reads them.
#[derive(Debug)]
pub(crate) struct PackedColumns<T> {
    /// For each block of input channels `[pieces, per_block, lines of the piece]`.
    blocks: Vec<Vec<Line<T>>>,
}

impl<T: Number> PackedColumns<T> {
    /// Packs `weight`, `[c_out, c_in, k, k]`, for convolutions of this shape with any `n`.
    pub(crate) fn new(s: &ConvShape, weight: &[T]) -> Self {
        let mut packed = Self { blocks: Vec::new() };
        packed.update(s, weight);
        packed
    }

    /// Packs other numbers, into the memory at hand: fresh memory would cost more than the packing.
    pub(crate) fn update(&mut self, s: &ConvShape, weight: &[T]) {
        let plan = Plan::new::<T>(s);
        self.blocks.resize(plan.blocks, Vec::new());
        self.blocks.par_iter_mut().enumerate().for_each(|(block, lines)| {
            lines.clear();
            lines.resize(plan.per_block * plan.lines, Line::default());
            run_vectorized(Pack { plan: &plan, block, weight, lines });
        });
    }
}

struct Pack<'a, 'b, T> {
    plan: &'a Plan<'b>,
    block: usize,
    weight: &'a [T],
    lines: &'a mut [Line<T>],
}

impl<T: Number> Kernel for Pack<'_, '_, T> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { plan, block, weight, lines } = self;
        let s = plan.shape;
        let taps = s.k * s.k;
        // Where the first channel's line of a tap and a group of output channels goes, and the step between channels.
        let mut places = vec![None; taps * plan.vectors];
        for piece in &plan.pieces {
            let (row, col) = (plan.rows.phases[piece.phase.0], plan.cols.phases[piece.phase.1]);
            for i in 0..piece.n {
                let (x, group) = ((piece.first + i) / plan.vectors, (piece.first + i) % plan.vectors);
                let ky = row.r + piece.tap * s.stride;
                let kx = col.r + (col.taps - 1 - x) * s.stride;
                places[(ky * s.k + kx) * plan.vectors + group] = Some((piece.before * plan.per_block + i, piece.n));
            }
        }
        let first = block * plan.per_block;
        let channels = first..s.c_in.min(first + plan.per_block);
        transposed_lines(weight, (s.c_in, taps), channels, 0..plan.vectors, |c, tap, group, line| {
            if let Some((place, step)) = places[tap * plan.vectors + group] {
                lines[place + (c - first) * step] = line;
            }
        });
    }
}

/// `dxs[n, y stride + ky - p, x stride + kx - p, i] = Σ_{ky, kx, o} weight[o, i, ky, kx] dys[n, y, x, o]` where the
/// top bit of the unit is set, 0 elsewhere.
pub(crate) fn grad_input<T: Number>(s: &ConvShape, grads: &[T], weight: &[T], units: &[u8], dxs: &mut [T]) {
    grad_input_packed(s, grads, &PackedColumns::new(s, weight), units, dxs);
}

/// [`grad_input()`] with weights that were packed before.
pub(crate) fn grad_input_packed<T: Number>(
    s: &ConvShape,
    grads: &[T],
    weights: &PackedColumns<T>,
    units: &[u8],
    dxs: &mut [T],
) {
    let plan = Plan::new::<T>(s);
    if dxs.is_empty() || plan.pieces.is_empty() {
        return dxs.fill(T::default());
    }
    // Whole input rows of all phases, so that a task owns neighbouring positions.
    let bands = bands(s.n, plan.rows.n, plan.cols.n, POSITIONS);
    let mut rest = dxs;
    let mut tasks = Vec::with_capacity(bands.len());
    for band in bands {
        let first = band.rows.start * s.stride;
        let end = if band.rows.end == plan.rows.n { s.h } else { band.rows.end * s.stride };
        let (outputs, others) = rest.split_at_mut(band.frames.len() * (end - first) * s.w * s.c_in);
        rest = others;
        tasks.push(Task { plan: &plan, grads, weights, units, band, rows: first..end, dxs: outputs });
    }
    tasks.into_par_iter().for_each(run_vectorized);
}

/// The wanted gradients of a band of inputs.
struct Task<'a, 'b, T> {
    plan: &'a Plan<'b>,
    grads: &'a [T],
    weights: &'a PackedColumns<T>,
    units: &'a [u8],
    band: Band,
    /// Input rows.
    rows: Range<usize>,
    /// `[frames, rows, w, c_in]`.
    dxs: &'a mut [T],
}

/// What a task works on, for one phase and block of channels.
struct Work<'a, T> {
    plan: &'a Plan<'a>,
    band: &'a Band,
    piece: Piece,
    tile: &'a GradTile<T>,
    panel: &'a [Line<T>],
    entries: &'a [u32],
    starts: &'a [u32],
    sums: &'a mut [Line<T>],
}

impl<T: Number> Kernel for Task<'_, '_, T> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { plan, grads, weights, units, band, rows, dxs } = self;
        let s = plan.shape;
        dxs.fill(T::default());
        let mut tile = GradTile::default();
        tile.fill((&plan.rows, &plan.cols), &band, grads, s.c_out, 0..s.c_out, plan.vectors);
        let (mut entries, mut starts, mut sums, mut pixels) = (List::default(), Vec::new(), Vec::new(), Vec::new());
        for block in 0..plan.blocks {
            let channels = block * plan.per_block..s.c_in.min((block + 1) * plan.per_block);
            let weights = &weights.blocks[block];
            let phases = (0..plan.rows.phases.len()).flat_map(|i| (0..plan.cols.phases.len()).map(move |j| (i, j)));
            for phase in phases {
                let (row, col) = (plan.rows.phases[phase.0], plan.cols.phases[phase.1]);
                // The pixels of this phase: index in the map, and in the task's outputs.
                pixels.clear();
                for frame in 0..band.frames.len() {
                    for i in band.rows.start..band.rows.end.min(row.n) {
                        let y = row.first + i * s.stride;
                        let unit = ((band.frames.start + frame) * s.h + y) * s.w + col.first;
                        let output = (frame * rows.len() + y - rows.start) * s.w + col.first;
                        pixels.extend((0..col.n).map(|j| (unit + j * s.stride, output + j * s.stride)));
                    }
                }
                entries.clear();
                starts.clear();
                for &(unit, _) in &pixels {
                    starts.push(entries.len() as u32);
                    entries.push_wanted(0, &units[unit * s.c_in..][channels.clone()]);
                }
                starts.push(entries.len() as u32);
                sums.clear();
                sums.resize(entries.len(), Line::default());
                for &piece in plan.pieces.iter().filter(|piece| piece.phase == phase) {
                    let panel = &weights[piece.before * plan.per_block..][..piece.n * plan.per_block];
                    let work = Work {
                        plan,
                        band: &band,
                        piece,
                        tile: &tile,
                        panel,
                        entries: entries.as_slice(),
                        starts: &starts,
                        sums: &mut sums,
                    };
                    match piece.n {
                        1 => work.add::<1, FMA>(),
                        2 => work.add::<2, FMA>(),
                        4 => work.add::<4, FMA>(),
                        8 => work.add::<8, FMA>(),
                        12 => work.add::<12, FMA>(),
                        n => unreachable!("no kernel for {n} lines"),
                    }
                }
                for (&(_, output), ends) in pixels.iter().zip(starts.windows(2)) {
                    let outputs = &mut dxs[output * s.c_in..][channels.clone()];
                    let run = ends[0] as usize..ends[1] as usize;
                    for (&c, Line([a, b, c2, d, e, f, g, h])) in entries.as_slice()[run.clone()].iter().zip(&sums[run])
                    {
                        outputs[c as usize] = ((*a + *e) + (*c2 + *g)) + ((*b + *f) + (*d + *h));
                    }
                }
            }
        }
    }
}

impl<T: Number> Work<'_, T> {
    #[inline(always)]
    fn add<const N: usize, const FMA: bool>(self) {
        let Self { plan, band, piece, tile, panel, entries, starts, sums } = self;
        let (row, col) = (plan.rows.phases[piece.phase.0], plan.cols.phases[piece.phase.1]);
        let panel = panel.as_chunks::<N>().0;
        let mut pixels = starts.windows(2);
        for frame in 0..band.frames.len() {
            for i in band.rows.start.min(row.n)..band.rows.end.min(row.n) {
                let exists = (row.q + i).checked_sub(piece.tap).is_some_and(|y| y < plan.rows.n_out);
                if !exists {
                    pixels.nth(col.n - 1);
                    continue;
                }
                let y = i - band.rows.start + plan.rows.first(&row) + row.taps - 1 - piece.tap;
                let x = plan.cols.first(&col);
                let first = ((frame * tile.rows + y) * tile.cols + x) * tile.vectors + piece.first;
                for (j, ends) in pixels.by_ref().take(col.n).enumerate() {
                    let grads: &[Line<T>; N] =
                        tile.lines[first + j * tile.vectors..].first_chunk().expect("a window in the tile");
                    let run = ends[0] as usize..ends[1] as usize;
                    dot_rows::<T, N, FMA>(grads, panel, &entries[run.clone()], &mut sums[run]);
                }
            }
        }
    }
}

/// Adds to each sum the products of `grads` with the row of its entry; a sum's eight lanes are added up later.
#[inline(always)]
fn dot_rows<T: Number, const N: usize, const FMA: bool>(
    grads: &[Line<T>; N],
    panel: &[[Line<T>; N]],
    entries: &[u32],
    sums: &mut [Line<T>],
) {
    let grads = *grads;
    for (&entry, sum) in entries.iter().zip(sums) {
        let row = &panel[entry as usize];
        let mut parts = [*sum, Line::default()];
        for (i, (grads, weights)) in grads.iter().zip(row).enumerate() {
            for ((part, &g), &w) in parts[i % 2].0.iter_mut().zip(&grads.0).zip(&weights.0) {
                *part = g.mul_add::<FMA>(w, *part);
            }
        }
        let [mut even, odd] = parts;
        even.add(&odd);
        *sum = even;
    }
}
