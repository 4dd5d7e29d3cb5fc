//! `cargo xtask golden --float32`: what single precision does to spikes and logits.
//!
//! A potential that rounding carries over a threshold gives another spike count, and what follows differs for that reason
//! alone. So the spikes of each neuron layer are compared one by one with those of a float64 run of the same parameters,
//! and the logits are judged only where all spikes agree.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use lmht_nn::{NeuronEvent, Observer, Pass, QcfsGate, SignalKind, ops};

use super::{Case, NetworkCase, nan_max, neuron_layer};

/// Largest relative error of float32 results whose spikes are those of float64.
const TOLERANCE: f64 = 1e-4;

/// What one case gave.
struct Outcome {
    /// Neuron layers in the order of the network.
    layers: Vec<Layer>,
    /// Largest relative error of the result against the recorded one.
    error: f64,
}

/// Spike counts of one neuron layer, one for every unit and timestep.
struct Layer {
    name: String,
    n_different: usize,
    n: usize,
}

/// Prints the report of each file, and a table of all at the end.
///
/// # Errors
/// If a file is not a golden case, or a result is out of tolerance although no spike differs.
pub(super) fn report(files: &[PathBuf]) -> Result<()> {
    let (mut failures, mut rows) = (Vec::new(), Vec::new());
    for file in files {
        println!("{}", file.display());
        let (what, outcome) = run(file).with_context(|| file.display().to_string())?;
        for layer in &outcome.layers {
            println!("  {:<60} {:>6} of {:>8} spike counts differ", layer.name, layer.n_different, layer.n);
        }
        let total = |of: fn(&Layer) -> usize| outcome.layers.iter().map(of).sum::<usize>();
        let (n_different, n) = (total(|layer| layer.n_different), total(|layer| layer.n));
        // Written so that a value that is no number is out of tolerance.
        let verdict = match (n_different, outcome.error <= TOLERANCE) {
            (0, true) => "ok",
            (0, false) => "OUT OF TOLERANCE",
            _ => "spikes differ, not judged",
        };
        println!("  {what:<60} {:.1e}  {verdict}", outcome.error);
        if n_different == 0 && verdict != "ok" {
            let error = outcome.error;
            failures.push(format!(
                "{}: {what}: relative error {error:e} in float32, tolerance {TOLERANCE:e}, although no spike differs",
                file.display()
            ));
        }
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let n_layers = outcome.layers.iter().filter(|layer| layer.n_different > 0).count();
        rows.push((name, n_layers, outcome.layers.len(), n_different, n, outcome.error));
    }

    println!("\n| case | layers with differences | spike counts that differ | share | relative error of the result |");
    println!("|---|---|---|---|---|");
    for (name, n_layers, layers, n_different, n, error) in rows {
        let share = 100. * n_different as f64 / n.max(1) as f64;
        println!("| {name} | {n_layers} of {layers} | {n_different} of {n} | {share:.4} % | {error:.1e} |");
    }
    match failures.first() {
        Some(first) => bail!("{first}; {} such cases in all, marked above", failures.len()),
        None => Ok(()),
    }
}

/// Runs one case; returns the name of its result too.
fn run(file: &std::path::Path) -> Result<(&'static str, Outcome)> {
    let case = Case::read(file, TOLERANCE, &Device::Cpu)?;
    match case.text("case")?.as_str() {
        "neuron" => Ok(("y", neuron(&case)?)),
        "qcfs" => Ok(("y", qcfs(&case)?)),
        "network" => Ok(("eval/logits", network(&case)?)),
        other => bail!("case is {other:?}; expected neuron, qcfs or network"),
    }
}

/// The case's tensor in float32.
fn single(case: &Case, name: &str) -> Result<Tensor> {
    Ok(case.tensor(name)?.to_dtype(DType::F32)?)
}

fn neuron(case: &Case) -> Result<Outcome> {
    let (_, ys) = neuron_layer(case, &single(case, "x")?)?;
    let amplitude = match case.tensors.get("amplitude") {
        Some(amplitude) => amplitude.to_vec1::<f64>()?[0],
        None => case.json("v_threshold")?,
    };
    one_layer(case, &ys, amplitude)
}

