//! Energy prices of operations and of memory accesses, as data with their sources.
//!
//! Every figure that comes out of here is an estimate: operations counted, times a price from the literature.

use serde::{Deserialize, Serialize};

use crate::{CostReport, Error, LayerCost, Result};

/// What operations cost in picojoule, and where that is from.
///
/// ```
/// use lmht_bench::EnergyModel;
///
/// let model = EnergyModel::default();
/// assert_eq!((model.mac_pj, model.ac_pj), (4.6, 0.9));
/// assert_eq!(EnergyModel::named("int8-45nm").unwrap().mac_pj, 0.23);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnergyModel {
    /// What tables call it.
    pub name: String,
    /// Where the prices are from.
    pub source: String,
    /// One multiply-accumulate, pJ.
    pub mac_pj: f64,
    /// One accumulate, pJ.
    pub ac_pj: f64,
    /// Bits of a weight, an activation, a potential: what one access moves.
    #[serde(default = "bits_32")]
    pub value_bits: u32,
    /// Prices of memory accesses; absent: only arithmetic is priced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryModel>,
}

fn bits_32() -> u32 {
    32
}

/// What moving a value costs: a price for each access of a memory that is as large as what it holds.
///
/// - a SOP reads a weight and reads and writes a potential: nothing is used twice, as in event-driven hardware;
/// - a MAC reads a weight and an activation; its sum stays in a register, and each output is written once;
/// - a neuron update reads and writes a potential, each product of attention reads both factors.
///
/// The price is interpolated between the given sizes, as Lemaire et al. do, and constant outside of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryModel {
    /// Where the prices are from.
    pub source: String,
    /// Bits that the prices are for.
    pub access_bits: u32,
    /// Size of a memory in bytes, and the price of one access of it in pJ; sizes ascending.
    pub access_pj: Vec<(f64, f64)>,
}

/// Horowitz 2014, Fig. 1.1.9, as all models below cite it.
const HOROWITZ: &str = "Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014, Fig. 1.1.9";

impl Default for EnergyModel {
    /// 45 nm, 32-bit float: what nearly every paper on spiking networks uses.
    fn default() -> Self {
        Self::arithmetic("float32-45nm", "32-bit float: multiplication 3.7 pJ, addition 0.9 pJ", 4.6, 0.9, 32)
    }
}

/// Millijoule in a picojoule.
const MJ_PER_PJ: f64 = 1e-9;

impl EnergyModel {
    fn arithmetic(name: &str, what: &str, mac_pj: f64, ac_pj: f64, value_bits: u32) -> Self {
        let source = format!("45 nm, {what} ({HOROWITZ})");
        Self { name: name.into(), source, mac_pj, ac_pj, value_bits, memory: None }
    }

    /// The models that come with the crate: float32, float16 and int8 arithmetic in 45 nm, and float32 with memory.
    ///
    /// ```
    /// let names: Vec<_> = lmht_bench::EnergyModel::all().into_iter().map(|model| model.name).collect();
    /// assert_eq!(names, ["float32-45nm", "float16-45nm", "int8-45nm", "float32-45nm-memory"]);
    /// ```
    pub fn all() -> Vec<Self> {
        let memory = MemoryModel {
            source: format!(
                "caches of 8 KiB, 32 KiB, 1 MiB at 10, 20, 100 pJ for 64 bits ({HOROWITZ}); interpolated by size as in \
                 Lemaire et al., An Analytical Estimation of Spiking Neural Networks Energy Efficiency, ICONIP 2022"
            ),
            access_bits: 64,
            access_pj: vec![(8192., 10.), (32768., 20.), (1048576., 100.)],
        };
        let float32 = Self::default();
        vec![
            float32.clone(),
            Self::arithmetic("float16-45nm", "16-bit float: multiplication 1.1 pJ, addition 0.4 pJ", 1.5, 0.4, 16),
            Self::arithmetic("int8-45nm", "8-bit integer: multiplication 0.2 pJ, addition 0.03 pJ", 0.23, 0.03, 8),
            Self { name: "float32-45nm-memory".into(), memory: Some(memory), ..float32 },
        ]
    }

