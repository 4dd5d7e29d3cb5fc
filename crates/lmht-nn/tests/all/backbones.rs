//! Every backbone: shapes, names, sizes of the published networks, what an observer sees, what a wrong configuration says.
//!
//! That the numbers are those of the published networks is held by the golden cases (`cargo xtask golden`).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::init::Init;
use candle_nn::var_builder::SimpleBackend;
use lmht_nn::neurons;
use lmht_nn::{
    Backbone, ModelConfig, Network, NeuronConfig, Observer, ParamKind, ParamStore, Pass, ProductEvent, Result,
    SignalKind, Stem, SynapseEvent, SynapseKind, Tgim, readout,
};
use lmht_train::loss;
use lmht_train::optim::{OptimizerConfig, SgdConfig, grad_norm};

use crate::support::{assert_close, tensor, values};

const ALL: [Backbone; 13] = [
    Backbone::Resnet18,
    Backbone::Resnet19,
    Backbone::Resnet20,
    Backbone::Resnet34,
    Backbone::MsResnet18,
    Backbone::MsResnet34,
    Backbone::Vgg11,
    Backbone::Vgg13,
    Backbone::Vgg13Standard,
    Backbone::Vgg16,
    Backbone::Vgg19,
    Backbone::Cifarnet,
    Backbone::Spikformer,
];

/// The published network for `n_classes`.
fn published(backbone: &Backbone, n_classes: usize) -> ModelConfig {
    match backbone {
        Backbone::Resnet18 => ModelConfig::resnet18(n_classes),
        Backbone::Resnet19 => ModelConfig::resnet19(n_classes),
        Backbone::Resnet20 => ModelConfig::resnet20(n_classes),
        Backbone::Resnet34 => ModelConfig::resnet34(n_classes),
        Backbone::MsResnet18 => ModelConfig::ms_resnet18(n_classes),
        Backbone::MsResnet34 => ModelConfig::ms_resnet34(n_classes),
        Backbone::Vgg11 => ModelConfig::vgg11(n_classes),
        Backbone::Vgg13 => ModelConfig::vgg13(n_classes),
        Backbone::Vgg13Standard => ModelConfig::vgg13_standard(n_classes),
        Backbone::Vgg16 => ModelConfig::vgg16(n_classes),
        Backbone::Vgg19 => ModelConfig::vgg19(n_classes),
        Backbone::Cifarnet => ModelConfig::cifarnet(n_classes),
        Backbone::Spikformer => ModelConfig::spikformer(n_classes),
        other => panic!("{other:?} is not built in"),
    }
}

/// A small network of that body: T = 2, L = 2, five classes.
fn tiny(backbone: &Backbone) -> ModelConfig {
    let base = ModelConfig { timesteps: 2, ..published(backbone, 5) };
    match backbone {
        Backbone::Spikformer => ModelConfig { width: 16, depth: Some(1), heads: Some(4), ..base },
        Backbone::Vgg11 | Backbone::Vgg13Standard | Backbone::Vgg16 | Backbone::Vgg19 | Backbone::Cifarnet => {
            ModelConfig { width: 2, ..base }
        }
        _ => ModelConfig { width: 4, ..base },
    }
}

/// The smallest round image that the body takes.
fn side(backbone: &Backbone) -> usize {
    match backbone {
        Backbone::Vgg11 | Backbone::Vgg13Standard | Backbone::Vgg16 | Backbone::Vgg19 | Backbone::Cifarnet => 32,
        _ => 16,
    }
}

fn images(backbone: &Backbone, n: usize) -> Result<Tensor> {
    Ok((tensor(7, &[n, 3, side(backbone), side(backbone)], DType::F64, &Device::Cpu)? * 2.)?)
}

fn build(config: &ModelConfig) -> Result<(Network, ParamStore)> {
    let params = ParamStore::new(42);
    let network = Network::new(config, params.builder(DType::F64, &Device::Cpu))?;
    Ok((network, params))
}

/// A network whose running statistics have seen images, so that neurons at every depth have currents to fire on.
fn warm(config: &ModelConfig) -> Result<(Network, ParamStore)> {
    let (network, params) = build(config)?;
    for _ in 0..20 {
        network.forward(&images(&config.backbone, 4)?, &mut Pass::train())?;
    }
    Ok((network, params))
}

fn tensors(params: &ParamStore) -> HashMap<String, Tensor> {
    params.all().into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect()
}

/// Sets a parameter of the store.
fn set(params: &ParamStore, name: &str, change: impl Fn(&Tensor) -> candle_core::Result<Tensor>) -> Result<()> {
    let vars = params.all();
    let (_, var) = vars.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no parameter {name}"));
    Ok(var.set(&change(var)?)?)
}

fn get(params: &ParamStore, name: &str) -> Result<Vec<f64>> {
    let vars = params.all();
    let (_, var) = vars.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no parameter {name}"));
    Ok(values(var)?)
}

#[track_caller]
fn assert_says<T>(result: Result<T>, parts: &[&str]) {
    let message = match result {
        Ok(_) => panic!("expected an error that says {parts:?}"),
        Err(error) => error.to_string(),
    };
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in the error: {message}");
    }
}

// ---------------------------------------------------------------------------------------------------- shapes

