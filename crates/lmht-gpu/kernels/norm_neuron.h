// Batch norm, shortcut and LM-HT neuron as one pass each way: xs [TIMESTEPS, rows, channels], the output of a synapse,
// to spikes. The current is never written; the backward passes compute it again.
//
// PACKED (0 or 1): whether the forward pass also gives each spike as a byte, the count in the low 7 bits and 128 where
// the gate of the surrogate lets a gradient pass: what a synapse behind it keeps for its backward pass.
//
// SHORTCUT: 0 none; 1 a value that is added to the current; 2 a synapse's output with a batch norm of its own. Without
// one, `shortcut` and `norm2` are not read.
#define N_SUMS (SHORTCUT == 2 ? 3 : 2)

// What belongs to a thread's channels: mean, scale, bias and the inverse deviation, and the same of the shortcut.
#define NORMS (4 * WIDTH)
FUNCTION void read_norm(GLOBAL const REAL *norm, PRIVATE REAL *out, uint channel, uint channels) {
    UNROLL for (uint row = 0; row < 4; row++) {
        UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
            out[row * WIDTH + lane] = channel < channels ? norm[row * channels + channel + lane] : (REAL)0;
        }
    }
}
FUNCTION REAL normalized(PRIVATE const REAL *norm, uint lane, REAL x) {
    return (x - norm[MEAN * WIDTH + lane]) * norm[SCALE * WIDTH + lane] + norm[BIAS * WIDTH + lane];
}

// The currents of WIDTH units, [WIDTH, TIMESTEPS]; `stride` from one timestep to the next.
FUNCTION void currents(GLOBAL const STORE *xs, GLOBAL const STORE *shortcut, PRIVATE const REAL *norm,
                       PRIVATE const REAL *norm2, uint stride, PRIVATE REAL *out) {
    UNROLL_T for (uint t = 0; t < TIMESTEPS; t++) {
        read_lanes(xs + t * stride, out + t, TIMESTEPS);
#if SHORTCUT != 0
        REAL added[WIDTH];
        read_lanes(shortcut + t * stride, added, 1);
#endif
        UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
            REAL current = normalized(norm, lane, out[lane * TIMESTEPS + t]);
#if SHORTCUT == 1
            current += added[lane];
#elif SHORTCUT == 2
            current += normalized(norm2, lane, added[lane]);
#endif
            out[lane * TIMESTEPS + t] = current;
        }
    }
}

KERNEL(norm_neuron_forward)(IN(STORE, xs, 0), IN(STORE, shortcut, 1), IN(REAL, norm, 2), IN(REAL, norm2, 3),
                            IN(REAL, numbers, 4), OUT(STORE, ys, 5), OUT(uchar, packed, 6), VALUE(uint, rows, 7),
                            VALUE(uint, channels, 8), VALUE(uint, tiles, 9), VALUE(REAL, theta, 10),
                            VALUE(REAL, v_init, 11) IDS) {
    SHARED(REAL, learned, N_LEARNED);
    for (uint k = THREAD; k < N_LEARNED; k += THREADS) learned[k] = numbers[k];
    BARRIER();
    const uint channel = CHANNEL, n = rows * channels;
    const REAL low = HALF * theta, high = ((REAL)LEVELS + HALF) * theta;
    REAL own[NORMS], other[NORMS];
    read_norm(norm, own, channel, channels);
    if (SHORTCUT == 2) read_norm(norm2, other, channel, channels);
    for (uint row = FIRST_ROW; row < rows; row += NEXT_ROW) {
        const uint e = row * channels + channel;
        REAL x[WIDTH * TIMESTEPS], v_before[TIMESTEPS], v_charged[TIMESTEPS], y[TIMESTEPS];
        uchar bytes[WIDTH * TIMESTEPS];
        currents(xs + e, shortcut + e, own, other, n, x);
        UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
            charge_fire_reset(x + lane * TIMESTEPS, learned, theta, v_init, v_before, v_charged, y);
            UNROLL_T for (uint t = 0; t < TIMESTEPS; t++) {
                x[lane * TIMESTEPS + t] = y[t];
                if (PACKED) {
                    const uint passes = low <= v_charged[t] && v_charged[t] <= high;
                    bytes[t * WIDTH + lane] = (uchar)((uint)(y[t] / theta + HALF) | passes << 7);
                }
            }
        }
        UNROLL_T for (uint t = 0; t < TIMESTEPS; t++) {
            write_lanes(ys + t * n + e, x + t, TIMESTEPS);
            if (PACKED) write_bytes(packed + t * n + e, bytes + t * WIDTH);
        }
    }
}

