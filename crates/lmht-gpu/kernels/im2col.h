// A convolution as a product: xs [images, h, w, c] to columns [pixels, KERNEL_SIZE², c], a row for each output pixel
// from `first` on, so that a caller with little memory takes some pixels at a time; and back, for whole images.

KERNEL(im2col)(IN(STORE, xs, 0), OUT(STORE, columns, 1), VALUE(uint, n, 2), VALUE(uint, first, 3), VALUE(uint, h, 4),
               VALUE(uint, w, 5), VALUE(uint, h_out, 6), VALUE(uint, w_out, 7), VALUE(uint, c, 8) IDS) {
    for (uint i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) {
        const uint channel = i % c, k = i / c % (KERNEL_SIZE * KERNEL_SIZE);
        const uint pixel = first + i / c / (KERNEL_SIZE * KERNEL_SIZE);
        const uint column = pixel % w_out, row = pixel / w_out % h_out, image = pixel / w_out / h_out;
        // Wraps below 0 and is then beyond the map, too.
        const uint y = row * STRIDE + k / KERNEL_SIZE - PADDING, x = column * STRIDE + k % KERNEL_SIZE - PADDING;
        columns[i] = y < h && x < w ? xs[((image * h + y) * w + x) * c + channel] : SAVE((REAL)0);
    }
}

// columns: of `n / (h w c)` images from `first` on. grad_xs [images, h, w, c], of which those images are written.
KERNEL(col2im)(IN(STORE, columns, 0), OUT(STORE, grad_xs, 1), VALUE(uint, n, 2), VALUE(uint, first, 3),
               VALUE(uint, h, 4), VALUE(uint, w, 5), VALUE(uint, h_out, 6), VALUE(uint, w_out, 7),
               VALUE(uint, c, 8) IDS) {
    for (uint i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) {
        const uint channel = i % c, x = i / c % w, y = i / c / w % h, image = i / c / w / h;
        REAL grad = 0;
        for (uint k = 0; k < KERNEL_SIZE * KERNEL_SIZE; k++) {
            const uint top = y + PADDING - k / KERNEL_SIZE, left = x + PADDING - k % KERNEL_SIZE;
            if (top % STRIDE == 0 && left % STRIDE == 0 && top / STRIDE < h_out && left / STRIDE < w_out) {
                const uint pixel = (image * h_out + top / STRIDE) * w_out + left / STRIDE;
                grad += LOAD(columns[(pixel * KERNEL_SIZE * KERNEL_SIZE + k) * c + channel]);
            }
        }
        grad_xs[first * h * w * c + i] = SAVE(grad);
    }
}
