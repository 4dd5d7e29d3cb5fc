//! Convolution against loops, finite differences, other thread counts and `f32`.

use crate::support::*;
use crate::{test_device, test_emulated};
use candle_core::{DType, Device, Result, Tensor, Var};
use lmht_nn::ops::{Conv2dParams, conv2d};

/// `[n, c_in, h, w]`, `[c_out, k]`, stride, padding.
struct Case {
    xs: [usize; 4],
    c_out: usize,
    k: usize,
    stride: usize,
    padding: usize,
    groups: usize,
}

const fn case(xs: [usize; 4], c_out: usize, k: usize, stride: usize, padding: usize) -> Case {
    Case { xs, c_out, k, stride, padding, groups: 1 }
}

/// Several images everywhere, different channels, height not width; sizes on both sides of the kernel's blocks: 16 input
/// channels, 8 and 16 output channels, tiles of 6 positions, passes of 240 positions, groups of images.
const CASES: &[Case] = &[
    case([2, 3, 5, 4], 2, 1, 1, 0),
    case([2, 3, 5, 4], 4, 1, 2, 0),
    case([2, 2, 5, 6], 3, 1, 1, 1),
    case([3, 2, 1, 1], 5, 1, 1, 0),
    case([2, 3, 1, 1], 4, 3, 1, 1),
    case([2, 3, 5, 7], 4, 3, 1, 0),
    case([2, 3, 5, 7], 4, 3, 1, 1),
    case([2, 4, 7, 6], 3, 3, 2, 1),
    // Height and width leave different remainders of the stride.
    case([3, 2, 8, 5], 3, 3, 2, 0),
    case([2, 2, 6, 7], 3, 3, 3, 1),
    // Stride larger than the kernel: some inputs are in no window.
    case([2, 2, 7, 8], 3, 1, 3, 0),
    case([2, 2, 8, 9], 3, 2, 3, 1),
    case([2, 1, 9, 8], 3, 7, 1, 3),
    case([2, 3, 11, 9], 2, 7, 2, 3),
    case([2, 2, 8, 9], 3, 7, 1, 0),
    // Padding larger than the kernel.
    case([2, 2, 3, 2], 3, 1, 2, 2),
    case([2, 17, 4, 5], 18, 3, 1, 1),
    case([2, 33, 3, 4], 7, 3, 2, 1),
    case([5, 5, 2, 2], 9, 3, 1, 1),
    case([70, 2, 2, 3], 3, 3, 1, 1),
    case([2, 2, 17, 19], 17, 3, 1, 1),
    case([1, 2, 23, 22], 40, 3, 1, 1),
    case([13, 4, 7, 7], 5, 3, 1, 1),
    case([3, 70, 2, 1], 35, 3, 1, 1),
    // Groups; the second is depthwise, the third with two outputs for each channel.
    Case { groups: 2, ..case([2, 4, 5, 6], 6, 3, 1, 1) },
    Case { groups: 3, ..case([2, 3, 6, 5], 3, 3, 2, 1) },
    Case { groups: 4, ..case([2, 4, 5, 5], 8, 3, 1, 1) },
];

impl Case {
    fn params(&self) -> Conv2dParams {
        Conv2dParams { stride: self.stride, padding: self.padding, groups: self.groups }
    }

    fn vars(&self, dtype: DType, device: &Device) -> Result<[Var; 3]> {
        let c_in = self.xs[1];
        Ok([
            var(1, &self.xs, dtype, device)?,
            var(2, &[self.c_out, c_in / self.groups, self.k, self.k], dtype, device)?,
            var(3, &[self.c_out], dtype, device)?,
        ])
    }

    fn describe(&self) -> String {
        let Case { xs, c_out, k, stride, padding, groups } = self;
        format!("xs {xs:?} to {c_out}, k {k}, stride {stride}, padding {padding}, groups {groups}")
    }
}

