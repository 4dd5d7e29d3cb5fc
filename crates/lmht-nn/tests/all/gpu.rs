//! What a GPU runs, on the emulator: each operation against its composed form, and a network against itself layer by layer.

use candle_core::{DType, Device, Result, Tensor, Var};
use lmht_core::{GradientMode, LmhtConfig, Tgim};
use lmht_nn::ops::{Learned, neuron, neuron_composed};
use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore, Pass, Precision, gpu, neurons, readout};
use lmht_train::loss;

use crate::support::*;

/// Skips, and says so, without a C++ compiler.
fn emulated<T>(f: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
    let result = gpu::emulated(f).transpose()?;
    if result.is_none() {
        println!("skipped: no C++ compiler to run kernels with; install g++ or clang++, or set CXX");
    }
    Ok(result)
}

#[test]
fn neurons_equal_the_composed_form() -> Result<()> {
    let lmht = LmhtConfig { v_init: 0.5, ..LmhtConfig::lmht(2, 3) };
    let causal = LmhtConfig { tgim: Tgim::Causal, gradient: GradientMode::Full, ..lmht };
    let leaky = LmhtConfig { tgim: Tgim::Identity, ..lmht };
    for (config, n_learned) in [(lmht, 2), (causal, 2), (leaky, 1), (leaky, 0)] {
        let layer = config.check().expect("a neuron");
        let xs = Var::from_tensor(&(tensor(3, &[6, 5, 7], DType::F64, &Device::Cpu)? * 3.)?)?;
        let (tgim, leak) = (var(7, &[3, 3], DType::F64, &Device::Cpu)?, var(8, &[1], DType::F64, &Device::Cpu)?);
        let vars: Vec<&Var> = match n_learned {
            2 => vec![&xs, &tgim, &leak],
            1 => vec![&xs, &leak],
            _ => vec![&xs],
        };
        let learned = |args: &[Tensor]| match args {
            [_, tgim_logit, leak_logit] => {
                Learned::TgimAndLeak { tgim_logit: tgim_logit.clone(), leak_logit: leak_logit.clone() }
            }
            [_, leak_logit] => Learned::Leak { leak_logit: leak_logit.clone() },
            _ => Learned::Nothing { leak: 0.5 },
        };
        let expected = output_and_grads(&vars, &|args| neuron_composed(&args[0], &layer, &learned(args)))?;
        let Some(got) = emulated(|| output_and_grads(&vars, &|args| neuron(&args[0], &layer, &learned(args))))? else {
            return Ok(());
        };
        let what = format!("{config:?}, {n_learned} learned");
        assert_close(&what, &got.0, &expected.0, 1e-12)?;
        for (i, (got, expected)) in got.1.iter().zip(&expected.1).enumerate() {
            assert_close(&format!("{what}: gradient {i}"), got, expected, 1e-11)?;
        }
    }
    Ok(())
}

/// In the 16-bit types a neuron gives what f32 gives, rounded: spikes are small numbers.
#[test]
fn half_precision_has_the_spikes_of_f32() -> Result<()> {
    let layer = LmhtConfig { tgim: Tgim::Identity, ..LmhtConfig::lmht(2, 2) }.check().expect("a neuron");
    for dtype in [DType::F16, DType::BF16] {
        let xs = (tensor(5, &[4, 9], DType::F32, &Device::Cpu)? * 3.)?.to_dtype(dtype)?;
        let learned = Learned::Nothing { leak: 0.5 };
        let Some(ys) = emulated(|| neuron(&xs, &layer, &learned))? else { return Ok(()) };
        assert_eq!(ys.dtype(), dtype);
        assert_close("spikes", &ys, &neuron(&xs.to_dtype(DType::F32)?, &layer, &learned)?, 0.)?;
    }
    Ok(())
}

