//! Runs a NIR graph by the equations of the format, and compares it with the network that it was made of.
//!
//! Nothing here knows how a file is made: what is computed follows from the nodes, the edges and the metadata alone.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lmht_nn::{NeuronEvent, Observer, Pass, ops};

use super::Verification;
use super::graph::{Array, Integration, Metadata, NirGraph, Node, Pair, Primitive, RESET};
use super::{hdf5, name_of_pass};
use crate::compare::spikes;
use crate::{Error, LayerSpikes, Model, Result};

/// See [`verify`](super::verify).
pub(super) fn verify(origin: &Path, bytes: &[u8], model: &Model, images: &Tensor) -> Result<Verification> {
    let bad = |what: String| Error::File { path: origin.to_path_buf(), what };
    let graph = hdf5::decode(origin, bytes)?;
    let t = model.config.timesteps;
    if graph.metadata.timesteps != t {
        let message = format!("it is of {} timesteps, the network of {t}", graph.metadata.timesteps);
        return Err(bad(format!("{message}; compare a file with the network that it was made of")));
    }
    let images = images.to_dtype(DType::F64)?;
    let (network, _) = model.build(DType::F64, &Device::Cpu)?;
    let mut sent = Sent::default();
    let logits = network.forward(&images, &mut Pass::eval().observed_by(&mut sent))?;

    let (_, batch, _) = logits.dims3()?;
    let is_static = images.rank() == model.config.example_input().len() + 1;
    let frames = if is_static { ops::repeat_time(&images, t)? } else { images };
    let mut replayed = run(&graph, &frames.flatten(0, 1)?).map_err(|what| bad(what.to_string()))?;

    let mut layers = Vec::with_capacity(sent.layers.len());
    for (name, expected) in sent.layers {
        let Some(actual) = replayed.spikes.remove(&name) else {
            return Err(bad(format!(
                "the neuron layer {name} is missing; compare a file with the network it was made of"
            )));
        };
        if actual.len() != expected.len() {
            return Err(bad(format!(
                "{name} has {} units times timesteps times images, the network {}; show images of the size that the file \
                 was made for",
                actual.len(),
                expected.len()
            )));
        }
        let differing = expected.iter().zip(&actual).filter(|(a, b)| a != b).count();
        let sum = |spikes: &[u8]| spikes.iter().map(|&s| u64::from(s)).sum();
        layers.push(LayerSpikes {
            name,
            n_counts: expected.len() as u64,
            differing: differing as u64,
            spikes_before: sum(&expected),
            spikes_after: sum(&actual),
        });
    }
    if let Some(name) = replayed.spikes.keys().min() {
        return Err(bad(format!(
            "it has a neuron layer {name} that the network has not; compare a file with its own network"
        )));
    }
    let expected = logits.flatten_all()?.to_vec1::<f64>()?;
    if replayed.output.len() != expected.len() {
        return Err(bad(format!("it gives {} logits, the network {}", replayed.output.len(), expected.len())));
    }
    let largest = expected.iter().fold(f64::MIN_POSITIVE, |largest, x| largest.max(x.abs()));
    let differences = expected.iter().zip(&replayed.output).map(|(a, b)| (a - b).abs());
    // `f64::max` would drop a NaN, which must not look like agreement.
    let error = differences.fold(0., |error: f64, x| if x.is_nan() { f64::INFINITY } else { error.max(x) });
    Ok(Verification { layers, n_images: batch as u64, logit_error: error / largest })
}

/// What every neuron layer of our network sent: names in order, and s of every unit, time outermost.
#[derive(Default)]
struct Sent {
    layers: Vec<(String, Vec<u8>)>,
    passes: HashMap<String, usize>,
}

impl Observer for Sent {
    fn neuron(&mut self, event: &NeuronEvent<'_>) -> lmht_nn::Result<()> {
        let pass = self.passes.entry(event.name.to_string()).or_default();
        *pass += 1;
        let spikes = spikes(event)?.to_dtype(DType::U8)?;
        self.layers.push((name_of_pass(event.name, *pass), spikes.flatten_all()?.to_vec1()?));
        Ok(())
    }
}

/// What a replay gave, time outermost.
struct Replay {
    spikes: HashMap<String, Vec<u8>>,
    output: Vec<f64>,
}

