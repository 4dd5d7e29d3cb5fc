// Cross-entropy of the mean over time of the logits [TIMESTEPS, images, classes], and its gradient. A block takes an
// image.

// losses [BLOCKS]: each image's share of the mean loss; grad as the logits, times `loss_scale`. A label beyond the
// classes gives a loss that is not a number.
KERNEL(cross_entropy)(IN(STORE, logits, 0), IN(uint, labels, 1), OUT(REAL, losses, 2), OUT(STORE, grad, 3),
                      VALUE(uint, classes, 4), VALUE(REAL, smoothing, 5), VALUE(REAL, loss_scale, 6) IDS) {
    SHARED(REAL, tree, THREADS);
    SHARED(REAL, found, 2);
    const uint label = labels[BLOCK], stride = BLOCKS * classes;
    // Each thread reads its classes' logits again where it needs them: there are too many to keep.
#define READOUT(k, out) \
    REAL out = LOAD(logits[BLOCK * classes + (k)]); \
    for (uint t = 1; t < TIMESTEPS; t++) out += LOAD(logits[t * stride + BLOCK * classes + (k)]); \
    out /= (REAL)TIMESTEPS
    REAL highest = 0;
    for (uint k = THREAD; k < classes; k += THREADS) {
        READOUT(k, logit);
        highest = k == THREAD || logit > highest ? logit : highest;
    }
    tree[THREAD] = highest;
    for (uint width = THREADS / 2; width > 0; width /= 2) {
        BARRIER();
        if (THREAD < width && THREAD + width < classes && tree[THREAD + width] > tree[THREAD]) {
            tree[THREAD] = tree[THREAD + width];
        }
    }
    if (THREAD == 0) found[0] = tree[0];
    BARRIER();
    highest = found[0];
    REAL share = 0, logits_sum = 0;
    for (uint k = THREAD; k < classes; k += THREADS) {
        READOUT(k, logit);
        share += EXP(logit - highest);
        logits_sum += logit - highest;
    }
    const REAL exponentials = tree_sum(tree, share, THREAD, 1);
    if (THREAD == 0) found[1] = exponentials;
    const REAL all_logits = tree_sum(tree, logits_sum, THREAD, 1);
    BARRIER();
    const REAL total = found[1], images = (REAL)BLOCKS;
    if (THREAD == 0) {
        // -(1 - ε) log p(label) - ε mean log p
        READOUT(label < classes ? label : 0, logit);
        const REAL hard = LOG(total) - (logit - highest), soft = LOG(total) - all_logits / (REAL)classes;
        const REAL loss = (((REAL)1 - smoothing) * hard + smoothing * soft) / images;
        losses[BLOCK] = label < classes ? loss : (REAL)0 / (REAL)(label - label);
    }
    for (uint k = THREAD; k < classes; k += THREADS) {
        READOUT(k, logit);
        const REAL target = smoothing / (REAL)classes + (k == label ? (REAL)1 - smoothing : (REAL)0);
        const REAL g = (EXP(logit - highest) / total - target) * loss_scale / (images * (REAL)TIMESTEPS);
        for (uint t = 0; t < TIMESTEPS; t++) grad[t * stride + BLOCK * classes + k] = SAVE(g);
    }
#undef READOUT
}
