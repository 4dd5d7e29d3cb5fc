//! The connections of a synapse, counted: how many leave each position of its input.
//!
//! Plain arithmetic on sizes, without a tensor: the figures of a paper can be checked here with a pencil.

use lmht_nn::{SynapseEvent, SynapseKind};

use crate::{Error, Result};

/// A synapse's sizes. A linear layer is a 1x1 convolution of a map of one position.
///
/// ```
/// use lmht_bench::Connections;
///
/// // 3x3, padding 1, on 4x4: along an axis the positions are seen by 2, 3, 3, 2 outputs, 10 in all.
/// let conv = Connections { c_in: 2, c_out: 5, kernel: 3, stride: 1, padding: 1, groups: 1, h: 4, w: 4 };
/// assert_eq!(conv.dense(), 100 * 2 * 5);
/// assert_eq!(conv.dense_padded(), 144 * 2 * 5);
/// assert_eq!((conv.fan_out(0, 0), conv.fan_out(0, 1), conv.fan_out(1, 1)), (4 * 5, 6 * 5, 9 * 5));
/// // In two groups a channel reaches half of the outputs.
/// assert_eq!(Connections { c_out: 4, groups: 2, ..conv }.fan_out(1, 1), 9 * 2);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// Input channels, or features.
    pub c_in: usize,
    /// Output channels, or features.
    pub c_out: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Stride in both directions.
    pub stride: usize,
    /// Zero padding on every side. It has no synapse.
    pub padding: usize,
    /// Groups of channels that do not see each other; a divisor of both channel numbers.
    pub groups: usize,
    /// Height of the input.
    pub h: usize,
    /// Width of the input.
    pub w: usize,
}

impl Connections {
    /// A fully connected layer.
    pub fn linear(f_in: usize, f_out: usize) -> Self {
        Self { c_in: f_in, c_out: f_out, kernel: 1, stride: 1, padding: 0, groups: 1, h: 1, w: 1 }
    }

    /// The connections of a synapse that a pass shows.
    ///
    /// # Errors
    /// If input and weight do not fit the kind; the message names the synapse.
    pub fn of(event: &SynapseEvent<'_>) -> Result<Self> {
        let (input, weight) = (&event.input.dims()[..], event.weight.dims());
        Ok(match (event.kind, input, weight) {
            (SynapseKind::Linear { f_out }, [.., f_in], [rows, columns]) if rows == &f_out && columns == f_in => {
                Self::linear(*f_in, f_out)
            }
            (
                SynapseKind::Conv2d { c_out, kernel, stride, padding, groups },
                &[_, c_in, h, w],
                &[weight_out, weight_in, k_h, k_w],
            ) if weight_out == c_out
                && [k_h, k_w] == [kernel; 2]
                && stride > 0
                && weight_in > 0
                && c_in == weight_in * groups
                && c_out.is_multiple_of(groups)
                && kernel <= h.min(w) + 2 * padding =>
            {
                Self { c_in, c_out, kernel, stride, padding, groups, h, w }
            }
            _ => {
                return Err(Error::Shape(format!(
                    "{}: expected an input and a weight that fit {:?}, got {input:?} and {weight:?}",
                    event.name, event.kind
                )));
            }
        })
    }

    /// Values of one input.
    pub fn n_inputs(&self) -> u64 {
        (self.c_in * self.h * self.w) as u64
    }

    /// Values of one output.
    pub fn n_outputs(&self) -> u64 {
        (self.c_out * self.out_side(self.h) * self.out_side(self.w)) as u64
    }

    /// Weights, without the bias.
    pub fn n_weights(&self) -> u64 {
        (self.c_out * (self.c_in / self.groups) * self.kernel * self.kernel) as u64
    }

    /// Connections of one input with one output: what a dense layer multiplies once for an image and a timestep.
    pub fn dense(&self) -> u64 {
        let sum = |size| self.taps(size).sum::<u64>();
        sum(self.h) * sum(self.w) * (self.c_in * self.c_out / self.groups) as u64
    }

    /// The same as papers write it, k² · C_in · C_out / groups · H_out · W_out: with the multiplications by padding.
    pub fn dense_padded(&self) -> u64 {
        self.n_weights() * (self.out_side(self.h) * self.out_side(self.w)) as u64
    }

    /// Connections that leave the position (y, x) of one channel.
    ///
    /// ```
    /// assert_eq!(lmht_bench::Connections::linear(300, 7).fan_out(0, 0), 7);
    /// ```
    pub fn fan_out(&self, y: usize, x: usize) -> u64 {
        self.taps_of(y, self.h) * self.taps_of(x, self.w) * (self.c_out / self.groups) as u64
    }

    /// [`Connections::fan_out`] of each position, row by row.
    pub(crate) fn fan_outs(&self) -> Vec<u64> {
        let columns: Vec<u64> = self.taps(self.w).collect();
        let per_tap = (self.c_out / self.groups) as u64;
        self.taps(self.h).flat_map(|row| columns.iter().map(move |column| row * column * per_tap)).collect()
    }

    /// Connections with a weight other than 0 that leave each position of each channel, `[c_in, h, w]`; nothing if no
    /// weight is 0. `is_zero` says so of each weight, `[c_out, c_in / groups, k, k]`.
    pub(crate) fn nonzero_fan_outs(&self, is_zero: &[bool]) -> Option<Vec<u64>> {
        if !is_zero.contains(&true) {
            return None;
        }
        let (k, channels) = (self.kernel, self.c_in / self.groups);
        let outputs = self.c_out / self.groups;
        // For each channel and tap the outputs that a weight connects.
        let mut connected = vec![0u64; self.c_in * k * k];
        for (i, _) in is_zero.iter().enumerate().filter(|(_, is_zero)| !**is_zero) {
            let (tap, channel, output) = (i % (k * k), i / (k * k) % channels, i / (k * k * channels));
            connected[(output / outputs * channels + channel) * k * k + tap] += 1;
        }
        let taps = |position: usize, size: usize| {
            (0..k).filter(move |&tap| {
                let at = position + self.padding;
                at >= tap && (at - tap).is_multiple_of(self.stride) && (at - tap) / self.stride < self.out_side(size)
            })
        };
        let mut fan_outs = Vec::with_capacity(self.c_in * self.h * self.w);
        for of_channel in connected.chunks_exact(k * k) {
            for y in 0..self.h {
                for x in 0..self.w {
                    let columns = || taps(x, self.w);
                    let sum = taps(y, self.h).flat_map(|row| columns().map(move |column| of_channel[row * k + column]));
                    fan_outs.push(sum.sum());
                }
            }
        }
        Some(fan_outs)
    }

    /// Positions of the output along an axis of `size` positions.
    pub(crate) fn out_side(&self, size: usize) -> usize {
        (size + 2 * self.padding).saturating_sub(self.kernel) / self.stride + 1
    }

    /// For each position of an axis the number of output positions that look at it.
    fn taps(&self, size: usize) -> impl Iterator<Item = u64> + '_ {
        (0..size).map(move |position| self.taps_of(position, size))
    }

    fn taps_of(&self, position: usize, size: usize) -> u64 {
        // Output o looks at o·stride - padding up to kernel - 1 beyond: these o are a range.
        let at = position + self.padding;
        let first = (at + 1).saturating_sub(self.kernel).div_ceil(self.stride);
        let last = (at / self.stride).min(self.out_side(size) - 1);
        (last + 1).saturating_sub(first) as u64
    }
}
