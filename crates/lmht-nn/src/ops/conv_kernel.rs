//! Two-dimensional convolution over plain slices: forward, input gradient, weight gradient.
//!
//! Nothing is unfolded into columns. Each image is copied once into a *blocked* layout `[C / cb, Hp, Wp, cb]` with its
//! zero border, in which the `k * cb` numbers under one row of the kernel lie side by side. From there
//!
//! - forward and input gradient keep a tile of 6 positions x `L` output channels in registers and run along those
//!   numbers (`multiply_tile`). The input gradient of a convolution with stride s is s x s such convolutions of the
//!   output gradient, one for every phase of the input grid, each with its share of the (flipped) kernel;
//! - the weight gradient keeps a tile of 6 weights x `L` output channels in registers and runs along the positions
//!   (`outer_tile`).
//!
//! `L` output channels fill two vector registers (16 for `f32`, 8 for `f64` under AVX2), so that a tile takes 12 of 16.
//!
//! Work is cut into tasks by the shapes alone and partial sums are added in the order of the tasks, so results do not
//! depend on the number of threads.

use crate::kernels::real::{Kernel, Real, run_vectorized};
use rayon::prelude::*;

/// Positions (or weights) in a register tile; 6 x 2 accumulators, 2 vectors and a broadcast fit 16 registers.
const TILE: usize = 6;
/// Positions that share a pass over the weights; keeps their accumulators in the second-level cache.
const PASS: usize = 240;
/// Kernel elements per step of the reduction: `STEP * L` weights (20 kB) stay in the first-level cache.
const STEP: usize = 320;
/// Number of tasks to aim at. A constant and not the number of threads, so that sums keep their order.
const TASKS: usize = 8;

/// Shapes of a convolution, already checked: `[n, c_in, h, w]` with `[c_out, c_in, k, k]` to `[n, c_out, h_out, w_out]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConvShape {
    pub(super) n: usize,
    pub(super) c_in: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) c_out: usize,
    pub(super) k: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    pub(super) h_out: usize,
    pub(super) w_out: usize,
}

impl ConvShape {
    pub(super) fn weight_len(&self) -> usize {
        self.c_out * self.c_in * self.k * self.k
    }
}

/// Layout of one image with blocked channels and a zero border: `[blocks, hp, wp, cb]`.
#[derive(Debug, Clone, Copy)]
struct Blocked {
    channels: usize,
    /// Channels of a block.
    cb: usize,
    blocks: usize,
    /// Unpadded map.
    h: usize,
    w: usize,
    top: usize,
    left: usize,
    hp: usize,
    wp: usize,
}

impl Blocked {
    /// Blocks of at most 16 channels, as even as can be; a border of `(top, bottom)` rows and `(left, right)` columns.
    fn new(channels: usize, (h, w): (usize, usize), rows: (usize, usize), cols: (usize, usize)) -> Self {
        let cb = channels.div_ceil(channels.div_ceil(16));
        Self::with_block(channels, cb, (h, w), rows, cols)
    }

    fn with_block(
        channels: usize,
        cb: usize,
        (h, w): (usize, usize),
        rows: (usize, usize),
        cols: (usize, usize),
    ) -> Self {
        let (hp, wp) = (h + rows.0 + rows.1, w + cols.0 + cols.1);
        Self { channels, cb, blocks: channels.div_ceil(cb), h, w, top: rows.0, left: cols.0, hp, wp }
    }

    fn len(&self) -> usize {
        self.blocks * self.block_len()
    }

    fn block_len(&self) -> usize {
        self.hp * self.wp * self.cb
    }

