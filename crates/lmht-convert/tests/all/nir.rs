//! NIR files against the networks that they were made of.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use hdf5_reader::checksum::jenkins_lookup3;
use hdf5_reader::group::Group;
use hdf5_reader::{Datatype, Hdf5File};
use hdf5_writer::{DatasetBuilder, FILTER_DEFLATE, FilterDescription, Hdf5Builder, WriteOptions};
use lmht_convert::nir::{self, Profile, Verification};
use lmht_convert::{Model, Result, absorb_bn, absorb_thresholds, reparameterize};
use lmht_nn::neurons;
use lmht_nn::{
    GradientMode, ModelConfig, NeuronConfig, NeuronEvent, Observer, Pass, Schedule, SignalKind, Stem, Tgim, ops,
};

use crate::networks::{is_transformer, random_input, random_model, small_networks};

fn if_neuron(v_init: f64) -> NeuronConfig {
    NeuronConfig::If(neurons::If { v_threshold: 1., v_init, gradient: GradientMode::Full })
}

fn lif_neuron(leak: f64, v_init: f64) -> NeuronConfig {
    NeuronConfig::Lif(neurons::Lif { leak, v_threshold: 1., v_init, gradient: GradientMode::Full })
}

fn learned_leak() -> NeuronConfig {
    let gradient = GradientMode::Detached;
    NeuronConfig::Lmht(neurons::Lmht { levels: 1, tgim: Tgim::Identity, v_threshold: None, v_init: 0.25, gradient })
}

/// Every network that NIR can hold.
fn networks() -> impl Iterator<Item = (ModelConfig, usize)> {
    small_networks().into_iter().filter(|(config, _)| !is_transformer(config) && config.stem == Stem::Cifar)
}

/// Random tensors, with leaks that NIR can hold.
fn model(config: &ModelConfig, seed: u64) -> Result<Model> {
    let mut model = random_model(config, seed)?;
    for (_, logit) in model.tensors.iter_mut().filter(|(name, _)| name.ends_with(".alpha")) {
        *logit = logit.abs()?.neg()?;
    }
    Ok(model)
}

fn as_f32(model: &Model) -> Result<Model> {
    let tensors = model.tensors.iter().map(|(name, tensor)| Ok((name.clone(), tensor.to_dtype(DType::F32)?)));
    Ok(Model { config: model.config.clone(), tensors: tensors.collect::<Result<_>>()? })
}

fn spikes(verification: &Verification) -> u64 {
    verification.layers.iter().map(|layer| layer.spikes_after).sum()
}

/// A file in float64 has every spike of the network, at every timestep, whatever backbone, leak, v(0), θ, scale and input.
#[test]
fn a_file_has_every_spike_of_the_network() -> Result<()> {
    let neurons = [if_neuron(0.), if_neuron(0.5), lif_neuron(0.5, 0.5), lif_neuron(0.75, 0.), learned_leak()];
    for (seed, (config, side)) in networks().enumerate() {
        let mut n_spikes = 0;
        for (i, neuron) in neurons.iter().enumerate() {
            let input_scale = if i % 2 == 0 { 1. } else { 2.5 };
            let config = ModelConfig { neuron: neuron.clone(), timesteps: 3, input_scale, ..config.clone() };
            let model = model(&config, (seed * 10 + i) as u64)?;
            let images = random_input(&config, side, i % 2 == 1, seed as u64)?;
            let export = nir::export(&model, &[3, side, side], Profile::Spec)?;
            let verification = nir::verify(&export.bytes, &model, &images)?;
            assert_eq!(verification.n_images, 2);
            assert_eq!(verification.differing(), 0, "{:?} {neuron:?}: {verification:?}", config.backbone);
            assert!(verification.logit_error < 1e-9, "{:?}: {:e}", config.backbone, verification.logit_error);
            n_spikes += spikes(&verification);
        }
        assert!(n_spikes > 0, "{:?}: no layer fired, so nothing was compared", config.backbone);
    }
    Ok(())
}

/// Batch norm and θ may have been absorbed before, in either order.
#[test]
fn absorbed_networks_export_as_well() -> Result<()> {
    for config in [ModelConfig::resnet20(5), ModelConfig::ms_resnet18(5)] {
        let config = ModelConfig { width: 2, timesteps: 3, neuron: lif_neuron(0.75, 0.5), ..config };
        let original = model(&config, 5)?;
        let images = random_input(&config, 8, true, 5)?;
        for absorbed in
            [absorb_bn(&original)?, absorb_thresholds(&original)?, absorb_thresholds(&absorb_bn(&original)?)?]
        {
            let export = nir::export(&absorbed, &[3, 8, 8], Profile::Spec)?;
            for model in [&original, &absorbed] {
                let verification = nir::verify(&export.bytes, model, &images)?;
                assert_eq!(verification.differing(), 0);
                assert!(verification.logit_error < 1e-9 && spikes(&verification) > 0);
            }
        }
    }
    Ok(())
}

