//! Checkpoints fitted to networks, and networks written for PyTorch.

use std::collections::BTreeSet;

use candle_core::{DType, Device, Tensor};
use lmht_convert::checkpoint::{self, Checkpoint, Format};
use lmht_convert::{Error, Model, checkpoint::to_published};
use lmht_nn::neurons;
use lmht_nn::{Backbone, ModelConfig, NeuronConfig, Pass, Tgim};

use crate::support::{assert_refused, bytes, fixture, model, python, qcfs, small, values};

fn written(model: &Model) -> Checkpoint {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.safetensors");
    checkpoint::write_published(&path, model).unwrap();
    checkpoint::read(&path).unwrap()
}

#[test]
fn a_published_qcfs_network_becomes_a_model_that_runs() {
    let checkpoint = checkpoint::read(fixture("resnet20_qcfs.pth")).unwrap();
    assert!(checkpoint.notes.iter().any(|note| note.contains("dropped 21 counters")), "{:?}", checkpoint.notes);
    let named = checkpoint.tensors.clone();
    let model = checkpoint.into_model(&qcfs()).unwrap();
    assert_eq!(model.tensors.keys().collect::<BTreeSet<_>>(), named.keys().collect::<BTreeSet<_>>());
    for (name, tensor) in &model.tensors {
        assert_eq!(values(tensor), values(&named[name]), "{name}");
    }
    assert!(model.tensors.contains_key("conv2_x.0.residual_function.2.thresh"));
    let (network, _) = model.build(DType::F32, &Device::Cpu).unwrap();
    let images = Tensor::ones((1, 3, 8, 8), DType::F32, &Device::Cpu).unwrap();
    let logits = network.forward(&images, &mut Pass::eval()).unwrap();
    assert_eq!(logits.dims(), [1, 1, 3]);
    assert!(values(&logits).iter().all(|logit| logit.is_finite()));
}

#[test]
fn out_and_in_again_gives_the_same_bytes() {
    let with = |neuron: NeuronConfig, config: ModelConfig| {
        let timesteps = if neuron.is_spiking() { config.timesteps } else { 1 };
        ModelConfig { neuron, timesteps, ..config }
    };
    let causal = NeuronConfig::Lmht(neurons::Lmht {
        levels: 4,
        tgim: Tgim::Causal,
        v_threshold: None,
        v_init: 0.,
        gradient: lmht_nn::GradientMode::Detached,
    });
    let mut configs: Vec<_> = [
        Backbone::Resnet18,
        Backbone::Resnet19,
        Backbone::Resnet20,
        Backbone::MsResnet18,
        Backbone::Vgg13,
        Backbone::Cifarnet,
        Backbone::Spikformer,
    ]
    .map(small)
    .into();
    configs.push(with(NeuronConfig::integrate_and_fire(), small(Backbone::MsResnet18)));
    configs.push(with(NeuronConfig::qcfs(8), small(Backbone::Resnet20)));
    configs.push(with(NeuronConfig::relu(), small(Backbone::Resnet20)));
    configs.push(ModelConfig { timesteps: 3, ..with(causal, small(Backbone::Resnet20)) });
    for config in configs {
        for dtype in [DType::F32, DType::F64] {
            let mut before = model(&config, dtype);
            if config.timesteps == 3 {
                // What a causal T-GIM holds at 0 rests at the logit 0.
                for (name, tensor) in &mut before.tensors {
                    if name.ends_with(".mask") {
                        let mut rows = values(tensor);
                        for future in [1, 2, 5] {
                            rows[future] = 0.;
                        }
                        let rows = Tensor::from_vec(rows, tensor.dims(), &Device::Cpu).unwrap();
                        *tensor = rows.to_dtype(dtype).unwrap();
                    }
                }
            }
            let after = written(&before).into_model(&config).unwrap();
            assert_eq!(after.config, before.config);
            assert!(bytes(&after) == bytes(&before), "{:?} {dtype:?}", config.backbone);
            let folder = tempfile::tempdir().unwrap();
            let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
            checkpoint::write_published(&first, &before).unwrap();
            checkpoint::write_published(&second, &after).unwrap();
            assert!(std::fs::read(first).unwrap() == std::fs::read(second).unwrap(), "{:?}", config.backbone);
        }
    }
}

