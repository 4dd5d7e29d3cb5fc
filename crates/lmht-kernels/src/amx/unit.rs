//! The matrix unit: whether there is one, and the one thing it is asked for.

#![allow(unsafe_code)]

use super::SIDE;
use crate::number::Number;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use std::sync::OnceLock;

/// Numbers of a row of a tile: the products of a step.
pub(super) const DEPTH: usize = 32;
/// Rows of a tile.
pub(super) const ROWS: usize = 16;
/// Pairs of numbers in two tiles of the right side, `[2 tiles, DEPTH / 2, 16]`: number 2i and 2i + 1 of a column.
pub(super) const RIGHT: usize = DEPTH / 2 * SIDE;

/// `[SIDE, SIDE]` sums, on lines of the cache.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [[f32; SIDE]; SIDE]);

impl Sums {
    pub(super) const ZERO: Self = Self([[0.; SIDE]; SIDE]);
}

/// One step of a product: two tiles of the left side, times some pairs of tiles of the right side one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Step {
    /// Where the tiles of the left side begin, in bytes.
    left: [u32; 2],
    /// Where the first pair of the right side begins, in bytes.
    right: u32,
    /// How many pairs there are.
    parts: u32,
}

impl Step {
    /// From places in numbers (left) and in pairs of numbers (right).
    pub(super) fn new(left: [usize; 2], right: usize, parts: usize) -> Self {
        let bytes = |n: usize| u32::try_from(n).expect("a band of maps is below 4 GB");
        Self { left: left.map(|at| bytes(at * 2)), right: bytes(right * 4), parts: bytes(parts) }
    }
}

/// A proof that this processor has the unit and that the system lets us use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unit {
    /// In tests: the same in plain Rust, on any processor.
    is_emulated: bool,
}

impl Unit {
    /// The unit, if there is one and `T` is the type it computes in.
    pub(super) fn of<T: Number>() -> Option<Self> {
        T::singles(&[]).and_then(|_| Self::get())
    }

    /// The unit, if there is one.
    pub(super) fn get() -> Option<Self> {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        {
            static HAS_UNIT: OnceLock<bool> = OnceLock::new();
            let has_unit = *HAS_UNIT.get_or_init(|| has_instructions() && may_use());
            has_unit.then_some(Self { is_emulated: false })
        }
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        None
    }

    #[cfg(test)]
    pub(super) fn emulated() -> Self {
        Self { is_emulated: true }
    }

    /// Adds to `sums` for every step and part, with the left tiles one below the other,
    /// `Σ_k left[row, k] right[part, k, column]`.
    ///
    /// `left` are bf16, `pitch` numbers from row to row; `right` are pairs of bf16, the first in the lower half.
    ///
    /// # Panics
    ///
    /// If a step reaches beyond `left` or `right`.
    pub(super) fn multiply(self, steps: &[Step], left: &[u16], pitch: usize, right: &[u32], sums: &mut Sums) {
        let left_len = |at: u32| at as usize / 2 + (ROWS - 1) * pitch + DEPTH;
        let fits = |step: &Step| {
            step.parts > 0
                && left_len(step.left[0].max(step.left[1])) <= left.len()
                && step.right as usize / 4 + step.parts as usize * RIGHT <= right.len()
        };
        assert!(steps.iter().all(fits), "a step reaches beyond its operands");
        if steps.is_empty() {
            return;
        }
        if self.is_emulated {
            return emulate(steps, left, pitch, right, sums);
        }
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        run(steps, left, pitch, right, sums);
    }
}

