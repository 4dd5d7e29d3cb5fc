//! Our network as a NIR graph.

use std::collections::{HashMap, HashSet};

use candle_core::{DType, Tensor};
use lmht_nn::graph::{Graph, Op};
use lmht_nn::{Error, NeuronConfig, Result, Tgim};

use super::Profile;
use super::graph::{Array, Integration, Metadata, NirGraph, Node, Pair, Precision, Primitive, RESET};
use crate::{Model, absorb_bn};

/// τ/dt where a LIF stands for an IF in snnTorch: λ = 1 - dt/τ is 1 in float32 and in float64.
const ENDLESS: f64 = (1_u64 << 60) as f64;

/// The same in Norse, whose current and threshold have the factor dt/τ: small enough that λ is 1 in float32, and that what
/// leaks in float64 is nothing beside the rounding of the threshold; large enough for the range of float32.
const ENDLESS_IN_NORSE: f64 = (1_u64 << 40) as f64;

/// The graph, and notes that belong to this network.
pub(super) fn build(
    model: &Model,
    image: (usize, usize),
    profile: Profile,
    precision: Precision,
) -> Result<(NirGraph, Vec<String>)> {
    model.check()?;
    let neurons = check(model, &Graph::of(&model.config, image)?)?;

    let tensors = model.tensors.iter().map(|(name, tensor)| Ok((name.clone(), tensor.to_dtype(DType::F64)?)));
    let mut model = Model { config: model.config.clone(), tensors: tensors.collect::<Result<_>>()? };
    if model.config.batch_norm {
        model = absorb_bn(&model)?;
    }
    let graph = Graph::of(&model.config, image)?;
    let (v_init, timesteps) = (v_init(&model.config.neuron), model.config.timesteps);
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
    if profile.convolves_features() {
        notes.push(format!(
            "{}: linear layers are convolutions over one position, so that the output has the shape [{}, 1, 1]",
            profile.name(),
            model.config.n_classes
        ));
    }
    let graph_of_nodes = NirGraph { nodes: Vec::new(), edges: Vec::new(), metadata };
    let mut builder = Builder {
        model: &model,
        graph: &graph,
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
fn check(model: &Model, graph: &Graph) -> Result<HashMap<String, Neuron>> {
    // First, since a Transformer has max-pooling too, and nothing helps it.
    if let Some(product) = graph.nodes.iter().find(|node| node.op == Op::Product) {
        return Err(refused(
            &product.name,
            "attention multiplies two spike trains, and NIR has no node for it; export a residual network or a VGG",
        ));
    }
    let mut neurons = HashMap::new();
    for node in &graph.nodes {
        match &node.op {
            Op::Neuron { .. } => {
                neurons.insert(node.name.clone(), neuron(model, &node.name)?);
            }
            Op::MaxPool(_) => {
                let before = &graph.nodes[node.inputs[0]].name;
                return Err(refused(
                    &format!("the max-pooling after {before}"),
                    "NIR has no max-pooling; train the network with stem = cifar, which has none",
                ));
            }
            _ => {}
        }
    }
    Ok(neurons)
}

fn refused(layer: &str, why: impl std::fmt::Display) -> Error {
    Error::Config(format!("{layer} cannot be exported to NIR: {why}"))
}

fn v_init(neuron: &NeuronConfig) -> f64 {
    match neuron {
        NeuronConfig::Lmht(neurons::Lmht { v_init, .. })
        | NeuronConfig::Mht(neurons::Mht { v_init, .. })
        | NeuronConfig::If(neurons::If { v_init, .. })
        | NeuronConfig::Lif(neurons::Lif { v_init, .. })
        | NeuronConfig::Reparameterized(neurons::Reparameterized { v_init, .. }) => *v_init,
        // Refused before this is asked.
        NeuronConfig::Qcfs(_)
        | NeuronConfig::Relu
        | NeuronConfig::Snm(_)
        | NeuronConfig::Srp(_)
        | NeuronConfig::Cos(_) => 0.,
    }
}

fn neuron(model: &Model, layer: &str) -> Result<Neuron> {
    let config = &model.config.neuron;
    let fixed = match config {
        NeuronConfig::Qcfs(_) => {
            return Err(refused(
                layer,
                "it is a QCFS activation, not a spiking neuron; convert the network with qcfs_to_if first",
            ));
        }
        NeuronConfig::Relu => {
            return Err(refused(layer, "it is a ReLU, not a spiking neuron; train a spiking network"));
        }
        NeuronConfig::Snm(_) | NeuronConfig::Srp(_) | NeuronConfig::Cos(_) => {
            return Err(refused(
                layer,
                "it is not an IF or LIF neuron (it takes spikes back, or has two stages); convert with qcfs_to_if or \
                 relu_to_if",
            ));
        }
        NeuronConfig::Lmht(_) => None,
        NeuronConfig::Mht(neurons::Mht { leak, .. }) | NeuronConfig::Lif(neurons::Lif { leak, .. }) => Some(*leak),
        NeuronConfig::If(_) => Some(1.),
        NeuronConfig::Reparameterized(neurons::Reparameterized { leak, .. }) => *leak,
    };
    let levels = config.levels();
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
    if let NeuronConfig::Lmht(neurons::Lmht { tgim, .. }) | NeuronConfig::Reparameterized(neurons::Reparameterized { tgim, .. }) = config
        && *tgim != Tgim::Identity
    {
        return Err(refused(
            layer,
            "its T-GIM mixes the currents of different timesteps, and NIR has no node for it; train with tgim = identity, \
             or an IF or LIF network",
        ));
    }
    let window = config.window();
    if window != 1 {
        return Err(refused(
            layer,
            format!(
                "it gathers the current of a window of {window} timesteps before it fires, and a NIR neuron takes what \
                 arrives when it arrives; make an IF network with qcfs_to_if, or train one"
            ),
        ));
    }
    let leak = match fixed {
        Some(leak) => leak,
        None => 1. / (1. + (-scalar(model, &format!("{layer}.alpha"))?).exp()) + 0.5,
    };
    if !(0. ..=1.).contains(&leak) {
        return Err(refused(
            layer,
            format!("its leak λ is {leak}, and NIR holds 0 <= λ <= 1 only (τ = dt/(1 - λ)); train with a fixed leak"),
        ));
    }
    let v_threshold = scalar(model, &format!("{layer}.v_threshold"))?;
    if !(v_threshold.is_finite() && v_threshold > 0.) {
        return Err(refused(layer, format!("its threshold is {v_threshold}; expected a number above 0")));
    }
    Ok(Neuron { leak, v_threshold })
}

fn scalar(model: &Model, name: &str) -> Result<f64> {
    let values = tensor(model, name)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    Ok(values[0])
}

fn tensor<'a>(model: &'a Model, name: &str) -> Result<&'a Tensor> {
    let missing = || Error::Config(format!("the tensor {name} is missing; load a whole model"));
    model.tensors.get(name).ok_or_else(missing)
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

struct Builder<'a> {
    model: &'a Model,
    graph: &'a Graph,
    neurons: HashMap<String, Neuron>,
    profile: Profile,
    precision: Precision,
    names: HashSet<String>,
    out: NirGraph,
}

