//! The hybrid start against the QCFS network it came from.

use lmht_convert::{HybridStart, Result, qcfs_to_if, qcfs_to_lmht};
use lmht_nn::{ModelConfig, NeuronConfig};

use crate::networks::{is_transformer, random_input, random_model, readout, relative_error, small_networks};

/// Theorem 4.4 with Q = LT: not only in expectation but exactly, for the exact start. Attention multiplies spikes, and the
/// mean of products is no product of means; a max-pooling of spikes takes no part in the theorem either.
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
