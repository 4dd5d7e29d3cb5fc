//! Random numbers that depend on names, not on history.
//!
//! Each use asks for its own ChaCha8 generator, keyed by what it is for and by the numbers that identify it, such as
//! (seed, epoch, image). Nothing is drawn from a shared generator, so an epoch can start in its middle, and the result
//! depends neither on the batch size nor on the number of threads. ChaCha is a published cipher with test vectors, and
//! the two algorithms on top of it are written here: an update of `rand` cannot change an order or a crop.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a generator is for; keeps the streams of one seed apart.
#[derive(Clone, Copy)]
#[repr(u64)]
pub(crate) enum Purpose {
    /// The order of the images in an epoch: keyed by (seed, epoch, 0).
    Order = 1,
    /// Crop, flip and cutout of one image: keyed by (seed, epoch, image).
    Augment = 2,
    /// The choice of a subset: keyed by (seed, class, 0).
    Subset = 3,
    /// The window of a resized crop of one image: keyed by (seed, epoch, image).
    ResizedCrop = 4,
    /// The operations of AutoAugment on one image: keyed by (seed, epoch, image).
    AutoAugment = 5,
    /// How the images of a batch are mixed: keyed by (seed, epoch, step).
    Mix = 6,
    /// What happens to the frames of one recording: keyed by (seed, epoch, recording).
    Events = 7,
    /// What is erased of one image: keyed by (seed, epoch, image).
    Erasing = 8,
}

/// The generator of `(purpose, seed, a, b)`; the four numbers are the 256-bit key itself, so no two uses can collide.
pub(crate) fn keyed(purpose: Purpose, seed: u64, a: u64, b: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([purpose as u64, seed, a, b]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// A uniform number in `0..n`, without bias, for `n >= 1` (Lemire, "Fast Random Integer Generation in an Interval",
/// ACM TOMACS 2019): the upper half of a 64x64-bit product, drawn again in the rare case that the lower half falls
/// into the remainder of 2^64 / n.
pub(crate) fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    debug_assert!(n >= 1, "an empty interval has no numbers");
    let n = n as u64;
    let remainder = n.wrapping_neg() % n;
    loop {
        let product = u128::from(rng.next_u64()) * u128::from(n);
        if product as u64 >= remainder {
            return (product >> 64) as usize;
        }
    }
}

/// A uniform number in `0..1`, a multiple of 2^-53.
pub(crate) fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// A number of the beta distribution with both shapes `alpha`, in 0..=1 (Jöhnk, "Erzeugung von betaverteilten und
/// gammaverteilten Zufallszahlen", Metrika 1964): quick for `alpha` in (0, 1]. In logarithms, since `u^(1 / alpha)` of a
/// small `alpha` is too small for an `f64`.
pub(crate) fn beta(rng: &mut ChaCha8Rng, alpha: f64) -> f64 {
    loop {
        // From (0, 1]: a logarithm has no 0.
        let (x, y) = ((1.0 - uniform(rng)).ln() / alpha, (1.0 - uniform(rng)).ln() / alpha);
        if x.exp() + y.exp() <= 1.0 {
            return 1.0 / (1.0 + (y - x).exp());
        }
    }
}

/// Brings `items` into a uniformly random order (Fisher-Yates in Durstenfeld's form, from the back).
pub(crate) fn shuffle<T>(rng: &mut ChaCha8Rng, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(rng, last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_is_uniform_and_stays_below() {
        let mut rng = keyed(Purpose::Order, 1, 2, 3);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[below(&mut rng, 7)] += 1;
        }
        // Binomial with mean 10,000 and standard deviation 93; five of them on either side.
        assert!(counts.iter().all(|n| (9_537..=10_463).contains(n)), "{counts:?}");
        assert_eq!(below(&mut rng, 1), 0);
    }

    /// The beta distribution with both shapes a has mean 1/2 and variance 1 / (4 (2a + 1)); shape 1 is uniform, shape 1/2
    /// has its distribution function at 2/π arcsin(√x).
    #[test]
    fn beta_has_its_moments_and_quantiles() {
        let n = 100_000;
        for alpha in [0.01, 0.2, 0.5, 0.8, 1.0] {
            let mut rng = keyed(Purpose::Mix, 5, 0, 0);
            let draws: Vec<f64> = (0..n).map(|_| beta(&mut rng, alpha)).collect();
            assert!(draws.iter().all(|x| (0.0..=1.0).contains(x)), "{alpha}");
            let mean = draws.iter().sum::<f64>() / f64::from(n);
            let variance = draws.iter().map(|x| (x - 0.5).powi(2)).sum::<f64>() / f64::from(n);
            let expected = 0.25 / (2.0 * alpha + 1.0);
            // Five standard errors of the mean; the fourth moment is below that of a coin, so the variance's are smaller.
            let bound = 5.0 * (expected / f64::from(n)).sqrt();
            assert!((mean - 0.5).abs() < bound, "{alpha}: mean {mean}");
            assert!((variance - expected).abs() < bound, "{alpha}: variance {variance}, not {expected}");
            let below = draws.iter().filter(|x| **x < 0.1).count() as f64 / f64::from(n);
            if alpha == 1.0 {
                assert!((below - 0.1).abs() < 5.0 * (0.09 / f64::from(n)).sqrt(), "{below}");
            } else if alpha == 0.5 {
                let expected = 2.0 / std::f64::consts::PI * 0.1f64.sqrt().asin();
                assert!((below - expected).abs() < 5.0 * (0.163 / f64::from(n)).sqrt(), "{below}, not {expected}");
            }
        }
    }

    #[test]
    fn every_order_of_three_is_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..60_000 {
            let mut items = [0, 1, 2];
            shuffle(&mut keyed(Purpose::Order, 0, epoch, 0), &mut items);
            *counts.entry(items).or_insert(0u32) += 1;
        }
        // 10,000 each, standard deviation 91.
        assert!(counts.len() == 6 && counts.values().all(|n| (9_544..=10_456).contains(n)), "{counts:?}");
    }

    #[test]
    fn each_part_of_the_key_changes_the_stream() {
        let first = |purpose, seed, a, b| keyed(purpose, seed, a, b).next_u64();
        let streams = [
            first(Purpose::Order, 1, 2, 3),
            first(Purpose::Augment, 1, 2, 3),
            first(Purpose::Order, 9, 2, 3),
            first(Purpose::Order, 1, 9, 3),
            first(Purpose::Order, 1, 2, 9),
        ];
        for (i, a) in streams.iter().enumerate() {
            assert!(streams[..i].iter().all(|b| a != b), "{streams:?}");
        }
    }
}
