// LM-HT, M-HT, IF and LIF neurons: currents [TIMESTEPS, n] to outputs, and back.
KERNEL(neuron_forward)(IN(STORE, xs, 0), IN(REAL, numbers, 1), OUT(STORE, ys, 2), VALUE(uint, n, 3),
                       VALUE(REAL, theta, 4), VALUE(REAL, v_init, 5) IDS) {
    SHARED(REAL, learned, N_LEARNED);
    for (uint k = THREAD; k < N_LEARNED; k += THREADS) learned[k] = numbers[k];
    BARRIER();
    for (uint i = (BLOCK * THREADS + THREAD) * WIDTH; i < n; i += BLOCKS * THREADS * WIDTH) {
        REAL x[WIDTH * TIMESTEPS], v_before[TIMESTEPS], v_charged[TIMESTEPS], y[TIMESTEPS];
        UNROLL_T for (uint t = 0; t < TIMESTEPS; t++) read_lanes(xs + t * n + i, x + t, TIMESTEPS);
        UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
            charge_fire_reset(x + lane * TIMESTEPS, learned, theta, v_init, v_before, v_charged, y);
            UNROLL_T for (uint t = 0; t < TIMESTEPS; t++) x[lane * TIMESTEPS + t] = y[t];
        }
        UNROLL_T for (uint t = 0; t < TIMESTEPS; t++) write_lanes(ys + t * n + i, x + t, TIMESTEPS);
    }
}

// partial [BLOCKS, N_LEARNED]: each block's share of the learned numbers' gradients.
KERNEL(neuron_backward)(IN(STORE, xs, 0), IN(REAL, numbers, 1), IN(STORE, grad_ys, 2), OUT(STORE, grad_xs, 3),
                        OUT(REAL, partial, 4), VALUE(uint, n, 5), VALUE(REAL, theta, 6), VALUE(REAL, v_init, 7) IDS) {
    SHARED(REAL, learned, N_LEARNED);
    SHARED(REAL, tree, THREADS);
    for (uint k = THREAD; k < N_LEARNED; k += THREADS) learned[k] = numbers[k];
    BARRIER();
    REAL shares[N_LEARNED];
    UNROLL_T for (uint k = 0; k < N_LEARNED; k++) shares[k] = 0;
    for (uint i = (BLOCK * THREADS + THREAD) * WIDTH; i < n; i += BLOCKS * THREADS * WIDTH) {
        REAL x[WIDTH * TIMESTEPS], grad[WIDTH * TIMESTEPS];
        UNROLL_T for (uint t = 0; t < TIMESTEPS; t++) {
            read_lanes(xs + t * n + i, x + t, TIMESTEPS);
            read_lanes(grad_ys + t * n + i, grad + t, TIMESTEPS);
        }
        UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
            unit_backward(x + lane * TIMESTEPS, grad + lane * TIMESTEPS, learned, theta, v_init, shares, 1);
        }
        UNROLL_T for (uint t = 0; t < TIMESTEPS; t++) write_lanes(grad_xs + t * n + i, grad + t, TIMESTEPS);
    }
    UNROLL_T for (uint k = 0; k < N_LEARNED; k++) {
        const REAL sum = tree_sum(tree, shares[k], THREAD, 1);
        if (THREAD == 0) partial[BLOCK * N_LEARNED + k] = sum;
    }
}