#[test]
fn every_backbone_maps_images_and_frames_to_logits_at_every_timestep() -> Result<()> {
    for backbone in &ALL {
        let config = tiny(backbone);
        let (network, _) = build(&config)?;
        let images = images(backbone, 2)?;
        let logits = network.forward(&images, &mut Pass::eval())?;
        assert_eq!(logits.dims(), [2, 2, 5], "{backbone:?}");
        let spread: f64 = values(&logits)?.iter().map(|x| x.abs()).sum();
        assert!(spread.is_finite() && spread > 0., "{backbone:?}: {spread}");
        // A static image is the input of every timestep.
        let frames = Tensor::stack(&[&images, &images], 0)?;
        let of_frames = network.forward(&frames, &mut Pass::eval())?;
        assert_close(&format!("{backbone:?}"), &of_frames, &logits, 1e-12)?;
    }
    Ok(())
}

#[test]
fn residual_networks_with_the_imagenet_stem_take_images_that_do_not_divide() -> Result<()> {
    for backbone in
        &[Backbone::Resnet18, Backbone::Resnet19, Backbone::Resnet34, Backbone::MsResnet18, Backbone::MsResnet34]
    {
        let (network, params) = build(&ModelConfig { stem: Stem::Imagenet, ..tiny(backbone) })?;
        let images = tensor(3, &[1, 3, 45, 33], DType::F64, &Device::Cpu)?;
        assert_eq!(network.forward(&images, &mut Pass::eval())?.dims(), [2, 1, 5], "{backbone:?}");
        assert_eq!(get(&params, "conv1.weight")?.len(), 4 * 3 * 49, "{backbone:?}");
    }
    Ok(())
}

#[test]
fn every_backbone_runs_as_an_ann() -> Result<()> {
    for backbone in &ALL {
        for neuron in [NeuronConfig::qcfs(4), NeuronConfig::relu()] {
            let (network, _) = build(&ModelConfig { timesteps: 1, neuron, ..tiny(backbone) })?;
            let logits = network.forward(&images(backbone, 1)?, &mut Pass::eval())?;
            assert_eq!(logits.dims(), [1, 1, 5], "{backbone:?}");
        }
    }
    Ok(())
}

// ---------------------------------------------------------------------------------------------------- training

/// The loss of a training pass on six images of five classes.
fn loss_of(network: &Network) -> Result<Tensor> {
    let labels = Tensor::new(&[0u32, 1, 2, 3, 4, 0], &Device::Cpu)?;
    let logits = network.forward(&images(&network.config().backbone, 6)?, &mut Pass::train())?;
    Ok(loss::cross_entropy(&readout(&logits)?, &labels, 0.)?)
}

fn sgd(lr: f64, momentum: f64) -> OptimizerConfig {
    OptimizerConfig::Sgd(SgdConfig { lr, momentum, weight_decay: 0., nesterov: false })
}

// With ReLU for the neuron a body is differentiable nearly everywhere: a small step of gradient descent must lower the loss
// by lr · |gradient|².
#[test]
fn one_step_lowers_the_loss_by_what_the_gradient_says() -> lmht_train::Result<()> {
    const LR: f64 = 1e-7;
    for backbone in &ALL {
        let config = ModelConfig { timesteps: 1, neuron: NeuronConfig::relu(), ..tiny(backbone) };
        let (network, params) = build(&config)?;
        let before = loss_of(&network)?;
        let gradients = before.backward()?;
        let norm = grad_norm(&gradients, &params.trainable())?;
        sgd(LR, 0.).build(params.trainable())?.step(&gradients)?;
        let drop = before.to_scalar::<f64>()? - loss_of(&network)?.to_scalar::<f64>()?;
        let expected = LR * norm * norm;
        assert!((drop / expected - 1.).abs() < 0.02, "{backbone:?}: the loss fell by {drop}, expected {expected}");
    }
    Ok(())
}

// A network that learns nothing but how often a class comes does not get below ln 6 - (2 ln 2) / 6 = 1.561.
#[test]
fn training_steps_lower_the_loss_on_their_batch() -> lmht_train::Result<()> {
    for backbone in &ALL {
        let (network, params) = build(&tiny(backbone))?;
        // Hidden linear layers have no batch norm and are silent at this size and at the start; larger weights wake them.
        for (name, var) in params.trainable() {
            if ["classifier.1.weight", "classifier.4.weight", "fc.0.0.weight", "fc.2.0.weight"].contains(&name.as_str())
            {
                var.set(&(var.as_tensor() * 8.)?)?;
            }
        }
        let mut optimizer = sgd(0.05, 0.9).build(params.trainable())?;
        let mut losses = Vec::new();
        for _ in 0..30 {
            let loss = loss_of(&network)?;
            let gradients = loss.backward()?;
            for (name, var) in params.trainable() {
                assert!(gradients.get(&var).is_some(), "{backbone:?}: no gradient for {name}");
            }
            optimizer.step(&gradients)?;
            losses.push(loss.to_scalar::<f64>()?);
        }
        let smallest = losses.iter().copied().fold(f64::INFINITY, f64::min);
        assert!(smallest < 1.45, "{backbone:?}: {losses:?}");
    }
    Ok(())
}

/// The batch norm of the stem.
fn stem_norm(backbone: &Backbone) -> &'static str {
    match backbone {
        Backbone::Resnet20 | Backbone::Cifarnet => "conv1.1",
        Backbone::Vgg13 => "layer1.0.1",
        Backbone::Vgg11 | Backbone::Vgg13Standard | Backbone::Vgg16 | Backbone::Vgg19 => "layer1.1",
        Backbone::Spikformer => "patch_embed.proj_bn",
        _ => "bn1",
    }
}