// The first pass back: partial [CHUNKS, N_SUMS, channels], shares of dLoss/dbias, dLoss/dweight and the shortcut's
// dLoss/dweight; learned_partial [BLOCKS, N_LEARNED].
KERNEL(norm_neuron_sums)(IN(STORE, xs, 0), IN(STORE, shortcut, 1), IN(REAL, norm, 2), IN(REAL, norm2, 3),
                         IN(REAL, numbers, 4), IN(STORE, grad_ys, 5), OUT(REAL, partial, 6),
                         OUT(REAL, learned_partial, 7), VALUE(uint, rows, 8), VALUE(uint, channels, 9),
                         VALUE(uint, tiles, 10), VALUE(REAL, theta, 11), VALUE(REAL, v_init, 12) IDS) {
    SHARED(REAL, learned, N_LEARNED);
    SHARED(REAL, tree, THREADS);
    for (uint k = THREAD; k < N_LEARNED; k += THREADS) learned[k] = numbers[k];
    BARRIER();
    const uint channel = CHANNEL, n = rows * channels;
    REAL own[NORMS], other[NORMS], sums[3 * WIDTH], shares[N_LEARNED];
    read_norm(norm, own, channel, channels);
    if (SHORTCUT == 2) read_norm(norm2, other, channel, channels);
    UNROLL for (uint k = 0; k < 3 * WIDTH; k++) sums[k] = 0;
    UNROLL_T for (uint k = 0; k < N_LEARNED; k++) shares[k] = 0;
    for (uint row = FIRST_ROW; row < rows; row += NEXT_ROW) {
        const uint e = row * channels + channel;
        REAL x[WIDTH * TIMESTEPS], grad[WIDTH * TIMESTEPS];
        currents(xs + e, shortcut + e, own, other, n, x);
        UNROLL_T for (uint t = 0; t < TIMESTEPS; t++) read_lanes(grad_ys + t * n + e, grad + t, TIMESTEPS);
        UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
            unit_backward(x + lane * TIMESTEPS, grad + lane * TIMESTEPS, learned, theta, v_init, shares, 1);
        }
        UNROLL_T for (uint t = 0; t < TIMESTEPS; t++) {
            REAL raw[WIDTH];
            read_lanes(xs + t * n + e, raw, 1);
            UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
                const REAL g = grad[lane * TIMESTEPS + t];
                const REAL unit = (raw[lane] - own[MEAN * WIDTH + lane]) * own[INVERSE * WIDTH + lane];
                sums[lane] += g;
                sums[WIDTH + lane] += g * unit;
            }
#if SHORTCUT == 2
            read_lanes(shortcut + t * n + e, raw, 1);
            UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
                const REAL unit = (raw[lane] - other[MEAN * WIDTH + lane]) * other[INVERSE * WIDTH + lane];
                sums[2 * WIDTH + lane] += grad[lane * TIMESTEPS + t] * unit;
            }
#endif
        }
    }
    UNROLL for (uint k = 0; k < N_SUMS * WIDTH; k++) {
        const REAL sum = tree_sum(tree, sums[k], THREAD, COLUMNS);
        if (WRITES) partial[(CHUNK * N_SUMS + k / WIDTH) * channels + channel + k % WIDTH] = sum;
    }
    UNROLL_T for (uint k = 0; k < N_LEARNED; k++) {
        const REAL sum = tree_sum(tree, shares[k], THREAD, 1);
        if (THREAD == 0) learned_partial[BLOCK * N_LEARNED + k] = sum;
    }
}

// The second pass back, with sums [N_SUMS, channels]: the gradients of what the synapse and the shortcut gave.
// `inverse_count` is 1 over the values of a channel, or 0 where the statistics are constants.
KERNEL(norm_neuron_backward)(IN(STORE, xs, 0), IN(STORE, shortcut, 1), IN(REAL, norm, 2), IN(REAL, norm2, 3),
                             IN(REAL, numbers, 4), IN(STORE, grad_ys, 5), IN(REAL, sums, 6), OUT(STORE, grad_xs, 7),
                             OUT(STORE, grad_shortcut, 8), VALUE(uint, rows, 9), VALUE(uint, channels, 10),
                             VALUE(uint, tiles, 11), VALUE(REAL, theta, 12), VALUE(REAL, v_init, 13),
                             VALUE(REAL, inverse_count, 14) IDS) {
    SHARED(REAL, learned, N_LEARNED);
    for (uint k = THREAD; k < N_LEARNED; k += THREADS) learned[k] = numbers[k];
    BARRIER();
    const uint channel = CHANNEL, n = rows * channels;
    REAL own[NORMS], other[NORMS], means[3 * WIDTH], shares[N_LEARNED];
    read_norm(norm, own, channel, channels);
    if (SHORTCUT == 2) read_norm(norm2, other, channel, channels);
    UNROLL for (uint k = 0; k < N_SUMS * WIDTH; k++) {
        means[k] = channel < channels ? sums[k / WIDTH * channels + channel + k % WIDTH] * inverse_count : (REAL)0;
    }
    for (uint row = FIRST_ROW; row < rows; row += NEXT_ROW) {
        const uint e = row * channels + channel;
        REAL x[WIDTH * TIMESTEPS], grad[WIDTH * TIMESTEPS];
        currents(xs + e, shortcut + e, own, other, n, x);
        UNROLL_T for (uint t = 0; t < TIMESTEPS; t++) read_lanes(grad_ys + t * n + e, grad + t, TIMESTEPS);
        UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
            unit_backward(x + lane * TIMESTEPS, grad + lane * TIMESTEPS, learned, theta, v_init, shares, 0);
        }
        UNROLL_T for (uint t = 0; t < TIMESTEPS; t++) {
            REAL raw[WIDTH], out[WIDTH];
            read_lanes(xs + t * n + e, raw, 1);
            UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
                const REAL unit = (raw[lane] - own[MEAN * WIDTH + lane]) * own[INVERSE * WIDTH + lane];
                const REAL g = grad[lane * TIMESTEPS + t] - means[lane] - unit * means[WIDTH + lane];
                out[lane] = own[SCALE * WIDTH + lane] * g;
            }
            write_lanes(grad_xs + t * n + e, out, 1);
#if SHORTCUT == 1
            write_lanes(grad_shortcut + t * n + e, grad + t, TIMESTEPS);
#elif SHORTCUT == 2
            read_lanes(shortcut + t * n + e, raw, 1);
            UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
                const REAL unit = (raw[lane] - other[MEAN * WIDTH + lane]) * other[INVERSE * WIDTH + lane];
                const REAL g = grad[lane * TIMESTEPS + t] - means[lane] - unit * means[2 * WIDTH + lane];
                out[lane] = other[SCALE * WIDTH + lane] * g;
            }
            write_lanes(grad_shortcut + t * n + e, out, 1);
#endif
        }
    }
}
