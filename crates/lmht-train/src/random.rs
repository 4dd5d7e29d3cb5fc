//! The order of an epoch: the one that a `Loader` of `lmht-datasets` with the same seed gives the same number of images.
//!
//! Written here again rather than shared, because that crate brings parquet and image decoders along; a test holds the two
//! against each other.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// `0..n` in an order that depends on `seed` and `epoch` and on nothing else (Fisher-Yates in Durstenfeld's form, from the
/// back), so that an epoch can begin in its middle.
pub(crate) fn order(n: u32, seed: u64, epoch: u64) -> Vec<u32> {
    // The four numbers are the 256-bit key itself; 1 says that the generator is for an order.
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([1, seed, epoch, 0]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let mut rng = ChaCha8Rng::from_seed(key);
    let mut order: Vec<u32> = (0..n).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, below(&mut rng, last + 1));
    }
    order
}

/// A uniform number in `0..n`, without bias, for `n >= 1` (Lemire, "Fast Random Integer Generation in an Interval",
/// ACM TOMACS 2019).
fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    let n = n as u64;
    let remainder = n.wrapping_neg() % n;
    loop {
        let product = u128::from(rng.next_u64()) * u128::from(n);
        if product as u64 >= remainder {
            return (product >> 64) as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_every_number_once_and_depends_on_seed_and_epoch() {
        let first = order(100, 1, 2);
        assert_eq!(first, order(100, 1, 2));
        for other in [order(100, 1, 3), order(100, 2, 2), (0..100).collect()] {
            assert_ne!(first, other);
        }
        let mut sorted = first;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert!(order(0, 1, 2).is_empty());
    }

    #[cfg(feature = "datasets")]
    #[test]
    fn the_order_is_that_of_the_loader() -> lmht_datasets::Result<()> {
        use lmht_datasets::{ImageDataset, Loader, LoaderConfig, Normalize};
        let n = 1000;
        let data = ImageDataset::new(vec![0; n], vec![0; n], (1, 1, 1), 2)?;
        let config = LoaderConfig::train(10, 7);
        let loader = Loader::new(data.into(), &config, &Normalize::unit(1), &candle_core::Device::Cpu)?;
        for epoch in [0, 1, 299] {
            let ours: Vec<usize> = order(n as u32, 7, epoch).into_iter().map(|i| i as usize).collect();
            assert_eq!(ours, loader.order(epoch), "epoch {epoch}");
        }
        Ok(())
    }
}
