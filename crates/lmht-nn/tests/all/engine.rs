//! A network as one program gives what it gives layer by layer: logits, gradients, running statistics, what an observer
//! sees; on every backbone and neuron, for both kinds of input.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use lmht_nn::neurons;
use lmht_nn::{
    GradientMode, How, Mode, ModelConfig, Network, NeuronConfig, NeuronEvent, Observer, ParamStore, Pass, Result,
    Schedule, Stem, SynapseEvent, Tgim, gpu, readout,
};
use lmht_train::loss;

use crate::support::{assert_close, assert_error, tensor, values};

const CPU: Device = Device::Cpu;

/// Small networks of every structure, with images that they take.
pub(crate) fn cases() -> Vec<(String, ModelConfig, usize)> {
    let small = |config: ModelConfig, width| ModelConfig { width, n_classes: 5, timesteps: 2, ..config };
    let mut cases = Vec::new();
    for (config, width, side) in [
        (ModelConfig::resnet18(5), 4, 8),
        (ModelConfig::resnet19(5), 3, 8),
        (ModelConfig::resnet20(5), 4, 9),
        (ModelConfig::resnet34(5), 2, 8),
        (ModelConfig::ms_resnet18(5), 4, 8),
        (ModelConfig::ms_resnet34(5), 2, 8),
        (ModelConfig::vgg11(5), 1, 32),
        (ModelConfig::vgg13(5), 2, 16),
        (ModelConfig::vgg13_standard(5), 1, 32),
        (ModelConfig::vgg16(5), 1, 32),
        (ModelConfig::vgg19(5), 1, 32),
        (ModelConfig::cifarnet(5), 2, 32),
        (ModelConfig { depth: Some(1), heads: Some(2), ..ModelConfig::spikformer(5) }, 8, 16),
    ] {
        cases.push((format!("{:?}", config.backbone), small(config, width), side));
    }
    for (config, stem) in [
        (ModelConfig::resnet18(5), Stem::Imagenet),
        (ModelConfig::resnet18(5), Stem::ImagenetPoolFirst),
        (ModelConfig::ms_resnet18(5), Stem::Imagenet),
    ] {
        let name = format!("{:?}, {stem:?}", config.backbone);
        cases.push((name, ModelConfig { stem, ..small(config, 3) }, 24));
    }
    let lif = NeuronConfig::Lif(neurons::Lif { leak: 0.5, v_threshold: 1., v_init: 0., gradient: GradientMode::Full });
    let causal = NeuronConfig::Lmht(neurons::Lmht {
        levels: 3,
        tgim: Tgim::Causal,
        v_threshold: Some(0.3),
        v_init: 0.25,
        gradient: GradientMode::Full,
    });
    for (name, neuron, timesteps) in [
        ("L = 4, T = 3", NeuronConfig::lmht(4), 3),
        ("L = 40, T = 1", NeuronConfig::lmht(40), 1),
        ("L = 200, no byte holds it", NeuronConfig::lmht(200), 2),
        ("causal", causal, 3),
        ("M-HT", NeuronConfig::mht(2), 2),
        ("IF", NeuronConfig::integrate_and_fire(), 4),
        ("LIF", lif, 4),
        ("I-LIF", neurons::Ilif::default().into(), 3),
        ("ternary", neurons::Ternary { v_threshold: 0.3, ..Default::default() }.into(), 3),
        ("QCFS", NeuronConfig::qcfs(4), 1),
        ("ReLU", NeuronConfig::relu(), 1),
    ] {
        for config in [ModelConfig::resnet20(5), ModelConfig::vgg13(5)] {
            let name = format!("{:?}, {name}", config.backbone);
            let config = ModelConfig { neuron: neuron.clone(), ..small(config, 2) };
            cases.push((name, ModelConfig { timesteps, ..config }, 16));
        }
    }
    let scaled = ModelConfig { input_scale: 3., ..small(ModelConfig::ms_resnet18(5), 3) };
    cases.push(("scaled stream".into(), scaled, 8));
    let scaled = ModelConfig { input_scale: 3., ..small(ModelConfig::resnet18(5), 3) };
    cases.push(("scaled current".into(), scaled, 8));
    let folded = ModelConfig { batch_norm: false, ..small(ModelConfig::resnet18(5), 3) };
    cases.push(("no batch norm".into(), folded.clone(), 8));
    let unit = ModelConfig { unit_spikes: true, ..folded };
    cases.push(("unit spikes".into(), unit, 8));
    cases
}

