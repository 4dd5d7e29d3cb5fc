//! Buffers that begin at a line of the cache.

use std::ops::{Deref, DerefMut};

/// Bytes of a line.
const LINE: usize = 64;

/// Numbers that begin at a line of the cache, so that pairs of vectors do not lie across two.
#[derive(Debug, Default)]
pub(crate) struct Lines<T> {
    numbers: Vec<T>,
    first: usize,
    len: usize,
}

impl<T: Copy + Default> Lines<T> {
    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let mut lines = Self::default();
        lines.resize(len);
        lines
    }

    /// Changes the length. What is in it afterwards is old numbers or zeros.
    pub(crate) fn resize(&mut self, len: usize) {
        let most = LINE / size_of::<T>().max(1);
        if self.numbers.len() < len + most {
            self.numbers = vec![T::default(); len + most];
            // An offset that cannot be had costs time, nothing else.
            self.first = self.numbers.as_ptr().align_offset(LINE).min(most);
        }
        self.len = len;
    }
}

impl<T> Deref for Lines<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.numbers[self.first..self.first + self.len]
    }
}

impl<T> DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.numbers[self.first..self.first + self.len]
    }
}
