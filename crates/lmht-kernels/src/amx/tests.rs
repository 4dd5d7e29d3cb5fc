//! Against the direct kernels in f64, on the unit where there is one and emulated everywhere.

use super::*;
use crate::dense;

/// Kernels, strides and paddings; maps with an odd number of columns; images that fill tiles and that do not.
fn shapes() -> Vec<ConvShape> {
    let mut shapes = Vec::new();
    for (k, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), (3, 1, 0), (2, 2, 0), (5, 3, 2)] {
        for (n, c_in, c_out, h, w) in
            [(1, 32, 32, 4, 3), (16, 32, 32, 5, 6), (25, 64, 32, 4, 5), (64, 32, 96, 5, 5), (96, 32, 32, 12, 9)]
        {
            let size = |size: usize| (size + 2 * padding - k) / stride + 1;
            shapes.push(ConvShape {
                n,
                c_in,
                h,
                w,
                c_out,
                k,
                stride,
                padding,
                groups: 1,
                h_out: size(h),
                w_out: size(w),
            });
        }
    }
    // More rows than a task takes.
    shapes.push(ConvShape {
        n: 16,
        c_in: 32,
        h: 20,
        w: 20,
        c_out: 64,
        k: 3,
        stride: 1,
        padding: 1,
        h_out: 20,
        w_out: 20,
        groups: 1,
    });
    shapes
}

fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.
    };
    (0..len).map(|_| next()).collect()
}

fn wide(xs: &[f32]) -> Vec<f64> {
    xs.iter().map(|&x| f64::from(x)).collect()
}

/// The largest error is not many times that of the direct kernel in f32; where there is one.
fn assert_near(what: &str, s: &ConvShape, got: &[f32], direct: &[f32], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    let error = |xs: &[f32]| {
        let errors = xs.iter().zip(expected).map(|(&x, expected)| (f64::from(x) - expected).abs());
        errors.fold(0., |most: f64, error| if error <= most { most } else { error })
    };
    let (got, direct) = (error(got), error(direct));
    assert!(got <= 4. * direct, "{what} {s:?}: an error of {got}, {direct} by the direct kernel");
}

fn check(unit: Unit, s: &ConvShape) {
    let spikes: Vec<u8> = numbers(4, s.x_len()).iter().map(|x| (x * 128.) as i8 as u8 & 0x83).collect();
    let (weight, grads) = (numbers(2, s.weight_len()), numbers(3, s.y_len()));
    let nan = |len| (vec![f32::NAN; len], vec![f32::NAN; len], vec![f64::NAN; len]);

    let (mut ys, mut direct, mut expected) = nan(s.y_len());
    forward(unit, s, &spikes, &Weights::new(s, &weight), &mut ys);
    dense::forward(s, &spikes, &weight, &mut direct);
    dense::forward(s, &spikes, &wide(&weight), &mut expected);
    assert_near("forward", s, &ys, &direct, &expected);

    let (mut dweight, mut direct, mut expected) = nan(s.weight_len());
    grad_weight(unit, s, &spikes, &grads, &mut dweight);
    dense::grad_weight(s, &spikes, &grads, &mut direct);
    dense::grad_weight(s, &spikes, &wide(&grads), &mut expected);
    assert_near("grad_weight", s, &dweight, &direct, &expected);
}

#[test]
fn results_are_those_of_the_direct_kernels() {
    for s in shapes() {
        check(Unit::emulated(), &s);
        if let Some(unit) = Unit::get() {
            check(unit, &s);
        }
    }
}

/// Counts and dyadic weights leave nothing to round, whoever adds them up.
#[test]
fn sums_of_spikes_are_exact() {
    for s in &shapes() {
        let spikes: Vec<u8> = numbers(4, s.x_len()).iter().map(|x| (x * 128.) as i8 as u8 & 0x87).collect();
        let weight: Vec<f32> = numbers(2, s.weight_len()).iter().map(|x| (x * 4096.).round() / 4096.).collect();
        let mut expected = vec![0.; s.y_len()];
        dense::forward(s, &spikes, &weight, &mut expected);
        for unit in [Some(Unit::emulated()), Unit::get()].into_iter().flatten() {
            let mut ys = vec![f32::NAN; s.y_len()];
            forward(unit, s, &spikes, &Weights::new(s, &weight), &mut ys);
            assert_eq!(ys, expected, "{s:?}");
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let s = ConvShape {
        n: 64,
        c_in: 32,
        h: 9,
        w: 9,
        c_out: 64,
        k: 3,
        stride: 1,
        padding: 1,
        h_out: 9,
        w_out: 9,
        groups: 1,
    };
    let unit = Unit::get().unwrap_or(Unit::emulated());
    let spikes: Vec<u8> = numbers(4, s.x_len()).iter().map(|x| (x * 128.) as i8 as u8 & 0x83).collect();
    let (weight, grads) = (numbers(2, s.weight_len()), numbers(3, s.y_len()));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| {
            let (mut ys, mut dweight) = (vec![0.; s.y_len()], vec![0.; s.weight_len()]);
            forward(unit, &s, &spikes, &Weights::new(&s, &weight), &mut ys);
            grad_weight(unit, &s, &spikes, &grads, &mut dweight);
            [ys, dweight]
        })
    };
    assert_eq!(run(1), run(5));
}
