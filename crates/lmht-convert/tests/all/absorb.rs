//! Folding against the network before.

use candle_core::{DType, Device, Tensor};
use lmht_convert::{Result, absorb_bn, absorb_thresholds, compare_spikes, reparameterize};
use lmht_nn::{ModelConfig, NeuronConfig, Schedule, Tgim};

use crate::networks::{is_transformer, lmht, random_input, random_model, readout, relative_error, small_networks};

/// Batch norm, then θ, before and after reparameterization: the same spikes in every layer.
#[test]
fn folding_changes_no_spike() -> Result<()> {
    for (config, side) in small_networks() {
        let config = ModelConfig { neuron: lmht(3, Tgim::Full, 0.5), ..config };
        let model = random_model(&config, 13)?;
        let images = random_input(&config, side, true, 13)?;
        let labels = Tensor::zeros(2, DType::U32, &Device::Cpu)?;
        let expected = readout(&model, &images)?;
        let (before, _) = model.build(DType::F64, &Device::Cpu)?;
        let folded = absorb_bn(&model)?;
        assert!(!folded.tensors.keys().any(|name| name.ends_with("running_mean")));
        let mut steps = vec![folded.clone()];
        if !is_transformer(&config) {
            steps.push(absorb_thresholds(&model)?);
            steps.push(absorb_thresholds(&folded)?);
            steps.push(reparameterize(&absorb_thresholds(&folded)?, Schedule::FrontLoaded)?);
            steps.push(absorb_thresholds(&absorb_bn(&reparameterize(&model, Schedule::FrontLoaded)?)?)?);
        }
        for (i, step) in steps.iter().enumerate() {
            let (after, _) = step.build(DType::F64, &Device::Cpu)?;
            let comparison = compare_spikes(&before, &after, [Ok((images.clone(), labels.clone()))])?;
            assert_eq!(comparison.differing(), 0, "{:?} step {i}", config.backbone);
            assert!(comparison.layers.iter().any(|layer| layer.spikes_after > 0));
            let window = step.config.neuron.window() as f64;
            let error = relative_error(&(readout(step, &images)? * window)?, &expected)?;
            assert!(error < 1e-9, "{:?} step {i}: {error:e}", config.backbone);
        }
    }
    Ok(())
}

/// An ANN folds as well: batch norm does not ask what the activation is.
#[test]
fn an_ann_folds() -> Result<()> {
    for neuron in [NeuronConfig::relu(), NeuronConfig::qcfs(4)] {
        let config = ModelConfig { width: 4, neuron, timesteps: 1, ..ModelConfig::vgg13(5) };
        let model = random_model(&config, 17)?;
        let images = random_input(&config, 16, false, 17)?;
        let error = relative_error(&readout(&absorb_bn(&model)?, &images)?, &readout(&model, &images)?)?;
        assert!(error < 1e-9, "{error:e}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_folded_is_refused() -> Result<()> {
    let model = random_model(&ModelConfig { width: 2, ..ModelConfig::resnet18(5) }, 1)?;
    let folded = absorb_bn(&model)?;
    assert!(absorb_bn(&folded).unwrap_err().to_string().contains("no batch norm"));
    let unit = absorb_thresholds(&model)?;
    assert!(absorb_thresholds(&unit).unwrap_err().to_string().contains("already"));
    let ann = ModelConfig { neuron: NeuronConfig::relu(), timesteps: 1, ..model.config.clone() };
    assert!(absorb_thresholds(&random_model(&ann, 1)?).unwrap_err().to_string().contains("do not spike"));
    let transformer = ModelConfig { width: 8, heads: Some(2), depth: Some(1), ..ModelConfig::spikformer(5) };
    let text = absorb_thresholds(&random_model(&transformer, 1)?).unwrap_err().to_string();
    assert!(text.contains("attention"), "{text}");
    let mut missing = model;
    missing.tensors.remove("bn1.running_var");
    assert!(absorb_bn(&missing).unwrap_err().to_string().contains("bn1.running_var"));
    Ok(())
}
