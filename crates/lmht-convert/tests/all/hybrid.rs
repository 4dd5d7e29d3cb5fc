//! The hybrid start against the QCFS network it came from.

use candle_core::{Device, Tensor};
use lmht_convert::{HybridStart, Model, Result, hybrid_report, qcfs_to_if, qcfs_to_lmht};
use lmht_nn::{Backbone, ModelConfig, NeuronConfig, Stem};

use crate::networks::{is_transformer, random_input, random_model, readout, relative_error, small_networks};

/// Theorem 4.4 with Q = LT: not only in expectation but exactly, for the exact start. Attention multiplies spikes, and the
/// mean of products is no product of means.
#[test]
fn the_exact_start_is_the_qcfs_network_if_q_is_lt() -> Result<()> {
    for (config, side) in small_networks().into_iter().filter(|(config, _)| !is_transformer(config)) {
        for (levels, timesteps) in [(1, 4), (2, 2), (4, 1), (2, 3)] {
            let quant_levels = levels * timesteps as u32;
            let ann = ModelConfig { neuron: NeuronConfig::qcfs(quant_levels), timesteps: 1, ..config.clone() };
            let model = random_model(&ann, 11)?;
            let images = random_input(&ann, side, false, 11)?;
            let expected = readout(&model, &images)?;
            let spiking = qcfs_to_lmht(&model, levels, timesteps, HybridStart::Exact)?;
            let error = relative_error(&readout(&spiking, &images)?, &expected)?;
            assert!(error < 1e-9, "{:?} L = {levels}, T = {timesteps}: {error:e}", config.backbone);
        }
    }
    Ok(())
}

/// Where the ANN takes the maximum of activations, the spiking network has to take that of currents: the spikes of a timestep
/// do not grow with the current. Cross-entropy moved from 0.0258 to 0.0282 in a trained network.
#[test]
fn a_maximum_is_taken_before_the_neuron() -> Result<()> {
    let mut worst = 0_f64;
    for (seed, base) in
        [ModelConfig::resnet18(5), ModelConfig::resnet19(5), ModelConfig::resnet34(5)].iter().enumerate()
    {
        let neuron = NeuronConfig::qcfs(4);
        let ann = ModelConfig { width: 4, stem: Stem::Imagenet, neuron, timesteps: 1, ..base.clone() };
        for seed in [seed as u64, seed as u64 + 10] {
            let model = random_model(&ann, seed)?;
            let images = random_input(&ann, 24, false, seed)?;
            let expected = readout(&model, &images)?;
            for (levels, timesteps) in [(2, 2), (1, 4)] {
                let spiking = qcfs_to_lmht(&model, levels, timesteps, HybridStart::Exact)?;
                assert_eq!(spiking.config.stem, Stem::ImagenetPoolFirst);
                let error = relative_error(&readout(&spiking, &images)?, &expected)?;
                assert!(error < 1e-9, "{:?}: {error:e}", ann.backbone);
                let report = hybrid_report(&model, &spiking, [])?;
                assert!(report.pools_first && report.deviations.is_empty(), "{report:?}");

                let mut after = spiking.clone();
                after.config.stem = Stem::Imagenet;
                worst = worst.max(relative_error(&readout(&after, &images)?, &expected)?);
                let report = hybrid_report(&model, &after, [])?;
                assert_eq!(report.deviations.len(), 1, "{report:?}");
                assert!(report.deviations[0].layer.starts_with("max-pooling after "), "{report:?}");
                assert!(!report.pools_first);
            }
            // At one timestep a count grows with its current, and the published start is the paper's.
            let single = qcfs_to_lmht(&model, 4, 1, HybridStart::Exact)?;
            assert_eq!(single.config.stem, Stem::Imagenet);
            assert!(relative_error(&readout(&single, &images)?, &expected)? < 1e-9);
            assert_eq!(qcfs_to_lmht(&model, 2, 2, HybridStart::Published)?.config.stem, Stem::Imagenet);
        }
    }
    assert!(worst > 0.01, "spikes pooled at every timestep are off by {worst:e} only: nothing was tested");
    Ok(())
}

