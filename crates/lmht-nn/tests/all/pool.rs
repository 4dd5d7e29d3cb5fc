//! Pooling against loops, finite differences, and ties.

use crate::support::*;
use crate::{test_device, test_emulated};
use candle_core::{DType, Device, Result, Tensor, Var};
use lmht_nn::ops::{Pool2dParams, avg_pool2d, global_avg_pool, max_pool2d};

/// From the pixels of a window, `None` outside of the map, to its value and each pixel's share of the gradient.
type Window = fn(&[Option<f64>]) -> (f64, Vec<f64>);
type Pool = fn(&Tensor, Pool2dParams) -> Result<Tensor>;

/// `[n, c, h, w]`, kernel, stride, padding.
const CASES: &[([usize; 4], usize, usize, usize)] = &[
    ([2, 3, 4, 6], 2, 2, 0),
    ([2, 3, 5, 7], 2, 2, 0),
    ([2, 2, 7, 6], 3, 2, 1),
    ([2, 2, 6, 5], 3, 1, 1),
    ([3, 1, 1, 1], 1, 1, 0),
    ([2, 2, 1, 2], 3, 2, 1),
    ([2, 2, 5, 8], 1, 3, 0),
    ([2, 2, 9, 8], 7, 2, 3),
    ([2, 20, 6, 4], 2, 3, 1),
    // A window larger than half of the map.
    ([2, 2, 19, 20], 17, 2, 8),
];

fn params((_, kernel, stride, padding): ([usize; 4], usize, usize, usize)) -> Pool2dParams {
    Pool2dParams { kernel, stride, padding }
}

/// Values and gradient by the definition.
fn naive([n, c, h, w]: [usize; 4], p: Pool2dParams, xs: &[f64], grads: &[f64], window: Window) -> (Vec<f64>, Vec<f64>) {
    let size = |size: usize| (size + 2 * p.padding - p.kernel) / p.stride + 1;
    let (mut ys, mut dxs) = (vec![], vec![0.; xs.len()]);
    for map in 0..n * c {
        for (y, x) in (0..size(h)).flat_map(|y| (0..size(w)).map(move |x| (y, x))) {
            let pixels: Vec<Option<usize>> = (0..p.kernel * p.kernel)
                .map(|i| {
                    let row = (y * p.stride + i / p.kernel).checked_sub(p.padding).filter(|&row| row < h)?;
                    let col = (x * p.stride + i % p.kernel).checked_sub(p.padding).filter(|&col| col < w)?;
                    Some((map * h + row) * w + col)
                })
                .collect();
            let (value, shares) = window(&pixels.iter().map(|at| at.map(|at| xs[at])).collect::<Vec<_>>());
            for (at, share) in pixels.iter().zip(shares) {
                if let Some(at) = *at {
                    dxs[at] += share * grads[ys.len()];
                }
            }
            ys.push(value);
        }
    }
    (ys, dxs)
}

fn first_max(window: &[Option<f64>]) -> (f64, Vec<f64>) {
    let max = window.iter().flatten().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
    let first = window.iter().position(|&x| x == Some(max)).expect("a pixel inside");
    (max, (0..window.len()).map(|i| f64::from(i == first)).collect())
}

fn mean(window: &[Option<f64>]) -> (f64, Vec<f64>) {
    let area = window.len() as f64;
    (window.iter().flatten().sum::<f64>() / area, vec![1. / area; window.len()])
}

fn check_naive(device: &Device, pools: &[Pool], window: Window) -> Result<()> {
    for pool in pools {
        for &case in CASES {
            // Once with distinct numbers, once with many ties, as spikes have them.
            for levels in [None, Some(2.)] {
                let mut xs = tensor(1, &case.0, precise(device), device)?;
                if let Some(levels) = levels {
                    xs = (xs * levels)?.floor()?;
                }
                let xs = Var::from_tensor(&xs)?;
                let (ys, grads) = output_and_grads(&[&xs], &|a| pool(&a[0], params(case)))?;
                let cotangent = values(&tensor(99, ys.dims(), precise(device), device)?)?;
                let (expected, expected_grad) = naive(case.0, params(case), &values(&xs)?, &cotangent, window);
                assert_values(&format!("{case:?} ys"), &values(&ys)?, &expected, tolerance(device));
                assert_values(&format!("{case:?} dxs"), &values(&grads[0])?, &expected_grad, tolerance(device));
            }
        }
    }
    Ok(())
}

