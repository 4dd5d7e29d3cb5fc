//! The weight gradient.

use super::forward::Axis;
use super::split::{PARTS, bf16, pairs};
use super::unit::{DEPTH, RIGHT, ROWS, Step, Sums, Unit};
use super::{SIDE, fits};
use crate::ConvShape;
use crate::dense::turn;
use crate::lines::Lines;
use crate::number::{Kernel, VectorKernel, Vectorized, Vectors, run_vectorized};
use rayon::prelude::*;
use std::ops::Range;

/// Tasks to aim at. A constant and not the number of threads, so that sums keep their order.
const TASKS: usize = 8;
/// Bytes of either side of a band; both stay in the second-level cache (2 MB where there is a unit).
const BAND: usize = 512 << 10;
/// Pixels whose output gradients (24 kB) stay in the first-level cache while all taps and inputs pass by.
const PIXELS: usize = 4;
/// With more weights than this, tasks share out the inputs. With fewer, the images, with sums of their own.
const MANY: usize = 128 * 256 * 9;

/// `dweight[o, i, ky, kx] = Σ_{n, y, x} grads[n, y, x, o] s[n, y stride + ky - p, x stride + kx - p, i]`; a shape that
/// [`fits`].
///
/// `spikes` is `[n, h, w, c_in]`, packed, `grads` `[n, h_out, w_out, c_out]`, `dweight` `[c_out, c_in, k, k]`, which is
/// overwritten.
pub(crate) fn grad_weight(unit: Unit, s: &ConvShape, spikes: &[u8], grads: &[f32], dweight: &mut [f32]) {
    debug_assert!(fits(s));
    let blocks = s.c_in / SIDE;
    let per_range = if s.weight_len() > MANY { blocks.div_ceil(TASKS) } else { blocks };
    let n_ranges = blocks.div_ceil(per_range);
    let per_line = size_of::<u16>() * DEPTH * (PARTS * s.c_out * s.w_out).max(per_range * SIDE * s.w * s.stride);
    let band = (BAND / per_line).clamp(1, s.h_out);
    let n_bands = s.h_out.div_ceil(band);
    let n = s.n.div_ceil(DEPTH) * n_bands;
    let per_group = n.div_ceil(TASKS.div_ceil(n_ranges));
    let n_groups = n.div_ceil(per_group);
    let (taps, outputs) = (s.k * s.k, s.c_out / SIDE);

    let sums: Vec<Vec<Sums>> = (0..n_ranges * n_groups)
        .into_par_iter()
        .map(|task| {
            let (range, group) = (task / n_groups, task % n_groups);
            let blocks = range * per_range..blocks.min((range + 1) * per_range);
            let sums = vec![Sums::ZERO; outputs * taps * blocks.len()];
            let mut task = Task { unit, shape: s, spikes, grads, blocks, sums, room: Room::default() };
            for i in group * per_group..n.min((group + 1) * per_group) {
                let images = i / n_bands * DEPTH..s.n.min((i / n_bands + 1) * DEPTH);
                let rows = i % n_bands * band..s.h_out.min((i % n_bands + 1) * band);
                task.add(images, rows);
            }
            task.sums
        })
        .collect();

    dweight.par_chunks_mut(SIDE * s.c_in * taps).enumerate().for_each(|(output, dweight)| {
        for block in 0..blocks {
            let (range, inside) = (block / per_range, block % per_range);
            let n_blocks = per_range.min(blocks - range * per_range);
            let sums = &sums[range * n_groups..][..n_groups];
            for tap in 0..taps {
                let place = (output * taps + tap) * n_blocks + inside;
                for i in 0..SIDE {
                    let mut total = sums[0][place].0[i];
                    for sums in &sums[1..] {
                        total.iter_mut().zip(&sums[place].0[i]).for_each(|(total, sum)| *total += sum);
                    }
                    let to = dweight[(block * SIDE + i) * taps + tap..].iter_mut().step_by(s.c_in * taps);
                    to.zip(total).for_each(|(to, total)| *to = total);
                }
            }
        }
    });
}

/// The sums of some images, for some blocks of inputs.
struct Task<'a> {
    unit: Unit,
    shape: &'a ConvShape,
    spikes: &'a [u8],
    grads: &'a [f32],
    blocks: Range<usize>,
    /// `[blocks of outputs, taps, blocks of inputs]`, each `[inputs, outputs]`.
    sums: Vec<Sums>,
    room: Room,
}

/// The memory of a task, for one band after the other.
#[derive(Default)]
struct Room {
    /// Spikes: `[pixels, inputs, DEPTH images]`.
    left: Lines<u16>,
    /// Output gradients: `[pixels, blocks of outputs, PARTS, 2 tiles, DEPTH / 2 pairs of images, 16]`.
    right: Lines<u32>,
    steps: Vec<Step>,
    /// For some pixels after the other, and for each tap, its steps.
    lists: Vec<Range<usize>>,
}

