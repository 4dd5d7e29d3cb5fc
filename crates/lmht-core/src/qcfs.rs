//! Quantization-clip-floor-shift (QCFS), the activation of the quantized ANN that hybrid training starts from (Eq. 4).
//!
//! ```text
//! a = ϑ · clip( floor(x Q / ϑ + 1/2) / Q, 0, 1 )
//! ```
//!
//! ϑ (`scale`) is the learnable ceiling, 8 at the start of training; Q is `quant_levels`. The floor is passed straight
//! through by the gradient. The functions compute for any numbers; [`check`] is for those that a user supplies.

use std::ops::Range;

use crate::config::MAX_LEVELS;
use crate::dynamics::{assert_packs, assert_shared};
use crate::sum::{BLOCK, add_block, add_blocks};
use crate::tile::{run, simd, split};
use crate::{Code, ConfigError, Dynamics, Real};

/// Where the gradient dLoss/dx of QCFS passes: the published implementations differ in what they clip.
///
/// ```
/// use lmht_core::qcfs::{QcfsGate, backward_in};
/// // ϑ = 1, Q = 4. -1/16 rounds up to 0, which a clip after the floor leaves alone.
/// let mut grad_xs = [0.0; 1];
/// backward_in(QcfsGate::AfterFloor, &[-0.0625], 1.0, 4, &[1.0], &mut grad_xs);
/// assert_eq!(grad_xs, [1.0]);
/// backward_in(QcfsGate::BeforeFloor, &[-0.0625], 1.0, 4, &[1.0], &mut grad_xs);
/// assert_eq!(grad_xs, [0.0]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum QcfsGate {
    /// The floored value is clipped, as Eq. 4 is written and as the authors of LM-HT compute it: -ϑ/2Q <= x < ϑ + ϑ/2Q.
    #[default]
    AfterFloor,
    /// The value is clipped before the floor: 0 <= x <= ϑ. The newer code of the authors of QCFS.
    BeforeFloor,
}

/// Checks what a user configures.
///
/// # Errors
/// If Q is 0 or beyond [`MAX_LEVELS`], or ϑ is not a finite number above 0.
///
/// ```
/// use lmht_core::qcfs;
/// assert!(qcfs::check(8.0, 4).is_ok());
/// let error = qcfs::check(8.0, 0).unwrap_err();
/// assert_eq!(error.to_string(), "quant_levels: expected a whole number in 1..=65536, got 0");
/// ```
pub fn check(scale: f64, quant_levels: u32) -> Result<(), ConfigError> {
    if quant_levels == 0 || quant_levels > MAX_LEVELS {
        return Err(ConfigError::QuantLevels { quant_levels });
    }
    if !(scale > 0.0 && (scale as f32).is_normal()) {
        return Err(ConfigError::Scale { scale });
    }
    Ok(())
}

