//! Spiking self-attention without a softmax: `(scale q kᵀ) v` in every head (Zhou et al. 2023, "Spikformer").
//!
//! q, k and v are `[rows, tokens, channels]`, rows are images at one timestep after the other. Head h owns the channels
//! `h d..(h + 1) d`, d being the head's size.
//!
//! A task takes a row. Of each head it copies what it needs into the order of the register tiles, so that all products are
//! of small matrices that stay in the cache. Every sum has one order, whatever the number of threads. The scores are scaled
//! before they are multiplied with v, and rounded where the composed form rounds them.

use rayon::prelude::*;

use crate::Source;
use crate::dense::turn;
use crate::lines::Lines;
use crate::number::{Number, VectorKernel, Vectors};
use crate::tile::{self, for_blocks, for_rows};

/// Sizes of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Images times timesteps.
    pub rows: usize,
    /// Tokens of a row.
    pub tokens: usize,
    /// Channels of a token, those of all heads.
    pub channels: usize,
    /// Heads; divides `channels`.
    pub heads: usize,
}

impl AttentionShape {
    /// Numbers in q, in k, in v and in what comes out: `rows * tokens * channels`.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows * self.row_len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers in the scores: `rows * heads * tokens * tokens`.
    #[must_use]
    pub fn scores_len(&self) -> usize {
        self.rows * self.heads * self.tokens * self.tokens
    }

    fn row_len(&self) -> usize {
        self.tokens * self.channels
    }

    /// Channels of a head.
    fn head(&self) -> usize {
        self.channels / self.heads
    }

    /// Panics unless all of `lens` are [`len`](Self::len).
    #[track_caller]
    fn check(&self, lens: &[usize]) {
        let is_true = self.heads > 0 && self.channels.is_multiple_of(self.heads);
        assert!(is_true, "attention: {} channels in {} heads", self.channels, self.heads);
        assert!(lens.iter().all(|&len| len == self.len()), "attention: {lens:?} numbers for {self:?}");
    }
}

/// What one of q, k and v holds: `[rows, tokens, channels]`.
#[derive(Debug, Clone, Copy)]
pub enum Tokens<'a, T> {
    /// Numbers.
    Numbers(&'a [T]),
    /// Packed spikes.
    Spikes {
        /// The count of a unit in the low 7 bits; the top bit is ignored.
        bytes: &'a [u8],
        /// What one spike counts for.
        amplitude: f64,
    },
}

impl<T: Number> Tokens<'_, T> {
    fn len(&self) -> usize {
        match self {
            Self::Numbers(xs) => xs.len(),
            Self::Spikes { bytes, .. } => bytes.len(),
        }
    }

    /// The numbers of one head in one row, token by token.
    #[inline(always)]
    fn copy(&self, s: &AttentionShape, at: (usize, usize), to: &mut Lines<T>) {
        to.resize(s.tokens * s.head());
        match *self {
            Self::Numbers(xs) => copy_head(s, xs, at, to),
            Self::Spikes { bytes, amplitude } => {
                copy_head(s, bytes, at, to);
                to.iter_mut().for_each(|x| *x *= T::from_f64(amplitude));
            }
        }
    }
}

#[inline(always)]
fn copy_head<T: Number, X: Source<T>>(s: &AttentionShape, xs: &[X], (row, head): (usize, usize), to: &mut [T]) {
    let d = s.head();
    let tokens = xs[row * s.row_len()..][..s.row_len()].chunks_exact(s.channels);
    for (to, token) in to.chunks_exact_mut(d).zip(tokens) {
        for (to, x) in to.iter_mut().zip(&token[head * d..][..d]) {
            *to = x.value();
        }
    }
}

