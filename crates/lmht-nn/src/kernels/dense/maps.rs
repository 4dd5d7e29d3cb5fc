//! Access to feature maps in either order of their axes.

use crate::kernels::Source;
use crate::kernels::real::Real;
use std::ops::Range;

/// Numbers that are transposed at a time, in either direction; a tile of 16 x 16 stays in the first-level cache.
const BLOCK: usize = 16;

/// Order of the axes in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// `[n, h, w, c]`: the channels of a pixel lie side by side.
    Nhwc,
    /// `[n, c, h, w]`: the pixels of a channel lie side by side.
    Nchw,
}

/// Feature maps, of which every `sample`-th pixel of every `sample`-th row is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Maps<'a, X> {
    xs: &'a [X],
    order: Order,
    /// Size of a map in memory.
    h: usize,
    w: usize,
    pub(super) channels: usize,
    sample: usize,
}

impl<'a, X: Copy> Maps<'a, X> {
    pub(super) fn new(xs: &'a [X], order: Order, (h, w): (usize, usize), channels: usize) -> Self {
        Self { xs, order, h, w, channels, sample: 1 }
    }

    /// Every `sample`-th pixel only.
    pub(super) fn sampled(self, sample: usize) -> Self {
        Self { sample, ..self }
    }

    /// Size of a map as it is read.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.h.div_ceil(self.sample), self.w.div_ceil(self.sample))
    }

    /// Copies pixels `cols` of row `y` of an image: those of pixel `i` in the range to `row[i * step..]`.
    #[inline(always)]
    pub(super) fn copy_row<T: Real>(
        &self,
        (image, y): (usize, usize),
        cols: Range<usize>,
        channels: Range<usize>,
        row: &mut [T],
        step: usize,
    ) where
        X: Source<T>,
    {
        let n_channels = channels.len();
        let y = y * self.sample;
        match self.order {
            Order::Nhwc => {
                let first = ((image * self.h + y) * self.w + cols.start * self.sample) * self.channels + channels.start;
                let from = &self.xs[first..];
                if self.sample == 1 && n_channels == self.channels && step == n_channels {
                    let len = cols.len() * step;
                    for (to, x) in row[..len].iter_mut().zip(&from[..len]) {
                        *to = x.value();
                    }
                } else {
                    let pixels = from.chunks(self.sample * self.channels);
                    for (to, pixel) in row.chunks_mut(step).zip(pixels).take(cols.len()) {
                        for (to, x) in to[..n_channels].iter_mut().zip(&pixel[..n_channels]) {
                            *to = x.value();
                        }
                    }
                }
            }
            Order::Nchw => {
                let map = self.h * self.w;
                let first = (image * self.channels + channels.start) * map + y * self.w + cols.start * self.sample;
                for block in (0..n_channels).step_by(BLOCK) {
                    for c in block..n_channels.min(block + BLOCK) {
                        let from = &self.xs[first + c * map..];
                        let pixels = from.iter().step_by(self.sample);
                        for (to, x) in row[c..].iter_mut().step_by(step).zip(pixels).take(cols.len()) {
                            *to = x.value();
                        }
                    }
                }
            }
        }
    }
}

/// Writes positions `[positions, width]` to maps `[width, map]` of one image, from pixel `first` on.
#[inline(always)]
pub(super) fn to_planes<T: Real>(positions: &[T], width: usize, planes: &mut [T], map: usize, first: usize) {
    let n = positions.len() / width;
    for tile in (0..n).step_by(BLOCK) {
        let len = BLOCK.min(n - tile);
        let positions = &positions[tile * width..(tile + len) * width];
        for c in 0..width {
            let to = &mut planes[c * map + first + tile..][..len];
            for (to, &x) in to.iter_mut().zip(positions[c..].iter().step_by(width)) {
                *to = x;
            }
        }
    }
}
