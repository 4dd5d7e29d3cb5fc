//! The QCFS activation of the quantized ANN.

use lmht_core::Real;
use lmht_core::qcfs::{QcfsGate, backward, backward_in, forward};
use lmht_core::sum::{BLOCK, ordered_sum};

use crate::{Rng, bits};

const GATES: [QcfsGate; 2] = [QcfsGate::AfterFloor, QcfsGate::BeforeFloor];

/// Eq. 4 as thresholds: a is ϑ/Q for each of (k - 1/2)ϑ/Q, k in 1..=Q, that x has reached. Dyadic, so exact.
#[test]
fn activations_count_shifted_thresholds() {
    for quant_levels in [1, 2, 4, 8, 16] {
        for scale in [0.5, 1.0, 8.0] {
            let xs: Vec<f64> = (-400..1200).map(|k| f64::from(k) * scale / 512.0).collect();
            let mut activations = vec![f64::NAN; xs.len()];
            forward(&xs, scale, quant_levels, &mut activations);
            let step = scale / f64::from(quant_levels);
            for (x, a) in xs.iter().zip(&activations) {
                let count = (1..=quant_levels).filter(|k| *x >= (f64::from(*k) - 0.5) * step).count();
                assert_eq!(*a, count as f64 * step, "x = {x}, ϑ = {scale}, Q = {quant_levels}");
            }
        }
    }
}

/// The formula at one value, in the number type: activation, dLoss/dx, and the share of dLoss/dϑ.
fn formula<R: Real>(gate: QcfsGate, x: R, scale: R, quant_levels: u32, grad: R) -> (R, R, R) {
    let levels = R::from_count(quant_levels);
    let (ratio, floored) = (x / scale, (x / scale * levels + R::HALF).floor() / levels);
    let q = if floored > R::ONE {
        R::ONE
    } else if floored < R::ZERO {
        R::ZERO
    } else {
        floored
    };
    let looked_at = if gate == QcfsGate::AfterFloor { floored } else { ratio };
    if R::ZERO <= looked_at && looked_at <= R::ONE {
        (scale * q, grad, grad * (q - ratio))
    } else {
        (scale * q, R::ZERO, grad * q)
    }
}

fn check_kernel<R: Real>() {
    let mut rng = Rng(5);
    for n in (0..20).chain([BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 9, 100_003]) {
        let (scale, quant_levels) = (R::from_f64(rng.uniform(0.5, 4.0)), [1, 3, 4, 8][n % 4]);
        let (xs, grad_out): (Vec<R>, Vec<R>) = (rng.vec(n, -2.0, 6.0), rng.vec(n, -1.0, 1.0));
        for gate in GATES {
            let all: Vec<_> =
                xs.iter().zip(&grad_out).map(|(x, g)| formula(gate, *x, scale, quant_levels, *g)).collect();
            for threads in [1, 2] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let nan = R::from_f64(f64::NAN);
                let (mut activations, mut grad_xs) = (vec![nan; n], vec![nan; n]);
                let grad_scale = pool.install(|| {
                    forward(&xs, scale, quant_levels, &mut activations);
                    backward_in(gate, &xs, scale, quant_levels, &grad_out, &mut grad_xs)
                });
                assert_eq!(bits(&activations), bits(&all.iter().map(|a| a.0).collect::<Vec<_>>()), "n = {n}");
                assert_eq!(bits(&grad_xs), bits(&all.iter().map(|a| a.1).collect::<Vec<_>>()), "n = {n}");
                assert_eq!(bits(&[grad_scale]), bits(&[ordered_sum(all.iter().map(|a| a.2))]), "n = {n}");
            }
        }
    }
}

/// The vector kernel, with any number of threads, equals the formula taken value by value, to the bit.
#[test]
fn kernel_equals_the_formula() {
    check_kernel::<f32>();
    check_kernel::<f64>();
}

/// Below the floor's reach and above the ceiling the activation itself is smooth in ϑ: 0 and ϑ.
#[test]
fn scale_gradient_equals_finite_differences_of_the_activation_where_it_saturates() {
    const H: f64 = 1e-5;
    for x in [-3.0, -0.3, 2.4, 2.9, 100.0] {
        for gate in GATES {
            let activation = |scale: f64| {
                let mut out = [f64::NAN];
                forward(&[x], scale, 4, &mut out);
                out[0]
            };
            let difference = (activation(2.0 + H) - activation(2.0 - H)) / (2.0 * H);
            let grad_scale = backward_in(gate, &[x], 2.0, 4, &[1.0], &mut [0.0]);
            assert!((grad_scale - difference).abs() < 1e-9, "x = {x}: {grad_scale} against {difference}");
        }
    }
}

/// On the slope, finite differences of the straight-through twin: ϑ (q̄ + x/ϑ - x̄/ϑ̄), with q̄ frozen.
#[test]
fn slope_gradients_equal_finite_differences_of_the_straight_through_twin() {
    const H: f64 = 1e-5;
    for x in [0.05, 0.3, 0.75, 1.1, 1.9] {
        for gate in GATES {
            let (q, grad_x, _) = formula(gate, x, 2.0, 4, 1.0);
            let twin = |x_new: f64, scale: f64| scale * (q / 2.0 + x_new / scale - x / 2.0);
            let mut grad_xs = [f64::NAN];
            let grad_scale = backward_in(gate, &[x], 2.0, 4, &[1.0], &mut grad_xs);
            assert!((grad_scale - (twin(x, 2.0 + H) - twin(x, 2.0 - H)) / (2.0 * H)).abs() < 1e-9, "x = {x}");
            assert!((grad_xs[0] - (twin(x + H, 2.0) - twin(x - H, 2.0)) / (2.0 * H)).abs() < 1e-9, "x = {x}");
            assert_eq!(grad_x, 1.0);
        }
    }
}

/// The ends of both gates, by hand: ϑ = 1, Q = 4, so the floor moves the ends out by 1/8, the upper one open.
#[test]
fn gate_ends() {
    let passes = |gate, x: f64| {
        let mut grad = [f64::NAN];
        backward_in(gate, &[x], 1.0, 4, &[1.0], &mut grad);
        grad[0] == 1.0
    };
    let xs = [-0.1250001, -0.125, -0.001, 0.0, 1.0, 1.001, 1.1249999, 1.125];
    assert_eq!(xs.map(|x| passes(QcfsGate::AfterFloor, x)), [false, true, true, true, true, true, true, false]);
    assert_eq!(xs.map(|x| passes(QcfsGate::BeforeFloor, x)), [false, false, false, true, true, false, false, false]);
    let mut grad = [f64::NAN];
    backward(&[-0.125], 1.0, 4, &[1.0], &mut grad);
    assert_eq!(grad, [1.0], "the default is the gate after the floor");
}

/// NaN must not turn into a plausible activation.
#[test]
fn not_a_number_stays_visible() {
    let mut out = [0.0];
    forward(&[f64::NAN], 1.0, 4, &mut out);
    assert!(out[0].is_nan());
}

#[test]
#[should_panic(expected = "out: expected the 2 values of xs, got 3")]
fn another_length_is_refused() {
    forward(&[0.0; 2], 1.0, 4, &mut [0.0; 3]);
}
