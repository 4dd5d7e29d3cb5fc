//! Counting the operations of every synapse during a forward pass.

use candle_core::{DType, Device, Tensor};
use lmht_nn::{Observer, Result, Signal, SynapseEvent, SynapseKind};
use serde::{Deserialize, Serialize};

/// An [`Observer`] that counts the operations of every synapse it is shown, over any number of passes.
#[derive(Debug, Default, Clone)]
pub struct CostCounter {
    layers: Vec<LayerTotal>,
}

/// Totals of one synapse over all passes.
#[derive(Debug, Clone)]
struct LayerTotal {
    name: String,
    sops: u64,
    macs: u64,
    paper: f64,
}

impl CostCounter {
    /// A counter that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was counted, for each of the `n_images` images that were shown.
    pub fn report(&self, n_images: usize) -> CostReport {
        let per_image = |total: f64| if n_images == 0 { 0. } else { total / n_images as f64 };
        let layers = self.layers.iter().map(|layer| LayerCost {
            name: layer.name.clone(),
            sops: per_image(layer.sops as f64),
            macs: per_image(layer.macs as f64),
            paper_sops: per_image(layer.paper),
        });
        CostReport { n_images, layers: layers.collect() }
    }

    /// SOPs of every synapse so far, over all images and timesteps, in the order of the network.
    pub fn total_sops(&self) -> Vec<(&str, u64)> {
        self.layers.iter().map(|layer| (layer.name.as_str(), layer.sops)).collect()
    }
}

/// Operations per image of a whole network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CostReport {
    /// Number of images the figures are a mean of.
    pub n_images: usize,
    /// Every synapse, in the order of the network.
    pub layers: Vec<LayerCost>,
}

/// Operations per image of one synapse; over all timesteps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerCost {
    /// The path of the synapse's weight.
    pub name: String,
    /// Accumulates caused by spikes; 0 where the input is no spikes.
    pub sops: f64,
    /// Multiply-accumulates; 0 where the input is spikes.
    pub macs: f64,
    /// The paper's count: amplitude over θ for spikes and for averages of spikes, 0 for analog inputs.
    pub paper_sops: f64,
}

impl CostReport {
    /// SOPs per image.
    pub fn sops(&self) -> f64 {
        self.layers.iter().map(|layer| layer.sops).sum()
    }

    /// MACs per image.
    pub fn macs(&self) -> f64 {
        self.layers.iter().map(|layer| layer.macs).sum()
    }

    /// Operations per image by the paper's definition: every synapse but the stem, averages of spikes counted as if they
    /// were spikes.
    pub fn paper_sops(&self) -> f64 {
        self.layers.iter().map(|layer| layer.paper_sops).sum()
    }
}

impl Observer for CostCounter {
    fn synapse(&mut self, event: &SynapseEvent<'_>) -> Result<()> {
        let fan_out = FanOut::of(event.kind, event.input.dims());
        let (sops, macs, paper) = match event.signal {
            Signal::Spikes { v_threshold } => {
                let sops = fan_out.spikes(event.name, event.input, v_threshold)?;
                (sops, 0, sops as f64)
            }
            Signal::Averaged { v_threshold } => {
                (0, fan_out.dense(event.input), fan_out.amplitude(event.input)? / v_threshold)
            }
            Signal::Analog => (0, fan_out.dense(event.input), 0.),
        };
        let layer = match self.layers.iter().position(|layer| layer.name == event.name) {
            Some(at) => &mut self.layers[at],
            None => {
                self.layers.push(LayerTotal { name: event.name.to_string(), sops: 0, macs: 0, paper: 0. });
                self.layers.last_mut().expect("just pushed")
            }
        };
        layer.sops += sops;
        layer.macs += macs;
        layer.paper += paper;
        Ok(())
    }
}

/// How many connections leave each position of an input.
struct FanOut {
    /// Connections of the position (y, x) of any channel: `rows[y] * columns[x] * c_out`.
    rows: Vec<u64>,
    columns: Vec<u64>,
    c_out: u64,
}

impl FanOut {
    fn of(kind: SynapseKind, dims: &[usize]) -> Self {
        match kind {
            SynapseKind::Linear { f_out } => Self { rows: vec![1], columns: vec![1], c_out: f_out as u64 },
            SynapseKind::Conv2d { c_out, kernel, stride, padding } => {
                let (h, w) = (dims[dims.len() - 2], dims[dims.len() - 1]);
                let taps = |size| taps(size, kernel, stride, padding);
                Self { rows: taps(h), columns: taps(w), c_out: c_out as u64 }
            }
        }
    }

    /// Connections from all positions of all rows of the input.
    fn dense(&self, input: &Tensor) -> u64 {
        let maps = input.elem_count() / (self.rows.len() * self.columns.len());
        maps as u64 * self.c_out * self.rows.iter().sum::<u64>() * self.columns.iter().sum::<u64>()
    }

