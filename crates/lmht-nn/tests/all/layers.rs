//! The pieces of a network: what a layer makes of the operations below it, and the names in its messages.

use crate::support::{assert_close, assert_error, assert_values, tensor, values};
use candle_core::{DType, Device, Tensor, Var};
use lmht_nn::layers::{BatchNorm, Conv2d, ConvNorm, Linear, Neuron, Site, avg_pool2d, global_avg_pool, max_pool2d};
use lmht_nn::neurons;
use lmht_nn::ops::{self, Conv2dParams, Learned, Pool2dParams};
use lmht_nn::{NeuronConfig, ParamStore, Pass, Result, Signal, SignalKind, Tgim};

const CPU: Device = Device::Cpu;

fn store() -> ParamStore {
    ParamStore::new(1)
}

fn set(params: &ParamStore, name: &str, values: &[f64]) -> Result<()> {
    let (_, var) = params.all().into_iter().find(|(n, _)| n == name).expect("the parameter exists");
    Ok(var.set(&Tensor::from_slice(values, var.dims(), &CPU)?.to_dtype(var.dtype())?)?)
}

fn flow(seed: u64, shape: &[usize]) -> Result<Signal> {
    Ok(Signal::analog(tensor(seed, shape, DType::F64, &CPU)?))
}

const SPIKES: SignalKind = SignalKind::Spikes { v_threshold: 0.5 };

/// What an LM-HT layer of L = 4 (θ = 0.5), T = 1 makes of currents.
fn spikes(currents: Signal) -> Result<Signal> {
    let params = store();
    let layer = Neuron::new(&NeuronConfig::lmht(4), 1, Site::Maps, params.builder(DType::F64, &CPU).pp("sn"))?;
    layer.forward(&currents, &mut Pass::eval())
}

fn shapes(params: &ParamStore) -> Vec<(String, Vec<usize>)> {
    params.all().into_iter().map(|(name, var)| (name, var.dims().to_vec())).collect()
}

fn named(expected: &[(&str, &[usize])]) -> Vec<(String, Vec<usize>)> {
    expected.iter().map(|(name, dims)| (name.to_string(), dims.to_vec())).collect()
}

#[test]
fn synapses_have_their_parameters_and_starting_values() -> Result<()> {
    let params = store();
    let vb = params.builder(DType::F64, &CPU);
    let geometry = Conv2dParams { stride: 2, padding: 1, groups: 1 };
    Conv2d::new(3, 5, 3, geometry, false, vb.pp("conv"))?;
    Conv2d::new(3, 5, 1, geometry, true, vb.pp("biased"))?;
    BatchNorm::new(5, vb.pp("bn"))?;
    Linear::new(16, 100, vb.pp("fc"))?;
    assert_eq!(
        shapes(&params),
        named(&[
            ("biased.bias", &[5]),
            ("biased.weight", &[5, 3, 1, 1]),
            ("bn.bias", &[5]),
            ("bn.running_mean", &[5]),
            ("bn.running_var", &[5]),
            ("bn.weight", &[5]),
            ("conv.weight", &[5, 3, 3, 3]),
            ("fc.bias", &[100]),
            ("fc.weight", &[100, 16]),
        ])
    );
    for (name, var) in params.all() {
        let values = values(&var)?;
        match name.as_str() {
            "bn.weight" | "bn.running_var" => assert!(values.iter().all(|x| *x == 1.), "{name}"),
            "bn.bias" | "bn.running_mean" | "biased.bias" => assert!(values.iter().all(|x| *x == 0.), "{name}"),
            // ±1/√16, and near both ends.
            "fc.weight" | "fc.bias" => {
                assert!(values.iter().all(|x| x.abs() <= 0.25), "{name}");
                assert!(values.iter().any(|x| *x > 0.2) && values.iter().any(|x| *x < -0.2), "{name}");
            }
            _ => assert!(values.iter().all(|x| *x != 0.), "{name}"),
        }
    }
    Ok(())
}

