//! Named parameters: starting values that depend on seed and name alone, and loading that says all or changes nothing.

use crate::support::*;
use candle_core::{DType, Device, Tensor};
use candle_nn::init::{FanInOut, Init, NonLinearity, NormalOrUniform};
use lmht_nn::{Error, ModelConfig, Network, ParamKind, ParamStore, Result};
use std::collections::HashMap;

const CPU: Device = Device::Cpu;

/// Asks a new store for tensors, in this order, and returns their bytes.
fn bytes(seed: u64, asked: &[(&str, &[usize], Init)]) -> Result<Vec<u8>> {
    let params = ParamStore::new(seed);
    ask(&params, DType::F64, asked)?;
    params.to_safetensors()
}

fn ask(params: &ParamStore, dtype: DType, asked: &[(&str, &[usize], Init)]) -> Result<()> {
    let vb = params.builder(dtype, &CPU);
    for (name, shape, init) in asked {
        vb.get_with_hints(*shape, name, *init)?;
    }
    Ok(())
}

fn all(params: &ParamStore) -> Result<HashMap<String, Vec<f64>>> {
    params.all().into_iter().map(|(name, var)| Ok((name, values(&var)?))).collect()
}

fn one(seed: u64, name: &str, shape: &[usize], init: Init, dtype: DType) -> Result<Vec<f64>> {
    let params = ParamStore::new(seed);
    ask(&params, dtype, &[(name, shape, init)])?;
    Ok(values(&params.all()[0].1)?)
}

const NORMAL: Init = Init::Randn { mean: 0., stdev: 1. };
const UNIFORM: Init = Init::Uniform { lo: -1., up: 1. };

#[test]
fn a_value_depends_on_seed_and_name_alone() -> Result<()> {
    let a: (&str, &[usize], Init) = ("layer1.0.conv1.weight", &[3, 5], NORMAL);
    let b: (&str, &[usize], Init) = ("fc.bias", &[7], UNIFORM);
    let c: (&str, &[usize], Init) = ("bn1.weight", &[4], Init::Const(1.));
    let expected = bytes(42, &[a, b, c])?;
    assert_eq!(bytes(42, &[a, b, c])?, expected, "twice the same");
    assert_eq!(bytes(42, &[c, b, a])?, expected, "in another order");
    assert_eq!(bytes(42, &[b, a, b, c, a])?, expected, "asked for again");
    assert_ne!(bytes(43, &[a, b, c])?, expected, "another seed");
    // Without the others, the same values.
    let together = ParamStore::new(42);
    ask(&together, DType::F64, &[a, b, c])?;
    let together = all(&together)?;
    for (name, shape, init) in [a, b, c] {
        assert_eq!(one(42, name, shape, init, DType::F64)?, together[name], "{name}");
    }
    // Each name has numbers of its own; so has each seed.
    let draw = |seed, name| one(seed, name, &[100], NORMAL, DType::F64);
    let drawn = [draw(1, "a")?, draw(1, "b")?, draw(1, "ab")?, draw(2, "a")?, draw(0, "a")?, draw(u64::MAX, "a")?];
    for (i, x) in drawn.iter().enumerate() {
        for y in &drawn[..i] {
            assert!(x.iter().zip(y).all(|(x, y)| x != y));
        }
    }
    Ok(())
}

#[test]
fn networks_of_one_seed_are_equal_to_the_byte() -> Result<()> {
    let config = ModelConfig { width: 4, ..ModelConfig::resnet20(10) };
    let build = |seed| -> Result<Vec<u8>> {
        let params = ParamStore::new(seed);
        Network::new(&config, params.builder(DType::F32, &CPU))?;
        params.to_safetensors()
    };
    assert_eq!(build(42)?, build(42)?);
    assert_ne!(build(42)?, build(43)?);
    Ok(())
}

/// Mean and standard deviation.
fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt())
}

