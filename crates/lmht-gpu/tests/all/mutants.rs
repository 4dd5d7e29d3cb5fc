//! Deliberate mistakes in every kernel text, each of which the check of its operation has to catch in one of the
//! orders. Six an operation: a missing barrier, an off-by-one, `>` for `>=` at a tie, a swapped index, a wrong bound of
//! a reduction, a missing mask. A kernel without barriers, reductions or comparisons has another mistake in their
//! place, named as what it is.

use lmht_gpu::emulator::{Edit, Emulator};
use lmht_gpu::suite::{Outcome, checks};

use crate::support::emulators;

type Mutant = (&'static str, &'static str, &'static str);

const TREE_BARRIER: Mutant = (
    "a missing barrier in the tree",
    "        BARRIER();\n        if (me < width) sums[me]",
    "        if (me < width) sums[me]",
);
const TREE_BOUND: Mutant = (
    "a wrong bound of the tree",
    "for (uint width = THREADS / 2; width >= columns; width /= 2) {\n        BARRIER();\n        if (me < width) sums",
    "for (uint width = THREADS / 4; width >= columns; width /= 2) {\n        BARRIER();\n        if (me < width) sums",
);

/// Holds an operation's first check, that in f64 where there is one, to catching each of `mutants`.
fn caught(operation: &'static str, mutants: &[Mutant]) {
    let check = checks().into_iter().find(|check| check.operation == operation).expect("a check").run;
    let orders = emulators();
    for &(mistake, from, to) in mutants {
        let edited = |m: &Emulator| Emulator { edit: Some(Edit { operation, from, to }), ..m.clone() };
        let outcomes: Vec<Outcome> = orders.iter().map(|m| check(&edited(m))).collect();
        for outcome in &outcomes {
            let built = !outcome.as_ref().is_err_and(|message| message.contains("expected the text to be edited once"));
            assert!(
                built && !outcome.as_ref().is_err_and(|message| message.contains("error:")),
                "{mistake}: {outcome:?}"
            );
        }
        assert!(outcomes.is_empty() || outcomes.iter().any(Outcome::is_err), "{operation}: nobody caught {mistake}");
    }
}

#[test]
fn of_neuron() {
    let mutants = [
        ("a missing barrier", "BARRIER();\n    for (uint i = (BLOCK", "for (uint i = (BLOCK"),
        ("an off-by-one: a level less", "k <= LEVELS", "k < LEVELS"),
        ("> for >= at a tie", "total >= (REAL)(count", "total > (REAL)(count"),
        ("a swapped index", "current += learned[t * TIMESTEPS + j]", "current += learned[j * TIMESTEPS + t]"),
        TREE_BOUND,
        ("a missing mask", "if (FREE(t, j)) current", "current"),
        ("a missing barrier between two trees", "BARRIER();\n    sums[me] = value", "sums[me] = value"),
        ("a barrier in a branch", "BARRIER();\n    sums[me] = value", "if (me < 16) BARRIER();\n    sums[me] = value"),
        ("a wide access at a wrong address", "write_lanes(ys + t * n + i", "write_lanes(ys + t * n + i + 1"),
    ];
    caught("neuron", &mutants);
}

#[test]
fn of_norm_neuron() {
    let mutants = [
        (
            "a missing barrier",
            "BARRIER();\n    const uint channel = CHANNEL, n = rows * channels;\n    REAL own[NORMS], other[NORMS], sums[",
            "const uint channel = CHANNEL, n = rows * channels;\n    REAL own[NORMS], other[NORMS], sums[",
        ),
        (
            "an off-by-one: a sum less",
            "k < N_SUMS * WIDTH; k++) {\n        const",
            "k + 1 < N_SUMS * WIDTH; k++) {\n        const",
        ),
        (
            "> for >= at a tie",
            "low <= v_charged[t] && v_charged[t] <= high;\n        // v = m",
            "low < v_charged[t] && v_charged[t] <= high;\n        // v = m",
        ),
        (
            "a swapped index",
            "N_SUMS + k / WIDTH) * channels + channel + k % WIDTH",
            "N_SUMS + k % WIDTH) * channels + channel + k / WIDTH",
        ),
        ("a wrong bound of the tree", "width >= columns", "width > columns"),
        (
            "a missing mask",
            "(channel < channels ? CHUNK * ROW_LANES + THREAD / COLUMNS : rows)",
            "(CHUNK * ROW_LANES + THREAD / COLUMNS)",
        ),
    ];
    caught("norm_neuron", &mutants);
    let packed: [Mutant; 2] = [
        ("a missing gate", " | passes << 7", ""),
        ("a swapped index of bytes", "bytes[t * WIDTH + lane] =", "bytes[lane * TIMESTEPS + t] ="),
    ];
    caught("norm_neuron", &packed);
}

#[test]
fn of_batch_norm() {
    let mutants = [
        (
            "a missing barrier",
            "BARRIER();\n        if (me < width) {\n            join",
            "if (me < width) {\n            join",
        ),
        ("an off-by-one: a chunk less", "chunk < chunks", "chunk + 1 < chunks"),
        (">= for > at a tie: no values", "if (count2 > 0)", "if (count2 >= 0)"),
        ("a swapped index", "share[BLOCKS], share[2 * BLOCKS]", "share[2 * BLOCKS], share[BLOCKS]"),
        TREE_BOUND,
        (
            "a missing mask",
            "(channel < channels ? CHUNK * ROW_LANES + THREAD / COLUMNS : rows)",
            "(CHUNK * ROW_LANES + THREAD / COLUMNS)",
        ),
    ];
    caught("batch_norm", &mutants);
}

#[test]
fn of_ilif() {
    let mutants = [
        ("no barrier to miss: a missing reset", "v = m[t] - y[t]", "v = m[t]"),
        ("an off-by-one: a level less", "k <= LEVELS", "k < LEVELS"),
        ("> for >= at a tie", "m[t] >= (REAL)k", "m[t] > (REAL)k"),
        ("a swapped index", "write_lanes(ys + t * n", "write_lanes(ys + (TIMESTEPS - 1 - t) * n"),
        ("no reduction: a wrong bound of the way back", "back <= TIMESTEPS", "back < TIMESTEPS"),
        ("a missing mask", "(REAL)0 <= m[t] && ", ""),
    ];
    caught("ilif", &mutants);
}

#[test]
fn of_ternary() {
    let mutants = [
        TREE_BARRIER,
        ("an off-by-one: a timestep less", "back <= TIMESTEPS", "back < TIMESTEPS"),
        ("> for >= at a tie", "m[t] >= theta", "m[t] > theta"),
        ("a swapped index", "grad[lane * TIMESTEPS + t] = next", "grad[lane * TIMESTEPS + back - 1] = next"),
        TREE_BOUND,
        ("a missing mask", "(REAL)-1 <= m[t] && ", ""),
    ];
    caught("ternary", &mutants);
}

#[test]
fn of_qcfs() {
    let mutants = [
        TREE_BARRIER,
        ("an off-by-one: a share less", "row < rows", "row + 1 < rows"),
        ("< for <= at a tie", "clipped <= (REAL)1", "clipped < (REAL)1"),
        ("a swapped operand", "read_lanes(grad_ys + i", "read_lanes(xs + i"),
        TREE_BOUND,
        ("a missing mask", "passes ? ratio : (REAL)0", "ratio"),
    ];
    caught("qcfs", &mutants);
}

#[test]
fn of_pool() {
    let mutants = [
        ("no barrier to miss: no first value", "found == AREA || value > highest", "value > highest"),
        (
            "an off-by-one: a pixel less",
            "k < AREA; k++) {\n            // Wraps",
            "k + 1 < AREA; k++) {\n            // Wraps",
        ),
        (">= for > at a tie", "value > highest", "value >= highest"),
        (
            "a swapped index",
            "from = ((image * h_out + top / STRIDE) * w_out + left / STRIDE)",
            "from = ((image * h_out + left / STRIDE) * w_out + top / STRIDE) % (n / c)",
        ),
        ("a wrong divisor of the sum", "sum / (REAL)AREA", "sum / (REAL)KERNEL_SIZE"),
        ("a missing mask", "if (best[from] == k) grad", "grad"),
    ];
    caught("pool", &mutants);
}

#[test]
fn of_im2col() {
    let mutants = [
        ("no barrier to miss: a missing offset", "pixel = first + i / c", "pixel = i / c"),
        ("an off-by-one", "top = y + PADDING - k", "top = y + PADDING + 1 - k"),
        ("no tie: a missing first image", "grad_xs[first * h * w * c + i]", "grad_xs[i]"),
        ("a swapped index", "row * STRIDE + k / KERNEL_SIZE", "row * STRIDE + k % KERNEL_SIZE"),
        ("a wrong bound of the sum", "k < KERNEL_SIZE * KERNEL_SIZE", "k + 1 < KERNEL_SIZE * KERNEL_SIZE"),
        ("a missing mask", "left % STRIDE == 0 && ", ""),
    ];
    caught("im2col", &mutants);
}

#[test]
fn of_gather() {
    let mutants = [
        ("no barrier to miss: a missing mirror", "(CHOICE(3) ? w - 1 - x : x)", "x"),
        ("an off-by-one", "w - 1 - x", "w - x"),
        ("<= for < at the end of what is cut", "y < CHOICE(5)", "y <= CHOICE(5)"),
        ("a swapped index", "row = y + CHOICE(1)", "row = y + CHOICE(2)"),
        ("no reduction: a wrong bound of the image", "row < h && ", "row <= h && "),
        ("a missing mask", "image >= n_images", "image > n_images"),
    ];
    caught("gather", &mutants);
}

#[test]
fn of_loss() {
    let mutants = [
        ("a missing barrier", "BARRIER();\n    highest = found[0]", "highest = found[0]"),
        ("an off-by-one: a timestep less", "t < TIMESTEPS; t++) out", "t + 1 < TIMESTEPS; t++) out"),
        ("< for <= at the last class", "label < classes ? loss", "label + 1 < classes ? loss"),
        ("a swapped index", "grad[t * stride + BLOCK * classes + k]", "grad[t * stride + k * BLOCKS + BLOCK]"),
        TREE_BOUND,
        ("a missing mask", "THREAD + width < classes && ", ""),
    ];
    caught("loss", &mutants);
}

#[test]
fn of_optimizer() {
    let mutants = [
        TREE_BARRIER,
        ("an off-by-one: a tensor less", "high = tensors - 1", "high = tensors - 2"),
        ("<= for < at the end of a tensor", "i < ends[middle]", "i <= ends[middle]"),
        ("a swapped index", "means[i] = m;\n            squares[i] = v", "means[i] = v;\n            squares[i] = m"),
        TREE_BOUND,
        ("a missing mask", "if (!(sum_squares - sum_squares == (REAL)0)) return 0;", ""),
    ];
    caught("optimizer", &mutants);
}

#[test]
fn of_cast() {
    let mutants = [
        ("no barrier to miss: ties away from even", "u + 0x7fffu + (u >> 16 & 1u)", "u + 0x8000u"),
        (
            "an off-by-one: an element less",
            "i < n; i += BLOCKS * THREADS) ys[i] = LOAD",
            "i + 1 < n; i += BLOCKS * THREADS) ys[i] = LOAD",
        ),
        (">= for > at a tie: infinity is not a number", "> 0x7f800000u ? u >> 16", ">= 0x7f800000u ? u >> 16"),
        ("a swapped index", "ys[i] = SAVE(xs[i])", "ys[n - 1 - i] = SAVE(xs[i])"),
        ("no reduction: no rounding of a count", "/ theta + HALF", "/ theta"),
        ("a missing mask", "count >= (REAL)127 ? (uchar)127 : (uchar)count", "(uchar)count"),
    ];
    caught("cast", &mutants);
}