/// Files of the importers' profiles are in float32. Where no spike of an image differs, its logits differ by rounding alone.
/// Where one does, what follows is another network's answer, for which there is no bound: then another image is shown. Spikes
/// begin to differ in some layer whose input is the same: there a potential has to lie within rounding of its threshold, one in
/// 100,000 at most (`docs/paper.md`, "Float32": 1 or 2 in a million), and is a spike too many now and one too few later.
#[test]
fn every_profile_says_the_same_network() -> Result<()> {
    for (seed, (config, side)) in networks().enumerate() {
        for (name, profile) in Profile::ALL {
            // sinabs cannot import LIF neurons on maps.
            let neuron = if profile == Profile::Sinabs { if_neuron(0.5) } else { learned_leak() };
            let config = ModelConfig { neuron, timesteps: 3, ..config.clone() };
            let model = as_f32(&model(&config, seed as u64)?)?;
            let export = nir::export(&model, &[3, side, side], profile)?;
            let mut same = 0;
            for (image, at) in (0..4).flat_map(|draw| [(draw, 0), (draw, 1)]) {
                let images = random_input(&config, side, false, seed as u64 + 100 * image)?.narrow(0, at, 1)?;
                let verification = nir::verify(&export.bytes, &model, &images)?;
                if let Some(first) = verification.layers.iter().find(|layer| layer.differing > 0) {
                    let flips = 1 + first.n_counts / 100_000;
                    assert!(first.differing <= 2 * flips, "{name} {:?}: {verification:?}", config.backbone);
                    continue;
                }
                assert!(verification.logit_error < 1e-4, "{name} {:?}: {verification:?}", config.backbone);
                same += 1;
                if same == 2 {
                    break;
                }
            }
            assert_eq!(same, 2, "{name} {:?}: spikes differ for nearly every image", config.backbone);
        }
    }
    Ok(())
}

/// The one place where sinabs takes a LIF neuron: after a linear layer. Its leak is e^(-1/τ), and the replay knows that.
#[test]
fn sinabs_leaks_exponentially() -> Result<()> {
    let config = ModelConfig { width: 1, timesteps: 3, neuron: learned_leak(), ..ModelConfig::cifarnet(5) };
    let mut model = model(&config, 3)?;
    for (name, logit) in model.tensors.iter_mut().filter(|(name, _)| name.ends_with(".alpha")) {
        if !name.starts_with("fc.") {
            *logit = logit.zeros_like()?; // λ = 1
        }
    }
    let images = random_input(&config, 32, false, 3)?;
    let export = nir::export(&model, &[3, 32, 32], Profile::Sinabs)?;
    assert_eq!(texts(&export.bytes, "node/nodes/fc.1/type"), ["LIF"]);
    let tau = numbers(&export.bytes, "node/nodes/fc.1/tau")[0];
    let logit = model.tensors["fc.1.alpha"].to_vec1::<f64>()?[0];
    let leak = 1. / (1. + (-logit).exp()) + 0.5;
    assert!(((-1. / tau).exp() - leak).abs() < 1e-6 && leak < 1.);
    let verification = nir::verify(&export.bytes, &model, &images)?;
    assert!(verification.differing() == 0 && verification.logit_error < 1e-4, "{verification:?}");
    Ok(())
}

/// Weights, images and potentials on a coarse grid: currents meet the threshold exactly, and ties fire here as there.
#[test]
fn ties_fire() -> Result<()> {
    for neuron in [if_neuron(0.5), lif_neuron(0.5, 0.5)] {
        let config = ModelConfig { width: 2, timesteps: 4, neuron, batch_norm: false, ..ModelConfig::ms_resnet18(4) };
        let mut model = random_model(&config, 11)?;
        let grid = |x: &Tensor| -> Result<Tensor> { Ok(((x * 4.)?.round()? / 4.)?) };
        for (name, tensor) in &mut model.tensors {
            *tensor = if name.ends_with("v_threshold") { tensor.ones_like()? } else { grid(tensor)? };
        }
        let images = grid(&random_input(&config, 8, false, 11)?)?;

        /// Units that sit on their threshold after a spike: v = 0 and so m was θ.
        #[derive(Default)]
        struct Counts(u64);
        impl Observer for Counts {
            fn neuron(&mut self, event: &NeuronEvent<'_>) -> lmht_nn::Result<()> {
                self.0 += event.output.to_tensor()?.sum_all()?.to_scalar::<f64>()? as u64;
                Ok(())
            }
        }
        let (network, _) = model.build(DType::F64, &Device::Cpu)?;
        let mut at_theta = Counts::default();
        network.forward(&images, &mut Pass::eval().observed_by(&mut at_theta))?;
        let mut above = model.clone();
        for (_, theta) in above.tensors.iter_mut().filter(|(name, _)| name.ends_with("v_threshold")) {
            *theta = (&*theta * (1. + 1e-9))?;
        }
        let (network, _) = above.build(DType::F64, &Device::Cpu)?;
        let mut above_theta = Counts::default();
        network.forward(&images, &mut Pass::eval().observed_by(&mut above_theta))?;
        assert_ne!(at_theta.0, above_theta.0, "no potential met the threshold: the test would not see a tie");

        for (name, profile) in Profile::ALL {
            if profile == Profile::Sinabs && matches!(config.neuron, NeuronConfig::Lif(_)) {
                continue;
            }
            let export = nir::export(&as_f32(&model)?, &[3, 8, 8], profile)?;
            let verification = nir::verify(&export.bytes, &model, &images)?;
            assert_eq!(verification.differing(), 0, "{name} {:?}", config.neuron);
        }
    }
    Ok(())
}