#[test]
fn starting_values_are_distributed_as_asked() -> Result<()> {
    // [125, 32, 5, 5] = 100 000 values: fan-in 32·25 = 800, fan-out 125·25 = 3125.
    let shape = &[125, 32, 5, 5][..];
    let kaiming = |dist, fan, non_linearity| Init::Kaiming { dist, fan, non_linearity };
    use FanInOut::{FanIn, FanOut};
    use NonLinearity::{Linear, ReLU};
    use NormalOrUniform::{Normal, Uniform};
    let cases = [
        (kaiming(Normal, FanOut, ReLU), 0., (2. / 3125f64).sqrt(), true),
        (kaiming(Normal, FanIn, ReLU), 0., (2. / 800f64).sqrt(), true),
        (kaiming(Uniform, FanIn, ReLU), 0., (2. / 800f64).sqrt(), false),
        (kaiming(Uniform, FanOut, Linear), 0., (1. / 3125f64).sqrt(), false),
        (Init::Randn { mean: 3., stdev: 0.5 }, 3., 0.5, true),
        (Init::Uniform { lo: 1., up: 4. }, 2.5, 3. / 12f64.sqrt(), false),
    ];
    for (i, (init, mean, std, is_normal)) in cases.into_iter().enumerate() {
        let drawn = one(i as u64, "w", shape, init, DType::F64)?;
        let (got_mean, got_std) = moments(&drawn);
        // Standard error of the mean: σ/√n; of the deviation: at most σ/√(2n). Five of each.
        let n = drawn.len() as f64;
        assert!((got_mean - mean).abs() < 5. * std / n.sqrt(), "{init:?}: mean {got_mean}, expected {mean}");
        assert!((got_std - std).abs() < 5. * std / (2. * n).sqrt(), "{init:?}: deviation {got_std}, expected {std}");
        let share = |k: f64| drawn.iter().filter(|x| (*x - mean).abs() <= k * std).count() as f64 / n;
        let (one_sigma, two_sigma) = if is_normal { (0.6827, 0.9545) } else { (1. / 3f64.sqrt(), 1.) };
        assert!((share(1.) - one_sigma).abs() < 0.01, "{init:?}: {} within one deviation", share(1.));
        assert!((share(2.) - two_sigma).abs() < 0.01, "{init:?}: {} within two deviations", share(2.));
        // Neighbours are independent: the correlation of n values has a standard error of 1/√n. (The two numbers of a
        // Box-Muller pair are neighbours.)
        let products = drawn.windows(2).map(|w| (w[0] - mean) * (w[1] - mean)).sum::<f64>() / (n * std * std);
        assert!(products.abs() < 5. / n.sqrt(), "{init:?}: neighbours correlate by {products}");
    }
    assert_eq!(one(1, "w", &[3], Init::Const(0.25), DType::F64)?, [0.25; 3]);
    // An odd number of normal values, which come in pairs.
    assert_eq!(one(1, "w", &[3], NORMAL, DType::F64)?, one(1, "w", &[5], NORMAL, DType::F64)?[..3]);
    Ok(())
}

#[test]
fn f32_is_f64_rounded() -> Result<()> {
    for init in [NORMAL, UNIFORM] {
        let precise = one(7, "w", &[1000], init, DType::F64)?;
        let rounded: Vec<f64> = precise.iter().map(|x| f64::from(*x as f32)).collect();
        assert_eq!(one(7, "w", &[1000], init, DType::F32)?, rounded);
    }
    Ok(())
}