/// What the unit does, without it.
fn emulate(steps: &[Step], left: &[u16], pitch: usize, right: &[u32], sums: &mut Sums) {
    let number = |bits: u32| f32::from_bits(bits << 16);
    for step in steps {
        for part in 0..step.parts as usize {
            let right = &right[step.right as usize / 4 + part * RIGHT..][..RIGHT];
            for (row, sums) in sums.0.iter_mut().enumerate() {
                let left = &left[step.left[row / ROWS] as usize / 2 + row % ROWS * pitch..][..DEPTH];
                for (column, sum) in sums.iter_mut().enumerate() {
                    for (i, left) in left.as_chunks::<2>().0.iter().enumerate() {
                        let pair = right[(column / 16 * DEPTH / 2 + i) * 16 + column % 16];
                        *sum += number(left[0].into()) * number(pair & 0xffff)
                            + number(left[1].into()) * number(pair >> 16);
                    }
                }
            }
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn has_instructions() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const BF16: u32 = 1 << 22;
    const TILES: u32 = 1 << 24;
    // SAFETY: every x86_64 processor has the instruction; newer compilers know that and call it safe.
    #[allow(unused_unsafe)]
    let features = unsafe { if __cpuid(0).eax < 7 { 0 } else { __cpuid_count(7, 0).edx } };
    features & (BF16 | TILES) == BF16 | TILES
}

/// Asks the system for the unit's registers, once for all threads. Linux wants that, since they are 8 kB for each thread.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn may_use() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and no memory. A system that does not know it says so.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

/// Shape of the registers: eight tiles of 16 rows of 64 bytes.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[repr(C, align(64))]
struct Palette([u8; 64]);

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
static PALETTE: Palette = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = ROWS as u8;
        tile += 1;
    }
    Palette(bytes)
};

