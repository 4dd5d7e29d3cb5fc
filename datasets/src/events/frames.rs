//! [`Frames`]: counts of events, and by which rule events are divided among them.

use serde::{Deserialize, Serialize};

use super::Events;
use crate::error::{Error, Result};
use crate::resize::resize_f32;

/// By what a recording is divided into frames; SpikingJelly's `split_by`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitBy {
    /// Every frame has as many events, ⌊N / T⌋; what is left over goes to the last one.
    #[default]
    Number,
    /// Every frame lasts as long, ⌊span / T⌋ microseconds; what comes after goes to the last one.
    Time,
}

/// Counts of events, `[T, P, H, W]`: timesteps, polarities (off, on), rows, columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Frames {
    counts: Vec<f32>,
    dims: [usize; 4],
}

/// Numbers in the frames of a recording.
const MAX_COUNTS: usize = 1 << 28;

impl Events {
    /// Divides the events among `n` frames and counts them at each pixel, each polarity by itself.
    ///
    /// # Shapes
    /// - output `[T, P, H, W]` for T = `n` and the sensor's P, H, W
    ///
    /// # Errors
    /// [`Error::Config`] if there is no event or no frame, or the frames would have more than 2^28 numbers.
    pub fn frames(&self, n: usize, by: SplitBy) -> Result<Frames> {
        let (h, w) = self.sensor;
        let dims = [n, self.n_polarities, h, w];
        let size =
            dims.iter().try_fold(1usize, |size, side| size.checked_mul(*side)).filter(|size| *size <= MAX_COUNTS);
        let size = size.filter(|size| *size > 0).ok_or_else(|| {
            Error::Config(format!("expected at least one frame, and at most {MAX_COUNTS} numbers, found {dims:?}"))
        })?;
        if self.is_empty() {
            return Err(Error::Config("expected at least one event to make frames of, found none".to_owned()));
        }
        let mut counts = vec![0f32; size];
        for (frame, counts) in counts.chunks_exact_mut(size / n).enumerate() {
            let (start, end) = self.part(frame, n, by);
            for i in start..end {
                let plane = usize::from(self.p[i]) * h * w;
                counts[plane + usize::from(self.y[i]) * w + usize::from(self.x[i])] += 1.0;
            }
        }
        Ok(Frames { counts, dims })
    }

    /// Which events belong to frame `index` of `n`.
    fn part(&self, index: usize, n: usize, by: SplitBy) -> (usize, usize) {
        let n_events = self.t.len();
        let (start, end) = match by {
            SplitBy::Number => (n_events / n * index, n_events / n * (index + 1)),
            SplitBy::Time => {
                let (first, lasts) = (self.t[0], self.span() / n as i64);
                let place = |i: usize| self.t.partition_point(|t| t.saturating_sub(first) < lasts * i as i64);
                (place(index), place(index + 1))
            }
        };
        (start, if index + 1 == n { n_events } else { end })
    }
}

impl Frames {
    /// Counts that are in memory already.
    ///
    /// # Shapes
    /// - `counts` `[T, P, H, W]` for `dims` = [T, P, H, W]
    ///
    /// # Errors
    /// [`Error::Config`] if they do not fit together or are none.
    pub fn new(counts: Vec<f32>, dims: [usize; 4]) -> Result<Self> {
        let size = dims.iter().try_fold(1usize, |size, side| size.checked_mul(*side));
        if size != Some(counts.len()) || counts.is_empty() {
            return Err(Error::Config(format!(
                "expected counts of shape {dims:?}, at least one, found {}",
                counts.len()
            )));
        }
        Ok(Self { counts, dims })
    }

    /// `[T, P, H, W]`, flattened.
    pub fn counts(&self) -> &[f32] {
        &self.counts
    }

    /// [T, P, H, W].
    pub fn dims(&self) -> [usize; 4] {
        self.dims
    }

    /// Brought to (height, width) by antialiased bilinear interpolation: torchvision's `Resize` of a tensor.
    pub fn resized(&self, size: (usize, usize)) -> Self {
        let [t, p, h, w] = self.dims;
        if (h, w) == size {
            return self.clone();
        }
        Self { counts: resize_f32(&self.counts, (h, w), size), dims: [t, p, size.0, size.1] }
    }

    /// The mean over time, `[1, P, H, W]`: a static image, what the published code shows the network. When things
    /// happened is lost.
    pub fn mean(&self) -> Self {
        let [t, p, h, w] = self.dims;
        let mut counts = vec![0f32; p * h * w];
        for frame in self.counts.chunks_exact(p * h * w) {
            counts.iter_mut().zip(frame).for_each(|(sum, count)| *sum += count / t as f32);
        }
        Self { counts, dims: [1, p, h, w] }
    }

    /// The bytes of a NumPy file (`.npy`), `float32`, `[T, P, H, W]`.
    pub fn to_npy(&self) -> Vec<u8> {
        let [t, p, h, w] = self.dims;
        let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({t}, {p}, {h}, {w}), }}");
        // Data begins at a multiple of 64 bytes, after a line end.
        let padding = 63 - (10 + text.len()) % 64;
        text.extend(std::iter::repeat_n(' ', padding));
        text.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.bytes());
        bytes.extend(self.counts.iter().flat_map(|count| count.to_le_bytes()));
        bytes
    }
}