/// Networks that are for evaluation only.
pub(crate) fn converted() -> Vec<(String, ModelConfig, usize)> {
    let base = ModelConfig { width: 3, n_classes: 5, ..ModelConfig::resnet20(5) };
    let reparameterized = |schedule, tgim| {
        NeuronConfig::Reparameterized(neurons::Reparameterized {
            window: 2,
            schedule,
            tgim,
            leak: None,
            v_threshold: 0.7,
            v_init: 0.,
        })
    };
    let neurons = [
        ("front-loaded", reparameterized(Schedule::FrontLoaded, Tgim::Full), 4),
        ("uniform", reparameterized(Schedule::Uniform, Tgim::Full), 4),
        ("SNM", NeuronConfig::Snm(neurons::Snm { v_threshold: 0.7, v_init: 0.5, units: Default::default() }), 4),
        ("SRP", NeuronConfig::Srp(neurons::Srp { v_threshold: 0.7, tau: 3 }), 5),
        ("COS", NeuronConfig::Cos(neurons::Cos { v_threshold: 0.7, rho: 2 }), 5),
    ];
    neurons
        .into_iter()
        .map(|(name, neuron, timesteps)| (name.into(), ModelConfig { neuron, timesteps, ..base.clone() }, 9))
        .collect()
}

/// The same weights, statistics and thresholds for every call, away from where they start.
pub(crate) fn build(config: &ModelConfig, dtype: DType) -> Result<(Network, ParamStore)> {
    let params = ParamStore::new(3);
    let network = Network::new(config, params.builder(dtype, &CPU))?;
    for (i, (name, var)) in params.all().into_iter().enumerate() {
        let random = tensor(i as u64, var.dims(), dtype, &CPU)?;
        let around = |center: f64, spread: f64| (&random * spread)? + center;
        match name.rsplit('.').next().unwrap_or_default() {
            "running_mean" => var.set(&around(0., 0.3)?)?,
            "running_var" => var.set(&around(1., 0.4)?)?,
            "weight" if var.rank() == 1 => var.set(&around(1.2, 0.4)?)?,
            "bias" => var.set(&around(0.3, 0.3)?)?,
            "mask" | "mask_linear" | "alpha" => var.set(&around(0., 0.7)?)?,
            "thresh" => var.set(&around(1.5, 0.5)?)?,
            "shortcut_scale" => var.set(&around(0.9, 0.)?)?,
            _ => {}
        }
    }
    Ok((network, params))
}

pub(crate) fn images(config: &ModelConfig, side: usize, is_frames: bool, dtype: DType) -> Result<Tensor> {
    let (c, w) = (config.in_channels, side + side % 2);
    let shape = if is_frames { vec![config.n_frames(), 3, c, side, w] } else { vec![3, c, side, w] };
    Ok((tensor(9, &shape, dtype, &CPU)? * 2.)?)
}

/// What a pass leaves: logits, gradients by name, running statistics by name.
type Outcome = (Tensor, BTreeMap<String, Tensor>, BTreeMap<String, Tensor>);

fn outcome(config: &ModelConfig, images: &Tensor, pass: &mut Pass<'_>) -> Result<Outcome> {
    let (network, params) = build(config, images.dtype())?;
    let logits = network.forward(images, pass)?;
    let mut gradients = BTreeMap::new();
    if pass.mode() == Mode::Train {
        let labels = Tensor::new(&[4u32, 0, 2], &CPU)?;
        let all = loss::cross_entropy(&readout(&logits)?, &labels, 0.1)?.backward()?;
        for (name, var) in params.trainable() {
            gradients.insert(name, all.get(&var).expect("every parameter has a gradient").clone());
        }
    }
    let buffers = params.all().into_iter().filter(|(name, _)| name.contains("running"));
    Ok((logits.detach(), gradients, buffers.map(|(name, var)| (name, var.as_detached_tensor())).collect()))
}

