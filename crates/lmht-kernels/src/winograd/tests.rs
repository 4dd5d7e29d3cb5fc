//! Against the direct kernels, which have been held against the definition.

use super::*;
use crate::dense;
use crate::number::narrow;

/// Channels that fill vectors and panels and that do not, maps of even and odd size, every padding that there is.
fn shapes() -> Vec<ConvShape> {
    let mut shapes = Vec::new();
    for (i, (c_in, c_out)) in [(1, 1), (3, 16), (16, 10), (17, 20), (30, 33), (64, 64), (130, 20), (20, 140), (300, 16)]
        .into_iter()
        .enumerate()
    {
        for padding in 0..=2 {
            for (n, h, w) in [(1, 4, 4), (3, 5, 8), (2, 7, 3), (9, 3, 4), (1, 12, 100)] {
                // Half of all combinations.
                if (i + padding + n + h) % 2 == 0 {
                    continue;
                }
                let (h_out, w_out) = (h + 2 * padding - 2, w + 2 * padding - 2);
                shapes.push(ConvShape { n, c_in, h, w, c_out, k: 3, stride: 1, padding, groups: 1, h_out, w_out });
            }
        }
    }
    // Every remainder of a size by a tile.
    for (i, (c_in, c_out)) in [(16, 1), (16, 70), (64, 128), (144, 16), (320, 20)].into_iter().enumerate() {
        for (n, h, w) in [(1, 1_usize, 2_usize), (3, 5, 8), (2, 7, 3), (9, 3, 4), (1, 6, 10), (2, 2, 1), (1, 12, 101)] {
            if (i + n + h) % 2 == 0 {
                let (h_out, w_out) = (h.div_ceil(2), w.div_ceil(2));
                shapes.push(ConvShape { n, c_in, h, w, c_out, k: 3, stride: 2, padding: 1, h_out, w_out, groups: 1 });
            }
        }
    }
    shapes
}

/// Numbers between -1 and 1.
fn numbers(seed: u64, len: usize) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.
    };
    (0..len).map(|_| next()).collect()
}

/// Numbers, the same as packed spikes of which the top bit says nothing, weights and output gradients.
struct Case<T> {
    xs: Vec<T>,
    spikes: Vec<u8>,
    weight: Vec<T>,
    grads: Vec<T>,
}

impl<T: Number> Case<T> {
    fn new(s: &ConvShape) -> Self {
        let real = |seed, len| numbers(seed, len).into_iter().map(T::from_f64).collect::<Vec<T>>();
        let spikes = numbers(4, s.x_len()).into_iter().map(|x| (x * 128.) as i8 as u8 & 0x83).collect();
        Self { xs: real(1, s.x_len()), spikes, weight: real(2, s.weight_len()), grads: real(3, s.y_len()) }
    }
}

/// Forward of numbers and of spikes, input gradient, weight gradient of numbers and of spikes; what is not written is NaN.
fn results<T: Number>(s: &ConvShape, case: &Case<T>) -> [Vec<T>; 5] {
    let nan = |len: usize| vec![T::from_f64(f64::NAN); len];
    let [mut ys, mut ys_spikes] = [(); 2].map(|()| nan(s.y_len()));
    let mut dxs = nan(s.x_len());
    let [mut dweight, mut dweight_spikes] = [(); 2].map(|()| nan(s.weight_len()));
    let weights = Weights::new(s, &case.weight);
    forward(s, &case.xs, &weights, &mut ys);
    forward(s, &case.spikes, &weights, &mut ys_spikes);
    grad_input(s, &case.grads, &Weights::flipped(s, &case.weight), &mut dxs);
    grad_weight(s, &case.xs, &case.grads, &mut dweight);
    grad_weight(s, &case.spikes, &case.grads, &mut dweight_spikes);
    [ys, ys_spikes, dxs, dweight, dweight_spikes]
}

fn direct<T: Number>(s: &ConvShape, case: &Case<T>) -> [Vec<T>; 5] {
    let zeros = |len: usize| vec![T::default(); len];
    let [mut ys, mut ys_spikes] = [(); 2].map(|()| zeros(s.y_len()));
    let mut dxs = zeros(s.x_len());
    let [mut dweight, mut dweight_spikes] = [(); 2].map(|()| zeros(s.weight_len()));
    dense::forward(s, &case.xs, &case.weight, &mut ys);
    dense::forward(s, &case.spikes, &case.weight, &mut ys_spikes);
    dense::grad_input(s, &case.grads, &case.weight, &mut dxs);
    dense::grad_weight(s, &case.xs, &case.grads, &mut dweight);
    dense::grad_weight(s, &case.spikes, &case.grads, &mut dweight_spikes);
    [ys, ys_spikes, dxs, dweight, dweight_spikes]
}

fn assert_near<T: Number>(s: &ConvShape, tolerance: f64) {
    assert!(fits(s));
    let case = Case::<T>::new(s);
    let what = ["forward", "forward of spikes", "grad_input", "grad_weight", "grad_weight of spikes"];
    for ((what, got), expected) in what.into_iter().zip(results(s, &case)).zip(direct(s, &case)) {
        assert_eq!(got.len(), expected.len(), "{what} of {s:?}");
        for (i, (got, expected)) in got.into_iter().zip(expected).enumerate() {
            let (got, expected) = (got.to_f64(), expected.to_f64());
            // The tolerance is for sums of some hundred products below 1.
            let near = (got - expected).abs() <= tolerance * expected.abs().max(16.);
            assert!(near, "{what} of {s:?}: {got} at {i}, expected {expected}");
        }
    }
}

#[test]
fn results_are_those_of_the_direct_kernels() {
    for s in shapes() {
        assert_near::<f64>(&s, 1e-13);
        assert_near::<f32>(&s, 2e-5);
    }
}

/// Counts and dyadic weights leave nothing to round.
#[test]
fn sums_of_spikes_are_exact() {
    for s in shapes() {
        let mut case = Case::<f32>::new(&s);
        let dyadic = |x: &mut f32| *x = (*x * 16.).round() / 16.;
        case.weight.iter_mut().for_each(dyadic);
        case.grads.iter_mut().for_each(dyadic);
        let ([_, got, _, _, dweight], [_, expected, _, _, expected_dweight]) = (results(&s, &case), direct(&s, &case));
        assert!(got.iter().any(|&y| y != 0.), "{s:?}: nothing fired");
        assert_eq!(got, expected, "{s:?}");
        assert_eq!(dweight, expected_dweight, "{s:?}");
    }
}

#[test]
fn threads_do_not_change_bits() {
    let pools: Vec<_> = (1..=3)
        .map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("a pool of a few threads"))
        .collect();
    for s in shapes().into_iter().step_by(2) {
        let case = Case::<f32>::new(&s);
        let all: Vec<_> = pools.iter().map(|pool| pool.install(|| results(&s, &case))).collect();
        assert!(all.iter().all(|one| *one == all[0]), "{s:?}");
    }
}

#[test]
fn vectors_do_not_change_bits() {
    for s in shapes().into_iter().step_by(2) {
        let case = Case::<f32>::new(&s);
        assert!(narrow::with(|| results(&s, &case)) == results(&s, &case), "{s:?}");
    }
}