    /// The model of that name, if the crate has it.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|model| model.name == name)
    }

    /// Checks what a user wrote.
    ///
    /// # Errors
    /// If a price is negative or no number, or the sizes of memories do not ascend; the message names the field.
    ///
    /// ```
    /// use lmht_bench::EnergyModel;
    /// let model = EnergyModel { ac_pj: -1., ..EnergyModel::default() };
    /// assert_eq!(model.check().unwrap_err().to_string(), "ac_pj is -1; expected a price of at least 0 pJ");
    /// ```
    pub fn check(&self) -> Result<()> {
        let price = |name: &str, pj: f64| {
            if pj.is_finite() && pj >= 0. {
                Ok(())
            } else {
                Err(Error::Price(format!("{name} is {pj}; expected a price of at least 0 pJ")))
            }
        };
        let wrong = |what: &str| Err(Error::Price(what.into()));
        price("mac_pj", self.mac_pj)?;
        price("ac_pj", self.ac_pj)?;
        if self.value_bits == 0 {
            return wrong("value_bits is 0; expected the bits of a weight, such as 32");
        }
        let Some(memory) = &self.memory else { return Ok(()) };
        if memory.access_bits == 0 {
            return wrong("memory.access_bits is 0; expected the bits that the prices are for, such as 64");
        }
        if memory.access_pj.is_empty() {
            return wrong("memory.access_pj is empty; expected pairs of bytes and pJ, such as [[8192, 10.0]]");
        }
        let ascending = memory.access_pj.is_sorted_by(|a, b| a.0 < b.0);
        if !(ascending && memory.access_pj.iter().all(|(bytes, _)| bytes.is_finite() && *bytes > 0.)) {
            return wrong("memory.access_pj: expected sizes above 0 in ascending order");
        }
        memory.access_pj.iter().try_for_each(|(_, pj)| price("memory.access_pj", *pj))
    }

    /// Reads a model from TOML, checked.
    ///
    /// # Errors
    /// If the text is no TOML, lacks a field or has one that is not known, or a price makes no sense.
    ///
    /// ```
    /// use lmht_bench::EnergyModel;
    /// let model = EnergyModel::from_toml(r#"
    /// name = "our chip"
    /// source = "data sheet, table 3"
    /// mac_pj = 1.2
    /// ac_pj = 0.1
    /// "#)?;
    /// assert_eq!((model.value_bits, model.memory), (32, None));
    /// # Ok::<(), lmht_bench::Error>(())
    /// ```
    #[cfg(feature = "report")]
    pub fn from_toml(text: &str) -> Result<Self> {
        let model: Self = toml::from_str(text).map_err(|error| Error::Price(error.to_string()))?;
        model.check()?;
        Ok(model)
    }

    /// Estimated energy of one image in millijoule: SOPs and MACs of all synapses, each at its price. Neurons, attention
    /// and memory are in [`EnergyModel::estimate`].
    pub fn energy_mj(&self, cost: &CostReport) -> f64 {
        (self.ac_pj * cost.sops() + self.mac_pj * cost.macs()) * MJ_PER_PJ
    }

    /// The same of one synapse.
    pub fn layer_mj(&self, layer: &LayerCost) -> f64 {
        (self.ac_pj * layer.sops + self.mac_pj * layer.macs) * MJ_PER_PJ
    }

    /// The paper's figure in millijoule: accumulates of everything but the stem, no MACs.
    ///
    /// ```
    /// // Table 1, ResNet-18, L = 2 with T-GIM: 0.73 G operations are 0.66 mJ.
    /// let energy = lmht_bench::EnergyModel::default().paper_energy_mj(0.73e9);
    /// assert!((energy - 0.66).abs() < 0.005);
    /// ```
    pub fn paper_energy_mj(&self, paper_sops: f64) -> f64 {
        self.ac_pj * paper_sops * MJ_PER_PJ
    }

    /// Everything that is counted, priced, and the comparisons beside it; estimated, millijoule an image.
    pub fn estimate(&self, cost: &CostReport) -> EnergyEstimate {
        let mj = |pj: f64| pj * MJ_PER_PJ;
        let mul_pj = (self.mac_pj - self.ac_pj).max(0.);
        let spiking = || cost.neurons.iter().filter(|layer| layer.is_spiking);
        // Adding the current and subtracting what was fired.
        let sum = |figure: fn(&crate::NeuronCost) -> f64| spiking().map(figure).fold(0., std::ops::Add::add);
        let updates = sum(|layer| 2. * layer.updates);
        let leaks = sum(|layer| layer.leak_muls);
        let tgim = sum(|layer| layer.tgim_macs);
        let (mut acs, mut macs) = (0., 0.);
        for product in &cost.products {
            acs += product.acs;
            macs += product.macs;
        }
        let mut estimate = EnergyEstimate {
            model: self.name.clone(),
            source: self.source.clone(),
            sops_mj: mj(self.ac_pj * cost.sops()),
            macs_mj: mj(self.mac_pj * cost.macs()),
            attention_mj: mj(self.ac_pj * acs + self.mac_pj * macs),
            neurons_mj: mj(self.ac_pj * updates + mul_pj * leaks + self.mac_pj * tgim),
            memory_mj: self.memory.as_ref().map(|memory| mj(memory.traffic_pj(cost, self.value_bits))),
            total_mj: 0.,
            paper_mj: self.paper_energy_mj(cost.paper_sops()),
            ann_mj: mj(self.mac_pj * cost.ann_macs()),
        };
        estimate.total_mj = estimate.sops_mj
            + estimate.macs_mj
            + estimate.attention_mj
            + estimate.neurons_mj
            + estimate.memory_mj.unwrap_or(0.);
        estimate
    }
}

