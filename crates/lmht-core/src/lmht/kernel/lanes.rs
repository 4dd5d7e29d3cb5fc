//! The neuron without windows for a small T that is known when compiled: eight units at a time go through all timesteps
//! in registers.

// One index runs over several arrays at once; an iterator over one of them would hide that.
#![allow(clippy::needless_range_loop)]

use std::hint::select_unpredictable;

use super::{BackwardTask, Emit, ForwardTask, Place, Plan};
use crate::Real;
use crate::sum::{BLOCK, LANES, add_lanes};
use crate::tile::inside;

/// One quantity of eight neighbouring units.
type Lanes<R> = [R; LANES];

/// The forward pass, to be compiled for an instruction set. `MIX`: with a full T-GIM, else without.
pub(super) struct Forward<'a, R, E: Emit<R>, const T: usize, const MIX: bool>(pub(super) ForwardTask<'a, R, E>);

impl<R: Real, E: Emit<R>, const T: usize, const MIX: bool> pulp::NullaryFnOnce for Forward<'_, R, E, T, MIX> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        match self.0.plan.thresholds.len() {
            1 => forward::<R, E, T, MIX, 1>(self.0),
            2 => forward::<R, E, T, MIX, 2>(self.0),
            4 => forward::<R, E, T, MIX, 4>(self.0),
            _ => forward::<R, E, T, MIX, 0>(self.0),
        }
    }
}

/// All units of a run; `L` levels, or any number of them if 0.
#[inline(always)]
fn forward<R: Real, E: Emit<R>, const T: usize, const MIX: bool, const L: usize>(mut task: ForwardTask<'_, R, E>) {
    let constants = Constants::<R, T, L>::new::<MIX>(task.plan);
    let len = task.units.len();
    let mut at = 0;
    while at + LANES <= len {
        forward_lanes::<R, E, T, MIX, L>(&mut task, &constants, at, LANES);
        at += LANES;
    }
    if at < len {
        forward_lanes::<R, E, T, MIX, L>(&mut task, &constants, at, len - at);
    }
}

/// All timesteps of the `valid <= LANES` units that begin at `at`.
#[inline(always)]
fn forward_lanes<R: Real, E: Emit<R>, const T: usize, const MIX: bool, const L: usize>(
    task: &mut ForwardTask<'_, R, E>,
    constants: &Constants<'_, R, T, L>,
    at: usize,
    valid: usize,
) {
    let mut x = [[R::ZERO; LANES]; T];
    for t in 0..T {
        x[t] = load(task.xs, t * constants.n + task.units.start + at, valid);
    }
    let mut v = [constants.v_init; LANES];
    for t in 0..T {
        let m = constants.charge::<MIX>(&x, &v, t);
        let spikes = constants.fire(&m);
        let mut out = [task.emit.emit(R::ZERO, R::ZERO, R::ZERO); LANES];
        for l in 0..LANES {
            let output = spikes[l] * constants.v_threshold;
            v[l] = m[l] - output;
            out[l] = task.emit.emit(m[l], spikes[l], output);
        }
        store(task.out[t], at, valid, out);
    }
}

/// The backward pass, to be compiled for an instruction set. `MIX`: with a full T-GIM, else without.
pub(super) struct Backward<'a, R, P, const T: usize, const MIX: bool, const DETACHED: bool>(
    pub(super) BackwardTask<'a, R, P>,
);

/// The partial sums of a block: dω and dλ.
struct Sums<R, const T: usize> {
    omega: [[Lanes<R>; T]; T],
    leak: Lanes<R>,
}

impl<R: Real, P: Place<R>, const T: usize, const MIX: bool, const DETACHED: bool> pulp::NullaryFnOnce
    for Backward<'_, R, P, T, MIX, DETACHED>
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        match self.0.plan.thresholds.len() {
            1 => backward::<R, P, T, MIX, DETACHED, 1>(self.0),
            2 => backward::<R, P, T, MIX, DETACHED, 2>(self.0),
            4 => backward::<R, P, T, MIX, DETACHED, 4>(self.0),
            _ => backward::<R, P, T, MIX, DETACHED, 0>(self.0),
        }
    }
}

/// All blocks of a run; `L` levels, or any number of them if 0.
#[inline(always)]
fn backward<R: Real, P: Place<R>, const T: usize, const MIX: bool, const DETACHED: bool, const L: usize>(
    mut task: BackwardTask<'_, R, P>,
) {
    let constants = Constants::<R, T, L>::new::<MIX>(task.plan);
    let len = task.units.len();
    for block in 0..len.div_ceil(BLOCK) {
        let mut sums = Sums { omega: [[[R::ZERO; LANES]; T]; T], leak: [R::ZERO; LANES] };
        let end = len.min((block + 1) * BLOCK);
        let mut at = block * BLOCK;
        while at + LANES <= end {
            backward_lanes::<R, P, T, MIX, DETACHED, L>(&mut task, &constants, &mut sums, at, LANES);
            at += LANES;
        }
        if at < end {
            backward_lanes::<R, P, T, MIX, DETACHED, L>(&mut task, &constants, &mut sums, at, end - at);
        }
        let totals = &mut task.sums[block * task.stride..][..task.stride];
        if MIX {
            for (total, lanes) in totals.iter_mut().zip(sums.omega.as_flattened()) {
                *total = add_lanes(lanes);
            }
        }
        totals[task.stride - 1] = add_lanes(&sums.leak);
    }
}

