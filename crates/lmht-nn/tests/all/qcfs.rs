//! The quantized activation: fused against composed, both against Eq. 4 and its straight-through gradient.

use crate::support::*;
use crate::{test_device, test_emulated};
use candle_core::{DType, Device, Result, Tensor, Var};
use lmht_nn::QcfsGate::{AfterFloor, BeforeFloor};
use lmht_nn::ops::{qcfs, qcfs_composed};

const WINDOWS: [lmht_nn::QcfsGate; 2] = [AfterFloor, BeforeFloor];

/// ϑ = 1.25: currents in -3..3 reach far beyond both ends.
fn arguments(shape: &[usize], dtype: DType, device: &Device) -> Result<(Var, Var)> {
    let xs = Var::from_tensor(&(tensor(1, shape, dtype, device)? * 3.)?)?;
    Ok((xs, Var::from_tensor(&Tensor::full(1.25, 1, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?)?))
}

/// Eq. 4 and, with q = a/ϑ and w = 1 in the window, da/dx = w and da/dϑ = q - w x/ϑ, for one value.
fn by_formula(x: f64, scale: f64, quant_levels: u32, window: lmht_nn::QcfsGate) -> (f64, f64, f64) {
    let levels = f64::from(quant_levels);
    let floored = (x / scale * levels + 0.5).floor() / levels;
    let q = floored.clamp(0., 1.);
    let inside = match window {
        AfterFloor => -scale / (2. * levels) <= x && x < scale + scale / (2. * levels),
        BeforeFloor => 0. <= x && x <= scale,
    };
    let w = if inside { 1. } else { 0. };
    (scale * q, w, q - w * x / scale)
}

fn formulas_hold(device: &Device) -> Result<()> {
    for op in [qcfs, qcfs_composed] {
        for window in WINDOWS {
            for quant_levels in [1, 2, 4, 7] {
                for shape in [&[41][..], &[3, 5], &[2, 3, 4], &[2, 3, 4, 5], &[2, 2, 3, 4, 5]] {
                    let (xs, scale) = arguments(shape, precise(device), device)?;
                    let f = |a: &[Tensor]| op(&a[0], &a[1], quant_levels, window);
                    let (ys, grads) = output_and_grads(&[&xs, &scale], &f)?;
                    let what = format!("{window:?}, Q = {quant_levels}, {shape:?}");
                    assert_eq!(ys.dims(), shape);
                    let expected: Vec<_> =
                        values(&xs)?.iter().map(|x| by_formula(*x, 1.25, quant_levels, window)).collect();
                    let a: Vec<f64> = expected.iter().map(|e| e.0).collect();
                    // In f64 to the bit: a straight-through sum that rounds would make levels that are none.
                    let exact = if device.is_metal() { 1e-6 } else { 0. };
                    assert_values(&what, &values(&ys)?, &a, exact);
                    let cotangent = values(&tensor(99, shape, precise(device), device)?)?;
                    let dx: Vec<f64> = expected.iter().zip(&cotangent).map(|(e, c)| e.1 * c).collect();
                    let dscale: f64 = expected.iter().zip(&cotangent).map(|(e, c)| e.2 * c).sum();
                    let tolerance = if device.is_metal() { 1e-4 } else { 1e-12 };
                    assert_values(&format!("{what}: dx"), &values(&grads[0])?, &dx, tolerance);
                    assert_values(&format!("{what}: dscale"), &values(&grads[1])?, &[dscale], tolerance);
                }
            }
        }
    }
    Ok(())
}

test_device!(formulas_hold, formulas_hold_cpu, formulas_hold_cuda, formulas_hold_metal);
test_emulated!(formulas_hold, formulas_hold_emulated);

/// On the ends of steps and windows, in numbers that both types hold exactly, f32 and f64 agree with the formula.
#[test]
fn ties_go_up_in_both_types() -> Result<()> {
    // ϑ = 2, Q = 4: steps of 1/2, ties at odd quarters; the windows end at -1/4, 0, 2 and 9/4.
    let xs: Vec<f64> = (-24..=40).map(|i| f64::from(i) / 8.).collect();
    for dtype in [DType::F32, DType::F64] {
        for window in WINDOWS {
            for op in [qcfs, qcfs_composed] {
                let var = |x: &[f64]| Var::from_tensor(&Tensor::from_slice(x, x.len(), &Device::Cpu)?.to_dtype(dtype)?);
                let (inputs, scale) = (var(&xs)?, var(&[2.])?);
                let ys = op(&inputs, &scale, 4, window)?;
                let grads = ys.sum_all()?.backward()?;
                let expected: Vec<_> = xs.iter().map(|x| by_formula(*x, 2., 4, window)).collect();
                let column = |f: fn(&(f64, f64, f64)) -> f64| expected.iter().map(f).collect::<Vec<f64>>();
                assert_eq!(values(&ys)?, column(|e| e.0), "{dtype:?} {window:?}");
                assert_eq!(gradient(&grads, &inputs)?, column(|e| e.1), "{dtype:?} {window:?}");
                assert_eq!(gradient(&grads, &scale)?, [column(|e| e.2).iter().sum::<f64>()], "{dtype:?} {window:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn strided_inputs_are_read_in_their_order() -> Result<()> {
    let (xs, scale) = arguments(&[4, 5, 3], DType::F64, &Device::Cpu)?;
    for window in WINDOWS {
        let run = |copied: bool| {
            output_and_grads(&[&xs, &scale], &|a| {
                let xs = a[0].transpose(0, 2)?;
                qcfs(&if copied { xs.force_contiguous()? } else { xs }, &a[1], 4, window)
            })
        };
        let ((ys, grads), (expected, expected_grads)) = (run(false)?, run(true)?);
        assert_close("ys", &ys, &expected, 0.)?;
        assert_close("dx", &grads[0], &expected_grads[0], 0.)?;
        assert_close("dscale", &grads[1], &expected_grads[1], 0.)?;
    }
    Ok(())
}

#[test]
fn threads_do_not_change_bits() -> Result<()> {
    let (xs, scale) = arguments(&[5, 7, 41, 43], DType::F32, &Device::Cpu)?;
    for window in WINDOWS {
        check_threads("qcfs", &[&xs, &scale], &|a| qcfs(&a[0], &a[1], 4, window))?;
    }
    Ok(())
}

#[test]
fn only_tracked_arguments_have_gradients() -> Result<()> {
    let (xs, scale) = arguments(&[3, 5], DType::F64, &Device::Cpu)?;
    let f = |a: &[Tensor]| qcfs(&a[0], &a[1], 4, AfterFloor);
    let (_, all) = output_and_grads(&[&xs, &scale], &f)?;
    let (fixed_xs, fixed_scale) = (xs.as_tensor().detach(), scale.as_tensor().detach());
    let (_, of_scale) = output_and_grads(&[&scale], &|a| f(&[fixed_xs.clone(), a[0].clone()]))?;
    let (_, of_xs) = output_and_grads(&[&xs], &|a| f(&[a[0].clone(), fixed_scale.clone()]))?;
    assert_close("dx", &of_xs[0], &all[0], 0.)?;
    assert_close("dscale", &of_scale[0], &all[1], 0.)?;
    let grads = qcfs(&xs, &fixed_scale, 4, AfterFloor)?.sum_all()?.backward()?;
    assert!(grads.get(&fixed_scale).is_none());
    assert!(!qcfs(&fixed_xs, &fixed_scale, 4, AfterFloor)?.track_op());
    Ok(())
}

#[test]
fn errors_say_what_is_wrong() -> Result<()> {
    let ones = |shape: &[usize], dtype| Tensor::ones(shape, dtype, &Device::Cpu);
    let (xs, scale) = (ones(&[2, 3], DType::F32)?, ones(&[1], DType::F32)?);
    for op in [qcfs, qcfs_composed] {
        let fails = |xs: &Tensor, scale: &Tensor, quant_levels, parts: &[&str]| {
            assert_error(op(xs, scale, quant_levels, AfterFloor), &[&["qcfs"], parts].concat());
        };
        fails(&xs, &scale, 0, &["at least 1 quantization level", "0"]);
        fails(&xs, &ones(&[2], DType::F32)?, 4, &["shape [1]", "[2]"]);
        fails(&xs, &ones(&[], DType::F32)?, 4, &["shape [1]", "[]"]);
        fails(&xs, &ones(&[1], DType::F64)?, 4, &["one dtype", "F32", "F64"]);
        fails(&xs.to_dtype(DType::U32)?, &scale.to_dtype(DType::U32)?, 4, &["floating point", "U32"]);
        fails(&ones(&[0, 3], DType::F32)?, &scale, 4, &["xs is empty", "[0, 3]"]);
    }
    Ok(())
}