// The published ResNet-20 and VGGs repeat the image: their running variance has n T - 1 for its divisor. The others repeat
// the stem's current, so that their statistics do not know T.
#[test]
fn running_statistics_of_the_stem_count_what_the_published_network_counts() -> Result<()> {
    for backbone in &ALL {
        let name = format!("{}.running_var", stem_norm(backbone));
        let variance = |timesteps| -> Result<Vec<f64>> {
            let (network, params) = build(&ModelConfig { timesteps, ..tiny(backbone) })?;
            network.forward(&images(backbone, 2)?, &mut Pass::train())?;
            // running = 0.9 · 1 + 0.1 · batch
            Ok(get(&params, &name)?.into_iter().map(|running| (running - 0.9) / 0.1).collect())
        };
        let repeats_image = matches!(
            backbone,
            Backbone::Resnet20
                | Backbone::Vgg11
                | Backbone::Vgg13
                | Backbone::Vgg13Standard
                | Backbone::Vgg16
                | Backbone::Vgg19
        );
        let n = (2 * side(backbone) * side(backbone)) as f64;
        let ratio = if repeats_image { (n - 1.) / n * (4. * n) / (4. * n - 1.) } else { 1. };
        for (once, repeated) in variance(1)?.iter().zip(variance(4)?) {
            assert!((repeated - once * ratio).abs() < 1e-12 * once, "{backbone:?}: {once}, then {repeated}");
        }
    }
    Ok(())
}

// Doubling weight and bias of the stem's batch norm doubles the current, and so does the factor; both are exact.
#[test]
fn the_input_scale_is_a_factor_on_the_current_of_the_stem() -> Result<()> {
    let imagenet = ModelConfig { stem: Stem::Imagenet, ..tiny(&Backbone::MsResnet18) };
    for config in ALL.iter().map(tiny).chain([imagenet]) {
        let what = format!("{:?}, {:?}", config.backbone, config.stem);
        let images = images(&config.backbone, 4)?;
        let (network, params) = warm(&config)?;
        let (scaled, same_params) = build(&ModelConfig { input_scale: 2., ..config.clone() })?;
        same_params.load("the first network", &tensors(&params))?;
        // What every synapse reads and the logits: a head without batch norm may be silent before it is trained.
        let run = |network: &Network| -> Result<_> {
            let mut recorder = Recorder::default();
            let logits = network.forward(&images, &mut Pass::eval().observed_by(&mut recorder))?;
            let inputs = recorder.synapses.into_iter().map(|(name, (.., input))| (name, input));
            Ok((inputs.collect::<Vec<_>>(), values(&logits)?))
        };
        let plain = run(&network)?;
        for part in ["weight", "bias"] {
            set(&params, &format!("{}.{part}", stem_norm(&config.backbone)), |tensor| tensor * 2.)?;
        }
        let (doubled, scaled) = (run(&network)?, run(&scaled)?);
        assert!(scaled == doubled, "{what}: the factor is not one on the current");
        assert!(scaled != plain, "{what}: the factor has no effect");
    }
    Ok(())
}

// ---------------------------------------------------------------------------------------------------- names

/// The names below a prefix, without it.
fn names_below(backbone: &Backbone, prefix: &str) -> Result<String> {
    let (_, params) = build(&tiny(backbone))?;
    let all = params.all();
    let names: Vec<_> = all.iter().filter_map(|(name, _)| name.strip_prefix(prefix)).collect();
    Ok(names.join(" "))
}

const NORM: [&str; 4] = ["bias", "running_mean", "running_var", "weight"];

/// `norm` followed by what a batch norm has.
fn norm(norm: &str) -> Vec<String> {
    NORM.iter().map(|part| format!("{norm}.{part}")).collect()
}

/// `neuron` followed by what an LM-HT neuron has, whose T-GIM has that name.
fn neuron(neuron: &str, tgim: &str) -> Vec<String> {
    ["alpha", tgim, "v_threshold"].iter().map(|part| format!("{neuron}.{part}")).collect()
}

fn weight_and_bias(layer: &str) -> Vec<String> {
    vec![format!("{layer}.bias"), format!("{layer}.weight")]
}

fn weight(layer: &str) -> Vec<String> {
    vec![format!("{layer}.weight")]
}

/// All parts, sorted as the store sorts them.
fn sorted(parts: &[Vec<String>]) -> String {
    let mut names: Vec<_> = parts.concat();
    names.sort();
    names.join(" ")
}

#[test]
fn names_of_the_residual_family_are_the_published_ones() -> Result<()> {
    let block = sorted(&[
        weight("conv1.0"),
        norm("conv1.1"),
        neuron("sn1", "mask"),
        weight("conv2.0"),
        norm("conv2.1"),
        neuron("sn2", "mask"),
        weight("downsample.0.0"),
        norm("downsample.0.1"),
    ]);
    for backbone in
        &[Backbone::Resnet18, Backbone::Resnet19, Backbone::Resnet34, Backbone::MsResnet18, Backbone::MsResnet34]
    {
        assert_eq!(names_below(backbone, "layer2.0.")?, block, "{backbone:?}");
        assert_eq!(names_below(backbone, "conv1.")?, "weight", "{backbone:?}");
        assert_eq!(names_below(backbone, "bn1.")?, NORM.join(" "), "{backbone:?}");
    }
    // The stream of an MS-ResNet starts without a neuron.
    assert_eq!(names_below(&Backbone::Resnet34, "sn1.")?, "alpha mask v_threshold");
    assert_eq!(names_below(&Backbone::MsResnet34, "sn1.")?, "");
    // ResNet-19 numbers its stages from 2.
    assert_eq!(names_below(&Backbone::Resnet19, "layer1.")?, "");
    assert!(names_below(&Backbone::Resnet19, "layer4.")?.ends_with("1.sn2.v_threshold"));

    assert_eq!(names_below(&Backbone::Resnet34, "fc.")?, "0.bias 0.weight");
    assert_eq!(names_below(&Backbone::MsResnet18, "fc.")?, "0.bias 0.weight");
    let head = sorted(&[weight_and_bias("0.0"), neuron("1", "mask_linear"), weight_and_bias("2.0")]);
    assert_eq!(names_below(&Backbone::Resnet19, "fc.")?, head);
    Ok(())
}

