// A batch out of all images that there are, moved, mirrored, looked up in a table and cut out. Numbers are copied and none
// is computed, so what comes out has the table's bits.

// images [n_images, c, h, w]; choices [8, batch], as plans::gather says; table [c, 256], whose first column is the border,
// too; ys [batch, h, w, c]. An image that is not there is not a number.
KERNEL(gather)(IN(uchar, images, 0), IN(uint, choices, 1), IN(STORE, table, 2), OUT(STORE, ys, 3), VALUE(uint, n, 4),
               VALUE(uint, n_images, 5), VALUE(uint, batch, 6), VALUE(uint, h, 7), VALUE(uint, w, 8),
               VALUE(uint, c, 9) IDS) {
#define CHOICE(k) choices[(k) * batch + place]
    for (uint i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) {
        const uint channel = i % c, x = i / c % w, y = i / c / w % h, place = i / c / w / h, image = CHOICE(0);
        // Wraps below 0 and is then beyond the image, too.
        const uint row = y + CHOICE(1), column = (CHOICE(3) ? w - 1 - x : x) + CHOICE(2);
        if (image >= n_images) {
            ys[i] = SAVE((REAL)0 / (REAL)(image - image));
        } else if (CHOICE(4) <= y && y < CHOICE(5) && CHOICE(6) <= x && x < CHOICE(7)) {
            ys[i] = SAVE((REAL)0);
        } else {
            const uint pixel = ((image * c + channel) * h + row) * w + column;
            ys[i] = table[channel * 256 + (row < h && column < w ? (uint)images[pixel] : 0)];
        }
    }
#undef CHOICE
}
