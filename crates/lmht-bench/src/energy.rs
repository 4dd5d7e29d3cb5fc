//! Energy prices of operations.

use serde::{Deserialize, Serialize};

use crate::CostReport;

/// The price of an operation in picojoule.
///
/// The default is 45 nm, 32-bit float: 4.6 pJ for a multiply-accumulate (a multiplication of 3.7 pJ and an addition of
/// 0.9 pJ), 0.9 pJ for an accumulate (Horowitz, "Computing's energy problem", ISSCC 2014).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnergyModel {
    /// One multiply-accumulate, pJ.
    pub mac_pj: f64,
    /// One accumulate, pJ.
    pub ac_pj: f64,
}

impl Default for EnergyModel {
    fn default() -> Self {
        Self { mac_pj: 4.6, ac_pj: 0.9 }
    }
}

/// Millijoule in a picojoule.
const MJ_PER_PJ: f64 = 1e-9;

impl EnergyModel {
    /// Estimated energy of one image in millijoule: SOPs and MACs, each at its price.
    pub fn energy_mj(&self, cost: &CostReport) -> f64 {
        (self.ac_pj * cost.sops() + self.mac_pj * cost.macs()) * MJ_PER_PJ
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
}
