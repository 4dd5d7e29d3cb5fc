//! Every figure is the same whether spikes come as tensors, or as the engine keeps them.

use candle_core::{DType, Device, Tensor};
use lmht_bench::{ActivityCounter, CostCounter, CostReport, LayerActivity, Profiler, Raster, SynapseTotal, Tally};
use lmht_nn::neurons::{Ilif, Ternary};
use lmht_nn::{
    Backbone, ChannelsLast, Form, ModelConfig, Network, NeuronConfig, NeuronEvent, Numbers, Observer, PackedSpikes,
    ParamStore, Pass, PassEvent, ProductEvent, Result, SignalKind, SynapseEvent, SynapseKind, Values,
};

use crate::networks::{build, images, small};

/// Counts what it is shown twice: as it comes, and as tensors.
#[derive(Default)]
struct Both {
    as_it_comes: Profiler,
    as_tensors: Profiler,
    packed: usize,
    numbers: usize,
}

impl Both {
    fn note(&mut self, values: &Values<'_>) {
        match values {
            Values::Tensor(_) => {}
            Values::Packed(_) => self.packed += 1,
            Values::Numbers(_) => self.numbers += 1,
        }
    }
}

impl Observer for Both {
    fn begin(&mut self, event: &PassEvent) -> Result<()> {
        self.as_it_comes.begin(event)?;
        self.as_tensors.begin(event)
    }

    fn takes_parts(&self) -> bool {
        self.as_it_comes.takes_parts()
    }

    fn synapse(&mut self, event: &SynapseEvent<'_>) -> Result<()> {
        self.note(&event.input);
        self.as_it_comes.synapse(event)?;
        let input = event.input.to_tensor()?;
        let input = Values::Tensor(&input);
        self.as_tensors.synapse(&SynapseEvent::new(event.name, event.kind, input, event.weight, event.signal))
    }

    fn neuron(&mut self, event: &NeuronEvent<'_>) -> Result<()> {
        self.note(&event.output);
        self.as_it_comes.neuron(event)?;
        let output = event.output.to_tensor()?;
        let output = Values::Tensor(&output);
        let mut same = NeuronEvent::new(event.name, event.timesteps, output, event.signal, event.levels);
        (same.tgim, same.window, same.has_leak) = (event.tgim, event.window, event.has_leak);
        self.as_tensors.neuron(&same)
    }

    fn product(&mut self, event: &ProductEvent<'_>) -> Result<()> {
        self.as_it_comes.product(event)?;
        self.as_tensors.product(event)
    }
}

/// Everything that a profiler tells.
type Figures = (Vec<(String, Tally, u64, u64)>, Vec<u64>, CostReport, Vec<LayerActivity>, Vec<Raster>);

fn figures(profiler: &Profiler) -> Figures {
    let Profiler { cost, activity } = profiler;
    let layer = |layer: &SynapseTotal| (layer.name.clone(), layer.total, layer.macs, layer.n_rows);
    let report = cost.report(cost.n_images());
    let rasters = activity.rasters().into_iter().cloned().collect();
    (cost.synapses().iter().map(layer).collect(), cost.sops_by_image(), report, activity.report(), rasters)
}

/// A few exact zeros among the weights, as pruned networks have them.
fn prune(params: &ParamStore) {
    for (name, var) in params.all() {
        if name.ends_with("weight") && var.rank() > 1 {
            let weight = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let pruned = weight.iter().enumerate().map(|(i, w)| if i % 7 == 3 { 0. } else { *w }).collect::<Vec<_>>();
            var.set(&Tensor::from_vec(pruned, var.shape(), &Device::Cpu).unwrap()).unwrap();
        }
    }
}

#[track_caller]
fn assert_same(config: &ModelConfig, xs: &Tensor, is_pruned: bool) -> Both {
    let (network, params) = build(config);
    if is_pruned {
        prune(&params);
    }
    let mut both = Both::default();
    network.forward(xs, &mut Pass::eval().observed_by(&mut both)).unwrap();
    assert_eq!(figures(&both.as_it_comes), figures(&both.as_tensors), "{:?} {:?}", config.backbone, config.neuron);
    both
}

