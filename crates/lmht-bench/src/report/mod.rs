//! Reports: tables for a terminal, Markdown, CSV, JSON, charts, an HTML page.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use lmht_bench::{EnergyModel, Footprint, Profiler, report::{Report, Subject}};
//! use lmht_nn::{ModelConfig, Network, ParamStore, Pass};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
//! let params = ParamStore::new(42);
//! let network = Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
//! let mut profiler = Profiler::new();
//! let images = Tensor::ones((2, 3, 16, 16), DType::F32, &Device::Cpu)?;
//! network.forward(&images, &mut Pass::eval().observed_by(&mut profiler))?;
//!
//! let subject = Subject { model: config, data: "two white images".into(), command: String::new(), top1: None };
//! let report = Report::new(subject, &profiler, Footprint::of(&params), &[EnergyModel::default()]);
//! assert!(report.to_markdown().contains("sop_exact"));
//! assert_eq!(Report::from_json(&report.to_json())?.totals, report.totals);
//! # Ok(()) }
//! ```

mod charts;
mod page;
mod sheets;
mod tables;

pub use charts::Chart;
pub use sheets::images_csv;

use lmht_nn::ModelConfig;
use serde::{Deserialize, Serialize};

use crate::{
    CostReport, EnergyEstimate, EnergyModel, Error, Footprint, InputKind, LayerActivity, Profiler, Raster, Result,
};

/// The version of the JSON. A reader refuses another one.
pub const REPORT_VERSION: u32 = 1;

/// What every report says of its figures.
pub const NOTE: &str = "Operations are counted; energies are estimated from them, not measured. docs/cost.md has the \
                        definitions.";

/// What a report is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// The network.
    pub model: ModelConfig,
    /// The images it was shown, in words.
    pub data: String,
    /// The command that made the report.
    pub command: String,
    /// Accuracy on these images, 0..1.
    pub top1: Option<f64>,
}

/// Everything that was counted, per image, and what is made of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `lmht-cost`.
    pub format: String,
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// [`NOTE`].
    pub note: String,
    /// Network, data, command, accuracy.
    pub subject: Subject,
    /// Sums over the layers.
    pub totals: Totals,
    /// How SOPs differ between images; absent if nothing was shown.
    pub sops_by_image: Option<Distribution>,
    /// Operations of each layer.
    pub cost: CostReport,
    /// Firing of each neuron layer.
    pub activity: Vec<LayerActivity>,
    /// Parameters and buffers.
    pub footprint: Footprint,
    /// [`CostReport::training_bytes`] in 32-bit float: an estimate from below.
    pub training_bytes_per_image: f64,
    /// The prices.
    pub energy_models: Vec<EnergyModel>,
    /// Estimates, one for each of the prices.
    pub energy: Vec<EnergyEstimate>,
    /// Spikes of the first image, for the charts; not part of the JSON.
    #[serde(skip)]
    pub rasters: Vec<Raster>,
}

/// Operations per image, by definition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// `sop_exact`.
    pub sops: f64,
    /// `sop_exact_nz`.
    pub sops_nz: f64,
    /// `sop_rate`.
    pub sop_rate: f64,
    /// The paper's count.
    pub paper_sops: f64,
    /// MACs of all analog inputs: the sum of the next three.
    pub macs: f64,
    /// MACs of the synapse that reads the image.
    pub macs_image: f64,
    /// MACs of averages of spikes.
    pub macs_averaged: f64,
    /// MACs of other analog inputs: residual streams, activations of an ANN.
    pub macs_analog: f64,
    /// MACs of analog inputs without zeros of input and weight.
    pub macs_nz: f64,
    /// Accumulates of attention.
    pub attention_acs: f64,
    /// MACs of attention where no side is spikes.
    pub attention_macs: f64,
    /// Potentials computed.
    pub neuron_updates: f64,
    /// Multiplications by entries of Ω.
    pub tgim_macs: f64,
    /// Multiplications by λ.
    pub leak_muls: f64,
    /// Additions of a bias, or of a folded batch norm: one for each output of a synapse.
    pub bias_adds: f64,
    /// MACs of a dense ANN of the same structure, and of a quantized one.
    pub ann_macs: f64,
}

/// Five numbers of a distribution over images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// Smallest.
    pub min: u64,
    /// A quarter is at most this.
    pub lower_quartile: u64,
    /// Half is at most this.
    pub median: u64,
    /// Three quarters are at most this.
    pub upper_quartile: u64,
    /// Largest.
    pub max: u64,
}

impl Distribution {
    /// Of any values; nothing of none.
    fn of(mut values: Vec<u64>) -> Option<Self> {
        values.sort_unstable();
        let last = values.len().checked_sub(1)?;
        let [min, lower_quartile, median, upper_quartile, max] =
            [0, 1, 2, 3, 4].map(|quarter| values[last * quarter / 4]);
        Some(Self { min, lower_quartile, median, upper_quartile, max })
    }
}

