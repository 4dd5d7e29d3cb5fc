//! Whole networks, watched.

use candle_core::{D, DType, Device, Tensor};
use lmht_bench::{CostCounter, Footprint, InputKind, Profiler};
use lmht_nn::layers::{Conv2d, Linear, Neuron, Site, avg_pool2d, flatten};
use lmht_nn::neurons::{Lif, Lmht, Mht};
use lmht_nn::ops::{Conv2dParams, Pool2dParams};
use lmht_nn::{
    Backbone, ModelConfig, Network, NeuronConfig, NeuronEvent, Observer, ParamStore, Pass, ProductEvent, Result,
    Signal, SignalKind, SynapseEvent, SynapseKind, Tgim, Values,
};

pub(crate) fn images(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    // Multiples of 1/16 in -2..2, from a fixed recurrence.
    let mut state = 12345u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 26) as f32 - 32.) / 16.
    };
    Tensor::from_vec((0..n).map(|_| next()).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
}

pub(crate) fn small(backbone: Backbone) -> ModelConfig {
    let config = ModelConfig { backbone: backbone.clone(), width: 8, ..ModelConfig::resnet18(10) };
    match backbone {
        Backbone::Spikformer => {
            ModelConfig { width: 16, depth: Some(1), heads: Some(2), ..ModelConfig::spikformer(10) }
        }
        Backbone::Resnet20 => ModelConfig { width: 4, ..config },
        _ => config,
    }
}

pub(crate) fn build(config: &ModelConfig) -> (Network, ParamStore) {
    let params = ParamStore::new(42);
    let network = Network::new(config, params.builder(DType::F32, &Device::Cpu)).unwrap();
    (network, params)
}

/// The definition, as slowly as it reads: a convolution of counts with ones.
#[derive(Default)]
struct Reference {
    sops: Vec<(String, f64)>,
}

impl Observer for Reference {
    fn synapse(&mut self, event: &SynapseEvent<'_>) -> Result<()> {
        let SignalKind::Spikes { v_threshold } = event.signal else { return Ok(()) };
        let counts = (event.input.to_tensor()?.to_dtype(DType::F64)? / v_threshold)?.round()?;
        let ones = event.weight.ones_like()?.to_dtype(DType::F64)?;
        let sum = match event.kind {
            SynapseKind::Conv2d { stride, padding, groups, .. } => {
                counts.conv2d(&ones, padding, stride, 1, groups)?.sum_all()?
            }
            SynapseKind::Linear { .. } => counts.matmul(&ones.t()?)?.sum_all()?,
            other => panic!("{}: {other:?} is new", event.name),
        };
        self.sops.push((event.name.to_string(), sum.to_scalar::<f64>()?));
        Ok(())
    }
}

#[test]
fn every_network_costs_what_a_convolution_with_ones_gives() {
    for backbone in [Backbone::Resnet18, Backbone::MsResnet18, Backbone::Resnet20, Backbone::Spikformer] {
        let (network, _) = build(&small(backbone.clone()));
        let xs = images(&[3, 3, 16, 16]);
        let (mut counter, mut reference) = (CostCounter::new(), Reference::default());
        network.forward(&xs, &mut Pass::eval().observed_by(&mut counter)).unwrap();
        network.forward(&xs, &mut Pass::eval().observed_by(&mut reference)).unwrap();
        assert!(reference.sops.iter().map(|(_, sops)| sops).sum::<f64>() > 0., "{backbone:?}: nothing fires");
        let sops = counter.total_sops();
        for (name, expected) in &reference.sops {
            let (_, ours) = sops.iter().find(|(ours, _)| ours == name).unwrap();
            assert_eq!(*ours as f64, *expected, "{backbone:?} {name}");
        }
    }
}