/// `out[r, i, h d + c] = Σ_j (scale Σ_e q[r, i, h d + e] k[r, j, h d + e]) v[r, j, h d + c]`.
///
/// `out` is overwritten. Panics if a slice has another length than the sizes say.
///
/// ```
/// use lmht_kernels::attention::{self, AttentionShape, Tokens};
///
/// // Two tokens of two channels; the first asks for what the second has, as spikes that count for a half.
/// let shape = AttentionShape { rows: 1, tokens: 2, channels: 2, heads: 1 };
/// let q = Tokens::Numbers(&[0., 1., 0., 0.]);
/// let k = Tokens::Spikes { bytes: &[1, 0, 0, 1], amplitude: 0.5 };
/// let v = Tokens::Numbers(&[1., 2., 3., 4.]);
/// let mut out = [0.; 4];
/// attention::forward(&shape, [q, k, v], 2., &mut out);
/// assert_eq!(out, [3., 4., 0., 0.]);
///
/// let mut scores = [0.; 4];
/// attention::scores(&shape, q, k, 2., &mut scores);
/// assert_eq!(scores, [0., 1., 0., 0.]);
/// ```
pub fn forward<T: Number>(shape: &AttentionShape, [q, k, v]: [Tokens<'_, T>; 3], scale: f64, out: &mut [T]) {
    shape.check(&[q.len(), k.len(), v.len(), out.len()]);
    if shape.is_empty() {
        return;
    }
    out.par_chunks_mut(shape.row_len()).enumerate().for_each_init(Scratch::default, |scratch, (row, out)| {
        T::run_with_vectors(Forward { shape, qkv: [q, k, v], scale: T::from_f64(scale), row, scratch, out });
    });
}

/// The scores that [`forward`] multiplies v with: `out[r, h, i, j] = scale Σ_e q[r, i, h d + e] k[r, j, h d + e]`.
///
/// `out` is overwritten. Panics if a slice has another length than the sizes say.
pub fn scores<T: Number>(shape: &AttentionShape, q: Tokens<'_, T>, k: Tokens<'_, T>, scale: f64, out: &mut [T]) {
    shape.check(&[q.len(), k.len()]);
    assert_eq!(out.len(), shape.scores_len(), "attention: scores of {shape:?}");
    if out.is_empty() {
        return;
    }
    let row = shape.heads * shape.tokens * shape.tokens;
    out.par_chunks_mut(row).enumerate().for_each_init(Scratch::default, |scratch, (row, out)| {
        T::run_with_vectors(Scores { shape, q, k, scale: T::from_f64(scale), row, scratch, out });
    });
}

/// The gradients of q, k and v as numbers, amplitude included, from that of what [`forward`] gives. The scores are computed
/// once more.
///
/// `dq`, `dk` and `dv` are overwritten. Panics if a slice has another length than the sizes say.
///
/// ```
/// use lmht_kernels::attention::{self, AttentionShape, Tokens};
///
/// // With one token of one channel it is scale q k v.
/// let shape = AttentionShape { rows: 1, tokens: 1, channels: 1, heads: 1 };
/// let [q, k, v] = [[2.], [3.], [5.]];
/// let (mut dq, mut dk, mut dv) = ([0.], [0.], [0.]);
/// let qkv = [&q, &k, &v].map(|xs| Tokens::Numbers(xs));
/// attention::backward(&shape, qkv, 0.5, &[1.], [&mut dq, &mut dk, &mut dv]);
/// assert_eq!((dq, dk, dv), ([7.5], [5.], [3.]));
/// ```
pub fn backward<T: Number>(
    shape: &AttentionShape,
    [q, k, v]: [Tokens<'_, T>; 3],
    scale: f64,
    grad_out: &[T],
    [dq, dk, dv]: [&mut [T]; 3],
) {
    shape.check(&[q.len(), k.len(), v.len(), grad_out.len(), dq.len(), dk.len(), dv.len()]);
    if shape.is_empty() {
        return;
    }
    let row = shape.row_len();
    let gradients = dq.par_chunks_mut(row).zip(dk.par_chunks_mut(row)).zip(dv.par_chunks_mut(row));
    gradients.enumerate().for_each_init(Scratch::default, |scratch, (row, ((dq, dk), dv))| {
        let scale = T::from_f64(scale);
        T::run_with_vectors(Backward { shape, qkv: [q, k, v], scale, grad_out, row, scratch, to: [dq, dk, dv] });
    });
}

/// Buffers of a thread.
#[derive(Debug, Default)]
struct Scratch<T> {
    /// Of the head at hand: q, k, v and the output gradient, `[tokens, d]`.
    heads: [Lines<T>; 4],
    /// The right side of a product, `[blocks, depth, L]`.
    right: Lines<T>,
    /// Scores or their gradients, `[tokens, tokens rounded up to blocks]`.
    scores: Lines<T>,
    /// The same, rows and columns exchanged.
    turned: Lines<T>,
    /// What a product gives, `[tokens, d rounded up to blocks]`.
    out: Lines<T>,
}

/// A number of columns, rounded up to blocks.
fn pitch<T: Number>(columns: usize) -> usize {
    columns.next_multiple_of(T::LANES)
}

/// Lays a matrix `[depth, columns]` out as `[blocks, depth, L]`, zeros behind its end.
#[inline(always)]
fn columns<T: Number>(matrix: &[T], columns: usize, to: &mut Lines<T>) {
    let depth = matrix.len() / columns;
    to.resize(pitch::<T>(columns) * depth);
    for (block, to) in to.chunks_exact_mut(depth * T::LANES).enumerate() {
        let first = block * T::LANES;
        let n = T::LANES.min(columns - first);
        for (to, row) in to.chunks_exact_mut(T::LANES).zip(matrix.chunks_exact(columns)) {
            to[..n].copy_from_slice(&row[first..first + n]);
            to[n..].fill(T::default());
        }
    }
}

/// The same for the transpose of a matrix `[columns, depth]`.
#[inline(always)]
fn rows<T: Number, V: Vectors<T>>(vectors: V, matrix: &[T], depth: usize, to: &mut Lines<T>) {
    let columns = matrix.len() / depth;
    to.resize(pitch::<T>(columns) * depth);
    let blocks = matrix.chunks(depth * T::LANES).zip(to.chunks_exact_mut(depth * T::LANES));
    for (matrix, to) in blocks {
        let n = matrix.len() / depth;
        if n < T::LANES {
            to.fill(T::default());
        }
        turn(vectors, (n, depth), (matrix, depth), (to, T::LANES));
    }
}

/// `out = left right`: `left` has rows of `depth` numbers, one `left_pitch` after the other, `right` is `[blocks, depth, L]`,
/// and `out` has as many blocks in a row.
#[inline(always)]
fn multiply<T: Number, V: Vectors<T>>(
    vectors: V,
    (left, left_pitch, depth): (&[T], usize, usize),
    right: &[T],
    n_rows: usize,
    out: &mut Lines<T>,
) {
    let n_blocks = right.len() / depth / T::LANES;
    let pitch = n_blocks * T::LANES;
    out.resize(n_rows * pitch);
    for_blocks!(block, B in n_blocks, V => {
        let weights: [&[V::Block]; B] =
            tile::each(|b| V::blocks(&right[(block + b) * depth * T::LANES..][..depth * T::LANES]));
        for_rows!(row, R in n_rows => {
            let mut tile = tile::zeros::<T, V, R, B>(vectors);
            let rows: [&[T]; R] = tile::each(|r| &left[(row + r) * left_pitch..]);
            tile::multiply::<T, V, R, B>(vectors, &mut tile, rows, weights);
            tile::store::<T, V, R, B>(tile, out, |r, b| (row + r) * pitch + (block + b) * T::LANES);
        });
    });
}

#[inline(always)]
fn scale_by<T: Number>(xs: &mut [T], scale: T) {
    xs.iter_mut().for_each(|x| *x *= scale);
}

/// Writes a head's `[tokens, d]` to its channels of a row.
#[inline(always)]
fn put_head<T: Number>(s: &AttentionShape, from: &[T], head: usize, to: &mut [T]) {
    let d = s.head();
    for (token, from) in to.chunks_exact_mut(s.channels).zip(from.chunks_exact(pitch::<T>(d))) {
        token[head * d..][..d].copy_from_slice(&from[..d]);
    }
}

struct Forward<'a, T> {
    shape: &'a AttentionShape,
    qkv: [Tokens<'a, T>; 3],
    scale: T,
    row: usize,
    scratch: &'a mut Scratch<T>,
    out: &'a mut [T],
}

impl<T: Number> VectorKernel<T> for Forward<'_, T> {
    #[inline(always)]
    fn run<V: Vectors<T>>(self, vectors: V) {
        let Self { shape: s, qkv: [q, k, v], scale, row, scratch, out } = self;
        let (n, d) = (s.tokens, s.head());
        let Scratch { heads: [q_head, k_head, v_head, _], right, scores, out: product, .. } = scratch;
        for head in 0..s.heads {
            q.copy(s, (row, head), q_head);
            k.copy(s, (row, head), k_head);
            v.copy(s, (row, head), v_head);
            rows(vectors, k_head, d, right);
            multiply(vectors, (q_head, d, d), right, n, scores);
            scale_by(scores, scale);
            columns(v_head, d, right);
            multiply(vectors, (scores, pitch::<T>(n), n), right, n, product);
            put_head(s, product, head, out);
        }
    }
}

struct Scores<'a, T> {
    shape: &'a AttentionShape,
    q: Tokens<'a, T>,
    k: Tokens<'a, T>,
    scale: T,
    row: usize,
    scratch: &'a mut Scratch<T>,
    out: &'a mut [T],
}

