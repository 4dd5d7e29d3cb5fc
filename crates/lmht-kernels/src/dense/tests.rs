//! The kernels against the definition.

use super::*;
use crate::number::narrow;

fn shape(
    n: usize,
    (c_in, h, w): (usize, usize, usize),
    c_out: usize,
    k: usize,
    stride: usize,
    padding: usize,
) -> ConvShape {
    let size = |size: usize| (size + 2 * padding - k) / stride + 1;
    ConvShape { n, c_in, h, w, c_out, k, stride, padding, groups: 1, h_out: size(h), w_out: size(w) }
}

/// Every combination of channels, kernels, strides and paddings; maps of several sizes, height not width.
fn shapes() -> Vec<ConvShape> {
    let mut shapes = Vec::new();
    let mut i = 0;
    for c_in in [1, 3, 5, 16, 17, 64] {
        for c_out in [1, 10, 16, 20, 64] {
            for k in [1, 2, 3, 5, 7] {
                for stride in [1, 2, 3] {
                    for padding in 0..=3 {
                        i += 1;
                        // A fifth of all of them, but every pair of sizes.
                        if (c_in + c_out + k + stride + i) % 5 != 0 {
                            continue;
                        }
                        let (h, w) = [(7, 9), (8, 7), (11, 10)][i % 3];
                        shapes.push(shape(1 + i % 3, (c_in, h, w), c_out, k, stride, padding));
                    }
                }
            }
        }
    }
    shapes.extend([
        // Steps within a tap, channels in two parts, a block that is not full.
        shape(2, (128, 5, 4), 20, 3, 1, 1),
        shape(3, (130, 4, 5), 33, 3, 2, 1),
        shape(2, (330, 3, 3), 16, 3, 1, 1),
        shape(2, (20, 3, 4), 140, 3, 2, 1),
        // Steps within some columns of the kernel.
        shape(1, (100, 6, 5), 16, 5, 1, 2),
        // Vectors, maps smaller than the kernel, padding larger than the kernel, many and few images.
        shape(7, (150, 1, 1), 10, 1, 1, 0),
        shape(2, (3, 1, 1), 4, 3, 1, 1),
        shape(2, (2, 3, 2), 3, 1, 2, 2),
        shape(70, (2, 2, 3), 3, 3, 1, 1),
        shape(1, (2, 23, 22), 40, 3, 1, 1),
        shape(2, (1, 40, 37), 6, 3, 1, 1),
        shape(40, (16, 8, 8), 16, 3, 1, 1),
    ]);
    shapes
}

/// Numbers between -1 and 1.
fn numbers(seed: u64, len: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.
    };
    (0..len).map(|_| next()).collect()
}

struct Case {
    xs: Vec<f64>,
    weight: Vec<f64>,
    grads: Vec<f64>,
}

impl Case {
    fn new(s: &ConvShape) -> Self {
        Self { xs: numbers(1, s.x_len()), weight: numbers(2, s.weight_len()), grads: numbers(4, s.y_len()) }
    }
}

/// Output, input gradient and weight gradient by the definition.
fn naive(s: &ConvShape, case: &Case) -> [Vec<f64>; 3] {
    let mut ys = vec![0.; s.y_len()];
    let (mut dxs, mut dweight) = (vec![0.; s.x_len()], vec![0.; s.weight_len()]);
    for image in 0..s.n {
        for y in 0..s.h_out {
            for x in 0..s.w_out {
                for o in 0..s.c_out {
                    let at = ((image * s.h_out + y) * s.w_out + x) * s.c_out + o;
                    for ky in 0..s.k {
                        for kx in 0..s.k {
                            let row = (y * s.stride + ky).checked_sub(s.padding).filter(|&row| row < s.h);
                            let col = (x * s.stride + kx).checked_sub(s.padding).filter(|&col| col < s.w);
                            let (Some(row), Some(col)) = (row, col) else { continue };
                            for i in 0..s.c_in {
                                let from = ((image * s.h + row) * s.w + col) * s.c_in + i;
                                let by = ((o * s.c_in + i) * s.k + ky) * s.k + kx;
                                ys[at] += case.xs[from] * case.weight[by];
                                dxs[from] += case.grads[at] * case.weight[by];
                                dweight[by] += case.grads[at] * case.xs[from];
                            }
                        }
                    }
                }
            }
        }
    }
    [ys, dxs, dweight]
}

