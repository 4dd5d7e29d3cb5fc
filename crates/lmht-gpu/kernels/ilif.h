// I-LIF neurons (SpikeYOLO, ECCV 2024): m = λ v + x, s = #{k in 1..=LEVELS : m >= k - 1/2}, v = m - s. Currents
// [TIMESTEPS, n] to counts, and back. λ is not learned.
FUNCTION void count_spikes(PRIVATE const REAL *x, REAL leak, PRIVATE REAL *m, PRIVATE REAL *y) {
    REAL v = 0;
    for (uint t = 0; t < TIMESTEPS; t++) {
        m[t] = leak * v + x[t];
        uint spikes = 0;
        for (uint k = 1; k <= LEVELS; k++) spikes += m[t] >= (REAL)k - HALF ? 1u : 0u;
        y[t] = (REAL)spikes;
        v = m[t] - y[t];
    }
}

KERNEL(ilif_forward)(IN(STORE, xs, 0), OUT(STORE, ys, 1), VALUE(uint, n, 2), VALUE(REAL, leak, 3) IDS) {
    for (uint i = (BLOCK * THREADS + THREAD) * WIDTH; i < n; i += BLOCKS * THREADS * WIDTH) {
        REAL x[WIDTH * TIMESTEPS], m[TIMESTEPS], y[WIDTH * TIMESTEPS];
        for (uint t = 0; t < TIMESTEPS; t++) read_lanes(xs + t * n + i, x + t, TIMESTEPS);
        UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
            count_spikes(x + lane * TIMESTEPS, leak, m, y + lane * TIMESTEPS);
        }
        for (uint t = 0; t < TIMESTEPS; t++) write_lanes(ys + t * n + i, y + t, TIMESTEPS);
    }
}

KERNEL(ilif_backward)(IN(STORE, xs, 0), IN(STORE, grad_ys, 1), OUT(STORE, grad_xs, 2), VALUE(uint, n, 3),
                      VALUE(REAL, leak, 4) IDS) {
    for (uint i = (BLOCK * THREADS + THREAD) * WIDTH; i < n; i += BLOCKS * THREADS * WIDTH) {
        REAL x[WIDTH * TIMESTEPS], grad[WIDTH * TIMESTEPS], m[TIMESTEPS], y[TIMESTEPS];
        for (uint t = 0; t < TIMESTEPS; t++) {
            read_lanes(xs + t * n + i, x + t, TIMESTEPS);
            read_lanes(grad_ys + t * n + i, grad + t, TIMESTEPS);
        }
        UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
            count_spikes(x + lane * TIMESTEPS, leak, m, y);
            REAL next = 0;
            for (uint back = 1; back <= TIMESTEPS; back++) {
                const uint t = TIMESTEPS - back;
                const REAL passed = (REAL)0 <= m[t] && m[t] <= (REAL)LEVELS ? grad[lane * TIMESTEPS + t] : (REAL)0;
                next = DETACHED ? passed : passed + leak * next;
                grad[lane * TIMESTEPS + t] = next;
            }
        }
        for (uint t = 0; t < TIMESTEPS; t++) write_lanes(grad_xs + t * n + i, grad + t, TIMESTEPS);
    }
}