impl MemoryModel {
    /// The price of moving one value of `value_bits` to or from a memory of `bytes`, pJ.
    ///
    /// ```
    /// let model = lmht_bench::EnergyModel::named("float32-45nm-memory").unwrap();
    /// let memory = model.memory.unwrap();
    /// // Half of 64 bits; between 8 KiB and 32 KiB the price rises with the size.
    /// assert_eq!(memory.value_pj(100., 32), 5.);
    /// assert_eq!(memory.value_pj(20480., 32), 7.5);
    /// assert_eq!(memory.value_pj(1e9, 32), 50.);
    /// ```
    pub fn value_pj(&self, bytes: f64, value_bits: u32) -> f64 {
        let share = f64::from(value_bits) / f64::from(self.access_bits);
        let points = &self.access_pj;
        let pj = match points.iter().position(|(size, _)| bytes <= *size) {
            Some(0) => points[0].1,
            None => points.last().map_or(0., |(_, pj)| *pj),
            Some(at) => {
                let ((small, low), (large, high)) = (points[at - 1], points[at]);
                low + (high - low) * (bytes - small) / (large - small)
            }
        };
        pj * share
    }

    /// All accesses of one image, pJ.
    fn traffic_pj(&self, cost: &CostReport, value_bits: u32) -> f64 {
        let bytes = |values: f64| values * f64::from(value_bits) / 8.;
        let of_layer = |layer: &LayerCost| {
            let runs = layer.runs.max(1.);
            let weight = self.value_pj(bytes(layer.n_weights as f64), value_bits);
            let potential = self.value_pj(bytes(layer.outputs / runs), value_bits);
            let activation = self.value_pj(bytes(layer.inputs / runs), value_bits);
            let written = if layer.macs > 0. { layer.outputs * potential } else { 0. };
            layer.sops * (weight + 2. * potential) + layer.macs * (weight + activation) + written
        };
        let neurons = cost
            .neurons
            .iter()
            .filter(|layer| layer.is_spiking)
            .map(|layer| 2. * layer.updates * self.value_pj(bytes(layer.n_units as f64), value_bits));
        // Both factors of attention are small; what they hold is not known here, so the smallest memory's price.
        let factor = self.value_pj(0., value_bits);
        let products = cost.products.iter().map(|product| 2. * (product.acs + product.macs) * factor);
        cost.layers.iter().map(of_layer).sum::<f64>() + neurons.sum::<f64>() + products.sum::<f64>()
    }
}

/// Estimated energy of one image, mJ, by one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnergyEstimate {
    /// [`EnergyModel::name`].
    pub model: String,
    /// [`EnergyModel::source`].
    pub source: String,
    /// Accumulates of synapses (`sop_exact`).
    pub sops_mj: f64,
    /// Multiply-accumulates of synapses: image, averages, analog inputs.
    pub macs_mj: f64,
    /// Products of attention.
    pub attention_mj: f64,
    /// Neurons: two additions an update, multiplications by λ, multiply-accumulates of the T-GIM. Comparisons with
    /// thresholds are not priced.
    pub neurons_mj: f64,
    /// Memory accesses, if the model prices them.
    pub memory_mj: Option<f64>,
    /// The sum of the above.
    pub total_mj: f64,
    /// The paper's definition: accumulates of everything but the stem at `ac_pj`, nothing else.
    pub paper_mj: f64,
    /// A dense ANN of the same structure: every multiplication once, at `mac_pj`. At int8 prices that is the quantized ANN.
    pub ann_mj: f64,
}
