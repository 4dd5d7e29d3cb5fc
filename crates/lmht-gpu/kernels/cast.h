// Elements between the types: STORE and REAL, and spikes s θ as bytes, whose low 7 bits are s (lmht_core::IN_GATE is
// the other).
KERNEL(widen)(IN(STORE, xs, 0), OUT(REAL, ys, 1), VALUE(uint, n, 2) IDS) {
    for (uint i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) ys[i] = LOAD(xs[i]);
}

KERNEL(narrow)(IN(REAL, xs, 0), OUT(STORE, ys, 1), VALUE(uint, n, 2) IDS) {
    for (uint i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) ys[i] = SAVE(xs[i]);
}

// Counts above 127 are 127.
KERNEL(pack_counts)(IN(STORE, xs, 0), OUT(uchar, counts, 1), VALUE(uint, n, 2), VALUE(REAL, theta, 3) IDS) {
    for (uint i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) {
        const REAL count = FLOOR(LOAD(xs[i]) / theta + HALF);
        counts[i] = count >= (REAL)127 ? (uchar)127 : (uchar)count;
    }
}

KERNEL(unpack_counts)(IN(uchar, counts, 0), OUT(STORE, ys, 1), VALUE(uint, n, 2), VALUE(REAL, theta, 3) IDS) {
    for (uint i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) {
        ys[i] = SAVE((REAL)(counts[i] & 127u) * theta);
    }
}
