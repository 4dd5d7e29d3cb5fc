//! Buffers of the host.

use half::{bf16, f16};

use crate::Dtype;

/// Bytes at a multiple of 16, where wide accesses may begin.
#[derive(Debug, Clone, Copy)]
#[repr(align(16))]
struct Chunk([u8; 16]);

/// Chunks before and behind the elements.
const GUARD: usize = 64;
/// As a float of any size large and not NaN, so that a kernel that reads it is off.
const CANARY: u8 = 0xfb;
/// As a float NaN.
const POISON: u8 = 0xff;

/// Elements in the memory of the host, between guards: what checks hand over and look at.
#[derive(Debug, Clone)]
pub struct HostBuffer {
    chunks: Vec<Chunk>,
    /// The byte where the elements begin.
    start: usize,
    len: usize,
    dtype: Dtype,
}

impl HostBuffer {
    /// Elements from numbers, rounded once.
    pub fn new(dtype: Dtype, values: &[f64]) -> Self {
        Self::at_offset(dtype, values, 0)
    }

    /// The same, `offset` bytes behind an address that is a multiple of 16, like a view into a larger buffer.
    pub fn at_offset(dtype: Dtype, values: &[f64], offset: usize) -> Self {
        let mut buffer = Self::filled(dtype, values.len(), offset);
        for (i, &value) in values.iter().enumerate() {
            match dtype {
                Dtype::F32 => buffer.put(i, &(value as f32).to_ne_bytes()),
                Dtype::F64 => buffer.put(i, &value.to_ne_bytes()),
                Dtype::F16 => buffer.put(i, &f16::from_f64(value).to_ne_bytes()),
                Dtype::Bf16 => buffer.put(i, &bf16::from_f64(value).to_ne_bytes()),
                Dtype::U8 => buffer.put(i, &(value as u8).to_ne_bytes()),
                Dtype::U32 => buffer.put(i, &(value as u32).to_ne_bytes()),
            }
        }
        buffer
    }

    /// The elements as numbers, exactly.
    pub fn to_f64(&self) -> Vec<f64> {
        (0..self.len)
            .map(|i| match self.dtype {
                Dtype::F32 => f64::from(f32::from_ne_bytes(self.get(i))),
                Dtype::F64 => f64::from_ne_bytes(self.get(i)),
                Dtype::F16 => f16::from_ne_bytes(self.get(i)).to_f64(),
                Dtype::Bf16 => bf16::from_ne_bytes(self.get(i)).to_f64(),
                Dtype::U8 => f64::from(u8::from_ne_bytes(self.get(i))),
                Dtype::U32 => f64::from(u32::from_ne_bytes(self.get(i))),
            })
            .collect()
    }

    /// Elements that are NaN.
    pub(crate) fn poisoned(dtype: Dtype, len: usize) -> Self {
        Self::filled(dtype, len, 0)
    }

    /// The elements as they lie in memory.
    pub fn bytes(&self) -> Vec<u8> {
        let end = self.start + self.len * self.dtype.size();
        (self.start..end).map(|byte| self.chunks[byte / 16].0[byte % 16]).collect()
    }

    /// Replaces the elements by what [`bytes`](Self::bytes) of an equal buffer gave.
    ///
    /// # Panics
    /// If there are more bytes than elements.
    pub fn set_bytes(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len * self.dtype.size(), "set_bytes: {} bytes are too many", bytes.len());
        let start = self.start;
        for (at, &byte) in (start..).zip(bytes) {
            self.chunks[at / 16].0[at % 16] = byte;
        }
    }

    /// How many elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Their type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub(crate) fn is_aligned(&self) -> bool {
        self.start.is_multiple_of(16)
    }

    fn filled(dtype: Dtype, len: usize, offset: usize) -> Self {
        let (start, bytes) = (GUARD * 16 + offset, len * dtype.size());
        let mut buffer =
            Self { chunks: vec![Chunk([CANARY; 16]); 2 * GUARD + bytes.div_ceil(16) + 1], start, len, dtype };
        for byte in start..start + bytes {
            buffer.chunks[byte / 16].0[byte % 16] = POISON;
        }
        buffer
    }

    fn put(&mut self, i: usize, bytes: &[u8]) {
        let first = self.start + i * bytes.len();
        for (at, &byte) in (first..).zip(bytes) {
            self.chunks[at / 16].0[at % 16] = byte;
        }
    }

    fn get<const N: usize>(&self, i: usize) -> [u8; N] {
        std::array::from_fn(|k| {
            let at = self.start + i * N + k;
            self.chunks[at / 16].0[at % 16]
        })
    }

    #[cfg(feature = "emulator")]
    pub(crate) fn address(&self) -> *const u8 {
        self.chunks.as_ptr().cast::<u8>().wrapping_add(self.start)
    }

    #[cfg(feature = "emulator")]
    pub(crate) fn address_mut(&mut self) -> *mut u8 {
        self.chunks.as_mut_ptr().cast::<u8>().wrapping_add(self.start)
    }

    #[cfg(feature = "emulator")]
    /// Whether the bytes around the elements are untouched.
    pub(crate) fn is_intact(&self) -> bool {
        let end = self.start + self.len * self.dtype.size();
        let around = (0..self.start).chain(end..self.chunks.len() * 16);
        around.into_iter().all(|byte| self.chunks[byte / 16].0[byte % 16] == CANARY)
    }
}
