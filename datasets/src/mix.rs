//! Mixup and CutMix: batches whose images are mixtures of two, with targets to match (Zhang et al. 2018, arXiv
//! 1710.09412; Yun et al. 2019, arXiv 1905.04899), as timm's `Mixup` makes them.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::random::{Purpose, below, beta, keyed, uniform};

/// Mixes each image of a batch with the one as far from the batch's end as it is from its start.
///
/// A share λ comes from a beta distribution. Mixup adds λ of an image and 1 - λ of its partner; CutMix replaces a rectangle
/// of about 1 - λ of an image by its partner's, and takes the exact area as λ. The targets are λ of the one label and 1 - λ
/// of the other. Images are mixed after normalization. Label smoothing, which timm does in the same place, is the loss's:
/// smoothing a mixture is mixing what was smoothed. timm's names of the fields are understood as well.
///
/// ```
/// use lmht_datasets::{Mix, MixMode};
///
/// // The published recipe for ImageNet-1k; half of the batches by CutMix.
/// let published = Mix { mixup: 0.8, cutmix: 1.0, switch: 0.5, prob: 1.0, mode: MixMode::Batch };
/// assert_eq!(Mix::default(), published);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// Both shapes of the beta distribution for Mixup, 0..=1; 0 for CutMix only. timm's `mixup_alpha`.
    #[serde(alias = "mixup_alpha")]
    pub mixup: f64,
    /// Both shapes of the beta distribution for CutMix, 0..=1; 0 for Mixup only. timm's `cutmix_alpha`.
    #[serde(alias = "cutmix_alpha")]
    pub cutmix: f64,
    /// Probability of CutMix instead of Mixup where both are on, 0..=1. timm's `switch_prob`.
    #[serde(alias = "switch_prob")]
    pub switch: f64,
    /// Probability of mixing at all, 0..=1. timm's `prob`.
    #[serde(default = "always", skip_serializing_if = "is_always")]
    pub prob: f64,
    /// What draws for itself. timm's `mode`.
    #[serde(default, skip_serializing_if = "MixMode::is_batch")]
    pub mode: MixMode,
}

/// What is mixed by one draw of Mixup or CutMix, share and rectangle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MixMode {
    /// A batch.
    #[default]
    Batch,
    /// An image and its partner.
    Pair,
    /// An image.
    Elem,
}

impl MixMode {
    fn is_batch(&self) -> bool {
        *self == Self::Batch
    }
}

fn always() -> f64 {
    1.0
}

fn is_always(prob: &f64) -> bool {
    *prob == always()
}

impl Default for Mix {
    fn default() -> Self {
        Self { mixup: 0.8, cutmix: 1.0, switch: 0.5, prob: always(), mode: MixMode::Batch }
    }
}

/// What happens to an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mixture {
    /// This share of the image itself.
    Mixup(f64),
    /// Rows and columns that come from the partner, half open.
    Cutmix((usize, usize), (usize, usize)),
}

