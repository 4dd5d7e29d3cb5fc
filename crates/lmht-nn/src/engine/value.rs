//! What the engine keeps of a layer: numbers, or a byte a spike.

use lmht_core::IN_GATE;
use lmht_kernels::{Counts, Images, Maps, count, share};
use rayon::prelude::*;

use crate::ops::storage::Element;
use crate::signal::TimeBroadcast;

/// Bytes turned into numbers by one task.
const CHUNK: usize = 1 << 16;

/// Spikes, a byte a unit: s in the low bits, and [`IN_GATE`] where the gradient of the unit is wanted.
#[derive(Debug)]
pub(super) struct Packed {
    /// `[rows, h, w, c]`.
    pub(super) bytes: Vec<u8>,
    /// What one spike counts for: θ, or a part of it after average pooling.
    pub(super) amplitude: f64,
    /// The largest possible count.
    pub(super) most: u32,
    /// Whether the top bits say all about where a gradient is wanted; otherwise it is wanted everywhere.
    pub(super) has_gate: bool,
    /// Spikes a unit.
    pub(super) spikes: f64,
    /// Share of units with the top bit.
    pub(super) wanted: f64,
    /// Share of units whose count is not that of the timestep before, or at the first timestep not 0.
    pub(super) changes: f64,
}

impl Packed {
    /// With bytes of so many timesteps.
    pub(super) fn new(bytes: Vec<u8>, timesteps: usize, amplitude: f64, most: u32, has_gate: bool) -> Self {
        let counts = count(&bytes, Images::all(timesteps, 1).stretches(bytes.len() / timesteps));
        Self::counted(bytes, counts, amplitude, most, has_gate)
    }

    /// With what [`lmht_kernels::tally`] says of all bytes.
    pub(super) fn counted(bytes: Vec<u8>, counts: Counts, amplitude: f64, most: u32, has_gate: bool) -> Self {
        let share = |n| share(n, bytes.len());
        let (spikes, wanted, changes) = (share(counts.spikes), share(counts.wanted), share(counts.changes));
        Self { bytes, amplitude, most, has_gate, spikes, wanted, changes }
    }

    /// The numbers that the bytes stand for.
    pub(super) fn to_real<T: Element>(&self) -> Vec<T> {
        let table: Vec<T> = (0..=IN_GATE - 1).map(|s| T::of(f64::from(s)) * T::of(self.amplitude)).collect();
        self.bytes.par_iter().with_min_len(CHUNK).map(|byte| table[usize::from(byte & !IN_GATE)]).collect()
    }
}

/// The value of a step.
#[derive(Debug)]
pub(super) enum Value<T> {
    /// Nobody reads it any more, or nobody has computed it yet.
    Empty,
    /// `[rows, h, w, c]`.
    Real(Vec<T>),
    Packed(Packed),
    /// To be added up by its reader.
    Deferred(Vec<Term>),
}

impl<T> Value<T> {
    /// The maps that a synapse reads, if they are written down.
    pub(super) fn maps(&self) -> Option<Maps<'_, T>> {
        match self {
            Self::Real(xs) => Some(Maps::Numbers(xs)),
            Self::Packed(packed) => {
                Some(Maps::Spikes { bytes: &packed.bytes, amplitude: packed.amplitude, changes: packed.changes })
            }
            Self::Empty | Self::Deferred(_) => None,
        }
    }
}

/// A part of a current.
#[derive(Debug, Clone, Copy)]
pub(super) struct Term {
    pub(super) source: TermSource,
    pub(super) factor: f64,
    pub(super) broadcast: Option<TimeBroadcast>,
}

/// Where the numbers of a term are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TermSource {
    /// The normalised output of the synapse before this step.
    Norm(usize),
    /// The value of this step.
    Value(usize),
}

/// A batch norm at work: (y − mean) · slope + offset on what the synapse gave.
#[derive(Debug, Clone)]
pub(super) struct Norm<T> {
    /// What the synapse gave, without its bias: `[rows, h, w, c]`. Empty while it can be computed again.
    pub(super) ys: Vec<T>,
    pub(super) mean: Vec<f64>,
    pub(super) rstd: Vec<f64>,
    pub(super) affine: ChannelAffine<T>,
    /// Whether mean and variance are those of the values, so that gradients pass through them.
    pub(super) is_of_batch: bool,
    /// Σ g and Σ g (y − mean), once the neuron after it has been gone back through.
    pub(super) sums: Option<(Vec<f64>, Vec<f64>)>,
}

/// Per channel the numbers of (y − mean) · slope + offset.
#[derive(Debug, Clone)]
pub(super) struct ChannelAffine<T> {
    pub(super) mean: Vec<T>,
    pub(super) slope: Vec<T>,
    pub(super) offset: Vec<T>,
}

impl<T: Element> ChannelAffine<T> {
    /// From mean, slope and offset of a channel.
    pub(super) fn new(mean: &[f64], line: impl Fn(usize) -> (f64, f64)) -> Self {
        let mut lines = Self { mean: vec![], slope: vec![], offset: vec![] };
        for (c, &exact) in mean.iter().enumerate() {
            let (slope, offset) = line(c);
            let mean = T::of(exact);
            lines.mean.push(mean);
            lines.slope.push(T::of(slope));
            // What rounding took from the mean goes into the offset.
            lines.offset.push(T::of(offset - (exact - mean.wide()) * slope));
        }
        lines
    }

    /// The same with a factor on the result.
    pub(super) fn scaled(&self, factor: f64) -> Self {
        let scale = |values: &[T]| values.iter().map(|&x| T::of(x.wide() * factor)).collect();
        Self { mean: self.mean.clone(), slope: scale(&self.slope), offset: scale(&self.offset) }
    }
}