fn assert_same(what: &str, got: &Outcome, expected: &Outcome, tolerance: f64) -> Result<()> {
    assert_close(&format!("{what}: logits"), &got.0, &expected.0, tolerance)?;
    for (kind, got, expected) in [("gradient of", &got.1, &expected.1), ("buffer", &got.2, &expected.2)] {
        assert_eq!(got.len(), expected.len(), "{what}: {kind}");
        for (name, expected) in expected {
            assert_close(&format!("{what}: {kind} {name}"), &got[name], expected, tolerance)?;
        }
    }
    Ok(())
}

/// Whatever runs a network as a whole. A new one is a line in each of these.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Executor {
    /// The engine of the CPU.
    Engine,
    /// The steps and kernels of a GPU, emulated.
    Emulator,
}

impl Executor {
    const ALL: [Self; 2] = [Self::Engine, Self::Emulator];

    /// Runs `f` on it; nothing where the machine has not what it takes.
    fn run<T>(self, f: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        match self {
            Self::Engine => f().map(Some),
            Self::Emulator => gpu::emulated(f).transpose(),
        }
    }
}

/// Evaluating and training, keeping and recomputing; `shape` is that of static images or features.
pub(crate) fn assert_program_equals_layers(name: &str, config: &ModelConfig, shape: &[usize]) -> Result<()> {
    assert_equals_layers(Executor::Engine, name, config, shape)
}