#[test]
fn synapses_compute_their_operations() -> Result<()> {
    let params = store();
    let vb = params.builder(DType::F64, &CPU);
    let geometry = Conv2dParams { stride: 2, padding: 1, groups: 1 };
    let conv = Conv2d::new(3, 5, 3, geometry, true, vb.pp("conv"))?;
    let norm = BatchNorm::new(5, vb.pp("bn"))?;
    let fc = Linear::new(5, 2, vb.pp("fc"))?;
    set(&params, "conv.bias", &[0.1, 0.2, 0.3, 0.4, 0.5])?;
    set(&params, "bn.weight", &[1., 2., 3., 4., 5.])?;
    set(&params, "bn.bias", &[5., 4., 3., 2., 1.])?;
    set(&params, "bn.running_mean", &[0.5, 0.4, 0.3, 0.2, 0.1])?;
    set(&params, "bn.running_var", &[1., 4., 9., 16., 25.])?;
    let get = |name: &str| -> Tensor {
        params.all().into_iter().find(|(n, _)| n == name).expect("the parameter exists").1.as_detached_tensor()
    };
    let xs = spikes(flow(1, &[2, 3, 7, 9])?)?;
    let ys = conv.forward(&xs, &mut Pass::eval())?;
    // What a synapse sends on is a current, whatever it received.
    assert_eq!(ys.kind(), SignalKind::Analog);
    let expected = ops::conv2d(xs.values(), &get("conv.weight"), Some(&get("conv.bias")), geometry)?;
    assert_close("convolution", ys.values(), &expected, 0.)?;
    // (x - mean) / sqrt(var + 1e-5) · weight + bias
    let column = |name: &str| get(name).reshape((1, 5, 1, 1));
    let expected = expected
        .broadcast_sub(&column("bn.running_mean")?)?
        .broadcast_div(&(column("bn.running_var")? + 1e-5)?.sqrt()?)?
        .broadcast_mul(&column("bn.weight")?)?
        .broadcast_add(&column("bn.bias")?)?;
    assert_close("batch norm", norm.forward(&ys, &mut Pass::eval())?.values(), &expected, 1e-12)?;
    let both = ConvNorm::new(conv, norm).forward(&xs, &mut Pass::eval())?;
    assert_close("convolution and batch norm", both.values(), &expected, 1e-12)?;
    let xs = flow(2, &[4, 5])?;
    let expected = xs.values().matmul(&get("fc.weight").t()?)?.broadcast_add(&get("fc.bias"))?;
    assert_close("linear", fc.forward(&xs, &mut Pass::eval())?.values(), &expected, 1e-13).map_err(lmht_nn::Error::from)
}

#[test]
fn each_neuron_has_the_published_parameters() -> Result<()> {
    let lmht = |tgim| {
        NeuronConfig::Lmht(neurons::Lmht {
            levels: 4,
            tgim,
            v_threshold: None,
            v_init: 0.,
            gradient: lmht_nn::GradientMode::Detached,
        })
    };
    let (maps, features) = (&[3, 3, 1, 1, 1, 1][..], &[3, 3, 1, 1, 1][..]);
    for (neuron, timesteps, site, expected) in [
        (lmht(Tgim::Full), 3, Site::Maps, &[("sn.alpha", &[1][..]), ("sn.mask", maps), ("sn.v_threshold", &[1])][..]),
        (
            lmht(Tgim::Causal),
            3,
            Site::Features,
            &[("sn.alpha", &[1]), ("sn.mask_linear", features), ("sn.v_threshold", &[1])],
        ),
        (lmht(Tgim::Identity), 3, Site::Maps, &[("sn.alpha", &[1]), ("sn.v_threshold", &[1])]),
        (NeuronConfig::mht(4), 3, Site::Maps, &[("sn.v_threshold", &[1])]),
        (NeuronConfig::integrate_and_fire(), 3, Site::Maps, &[("sn.v_threshold", &[1])]),
        (NeuronConfig::qcfs(4), 1, Site::Maps, &[("sn.thresh", &[1])]),
        (NeuronConfig::relu(), 1, Site::Maps, &[]),
    ] {
        let params = store();
        Neuron::new(&neuron, timesteps, site, params.builder(DType::F32, &CPU).pp("sn"))?;
        assert_eq!(shapes(&params), named(expected), "{neuron:?}");
        for (name, var) in params.all() {
            let start = match name.as_str() {
                // θ = 2/L; IF has 1.
                "sn.v_threshold" if neuron.levels() == 4 => 0.5,
                "sn.v_threshold" => 1.,
                "sn.thresh" => 8.,
                _ => 0.,
            };
            assert!(values(&var)?.iter().all(|x| *x == start), "{neuron:?} {name}");
        }
    }
    Ok(())
}

