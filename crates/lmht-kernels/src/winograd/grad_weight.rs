//! The weight gradient.

use super::form::{Adjoint, all_places};
use super::forward::patch;
use super::plain::Plain;
use super::run::{self, load, store};
use super::strided::Strided;
use super::{TAPS, Tiles, fits, for_runs, with_run};
use crate::dense::turn;
use crate::lines::Lines;
use crate::number::{Number, VectorKernel, Vectors};
use crate::tile::{self, for_blocks, for_rows};
use crate::{ConvShape, Source};
use rayon::prelude::*;
use std::ops::Range;

/// Tiles of a pass.
const TILES: usize = 64;
/// Runs of input channels in a panel, which is then whole register tiles, too.
const RUNS: usize = 3;
/// Channels of a task, on either side, at most. The sums of all planes (1 MB with stride 1) stay in the cache.
const CHANNELS: usize = 128;
/// Number of tasks to aim at. A constant and not the number of threads, so that sums keep their order.
const TASKS: usize = 8;

/// Evaluates the expression with the form for a shape in `$form`.
macro_rules! with_form {
    ($form:ident of $shape:expr => $body:expr) => {
        if $shape.stride == 1 {
            let $form = Plain;
            $body
        } else {
            let $form = Strided;
            $body
        }
    };
}

/// `dweight[o, i, ky, kx] = Σ_{n, y, x} grads[n, y, x, o] xs[n, y stride + ky - p, x stride + kx - p, i]`; a shape that [`fits`].
///
/// `xs` is `[n, h, w, c_in]`, `grads` `[n, h_out, w_out, c_out]`, `dweight` `[c_out, c_in, 3, 3]`, which is overwritten.
pub(crate) fn grad_weight<T: Number, X: Source<T>>(s: &ConvShape, xs: &[X], grads: &[T], dweight: &mut [T]) {
    debug_assert!(fits(s));
    let cut = |c: usize| c.div_ceil(c.div_ceil(CHANNELS)).next_multiple_of(T::LANES);
    let (per_in, per_out) = (cut(s.c_in), cut(s.c_out));
    let (n_in, n_out) = (s.c_in.div_ceil(per_in), s.c_out.div_ceil(per_out));
    let n_planes = with_form!(form of s => planes_of(form));
    let tiles = Tiles::of(s);
    let n_rows = tiles.n * tiles.rows;
    let per_group = n_rows.div_ceil(TASKS.div_ceil(n_in * n_out)).max(1);
    let n_groups = n_rows.div_ceil(per_group).max(1);
    let range = |i: usize, per: usize, c: usize| i * per..c.min((i + 1) * per);
    let zeros = (&*vec![X::default(); s.c_in], &*vec![T::default(); s.c_out]);
    let sums_of = |i: usize, o: usize, group: usize| {
        let (inputs, outputs) = (range(i, per_in, s.c_in), range(o, per_out, s.c_out));
        let mut sums = Lines::zeros(n_planes * sum_len::<T>(&inputs, &outputs));
        let part = Part { rows: range(group, per_group, n_rows), inputs, outputs };
        with_form!(form of s => {
            T::run_with_vectors(Task { form, shape: s, tiles, xs, grads, zeros, part, sums: &mut sums });
        });
        sums
    };
    // Ordered by outputs, inputs, group.
    let sums: Vec<Lines<T>> = (0..n_out * n_in * n_groups)
        .into_par_iter()
        .map(|task| sums_of(task / n_groups % n_in, task / n_groups / n_in, task % n_groups))
        .collect();
    // A register's worth of outputs at a time.
    dweight.par_chunks_mut(T::LANES * s.c_in * TAPS).enumerate().for_each(|(block, dweight)| {
        let o = block * T::LANES / per_out;
        for i in 0..n_in {
            let (inputs, outputs) = (range(i, per_in, s.c_in), range(o, per_out, s.c_out));
            let sums = &sums[(o * n_in + i) * n_groups..][..n_groups];
            let first = block * T::LANES - outputs.start;
            let c_in = s.c_in;
            with_form!(form of s => {
                T::run_with_vectors(Finish { form, sums, inputs, outputs, first, c_in, dweight });
            });
        }
    });
}