impl Builder<'_> {
    fn run(&mut self) -> Result<()> {
        let mut values: Vec<Value> = Vec::new();
        for node in &self.graph.nodes {
            let input = |i: usize| values[node.inputs[i]].clone();
            let value = match &node.op {
                Op::Input => {
                    let id = self.push("input", Primitive::Input { shape: node.shape.clone() }, &[]);
                    Value { terms: vec![(id, 1.)], shape: node.shape.clone() }
                }
                Op::Conv2d { kernel, params } => {
                    let weight = tensor(self.model, &format!("{}.weight", node.name))?;
                    let dims = vec![weight.dim(0)?, weight.dim(1)?, *kernel, *kernel];
                    self.synapse(&node.name, input(0), dims, [params.stride; 2], [params.padding; 2])?
                }
                Op::Linear => self.linear(&node.name, input(0))?,
                Op::Neuron { input_scale } => {
                    let current = self.scaled(input(0), *input_scale, node.inputs[0])?;
                    self.neuron(&node.name, current)?
                }
                Op::AvgPool(params) if params.padding == 0 => {
                    self.pooled(input(0), [params.kernel; 2], [params.stride; 2], &node.shape)?
                }
                Op::Mean => {
                    let maps = input(0);
                    let [c, h, w] = maps.shape[..] else { return Err(self.unknown(&node.name, &node.op)) };
                    let mean = if h * w == 1 { maps } else { self.pooled(maps, [h, w], [h, w], &[c, 1, 1])? };
                    self.flattened(mean)?
                }
                Op::Reshape => self.flattened(input(0))?,
                Op::Scale(factor) => self.scaled(input(0), *factor, node.inputs[0])?,
                Op::ShortcutScale => {
                    let factor = scalar(self.model, &format!("{}.shortcut_scale", node.name))?;
                    self.scaled(input(0), factor, node.inputs[0])?
                }
                Op::Add => {
                    let (mut sum, other) = (input(0), input(1));
                    sum.terms.extend(other.terms);
                    sum
                }
                other => return Err(self.unknown(&node.name, other)),
            };
            values.push(value);
        }
        let Some(logits) = values.pop() else { return Ok(()) };
        let shape = logits.shape.clone();
        let sources = self.unscaled(logits, "output")?;
        self.push("output", Primitive::Output { shape }, &sources);
        Ok(())
    }

    fn unknown(&self, name: &str, op: &Op) -> Error {
        refused(
            if name.is_empty() { "a layer without parameters" } else { name },
            format!("there is no node for {op:?}"),
        )
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
                Primitive::Conv2d { weight, bias, stride: [1, 1], padding: [0, 0], input_shape: [h, w] }
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
            && matches!(self.graph.nodes[node].op, Op::Conv2d { .. } | Op::Linear)
            && self.graph.readers(node).count() == 1
            && let Primitive::Conv2d { weight, bias, .. } | Primitive::Affine { weight, bias } =
                &mut self.out.nodes[id].primitive
        {
            weight.data.iter_mut().chain(&mut bias.data).for_each(|x| *x *= factor);
            return Ok(value);
        }
        value.terms.iter_mut().for_each(|(_, f)| *f *= factor);
        Ok(value)
    }

    /// A convolution with the layer's weights in the shape `dims`, times what its input waits for.
    fn synapse(&mut self, name: &str, input: Value, dims: Vec<usize>, stride: Pair, padding: Pair) -> Result<Value> {
        let [_, h, w] = input.shape[..] else {
            return Err(refused(name, format!("it convolves an input of shape {:?}", input.shape)));
        };
        let (sources, factor) = self.common(input, name)?;
        let (weight, bias) = self.weights(name, dims, factor)?;
        let [c_out, _, kh, kw] = weight.shape[..] else { unreachable!("a kernel has four axes") };
        let side = |n: usize, kernel: usize, i: usize| (n + 2 * padding[i] - kernel) / stride[i] + 1;
        let shape = vec![c_out, side(h, kh, 0), side(w, kw, 1)];
        let primitive = Primitive::Conv2d { weight, bias, stride, padding, input_shape: [h, w] };
        Ok(Value { terms: vec![(self.push(name, primitive, &sources), 1.)], shape })
    }

    fn linear(&mut self, name: &str, input: Value) -> Result<Value> {
        let (f_out, f_in) = tensor(self.model, &format!("{name}.weight"))?.dims2()?;
        if let [c, h, w] = input.shape[..] {
            if h != w {
                return Err(refused(
                    name,
                    format!(
                        "it reads a map of {h}x{w}, and NIR infers the shapes of square kernels only; use square images"
                    ),
                ));
            }
            return self.synapse(name, input, vec![f_out, c, h, w], [1, 1], [0, 0]);
        }
        let (sources, factor) = self.common(input, name)?;
        let (weight, bias) = self.weights(name, vec![f_out, f_in], factor)?;
        let id = self.push(name, Primitive::Affine { weight, bias }, &sources);
        Ok(Value { terms: vec![(id, 1.)], shape: vec![f_out] })
    }

    fn weights(&self, name: &str, dims: Vec<usize>, factor: f64) -> Result<(Array, Array)> {
        let weight = (tensor(self.model, &format!("{name}.weight"))?.to_dtype(DType::F64)? * factor)?;
        let bias = tensor(self.model, &format!("{name}.bias"))?.to_dtype(DType::F64)?;
        let array = |tensor: Tensor, shape: Vec<usize>| -> Result<Array> {
            Ok(Array { shape, data: tensor.flatten_all()?.to_vec1::<f64>()? })
        };
        let f_out = dims[0];
        Ok((array(weight, dims)?, array(bias, vec![f_out])?))
    }

    fn neuron(&mut self, name: &str, current: Value) -> Result<Value> {
        let Neuron { leak, v_threshold } = self.neurons[name];
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