#[test]
fn what_strict_loading_asks_for_is_there() {
    let config = small(Backbone::MsResnet18);
    let model = model(&config, DType::F32);
    let tensors = to_published(&model).unwrap();
    for (name, tensor) in &model.tensors {
        assert_eq!(values(&tensors[name]), values(tensor), "{name}");
    }
    let [mask, linear] = ["mask", "mask_linear"].map(|copy| &tensors[&format!("layer2.1.sn2.{copy}")]);
    assert_eq!((mask.dims(), linear.dims()), (&[2, 2, 1, 1, 1, 1][..], &[2, 2, 1, 1, 1][..]));
    assert_eq!(values(mask), values(linear));
    let counter = &tensors["layer4.0.conv1.1.num_batches_tracked"];
    assert_eq!((counter.dtype(), counter.dims(), counter.to_scalar::<i64>().unwrap()), (DType::I64, &[][..], 0));
    let unused: Vec<_> = tensors.keys().filter(|name| name.starts_with("sn1.")).collect();
    assert_eq!(unused, ["sn1.alpha", "sn1.mask", "sn1.mask_linear", "sn1.v_threshold"]);
    assert_eq!(values(&tensors["sn1.mask"]), [0.; 4]);
    let n_counters = tensors.keys().filter(|name| name.ends_with("num_batches_tracked")).count();
    let n_norms = model.tensors.keys().filter(|name| name.ends_with("running_var")).count();
    let n_masks = model.tensors.keys().filter(|name| name.ends_with("mask")).count();
    assert_eq!(n_counters, n_norms);
    assert_eq!(tensors.len(), model.tensors.len() + n_norms + n_masks + 4);

    // The published classes have no fixed leak and no identity for a T-GIM.
    let identity = NeuronConfig::Lmht(neurons::Lmht {
        levels: 2,
        tgim: Tgim::Identity,
        v_threshold: None,
        v_init: 0.,
        gradient: lmht_nn::GradientMode::Detached,
    });
    for (neuron, part) in [(NeuronConfig::mht(2), "M-HT"), (identity, "tgim = identity")] {
        let other = crate::support::model(&ModelConfig { neuron, ..config.clone() }, DType::F32);
        assert_refused(to_published(&other), &[part, "which the published networks do not have"]);
    }
}

#[test]
fn pytorch_takes_what_we_write() {
    let lmht = |backbone, t| ModelConfig { width: 4, timesteps: t, ..small(backbone) };
    let relu_free = ModelConfig { width: 1, n_classes: 3, ..small(Backbone::Resnet20) };
    let networks = [
        ("resnet18-lmht", lmht(Backbone::Resnet18, 2)),
        ("ms-resnet18-lmht", lmht(Backbone::MsResnet18, 4)),
        ("resnet20-qcfs", qcfs()),
        ("resnet20-if", ModelConfig { neuron: NeuronConfig::integrate_and_fire(), ..relu_free }),
    ];
    let Some(mut python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (name, config) in &networks {
        for ending in ["safetensors", "pth"] {
            let path = folder.path().join(format!("{name}.{ending}"));
            checkpoint::write_published(path, &model(config, DType::F32)).unwrap();
        }
    }
    let output = python.arg("-B").arg(fixture("make.py")).arg("load").arg(folder.path()).output().unwrap();
    let files = networks.iter().flat_map(|(name, _)| [format!("{name}.pth"), format!("{name}.safetensors")]);
    let mut loaded: Vec<_> = files.collect();
    loaded.sort();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().collect::<Vec<_>>(), loaded, "{errors}");
}

#[test]
fn a_name_of_torch_gets_a_file_of_torch() {
    let folder = tempfile::tempdir().unwrap();
    for (dtype, name) in [(DType::F32, "a.pth"), (DType::F64, "a.PT")] {
        let config = ModelConfig { width: 4, timesteps: 2, ..small(Backbone::Resnet18) };
        let model = model(&config, dtype);
        let path = folder.path().join(name);
        checkpoint::write_published(&path, &model).unwrap();
        let read = checkpoint::read(&path).unwrap();
        assert_eq!(read.format, checkpoint::Format::Pytorch);
        let safetensors = folder.path().join("a.safetensors");
        checkpoint::write_published(&safetensors, &model).unwrap();
        let expected = checkpoint::read(&safetensors).unwrap().tensors;
        assert_eq!(read.tensors.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, tensor) in &expected {
            let found = &read.tensors[name];
            assert_eq!((found.dims(), found.dtype()), (tensor.dims(), tensor.dtype()), "{name}");
            assert_eq!(values(found), values(tensor), "{name}");
        }
        // The same model, the same bytes.
        let before = std::fs::read(&path).unwrap();
        checkpoint::write_published(&path, &model).unwrap();
        assert!(std::fs::read(&path).unwrap() == before);
    }
}

