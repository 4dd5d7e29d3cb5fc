//! Policies of changes to an image: AutoAugment's pairs of operations (Cubuk et al., "AutoAugment: Learning Augmentation
//! Strategies from Data", CVPR 2019, arXiv 1805.09501, tables 7 and 9), which were learned, and those of RandAugment (Cubuk
//! et al. 2020, arXiv 1909.13719) and TrivialAugment (Müller and Hutter, ICCV 2021, arXiv 2103.10158), which are drawn.
//!
//! With AutoAugment each image meets one of a policy's 25 pairs; each of its two operations happens with a probability of
//! its own, at one of ten strengths. The others draw from 14 operations, one of which is none, at one of 31 strengths. Where
//! an operation has a direction, that is chosen by a coin. Operations and strengths are torchvision's.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::operation::Operation;
use crate::random::below;

/// What decides the operations on an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Policy {
    /// AutoAugment as learned on CIFAR-10; the published recipes use it for CIFAR-100, too.
    Cifar10,
    /// AutoAugment as learned on ImageNet; the published recipes use it for Tiny-ImageNet, too.
    Imagenet,
    /// torchvision's `RandAugment(n_operations, magnitude)`: operations one after the other, all of one strength.
    RandAugment {
        /// How many, 1..=14; torchvision has 2.
        n_operations: usize,
        /// Of 0..=30; torchvision has 9.
        magnitude: u8,
    },
    /// torchvision's `TrivialAugmentWide()`: one operation, of any strength.
    TrivialAugment,
}

/// Changes to shape and colour by one of the published policies, on gray or RGB images.
///
/// ```
/// use lmht_datasets::{Augment, AutoAugment, Policy};
///
/// let gray_corners = AutoAugment { policy: Policy::Cifar10, fill: 128 };
/// let augment = Augment { flip: true, auto_augment: Some(gray_corners), ..Augment::default() };
/// assert_ne!(augment, Augment { auto_augment: Some(AutoAugment::new(Policy::Cifar10)), ..augment });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoAugment {
    /// What decides them.
    pub policy: Policy,
    /// What a shear, translation or rotation brings in from outside, 0..=255 in every channel; 0, black, unless given,
    /// as in torchvision.
    #[serde(default)]
    pub fill: u8,
}