    /// Copies `image` (`[channels, h, w]`) in. Border and missing channels of the last block are left as they are.
    #[inline(always)]
    fn fill<T: Real>(&self, blocked: &mut [T], image: &[T]) {
        let map = self.h * self.w;
        let maps = image[..self.channels * map].chunks(self.cb * map);
        for (block, maps) in blocked.chunks_exact_mut(self.block_len()).zip(maps) {
            for y in 0..self.h {
                let start = ((self.top + y) * self.wp + self.left) * self.cb;
                let row = &mut block[start..start + self.w * self.cb];
                for (c, map) in maps.chunks_exact(map).enumerate() {
                    let source = &map[y * self.w..(y + 1) * self.w];
                    for (pixel, &x) in row.chunks_exact_mut(self.cb).zip(source) {
                        pixel[c] = x;
                    }
                }
            }
        }
    }
}

/// One correlation of blocked images with a small kernel, written to every `step`-th position of the output maps.
#[derive(Debug)]
struct Correlation<T> {
    /// Kernel size.
    kh: usize,
    kw: usize,
    /// Where in the padded source the window of the first output position starts.
    row: usize,
    col: usize,
    /// Step of the window in the source.
    stride: usize,
    /// Number of output positions, the first of them and the step between them in the output map.
    n_rows: usize,
    n_cols: usize,
    y0: usize,
    x0: usize,
    step: usize,
    /// `[c_out / L, blocks, kh, kw, cb, L]`.
    weights: Vec<T>,
}

/// Packs weights as [`Correlation`] wants them; `at(o, i, y, x)` is the index of a weight in `weight`.
fn pack<T: Real, const L: usize>(
    weight: &[T],
    c_out: usize,
    source: &Blocked,
    (kh, kw): (usize, usize),
    at: impl Fn(usize, usize, usize, usize) -> usize + Sync,
) -> Vec<T> {
    let per_block = source.blocks * kh * kw * source.cb * L;
    let mut packed = vec![T::default(); c_out.div_ceil(L) * per_block];
    if per_block == 0 {
        return packed;
    }
    packed.par_chunks_exact_mut(per_block).enumerate().for_each(|(block, packed)| {
        let outputs = block * L..c_out.min((block + 1) * L);
        for (channel_block, packed) in packed.chunks_exact_mut(kh * kw * source.cb * L).enumerate() {
            let first = channel_block * source.cb;
            let n_channels = source.cb.min(source.channels - first);
            for (lane, o) in outputs.clone().enumerate() {
                for c in 0..n_channels {
                    for y in 0..kh {
                        for x in 0..kw {
                            packed[((y * kw + x) * source.cb + c) * L + lane] = weight[at(o, first + c, y, x)];
                        }
                    }
                }
            }
        }
    });
    packed
}

/// Adds to 6 x `L` accumulators the products of the source at six positions with `L` output channels' weights.
///
/// `segments` are the places, relative to a position, of runs of `run` numbers; `weights` is `[segments, run, L]`.
#[inline(always)]
fn multiply_tile<T: Real, const L: usize, const FMA: bool>(
    acc: &mut [T],
    source: &[T],
    positions: [usize; TILE],
    segments: &[usize],
    run: usize,
    weights: &[T],
) {
    let mut tile = load_tile::<T, L>(acc);
    for (&segment, weights) in segments.iter().zip(weights.chunks_exact(run * L)) {
        let rows: [&[T]; TILE] = positions.map(|p| &source[p + segment..][..run]);
        for (r, weights) in weights.chunks_exact(L).enumerate().take(run) {
            let weights: &[T; L] = weights.try_into().expect("chunks of L");
            for (acc, row) in tile.iter_mut().zip(&rows) {
                let x = row[r];
                for (acc, &w) in acc.iter_mut().zip(weights) {
                    *acc = x.mul_add::<FMA>(w, *acc);
                }
            }
        }
    }
    store_tile(acc, &tile);
}

