//! Batch normalisation against the definition, finite differences and large means.

use crate::support::*;
use crate::{test_device, test_emulated};
use candle_core::{DType, Device, Result, Tensor, Var};
use lmht_nn::ops::{BatchStats, batch_norm_eval, batch_norm_train};

const EPS: f64 = 1e-5;
/// Vectors, tokens and maps; fewer and more images than tasks; tails of every length modulo 8 lanes.
const SHAPES: &[&[usize]] = &[&[2, 3], &[7, 5], &[40, 3], &[2, 1, 3], &[3, 4, 2, 5], &[2, 3, 4, 4], &[19, 2, 3, 3]];

fn vars(shape: &[usize], dtype: DType, device: &Device) -> Result<[Var; 3]> {
    let c = &shape[1..2];
    Ok([var(1, shape, dtype, device)?, var(2, c, dtype, device)?, var(3, c, dtype, device)?])
}

fn running(c: usize, dtype: DType, device: &Device) -> Result<(Tensor, Tensor)> {
    Ok((tensor(4, &[c], dtype, device)?, (tensor(5, &[c], dtype, device)?.abs()? + 0.5)?))
}

/// Values of one channel.
fn channel(values: &[f64], shape: &[usize], c: usize) -> Vec<f64> {
    let inner: usize = shape[2..].iter().product();
    values.chunks(inner).skip(c).step_by(shape[1]).flatten().copied().collect()
}

/// (mean, biased variance) by the definition.
fn moments(xs: &[f64]) -> (f64, f64) {
    let n = xs.len() as f64;
    let rough = xs.iter().sum::<f64>() / n;
    // The sum of large numbers has rounded; the sum of what is left over has not.
    let mean = rough + xs.iter().map(|x| x - rough).sum::<f64>() / n;
    (mean, xs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n)
}

fn matches_the_definition(device: &Device) -> Result<()> {
    let dtype = precise(device);
    {
        for &shape in SHAPES {
            let [xs, weight, bias] = vars(shape, dtype, device)?;
            let (ys, BatchStats { mean, var_unbiased }) = batch_norm_train(&xs, &weight, &bias, EPS)?;
            assert_eq!(ys.dims(), shape);
            assert!(!mean.track_op() && !var_unbiased.track_op(), "statistics are detached");
            let (xs, ys) = (values(&xs)?, values(&ys)?);
            let (weight, bias) = (values(&weight)?, values(&bias)?);
            for c in 0..shape[1] {
                let xs = channel(&xs, shape, c);
                let (expected_mean, var) = moments(&xs);
                let n = xs.len() as f64;
                let expected: Vec<f64> =
                    xs.iter().map(|x| (x - expected_mean) / (var + EPS).sqrt() * weight[c] + bias[c]).collect();
                let tolerance = tolerance(device);
                assert_values(&format!("{shape:?} ys"), &channel(&ys, shape, c), &expected, tolerance);
                assert_values("mean", &values(&mean)?[c..=c], &[expected_mean], tolerance);
                assert_values("var", &values(&var_unbiased)?[c..=c], &[var * n / (n - 1.)], tolerance);
            }
        }
    }
    {
        for &shape in SHAPES {
            let [xs, weight, bias] = vars(shape, dtype, device)?;
            let (mean, var) = running(shape[1], dtype, device)?;
            let ys = values(&batch_norm_eval(&xs, &weight, &bias, &mean, &var, EPS)?)?;
            let (xs, weight, bias) = (values(&xs)?, values(&weight)?, values(&bias)?);
            let (mean, var) = (values(&mean)?, values(&var)?);
            for c in 0..shape[1] {
                let line = |x: &f64| (x - mean[c]) / (var[c] + EPS).sqrt() * weight[c] + bias[c];
                let expected: Vec<f64> = channel(&xs, shape, c).iter().map(line).collect();
                assert_values(&format!("{shape:?} eval"), &channel(&ys, shape, c), &expected, tolerance(device));
            }
        }
    }
    Ok(())
}

test_device!(matches_the_definition, definition_cpu, definition_cuda, definition_metal);
test_emulated!(matches_the_definition, definition_emulated);

#[test]
fn gradients_match_finite_differences() -> Result<()> {
    for &shape in SHAPES {
        let vars = vars(shape, DType::F64, &Device::Cpu)?;
        let what = format!("{shape:?}");
        check_finite_differences(&what, &vars.each_ref(), &|a| Ok(batch_norm_train(&a[0], &a[1], &a[2], 0.1)?.0))?;
        let (mean, var) = running(shape[1], DType::F64, &Device::Cpu)?;
        let eval = |a: &[Tensor]| batch_norm_eval(&a[0], &a[1], &a[2], &mean, &var, EPS);
        check_finite_differences(&what, &vars.each_ref(), &eval)?;
    }
    Ok(())
}

/// A mean of 1000 (and of a million) against a standard deviation of 1: sums of squares in f32 would lose all digits.
#[test]
fn large_means_keep_the_variance() -> Result<()> {
    let device = &Device::Cpu;
    let shape = [64, 3, 8, 8];
    for (offset, dtype, tolerance) in [(1e3, DType::F32, 1e-6), (1e6, DType::F64, 1e-9)] {
        let noise = (tensor(1, &shape, DType::F64, device)? * 3f64.sqrt())?;
        let xs = (noise + offset)?.to_dtype(dtype)?;
        let (one, zero) = (Tensor::ones(3, dtype, device)?, Tensor::zeros(3, dtype, device)?);
        let (ys, stats) = batch_norm_train(&xs, &one, &zero, 0.)?;
        let (xs, ys) = (values(&xs)?, values(&ys)?);
        for c in 0..3 {
            let xs = channel(&xs, &shape, c);
            let (mean, var) = moments(&xs);
            let n = xs.len() as f64;
            assert!((var - 1.).abs() < 0.05, "the test's own variance is {var}");
            assert_values("mean", &values(&stats.mean)?[c..=c], &[mean], tolerance);
            assert_values("variance", &values(&stats.var_unbiased)?[c..=c], &[var * n / (n - 1.)], tolerance);
            let expected: Vec<f64> = xs.iter().map(|x| (x - mean) / var.sqrt()).collect();
            assert_values("ys", &channel(&ys, &shape, c), &expected, tolerance);
        }
    }
    Ok(())
}