impl Task<'_> {
    /// Adds rows `rows` of up to 32 images.
    fn add(&mut self, images: Range<usize>, rows: Range<usize>) {
        let s = self.shape;
        let Room { left, right, steps, lists } = &mut self.room;
        let (row_axis, col_axis) = (Axis::rows(s), Axis::cols(s));
        let from = row_axis.sources(rows.clone());
        let (outputs, inputs, taps) = (s.c_out / SIDE, self.blocks.len(), s.k * s.k);

        left.resize(from.len() * s.w * inputs * SIDE * DEPTH);
        if images.len() < DEPTH {
            left.fill(0);
        }
        f32::run_with_vectors(Spikes {
            shape: s,
            spikes: self.spikes,
            images: images.clone(),
            pixels: from.start * s.w..from.end * s.w,
            inputs: self.blocks.start * SIDE..self.blocks.end * SIDE,
            to: left,
        });
        let pixels = rows.start * s.w_out..rows.end * s.w_out;
        right.resize(pixels.len() * outputs * PARTS * RIGHT);
        run_vectorized(Gradients { shape: s, grads: self.grads, images, pixels, to: right });

        // For some pixels of the output gradient after the other, the steps of all taps.
        steps.clear();
        lists.clear();
        let pixels: Vec<(usize, usize)> = rows.clone().flat_map(|y| (0..s.w_out).map(move |x| (y, x))).collect();
        for (chunk, pixels) in pixels.chunks(PIXELS).enumerate() {
            for tap in 0..taps {
                let start = steps.len();
                for (i, &(y, x)) in pixels.iter().enumerate() {
                    let source = (row_axis.source(y, tap / s.k), col_axis.source(x, tap % s.k));
                    let (Some(y), Some(x)) = source else { continue };
                    let left = ((y - from.start) * s.w + x) * inputs * SIDE * DEPTH;
                    let right = (chunk * PIXELS + i) * outputs * PARTS * RIGHT;
                    steps.push(Step::new([left, left + ROWS * DEPTH], right, PARTS));
                }
                lists.push(start..steps.len());
            }
        }
        for output in 0..outputs {
            for lists in lists.chunks_exact(taps) {
                for (tap, list) in lists.iter().enumerate() {
                    for input in 0..inputs {
                        let sums = &mut self.sums[(output * taps + tap) * inputs + input];
                        let (left, right) = (&left[input * SIDE * DEPTH..], &right[output * PARTS * RIGHT..]);
                        self.unit.multiply(&steps[list.clone()], left, DEPTH, right, sums);
                    }
                }
            }
        }
    }
}

/// Images that are turned at once, a vector's worth.
const SOME: usize = 8;

/// Lays spikes out: images innermost.
struct Spikes<'a> {
    shape: &'a ConvShape,
    spikes: &'a [u8],
    images: Range<usize>,
    /// Of a map.
    pixels: Range<usize>,
    inputs: Range<usize>,
    to: &'a mut [u16],
}

impl VectorKernel<f32> for Spikes<'_> {
    #[inline(always)]
    fn run<V: Vectors<f32>>(self, vectors: V) {
        let Self { shape: s, spikes, images, pixels, inputs, to } = self;
        let n = inputs.len();
        let map = s.h * s.w * s.c_in;
        let mut turned = vec![[0_f32; SOME]; n];
        for first in images.clone().step_by(SOME) {
            let n_images = SOME.min(images.end - first);
            for (pixel, to) in pixels.clone().zip(to.chunks_exact_mut(n * DEPTH)) {
                let from = &spikes[first * map + pixel * s.c_in + inputs.start..];
                let counts = turned.as_flattened_mut();
                turn(vectors, (n_images, n), (from, map), (counts, SOME));
                for (to, counts) in to.as_chunks_mut::<DEPTH>().0.iter_mut().zip(&turned) {
                    let to = to[first - images.start..].first_chunk_mut::<SOME>().expect("some images");
                    for (to, count) in to.iter_mut().zip(counts) {
                        *to = bf16(count.to_bits());
                    }
                }
            }
        }
    }
}

/// Lays output gradients out: the numbers of two images as a pair, in three parts.
struct Gradients<'a> {
    shape: &'a ConvShape,
    grads: &'a [f32],
    images: Range<usize>,
    /// Of a map.
    pixels: Range<usize>,
    to: &'a mut [u32],
}

impl Kernel for Gradients<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { shape: s, grads, images, pixels, to } = self;
        let map = s.h_out * s.w_out * s.c_out;
        let none = vec![0.; s.c_out];
        for i in 0..DEPTH / 2 {
            for (pixel, to) in pixels.clone().zip(to.chunks_exact_mut(s.c_out / SIDE * PARTS * RIGHT)) {
                let channels = |i: usize| {
                    let image = images.start + i;
                    if image < images.end { &grads[image * map + pixel * s.c_out..][..s.c_out] } else { &none }
                };
                let (even, odd) = (channels(2 * i).as_chunks::<16>().0, channels(2 * i + 1).as_chunks::<16>().0);
                for (tile, (even, odd)) in even.iter().zip(odd).enumerate() {
                    for (part, pairs) in pairs(even, odd).iter().enumerate() {
                        let at = ((tile / 2 * PARTS + part) * 2 + tile % 2) * (DEPTH / 2) + i;
                        to[at * 16..][..16].copy_from_slice(pairs);
                    }
                }
            }
        }
    }
}