/// The activations a of Eq. 4, evaluated as `ϑ · clip(floor(x / ϑ · Q + 1/2) / Q, 0, 1)`.
///
/// # Shapes
/// - `xs`, `out`: any, the same
///
/// # Panics
/// If the slices differ in length.
///
/// ```
/// use lmht_core::qcfs;
/// let mut activations = [0.0; 5];
/// qcfs::forward(&[-1.0, 0.2, 0.25, 0.9, 7.0], 2.0, 4, &mut activations);
/// assert_eq!(activations, [0.0, 0.0, 0.5, 1.0, 2.0]); // steps of ϑ/Q = 1/2, rounded half up
/// ```
pub fn forward<R: Real>(xs: &[R], scale: R, quant_levels: u32, out: &mut [R]) {
    assert_len("out", xs.len(), out.len());
    let tasks = split(out, xs.len(), 1).map(|(units, mut out)| Forward {
        xs: &xs[units],
        out: out.swap_remove(0),
        scale,
        levels: R::from_count(quant_levels),
    });
    run(tasks.collect(), |task: Forward<'_, R>| simd(task));
}

/// [`backward_in`] the default gate, [`QcfsGate::AfterFloor`].
///
/// ```
/// use lmht_core::qcfs;
/// let mut grad_xs = [0.0; 3];
/// // ϑ = 2, Q = 4: below the floor's reach, on a slope, above the ceiling.
/// let grad_scale = qcfs::backward(&[-1.0, 0.75, 7.0], 2.0, 4, &[1.0, 1.0, 1.0], &mut grad_xs);
/// assert_eq!(grad_xs, [0.0, 1.0, 0.0]);
/// assert_eq!(grad_scale, 0.0 + (0.5 - 0.375) + 1.0); // q - x/ϑ on the slope
/// ```
pub fn backward<R: Real>(xs: &[R], scale: R, quant_levels: u32, grad_out: &[R], grad_xs: &mut [R]) -> R {
    backward_in(QcfsGate::default(), xs, scale, quant_levels, grad_out, grad_xs)
}

/// The gradients of Eq. 4 with a straight-through floor. With q = a/ϑ and w = 1 in the gate, else 0:
///
/// ```text
/// dLoss/dx = grad_out · w
/// dLoss/dϑ = Σ grad_out · (q - w x/ϑ)
/// ```
///
/// Returns dLoss/dϑ, summed in the order of [`sum`](crate::sum).
///
/// # Shapes
/// - `xs`, `grad_out`, `grad_xs` (overwritten): any, the same
///
/// # Panics
/// If the slices differ in length.
///
/// ```
/// use lmht_core::qcfs::{QcfsGate, backward_in};
/// let mut grad_xs = [0.0; 2];
/// let grad_scale = backward_in(QcfsGate::BeforeFloor, &[1.0, 3.0], 2.0, 2, &[1.0, 5.0], &mut grad_xs);
/// assert_eq!((grad_xs, grad_scale), ([1.0, 0.0], 5.0));
/// ```
pub fn backward_in<R: Real>(
    gate: QcfsGate,
    xs: &[R],
    scale: R,
    quant_levels: u32,
    grad_out: &[R],
    grad_xs: &mut [R],
) -> R {
    assert_len("grad_out", xs.len(), grad_out.len());
    assert_len("grad_xs", xs.len(), grad_xs.len());
    let mut sums = vec![0.0; xs.len().div_ceil(BLOCK)];
    let mut rest = &mut sums[..];
    let levels = R::from_count(quant_levels);
    let tasks = split(grad_xs, xs.len(), 1).map(|(units, mut grad_xs): (Range<usize>, _)| {
        let (sums, tail) = std::mem::take(&mut rest).split_at_mut(units.len().div_ceil(BLOCK));
        rest = tail;
        let (xs, grad_out) = (&xs[units.clone()], &grad_out[units]);
        Backward { gate, xs, grad_out, grad_xs: grad_xs.swap_remove(0), scale, levels, sums }
    });
    run(tasks.collect(), |task: Backward<'_, R>| simd(task));
    add_blocks(&sums, 1, 0)
}

/// The activation with its ϑ, the one shared number, as a layer: one timestep, any number of units.
///
/// ```
/// use lmht_core::{Code, Dynamics, IN_GATE, QcfsGate, QcfsLayer};
/// let layer = QcfsLayer::new(2.0, 4, QcfsGate::AfterFloor);
/// assert_eq!(layer.code(), Code::Counts { levels: 4, amplitude: 0.5 }); // ϑ/Q
/// let mut packed = [0; 4];
/// layer.packed(&[-1.0, 0.25, 0.9, 7.0], &mut packed); // steps of 1/2, rounded half up
/// assert_eq!(packed, [0, 1 | IN_GATE, 2 | IN_GATE, 4]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QcfsLayer<R> {
    scale: R,
    quant_levels: u32,
    gate: QcfsGate,
}

impl<R: Real> QcfsLayer<R> {
    /// The activation with ceiling ϑ = `scale` and Q = `quant_levels`; [`check`] is for those that a user supplies.
    pub fn new(scale: R, quant_levels: u32, gate: QcfsGate) -> Self {
        Self { scale, quant_levels, gate }
    }

    /// ϑ.
    pub fn scale(&self) -> R {
        self.scale
    }

    /// Q.
    pub fn quant_levels(&self) -> u32 {
        self.quant_levels
    }

    /// Where the gradient passes.
    pub fn gate(&self) -> QcfsGate {
        self.gate
    }
}

impl<R: Real> Dynamics<R> for QcfsLayer<R> {
    fn timesteps(&self) -> usize {
        1
    }

    fn code(&self) -> Code {
        Code::Counts { levels: self.quant_levels, amplitude: self.scale.to_f64() / f64::from(self.quant_levels) }
    }

    fn forward(&self, xs: &[R], out: &mut [R]) {
        forward(xs, self.scale, self.quant_levels, out);
    }

    /// q·Q of the very q that [`forward`] multiplies by ϑ. A value that is not a number counts nothing.
    fn packed(&self, xs: &[R], out: &mut [u8]) {
        assert_len("out", xs.len(), out.len());
        assert_packs(self.quant_levels);
        let tasks = split(out, xs.len(), 1).map(|(units, mut out)| Packed {
            gate: self.gate,
            xs: &xs[units],
            out: out.swap_remove(0),
            scale: self.scale,
            levels: R::from_count(self.quant_levels),
        });
        run(tasks.collect(), |task: Packed<'_, R>| simd(task));
    }

    fn has_gradient(&self) -> bool {
        true
    }

    fn gate_is_whole(&self) -> bool {
        // dLoss/dϑ reads the gradient of an activation at its ceiling, where the gate is shut.
        false
    }

    fn n_shared(&self) -> usize {
        1
    }

    fn backward(&self, xs: &[R], grad_out: &[R], grad_xs: &mut [R], grad_shared: &mut [R]) {
        assert_shared(1, grad_shared.len());
        grad_shared[0] = backward_in(self.gate, xs, self.scale, self.quant_levels, grad_out, grad_xs);
    }
}

fn assert_len(name: &str, expected: usize, len: usize) {
    assert!(len == expected, "{name}: expected the {expected} values of xs, got {len}");
}

/// floor(x / ϑ · Q + 1/2), before the clip.
#[inline(always)]
fn floored<R: Real>(x: R, scale: R, levels: R) -> R {
    (x / scale * levels + R::HALF).floor()
}

/// floor(x / ϑ · Q + 1/2) / Q, before the clip.
#[inline(always)]
fn quantized<R: Real>(x: R, scale: R, levels: R) -> R {
    floored(x, scale, levels) / levels
}

/// Whether the gradient with respect to x passes, from x/ϑ and the quantized value before the clip.
#[inline(always)]
fn passes<R: Real>(after_floor: bool, ratio: R, q: R) -> bool {
    let clipped = if after_floor { q } else { ratio };
    (R::ZERO <= clipped) & (clipped <= R::ONE)
}

/// A value that is not a number stays one, as in the formula.
#[inline(always)]
fn clip<R: Real>(q: R) -> R {
    if q < R::ZERO {
        R::ZERO
    } else if q > R::ONE {
        R::ONE
    } else {
        q
    }
}

/// The forward pass over a run of values, to be compiled for an instruction set.
struct Forward<'a, R> {
    xs: &'a [R],
    out: &'a mut [R],
    scale: R,
    levels: R,
}

impl<R: Real> pulp::NullaryFnOnce for Forward<'_, R> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (out, &x) in self.out.iter_mut().zip(self.xs) {
            *out = self.scale * clip(quantized(x, self.scale, self.levels));
        }
    }
}