/// What a profile is: the nodes and edges of the first layers, the pooling and the head, read from the file.
#[test]
fn the_nodes_are_those_of_the_profile() -> Result<()> {
    let config = ModelConfig { width: 2, timesteps: 2, neuron: lif_neuron(0.75, 0.), ..ModelConfig::resnet18(5) };
    let leaky = as_f32(&model(&config, 3)?)?;
    let plain = ModelConfig { neuron: if_neuron(0.5), ..config };
    let plain = as_f32(&model(&plain, 3)?)?;
    for (name, profile) in Profile::ALL {
        let export = nir::export(&plain, &[3, 16, 16], profile)?;
        let bytes = &export.bytes;
        let kind = |node: &str| texts(bytes, &format!("node/nodes/{node}/type")).remove(0);
        let field = |node: &str, field: &str| numbers(bytes, &format!("node/nodes/{node}/{field}"));
        let edges = edges(bytes);
        let has = |from: &str, to: &str| edges.contains(&(from.to_string(), to.to_string()));

        assert_eq!(texts(bytes, "version"), ["1.0.8"]);
        assert_eq!(texts(bytes, "node/type"), ["NIRGraph"]);
        assert_eq!(texts(bytes, "node/metadata/reset"), ["subtract"]);
        assert_eq!(texts(bytes, "node/metadata/profile"), [name]);
        assert_eq!(numbers(bytes, "node/metadata/v_init"), [0.5]);
        assert_eq!(numbers(bytes, "node/metadata/timesteps"), [2.]);
        assert_eq!((kind("input"), kind("conv1")), ("Input".into(), "Conv2d".into()));
        assert_eq!(field("input", "shape"), [3., 16., 16.]);
        assert_eq!(shape(bytes, "node/nodes/conv1/weight"), [2, 3, 3, 3]);
        assert_eq!(field("conv1", "input_shape"), [16., 16.]);
        assert_eq!(field("layer2.0.conv1.0", "stride"), [2., 2.]);
        assert_eq!((field("conv1", "padding"), field("conv1", "groups")), (vec![1., 1.], vec![1.]));
        let lif = matches!(profile, Profile::SnnTorch | Profile::Norse);
        assert_eq!(kind("sn1"), if lif { "LIF" } else { "IF" });
        // Full shape, not one number: the Python reader compares shapes along edges.
        assert_eq!(shape(bytes, "node/nodes/sn1/v_threshold"), [2, 16, 16]);
        // One unit in the last place below θ.
        let theta = plain.tensors["sn1.v_threshold"].to_vec1::<f32>()?[0];
        if profile != Profile::Norse {
            assert!(field("sn1", "v_threshold").iter().all(|&v| v as f32 == theta.next_down()));
        }

        // Two paths into one neuron: the identity with its θ, and the 1x1 convolution of a new stage.
        let scale = "layer1.0.sn2.scale";
        assert_eq!(kind(scale), if profile == Profile::Spec { "Scale" } else { "Conv2d" });
        for (from, to) in [
            ("input", "conv1"),
            ("conv1", "sn1"),
            ("sn1", "layer1.0.conv1.0"),
            ("sn1", scale),
            (scale, "layer1.0.sn2"),
            ("layer1.0.conv2.0", "layer1.0.sn2"),
            ("layer2.0.downsample.0.0", "layer2.0.sn2"),
            ("layer1.1.sn2", "layer2.0.downsample.0.0"),
            ("layer4.1.sn2", "pool"),
            ("fc.0", "output"),
        ] {
            assert!(has(from, to), "{name}: no edge from {from} to {to}");
        }
        let sums = matches!(profile, Profile::Norse | Profile::Sinabs);
        assert_eq!(kind("pool"), if sums { "SumPool2d" } else { "AvgPool2d" });
        assert_eq!(field("pool", "kernel_size"), [2., 2.]);
        let flat = !matches!(profile, Profile::Norse | Profile::SnnTorch);
        assert_eq!(kind("fc.0"), if flat { "Affine" } else { "Conv2d" });
        assert_eq!(has("pool", "flatten") && has("flatten", "fc.0"), flat);
        assert_eq!(field("output", "shape"), if flat { vec![5.] } else { vec![5., 1., 1.] });
        assert!(export.notes.iter().any(|note| note.contains("v_init")));
        assert!(export.notes.iter().any(|note| note.starts_with(name)));
        let ordered = export.notes.iter().any(|note| note.contains("execution_order"));
        assert_eq!(ordered, matches!(profile, Profile::Norse | Profile::Sinabs));

        if profile == Profile::Sinabs {
            continue;
        }
        let bytes = nir::export(&leaky, &[3, 16, 16], profile)?.bytes;
        let dt = numbers(&bytes, "node/metadata/dt")[0];
        let neuron = |field: &str| numbers(&bytes, &format!("node/nodes/sn1/{field}"))[0];
        let theta = f64::from(leaky.tensors["sn1.v_threshold"].to_vec1::<f32>()?[0]);
        assert!((neuron("tau") / dt - 4.).abs() < 1e-6, "{name}: λ = 1 - dt/τ = 3/4");
        let (r, threshold) = if profile == Profile::Norse { (1., theta / 4.) } else { (4., theta) };
        assert_eq!(neuron("r"), r, "{name}");
        assert!((neuron("v_threshold") - threshold).abs() < 1e-6, "{name}");
    }
    Ok(())
}

