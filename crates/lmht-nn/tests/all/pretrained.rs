//! Model folders: what is saved comes back to the bit, and what is wrong with a folder is said.

use crate::support::{assert_error, tensor, values};
use candle_core::{DType, Device, Tensor};
use lmht_nn::{
    Error, ModelCard, ModelConfig, Network, NeuronConfig, ParamStore, Pass, Result, Stem, from_pretrained, readout,
    save_pretrained,
};
use lmht_train::loss;
use std::fs;
use std::path::{Path, PathBuf};

const CPU: Device = Device::Cpu;

fn folder() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().expect("a temporary folder");
    let path = parent.path().join("model");
    (parent, path)
}

/// A network after a step of training: weights, statistics, T-GIMs, leaks are no longer what they started from.
fn trained(config: &ModelConfig, dtype: DType) -> Result<(Network, ParamStore)> {
    let params = ParamStore::new(5);
    let network = Network::new(config, params.builder(dtype, &CPU))?;
    let images = images(config, dtype)?;
    let labels = Tensor::new(&[0u32, 1], &CPU)?;
    let logits = network.forward(&images, &mut Pass::train())?;
    let grads = loss::cross_entropy(&readout(&logits)?, &labels, 0.)?.backward()?;
    for (_, var) in params.trainable() {
        var.set(&(var.as_detached_tensor() - (grads.get(&var).expect("a gradient") * 0.1)?)?)?;
    }
    Ok((network, params))
}

fn images(config: &ModelConfig, dtype: DType) -> Result<Tensor> {
    Ok((tensor(1, &[2, config.in_channels, 32, 32], dtype, &CPU)? * 2.)?)
}

