//! Our network as a NIR graph.

use std::collections::{HashMap, HashSet};

use candle_core::{DType, Device, Tensor};
use lmht_nn::Tgim;
use lmht_nn::neurons::{Equation, Leak, NeuronTraits};
use lmht_nn::ops::Conv2dParams;
use lmht_nn::trace::{Op, Trace};

use super::graph::{Array, Integration, Metadata, NirGraph, Node, Pair, Precision, Primitive, RESET};
use super::{Profile, name_of_pass};
use crate::layers::{called, missing, path};
use crate::{Error, Model, Result, absorb_bn};

/// τ/dt where a LIF stands for an IF in snnTorch: λ = 1 - dt/τ is 1 in float32 and in float64.
const ENDLESS: f64 = (1_u64 << 60) as f64;

/// The same in Norse, whose current and threshold have the factor dt/τ: small enough that λ is 1 in float32, and that what
/// leaks in float64 is nothing beside the rounding of the threshold; large enough for the range of float32.
const ENDLESS_IN_NORSE: f64 = (1_u64 << 40) as f64;

/// The graph, and notes that belong to this network.
pub(super) fn build(
    model: &Model,
    input: &[usize],
    profile: Profile,
    precision: Precision,
) -> Result<(NirGraph, Vec<String>)> {
    let neurons = check(model, &model.check()?)?;

    let tensors = model.tensors.iter().map(|(name, tensor)| Ok((name.clone(), tensor.to_dtype(DType::F64)?)));
    let mut model = Model { config: model.config.clone(), tensors: tensors.collect::<Result<_>>()? };
    if model.config.batch_norm {
        model = absorb_bn(&model)?;
    }
    let (network, _) = model.build(DType::F64, &Device::Cpu)?;
    let trace = network.trace(input)?;
    let (v_init, timesteps) = (model.config.neuron.traits().v_init, model.config.timesteps);
    let metadata = Metadata {
        generator: concat!("lmht-convert ", env!("CARGO_PKG_VERSION")).into(),
        profile: profile.name().into(),
        reset: RESET.into(),
        integration: if profile == Profile::Sinabs { Integration::Exponential } else { Integration::Euler },
        absorbed: "batch norm, amplitude of spikes, input scale".into(),
        dt: match profile {
            Profile::Spec | Profile::Sinabs => 1.,
            Profile::SpikingJelly | Profile::SnnTorch => 1e-4,
            Profile::Norse => 1e-3,
        },
        timesteps,
        v_init,
    };
    let mut notes = Vec::new();
    if v_init != 0. {
        notes.push(format!(
            "neurons start from v(0) = {v_init} · v_threshold (metadata v_init), which the format cannot say; set it \
             before the first timestep"
        ));
    }
    let takes_maps = trace.nodes.iter().any(|node| matches!(node.op, Op::Conv2d { .. }));
    if profile.convolves_features() && takes_maps {
        notes.push(format!(
            "{}: linear layers are convolutions over one position, so that the output has the shape [{}, 1, 1]",
            profile.name(),
            model.config.n_classes
        ));
    }
    let graph_of_nodes = NirGraph { nodes: Vec::new(), edges: Vec::new(), metadata };
    let mut builder = Builder {
        model: &model,
        trace: &trace,
        passes: HashMap::new(),
        neurons,
        profile,
        precision,
        names: HashSet::new(),
        out: graph_of_nodes,
    };
    builder.run()?;
    let out = builder.out;
    let joins = (0..out.nodes.len()).any(|id| out.edges.iter().filter(|&&(_, to)| to == id).count() > 1);
    if joins && matches!(profile, Profile::Norse | Profile::Sinabs) {
        notes.push(format!(
            "{profile}: NIRTorch, which runs the graph, does not wait for both paths of a sum; put its nodes in order: \
             net.execution_order = list(graphlib.TopologicalSorter({{n: net.graph.find_source_nodes_of(n) for n in \
             net.graph.node_list}}).static_order())"
        ));
    }
    Ok((out, notes))
}

/// λ and θ of a layer.
#[derive(Debug, Clone, Copy)]
struct Neuron {
    leak: f64,
    v_threshold: f64,
}

