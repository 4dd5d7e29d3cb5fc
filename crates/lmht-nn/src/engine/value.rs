//! What the engine keeps of a layer: numbers, or a byte a spike.

use lmht_core::IN_WINDOW;
use rayon::prelude::*;

use super::Number;
use super::program::Spread;
use crate::kernels::{Kernel, run_vectorized};

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
    pub(super) active: f64,
    /// Share of units with the top bit.
    pub(super) wanted: f64,
}

impl Packed {
    pub(super) fn new(bytes: Vec<u8>, amplitude: f64, most: u32, has_window: bool) -> Self {
        let counts = bytes.par_chunks(CHUNK).map(tally).reduce(|| (0, 0), add);
        Self::counted(bytes, counts, amplitude, most, has_window)
    }

    /// With what [`tally`] says of all bytes.
    pub(super) fn counted(
        bytes: Vec<u8>,
        (spikes, wanted): (usize, usize),
        amplitude: f64,
        most: u32,
        has_window: bool,
    ) -> Self {
        let (active, wanted) = (share(spikes, bytes.len()), share(wanted, bytes.len()));
        Self { bytes, amplitude, most, has_window, active, wanted }
    }

    /// The numbers that the bytes stand for.
    pub(super) fn to_real<T: Number>(&self) -> Vec<T> {
        let table: Vec<T> = (0..=IN_WINDOW - 1).map(|s| T::of(f64::from(s)) * T::of(self.amplitude)).collect();
        self.bytes.par_iter().with_min_len(CHUNK).map(|byte| table[usize::from(byte & !IN_WINDOW)]).collect()
    }
}

/// Spikes, and units with the top bit.
pub(super) fn tally(bytes: &[u8]) -> (usize, usize) {
    let mut counts = (0, 0);
    run_vectorized(Tally { bytes, counts: &mut counts });
    counts
}

struct Tally<'a> {
    bytes: &'a [u8],
    counts: &'a mut (usize, usize),
}

impl Kernel for Tally<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        // So many counts fit 32 bits, which vectors add up.
        for bytes in self.bytes.chunks(1 << 16) {
            let (mut spikes, mut wanted) = (0_u32, 0_u32);
            for &byte in bytes {
                spikes += u32::from(byte & !IN_WINDOW);
                wanted += u32::from(byte >> 7);
            }
            *self.counts = add(*self.counts, (spikes as usize, wanted as usize));
        }
    }
}

pub(super) fn add(a: (usize, usize), b: (usize, usize)) -> (usize, usize) {
    (a.0 + b.0, a.1 + b.1)
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