fn bits(network: &Network, dtype: DType) -> Result<Vec<u64>> {
    let logits = network.forward(&images(network.config(), dtype)?, &mut Pass::eval())?;
    Ok(values(&logits)?.into_iter().map(f64::to_bits).collect())
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

fn small() -> ModelConfig {
    ModelConfig { width: 2, ..ModelConfig::resnet20(10) }
}

#[test]
fn what_is_saved_comes_back_to_the_bit() -> Result<()> {
    let imagenet = ModelConfig { stem: Stem::Imagenet, width: 2, in_channels: 1, ..ModelConfig::resnet18(7) };
    let vgg = ModelConfig { width: 2, input_scale: 2., ..ModelConfig::vgg13(10) };
    let qcfs = ModelConfig { timesteps: 1, neuron: NeuronConfig::qcfs(4), ..small() };
    for config in [imagenet, vgg, qcfs, small()] {
        for dtype in [DType::F32, DType::F64] {
            let (_parent, path) = folder();
            let (network, params) = trained(&config, dtype)?;
            save_pretrained(&path, &config, &params, &ModelCard::default())?;
            assert_eq!(names(&path), ["README.md", "SHA256SUMS", "config.json", "model.safetensors"]);
            let (loaded, loaded_params) = from_pretrained(&path, dtype, &CPU)?;
            assert_eq!(loaded.config(), &config);
            assert_eq!(loaded_params.to_safetensors()?, params.to_safetensors()?);
            assert_eq!(bits(&loaded, dtype)?, bits(&network, dtype)?);
        }
    }
    Ok(())
}

#[test]
fn tensors_are_converted_to_the_type_that_is_asked_for() -> Result<()> {
    let (_parent, path) = folder();
    let (_, params) = trained(&small(), DType::F32)?;
    save_pretrained(&path, &small(), &params, &ModelCard::default())?;
    let (_, precise) = from_pretrained(&path, DType::F64, &CPU)?;
    for ((name, saved), (_, loaded)) in params.all().iter().zip(precise.all()) {
        assert_eq!(loaded.dtype(), DType::F64, "{name}");
        assert_eq!(values(saved)?, values(&loaded)?, "{name}");
    }
    Ok(())
}

#[test]
fn the_card_says_what_it_was_told() -> Result<()> {
    let (_parent, path) = folder();
    let params = ParamStore::new(1);
    Network::new(&small(), params.builder(DType::F32, &CPU))?;
    let card = ModelCard {
        command: "cargo xtask train a.toml".into(),
        data: "Fashion-MNIST, 10 000 test images".into(),
        top1: Some(0.91234),
        config: "{\n  \"seed\": 42\n}".into(),
        preprocessor: None,
    };
    save_pretrained(&path, &small(), &params, &card)?;
    let text = fs::read_to_string(path.join("README.md")).expect("a card");
    for part in [
        "# ResNet-20, L = 2, T = 2\n",
        "| 91.23 % |\n",
        "| `cargo xtask train a.toml` |\n",
        "| Fashion-MNIST, 10 000 test images |\n",
        // Closed on a line of its own, with or without a line feed at the end of the configuration.
        "```json\n{\n  \"seed\": 42\n}\n```\n",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    save_pretrained(&path, &small(), &params, &ModelCard { top1: None, ..card })?;
    assert!(fs::read_to_string(path.join("README.md")).expect("a card").contains("| not measured |"));
    Ok(())
}

#[test]
fn a_model_folder_is_replaced_and_another_folder_is_not() -> Result<()> {
    let (parent, path) = folder();
    let (_, first) = trained(&small(), DType::F32)?;
    save_pretrained(&path, &small(), &first, &ModelCard::default())?;
    let other = ModelConfig { n_classes: 3, ..small() };
    let (network, second) = trained(&other, DType::F32)?;
    save_pretrained(&path, &other, &second, &ModelCard::default())?;
    let (loaded, _) = from_pretrained(&path, DType::F32, &CPU)?;
    assert_eq!(bits(&loaded, DType::F32)?, bits(&network, DType::F32)?);
    assert_eq!(names(parent.path()), ["model"], "nothing is left beside it");

    // With somebody's notes in it, it stays as it is.
    fs::write(path.join("notes.txt"), "three days of work").expect("a file");
    let error = save_pretrained(&path, &small(), &first, &ModelCard::default());
    assert_error(error, &[&path.display().to_string(), "notes.txt", "move that elsewhere"]);
    assert_eq!(fs::read(path.join("notes.txt")).expect("the notes"), b"three days of work");
    assert_eq!(bits(&from_pretrained(&path, DType::F32, &CPU)?.0, DType::F32)?, bits(&network, DType::F32)?);
    assert_eq!(names(parent.path()), ["model"]);

    // A file in its place, and a parent that does not exist.
    let file = parent.path().join("file");
    fs::write(&file, "x").expect("a file");
    assert_error(save_pretrained(&file, &small(), &first, &ModelCard::default()), &["file", "something exists there"]);
    let orphan = parent.path().join("missing/model");
    assert_error(save_pretrained(&orphan, &small(), &first, &ModelCard::default()), &["missing/model", "exist?"]);
    Ok(())
}

#[test]
fn what_is_wrong_with_a_folder_is_said() -> Result<()> {
    let (_parent, path) = folder();
    let read = || from_pretrained(&path, DType::F32, &CPU);
    let (config_path, weights_path) = (path.join("config.json"), path.join("model.safetensors"));
    let (config_name, weights_name) = (config_path.display().to_string(), weights_path.display().to_string());
    let says_file = |result: Result<(Network, ParamStore)>, at: &Path, parts: &[&str]| {
        let error = result.map(|_| ()).expect_err("a broken folder");
        assert!(matches!(&error, Error::File { path, .. } | Error::Read { path, .. } if path == at), "{error}");
        assert_error(Err::<(), _>(error), parts);
    };
    says_file(read(), &config_path, &[&config_name, "No such file", "expected a model folder"]);

    let (_, params) = trained(&small(), DType::F32)?;
    save_pretrained(&path, &small(), &params, &ModelCard::default())?;
    let weights = fs::read(&weights_path).expect("the weights");
    // A flipped bit of a weight is a weight; only the digest tells.
    let mut flipped = weights.clone();
    *flipped.last_mut().expect("a byte") ^= 1;
    fs::write(&weights_path, &flipped).expect("a file");
    says_file(read(), &weights_path, &[&weights_name, "damaged", "SHA256SUMS", "on purpose"]);
    // Folders of others have no digests.
    fs::remove_file(path.join("SHA256SUMS")).expect("it was there");
    assert!(read().is_ok());
    fs::remove_file(&weights_path).expect("it was there");
    says_file(read(), &weights_path, &[&weights_name, "No such file"]);
    fs::write(&weights_path, &weights[..weights.len() / 2]).expect("a file");
    says_file(read(), &weights_path, &[&weights_name, "expected a safetensors file"]);
    fs::write(&weights_path, &weights).expect("a file");
    assert!(read().is_ok());

    // The configuration of something else, and of another network of ours.
    let config = fs::read_to_string(&config_path).expect("the configuration");
    fs::write(&config_path, r#"{ "architectures": ["BertModel"], "hidden_size": 768 }"#).expect("a file");
    says_file(read(), &config_path, &[&config_name, "unknown field `architectures`"]);
    let future = config.replace(r#""format_version": 1"#, r#""format_version": 7"#);
    fs::write(&config_path, future).expect("a file");
    says_file(read(), &config_path, &[&config_name, "format_version is 7", "use a newer one"]);
    let other = ModelConfig { n_classes: 12, neuron: NeuronConfig::mht(2), ..small() };
    fs::write(&config_path, other.to_json()).expect("a file");
    let error = read().map(|_| ()).expect_err("another network");
    let Error::Mismatch { origin, differences } = &error else { panic!("{error}") };
    assert_eq!(*origin, weights_name);
    // 19 neurons with T-GIM and leak each that M-HT has not, and the two tensors of the last layer.
    assert_eq!(differences.lines().count(), 2 * 19 + 2, "{differences}");
    for part in [
        "fc.weight: expected shape [12, 8], got [10, 8]\n",
        "fc.bias: expected shape [12], got [10]\n",
        "not part of this network: conv1.2.alpha [1]\n",
        "not part of this network: conv4_x.2.relu.mask [2, 2, 1, 1, 1, 1]\n",
    ] {
        assert!(differences.contains(part), "{part:?} in {differences}");
    }
    Ok(())
}

/// The sizes are within their bounds one by one; together they are more than any machine has.
#[test]
fn a_network_that_fits_no_machine_is_refused_before_memory_is_taken() -> Result<()> {
    let huge = ModelConfig { width: 65536, n_classes: 65536, ..ModelConfig::resnet20(10) };
    let huger = ModelConfig { width: 65536, ..ModelConfig::resnet18(10) };
    let error = Network::new(&huger, ParamStore::new(1).builder(DType::F32, &CPU)).map(|_| ());
    assert_error(error, &["GB", "65536", "expected a smaller width"]);

    // In a folder, the file is compared with what the configuration asks for first.
    let (_parent, path) = folder();
    let (_, params) = trained(&small(), DType::F32)?;
    save_pretrained(&path, &small(), &params, &ModelCard::default())?;
    fs::write(path.join("config.json"), huge.to_json()).expect("a file");
    fs::remove_file(path.join("SHA256SUMS")).expect("it was there");
    let error = from_pretrained(&path, DType::F32, &CPU).map(|_| ());
    assert_error(error, &["model.safetensors", "expected shape [65536, 65536, 3, 3], got"]);
    Ok(())
}

#[test]
fn values_that_nothing_can_be_computed_with_are_named() -> Result<()> {
    let (_parent, path) = folder();
    for (name, value, part) in [
        ("conv1.0.weight", f32::NAN, "conv1.0.weight: expected finite values, got NaN"),
        ("fc.bias", f32::INFINITY, "fc.bias: expected finite values, got inf"),
        ("conv1.1.running_var", -1., "conv1.1.running_var: expected no value below 0, got -1"),
        ("conv1.2.v_threshold", 0., "conv1.2.v_threshold: expected only values above 0, got 0"),
    ] {
        let (_, params) = trained(&small(), DType::F32)?;
        let all = params.all();
        let (_, var) = all.iter().find(|(known, _)| known == name).expect("a tensor of this network");
        var.set(&Tensor::full(value, var.shape(), &CPU)?)?;
        save_pretrained(&path, &small(), &params, &ModelCard::default())?;
        assert_error(from_pretrained(&path, DType::F32, &CPU).map(|_| ()), &["model.safetensors", part]);
    }
    Ok(())
}
