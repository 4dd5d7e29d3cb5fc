//! Reparameterization against the network it came from.

use candle_core::{DType, Device, Tensor};
use lmht_convert::{Model, Result, SpikeComparison, compare_spikes, reparameterize};
use lmht_nn::neurons;
use lmht_nn::{ModelConfig, NeuronConfig, Pass, Schedule, Stem, Tgim, ops, readout};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::networks::{is_transformer, lmht, random_input, random_model, relative_error, small_networks};

/// The comparison of a network with its twin, and the relative error of the logits summed over windows.
fn twin(model: &Model, schedule: Schedule, images: &Tensor) -> Result<(SpikeComparison, f64)> {
    let single = reparameterize(model, schedule)?;
    let (before, _) = model.build(DType::F64, &Device::Cpu)?;
    let (after, _) = single.build(DType::F64, &Device::Cpu)?;
    let expected = before.forward(images, &mut Pass::eval())?;
    let (t, batch, classes) = expected.dims3()?;
    let logits = after.forward(images, &mut Pass::eval())?;
    let window = single.config.neuron.window();
    let summed = ops::sum_windows(&logits.flatten(0, 1)?, t, window)?.reshape((t, batch, classes))?;
    let labels = Tensor::zeros(batch, DType::U32, &Device::Cpu)?;
    let comparison = compare_spikes(&before, &after, [Ok((images.clone(), labels))])?;
    Ok((comparison, relative_error(&summed, &expected)?))
}

/// The same cases in every run: a failure is found again by running the test again.
fn seeded(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(20240202), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    // Each case is fifteen networks.
    #![proptest_config(seeded(12))]

    /// Design 3.3: front-loaded windows lose nothing, whatever the input, Ω, λ, θ and v(0), across max-pooling too.
    #[test]
    fn front_loaded_is_lossless_on_every_backbone(
        seed in any::<u64>(), levels in 1..=4_u32, timesteps in 1..=3_usize,
        tgim in prop::sample::select(vec![Tgim::Full, Tgim::Causal, Tgim::Identity]),
        hybrid in any::<bool>(), temporal in any::<bool>(), input_scale in prop::sample::select(vec![1., 2.5]),
    ) {
        let neuron = lmht(levels, tgim, if hybrid { 0.5 } else { 0. });
        let mut spikes = 0;
        for (config, side) in small_networks() {
            let config = ModelConfig { neuron: neuron.clone(), timesteps, input_scale, ..config };
            let model = random_model(&config, seed).unwrap();
            let images = random_input(&config, side, temporal, seed).unwrap();
            let (comparison, error) = twin(&model, Schedule::FrontLoaded, &images).unwrap();
            for layer in &comparison.layers {
                prop_assert_eq!(layer.differing, 0, "{:?} {}: {:?}", config.backbone, layer.name, layer);
                prop_assert_eq!(layer.spikes_before, layer.spikes_after);
                spikes += layer.spikes_after;
            }
            prop_assert!(error < 1e-9, "{:?}: logits differ by {error:e}", config.backbone);
        }
        prop_assert!(spikes > 0, "no layer fired, so nothing was compared");
    }

    /// Theorem A.2 where it holds: every timestep the same current (Ω = 1/T, a static image, λ = 1, v(0) in [0, θ)) and no
    /// max-pooling after a neuron, no attention.
    #[test]
    fn uniform_is_lossless_under_equal_currents(seed in any::<u64>(), levels in 2..=4_u32, timesteps in 1..=3_usize) {
        for (config, side) in small_networks() {
            let pools_spikes = config.stem == Stem::Imagenet && config.backbone == lmht_nn::Backbone::Resnet18;
            if pools_spikes || is_transformer(&config) {
                continue;
            }
            let config = ModelConfig { neuron: lmht(levels, Tgim::Full, 0.5), timesteps, ..config };
            let mut model = random_model(&config, seed).unwrap();
            for (name, tensor) in &mut model.tensors {
                if [".mask", ".mask_linear", ".alpha"].iter().any(|part| name.ends_with(part)) {
                    *tensor = tensor.zeros_like().unwrap();
                }
            }
            let images = random_input(&config, side, false, seed).unwrap();
            let (comparison, error) = twin(&model, Schedule::Uniform, &images).unwrap();
            prop_assert_eq!(comparison.differing(), 0, "{:?}", config.backbone);
            prop_assert!(error < 1e-9, "{:?}: logits differ by {error:e}", config.backbone);
        }
    }
}

/// Where the uniform schedule loses spikes and the front-loaded one does not: learned Ω and λ, and a max-pooling of spikes.
#[test]
fn uniform_is_not_lossless_in_general() -> Result<()> {
    let learned = ModelConfig { width: 2, neuron: lmht(4, Tgim::Full, 0.5), ..ModelConfig::resnet19(5) };
    let pooled = ModelConfig { stem: Stem::Imagenet, ..learned.clone() };
    for (config, side, zero_logits) in [(learned, 8, false), (pooled, 16, true)] {
        let mut model = random_model(&config, 7)?;
        if zero_logits {
            for (name, tensor) in &mut model.tensors {
                if name.ends_with(".mask") || name.ends_with(".alpha") {
                    *tensor = tensor.zeros_like()?;
                }
            }
        }
        let images = random_input(&config, side, true, 7)?;
        let (uniform, error) = twin(&model, Schedule::Uniform, &images)?;
        assert!(uniform.differing() > 0 && error > 1e-3, "{:?}: {error:e}", config.stem);
        let (front_loaded, error) = twin(&model, Schedule::FrontLoaded, &images)?;
        assert_eq!(front_loaded.differing(), 0);
        assert!(error < 1e-9);
    }
    Ok(())
}

