// Quantization-clip-floor-shift (Eq. 4): a = ϑ clip(floor(x Q / ϑ + 1/2) / Q, 0, 1), Q = LEVELS, ϑ learned. The floor
// is passed straight through; AFTER_FLOOR (0 or 1) says whether the gate is that of the clipped value or of x / ϑ.
FUNCTION REAL quantized(REAL ratio) { return FLOOR(ratio * (REAL)LEVELS + HALF) / (REAL)LEVELS; }
FUNCTION REAL clip(REAL q) { return q < (REAL)0 ? (REAL)0 : q > (REAL)1 ? (REAL)1 : q; }

KERNEL(qcfs_forward)(IN(STORE, xs, 0), IN(REAL, scale, 1), OUT(STORE, ys, 2), VALUE(uint, n, 3) IDS) {
    const REAL ceiling = scale[0];
    for (uint i = (BLOCK * THREADS + THREAD) * WIDTH; i < n; i += BLOCKS * THREADS * WIDTH) {
        REAL x[WIDTH];
        read_lanes(xs + i, x, 1);
        UNROLL for (uint lane = 0; lane < WIDTH; lane++) x[lane] = ceiling * clip(quantized(x[lane] / ceiling));
        write_lanes(ys + i, x, 1);
    }
}

// partial [BLOCKS]: each block's share of dLoss/dϑ.
KERNEL(qcfs_backward)(IN(STORE, xs, 0), IN(REAL, scale, 1), IN(STORE, grad_ys, 2), OUT(STORE, grad_xs, 3),
                      OUT(REAL, partial, 4), VALUE(uint, n, 5) IDS) {
    SHARED(REAL, tree, THREADS);
    const REAL ceiling = scale[0];
    REAL share = 0;
    for (uint i = (BLOCK * THREADS + THREAD) * WIDTH; i < n; i += BLOCKS * THREADS * WIDTH) {
        REAL x[WIDTH], grad[WIDTH];
        read_lanes(xs + i, x, 1);
        read_lanes(grad_ys + i, grad, 1);
        UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
            const REAL ratio = x[lane] / ceiling, q = quantized(ratio);
            const REAL clipped = AFTER_FLOOR ? q : ratio;
            const uint passes = (REAL)0 <= clipped && clipped <= (REAL)1;
            share += grad[lane] * (clip(q) - (passes ? ratio : (REAL)0));
            grad[lane] = passes ? grad[lane] : (REAL)0;
        }
        write_lanes(grad_xs + i, grad, 1);
    }
    const REAL sum = tree_sum(tree, share, THREAD, 1);
    if (THREAD == 0) partial[BLOCK] = sum;
}
