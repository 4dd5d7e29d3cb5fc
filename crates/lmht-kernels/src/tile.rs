//! Register tiles: the inner loops of the dense kernels.
//!
//! A tile is some rows of one to four blocks of `L` numbers each. With 512-bit vectors it is 6 rows of 4 blocks, which
//! with 4 blocks of weights and a number in all places fill 29 of 32 registers; with 256-bit vectors, where a block is
//! two registers, 6 rows of 1 block (15 of 16). Every number of a tile is one sum in one order, so what comes out does not
//! depend on the vectors.

use super::number::{Number, Vectors};

/// Rows of a full tile.
pub(super) const ROWS: usize = 6;
/// Blocks of a full tile with wide vectors.
pub(super) const BLOCKS: usize = 4;

/// Runs the body for tiles that cover `$n` rows: with the first row in `$row` and the number of rows, a constant, in `$r`.
macro_rules! for_rows {
    ($row:ident, $r:ident in $n:expr => $body:block) => {{
        let n: usize = $n;
        let mut $row = 0;
        while n - $row >= $crate::tile::ROWS {
            const $r: usize = $crate::tile::ROWS;
            $body
            $row += $r;
        }
        if n - $row >= 4 {
            const $r: usize = 4;
            $body
            $row += $r;
        }
        if n - $row >= 2 {
            const $r: usize = 2;
            $body
            $row += $r;
        }
        if n > $row {
            const $r: usize = 1;
            $body
            $row += $r;
        }
        debug_assert_eq!(n, $row);
    }};
}

/// Runs the body for tiles that cover `$n` blocks, four at a time if the vectors `$v` are wide: with the first block in
/// `$block` and the number of blocks, a constant, in `$b`.
macro_rules! for_blocks {
    ($block:ident, $b:ident in $n:expr, $v:ty => $body:block) => {{
        let n: usize = $n;
        let mut $block = 0;
        while <$v>::WIDE && n - $block >= $crate::tile::BLOCKS {
            const $b: usize = $crate::tile::BLOCKS;
            $body
            $block += $b;
        }
        while n > $block {
            const $b: usize = 1;
            $body
            $block += $b;
        }
    }};
}

pub(super) use {for_blocks, for_rows};

/// `R` rows of `B` blocks.
pub(super) type Tile<Block, const R: usize, const B: usize> = [[Block; B]; R];

/// `[slice(0), slice(1), ...]`. The standard library's functions for this are not always inlined, and then compiled for the
/// baseline; the slices would be read from memory in the inner loops.
#[inline(always)]
pub(super) fn each<'a, T, const N: usize>(slice: impl Fn(usize) -> &'a [T]) -> [&'a [T]; N] {
    let mut slices: [&[T]; N] = [&[]; N];
    for (i, to) in slices.iter_mut().enumerate() {
        *to = slice(i);
    }
    slices
}

/// Zeros.
#[inline(always)]
pub(super) fn zeros<T: Number, V: Vectors<T>, const R: usize, const B: usize>(vectors: V) -> Tile<V::Block, R, B> {
    [[vectors.splat(T::default()); B]; R]
}

/// The tile whose row r and block b lie at `from[place(r, b)..]`.
#[inline(always)]
pub(super) fn load<T: Number, V: Vectors<T>, const R: usize, const B: usize>(
    vectors: V,
    from: &[T],
    place: impl Fn(usize, usize) -> usize,
) -> Tile<V::Block, R, B> {
    let mut tile = zeros::<T, V, R, B>(vectors);
    for (r, row) in tile.iter_mut().enumerate() {
        for (b, block) in row.iter_mut().enumerate() {
            *block = V::blocks(&from[place(r, b)..][..T::LANES])[0];
        }
    }
    tile
}

/// Writes what [`load`] reads.
#[inline(always)]
pub(super) fn store<T: Number, V: Vectors<T>, const R: usize, const B: usize>(
    tile: Tile<V::Block, R, B>,
    to: &mut [T],
    place: impl Fn(usize, usize) -> usize,
) {
    for (r, row) in tile.into_iter().enumerate() {
        for (b, block) in row.into_iter().enumerate() {
            V::blocks_mut(&mut to[place(r, b)..][..T::LANES])[0] = block;
        }
    }
}

/// `tile[r][b] += Σ_i rows[r][i] weights[b][i]`: as many products as the first weights have blocks.
#[inline(always)]
pub(super) fn multiply<T: Number, V: Vectors<T>, const R: usize, const B: usize>(
    vectors: V,
    tile: &mut Tile<V::Block, R, B>,
    rows: [&[T]; R],
    weights: [&[V::Block]; B],
) {
    let run = weights[0].len();
    let (rows, weights) = (each::<T, R>(|r| &rows[r][..run]), each::<V::Block, B>(|b| &weights[b][..run]));
    for i in 0..run {
        for (sums, row) in tile.iter_mut().zip(&rows) {
            let x = vectors.splat(row[i]);
            for (sum, weights) in sums.iter_mut().zip(&weights) {
                *sum = vectors.mul_add(x, weights[i], *sum);
            }
        }
    }
}

/// `tile[r][b] += Σ_i source[i step + r] grads[b][i]`: as many products as the first gradients have blocks.
#[inline(always)]
pub(super) fn add_outer<T: Number, V: Vectors<T>, const R: usize, const B: usize>(
    vectors: V,
    tile: &mut Tile<V::Block, R, B>,
    source: &[T],
    step: usize,
    grads: [&[V::Block]; B],
) {
    let len = grads[0].len();
    if len == 0 {
        return;
    }
    let source = &source[..(len - 1) * step + R];
    let grads = each::<V::Block, B>(|b| &grads[b][..len]);
    for i in 0..len {
        let xs: &[T; R] = source[i * step..].first_chunk().expect("a tile of the source");
        for (sums, &x) in tile.iter_mut().zip(xs) {
            let x = vectors.splat(x);
            for (sum, grads) in sums.iter_mut().zip(&grads) {
                *sum = vectors.mul_add(x, grads[i], *sum);
            }
        }
    }
}
