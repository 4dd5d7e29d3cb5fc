//! Numbers as sums of bf16.

/// Bits of a bf16 in the upper half of those of an f32.
const UPPER: u32 = 0xffff_0000;

/// Parts of a number.
pub(super) const PARTS: usize = 3;

/// Three numbers of 8 bits each that add up to `x`, as f32 whose lower half is zero.
#[inline(always)]
fn parts(x: f32) -> [u32; PARTS] {
    let first = x.to_bits() & UPPER;
    let rest = x - f32::from_bits(first);
    let second = rest.to_bits() & UPPER;
    let third = rest - f32::from_bits(second);
    [first, second, third.to_bits() & UPPER]
}

/// Two such numbers as a pair, `a` in the lower half.
#[inline(always)]
pub(super) fn pair(a: u32, b: u32) -> u32 {
    a >> 16 | b & UPPER
}

/// The parts of pairs of numbers: for each part 16 [pairs](pair).
#[inline(always)]
pub(super) fn pairs(even: &[f32; 16], odd: &[f32; 16]) -> [[u32; 16]; PARTS] {
    let mut pairs = [[0; 16]; PARTS];
    for column in 0..16 {
        let (even, odd) = (parts(even[column]), parts(odd[column]));
        for (part, pairs) in pairs.iter_mut().enumerate() {
            pairs[column] = pair(even[part], odd[part]);
        }
    }
    pairs
}

/// The spike count of a packed byte, as f32 whose lower half is zero.
#[inline(always)]
pub(super) fn count(byte: u8) -> u32 {
    ((i32::from(byte & 0x7f)) as f32).to_bits()
}

/// The upper half.
#[inline(always)]
pub(super) fn bf16(bits: u32) -> u16 {
    (bits >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up() {
        for i in 0..100_000_u32 {
            let x = f32::from_bits(0x2000_0000 + i.wrapping_mul(0x9e37_79b9) % 0x4000_0000);
            for x in [x, -x, 0.] {
                let parts = parts(x);
                assert!(parts.iter().all(|bits| bits & !UPPER == 0));
                let [a, b, c] = parts.map(|bits| f64::from(f32::from_bits(bits)));
                assert_eq!(a + b + c, f64::from(x));
            }
        }
    }

    #[test]
    fn counts_are_exact() {
        for byte in 0..=255_u8 {
            assert_eq!(f32::from_bits(u32::from(bf16(count(byte))) << 16), f32::from(byte & 0x7f));
        }
        assert_eq!(pair(1.5_f32.to_bits(), 2_f32.to_bits()), 0x4000_3fc0);
    }
}