/// What a task sums up: some channels over some rows of tiles, counted over all images.
#[derive(Debug, Clone)]
struct Part {
    rows: Range<usize>,
    inputs: Range<usize>,
    outputs: Range<usize>,
}

fn planes_of<F: Adjoint>(_: F) -> usize {
    all_places(F::MATRICES).len()
}

/// Sums of one plane: `[outputs / L, inputs, L]`.
fn sum_len<T: Number>(inputs: &Range<usize>, outputs: &Range<usize>) -> usize {
    outputs.len().div_ceil(T::LANES) * inputs.len() * T::LANES
}

/// The sums of a part.
struct Task<'a, T, X, F> {
    form: F,
    shape: &'a ConvShape,
    tiles: Tiles,
    xs: &'a [X],
    grads: &'a [T],
    /// A pixel of either in the border.
    zeros: (&'a [X], &'a [T]),
    part: Part,
    sums: &'a mut [T],
}

impl<T: Number, X: Source<T>, F: Adjoint> VectorKernel<T> for Task<'_, T, X, F> {
    #[inline(always)]
    fn run<V: Vectors<T>>(self, vectors: V) {
        with_run!(RUN of T, V => { self.run_with::<V, RUN>(vectors) });
    }
}

impl<T: Number, X: Source<T>, F: Adjoint> Task<'_, T, X, F> {
    /// With runs of `RUN` channels.
    #[inline(always)]
    fn run_with<V: Vectors<T>, const RUN: usize>(self, vectors: V) {
        let Self {
            shape: s,
            tiles,
            zeros: (zero_xs, zero_grads),
            part: Part { ref rows, ref inputs, ref outputs },
            ..
        } = self;
        let per_panel = RUNS * RUN;
        let first = rows.start * tiles.cols;
        let n = rows.len() * tiles.cols;
        let most = TILES.min(n);
        // For each plane: panels of input channels [tiles, per_panel]. For each sum: blocks of output channels [tiles, L].
        let panel = most * per_panel;
        let plane_len = inputs.len().div_ceil(per_panel) * panel + T::LANES;
        let block = most * T::LANES;
        let grads_len = outputs.len().div_ceil(T::LANES) * block + T::LANES;
        let places = all_places(F::MATRICES);
        debug_assert!(F::SUMS.iter().copied().eq(0..F::MATRICES.len()));
        let mut xs = Lines::zeros(places.len() * plane_len);
        let mut grads = Lines::zeros(F::SUMS.len() * F::SUMS.len() * grads_len);
        let per_plane = sum_len::<T>(inputs, outputs);
        for start in (0..n).step_by(TILES) {
            let n = TILES.min(n - start);
            for i in 0..n {
                let tile = first + start + i;
                let (row, col) = (tile / tiles.cols, tile % tiles.cols);
                let (image, row) = (row / tiles.rows, row % tiles.rows);
                let mut pixels = patch::<X, F>(s, self.xs, zero_xs, (image, row, col));
                for pixel in &mut pixels[..F::READ * F::READ] {
                    *pixel = &pixel[inputs.clone()];
                }
                for_runs!(c, WHOLE in inputs.len(), RUN => {
                    let at = c / per_panel * panel + i * per_panel + c % per_panel;
                    self.form.planes::<T, RUN>(
                        #[inline(always)]
                        |y, x| load::<_, _, RUN, WHOLE>(&pixels[F::READ * y + x][c..]),
                        #[inline(always)]
                        |plane, run| store::<_, RUN, true>(run, &mut xs[plane * plane_len + at..]),
                    );
                });
                let pixels = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(y, x)| {
                    let (y, x) = (2 * row + y, 2 * col + x);
                    let pixel = if y < s.h_out && x < s.w_out {
                        &self.grads[((image * s.h_out + y) * s.w_out + x) * s.c_out..][..s.c_out]
                    } else {
                        zero_grads
                    };
                    &pixel[outputs.clone()]
                });
                // A run that is half of a block may leave the other half as it was, in lanes of no output.
                for_runs!(c, WHOLE in outputs.len(), RUN => {
                    let at = c / T::LANES * block + i * T::LANES + c % T::LANES;
                    self.form.gradients::<T, RUN>(
                        #[inline(always)]
                        |pixel| load::<_, _, RUN, WHOLE>(&pixels[pixel][c..]),
                        #[inline(always)]
                        |sum, run| store::<_, RUN, true>(run, &mut grads[sum * grads_len + at..]),
                    );
                });
            }
            for (plane, place) in places.iter().enumerate() {
                let sums = &mut self.sums[plane * per_plane..][..per_plane];
                let (xs, grads) = (&xs[plane * plane_len..], &grads[place.matrix * grads_len..]);
                let per_block = inputs.len() * T::LANES;
                for_blocks!(first, B in outputs.len().div_ceil(T::LANES), V => {
                    let grads: [&[V::Block]; B] =
                        tile::each(|b| V::blocks(&grads[(first + b) * block..][..n * T::LANES]));
                    for (i, channel) in (0..inputs.len()).step_by(per_panel).enumerate() {
                        for_rows!(row, R in per_panel.min(inputs.len() - channel) => {
                            let place = |r, b| (first + b) * per_block + (channel + row + r) * T::LANES;
                            let mut tile = tile::load::<T, V, R, B>(vectors, sums, place);
                            tile::add_outer::<T, V, R, B>(vectors, &mut tile, &xs[i * panel + row..], per_panel, grads);
                            tile::store::<T, V, R, B>(tile, sums, place);
                        });
                    }
                });
            }
        }
    }
}

