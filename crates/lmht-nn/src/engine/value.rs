//! What the engine keeps of a layer: numbers, or a byte a spike.

use std::ops::{Add, Range};

use lmht_core::IN_WINDOW;
use rayon::prelude::*;

use super::Number;
use super::program::Spread;
use lmht_kernels::{Images, Kernel, run_vectorized};

/// Bytes counted by one task.
const CHUNK: usize = 1 << 16;

/// Spikes, a byte a unit: s in the low bits, and [`IN_WINDOW`] where the gradient of the unit is wanted.
#[derive(Debug)]
pub(super) struct Packed {
    /// `[rows, h, w, c]`.
    pub(super) bytes: Vec<u8>,
    /// What one spike counts for: θ, or a part of it after average pooling.
    pub(super) amplitude: f64,
    /// The largest possible count.
    pub(super) most: u32,
    /// Whether the top bits say all about where a gradient is wanted; otherwise it is wanted everywhere.
    pub(super) has_window: bool,
    /// Spikes a unit.
    pub(super) spikes: f64,
    /// Share of units with the top bit.
    pub(super) wanted: f64,
    /// Share of units whose count is not that of the timestep before, or at the first timestep not 0.
    pub(super) changes: f64,
}

impl Packed {
    /// With bytes of so many timesteps.
    pub(super) fn new(bytes: Vec<u8>, timesteps: usize, amplitude: f64, most: u32, has_window: bool) -> Self {
        let counts = count(&bytes, Images::all(timesteps, 1).stretches(bytes.len() / timesteps));
        Self::counted(bytes, counts, amplitude, most, has_window)
    }

    /// With what [`tally`] says of all bytes.
    pub(super) fn counted(bytes: Vec<u8>, counts: Counts, amplitude: f64, most: u32, has_window: bool) -> Self {
        let share = |n| share(n, bytes.len());
        let (spikes, wanted, changes) = (share(counts.spikes), share(counts.wanted), share(counts.changes));
        Self { bytes, amplitude, most, has_window, spikes, wanted, changes }
    }

    /// The numbers that the bytes stand for.
    pub(super) fn to_real<T: Number>(&self) -> Vec<T> {
        let table: Vec<T> = (0..=IN_WINDOW - 1).map(|s| T::of(f64::from(s)) * T::of(self.amplitude)).collect();
        self.bytes.par_iter().with_min_len(CHUNK).map(|byte| table[usize::from(byte & !IN_WINDOW)]).collect()
    }
}

/// What the choice of a kernel goes by.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    /// All counts added up.
    spikes: usize,
    /// Units with the top bit.
    wanted: usize,
    /// Units whose count is not that of the timestep before.
    pub(super) changes: usize,
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            spikes: self.spikes + other.spikes,
            wanted: self.wanted + other.wanted,
            changes: self.changes + other.changes,
        }
    }
}

/// The counts of the units in these stretches of bytes, which are one timestep after the other.
pub(super) fn count(bytes: &[u8], timesteps: impl Iterator<Item = Range<usize>>) -> Counts {
    let mut counts = Counts::default();
    let mut before: Option<&[u8]> = None;
    for range in timesteps {
        let units = &bytes[range];
        let chunks = units
            .par_chunks(CHUNK)
            .enumerate()
            .map(|(i, units)| tally(units, before.map(|before| &before[i * CHUNK..][..units.len()])));
        counts = counts + chunks.reduce(Counts::default, Add::add);
        before = Some(units);
    }
    counts
}

/// The counts of some units, of which the timestep before is known or which are those of the first.
pub(super) fn tally(bytes: &[u8], before: Option<&[u8]>) -> Counts {
    let mut counts = Counts::default();
    run_vectorized(Tally { bytes, before, counts: &mut counts });
    counts
}

struct Tally<'a> {
    bytes: &'a [u8],
    before: Option<&'a [u8]>,
    counts: &'a mut Counts,
}

impl Kernel for Tally<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { bytes, before, counts } = self;
        for (i, bytes) in bytes.chunks(RUN).enumerate() {
            let run = match before {
                None => add_up(bytes.iter().map(|&byte| (byte, 0))),
                Some(before) => add_up(bytes.iter().copied().zip(before[i * RUN..].iter().copied())),
            };
            *counts = *counts + run;
        }
    }
}

/// So many counts fit 32 bits, which vectors add up.
const RUN: usize = 1 << 16;

/// Of units with what they were before.
#[inline(always)]
fn add_up(units: impl Iterator<Item = (u8, u8)>) -> Counts {
    let (mut spikes, mut wanted, mut changes) = (0_u32, 0_u32, 0_u32);
    for (byte, before) in units {
        spikes += u32::from(byte & !IN_WINDOW);
        wanted += u32::from(byte >> 7);
        changes += u32::from((byte ^ before) & !IN_WINDOW != 0);
    }
    Counts { spikes: spikes as usize, wanted: wanted as usize, changes: changes as usize }
}

pub(super) fn share(n: usize, of: usize) -> f64 {
    n as f64 / of.max(1) as f64
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
    Lazy(Vec<Term>),
}

/// A part of a current.
#[derive(Debug, Clone, Copy)]
pub(super) struct Term {
    pub(super) source: TermSource,
    pub(super) factor: f64,
    pub(super) spread: Option<Spread>,
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
    pub(super) line: Line<T>,
    /// Σ g and Σ g (y − mean), once the neuron after it has been gone back through.
    pub(super) sums: Option<(Vec<f64>, Vec<f64>)>,
}

/// Per channel the numbers of (y − mean) · slope + offset.
#[derive(Debug, Clone)]
pub(super) struct Line<T> {
    pub(super) mean: Vec<T>,
    pub(super) slope: Vec<T>,
    pub(super) offset: Vec<T>,
}

impl<T: Number> Line<T> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Across the borders of tasks and of the runs of a task.
    #[test]
    fn counts_are_those_of_a_loop() {
        let (timesteps, all, map) = (3, 4, 20_000);
        let bytes: Vec<u8> = (0..timesteps * all * map).map(|i| ((i * i) >> 7) as u8 & 0x83).collect();
        for range in [0..4, 1..3, 2..2] {
            let images = Images { range: range.clone(), ..Images::all(timesteps, all) };
            let mut expected = (0, 0, 0);
            for (i, byte) in bytes.iter().enumerate().filter(|(i, _)| range.contains(&(i / map % all))) {
                let before = i.checked_sub(all * map).map_or(0, |i| bytes[i]);
                expected.0 += usize::from(byte & 0x7f);
                expected.1 += usize::from(byte >> 7);
                expected.2 += usize::from(byte & 0x7f != before & 0x7f);
            }
            let counts = count(&bytes, images.stretches(map));
            assert_eq!((counts.spikes, counts.wanted, counts.changes), expected, "{range:?}");
        }
    }
}