/// [`Unit::multiply`] with steps that are not empty and have been checked.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn run(steps: &[Step], left: &[u16], pitch: usize, right: &[u32], sums: &mut Sums) {
    let steps = steps.as_ptr_range();
    // SAFETY: the caller holds a `Unit`, so the instructions exist and the system has allowed them. The block reads the
    // palette, the steps from the first to before the last (there is at least one), of the left side 16 rows of 64 bytes,
    // `2 * pitch` bytes apart, from either place of a step, of the right side 2 kB for each of its parts (at least one),
    // all of which `multiply` has checked against the slices, and it reads and writes the 4 kB of `sums`. Shapes are set
    // at the beginning and given up at the end, so no state is left behind; all eight tiles are declared as overwritten.
    unsafe {
        std::arch::asm!(
            "ldtilecfg [{place}]",
            "tileloadd tmm0, [{sums} + {line}*2]",
            "tileloadd tmm1, [{sums} + {line}*2 + 64]",
            "tileloadd tmm2, [{sums} + {line}*2 + 2048]",
            "tileloadd tmm3, [{sums} + {line}*2 + 2112]",
            "2:",
            "mov {number:e}, dword ptr [{step}]",
            "lea {place}, [{left} + {number}]",
            "tileloadd tmm4, [{place} + {pitch}*1]",
            "mov {number:e}, dword ptr [{step} + 4]",
            "lea {place}, [{left} + {number}]",
            "tileloadd tmm5, [{place} + {pitch}*1]",
            "mov {number:e}, dword ptr [{step} + 8]",
            "lea {place}, [{right} + {number}]",
            "mov {number:e}, dword ptr [{step} + 12]",
            "3:",
            "tileloadd tmm6, [{place} + {line}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloadd tmm7, [{place} + {line}*1 + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {place}, 2048",
            "dec {number:e}",
            "jnz 3b",
            "add {step}, 16",
            "cmp {step}, {end}",
            "jne 2b",
            "tilestored [{sums} + {line}*2], tmm0",
            "tilestored [{sums} + {line}*2 + 64], tmm1",
            "tilestored [{sums} + {line}*2 + 2048], tmm2",
            "tilestored [{sums} + {line}*2 + 2112], tmm3",
            "tilerelease",
            place = inout(reg) PALETTE.0.as_ptr() => _,
            step = inout(reg) steps.start => _,
            end = in(reg) steps.end,
            left = in(reg) left.as_ptr(),
            pitch = in(reg) 2 * pitch,
            right = in(reg) right.as_ptr(),
            sums = in(reg) sums.0.as_mut_ptr(),
            line = in(reg) 64_usize,
            number = out(reg) _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operands(left: &mut [u16], right: &mut [u32]) {
        let number = |i: usize| ((i * 37 % 19) as f32 - 9.).to_bits() >> 16;
        left.iter_mut().enumerate().for_each(|(i, x)| *x = number(i) as u16);
        right.iter_mut().enumerate().for_each(|(i, x)| *x = number(2 * i) | number(2 * i + 1) << 16);
    }

    /// Whole numbers this small leave nothing to round.
    #[test]
    fn the_unit_does_what_the_emulation_does() {
        let pitch = 40;
        let (mut left, mut right) = (vec![0; 40 * pitch], vec![0; 5 * RIGHT]);
        operands(&mut left, &mut right);
        let steps = [Step::new([0, 3], 0, 3), Step::new([16 * pitch, 7], 2 * RIGHT, 1), Step::new([1, 1], RIGHT, 4)];
        let mut expected = Sums([[1.; SIDE]; SIDE]);
        Unit::emulated().multiply(&steps, &left, pitch, &right, &mut expected);
        let row: f32 = (0..DEPTH).map(|k| f32::from_bits(u32::from(left[k]) << 16)).sum();
        assert!(row != 0. && expected.0[0][0] != 1.);
        if let Some(unit) = Unit::get() {
            let mut sums = Sums([[1.; SIDE]; SIDE]);
            unit.multiply(&steps, &left, pitch, &right, &mut sums);
            assert_eq!(sums.0, expected.0);
        }
    }

    #[test]
    #[should_panic(expected = "beyond its operands")]
    fn a_step_beyond_its_operands_is_refused() {
        let (left, right, mut sums) = (vec![0; 15 * 32 + 31], vec![0; RIGHT], Sums::ZERO);
        Unit::emulated().multiply(&[Step::new([0, 0], 0, 1)], &left, 32, &right, &mut sums);
    }

    /// Memory between two pages that nobody may touch: whoever reads or writes a byte too far ends the process.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn between_guards(bytes: usize) -> *mut u8 {
        const PAGE: usize = 4096;
        let inside = bytes.next_multiple_of(PAGE);
        // SAFETY: a new mapping of zeros, of which the pages in the middle become accessible. It stays until the process
        // ends, so the pointer to its last `bytes` accessible bytes stays valid.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let start = libc::mmap(std::ptr::null_mut(), inside + 2 * PAGE, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            let middle = start.cast::<u8>().add(PAGE);
            assert_eq!(libc::mprotect(middle.cast(), inside, libc::PROT_READ | libc::PROT_WRITE), 0);
            middle.add(inside - bytes)
        }
    }

    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    #[test]
    fn nothing_beyond_the_operands_is_touched() {
        let pitch = 48;
        let (n_left, n_right) = ((ROWS - 1) * pitch + DEPTH, 2 * RIGHT);
        // SAFETY: each is memory of that size for one slice alone, filled with zeros, aligned to its numbers: the sizes are
        // multiples of theirs and end at a page, and the sums fill a page.
        let (left, right, sums) = unsafe {
            (
                std::slice::from_raw_parts_mut(between_guards(2 * n_left).cast::<u16>(), n_left),
                std::slice::from_raw_parts_mut(between_guards(4 * n_right).cast::<u32>(), n_right),
                &mut *between_guards(size_of::<Sums>()).cast::<Sums>(),
            )
        };
        operands(left, right);
        let mut expected = Sums::ZERO;
        let steps = [Step::new([0, 0], RIGHT, 1), Step::new([0, 0], 0, 2)];
        Unit::emulated().multiply(&steps, left, pitch, right, &mut expected);
        Unit::get().unwrap_or(Unit::emulated()).multiply(&steps, left, pitch, right, sums);
        assert_eq!(sums.0, expected.0);
    }
}