const BACKBONES: [Backbone; 13] = [
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

#[test]
fn bytes_give_the_figures_of_tensors_on_every_backbone() {
    let xs = images(&[2, 3, 32, 32]);
    for backbone in BACKBONES {
        let config = ModelConfig { width: 4, ..small(backbone.clone()) };
        let config = if backbone == Backbone::Spikformer { small(backbone) } else { config };
        for is_pruned in [false, true] {
            let both = assert_same(&config, &xs, is_pruned);
            assert!(both.packed > 0, "{:?}: the engine showed no bytes", config.backbone);
        }
    }
}

#[test]
fn bytes_give_the_figures_of_tensors_with_every_neuron() {
    let xs = images(&[2, 3, 16, 16]);
    let neurons = [
        (NeuronConfig::integrate_and_fire(), 3),
        (NeuronConfig::lmht(4), 2),
        (Ternary::default().into(), 2),
        (Ilif::default().into(), 2),
        (NeuronConfig::qcfs(4), 1),
        (NeuronConfig::relu(), 1),
    ];
    for (neuron, timesteps) in neurons {
        let config = ModelConfig { timesteps, neuron, ..small(Backbone::Resnet18) };
        let both = assert_same(&config, &xs, false);
        assert!(both.packed + both.numbers > 0, "{:?}", config.neuron);
        assert_same(&config, &xs, true);
    }
}

/// The pass that runs layer by layer spikes as the engine does, in f64 to the last unit.
#[test]
fn the_engine_counts_what_a_pass_layer_by_layer_counts() {
    for backbone in [Backbone::Resnet18, Backbone::MsResnet18, Backbone::Vgg11, Backbone::Spikformer] {
        let params = ParamStore::new(42);
        let config = small(backbone);
        let network = Network::new(&config, params.builder(DType::F64, &Device::Cpu)).unwrap();
        let xs = images(&[2, 3, 32, 32]).to_dtype(DType::F64).unwrap();
        let (mut engine, mut layers) = (Profiler::new(), Profiler::new());
        network.forward(&xs, &mut Pass::eval().observed_by(&mut engine)).unwrap();
        network.forward(&xs, &mut Pass::eval().layer_by_layer().observed_by(&mut layers)).unwrap();
        assert_eq!(figures(&engine), figures(&layers), "{:?}", config.backbone);
    }
}

/// A pass layer by layer has units in another order than the engine: a counter that saw both knows each unit again.
#[test]
fn a_counter_may_see_both_forms() {
    let (network, _) = build(&small(Backbone::Resnet18));
    let [first, second] = [0, 1].map(|i| images(&[2, 3, 16, 16]).narrow(0, i, 1).unwrap());
    let [mut mixed, mut bytes] = [ActivityCounter::new(), ActivityCounter::new()];
    network.forward(&first, &mut Pass::eval().observed_by(&mut bytes)).unwrap();
    network.forward(&second, &mut Pass::eval().observed_by(&mut bytes)).unwrap();
    network.forward(&first, &mut Pass::eval().observed_by(&mut mixed)).unwrap();
    network.forward(&second, &mut Pass::eval().layer_by_layer().observed_by(&mut mixed)).unwrap();
    assert_eq!(mixed.report(), bytes.report());
    assert_eq!(mixed.rasters(), bytes.rasters());
}

/// So many images that an evaluation takes them in parts.
#[test]
fn parts_of_an_evaluation_add_up() {
    /// Wants all images at once.
    struct Whole(Profiler, usize);
    impl Observer for Whole {
        fn begin(&mut self, event: &PassEvent) -> Result<()> {
            self.1 += 1;
            self.0.begin(event)
        }
        fn synapse(&mut self, event: &SynapseEvent<'_>) -> Result<()> {
            self.0.synapse(event)
        }
        fn neuron(&mut self, event: &NeuronEvent<'_>) -> Result<()> {
            self.0.neuron(event)
        }
    }
    /// Takes them as they come.
    struct Parts(Whole);
    impl Observer for Parts {
        fn begin(&mut self, event: &PassEvent) -> Result<()> {
            self.0.begin(event)
        }
        fn takes_parts(&self) -> bool {
            true
        }
        fn synapse(&mut self, event: &SynapseEvent<'_>) -> Result<()> {
            self.0.synapse(event)
        }
        fn neuron(&mut self, event: &NeuronEvent<'_>) -> Result<()> {
            self.0.neuron(event)
        }
    }
    let config = ModelConfig { backbone: Backbone::Cifarnet, width: 8, ..ModelConfig::resnet18(10) };
    let (network, _) = build(&config);
    // 16 channels of 32x32 at two timesteps, 4 bytes a number: 128 images fill 16 MiB.
    let xs = images(&[300, 3, 32, 32]);
    let mut parts = Parts(Whole(Profiler::new(), 0));
    let mut whole = Whole(Profiler::new(), 0);
    network.forward(&xs, &mut Pass::eval().observed_by(&mut parts)).unwrap();
    network.forward(&xs, &mut Pass::eval().observed_by(&mut whole)).unwrap();
    assert!(parts.0.1 > 1 && whole.1 == 1, "in {} parts, in {}", parts.0.1, whole.1);
    assert_eq!(parts.0.0.cost.n_images(), 300);
    assert_eq!(figures(&parts.0.0), figures(&whole.0));
}

/// Packed spikes of `[rows, h, w, c]`, with the top bit set here and there.
fn packed(bytes: &[u8], shape: [usize; 3], form: Form, amplitude: f64) -> PackedSpikes<'_> {
    PackedSpikes { bytes, shape, amplitude, form, dtype: DType::F32 }
}

