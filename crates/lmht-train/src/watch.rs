//! What the layers of neurons do while a network trains, seen during the evaluation after an epoch.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use lmht_nn::trace::Op;
use lmht_nn::{Network, NeuronEvent, Numbers, Observer, PackedSpikes, SignalKind, Values};

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
        let unit = match event.signal {
            SignalKind::Spikes { v_threshold } => Some(v_threshold),
            SignalKind::Averaged { .. } | SignalKind::Analog => None,
        };
        match &event.output {
            Values::Packed(packed) => activity.add(packed.bytes, event.levels),
            Values::Numbers(values) => match values.numbers {
                Numbers::F32(numbers) => activity.add_numbers(numbers, unit, event.levels),
                Numbers::F64(numbers) => activity.add_numbers(numbers, unit, event.levels),
            },
            Values::Tensor(values) => activity.add_tensor(values, unit, event.levels)?,
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

    /// Adds numbers: spikes of either sign of `unit` each, or activations.
    fn add_numbers<T: Copy + Into<f64>>(&mut self, numbers: &[T], unit: Option<f64>, levels: u32) {
        self.n += numbers.len();
        for &number in numbers {
            let size = number.into().abs();
            let count = unit.map_or(f64::from(size != 0.), |unit| (size / unit).round());
            self.n_active += usize::from(count != 0.);
            self.n_full += usize::from(unit.is_some() && count == f64::from(levels));
            self.spikes += count;
        }
    }

    /// The same where the numbers are: sums of whole numbers alone come here.
    fn add_tensor(&mut self, values: &Tensor, unit: Option<f64>, levels: u32) -> candle_core::Result<()> {
        let counts = match unit {
            Some(unit) => (values.abs()? / unit)?.round()?,
            None => values.ne(0.)?,
        };
        let counts = counts.to_dtype(DType::U32)?;
        let sum = |counts: Tensor| counts.to_dtype(DType::U32)?.sum_all()?.to_scalar::<u32>();
        self.n += counts.elem_count();
        self.n_active += sum(counts.ne(0_u32)?)? as usize;
        if unit.is_some() {
            self.n_full += sum(counts.eq(levels)?)? as usize;
        }
        self.spikes += f64::from(sum(counts)?);
        Ok(())
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

    /// As a pass that runs layer by layer shows them, on a GPU for example.
    #[test]
    fn spikes_count_the_same_in_every_form() {
        let (theta, levels) = (0.7, 3);
        let bytes: Vec<u8> = (0..400_u32).map(|i| (i % 4) as u8).collect();
        let numbers: Vec<f32> = bytes.iter().map(|&count| f32::from(count) * theta as f32).collect();
        let mut packed = Activity::default();
        packed.add(&bytes, levels);
        let expected = Activity { n_in_gate: None, ..packed };
        assert!(expected.n_full > 0 && expected.rate() > 1.1, "{expected:?}");
        let tensor = Tensor::from_slice(&numbers, (4, 100), &candle_core::Device::Cpu).unwrap();
        let watched = |values: Values<'_>| {
            let mut layers = Layers::default();
            let signal = SignalKind::Spikes { v_threshold: theta };
            layers.neuron(&NeuronEvent::new("sn", 2, values, signal, levels)).unwrap();
            layers.0["sn"]
        };
        assert_eq!(watched(Values::Tensor(&tensor)), expected);
        let form = lmht_nn::Form::Vector;
        let rows = lmht_nn::ChannelsLast { numbers: Numbers::F32(&numbers), shape: [1, 1, 100], form };
        assert_eq!(watched(Values::Numbers(rows)), expected);
    }
}