#[test]
fn buffers_are_saved_and_not_trained() -> Result<()> {
    let params = ParamStore::new(1);
    let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
    Network::new(&config, params.builder(DType::F32, &CPU))?;
    let trainable: Vec<String> = params.trainable().into_iter().map(|(name, _)| name).collect();
    let names: Vec<String> = params.all().into_iter().map(|(name, _)| name).collect();
    assert!(names.is_sorted() && trainable.is_sorted());
    let buffers: Vec<_> = names.iter().filter(|name| !trainable.contains(name)).collect();
    // 20 convolutions with batch norm (1 stem, 16 in blocks, 3 shortcuts) and 17 neurons.
    assert_eq!(buffers.iter().filter(|name| name.ends_with(".running_mean")).count(), 20);
    assert_eq!(buffers.iter().filter(|name| name.ends_with(".running_var")).count(), 20);
    assert_eq!(buffers.iter().filter(|name| name.ends_with(".v_threshold")).count(), 17);
    assert_eq!(buffers.len(), 57);
    // 20 weights of convolutions, 20 weights and biases of batch norms, 17 T-GIMs and leaks, the linear layer.
    assert_eq!(trainable.len(), 20 + 2 * 20 + 2 * 17 + 2);
    let kinds = |kind| names.iter().filter(|name| ParamKind::of(name) == kind).count();
    assert_eq!((kinds(ParamKind::Neuron), kinds(ParamKind::Weight)), (34, 62));
    assert_eq!(params.n_params(), params.trainable().iter().map(|(_, var)| var.elem_count()).sum::<usize>());
    Ok(())
}

/// Linear 2 -> 3 by hand: n_params counts what an optimizer moves.
#[test]
fn n_params_counts_values() -> Result<()> {
    let params = ParamStore::new(1);
    ask(&params, DType::F32, &[("w", &[3, 2], UNIFORM), ("b", &[3], UNIFORM), ("bn.running_mean", &[3], UNIFORM)])?;
    assert_eq!(params.n_params(), 9);
    Ok(())
}

#[test]
fn one_name_has_one_shape_and_type() -> Result<()> {
    let params = ParamStore::new(1);
    ask(&params, DType::F32, &[("w", &[3, 2], UNIFORM)])?;
    assert_error(ask(&params, DType::F32, &[("w", &[2, 3], UNIFORM)]), &["w: asked for", "[2, 3]", "[3, 2]"]);
    assert_error(ask(&params, DType::F64, &[("w", &[3, 2], UNIFORM)]), &["w: asked for", "F64", "F32"]);
    let vb = params.builder(DType::F32, &CPU);
    assert!(vb.contains_tensor("w") && !vb.contains_tensor("v"));
    Ok(())
}

fn named(tensors: &[(&str, &[usize])]) -> Result<HashMap<String, Tensor>> {
    tensors.iter().map(|(name, shape)| Ok((name.to_string(), Tensor::full(5f64, *shape, &CPU)?))).collect()
}

#[test]
fn loading_lists_every_difference_and_changes_nothing_then() -> Result<()> {
    let params = ParamStore::new(1);
    ask(
        &params,
        DType::F32,
        &[("a", &[2], UNIFORM), ("b", &[3, 2], UNIFORM), ("c", &[4], UNIFORM), ("d", &[1], UNIFORM)],
    )?;
    let before = params.to_safetensors()?;
    let tensors = named(&[("a", &[2]), ("b", &[2, 3]), ("x", &[7]), ("y", &[8, 1])])?;
    let error = params.load("weights.safetensors", &tensors).expect_err("four differences");
    let Error::Mismatch { origin, differences } = &error else { panic!("{error}") };
    assert_eq!(origin, "weights.safetensors");
    assert_eq!(
        differences,
        "  b: expected shape [3, 2], got [2, 3]\n  missing: c [4]\n  missing: d [1]\n  \
         not part of this network: x [7]\n  not part of this network: y [8, 1]\n"
    );
    assert!(error.to_string().starts_with("weights.safetensors: the tensors do not fit"), "{error}");
    assert_eq!(params.to_safetensors()?, before);

    // A right set, in another number type, is taken over; the variables stay the ones that the network holds.
    let held = params.all();
    params.load("memory", &named(&[("a", &[2]), ("b", &[3, 2]), ("c", &[4]), ("d", &[1])])?)?;
    for (name, var) in held {
        assert_eq!(var.dtype(), DType::F32);
        assert!(values(&var)?.iter().all(|x| *x == 5.), "{name}");
    }
    // Also from the very tensors of the store.
    params.load("itself", &params.all().into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect())?;
    Ok(())
}