/// Runs a graph on frames `[T·B, C, H, W]` or features `[T·B, F]`.
///
/// A graph without cycles, so that each node can do all its timesteps before the next one begins.
fn run(graph: &NirGraph, frames: &Tensor) -> Replayed<Replay> {
    if graph.metadata.reset != RESET {
        return Err(Failure::of("metadata", format!("the reset is {}; expected {RESET}", graph.metadata.reset)));
    }
    let mut values: Vec<Option<Tensor>> = vec![None; graph.nodes.len()];
    let mut spikes = HashMap::new();
    let mut output = None;
    for id in order(graph)? {
        let node = &graph.nodes[id];
        let failed = |error: candle_core::Error| Failure::of(&node.name, error);
        let mut feeds = graph.edges.iter().filter(|&&(_, to)| to == id).map(|&(from, _)| from);
        let value = if let Primitive::Input { shape } = &node.primitive {
            if &frames.dims()[1..] != shape {
                let message = format!("it takes inputs of {shape:?}, not of {:?}", &frames.dims()[1..]);
                return Err(Failure::of(&node.name, message));
            }
            frames.clone()
        } else {
            // The order puts every feed before its reader.
            let unfed = || Failure::of(&node.name, "no edge leads to it");
            let mut sum = feeds.next().and_then(|from| values[from].clone()).ok_or_else(unfed)?;
            for from in feeds {
                let other = values[from].as_ref().ok_or_else(unfed)?;
                sum = (sum + other).map_err(failed)?;
            }
            step(node, &sum, &graph.metadata)?
        };
        let numbers = || value.flatten_all().and_then(|value| value.to_vec1::<f64>()).map_err(failed);
        match &node.primitive {
            Primitive::If { .. } | Primitive::Lif { .. } => {
                spikes.insert(node.name.clone(), numbers()?.iter().map(|&s| s as u8).collect());
            }
            Primitive::Output { .. } => output = Some(numbers()?),
            _ => {}
        }
        values[id] = Some(value);
    }
    let output = output.ok_or_else(|| Failure::of("output", "there is no Output node"))?;
    Ok(Replay { spikes, output })
}

/// A result of the replay, which does not know what the file is called.
type Replayed<T> = std::result::Result<T, Failure>;

/// What is wrong with a node.
#[derive(Debug)]
struct Failure(String);