/// The counts and the gate over a run of values, to be compiled for an instruction set.
struct Packed<'a, R> {
    gate: QcfsGate,
    xs: &'a [R],
    out: &'a mut [u8],
    scale: R,
    levels: R,
}

impl<R: Real> pulp::NullaryFnOnce for Packed<'_, R> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (scale, levels, after_floor) = (self.scale, self.levels, self.gate == QcfsGate::AfterFloor);
        for (out, &x) in self.out.iter_mut().zip(self.xs) {
            let count = floored(x, scale, levels);
            let passes = passes(after_floor, x / scale, count / levels);
            // Beyond Q the quotient is above 1 when rounded, too: clipping the count is clipping the quotient.
            let count = if count > levels { levels } else { count };
            let count = if count > R::ZERO { count } else { R::ZERO };
            *out = count.to_count() as u8 | (u8::from(passes) << 7);
        }
    }
}

/// The backward pass over a run of whole blocks of values, to be compiled for an instruction set.
struct Backward<'a, R> {
    gate: QcfsGate,
    xs: &'a [R],
    grad_out: &'a [R],
    grad_xs: &'a mut [R],
    scale: R,
    levels: R,
    sums: &'a mut [f64],
}

impl<R: Real> Backward<'_, R> {
    /// One value: dLoss/dx and its share of dLoss/dϑ.
    #[inline(always)]
    fn gradients(after_floor: bool, x: R, grad: R, scale: R, levels: R) -> (R, R) {
        let (ratio, q) = (x / scale, quantized(x, scale, levels));
        let passes = passes(after_floor, ratio, q);
        let slope = if passes { ratio } else { R::ZERO };
        (if passes { grad } else { R::ZERO }, grad * (clip(q) - slope))
    }

    #[inline(always)]
    fn pass(self, after_floor: bool) {
        let (scale, levels) = (self.scale, self.levels);
        let blocks = self.xs.chunks(BLOCK).zip(self.grad_out.chunks(BLOCK)).zip(self.grad_xs.chunks_mut(BLOCK));
        let mut shares = [R::ZERO; BLOCK];
        for (((xs, grad_out), grad_xs), sum) in blocks.zip(self.sums) {
            let shares = &mut shares[..xs.len()];
            let (grad_out, grad_xs) = (&grad_out[..xs.len()], &mut grad_xs[..xs.len()]);
            for i in 0..xs.len() {
                (grad_xs[i], shares[i]) = Self::gradients(after_floor, xs[i], grad_out[i], scale, levels);
            }
            *sum = add_block(shares);
        }
    }
}

impl<R: Real> pulp::NullaryFnOnce for Backward<'_, R> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        match self.gate {
            QcfsGate::AfterFloor => self.pass(true),
            QcfsGate::BeforeFloor => self.pass(false),
        }
    }
}