#[track_caller]
fn assert_near(what: &str, s: &ConvShape, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what} of {s:?}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        // The tolerance is for sums of about a thousand products below 1.
        let near = (got - expected).abs() <= tolerance * expected.abs().max(16.);
        assert!(near, "{what} of {s:?}: {got} at {i}, expected {expected}");
    }
}

/// Forward, input and weight gradient. Outputs begin as NaN: all must be written.
fn run<T: Number>(s: &ConvShape, case: &Case, from: fn(f64) -> T, to: fn(T) -> f64) -> [Vec<f64>; 3] {
    let convert = |values: &[f64]| values.iter().map(|&x| from(x)).collect::<Vec<T>>();
    let (xs, weight, grads) = (convert(&case.xs), convert(&case.weight), convert(&case.grads));
    let nan = |len| vec![from(f64::NAN); len];
    let back = |values: Vec<T>| values.into_iter().map(to).collect::<Vec<f64>>();

    let (mut ys, mut dxs, mut dweight) = (nan(s.y_len()), nan(s.x_len()), nan(s.weight_len()));
    forward(s, &xs, &weight, &mut ys);
    grad_input(s, &grads, &weight, &mut dxs);
    grad_weight(s, &xs, &grads, &mut dweight);
    [back(ys), back(dxs), back(dweight)]
}

#[test]
fn kernels_match_the_definition() {
    for s in shapes() {
        let case = Case::new(&s);
        let [ys, dxs, dweight] = naive(&s, &case);
        for (got, tolerance) in
            [(run::<f64>(&s, &case, |x| x, |x| x), 1e-13), (run::<f32>(&s, &case, |x| x as f32, f64::from), 1e-5)]
        {
            assert_near("forward", &s, &got[0], &ys, tolerance);
            assert_near("grad_input", &s, &got[1], &dxs, tolerance);
            assert_near("grad_weight", &s, &got[2], &dweight, tolerance);
        }
    }
}

/// Packed spikes give the bits of their counts; their top bit is nothing to the convolution.
#[test]
fn packed_spikes_are_their_counts() {
    for s in shapes() {
        let case = Case::new(&s);
        let packed: Vec<u8> = case.xs.iter().map(|x| (x * 128.) as i8 as u8).collect();
        let counts: Vec<f32> = packed.iter().map(|&x| f32::from(x % 128)).collect();
        let weight: Vec<f32> = case.weight.iter().map(|&x| x as f32).collect();
        let grads: Vec<f32> = case.grads.iter().map(|&x| x as f32).collect();
        let (mut ys, mut expected) = (vec![f32::NAN; s.y_len()], vec![f32::NAN; s.y_len()]);
        forward(&s, &packed, &weight, &mut ys);
        forward(&s, &counts, &weight, &mut expected);
        assert_eq!(ys, expected, "{s:?}");
        let (mut dweight, mut expected) = (vec![f32::NAN; s.weight_len()], vec![f32::NAN; s.weight_len()]);
        grad_weight(&s, &packed, &grads, &mut dweight);
        grad_weight(&s, &counts, &grads, &mut expected);
        assert_eq!(dweight, expected, "{s:?}");
    }
}

#[test]
fn threads_do_not_change_bits() {
    let pools: Vec<_> = (1..=3)
        .map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("a pool of a few threads"))
        .collect();
    for s in shapes().into_iter().step_by(3) {
        let case = Case::new(&s);
        let results = pools.iter().map(|pool| pool.install(|| run::<f32>(&s, &case, |x| x as f32, f64::from)));
        let results: Vec<_> = results.collect();
        assert!(results.iter().all(|result| *result == results[0]), "{s:?}");
    }
}

#[test]
fn vectors_do_not_change_bits() {
    for s in shapes().into_iter().step_by(3) {
        let case = Case::new(&s);
        let run = || run::<f32>(&s, &case, |x| x as f32, f64::from);
        assert!(narrow::with(run) == run(), "{s:?}");
    }
}