/// All timesteps of the `valid <= LANES` units that begin at `at`. Lanes beyond are neither stored nor summed.
#[inline(always)]
fn backward_lanes<R: Real, P: Place<R>, const T: usize, const MIX: bool, const DETACHED: bool, const L: usize>(
    task: &mut BackwardTask<'_, R, P>,
    constants: &Constants<'_, R, T, L>,
    sums: &mut Sums<R, T>,
    at: usize,
    valid: usize,
) {
    let start = task.units.start + at;

    // m(t) and v(t-1) once more.
    let [mut x, mut m, mut v_before] = [[[R::ZERO; LANES]; T]; 3];
    for t in 0..T {
        x[t] = load(task.xs, t * constants.n + start, valid);
    }
    let mut v = [constants.v_init; LANES];
    for t in 0..T {
        v_before[t] = v;
        m[t] = constants.charge::<MIX>(&x, &v, t);
        let spikes = constants.fire(&m[t]);
        for l in 0..LANES {
            v[l] = m[t][l] - spikes[l] * constants.v_threshold;
        }
    }

    // g(t) = dLoss/dm(t), last timestep first.
    let mut g = [[R::ZERO; LANES]; T];
    let mut grad_v = [R::ZERO; LANES];
    for t in (0..T).rev() {
        let grad_out = load(task.grad_out, t * constants.n + start, valid);
        for l in 0..LANES {
            let elsewhere = if DETACHED { R::ZERO } else { grad_v[l] };
            // Told nothing, the compiler branches here, and mispredicting for each unit costs twice the whole pass.
            g[t][l] = select_unpredictable(inside(constants.gate, m[t][l]), grad_out[l], elsewhere);
            grad_v[l] = constants.leaks[t] * g[t][l];
        }
    }

    for j in 0..T {
        let mut grad_x = g[j];
        if MIX {
            for t in 0..T {
                for l in 0..LANES {
                    let product = constants.omega[t][j] * g[t][l];
                    grad_x[l] = if t == 0 { product } else { grad_x[l] + product };
                }
            }
        }
        store(task.grad_xs[j], at, valid, grad_x.map(P::put));
    }

    if MIX {
        for t in 0..T {
            for j in 0..T {
                for l in 0..LANES {
                    if l < valid {
                        sums.omega[t][j][l] += g[t][l] * x[j][l];
                    }
                }
            }
        }
    }
    let mut grad_leak = [R::ZERO; LANES];
    for t in 0..T {
        for l in 0..LANES {
            let product = g[t][l] * v_before[t][l];
            grad_leak[l] = if t == 0 { product } else { grad_leak[l] + product };
        }
    }
    for l in 0..LANES {
        if l < valid {
            sums.leak[l] += grad_leak[l];
        }
    }
}

/// A call's constants as arrays of known length. Behind the references of [`Plan`] the compiler would read them again
/// after every store, since a store might have changed them, and a loop over two thresholds would stay a loop.
struct Constants<'a, R, const T: usize, const L: usize> {
    n: usize,
    v_threshold: R,
    v_init: R,
    gate: (R, R),
    omega: [[R; T]; T],
    leaks: [R; T],
    thresholds: [R; L],
    /// The thresholds, if `L` is 0.
    any_thresholds: &'a [R],
}

impl<'a, R: Real, const T: usize, const L: usize> Constants<'a, R, T, L> {
    #[inline(always)]
    fn new<const MIX: bool>(plan: &'a Plan<'_, R>) -> Self {
        let mut omega = [[R::ZERO; T]; T];
        if MIX {
            omega.as_flattened_mut().copy_from_slice(plan.omega);
        }
        Self {
            n: plan.n,
            v_threshold: plan.v_threshold,
            v_init: plan.v_init,
            gate: plan.gate,
            omega,
            leaks: std::array::from_fn(|t| plan.leaks[t]),
            thresholds: std::array::from_fn(|k| plan.thresholds[k]),
            any_thresholds: if L == 0 { &plan.thresholds } else { &[] },
        }
    }

    /// m(t) (Eqs. 5 and 7).
    #[inline(always)]
    fn charge<const MIX: bool>(&self, x: &[Lanes<R>; T], v: &Lanes<R>, t: usize) -> Lanes<R> {
        let mut m = x[t];
        if MIX {
            for j in 0..T {
                for l in 0..LANES {
                    let product = self.omega[t][j] * x[j][l];
                    m[l] = if j == 0 { product } else { m[l] + product };
                }
            }
        }
        for l in 0..LANES {
            m[l] = self.leaks[t] * v[l] + m[l];
        }
        m
    }

    /// s(t) (Eq. 6), as numbers.
    #[inline(always)]
    fn fire(&self, m: &Lanes<R>) -> Lanes<R> {
        let mut spikes = [R::ZERO; LANES];
        let mut count = |threshold: R| {
            for l in 0..LANES {
                spikes[l] += if m[l] >= threshold { R::ONE } else { R::ZERO };
            }
        };
        if L == 0 {
            self.any_thresholds.iter().for_each(|&threshold| count(threshold));
        } else {
            for k in 0..L {
                count(self.thresholds[k]);
            }
        }
        spikes
    }
}

#[inline(always)]
fn load<R: Real>(row: &[R], at: usize, valid: usize) -> Lanes<R> {
    let mut lanes = [R::ZERO; LANES];
    let row = &row[at..at + valid];
    for l in 0..LANES {
        if l < valid {
            lanes[l] = row[l];
        }
    }
    lanes
}

#[inline(always)]
fn store<V: Copy>(row: &mut [V], at: usize, valid: usize, lanes: [V; LANES]) {
    let row = &mut row[at..at + valid];
    for l in 0..LANES {
        if l < valid {
            row[l] = lanes[l];
        }
    }
}