impl Report {
    /// The report of everything that `profiler` saw.
    pub fn new(subject: Subject, profiler: &Profiler, footprint: Footprint, energy_models: &[EnergyModel]) -> Self {
        let cost = profiler.cost.report(profiler.cost.n_images());
        // Not `sum`, which is -0 of nothing.
        let of_products =
            |figure: fn(&crate::ProductCost) -> f64| cost.products.iter().map(figure).fold(0., std::ops::Add::add);
        let of_neurons = |figure: fn(&crate::NeuronCost) -> f64| {
            cost.neurons.iter().filter(|layer| layer.is_spiking).map(figure).fold(0., std::ops::Add::add)
        };
        let totals = Totals {
            sops: cost.sops(),
            sops_nz: cost.sum(|layer| layer.sops_nz),
            sop_rate: cost.sum(|layer| layer.sop_rate),
            paper_sops: cost.paper_sops(),
            macs: cost.macs(),
            macs_image: cost.macs_of(InputKind::Image),
            macs_averaged: cost.macs_of(InputKind::Averaged),
            macs_analog: cost.macs_of(InputKind::Analog),
            macs_nz: cost.sum(|layer| layer.macs_nz),
            attention_acs: of_products(|product| product.acs),
            attention_macs: of_products(|product| product.macs),
            neuron_updates: of_neurons(|layer| layer.updates),
            tgim_macs: of_neurons(|layer| layer.tgim_macs),
            leak_muls: of_neurons(|layer| layer.leak_muls),
            bias_adds: cost.sum(|layer| layer.outputs),
            ann_macs: cost.ann_macs(),
        };
        Self {
            format: "lmht-cost".into(),
            version: REPORT_VERSION,
            note: NOTE.into(),
            totals,
            sops_by_image: Distribution::of(profiler.cost.sops_by_image()),
            activity: profiler.activity.report(),
            footprint,
            training_bytes_per_image: cost.training_bytes(4),
            energy: energy_models.iter().map(|model| model.estimate(&cost)).collect(),
            energy_models: energy_models.to_vec(),
            rasters: profiler.activity.rasters().into_iter().cloned().collect(),
            cost,
            subject,
        }
    }

    /// The report as JSON; `docs/cost.md` documents it.
    pub fn to_json(&self) -> String {
        // Only maps with keys that are no strings and failing writers can fail.
        serde_json::to_string_pretty(self).expect("numbers and strings are JSON") + "\n"
    }

    /// Reads what [`Report::to_json`] wrote; the rasters are not in it.
    ///
    /// # Errors
    /// If the text is no such JSON, or of another version, or has numbers that no count, share or price can be.
    pub fn from_json(json: &str) -> Result<Self> {
        let not_one = |error| Error::Report(format!("expected a cost report: {error}"));
        let report: Self = serde_json::from_str(json).map_err(not_one)?;
        if report.version != REPORT_VERSION {
            let version = report.version;
            let what = format!("the report is of version {version}; this program reads version {REPORT_VERSION}");
            return Err(Error::Report(what));
        }
        let not_one = |error| Error::Report(format!("expected a cost report: its model: {error}"));
        report.subject.model.check().map_err(not_one)?;
        report.check_shares()?;
        let json = serde_json::to_value(&report).map_err(|error| Error::Report(error.to_string()))?;
        for part in ["totals", "cost", "footprint", "energy_models", "energy"] {
            check_numbers(part, &json[part])?;
        }
        Ok(report)
    }

    fn check_shares(&self) -> Result<()> {
        for layer in &self.activity {
            let LayerActivity { histogram, levels, .. } = layer;
            let rates = [layer.rate_nz, layer.rate_eq, layer.silent, layer.saturated, layer.uniform];
            let all = rates.iter().chain(&layer.uniform_firing).chain(histogram).chain(&layer.rate_by_timestep);
            let is_whole =
                !layer.is_spiking || histogram.is_empty() || histogram.len() as u64 == u64::from(*levels) + 1;
            if !is_whole || all.clone().any(|share| !(0. ..=1. + 1e-6).contains(share)) {
                let what = format!("{}: expected shares in 0..1 and one for each level 0..={levels}", layer.name);
                return Err(Error::Report(format!("expected a cost report: {what}; it is damaged, count again")));
            }
        }
        Ok(())
    }

    /// `ResNet-18, L = 2, T = 2`.
    pub fn title(&self) -> String {
        let model = &self.subject.model;
        let neuron = if model.neuron.is_spiking() {
            format!("L = {}, T = {}", model.neuron.levels(), model.timesteps)
        } else {
            "ANN".to_string()
        };
        format!("{}, {neuron}", model.backbone.title())
    }
}

/// Refuses numbers that no sum and no chart can take.
fn check_numbers(at: &str, json: &serde_json::Value) -> Result<()> {
    const MOST: f64 = 1e18;
    match json {
        serde_json::Value::Object(map) => {
            map.iter().try_for_each(|(key, value)| check_numbers(&format!("{at}.{key}"), value))
        }
        serde_json::Value::Array(list) => list.iter().try_for_each(|value| check_numbers(at, value)),
        serde_json::Value::Number(number) if !number.as_f64().is_some_and(|n| (0. ..=MOST).contains(&n)) => {
            let what = format!("{at} is {number}; expected 0..{MOST:e}; it is damaged, count again");
            Err(Error::Report(format!("expected a cost report: {what}")))
        }
        _ => Ok(()),
    }
}
