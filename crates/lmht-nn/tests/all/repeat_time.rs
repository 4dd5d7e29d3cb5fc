//! Repeating over time: forward copies, backward sums.

use crate::support::*;
use crate::test_device;
use candle_core::{DType, Device, Result, Tensor};
use lmht_nn::ops::repeat_time;

fn copies_and_sums(device: &Device) -> Result<()> {
    {
        // The last crosses the border of a task.
        for shape in [&[3][..], &[2, 3, 4], &[5, 3, 40, 41]] {
            for timesteps in [1, 2, 5] {
                let xs = var(1, shape, precise(device), device)?;
                let (ys, grads) = output_and_grads(&[&xs], &|a| repeat_time(&a[0], timesteps))?;
                assert_eq!(ys.dims(), [&[timesteps], shape].concat());
                assert_values("ys", &values(&ys)?, &values(&xs)?.repeat(timesteps), 0.);
                let cotangent = values(&tensor(99, ys.dims(), precise(device), device)?)?;
                let n = xs.elem_count();
                let expected: Vec<f64> = (0..n).map(|i| cotangent[i..].iter().step_by(n).sum()).collect();
                assert_values("dxs", &values(&grads[0])?, &expected, tolerance(device));
            }
        }
    }
    Ok(())
}

test_device!(copies_and_sums, copies_and_sums_cpu, copies_and_sums_cuda, copies_and_sums_metal);

#[test]
fn gradients_match_finite_differences() -> Result<()> {
    let xs = var(1, &[2, 3], DType::F64, &Device::Cpu)?;
    check_finite_differences("repeat_time", &[&xs], &|a| repeat_time(&a[0], 3))
}

#[test]
fn threads_do_not_change_bits() -> Result<()> {
    let xs = var(1, &[5, 3, 40, 41], DType::F32, &Device::Cpu)?;
    check_threads("repeat_time", &[&xs], &|a| repeat_time(&a[0], 4))
}

#[test]
fn errors_say_what_is_wrong() -> Result<()> {
    let xs = tensor(1, &[2, 3], DType::F32, &Device::Cpu)?;
    assert_error(repeat_time(&xs, 0), &["repeat_time", "at least one timestep", "[2, 3]"]);
    assert_error(repeat_time(&xs.to_dtype(DType::U32)?, 2), &["repeat_time", "floating point", "U32"]);
    assert_error(repeat_time(&Tensor::zeros((0, 2), DType::F32, &Device::Cpu)?, 2), &["repeat_time", "empty"]);
    Ok(())
}