#[test]
fn block_counts_are_those_of_the_published_networks() -> Result<()> {
    let counts = |backbone: &Backbone| -> Result<Vec<usize>> {
        let (_, params) = build(&tiny(backbone))?;
        let all = params.all();
        let has = |stage, block| all.iter().any(|(name, _)| name.starts_with(&format!("layer{stage}.{block}.conv2")));
        Ok((1..=5).map(|stage| (0..9).filter(|&block| has(stage, block)).count()).collect())
    };
    assert_eq!(counts(&Backbone::Resnet18)?, [2, 2, 2, 2, 0]);
    assert_eq!(counts(&Backbone::Resnet19)?, [0, 3, 3, 2, 0]);
    assert_eq!(counts(&Backbone::Resnet34)?, [3, 4, 6, 3, 0]);
    assert_eq!(counts(&Backbone::MsResnet18)?, [2, 2, 2, 2, 0]);
    assert_eq!(counts(&Backbone::MsResnet34)?, [3, 4, 6, 3, 0]);
    Ok(())
}

#[test]
fn names_of_resnet20_are_the_published_ones() -> Result<()> {
    let stem = sorted(&[weight("0"), norm("1"), neuron("2", "mask")]);
    assert_eq!(names_below(&Backbone::Resnet20, "conv1.")?, stem);
    let block = sorted(&[
        weight("residual_function.0"),
        norm("residual_function.1"),
        neuron("residual_function.2", "mask"),
        weight("residual_function.3"),
        norm("residual_function.4"),
        neuron("relu", "mask"),
        weight("shortcut.0"),
        norm("shortcut.1"),
    ]);
    assert_eq!(names_below(&Backbone::Resnet20, "conv3_x.0.")?, block);
    assert_eq!(names_below(&Backbone::Resnet20, "fc.")?, "bias weight");
    Ok(())
}

#[test]
fn names_of_the_vggs_are_the_published_ones() -> Result<()> {
    let layer = sorted(&[
        weight_and_bias("0.0"),
        norm("0.1"),
        neuron("1", "mask"),
        weight_and_bias("3.0"),
        norm("3.1"),
        neuron("4", "mask"),
    ]);
    assert_eq!(names_below(&Backbone::Vgg13, "layer1.")?, layer);
    assert_eq!(names_below(&Backbone::Vgg13, "classifier.")?, "0.bias 0.weight");

    let layer = sorted(&[
        weight_and_bias("0"),
        norm("1"),
        neuron("2", "mask"),
        weight_and_bias("4"),
        norm("5"),
        neuron("6", "mask"),
    ]);
    let classifier = sorted(&[
        weight_and_bias("1"),
        neuron("2", "mask_linear"),
        weight_and_bias("4"),
        neuron("5", "mask_linear"),
        weight_and_bias("7"),
    ]);
    for backbone in &[Backbone::Vgg13Standard, Backbone::Vgg16, Backbone::Vgg19] {
        assert_eq!(names_below(backbone, "layer1.")?, layer, "{backbone:?}");
        assert_eq!(names_below(backbone, "classifier.")?, classifier, "{backbone:?}");
    }
    assert_eq!(
        names_below(&Backbone::Vgg11, "layer1.")?,
        sorted(&[weight_and_bias("0"), norm("1"), neuron("2", "mask")])
    );
    Ok(())
}

#[test]
fn names_of_cifarnet_follow_the_residual_family() -> Result<()> {
    assert_eq!(names_below(&Backbone::Cifarnet, "conv5.")?, sorted(&[weight("0"), norm("1")]));
    assert_eq!(names_below(&Backbone::Cifarnet, "sn5.")?, "alpha mask v_threshold");
    let head = sorted(&[
        weight_and_bias("0.0"),
        neuron("1", "mask_linear"),
        weight_and_bias("2.0"),
        neuron("3", "mask_linear"),
        weight_and_bias("4.0"),
    ]);
    assert_eq!(names_below(&Backbone::Cifarnet, "fc.")?, head);
    Ok(())
}

#[test]
fn names_of_spikformer_are_the_published_ones() -> Result<()> {
    let mut parts = vec![weight("rpe_conv"), norm("rpe_bn"), neuron("rpe_lif", "mask")];
    for number in ["", "1", "2", "3"] {
        parts.push(weight(&format!("proj_conv{number}")));
        parts.push(norm(&format!("proj_bn{number}")));
        parts.push(neuron(&format!("proj_lif{number}"), "mask"));
    }
    assert_eq!(names_below(&Backbone::Spikformer, "patch_embed.")?, sorted(&parts));
    let mut parts = vec![neuron("attn.attn_lif", "mask_linear")];
    for layer in ["attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2"] {
        parts.push(weight_and_bias(&format!("{layer}_linear")));
        parts.push(norm(&format!("{layer}_bn")));
        parts.push(neuron(&format!("{layer}_lif"), "mask_linear"));
    }
    assert_eq!(names_below(&Backbone::Spikformer, "block.0.")?, sorted(&parts));
    assert_eq!(names_below(&Backbone::Spikformer, "block.1.")?, "");
    assert_eq!(names_below(&Backbone::Spikformer, "head.")?, "bias weight");
    Ok(())
}