#[test]
fn watching_changes_no_bit() {
    for backbone in [Backbone::Resnet18, Backbone::Vgg13, Backbone::MsResnet18, Backbone::Spikformer] {
        let (network, _) = build(&small(backbone.clone()));
        let xs = images(&[2, 3, 16, 16]);
        let bits = |pass: &mut Pass<'_>| -> Vec<u32> {
            let logits = network.forward(&xs, pass).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            logits.into_iter().map(f32::to_bits).collect()
        };
        let mut profiler = Profiler::new();
        assert_eq!(bits(&mut Pass::eval().observed_by(&mut profiler)), bits(&mut Pass::eval()), "{backbone:?}");
        assert!(profiler.cost.report(2).dense_total() > 0.);
        assert!(!profiler.activity.report().is_empty());
    }
}

trait Total {
    fn dense_total(&self) -> f64;
}

impl Total for lmht_bench::CostReport {
    fn dense_total(&self) -> f64 {
        self.sum(|layer| layer.dense)
    }
}

#[test]
fn counts_are_told_apart_by_image_and_timestep() {
    // Spikformer has rows for tokens too; frames come in with a time of their own.
    for backbone in [Backbone::Resnet18, Backbone::Spikformer] {
        let config = ModelConfig { timesteps: 3, ..small(backbone.clone()) };
        let (network, _) = build(&config);
        let frames = images(&[3, 2, 3, 16, 16]);
        let mut both = CostCounter::new();
        network.forward(&frames, &mut Pass::eval().observed_by(&mut both)).unwrap();
        assert_eq!(both.n_images(), 2);
        for image in 0..2 {
            let mut alone = CostCounter::new();
            let frames = frames.narrow(1, image, 1).unwrap().contiguous().unwrap();
            network.forward(&frames, &mut Pass::eval().observed_by(&mut alone)).unwrap();
            for (both, alone) in both.synapses().iter().zip(alone.synapses()) {
                for t in 0..3 {
                    assert_eq!(both.sops_at(image, t), alone.sops_at(0, t), "{backbone:?} {} t={t}", both.name);
                }
                assert_eq!(both.sops_at(image, 3), 0);
            }
            assert_eq!(both.sops_by_image()[image], alone.sops_by_image()[0]);
        }
        let cells: u64 = both.sops_by_image().iter().sum();
        assert_eq!(cells, both.total_sops().iter().map(|(_, sops)| sops).sum::<u64>());
        let report = both.report(2);
        for layer in &report.layers {
            assert!((layer.sops_by_timestep.iter().sum::<f64>() - layer.sops).abs() < 1e-9 * layer.sops.max(1.));
        }
    }
}

#[test]
fn batches_add_up() {
    let (network, _) = build(&small(Backbone::Resnet18));
    let xs = images(&[5, 3, 16, 16]);
    let (mut whole, mut parts) = (Profiler::new(), Profiler::new());
    network.forward(&xs, &mut Pass::eval().observed_by(&mut whole)).unwrap();
    for (start, len) in [(0, 2), (2, 3)] {
        network.forward(&xs.narrow(0, start, len).unwrap(), &mut Pass::eval().observed_by(&mut parts)).unwrap();
    }
    assert_eq!(whole.cost.report(5), parts.cost.report(5));
    assert_eq!(whole.activity.report(), parts.activity.report());
    assert_eq!(whole.activity.rasters(), parts.activity.rasters());
}

#[test]
fn a_static_images_stem_runs_once_and_frames_run_it_at_every_timestep() {
    let (network, _) = build(&small(Backbone::Resnet18));
    let macs = |images: &Tensor| {
        let mut counter = CostCounter::new();
        network.forward(images, &mut Pass::eval().observed_by(&mut counter)).unwrap();
        let report = counter.report(1);
        let stem = report.layers[0].clone();
        assert_eq!((stem.input, stem.sops), (InputKind::Image, 0.));
        // 16 positions along an axis: 2 + 14 · 3 + 2 = 46 taps.
        assert_eq!(report.macs_of(InputKind::Image), stem.macs);
        (stem.macs, report.ann_macs())
    };
    let (once, ann) = macs(&images(&[1, 3, 16, 16]));
    let (twice, ann_of_frames) = macs(&images(&[2, 1, 3, 16, 16]));
    assert_eq!((once, twice), (46. * 46. * 3. * 8., 2. * 46. * 46. * 3. * 8.));
    // The dense network is the same.
    assert_eq!(ann, ann_of_frames);
}