/// The neurons by name, if NIR can hold every layer.
fn check(model: &Model, trace: &Trace) -> Result<HashMap<String, Neuron>> {
    // First, since a Transformer has max-pooling too, and nothing helps it.
    if let Some(attention) = trace.nodes.iter().find(|node| matches!(node.op, Op::Attention(_))) {
        return Err(refused(
            &called(attention),
            "attention multiplies two spike trains, and NIR has no node for it; export a residual network or a VGG",
        ));
    }
    let mut neurons = HashMap::new();
    for node in &trace.nodes {
        match &node.op {
            Op::Neuron(cell) => {
                neurons.insert(node.name.clone(), neuron(model, &node.name, &cell.traits())?);
            }
            Op::MaxPool(_) => {
                let before = called(&trace.nodes[trace.source(node.inputs[0])]);
                return Err(refused(
                    &format!("the max-pooling after {before}"),
                    "NIR has no max-pooling; train the network with average pooling (of a ResNet: stem = cifar, which has no \
                     pooling)",
                ));
            }
            Op::Opaque { what } => return Err(unknown(&called(node), what)),
            _ => {}
        }
    }
    // Neurons of another kind than the configuration's have been refused above by what they are, or have another v(0).
    crate::layers::check_known(trace, &model.config)?;
    Ok(neurons)
}

fn refused(layer: &str, why: impl std::fmt::Display) -> Error {
    Error::Refused(format!("{layer} cannot be exported to NIR: {why}"))
}

fn unknown(layer: &str, what: &str) -> Error {
    refused(
        layer,
        format!("{what}, and NIR has no node for it; build the network of synapses, neurons, sums and average pooling"),
    )
}

fn neuron(model: &Model, layer: &str, traits: &NeuronTraits) -> Result<Neuron> {
    let title = traits.title;
    let why = match traits.equation {
        Equation::MultiThreshold => None,
        Equation::Quantized => {
            Some(format!("it is a {title} activation, not a spiking neuron; convert the network with qcfs_to_if first"))
        }
        Equation::Analog => Some(format!("it is a {title}, not a spiking neuron; train a spiking network")),
        Equation::Inference => Some(format!(
            "it is an {title} neuron, not an IF or LIF neuron (it takes spikes back, or has two stages); convert with \
             qcfs_to_if or relu_to_if"
        )),
        Equation::Other => Some(format!(
            "it is of the kind {title}, whose equations no NIR node has; train an IF or LIF network, or convert with qcfs_to_if"
        )),
    };
    if let Some(why) = why {
        return Err(refused(layer, why));
    }
    let levels = traits.levels;
    if levels != 1 {
        return Err(refused(
            layer,
            format!(
                "it has L = {levels} levels, and a NIR neuron has one threshold; make an IF network with qcfs_to_if, or \
                 train one (L = 1). Reparameterizing does not help: the windows of its neurons gather their current, which \
                 no NIR neuron does"
            ),
        ));
    }
    if traits.tgim != Tgim::Identity {
        return Err(refused(
            layer,
            "its T-GIM mixes the currents of different timesteps, and NIR has no node for it; train with tgim = identity, \
             or an IF or LIF network",
        ));
    }
    let window = traits.window;
    if window != 1 {
        return Err(refused(
            layer,
            format!(
                "it gathers the current of a window of {window} timesteps before it fires, and a NIR neuron takes what \
                 arrives when it arrives; make an IF network with qcfs_to_if, or train one"
            ),
        ));
    }
    let leak = match traits.leak {
        Leak::Fixed(leak) => leak,
        Leak::Learned => 1. / (1. + (-scalar(model, &path(layer, "alpha"))?).exp()) + 0.5,
    };
    if !(0. ..=1.).contains(&leak) {
        return Err(refused(
            layer,
            format!("its leak λ is {leak}, and NIR holds 0 <= λ <= 1 only (τ = dt/(1 - λ)); train with a fixed leak"),
        ));
    }
    let v_threshold = scalar(model, &path(layer, "v_threshold"))?;
    if !(v_threshold.is_finite() && v_threshold > 0.) {
        return Err(refused(layer, format!("its threshold is {v_threshold}; expected a number above 0")));
    }
    Ok(Neuron { leak, v_threshold })
}

fn scalar(model: &Model, name: &str) -> Result<f64> {
    let tensor = model.tensors.get(name).ok_or_else(|| missing(name))?;
    number(tensor)
}

fn number(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.detach().to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?[0])
}

/// What a layer gives: Σ factor · output, over nodes of the NIR graph.
///
/// Factors wait here until weights can take them: θ of spikes, 1/k² of a mean, the scale of a shortcut.
#[derive(Debug, Clone)]
struct Value {
    terms: Vec<(usize, f64)>,
    /// Of one image at one timestep, as NIR has it.
    shape: Vec<usize>,
}