// The published MS-ResNets register a first neuron that they never call.
#[test]
fn the_unused_neuron_of_a_published_ms_resnet_is_passed_over() -> Result<()> {
    let (_, params) = build(&tiny(&Backbone::MsResnet18))?;
    let mut published = tensors(&params);
    let one = Tensor::new(&[1f64], &Device::Cpu)?;
    for part in ["alpha", "mask", "mask_linear", "v_threshold"] {
        published.insert(format!("sn1.{part}"), one.clone());
    }
    params.load("published", &published)?;
    // Another neuron that the network lacks is still an error, and so is one that it has without the parameter.
    published.insert("layer1.7.sn1.alpha".into(), one.clone());
    assert_says(params.load("published", &published), &["not part of this network", "layer1.7.sn1.alpha"]);
    let mht = ModelConfig { neuron: NeuronConfig::mht(2), ..tiny(&Backbone::Resnet18) };
    let (_, params) = build(&mht)?;
    let mut lmht = tensors(&params);
    lmht.insert("sn1.alpha".into(), one);
    assert_says(params.load("other", &lmht), &["not part of this network", "sn1.alpha"]);
    Ok(())
}

// ---------------------------------------------------------------------------------------------------- sizes

/// Counts the values that a network asks for, without drawing them.
#[derive(Clone, Default)]
struct Counter(Arc<Mutex<BTreeMap<String, usize>>>);

impl SimpleBackend for Counter {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        self.0.lock().unwrap().insert(name.to_string(), shape.elem_count());
        Tensor::zeros(shape, dtype, device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name}: asked for without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.lock().unwrap().contains_key(name)
    }
}

/// Trained values of synapses, and the number of neuron layers; every neuron must have T² + 1 trained values.
fn sizes(config: &ModelConfig) -> Result<(usize, usize)> {
    let counter = Counter::default();
    let vb = VarBuilder::from_backend(Box::new(counter.clone()), DType::F32, Device::Cpu);
    Network::new(config, vb)?;
    let counts = counter.0.lock().unwrap();
    let total = |kind| counts.iter().filter(|(name, _)| ParamKind::of(name) == kind).map(|(_, n)| n).sum::<usize>();
    let n_neurons = counts.keys().filter(|name| name.ends_with(".alpha")).count();
    assert_eq!(total(ParamKind::Neuron), n_neurons * (config.timesteps * config.timesteps + 1));
    Ok((total(ParamKind::Weight), n_neurons))
}

/// A 3x3 convolution without bias and its batch norm.
fn conv(c_in: usize, c_out: usize) -> usize {
    9 * c_in * c_out + 2 * c_out
}

fn linear(f_in: usize, f_out: usize) -> usize {
    f_in * f_out + f_out
}

/// A stage of basic blocks, with a 1x1 shortcut in the first.
fn stage(c_in: usize, c_out: usize, n_blocks: usize) -> usize {
    let shortcut = c_in * c_out + 2 * c_out;
    conv(c_in, c_out) + conv(c_out, c_out) + shortcut + (n_blocks - 1) * 2 * conv(c_out, c_out)
}

#[test]
fn residual_networks_have_the_sizes_of_the_published_ones() -> Result<()> {
    // 11,689,512 and 21,797,672: torchvision's resnet18 and resnet34 for 1000 classes.
    let imagenet = |backbone: &Backbone| ModelConfig { stem: Stem::Imagenet, ..published(backbone, 1000) };
    assert_eq!(sizes(&imagenet(&Backbone::Resnet18))?, (11_689_512, 17));
    assert_eq!(sizes(&imagenet(&Backbone::Resnet34))?, (21_797_672, 33));
    assert_eq!(sizes(&imagenet(&Backbone::MsResnet18))?, (11_689_512, 16));
    assert_eq!(sizes(&imagenet(&Backbone::MsResnet34))?, (21_797_672, 32));
    // With the CIFAR stem and 100 classes: 3x3 for 7x7 in 3 · 64 places, 900 rows of 512 + 1 less.
    let cifar = 11_689_512 - (49 - 9) * 3 * 64 - 900 * 513;
    assert_eq!(cifar, 11_220_132);
    assert_eq!(sizes(&ModelConfig::resnet18(100))?, (cifar, 17));
    assert_eq!(sizes(&ModelConfig::ms_resnet18(100))?, (cifar, 16));

    let stages = stage(64, 128, 3) + stage(128, 256, 3) + stage(256, 512, 2);
    let resnet19 = conv(3, 64) + stages + linear(512, 256) + linear(256, 100);
    assert_eq!(sizes(&ModelConfig::resnet19(100))?, (resnet19, 18));

    let resnet20 = conv(3, 16) + 6 * conv(16, 16) + stage(16, 32, 3) + stage(32, 64, 3) + linear(64, 100);
    assert_eq!(sizes(&ModelConfig::resnet20(100))?, (resnet20, 19));
    Ok(())
}