/// Adds to 6 x `L` accumulators the sums over positions of six source numbers times `L` output gradients.
///
/// Each of `rows` is (start in the source, start in the gradients, length); `step` lies between positions in the source.
#[inline(always)]
fn outer_tile<T: Real, const L: usize, const FMA: bool>(
    acc: &mut [T],
    source: &[T],
    grads: &[T],
    rows: &[(usize, usize, usize)],
    step: usize,
) {
    let mut tile = load_tile::<T, L>(acc);
    for &(x, g, len) in rows {
        let xs = &source[x..][..(len - 1) * step + TILE];
        let grads = &grads[g..][..len * L];
        for (i, grads) in grads.chunks_exact(L).enumerate() {
            let grads: &[T; L] = grads.try_into().expect("chunks of L");
            let xs = &xs[i * step..][..TILE];
            for (acc, &x) in tile.iter_mut().zip(xs) {
                for (acc, &g) in acc.iter_mut().zip(grads) {
                    *acc = x.mul_add::<FMA>(g, *acc);
                }
            }
        }
    }
    store_tile(acc, &tile);
}

#[inline(always)]
fn load_tile<T: Real, const L: usize>(acc: &[T]) -> [[T; L]; TILE] {
    let mut tile = [[T::default(); L]; TILE];
    for (tile, acc) in tile.iter_mut().zip(acc.chunks_exact(L)) {
        tile.copy_from_slice(acc);
    }
    tile
}

#[inline(always)]
fn store_tile<T: Real, const L: usize>(acc: &mut [T], tile: &[[T; L]; TILE]) {
    for (acc, tile) in acc.chunks_exact_mut(L).zip(tile) {
        acc.copy_from_slice(tile);
    }
}

/// A run of output positions within one image: `len` numbers from `start`, `step` apart.
struct Piece {
    image: usize,
    first: usize,
    len: usize,
    start: usize,
}

/// The correlations of a group of images, for a range of output channels.
struct CorrelateGroup<'a, 'out, T> {
    layout: Blocked,
    correlations: &'a [Correlation<T>],
    /// `[images, c_in, h, w]`.
    images: &'a [T],
    /// For each image the maps of its output channels `channels`, `[channels, h_out, w_out]`.
    outputs: &'a mut [&'out mut [T]],
    channels: std::ops::Range<usize>,
    output_map: (usize, usize),
    bias: Option<&'a [T]>,
}

/// [`CorrelateGroup`] with `L` output channels at a time.
struct CorrelateTask<'a, 'out, T, const L: usize>(CorrelateGroup<'a, 'out, T>);

impl<T: Real, const L: usize> Kernel for CorrelateTask<'_, '_, T, L> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let mut group = self.0;
        let layout = group.layout;
        let n_images = group.outputs.len();
        let mut source = vec![T::default(); n_images * layout.len()];
        let image_len = layout.channels * layout.h * layout.w;
        for (blocked, image) in source.chunks_exact_mut(layout.len()).zip(group.images.chunks_exact(image_len)) {
            layout.fill(blocked, image);
        }
        let mut acc = Vec::new();
        for correlation in group.correlations {
            correlate::<T, L, FMA>(&mut group, correlation, &source, &mut acc);
        }
    }
}

