// Batch norm of xs [rows, channels], channels last: y = (x - mean) scale + bias, scale = weight / sqrt(variance + eps).

// Joins two samples' means and sums of squared deviations (Chan, Golub and LeVeque 1979).
FUNCTION void join(PRIVATE REAL *count, PRIVATE REAL *mean, PRIVATE REAL *squares, REAL count2, REAL mean2,
                   REAL squares2) {
    const REAL total = *count + count2, delta = mean2 - *mean;
    if (count2 > 0) {
        *mean += delta * (count2 / total);
        *squares += squares2 + delta * delta * (*count * (count2 / total));
        *count = total;
    }
}

// `join` over the threads of a block whose numbers leave the same remainder by `columns`: for the first `columns`
// threads.
FUNCTION void tree_join(SHARED_PTR REAL *counts, SHARED_PTR REAL *means, SHARED_PTR REAL *squares, PRIVATE REAL *count,
                        PRIVATE REAL *mean, PRIVATE REAL *square, uint me, uint columns) {
    BARRIER();
    counts[me] = *count;
    means[me] = *mean;
    squares[me] = *square;
    for (uint width = THREADS / 2; width >= columns; width /= 2) {
        BARRIER();
        if (me < width) {
            join(count, mean, square, counts[me + width], means[me + width], squares[me + width]);
            counts[me] = *count;
            means[me] = *mean;
            squares[me] = *square;
        }
    }
}

// partial [CHUNKS, 3, channels]: count, mean and sum of squared deviations of each block's rows.
KERNEL(statistics)(IN(STORE, xs, 0), OUT(REAL, partial, 1), VALUE(uint, rows, 2), VALUE(uint, channels, 3),
                   VALUE(uint, tiles, 4) IDS) {
    SHARED(REAL, counts, THREADS);
    SHARED(REAL, means, THREADS);
    SHARED(REAL, squares, THREADS);
    const uint channel = CHANNEL;
    REAL count = 0, shift[WIDTH], sum[WIDTH], square[WIDTH];
    UNROLL for (uint lane = 0; lane < WIDTH; lane++) shift[lane] = sum[lane] = square[lane] = 0;
    for (uint row = FIRST_ROW; row < rows; row += NEXT_ROW) {
        REAL x[WIDTH];
        read_lanes(xs + row * channels + channel, x, 1);
        UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
            // Deviations from the first value: squares of the values themselves would cancel.
            if (count == 0) shift[lane] = x[lane];
            const REAL deviation = x[lane] - shift[lane];
            sum[lane] += deviation;
            square[lane] += deviation * deviation;
        }
        count += 1;
    }
    UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
        const REAL offset = count > 0 ? sum[lane] / count : (REAL)0;
        REAL c = count, m = shift[lane] + offset, s = square[lane] - offset * sum[lane];
        tree_join(counts, means, squares, &c, &m, &s, THREAD, COLUMNS);
        if (WRITES) {
            partial[(CHUNK * 3 + 0) * channels + channel + lane] = c;
            partial[(CHUNK * 3 + 1) * channels + channel + lane] = m;
            partial[(CHUNK * 3 + 2) * channels + channel + lane] = s;
        }
    }
}

// norm [4, BLOCKS], see columns.h, and the running statistics: a block for each channel. `unbiased` is the factor from
// the variance to what the running variance receives.
KERNEL(finish_statistics)(IN(REAL, partial, 0), IN(REAL, weight, 1), IN(REAL, bias, 2), OUT(REAL, running_mean, 3),
                          OUT(REAL, running_var, 4), OUT(REAL, norm, 5), VALUE(uint, chunks, 6), VALUE(REAL, eps, 7),
                          VALUE(REAL, momentum, 8), VALUE(REAL, unbiased, 9) IDS) {
    SHARED(REAL, counts, THREADS);
    SHARED(REAL, means, THREADS);
    SHARED(REAL, squares, THREADS);
    REAL count = 0, mean = 0, square = 0;
    for (uint chunk = THREAD; chunk < chunks; chunk += THREADS) {
        GLOBAL const REAL *share = partial + chunk * 3 * BLOCKS + BLOCK;
        join(&count, &mean, &square, share[0], share[BLOCKS], share[2 * BLOCKS]);
    }
    tree_join(counts, means, squares, &count, &mean, &square, THREAD, 1);
    if (THREAD == 0) {
        const REAL variance = square / count, inverse = (REAL)1 / SQRT(variance + eps);
        norm[MEAN * BLOCKS + BLOCK] = mean;
        norm[INVERSE * BLOCKS + BLOCK] = inverse;
        norm[SCALE * BLOCKS + BLOCK] = weight[BLOCK] * inverse;
        norm[BIAS * BLOCKS + BLOCK] = bias[BLOCK];
        running_mean[BLOCK] = ((REAL)1 - momentum) * running_mean[BLOCK] + momentum * mean;
        running_var[BLOCK] = ((REAL)1 - momentum) * running_var[BLOCK] + momentum * (variance * unbiased);
    }
}