fn max_matches_the_definition(device: &Device) -> Result<()> {
    check_naive(device, &[max_pool2d], first_max)
}

fn avg_matches_the_definition(device: &Device) -> Result<()> {
    check_naive(device, &[avg_pool2d], mean)
}

fn global_avg_matches_the_definition(device: &Device) -> Result<()> {
    {
        let pool = global_avg_pool;
        for shape in [[2, 3, 4, 5], [3, 20, 1, 1], [1, 1, 7, 3]] {
            let xs = var(1, &shape, precise(device), device)?;
            let (ys, grads) = output_and_grads(&[&xs], &|a| pool(&a[0]))?;
            assert_eq!(ys.dims(), &shape[..2]);
            let area = (shape[2] * shape[3]) as f64;
            let expected: Vec<f64> =
                values(&xs)?.chunks(area as usize).map(|map| map.iter().sum::<f64>() / area).collect();
            assert_values("ys", &values(&ys)?, &expected, tolerance(device));
            let cotangent = values(&tensor(99, ys.dims(), precise(device), device)?)?;
            let expected: Vec<f64> =
                cotangent.iter().flat_map(|g| std::iter::repeat_n(g / area, area as usize)).collect();
            assert_values("dxs", &values(&grads[0])?, &expected, tolerance(device));
        }
    }
    Ok(())
}

test_device!(max_matches_the_definition, max_cpu, max_cuda, max_metal);
test_emulated!(max_matches_the_definition, max_emulated);
test_device!(avg_matches_the_definition, avg_cpu, avg_cuda, avg_metal);
test_emulated!(avg_matches_the_definition, avg_emulated);
test_device!(global_avg_matches_the_definition, global_avg_cpu, global_avg_cuda, global_avg_metal);

#[test]
fn gradients_match_finite_differences() -> Result<()> {
    for &case in CASES {
        let xs = var(1, &case.0, DType::F64, &Device::Cpu)?;
        let what = format!("{case:?}");
        check_finite_differences(&what, &[&xs], &|a| max_pool2d(&a[0], params(case)))?;
        check_finite_differences(&what, &[&xs], &|a| avg_pool2d(&a[0], params(case)))?;
        check_finite_differences(&what, &[&xs], &|a| global_avg_pool(&a[0]))?;
    }
    Ok(())
}

/// Candle 0.11.1 hands an all-equal window of 2 x 2 four times its gradient. Once is right, and to the first pixel.
fn ties_give_the_gradient_once(device: &Device) -> Result<()> {
    {
        let xs = Var::from_tensor(&Tensor::ones((1, 1, 4, 4), DType::F32, device)?)?;
        let p = Pool2dParams { kernel: 2, stride: 2, padding: 0 };
        let grads = max_pool2d(&xs, p)?.sum_all()?.backward()?;
        let expected = [1., 0., 1., 0., 0., 0., 0., 0., 1., 0., 1., 0., 0., 0., 0., 0.];
        assert_values("dxs", &values(grads.get(&xs).expect("a gradient"))?, &expected, 0.);
    }
    Ok(())
}

test_device!(ties_give_the_gradient_once, ties_cpu, ties_cuda, ties_metal);
test_emulated!(ties_give_the_gradient_once, ties_emulated);

/// The border is -inf, not 0: negative maps keep their negative maxima at the edges.
#[test]
fn max_pool_border_never_wins() -> Result<()> {
    let xs = Tensor::full(-3f32, (1, 1, 3, 3), &Device::Cpu)?;
    let ys = max_pool2d(&xs, Pool2dParams { kernel: 3, stride: 2, padding: 1 })?;
    assert_values("ys", &values(&ys)?, &[-3.; 4], 0.);
    let infinite = Tensor::full(f32::NEG_INFINITY, (1, 1, 3, 3), &Device::Cpu)?;
    let xs = Var::from_tensor(&infinite)?;
    let ys = max_pool2d(&xs, Pool2dParams { kernel: 3, stride: 3, padding: 0 })?;
    let grads = ys.backward()?;
    let expected = [1., 0., 0., 0., 0., 0., 0., 0., 0.];
    assert_values("dxs", &values(grads.get(&xs).expect("a gradient"))?, &expected, 0.);
    // Nor does it get the gradient of a window whose pixels are all as low: that of the four goes to 0, 1, 3 and 4.
    let ys = max_pool2d(&xs, Pool2dParams { kernel: 3, stride: 2, padding: 1 })?;
    let expected = [1., 1., 0., 1., 1., 0., 0., 0., 0.];
    assert_values("dxs", &values(ys.backward()?.get(&xs).expect("a gradient"))?, &expected, 0.);
    Ok(())
}

