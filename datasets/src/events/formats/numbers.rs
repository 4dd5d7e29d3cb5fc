//! Numbers as files hold them.

use half::f16;

/// A type of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) is_float: bool,
    pub(super) is_signed: bool,
    /// Bytes of a number: 1, 2, 4 or 8, of a float 2, 4 or 8.
    pub(super) width: usize,
    /// Whether the highest byte is the first.
    pub(super) is_big: bool,
}

impl Kind {
    /// The numbers in a row; integers beyond 2^53 lose their last digits.
    pub(super) fn numbers(self, bytes: &[u8]) -> Vec<f64> {
        let unused = 64 - 8 * self.width as u32;
        let number = |element: &[u8]| {
            let mut word = [0; 8];
            for (i, byte) in element.iter().enumerate() {
                word[if self.is_big { self.width - 1 - i } else { i }] = *byte;
            }
            let bits = u64::from_le_bytes(word);
            match (self.is_float, self.width) {
                (true, 2) => f16::from_bits(bits as u16).to_f64(),
                (true, 4) => f64::from(f32::from_bits(bits as u32)),
                (true, _) => f64::from_bits(bits),
                // The sign is brought to the top and back.
                _ if self.is_signed => ((bits << unused) as i64 >> unused) as f64,
                _ => bits as f64,
            }
        };
        bytes.chunks_exact(self.width).map(number).collect()
    }
}

/// Seconds to the nearest microsecond.
pub(super) fn microseconds(seconds: f64) -> Result<i64, String> {
    let time = seconds * 1e6;
    // 285 years.
    let is_time = time.is_finite() && time.abs() <= (1i64 << 53) as f64;
    is_time.then_some(time.round() as i64).ok_or_else(|| format!("has an event at {time} microseconds"))
}
