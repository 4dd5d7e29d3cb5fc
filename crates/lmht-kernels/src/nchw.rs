//! Convolutions of maps `[n, c, h, w]`, by the faster of the dense kernels.
//!
//! Winograd's variant wants channels innermost. A task turns the maps of a few images for it, and the outputs back, so that
//! what is turned stays in the cache of its core.

use super::ConvShape;
use super::dense::{self, turn};
use super::lines::Lines;
use super::number::{Number, VectorKernel, Vectors};
use super::winograd::{self, Tiles};
use rayon::prelude::*;
use std::ops::Range;

/// Tiles of the images that are turned together: about as many as share a pass over the weights.
const TILES: usize = 64;

/// As [`dense::nchw::forward`].
pub fn forward<T: Number>(s: &ConvShape, xs: &[T], weight: &[T], bias: Option<&[T]>, ys: &mut [T]) {
    if !winograd::pays(s) {
        return dense::nchw::forward(s, xs, weight, bias, ys);
    }
    turned(s, images_of_a_task(s), xs, &winograd::Weights::new(s, weight), ys);
    if let Some(bias) = bias {
        let map = s.h_out * s.w_out;
        ys.par_chunks_mut(s.c_out * map).for_each(|ys| {
            for (ys, &bias) in ys.chunks_exact_mut(map).zip(bias) {
                ys.iter_mut().for_each(|y| *y += bias);
            }
        });
    }
}

/// As [`dense::nchw::grad_input`].
pub fn grad_input<T: Number>(s: &ConvShape, grads: &[T], weight: &[T], dxs: &mut [T]) {
    if !winograd::pays(s) {
        return dense::nchw::grad_input(s, grads, weight, dxs);
    }
    let weights = winograd::Weights::flipped(s, weight);
    turned(&winograd::backwards(s), images_of_a_task(s), grads, &weights, dxs);
}

/// As [`dense::nchw::grad_weight`].
pub fn grad_weight<T: Number>(s: &ConvShape, xs: &[T], grads: &[T], dweight: &mut [T]) {
    if !winograd::pays_grad_weight(s) {
        return dense::nchw::grad_weight(s, xs, grads, dweight);
    }
    if !winograd::is_one_part(s) {
        // Every task would turn its channels again.
        let xs = turn_all(xs, (s.c_in, s.h * s.w));
        let grads = turn_all(grads, (s.c_out, s.h_out * s.w_out));
        return winograd::grad_weight(s, &xs, &grads, dweight);
    }
    let rows = Tiles::of(s).rows;
    winograd::sum_up(s, rows, dweight, |part, sums| {
        let (mut turned, mut turned_grads) = (Lines::default(), Lines::default());
        let mut scratch = winograd::WeightScratch::default();
        let all = part.rows.start / rows..part.rows.end / rows;
        for first in all.clone().step_by(images_of_a_task(s)) {
            let images = first..all.end.min(first + images_of_a_task(s));
            turn_images(xs, (s.c_in, s.h * s.w), &images, &mut turned);
            turn_images(grads, (s.c_out, s.h_out * s.w_out), &images, &mut turned_grads);
            let s = ConvShape { n: images.len(), ..*s };
            let part = part.with_rows(0..images.len() * rows);
            winograd::add_part(&s, &turned, &turned_grads, part, sums, &mut scratch);
        }
    });
}

/// Maps `[n, channels, map]` as `[n, map, channels]`.
fn turn_all<T: Number>(maps: &[T], (n_channels, map): (usize, usize)) -> Lines<T> {
    let (mut turned, len) = (Lines::zeros(maps.len()), (n_channels * map).max(1));
    let images = maps.par_chunks_exact(len).zip(turned.par_chunks_exact_mut(len));
    images.for_each(|(from, to)| T::run_with_vectors(Turn { from, n_rows: n_channels, n_cols: map, to }));
    turned
}

/// Images that are turned together.
fn images_of_a_task(s: &ConvShape) -> usize {
    TILES.div_ceil(Tiles::of(&ConvShape { n: 1, ..*s }).len().max(1))
}

/// [`winograd::forward`] or the same [backwards](winograd::backwards), `per_task` images in a task.
fn turned<T: Number>(s: &ConvShape, per_task: usize, xs: &[T], weights: &winograd::Weights<T>, ys: &mut [T]) {
    let (x_map, y_map) = (s.h * s.w, s.h_out * s.w_out);
    // Tasks of almost the same size, in a number that two threads share out evenly.
    let n_tasks = s.n.div_ceil(per_task).next_multiple_of(2).min(s.n);
    let mut rest = ys;
    let mut tasks = Vec::with_capacity(n_tasks);
    for task in 0..n_tasks {
        let images = task * s.n / n_tasks..(task + 1) * s.n / n_tasks;
        let (ys, after) = rest.split_at_mut(images.len() * s.c_out * y_map);
        tasks.push((images, ys));
        rest = after;
    }
    // With fewer tasks than threads the threads share in each of them.
    let shared = n_tasks < rayon::current_num_threads();
    tasks.into_par_iter().for_each_init(
        || (Lines::default(), Lines::default(), winograd::Scratch::default()),
        |(turned, rows, scratch), (images, ys)| {
            turn_images(xs, (s.c_in, x_map), &images, turned);
            rows.resize(ys.len());
            let s = ConvShape { n: images.len(), ..*s };
            if shared {
                winograd::correlate(&s, turned, weights, rows);
            } else {
                winograd::correlate_alone(&s, turned, weights, rows, scratch);
            }
            for (from, to) in rows.chunks_exact(s.c_out * y_map).zip(ys.chunks_exact_mut(s.c_out * y_map)) {
                T::run_with_vectors(Turn { from, n_rows: y_map, n_cols: s.c_out, to });
            }
        },
    );
}