#[inline(always)]
fn correlate<T: Real, const L: usize, const FMA: bool>(
    group: &mut CorrelateGroup<'_, '_, T>,
    correlation: &Correlation<T>,
    source: &[T],
    acc: &mut Vec<T>,
) {
    let layout = &group.layout;
    let Correlation { kh, kw, n_rows, n_cols, step, .. } = *correlation;
    let run = kw * layout.cb;
    let segments: Vec<usize> = (0..layout.blocks)
        .flat_map(|block| (0..kh).map(move |y| (block * layout.hp + y) * layout.wp * layout.cb))
        .collect();
    let per_image = n_rows * n_cols;
    let n_positions = group.outputs.len() * per_image;
    if n_positions == 0 || segments.is_empty() || run == 0 {
        return;
    }
    // Even steps along the reduction, so that no short one is left at the end.
    let n_steps = segments.len().div_ceil((STEP / run).max(1));
    let per_step = segments.len().div_ceil(n_steps);
    let blocks = group.channels.start / L..group.channels.end.div_ceil(L);
    let map = group.output_map.0 * group.output_map.1;
    let whole_maps = step == 1 && (n_rows, n_cols) == group.output_map;

    let mut positions = Vec::with_capacity(PASS + TILE);
    let mut pieces: Vec<Piece> = Vec::new();
    for pass in (0..n_positions).step_by(PASS) {
        positions.clear();
        pieces.clear();
        let end = n_positions.min(pass + PASS);
        let mut index = pass;
        while index < end {
            let (image, inside) = (index / per_image, index % per_image);
            let (y, x) = (inside / n_cols, inside % n_cols);
            let len = (n_cols - x).min(end - index);
            let row = (correlation.row + y * correlation.stride) * layout.wp + correlation.col;
            let start = image * layout.len() + row * layout.cb;
            positions.extend((x..x + len).map(|x| start + x * correlation.stride * layout.cb));
            match pieces.last_mut() {
                Some(last) if whole_maps && last.image == image => last.len += len,
                _ => {
                    let start = (correlation.y0 + y * step) * group.output_map.1 + correlation.x0 + x * step;
                    pieces.push(Piece { image, first: index - pass, len, start });
                }
            }
            index += len;
        }
        // A last tile that is not full works on the last position several times; nobody reads the copies.
        while !positions.len().is_multiple_of(TILE) {
            positions.push(positions[positions.len() - 1]);
        }

        let block_len = positions.len() * L;
        acc.clear();
        acc.resize(blocks.len() * block_len, T::default());
        for (step, segments) in segments.chunks(per_step).enumerate() {
            for (block, acc) in blocks.clone().zip(acc.chunks_exact_mut(block_len)) {
                let first = block * layout.blocks * kh + step * per_step;
                let weights = &correlation.weights[first * run * L..][..segments.len() * run * L];
                for (positions, acc) in positions.chunks_exact(TILE).zip(acc.chunks_exact_mut(TILE * L)) {
                    let positions = positions.try_into().expect("chunks of TILE");
                    multiply_tile::<T, L, FMA>(acc, source, positions, segments, run, weights);
                }
            }
        }
        for (block, acc) in blocks.clone().zip(acc.chunks_exact(block_len)) {
            for channel in block * L..group.channels.end.min((block + 1) * L) {
                let bias = group.bias.map_or(T::default(), |bias| bias[channel]);
                for piece in &pieces {
                    let first_map = (channel - group.channels.start) * map + piece.start;
                    let output = &mut group.outputs[piece.image][first_map..][..(piece.len - 1) * step + 1];
                    let acc = &acc[piece.first * L + channel % L..][..(piece.len - 1) * L + 1];
                    for (i, &acc) in acc.iter().step_by(L).enumerate() {
                        output[i * step] = acc + bias;
                    }
                }
            }
        }
    }
}

/// Runs the correlations over all images of `xs`, into `output` of shape `[n, c_out, h, w]`.
fn correlate_all<T: Real, const L: usize>(
    xs: &[T],
    layout: Blocked,
    correlations: &[Correlation<T>],
    bias: Option<&[T]>,
    output: &mut [T],
    [n, c_out, h, w]: [usize; 4],
) {
    let (output_map, map) = ((h, w), h * w);
    let image_len = layout.channels * layout.h * layout.w;
    // Small maps: several images a task, so that tiles are full and the weights are read less often.
    let group = PASS.div_ceil(map).min(n.div_ceil(TASKS / 2));
    // Few images: the output channels are shared out as well.
    let blocks = c_out.div_ceil(L);
    let n_ranges = (TASKS / 2).div_ceil(n.div_ceil(group)).min(blocks);
    let per_range = blocks.div_ceil(n_ranges) * L;

    let mut tasks = Vec::new();
    for (images, output) in xs.chunks(group * image_len).zip(output.chunks_mut(group * c_out * map)) {
        let mut ranges: Vec<Vec<&mut [T]>> = (0..c_out.div_ceil(per_range)).map(|_| Vec::new()).collect();
        for output in output.chunks_exact_mut(c_out * map) {
            for (range, output) in ranges.iter_mut().zip(output.chunks_mut(per_range * map)) {
                range.push(output);
            }
        }
        for (i, outputs) in ranges.into_iter().enumerate() {
            tasks.push((images, i * per_range..c_out.min((i + 1) * per_range), outputs));
        }
    }
    tasks.into_par_iter().for_each(|(images, channels, mut outputs)| {
        let outputs = outputs.as_mut_slice();
        run_vectorized(CorrelateTask::<T, L>(CorrelateGroup {
            layout,
            correlations,
            images,
            outputs,
            channels,
            output_map,
            bias,
        }));
    });
}