#[test]
fn one_error_lists_every_difference_with_the_nearest_name() {
    let config = small(Backbone::Resnet18);
    let mut checkpoint = written(&model(&config, DType::F32));
    let tensors = &mut checkpoint.tensors;
    let moved = tensors.remove("layer1.0.conv1.0.weight").unwrap();
    tensors.insert("layer1.0.conv1.weight".into(), moved);
    tensors.insert("head.qqqqqqqqqqqqqqqqqqqqqqqqqqqqq".into(), tensors["fc.0.bias"].clone());
    tensors.insert("fc.0.bias".into(), Tensor::zeros(12, DType::F32, &Device::Cpu).unwrap());
    tensors.remove("bn1.weight");
    let error = checkpoint.into_model(&config).unwrap_err();
    let Error::Network(lmht_nn::Error::Mismatch { differences, .. }) = &error else { panic!("{error}") };
    assert_eq!(
        differences,
        "  fc.0.bias: expected shape [10], got [12]\n  missing: bn1.weight [2]\n  missing: layer1.0.conv1.0.weight [2, 2, 3, \
         3] (nearest in the file: layer1.0.conv1.weight)\n  not part of this network: head.qqqqqqqqqqqqqqqqqqqqqqqqqqqqq \
         [10]\n  not part of this network: layer1.0.conv1.weight [2, 2, 3, 3] (nearest missing: \
         layer1.0.conv1.0.weight)\n"
    );
}

#[test]
fn a_long_list_is_cut_and_counted() {
    let mut checkpoint = written(&model(&small(Backbone::Resnet18), DType::F32));
    for i in 0..160 {
        checkpoint.tensors.insert(format!("extra.{i:03}"), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
    }
    assert_refused(
        checkpoint.into_model(&small(Backbone::Resnet18)),
        &["not part of this network: extra.039 [1]\n  not part of this network: … and 120 more\n"],
    );
}

#[test]
fn values_that_no_network_has_are_refused() {
    let config = small(Backbone::Resnet20);
    let refused = |config: &ModelConfig, name: &str, value: f32, parts: &[&str]| {
        let mut checkpoint = written(&model(config, DType::F32));
        let tensor = &checkpoint.tensors[name];
        let mut values = vec![1f32; tensor.elem_count()];
        *values.last_mut().unwrap() = value;
        let tensor = Tensor::from_vec(values, tensor.dims(), &Device::Cpu).unwrap();
        checkpoint.tensors.insert(name.into(), tensor);
        let origin = checkpoint.origin.clone();
        assert_refused(checkpoint.into_model(config), &[&[origin.as_str(), name], parts].concat());
    };
    refused(&config, "fc.weight", f32::NAN, &["1 of 80 values", "NaN", "index 79"]);
    refused(&config, "conv1.0.weight", f32::NEG_INFINITY, &["-inf"]);
    refused(&config, "conv1.2.v_threshold", 0., &["is 0, expected above 0"]);
    refused(&config, "conv1.1.running_var", -1., &["is -1, expected at least 0"]);
    refused(&qcfs(), "conv1.2.thresh", -8., &["is -8, expected above 0"]);
}

#[test]
fn the_type_is_the_widest_of_the_file() {
    let config = small(Backbone::Resnet20);
    let checkpoint = written(&model(&config, DType::F32));
    let cast = |dtype: DType| {
        let mut other = checkpoint.clone();
        for tensor in other.tensors.values_mut() {
            *tensor = tensor.to_dtype(dtype).unwrap();
        }
        other.into_model(&config).unwrap()
    };
    for (dtype, expected) in [(DType::BF16, DType::F32), (DType::F32, DType::F32), (DType::F64, DType::F64)] {
        assert!(cast(dtype).tensors.values().all(|tensor| tensor.dtype() == expected), "{dtype:?}");
    }
    // Half precision widens without loss.
    let (half, whole) = (cast(DType::F16), cast(DType::F32));
    let bias = |model: &Model| values(&model.tensors["fc.bias"]);
    assert!(bias(&half).iter().zip(bias(&whole)).all(|(half, whole)| (half - whole).abs() <= whole.abs() / 1024.));
}

#[test]
fn safetensors_that_pytorch_wrote_become_a_model() {
    let neuron = NeuronConfig::integrate_and_fire();
    let config = ModelConfig { width: 1, in_channels: 1, neuron, ..ModelConfig::vgg13(2) };
    let checkpoint = checkpoint::read(fixture("vgg13_if.safetensors")).unwrap();
    assert_eq!(checkpoint.notes, ["dropped 10 counters num_batches_tracked, which change nothing"]);
    let model = checkpoint.into_model(&config).unwrap();
    assert_eq!(values(&model.tensors["layer5.1.v_threshold"]), [1.]);
    model.build(DType::F32, &Device::Cpu).unwrap();
}

#[test]
fn a_model_folders_tensors_are_a_checkpoint_too() {
    let config = small(Backbone::Vgg13);
    let model = model(&config, DType::F32);
    let checkpoint = checkpoint::parse("model.safetensors", &bytes(&model)).unwrap();
    assert_eq!((checkpoint.format, checkpoint.notes.len()), (Format::Safetensors, 0));
    assert!(bytes(&checkpoint.into_model(&config).unwrap()) == bytes(&model));
}