/// A network whose neurons, batch norms and poolings are kernels: logits, gradients, running statistics.
#[test]
fn networks_equal_themselves_layer_by_layer() -> lmht_nn::Result<()> {
    let ternary = neurons::Ternary { v_threshold: 0.3, ..Default::default() };
    for neuron in [NeuronConfig::lmht(2), neurons::Ilif::default().into(), ternary.into()] {
        let config = ModelConfig { width: 2, timesteps: 2, neuron, ..ModelConfig::vgg13(5) };
        let images = tensor(1, &[2, 3, 16, 16], DType::F64, &Device::Cpu)?;
        let labels = Tensor::new(&[0u32, 3], &Device::Cpu)?;
        let outcome = || -> lmht_nn::Result<Vec<(String, Tensor)>> {
            let params = ParamStore::new(42);
            let network = Network::new(&config, params.builder(DType::F64, &Device::Cpu))?;
            let logits = network.forward(&images, &mut Pass::train().layer_by_layer())?;
            let grads = loss::cross_entropy(&readout(&logits)?, &labels, 0.)?.backward()?;
            let mut all = vec![("logits".to_string(), logits.detach())];
            for (name, var) in params.all() {
                all.extend(grads.get(&var).map(|grad| (format!("gradient of {name}"), grad.clone())));
                all.push((name.to_string(), var.as_detached_tensor()));
            }
            let eval = network.forward(&images, &mut Pass::eval().layer_by_layer())?;
            all.push(("evaluation".to_string(), eval.detach()));
            Ok(all)
        };
        let expected = outcome()?;
        let Some(got) = gpu::emulated(outcome).transpose()? else {
            println!("skipped: no C++ compiler to run kernels with");
            return Ok(());
        };
        assert_eq!(got.len(), expected.len());
        assert!(expected.iter().filter(|(name, _)| name.starts_with("gradient")).count() > 20, "few gradients");
        for ((name, got), (_, expected)) in got.iter().zip(&expected) {
            assert_close(&format!("{:?}: {name}", config.neuron), got, expected, 1e-9)?;
        }
    }
    Ok(())
}

/// Maps and products in 16 bits, everything else f32: gradients are f32, and point where those of f32 do. Of ReLU, since spikes
/// that flip would hide an error.
#[test]
fn a_network_in_16_bits_is_near_one_in_f32() -> lmht_nn::Result<()> {
    let config = ModelConfig { width: 4, timesteps: 1, neuron: NeuronConfig::relu(), ..ModelConfig::resnet20(5) };
    let images = (tensor(1, &[4, 3, 16, 16], DType::F32, &Device::Cpu)? * 2.)?;
    let labels = Tensor::new(&[0u32, 3, 1, 4], &Device::Cpu)?;
    let outcome = |precision: Precision| -> lmht_nn::Result<(Tensor, Vec<(String, Tensor)>)> {
        let params = ParamStore::new(42);
        let network = Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
        let logits = network.forward(&images, &mut Pass::train().with_precision(precision))?;
        // As with a loss scale: small gradients would be 0 in f16.
        let grads = (loss::cross_entropy(&readout(&logits)?, &labels, 0.)? * 256.)?.backward()?;
        let of = |(name, var): (String, Var)| (name, grads.get(&var).expect("a gradient").clone());
        let mut all: Vec<_> = params.trainable().into_iter().map(of).collect();
        let buffers = params.all().into_iter().filter(|(name, _)| name.contains("running"));
        all.extend(buffers.map(|(name, var)| (name, var.as_detached_tensor())));
        Ok((logits.detach(), all))
    };
    let Some(expected) = gpu::emulated(|| outcome(Precision::F32)).transpose()? else { return Ok(()) };
    // Of everything together: a gradient that is a sum of many that cancel is nearly all rounding.
    let flat = |all: &[(String, Tensor)], statistics: bool| -> Result<Vec<f64>> {
        let chosen = all.iter().filter(|(name, _)| name.contains("running") == statistics);
        let parts = chosen.map(|(_, tensor)| values(tensor));
        Ok(parts.collect::<Result<Vec<_>>>()?.concat())
    };
    let size = |xs: &[f64]| xs.iter().map(|x| x * x).sum::<f64>().sqrt();
    let off = |got: &[f64], expected: &[f64]| {
        let difference: Vec<f64> = got.iter().zip(expected).map(|(got, expected)| got - expected).collect();
        size(&difference) / size(expected)
    };
    // Masks of ReLU that flip near 0 are most of the error of the gradients: it falls with the root of the rounding.
    for (precision, tolerance, of_gradients) in [(Precision::Bf16, 0.1, 0.4), (Precision::F16, 0.02, 0.15)] {
        let Some(got) = gpu::emulated(|| outcome(precision)).transpose()? else { return Ok(()) };
        assert_eq!(got.0.dtype(), DType::F32);
        for ((name, got), (_, expected)) in got.1.iter().zip(&expected.1) {
            assert_eq!((got.dtype(), got.dims()), (DType::F32, expected.dims()), "{precision}: {name}");
        }
        let of_logits = off(&values(&got.0)?, &values(&expected.0)?);
        assert!(of_logits > 1e-5 && of_logits < tolerance, "{precision}: logits are off by {of_logits}");
        for (statistics, tolerance) in [(true, tolerance), (false, of_gradients)] {
            let off = off(&flat(&got.1, statistics)?, &flat(&expected.1, statistics)?);
            let what = if statistics { "statistics" } else { "gradients" };
            assert!(off > 1e-6 && off < tolerance, "{precision}: {what} are off by {off}");
        }
    }
    Ok(())
}
