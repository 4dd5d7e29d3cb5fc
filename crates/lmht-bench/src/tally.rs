//! Counting the values of one input of a synapse.
//!
//! A layer's inputs are read once. Spikes are summed over the channels of each position, and only these sums meet the
//! connections that leave the position: all channels of a position have equally many. The engine keeps channels innermost,
//! so the sums are over neighbours, of spikes a byte each; in a tensor `[N, C, H, W]` whole maps are added up.

use std::convert::Infallible;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use lmht_kernels::{Kernel, run_vectorized};
use lmht_nn::{Form, Numbers, PackedSpikes, SignalKind, Values};
use rayon::prelude::*;

use crate::error::MAX_SPIKE;
use crate::{Connections, Error, Result};

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
/// groups, k, k]`; without them no weight counts as 0.
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
/// # Ok::<(), lmht_bench::Error>(())
/// ```
pub fn tally_spikes(
    connections: &Connections,
    weight: Option<&[f32]>,
    values: &[f32],
    v_threshold: f32,
) -> Result<Tally> {
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
/// # Ok::<(), lmht_bench::Error>(())
/// ```
pub fn tally_analog(connections: &Connections, weight: Option<&[f32]>, values: &[f32]) -> Result<Tally> {
    tally_slice(connections, weight, values, None)
}

fn tally_slice(
    connections: &Connections,
    weight: Option<&[f32]>,
    values: &[f32],
    v_threshold: Option<f64>,
) -> Result<Tally> {
    if values.len() as u64 != connections.n_inputs() || values.is_empty() {
        let (expected, got) = (connections.n_inputs(), values.len());
        return Err(Error::Shape(format!("expected {expected} values of one input, got {got}")));
    }
    let is_zero = match weight {
        Some(weight) if weight.len() as u64 != connections.n_weights() => {
            let (expected, got) = (connections.n_weights(), weight.len());
            return Err(Error::Shape(format!("expected {expected} weights, got {got}")));
        }
        Some(weight) => weight.iter().map(|weight| *weight == 0.).collect(),
        None => Vec::new(),
    };
    Plan::new(connections, &is_zero).planes(values, v_threshold)
}

/// Counts every input of a synapse, `[rows, ...]`, in order.
pub(crate) fn tally_rows(
    connections: &Connections,
    weight: &Tensor,
    input: &Values<'_>,
    signal: SignalKind,
) -> Result<Vec<Tally>> {
    let v_threshold = match signal {
        SignalKind::Spikes { v_threshold } => Some(v_threshold),
        SignalKind::Averaged { .. } | SignalKind::Analog => None,
    };
    let plan = Plan::new(connections, &zeros(weight)?);
    let len = connections.n_inputs() as usize;
    if len == 0 {
        return Ok(Vec::new());
    }
    match input {
        Values::Tensor(input) => with_values(input, |values| match values {
            Numbers::F32(values) => values.par_chunks_exact(len).map(|row| plan.planes(row, v_threshold)).collect(),
            Numbers::F64(values) => values.par_chunks_exact(len).map(|row| plan.planes(row, v_threshold)).collect(),
        })?,
        Values::Packed(packed) => {
            let plan = plan.channels_last(packed.form, packed.shape);
            let per_count = v_threshold.map_or(Ok(0), |theta| spikes_per_count(packed, theta))?;
            let row = |bytes| {
                let mut tally = Tally::default();
                run_vectorized(PackedRow { plan: &plan, bytes, per_count, tally: &mut tally });
                Ok(tally)
            };
            packed.bytes.par_chunks_exact(len).map(row).collect()
        }
        Values::Numbers(values) => {
            let plan = plan.channels_last(values.form, values.shape);
            match values.numbers {
                Numbers::F32(values) => values.par_chunks_exact(len).map(|row| plan.runs(row, v_threshold)).collect(),
                Numbers::F64(values) => values.par_chunks_exact(len).map(|row| plan.runs(row, v_threshold)).collect(),
            }
        }
    }
}

/// Which weights are 0; nothing if none is. Asked at every pass, because training moves weights in place.
fn zeros(weight: &Tensor) -> Result<Vec<bool>> {
    fn of<R: Number>(weight: &[R]) -> Vec<bool> {
        /// Weights looked at without a branch.
        const RUN: usize = 1 << 12;
        let has_zero = |run: &[R]| run.iter().fold(false, |has, weight| has | weight.is_zero());
        if weight.par_chunks(RUN).any(has_zero) {
            weight.iter().map(|weight| weight.is_zero()).collect()
        } else {
            Vec::new()
        }
    }
    with_values(weight, |weight| match weight {
        Numbers::F32(weight) => of(weight),
        Numbers::F64(weight) => of(weight),
    })
}

/// Σ over the input of (value · connections).
pub(crate) fn amplitude(connections: &Connections, input: &Values<'_>) -> Result<f64> {
    let fan_outs = connections.fan_outs();
    let planes = |values: &mut dyn Iterator<Item = f64>| -> f64 {
        values.zip(fan_outs.iter().cycle()).map(|(value, fan_out)| value * *fan_out as f64).sum()
    };
    // A vector and a token have one fan-out for all of their values.
    let channels = if fan_outs.len() == 1 { connections.n_inputs() as usize } else { connections.c_in };
    fn runs<V: Copy>(values: &[V], fan_outs: &[u64], channels: usize, sum: impl Fn(&[V]) -> f64) -> f64 {
        let runs = values.chunks_exact(channels.max(1)).zip(fan_outs.iter().cycle());
        runs.map(|(run, fan_out)| sum(run) * *fan_out as f64).sum()
    }
    Ok(match input {
        Values::Tensor(input) => with_values(input, |values| match values {
            Numbers::F32(values) => planes(&mut values.iter().map(|value| f64::from(*value))),
            Numbers::F64(values) => planes(&mut values.iter().copied()),
        })?,
        Values::Packed(packed) => {
            let count = |run: &[u8]| run.iter().map(|byte| f64::from(PackedSpikes::count(*byte))).sum();
            packed.amplitude * runs(packed.bytes, &fan_outs, channels, count)
        }
        Values::Numbers(values) => match values.numbers {
            Numbers::F32(values) => {
                runs(values, &fan_outs, channels, |run| run.iter().map(|value| f64::from(*value)).sum())
            }
            Numbers::F64(values) => runs(values, &fan_outs, channels, |run| run.iter().sum()),
        },
    })
}

/// Shows `f` the values, without a copy where they are contiguous on the CPU.
pub(crate) fn with_values<T>(tensor: &Tensor, f: impl FnOnce(Numbers<'_>) -> T) -> Result<T> {
    let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
    let tensor = if tensor.dtype() == DType::F64 { tensor } else { tensor.to_dtype(DType::F32)? };
    let (storage, layout) = tensor.storage_and_layout();
    let (start, len) = (layout.start_offset(), tensor.elem_count());
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => Ok(f(Numbers::F32(&values[start..start + len]))),
        Storage::Cpu(CpuStorage::F64(values)) => Ok(f(Numbers::F64(&values[start..start + len]))),
        _ => Err(candle_core::Error::Msg("a tensor was copied to the CPU and is not there".into()).into()),
    }
}

/// How many spikes of `v_threshold` a count of 1 is: 1, unless somebody announces the same spikes in smaller ones.
pub(crate) fn spikes_per_count(packed: &PackedSpikes<'_>, v_threshold: f64) -> Result<u64> {
    let spikes = (packed.amplitude / v_threshold).abs();
    // Written so that a value that is no number is refused. A count has 7 bits.
    if !((spikes - spikes.round()).abs() <= TOLERANCE && spikes <= f64::from(MAX_SPIKE >> 7)) {
        return Err(Error::NotSpikes { v_threshold, value: packed.amplitude });
    }
    Ok(spikes.round() as u64)
}

/// A synapse, ready for rows.
struct Plan {
    /// Values that have the same place in the sums: positions of a map, or features.
    positions: usize,
    /// Connections that leave a position; one entry if all positions have equally many.
    fan_outs: Vec<u64>,
    /// The same without weights of 0, for each value of a row too; absent if no weight is 0.
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

    /// The plan of rows that have channels innermost.
    fn channels_last(self, form: Form, [h, w, c]: [usize; 3]) -> Self {
        let positions = match form {
            Form::Maps | Form::Vector => h * w,
            // A token is a row, of channels alone.
            Form::Tokens => 1,
        };
        let interleaved = |planes: Vec<u64>| (0..planes.len()).map(|i| planes[i % c * positions + i / c]).collect();
        Self { nonzero: self.nonzero.map(interleaved), ..self }
    }

    /// Counts a row that has channels innermost. `sum` tells the spikes and the active values among some.
    #[inline(always)]
    fn sums<V: Copy, E>(
        &self,
        values: &[V],
        sum: impl Fn(&[V]) -> Result<(u64, u64), E>,
        is_active: impl Fn(V) -> bool,
    ) -> Result<Tally, E> {
        let mut tally = Tally::default();
        let run = values.len() / self.fan_outs.len();
        for (run, fan_out) in values.chunks_exact(run).zip(&self.fan_outs) {
            let (spikes, active) = sum(run)?;
            tally += Tally { spikes, active, sops: spikes * fan_out, effective: active * fan_out };
        }
        if let Some(nonzero) = &self.nonzero {
            let reached = |(&value, &fan_out): (&V, &u64)| if is_active(value) { fan_out } else { 0 };
            tally.effective = values.iter().zip(nonzero).map(reached).sum();
        }
        Ok(tally)
    }

    /// Counts a row of numbers that has channels innermost.
    fn runs<R: Number>(&self, values: &[R], v_threshold: Option<f64>) -> Result<Tally> {
        let scale = R::of(v_threshold.map_or(0., |theta| 1. / theta));
        let sum = |run: &[R]| {
            let (mut spikes, mut active) = (0, 0);
            for run in run.chunks(MAX_CHANNELS) {
                let of_run = match v_threshold {
                    Some(theta) => R::sum_spikes(run, scale).ok_or_else(|| not_spikes(run, theta))?,
                    None => (0, run.iter().map(|value| u32::from(!value.is_zero())).sum()),
                };
                spikes += u64::from(of_run.0);
                active += u64::from(of_run.1);
            }
            Ok((spikes, active))
        };
        self.sums(values, sum, |value| !value.is_zero())
    }

    /// Counts a row of numbers that is one plane after the other.
    fn planes<R: Number>(&self, values: &[R], v_threshold: Option<f64>) -> Result<Tally> {
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

/// A row of packed spikes, `per_count` spikes for each that a byte counts.
struct PackedRow<'a> {
    plan: &'a Plan,
    bytes: &'a [u8],
    per_count: u64,
    tally: &'a mut Tally,
}

impl Kernel for PackedRow<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { plan, bytes, per_count, tally } = self;
        let sum = |run: &[u8]| {
            let (mut spikes, mut active) = (0, 0);
            for run in run.chunks(MAX_BYTES) {
                let (mut sum, mut n) = (0u32, 0u32);
                for &byte in run {
                    let count = PackedSpikes::count(byte);
                    sum += u32::from(count);
                    n += u32::from(count != 0);
                }
                spikes += u64::from(sum);
                active += u64::from(n);
            }
            Ok((spikes * per_count, active))
        };
        // Bytes are spikes, whatever they are.
        let Ok(counted) = plan.sums::<_, Infallible>(bytes, sum, |byte| PackedSpikes::count(byte) != 0);
        *tally = counted;
    }
}