#[test]
fn averages_are_macs_but_the_paper_counts_their_amplitude() {
    let params = ParamStore::new(1);
    let vb = params.builder(DType::F32, &Device::Cpu);
    let conv = Conv2d::new(1, 1, 3, Conv2dParams { stride: 1, padding: 1, groups: 1 }, false, vb.pp("conv")).unwrap();
    let readout = Linear::new(16, 10, vb.pp("fc")).unwrap();
    // Four spikes of 0.5 in one window of a map of 8x8: the average is one spike at (1, 1) of 4x4.
    let mut map = vec![0f32; 64];
    for at in [2 * 8 + 2, 2 * 8 + 3, 3 * 8 + 2] {
        map[at] = 0.5;
    }
    let map = Signal::analog(Tensor::from_vec(map, (1, 1, 8, 8), &Device::Cpu).unwrap());
    let half = NeuronConfig::from(Mht { levels: 1, v_threshold: Some(0.5), ..Mht::default() });
    let spikes = Neuron::new(&half, 1, Site::Maps, vb.pp("sn")).unwrap().forward(&map, &mut Pass::eval()).unwrap();
    assert_eq!(spikes.kind(), SignalKind::Spikes { v_threshold: 0.5 });
    let two = Pool2dParams { kernel: 2, stride: 2, padding: 0 };
    let averaged = avg_pool2d(&spikes, two, &mut Pass::eval()).unwrap();
    let mut counter = CostCounter::new();
    let mut pass = Pass::eval().observed_by(&mut counter);
    pass.begin(1, 1).unwrap();
    let current = conv.forward(&averaged, &mut pass).unwrap();
    let current = flatten(&current, &mut pass).unwrap();
    readout.forward(&current, &mut pass).unwrap();
    let report = counter.report(1);
    let conv = &report.layers[0];
    // 3/4 of a spike, nine taps.
    assert_eq!((conv.sops, conv.macs, conv.paper_sops, conv.macs_nz), (0., 100., 6.75, 9.));
    assert_eq!(conv.input, InputKind::Averaged);
    assert_eq!((report.layers[1].input, report.layers[1].macs), (InputKind::Analog, 160.));
    assert_eq!((report.macs_of(InputKind::Averaged), report.macs_of(InputKind::Analog)), (100., 160.));
}

#[test]
fn neurons_count_updates_and_what_mixes_time() {
    // The stem's neurons of width 8 on 16x16.
    let units = 8. * 16. * 16.;
    let lmht = |tgim| NeuronConfig::from(Lmht { levels: 2, tgim, ..Lmht::default() });
    for (neuron, tgim, leak) in [
        (lmht(Tgim::Full), 16., 4.),
        (lmht(Tgim::Causal), 10., 4.),
        (NeuronConfig::mht(2), 0., 0.),
        (Lif { leak: 0.5, ..Lif::default() }.into(), 0., 4.),
    ] {
        let config = ModelConfig { timesteps: 4, neuron, ..small(Backbone::Resnet18) };
        let (network, _) = build(&config);
        let mut counter = CostCounter::new();
        network.forward(&images(&[3, 3, 16, 16]), &mut Pass::eval().observed_by(&mut counter)).unwrap();
        let stem = counter.report(3).neurons.remove(0);
        assert_eq!((stem.name.as_str(), stem.n_units), ("sn1", units as u64));
        assert_eq!((stem.updates, stem.tgim_macs, stem.leak_muls), (4. * units, tgim * units, leak * units));
    }
}

/// Pairs that meet, by the definition: a product of counts, summed.
#[derive(Default)]
struct Products(Vec<(String, f64, f64)>);