/// Output and, for the cotangent `grads`, all gradients, by the definition.
fn naive(case: &Case, xs: &[f64], weight: &[f64], bias: &[f64], grads: &[f64]) -> [Vec<f64>; 4] {
    let [n, c_in, h, w] = case.xs;
    let Case { c_out, k, stride, padding, groups, .. } = *case;
    let (in_group, out_group) = (c_in / groups, c_out / groups);
    let (h_out, w_out) = ((h + 2 * padding - k) / stride + 1, (w + 2 * padding - k) / stride + 1);
    let mut ys = vec![0.; n * c_out * h_out * w_out];
    let (mut dxs, mut dweight, mut dbias) = (vec![0.; xs.len()], vec![0.; weight.len()], vec![0.; c_out]);
    for image in 0..n {
        for o in 0..c_out {
            for y in 0..h_out {
                for x in 0..w_out {
                    let at = ((image * c_out + o) * h_out + y) * w_out + x;
                    ys[at] = bias[o];
                    dbias[o] += grads[at];
                    for i in 0..in_group {
                        for ky in 0..k {
                            for kx in 0..k {
                                let row = (y * stride + ky).checked_sub(padding).filter(|&row| row < h);
                                let col = (x * stride + kx).checked_sub(padding).filter(|&col| col < w);
                                let (Some(row), Some(col)) = (row, col) else { continue };
                                let channel = o / out_group * in_group + i;
                                let from = ((image * c_in + channel) * h + row) * w + col;
                                let by = ((o * in_group + i) * k + ky) * k + kx;
                                ys[at] += xs[from] * weight[by];
                                dxs[from] += grads[at] * weight[by];
                                dweight[by] += grads[at] * xs[from];
                            }
                        }
                    }
                }
            }
        }
    }
    [ys, dxs, dweight, dbias]
}

type Conv = fn(&Tensor, &Tensor, Option<&Tensor>, Conv2dParams) -> Result<Tensor>;

fn check_naive(device: &Device, conv: Conv) -> Result<()> {
    for case in CASES {
        let what = case.describe();
        let vars = case.vars(precise(device), device)?;
        let (ys, grads) = output_and_grads(&vars.each_ref(), &|a| conv(&a[0], &a[1], Some(&a[2]), case.params()))?;
        let cotangent = tensor(99, ys.dims(), precise(device), device)?;
        let arg = |i: usize| values(&vars[i]);
        let expected = naive(case, &arg(0)?, &arg(1)?, &arg(2)?, &values(&cotangent)?);
        let got = [&ys, &grads[0], &grads[1], &grads[2]];
        for ((name, got), expected) in ["ys", "dxs", "dweight", "dbias"].into_iter().zip(got).zip(&expected) {
            assert_values(&format!("{what}: {name}"), &values(got)?, expected, tolerance(device));
        }
        // Without bias the rest is the same.
        let (no_bias, grads_no_bias) =
            output_and_grads(&[&vars[0], &vars[1]], &|a| conv(&a[0], &a[1], None, case.params()))?;
        let bias = vars[2].reshape((1, case.c_out, 1, 1))?;
        assert_close(&what, &no_bias.broadcast_add(&bias)?, &ys, tolerance(device))?;
        assert_close(&what, &grads_no_bias[0], &grads[0], tolerance(device))?;
        assert_close(&what, &grads_no_bias[1], &grads[1], tolerance(device))?;
    }
    Ok(())
}

fn matches_the_definition(device: &Device) -> Result<()> {
    check_naive(device, conv2d)
}

test_device!(matches_the_definition, definition_cpu, definition_cuda, definition_metal);
test_emulated!(matches_the_definition, definition_emulated);

#[test]
fn gradients_match_finite_differences() -> Result<()> {
    for case in &CASES[..16] {
        let vars = case.vars(DType::F64, &Device::Cpu)?;
        let conv = |a: &[Tensor]| conv2d(&a[0], &a[1], Some(&a[2]), case.params());
        check_finite_differences(&case.describe(), &vars.each_ref(), &conv)?;
    }
    Ok(())
}

#[test]
fn f32_is_close_to_f64() -> Result<()> {
    for case in CASES {
        let run = |dtype| {
            let vars = case.vars(DType::F32, &Device::Cpu)?;
            let vars: Vec<Var> = vars.iter().map(|v| Var::from_tensor(&v.to_dtype(dtype)?)).collect::<Result<_>>()?;
            let vars: Vec<&Var> = vars.iter().collect();
            output_and_grads(&vars, &|a| conv2d(&a[0], &a[1], Some(&a[2]), case.params()))
        };
        let ((ys, grads), (ys64, grads64)) = (run(DType::F32)?, run(DType::F64)?);
        // The cotangent of the f32 run is rounded, too.
        assert_close(&case.describe(), &ys, &ys64, 1e-5)?;
        for (grad, grad64) in grads.iter().zip(&grads64) {
            assert_close(&case.describe(), grad, grad64, 1e-4)?;
        }
    }
    Ok(())
}

