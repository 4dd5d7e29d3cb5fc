//! Access to feature maps, and the exchange of rows and columns.

use crate::Source;
use crate::number::{Number, Vectors};
use std::ops::Range;

/// Feature maps `[n, h, w, c]`, of which every `sample`-th pixel of every `sample`-th row is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Maps<'a, X> {
    xs: &'a [X],
    /// Size of a map in memory.
    h: usize,
    w: usize,
    pub(super) channels: usize,
    sample: usize,
}

impl<'a, X: Copy> Maps<'a, X> {
    pub(super) fn new(xs: &'a [X], (h, w): (usize, usize), channels: usize) -> Self {
        Self { xs, h, w, channels, sample: 1 }
    }

    /// Every `sample`-th pixel only.
    pub(super) fn sampled(self, sample: usize) -> Self {
        Self { sample, ..self }
    }

    /// Size of a map as it is read.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.h.div_ceil(self.sample), self.w.div_ceil(self.sample))
    }

    /// Copies pixels `cols` of row `y` of an image: pixel `i` of the range to `row[i * step..]`.
    #[inline(always)]
    pub(super) fn copy_row<T: Number>(&self, (image, y): (usize, usize), cols: Range<usize>, row: &mut [T], step: usize)
    where
        X: Source<T>,
    {
        let first = ((image * self.h + y * self.sample) * self.w + cols.start * self.sample) * self.channels;
        let from = &self.xs[first..];
        if self.sample == 1 && step == self.channels {
            let len = cols.len() * step;
            copy(&mut row[..len], &from[..len]);
        } else {
            let pixels = from.chunks(self.sample * self.channels);
            for (to, pixel) in row.chunks_mut(step).zip(pixels).take(cols.len()) {
                copy(to, &pixel[..self.channels]);
            }
        }
    }

    /// Copies pixels `cols` of row `y` of an image in blocks of `cb` channels: those of pixel `i`, block `b` to
    /// `row[b * block_len + i * cb..]`.
    #[inline(always)]
    pub(super) fn copy_blocks<T: Number>(
        &self,
        (image, y): (usize, usize),
        cols: Range<usize>,
        channels: Range<usize>,
        row: &mut [T],
        (cb, block_len): (usize, usize),
    ) where
        X: Source<T>,
    {
        // Pixel by pixel: memory is read in order.
        let y = y * self.sample;
        let first = ((image * self.h + y) * self.w + cols.start * self.sample) * self.channels;
        let pixels = self.xs[first..].chunks(self.sample * self.channels);
        for (i, pixel) in pixels.take(cols.len()).enumerate() {
            for (block, from) in pixel[channels.clone()].chunks(cb).enumerate() {
                let to = &mut row[block * block_len + i * cb..];
                // Most blocks have 16 channels; a length that the compiler knows becomes a few vectors.
                match (to.first_chunk_mut::<16>(), <&[X; 16]>::try_from(from).ok()) {
                    (Some(to), Some(from)) => copy(to, from),
                    _ => copy(to, from),
                }
            }
        }
    }
}

/// Copies all of `from` to the beginning of `to`.
#[inline(always)]
fn copy<T: Number, X: Source<T>>(to: &mut [T], from: &[X]) {
    for (to, x) in to.iter_mut().zip(from) {
        *to = x.value();
    }
}

/// Writes `to[j to_pitch + i] = from[i from_pitch + j]` for `i` in `0..n` and `j` in `0..m`, in squares of a vector's side.
///
/// Four squares make a block of whole lines of the cache on either side. Blocks follow each other along the side whose rows
/// are further apart, which is then a few streams of memory.
#[inline(always)]
pub(crate) fn turn<T: Number, X: Source<T>, V: Vectors<T>>(
    vectors: V,
    (n, m): (usize, usize),
    (from, from_pitch): (&[X], usize),
    (to, to_pitch): (&mut [T], usize),
) {
    let side = T::LANES / 2;
    let (n_whole, m_whole) = (n / side * side, m / side * side);
    let along_rows = from_pitch >= to_pitch;
    let (outer, inner) = if along_rows { (n_whole, m_whole) } else { (m_whole, n_whole) };
    for a in (0..outer).step_by(2 * side) {
        for b in (0..inner).step_by(2 * side) {
            let (top, left) = if along_rows { (a, b) } else { (b, a) };
            // Rows that are further apart may share a place in the cache, which has room for half of a block.
            for square in 0..4 {
                let (p, q) = (square / 2 * side, square % 2 * side);
                let (i, j) = if along_rows { (top + p, left + q) } else { (top + q, left + p) };
                if i < n_whole && j < m_whole {
                    let from = (&from[i * from_pitch + j..], from_pitch);
                    turn_square(vectors, from, (&mut to[j * to_pitch + i..], to_pitch));
                }
            }
        }
    }
    for i in 0..n {
        let first = if i < n_whole { m_whole } else { 0 };
        for j in first..m {
            to[j * to_pitch + i] = from[i * from_pitch + j].value();
        }
    }
}

/// [`turn`] of one square.
#[inline(always)]
fn turn_square<T: Number, X: Source<T>, V: Vectors<T>>(
    vectors: V,
    (from, from_pitch): (&[X], usize),
    (to, to_pitch): (&mut [T], usize),
) {
    let side = T::LANES / 2;
    // Squares of 8; `f64` uses a quarter of them.
    let mut values = [T::default(); 8];
    let mut rows = [V::load_half(&values); 8];
    let (rows, values) = (&mut rows[..side], &mut values[..side]);
    for (k, vector) in rows.iter_mut().enumerate() {
        for (value, x) in values.iter_mut().zip(&from[k * from_pitch..][..side]) {
            *value = x.value();
        }
        *vector = V::load_half(values);
    }
    vectors.transpose(rows);
    for (k, &vector) in rows.iter().enumerate() {
        V::store_half(vector, &mut to[k * to_pitch..]);
    }
}

/// Writes `to[place(j) + i] = from[row(i) + j]` for `i` in `0..n` and `j` in `0..m`, in squares of a vector's side: [`turn`]
/// where places are listed.
#[inline(always)]
pub(crate) fn transpose<T: Number, X: Source<T>, V: Vectors<T>>(
    vectors: V,
    (n, m): (usize, usize),
    from: &[X],
    row: impl Fn(usize) -> usize,
    to: &mut [T],
    place: impl Fn(usize) -> usize,
) {
    let side = T::LANES / 2;
    let (n_whole, m_whole) = (n / side * side, m / side * side);
    // Squares of 8; `f64` uses a quarter of them.
    let mut values = [T::default(); 8];
    let mut rows = [V::load_half(&values); 8];
    let (rows, values) = (&mut rows[..side], &mut values[..side]);
    for i in (0..n_whole).step_by(side) {
        for j in (0..m_whole).step_by(side) {
            for (k, vector) in rows.iter_mut().enumerate() {
                for (value, x) in values.iter_mut().zip(&from[row(i + k) + j..][..side]) {
                    *value = x.value();
                }
                *vector = V::load_half(values);
            }
            vectors.transpose(rows);
            for (k, &vector) in rows.iter().enumerate() {
                V::store_half(vector, &mut to[place(j + k) + i..]);
            }
        }
        for j in m_whole..m {
            let to = &mut to[place(j) + i..][..side];
            for (k, to) in to.iter_mut().enumerate() {
                *to = from[row(i + k) + j].value();
            }
        }
    }
    for i in n_whole..n {
        for (j, x) in from[row(i)..][..m].iter().enumerate() {
            to[place(j) + i] = x.value();
        }
    }
}
