//! The counts as CSV, for other programs.

use serde::Serialize;

use super::Report;
use crate::{CostCounter, InputKind};

/// One line of `layers.csv`; figures per image.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    input: InputKind,
    runs: f64,
    n_weights: u64,
    inputs: f64,
    outputs: f64,
    spikes: f64,
    sop_exact: f64,
    sop_exact_nz: f64,
    sop_rate: f64,
    paper_sops: f64,
    macs: f64,
    macs_nz: f64,
    dense: f64,
    dense_padded: f64,
}

/// One line of `neurons.csv`.
#[derive(Serialize)]
struct NeuronLine<'a> {
    name: &'a str,
    n_units: usize,
    timesteps: usize,
    levels: u32,
    is_spiking: bool,
    rate_nz: f64,
    rate_eq: f64,
    silent: f64,
    saturated: f64,
    uniform: f64,
    uniform_firing: Option<f64>,
}

fn finish(writer: csv::Writer<Vec<u8>>) -> String {
    let bytes = writer.into_inner().expect("a list of bytes takes all of them");
    String::from_utf8(bytes).expect("names are text, numbers are ASCII")
}

impl Report {
    /// Every synapse, a line each, per image.
    pub fn layers_csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for layer in &self.cost.layers {
            let line = Line {
                name: &layer.name,
                input: layer.input,
                runs: layer.runs,
                n_weights: layer.n_weights,
                inputs: layer.inputs,
                outputs: layer.outputs,
                spikes: layer.spikes,
                sop_exact: layer.sops,
                sop_exact_nz: layer.sops_nz,
                sop_rate: layer.sop_rate,
                paper_sops: layer.paper_sops,
                macs: layer.macs,
                macs_nz: layer.macs_nz,
                dense: layer.dense,
                dense_padded: layer.dense_padded,
            };
            writer.serialize(line).expect("a list of bytes takes all lines");
        }
        finish(writer)
    }

    /// Every neuron layer, a line each.
    pub fn neurons_csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for layer in &self.activity {
            let line = NeuronLine {
                name: &layer.name,
                n_units: layer.n_units,
                timesteps: layer.timesteps,
                levels: layer.levels,
                is_spiking: layer.is_spiking,
                rate_nz: layer.rate_nz,
                rate_eq: layer.rate_eq,
                silent: layer.silent,
                saturated: layer.saturated,
                uniform: layer.uniform,
                uniform_firing: layer.uniform_firing,
            };
            writer.serialize(line).expect("a list of bytes takes all lines");
        }
        finish(writer)
    }
}

/// SOPs (`sop_exact`) of every image and timestep, a line each, and a column for every synapse that receives spikes.
/// Images and timesteps count from 0. Whole numbers, exact.
///
/// ```
/// let counter = lmht_bench::CostCounter::new();
/// assert_eq!(lmht_bench::report::images_csv(&counter), "image,timestep\n");
/// ```
pub fn images_csv(counter: &CostCounter) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let synapses: Vec<_> = counter.synapses().iter().filter(|synapse| synapse.input == InputKind::Spikes).collect();
    let names = synapses.iter().map(|synapse| synapse.name.as_str());
    let mut write = |record: Vec<String>| writer.write_record(record).expect("a list of bytes takes all lines");
    write(["image", "timestep"].into_iter().chain(names).map(String::from).collect());
    let timesteps = synapses.iter().map(|synapse| synapse.timesteps()).max().unwrap_or(0);
    for image in 0..counter.n_images() {
        for t in 0..timesteps {
            let sops = synapses.iter().map(|synapse| synapse.sops_at(image, t));
            write([image as u64, t as u64].into_iter().chain(sops).map(|n| n.to_string()).collect());
        }
    }
    finish(writer)
}