fn qcfs(case: &Case) -> Result<Outcome> {
    let quant_levels: u32 = case.json("quant_levels")?;
    let scale = single(case, "scale")?;
    let ys = ops::qcfs(&single(case, "x")?, &scale, quant_levels, QcfsGate::default())?;
    one_layer(case, &ys, case.tensor("scale")?.to_vec1::<f64>()?[0] / f64::from(quant_levels))
}

/// The outcome of a case that is a single layer, against its recorded `y`.
fn one_layer(case: &Case, ys: &Tensor, amplitude: f64) -> Result<Outcome> {
    let expected = case.tensor("y")?;
    let n_different = n_different(&counts(expected, amplitude)?, &counts(ys, amplitude)?)?;
    let layer = Layer { name: case.text("case")?, n_different, n: ys.elem_count() };
    Ok(Outcome { layers: vec![layer], error: relative_error(expected, ys)? })
}

fn network(case: &Case) -> Result<Outcome> {
    let description = NetworkCase::of(case)?;
    let observer = || Spikes { scales: &description.published, layers: Vec::new() };
    let (network, _) = description.build(DType::F64)?;
    let mut double = observer();
    network.forward(&description.input, &mut Pass::eval().observed_by(&mut double))?;

    let (network, _) = description.build(DType::F32)?;
    let mut single = observer();
    let input = description.input.to_dtype(DType::F32)?;
    let logits = network.forward(&input, &mut Pass::eval().observed_by(&mut single))?;

    let mut layers = Vec::new();
    for ((name, expected), (other, actual)) in double.layers.iter().zip(&single.layers) {
        ensure!(name == other, "the float32 network went through {other} where the float64 one had {name}");
        layers.push(Layer { name: name.clone(), n_different: n_different(expected, actual)?, n: expected.len() });
    }
    Ok(Outcome { layers, error: relative_error(case.tensor("eval/logits")?, &logits)? })
}

/// Spike counts of every neuron layer, unit by unit; of a QCFS activation, its steps.
struct Spikes<'a> {
    /// Parameters by name: the ceilings of QCFS activations are among them.
    scales: &'a HashMap<String, Tensor>,
    layers: Vec<(String, Vec<i64>)>,
}

impl Observer for Spikes<'_> {
    fn neuron(&mut self, event: &NeuronEvent<'_>) -> lmht_nn::Result<()> {
        let amplitude = match (event.signal, self.scales.get(&format!("{}.thresh", event.name))) {
            (SignalKind::Spikes { v_threshold }, _) => v_threshold,
            (_, Some(scale)) => {
                scale.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?[0] / f64::from(event.levels)
            }
            // A ReLU has no steps.
            _ => return Ok(()),
        };
        self.layers.push((event.name.to_string(), counts(&event.output.to_tensor()?, amplitude)?));
        Ok(())
    }
}

/// How many times `amplitude` each value is.
fn counts(output: &Tensor, amplitude: f64) -> candle_core::Result<Vec<i64>> {
    let values = output.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    Ok(values.into_iter().map(|value| (value / amplitude).round() as i64).collect())
}

fn n_different(expected: &[i64], actual: &[i64]) -> Result<usize> {
    ensure!(expected.len() == actual.len(), "expected {} spike counts, got {}", expected.len(), actual.len());
    Ok(expected.iter().zip(actual).filter(|(expected, actual)| expected != actual).count())
}

/// Largest difference over largest magnitude.
fn relative_error(expected: &Tensor, actual: &Tensor) -> Result<f64> {
    ensure!(
        expected.elem_count() == actual.elem_count(),
        "expected a result of shape {:?}, got {:?}",
        expected.dims(),
        actual.dims()
    );
    let values = |tensor: &Tensor| tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let (expected, actual) = (values(expected)?, values(actual)?);
    let difference = expected.iter().zip(&actual).map(|(e, a)| (e - a).abs()).fold(0., nan_max);
    let magnitude = expected.iter().map(|e| e.abs()).fold(0., nan_max);
    Ok(if magnitude > 0. { difference / magnitude } else { difference })
}