/// One unit by hand: L = 2, θ = 1, λ = 1.25, v(0) = 0.5, and a negative current that the uniform schedule gets wrong.
///
/// Window 1: v = 0.625, I = 2: m = 2.625, s = 2, v = 0.625. Window 2: v = 0.78125, I = -0.25: m = 0.53125, s = 0.
/// Window 3: v = 0.6640625, I = 0.5: m = 1.1640625, s = 1.
#[test]
fn a_window_is_a_thermometer_code() -> Result<()> {
    let currents = [2., -0.25, 0.5];
    let neuron = lmht_core::LmhtConfig {
        timesteps: 6,
        levels: 1,
        v_threshold: 1.,
        v_init: 0.5,
        tgim: Tgim::Identity,
        gradient: lmht_nn::GradientMode::Detached,
        window: 2,
    };
    let neuron = neuron.check().map_err(candle_core::Error::wrap)?;
    let xs = Tensor::new(&currents, &Device::Cpu)?.reshape((3, 1))?;
    let loaded = ops::front_load(&xs, 3, 2)?;
    let ys = ops::neuron(&loaded, &neuron, &ops::Learned::Nothing { leak: 1.25 })?;
    assert_eq!(ys.flatten_all()?.to_vec1::<f64>()?, [1., 1., 0., 0., 1., 0.]);
    Ok(())
}

#[test]
fn the_schedules_are_the_matrices_of_the_core_crate() -> Result<()> {
    let (t, window, n) = (3, 2, 4);
    let logit = Tensor::arange(0., (t * t) as f64, &Device::Cpu)?.reshape((t, t))?;
    let xs = ((Tensor::arange(0., (t * window * n) as f64, &Device::Cpu)? * 0.37)?.sin()?).reshape((t * window, n))?;
    for tgim in [Tgim::Full, Tgim::Causal] {
        let omega = ops::tgim(&logit, tgim)?;
        let values = omega.flatten_all()?.to_vec1::<f64>()?;
        assert_eq!(values[1] == 0., tgim == Tgim::Causal);
        for schedule in [Schedule::FrontLoaded, Schedule::Uniform] {
            let steps = t * window;
            let matrix = Tensor::from_vec(schedule.expand(&values, t, window), (steps, steps), &Device::Cpu)?;
            let expected = matrix.matmul(&xs)?;
            let actual = ops::mix_windows(&xs, Some(&omega), t, window, schedule)?;
            assert!(relative_error(&actual, &expected)? < 1e-14, "{schedule:?} {tgim:?}");
        }
    }
    Ok(())
}

/// M-HT, LIF and IF networks have no logits to keep; the converted network is saved, loaded and trained as any other.
#[test]
fn every_spiking_neuron_converts_and_stays_a_network() -> Result<()> {
    let mht = NeuronConfig::Mht(neurons::Mht {
        levels: 3,
        leak: 0.75,
        v_threshold: None,
        v_init: 0.25,
        gradient: lmht_nn::GradientMode::Detached,
    });
    let lif = NeuronConfig::Lif(neurons::Lif {
        leak: 0.5,
        v_threshold: 1.,
        v_init: 0.,
        gradient: lmht_nn::GradientMode::Full,
    });
    for neuron in [mht, lif, NeuronConfig::integrate_and_fire()] {
        let config = ModelConfig { width: 2, neuron, timesteps: 3, ..ModelConfig::ms_resnet18(5) };
        let model = random_model(&config, 3)?;
        let images = random_input(&config, 8, true, 3)?;
        let (comparison, error) = twin(&model, Schedule::FrontLoaded, &images)?;
        assert_eq!(comparison.differing(), 0, "{:?}", config.neuron);
        assert!(error < 1e-12);

        let single = reparameterize(&model, Schedule::FrontLoaded)?;
        let json = single.config.to_json();
        assert_eq!(ModelConfig::from_json(&json)?, single.config);
        let (network, params) = single.build(DType::F64, &Device::Cpu)?;
        let logits = network.forward(&images, &mut Pass::train())?;
        let gradients = readout(&logits)?.sqr()?.sum_all()?.backward()?;
        assert!(params.trainable().iter().any(|(_, var)| gradients.get(var).is_some()));
    }
    Ok(())
}

#[test]
fn what_cannot_be_converted_is_refused() -> Result<()> {
    let message = |model: &Model| reparameterize(model, Schedule::FrontLoaded).unwrap_err().to_string();
    let qcfs = ModelConfig { width: 2, timesteps: 1, neuron: NeuronConfig::qcfs(4), ..ModelConfig::resnet20(5) };
    let text = message(&random_model(&qcfs, 1)?);
    assert!(text.contains("qcfs_to_lmht"), "{text}");

    let config = ModelConfig { width: 2, ..ModelConfig::resnet18(5) };
    let model = random_model(&config, 1)?;
    let single = reparameterize(&model, Schedule::FrontLoaded)?;
    assert!(message(&single).contains("already"), "{}", message(&single));

    let mut incomplete = model.clone();
    incomplete.tensors.retain(|name, _| !name.starts_with("layer1.0.sn1."));
    let text = message(&incomplete);
    for part in ["layer1.0.sn1.mask", "layer1.0.sn1.alpha", "layer1.0.sn1.v_threshold"] {
        assert!(text.contains(part), "{text}");
    }

    let mut zero = model.clone();
    zero.config.timesteps = 0;
    assert!(message(&zero).contains("timesteps is 0"), "{}", message(&zero));
    let mut zero = model;
    zero.config.neuron = lmht(0, Tgim::Full, 0.);
    assert!(message(&zero).contains("levels"), "{}", message(&zero));
    Ok(())
}