#[test]
fn vggs_have_the_sizes_of_the_published_ones() -> Result<()> {
    // The convolutions of torchvision's vgg11_bn, vgg13_bn, vgg16_bn and vgg19_bn: their 132,868,840, 133,053,736,
    // 138,365,992 and 143,678,248 parameters without the three linear layers over 512 · 7 · 7 features.
    let head = linear(512 * 49, 4096) + linear(4096, 4096) + linear(4096, 1000);
    for (backbone, total, n_convs) in &[
        (Backbone::Vgg11, 132_868_840, 8),
        (Backbone::Vgg13Standard, 133_053_736, 10),
        (Backbone::Vgg16, 138_365_992, 13),
        (Backbone::Vgg19, 143_678_248, 16),
    ] {
        let ours = total - head + linear(512, 4096) + linear(4096, 4096) + linear(4096, 100);
        assert_eq!(sizes(&published(backbone, 100))?, (ours, n_convs + 2), "{backbone:?}");
    }
    let pairs = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)];
    let deep = [(256, 512), (512, 512), (512, 512), (512, 512)];
    let convs: usize = pairs.iter().chain(&deep).map(|&(c_in, c_out)| conv(c_in, c_out) + c_out).sum();
    assert_eq!(sizes(&ModelConfig::vgg13(200))?, (convs + linear(512, 200), 10));
    Ok(())
}

#[test]
fn cifarnet_and_spikformer_have_their_sizes() -> Result<()> {
    let convs = conv(3, 128) + conv(128, 256) + conv(256, 512) + conv(512, 1024) + conv(1024, 512);
    let head = linear(512 * 64, 1024) + linear(1024, 512) + linear(512, 10);
    assert_eq!(sizes(&ModelConfig::cifarnet(10))?, (convs + head, 7));

    let patches = conv(3, 48) + conv(48, 96) + conv(96, 192) + conv(192, 384) + conv(384, 384);
    let layer = |f_in: usize, f_out: usize| linear(f_in, f_out) + 2 * f_out;
    let block = 4 * layer(384, 384) + layer(384, 1536) + layer(1536, 384);
    let total = patches + 4 * block + linear(384, 10);
    // Zhou et al. 2023, Table 4: 9.32 million.
    assert_eq!(total, 9_324_730);
    assert_eq!(sizes(&ModelConfig::spikformer(10))?, (total, 5 + 4 * 7));
    Ok(())
}

#[test]
fn n_params_counts_synapses_and_neurons() -> Result<()> {
    let config = tiny(&Backbone::Resnet19);
    let (_, params) = build(&config)?;
    let (weights, n_neurons) = sizes(&config)?;
    assert_eq!(params.n_params(), weights + n_neurons * (2 * 2 + 1));
    Ok(())
}

#[test]
fn published_widths_and_titles_are_distinct_and_known() {
    let titles: std::collections::BTreeSet<_> = ALL.iter().map(|backbone| backbone.title()).collect();
    assert_eq!(titles.len(), ALL.len());
    for backbone in &ALL {
        let expected = match backbone {
            Backbone::Resnet20 => 16,
            Backbone::Cifarnet => 128,
            Backbone::Spikformer => 384,
            _ => 64,
        };
        assert_eq!(published(backbone, 10).width, expected, "{backbone:?}");
        assert_eq!(published(backbone, 10).backbone, *backbone);
    }
}

// ---------------------------------------------------------------------------------------------------- observers

#[derive(Default)]
struct Recorder {
    synapses: BTreeMap<String, (SynapseKind, Vec<usize>, SignalKind, Vec<f64>)>,
    products: Vec<(String, Tensor, SignalKind, Tensor, SignalKind)>,
}

impl Observer for Recorder {
    fn synapse(&mut self, event: &SynapseEvent<'_>) -> Result<()> {
        let seen = (event.kind, event.input.dims().to_vec(), event.signal, values(&event.input.to_tensor()?)?);
        self.synapses.insert(event.name.to_string(), seen);
        Ok(())
    }

    fn product(&mut self, event: &ProductEvent<'_>) -> Result<()> {
        let ProductEvent { name, left, left_signal, right, right_signal, .. } = event;
        self.products.push((name.to_string(), (*left).clone(), *left_signal, (*right).clone(), *right_signal));
        Ok(())
    }
}

fn record(config: &ModelConfig) -> Result<Recorder> {
    let (network, _) = warm(config)?;
    let mut recorder = Recorder::default();
    network.forward(&images(&config.backbone, 2)?, &mut Pass::eval().observed_by(&mut recorder))?;
    Ok(recorder)
}

const SPIKES: SignalKind = SignalKind::Spikes { v_threshold: 1. };
const AVERAGED: SignalKind = SignalKind::Averaged { v_threshold: 1. };

#[test]
fn residual_streams_of_ms_resnets_are_analog_and_of_the_others_spikes() -> Result<()> {
    for (backbone, block_input, readout) in
        &[(Backbone::Resnet34, SPIKES, AVERAGED), (Backbone::MsResnet34, SignalKind::Analog, SignalKind::Analog)]
    {
        let seen = record(&tiny(backbone))?.synapses;
        let signal = |name: &str| seen[name].2;
        assert_eq!(signal("conv1"), SignalKind::Analog, "{backbone:?}");
        assert_eq!(signal("layer2.0.conv1.0"), SPIKES, "{backbone:?}");
        assert_eq!(signal("layer2.0.conv2.0"), SPIKES, "{backbone:?}");
        assert_eq!(signal("layer2.0.downsample.0.0"), *block_input, "{backbone:?}");
        assert_eq!(signal("fc.0"), *readout, "{backbone:?}");
    }
    let seen = record(&tiny(&Backbone::Resnet19))?.synapses;
    assert_eq!((seen["fc.0.0"].2, seen["fc.2.0"].2), (AVERAGED, SPIKES));
    assert_eq!(seen["fc.2.0"].1, [4, 256]);
    let seen = record(&tiny(&Backbone::Cifarnet))?.synapses;
    assert_eq!((seen["conv4.0"].2, seen["fc.0.0"].2), (AVERAGED, SPIKES));
    assert_eq!(seen["fc.0.0"].1, [4, 8 * 64]);
    let seen = record(&tiny(&Backbone::Vgg16))?.synapses;
    assert_eq!((seen["layer2.0"].2, seen["layer2.4"].2, seen["classifier.1"].2), (AVERAGED, SPIKES, AVERAGED));
    assert_eq!(seen["classifier.7"].1, [4, 128]);
    Ok(())
}

