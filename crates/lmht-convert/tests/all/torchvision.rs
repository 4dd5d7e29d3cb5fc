//! torchvision's own networks, read by the built-in map: logits of PyTorch before conversion, and conversion of them.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};
use lmht_convert::checkpoint::{self, ImportOptions, Layout};
use lmht_convert::{Calibration, Model, hybrid_report, relu_to_lmht};
use lmht_nn::{Backbone, ModelConfig, Network, NeuronConfig, ParamStore, Pass, Stem, readout};

use crate::imports::torchvision;
use crate::support::{fixture, fixture_bytes, python, values};

/// `noise` of `fixtures/make_torchvision.py`.
fn noise(name: &str, shape: &[usize]) -> Result<Tensor> {
    let fnv1a = |seed: u64, byte: u8| (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    let seed = name.bytes().fold(0xCBF2_9CE4_8422_2325, fnv1a);
    let values: Vec<f64> = (1..=shape.iter().product::<usize>() as u64)
        .map(|i| {
            let z = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 23) - 1.
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// `value` of `fixtures/make_torchvision.py`.
fn value(name: &str, shape: &[usize]) -> Result<Tensor> {
    let xs = noise(name, shape)?;
    let is_weight = name.ends_with("weight");
    if name.ends_with("running_var") || is_weight && shape.len() == 1 {
        xs.affine(0.5, 1.)
    } else if is_weight {
        let gain = if name.starts_with("features") || name.starts_with("classifier") { 6. } else { 3. };
        let fan_in: usize = shape[1..].iter().product();
        xs.affine((gain / fan_in as f64).sqrt(), 0.)
    } else {
        xs / 4.
    }
}

fn relu(backbone: Backbone, width: usize, n_classes: usize) -> ModelConfig {
    let base = ModelConfig::resnet18(n_classes);
    ModelConfig { backbone, width, stem: Stem::Imagenet, neuron: NeuronConfig::relu(), timesteps: 1, ..base }
}

/// The network of `config` with the weights of the formula, by way of a file with torchvision's names.
fn imported(config: &ModelConfig, has_norm: bool, dtype: DType) -> lmht_convert::Result<Model> {
    let config = ModelConfig { batch_norm: has_norm, ..config.clone() };
    let params = ParamStore::blank();
    Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
    let mut file = BTreeMap::new();
    for (name, var) in params.all() {
        let theirs = torchvision(&name, &config.backbone, has_norm);
        file.insert(theirs.clone(), value(&theirs, var.dims())?.to_dtype(dtype)?);
    }
    let bytes = safetensors::serialize(file, None).expect("tensors");
    let options = ImportOptions { layout: Layout::Torchvision, ..ImportOptions::default() };
    checkpoint::parse_for("torchvision.safetensors", &bytes, &config, &options)?.into_model(&config)
}

fn logits(model: &Model, images: &Tensor) -> lmht_convert::Result<Tensor> {
    let (network, _) = model.build(images.dtype(), &Device::Cpu)?;
    Ok(readout(&network.forward(images, &mut Pass::eval())?)?)
}

/// The largest difference, of logits of 1 or less as it is, of larger ones in proportion.
fn difference(a: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(a.dims(), expected.dims());
    let largest = values(expected).iter().fold(1., |most: f64, b| most.max(b.abs()));
    values(a).iter().zip(values(expected)).fold(0., |most: f64, (a, b)| most.max((a - b).abs())) / largest
}

/// Every network of the map computes what torchvision's does, as `fixtures/make_torchvision.py` recorded it in float64.
#[test]
fn logits_are_those_of_torchvision() -> lmht_convert::Result<()> {
    let recorded: serde_json::Value = serde_json::from_slice(&fixture_bytes("torchvision.json")).expect("JSON");
    let resnets = [(Backbone::Resnet18, "resnet18"), (Backbone::Resnet34, "resnet34")];
    let vggs = [
        (Backbone::Vgg11, "vgg11"),
        (Backbone::Vgg13Standard, "vgg13"),
        (Backbone::Vgg16, "vgg16"),
        (Backbone::Vgg19, "vgg19"),
    ];
    let resnets = resnets.map(|(backbone, name)| (relu(backbone, 64, 10), name.to_string(), true, 48));
    let vggs = vggs.into_iter().flat_map(|(backbone, name)| {
        let config = relu(backbone, 2, 10);
        [(config.clone(), name.to_string(), false, 224), (config, format!("{name}_bn"), true, 224)]
    });
    for (config, name, has_norm, side) in resnets.into_iter().chain(vggs) {
        let rows: Vec<Vec<f64>> = serde_json::from_value(recorded[&name].clone()).expect("logits");
        let expected = Tensor::new(rows, &Device::Cpu)?;
        let images = noise("images", &[2, 3, side, side])?;
        for (dtype, most) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
            let model = imported(&config, has_norm, dtype)?;
            let found = logits(&model, &images.to_dtype(dtype)?)?;
            let error = difference(&found, &expected);
            assert!(error < most, "{name}, {dtype:?}: {error:e}");
        }
    }
    Ok(())
}

/// At T = 1 the staircase is all that is lost of a VGG; at T = 2 the report names the maxima that are taken at every timestep,
/// all but the one that is moved before the first neurons.
#[test]
fn a_vgg_of_torchvision_is_converted() -> lmht_convert::Result<()> {
    let ann = imported(&relu(Backbone::Vgg11, 2, 10), true, DType::F32)?;
    let images = noise("images", &[2, 3, 224, 224])?.to_dtype(DType::F32)?;
    let expected = logits(&ann, &images)?;
    let mut last = f64::INFINITY;
    let (network, _) = ann.build(DType::F32, &Device::Cpu)?;
    for levels in [2, 16, 120] {
        let calibration = Calibration::least_error(&network, &images, levels)?;
        let spiking = relu_to_lmht(&ann, &calibration, levels, 1)?;
        let report = hybrid_report(&ann, &spiking, [])?;
        assert!(report.deviations.len() == 1, "{report:?}"); // the staircase
        let error = difference(&logits(&spiking, &images)?, &expected);
        assert!(error < last / 2., "L = {levels}: {error:e} after {last:e}");
        last = error;
    }
    let calibration = Calibration::least_error(&network, &images, 32)?;
    let spiking = relu_to_lmht(&ann, &calibration, 16, 2)?;
    assert_eq!(spiking.config.stem, Stem::ImagenetPoolFirst);
    let report = hybrid_report(&ann, &spiking, [])?;
    let n_named = report.deviations.iter().filter(|deviation| deviation.layer.starts_with("max-pooling")).count();
    assert!(report.pools_first && n_named == 4, "{report:?}");
    Ok(())
}

/// torchvision's ResNet-18 with random weights, as `torch.save` writes it, imported, calibrated and converted.
#[test]
fn pytorchs_resnet18_is_imported_and_converted() -> lmht_convert::Result<()> {
    let Some(mut python) = python() else { return Ok(()) };
    let folder = tempfile::tempdir().expect("a folder");
    let output = python.arg("-B").arg(fixture("make_torchvision.py")).arg("save").arg(folder.path()).output();
    let output = output.expect("python");
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("No module named 'torchvision'") {
        println!(
            "skipped: this Python has no torchvision; set LMHT_PYTHON to one that has torch, torchvision and safetensors"
        );
        return Ok(());
    }
    assert!(output.status.success(), "{errors}");
    let config = relu(Backbone::Resnet18, 64, 1000);
    let options = ImportOptions { layout: Layout::Torchvision, ..ImportOptions::default() };
    let ann = checkpoint::read_for(folder.path().join("resnet18.pth"), &config, &options)?.into_model(&config)?;
    let recorded = candle_core::safetensors::load(folder.path().join("resnet18.safetensors"), &Device::Cpu)?;
    let (images, expected) = (&recorded["images"], &recorded["logits"]);
    let error = difference(&logits(&ann, images)?, expected);
    println!(
        "torchvision's ResNet-18: logits of {} differ by {error:e}",
        values(expected).iter().fold(0., |a: f64, b| a.max(b.abs()))
    );
    assert!(error < 1e-5, "{error:e}");

    let (network, _) = ann.build(DType::F32, &Device::Cpu)?;
    let mut last = f64::INFINITY;
    for levels in [3, 63] {
        let calibration = Calibration::least_error(&network, images, levels * 2)?;
        let spiking = relu_to_lmht(&ann, &calibration, levels, 2)?;
        let error = difference(&logits(&spiking, images)?, expected);
        assert!(error < last / 4., "L = {levels}: {error:e} after {last:e}");
        last = error;
    }
    Ok(())
}
