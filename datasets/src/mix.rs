//! Mixup and CutMix: batches whose images are mixtures of two, with targets to match (Zhang et al. 2018, arXiv
//! 1710.09412; Yun et al. 2019, arXiv 1905.04899), as timm's `Mixup` in its mode `batch` makes them.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::random::{Purpose, below, beta, keyed, uniform};

/// Mixes each image of a batch with the one as far from the batch's end as it is from its start.
///
/// One share λ for the whole batch comes from a beta distribution. Mixup adds λ of an image and 1 - λ of its partner;
/// CutMix replaces a rectangle of about 1 - λ of an image by its partner's, and takes the exact area as λ. The targets are
/// λ of the one label and 1 - λ of the other. Images are mixed after normalization. Label smoothing, which timm does in
/// the same place, is the loss's: smoothing a mixture is mixing what was smoothed.
///
/// ```
/// use lmht_datasets::Mix;
///
/// // The published recipe for ImageNet-1k; half of the batches by CutMix.
/// assert_eq!(Mix::default(), Mix { mixup: 0.8, cutmix: 1.0, switch: 0.5 });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// Both shapes of the beta distribution for Mixup, 0..=1; 0 for CutMix only.
    pub mixup: f64,
    /// Both shapes of the beta distribution for CutMix, 0..=1; 0 for Mixup only.
    pub cutmix: f64,
    /// Probability of CutMix instead of Mixup where both are on, 0..=1.
    pub switch: f64,
}

impl Default for Mix {
    fn default() -> Self {
        Self { mixup: 0.8, cutmix: 1.0, switch: 0.5 }
    }
}

/// What happens to one batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mixture {
    /// This share of the image itself.
    Mixup(f64),
    /// Rows and columns that come from the partner, half open.
    Cutmix((usize, usize), (usize, usize)),
}

impl Mix {
    pub(crate) fn check(&self) -> Result<()> {
        for (name, value) in [("mixup", self.mixup), ("cutmix", self.cutmix), ("switch", self.switch)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::Config(format!("Mix::{name}: expected a number in 0..=1, found {value}")));
            }
        }
        if self.mixup == 0.0 && self.cutmix == 0.0 {
            return Err(Error::Config(
                "Mix: expected mixup or cutmix above 0; leave Mix out to mix nothing".to_owned(),
            ));
        }
        Ok(())
    }

    /// What happens to batch `step` of `epoch`, whose images have the size.
    pub(crate) fn draw(&self, h: usize, w: usize, seed: u64, epoch: u64, step: usize) -> Mixture {
        let mut rng = keyed(Purpose::Mix, seed, epoch, step as u64);
        let switched = uniform(&mut rng) < self.switch;
        match self.mixup == 0.0 || (self.cutmix > 0.0 && switched) {
            true => {
                let share = beta(&mut rng, self.cutmix);
                rectangle(&mut rng, share, h, w)
            }
            false => Mixture::Mixup(beta(&mut rng, self.mixup)),
        }
    }
}

/// A rectangle of `1 - share` of the image around any pixel, cut off at the borders.
fn rectangle(rng: &mut ChaCha8Rng, share: f64, h: usize, w: usize) -> Mixture {
    let span = |rng: &mut ChaCha8Rng, end: usize| {
        let half = ((end as f64 * (1.0 - share).sqrt()) as usize) / 2;
        let centre = below(rng, end);
        (centre.saturating_sub(half), (centre + half).min(end))
    };
    Mixture::Cutmix(span(rng, h), span(rng, w))
}

impl Mixture {
    /// λ, the share of the image itself.
    fn share(self, h: usize, w: usize) -> f64 {
        match self {
            Self::Mixup(share) => share,
            Self::Cutmix(rows, columns) => 1.0 - ((rows.1 - rows.0) * (columns.1 - columns.0)) as f64 / (h * w) as f64,
        }
    }