/// The numbers of a tensor in another shape.
fn array(tensor: &Tensor, shape: &[usize]) -> Result<Array> {
    let data = tensor.detach().to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    Ok(Array { shape: shape.to_vec(), data })
}

fn times(mut array: Array, factor: f64) -> Array {
    array.data.iter_mut().for_each(|x| *x *= factor);
    array
}

struct Builder<'a> {
    model: &'a Model,
    trace: &'a Trace,
    /// How often each layer with parameters was gone through so far.
    passes: HashMap<String, usize>,
    neurons: HashMap<String, Neuron>,
    profile: Profile,
    precision: Precision,
    names: HashSet<String>,
    out: NirGraph,
}

impl Builder<'_> {
    fn run(&mut self) -> Result<()> {
        let mut values: Vec<Value> = Vec::new();
        for node in &self.trace.nodes {
            let input = |i: usize| values[node.inputs[i]].clone();
            let value = match &node.op {
                Op::Input => {
                    let id = self.push("input", Primitive::Input { shape: node.shape.clone() }, &[]);
                    Value { terms: vec![(id, 1.)], shape: node.shape.clone() }
                }
                Op::Conv2d { weight, bias, params } => {
                    let name = self.name_of_pass(&node.name);
                    self.conv2d(&name, input(0), weight, bias.as_ref(), *params)?
                }
                Op::Linear { weight, bias } => {
                    let name = self.name_of_pass(&node.name);
                    self.linear(&name, input(0), weight, bias)?
                }
                Op::Neuron(cell) => {
                    let current = self.scaled(input(0), cell.input_scale(), node.inputs[0])?;
                    let name = self.name_of_pass(&node.name);
                    self.neuron(&name, self.neurons[&node.name], current)?
                }
                // The input of a graph comes anew at every timestep.
                Op::Broadcast(_) => input(0),
                Op::AvgPool(params) if params.padding == 0 => {
                    self.pooled(input(0), [params.kernel; 2], [params.stride; 2], &node.shape)?
                }
                Op::Mean => {
                    let maps = input(0);
                    let [c, h, w] = maps.shape[..] else {
                        return Err(unknown(&called(node), "it is a mean of what is no map"));
                    };
                    let mean = if h * w == 1 { maps } else { self.pooled(maps, [h, w], [h, w], &[c, 1, 1])? };
                    self.flattened(mean)?
                }
                Op::Flatten => self.flattened(input(0))?,
                Op::Scale(factor) => self.scaled(input(0), *factor, node.inputs[0])?,
                Op::ShortcutScale(factor) => self.scaled(input(0), number(factor)?, node.inputs[0])?,
                Op::Add => {
                    let (mut sum, other) = (input(0), input(1));
                    for (id, factor) in other.terms {
                        // Two edges between the same nodes are one to a reader.
                        match sum.terms.iter_mut().find(|(known, _)| *known == id) {
                            Some((_, known)) => *known += factor,
                            None => sum.terms.push((id, factor)),
                        }
                    }
                    sum
                }
                Op::BatchNorm(_) => return Err(unknown(&called(node), "its batch norm was not taken into a synapse")),
                Op::MaxPool(_) => return Err(unknown(&called(node), "it takes a maximum")),
                Op::AvgPool(_) => return Err(unknown(&called(node), "it averages over padding")),
                Op::Tokens => return Err(unknown(&called(node), "it makes tokens of a map")),
                Op::Attention(_) => return Err(unknown(&called(node), "it multiplies spike trains")),
                Op::Opaque { what } => return Err(unknown(&called(node), what)),
                _ => return Err(unknown(&called(node), "it is of a kind that this export does not know")),
            };
            values.push(value);
        }
        let Some(logits) = values.pop() else { return Ok(()) };
        let shape = logits.shape.clone();
        let sources = self.unscaled(logits, "output")?;
        self.push("output", Primitive::Output { shape }, &sources);
        Ok(())
    }

    /// The name of a layer with parameters that is gone through now.
    fn name_of_pass(&mut self, layer: &str) -> String {
        let pass = self.passes.entry(layer.to_string()).or_default();
        *pass += 1;
        name_of_pass(layer, *pass)
    }

    /// Whether a node is a synapse that feeds one other node, through a change of rows at most.
    fn synapse_of_one_reader(&self, node: usize) -> bool {
        let is_read_once = self.trace.readers(node).count() == 1;
        match self.trace.nodes[node].op {
            Op::Conv2d { .. } | Op::Linear { .. } => is_read_once,
            Op::Broadcast(_) => is_read_once && self.synapse_of_one_reader(self.trace.nodes[node].inputs[0]),
            _ => false,
        }
    }

    /// Adds a node and the edges from `sources` to it.
    fn push(&mut self, name: &str, primitive: Primitive, sources: &[usize]) -> usize {
        let mut unique = name.to_string();
        let mut count = 1;
        while !self.names.insert(unique.clone()) {
            count += 1;
            unique = format!("{name}{count}");
        }
        let id = self.out.nodes.len();
        self.out.nodes.push(Node { name: unique, primitive });
        self.out.edges.extend(sources.iter().map(|&source| (source, id)));
        id
    }

    /// The nodes of a value and the factor on their sum; where factors differ, nodes that multiply make them 1.
    fn common(&mut self, value: Value, reader: &str) -> Result<(Vec<usize>, f64)> {
        let factor = value.terms.first().map_or(1., |&(_, factor)| factor);
        if value.terms.iter().all(|&(_, other)| other == factor) {
            return Ok((value.terms.into_iter().map(|(id, _)| id).collect(), factor));
        }
        Ok((self.unscaled(value, reader)?, 1.))
    }

    /// The nodes whose plain sum a value is, with nodes that multiply where a factor is not 1.
    fn unscaled(&mut self, value: Value, reader: &str) -> Result<Vec<usize>> {
        let Value { terms, shape } = value;
        let mut sources = Vec::with_capacity(terms.len());
        for (id, factor) in terms {
            sources.push(if factor == 1. {
                id
            } else {
                let primitive = self.multiplier(factor, &shape)?;
                self.push(&format!("{reader}.scale"), primitive, &[id])
            });
        }
        Ok(sources)
    }

    /// A node that multiplies by a constant.
    fn multiplier(&self, factor: f64, shape: &[usize]) -> Result<Primitive> {
        let n = shape[0];
        let mut weight = Array::full(&[n, n], 0.);
        weight.data.iter_mut().step_by(n + 1).for_each(|x| *x = factor);
        let bias = Array::full(&[n], 0.);
        Ok(match *shape {
            _ if self.profile == Profile::Spec => Primitive::Scale { scale: Array::full(shape, factor) },
            [_, h, w] => {
                weight.shape.extend([1, 1]);
                Primitive::Conv2d { weight, bias, stride: [1, 1], padding: [0, 0], groups: 1, input_shape: [h, w] }
            }
            _ => Primitive::Affine { weight, bias },
        })
    }

    /// A value times a constant; a synapse that feeds nothing else takes it into its weights.
    fn scaled(&mut self, mut value: Value, factor: f64, node: usize) -> Result<Value> {
        if factor == 1. {
            return Ok(value);
        }
        if let [(id, _)] = value.terms[..]
            && self.synapse_of_one_reader(node)
            && let Primitive::Conv2d { weight, bias, .. } | Primitive::Affine { weight, bias } =
                &mut self.out.nodes[id].primitive
        {
            weight.data.iter_mut().chain(&mut bias.data).for_each(|x| *x *= factor);
            return Ok(value);
        }
        value.terms.iter_mut().for_each(|(_, f)| *f *= factor);
        Ok(value)
    }

    fn conv2d(
        &mut self,
        name: &str,
        input: Value,
        weight: &Tensor,
        bias: Option<&Tensor>,
        params: Conv2dParams,
    ) -> Result<Value> {
        let weight = array(weight, weight.dims())?;
        let bias = match bias {
            Some(bias) => array(bias, bias.dims())?,
            None => Array::full(&weight.shape[..1], 0.),
        };
        self.synapse(name, input, weight, bias, params)
    }

    /// A convolution, times what its input waits for.
    fn synapse(&mut self, name: &str, input: Value, weight: Array, bias: Array, params: Conv2dParams) -> Result<Value> {
        let [_, h, w] = input.shape[..] else {
            return Err(refused(name, format!("it convolves an input of shape {:?}", input.shape)));
        };
        let (sources, factor) = self.common(input, name)?;
        let weight = times(weight, factor);
        let [c_out, _, kh, kw] = weight.shape[..] else {
            return Err(refused(name, format!("its weight has the shape {:?}", weight.shape)));
        };
        let Conv2dParams { stride, padding, groups } = params;
        let side = |n: usize, kernel: usize| (n + 2 * padding - kernel) / stride + 1;
        let shape = vec![c_out, side(h, kh), side(w, kw)];
        let (stride, padding) = ([stride; 2], [padding; 2]);
        let primitive = Primitive::Conv2d { weight, bias, stride, padding, groups, input_shape: [h, w] };
        Ok(Value { terms: vec![(self.push(name, primitive, &sources), 1.)], shape })
    }

    fn linear(&mut self, name: &str, input: Value, weight: &Tensor, bias: &Tensor) -> Result<Value> {
        let (f_out, f_in) = weight.dims2()?;
        let bias = array(bias, bias.dims())?;
        if let [c, h, w] = input.shape[..] {
            if h != w {
                return Err(refused(
                    name,
                    format!(
                        "it reads a map of {h}x{w}, and NIR infers the shapes of square kernels only; use square images"
                    ),
                ));
            }
            return self.synapse(name, input, array(weight, &[f_out, c, h, w])?, bias, Conv2dParams::default());
        }
        let (sources, factor) = self.common(input, name)?;
        let weight = times(array(weight, &[f_out, f_in])?, factor);
        let id = self.push(name, Primitive::Affine { weight, bias }, &sources);
        Ok(Value { terms: vec![(id, 1.)], shape: vec![f_out] })
    }

    fn neuron(&mut self, name: &str, neuron: Neuron, current: Value) -> Result<Value> {
        let Neuron { leak, v_threshold } = neuron;
        let shape = current.shape.clone();
        let sources = self.unscaled(current, name)?;
        let dt = self.out.metadata.dt;
        let gain = 1. / (1. - leak);
        let full = |value| Array::full(&shape, value);
        let threshold = |theta| full(self.precision.below(theta));
        let lif = |tau, r, theta| Primitive::Lif {
            tau: full(tau),
            r: full(r),
            v_leak: full(0.),
            v_threshold: threshold(theta),
            v_reset: full(0.),
        };
        let primitive = match (self.profile, leak) {
            (Profile::SnnTorch, 1.) => lif(dt * ENDLESS, ENDLESS, v_threshold),
            (Profile::Norse, _) => {
                // The factor on the current as the file's τ has it, so that ties stay ties.
                let tau = self.precision.rounded(dt * gain.min(ENDLESS_IN_NORSE));
                lif(tau, 1., v_threshold * (dt / tau))
            }
            (_, 1.) => Primitive::If { r: full(1. / dt), v_threshold: threshold(v_threshold), v_reset: full(0.) },
            (Profile::SpikingJelly | Profile::Sinabs, 0.) => {
                return Err(refused(
                    name,
                    format!("its leak λ is 0, which {} does not import; use the profile spec", self.profile),
                ));
            }
            (Profile::Sinabs, _) if shape.len() != 1 => {
                return Err(refused(
                    name,
                    format!(
                        "it is a LIF neuron (λ = {leak}) on maps of shape {shape:?}, which sinabs does not import (it \
                         tests v_leak as if it had one axis); train an IF network, or use the profile spec"
                    ),
                ));
            }
            (Profile::Sinabs, _) => lif(-dt / leak.ln(), gain, v_threshold),
            _ => lif(dt * gain, gain, v_threshold),
        };
        let amplitude = if self.model.config.unit_spikes { 1. } else { v_threshold };
        Ok(Value { terms: vec![(self.push(name, primitive, &sources), amplitude)], shape })
    }

    fn pooled(&mut self, maps: Value, kernel: Pair, stride: Pair, shape: &[usize]) -> Result<Value> {
        let (sources, factor) = self.common(maps, "pool")?;
        let padding = [0, 0];
        let (primitive, factor) = if self.profile.sums() {
            (Primitive::SumPool2d { kernel, stride, padding }, factor / (kernel[0] * kernel[1]) as f64)
        } else {
            (Primitive::AvgPool2d { kernel, stride, padding }, factor)
        };
        Ok(Value { terms: vec![(self.push("pool", primitive, &sources), factor)], shape: shape.to_vec() })
    }

    fn flattened(&mut self, maps: Value) -> Result<Value> {
        if self.profile.convolves_features() {
            return Ok(maps);
        }
        let input = maps.shape.clone();
        let shape = vec![input.iter().product()];
        let (sources, factor) = self.common(maps, "flatten")?;
        Ok(Value { terms: vec![(self.push("flatten", Primitive::Flatten { input }, &sources), factor)], shape })
    }
}