#[test]
fn token_synapses_see_rows_of_whole_spikes() -> Result<()> {
    let config = tiny(&Backbone::Spikformer);
    let recorder = record(&config)?;
    // Two poolings leave 4x4 of 16x16: T · B · N = 2 · 2 · 16 rows.
    for name in ["attn.q_linear", "attn.k_linear", "attn.v_linear", "attn.proj_linear", "mlp.fc1_linear"] {
        let (kind, dims, signal, _) = &recorder.synapses[&format!("block.0.{name}")];
        assert_eq!(dims, &[64, 16], "{name}");
        assert_eq!(*signal, SPIKES, "{name}");
        let f_out = if name == "mlp.fc1_linear" { 64 } else { 16 };
        assert_eq!(*kind, SynapseKind::Linear { f_out }, "{name}");
    }
    assert_eq!(recorder.synapses["block.0.mlp.fc2_linear"].1, [64, 64]);
    assert_eq!(recorder.synapses["head"].1, [4, 16]);
    assert_eq!(recorder.synapses["head"].2, AVERAGED);
    Ok(())
}

// A batch norm of weight 0 and bias 3 lets a neuron of two levels fire twice at every timestep: 3 = 2 + 1, 1 + 3 = 2 + 2.
#[test]
fn attention_and_position_are_added_to_what_they_read() -> Result<()> {
    let (network, params) = build(&tiny(&Backbone::Spikformer))?;
    for norm in ["patch_embed.rpe_bn", "block.0.attn.proj_bn", "block.0.mlp.fc2_bn"] {
        set(&params, &format!("{norm}.weight"), Tensor::zeros_like)?;
        set(&params, &format!("{norm}.bias"), |bias| bias + 3.)?;
    }
    let mut recorder = Recorder::default();
    network.forward(&images(&Backbone::Spikformer, 2)?, &mut Pass::eval().observed_by(&mut recorder))?;
    let seen = |name: &str| recorder.synapses[name].3.clone();
    // Rows of tokens are the positions of the map that the position's convolution reads: [4, 16, 4, 4] to [4 · 16, 16].
    let map = Tensor::from_vec(seen("patch_embed.rpe_conv"), (4, 16, 16), &Device::Cpu)?;
    let read = values(&map.transpose(1, 2)?.contiguous()?)?;
    assert!(read.iter().any(|&spikes| spikes > 0.), "nothing fires");
    let plus = |by: f64| read.iter().map(|spikes| spikes + by).collect::<Vec<_>>();
    assert_eq!(seen("block.0.attn.q_linear"), plus(2.));
    assert_eq!(seen("block.0.mlp.fc1_linear"), plus(4.));
    let tokens = Tensor::from_vec(plus(6.), (4, 16, 16), &Device::Cpu)?;
    let head = Tensor::from_vec(seen("head"), (4, 16), &Device::Cpu)?;
    assert_close("head", &head, &tokens.mean(1)?, 1e-15).map_err(Into::into)
}

// Thresholds of several sizes have no common amplitude: the sum is then analog, and the first layer that reads it says so.
#[test]
fn sums_of_spikes_of_different_amplitude_are_analog() -> Result<()> {
    let (network, params) = build(&tiny(&Backbone::Spikformer))?;
    set(&params, "block.0.attn.proj_lif.v_threshold", |theta| theta * 0.75)?;
    let mut recorder = Recorder::default();
    network.forward(&images(&Backbone::Spikformer, 2)?, &mut Pass::eval().observed_by(&mut recorder))?;
    assert_eq!(recorder.synapses["block.0.attn.q_linear"].2, SPIKES);
    assert_eq!(recorder.synapses["block.0.mlp.fc1_linear"].2, SignalKind::Analog);
    Ok(())
}

#[test]
fn attention_scales_by_an_eighth_whatever_the_head_size() -> Result<()> {
    for heads in [1, 4] {
        let recorder = record(&ModelConfig { heads: Some(heads), ..tiny(&Backbone::Spikformer) })?;
        let names: Vec<_> = recorder.products.iter().map(|product| product.0.as_str()).collect();
        assert_eq!(names, ["block.0.attn.q_k", "block.0.attn.qk_v"]);
        let (_, q, q_signal, k, k_signal) = &recorder.products[0];
        let (_, scores, scores_signal, v, v_signal) = &recorder.products[1];
        assert_eq!(q.dims(), [4, heads, 16, 16 / heads]);
        assert_eq!(k.dims(), [4, heads, 16 / heads, 16]);
        assert_eq!(v.dims(), q.dims());
        assert_eq!([q_signal, k_signal, v_signal], [&SPIKES; 3]);
        assert_eq!(*scores_signal, SignalKind::Analog);
        let expected = (q.contiguous()?.matmul(&k.contiguous()?)? / 8.)?;
        assert_eq!(values(scores)?, values(&expected)?);
        assert!(values(scores)?.iter().any(|&score| score > 0.), "no query met a key");
    }
    Ok(())
}

