//! Whole networks: shapes, time, batches, modes, training, the observer, and the equality with the quantized ANN.

use crate::support::{assert_close, assert_error, assert_values, tensor, values};
use candle_core::{DType, Device, Tensor, Var};
use lmht_nn::neurons;
use lmht_nn::{
    Backbone, GradientMode, Mode, ModelConfig, Network, NeuronConfig, NeuronEvent, Observer, ParamStore, Pass, Result,
    SignalKind, Stem, SynapseEvent, SynapseKind, Tgim, ops, readout,
};
use lmht_train::loss;
use lmht_train::optim::{OptimizerConfig, SgdConfig};
use std::collections::{BTreeMap, HashMap};

const CPU: Device = Device::Cpu;

const BACKBONES: [Backbone; 3] = [Backbone::Resnet18, Backbone::Resnet20, Backbone::Vgg13];

/// A small network of each kind; images of 16 x 16 survive the four halvings of VGG-13.
fn small(backbone: &Backbone) -> ModelConfig {
    ModelConfig { backbone: backbone.clone(), width: 4, n_classes: 5, ..ModelConfig::resnet18(5) }
}

fn neurons() -> [(&'static str, NeuronConfig, usize); 6] {
    let lif = NeuronConfig::Lif(neurons::Lif { leak: 0.5, v_threshold: 1., v_init: 0., gradient: GradientMode::Full });
    [
        ("lmht", NeuronConfig::lmht(2), 2),
        ("mht", NeuronConfig::mht(2), 2),
        ("if", NeuronConfig::integrate_and_fire(), 4),
        ("lif", lif, 4),
        ("qcfs", NeuronConfig::qcfs(4), 1),
        ("relu", NeuronConfig::relu(), 1),
    ]
}

fn build(config: &ModelConfig, seed: u64, dtype: DType) -> Result<(Network, ParamStore)> {
    let params = ParamStore::new(seed);
    Ok((Network::new(config, params.builder(dtype, &CPU))?, params))
}

fn pass<'a>(mode: Mode) -> Pass<'a> {
    match mode {
        Mode::Eval => Pass::eval(),
        Mode::Train => Pass::train(),
    }
}

/// Images in -2..2, which make every layer fire.
fn images(seed: u64, shape: &[usize], dtype: DType) -> Result<Tensor> {
    Ok((tensor(seed, shape, dtype, &CPU)? * 2.)?)
}

/// Running statistics and scales as after some training, from a seed, so that nothing is 0 or 1.
fn trained(params: &ParamStore, seed: u64) -> Result<()> {
    for (i, (name, var)) in params.all().into_iter().enumerate() {
        let random = tensor(seed + i as u64, var.dims(), var.dtype(), &CPU)?;
        let around = |center: f64, spread: f64| (&random * spread)? + center;
        match name.rsplit('.').next().expect("a name") {
            "running_mean" => var.set(&around(0., 0.3)?)?,
            "running_var" => var.set(&around(1., 0.4)?)?,
            "weight" if var.rank() == 1 => var.set(&around(1.2, 0.4)?)?,
            "bias" => var.set(&around(0.2, 0.3)?)?,
            "thresh" => var.set(&around(1.5, 0.5)?)?,
            _ => {}
        }
    }
    Ok(())
}

fn bits(tensor: &Tensor) -> Result<Vec<u64>> {
    Ok(values(tensor)?.into_iter().map(f64::to_bits).collect())
}

#[test]
fn logits_are_time_batch_classes() -> Result<()> {
    let resnet18 = small(&Backbone::Resnet18);
    let imagenet = ModelConfig { stem: Stem::Imagenet, ..resnet18.clone() };
    let cases = [
        (resnet18.clone(), [3, 16, 16]),
        (ModelConfig { width: 1, in_channels: 1, ..resnet18.clone() }, [1, 28, 28]),
        (ModelConfig { width: 6, timesteps: 3, ..resnet18 }, [3, 9, 20]),
        (imagenet.clone(), [3, 64, 64]),
        (ModelConfig { in_channels: 1, ..imagenet }, [1, 40, 70]),
        (small(&Backbone::Resnet20), [3, 16, 16]),
        (ModelConfig { width: 2, in_channels: 1, ..small(&Backbone::Resnet20) }, [1, 28, 28]),
        (ModelConfig { timesteps: 1, ..small(&Backbone::Resnet20) }, [3, 8, 13]),
        (small(&Backbone::Vgg13), [3, 16, 16]),
        (ModelConfig { width: 2, in_channels: 1, ..small(&Backbone::Vgg13) }, [1, 28, 28]),
        (ModelConfig { n_classes: 100, ..small(&Backbone::Vgg13) }, [3, 17, 40]),
    ];
    for (config, [c, h, w]) in cases {
        let (network, _) = build(&config, 1, DType::F32)?;
        let t = config.timesteps;
        for shape in [&[2, c, h, w][..], &[t, 2, c, h, w]] {
            for mut pass in [Pass::eval(), Pass::train()] {
                let logits = network.forward(&images(1, shape, DType::F32)?, &mut pass)?;
                assert_eq!(logits.dims(), [t, 2, config.n_classes], "{config:?}, images {shape:?}");
                assert!(values(&logits)?.iter().all(|x| x.is_finite()));
            }
        }
        assert_eq!(network.config(), &config);
    }
    Ok(())
}

/// A static image is an input that does not change.
#[test]
fn a_static_image_equals_equal_frames_when_evaluating() -> Result<()> {
    for backbone in &BACKBONES {
        for dtype in [DType::F32, DType::F64] {
            let config = ModelConfig { timesteps: 3, ..small(backbone) };
            let (network, params) = build(&config, 3, dtype)?;
            trained(&params, 7)?;
            let still = images(1, &[2, 3, 16, 16], dtype)?;
            let frames = Tensor::stack(&[&still, &still, &still], 0)?;
            let once = network.forward(&still, &mut Pass::eval())?;
            let each = network.forward(&frames, &mut Pass::eval())?;
            assert_eq!(bits(&once)?, bits(&each)?, "{backbone:?} {dtype:?}");
            // And time does something: the logits of different timesteps differ.
            assert_ne!(bits(&once.get(0)?)?, bits(&once.get(1)?)?, "{backbone:?} {dtype:?}");
        }
    }
    Ok(())
}

/// T equal frames have the statistics of one but for the unbiased variance, n/(n-1) against Tn/(Tn-1). ResNet-18 takes
/// the stem's from the one image, as published; the others as if it had been shown T times.
#[test]
fn a_static_image_equals_equal_frames_when_training_but_for_one_variance() -> Result<()> {
    for backbone in &BACKBONES {
        let t = 3;
        let config = ModelConfig { timesteps: t, ..small(backbone) };
        let still = images(1, &[2, 3, 16, 16], DType::F64)?;
        let frames = Tensor::stack(&[&still, &still, &still], 0)?;
        let run = |input: &Tensor| -> Result<(Tensor, BTreeMap<String, Var>)> {
            let (network, params) = build(&config, 3, DType::F64)?;
            let logits = network.forward(input, &mut Pass::train())?;
            Ok((logits, params.all().into_iter().collect()))
        };
        let ((once, after_once), (each, after_each)) = (run(&still)?, run(&frames)?);
        assert_close(&format!("{backbone:?}"), &once, &each, 1e-10)?;
        for (name, got) in &after_once {
            let mut expected = values(&after_each[name])?;
            if *backbone == Backbone::Resnet18 && name == "bn1.running_var" {
                let (n, tn) = (2. * 256., 3. * 2. * 256.);
                let factor = (n / (n - 1.)) / (tn / (tn - 1.));
                for var in &mut expected {
                    *var = 0.9 + (*var - 0.9) * factor;
                }
            }
            assert_values(&format!("{backbone:?}: {name}"), &values(got)?, &expected, 1e-12);
        }
    }
    Ok(())
}

#[test]
fn images_of_a_batch_do_not_influence_each_other_when_evaluating() -> Result<()> {
    for backbone in &BACKBONES {
        let (network, params) = build(&small(backbone), 3, DType::F64)?;
        trained(&params, 7)?;
        let three = images(1, &[3, 3, 16, 16], DType::F64)?;
        let logits = network.forward(&three, &mut Pass::eval())?;
        // The middle one is replaced: the others keep their bits.
        let other = images(2, &[1, 3, 16, 16], DType::F64)?;
        let mixed = Tensor::cat(&[&three.narrow(0, 0, 1)?, &other, &three.narrow(0, 2, 1)?], 0)?;
        let mixed = network.forward(&mixed, &mut Pass::eval())?;
        for (b, same) in [(0, true), (1, false), (2, true)] {
            let (a, m) = (bits(&logits.narrow(1, b, 1)?)?, bits(&mixed.narrow(1, b, 1)?)?);
            assert_eq!(a == m, same, "{backbone:?}, image {b}");
            // Alone it is the same image, too.
            let alone = network.forward(&three.narrow(0, b, 1)?, &mut Pass::eval())?;
            assert_close(&format!("{backbone:?}, image {b}"), &alone, &logits.narrow(1, b, 1)?, 1e-12)?;
        }
    }
    Ok(())
}

#[test]
fn evaluating_changes_nothing_and_records_nothing() -> Result<()> {
    for backbone in &BACKBONES {
        for (name, neuron, timesteps) in neurons() {
            let config = ModelConfig { neuron, timesteps, ..small(backbone) };
            let (network, params) = build(&config, 3, DType::F32)?;
            let input = images(1, &[2, 3, 16, 16], DType::F32)?;
            let before = params.to_safetensors()?;
            let logits = network.forward(&input, &mut Pass::eval())?;
            assert_eq!(params.to_safetensors()?, before, "{backbone:?} {name}");
            assert!(!logits.track_op(), "{backbone:?} {name}: the logits carry a graph");
            let grads = logits.sum_all()?.backward()?;
            assert!(params.all().iter().all(|(_, var)| grads.get(var).is_none()), "{backbone:?} {name}");
            // The same again: nothing was kept inside.
            assert_eq!(bits(&network.forward(&input, &mut Pass::eval())?)?, bits(&logits)?, "{backbone:?} {name}");
        }
    }
    Ok(())
}

#[test]
fn training_moves_the_running_statistics_by_a_tenth() -> Result<()> {
    let (network, params) = build(&small(&Backbone::Resnet18), 3, DType::F64)?;
    let vars: HashMap<String, Var> = params.all().into_iter().collect();
    let input = images(1, &[2, 3, 8, 8], DType::F64)?;
    // The stem by hand: mean and unbiased variance of each of the four channels over 2 x 8 x 8 values.
    let params_of_stem = ops::Conv2dParams { stride: 1, padding: 1, groups: 1 };
    let current = ops::conv2d(&input, &vars["conv1.weight"].as_detached_tensor(), None, params_of_stem)?;
    let channels = current.transpose(0, 1)?.flatten_from(1)?.to_vec2::<f64>()?;
    let trainable_before: Vec<_> = params.trainable().iter().map(|(_, var)| bits(var)).collect::<Result<_>>()?;
    let statistics: Vec<_> = vars.keys().filter(|name| name.contains("running_")).cloned().collect();

    let (mut mean, mut var) = (vec![0.; 4], vec![1.; 4]);
    for _ in 0..2 {
        network.forward(&input, &mut Pass::train())?;
        for (c, x) in channels.iter().enumerate() {
            let n = x.len() as f64;
            let batch_mean = x.iter().sum::<f64>() / n;
            let unbiased = x.iter().map(|x| (x - batch_mean).powi(2)).sum::<f64>() / (n - 1.);
            mean[c] = 0.9 * mean[c] + 0.1 * batch_mean;
            var[c] = 0.9 * var[c] + 0.1 * unbiased;
        }
        assert_values("bn1.running_mean", &values(&vars["bn1.running_mean"])?, &mean, 1e-13);
        assert_values("bn1.running_var", &values(&vars["bn1.running_var"])?, &var, 1e-13);
    }
    for name in statistics {
        let start = if name.ends_with("mean") { 0. } else { 1. };
        assert!(values(&vars[&name])?.iter().any(|x| *x != start), "{name} has not moved");
    }
    // A forward pass moves nothing else.
    let after: Vec<_> = params.trainable().iter().map(|(_, var)| bits(var)).collect::<Result<_>>()?;
    assert_eq!(after, trainable_before);
    Ok(())
}

/// Two images of each of five classes: a pattern of 2 x 2 patches for each class, and a little noise for each image.
fn easy_batch(dtype: DType) -> Result<(Tensor, Tensor)> {
    let patterns = images(1, &[5, 3, 2, 2], dtype)?.upsample_nearest2d(16, 16)?;
    let noise = (tensor(2, &[10, 3, 16, 16], dtype, &CPU)? * 0.1)?;
    let labels = Tensor::new(&[0u32, 1, 2, 3, 4, 0, 1, 2, 3, 4], &CPU)?;
    Ok(((Tensor::cat(&[&patterns, &patterns], 0)? + noise)?, labels))
}

/// Every network learns a batch that it is shown again and again, and every trained parameter has a gradient.
///
/// For ReLU one step must lower the loss. The others are piecewise constant and follow a surrogate gradient, so
/// that a single step may also raise it; forty steps must lower it by a tenth. At twice this rate the loss of a few
/// networks without T-GIM jumps, and rounding decides when.
#[test]
fn training_lowers_the_loss() -> lmht_train::Result<()> {
    let (input, labels) = easy_batch(DType::F32)?;
    let mut failures = Vec::new();
    for backbone in &BACKBONES {
        for (name, neuron, timesteps) in neurons() {
            let (n_steps, share) = if neuron == NeuronConfig::relu() { (1, 1.) } else { (40, 0.9) };
            let config = ModelConfig { neuron, timesteps, width: 8, ..small(backbone) };
            let (network, params) = build(&config, 3, DType::F32)?;
            let loss = || -> Result<Tensor> {
                let logits = network.forward(&input, &mut Pass::train())?;
                Ok(loss::cross_entropy(&readout(&logits)?, &labels, 0.)?)
            };
            let sgd = SgdConfig { lr: 0.1, momentum: 0.9, weight_decay: 0., nesterov: false };
            let mut optimizer = OptimizerConfig::Sgd(sgd).build(params.trainable())?;
            let before = loss()?.to_scalar::<f32>()?;
            for _ in 0..n_steps {
                let grads = loss()?.backward()?;
                for (parameter, var) in params.trainable() {
                    assert!(grads.get(&var).is_some(), "{backbone:?} {name}: no gradient for {parameter}");
                }
                optimizer.step(&grads)?;
            }
            let after = loss()?.to_scalar::<f32>()?;
            println!("{backbone:?} {name}: {before} -> {after}");
            // Not finite counts as a failure, too.
            if !after.is_finite() || after >= share * before {
                failures.push(format!("{backbone:?} {name}: the loss went from {before} to {after}"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    Ok(())
}

/// Counts, per neuron layer, the share of values that are not 0.
#[derive(Default)]
struct Activity(Vec<(String, f64)>);

impl Observer for Activity {
    fn neuron(&mut self, event: &NeuronEvent<'_>) -> Result<()> {
        let output = values(&event.output.to_tensor()?)?;
        let share = output.iter().filter(|x| **x != 0.).count() as f64 / output.len() as f64;
        self.0.push((event.name.to_string(), share));
        Ok(())
    }
}

/// Section 4.4 made exact: with θ = ϑ/L, v(0) = θ/2, Ω = 1/T, λ = 1 the LM-HT network is the QCFS network of Q = LT
/// steps, in the mean over time. (Theorem 4.2: Σ s(t) = clip(floor((v(0) + Σ I)/θ), 0, LT) under equal currents, and
/// convolution, batch norm and average pooling take means to means.)
#[test]
fn the_exact_hybrid_start_equals_the_quantized_network() -> Result<()> {
    for backbone in &BACKBONES {
        for (levels, timesteps) in [(1, 1), (1, 4), (2, 2), (4, 1), (2, 3), (3, 2)] {
            let what = format!("{backbone:?}, L = {levels}, T = {timesteps}");
            let base = ModelConfig { width: 8, ..small(backbone) };
            let neuron = NeuronConfig::qcfs(levels * timesteps as u32);
            let (ann, of_ann) = build(&ModelConfig { neuron, timesteps: 1, ..base.clone() }, 3, DType::F64)?;
            trained(&of_ann, 7)?;

            let neuron = NeuronConfig::Lmht(neurons::Lmht {
                levels,
                tgim: Tgim::Full,
                v_threshold: None,
                v_init: 0.5,
                gradient: GradientMode::Detached,
            });
            let (snn, of_snn) = build(&ModelConfig { neuron, timesteps, ..base }, 4, DType::F64)?;
            // Synapses from the ANN; T-GIM and leak stay at logit 0; θ = ϑ/L of each layer.
            let mut tensors: HashMap<String, Tensor> = of_snn
                .all()
                .into_iter()
                .filter(|(name, _)| name.ends_with("mask") || name.ends_with("alpha"))
                .map(|(name, var)| (name, var.as_detached_tensor()))
                .collect();
            for (name, var) in of_ann.all() {
                match name.strip_suffix("thresh") {
                    Some(neuron) => {
                        let theta = (var.as_detached_tensor() / f64::from(levels))?;
                        tensors.insert(format!("{neuron}v_threshold"), theta)
                    }
                    None => tensors.insert(name, var.as_detached_tensor()),
                };
            }
            of_snn.load("the QCFS network", &tensors)?;

            let input = images(5, &[3, 3, 16, 16], DType::F64)?;
            let mut activity = Activity::default();
            let expected = ann.forward(&input, &mut Pass::eval().observed_by(&mut activity))?.squeeze(0)?;
            let got = readout(&snn.forward(&input, &mut Pass::eval())?)?;
            assert_close(&what, &got, &expected, 1e-12)?;
            // The networks are alive: in every layer between 2 % and all of the values are not 0.
            for (layer, share) in &activity.0 {
                assert!(*share > 0.02, "{what}: only {share} of {layer} fires");
            }
            // And the images matter.
            assert_ne!(bits(&expected.get(0)?)?, bits(&expected.get(1)?)?, "{what}");
        }
    }
    Ok(())
}

/// Writes down what it is shown.
#[derive(Default)]
struct Log {
    events: Vec<String>,
    synapses: BTreeMap<String, (SynapseKind, SignalKind, Vec<usize>)>,
    neurons: BTreeMap<String, (Vec<usize>, SignalKind, u32, usize)>,
}

impl Observer for Log {
    fn synapse(&mut self, event: &SynapseEvent<'_>) -> Result<()> {
        self.events.push(event.name.to_string());
        self.synapses.insert(event.name.into(), (event.kind, event.signal, event.input.dims().to_vec()));
        Ok(())
    }

    fn neuron(&mut self, event: &NeuronEvent<'_>) -> Result<()> {
        self.events.push(format!("({})", event.name));
        let shown = (event.output.dims().to_vec(), event.signal, event.levels, event.timesteps);
        self.neurons.insert(event.name.into(), shown);
        if let SignalKind::Spikes { v_threshold } = event.signal {
            let counts = values(&(event.output.to_tensor()? / v_threshold)?)?;
            let allowed = |s: &f64| s.fract() == 0. && (0. ..=f64::from(event.levels)).contains(s);
            assert!(counts.iter().all(allowed), "{}: not spikes", event.name);
        }
        Ok(())
    }
}

fn resnet18_events() -> Vec<String> {
    let mut names = vec!["conv1".to_string(), "(sn1)".into()];
    for stage in 1..=4 {
        for block in 0..2 {
            let at = format!("layer{stage}.{block}");
            names.extend([format!("{at}.conv1.0"), format!("({at}.sn1)"), format!("{at}.conv2.0")]);
            if stage > 1 && block == 0 {
                names.push(format!("{at}.downsample.0.0"));
            }
            names.push(format!("({at}.sn2)"));
        }
    }
    names.push("fc.0".into());
    names
}

fn resnet20_events() -> Vec<String> {
    let mut names = vec!["conv1.0".to_string(), "(conv1.2)".into()];
    for stage in 2..=4 {
        for block in 0..3 {
            let at = format!("conv{stage}_x.{block}");
            let residual = format!("{at}.residual_function");
            names.extend([format!("{residual}.0"), format!("({residual}.2)"), format!("{residual}.3")]);
            if stage > 2 && block == 0 {
                names.push(format!("{at}.shortcut.0"));
            }
            names.push(format!("({at}.relu)"));
        }
    }
    names.push("fc".into());
    names
}

fn vgg13_events() -> Vec<String> {
    let mut names = Vec::new();
    for (stage, n_convs) in [(1, 2), (2, 2), (3, 2), (4, 3), (5, 1)] {
        for i in 0..n_convs {
            names.extend([format!("layer{stage}.{}.0", 3 * i), format!("(layer{stage}.{})", 3 * i + 1)]);
        }
    }
    names.push("classifier.0".into());
    names
}

#[test]
fn the_observer_sees_everything_in_order_and_changes_nothing() -> Result<()> {
    for (backbone, expected) in &[
        (Backbone::Resnet18, resnet18_events()),
        (Backbone::Resnet20, resnet20_events()),
        (Backbone::Vgg13, vgg13_events()),
    ] {
        let (_, params) = build(&small(backbone), 3, DType::F32)?;
        let names: Vec<String> = params.all().into_iter().map(|(name, _)| name).collect();
        let input = images(1, &[3, 3, 16, 16], DType::F32)?;
        for mode in [Mode::Eval, Mode::Train] {
            let mut log = Log::default();
            // A network of its own for each, because training moves the statistics.
            let run = |pass: &mut Pass<'_>| bits(&build(&small(backbone), 3, DType::F32)?.0.forward(&input, pass)?);
            let silent = run(&mut pass(mode))?;
            let watched = run(&mut pass(mode).observed_by(&mut log))?;
            assert_eq!(watched, silent, "{backbone:?}: watching changed the outputs");
            assert_eq!(&log.events, expected, "{backbone:?}");
            for name in log.synapses.keys() {
                assert!(names.contains(&format!("{name}.weight")), "{name}");
            }
            for (name, (dims, signal, levels, timesteps)) in &log.neurons {
                assert!(names.contains(&format!("{name}.mask")), "{name}");
                assert_eq!((dims[0], *levels, *timesteps), (2 * 3, 2, 2), "{name}");
                assert_eq!(*signal, SignalKind::Spikes { v_threshold: 1. }, "{name}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_observer_is_told_sizes_and_signals() -> Result<()> {
    let shown = |config: &ModelConfig, side: usize| -> Result<Log> {
        let mut log = Log::default();
        let input = images(1, &[3, 3, side, side], DType::F32)?;
        build(config, 3, DType::F32)?.0.forward(&input, &mut Pass::eval().observed_by(&mut log))?;
        Ok(log)
    };
    let (spikes, averaged) = (SignalKind::Spikes { v_threshold: 1. }, SignalKind::Averaged { v_threshold: 1. });
    let conv = |c_out, kernel, stride, padding| SynapseKind::Conv2d { c_out, kernel, stride, padding, groups: 1 };
    // The static image enters once, spikes at both timesteps.
    let log = shown(&small(&Backbone::Resnet18), 16)?;
    assert_eq!(log.synapses["conv1"], (conv(4, 3, 1, 1), SignalKind::Analog, vec![3, 3, 16, 16]));
    assert_eq!(log.synapses["layer2.0.conv1.0"], (conv(8, 3, 2, 1), spikes, vec![6, 4, 16, 16]));
    assert_eq!(log.synapses["layer2.0.downsample.0.0"], (conv(8, 1, 2, 0), spikes, vec![6, 4, 16, 16]));
    assert_eq!(log.synapses["fc.0"], (SynapseKind::Linear { f_out: 5 }, averaged, vec![6, 32]));
    // A maximum of spikes is spikes.
    let log = shown(&ModelConfig { stem: Stem::Imagenet, ..small(&Backbone::Resnet18) }, 32)?;
    assert_eq!(log.synapses["conv1"], (conv(4, 7, 2, 3), SignalKind::Analog, vec![3, 3, 32, 32]));
    assert_eq!(log.synapses["layer1.0.conv1.0"], (conv(4, 3, 1, 1), spikes, vec![6, 4, 8, 8]));
    // An average of spikes is not.
    let log = shown(&small(&Backbone::Vgg13), 16)?;
    assert_eq!(log.synapses["layer1.3.0"].1, spikes);
    assert_eq!(log.synapses["layer2.0.0"], (conv(8, 3, 1, 1), averaged, vec![6, 4, 8, 8]));
    assert_eq!(log.synapses["layer2.3.0"].1, spikes);
    // Activations of an ANN are neither.
    for neuron in [NeuronConfig::qcfs(4), NeuronConfig::relu()] {
        let levels = if neuron == NeuronConfig::relu() { 1 } else { 4 };
        let log = shown(&ModelConfig { neuron, timesteps: 1, ..small(&Backbone::Resnet20) }, 8)?;
        assert!(log.synapses.values().all(|(_, signal, _)| *signal == SignalKind::Analog));
        assert!(log.neurons.values().all(|shown| (shown.1, shown.2, shown.3) == (SignalKind::Analog, levels, 1)));
    }
    Ok(())
}

/// Ends the pass at one layer.
struct Stop(&'static str);

impl Observer for Stop {
    fn neuron(&mut self, event: &NeuronEvent<'_>) -> Result<()> {
        if event.name == self.0 {
            return Err(lmht_nn::Error::Config(format!("stopped at {}", self.0)));
        }
        Ok(())
    }
}

#[test]
fn an_error_of_the_observer_ends_the_pass() -> Result<()> {
    let (network, _) = build(&small(&Backbone::Resnet18), 3, DType::F32)?;
    let input = images(1, &[1, 3, 8, 8], DType::F32)?;
    let mut stop = Stop("layer2.1.sn1");
    let result = network.forward(&input, &mut Pass::eval().observed_by(&mut stop));
    assert_error(result, &["stopped at layer2.1.sn1"]);
    Ok(())
}

#[test]
fn wrong_images_are_refused_with_what_was_expected() -> Result<()> {
    for backbone in &BACKBONES {
        let (network, _) = build(&small(backbone), 3, DType::F32)?;
        let fails = |shape: &[usize], parts: &[&str]| {
            let images = Tensor::zeros(shape, DType::F32, &CPU).expect("a tensor");
            for mut pass in [Pass::eval(), Pass::train()] {
                let got = format!("{shape:?}");
                assert_error(network.forward(&images, &mut pass), &[parts, &[&got]].concat());
            }
        };
        let expected = "[B, 3, H, W] or frames [2, B, 3, H, W] (in_channels = 3 and timesteps = 2 in the config)";
        // One image without a batch, another number of channels, of timesteps, of axes; channels last; nothing.
        for shape in [
            &[3, 16, 16][..],
            &[2, 1, 16, 16],
            &[3, 2, 3, 16, 16],
            &[2, 2, 1, 16, 16],
            &[2, 2, 2, 3, 16, 16],
            &[2, 16, 16, 3],
            &[0, 3, 16, 16],
            &[2, 3, 0, 16],
            &[],
        ] {
            fails(shape, &[expected]);
        }
    }
    // An image too small for four halvings, and one of another number type.
    let (network, _) = build(&small(&Backbone::Vgg13), 3, DType::F32)?;
    let tiny = Tensor::zeros((2, 3, 8, 8), DType::F32, &CPU)?;
    assert_error(network.forward(&tiny, &mut Pass::eval()), &["8x8", "VGG-13", "at least 16"]);
    let precise = Tensor::zeros((2, 3, 16, 16), DType::F64, &CPU)?;
    assert_error(network.forward(&precise, &mut Pass::eval()), &["layer1.0.0", "conv2d", "one dtype"]);
    Ok(())
}

#[test]
fn a_wrong_configuration_builds_nothing() {
    let params = ParamStore::new(1);
    let config = ModelConfig { n_classes: 0, ..small(&Backbone::Resnet18) };
    assert_error(Network::new(&config, params.builder(DType::F32, &CPU)), &["n_classes is 0"]);
    assert!(params.all().is_empty());
}
