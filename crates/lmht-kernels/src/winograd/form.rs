//! What the ways to save products have in common.

use super::run::Run;
use crate::number::Number;

/// The most pixels, planes or sums that there are along an axis of a tile.
pub(super) const MOST: usize = 5;

/// A convolution by tiles: what a tile reads becomes planes, one number a channel in each; matrix products of planes and
/// transformed weights give sums; the sums become what the tile writes.
///
/// Both axes are alike, so all of this is said of one; what is numbered in two is numbered row by row.
pub(super) trait Form: Copy + Sync {
    /// Pixels that a tile reads.
    const READ: usize;
    /// Pixels from what a tile reads to what the next one reads.
    const STEP: usize;
    /// Pixels that a tile writes.
    const WRITTEN: usize;
    /// For each matrix how many planes lie side by side in it.
    const MATRICES: &'static [usize];
    /// For each sum the matrix that it is a product of.
    const SUMS: &'static [usize];

    /// Hands `to` the planes of the pixels `d(y, x)`.
    fn planes<T: Number, const N: usize>(
        self,
        d: impl Fn(usize, usize) -> Run<T, N>,
        to: impl FnMut(usize, &Run<T, N>),
    );

    /// Hands `to` the weights of the kernel with the taps `w`: those of a sum follow each other.
    fn weights<T: Number, const N: usize>(self, w: impl Fn(usize) -> Run<T, N>, to: impl FnMut(usize, &Run<T, N>));

    /// Hands `to` the pixels that are written, from the sums `m`.
    fn written<T: Number, const N: usize>(self, m: impl Fn(usize) -> Run<T, N>, to: impl FnMut(usize, &Run<T, N>));
}

/// A form of the forward pass, whose adjoint in the weights is the weight gradient. Its sums are products of one matrix each,
/// in the same order.
pub(super) trait Adjoint: Form {
    /// Hands `to`, for each sum, what the gradients of the written pixels `g` add up to.
    fn gradients<T: Number, const N: usize>(self, g: impl Fn(usize) -> Run<T, N>, to: impl FnMut(usize, &Run<T, N>));

    /// Hands `to` the gradients of the taps, from the products `s` of each plane with the gradients of its sum.
    fn weight_gradients<T: Number, const N: usize>(
        self,
        s: impl Fn(usize) -> Run<T, N>,
        to: impl FnMut(usize, &Run<T, N>),
    );
}

/// A matrix: its planes lie side by side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix {
    /// Planes of the matrices before.
    pub(super) first: usize,
    pub(super) planes: usize,
}

/// Where a plane is: the matrix, and which of its planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) matrix: usize,
    pub(super) plane: usize,
}

/// All matrices, when they have these numbers of planes along an axis.
pub(super) fn all_matrices(along: &[usize]) -> Vec<Matrix> {
    let mut next = 0;
    let numbers = along.iter().flat_map(|y| along.iter().map(move |x| y * x));
    numbers
        .map(|planes| {
            let first = next;
            next += planes;
            Matrix { first, planes }
        })
        .collect()
}

/// The places of all planes, when matrices have these numbers of them along an axis.
pub(super) fn all_places(along: &[usize]) -> Vec<Place> {
    let lines = || along.iter().enumerate().flat_map(|(matrix, &n)| (0..n).map(move |i| (matrix, i, n)));
    let line =
        |(y, i_y, _)| lines().map(move |(x, i_x, n)| Place { matrix: y * along.len() + x, plane: i_y * n + i_x });
    lines().flat_map(line).collect()
}

/// Of the weights: the numbers of planes along an axis that the sums are products of.
pub(super) fn weights_along<F: Form>() -> Vec<usize> {
    F::SUMS.iter().map(|&matrix| F::MATRICES[matrix]).collect()
}

/// For each sum the matrix that it is a product of.
pub(super) fn factors<F: Form>() -> Vec<usize> {
    F::SUMS.iter().flat_map(|y| F::SUMS.iter().map(move |x| y * F::MATRICES.len() + x)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::strided::Backward;
    use super::*;

    #[test]
    fn planes_of_a_matrix_follow_each_other() {
        let place = |matrix, plane| Place { matrix, plane };
        let expected = [
            [place(0, 0), place(0, 1), place(1, 0)],
            [place(0, 2), place(0, 3), place(1, 1)],
            [place(2, 0), place(2, 1), place(3, 0)],
        ];
        assert_eq!(all_places(&[2, 1]), expected.as_flattened());
        let matrices: Vec<_> = all_matrices(&[2, 1]).into_iter().map(|matrix| (matrix.first, matrix.planes)).collect();
        assert_eq!(matrices, [(0, 4), (4, 2), (6, 2), (8, 1)]);
    }

    #[test]
    fn sums_share_matrices() {
        let expected = [[0, 1, 2, 3, 1], [4, 5, 6, 7, 5], [8, 9, 10, 11, 9], [12, 13, 14, 15, 13], [4, 5, 6, 7, 5]];
        assert_eq!(factors::<Backward>(), expected.as_flattened());
        assert_eq!(weights_along::<Backward>(), [1; 5]);
    }
}
