//! How many units spike, change, and want a gradient: what the choice of a kernel goes by.

use std::ops::{Add, Range};

use rayon::prelude::*;

use crate::{IN_GATE, Kernel, run_vectorized};

/// Bytes counted by one task.
const CHUNK: usize = 1 << 16;

/// What the choice of a kernel goes by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All counts added up.
    pub spikes: usize,
    /// Units with the top bit.
    pub wanted: usize,
    /// Units whose count is not that of the timestep before, or at the first timestep not 0.
    pub changes: usize,
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
///
/// ```
/// use lmht_kernels::{Images, count};
///
/// // One image of three units at two timesteps. The second unit goes on spiking, the third wants a gradient.
/// let bytes = [0, 1, 0x80, 2, 1, 0];
/// let counts = count(&bytes, Images::all(2, 1).stretches(3));
/// assert_eq!((counts.spikes, counts.wanted, counts.changes), (4, 1, 2));
/// ```
pub fn count(bytes: &[u8], timesteps: impl Iterator<Item = Range<usize>>) -> Counts {
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

/// The counts of some units, of which the timestep before is known or which are those of the first. On one thread.
///
/// ```
/// let counts = lmht_kernels::tally(&[1, 2, 0], Some(&[1, 1, 0x80]));
/// assert_eq!((counts.spikes, counts.changes), (3, 1));
/// ```
pub fn tally(bytes: &[u8], before: Option<&[u8]>) -> Counts {
    let mut counts = Counts::default();
    run_vectorized(Tally { bytes, before, counts: &mut counts });
    counts
}

/// `n` out of `of`, as a fraction; of nothing 0.
///
/// ```
/// assert_eq!(lmht_kernels::share(1, 4), 0.25);
/// ```
pub fn share(n: usize, of: usize) -> f64 {
    n as f64 / of.max(1) as f64
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
        spikes += u32::from(byte & !IN_GATE);
        wanted += u32::from(byte >> 7);
        changes += u32::from((byte ^ before) & !IN_GATE != 0);
    }
    Counts { spikes: spikes as usize, wanted: wanted as usize, changes: changes as usize }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Images;

    /// Across the borders of tasks and of the runs of a task.
    #[test]
    fn counts_are_those_of_a_loop() {
        let (timesteps, all, map) = (3, 4, 20_000);
        let bytes: Vec<u8> = (0..timesteps * all * map).map(|i| ((i * i) >> 7) as u8 & 0x83).collect();
        for range in [0..4, 1..3, 2..2] {
            let images = Images { range: range.clone(), ..Images::all(timesteps, all) };
            let mut expected = Counts::default();
            for (i, byte) in bytes.iter().enumerate().filter(|(i, _)| range.contains(&(i / map % all))) {
                let before = i.checked_sub(all * map).map_or(0, |i| bytes[i]);
                expected.spikes += usize::from(byte & 0x7f);
                expected.wanted += usize::from(byte >> 7);
                expected.changes += usize::from(byte & 0x7f != before & 0x7f);
            }
            assert_eq!(count(&bytes, images.stretches(map)), expected, "{range:?}");
        }
    }
}