/// A constant channel has variance 0, not a hair below it, whose root would be NaN.
#[test]
fn constant_channels_are_finite() -> Result<()> {
    let xs = Var::from_tensor(&Tensor::full(0.1f32, (5, 2, 3, 3), &Device::Cpu)?)?;
    let (weight, bias) = (Tensor::ones(2, DType::F32, &Device::Cpu)?, Tensor::full(7f32, 2, &Device::Cpu)?);
    let (ys, stats) = batch_norm_train(&xs, &weight, &bias, EPS)?;
    let grads = ys.sqr()?.sum_all()?.backward()?;
    assert_values("ys", &values(&ys)?, &[7.; 90], 1e-6);
    assert_values("var", &values(&stats.var_unbiased)?, &[0.; 2], 1e-20);
    assert!(values(&stats.var_unbiased)?.iter().all(|&var| var >= 0.));
    let dxs = values(grads.get(&xs).expect("a gradient"))?;
    assert!(dxs.iter().all(|dx| dx.is_finite()), "{dxs:?}");
    Ok(())
}

#[test]
fn f32_is_close_to_f64() -> Result<()> {
    let shape: &[usize] = &[19, 3, 5, 3];
    let run = |dtype| {
        let vars = vars(shape, DType::F32, &Device::Cpu)?;
        let vars: Vec<Var> = vars.iter().map(|v| Var::from_tensor(&v.to_dtype(dtype)?)).collect::<Result<_>>()?;
        let vars: Vec<&Var> = vars.iter().collect();
        output_and_grads(&vars, &|a| Ok(batch_norm_train(&a[0], &a[1], &a[2], EPS)?.0))
    };
    let ((ys, grads), (ys64, grads64)) = (run(DType::F32)?, run(DType::F64)?);
    assert_close("ys", &ys, &ys64, 1e-6)?;
    for (grad, grad64) in grads.iter().zip(&grads64) {
        assert_close("gradient", grad, grad64, 1e-5)?;
    }
    Ok(())
}

#[test]
fn threads_do_not_change_bits() -> Result<()> {
    for &shape in SHAPES {
        let vars = vars(shape, DType::F32, &Device::Cpu)?;
        let train = |a: &[Tensor]| Ok(batch_norm_train(&a[0], &a[1], &a[2], EPS)?.0);
        check_threads(&format!("{shape:?}"), &vars.each_ref(), &train)?;
    }
    Ok(())
}

#[test]
fn untracked_arguments_get_no_gradient() -> Result<()> {
    let vars = vars(&[3, 4, 2, 5], DType::F64, &Device::Cpu)?;
    let (mean, var) = running(4, DType::F64, &Device::Cpu)?;
    let ops: [Op<'_>; 2] = [&|a| Ok(batch_norm_train(&a[0], &a[1], &a[2], EPS)?.0), &|a| {
        batch_norm_eval(&a[0], &a[1], &a[2], &mean, &var, EPS)
    }];
    for op in ops {
        for tracked in 0..3 {
            let args: Vec<Tensor> = (0..3)
                .map(|i| if i == tracked { vars[i].as_tensor().clone() } else { vars[i].as_tensor().detach() })
                .collect();
            let grads = op(&args)?.sqr()?.sum_all()?.backward()?;
            for (i, arg) in args.iter().enumerate() {
                assert_eq!(grads.get(arg).is_some(), i == tracked, "argument {i} when {tracked} is tracked");
            }
        }
    }
    Ok(())
}

#[test]
fn errors_say_what_is_wrong() -> Result<()> {
    let t = |shape: &[usize]| tensor(1, shape, DType::F32, &Device::Cpu);
    let (xs, c) = (t(&[2, 3, 4])?, t(&[3])?);
    let train = |xs: &Tensor, weight: &Tensor, bias: &Tensor, eps| batch_norm_train(xs, weight, bias, eps);
    assert_error(train(&c, &c, &c, EPS), &["batch_norm_train", "[N, C, ...]", "xs [3]"]);
    assert_error(train(&xs, &t(&[4])?, &c, EPS), &["weight of shape [3]", "weight [4]", "xs [2, 3, 4]"]);
    assert_error(train(&xs, &c, &t(&[1, 3])?, EPS), &["bias of shape [3]", "bias [1, 3]"]);
    assert_error(train(&xs, &c, &c, -1.), &["eps >= 0", "-1"]);
    assert_error(train(&xs, &c, &c, f64::NAN), &["eps >= 0", "NaN"]);
    assert_error(train(&t(&[1, 3, 1, 1])?, &c, &c, EPS), &["two values per channel", "[1, 3, 1, 1]", "eval"]);
    assert_error(train(&t(&[2, 3, 0])?, &c, &c, EPS), &["batch_norm_train"]);
    assert_error(train(&xs, &c.to_dtype(DType::F64)?, &c, EPS), &["one dtype", "F64"]);
    assert_error(batch_norm_eval(&xs, &c, &c, &t(&[2])?, &c, EPS), &["batch_norm_eval", "running_mean [2]"]);
    Ok(())
}