/// Adds up the groups and leaves the planes, for `L` outputs and some inputs.
struct Finish<'a, T, F> {
    form: F,
    sums: &'a [Lines<T>],
    inputs: Range<usize>,
    outputs: Range<usize>,
    /// The first output, counted from that of the sums.
    first: usize,
    c_in: usize,
    /// `[outputs, c_in, 9]`.
    dweight: &'a mut [T],
}

impl<T: Number, F: Adjoint> VectorKernel<T> for Finish<'_, T, F> {
    #[inline(always)]
    fn run<V: Vectors<T>>(self, vectors: V) {
        let n = self.inputs.len();
        let per_plane = sum_len::<T>(&self.inputs, &self.outputs);
        let start = self.first / T::LANES * n * T::LANES;
        // [inputs, taps, L], as the weights are ordered but for the outputs.
        let mut taps = Lines::zeros(n * TAPS * T::LANES);
        with_run!(RUN of T, V => {
            for i in (0..n * T::LANES).step_by(RUN) {
                let (input, lane) = (i / T::LANES, i % T::LANES);
                self.form.weight_gradients::<T, RUN>(
                    #[inline(always)]
                    |plane| {
                        let mut total = [T::default(); RUN];
                        for sums in self.sums {
                            total = run::add(total, load::<_, _, RUN, true>(&sums[plane * per_plane + start + i..]));
                        }
                        total
                    },
                    #[inline(always)]
                    |tap, run| store::<_, RUN, true>(run, &mut taps[(input * TAPS + tap) * T::LANES + lane..]),
                );
            }
        });
        let per_output = self.c_in * TAPS;
        let n_outputs = self.dweight.len() / per_output;
        let first = self.inputs.start * TAPS;
        turn(vectors, (n * TAPS, n_outputs), (&*taps, T::LANES), (&mut self.dweight[first..], per_output));
    }
}