/// `ys[n, o, y, x] = bias[o] + Σ_{i, ky, kx} weight[o, i, ky, kx] xs[n, i, y s + ky - p, x s + kx - p]`.
pub(super) fn forward<T: Real, const L: usize>(s: &ConvShape, xs: &[T], weight: &[T], bias: Option<&[T]>) -> Vec<T> {
    let border = (s.padding, s.padding);
    let layout = Blocked::new(s.c_in, (s.h, s.w), border, border);
    let weights =
        pack::<T, L>(weight, s.c_out, &layout, (s.k, s.k), |o, i, y, x| ((o * s.c_in + i) * s.k + y) * s.k + x);
    let correlation = Correlation {
        kh: s.k,
        kw: s.k,
        row: 0,
        col: 0,
        stride: s.stride,
        n_rows: s.h_out,
        n_cols: s.w_out,
        y0: 0,
        x0: 0,
        step: 1,
        weights,
    };
    let mut ys = vec![T::default(); s.n * s.c_out * s.h_out * s.w_out];
    correlate_all::<T, L>(xs, layout, &[correlation], bias, &mut ys, [s.n, s.c_out, s.h_out, s.w_out]);
    ys
}

/// One phase of the input gradient along one axis: the inputs `first, first + s, ...` and the taps `r, r + s, ...`.
#[derive(Debug, Clone, Copy)]
struct Phase {
    /// The first tap; tap `s m + r` leads from output row `q - m` to the input row `s q + r - p`.
    r: usize,
    taps: usize,
    first: usize,
    n: usize,
    /// `q` of the first input.
    q: usize,
}

impl Phase {
    fn all(size: usize, k: usize, stride: usize, padding: usize) -> Vec<Self> {
        let phase = |r: usize| {
            // The smallest input y with (y + p) mod s = r.
            let first = (r + stride - padding % stride) % stride;
            let n = size.saturating_sub(first).div_ceil(stride);
            let taps = k.saturating_sub(r).div_ceil(stride);
            Self { r, taps, first, n, q: (first + padding) / stride }
        };
        (0..stride).map(phase).filter(|phase| phase.n > 0 && phase.taps > 0).collect()
    }

    /// Zero rows that the phases need before and after `size` rows of the output gradient.
    fn border(phases: &[Self], size: usize) -> (usize, usize) {
        let before = phases.iter().map(|p| (p.taps - 1).saturating_sub(p.q)).max();
        let after = phases.iter().map(|p| (p.q + p.n).saturating_sub(size)).max();
        (before.unwrap_or(0), after.unwrap_or(0))
    }
}

