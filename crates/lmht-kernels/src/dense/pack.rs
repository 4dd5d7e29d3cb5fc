//! Weights in the order in which a correlation reads them.

use super::maps::transpose;
use crate::lines::Lines;
use crate::number::{Number, VectorKernel, Vectors};
use rayon::prelude::*;

/// Weights of a correlation, to be packed for every block of `L` outputs as `[taps, channels, L]`.
///
/// Packed all at once when many tasks read them; otherwise each task packs what it needs, when it needs it, and the packed
/// weights never leave the cache.
#[derive(Debug)]
pub(crate) struct Packing<'a, T> {
    weight: &'a [T],
    /// (number, step between them in `weight`); one step is that between kernels.
    outputs: (usize, usize),
    channels: (usize, usize),
    taps: Vec<usize>,
    /// The row of channel 0 for each tap of a kernel. Taps that the correlation has not go to rows behind the end.
    rows: Vec<usize>,
    /// All blocks, or nothing yet.
    packed: Vec<Lines<T>>,
    /// All blocks, if they were packed before; `weight` is not read then.
    before: &'a [Lines<T>],
}

impl<'a, T: Number> Packing<'a, T> {
    /// The taps `taps` of kernels of `kernel` taps each.
    pub(crate) fn new(
        weight: &'a [T],
        outputs: (usize, usize),
        channels: (usize, usize),
        kernel: usize,
        taps: Vec<usize>,
    ) -> Self {
        let mut rows = vec![taps.len() * channels.0; kernel];
        taps.iter().enumerate().for_each(|(i, &tap)| rows[tap] = i * channels.0);
        Self { weight, outputs, channels, taps, rows, packed: Vec::new(), before: &[] }
    }

    /// The same with `blocks`, which [`Packing::into_blocks`] has packed.
    pub(super) fn packed_before(self, blocks: &'a [Lines<T>]) -> Self {
        Self { before: blocks, ..self }
    }

    /// All blocks.
    pub(super) fn into_blocks(mut self) -> Vec<Lines<T>> {
        self.pack_all();
        self.packed
    }

    /// Packs all blocks.
    pub(super) fn pack_all(&mut self) {
        if !self.before.is_empty() {
            return;
        }
        let blocks = self.outputs.0.div_ceil(T::LANES);
        let pack = |block| {
            let mut packed = Lines::default();
            self.pack(block, &mut packed);
            packed
        };
        self.packed = (0..blocks).into_par_iter().map(pack).collect();
    }

    /// The weights of a block, packed to `room` if they are not yet.
    pub(crate) fn block<'b>(&'b self, block: usize, room: &'b mut Lines<T>) -> &'b [T] {
        if let Some(packed) = self.packed.get(block).or(self.before.get(block)) {
            return packed;
        }
        self.pack(block, room);
        room
    }

    fn pack(&self, block: usize, packed: &mut Lines<T>) {
        let n_rows = (self.taps.len() + usize::from(self.taps.len() < self.rows.len())) * self.channels.0;
        packed.resize(n_rows * T::LANES);
        let n_lanes = T::LANES.min(self.outputs.0 - block * T::LANES);
        if n_lanes < T::LANES {
            packed.fill(T::default());
        }
        T::run_with_vectors(PackBlock { packing: self, block, n_lanes, packed });
    }
}

/// The packing of one block of outputs.
struct PackBlock<'a, 'b, T> {
    packing: &'a Packing<'a, T>,
    block: usize,
    n_lanes: usize,
    packed: &'b mut [T],
}

impl<T: Number> VectorKernel<T> for PackBlock<'_, '_, T> {
    #[inline(always)]
    fn run<V: Vectors<T>>(self, vectors: V) {
        let Packing { weight, outputs: (_, output_step), channels: (n_channels, channel_step), rows, .. } =
            self.packing;
        let kernel = rows.len();
        let weight = &weight[self.block * T::LANES * output_step..];
        if *channel_step == kernel {
            // The taps of all channels of an output lie side by side. A few channels at a time, so that the lines of the
            // packed weights are still in the cache when their other half is written.
            let len = T::LANES * kernel;
            let places: Vec<usize> = (0..len).map(|i| (rows[i % kernel] + i / kernel) * T::LANES).collect();
            for first in (0..*n_channels).step_by(T::LANES) {
                let n = (self.n_lanes, (n_channels - first).min(T::LANES) * kernel);
                let place = |j: usize| places[j] + first * T::LANES;
                transpose(vectors, n, &weight[first * kernel..], |lane| lane * output_step, self.packed, place);
            }
        } else if kernel == 1 {
            for (c, row) in self.packed.chunks_exact_mut(T::LANES).enumerate() {
                row[..self.n_lanes].copy_from_slice(&weight[c * channel_step..][..self.n_lanes]);
            }
        } else {
            // The taps of all outputs of a channel lie side by side.
            for c in 0..*n_channels {
                let place = |tap: usize| (rows[tap] + c) * T::LANES;
                let weight = &weight[c * channel_step..];
                transpose(vectors, (self.n_lanes, kernel), weight, |lane| lane * output_step, self.packed, place);
            }
        }
    }
}