/// A file that says something else is found out, whatever was changed.
#[test]
fn a_tampered_file_is_caught() -> Result<()> {
    let config = ModelConfig { width: 2, timesteps: 3, neuron: lif_neuron(0.75, 0.5), ..ModelConfig::resnet20(5) };
    let model = model(&config, 21)?;
    let images = random_input(&config, 8, true, 21)?;
    let bytes = nir::export(&model, &[3, 8, 8], Profile::Spec)?.bytes;
    let untouched = nir::verify(&rewrite(&bytes, |_, _| {}), &model, &images)?;
    assert_eq!((untouched.differing(), untouched.logit_error < 1e-9), (0, true), "the copy is faithful");
    let times = |path: &'static str, factor: f64| {
        rewrite(&bytes, |at, content| {
            if at == path {
                content.floats().iter_mut().for_each(|x| *x *= factor);
            }
        })
    };
    let first_layer = |bytes: &[u8]| -> Result<u64> { Ok(nir::verify(bytes, &model, &images)?.layers[0].differing) };
    for (path, factor) in [
        ("node/nodes/conv1.0/weight", 1.1),
        ("node/nodes/conv1.0/bias", -1.),
        ("node/nodes/conv1.2/v_threshold", 1.2),
        ("node/nodes/conv1.2/tau", 1.5),
        ("node/nodes/conv1.2/r", 1.2),
        ("node/metadata/dt", 1.5),
        ("node/metadata/v_init", 0.),
    ] {
        assert!(first_layer(&times(path, factor))? > 0, "{path} times {factor} went unseen");
    }
    // No spike shows the last layer's weights; the logits do.
    let last = nir::verify(&times("node/nodes/fc/weight", 1.01), &model, &images)?;
    assert!(last.differing() == 0 && last.logit_error > 1e-4, "{last:?}");

    // The shortcut's path, cut or led past its factor.
    let edges_as = |change: fn(&mut Vec<(String, String)>)| {
        rewrite(&bytes, |at, content| {
            if let ("node/edges", Content::Texts(_, texts)) = (at, content) {
                let mut edges = pairs(texts);
                change(&mut edges);
                *texts = edges.into_iter().flat_map(|(from, to)| [from, to]).collect();
            }
        })
    };
    let shortcut = "conv2_x.0.relu.scale";
    assert!(edges(&bytes).contains(&(shortcut.into(), "conv2_x.0.relu".into())));
    let cut = edges_as(|edges| edges.retain(|(from, to)| from != "conv2_x.0.relu.scale" || to != "conv2_x.0.relu"));
    assert!(nir::verify(&cut, &model, &images)?.differing() > 0);
    let moved = edges_as(|edges| {
        for (from, _) in edges.iter_mut().filter(|(from, _)| from == "conv2_x.0.relu.scale") {
            *from = "conv1.2".into();
        }
    });
    assert!(nir::verify(&moved, &model, &images)?.differing() > 0);
    let message = |bytes: &[u8]| nir::verify(bytes, &model, &images).unwrap_err().to_string();
    let circle = edges_as(|edges| edges.push(("fc".into(), "conv1.2".into())));
    assert!(message(&circle).contains("feeds itself"), "{}", message(&circle));
    let nowhere = edges_as(|edges| edges[3].0 = "conv9".into());
    assert!(message(&nowhere).contains("conv9"), "{}", message(&nowhere));
    let unfed = edges_as(|edges| edges.retain(|(_, to)| to != "fc"));
    assert!(message(&unfed).contains("node fc: no edge"), "{}", message(&unfed));
    let zero = rewrite(&bytes, |at, content| {
        if let ("node/metadata/reset", Content::Texts(_, texts)) = (at, content) {
            texts[0] = "zero".into();
        }
    });
    assert!(message(&zero).contains("reset is zero"), "{}", message(&zero));
    Ok(())
}

#[test]
fn a_file_of_another_network_is_no_match() -> Result<()> {
    let config = ModelConfig { width: 2, timesteps: 2, neuron: if_neuron(0.), ..ModelConfig::resnet20(5) };
    let own = model(&config, 1)?;
    let bytes = nir::export(&own, &[3, 8, 8], Profile::Spec)?.bytes;
    let message = |config: &ModelConfig, side: usize| -> Result<String> {
        let images = random_input(config, side, false, 1)?;
        Ok(nir::verify(&bytes, &model(config, 1)?, &images).unwrap_err().to_string())
    };
    let text = message(&ModelConfig { timesteps: 3, ..config.clone() }, 8)?;
    assert!(text.contains("2 timesteps"), "{text}");
    let text = message(&ModelConfig { backbone: lmht_nn::Backbone::Resnet18, ..config.clone() }, 8)?;
    assert!(text.contains("sn1"), "{text}");
    let text = message(&config, 16)?;
    assert!(text.contains("[3, 8, 8]"), "{text}");
    Ok(())
}

/// Whatever the bytes are, reading ends in a verdict or an error that names the file.
#[test]
fn damaged_files_are_refused() -> Result<()> {
    let config = ModelConfig { width: 1, timesteps: 1, neuron: if_neuron(0.), ..ModelConfig::resnet20(2) };
    let model = model(&config, 1)?;
    let images = random_input(&config, 4, false, 1)?;
    let bytes = nir::export(&model, &[3, 4, 4], Profile::Spec)?.bytes;
    for end in [0, 7, 100, bytes.len() / 2, bytes.len() - 9] {
        let text = nir::verify(&bytes[..end], &model, &images).unwrap_err().to_string();
        assert!(text.contains("NIR file"), "{end}: {text}");
    }
    for i in (0..bytes.len()).step_by(bytes.len() / 300) {
        let mut damaged = bytes.clone();
        damaged[i] ^= 0x55;
        let _ = nir::verify(&damaged, &model, &images);
    }
    let missing = nir::verify_file("no/such.nir", &model, &images).unwrap_err().to_string();
    assert!(missing.contains("no/such.nir"), "{missing}");
    Ok(())
}

