//! What the layers of neurons do while a network trains: one observed pass after an epoch.

use std::collections::BTreeMap;

use lmht_nn::trace::Op;
use lmht_nn::{Network, NeuronEvent, Observer, PackedSpikes, Pass, Values};

use crate::{BatchSource, Result};

/// What one layer of neurons did.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Activity {
    /// Units at all timesteps.
    n: usize,
    /// Those that sent anything.
    n_active: usize,
    /// Those that sent the most they can.
    n_full: usize,
    /// Spikes, counted by level.
    spikes: f64,
    /// Those in the gate of the surrogate; only where the pass says.
    n_in_gate: Option<usize>,
}

impl Activity {
    fn share(&self, n: f64) -> f64 {
        n / self.n.max(1) as f64
    }

    /// Spikes of a unit in a timestep; of an activation the share of units that are not 0.
    pub(crate) fn rate(&self) -> f64 {
        self.share(self.spikes)
    }

    /// The share of units whose gradient passes.
    pub(crate) fn in_gate(&self) -> Option<f64> {
        self.n_in_gate.map(|n| self.share(n as f64))
    }

    /// What is wrong with the layer, if anything is.
    pub(crate) fn complaint(&self) -> Option<&'static str> {
        /// Share of units at the highest level from which a layer says next to nothing.
        const SATURATED: f64 = 0.95;
        match self {
            Self { n: 0, .. } => None,
            Self { n_active: 0, .. } => Some("dead: it sent nothing"),
            _ if self.share(self.n_full as f64) >= SATURATED => {
                Some("saturated: nearly all units sent the most they can")
            }
            _ => None,
        }
    }
}

/// The activity of every layer of neurons on the first batch of `data`.
pub(crate) fn watch(network: &Network, data: &dyn BatchSource) -> Result<BTreeMap<String, Activity>> {
    let mut layers = Layers::default();
    if let Some(batch) = data.batches(0, 0)?.next() {
        network.forward(&batch?.images, &mut Pass::eval().observed_by(&mut layers))?;
    }
    Ok(layers.0)
}

/// Ω, λ and other shared numbers of every layer, by layer and name.
pub(crate) fn shared_numbers(network: &Network) -> Result<Vec<(String, f64)>> {
    let mut numbers = Vec::new();
    for node in &network.trace(&network.config().example_input())?.nodes {
        if let Op::Neuron(cell) = &node.op {
            numbers.extend(cell.shared()?.into_iter().map(|(name, value)| (format!("{}/{name}", cell.name()), value)));
        }
    }
    Ok(numbers)
}

#[derive(Debug, Default)]
struct Layers(BTreeMap<String, Activity>);

impl Observer for Layers {
    fn neuron(&mut self, event: &NeuronEvent<'_>) -> lmht_nn::Result<()> {
        // A layer that is gone through twice adds up.
        let activity = self.0.entry(event.name.to_string()).or_default();
        match &event.output {
            Values::Packed(packed) => {
                let mut n_in_gate = 0;
                for &byte in packed.bytes {
                    let count = PackedSpikes::count(byte);
                    activity.spikes += f64::from(count);
                    activity.n_active += usize::from(count > 0);
                    activity.n_full += usize::from(u32::from(count) == event.levels);
                    n_in_gate += usize::from(byte != count);
                }
                activity.n += packed.bytes.len();
                *activity.n_in_gate.get_or_insert(0) += n_in_gate;
            }
            values => {
                let values = values.to_tensor()?;
                let n_active = values.ne(0.)?.to_dtype(candle_core::DType::F64)?.sum_all()?.to_scalar::<f64>()?;
                activity.n += values.elem_count();
                activity.n_active += n_active as usize;
                activity.spikes += n_active;
            }
        }
        Ok(())
    }
}