/// Spikes and values other than 0 of each position, over channels.
struct Sums {
    spikes: Vec<u32>,
    active: Vec<u32>,
}

/// Channels whose sums fit 32 bits: 2¹¹ · 2²⁰ < 2³².
const MAX_CHANNELS: usize = 1 << 11;
/// Bytes whose counts fit 32 bits: 2¹⁶ · 2⁷ < 2³².
const MAX_BYTES: usize = 1 << 16;
/// f32 thresholds such as 2/3 do not divide exactly; anything further off is not a spike.
pub(crate) const TOLERANCE: f64 = 1e-3;

fn not_spikes<R: Number>(values: &[R], v_threshold: f64) -> Error {
    let is_off = |value: &f64| {
        let spikes = (value / v_threshold).abs();
        !((spikes - spikes.round()).abs() <= TOLERANCE && spikes <= f64::from(MAX_SPIKE))
    };
    let value = values.iter().map(|value| value.to_f64()).find(is_off).unwrap_or(f64::NAN);
    Error::NotSpikes { v_threshold, value }
}

/// f32 and f64, rounded by adding and subtracting a number whose last bit is worth 1: that needs no function call, so
/// that the loops become vector instructions on any machine.
trait Number: Copy + Send + Sync {
    fn of(value: f64) -> Self;
    fn to_f64(self) -> f64;
    fn is_zero(self) -> bool;