    /// Mixes `images`, `[B, C, H, W]`, and returns their targets, `[B, K]`: distributions over `n_classes`.
    pub(crate) fn apply(self, images: &mut [f32], labels: &[u32], h: usize, w: usize, n_classes: usize) -> Vec<f32> {
        let b = labels.len();
        let (firsts, lasts) = images.split_at_mut(b.div_ceil(2) * (images.len() / b));
        let image_len = firsts.len() / b.div_ceil(2);
        // Image i and image B - 1 - i take from each other; one in the middle is its own partner and stays.
        let partners = lasts.chunks_exact_mut(image_len).rev();
        for (first, last) in firsts.chunks_exact_mut(image_len).zip(partners) {
            match self {
                Self::Mixup(share) => {
                    let (kept, taken) = (share as f32, (1.0 - share) as f32);
                    for (a, b) in first.iter_mut().zip(last) {
                        (*a, *b) = (kept * *a + taken * *b, kept * *b + taken * *a);
                    }
                }
                Self::Cutmix(rows, columns) => {
                    for (a, b) in first.chunks_exact_mut(h * w).zip(last.chunks_exact_mut(h * w)) {
                        for row in rows.0..rows.1 {
                            let place = row * w + columns.0..row * w + columns.1;
                            a[place.clone()].swap_with_slice(&mut b[place]);
                        }
                    }
                }
            }
        }
        let share = self.share(h, w);
        let mut targets = vec![0.0; b * n_classes];
        for (i, target) in targets.chunks_exact_mut(n_classes).enumerate() {
            target[labels[i] as usize] += share as f32;
            target[labels[b - 1 - i] as usize] += (1.0 - share) as f32;
        }
        targets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixup_by_hand() {
        // Three images of one row and two columns; the middle one is its own partner.
        let mut images = [1.0, 2.0, 5.0, 6.0, 9.0, 10.0];
        let targets = Mixture::Mixup(0.75).apply(&mut images, &[0, 1, 2], 1, 2, 3);
        assert_eq!(images, [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        assert_eq!(targets, [0.75, 0.0, 0.25, 0.0, 1.0, 0.0, 0.25, 0.0, 0.75]);
    }

    #[test]
    fn cutmix_by_hand() {
        // Two images of two channels, two rows, two columns: the right half changes places, half of the area.
        let mut images = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 18.0];
        let targets = Mixture::Cutmix((0, 2), (1, 2)).apply(&mut images, &[1, 0], 2, 2, 2);
        let expected = [1.0, 12.0, 3.0, 14.0, 5.0, 16.0, 7.0, 18.0, 11.0, 2.0, 13.0, 4.0, 15.0, 6.0, 17.0, 8.0];
        assert_eq!(images, expected);
        assert_eq!(targets, [0.5, 0.5, 0.5, 0.5]);
        // A quarter, and two images of one class.
        let targets = Mixture::Cutmix((0, 1), (0, 1)).apply(&mut images, &[1, 1], 2, 2, 2);
        assert_eq!(targets, [0.0, 1.0, 0.0, 1.0]);
    }

    #[test]
    fn the_switch_and_the_shares_are_as_asked() {
        let mix = Mix::default();
        let n = 20_000;
        let (mut n_cut, mut area, mut shares) = (0u32, 0.0, 0.0);
        for step in 0..n {
            match mix.draw(512, 512, 9, 2, step) {
                Mixture::Mixup(share) => shares += share,
                cut @ Mixture::Cutmix(rows, columns) => {
                    assert!(rows.0 <= rows.1 && rows.1 <= 512 && columns.0 <= columns.1 && columns.1 <= 512);
                    n_cut += 1;
                    area += 1.0 - cut.share(512, 512);
                }
            }
        }
        // Half and half, standard deviation 71.
        assert!((9_645..=10_355).contains(&n_cut), "{n_cut}");
        // Mean 1/2; standard deviation of one share 0.31, of the mean of 10,000 0.0031.
        assert!((shares / (20_000.0 - f64::from(n_cut)) - 0.5).abs() < 0.016);
        // Half of the image before it is cut off at the borders. Of a side s = √(1 - λ) of the image, 1 - s / 4 is left
        // on average: E[s² (1 - s/4)²] with s² uniform is 1/2 - 1/5 + 1/48, and the sides are cut down to even numbers.
        let expected = 0.5 - 0.2 + 1.0 / 48.0;
        let found = area / f64::from(n_cut);
        assert!(found < expected && found > expected - 0.02, "{found}, expected somewhat less than {expected}");
        let only = |mix: Mix| (0..200).map(|step| mix.draw(8, 8, 1, 0, step)).collect::<Vec<_>>();
        assert!(only(Mix { mixup: 0.0, ..mix }).iter().all(|one| matches!(one, Mixture::Cutmix(..))));
        assert!(only(Mix { cutmix: 0.0, ..mix }).iter().all(|one| matches!(one, Mixture::Mixup(_))));
    }
}
