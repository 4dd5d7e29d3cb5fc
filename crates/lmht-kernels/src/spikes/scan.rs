//! Finding the active units among the bytes, 8 and 64 at a time.

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
    if let Some(bytes) = bytes.first_chunk::<64>() {
        // Byte j of word i becomes bit 8 j + i, in few steps for all; then rows and columns change places.
        let words = bytes.as_chunks::<8>().0.iter().zip(0..);
        return transpose_bytes(words.fold(0, |bits, (word, i)| bits | top_bits(*word, active) >> (7 - i)));
    }
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let mut mask = 0;
    for (word, i) in words.iter().chain((!rest.is_empty()).then_some(&last)).zip(0..) {
        mask |= transpose_bytes(top_bits(*word, active) >> 7) << (8 * i);
    }
    mask
}

/// The top bit of each byte: whether it is active.
#[inline(always)]
fn top_bits(word: [u8; 8], active: Active) -> u64 {
    let word = u64::from_le_bytes(word);
    splat(WANTED)
        & match active {
            // A count of at least j carries into the top bit when 128 - j is added, and never beyond.
            Active::Count(j) => (word & splat(COUNT)) + splat(WANTED - j),
            Active::Wanted => word,
        }
}

/// The transpose of 8 x 8 bits, a row in each byte.
#[inline(always)]
fn transpose_bytes(mut bits: u64) -> u64 {
    // Blocks of 1, 2 and 4 bits beside the diagonal change places with those across it.
    for (shift, upper) in [(7, 0x00aa_00aa_00aa_00aa), (14, 0x0000_cccc_0000_cccc), (28, 0x0000_0000_f0f0_f0f0)] {
        let swapped = (bits ^ (bits >> shift)) & upper;
        bits ^= swapped ^ (swapped << shift);
    }
    bits
}

/// The transpose of 64 x 64 bits: bit j of word i becomes bit i of word j.
#[inline(always)]
pub(super) fn transpose_bits(words: &mut [u64; 64]) {
    for (size, lower) in [
        (32, 0x0000_0000_ffff_ffff),
        (16, 0x0000_ffff_0000_ffff),
        (8, 0x00ff_00ff_00ff_00ff),
        (4, 0x0f0f_0f0f_0f0f_0f0f),
        (2, 0x3333_3333_3333_3333),
        (1, 0x5555_5555_5555_5555_u64),
    ] {
        for block in words.chunks_exact_mut(2 * size) {
            let (upper, under) = block.split_at_mut(size);
            for (a, b) in upper.iter_mut().zip(under) {
                let swapped = ((*a >> size) ^ *b) & lower;
                *b ^= swapped;
                *a ^= swapped << size;
            }
        }
    }
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
    pub(super) fn push_bits(&mut self, first: u32, mask: u64) {
        self.push_with(mask, |i| first + i);
    }

    /// Appends `numbers[i]` for every set bit i.
    #[inline(always)]
    pub(super) fn push_chosen(&mut self, numbers: &[u32; 64], mask: u64) {
        self.push_with(mask, |i| numbers[(i % 64) as usize]);
    }

    #[inline(always)]
    fn push_with(&mut self, mut mask: u64, number: impl Fn(u32) -> u32) {
        if self.room.len() < self.len + 72 {
            self.grow();
        }
        let n = mask.count_ones() as usize;
        let Some(room) = self.room[self.len..].first_chunk_mut::<72>() else { return };
        // Eight at a time without asking whether there are eight: the branch would be a coin toss.
        for room in room.as_chunks_mut::<8>().0.iter_mut().take(n.div_ceil(8)) {
            for slot in room {
                *slot = number(mask.trailing_zeros());
                mask &= mask.wrapping_sub(1);
            }
        }
        self.len += n;
    }

    #[cold]
    fn grow(&mut self) {
        self.room.resize(2 * self.room.len() + 1024, 0);
    }

    /// Appends `first + c` for every unit c with a count that is not 0.
    #[inline(always)]
    pub(super) fn push_active(&mut self, first: u32, units: &[u8]) {
        for (first, units) in (first..).step_by(64).zip(units.chunks(64)) {
            self.push_bits(first, mask(units, Active::Count(1)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_and_transposes() {
        let bytes: Vec<u8> = (0..64u32).map(|i| (i * 37 % 256) as u8).collect();
        for n in [0, 1, 7, 8, 63, 64] {
            for active in [Active::Count(1), Active::Count(3), Active::Count(127), Active::Wanted] {
                let bit = |i: usize| match active {
                    Active::Count(j) => bytes[i] & COUNT >= j,
                    Active::Wanted => bytes[i] & WANTED != 0,
                };
                let expected = (0..n).fold(0, |mask, i| mask | u64::from(bit(i)) << i);
                assert_eq!(mask(&bytes[..n], active), expected, "{n} bytes, {active:?}");
            }
        }
        let words: [u64; 64] = std::array::from_fn(|i| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut transposed = words;
        transpose_bits(&mut transposed);
        for (i, word) in words.iter().enumerate() {
            for (j, other) in transposed.iter().enumerate() {
                assert_eq!(word >> j & 1, other >> i & 1);
            }
        }
    }

    #[test]
    fn lists_name_active_and_wanted_units() {
        let mut list = List::default();
        list.push_active(100, &[0x80, 2, 0, 0x81]);
        list.push_wanted(0, &[0x80, 2, 0, 0x81]);
        assert_eq!(list.as_slice(), [101, 103, 0, 3]);
    }
}