/// `dxs[n, i, y s + ky - p, x s + kx - p] += Σ_o weight[o, i, ky, kx] dys[n, o, y, x]` over all y, x, ky, kx.
pub(super) fn grad_input<T: Real, const L: usize>(s: &ConvShape, grads: &[T], weight: &[T]) -> Vec<T> {
    let rows = Phase::all(s.h, s.k, s.stride, s.padding);
    let cols = Phase::all(s.w, s.k, s.stride, s.padding);
    let (row_border, col_border) = (Phase::border(&rows, s.h_out), Phase::border(&cols, s.w_out));
    let layout = Blocked::new(s.c_out, (s.h_out, s.w_out), row_border, col_border);
    let correlations: Vec<_> = rows
        .iter()
        .flat_map(|&row| cols.iter().map(move |&col| (row, col)))
        .map(|(row, col)| {
            // Flipped: the output row falls as the tap rises.
            let tap = |phase: Phase, t: usize| (phase.taps - 1 - t) * s.stride + phase.r;
            let weights = pack::<T, L>(weight, s.c_in, &layout, (row.taps, col.taps), |i, o, y, x| {
                ((o * s.c_in + i) * s.k + tap(row, y)) * s.k + tap(col, x)
            });
            Correlation {
                kh: row.taps,
                kw: col.taps,
                row: row_border.0 + row.q + 1 - row.taps,
                col: col_border.0 + col.q + 1 - col.taps,
                stride: 1,
                n_rows: row.n,
                n_cols: col.n,
                y0: row.first,
                x0: col.first,
                step: s.stride,
                weights,
            }
        })
        .collect();
    // Inputs that no window covers keep their zero.
    let mut dxs = vec![T::default(); s.n * s.c_in * s.h * s.w];
    correlate_all::<T, L>(grads, layout, &correlations, None, &mut dxs, [s.n, s.c_in, s.h, s.w]);
    dxs
}

/// The weight gradient of a group of images, for some blocks of input channels.
struct OuterTask<'a, T, const L: usize> {
    shape: &'a ConvShape,
    /// Layout of an image's channels from `first_channel` on.
    layout: Blocked,
    first_channel: usize,
    xs: &'a [T],
    grads: &'a [T],
    /// `[blocks, c_out / L, k, run rounded up to TILE, L]`.
    partial: &'a mut [T],
}

