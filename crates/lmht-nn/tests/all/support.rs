//! What the tests of operations share: devices, seeded numbers, finite differences, comparisons.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, Var};

/// Runs one test body on every device: the CPU now, a GPU where its feature is on and the machine has one.
#[macro_export]
macro_rules! test_device {
    ($body:path, $cpu:ident, $cuda:ident, $metal:ident) => {
        #[test]
        fn $cpu() -> candle_core::Result<()> {
            $body(&candle_core::Device::Cpu)
        }

        #[cfg(feature = "cuda")]
        #[test]
        fn $cuda() -> candle_core::Result<()> {
            match candle_core::Device::new_cuda(0) {
                Ok(device) => $body(&device),
                Err(e) => {
                    println!("skipped {}: no CUDA device ({e})", stringify!($cuda));
                    Ok(())
                }
            }
        }

        #[cfg(feature = "metal")]
        #[test]
        fn $metal() -> candle_core::Result<()> {
            match candle_core::Device::new_metal(0) {
                Ok(device) => $body(&device),
                Err(e) => {
                    println!("skipped {}: no Metal device ({e})", stringify!($metal));
                    Ok(())
                }
            }
        }
    };
}

/// Runs a test body with the GPU's kernels on CPU tensors; skips, and says so, without a C++ compiler.
#[macro_export]
macro_rules! test_emulated {
    ($body:path, $name:ident) => {
        #[test]
        fn $name() -> candle_core::Result<()> {
            lmht_nn::gpu::emulated(|| $body(&candle_core::Device::Cpu)).unwrap_or_else(|| {
                println!("skipped {}: no C++ compiler to run kernels with", stringify!($name));
                Ok(())
            })
        }
    };
}

/// The number type that a device has: Metal knows no `f64`.
pub(crate) fn precise(device: &Device) -> DType {
    if device.is_metal() { DType::F32 } else { DType::F64 }
}

/// Numbers in -1..1 from a seed (a 64-bit linear congruential generator, Knuth's constants).
pub(crate) fn numbers(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x0123_4567_89AB_CDEF;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.
    };
    // The first numbers of neighbouring seeds are alike.
    (0..8).for_each(|_| _ = next());
    (0..n).map(|_| next()).collect()
}

pub(crate) fn tensor(seed: u64, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    Tensor::from_vec(numbers(seed, shape.iter().product()), shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}

pub(crate) fn var(seed: u64, shape: &[usize], dtype: DType, device: &Device) -> Result<Var> {
    Var::from_tensor(&tensor(seed, shape, dtype, device)?)
}

pub(crate) fn values(t: &Tensor) -> Result<Vec<f64>> {
    t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// Fails unless shapes are equal and every number is within `tolerance` of the other, relative to 1 or its size.
#[track_caller]
pub(crate) fn assert_close(what: &str, got: &Tensor, expected: &Tensor, tolerance: f64) -> Result<()> {
    assert_eq!(got.dims(), expected.dims(), "{what}: shapes");
    assert_values(what, &values(got)?, &values(expected)?, tolerance);
    Ok(())
}

#[track_caller]
pub(crate) fn assert_values(what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs();
        assert!(error <= tolerance * expected.abs().max(1.), "{what}[{i}]: expected {expected}, got {got}");
    }
}

/// The tolerance that suits a device's [`precise`] type.
pub(crate) fn tolerance(device: &Device) -> f64 {
    if device.is_metal() { 1e-4 } else { 1e-11 }
}

/// An operation as a function of its arguments.
pub(crate) type Op<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// Output and gradients of `f` under the loss `Σ cotangent · f(vars)`, the cotangent drawn from a seed.
pub(crate) fn output_and_grads(vars: &[&Var], f: Op<'_>) -> Result<(Tensor, Vec<Tensor>)> {
    let args: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let ys = f(&args)?;
    let cotangent = tensor(99, ys.dims(), ys.dtype(), ys.device())?;
    let grads = (&ys * cotangent)?.sum_all()?.backward()?;
    let of = |v: &&Var| grads.get(v).cloned().expect("every tracked argument has a gradient");
    Ok((ys.detach(), vars.iter().map(of).collect()))
}

/// The numbers of a gradient that must be there.
#[track_caller]
pub(crate) fn gradient(grads: &GradStore, of: &Var) -> Result<Vec<f64>> {
    values(grads.get(of).expect("a tracked argument has a gradient"))
}

/// Compares the gradients of `f` with central differences in f64, on the CPU (on some numbers of each argument).
pub(crate) fn check_finite_differences(what: &str, vars: &[&Var], f: Op<'_>) -> Result<()> {
    const STEP: f64 = 1e-5;
    let (_, grads) = output_and_grads(vars, f)?;
    for (which, (v, grad)) in vars.iter().zip(&grads).enumerate() {
        let (original, grad) = (values(v)?, values(grad)?);
        // All numbers of small arguments; every so many of large ones, coprime to the usual sizes.
        let every = (original.len() / 24).max(1) | 1;
        for i in (0..original.len()).step_by(every) {
            let loss = |delta: f64| -> Result<f64> {
                let mut moved = original.clone();
                moved[i] += delta;
                let mut args: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().detach()).collect();
                args[which] = Tensor::from_vec(moved, v.dims(), &Device::Cpu)?;
                let ys = f(&args)?;
                let cotangent = tensor(99, ys.dims(), DType::F64, &Device::Cpu)?;
                (ys * cotangent)?.sum_all()?.to_scalar::<f64>()
            };
            let expected = (loss(STEP)? - loss(-STEP)?) / (2. * STEP);
            let error = (grad[i] - expected).abs();
            assert!(
                error <= 1e-6 * expected.abs().max(1.),
                "{what}, argument {which}, number {i}: finite differences give {expected}, the gradient is {}",
                grad[i]
            );
        }
    }
    Ok(())
}

/// Fails unless `f` gives the same bits, outputs and gradients, with 1, 2 and 3 threads.
pub(crate) fn check_threads(what: &str, vars: &[&Var], f: &(dyn Fn(&[Tensor]) -> Result<Tensor> + Sync)) -> Result<()> {
    let run = |n_threads: usize| -> Result<Vec<Vec<u64>>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("a thread pool");
        let (ys, grads) = pool.install(|| output_and_grads(vars, f))?;
        let bits = |t: &Tensor| Ok(values(t)?.into_iter().map(f64::to_bits).collect());
        std::iter::once(&ys).chain(&grads).map(bits).collect()
    };
    let one = run(1)?;
    for n_threads in [2, 3] {
        assert!(one == run(n_threads)?, "{what}: {n_threads} threads give other bits than one");
    }
    Ok(())
}

/// Fails unless `result` is an error whose message has all of `parts`.
#[track_caller]
pub(crate) fn assert_error<T, E: std::fmt::Display>(result: std::result::Result<T, E>, parts: &[&str]) {
    let message = match result {
        Ok(_) => panic!("expected an error that says {parts:?}"),
        Err(e) => e.to_string(),
    };
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in the error: {message}");
    }
}