impl<T: Number> VectorKernel<T> for Scores<'_, T> {
    #[inline(always)]
    fn run<V: Vectors<T>>(self, vectors: V) {
        let Self { shape: s, q, k, scale, row, scratch, out } = self;
        let (n, d) = (s.tokens, s.head());
        let Scratch { heads: [q_head, k_head, ..], right, scores, .. } = scratch;
        for (head, out) in out.chunks_exact_mut(n * n).enumerate() {
            q.copy(s, (row, head), q_head);
            k.copy(s, (row, head), k_head);
            rows(vectors, k_head, d, right);
            multiply(vectors, (q_head, d, d), right, n, scores);
            scale_by(scores, scale);
            for (out, scores) in out.chunks_exact_mut(n).zip(scores.chunks_exact(pitch::<T>(n))) {
                out.copy_from_slice(&scores[..n]);
            }
        }
    }
}

struct Backward<'a, T> {
    shape: &'a AttentionShape,
    qkv: [Tokens<'a, T>; 3],
    scale: T,
    grad_out: &'a [T],
    row: usize,
    scratch: &'a mut Scratch<T>,
    to: [&'a mut [T]; 3],
}

impl<T: Number> VectorKernel<T> for Backward<'_, T> {
    #[inline(always)]
    fn run<V: Vectors<T>>(self, vectors: V) {
        let Self { shape: s, qkv, scale, grad_out, row, scratch, to: [dq, dk, dv] } = self;
        let (n, d) = (s.tokens, s.head());
        let scores_pitch = pitch::<T>(n);
        let Scratch { heads, right, scores, turned, out } = scratch;
        for head in 0..s.heads {
            let [q, k, v] = qkv;
            for (tokens, head_of) in [q, k, v, Tokens::Numbers(grad_out)].into_iter().zip(&mut *heads) {
                tokens.copy(s, (row, head), head_of);
            }
            let [q, k, v, grads] = &*heads;
            // With S = scale q kᵀ and G the gradient: dv = Sᵀ G.
            rows(vectors, q, d, right);
            multiply(vectors, (k, d, d), right, n, scores);
            scale_by(scores, scale);
            columns(grads, d, right);
            multiply(vectors, (scores, scores_pitch, n), right, n, out);
            put_head(s, out, head, dv);
            // dk = dSᵀ q and dq = dS k, where dSᵀ = scale v Gᵀ.
            rows(vectors, grads, d, right);
            multiply(vectors, (v, d, d), right, n, scores);
            scale_by(scores, scale);
            columns(q, d, right);
            multiply(vectors, (scores, scores_pitch, n), right, n, out);
            put_head(s, out, head, dk);
            turned.resize(n * n);
            turn(vectors, (n, n), (&**scores, scores_pitch), (turned, n));
            columns(k, d, right);
            multiply(vectors, (turned, n, n), right, n, out);
            put_head(s, out, head, dq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::narrow;

    /// Heads and tokens that fill blocks and that do not.
    fn shapes() -> [AttentionShape; 6] {
        [(1, 1, 1, 1), (3, 5, 6, 2), (2, 17, 20, 1), (2, 16, 32, 2), (1, 64, 96, 3), (4, 9, 33, 3)]
            .map(|(rows, tokens, channels, heads)| AttentionShape { rows, tokens, channels, heads })
    }

    fn numbers<T: Number>(seed: u64, len: usize) -> Vec<T> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            T::from_f64((state >> 48) as f64 / (1 << 15) as f64 - 1.)
        };
        (0..len).map(|_| next()).collect()
    }

    const SCALE: f64 = 0.125;

    /// Scores and what comes out, by the definition.
    fn naive(s: &AttentionShape, [q, k, v]: [&[f64]; 3]) -> [Vec<f64>; 2] {
        let (d, mut scores, mut out) = (s.channels / s.heads, vec![], vec![0.; s.len()]);
        for row in 0..s.rows {
            let at = |token: usize, channel: usize| (row * s.tokens + token) * s.channels + channel;
            for first in (0..s.heads).map(|head| head * d) {
                for i in 0..s.tokens {
                    for j in 0..s.tokens {
                        let product: f64 = (first..first + d).map(|e| q[at(i, e)] * k[at(j, e)]).sum();
                        scores.push(SCALE * product);
                        for c in first..first + d {
                            out[at(i, c)] += SCALE * product * v[at(j, c)];
                        }
                    }
                }
            }
        }
        [scores, out]
    }

    #[track_caller]
    fn assert_near<T: Number>(what: &str, s: &AttentionShape, got: &[T], expected: &[f64], tolerance: f64) {
        assert_eq!(got.len(), expected.len(), "{what} of {s:?}");
        for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
            let got = got.to_f64();
            assert!((got - expected).abs() <= tolerance, "{what} of {s:?} at {i}: {got}, expected {expected}");
        }
    }

    fn check<T: Number>(tolerance: f64) {
        for s in &shapes() {
            let [q, k, v] = [1, 2, 3].map(|seed| numbers::<T>(seed, s.len()));
            let nan = |len: usize| vec![T::from_f64(f64::NAN); len];
            let wide = [&q, &k, &v].map(|xs| xs.iter().map(|x| x.to_f64()).collect::<Vec<_>>());
            let [expected_scores, expected] = naive(s, [&wide[0], &wide[1], &wide[2]]);
            let [q, k, v] = [&q, &k, &v].map(|xs| Tokens::Numbers(xs));
            let (mut given, mut out) = (nan(s.scores_len()), nan(s.len()));
            scores(s, q, k, SCALE, &mut given);
            forward(s, [q, k, v], SCALE, &mut out);
            assert_near("scores", s, &given, &expected_scores, tolerance);
            assert_near("forward", s, &out, &expected, tolerance);
            // Other vectors and another number of threads.
            let mut again = nan(s.len());
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a few threads");
            narrow::with(|| pool.install(|| forward(s, [q, k, v], SCALE, &mut again)));
            assert!(again == out, "{s:?}");
        }
    }

    #[test]
    fn results_are_those_of_a_loop() {
        check::<f64>(1e-13);
        check::<f32>(1e-5);
    }

    #[test]
    fn packed_spikes_are_their_numbers() {
        for s in &shapes() {
            let packed = [1, 2, 3].map(|seed| -> Vec<u8> {
                numbers::<f64>(seed, s.len()).into_iter().map(|x| (x * 128.) as i8 as u8 & 0x83).collect()
            });
            let amplitudes = [1., 0.3, 0.7];
            let real = |i: usize| -> Vec<f32> {
                packed[i].iter().map(|&byte| f32::from(byte & 0x7f) * amplitudes[i] as f32).collect()
            };
            let real = [real(0), real(1), real(2)];
            let [a, b] = [0, 1].map(|is_packed| {
                let tokens = [0, 1, 2].map(|i| match is_packed {
                    0 => Tokens::Numbers(&real[i]),
                    _ => Tokens::Spikes { bytes: &packed[i], amplitude: amplitudes[i] },
                });
                let mut out = vec![f32::NAN; s.len()];
                forward(s, tokens, SCALE, &mut out);
                let mut gradients = [(); 3].map(|()| vec![f32::NAN; s.len()]);
                backward(s, tokens, SCALE, &real[0], gradients.each_mut().map(|to| &mut to[..]));
                (out, gradients)
            });
            assert!(a == b, "{s:?}");
        }
    }

    /// Against differences of the naive form: it is linear in each of its inputs, so they are exact but for rounding.
    #[test]
    fn gradients_are_finite_differences() {
        for s in &shapes()[..4] {
            let qkv: [Vec<f64>; 3] = [1, 2, 3].map(|seed| numbers(seed, s.len()));
            let grads: Vec<f64> = numbers(4, s.len());
            let mut gradients = [(); 3].map(|()| vec![f64::NAN; s.len()]);
            let tokens = qkv.each_ref().map(|xs| Tokens::Numbers(xs));
            backward(s, tokens, SCALE, &grads, gradients.each_mut().map(|to| &mut to[..]));
            let loss = |qkv: &[Vec<f64>; 3]| -> f64 {
                let [_, out] = naive(s, qkv.each_ref().map(|xs| &xs[..]));
                out.iter().zip(&grads).map(|(y, grad)| y * grad).sum()
            };
            for (which, got) in gradients.iter().enumerate() {
                let expected: Vec<f64> = (0..s.len())
                    .map(|i| {
                        let moved = |by: f64| {
                            let mut qkv = qkv.clone();
                            qkv[which][i] += by;
                            loss(&qkv)
                        };
                        (moved(0.5) - moved(-0.5)) / 1.
                    })
                    .collect();
                assert_near(["dq", "dk", "dv"][which], s, got, &expected, 1e-11);
            }
        }
    }

    #[test]
    #[should_panic(expected = "channels in 2 heads")]
    fn heads_must_divide_the_channels() {
        let shape = AttentionShape { rows: 1, tokens: 1, channels: 3, heads: 2 };
        forward(&shape, [Tokens::Numbers(&[0.; 3]); 3], 1., &mut [0.; 3]);
    }
}
