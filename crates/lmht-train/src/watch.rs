//! What the layers of neurons do while a network trains, seen during the evaluation after an epoch.

use std::collections::BTreeMap;

use candle_core::DType;
use lmht_nn::trace::Op;
use lmht_nn::{Network, NeuronEvent, Numbers, Observer, PackedSpikes, Values};

use crate::Result;

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

/// The activity of every layer of neurons in all passes that it watches.
#[derive(Debug, Default)]
pub(crate) struct Layers(pub(crate) BTreeMap<String, Activity>);

impl Observer for Layers {
    fn takes_parts(&self) -> bool {
        true
    }

    fn neuron(&mut self, event: &NeuronEvent<'_>) -> lmht_nn::Result<()> {
        // A layer that is gone through twice adds up.
        let activity = self.0.entry(event.name.to_string()).or_default();
        match &event.output {
            Values::Packed(packed) => activity.add(packed.bytes, event.levels),
            Values::Numbers(values) => {
                let n_active = match values.numbers {
                    Numbers::F32(numbers) => numbers.iter().filter(|&&number| number != 0.).count(),
                    Numbers::F64(numbers) => numbers.iter().filter(|&&number| number != 0.).count(),
                };
                activity.add_activations(event.output.elem_count(), n_active);
            }
            Values::Tensor(values) => {
                let n_active = values.ne(0.)?.to_dtype(DType::U32)?.sum_all()?.to_scalar::<u32>()?;
                activity.add_activations(values.elem_count(), n_active as usize);
            }
        }
        Ok(())
    }
}

impl Activity {
    /// Adds packed spikes: an evaluation shows it all that there are, so it is written for vector instructions.
    fn add(&mut self, bytes: &[u8], levels: u32) {
        let levels = u8::try_from(levels).unwrap_or(u8::MAX); // counts have 7 bits
        const LANES: usize = 64;
        let mut n_in_gate = 0;
        // As many rows as a lane of 8 bits can count.
        for block in bytes.chunks(LANES * 255) {
            let mut spikes = [0_u16; LANES];
            let [mut active, mut full, mut in_gate] = [[0_u8; LANES]; 3];
            for row in block.chunks(LANES) {
                for (i, &byte) in row.iter().enumerate() {
                    let count = PackedSpikes::count(byte);
                    spikes[i] += u16::from(count);
                    active[i] += u8::from(count > 0);
                    full[i] += u8::from(count == levels);
                    in_gate[i] += u8::from(byte != count);
                }
            }
            let sum = |lanes: [u8; LANES]| lanes.into_iter().map(usize::from).sum::<usize>();
            self.spikes += spikes.into_iter().map(f64::from).sum::<f64>();
            self.n_active += sum(active);
            self.n_full += sum(full);
            n_in_gate += sum(in_gate);
        }
        self.n += bytes.len();
        *self.n_in_gate.get_or_insert(0) += n_in_gate;
    }

    fn add_activations(&mut self, n: usize, n_active: usize) {
        self.n += n;
        self.n_active += n_active;
        self.spikes += n_active as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spikes_are_counted_in_blocks_as_one_by_one() {
        let bytes: Vec<u8> = (0..50_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut activity = Activity::default();
        activity.add(&bytes[..37_001], 127);
        activity.add(&bytes[37_001..], 127);
        let counts = || bytes.iter().map(|&byte| PackedSpikes::count(byte));
        let expected = Activity {
            n: bytes.len(),
            n_active: counts().filter(|&count| count > 0).count(),
            n_full: counts().filter(|&count| count == 127).count(),
            spikes: counts().map(f64::from).sum(),
            n_in_gate: Some(bytes.iter().filter(|&&byte| byte > 127).count()),
        };
        assert_eq!(activity, expected);
        assert!(expected.n_full > 0 && expected.n_active < expected.n);
    }
}