impl Mix {
    pub(crate) fn check(&self) -> Result<()> {
        let fields = [("mixup", self.mixup), ("cutmix", self.cutmix), ("switch", self.switch), ("prob", self.prob)];
        for (name, value) in fields {
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

    /// What happens to each of the `b` images of batch `step` of `epoch`, which have the size.
    pub(crate) fn draw(&self, b: usize, (h, w): (usize, usize), seed: u64, epoch: u64, step: usize) -> Vec<Mixture> {
        let mut rng = keyed(Purpose::Mix, seed, epoch, step as u64);
        let mut one = || self.one(&mut rng, h, w);
        match self.mode {
            MixMode::Batch => vec![one(); b],
            MixMode::Elem => (0..b).map(|_| one()).collect(),
            MixMode::Pair => {
                let mut mixtures: Vec<_> = (0..b.div_ceil(2)).map(|_| one()).collect();
                mixtures.extend_from_within(..b / 2);
                mixtures[b.div_ceil(2)..].reverse();
                mixtures
            }
        }
    }

    fn one(&self, rng: &mut ChaCha8Rng, h: usize, w: usize) -> Mixture {
        let switched = uniform(rng) < self.switch;
        // Where everything is mixed, nothing is drawn.
        if self.prob < 1.0 && uniform(rng) >= self.prob {
            return Mixture::Mixup(1.0);
        }
        match self.mixup == 0.0 || (self.cutmix > 0.0 && switched) {
            true => {
                let share = beta(rng, self.cutmix);
                Mixture::rectangle(share, (below(rng, h), below(rng, w)), h, w)
            }
            false => Mixture::Mixup(beta(rng, self.mixup)),
        }
    }
}

impl Mixture {
    /// A rectangle of `1 - share` of the image around a pixel, cut off at the borders.
    fn rectangle(share: f64, centre: (usize, usize), h: usize, w: usize) -> Self {
        let span = |centre: usize, end: usize| {
            let side = (end as f64 * (1.0 - share).sqrt()) as usize;
            (centre.saturating_sub(side / 2), (centre + side.div_ceil(2)).min(end))
        };
        Self::Cutmix(span(centre.0, h), span(centre.1, w))
    }

    /// λ, the share of the image itself.
    fn share(self, h: usize, w: usize) -> f64 {
        match self {
            Self::Mixup(share) => share,
            Self::Cutmix(rows, columns) => 1.0 - ((rows.1 - rows.0) * (columns.1 - columns.0)) as f64 / (h * w) as f64,
        }
    }

    /// Mixes an image `[C, H, W]` with its partner.
    fn mix(self, image: &mut [f32], partner: &[f32], h: usize, w: usize) {
        match self {
            Self::Mixup(1.0) => (),
            Self::Mixup(share) => {
                let (kept, taken) = (share as f32, (1.0 - share) as f32);
                image.iter_mut().zip(partner).for_each(|(a, b)| *a = kept * *a + taken * b);
            }
            Self::Cutmix(rows, columns) => {
                for (image, partner) in image.chunks_exact_mut(h * w).zip(partner.chunks_exact(h * w)) {
                    for row in rows.0..rows.1 {
                        let place = row * w + columns.0..row * w + columns.1;
                        image[place.clone()].copy_from_slice(&partner[place]);
                    }
                }
            }
        }
    }
}

/// Mixes `images`, `[B, C, H, W]`, and returns their targets, `[B, K]`: distributions over `n_classes`.
pub(crate) fn apply(
    mixtures: &[Mixture],
    images: &mut [f32],
    labels: &[u32],
    (h, w): (usize, usize),
    n_classes: usize,
) -> Vec<f32> {
    let b = labels.len();
    let image_len = images.len() / b;
    let (firsts, lasts) = images.split_at_mut(b.div_ceil(2) * image_len);
    // Image i and image B - 1 - i take from each other; one in the middle is its own partner and stays.
    let partners = lasts.chunks_exact_mut(image_len).rev();
    for (i, (first, last)) in firsts.chunks_exact_mut(image_len).zip(partners).enumerate() {
        let unmixed = first.to_vec();
        mixtures[i].mix(first, last, h, w);
        mixtures[b - 1 - i].mix(last, &unmixed, h, w);
    }
    let mut targets = vec![0.0; b * n_classes];
    for (i, target) in targets.chunks_exact_mut(n_classes).enumerate() {
        let share = mixtures[i].share(h, w);
        target[labels[i] as usize] += share as f32;
        target[labels[b - 1 - i] as usize] += (1.0 - share) as f32;
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixup_by_hand() {
        // Three images of one row and two columns; the middle one is its own partner.
        let mut images = [1.0, 2.0, 5.0, 6.0, 9.0, 10.0];
        let targets = apply(&[Mixture::Mixup(0.75); 3], &mut images, &[0, 1, 2], (1, 2), 3);
        assert_eq!(images, [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        assert_eq!(targets, [0.75, 0.0, 0.25, 0.0, 1.0, 0.0, 0.25, 0.0, 0.75]);
    }

    #[test]
    fn cutmix_by_hand() {
        // Two images of two channels, two rows, two columns: the right half changes places, half of the area.
        let mut images = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 18.0];
        let targets = apply(&[Mixture::Cutmix((0, 2), (1, 2)); 2], &mut images, &[1, 0], (2, 2), 2);
        let expected = [1.0, 12.0, 3.0, 14.0, 5.0, 16.0, 7.0, 18.0, 11.0, 2.0, 13.0, 4.0, 15.0, 6.0, 17.0, 8.0];
        assert_eq!(images, expected);
        assert_eq!(targets, [0.5, 0.5, 0.5, 0.5]);
        // A quarter, and two images of one class.
        let targets = apply(&[Mixture::Cutmix((0, 1), (0, 1)); 2], &mut images, &[1, 1], (2, 2), 2);
        assert_eq!(targets, [0.0, 1.0, 0.0, 1.0]);
    }

    #[test]
    fn the_switch_and_the_shares_are_as_asked() {
        let mix = Mix::default();
        let n = 20_000;
        let (mut n_cut, mut area, mut shares) = (0u32, 0.0, 0.0);
        for step in 0..n {
            match mix.draw(1, (512, 512), 9, 2, step)[0] {
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
        // on average: E[s² (1 - s/4)²] with s² uniform is 1/2 - 1/5 + 1/48, and the sides are cut down to whole numbers.
        let expected = 0.5 - 0.2 + 1.0 / 48.0;
        let found = area / f64::from(n_cut);
        assert!(found < expected && found > expected - 0.02, "{found}, expected somewhat less than {expected}");
        let only = |mix: Mix| (0..200).flat_map(|step| mix.draw(1, (8, 8), 1, 0, step)).collect::<Vec<_>>();
        assert!(only(Mix { mixup: 0.0, ..mix }).iter().all(|one| matches!(one, Mixture::Cutmix(..))));
        assert!(only(Mix { cutmix: 0.0, ..mix }).iter().all(|one| matches!(one, Mixture::Mixup(_))));
    }

    #[test]
    fn a_draw_is_for_a_batch_a_pair_or_an_image() {
        let draw = |mode, b| Mix { mode, ..Mix::default() }.draw(b, (64, 64), 3, 1, 4);
        let different =
            |mixtures: &[Mixture]| (0..mixtures.len()).filter(|i| !mixtures[..*i].contains(&mixtures[*i])).count();
        assert_eq!(different(&draw(MixMode::Batch, 6)), 1);
        assert_eq!(different(&draw(MixMode::Elem, 6)), 6);
        for b in [1, 6, 7] {
            let pairs = draw(MixMode::Pair, b);
            assert_eq!((pairs.len(), different(&pairs)), (b, b.div_ceil(2)));
            assert!((0..b).all(|i| pairs[i] == pairs[b - 1 - i]), "{pairs:?}");
        }
        for mode in [MixMode::Batch, MixMode::Pair, MixMode::Elem] {
            let mix = Mix { prob: 0.3, mode, ..Mix::default() };
            let mixed = (0..10_000).filter(|step| mix.draw(2, (8, 8), 1, 0, *step)[0] != Mixture::Mixup(1.0)).count();
            // Mean 3,000, standard deviation 46; a rectangle of nothing counts as mixed.
            assert!((2_770..=3_230).contains(&mixed), "{mode:?}: {mixed}");
        }
    }

    /// Batches, targets and rectangles are timm's, given the numbers that timm drew (`tests/data/mixup.py`).
    #[test]
    fn mixtures_are_timms() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mixup.safetensors");
        let tensors = candle_core::safetensors::load(&path, &candle_core::Device::Cpu).unwrap();
        let numbers = |name: &str| tensors[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (mut kinds, mut modes) = ([0; 3], std::collections::BTreeSet::new());
        for case in tensors.keys().filter_map(|name| name.strip_suffix(" draws")) {
            let (b, _, h, w) = tensors[&format!("{case} images")].dims4().unwrap();
            let draws = tensors[&format!("{case} draws")].to_vec2::<f64>().unwrap();
            let mixture = |draw: &Vec<f64>| match draw[0] as usize {
                0 => Mixture::Mixup(1.0),
                1 => Mixture::Mixup(draw[1]),
                _ => Mixture::rectangle(draw[1], (draw[2] as usize, draw[3] as usize), h, w),
            };
            draws.iter().for_each(|draw| kinds[draw[0] as usize] += 1);
            let mixtures: Vec<_> = draws.iter().map(mixture).collect();
            let labels: Vec<u32> = tensors[&format!("{case} labels")].to_vec1().unwrap();
            let mut images = numbers(&format!("{case} images"));
            let expected = (numbers(&format!("{case} out")), numbers(&format!("{case} targets")));
            let targets = apply(&mixtures, &mut images, &labels, (h, w), expected.1.len() / b);
            let off = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let (images, targets) = (off(&images, &expected.0), off(&targets, &expected.1));
            assert!(images <= 2e-7 && targets <= 2e-7, "{case}: off by {images} and {targets}");
            modes.insert(case.split(' ').next().unwrap().to_owned());
        }
        assert!(kinds.iter().all(|n| *n >= 10), "{kinds:?}");
        assert_eq!(modes.into_iter().collect::<Vec<_>>(), ["batch", "elem", "pair"]);
    }

    #[test]
    fn timms_names_are_understood_and_the_usual_mode_is_not_written() {
        let text = r#"{"mixup_alpha":0.2,"cutmix_alpha":1.0,"switch_prob":0.5,"prob":0.9,"mode":"elem"}"#;
        let mix: Mix = serde_json::from_str(text).unwrap();
        assert_eq!(mix, Mix { mixup: 0.2, prob: 0.9, mode: MixMode::Elem, ..Mix::default() });
        let text = serde_json::to_string(&Mix::default()).unwrap();
        assert_eq!(text, r#"{"mixup":0.8,"cutmix":1.0,"switch":0.5}"#);
        assert_eq!(serde_json::from_str::<Mix>(&text).unwrap(), Mix::default());
    }
}
