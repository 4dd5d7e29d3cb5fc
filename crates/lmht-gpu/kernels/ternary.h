// Ternary neurons (Guo et al., AAAI 2024): m = λ v + x, s = sign(m) where |m| >= θ, reset to 0. Currents [TIMESTEPS, n]
// to a s, and back. The amplitude a is learned, λ is not.
FUNCTION void charge_ternary(PRIVATE const REAL *x, REAL leak, REAL theta, PRIVATE REAL *m, PRIVATE REAL *s) {
    REAL v = 0;
    for (uint t = 0; t < TIMESTEPS; t++) {
        m[t] = leak * v + x[t];
        s[t] = m[t] >= theta ? (REAL)1 : m[t] <= -theta ? (REAL)-1 : (REAL)0;
        v = s[t] == (REAL)0 ? m[t] : (REAL)0;
    }
}

KERNEL(ternary_forward)(IN(STORE, xs, 0), IN(REAL, amplitude, 1), OUT(STORE, ys, 2), VALUE(uint, n, 3),
                        VALUE(REAL, leak, 4), VALUE(REAL, theta, 5) IDS) {
    const REAL a = amplitude[0];
    for (uint i = (BLOCK * THREADS + THREAD) * WIDTH; i < n; i += BLOCKS * THREADS * WIDTH) {
        REAL x[WIDTH * TIMESTEPS], m[TIMESTEPS], s[TIMESTEPS];
        for (uint t = 0; t < TIMESTEPS; t++) read_lanes(xs + t * n + i, x + t, TIMESTEPS);
        UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
            charge_ternary(x + lane * TIMESTEPS, leak, theta, m, s);
            for (uint t = 0; t < TIMESTEPS; t++) x[lane * TIMESTEPS + t] = a * s[t];
        }
        for (uint t = 0; t < TIMESTEPS; t++) write_lanes(ys + t * n + i, x + t, TIMESTEPS);
    }
}

// partial [BLOCKS]: each block's share of dLoss/da.
KERNEL(ternary_backward)(IN(STORE, xs, 0), IN(REAL, amplitude, 1), IN(STORE, grad_ys, 2), OUT(STORE, grad_xs, 3),
                         OUT(REAL, partial, 4), VALUE(uint, n, 5), VALUE(REAL, leak, 6), VALUE(REAL, theta, 7) IDS) {
    SHARED(REAL, tree, THREADS);
    const REAL a = amplitude[0];
    REAL share = 0;
    for (uint i = (BLOCK * THREADS + THREAD) * WIDTH; i < n; i += BLOCKS * THREADS * WIDTH) {
        REAL x[WIDTH * TIMESTEPS], grad[WIDTH * TIMESTEPS], m[TIMESTEPS], s[TIMESTEPS];
        for (uint t = 0; t < TIMESTEPS; t++) {
            read_lanes(xs + t * n + i, x + t, TIMESTEPS);
            read_lanes(grad_ys + t * n + i, grad + t, TIMESTEPS);
        }
        UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
            charge_ternary(x + lane * TIMESTEPS, leak, theta, m, s);
            REAL next = 0;
            for (uint back = 1; back <= TIMESTEPS; back++) {
                const uint t = TIMESTEPS - back;
                const REAL g = grad[lane * TIMESTEPS + t];
                const uint passes = (REAL)-1 <= m[t] && m[t] <= (REAL)1;
                share += g * s[t];
                const REAL passed = passes ? a * g : (REAL)0;
                // dv/dm: what the reset leaves of m, less what it takes where the surrogate moves s.
                const REAL left = ((REAL)1 - s[t] * s[t]) - (passes ? m[t] * s[t] : (REAL)0);
                next = DETACHED ? passed : passed + leak * next * left;
                grad[lane * TIMESTEPS + t] = next;
            }
        }
        for (uint t = 0; t < TIMESTEPS; t++) write_lanes(grad_xs + t * n + i, grad + t, TIMESTEPS);
    }
    const REAL sum = tree_sum(tree, share, THREAD, 1);
    if (THREAD == 0) partial[BLOCK] = sum;
}
