//! Memory that one pass after another works in.
//!
//! A training pass of a few images writes some hundred megabytes. Memory that comes fresh from the operating system is
//! filled with zeros first, page by page, which took a fifth of such a pass; and an allocator that waits before it hands freed
//! memory back holds more than is in use at any time. The passes of a network are alike, so each works in the memory of
//! the one before.

use std::any::{Any, TypeId};
use std::collections::HashMap;

/// Numbers and bytes that nobody reads any more.
#[derive(Debug)]
pub(crate) struct BufferPool<T> {
    pub(super) numbers: Buffers<T>,
    pub(super) bytes: Buffers<u8>,
}

impl<T> Default for BufferPool<T> {
    fn default() -> Self {
        Self { numbers: Buffers::default(), bytes: Buffers::default() }
    }
}

impl<T> BufferPool<T> {
    /// At the end of a pass: what it did not need goes back to the allocator.
    pub(super) fn tidy(&mut self) {
        self.numbers.tidy();
        self.bytes.tidy();
    }
}

/// Where the memory of each number type is between passes. A pass takes it away: two at once do not share.
#[derive(Debug, Default)]
pub(crate) struct BufferPools(HashMap<TypeId, Box<dyn Any + Send>>);

impl BufferPools {
    pub(super) fn take<T: Send + 'static>(&mut self) -> BufferPool<T> {
        let pool = self.0.remove(&TypeId::of::<T>()).and_then(|pool| pool.downcast().ok());
        pool.map_or_else(BufferPool::default, |pool| *pool)
    }

    /// The pool of the last pass to end is kept.
    pub(super) fn give<T: Send + 'static>(&mut self, mut pool: BufferPool<T>) {
        pool.tidy();
        self.0.insert(TypeId::of::<T>(), Box::new(pool));
    }
}

/// Vectors of one type.
#[derive(Debug)]
pub(super) struct Buffers<V> {
    /// And whether this pass had them in use.
    vectors: Vec<(Vec<V>, bool)>,
}

impl<V> Default for Buffers<V> {
    fn default() -> Self {
        Self { vectors: Vec::new() }
    }
}

impl<V: Copy + Default> Buffers<V> {
    /// A vector of `len` values, with anything in it.
    pub(super) fn take(&mut self, len: usize) -> Vec<V> {
        if len == 0 {
            return Vec::new();
        }
        if let Some(i) = self.shortest(len) {
            let (mut vector, _) = self.vectors.swap_remove(i);
            vector.resize(len, V::default());
            return vector;
        }
        // As much memory as it takes is given up first, where there is some: the shorter vectors were of use to other
        // layers, which can work in this one from now on.
        let mut missing = len;
        while missing > 0
            && let Some(i) = self.longest()
        {
            missing = missing.saturating_sub(self.vectors.swap_remove(i).0.capacity());
        }
        vec![V::default(); len]
    }

    /// The shortest vector with memory for `len` values.
    fn shortest(&self, len: usize) -> Option<usize> {
        let fits = self.vectors.iter().enumerate().filter(|(_, (vector, _))| vector.capacity() >= len);
        fits.min_by_key(|(_, (vector, _))| vector.capacity()).map(|(i, _)| i)
    }

    fn longest(&self) -> Option<usize> {
        self.vectors.iter().enumerate().max_by_key(|(_, (vector, _))| vector.capacity()).map(|(i, _)| i)
    }

    /// Takes a vector back that nobody needs.
    pub(super) fn give(&mut self, vector: Vec<V>) {
        if vector.capacity() > 0 {
            self.vectors.push((vector, true));
        }
    }
}

impl<V> Buffers<V> {
    fn tidy(&mut self) {
        self.vectors.retain(|(_, is_used)| *is_used);
        self.vectors.iter_mut().for_each(|(_, is_used)| *is_used = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the vectors of a buffers are, shortest first.
    fn places(buffers: &Buffers<f32>) -> Vec<*const f32> {
        let mut vectors: Vec<_> = buffers.vectors.iter().map(|(vector, _)| vector).collect();
        vectors.sort_by_key(|vector| vector.capacity());
        vectors.into_iter().map(|vector| vector.as_ptr()).collect()
    }

    #[test]
    fn the_smallest_vector_that_fits_is_taken() {
        let mut buffers = Buffers::default();
        for len in [300, 100, 200] {
            buffers.give(vec![1.; len]);
        }
        let before = places(&buffers);
        let taken = buffers.take(150);
        assert_eq!((taken.as_ptr(), taken.len()), (before[1], 150));
        assert_eq!(places(&buffers), [before[0], before[2]]);
        // As long as its memory once more, whatever it was last.
        buffers.give(taken);
        let again = buffers.take(200);
        assert_eq!((again.as_ptr(), again.len()), (before[1], 200));
    }

    #[test]
    fn a_longer_vector_takes_the_place_of_shorter_ones() {
        let mut buffers = Buffers::default();
        for len in [100, 300, 200] {
            buffers.give(vec![1.; len]);
        }
        let before = places(&buffers);
        assert_eq!(buffers.take(301).len(), 301);
        assert_eq!(places(&buffers), before[..1], "the two longest have more than that together");
        assert_eq!(buffers.take(301).len(), 301);
        assert!(buffers.vectors.is_empty());
    }

    #[test]
    fn what_a_pass_does_not_need_is_given_up() {
        let mut pool = BufferPool::<f32>::default();
        pool.numbers.give(vec![1.; 100]);
        pool.numbers.give(vec![1.; 200]);
        pool.tidy();
        assert_eq!(pool.numbers.vectors.len(), 2, "both were in use");
        let taken = pool.numbers.take(200);
        pool.numbers.give(taken);
        pool.tidy();
        assert_eq!(pool.numbers.vectors.len(), 1, "the short one was not");
        pool.tidy();
        assert!(pool.numbers.vectors.is_empty());
    }

    #[test]
    fn nothing_takes_no_memory() {
        let mut buffers = Buffers::default();
        buffers.give(vec![1.; 10]);
        assert_eq!(buffers.take(0).capacity(), 0);
        buffers.give(Vec::new());
        assert_eq!(buffers.vectors.len(), 1);
    }
}
