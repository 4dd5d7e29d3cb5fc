// Pooling of maps [images, h, w, c] to [images, h_out, w_out, c] by windows of KERNEL_SIZE, STRIDE and PADDING. Padding
// is no maximum and adds nothing to a mean, which is over the whole window all the same. The ways back gather: no two
// threads write one place.
#define AREA (KERNEL_SIZE * KERNEL_SIZE)

// best [images, h_out, w_out, c]: which pixel of its window is the first maximum.
KERNEL(max_pool_forward)(IN(STORE, xs, 0), OUT(STORE, ys, 1), OUT(uchar, best, 2), VALUE(uint, n, 3), VALUE(uint, h, 4),
                         VALUE(uint, w, 5), VALUE(uint, h_out, 6), VALUE(uint, w_out, 7), VALUE(uint, c, 8) IDS) {
    for (uint i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) {
        const uint channel = i % c, column = i / c % w_out, row = i / c / w_out % h_out, image = i / c / w_out / h_out;
        uint found = AREA;
        REAL highest = 0;
        for (uint k = 0; k < AREA; k++) {
            // Wraps below 0 and is then beyond the map, too.
            const uint y = row * STRIDE + k / KERNEL_SIZE - PADDING, x = column * STRIDE + k % KERNEL_SIZE - PADDING;
            if (y < h && x < w) {
                const REAL value = LOAD(xs[((image * h + y) * w + x) * c + channel]);
                if (found == AREA || value > highest) {
                    highest = value;
                    found = k;
                }
            }
        }
        ys[i] = SAVE(highest);
        best[i] = (uchar)found;
    }
}

KERNEL(max_pool_backward)(IN(STORE, grad_ys, 0), IN(uchar, best, 1), OUT(STORE, grad_xs, 2), VALUE(uint, n, 3),
                          VALUE(uint, h, 4), VALUE(uint, w, 5), VALUE(uint, h_out, 6), VALUE(uint, w_out, 7),
                          VALUE(uint, c, 8) IDS) {
    for (uint i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) {
        const uint channel = i % c, x = i / c % w, y = i / c / w % h, image = i / c / w / h;
        REAL grad = 0;
        for (uint k = 0; k < AREA; k++) {
            const uint top = y + PADDING - k / KERNEL_SIZE, left = x + PADDING - k % KERNEL_SIZE;
            if (top % STRIDE == 0 && left % STRIDE == 0 && top / STRIDE < h_out && left / STRIDE < w_out) {
                const uint from = ((image * h_out + top / STRIDE) * w_out + left / STRIDE) * c + channel;
                if (best[from] == k) grad += LOAD(grad_ys[from]);
            }
        }
        grad_xs[i] = SAVE(grad);
    }
}

KERNEL(average_pool_forward)(IN(STORE, xs, 0), OUT(STORE, ys, 1), VALUE(uint, n, 2), VALUE(uint, h, 3),
                             VALUE(uint, w, 4), VALUE(uint, h_out, 5), VALUE(uint, w_out, 6), VALUE(uint, c, 7) IDS) {
    for (uint i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) {
        const uint channel = i % c, column = i / c % w_out, row = i / c / w_out % h_out, image = i / c / w_out / h_out;
        REAL sum = 0;
        for (uint k = 0; k < AREA; k++) {
            const uint y = row * STRIDE + k / KERNEL_SIZE - PADDING, x = column * STRIDE + k % KERNEL_SIZE - PADDING;
            if (y < h && x < w) sum += LOAD(xs[((image * h + y) * w + x) * c + channel]);
        }
        ys[i] = SAVE(sum / (REAL)AREA);
    }
}

KERNEL(average_pool_backward)(IN(STORE, grad_ys, 0), OUT(STORE, grad_xs, 1), VALUE(uint, n, 2), VALUE(uint, h, 3),
                              VALUE(uint, w, 4), VALUE(uint, h_out, 5), VALUE(uint, w_out, 6), VALUE(uint, c, 7) IDS) {
    for (uint i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) {
        const uint channel = i % c, x = i / c % w, y = i / c / w % h, image = i / c / w / h;
        REAL grad = 0;
        for (uint k = 0; k < AREA; k++) {
            const uint top = y + PADDING - k / KERNEL_SIZE, left = x + PADDING - k % KERNEL_SIZE;
            if (top % STRIDE == 0 && left % STRIDE == 0 && top / STRIDE < h_out && left / STRIDE < w_out) {
                grad += LOAD(grad_ys[((image * h_out + top / STRIDE) * w_out + left / STRIDE) * c + channel]);
            }
        }
        grad_xs[i] = SAVE(grad / (REAL)AREA);
    }
}
