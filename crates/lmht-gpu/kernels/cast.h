// Elements between the types: STORE and REAL, and spikes s θ as bytes s.
KERNEL(widen)(IN(STORE, xs, 0), OUT(REAL, ys, 1), VALUE(uint, n, 2) IDS) {
    for (uint i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) ys[i] = LOAD(xs[i]);
}

KERNEL(narrow)(IN(REAL, xs, 0), OUT(STORE, ys, 1), VALUE(uint, n, 2) IDS) {
    for (uint i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) ys[i] = SAVE(xs[i]);
}

// Counts above 255 are 255.
KERNEL(pack_counts)(IN(STORE, xs, 0), OUT(uchar, counts, 1), VALUE(uint, n, 2), VALUE(REAL, theta, 3) IDS) {
    for (uint i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) {
        const REAL count = FLOOR(LOAD(xs[i]) / theta + HALF);
        counts[i] = count >= (REAL)255 ? (uchar)255 : (uchar)count;
    }
}

KERNEL(unpack_counts)(IN(uchar, counts, 0), OUT(STORE, ys, 1), VALUE(uint, n, 2), VALUE(REAL, theta, 3) IDS) {
    for (uint i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) ys[i] = SAVE((REAL)counts[i] * theta);
}