#[test]
fn a_difference_shows_the_nearest_name_and_long_lists_are_cut() -> Result<()> {
    let params = ParamStore::new(1);
    ask(&params, DType::F32, &[("layer1.0.conv1.0.weight", &[2], UNIFORM), ("fc.bias", &[3], UNIFORM)])?;
    let mut tensors = named(&[("layer1.0.conv1.weight", &[2])])?;
    for i in 0..45 {
        tensors.insert(format!("other.{i:02}"), Tensor::zeros(1, DType::F32, &CPU)?);
    }
    let error = params.load("w", &tensors).expect_err("another network").to_string();
    for part in [
        "missing: fc.bias [3]\n",
        "missing: layer1.0.conv1.0.weight [2] (nearest in the file: layer1.0.conv1.weight)\n",
        "not part of this network: layer1.0.conv1.weight [2] (nearest missing: layer1.0.conv1.0.weight)\n",
        "not part of this network: other.38 [1]\n  not part of this network: … and 6 more\n",
    ] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    // A name of any length costs nothing.
    let long = HashMap::from([("x".repeat(1 << 20), Tensor::zeros(1, DType::F32, &CPU)?)]);
    assert_error(params.load("w", &long), &["missing: fc.bias [3]\n"]);
    Ok(())
}

/// The published neurons have both `mask` and `mask_linear`, and use one.
#[test]
fn the_unused_tgim_of_a_published_checkpoint_is_passed_over() -> Result<()> {
    let params = ParamStore::new(1);
    ask(
        &params,
        DType::F32,
        &[("sn1.mask", &[2, 2, 1, 1, 1, 1], UNIFORM), ("sn2.mask_linear", &[2, 2, 1, 1, 1], UNIFORM)],
    )?;
    let masks: &[(&str, &[usize])] = &[("sn1.mask", &[2, 2, 1, 1, 1, 1]), ("sn2.mask_linear", &[2, 2, 1, 1, 1])];
    let unused: &[(&str, &[usize])] = &[("sn1.mask_linear", &[2, 2, 1, 1, 1]), ("sn2.mask", &[2, 2, 1, 1, 1, 1])];
    params.load("published", &named(&[masks, unused].concat())?)?;
    assert!(all(&params)?.values().flatten().all(|x| *x == 5.));
    assert_eq!(params.all().len(), 2);
    // A T-GIM of a neuron that this network does not have is a difference.
    let stranger = named(&[masks, &[("sn3.mask", &[2, 2, 1, 1, 1, 1])]].concat())?;
    assert_error(params.load("published", &stranger), &["not part of this network: sn3.mask"]);
    // The unused copy does not stand in for the used one.
    assert_error(params.load("published", &named(unused)?), &["missing: sn1.mask ", "missing: sn2.mask_linear "]);
    Ok(())
}

#[test]
fn files_come_back_and_broken_ones_are_named() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("weights.safetensors");
    let asked: &[(&str, &[usize], Init)] = &[("a", &[2, 3], NORMAL), ("b", &[5], UNIFORM)];
    let params = ParamStore::new(1);
    ask(&params, DType::F64, asked)?;
    let bytes = params.to_safetensors()?;
    std::fs::write(&path, &bytes).expect("a file");
    let other = ParamStore::new(2);
    ask(&other, DType::F64, asked)?;
    assert_ne!(other.to_safetensors()?, bytes);
    other.load_file(&path)?;
    assert_eq!(other.to_safetensors()?, bytes);

    let name = path.display().to_string();
    // Cut in the header's length, in the header, in the values; then something else altogether, and nothing.
    for broken in [&bytes[..4], &bytes[..20], &bytes[..bytes.len() - 1], b"PK\x03\x04 this is a zip archive", b""] {
        std::fs::write(&path, broken).expect("a file");
        let error = other.load_file(&path).expect_err("a broken file");
        assert!(matches!(&error, Error::File { path: named, .. } if *named == path), "{error}");
        assert_error(Err::<(), _>(error), &[&name, "expected a safetensors file"]);
        assert_eq!(other.to_safetensors()?, bytes, "nothing was changed");
    }
    let missing = folder.path().join("missing.safetensors");
    assert_error(other.load_file(&missing), &[&missing.display().to_string(), "No such file"]);
    Ok(())
}
