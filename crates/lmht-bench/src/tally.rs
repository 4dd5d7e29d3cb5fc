//! Counting the values of one input of a synapse.
//!
//! A layer's inputs are read once. Spikes are summed over the channels of each position, and only these sums meet the
//! connections that leave the position: all channels of a position have equally many.

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use rayon::prelude::*;

use crate::Connections;

/// What one input of a synapse, one image at one timestep, amounts to. Whole numbers, exact.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Σ |s|: spikes, a level-k spike counting k. 0 for values that are no spikes.
    pub spikes: u64,
    /// Values other than 0.
    pub active: u64,
    /// Σ |s| · connections: synaptic operations. 0 for values that are no spikes.
    pub sops: u64,
    /// Connections with a weight other than 0 that leave values other than 0.
    pub effective: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.spikes += other.spikes;
        self.active += other.active;
        self.sops += other.sops;
        self.effective += other.effective;
    }
}

/// Counts the spikes of one input, `[c_in, h, w]` or `[f_in]`, whose values are whole multiples of `v_threshold`.
///
/// A spike of −1, which ternary neurons send, is one operation too. `weight` are the synapse's weights, `[c_out, c_in /
/// groups, k, k]`; without them no weight counts as 0. The networks of this workspace need no groups and no negative
/// spikes; the definitions that others use have both.
///
/// # Errors
/// If a value is no multiple of `v_threshold`, or the lengths do not fit.
///
/// ```
/// use lmht_bench::{Connections, tally_spikes};
///
/// // One spike of level 3 in the middle of a 3x3 map, 5 outputs: 9 taps, 3 spikes.
/// let conv = Connections { c_in: 1, c_out: 5, kernel: 3, stride: 1, padding: 1, groups: 1, h: 3, w: 3 };
/// let tally = tally_spikes(&conv, None, &[0., 0., 0., 0., 1.5, 0., 0., 0., 0.], 0.5)?;
/// assert_eq!((tally.sops, tally.effective), (3 * 9 * 5, 9 * 5));
/// # Ok::<(), String>(())
/// ```
pub fn tally_spikes(
    connections: &Connections,
    weight: Option<&[f32]>,
    values: &[f32],
    v_threshold: f32,
) -> Result<Tally, String> {
    tally_slice(connections, weight, values, Some(f64::from(v_threshold)))
}

/// Counts one input of real values: [`Tally::active`] and [`Tally::effective`], the multiplications that are left when
/// zeros of input and weight are skipped.
///
/// # Errors
/// If the lengths do not fit.
///
/// ```
/// use lmht_bench::{Connections, tally_analog};
/// let tally = tally_analog(&Connections::linear(3, 2), Some(&[1., 0., 1., 1., 1., 1.]), &[0.3, -0.7, 0.])?;
/// assert_eq!((tally.active, tally.effective, tally.sops), (2, 1 + 2, 0));
/// # Ok::<(), String>(())
/// ```
pub fn tally_analog(connections: &Connections, weight: Option<&[f32]>, values: &[f32]) -> Result<Tally, String> {
    tally_slice(connections, weight, values, None)
}

fn tally_slice(
    connections: &Connections,
    weight: Option<&[f32]>,
    values: &[f32],
    v_threshold: Option<f64>,
) -> Result<Tally, String> {
    if values.len() as u64 != connections.n_inputs() || values.is_empty() {
        return Err(format!("expected {} values of one input, got {}", connections.n_inputs(), values.len()));
    }
    let is_zero = match weight {
        Some(weight) if weight.len() as u64 != connections.n_weights() => {
            return Err(format!("expected {} weights, got {}", connections.n_weights(), weight.len()));
        }
        Some(weight) => weight.iter().map(|weight| *weight == 0.).collect(),
        None => Vec::new(),
    };
    Plan::new(connections, &is_zero).row(values, v_threshold)
}

