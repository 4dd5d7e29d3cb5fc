// One update of all parameters in one launch. Parameters, gradients and states lie one after the other in buffers of
// `n` elements; tensor i ends before ends[i] and has the weight decay decays[i]. Parameters and states are REAL,
// gradients STORE; copies [n] receives the new parameters as STORE, to compute with. Gradients are divided by the loss
// scale on the way in.
//
// sum_squares [1] is of the gradients as they are. Where it is not finite nothing changes; where the norm is above
// max_norm > 0 the gradients are scaled down to it.

// partial [BLOCKS]: shares of sum_squares.
KERNEL(square_gradients)(IN(STORE, grads, 0), OUT(REAL, partial, 1), VALUE(uint, n, 2) IDS) {
    SHARED(REAL, tree, THREADS);
    REAL share = 0;
    for (uint i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) {
        const REAL g = LOAD(grads[i]);
        share += g * g;
    }
    const REAL sum = tree_sum(tree, share, THREAD, 1);
    if (THREAD == 0) partial[BLOCK] = sum;
}

// The factor of the gradients, or 0 if there is to be no update.
FUNCTION REAL gradient_factor(REAL sum_squares, REAL inverse_scale, REAL max_norm) {
    // Infinite or not a number: no difference from itself is 0.
    if (!(sum_squares - sum_squares == (REAL)0)) return 0;
    const REAL norm = SQRT(sum_squares) * inverse_scale;
    return max_norm > 0 && norm > max_norm ? inverse_scale * (max_norm / norm) : inverse_scale;
}

// The tensor that element i belongs to.
FUNCTION uint tensor_of(GLOBAL const uint *ends, uint tensors, uint i) {
    uint low = 0, high = tensors - 1;
    while (low < high) {
        const uint middle = (low + high) / 2;
        if (i < ends[middle]) high = middle; else low = middle + 1;
    }
    return low;
}

KERNEL(sgd)(IN(STORE, grads, 0), IN(uint, ends, 1), IN(REAL, decays, 2), IN(REAL, sum_squares, 3), OUT(REAL, params, 4),
            OUT(REAL, velocity, 5), OUT(STORE, copies, 6), VALUE(uint, n, 7), VALUE(uint, tensors, 8),
            VALUE(REAL, lr, 9), VALUE(REAL, momentum, 10), VALUE(REAL, inverse_scale, 11),
            VALUE(REAL, max_norm, 12) IDS) {
    const REAL factor = gradient_factor(sum_squares[0], inverse_scale, max_norm);
    for (uint i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) {
        REAL p = params[i];
        if (factor > 0) {
            const REAL d = LOAD(grads[i]) * factor + decays[tensor_of(ends, tensors, i)] * p;
            const REAL u = momentum * velocity[i] + d;
            velocity[i] = u;
            p -= lr * (NESTEROV ? d + momentum * u : u);
            params[i] = p;
        }
        copies[i] = SAVE(p);
    }
}

// step_size = lr / (1 - beta1^k) and correction = sqrt(1 - beta2^k) at the k-th update.
KERNEL(adamw)(IN(STORE, grads, 0), IN(uint, ends, 1), IN(REAL, decays, 2), IN(REAL, sum_squares, 3),
              OUT(REAL, params, 4), OUT(REAL, means, 5), OUT(REAL, squares, 6), OUT(STORE, copies, 7),
              VALUE(uint, n, 8), VALUE(uint, tensors, 9), VALUE(REAL, lr, 10), VALUE(REAL, beta1, 11),
              VALUE(REAL, beta2, 12), VALUE(REAL, eps, 13), VALUE(REAL, step_size, 14), VALUE(REAL, correction, 15),
              VALUE(REAL, inverse_scale, 16), VALUE(REAL, max_norm, 17) IDS) {
    const REAL factor = gradient_factor(sum_squares[0], inverse_scale, max_norm);
    for (uint i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) {
        REAL p = params[i];
        if (factor > 0) {
            const REAL g = LOAD(grads[i]) * factor;
            const REAL m = means[i] + ((REAL)1 - beta1) * (g - means[i]);
            const REAL v = beta2 * squares[i] + ((REAL)1 - beta2) * g * g;
            means[i] = m;
            squares[i] = v;
            p = ((REAL)1 - lr * decays[tensor_of(ends, tensors, i)]) * p - step_size * m / (SQRT(v) / correction + eps);
            params[i] = p;
        }
        copies[i] = SAVE(p);
    }
}