impl AutoAugment {
    /// The policy with black for what is outside.
    pub fn new(policy: Policy) -> Self {
        Self { policy, fill: 0 }
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self.policy {
            Policy::RandAugment { n_operations, magnitude }
                if !(1..=14).contains(&n_operations) || magnitude > LAST_STRENGTH =>
            {
                Err(Error::Config(format!(
                    "Policy::RandAugment: expected n_operations in 1..=14 and a magnitude in 0..={LAST_STRENGTH}, found \
                     {n_operations} and {magnitude}"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Draws operations and changes `image`, `[C, H, W]` with C = 1 or 3.
    pub(crate) fn apply(&self, rng: &mut ChaCha8Rng, image: &mut [u8], h: usize, w: usize) {
        for operation in self.policy.draw(rng, h, w).into_iter().flatten() {
            operation.run(image, h, w, self.fill);
        }
    }
}

impl Policy {
    /// The operations that happen to one image of the size, in their order; none for one that does not.
    fn draw(self, rng: &mut ChaCha8Rng, h: usize, w: usize) -> Vec<Option<Operation>> {
        match self {
            Self::Cifar10 => pair(&CIFAR10, rng, h, w),
            Self::Imagenet => pair(&IMAGENET, rng, h, w),
            Self::RandAugment { n_operations, magnitude } => {
                let ranges = Ranges::published(h, w);
                (0..n_operations).map(|_| any(rng, |_| magnitude, &ranges)).collect()
            }
            Self::TrivialAugment => {
                vec![any(rng, |rng| below(rng, usize::from(LAST_STRENGTH) + 1) as u8, &Ranges::WIDE)]
            }
        }
    }
}

/// One of 25 pairs.
fn pair(pairs: &[[Step; 2]; 25], rng: &mut ChaCha8Rng, h: usize, w: usize) -> Vec<Option<Operation>> {
    let (pair, ranges) = (&pairs[below(rng, 25)], Ranges::published(h, w));
    // Drawn whether it is needed or not: what happens to the second does not depend on the first.
    let step = |&(kind, tenths, strength): &Step| {
        let happens = below(rng, 10) < tenths;
        let reversed = below(rng, 2) == 1;
        happens.then(|| kind.at((strength, 9), reversed, &ranges))
    };
    pair.iter().map(step).collect()
}

/// One of [`KINDS`] or, as often as any of them, none.
fn any(rng: &mut ChaCha8Rng, strength: impl Fn(&mut ChaCha8Rng) -> u8, ranges: &Ranges) -> Option<Operation> {
    let kind = KINDS.get(below(rng, KINDS.len() + 1));
    let (strength, reversed) = (strength(rng), below(rng, 2) == 1);
    kind.map(|kind| kind.at((strength, LAST_STRENGTH), reversed, ranges))
}

/// The strongest that RandAugment and TrivialAugment have.
const LAST_STRENGTH: u8 = 30;

/// An operation, its probability in tenths, and its strength, 0..=9; 0 where it has none.
type Step = (Kind, usize, u8);

/// An operation without its strength.
#[derive(Clone, Copy, Debug)]
enum Kind {
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Color,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
    Invert,
}

/// How far the strongest operations go.
struct Ranges {
    shear: f64,
    /// Pixels to the right and down.
    translate: (f64, f64),
    /// Degrees.
    rotate: f64,
    /// Of a factor from 1.
    factor: f64,
    /// How many are taken from 8.
    bits: f64,
}

impl Ranges {
    /// Those of AutoAugment and RandAugment.
    fn published(h: usize, w: usize) -> Self {
        let translate = (150.0 / 331.0 * w as f64, 150.0 / 331.0 * h as f64);
        Self { shear: 0.3, translate, rotate: 30.0, factor: 0.9, bits: 4.0 }
    }

    /// Those of TrivialAugment.
    const WIDE: Self = Self { shear: 0.99, translate: (32.0, 32.0), rotate: 135.0, factor: 0.99, bits: 6.0 };
}

impl Kind {
    /// The operation at a strength of 0 to `last`, evenly spaced; thresholds are from 255 down to 0.
    fn at(self, (strength, last): (u8, u8), reversed: bool, ranges: &Ranges) -> Operation {
        let up_to = |most: f64| {
            let value = spaced(0.0, most as f32, strength, last);
            if reversed { -value } else { value }
        };
        match self {
            Self::ShearX => Operation::ShearX(up_to(ranges.shear)),
            Self::ShearY => Operation::ShearY(up_to(ranges.shear)),
            Self::TranslateX => Operation::TranslateX(up_to(ranges.translate.0)),
            Self::TranslateY => Operation::TranslateY(up_to(ranges.translate.1)),
            Self::Rotate => Operation::Rotate(up_to(ranges.rotate)),
            Self::Brightness => Operation::Brightness(1.0 + up_to(ranges.factor)),
            Self::Color => Operation::Color(1.0 + up_to(ranges.factor)),
            Self::Contrast => Operation::Contrast(1.0 + up_to(ranges.factor)),
            Self::Sharpness => Operation::Sharpness(1.0 + up_to(ranges.factor)),
            Self::Posterize => {
                Operation::Posterize(8 - (ranges.bits * f64::from(strength) / f64::from(last)).round() as u32)
            }
            Self::Solarize => Operation::Solarize(spaced(255.0, 0.0, strength, last)),
            Self::AutoContrast => Operation::AutoContrast,
            Self::Equalize => Operation::Equalize,
            Self::Invert => Operation::Invert,
        }
    }
}

/// To the bit what `torch.linspace(from, to, last + 1)` has at `strength`, which it counts from the nearer end in `f32`: 1 -
/// 0.99 is less than 0.01 there, and a product with 100 is 0 when it is rounded down.
fn spaced(from: f32, to: f32, strength: u8, last: u8) -> f64 {
    let step = (to - from) / f32::from(last);
    let is_near = strength < last.div_ceil(2);
    let value =
        if is_near { step.mul_add(strength.into(), from) } else { (-step).mul_add((last - strength).into(), to) };
    value.into()
}

use Kind::{
    AutoContrast, Brightness, Color, Contrast, Equalize, Invert, Posterize, Rotate, Sharpness, ShearX, ShearY,
    Solarize, TranslateX, TranslateY,
};

/// What is drawn from, beside nothing: in torchvision's order, and without `Invert`.
const KINDS: [Kind; 13] = [
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Color,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
];

const CIFAR10: [[Step; 2]; 25] = [
    [(Invert, 1, 0), (Contrast, 2, 6)],
    [(Rotate, 7, 2), (TranslateX, 3, 9)],
    [(Sharpness, 8, 1), (Sharpness, 9, 3)],
    [(ShearY, 5, 8), (TranslateY, 7, 9)],
    [(AutoContrast, 5, 0), (Equalize, 9, 0)],
    [(ShearY, 2, 7), (Posterize, 3, 7)],
    [(Color, 4, 3), (Brightness, 6, 7)],
    [(Sharpness, 3, 9), (Brightness, 7, 9)],
    [(Equalize, 6, 0), (Equalize, 5, 0)],
    [(Contrast, 6, 7), (Sharpness, 6, 5)],
    [(Color, 7, 7), (TranslateX, 5, 8)],
    [(Equalize, 3, 0), (AutoContrast, 4, 0)],
    [(TranslateY, 4, 3), (Sharpness, 2, 6)],
    [(Brightness, 9, 6), (Color, 2, 8)],
    [(Solarize, 5, 2), (Invert, 0, 0)],
    [(Equalize, 2, 0), (AutoContrast, 6, 0)],
    [(Equalize, 2, 0), (Equalize, 6, 0)],
    [(Color, 9, 9), (Equalize, 6, 0)],
    [(AutoContrast, 8, 0), (Solarize, 2, 8)],
    [(Brightness, 1, 3), (Color, 7, 0)],
    [(Solarize, 4, 5), (AutoContrast, 9, 0)],
    [(TranslateY, 9, 9), (TranslateY, 7, 9)],
    [(AutoContrast, 9, 0), (Solarize, 8, 3)],
    [(Equalize, 8, 0), (Invert, 1, 0)],
    [(TranslateY, 7, 9), (AutoContrast, 9, 0)],
];

const IMAGENET: [[Step; 2]; 25] = [
    [(Posterize, 4, 8), (Rotate, 6, 9)],
    [(Solarize, 6, 5), (AutoContrast, 6, 0)],
    [(Equalize, 8, 0), (Equalize, 6, 0)],
    [(Posterize, 6, 7), (Posterize, 6, 6)],
    [(Equalize, 4, 0), (Solarize, 2, 4)],
    [(Equalize, 4, 0), (Rotate, 8, 8)],
    [(Solarize, 6, 3), (Equalize, 6, 0)],
    [(Posterize, 8, 5), (Equalize, 10, 0)],
    [(Rotate, 2, 3), (Solarize, 6, 8)],
    [(Equalize, 6, 0), (Posterize, 4, 6)],
    [(Rotate, 8, 8), (Color, 4, 0)],
    [(Rotate, 4, 9), (Equalize, 6, 0)],
    [(Equalize, 0, 0), (Equalize, 8, 0)],
    [(Invert, 6, 0), (Equalize, 10, 0)],
    [(Color, 6, 4), (Contrast, 10, 8)],
    [(Rotate, 8, 8), (Color, 10, 2)],
    [(Color, 8, 8), (Solarize, 8, 7)],
    [(Sharpness, 4, 7), (Invert, 6, 0)],
    [(ShearX, 6, 5), (Equalize, 10, 0)],
    [(Color, 4, 0), (Equalize, 6, 0)],
    [(Equalize, 4, 0), (Solarize, 2, 4)],
    [(Solarize, 6, 5), (AutoContrast, 6, 0)],
    [(Invert, 6, 0), (Equalize, 10, 0)],
    [(Color, 6, 4), (Contrast, 10, 8)],
    [(Equalize, 8, 0), (Equalize, 6, 0)],
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::random::{Purpose, keyed};

    /// Each pair is met by one image in 25, and each of its operations happens as often as the table says, independent of
    /// the other: counted on pairs that no other pair of the policy could be mistaken for.
    #[test]
    fn pairs_and_operations_happen_as_often_as_the_table_says() {
        let n = 100_000u32;
        let (mut rotated, mut translated, mut both, mut left) = (0u32, 0u32, 0u32, 0u32);
        for index in 0..n {
            let mut rng = keyed(Purpose::AutoAugment, 3, 1, u64::from(index));
            // The only pair of the CIFAR-10 policy with a rotation: 0.7 of strength 2, then TranslateX, 0.3 of 9; the
            // other TranslateX, after Color, has strength 8.
            let drawn = Policy::Cifar10.draw(&mut rng, 32, 32);
            let far = |x: f64| x.abs() > 14.0;
            let is_rotated =
                matches!(drawn[0], Some(Operation::Rotate(angle)) if (angle.abs() - 60.0 / 9.0).abs() < 1e-6);
            let is_translated = matches!(drawn[1], Some(Operation::TranslateX(x)) if far(x));
            rotated += u32::from(is_rotated);
            translated += u32::from(is_translated);
            both += u32::from(is_rotated && is_translated);
            left += u32::from(matches!(drawn[0], Some(Operation::Rotate(angle)) if angle < 0.0));
        }
        for (name, count, p) in [
            ("rotated", rotated, 0.7 / 25.0),
            ("translated", translated, 0.3 / 25.0),
            ("both", both, 0.21 / 25.0),
            ("reversed", left, 0.35 / 25.0),
        ] {
            let (mean, deviation) = (f64::from(n) * p, (f64::from(n) * p * (1.0 - p)).sqrt());
            assert!((f64::from(count) - mean).abs() < 5.0 * deviation, "{name}: {count}, expected {mean}");
        }
    }

    #[test]
    fn certain_and_impossible_operations_are_that() {
        for index in 0..20_000 {
            let draw = |policy: Policy| policy.draw(&mut keyed(Purpose::AutoAugment, 1, 0, index), 8, 8);
            // Probability 0 of Invert after Solarize in the one, of Equalize before Equalize in the other.
            assert!(!matches!(draw(Policy::Cifar10)[..], [Some(Operation::Solarize(_)), Some(Operation::Invert)]));
            // Probability 1 of Contrast at strength 8 after Color.
            let drawn = draw(Policy::Imagenet);
            if let [Some(Operation::Sharpness(_) | Operation::ShearX(_)), second] = drawn[..] {
                assert!(matches!(second, Some(Operation::Invert | Operation::Equalize) | None), "{drawn:?}");
            }
            if let [Some(Operation::ShearX(_)), second] = drawn[..] {
                assert_eq!(second, Some(Operation::Equalize));
            }
        }
    }

    #[test]
    fn policies_are_written_as_docs_data_says() {
        let rand = Policy::RandAugment { n_operations: 2, magnitude: 9 };
        for (json, policy) in [
            (r#""imagenet""#, Policy::Imagenet),
            (r#""trivialaugment""#, Policy::TrivialAugment),
            (r#"{"randaugment":{"n_operations":2,"magnitude":9}}"#, rand),
        ] {
            assert_eq!(serde_json::from_str::<Policy>(json).unwrap(), policy);
            assert_eq!(serde_json::to_string(&policy).unwrap(), json);
        }
        assert!(serde_json::from_str::<Policy>(r#"{"randaugment":{"n_operations":2,"magnitud":9}}"#).is_err());
    }

    /// Every one of 14 equally often, in either direction, at the strengths asked for.
    #[test]
    fn drawn_operations_are_equally_likely() {
        let n = 28_000;
        let rand = Policy::RandAugment { n_operations: 2, magnitude: 10 };
        for (policy, n_strengths) in [(rand, 1), (Policy::TrivialAugment, 31)] {
            let mut counts = BTreeMap::new();
            let mut angles = BTreeMap::new();
            for index in 0..n {
                let drawn = policy.draw(&mut keyed(Purpose::AutoAugment, 4, 1, index), 32, 32);
                assert_eq!(drawn.len(), if policy == rand { 2 } else { 1 });
                let last = *drawn.last().unwrap();
                let name = last.map(|operation| format!("{operation:?}").split('(').next().unwrap().to_owned());
                *counts.entry(name).or_insert(0u32) += 1;
                if let Some(Operation::Rotate(angle)) = last {
                    *angles.entry(format!("{:.3}", angle)).or_insert(0u32) += 1;
                }
            }
            // 2,000 each, standard deviation 43.
            assert!(counts.len() == 14 && counts.values().all(|n| (1_785..=2_215).contains(n)), "{counts:?}");
            // Both directions of each strength; zero has two names.
            assert_eq!(angles.len(), 2 * n_strengths, "{angles:?}");
            let of =
                |sign: bool| angles.iter().filter(|(angle, _)| angle.starts_with('-') == sign).map(|(_, n)| n).sum();
            let (left, right): (u32, u32) = (of(true), of(false));
            assert!(left.abs_diff(right) < 230, "{left} and {right}");
            assert!(policy != rand || angles.contains_key("10.000"), "{angles:?}");
        }
    }

    /// Every operation of both at every strength is torchvision's by its number, and at some of them by every bit of what
    /// comes of an image (`tests/data/pil.py`).
    #[test]
    fn drawn_operations_are_torchvisions() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pil.safetensors");
        let tensors = candle_core::safetensors::load(&path, &candle_core::Device::Cpu).unwrap();
        let (_, h, w) = tensors["noise"].dims3().unwrap();
        let noise = tensors["noise"].flatten_all().unwrap().to_vec1::<u8>().unwrap();
        let mut n_numbers = 0;
        let mut n_images = 0;
        for (space, ranges) in [("RandAugment", Ranges::published(h, w)), ("TrivialAugmentWide", Ranges::WIDE)] {
            for kind in KINDS {
                if let Some(strengths) = tensors.get(&format!("{space} {kind:?}")) {
                    for (strength, expected) in strengths.to_vec1::<f32>().unwrap().into_iter().enumerate() {
                        let found = match kind.at((strength as u8, LAST_STRENGTH), false, &ranges) {
                            Operation::ShearX(x) | Operation::ShearY(x) | Operation::Rotate(x) => x,
                            Operation::TranslateX(x) | Operation::TranslateY(x) | Operation::Solarize(x) => x,
                            Operation::Brightness(x) | Operation::Color(x) => x - 1.0,
                            Operation::Contrast(x) | Operation::Sharpness(x) => x - 1.0,
                            Operation::Posterize(bits) => f64::from(bits),
                            other => panic!("{other:?}"),
                        };
                        assert_eq!(found, f64::from(expected), "{space}, {kind:?}, {strength}");
                        n_numbers += 1;
                    }
                }
                for reversed in [false, true] {
                    let name = format!("{space} noise {kind:?} {}", if reversed { "-" } else { "+" });
                    let Some(images) = tensors.get(&name) else { continue };
                    let images = images.flatten_from(1).unwrap().to_vec2::<u8>().unwrap();
                    for (strength, expected) in [3, 9, 22, 30].into_iter().zip(images) {
                        let mut found = noise.clone();
                        kind.at((strength, LAST_STRENGTH), reversed, &ranges).run(&mut found, h, w, 77);
                        assert!(found == expected, "{name} at {strength}");
                        n_images += 1;
                    }
                }
            }
        }
        assert_eq!((n_numbers, n_images), (2 * 11 * 31, 2 * 4 * (9 * 2 + 4)));
    }

    /// Torchvision 0.29's table for 32 columns, strengths 1, 5 and 9.
    #[test]
    fn strengths_are_torchvisions() {
        let at = |kind: Kind| [1, 5, 9].map(|strength| kind.at((strength, 9), false, &Ranges::published(64, 32)));
        let values = |operations: [Operation; 3]| {
            operations.map(|operation| match operation {
                Operation::ShearX(x) | Operation::TranslateX(x) | Operation::TranslateY(x) | Operation::Rotate(x) => x,
                Operation::Color(x) | Operation::Solarize(x) => x,
                Operation::Posterize(bits) => f64::from(bits),
                other => panic!("{other:?}"),
            })
        };
        for (kind, expected) in [
            (ShearX, [0.03333333507180214, 0.1666666716337204, 0.30000001192092896]),
            (TranslateX, [1.611279010772705, 8.056394577026367, 14.501510620117188]),
            (TranslateY, [3.22255802154541, 16.112789154052734, 29.003021240234375]),
            (Rotate, [3.3333332538604736, 16.666667938232422, 30.0]),
            (Color, [1.0999999940395355, 1.5, 1.899999976158142]),
            (Posterize, [8.0, 6.0, 4.0]),
            (Solarize, [226.6666717529297, 113.33333587646484, 0.0]),
        ] {
            let found = values(at(kind));
            assert!(found == expected, "{kind:?}: {found:?}, not {expected:?}");
        }
        let at = |kind: Kind, strength, reversed| kind.at((strength, 9), reversed, &Ranges::WIDE);
        // The other direction mirrors what has one, and nothing else.
        assert_eq!(at(Rotate, 9, true), Operation::Rotate(-135.0));
        assert_eq!(at(Brightness, 9, true), Operation::Brightness(1.0 - f64::from(0.99f32)));
        assert_eq!(at(Solarize, 5, true), at(Solarize, 5, false));
        let bits = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(|strength| at(Posterize, strength, true));
        assert_eq!(bits, [8, 7, 7, 6, 5, 5, 4, 3, 3, 2].map(Operation::Posterize));
    }
}