#[test]
fn a_neuron_layer_computes_its_operation() -> Result<()> {
    let params = store();
    let layer = Neuron::new(&NeuronConfig::lmht(4), 2, Site::Maps, params.builder(DType::F64, &CPU).pp("sn"))?;
    set(&params, "sn.mask", &[0.5, -1., 2., 0.25])?;
    set(&params, "sn.alpha", &[-0.75])?;
    let xs = Signal::analog((flow(1, &[4, 3, 5, 5])?.values() * 3.)?);
    let ys = layer.forward(&xs, &mut Pass::eval())?;
    assert_eq!(ys.kind(), SPIKES);
    let learned = Learned::TgimAndLeak {
        tgim_logit: Tensor::new(&[[0.5, -1.], [2., 0.25]], &CPU)?,
        leak_logit: Tensor::new(&[-0.75], &CPU)?,
    };
    let of = |config: lmht_core::LmhtConfig, xs: &Tensor| {
        ops::neuron(xs, &config.check().expect("a valid neuron"), &learned)
    };
    let published = lmht_core::LmhtConfig::lmht(4, 2);
    assert_close("ys", ys.values(), &of(published, xs.values())?, 0.)?;

    // A factor on the current, as the published hybrid start has.
    let scaled = layer.clone().with_input_scale(4.).forward(&xs, &mut Pass::eval())?;
    assert_close("scaled", scaled.values(), &of(published, &(xs.values() * 4.)?)?, 0.)?;
    assert_ne!(values(scaled.values())?, values(ys.values())?);

    // The threshold of a loaded checkpoint counts, not the configuration's.
    set(&params, "sn.v_threshold", &[0.75])?;
    let ys = layer.forward(&xs, &mut Pass::eval())?;
    assert_eq!(ys.kind(), SignalKind::Spikes { v_threshold: 0.75 });
    let config = lmht_core::LmhtConfig { v_threshold: 0.75, ..published };
    assert_close("θ = 0.75", ys.values(), &of(config, xs.values())?, 0.)?;
    for wrong in [0., -1., f64::NAN, f64::INFINITY] {
        set(&params, "sn.v_threshold", &[wrong])?;
        assert_error(layer.forward(&xs, &mut Pass::eval()), &["sn: v_threshold", &format!("got {wrong}")]);
    }
    Ok(())
}

#[test]
fn activations_of_an_ann_compute_their_operations() -> Result<()> {
    let params = store();
    let vb = params.builder(DType::F64, &CPU);
    let xs = flow(1, &[4, 3, 5])?;
    let relu = Neuron::new(&NeuronConfig::relu(), 1, Site::Maps, vb.pp("relu"))?;
    let ys = relu.forward(&xs, &mut Pass::eval())?;
    assert_eq!(ys.kind(), SignalKind::Analog);
    assert_values(
        "relu",
        &values(ys.values())?,
        &values(xs.values())?.iter().map(|x| x.max(0.)).collect::<Vec<_>>(),
        0.,
    );
    let qcfs = Neuron::new(&NeuronConfig::qcfs(4), 1, Site::Maps, vb.pp("qcfs"))?;
    set(&params, "qcfs.thresh", &[0.5])?;
    let ys = qcfs.forward(&xs, &mut Pass::eval())?;
    assert_eq!(ys.kind(), SignalKind::Analog);
    let expected = ops::qcfs(xs.values(), &Tensor::new(&[0.5], &CPU)?, 4, Default::default())?;
    assert_close("qcfs", ys.values(), &expected, 0.)?;
    Ok(())
}