#[test]
fn threads_do_not_change_bits() -> Result<()> {
    for case in CASES {
        let vars = case.vars(DType::F32, &Device::Cpu)?;
        let conv = |a: &[Tensor]| conv2d(&a[0], &a[1], Some(&a[2]), case.params());
        check_threads(&case.describe(), &vars.each_ref(), &conv)?;
    }
    Ok(())
}

/// The network's input images are no variables: nobody wants their gradient, and it is the most expensive one.
fn untracked_arguments_get_no_gradient(device: &Device) -> Result<()> {
    let case = &CASES[7];
    let vars = case.vars(precise(device), device)?;
    {
        for tracked in 0..3 {
            let args: Vec<Tensor> = (0..3)
                .map(|i| if i == tracked { vars[i].as_tensor().clone() } else { vars[i].as_tensor().detach() })
                .collect();
            let grads = conv2d(&args[0], &args[1], Some(&args[2]), case.params())?.sum_all()?.backward()?;
            for (i, arg) in args.iter().enumerate() {
                assert_eq!(grads.get(arg).is_some(), i == tracked, "argument {i} when {tracked} is tracked");
            }
        }
    }
    Ok(())
}

test_device!(untracked_arguments_get_no_gradient, untracked_cpu, untracked_cuda, untracked_metal);

/// Views with strides and offsets, as `narrow` and `transpose` make them.
#[test]
fn strided_operands() -> Result<()> {
    let device = &Device::Cpu;
    let xs = tensor(1, &[6, 3, 5, 4], DType::F64, device)?;
    let weight = tensor(2, &[4, 3, 3, 3], DType::F64, device)?;
    let (xs_view, weight_view) = (xs.narrow(0, 2, 3)?.transpose(2, 3)?, weight.transpose(2, 3)?);
    let p = Conv2dParams { stride: 1, padding: 1, groups: 1 };
    let ys = conv2d(&xs_view, &weight_view, None, p)?;
    let expected = conv2d(&xs.narrow(0, 2, 3)?.copy()?, &weight, None, p)?.transpose(2, 3)?;
    assert_close("transposed", &ys, &expected, 1e-12)
}

#[test]
fn errors_say_what_is_wrong() -> Result<()> {
    let device = &Device::Cpu;
    let t = |shape: &[usize]| tensor(1, shape, DType::F32, device);
    let p = Conv2dParams::default();
    let xs = t(&[2, 3, 4, 5])?;
    let conv = |xs: &Tensor, weight: &[usize], p| conv2d(xs, &t(weight)?, None, p);
    assert_error(conv(&t(&[3, 4, 5])?, &[2, 3, 1, 1], p), &["conv2d", "[N, C_in, H, W]", "xs [3, 4, 5]"]);
    assert_error(conv(&xs, &[2, 3, 1], p), &["conv2d", "weight [2, 3, 1]"]);
    assert_error(conv(&xs, &[2, 3, 1, 3], p), &["conv2d", "square", "weight [2, 3, 1, 3]"]);
    assert_error(conv(&xs, &[2, 4, 3, 3], p), &["conv2d", "3 channels", "weight wants 4", "xs [2, 3, 4, 5]"]);
    assert_error(conv(&xs, &[2, 3, 5, 5], p), &["conv2d", "size 5", "height 4", "padding", "xs [2, 3, 4, 5]"]);
    let no_stride = Conv2dParams { stride: 0, padding: 0, groups: 1 };
    assert_error(conv(&xs, &[2, 3, 3, 3], no_stride), &["conv2d", "stride 0", "xs [2, 3, 4, 5]"]);
    assert_error(conv(&xs, &[2, 3, 0, 0], p), &["conv2d", "weight is empty", "[2, 3, 0, 0]"]);
    let huge = Conv2dParams { stride: 1, padding: usize::MAX, groups: 1 };
    assert_error(conv(&xs, &[2, 3, 3, 3], huge), &["conv2d", "padding", "too large"]);
    let weight = t(&[2, 3, 3, 3])?;
    assert_error(conv2d(&xs, &weight, Some(&t(&[3])?), p), &["conv2d", "bias of shape [2]", "bias [3]"]);
    let weight64 = weight.to_dtype(DType::F64)?;
    assert_error(conv2d(&xs, &weight64, None, p), &["conv2d", "one dtype", "F32", "F64", "to_dtype"]);
    let integers = (xs.to_dtype(DType::U32)?, weight.to_dtype(DType::U32)?);
    assert_error(conv2d(&integers.0, &integers.1, None, p), &["conv2d", "floating point", "U32"]);
    Ok(())
}
