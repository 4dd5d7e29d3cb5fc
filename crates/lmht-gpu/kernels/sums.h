// Sums over blocks: each block writes its share, a second launch adds the shares. Every order is fixed, so the result
// is the same bits at every run.

// The sum of `value` over the threads of a block whose numbers leave the same remainder by `columns`, a power of two.
// It is in `sums[me]` of the first `columns` threads, for themselves.
FUNCTION REAL tree_sum(SHARED_PTR REAL *sums, REAL value, uint me, uint columns) {
    BARRIER();
    sums[me] = value;
    for (uint width = THREADS / 2; width >= columns; width /= 2) {
        BARRIER();
        if (me < width) sums[me] += sums[me + width];
    }
    return sums[me];
}

// sums [BLOCKS] of partial [rows, BLOCKS]: a block for each sum.
KERNEL(finish_sums)(IN(REAL, partial, 0), OUT(REAL, sums, 1), VALUE(uint, rows, 2) IDS) {
    SHARED(REAL, tree, THREADS);
    REAL share = 0;
    for (uint row = THREAD; row < rows; row += THREADS) share += partial[row * BLOCKS + BLOCK];
    const REAL sum = tree_sum(tree, share, THREAD, 1);
    if (THREAD == 0) sums[BLOCK] = sum;
}