impl<T: Real, const L: usize> Kernel for OuterTask<'_, T, L> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let (s, layout) = (self.shape, self.layout);
        let grad_layout = Blocked::with_block(s.c_out, L, (s.h_out, s.w_out), (0, 0), (0, 0));
        let run = s.k * layout.cb;
        let (input_map, output_map) = (s.h * s.w, s.h_out * s.w_out);
        let (x_len, grad_len) = (s.c_in * input_map, s.c_out * output_map);
        let batch = PASS.div_ceil(output_map).min(self.xs.len() / x_len);
        // The last tile of a run may read past the buffer; what it computes there is dropped.
        let mut source = vec![T::default(); batch * layout.len() + TILE];
        let mut grads = vec![T::default(); batch * grad_layout.len()];
        let mut rows = Vec::with_capacity(batch * s.h_out);
        for (xs_batch, grads_batch) in self.xs.chunks(batch * x_len).zip(self.grads.chunks(batch * grad_len)) {
            rows.clear();
            for (image, (xs, image_grads)) in
                xs_batch.chunks_exact(x_len).zip(grads_batch.chunks_exact(grad_len)).enumerate()
            {
                layout.fill(&mut source[image * layout.len()..][..layout.len()], &xs[self.first_channel * input_map..]);
                grad_layout.fill(&mut grads[image * grad_layout.len()..][..grad_layout.len()], image_grads);
                rows.extend((0..s.h_out).map(|y| {
                    let x = image * layout.len() + y * s.stride * layout.wp * layout.cb;
                    (x, image * grad_layout.len() + y * s.w_out * L, s.w_out)
                }));
            }
            for rows in rows.chunks((PASS / s.w_out).max(1)) {
                let mut tiles = self.partial.chunks_exact_mut(TILE * L);
                for block in 0..layout.blocks {
                    for grad_block in 0..grad_layout.blocks {
                        let grads = &grads[grad_block * grad_layout.block_len()..];
                        for y in 0..s.k {
                            let line = (block * layout.hp + y) * layout.wp * layout.cb;
                            for r in (0..run).step_by(TILE) {
                                let tile = tiles.next().expect("one tile for every step of the four loops");
                                let step = s.stride * layout.cb;
                                outer_tile::<T, L, FMA>(tile, &source[line + r..], grads, rows, step);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `dweight[o, i, ky, kx] = Σ_{n, y, x} dys[n, o, y, x] xs[n, i, y s + ky - p, x s + kx - p]`.
pub(super) fn grad_weight<T: Real, const L: usize>(s: &ConvShape, xs: &[T], grads: &[T]) -> Vec<T> {
    let border = (s.padding, s.padding);
    let whole = Blocked::new(s.c_in, (s.h, s.w), border, border);
    // Tasks share out blocks of input channels, or images. Images need a copy of the gradient each, blocks of channels
    // a blocked copy of the output gradient each: many channels prefer the one, large maps the other.
    let mut n_ranges = 1;
    while n_ranges < TASKS.min(whole.blocks)
        && TASKS / n_ranges * s.weight_len() > s.n * (s.c_in * s.h * s.w + s.c_out * s.h_out * s.w_out) / 2
    {
        n_ranges *= 2;
    }
    let blocks_per_range = whole.blocks.div_ceil(n_ranges);
    let n_ranges = whole.blocks.div_ceil(blocks_per_range);
    let per_group = s.n.div_ceil(TASKS.div_ceil(n_ranges));
    let n_groups = s.n.div_ceil(per_group);

    let run_tiles = (s.k * whole.cb).next_multiple_of(TILE);
    let row_len = run_tiles * L;
    let grad_blocks = s.c_out.div_ceil(L);
    let (x_len, grad_len) = (s.c_in * s.h * s.w, s.c_out * s.h_out * s.w_out);
    // Ordered by range of channels, then by group of images.
    let partials: Vec<Vec<T>> = (0..n_ranges * n_groups)
        .into_par_iter()
        .map(|task| {
            let (range, group) = (task / n_groups, task % n_groups);
            let first_channel = range * blocks_per_range * whole.cb;
            let channels = (s.c_in - first_channel).min(blocks_per_range * whole.cb);
            let layout = Blocked::with_block(channels, whole.cb, (s.h, s.w), border, border);
            let images = group * per_group..s.n.min((group + 1) * per_group);
            let mut partial = vec![T::default(); layout.blocks * grad_blocks * s.k * row_len];
            run_vectorized(OuterTask::<T, L> {
                shape: s,
                layout,
                first_channel,
                xs: &xs[images.start * x_len..images.end * x_len],
                grads: &grads[images.start * grad_len..images.end * grad_len],
                partial: &mut partial,
            });
            partial
        })
        .collect();

    let mut dweight = vec![T::default(); s.weight_len()];
    dweight.par_chunks_exact_mut(s.c_in * s.k * s.k).enumerate().for_each(|(o, dweight)| {
        for (i, dweight) in dweight.chunks_exact_mut(s.k * s.k).enumerate() {
            let (block, c) = (i / whole.cb, i % whole.cb);
            let (range, block) = (block / blocks_per_range, block % blocks_per_range);
            let first = (block * grad_blocks + o / L) * s.k * row_len + o % L;
            for partial in &partials[range * n_groups..(range + 1) * n_groups] {
                for (y, dweight) in dweight.chunks_exact_mut(s.k).enumerate() {
                    for (x, dweight) in dweight.iter_mut().enumerate() {
                        *dweight += partial[first + y * row_len + (x * whole.cb + c) * L];
                    }
                }
            }
        }
    });
    dweight
}

/// `dbias[o] = Σ_{n, y, x} dys[n, o, y, x]`, for `[n, c, map]`; summed in `f64`.
pub(super) fn grad_bias<T: Real>(grads: &[T], c: usize, map: usize) -> Vec<T> {
    (0..c)
        .into_par_iter()
        .map(|channel| {
            let maps = grads.chunks_exact(c * map).map(|image| &image[channel * map..(channel + 1) * map]);
            T::from_f64(maps.map(|map| map.iter().map(|&g| g.to_f64()).sum::<f64>()).sum())
        })
        .collect()
}