    /// |value · scale|, rounded, and whether that was a whole number.
    fn spikes(self, scale: Self) -> (u32, bool);

    /// Adds the spikes of each position. Returns how many values are no whole number.
    fn add_spikes(channel: &[Self], scale: Self, sums: &mut Sums) -> u32 {
        let mut bad = 0;
        for ((value, spikes), active) in channel.iter().zip(&mut sums.spikes).zip(&mut sums.active) {
            let (count, is_whole) = value.spikes(scale);
            bad += u32::from(!is_whole);
            // A bad value ends the count, so its sum does not matter.
            *spikes = spikes.wrapping_add(count);
            *active += u32::from(count != 0);
        }
        bad
    }

    /// Adds 1 for each value other than 0.
    fn add_active(channel: &[Self], active: &mut [u32]) {
        for (value, active) in channel.iter().zip(active) {
            *active += u32::from(!value.is_zero());
        }
    }

    /// All spikes, and how many values have some; nothing if a value is no whole number.
    fn sum_spikes(values: &[Self], scale: Self) -> Option<(u32, u32)> {
        let (mut sum, mut active, mut bad) = (0u32, 0, 0);
        for value in values {
            let (count, is_whole) = value.spikes(scale);
            bad += u32::from(!is_whole);
            sum = sum.wrapping_add(count);
            active += u32::from(count != 0);
        }
        (bad == 0).then_some((sum, active))
    }
}

macro_rules! number {
    ($float:ty, $magic:expr) => {
        impl Number for $float {
            fn of(value: f64) -> Self {
                value as $float
            }

            fn to_f64(self) -> f64 {
                self.into()
            }

            #[inline(always)]
            fn is_zero(self) -> bool {
                self == 0.
            }

            #[inline(always)]
            fn spikes(self, scale: Self) -> (u32, bool) {
                const MAGIC: $float = $magic;
                let exact = (self * scale).abs();
                let shifted = exact + MAGIC;
                let off = (exact - (shifted - MAGIC)).abs();
                // Written so that a value that is no number is no whole one.
                let is_whole = off <= TOLERANCE as $float && exact <= MAX_SPIKE as $float;
                (shifted.to_bits().wrapping_sub(MAGIC.to_bits()) as u32, is_whole)
            }
        }
    };
}

// 1.5 · 2²³ and 1.5 · 2⁵²: of the numbers around them every one is whole.
number!(f32, 12_582_912.);
number!(f64, 6_755_399_441_055_744.);
