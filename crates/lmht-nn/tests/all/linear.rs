//! The linear layer against loops and finite differences.

use crate::support::*;
use crate::test_device;
use candle_core::{DType, Device, Result, Tensor};
use lmht_nn::ops::linear;

const SHAPES: &[&[usize]] = &[&[3], &[2, 3], &[4, 2, 3], &[2, 3, 2, 5], &[1, 1]];
const F_OUT: usize = 4;

fn matches_the_definition(device: &Device) -> Result<()> {
    for &shape in SHAPES {
        let f_in = shape[shape.len() - 1];
        let xs = var(1, shape, precise(device), device)?;
        let weight = var(2, &[F_OUT, f_in], precise(device), device)?;
        let bias = var(3, &[F_OUT], precise(device), device)?;
        let (ys, grads) = output_and_grads(&[&xs, &weight, &bias], &|a| linear(&a[0], &a[1], Some(&a[2])))?;
        assert_eq!(ys.dims(), [&shape[..shape.len() - 1], &[F_OUT]].concat());
        let cotangent = values(&tensor(99, ys.dims(), precise(device), device)?)?;
        let (x, w, b) = (values(&xs)?, values(&weight)?, values(&bias)?);
        let mut expected = vec![];
        let (mut dx, mut dw, mut db) = (vec![0.; x.len()], vec![0.; w.len()], vec![0.; F_OUT]);
        for (row, x) in x.chunks(f_in).enumerate() {
            for o in 0..F_OUT {
                let g = cotangent[row * F_OUT + o];
                expected.push(b[o] + (0..f_in).map(|i| w[o * f_in + i] * x[i]).sum::<f64>());
                db[o] += g;
                for i in 0..f_in {
                    dx[row * f_in + i] += g * w[o * f_in + i];
                    dw[o * f_in + i] += g * x[i];
                }
            }
        }
        assert_values("ys", &values(&ys)?, &expected, tolerance(device));
        for (got, expected) in grads.iter().zip([dx, dw, db]) {
            assert_values(&format!("{shape:?} gradient"), &values(got)?, &expected, tolerance(device));
        }
        let without = linear(&xs, &weight, None)?;
        assert_close("without bias", &without.broadcast_add(&bias)?, &ys, tolerance(device))?;
    }
    Ok(())
}

test_device!(matches_the_definition, definition_cpu, definition_cuda, definition_metal);

#[test]
fn gradients_match_finite_differences() -> Result<()> {
    for &shape in SHAPES {
        let f_in = shape[shape.len() - 1];
        let xs = var(1, shape, DType::F64, &Device::Cpu)?;
        let weight = var(2, &[F_OUT, f_in], DType::F64, &Device::Cpu)?;
        let bias = var(3, &[F_OUT], DType::F64, &Device::Cpu)?;
        let with_bias = |a: &[Tensor]| linear(&a[0], &a[1], Some(&a[2]));
        check_finite_differences(&format!("{shape:?}"), &[&xs, &weight, &bias], &with_bias)?;
        check_finite_differences(&format!("{shape:?}"), &[&xs, &weight], &|a| linear(&a[0], &a[1], None))?;
    }
    Ok(())
}

/// One variable as input and weight: both gradients arrive.
#[test]
fn a_shared_argument_gets_both_gradients() -> Result<()> {
    let both = var(1, &[3, 3], DType::F64, &Device::Cpu)?;
    check_finite_differences("shared", &[&both], &|a| linear(&a[0], &a[0], None))
}

#[test]
fn f32_is_close_to_f64_for_every_number_of_threads() -> Result<()> {
    let (xs, weight) = (var(1, &[40, 3, 33], DType::F32, &Device::Cpu)?, var(2, &[50, 33], DType::F32, &Device::Cpu)?);
    check_threads("linear", &[&xs, &weight], &|a| linear(&a[0], &a[1], None))?;
    let ys64 = linear(&xs.to_dtype(DType::F64)?, &weight.to_dtype(DType::F64)?, None)?;
    assert_close("ys", &linear(&xs, &weight, None)?, &ys64, 1e-5)
}

#[test]
fn untracked_arguments_get_no_gradient() -> Result<()> {
    let vars = [
        var(1, &[2, 5, 3], DType::F64, &Device::Cpu)?,
        var(2, &[4, 3], DType::F64, &Device::Cpu)?,
        var(3, &[4], DType::F64, &Device::Cpu)?,
    ];
    for tracked in 0..3 {
        let args: Vec<Tensor> = (0..3)
            .map(|i| if i == tracked { vars[i].as_tensor().clone() } else { vars[i].as_tensor().detach() })
            .collect();
        let grads = linear(&args[0], &args[1], Some(&args[2]))?.sum_all()?.backward()?;
        for (i, arg) in args.iter().enumerate() {
            assert_eq!(grads.get(arg).is_some(), i == tracked, "argument {i} when {tracked} is tracked");
        }
    }
    Ok(())
}

#[test]
fn errors_say_what_is_wrong() -> Result<()> {
    let t = |shape: &[usize]| tensor(1, shape, DType::F32, &Device::Cpu);
    let (xs, weight) = (t(&[2, 3])?, t(&[4, 3])?);
    assert_error(linear(&xs, &t(&[4])?, None), &["linear", "[F_out, F_in]", "weight [4]"]);
    assert_error(linear(&t(&[])?, &weight, None), &["linear", "xs []"]);
    assert_error(linear(&xs, &t(&[4, 5])?, None), &["3 features", "weight wants 5", "xs [2, 3]"]);
    assert_error(linear(&xs, &weight, Some(&t(&[3])?)), &["bias of shape [4]", "bias [3]"]);
    assert_error(linear(&t(&[0, 3])?, &weight, None), &["xs is empty", "[0, 3]"]);
    assert_error(linear(&xs, &weight.to_dtype(DType::F64)?, None), &["one dtype", "to_dtype"]);
    Ok(())
}
