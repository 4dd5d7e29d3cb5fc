//! A training step as a GPU runs it, on the emulator: the same result as on the CPU, and 16 bits.

use candle_core::{DType, Device, Tensor, Var};
use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore, Precision, gpu};
use lmht_train::optim::{AdamWConfig, OptimizerConfig, SgdConfig, find_non_finite};
use lmht_train::schedule::{Decay, ScheduleConfig};
use lmht_train::{Error, Progress, Result, TensorSource, TrainConfig, fit, loss};

use crate::numbers;

const CPU: Device = Device::Cpu;

/// Skips, and says so, without a C++ compiler.
pub(crate) fn emulated<T>(f: impl FnOnce() -> T) -> Option<T> {
    let result = gpu::emulated(f);
    if result.is_none() {
        println!("skipped: no C++ compiler to run kernels with; install g++ or clang++, or set CXX");
    }
    result
}

fn rules() -> [OptimizerConfig; 4] {
    let sgd = SgdConfig { lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.05 };
    [
        OptimizerConfig::Sgd(sgd),
        OptimizerConfig::Sgd(SgdConfig { nesterov: false, weight_decay: 0., ..sgd }),
        OptimizerConfig::Sgd(SgdConfig { momentum: 0., nesterov: false, ..sgd }),
        OptimizerConfig::AdamW(AdamWConfig { lr: 0.1, weight_decay: 0.1, ..AdamWConfig::default() }),
    ]
}

#[track_caller]
fn assert_close(what: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
    let values =
        |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    assert_eq!(got.dims(), expected.dims(), "{what}");
    for (i, (got, expected)) in values(got).into_iter().zip(values(expected)).enumerate() {
        let close = (got - expected).abs() <= tolerance * expected.abs().max(1.);
        assert!(close, "{what}[{i}]: {got}, expected {expected}");
    }
}

/// Several parameters, one of which has no gradient in the second step; a state that is saved and comes back.
#[test]
fn all_parameters_are_updated_at_once_as_one_by_one() -> Result<()> {
    for rule in rules() {
        let run = || -> Result<Vec<(String, Tensor)>> {
            let shapes: [&[usize]; 3] = [&[3, 5], &[], &[130]];
            let var = |(i, shape): (usize, &&[usize])| -> Result<(String, Var)> {
                let values = numbers(i as u64, shape.iter().product());
                Ok((format!("p{i}"), Var::from_tensor(&Tensor::from_vec(values, *shape, &CPU)?)?))
            };
            let params = shapes.iter().enumerate().map(var).collect::<Result<Vec<_>>>()?;
            let mut optimizer = rule.build(params.clone())?;
            for step in 0..4 {
                let mut loss = Tensor::new(0f64, &CPU)?;
                for (i, (_, var)) in params.iter().enumerate() {
                    if (step, i) != (1, 2) {
                        let pull =
                            Tensor::from_vec(numbers(10 * step + i as u64, var.elem_count()), var.shape(), &CPU)?;
                        loss = (loss + (var.as_tensor() * pull)?.sum_all()? + var.as_tensor().sqr()?.sum_all()?)?;
                    }
                }
                optimizer.step(&loss.backward()?)?;
                if step == 2 {
                    let state = optimizer.state()?;
                    optimizer = rule.build(params.clone())?;
                    optimizer.load_state(&state)?;
                }
            }
            let mut all = optimizer.state()?;
            all.extend(params.into_iter().map(|(name, var)| (name, var.as_detached_tensor())));
            Ok(all)
        };
        let expected = run()?;
        let Some(got) = emulated(run).transpose()? else { return Ok(()) };
        assert_eq!(got.len(), expected.len());
        for ((name, got), (expected_name, expected)) in got.iter().zip(&expected) {
            assert_eq!(name, expected_name);
            assert_close(&format!("{rule:?}: {name}"), got, expected, 1e-12);
        }
    }
    Ok(())
}

#[test]
fn a_gradient_that_is_not_finite_moves_nothing() -> Result<()> {
    for rule in rules() {
        let outcome = emulated(|| -> Result<()> {
            let params =
                vec![("a".to_string(), Var::new(&[1f64, 2.], &CPU)?), ("b".to_string(), Var::new(&[0f64], &CPU)?)];
            let mut optimizer = rule.build(params.clone())?;
            // The square root has an infinite slope at 0.
            let grads = (params[0].1.sum_all()? + params[1].1.sqrt()?.sum_all()?)?.backward()?;
            assert_eq!(find_non_finite(&grads, &params)?.as_deref(), Some("b"));
            optimizer.step(&grads)?;
            assert_eq!(params[0].1.to_vec1::<f64>()?, [1., 2.]);
            let sum = optimizer.sum_squares().expect("a kernel has summed").to_vec1::<f64>()?;
            assert!(!sum[0].is_finite(), "{sum:?}");
            Ok(())
        });
        outcome.transpose()?;
    }
    Ok(())
}