impl Observer for Products {
    fn product(&mut self, event: &ProductEvent<'_>) -> Result<()> {
        let counts = |xs: &Tensor, signal| -> Result<Tensor> {
            let xs = xs.to_dtype(DType::F64)?.contiguous()?;
            Ok(match signal {
                SignalKind::Spikes { v_threshold } => (xs / v_threshold)?.round()?,
                _ => xs.ones_like()?,
            })
        };
        let left = counts(event.left, event.left_signal)?;
        let right = counts(event.right, event.right_signal)?;
        let acs = left.matmul(&right)?.sum_all()?.to_scalar::<f64>()?;
        let dense = event.left.elem_count() * event.right.dim(D::Minus1)?;
        self.0.push((event.name.to_string(), acs, dense as f64));
        Ok(())
    }
}

#[test]
fn attention_counts_spikes_that_meet() {
    let (network, _) = build(&small(Backbone::Spikformer));
    let xs = images(&[2, 3, 16, 16]);
    let (mut counter, mut reference) = (CostCounter::new(), Products::default());
    network.forward(&xs, &mut Pass::eval().observed_by(&mut counter)).unwrap();
    network.forward(&xs, &mut Pass::eval().observed_by(&mut reference)).unwrap();
    assert_eq!(counter.products().len(), 2);
    for (ours, (name, acs, dense)) in counter.products().iter().zip(&reference.0) {
        assert_eq!((&ours.name, ours.acs as f64, ours.dense as f64), (name, *acs, *dense));
        assert!(ours.effective <= ours.dense && ours.macs == 0);
    }
    assert!(counter.products()[1].acs > 0);
}

// 2x3 times 3x2 of spikes by hand: columns of the left have 1, 2, 0 spikes, rows of the right 3, 1, 2.
#[test]
fn a_product_by_hand() {
    let left = Tensor::new(&[[[[1f32, 1., 0.], [0., 1., 0.]]]], &Device::Cpu).unwrap();
    let right = Tensor::new(&[[[[1f32, 2.], [1., 0.], [1., 1.]]]], &Device::Cpu).unwrap();
    let spikes = SignalKind::Spikes { v_threshold: 1. };
    let count = |left_signal, right_signal| {
        let mut counter = CostCounter::new();
        let event = ProductEvent::new("q_k", (&left, left_signal), (&right, right_signal));
        counter.product(&event).unwrap();
        counter.products()[0].clone()
    };
    let both = count(spikes, spikes);
    assert_eq!((both.acs, both.macs, both.effective, both.dense), (3 + 2, 0, 2 + 2, 12));
    let right_only = count(SignalKind::Analog, spikes);
    assert_eq!((right_only.acs, right_only.macs), (6 * 2, 0));
    let none = count(SignalKind::Analog, SignalKind::Analog);
    assert_eq!((none.acs, none.macs, none.effective), (0, 12, 4));
}

#[test]
fn a_qcfs_network_costs_macs_alone() {
    let config = ModelConfig { timesteps: 1, neuron: NeuronConfig::qcfs(4), ..small(Backbone::Resnet20) };
    let (network, _) = build(&config);
    let mut counter = CostCounter::new();
    network.forward(&images(&[2, 3, 16, 16]), &mut Pass::eval().observed_by(&mut counter)).unwrap();
    let report = counter.report(2);
    assert_eq!((report.sops(), report.paper_sops()), (0., 0.));
    assert_eq!(report.macs(), report.ann_macs());
    assert!(report.sum(|layer| layer.macs_nz) < report.macs());
}