impl Failure {
    fn of(node: &str, what: impl std::fmt::Display) -> Self {
        Self(format!("node {node}: {what}; export the network again"))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The nodes, each after everything that feeds it.
fn order(graph: &NirGraph) -> Replayed<Vec<usize>> {
    let mut open = vec![0_usize; graph.nodes.len()];
    graph.edges.iter().for_each(|&(_, to)| open[to] += 1);
    let mut order: Vec<usize> = (0..graph.nodes.len()).filter(|&id| open[id] == 0).collect();
    let mut done = 0;
    while let Some(&id) = order.get(done) {
        for &(_, to) in graph.edges.iter().filter(|&&(from, _)| from == id) {
            open[to] -= 1;
            if open[to] == 0 {
                order.push(to);
            }
        }
        done += 1;
    }
    match open.iter().position(|&n| n > 0) {
        Some(id) => Err(Failure::of(&graph.nodes[id].name, "it feeds itself")),
        None => Ok(order),
    }
}

/// What a node gives for the sum of what feeds it, `[T·B, ...]`.
fn step(node: &Node, xs: &Tensor, metadata: &Metadata) -> Replayed<Tensor> {
    let failed = |error: candle_core::Error| Failure::of(&node.name, error);
    let wrong = |what: String| Err(Failure::of(&node.name, what));
    let shape = &xs.dims()[1..];
    match &node.primitive {
        Primitive::Input { .. } => Ok(xs.clone()),
        Primitive::Output { shape: expected } if shape == expected => Ok(xs.clone()),
        Primitive::Output { shape: expected } => wrong(format!("it is of {expected:?}, and receives {shape:?}")),
        Primitive::Conv2d { weight, bias, stride, padding, groups, input_shape } => {
            if stride[0] != stride[1] || padding[0] != padding[1] || shape.get(1..) != Some(&input_shape[..]) {
                return wrong(format!(
                    "stride {stride:?}, padding {padding:?}, input_shape {input_shape:?} do not fit an input of {shape:?}"
                ));
            }
            let params = ops::Conv2dParams { stride: stride[0], padding: padding[0], groups: *groups };
            let (weight, bias) = (tensor(weight).map_err(failed)?, tensor(bias).map_err(failed)?);
            ops::conv2d(xs, &weight, Some(&bias), params).map_err(failed)
        }
        Primitive::Affine { weight, bias } => {
            let (weight, bias) = (tensor(weight).map_err(failed)?, tensor(bias).map_err(failed)?);
            ops::linear(xs, &weight, Some(&bias)).map_err(failed)
        }
        Primitive::Scale { scale } if shape == scale.shape => {
            tensor(scale).and_then(|scale| xs.broadcast_mul(&scale)).map_err(failed)
        }
        Primitive::Scale { scale } => wrong(format!("it scales {:?}, and receives {shape:?}", scale.shape)),
        Primitive::AvgPool2d { kernel, stride, padding } => mean(xs, *kernel, *stride, *padding).map_err(failed),
        Primitive::SumPool2d { kernel, stride, padding } => {
            let n = (kernel[0] * kernel[1]) as f64;
            mean(xs, *kernel, *stride, *padding).and_then(|mean| mean * n).map_err(failed)
        }
        Primitive::Flatten { input } if shape == input => xs.flatten_from(1).map_err(failed),
        Primitive::Flatten { input } => wrong(format!("it flattens {input:?}, and receives {shape:?}")),
        Primitive::If { r, v_threshold, v_reset } => {
            fits(node, shape, &[r, v_threshold, v_reset])?;
            let dt = metadata.dt;
            spike(xs, v_threshold, metadata, |v, x, i| v + dt * (r.data[i] * x)).map_err(failed)
        }
        Primitive::Lif { tau, r, v_leak, v_threshold, v_reset } => {
            fits(node, shape, &[tau, r, v_leak, v_threshold, v_reset])?;
            let (dt, integration) = (metadata.dt, metadata.integration);
            let charge = |v: f64, x: f64, i: usize| {
                let goal = v_leak.data[i] + r.data[i] * x;
                match integration {
                    Integration::Euler => v + dt / tau.data[i] * (goal - v),
                    Integration::Exponential => {
                        let kept = (-dt / tau.data[i]).exp();
                        kept * v + (1. - kept) * goal
                    }
                }
            };
            spike(xs, v_threshold, metadata, charge).map_err(failed)
        }
    }
}

fn fits(node: &Node, shape: &[usize], parameters: &[&Array]) -> Replayed<()> {
    match parameters.iter().find(|array| array.shape != shape) {
        Some(array) => {
            let message = format!("its parameters have the shape {:?}, its current {shape:?}", array.shape);
            Err(Failure::of(&node.name, message))
        }
        None => Ok(()),
    }
}

fn tensor(array: &Array) -> candle_core::Result<Tensor> {
    Tensor::from_slice(&array.data, array.shape.as_slice(), &Device::Cpu)
}

/// The mean of each window, which is square, or the whole map.
fn mean(xs: &Tensor, kernel: Pair, stride: Pair, padding: Pair) -> candle_core::Result<Tensor> {
    let (_, _, h, w) = xs.dims4()?;
    if kernel == [h, w] && padding == [0, 0] {
        return xs.mean_keepdim((2, 3));
    }
    if kernel[0] != kernel[1] || stride[0] != stride[1] || padding != [0, 0] {
        candle_core::bail!("kernel {kernel:?}, stride {stride:?}, padding {padding:?} is no pooling of these networks")
    }
    ops::avg_pool2d(xs, ops::Pool2dParams { kernel: kernel[0], stride: stride[0], padding: 0 })
}

/// Spikes of neurons that start from v(0), go ahead by `charge(v, current, unit)`, fire where v > threshold and reset by
/// subtraction.
fn spike(
    xs: &Tensor,
    v_threshold: &Array,
    metadata: &Metadata,
    charge: impl Fn(f64, f64, usize) -> f64,
) -> candle_core::Result<Tensor> {
    let (units, thresholds) = (v_threshold.data.len(), &v_threshold.data);
    let mut values = xs.flatten_all()?.to_vec1::<f64>()?;
    let per_step = values.len() / metadata.timesteps;
    if per_step == 0 {
        candle_core::bail!("there are no neurons")
    }
    let mut v: Vec<f64> = (0..per_step).map(|j| metadata.v_init * thresholds[j % units]).collect();
    for currents in values.chunks_exact_mut(per_step) {
        for (j, (x, v)) in currents.iter_mut().zip(&mut v).enumerate() {
            let unit = j % units;
            *v = charge(*v, *x, unit);
            *x = f64::from(u8::from(*v > thresholds[unit]));
            *v -= *x * thresholds[unit];
        }
    }
    Tensor::from_vec(values, xs.dims(), xs.device())
}