// ---------------------------------------------------------------------------------------------------- errors

#[test]
fn a_wrong_transformer_names_field_value_and_what_is_allowed() {
    let spikformer = || tiny(&Backbone::Spikformer);
    let check = |config: ModelConfig| build(&config);
    assert_says(check(ModelConfig { heads: Some(3), ..spikformer() }), &["heads is 3", "divisor", "16"]);
    assert_says(check(ModelConfig { heads: Some(0), ..spikformer() }), &["heads is 0", "at least 1"]);
    assert_says(check(ModelConfig { depth: Some(0), ..spikformer() }), &["depth is 0", "at least 1"]);
    assert_says(check(ModelConfig { width: 12, ..spikformer() }), &["width is 12", "multiple of 8"]);
    assert_says(check(ModelConfig { width: 0, ..spikformer() }), &["width is 0", "1..=65536"]);
    // Absent: as published.
    assert!(ModelConfig { heads: None, depth: None, ..ModelConfig::spikformer(10) }.check().is_ok());
    assert_says(check(ModelConfig { heads: None, ..spikformer() }), &["heads is 12", "divisor", "16"]);
}

#[test]
fn what_a_backbone_does_not_have_is_an_error() {
    for backbone in &ALL {
        let config = tiny(backbone);
        if *backbone != Backbone::Spikformer {
            let title = backbone.title();
            let with_depth = ModelConfig { depth: Some(4), ..config.clone() };
            assert_says(with_depth.check(), &["depth is 4", title, "leave it out"]);
            let with_heads = ModelConfig { heads: Some(4), ..config.clone() };
            assert_says(with_heads.check(), &["heads is 4", title, "leave it out"]);
        }
        let imagenet = ModelConfig { stem: Stem::Imagenet, ..config };
        match backbone {
            Backbone::Resnet18
            | Backbone::Resnet19
            | Backbone::Resnet34
            | Backbone::MsResnet18
            | Backbone::MsResnet34
            | Backbone::Vgg11
            | Backbone::Vgg13Standard
            | Backbone::Vgg16
            | Backbone::Vgg19 => assert!(imagenet.check().is_ok(), "{backbone:?}"),
            _ => assert_says(imagenet.check(), &["stem is imagenet", backbone.title(), "expected cifar"]),
        }
    }
}

#[test]
fn an_image_that_does_not_survive_the_strides_is_an_error() -> Result<()> {
    let forward = |backbone: &Backbone, h: usize, w: usize| -> Result<Tensor> {
        let (network, _) = build(&tiny(backbone))?;
        let images = tensor(1, &[1, 3, h, w], DType::F64, &Device::Cpu)?;
        network.forward(&images, &mut Pass::eval())
    };
    assert_says(forward(&Backbone::Vgg13, 16, 15), &["16x15", "VGG-13", "at least 16"]);
    assert_says(forward(&Backbone::Vgg16, 31, 32), &["31x32", "VGG-16", "at least 32"]);
    assert_says(forward(&Backbone::Cifarnet, 36, 32), &["36x32", "CIFARNet", "32 to 35"]);
    assert_says(forward(&Backbone::Cifarnet, 28, 28), &["28x28", "CIFARNet", "32 to 35"]);
    // At the border all is well; what pools with padding takes a single pixel.
    for (backbone, h, w) in &[
        (Backbone::Vgg13, 16, 16),
        (Backbone::Vgg11, 32, 40),
        (Backbone::Vgg19, 64, 32),
        (Backbone::Cifarnet, 35, 32),
        (Backbone::Resnet34, 1, 1),
        (Backbone::MsResnet18, 1, 3),
        (Backbone::Spikformer, 1, 1),
    ] {
        assert_eq!(forward(backbone, *h, *w)?.dims(), [2, 1, 5], "{backbone:?}");
    }
    Ok(())
}

#[test]
fn a_configuration_without_transformer_has_no_word_of_one() -> Result<()> {
    for backbone in &ALL {
        let config = tiny(backbone);
        let json = config.to_json();
        assert_eq!(json.contains("heads"), *backbone == Backbone::Spikformer, "{backbone:?}");
        assert_eq!(ModelConfig::from_json(&json)?, config, "{backbone:?}");
    }
    // Names as files have them.
    for (backbone, name) in &[
        (Backbone::MsResnet18, "ms_resnet18"),
        (Backbone::Vgg13Standard, "vgg13_standard"),
        (Backbone::Cifarnet, "cifarnet"),
        (Backbone::Spikformer, "spikformer"),
    ] {
        assert!(tiny(backbone).to_json().contains(&format!("\"{name}\"")), "{backbone:?}");
    }
    Ok(())
}

#[test]
fn a_network_without_tgim_asks_for_none() -> Result<()> {
    let identity = NeuronConfig::Lmht(neurons::Lmht {
        levels: 2,
        tgim: Tgim::Identity,
        v_threshold: None,
        v_init: 0.,
        gradient: lmht_nn::GradientMode::Detached,
    });
    for backbone in &ALL {
        let (_, params) = build(&ModelConfig { neuron: identity.clone(), ..tiny(backbone) })?;
        let all = params.all();
        assert!(all.iter().all(|(name, _)| !name.contains("mask")), "{backbone:?}");
        assert!(all.iter().any(|(name, _)| name.ends_with(".alpha")), "{backbone:?}");
    }
    Ok(())
}