// norm [4, channels] by the running statistics.
KERNEL(running_norm)(IN(REAL, weight, 0), IN(REAL, bias, 1), IN(REAL, running_mean, 2), IN(REAL, running_var, 3),
                     OUT(REAL, norm, 4), VALUE(uint, channels, 5), VALUE(REAL, eps, 6) IDS) {
    const uint channel = BLOCK * THREADS + THREAD;
    if (channel < channels) {
        const REAL inverse = (REAL)1 / SQRT(running_var[channel] + eps);
        norm[MEAN * channels + channel] = running_mean[channel];
        norm[INVERSE * channels + channel] = inverse;
        norm[SCALE * channels + channel] = weight[channel] * inverse;
        norm[BIAS * channels + channel] = bias[channel];
    }
}

KERNEL(batch_norm_forward)(IN(STORE, xs, 0), IN(REAL, norm, 1), OUT(STORE, ys, 2), VALUE(uint, rows, 3),
                           VALUE(uint, channels, 4), VALUE(uint, tiles, 5) IDS) {
    const uint channel = CHANNEL;
    REAL mean[WIDTH], scale[WIDTH], bias[WIDTH];
    if (channel < channels) UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
        mean[lane] = norm[MEAN * channels + channel + lane];
        scale[lane] = norm[SCALE * channels + channel + lane];
        bias[lane] = norm[BIAS * channels + channel + lane];
    }
    for (uint row = FIRST_ROW; row < rows; row += NEXT_ROW) {
        REAL x[WIDTH];
        read_lanes(xs + row * channels + channel, x, 1);
        UNROLL for (uint lane = 0; lane < WIDTH; lane++) x[lane] = (x[lane] - mean[lane]) * scale[lane] + bias[lane];
        write_lanes(ys + row * channels + channel, x, 1);
    }
}

// partial [CHUNKS, 2, channels]: shares of dLoss/dbias and dLoss/dweight.
KERNEL(batch_norm_sums)(IN(STORE, xs, 0), IN(REAL, norm, 1), IN(STORE, grad_ys, 2), OUT(REAL, partial, 3),
                        VALUE(uint, rows, 4), VALUE(uint, channels, 5), VALUE(uint, tiles, 6) IDS) {
    SHARED(REAL, tree, THREADS);
    const uint channel = CHANNEL;
    REAL mean[WIDTH], inverse[WIDTH], plain[WIDTH], product[WIDTH];
    UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
        plain[lane] = product[lane] = 0;
        mean[lane] = channel < channels ? norm[MEAN * channels + channel + lane] : (REAL)0;
        inverse[lane] = channel < channels ? norm[INVERSE * channels + channel + lane] : (REAL)0;
    }
    for (uint row = FIRST_ROW; row < rows; row += NEXT_ROW) {
        REAL x[WIDTH], grad[WIDTH];
        read_lanes(xs + row * channels + channel, x, 1);
        read_lanes(grad_ys + row * channels + channel, grad, 1);
        UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
            plain[lane] += grad[lane];
            product[lane] += grad[lane] * ((x[lane] - mean[lane]) * inverse[lane]);
        }
    }
    UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
        const REAL bias = tree_sum(tree, plain[lane], THREAD, COLUMNS);
        if (WRITES) partial[(CHUNK * 2 + 0) * channels + channel + lane] = bias;
        const REAL weight = tree_sum(tree, product[lane], THREAD, COLUMNS);
        if (WRITES) partial[(CHUNK * 2 + 1) * channels + channel + lane] = weight;
    }
}

// sums [2, channels]: dLoss/dbias and dLoss/dweight. `inverse_count` is 1 / rows, or 0 where the statistics are
// constants.
KERNEL(batch_norm_backward)(IN(STORE, xs, 0), IN(REAL, norm, 1), IN(STORE, grad_ys, 2), IN(REAL, sums, 3),
                            OUT(STORE, grad_xs, 4), VALUE(uint, rows, 5), VALUE(uint, channels, 6),
                            VALUE(uint, tiles, 7), VALUE(REAL, inverse_count, 8) IDS) {
    const uint channel = CHANNEL;
    REAL mean[WIDTH], inverse[WIDTH], scale[WIDTH], plain[WIDTH], product[WIDTH];
    if (channel < channels) UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
        mean[lane] = norm[MEAN * channels + channel + lane];
        inverse[lane] = norm[INVERSE * channels + channel + lane];
        scale[lane] = norm[SCALE * channels + channel + lane];
        plain[lane] = sums[channel + lane] * inverse_count;
        product[lane] = sums[channels + channel + lane] * inverse_count;
    }
    for (uint row = FIRST_ROW; row < rows; row += NEXT_ROW) {
        REAL x[WIDTH], grad[WIDTH];
        read_lanes(xs + row * channels + channel, x, 1);
        read_lanes(grad_ys + row * channels + channel, grad, 1);
        UNROLL for (uint lane = 0; lane < WIDTH; lane++) {
            const REAL normalized = (x[lane] - mean[lane]) * inverse[lane];
            grad[lane] = scale[lane] * (grad[lane] - plain[lane] - normalized * product[lane]);
        }
        write_lanes(grad_xs + row * channels + channel, grad, 1);
    }
}