/// A diverged network must be seen, not hidden by the comparison with NaN being false.
#[test]
fn nan_is_the_maximum_of_its_window() -> Result<()> {
    for at in 0..4 {
        let mut pixels = vec![1f32, 2., 3., 4.];
        pixels[at] = f32::NAN;
        let xs = Var::from_tensor(&Tensor::from_vec(pixels, (1, 1, 2, 2), &Device::Cpu)?)?;
        let ys = max_pool2d(&xs, Pool2dParams { kernel: 2, stride: 2, padding: 0 })?;
        assert!(values(&ys)?[0].is_nan(), "NaN at {at}");
        let expected: Vec<f64> = (0..4).map(|i| f64::from(i == at)).collect();
        assert_values("dxs", &values(ys.backward()?.get(&xs).expect("a gradient"))?, &expected, 0.);
    }
    Ok(())
}

#[test]
fn f32_is_close_to_f64() -> Result<()> {
    for &case in CASES {
        let run = |dtype, pool: Pool| {
            let xs = Var::from_tensor(&tensor(1, &case.0, DType::F32, &Device::Cpu)?.to_dtype(dtype)?)?;
            output_and_grads(&[&xs], &|a| pool(&a[0], params(case)))
        };
        for pool in [max_pool2d as Pool, avg_pool2d] {
            let ((ys, grads), (ys64, grads64)) = (run(DType::F32, pool)?, run(DType::F64, pool)?);
            assert_close(&format!("{case:?}"), &ys, &ys64, 1e-5)?;
            assert_close(&format!("{case:?}"), &grads[0], &grads64[0], 1e-5)?;
        }
    }
    Ok(())
}

#[test]
fn threads_do_not_change_bits() -> Result<()> {
    for &case in CASES {
        let xs = var(1, &case.0, DType::F32, &Device::Cpu)?;
        check_threads("max", &[&xs], &|a| max_pool2d(&a[0], params(case)))?;
        check_threads("avg", &[&xs], &|a| avg_pool2d(&a[0], params(case)))?;
        check_threads("global", &[&xs], &|a| global_avg_pool(&a[0]))?;
    }
    Ok(())
}

#[test]
fn errors_say_what_is_wrong() -> Result<()> {
    let t = |shape: &[usize]| tensor(1, shape, DType::F32, &Device::Cpu);
    let xs = t(&[2, 3, 4, 5])?;
    for (name, pool) in [("max_pool2d", max_pool2d as Pool), ("avg_pool2d", avg_pool2d)] {
        let run = |xs: &Tensor, kernel, stride, padding| pool(xs, Pool2dParams { kernel, stride, padding });
        assert_error(run(&t(&[3, 4, 5])?, 2, 2, 0), &[name, "[N, C, H, W]", "[3, 4, 5]"]);
        assert_error(run(&xs, 5, 1, 0), &[name, "size 5", "height 4", "[2, 3, 4, 5]"]);
        assert_error(run(&xs, 2, 1, 2), &[name, "half of the kernel", "padding 2"]);
        assert_error(run(&xs, 0, 1, 0), &[name, "at least 1", "kernel 0"]);
        assert_error(run(&xs, 2, 0, 0), &[name, "at least 1", "stride 0"]);
        assert_error(run(&t(&[2, 0, 4, 4])?, 2, 2, 0), &[name, "empty", "[2, 0, 4, 4]"]);
        assert_error(run(&xs.to_dtype(DType::U8)?, 2, 2, 0), &[name, "floating point", "U8"]);
    }
    assert_error(global_avg_pool(&t(&[2, 3])?), &["global_avg_pool", "[N, C, H, W]", "[2, 3]"]);
    Ok(())
}