/// Counts 0..=2, every third byte with a gate.
fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| ((i * i + i / 5) % 3) as u8 | if i % 3 == 0 { 0x80 } else { 0 }).collect()
}

fn total(kind: SynapseKind, input: Values<'_>, weight: &Tensor, signal: SignalKind) -> (Tally, Vec<u64>) {
    let mut counter = CostCounter::new();
    counter.begin(&PassEvent { timesteps: 2, n_images: 1 }).unwrap();
    counter.synapse(&SynapseEvent::new("synapse", kind, input, weight, signal)).unwrap();
    (counter.synapses()[0].total, (0..2).map(|t| counter.synapses()[0].sops_at(0, t)).collect())
}

#[test]
fn depthwise_grouped_and_token_forms_count_as_their_tensors() {
    let spikes = SignalKind::Spikes { v_threshold: 0.5 };
    let conv = |c_out, groups| SynapseKind::Conv2d { c_out, kernel: 3, stride: 2, padding: 1, groups };
    let cases = [
        (conv(4, 4), vec![4, 1, 3, 3], Form::Maps, [5, 6, 4]),
        (conv(8, 4), vec![8, 1, 3, 3], Form::Maps, [5, 6, 4]),
        (conv(6, 2), vec![6, 2, 3, 3], Form::Maps, [5, 6, 4]),
        (SynapseKind::Linear { f_out: 3 }, vec![3, 120], Form::Vector, [5, 6, 4]),
        (SynapseKind::Linear { f_out: 3 }, vec![3, 4], Form::Tokens, [5, 6, 4]),
    ];
    let bytes = bytes(2 * 120);
    for (kind, dims, form, shape) in cases {
        let n: usize = dims.iter().product();
        for zeros in [0, 5] {
            let weight = (0..n).map(|i| if zeros > 0 && i % zeros == 2 { 0. } else { 1f32 }).collect::<Vec<_>>();
            let weight = Tensor::from_vec(weight, &dims[..], &Device::Cpu).unwrap();
            let values = Values::Packed(packed(&bytes, shape, form, 0.5));
            let tensor = values.to_tensor().unwrap();
            for signal in [spikes, SignalKind::Analog] {
                let ours = total(kind, values, &weight, signal);
                assert_eq!(ours, total(kind, Values::Tensor(&tensor), &weight, signal), "{kind:?} {form:?} {zeros}");
            }
            let numbers: Vec<f32> = bytes.iter().map(|&byte| f32::from(PackedSpikes::count(byte)) * -0.5).collect();
            let numbers = Values::Numbers(ChannelsLast { numbers: Numbers::F32(&numbers), shape, form });
            assert_eq!(total(kind, numbers, &weight, spikes), total(kind, values, &weight, spikes));
        }
    }
}

// A depthwise 3x3 of two channels on 2x2, padding 1: each position is seen by four outputs of its own channel.
#[test]
fn a_depthwise_convolution_by_hand() {
    let weight = Tensor::ones((2, 1, 3, 3), DType::F32, &Device::Cpu).unwrap();
    let kind = SynapseKind::Conv2d { c_out: 2, kernel: 3, stride: 1, padding: 1, groups: 2 };
    // At t = 0 a spike of level 2 and one of level 1, at t = 1 one of level 1.
    let bytes = [2, 0, 0, 0x81, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 1, 0, 0];
    let input = Values::Packed(packed(&bytes, [2, 2, 2], Form::Maps, 1.));
    let (tally, by_timestep) = total(kind, input, &weight, SignalKind::Spikes { v_threshold: 1. });
    assert_eq!(tally, Tally { spikes: 4, active: 3, sops: 16, effective: 12 });
    assert_eq!(by_timestep, [12, 4]);
}

#[test]
fn bytes_of_another_amplitude_are_weighed() {
    let weight = Tensor::ones((3, 4), DType::F32, &Device::Cpu).unwrap();
    let bytes = [1, 0, 2, 0, 0, 0, 0, 1];
    let kind = SynapseKind::Linear { f_out: 3 };
    let input = |amplitude| Values::Packed(packed(&bytes, [1, 1, 4], Form::Vector, amplitude));
    let spikes = SignalKind::Spikes { v_threshold: 0.5 };
    assert_eq!(total(kind, input(1.), &weight, spikes).0, Tally { spikes: 8, active: 3, sops: 24, effective: 9 });
    let mut counter = CostCounter::new();
    let event = SynapseEvent::new("fc", kind, input(0.3), &weight, spikes);
    let message = counter.synapse(&event).unwrap_err().to_string();
    assert!(message.contains("fc") && message.contains("0.3"), "{message}");
}