/// What a report names, and what it measures: logits by hand.
#[test]
fn a_report_says_where_the_start_is_another_function() -> Result<()> {
    let whys = |ann: &Model, spiking: &Model| -> Result<Vec<String>> {
        let deviations = hybrid_report(ann, spiking, [])?.deviations;
        Ok(deviations.into_iter().map(|deviation| format!("{}: {}", deviation.layer, deviation.why)).collect())
    };
    let ann = ModelConfig { width: 2, neuron: NeuronConfig::qcfs(8), timesteps: 1, ..ModelConfig::resnet20(5) };
    let model = random_model(&ann, 5)?;
    let exact = |levels, timesteps| qcfs_to_lmht(&model, levels, timesteps, HybridStart::Exact);
    assert!(whys(&model, &exact(4, 2)?)?.is_empty());
    let spiking = exact(2, 2)?;
    let why = whys(&model, &spiking)?;
    assert!(why.len() == 1 && why[0].contains("all 19 neuron layers") && why[0].contains("Q = 8"), "{why:?}");
    let why = whys(&model, &qcfs_to_lmht(&model, 4, 2, HybridStart::Published)?)?;
    assert!(why.len() == 1 && why[0].contains("published start") && why[0].contains("4 times"), "{why:?}");

    let images = random_input(&ann, 8, false, 5)?;
    let labels = Tensor::new(&[1_u32, 3], &Device::Cpu)?;
    let halves = [0, 1].map(|at| Ok((images.narrow(0, at, 1)?, labels.narrow(0, at, 1)?)));
    let measured = hybrid_report(&model, &spiking, halves)?.measured.expect("two images");
    let rows = |model| -> Result<Vec<Vec<f64>>> { Ok(readout(model, &images)?.to_vec2()?) };
    let (before, after) = (rows(&model)?, rows(&spiking)?);
    let differences: Vec<f64> =
        before.iter().flatten().zip(after.iter().flatten()).map(|(a, b)| (a - b).abs()).collect();
    let loss = |rows: &[Vec<f64>]| {
        let of = |(row, label): (&Vec<f64>, usize)| row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[label];
        rows.iter().zip([1, 3]).map(of).sum::<f64>() / 2.
    };
    let near = |a: f64, b: f64| (a - b).abs() < 1e-9 * b.abs().max(1.);
    assert!(near(measured.largest, differences.iter().copied().fold(0., f64::max)) && measured.largest > 1e-3);
    assert!(near(measured.mean, differences.iter().sum::<f64>() / 10.), "{measured:?}");
    assert!(near(measured.loss_before, loss(&before)) && near(measured.loss_after, loss(&after)), "{measured:?}");
    assert_eq!(measured.n_images, 2);

    let attention = ModelConfig { depth: Some(1), heads: Some(2), width: 8, ..ModelConfig::spikformer(5) };
    let attention = ModelConfig { neuron: NeuronConfig::qcfs(4), timesteps: 1, ..attention };
    assert_eq!(attention.backbone, Backbone::Spikformer);
    let model = random_model(&attention, 5)?;
    let images = random_input(&attention, 16, false, 5)?;
    let single = qcfs_to_lmht(&model, 4, 1, HybridStart::Exact)?;
    assert!(whys(&model, &single)?.is_empty());
    assert!(relative_error(&readout(&single, &images)?, &readout(&model, &images)?)? < 1e-9);
    let why = whys(&model, &qcfs_to_lmht(&model, 2, 2, HybridStart::Exact)?)?;
    assert!(why.iter().any(|why| why.starts_with("block.0.attn") && why.contains("products")), "{why:?}");
    assert!(why.iter().any(|why| why.starts_with("max-pooling after patch_embed")), "{why:?}");

    let error = hybrid_report(&spiking, &spiking, []).unwrap_err().to_string();
    assert!(error.contains("QCFS or ReLU"), "{error}");
    Ok(())
}