fn assert_equals_layers(by: Executor, name: &str, config: &ModelConfig, shape: &[usize]) -> Result<()> {
    let frames = [&[config.n_frames()], shape].concat();
    for shape in [shape, &frames] {
        let images = (tensor(9, shape, DType::F64, &CPU)? * 2.)?;
        for mode in [Mode::Eval, Mode::Train] {
            let expected = outcome(config, &images, &mut Pass::new(mode).layer_by_layer())?;
            let what = format!("{by:?}, {name}, {mode:?}, {shape:?}");
            assert!(values(&expected.0)?.iter().any(|&x| x != 0.), "{what}: the test must see something");
            let Some(got) = by.run(|| outcome(config, &images, &mut Pass::new(mode)))? else {
                println!("skipped {by:?}: it needs a C++ compiler");
                return Ok(());
            };
            assert_same(&what, &got, &expected, 1e-9)?;
            if mode == Mode::Train && by == Executor::Engine {
                let got = outcome(config, &images, &mut Pass::train().recomputing())?;
                assert_same(&format!("{what}, recomputing"), &got, &expected, 1e-9)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_program_equals_the_layers() -> Result<()> {
    for (name, config, side) in cases() {
        assert_program_equals_layers(&name, &config, &[3, config.in_channels, side, side + side % 2])?;
    }
    Ok(())
}

/// On the emulator, which compiles each kernel for each of its sizes, not every depth and width of a family: one of each
/// structure, and every neuron in one network.
#[test]
fn the_steps_of_a_gpu_equal_the_layers() -> Result<()> {
    let is_other = |name: &str| {
        let alike = ["Resnet20", "Resnet34", "MsResnet34", "Resnet19", "Vgg11", "Vgg13Standard", "Vgg16", "Vgg19"];
        let costly =
            ["L = 4", "L = 40", "causal", "M-HT", "LIF", "QCFS", "ReLU", "ImagenetPoolFirst", "MsResnet18, Im"];
        alike.contains(&name) || name.starts_with("Vgg13, ") || costly.iter().any(|part| name.contains(part))
    };
    let cases = cases().into_iter().filter(|(name, ..)| !is_other(name)).collect::<Vec<_>>();
    assert!(cases.len() > 10, "{} cases", cases.len());
    for (name, config, side) in cases {
        assert_equals_layers(Executor::Emulator, &name, &config, &[3, config.in_channels, side, side + side % 2])?;
    }
    Ok(())
}

/// The gradient of images, which a training pass rarely wants, and an evaluation for an attack.
#[test]
fn images_get_their_gradient_from_the_steps_of_a_gpu() -> Result<()> {
    let config = ModelConfig { width: 2, n_classes: 5, ..ModelConfig::resnet18(5) };
    let (network, _) = build(&config, DType::F64)?;
    for mode in [Mode::Train, Mode::Eval] {
        let gradient = |pass: &mut Pass<'_>| -> Result<Tensor> {
            let images = Var::from_tensor(&images(&config, 8, false, DType::F64)?)?;
            let gradients = network.forward(&images, pass)?.sqr()?.sum_all()?.backward()?;
            Ok(gradients.get(&images).expect("a gradient").clone())
        };
        let expected = gradient(&mut Pass::new(mode).layer_by_layer())?;
        assert!(values(&expected)?.iter().any(|&x| x != 0.), "the test must see something");
        let Some(got) = gpu::emulated(|| gradient(&mut Pass::new(mode))).transpose()? else { return Ok(()) };
        assert_close(&format!("{mode:?}"), &got, &expected, 1e-9)?;
    }
    Ok(())
}

/// What a plan says is what runs: batch norms are within their neurons, but for those that others read, too.
#[test]
fn the_plan_of_a_gpu_names_what_is_fused() -> Result<()> {
    for (config, n_fused, n_norms) in [(ModelConfig::resnet18(5), 19 + 8, 20), (ModelConfig::vgg13(5), 9, 10)] {
        let config = ModelConfig { width: 2, n_classes: 5, ..config };
        let (network, _) = build(&config, DType::F64)?;
        let Some(plan) = gpu::emulated(|| network.plan(Mode::Train)).transpose()? else { return Ok(()) };
        let count = |is: &dyn Fn(&lmht_nn::PlanPart) -> bool| plan.parts.iter().filter(|part| is(part)).count();
        assert_eq!(plan.slow(), None, "{plan}");
        assert_eq!(count(&|part| part.what == "batch norm"), n_norms, "{plan}");
        // All but the stem's, and the sums before the second neurons of blocks.
        assert_eq!(count(&|part| part.how == How::Fused), n_fused, "{plan}");
        assert!(plan.to_string().contains("with the neurons behind it"), "{plan}");
    }
    Ok(())
}

/// Training goes through the engine, whatever the neuron: a pass layer by layer would be right, too, and nobody would see it.
#[test]
fn every_neuron_trains_and_evaluates_in_one_program() -> Result<()> {
    for (name, config, _) in cases() {
        let (network, _) = build(&config, DType::F32)?;
        for mode in [Mode::Eval, Mode::Train] {
            let plan = network.plan(mode)?;
            assert_eq!(plan.slow(), None, "{name}, {mode:?}: {plan}");
        }
    }
    for (name, config, _) in converted() {
        let plan = build(&config, DType::F32)?.0.plan(Mode::Eval)?;
        assert_eq!(plan.slow(), None, "{name}: {plan}");
    }
    Ok(())
}

#[test]
fn a_converted_network_equals_its_layers() -> Result<()> {
    for (name, config, side) in converted() {
        for is_frames in [false, true] {
            let images = images(&config, side, is_frames, DType::F64)?;
            let expected = outcome(&config, &images, &mut Pass::eval().layer_by_layer())?;
            let got = outcome(&config, &images, &mut Pass::eval())?;
            assert_same(&format!("{name}, frames: {is_frames}"), &got, &expected, 1e-9)?;
        }
    }
    Ok(())
}

/// In f32 the same spikes fire but for ties, so most logits are close; the test takes weights for which all are.
#[test]
fn a_program_in_f32_equals_the_layers_to_rounding() -> Result<()> {
    let config = ModelConfig { width: 8, n_classes: 5, ..ModelConfig::resnet20(5) };
    let images = images(&config, 16, false, DType::F32)?;
    let expected = outcome(&config, &images, &mut Pass::eval().layer_by_layer())?;
    assert_same("ResNet-20", &outcome(&config, &images, &mut Pass::eval())?, &expected, 1e-4)
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() -> Result<()> {
    for (dtype, width) in [(DType::F32, 8), (DType::F64, 3)] {
        let config = ModelConfig { width, n_classes: 5, ..ModelConfig::resnet18(5) };
        let images = images(&config, 16, false, dtype)?;
        let run = |threads: usize| -> Result<Vec<Vec<u64>>> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
            let (logits, gradients, buffers) = pool.install(|| outcome(&config, &images, &mut Pass::train()))?;
            let all = std::iter::once(&logits).chain(gradients.values()).chain(buffers.values());
            all.map(|tensor| Ok(values(tensor)?.into_iter().map(f64::to_bits).collect())).collect()
        };
        let one = run(1)?;
        for threads in [2, 3] {
            assert!(one == run(threads)?, "{threads} threads give other bits than one in {dtype:?}");
        }
    }
    Ok(())
}

/// All that passes an observer.
#[derive(Default)]
struct Seen(Vec<(String, Tensor, String)>);

impl Observer for Seen {
    fn synapse(&mut self, event: &SynapseEvent<'_>) -> Result<()> {
        let rest = format!("{:?} {:?} {:?}", event.kind, event.signal, event.weight.dims());
        self.0.push((event.name.into(), event.input.to_tensor()?, rest));
        Ok(())
    }

    fn neuron(&mut self, event: &NeuronEvent<'_>) -> Result<()> {
        let NeuronEvent { timesteps, signal, levels, tgim, window, has_leak, .. } = event;
        let rest = format!("{timesteps} {signal:?} {levels} {tgim:?} {window} {has_leak}");
        self.0.push((event.name.into(), event.output.to_tensor()?, rest));
        Ok(())
    }
}

#[test]
fn an_observer_sees_the_same() -> Result<()> {
    for (name, config, side) in cases().into_iter().chain(converted()) {
        let images = images(&config, side, false, DType::F64)?;
        let (network, _) = build(&config, DType::F64)?;
        let (mut got, mut expected) = (Seen::default(), Seen::default());
        let watched = network.forward(&images, &mut Pass::eval().observed_by(&mut got))?;
        network.forward(&images, &mut Pass::eval().layer_by_layer().observed_by(&mut expected))?;
        let names = |seen: &Seen| seen.0.iter().map(|(name, _, rest)| format!("{name}: {rest}")).collect::<Vec<_>>();
        assert_eq!(names(&got), names(&expected), "{name}");
        for ((layer, got, _), (_, expected, _)) in got.0.iter().zip(&expected.0) {
            assert_close(&format!("{name}: {layer}"), got, expected, 1e-9)?;
        }
        let bits = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f64>();
        assert_eq!(bits(&watched)?, bits(&network.forward(&images, &mut Pass::eval())?)?, "{name}: watching");
    }
    Ok(())
}

#[test]
fn a_frozen_parameter_gets_no_gradient() -> Result<()> {
    let config = ModelConfig { width: 3, n_classes: 5, ..ModelConfig::resnet20(5) };
    let images = images(&config, 8, false, DType::F64)?;
    let (_, params) = build(&config, DType::F64)?;
    let mut tensors: std::collections::HashMap<String, Tensor> =
        params.all().into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect();
    for (name, tensor) in &mut tensors {
        if !name.starts_with("fc") {
            *tensor = tensor.detach();
        }
    }
    for by in Executor::ALL {
        by.run(|| {
            let vb = candle_nn::VarBuilder::from_tensors(tensors.clone(), DType::F64, &CPU);
            let logits = Network::new(&config, vb)?.forward(&images, &mut Pass::train())?;
            let gradients = logits.sum_all()?.backward()?;
            for (name, tensor) in &tensors {
                assert_eq!(gradients.get(tensor).is_some(), name.starts_with("fc"), "{by:?}: {name}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_second_backward_pass_is_refused() -> Result<()> {
    let config = ModelConfig { width: 2, n_classes: 5, ..ModelConfig::resnet20(5) };
    let (network, _) = build(&config, DType::F32)?;
    for by in Executor::ALL {
        by.run(|| {
            let logits = network.forward(&images(&config, 8, false, DType::F32)?, &mut Pass::train())?;
            let loss = logits.sum_all()?;
            loss.backward()?;
            assert_error(loss.backward(), &["network", "second backward pass", "run the forward pass again"]);
            Ok(())
        })?;
    }
    Ok(())
}