#[test]
fn the_loss_of_a_kernel_equals_the_composed_one() -> Result<()> {
    let labels = Tensor::new(&[4u32, 0, 2], &CPU)?;
    for smoothing in [0., 0.1] {
        let run = || -> Result<(Tensor, Tensor)> {
            let logits = Var::from_tensor(&Tensor::from_vec(numbers(1, 15), (3, 5), &CPU)?)?;
            // A gradient from above that is not 1.
            let loss = (loss::cross_entropy(&logits, &labels, smoothing)? * 3.)?;
            Ok((loss.detach(), loss.backward()?.get(&logits).expect("a gradient").clone()))
        };
        let expected = run()?;
        let Some(got) = emulated(run).transpose()? else { return Ok(()) };
        assert_close("loss", &got.0, &expected.0, 1e-12);
        assert_close("gradient", &got.1, &expected.1, 1e-12);
    }
    Ok(())
}

/// Bright images are class 1, dark ones class 0.
fn images(dtype: DType) -> Result<TensorSource> {
    let n = 16;
    let noise = numbers(7, n * 64).into_iter().enumerate();
    let values: Vec<f64> = noise.map(|(i, x)| x + if i / 64 % 2 == 1 { 2. } else { 0. }).collect();
    let images = Tensor::from_vec(values, (n, 1, 8, 8), &CPU)?.to_dtype(dtype)?;
    let labels = Tensor::from_vec((0..n as u32).map(|i| i % 2).collect::<Vec<_>>(), n, &CPU)?;
    TensorSource::test(images, labels, 4)
}

fn config(optimizer: OptimizerConfig, precision: Precision) -> TrainConfig {
    let schedule = ScheduleConfig { decay: Decay::Constant {}, ..ScheduleConfig::default() };
    TrainConfig { epochs: 2, batch_size: 4, optimizer, schedule, precision, ..TrainConfig::default() }
}

/// A run of two epochs: its parameters and its last epoch's loss and accuracy.
fn trained(dtype: DType, config: &TrainConfig) -> Result<(Vec<(String, Var)>, f64)> {
    let model = ModelConfig { width: 2, in_channels: 1, neuron: NeuronConfig::lmht(2), ..ModelConfig::resnet20(2) };
    let params = ParamStore::new(1);
    let network = Network::new(&model, params.builder(dtype, &CPU))?;
    let source = images(dtype)?;
    let metrics = fit(&network, &params, config, &source, &source, None, Progress::Silent)?;
    Ok((params.all(), metrics.top1))
}

#[test]
fn a_run_on_a_gpu_ends_where_one_on_the_cpu_does() -> Result<()> {
    let sgd = SgdConfig { lr: 0.05, momentum: 0.9, nesterov: true, weight_decay: 5e-4 };
    for optimizer in [OptimizerConfig::Sgd(sgd), rules()[3]] {
        let config = config(optimizer, Precision::F32);
        let (expected, top1) = trained(DType::F64, &config)?;
        let Some(got) = emulated(|| trained(DType::F64, &config)).transpose()? else { return Ok(()) };
        assert_eq!(got.1, top1);
        for ((name, got), (_, expected)) in got.0.iter().zip(&expected) {
            assert_close(&format!("{optimizer:?}: {name}"), got, expected, 1e-9);
        }
    }
    Ok(())
}

/// Parameters stay f32, and the network learns.
#[test]
fn a_network_learns_in_16_bits() -> Result<()> {
    let sgd = SgdConfig { lr: 0.05, momentum: 0.9, nesterov: true, weight_decay: 5e-4 };
    for precision in [Precision::Bf16, Precision::F16] {
        let config = TrainConfig { epochs: 5, ..config(OptimizerConfig::Sgd(sgd), precision) };
        let Some((params, top1)) = emulated(|| trained(DType::F32, &config)).transpose()? else { return Ok(()) };
        assert!(top1 >= 0.85, "{precision}: {top1}");
        for (name, var) in params {
            assert_eq!(var.dtype(), DType::F32, "{precision}: {name}");
        }
    }
    Ok(())
}

#[test]
fn sixteen_bits_are_refused_on_the_cpu() {
    let config = config(rules()[0], Precision::Bf16);
    let error = trained(DType::F32, &config).expect_err("no GPU").to_string();
    assert!(error.contains("precision is bf16") && error.contains("--device"), "{error}");
    let json = serde_json::to_string(&config).expect("a configuration");
    assert!(json.contains(r#""precision":"bf16""#), "{json}");
}

#[test]
fn a_run_that_diverges_on_a_gpu_says_where() -> Result<()> {
    let sgd = SgdConfig { lr: 1e300, momentum: 0.9, ..SgdConfig::default() };
    let config = config(OptimizerConfig::Sgd(sgd), Precision::F32);
    match emulated(|| trained(DType::F64, &config)) {
        Some(Err(Error::NonFinite(message))) => assert!(message.contains("not finite in epoch 1, step"), "{message}"),
        Some(other) => panic!("expected an error, got {:?}", other.map(|(_, top1)| top1)),
        None => {}
    }
    Ok(())
}
