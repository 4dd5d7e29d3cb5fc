//! What the kernels of all kinds of neurons share: how units are cut into blocks and spread over threads, how a loop is
//! compiled for the machine's instruction set, and the acts of a timestep on a block of units.

// One index runs over several arrays at once; an iterator over one of them would hide that.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use rayon::prelude::*;

use crate::Real;
use crate::sum::BLOCK;

/// Below this many values one thread finishes before a second one has started.
const WORTH_A_THREAD: usize = 1 << 15;

/// Cuts `[T, n]` into runs of whole blocks of units, a few for each thread: their range, and their part of every row.
pub(crate) fn split<V>(
    rows: &mut [V],
    n: usize,
    timesteps: usize,
) -> impl Iterator<Item = (Range<usize>, Vec<&mut [V]>)> {
    let threads = rayon::current_num_threads();
    let tasks = if threads == 1 || rows.len() < WORTH_A_THREAD { 1 } else { 4 * threads };
    let units = n.div_ceil(BLOCK).div_ceil(tasks).max(1) * BLOCK;
    let mut parts: Vec<_> =
        (0..n).step_by(units).map(|start| (start..n.min(start + units), Vec::with_capacity(timesteps))).collect();
    for row in rows.chunks_exact_mut(n.max(1)) {
        for (part, values) in parts.iter_mut().zip(row.chunks_mut(units)) {
            part.1.push(values);
        }
    }
    parts.into_iter()
}

/// Does all tasks, on this thread if there is only one.
pub(crate) fn run<Task: Send>(mut tasks: Vec<Task>, work: impl Fn(Task) + Sync + Send) {
    if tasks.len() == 1 {
        tasks.drain(..).for_each(work);
    } else {
        tasks.into_par_iter().for_each(work);
    }
}

/// Compiles `work` for the instruction sets up to 256 bits and calls the best that this machine has.
///
/// The kernels work on eight numbers at a time. For 512 bits the compiler puts two timesteps into one vector and spends its
/// time on shuffling: at T = 4 that took 2.5 times as long.
pub(crate) fn simd<Work: pulp::NullaryFnOnce<Output = ()>>(work: Work) {
    struct Dispatched<Work>(Work);
    impl<Work: pulp::NullaryFnOnce> pulp::WithSimd for Dispatched<Work> {
        type Output = Work::Output;
        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, _simd: S) -> Self::Output {
            self.0.call()
        }
    }
    let arch = match pulp::Arch::new() {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        pulp::Arch::V4(wide) => pulp::Arch::V3(*wide),
        arch => arch,
    };
    arch.dispatch(Dispatched(work));
}

/// One quantity of all units of a block.
pub(crate) type Tile<R> = [R; BLOCK];

/// How many terms or thresholds one loop takes at a time.
pub(crate) const AT_ONCE: usize = 4;

/// The units of block `block` of a run.
#[inline(always)]
pub(crate) fn tile_of(units: &Range<usize>, block: usize) -> Range<usize> {
    units.start + block * BLOCK..units.end.min(units.start + (block + 1) * BLOCK)
}

/// Whether m is in the gate, without a branch.
#[inline(always)]
pub(crate) fn inside<R: Real>((lowest, highest): (R, R), m: R) -> bool {
    (lowest <= m) & (m <= highest)
}

/// Eq. 5 on a tile: m(t) takes the place of the current.
#[inline(always)]
pub(crate) fn charge<R: Real>(leak: R, v: &[R], current: &mut [R]) {
    let v = &v[..current.len()];
    for i in 0..current.len() {
        current[i] = leak * v[i] + current[i];
    }
}

/// s(t) of Eq. 6 on a tile.
///
/// Counts are whole numbers and add without rounding, so the thresholds may be taken in groups.
#[inline(always)]
pub(crate) fn fire<R: Real>(thresholds: &[R], m: &[R], spikes: &mut [R]) {
    for (group, thresholds) in thresholds.chunks(AT_ONCE).enumerate() {
        match *thresholds {
            [a] => add_reached(group == 0, [a], m, spikes),
            [a, b] => add_reached(group == 0, [a, b], m, spikes),
            [a, b, c] => add_reached(group == 0, [a, b, c], m, spikes),
            [a, b, c, d] => add_reached(group == 0, [a, b, c, d], m, spikes),
            _ => {}
        }
    }
}

/// How many of `K` thresholds m has reached, begun afresh or added to what is there.
#[inline(always)]
fn add_reached<R: Real, const K: usize>(fresh: bool, thresholds: [R; K], m: &[R], spikes: &mut [R]) {
    let m = &m[..spikes.len()];
    if fresh {
        for i in 0..spikes.len() {
            spikes[i] = reached(m[i], &thresholds);
        }
    } else {
        for i in 0..spikes.len() {
            spikes[i] += reached(m[i], &thresholds);
        }
    }
}

#[inline(always)]
fn reached<R: Real, const K: usize>(m: R, thresholds: &[R; K]) -> R {
    let mut spikes = R::ZERO;
    for k in 0..K {
        spikes += if m >= thresholds[k] { R::ONE } else { R::ZERO };
    }
    spikes
}

/// v(t) of Eq. 6 on a tile.
#[inline(always)]
pub(crate) fn reset<R: Real>(v_threshold: R, m: &[R], spikes: &[R], v: &mut [R]) {
    let (m, spikes) = (&m[..v.len()], &spikes[..v.len()]);
    for i in 0..v.len() {
        v[i] = m[i] - spikes[i] * v_threshold;
    }
}
