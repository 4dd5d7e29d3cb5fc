// One unit of an LM-HT, M-HT, IF or LIF neuron (Hao et al. 2024, Eqs. 5-9), forward and backward.
//
// Specialised by TIMESTEPS, LEVELS, WINDOW, TGIM (0 identity, 1 causal, 2 full) and DETACHED (0 or 1). The learned
// numbers are [N_LEARNED]: Ω row by row, unless it is the identity, then λ.
#if TGIM == 0
#define MATRIX 0
#else
#define MATRIX (TIMESTEPS * TIMESTEPS)
#endif
#define N_LEARNED (MATRIX + 1)
#define FREE(t, j) (TGIM == 2 || (TGIM == 1 && (j) <= (t)))
#if TIMESTEPS <= 8
#define UNROLL_T UNROLL
#else
#define UNROLL_T
#endif

// x(t) in; v(t-1), m(t) and s(t) θ out, [TIMESTEPS] each.
FUNCTION void charge_fire_reset(PRIVATE const REAL *x, SHARED_PTR const REAL *learned, REAL theta, REAL v_init,
                                PRIVATE REAL *v_before, PRIVATE REAL *v_charged, PRIVATE REAL *y) {
    const REAL leak = learned[MATRIX];
    REAL v = v_init * theta;
    // What a window has been given, and the spikes that it has sent: m = total - count θ.
    REAL total = 0;
    uint count = 0;
    UNROLL_T for (uint t = 0; t < TIMESTEPS; t++) {
        REAL current = x[t];
#if TGIM != 0
        current = learned[t * TIMESTEPS] * x[0];
        UNROLL_T for (uint j = 1; j < TIMESTEPS; j++) {
            if (FREE(t, j)) current += learned[t * TIMESTEPS + j] * x[j];
        }
#endif
        const uint enters = t % WINDOW == 0;
        total = enters ? leak * v + current : total + current;
        count = enters ? 0 : count;
        v_before[t] = v;
        v_charged[t] = total - (REAL)count * theta;
        uint spikes = 0;
        for (uint k = 1; k <= LEVELS; k++) spikes += total >= (REAL)(count + k) * theta ? 1u : 0u;
        count += spikes;
        v = total - (REAL)count * theta;
        y[t] = (REAL)spikes * theta;
    }
}

// From dLoss/d(s θ) to dLoss/dx, in place of it; adds the unit's share of the learned numbers' gradients to `shares` if
// `learns`.
FUNCTION void unit_backward(PRIVATE const REAL *x, PRIVATE REAL *grad, SHARED_PTR const REAL *learned, REAL theta,
                            REAL v_init, PRIVATE REAL *shares, uint learns) {
    const REAL low = HALF * theta, high = ((REAL)LEVELS + HALF) * theta;
    REAL v_before[TIMESTEPS], v_charged[TIMESTEPS], y[TIMESTEPS], grad_m[TIMESTEPS];
    charge_fire_reset(x, learned, theta, v_init, v_before, v_charged, y);
    REAL grad_v = 0;
    UNROLL_T for (uint back = 1; back <= TIMESTEPS; back++) {
        const uint t = TIMESTEPS - back;
        const uint passes = low <= v_charged[t] && v_charged[t] <= high;
        // v = m - s θ: inside the gate the two parts cancel, outside of it dv/dm = 1.
        grad_m[t] = passes ? grad[t] : DETACHED ? (REAL)0 : grad_v;
        grad_v = t % WINDOW == 0 ? learned[MATRIX] * grad_m[t] : grad_m[t];
        if (learns && t % WINDOW == 0) shares[MATRIX] += grad_m[t] * v_before[t];
    }
    UNROLL_T for (uint j = 0; j < TIMESTEPS; j++) {
        grad[j] = grad_m[j];
#if TGIM != 0
        const uint first = TGIM == 1 ? j : 0;
        grad[j] = learned[first * TIMESTEPS + j] * grad_m[first];
        UNROLL_T for (uint t = 0; t < TIMESTEPS; t++) {
            if (FREE(t, j) && t > first) grad[j] += learned[t * TIMESTEPS + j] * grad_m[t];
            if (FREE(t, j) && learns) shares[t * TIMESTEPS + j] += grad_m[t] * x[j];
        }
#endif
    }
}