/// What a file of some kB claims to hold is checked before memory is taken: for one array, and for all together.
#[test]
fn arrays_larger_than_the_file_can_hold_are_refused() -> Result<()> {
    let config = ModelConfig { width: 1, timesteps: 1, neuron: if_neuron(0.), ..ModelConfig::resnet20(2) };
    let model = model(&config, 1)?;
    let images = random_input(&config, 4, false, 1)?;
    let bytes = nir::export(&model, &[3, 4, 4], Profile::Spec)?.bytes;
    let with_bias = |len: u64| {
        let marked = rewrite(&bytes, |at, content| {
            if at == "node/nodes/fc/bias" {
                *content = Content::Floats(vec![12_345], vec![0.; 12_345]);
            }
        });
        let marker = 12_345_u64.to_le_bytes();
        let at = (0..marked.len()).find(|&i| marked[i..].starts_with(&marker)).expect("a length");
        // The checksum at the end of the object header, `OHDR`, that the length stands in.
        let from = marked[..at].windows(4).rposition(|tag| tag == b"OHDR").expect("a header");
        let is_end = |&end: &usize| marked[end..].starts_with(&jenkins_lookup3(&marked[from..end]).to_le_bytes());
        let end = (at + 8..marked.len()).find(is_end).expect("a checksum");
        let mut file = marked.clone();
        file[at..at + 8].copy_from_slice(&len.to_le_bytes());
        let checksum = jenkins_lookup3(&file[from..end]);
        file[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
        file
    };
    for len in [1 << 28, 1 << 40, u64::MAX] {
        let text = nir::verify(&with_bias(len), &model, &images).unwrap_err().to_string();
        assert!(text.contains("fc/bias: it claims") && text.contains("of this length"), "{len}: {text}");
    }

    // Zeros that were compressed twice: each array alone is within the limit.
    let deflate = || FilterDescription { id: FILTER_DEFLATE, name: None, client_data: vec![9] };
    let len = bytes.len() * 100;
    let mut builder = Hdf5Builder::new();
    for (path, content) in datasets(&bytes) {
        let dataset = match content {
            Content::Texts(shape, texts) => DatasetBuilder::fixed_string_data(path, shape, &texts),
            Content::Floats(..) if ["node/nodes/conv1.0/bias", "node/nodes/fc/bias"].contains(&path.as_str()) => {
                let zeros = DatasetBuilder::typed_data(path, vec![len as u64], &vec![0_f32; len]);
                zeros.map(|zeros| zeros.chunked(vec![len as u64]).filter(deflate()).filter(deflate()))
            }
            Content::Floats(shape, data) => DatasetBuilder::typed_data(path, shape, &data),
            Content::Integers(shape, data) => DatasetBuilder::typed_data(path, shape, &data),
        };
        builder = builder.dataset(dataset.unwrap());
    }
    let file = builder.into_plan().unwrap().encode(WriteOptions::default()).unwrap();
    assert!(len * 8 < file.len() * 1032);
    let text = nir::verify(&file, &model, &images).unwrap_err().to_string();
    assert!(text.contains("/bias: it claims"), "{text}");
    Ok(())
}

#[test]
fn a_file_is_written_whole_or_not_at_all() -> Result<()> {
    let folder = tempfile::tempdir().map_err(candle_core::Error::wrap)?;
    let path = folder.path().join("network.nir");
    let config = ModelConfig { width: 1, timesteps: 2, neuron: if_neuron(0.), ..ModelConfig::resnet20(2) };
    let good = model(&config, 1)?;
    let notes = nir::write(&path, &good, &[3, 8, 8], Profile::SpikingJelly)?;
    assert!(notes.iter().any(|note| note.contains("v_reset = None")));
    let before = std::fs::read(&path).map_err(candle_core::Error::wrap)?;
    let mut bad = good.clone();
    bad.tensors.insert("fc.bias".into(), Tensor::new(&[0., f64::NAN], &Device::Cpu)?);
    let text = nir::write(&path, &bad, &[3, 8, 8], Profile::Spec).unwrap_err().to_string();
    assert!(text.contains("fc.bias") && text.contains("finite"), "{text}");
    assert_eq!(std::fs::read(&path).map_err(candle_core::Error::wrap)?, before);
    assert_eq!(nir::verify_file(&path, &good, &random_input(&config, 8, false, 1)?)?.layers.len(), 19);
    Ok(())
}

#[test]
fn what_nir_cannot_hold_is_refused() -> Result<()> {
    let message = |config: ModelConfig, profile: Profile| -> Result<String> {
        let config = ModelConfig { width: 2, ..config };
        Ok(nir::export(&random_model(&config, 1)?, &[3, 32, 32], profile).unwrap_err().to_string())
    };
    let base = ModelConfig { timesteps: 4, neuron: if_neuron(0.), ..ModelConfig::resnet18(5) };
    let with = |neuron: NeuronConfig| ModelConfig { neuron, ..base.clone() };
    let gradient = GradientMode::Detached;
    let lmht =
        |levels, tgim| NeuronConfig::Lmht(neurons::Lmht { levels, tgim, v_threshold: None, v_init: 0., gradient });
    let window = |window| {
        NeuronConfig::Reparameterized(neurons::Reparameterized {
            window,
            schedule: Schedule::FrontLoaded,
            tgim: Tgim::Identity,
            leak: Some(1.),
            v_threshold: 1.,
            v_init: 0.,
        })
    };
    let ann = |neuron| ModelConfig { timesteps: 1, ..with(neuron) };
    for (config, profile, parts) in [
        (with(lmht(2, Tgim::Full)), Profile::Spec, ["sn1", "L = 2", "qcfs_to_if"]),
        (with(NeuronConfig::mht(3)), Profile::Spec, ["sn1", "L = 3", "one threshold"]),
        (with(lmht(1, Tgim::Full)), Profile::Spec, ["sn1", "T-GIM", "identity"]),
        (with(lmht(1, Tgim::Causal)), Profile::Spec, ["sn1", "T-GIM", "identity"]),
        (with(lif_neuron(1.25, 0.)), Profile::Spec, ["sn1", "1.25", "λ <= 1"]),
        (with(window(2)), Profile::Spec, ["sn1", "window of 2", "qcfs_to_if"]),
        (with(lif_neuron(0., 0.)), Profile::SpikingJelly, ["sn1", "λ is 0", "spikingjelly"]),
        (with(lif_neuron(0.5, 0.)), Profile::Sinabs, ["sn1", "λ = 0.5", "maps"]),
        (ann(NeuronConfig::qcfs(4)), Profile::Spec, ["sn1", "QCFS", "qcfs_to_if"]),
        (ann(NeuronConfig::relu()), Profile::Spec, ["sn1", "ReLU", "spiking"]),
        (ModelConfig { stem: Stem::Imagenet, ..base.clone() }, Profile::Spec, ["after sn1", "max-pooling", "stem"]),
    ] {
        let text = message(config, profile)?;
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    // A learned λ is refused where it is above 1, with its layer and value.
    let config = ModelConfig { width: 2, ..with(learned_leak()) };
    let mut model = model(&config, 1)?;
    model.tensors.insert("layer3.1.sn2.alpha".into(), Tensor::new(&[1.0986122886681098], &Device::Cpu)?); // ln 3
    let text = nir::export(&model, &[3, 8, 8], Profile::Spec).unwrap_err().to_string();
    assert!(text.contains("layer3.1.sn2") && text.contains("λ is 1.25"), "{text}");
    model.tensors.remove("conv1.weight");
    let text = nir::export(&model, &[3, 8, 8], Profile::Spec).unwrap_err().to_string();
    assert!(text.contains("conv1.weight"), "{text}");

    let spikformer =
        ModelConfig { depth: Some(1), heads: Some(2), neuron: if_neuron(0.), ..ModelConfig::spikformer(5) };
    let spikformer = random_model(&ModelConfig { width: 8, ..spikformer }, 1)?;
    let text = nir::export(&spikformer, &[3, 8, 8], Profile::Spec).unwrap_err().to_string();
    assert!(text.contains("attn"), "{text}");
    Ok(())
}

/// Why windows are refused: gathered and taken as they arrive, the same currents give other spikes. Windows of one timestep
/// are plain neurons, and are exported.
#[test]
fn a_window_is_not_a_plain_neuron() -> Result<()> {
    let run = |window: usize, currents: &[f64]| -> Result<Vec<f64>> {
        let config = lmht_core::LmhtConfig {
            timesteps: currents.len(),
            levels: 1,
            v_threshold: 1.,
            v_init: 0.,
            tgim: Tgim::Identity,
            gradient: GradientMode::Detached,
            window,
        };
        let neuron = config.check().map_err(candle_core::Error::wrap)?;
        let xs = Tensor::new(currents, &Device::Cpu)?.reshape((currents.len(), 1))?;
        let xs = ops::mix_windows(&xs, None, currents.len() / window, window, Schedule::FrontLoaded)?;
        Ok(ops::neuron(&xs, &neuron, &ops::Learned::Nothing { leak: 1. })?.flatten_all()?.to_vec1()?)
    };
    assert_eq!(run(2, &[1., -1.])?, [0., 0.]);
    assert_eq!(run(1, &[1., -1.])?, [1., 0.]);

    let config = ModelConfig { width: 2, timesteps: 3, neuron: lif_neuron(0.75, 0.5), ..ModelConfig::resnet20(5) };
    let twin = reparameterize(&model(&config, 2)?, Schedule::FrontLoaded)?;
    let images = random_input(&config, 8, true, 2)?;
    let verification = nir::verify(&nir::export(&twin, &[3, 8, 8], Profile::Spec)?.bytes, &twin, &images)?;
    assert!(verification.differing() == 0 && spikes(&verification) > 0);
    Ok(())
}

/// Non-square maps: a mean over the whole map is one node; only a kernel over the map must be square.
#[test]
fn images_need_not_be_square() -> Result<()> {
    let config = ModelConfig { width: 2, timesteps: 2, neuron: if_neuron(0.5), ..ModelConfig::resnet18(3) };
    let model = as_f32(&model(&config, 9)?)?;
    let images = random_input(&config, 16, false, 9)?.narrow(2, 0, 8)?;
    for (name, profile) in Profile::ALL {
        let verification = nir::verify(&nir::export(&model, &[3, 8, 16], profile)?.bytes, &model, &images)?;
        assert!(verification.differing() * 1000 <= 16 * 8, "{name}: {verification:?}");
    }
    Ok(())
}

/// Arrays that are larger than a chunk come back whole.
#[test]
fn large_maps_are_cut_into_chunks() -> Result<()> {
    let config = ModelConfig { width: 4, timesteps: 1, neuron: if_neuron(0.), ..ModelConfig::resnet20(2) };
    let model = as_f32(&model(&config, 1)?)?;
    let bytes = nir::export(&model, &[3, 300, 300], Profile::Spec)?.bytes;
    let path = "node/nodes/conv1.2/v_threshold";
    let dataset = Hdf5File::from_bytes(&bytes).unwrap().dataset(path).unwrap();
    assert_eq!(dataset.chunks(), Some(vec![2, 300, 300]), "four maps in two chunks");
    let threshold = f64::from(model.tensors["conv1.2.v_threshold"].to_vec1::<f32>()?[0].next_down());
    assert_eq!(numbers(&bytes, path), vec![threshold; 4 * 300 * 300]);
    // Over 40 MB of parameters of neurons, each layer one number over and over.
    assert!(bytes.len() < 500_000, "{} bytes", bytes.len());
    Ok(())
}

/// The file as Python's package `nir` wrote it after reading ours (see tests/nir/check.py): h5py's layout, the same spikes.
#[test]
fn a_file_that_python_wrote_is_read() -> Result<()> {
    let (model, images) = golden()?;
    let mut bytes = Vec::new();
    let mut file = flate2::read::GzDecoder::new(&include_bytes!("../nir/resnet20_by_python.nir.gz")[..]);
    file.read_to_end(&mut bytes).map_err(candle_core::Error::wrap)?;
    let verification = nir::verify(&bytes, &model, &images)?;
    assert_eq!(verification.differing(), 0);
    assert!(verification.logit_error < 1e-9 && spikes(&verification) > 0, "{verification:?}");
    Ok(())
}

/// The network of the golden file.
fn golden() -> Result<(Model, Tensor)> {
    let config = ModelConfig { width: 1, timesteps: 2, neuron: lif_neuron(0.75, 0.5), ..ModelConfig::resnet20(3) };
    Ok((model(&config, 2024)?, random_input(&config, 8, true, 2024)?))
}

/// Python's reader takes every profile, and its own replay in NumPy has our spikes.
///
/// `LMHT_PYTHON` names an interpreter with the packages `nir` and `numpy`; otherwise `python3` is tried. With
/// `LMHT_NIR_GOLDEN`, the golden file is made anew under that path.
#[test]
fn python_reads_and_replays_the_files() -> Result<()> {
    let python = std::env::var("LMHT_PYTHON").unwrap_or_else(|_| "python3".into());
    let probe = Command::new(&python).args(["-c", "import nir, numpy"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        println!("skipped: {python} has no package nir; set LMHT_PYTHON to an interpreter that has nir and numpy");
        return Ok(());
    }
    let folder = tempfile::tempdir().map_err(candle_core::Error::wrap)?;
    let (model_of_golden, images) = golden()?;
    let mut arguments = vec![dump(folder.path(), "golden", &model_of_golden, &images, Profile::Spec)?];
    let networks = [
        (ModelConfig { width: 2, ..ModelConfig::resnet19(5) }, 8),
        (ModelConfig { width: 2, ..ModelConfig::ms_resnet18(5) }, 8),
        (ModelConfig { width: 2, ..ModelConfig::vgg13(5) }, 16),
        (ModelConfig { width: 1, ..ModelConfig::cifarnet(5) }, 32),
    ];
    for (seed, (config, side)) in networks.into_iter().enumerate() {
        for (name, profile) in Profile::ALL {
            let neuron = if profile == Profile::Sinabs { if_neuron(0.5) } else { learned_leak() };
            let config = ModelConfig { neuron, timesteps: 2, ..config.clone() };
            let model = model(&config, seed as u64)?;
            let images = random_input(&config, side, false, seed as u64)?;
            let name = format!("{:?}_{name}", config.backbone);
            arguments.push(dump(folder.path(), &name, &model, &images, profile)?);
        }
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nir/check.py");
    if let Some(copy) = std::env::var_os("LMHT_NIR_GOLDEN") {
        let mut command = Command::new(&python);
        command.arg(&script).arg("--copy").arg(copy).arg(&arguments[0]);
        assert!(command.status().map_err(candle_core::Error::wrap)?.success());
    }
    let output = Command::new(&python).arg(&script).args(&arguments).output().map_err(candle_core::Error::wrap)?;
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().filter(|line| line.contains("spikes agree")).count(), arguments.len());
    Ok(())
}

/// What the simulators make of the files of their profiles once the notes are heeded: our logits.
///
/// Only with `LMHT_PYTHON`, since to import torch takes long; a simulator that is not installed is skipped.
#[test]
fn importers_have_our_logits() -> Result<()> {
    let Ok(python) = std::env::var("LMHT_PYTHON") else {
        println!(
            "skipped: set LMHT_PYTHON to an interpreter with torch, nir, and norse, sinabs, snntorch or spikingjelly"
        );
        return Ok(());
    };
    let probe = Command::new(&python).args(["-c", "import nir, torch"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        println!("skipped: {python} has no nir or no torch");
        return Ok(());
    }
    let folder = tempfile::tempdir().map_err(candle_core::Error::wrap)?;
    let mut arguments = Vec::new();
    for (config, side) in [
        (ModelConfig { width: 2, ..ModelConfig::resnet20(5) }, 8),
        (ModelConfig { width: 2, ..ModelConfig::ms_resnet18(5) }, 16),
        (ModelConfig { width: 2, ..ModelConfig::vgg13(5) }, 16),
        (ModelConfig { width: 1, ..ModelConfig::cifarnet(5) }, 32),
    ] {
        for (kind, neuron) in [("IF", if_neuron(0.)), ("LIF", lif_neuron(0.75, 0.))] {
            for (name, profile) in &Profile::ALL[1..] {
                if *profile == Profile::Sinabs && kind == "LIF" {
                    continue;
                }
                let config = ModelConfig { neuron: neuron.clone(), timesteps: 6, ..config.clone() };
                let (model, images) = (as_f32(&model(&config, 5)?)?, random_input(&config, side, false, 5)?);
                let name = format!("{:?}_{kind}_{name}", config.backbone);
                arguments.push(dump(folder.path(), &name, &model, &images, *profile)?);
            }
        }
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nir/importers.py");
    let mut command = Command::new(&python);
    // It imports check.py, and no cache of that is to lie beside the sources.
    command.arg("-B").arg(script).args(&arguments);
    let output = command.output().map_err(candle_core::Error::wrap)?;
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Writes a file, and beside it what the network was shown and sent; returns the path of the file.
fn dump(folder: &Path, name: &str, model: &Model, images: &Tensor, profile: Profile) -> Result<PathBuf> {
    let path = folder.join(format!("{name}.nir"));
    let side = images.dim(images.rank() - 1)?;
    nir::write(&path, model, &[3, side, side], profile)?;
    let (network, _) = model.build(DType::F64, &Device::Cpu)?;
    let mut sent = Dump::default();
    let logits = network.forward(images, &mut Pass::eval().observed_by(&mut sent))?;
    sent.0.insert("images".into(), images.contiguous()?);
    sent.0.insert("logits".into(), logits);
    candle_core::safetensors::save(&sent.0.into_iter().collect(), path.with_extension("safetensors"))?;
    Ok(path)
}

/// Spikes of every layer under their names, for a file.
#[derive(Default)]
struct Dump(BTreeMap<String, Tensor>);

impl Observer for Dump {
    fn neuron(&mut self, event: &NeuronEvent<'_>) -> lmht_nn::Result<()> {
        let SignalKind::Spikes { v_threshold } = event.signal else { panic!("{}: no spikes", event.name) };
        let spikes = (event.output.to_tensor()? / v_threshold)?.round()?.to_dtype(DType::U8)?;
        self.0.insert(format!("spikes.{}", event.name), spikes);
        Ok(())
    }
}

/// What a dataset holds, and its shape.
enum Content {
    Texts(Vec<u64>, Vec<String>),
    Floats(Vec<u64>, Vec<f64>),
    Integers(Vec<u64>, Vec<i64>),
}

impl Content {
    fn floats(&mut self) -> &mut Vec<f64> {
        match self {
            Self::Floats(_, data) => data,
            _ => panic!("not floating point"),
        }
    }
}

/// Every dataset of a file by its path.
fn datasets(bytes: &[u8]) -> BTreeMap<String, Content> {
    fn walk(group: &Group, path: &str, found: &mut BTreeMap<String, Content>) {
        let (groups, datasets) = group.members().unwrap();
        for group in groups {
            walk(&group, &format!("{path}{}/", group.name()), found);
        }
        for dataset in datasets {
            let shape = dataset.shape().to_vec();
            let content = match dataset.dtype() {
                Datatype::FloatingPoint { size: 4, .. } => {
                    let data = dataset.read_array::<f32>().unwrap();
                    Content::Floats(shape, data.iter().map(|&x| f64::from(x)).collect())
                }
                Datatype::FloatingPoint { .. } => {
                    Content::Floats(shape, dataset.read_array::<f64>().unwrap().iter().copied().collect())
                }
                Datatype::FixedPoint { .. } => {
                    Content::Integers(shape, dataset.read_array::<i64>().unwrap().iter().copied().collect())
                }
                _ => Content::Texts(shape, dataset.read_strings().unwrap()),
            };
            found.insert(format!("{path}{}", dataset.name()), content);
        }
    }
    let file = Hdf5File::from_bytes(bytes).unwrap();
    let mut found = BTreeMap::new();
    walk(&file.root_group().unwrap(), "", &mut found);
    found
}

/// The file with its datasets changed, in float64.
fn rewrite(bytes: &[u8], change: impl Fn(&str, &mut Content)) -> Vec<u8> {
    let mut builder = Hdf5Builder::new();
    for (path, mut content) in datasets(bytes) {
        change(&path, &mut content);
        let dataset = match content {
            Content::Texts(shape, texts) => {
                let shape = if shape.is_empty() { shape } else { vec![texts.len() as u64 / 2, 2] };
                DatasetBuilder::fixed_string_data(path, shape, &texts)
            }
            Content::Floats(shape, data) => DatasetBuilder::typed_data(path, shape, &data),
            Content::Integers(shape, data) => DatasetBuilder::typed_data(path, shape, &data),
        };
        builder = builder.dataset(dataset.unwrap());
    }
    builder.into_plan().unwrap().encode(WriteOptions::default()).unwrap()
}

fn texts(bytes: &[u8], path: &str) -> Vec<String> {
    Hdf5File::from_bytes(bytes).unwrap().dataset(path).unwrap().read_strings().unwrap()
}

fn shape(bytes: &[u8], path: &str) -> Vec<u64> {
    Hdf5File::from_bytes(bytes).unwrap().dataset(path).unwrap().shape().to_vec()
}

fn numbers(bytes: &[u8], path: &str) -> Vec<f64> {
    match datasets(bytes).remove(path).unwrap_or_else(|| panic!("{path} is missing")) {
        Content::Floats(_, data) => data,
        Content::Integers(_, data) => data.into_iter().map(|x| x as f64).collect(),
        Content::Texts(..) => panic!("{path} is text"),
    }
}

fn pairs(texts: &[String]) -> Vec<(String, String)> {
    texts.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

fn edges(bytes: &[u8]) -> Vec<(String, String)> {
    pairs(&texts(bytes, "node/edges"))
}