/// Some images, from `[n, channels, map]` to `[images, map, channels]`.
fn turn_images<T: Number>(maps: &[T], (n_channels, map): (usize, usize), images: &Range<usize>, to: &mut Lines<T>) {
    let len = n_channels * map;
    to.resize(images.len() * len);
    let maps = &maps[images.start * len..images.end * len];
    for (from, to) in maps.chunks_exact(len.max(1)).zip(to.chunks_exact_mut(len.max(1))) {
        T::run_with_vectors(Turn { from, n_rows: n_channels, n_cols: map, to });
    }
}

/// Exchanges rows and columns of a matrix `[n_rows, n_cols]`.
struct Turn<'a, T> {
    from: &'a [T],
    n_rows: usize,
    n_cols: usize,
    to: &'a mut [T],
}

impl<T: Number> VectorKernel<T> for Turn<'_, T> {
    #[inline(always)]
    fn run<V: Vectors<T>>(self, vectors: V) {
        let Self { from, n_rows, n_cols, to } = self;
        turn(vectors, (n_rows, n_cols), (from, n_cols), (to, n_rows));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the direct kernels, on shapes that pay.
    #[test]
    fn turning_changes_nothing() {
        for (n, c_in, c_out, h, w, stride) in [
            (3, 64, 70, 16_usize, 18_usize, 1),
            (37, 67, 64, 13, 15, 1),
            (4, 64, 140, 13, 15, 1),
            (7, 64, 70, 21, 24, 2),
        ] {
            let (h_out, w_out) = (h.div_ceil(stride), w.div_ceil(stride));
            let s = ConvShape { n, c_in, h, w, c_out, k: 3, stride, padding: 1, h_out, w_out, groups: 1 };
            assert!(winograd::pays(&s) && winograd::pays_grad_weight(&s), "{s:?}");
            let numbers = |len: usize, step: usize| -> Vec<f64> {
                (0..len).map(|i| (i * step % 101) as f64 / 101. - 0.5).collect()
            };
            let (xs, weight, bias) = (numbers(s.x_len(), 7), numbers(s.weight_len(), 11), numbers(c_out, 13));
            let grads = numbers(s.y_len(), 17);
            type Pass<'a> = &'a dyn Fn(&mut [f64]);
            let check = |what: &str, len: usize, ours: Pass<'_>, direct: Pass<'_>| {
                let (mut a, mut b) = (vec![f64::NAN; len], vec![f64::NAN; len]);
                ours(&mut a);
                direct(&mut b);
                let largest = b.iter().fold(0_f64, |largest, b| largest.max(b.abs()));
                for (i, (a, b)) in a.iter().zip(&b).enumerate() {
                    assert!((a - b).abs() <= 1e-12 * largest, "{what} {s:?} at {i}: {a}, expected {b}");
                }
            };
            check("forward", s.y_len(), &|ys| forward(&s, &xs, &weight, Some(&bias), ys), &|ys| {
                dense::nchw::forward(&s, &xs, &weight, Some(&bias), ys);
            });
            check("input gradient", s.x_len(), &|dxs| grad_input(&s, &grads, &weight, dxs), &|dxs| {
                dense::nchw::grad_input(&s, &grads, &weight, dxs);
            });
            check("weight gradient", s.weight_len(), &|dw| grad_weight(&s, &xs, &grads, dw), &|dw| {
                dense::nchw::grad_weight(&s, &xs, &grads, dw);
            });
        }
    }

    /// Nor does the number of threads, not even where there are more of them than tasks.
    #[test]
    fn threads_do_not_change_bits() {
        let plain = ConvShape {
            n: 5,
            c_in: 64,
            h: 14,
            w: 18,
            c_out: 70,
            k: 3,
            stride: 1,
            padding: 1,
            h_out: 14,
            w_out: 18,
            groups: 1,
        };
        let strided = ConvShape { c_out: 140, h: 28, w: 36, stride: 2, ..plain };
        for s in [plain, strided] {
            assert!(winograd::pays(&s) && winograd::pays_grad_weight(&s), "{s:?}");
            let numbers = |len: usize, step: usize| -> Vec<f32> {
                (0..len).map(|i| (i * step % 101) as f32 / 101. - 0.5).collect()
            };
            let (xs, weight, grads) = (numbers(s.x_len(), 7), numbers(s.weight_len(), 11), numbers(s.y_len(), 17));
            let results = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let nan = |len: usize| vec![f32::NAN; len];
                    let (mut ys, mut dxs, mut dweight) = (nan(s.y_len()), nan(s.x_len()), nan(s.weight_len()));
                    forward(&s, &xs, &weight, None, &mut ys);
                    grad_input(&s, &grads, &weight, &mut dxs);
                    grad_weight(&s, &xs, &grads, &mut dweight);
                    [ys, dxs, dweight].map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
                })
            };
            let one = results(1);
            for threads in [2, 3, 8] {
                assert!(results(threads) == one, "{threads} threads, {s:?}");
            }
        }
    }
}
