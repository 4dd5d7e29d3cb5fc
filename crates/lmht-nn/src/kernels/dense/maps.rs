//! Access to feature maps in either order of their axes.

use crate::kernels::Source;
use crate::kernels::real::Real;
use std::ops::Range;

/// Numbers that are written side by side when axes are exchanged: two vectors of `f32`.
const BLOCK: usize = 8;

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
                let n = cols.len();
                let planes = &self.xs[first..];
                transpose((planes, map, self.sample), n_channels, (row, step), n, |x| x.value());
            }
        }
    }

    /// Copies pixels `cols` of row `y` of an image in blocks of `cb` channels: those of pixel `i`, block `b` to
    /// `row[b * block_len + i * cb..]`.
    #[inline(always)]
    pub(super) fn copy_blocks<T: Real>(
        &self,
        (image, y): (usize, usize),
        cols: Range<usize>,
        channels: Range<usize>,
        row: &mut [T],
        (cb, block_len): (usize, usize),
    ) where
        X: Source<T>,
    {
        match self.order {
            Order::Nhwc => {
                // Pixel by pixel: memory is read in order.
                let y = y * self.sample;
                let first = ((image * self.h + y) * self.w + cols.start * self.sample) * self.channels;
                let pixels = self.xs[first..].chunks(self.sample * self.channels);
                for (i, pixel) in pixels.take(cols.len()).enumerate() {
                    for (block, from) in pixel[channels.clone()].chunks(cb).enumerate() {
                        let to = &mut row[block * block_len + i * cb..];
                        if let (Some(to), Some(from)) = (to.first_chunk_mut::<16>(), from.first_chunk::<16>())
                            && cb == 16
                        {
                            for (to, x) in to.iter_mut().zip(from) {
                                *to = x.value();
                            }
                        } else {
                            for (to, x) in to.iter_mut().zip(from) {
                                *to = x.value();
                            }
                        }
                    }
                }
            }
            Order::Nchw => {
                for (block, first) in channels.clone().step_by(cb).enumerate() {
                    let channels = first..channels.end.min(first + cb);
                    self.copy_row((image, y), cols.clone(), channels, &mut row[block * block_len..], cb);
                }
            }
        }
    }
}

/// Writes `to[j * to_step + i] = value(from[i * from_step + j * sample])` for `i` in `0..n` and `j` in `0..m`.
#[inline(always)]
pub(super) fn transpose<X: Copy, T: Copy>(
    (from, from_step, sample): (&[X], usize, usize),
    n: usize,
    (to, to_step): (&mut [T], usize),
    m: usize,
    value: impl Fn(X) -> T,
) {
    let reach = (m - 1) * sample + 1;
    let mut i = 0;
    while i + BLOCK <= n {
        let mut rows: [&[X]; BLOCK] = [&[]; BLOCK];
        for (k, row) in rows.iter_mut().enumerate() {
            *row = &from[(i + k) * from_step..][..reach];
        }
        for j in 0..m {
            let to: &mut [T; BLOCK] = to[j * to_step + i..].first_chunk_mut().expect("room for a block");
            for (to, row) in to.iter_mut().zip(&rows) {
                *to = value(row[j * sample]);
            }
        }
        i += BLOCK;
    }
    for i in i..n {
        let row = &from[i * from_step..][..reach];
        for j in 0..m {
            to[j * to_step + i] = value(row[j * sample]);
        }
    }
}

/// Writes positions `[positions, width]` to maps `[width, map]` of one image, from pixel `first` on.
#[inline(always)]
pub(super) fn to_planes<T: Real>(positions: &[T], width: usize, planes: &mut [T], map: usize, first: usize) {
    transpose((positions, width, 1), positions.len() / width, (&mut planes[first..], map), width, |x| x);
}