/// Counts every row of a tensor `[rows, ...]`; `v_threshold` is absent for real values. The rows' tallies are in order.
pub(crate) fn tally_rows(
    connections: &Connections,
    weight: &Tensor,
    input: &Tensor,
    v_threshold: Option<f64>,
) -> lmht_nn::Result<Vec<Tally>> {
    let message = |message: String| lmht_nn::Error::Candle(candle_core::Error::Msg(message));
    let is_zero = with_values(weight, |weight| match weight {
        Values::F32(weight) => weight.contains(&0.).then(|| weight.iter().map(|weight| *weight == 0.).collect()),
        Values::F64(weight) => weight.contains(&0.).then(|| weight.iter().map(|weight| *weight == 0.).collect()),
    })?;
    let plan = Plan::new(connections, &is_zero.unwrap_or_else(Vec::<bool>::new));
    let len = connections.n_inputs() as usize;
    if len == 0 {
        return Ok(Vec::new());
    }
    let tallies: Result<Vec<_>, String> = with_values(input, |values| match values {
        Values::F32(values) => values.par_chunks_exact(len).map(|row| plan.row(row, v_threshold)).collect(),
        Values::F64(values) => values.par_chunks_exact(len).map(|row| plan.row(row, v_threshold)).collect(),
    })?;
    tallies.map_err(message)
}

/// The values of a tensor, of whichever type.
pub(crate) enum Values<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
}

/// Shows `f` the values, without a copy where they are contiguous on the CPU.
pub(crate) fn with_values<T>(tensor: &Tensor, f: impl FnOnce(Values<'_>) -> T) -> lmht_nn::Result<T> {
    let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
    let tensor = if tensor.dtype() == DType::F64 { tensor } else { tensor.to_dtype(DType::F32)? };
    let (storage, layout) = tensor.storage_and_layout();
    let (start, len) = (layout.start_offset(), tensor.elem_count());
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => Ok(f(Values::F32(&values[start..start + len]))),
        Storage::Cpu(CpuStorage::F64(values)) => Ok(f(Values::F64(&values[start..start + len]))),
        _ => Err(candle_core::Error::Msg("a tensor was copied to the CPU and is not there".into()).into()),
    }
}

/// A synapse, ready for rows.
struct Plan {
    /// Values that have the same place in the sums: positions of a map, or features.
    positions: usize,
    /// Connections that leave a position; one entry if all positions have equally many.
    fan_outs: Vec<u64>,
    /// The same without weights of 0, for each channel too; absent if no weight is 0.
    nonzero: Option<Vec<u64>>,
}

impl Plan {
    fn new(connections: &Connections, is_zero: &[bool]) -> Self {
        let nonzero = connections.nonzero_fan_outs(is_zero);
        let fan_outs = connections.fan_outs();
        if fan_outs.iter().all(|fan_out| *fan_out == fan_outs[0]) {
            // Nothing depends on the position, so the longest sums are the fastest.
            let positions = connections.n_inputs() as usize;
            return Self { positions, fan_outs: vec![fan_outs[0]], nonzero };
        }
        Self { positions: connections.h * connections.w, fan_outs, nonzero }
    }

    fn row<R: Number>(&self, values: &[R], v_threshold: Option<f64>) -> Result<Tally, String> {
        let mut sums = Sums { spikes: vec![0; self.positions], active: vec![0; self.positions] };
        let scale = R::of(v_threshold.map_or(0., |theta| 1. / theta));
        let mut totals = [vec![0u64; self.fan_outs.len()], vec![0u64; self.fan_outs.len()]];
        // The sums of this many channels fit 32 bits, whatever the spikes.
        for channels in values.chunks(self.positions * MAX_CHANNELS) {
            for channel in channels.chunks_exact(self.positions) {
                match v_threshold {
                    Some(theta) if R::add_spikes(channel, scale, &mut sums) > 0 => {
                        return Err(not_spikes(channel, theta));
                    }
                    Some(_) => {}
                    None => R::add_active(channel, &mut sums.active),
                }
            }
            for (total, sums) in totals.iter_mut().zip([&mut sums.spikes, &mut sums.active]) {
                if let [total] = &mut total[..] {
                    *total += sums.iter().map(|sum| u64::from(*sum)).sum::<u64>();
                } else {
                    total.iter_mut().zip(sums.iter()).for_each(|(total, sum)| *total += u64::from(*sum));
                }
                sums.fill(0);
            }
        }
        let [spikes, active] = totals;
        let dot = |sums: &[u64]| sums.iter().zip(&self.fan_outs).map(|(sum, fan_out)| sum * fan_out).sum();
        let effective = match &self.nonzero {
            None => dot(&active),
            // NaN is a value other than 0, as it is for `active`.
            Some(nonzero) => {
                values.iter().zip(nonzero).filter(|(value, _)| !value.is_zero()).map(|(_, fan_out)| fan_out).sum()
            }
        };
        Ok(Tally { spikes: spikes.iter().sum(), active: active.iter().sum(), sops: dot(&spikes), effective })
    }
}