    /// Σ over the input of (spikes · connections).
    fn spikes(&self, name: &str, input: &Tensor, v_threshold: f64) -> Result<u64> {
        let values = to_f64(input)?;
        let mut sops = 0;
        for (value, connections) in values.iter().zip(self.connections().cycle()) {
            let spikes = (value / v_threshold).round();
            // f32 thresholds such as 2/3 do not divide exactly; anything further off is not a spike.
            if (value / v_threshold - spikes).abs() > 1e-3 || spikes < 0. {
                let what = format!("{name}: expected whole multiples of the threshold {v_threshold}, got {value}");
                return Err(candle_core::Error::Msg(what).into());
            }
            sops += spikes as u64 * connections;
        }
        Ok(sops)
    }

    /// Σ over the input of (value · connections).
    fn amplitude(&self, input: &Tensor) -> Result<f64> {
        let values = to_f64(input)?;
        Ok(values.iter().zip(self.connections().cycle()).map(|(value, connections)| value * connections as f64).sum())
    }

    /// Connections of each position of one map, row by row.
    fn connections(&self) -> impl Iterator<Item = u64> + Clone + '_ {
        self.rows.iter().flat_map(move |row| self.columns.iter().map(move |column| row * column * self.c_out))
    }
}

/// For each position of an axis the number of output positions that look at it.
fn taps(size: usize, kernel: usize, stride: usize, padding: usize) -> Vec<u64> {
    let n_out = (size + 2 * padding).saturating_sub(kernel) / stride + 1;
    let looks_at = |position: usize, out: usize| (out * stride..out * stride + kernel).contains(&(position + padding));
    (0..size).map(|position| (0..n_out).filter(|&out| looks_at(position, out)).count() as u64).collect()
}

fn to_f64(input: &Tensor) -> Result<Vec<f64>> {
    Ok(input.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(kind: SynapseKind, input: &Tensor, signal: Signal) -> LayerCost {
        let mut counter = CostCounter::new();
        counter.synapse(&SynapseEvent { name: "synapse", kind, input, signal }).unwrap();
        counter.report(1).layers.remove(0)
    }

    fn conv(c_out: usize, stride: usize) -> SynapseKind {
        SynapseKind::Conv2d { c_out, kernel: 3, stride, padding: 1 }
    }

    /// A map with one value at (y, x).
    fn spike_at(y: usize, x: usize, value: f32) -> Tensor {
        let mut map = vec![0f32; 16];
        map[y * 4 + x] = value;
        Tensor::from_vec(map, (1, 1, 4, 4), &Device::Cpu).unwrap()
    }

    const SPIKES: Signal = Signal::Spikes { v_threshold: 0.5 };

    // 3x3, padding 1, on 4x4: along one axis the four positions are seen by 2, 3, 3, 2 outputs, 10 in all.
    #[test]
    fn a_full_map_counts_taps_without_padding() {
        let input = Tensor::full(0.5f32, (1, 2, 4, 4), &Device::Cpu).unwrap();
        assert_eq!(count(conv(3, 1), &input, SPIKES).sops, 100. * 2. * 3.);
        assert_eq!(count(conv(3, 1), &input, Signal::Analog).macs, 100. * 2. * 3.);
        assert_eq!(count(conv(3, 1), &input, Signal::Analog).sops, 0.);
    }

    // Stride 2 gives two outputs, which see positions 0..=1 and 1..=3: 1, 2, 1, 1 taps, 5 along an axis.
    #[test]
    fn stride_counts_as_it_is() {
        let input = Tensor::full(0.5f32, (1, 1, 4, 4), &Device::Cpu).unwrap();
        assert_eq!(count(conv(1, 2), &input, SPIKES).sops, 25.);
    }

    #[test]
    fn a_spike_counts_its_own_synapses_and_its_level() {
        assert_eq!(count(conv(1, 1), &spike_at(0, 0, 0.5), SPIKES).sops, 4.);
        assert_eq!(count(conv(1, 1), &spike_at(0, 1, 0.5), SPIKES).sops, 6.);
        assert_eq!(count(conv(1, 1), &spike_at(1, 2, 0.5), SPIKES).sops, 9.);
        assert_eq!(count(conv(5, 1), &spike_at(1, 2, 1.5), SPIKES).sops, 27. * 5.);
    }

    #[test]
    fn averages_are_macs_but_the_paper_counts_their_amplitude() {
        let input = spike_at(1, 1, 0.25);
        let cost = count(conv(1, 1), &input, Signal::Averaged { v_threshold: 0.5 });
        assert_eq!((cost.sops, cost.macs, cost.paper_sops), (0., 100., 4.5));
    }

    #[test]
    fn a_linear_layer_fans_out_to_all() {
        let input = Tensor::new(&[[0f32, 0.5, 1.0]], &Device::Cpu).unwrap();
        let cost = count(SynapseKind::Linear { f_out: 7 }, &input, SPIKES);
        assert_eq!(cost.sops, 3. * 7.);
    }

    #[test]
    fn what_is_no_multiple_of_the_threshold_is_no_spike() {
        let mut counter = CostCounter::new();
        let input = spike_at(0, 0, 0.3);
        let event = SynapseEvent { name: "layer1.0.conv1.0", kind: conv(1, 1), input: &input, signal: SPIKES };
        let message = counter.synapse(&event).unwrap_err().to_string();
        assert!(message.contains("layer1.0.conv1.0") && message.contains("0.5"), "{message}");
    }
}
