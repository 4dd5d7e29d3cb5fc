//! Finding the active units among the bytes, 8 and 64 at a time.

use rayon::prelude::*;

const COUNT: u8 = 0x7f;
pub(super) const WANTED: u8 = 0x80;

const fn splat(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// What makes a unit active.
#[derive(Debug, Clone, Copy)]
pub(super) enum Active {
    /// A count of at least this, 1..=127.
    Count(u8),
    /// The top bit.
    Wanted,
}

/// A bit for each of up to 64 bytes, the first lowest: whether it is active.
#[inline(always)]
pub(super) fn mask(bytes: &[u8], active: Active) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut mask = 0;
    for (i, word) in words.iter().enumerate() {
        mask |= word_mask(*word, active) << (8 * i);
    }
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        mask |= word_mask(word, active) << (8 * words.len());
    }
    mask
}

#[inline(always)]
fn word_mask(word: [u8; 8], active: Active) -> u64 {
    let word = u64::from_le_bytes(word);
    let top_bits = match active {
        // A count of at least j carries into the top bit when 128 - j is added, and never beyond.
        Active::Count(j) => (word & splat(COUNT)) + splat(WANTED - j),
        Active::Wanted => word,
    } & splat(WANTED);
    // Bit 8 i times 2^(56 - 7 i) is bit 56 + i; no two of the other products meet, so nothing carries into these.
    ((top_bits >> 7).wrapping_mul(0x0102_0408_1020_4080)) >> 56
}

/// A list that grows by the set bits of masks.
#[derive(Debug, Default)]
pub(super) struct List {
    /// The first `len` are the list; what follows is room.
    room: Vec<u32>,
    len: usize,
}

impl List {
    #[inline(always)]
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    pub(super) fn as_slice(&self) -> &[u32] {
        &self.room[..self.len]
    }

    /// Appends `first + i` for every set bit i.
    #[inline(always)]
    pub(super) fn push_bits(&mut self, first: u32, mut mask: u64) {
        if self.room.len() < self.len + 72 {
            self.grow();
        }
        let n = mask.count_ones() as usize;
        let Some(room) = self.room[self.len..].first_chunk_mut::<72>() else { return };
        // Eight at a time without asking whether there are eight: the branch would be a coin toss.
        for room in room.as_chunks_mut::<8>().0.iter_mut().take(n.div_ceil(8)) {
            for slot in room {
                *slot = first + mask.trailing_zeros();
                mask &= mask.wrapping_sub(1);
            }
        }
        self.len += n;
    }

    #[cold]
    fn grow(&mut self) {
        self.room.resize(2 * self.room.len() + 1024, 0);
    }

    /// Appends `first + c` once for every spike of unit c.
    #[inline(always)]
    pub(super) fn push_spikes(&mut self, first: u32, units: &[u8]) {
        for (first, units) in (first..).step_by(64).zip(units.chunks(64)) {
            let mut level = 1;
            let mut active = mask(units, Active::Count(level));
            loop {
                self.push_bits(first, active);
                if level == COUNT {
                    break;
                }
                level += 1;
                active = mask(units, Active::Count(level));
                if active == 0 {
                    break;
                }
            }
        }
    }

    /// Appends `first + c` for every unit c whose gradient is wanted.
    #[inline(always)]
    pub(super) fn push_wanted(&mut self, first: u32, units: &[u8]) {
        for (first, units) in (first..).step_by(64).zip(units.chunks(64)) {
            self.push_bits(first, mask(units, Active::Wanted));
        }
    }
}

/// The share of bytes with a nonzero count, and of those with the top bit; zeros for no bytes.
pub(crate) fn densities(spikes: &[u8]) -> (f64, f64) {
    let count = |bytes: &[u8]| -> (u64, u64) {
        bytes.chunks(255).fold((0, 0), |(active, wanted), bytes| {
            // At most 255: the sums of a chunk fit a byte, which keeps the vectors full.
            let a: u8 = bytes.iter().map(|b| u8::from(b & COUNT != 0)).sum();
            let w: u8 = bytes.iter().map(|b| b >> 7).sum();
            (active + u64::from(a), wanted + u64::from(w))
        })
    };
    let sums = spikes.par_chunks(1 << 16).map(count).reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    let n = spikes.len().max(1) as f64;
    (sums.0 as f64 / n, sums.1 as f64 / n)
}