/// Spikes and values other than 0 of each position, over channels.
struct Sums {
    spikes: Vec<u32>,
    active: Vec<u32>,
}

/// The largest spike that is counted.
pub(crate) const MAX_SPIKE: u32 = 1 << 20;
/// Channels whose sums fit 32 bits: 2¹¹ · 2²⁰ < 2³².
const MAX_CHANNELS: usize = 1 << 11;
/// f32 thresholds such as 2/3 do not divide exactly; anything further off is not a spike.
pub(crate) const TOLERANCE: f64 = 1e-3;

fn not_spikes<R: Number>(values: &[R], v_threshold: f64) -> String {
    let is_off = |value: &f64| {
        let spikes = (value / v_threshold).abs();
        !((spikes - spikes.round()).abs() <= TOLERANCE && spikes <= f64::from(MAX_SPIKE))
    };
    let value = values.iter().map(|value| value.to_f64()).find(is_off).unwrap_or(f64::NAN);
    format!("expected whole multiples of the threshold {v_threshold}, at most {MAX_SPIKE} times, got {value}")
}

/// f32 and f64, rounded by adding and subtracting a number whose last bit is worth 1: that needs no function call, so
/// that the loops become vector instructions on any machine.
trait Number: Copy + Send + Sync {
    fn of(value: f64) -> Self;
    fn to_f64(self) -> f64;
    fn is_zero(self) -> bool;
    /// Adds |value · scale|, rounded, to the spikes of each position. Returns how many values are no whole number.
    fn add_spikes(channel: &[Self], scale: Self, sums: &mut Sums) -> u32;
    fn add_active(channel: &[Self], active: &mut [u32]);
}

macro_rules! number {
    ($float:ty, $bits:ty, $magic:expr) => {
        impl Number for $float {
            fn of(value: f64) -> Self {
                value as $float
            }

            fn to_f64(self) -> f64 {
                self.into()
            }

            fn is_zero(self) -> bool {
                self == 0.
            }

            fn add_spikes(channel: &[Self], scale: Self, sums: &mut Sums) -> u32 {
                const MAGIC: $float = $magic;
                let mut bad = 0;
                for ((value, spikes), active) in channel.iter().zip(&mut sums.spikes).zip(&mut sums.active) {
                    let exact = (value * scale).abs();
                    let shifted = exact + MAGIC;
                    let off = (exact - (shifted - MAGIC)).abs();
                    // Written so that a value that is no number is bad.
                    bad += u32::from(!(off <= TOLERANCE as $float && exact <= MAX_SPIKE as $float));
                    let count = shifted.to_bits().wrapping_sub(MAGIC.to_bits()) as u32;
                    // A bad value ends the count, so its sum does not matter.
                    *spikes = spikes.wrapping_add(count);
                    *active += u32::from(count != 0);
                }
                bad
            }

            fn add_active(channel: &[Self], active: &mut [u32]) {
                for (value, active) in channel.iter().zip(active) {
                    *active += u32::from(*value != 0.);
                }
            }
        }
    };
}

// 1.5 · 2²³ and 1.5 · 2⁵²: of the numbers around them every one is whole.
number!(f32, u32, 12_582_912.);
number!(f64, u64, 6_755_399_441_055_744.);