/// IF neurons lack the T-GIM that makes the currents of deeper layers equal: exact for one timestep, near for many.
#[test]
fn an_if_network_comes_near_the_qcfs_network() -> Result<()> {
    let ann = |quant_levels| ModelConfig {
        width: 4,
        neuron: NeuronConfig::qcfs(quant_levels),
        timesteps: 1,
        ..ModelConfig::resnet20(5)
    };
    let images = random_input(&ann(1), 8, false, 5)?;
    let error = |quant_levels, timesteps| -> Result<f64> {
        let model = random_model(&ann(quant_levels), 5)?;
        relative_error(&readout(&qcfs_to_if(&model, timesteps)?, &images)?, &readout(&model, &images)?)
    };
    assert!(error(1, 1)? < 1e-9);
    let (coarse, fine) = (error(64, 2)?, error(64, 256)?);
    assert!(fine < coarse && fine < 0.1, "{coarse} {fine}");
    Ok(())
}

/// The published start leaves biases at the ANN's scale; with a single level there is no scale to miss.
#[test]
fn the_published_start_misses_the_scale_of_biases() -> Result<()> {
    let ann = ModelConfig { width: 4, neuron: NeuronConfig::qcfs(4), timesteps: 1, ..ModelConfig::resnet20(5) };
    let model = random_model(&ann, 5)?;
    let images = random_input(&ann, 8, false, 5)?;
    let expected = readout(&model, &images)?;
    let start = |levels, timesteps| qcfs_to_lmht(&model, levels, timesteps, HybridStart::Published);
    assert!(relative_error(&readout(&start(1, 4)?, &images)?, &expected)? < 1e-9);
    let published = start(2, 2)?;
    assert_eq!(published.config.input_scale, 2.);
    assert!(relative_error(&readout(&published, &images)?, &expected)? > 0.1);
    Ok(())
}

/// With Q ≠ LT the start is near, and nearer with more timesteps.
#[test]
fn other_sizes_start_near_the_qcfs_network() -> Result<()> {
    let ann = ModelConfig { width: 4, neuron: NeuronConfig::qcfs(8), timesteps: 1, ..ModelConfig::resnet20(5) };
    let model = random_model(&ann, 5)?;
    let images = random_input(&ann, 8, false, 5)?;
    let expected = readout(&model, &images)?;
    let error = |timesteps| -> Result<f64> {
        relative_error(&readout(&qcfs_to_lmht(&model, 2, timesteps, HybridStart::Exact)?, &images)?, &expected)
    };
    let (coarse, fine) = (error(1)?, error(64)?);
    assert!(fine < coarse && fine < 0.5, "{coarse} {fine}");
    Ok(())
}

#[test]
fn what_cannot_start_is_refused() -> Result<()> {
    let ann = ModelConfig { width: 2, neuron: NeuronConfig::qcfs(4), timesteps: 1, ..ModelConfig::resnet20(5) };
    let model = random_model(&ann, 1)?;
    for start in [HybridStart::Exact, HybridStart::Published] {
        let message = |levels, timesteps| qcfs_to_lmht(&model, levels, timesteps, start).unwrap_err().to_string();
        assert!(message(0, 2).contains("levels"), "{}", message(0, 2));
        assert!(message(2, 0).contains("timesteps"), "{}", message(2, 0));
    }
    assert!(qcfs_to_if(&model, 0).unwrap_err().to_string().contains("timesteps"));

    let mut zero_levels = model.clone();
    zero_levels.config.neuron = NeuronConfig::qcfs(0);
    assert!(qcfs_to_if(&zero_levels, 4).unwrap_err().to_string().contains("quant_levels"));

    let mut negative = model.clone();
    let name = "conv2_x.1.relu.thresh";
    negative.tensors.insert(name.into(), negative.tensors[name].neg()?);
    let text = qcfs_to_if(&negative, 4).unwrap_err().to_string();
    assert!(text.contains(name) && text.contains("above 0"), "{text}");

    let spiking = qcfs_to_if(&model, 4)?;
    assert!(qcfs_to_if(&spiking, 4).unwrap_err().to_string().contains("expected a QCFS network"));
    Ok(())
}
