//! The compared conversions on whole networks.

use candle_core::{DType, Device};
use lmht_convert::{Calibration, Model, Result, qcfs_to_cos, qcfs_to_if, qcfs_to_srp, relu_to_if, relu_to_snm};
use lmht_nn::{ModelConfig, Network, NeuronConfig, Pass};

use crate::networks::{random_input, random_model, readout, relative_error};

fn relu() -> ModelConfig {
    ModelConfig { width: 4, neuron: NeuronConfig::relu(), timesteps: 1, ..ModelConfig::vgg13(5) }
}

fn qcfs() -> ModelConfig {
    ModelConfig { neuron: NeuronConfig::qcfs(4), ..relu() }
}

/// The rates of IF and SNM neurons approach the ANN as T grows.
#[test]
fn rmp_and_snm_converge_to_the_ann() -> Result<()> {
    let model = random_model(&relu(), 21)?;
    let images = random_input(&relu(), 16, false, 21)?;
    let (network, _) = model.build(DType::F64, &Device::Cpu)?;
    let calibration = Calibration::of(&network, &images, 100.)?;
    // Layers that are silent have no ceiling; any will do.
    let calibration = Calibration {
        ceilings: calibration.ceilings.into_iter().map(|(name, c)| (name, if c > 0. { c } else { 1. })).collect(),
    };
    let expected = readout(&model, &images)?;
    type Convert = fn(&Model, &Calibration, usize) -> Result<Model>;
    for (name, convert) in [("RMP", relu_to_if as Convert), ("SNM", relu_to_snm)] {
        let error = |timesteps| -> Result<f64> {
            relative_error(&readout(&convert(&model, &calibration, timesteps)?, &images)?, &expected)
        };
        let (coarse, fine) = (error(8)?, error(512)?);
        assert!(fine < 0.1 && fine < coarse, "{name}: {coarse} {fine}");
    }
    Ok(())
}

/// The answers of both methods come from the second stage only, and they do something.
#[test]
fn srp_and_cos_answer_after_their_first_stage() -> Result<()> {
    let model = random_model(&qcfs(), 23)?;
    let images = random_input(&qcfs(), 16, false, 23)?;
    let expected = readout(&model, &images)?;
    let plain = readout(&qcfs_to_if(&model, 4)?, &images)?;
    for (name, converted) in [("SRP", qcfs_to_srp(&model, 4, 4)?), ("COS", qcfs_to_cos(&model, 4, 4)?)] {
        let (network, _) = converted.build(DType::F64, &Device::Cpu)?;
        assert_eq!(network.forward(&images, &mut Pass::eval())?.dims(), [4, 2, 5], "{name}");
        let logits = readout(&converted, &images)?;
        assert!(relative_error(&logits, &plain)? > 0., "{name} did nothing");
        println!("{name}: {:.3}, IF: {:.3}", relative_error(&logits, &expected)?, relative_error(&plain, &expected)?);
        let error = network.forward(&images, &mut Pass::train()).unwrap_err().to_string();
        assert!(error.contains("layer1.1") && error.contains("no gradient"), "{error}");
        let json = converted.config.to_json();
        assert_eq!(ModelConfig::from_json(&json)?, converted.config);
    }
    Ok(())
}

#[test]
fn percentiles_are_order_statistics() -> Result<()> {
    let model = random_model(&relu(), 21)?;
    let (network, _) = model.build(DType::F64, &Device::Cpu)?;
    let images = random_input(&relu(), 16, false, 21)?;
    let mut previous = None::<Calibration>;
    for percentile in [0., 50., 99., 100.] {
        let calibration = Calibration::of(&network, &images, percentile)?;
        if let Some(previous) = previous {
            assert_eq!(previous.max(&calibration), calibration, "a higher percentile is no smaller");
        }
        previous = Some(calibration);
    }
    Ok(())
}

#[test]
fn what_cannot_be_converted_is_refused() -> Result<()> {
    let (ann, quantized) = (random_model(&relu(), 1)?, random_model(&qcfs(), 1)?);
    let calibration = Calibration::default();
    let message = |result: Result<Model>| result.unwrap_err().to_string();
    let text = message(relu_to_if(&ann, &calibration, 8));
    assert!(text.contains("layer1.1") && text.contains("calibrate"), "{text}");
    assert!(message(relu_to_snm(&quantized, &calibration, 8)).contains("expected a ReLU network"));
    assert!(message(qcfs_to_srp(&ann, 4, 4)).contains("expected a QCFS network"));
    for (tau, timesteps) in [(0, 4), (4, 0), (usize::MAX, 4)] {
        for converted in [qcfs_to_srp(&quantized, tau, timesteps), qcfs_to_cos(&quantized, tau, timesteps)] {
            let text = message(converted);
            assert!(text.contains("timesteps"), "{text}");
        }
    }
    let (network, _) = quantized.build(DType::F64, &Device::Cpu)?;
    let images = random_input(&qcfs(), 16, false, 1)?;
    let text = Calibration::of(&network, &images, 100.).unwrap_err().to_string();
    assert!(text.contains("ReLU"), "{text}");
    let (network, _): (Network, _) = ann.build(DType::F64, &Device::Cpu)?;
    assert!(Calibration::of(&network, &images, 101.).unwrap_err().to_string().contains("101"));
    Ok(())
}