#[test]
fn pooling_says_what_becomes_of_spikes() -> Result<()> {
    let two = Pool2dParams { kernel: 2, stride: 2, padding: 0 };
    let averaged = SignalKind::Averaged { v_threshold: 0.5 };
    let one = Pool2dParams { kernel: 1, stride: 1, padding: 0 };
    let spikes = spikes(flow(1, &[2, 3, 4, 4])?)?;
    for (xs, before, max, average) in [
        (spikes.clone(), SPIKES, SPIKES, averaged),
        (avg_pool2d(&spikes, one, &mut Pass::eval())?, averaged, averaged, averaged),
        (flow(1, &[2, 3, 4, 4])?, SignalKind::Analog, SignalKind::Analog, SignalKind::Analog),
    ] {
        assert_eq!(xs.kind(), before);
        assert_eq!(max_pool2d(&xs, two, &mut Pass::eval())?.kind(), max);
        assert_eq!(avg_pool2d(&xs, two, &mut Pass::eval())?.kind(), average);
        assert_eq!(global_avg_pool(&xs, &mut Pass::eval())?.kind(), average);
        assert_close(
            "max",
            max_pool2d(&xs, two, &mut Pass::eval())?.values(),
            &ops::max_pool2d(xs.values(), two)?,
            0.,
        )?;
        assert_close(
            "average",
            avg_pool2d(&xs, two, &mut Pass::eval())?.values(),
            &ops::avg_pool2d(xs.values(), two)?,
            0.,
        )?;
        assert_eq!(global_avg_pool(&xs, &mut Pass::eval())?.values().dims(), [2, 3]);
    }
    Ok(())
}

/// Training records a graph through every layer, evaluating does not.
#[test]
fn only_training_tracks_parameters() -> Result<()> {
    let params = store();
    let vb = params.builder(DType::F64, &CPU);
    let conv = Conv2d::new(3, 5, 3, Conv2dParams { stride: 1, padding: 1, groups: 1 }, true, vb.pp("conv"))?;
    let norm = BatchNorm::new(5, vb.pp("bn"))?;
    let neuron = Neuron::new(&NeuronConfig::lmht(2), 2, Site::Maps, vb.pp("sn"))?;
    let fc = Linear::new(5, 2, vb.pp("fc"))?;
    let run = |mut pass: Pass<'_>| -> Result<Tensor> {
        let xs = conv.forward(&flow(1, &[4, 3, 5, 5])?, &mut pass)?;
        let xs = neuron.forward(&norm.forward(&xs, &mut pass)?, &mut pass)?;
        Ok(fc.forward(&global_avg_pool(&xs, &mut pass)?, &mut pass)?.values().clone())
    };
    assert!(!run(Pass::eval())?.track_op());
    let grads = run(Pass::train())?.sum_all()?.backward()?;
    let has_gradient = |var: &Var| grads.get(var).is_some();
    for (name, var) in params.all() {
        let trained = !(name.contains("running_") || name.ends_with("v_threshold"));
        assert_eq!(has_gradient(&var), trained, "{name}");
    }
    Ok(())
}

#[test]
fn messages_begin_with_the_layer() -> Result<()> {
    let params = store();
    let vb = params.builder(DType::F64, &CPU);
    let conv = Conv2d::new(3, 5, 3, Conv2dParams { stride: 1, padding: 1, groups: 1 }, false, vb.pp("layer1.0.conv1"))?;
    let norm = BatchNorm::new(5, vb.pp("layer1.0.bn1"))?;
    let fc = Linear::new(5, 2, vb.pp("fc"))?;
    let neuron = Neuron::new(&NeuronConfig::lmht(2), 2, Site::Maps, vb.pp("layer2.0.sn1"))?;
    let wrong = flow(1, &[3, 4, 5, 5])?;
    assert_error(conv.forward(&wrong, &mut Pass::train()), &["layer1.0.conv1\nconv2d", "[3, 4, 5, 5]"]);
    for mut pass in [Pass::train(), Pass::eval()] {
        assert_error(norm.forward(&wrong, &mut pass), &["layer1.0.bn1\nbatch_norm", "[3, 4, 5, 5]"]);
    }
    assert_error(fc.forward(&flow(1, &[3, 4])?, &mut Pass::train()), &["fc\nlinear", "[3, 4]", "[2, 5]"]);
    assert_error(
        neuron.forward(&wrong, &mut Pass::train()),
        &["layer2.0.sn1\nneuron: expected 2 timesteps (from the config), got an input of shape [3, 4, 5, 5]"],
    );
    // Building over tensors of another shape.
    assert_error(Linear::new(6, 2, vb.pp("fc")), &["fc.weight", "[2, 6]", "[2, 5]"]);
    Ok(())
}