#[test]
fn other_number_types_count_the_same() {
    let config = small(Backbone::Resnet18);
    let (network, params) = build(&config);
    let xs = images(&[2, 3, 16, 16]);
    let mut single = CostCounter::new();
    network.forward(&xs, &mut Pass::eval().observed_by(&mut single)).unwrap();
    // The counter's f64 path on the same spikes: what the f32 pass shows, converted.
    struct Converted(CostCounter);
    impl Observer for Converted {
        fn synapse(&mut self, event: &SynapseEvent<'_>) -> Result<()> {
            let input = event.input.to_tensor()?.to_dtype(DType::F64)?;
            let weight = event.weight.to_dtype(DType::F64)?;
            let input = Values::Tensor(&input);
            self.0.synapse(&SynapseEvent::new(event.name, event.kind, input, &weight, event.signal))
        }
    }
    let mut double = Converted(CostCounter::new());
    network.forward(&xs, &mut Pass::eval().observed_by(&mut double)).unwrap();
    assert_eq!(single.total_sops(), double.0.total_sops());
    assert_eq!(Footprint::of(&params).n_params, params.n_params() as u64);
}

#[test]
fn what_does_not_fit_is_said_with_the_layers_name() {
    let xs = Tensor::zeros((1, 2, 4, 4), DType::F32, &Device::Cpu).unwrap();
    let weight = Tensor::zeros((3, 2, 3, 3), DType::F32, &Device::Cpu).unwrap();
    let mut counter = CostCounter::new();
    let kind = SynapseKind::Conv2d { c_out: 4, kernel: 3, stride: 1, padding: 1, groups: 1 };
    let event = SynapseEvent::new("layer1.0.conv1.0", kind, Values::Tensor(&xs), &weight, SignalKind::Analog);
    assert!(counter.synapse(&event).unwrap_err().to_string().contains("layer1.0.conv1.0"));

    let odd = (xs + 0.3).unwrap();
    let kind = SynapseKind::Conv2d { c_out: 3, kernel: 3, stride: 1, padding: 1, groups: 1 };
    let signal = SignalKind::Spikes { v_threshold: 0.5 };
    let event = SynapseEvent::new("layer1.0.conv1.0", kind, Values::Tensor(&odd), &weight, signal);
    let message = counter.synapse(&event).unwrap_err().to_string();
    assert!(message.contains("layer1.0.conv1.0") && message.contains("0.5"), "{message}");

    let mut counter = CostCounter::new();
    counter.begin(&lmht_nn::PassEvent { timesteps: 2, n_images: 1 }).unwrap();
    let message = counter.begin(&lmht_nn::PassEvent { timesteps: 3, n_images: 1 }).unwrap_err().to_string();
    assert!(message.contains("expected 2 timesteps"), "{message}");
}

/// Spikes that a neuron layer sends reach the synapse after it: the two counters must agree.
#[test]
fn rates_and_operations_are_of_the_same_spikes() {
    #[derive(Default)]
    struct Last(f64);
    impl Observer for Last {
        fn neuron(&mut self, event: &NeuronEvent<'_>) -> Result<()> {
            if event.name == "layer1.0.sn1" {
                self.0 += event.output.to_tensor()?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
            }
            Ok(())
        }
    }
    let (network, _) = build(&small(Backbone::Resnet18));
    let xs = images(&[2, 3, 16, 16]);
    let (mut profiler, mut last) = (Profiler::new(), Last::default());
    network.forward(&xs, &mut Pass::eval().observed_by(&mut profiler)).unwrap();
    network.forward(&xs, &mut Pass::eval().observed_by(&mut last)).unwrap();
    let report = profiler.cost.report(2);
    let conv2 = report.layers.iter().find(|layer| layer.name == "layer1.0.conv2.0").unwrap();
    let activity = profiler.activity.report();
    let neuron = activity.iter().find(|layer| layer.name == "layer1.0.sn1").unwrap();
    // θ = 1 for L = 2.
    assert_eq!(conv2.spikes, last.0 / 2.);
    let spikes = neuron.rate_eq * f64::from(neuron.levels) * (neuron.timesteps * neuron.n_units) as f64;
    assert!((conv2.spikes - spikes).abs() < 1e-6 * spikes);
    let rate = conv2.spikes / conv2.inputs;
    assert!((conv2.sop_rate - rate * conv2.dense_padded).abs() < 1e-6 * conv2.sop_rate);
}
