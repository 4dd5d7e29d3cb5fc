//! AutoAugment: learned policies of pairs of operations (Cubuk et al., "AutoAugment: Learning Augmentation Strategies
//! from Data", CVPR 2019, arXiv 1805.09501, tables 7 and 9).
//!
//! Each image meets one of a policy's 25 pairs. Each of its two operations happens with a probability of its own; its
//! strength is one of ten, and where it has a direction, that is chosen by a coin. The ten strengths are torchvision's
//! `AutoAugment`.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::operation::Operation;
use crate::random::below;

/// A policy that was learned on a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Learned on CIFAR-10; the published recipes use it for CIFAR-100, too.
    Cifar10,
    /// Learned on ImageNet; the published recipes use it for Tiny-ImageNet, too.
    Imagenet,
}

/// AutoAugment with one of the published policies, on gray or RGB images.
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
    /// The table of pairs.
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

    /// Draws a pair and changes `image`, `[C, H, W]` with C = 1 or 3.
    pub(crate) fn apply(&self, rng: &mut ChaCha8Rng, image: &mut [u8], h: usize, w: usize) {
        for operation in self.policy.draw(rng, h, w).into_iter().flatten() {
            operation.run(image, h, w, self.fill);
        }
    }
}

impl Policy {
    fn pairs(self) -> &'static [[Step; 2]; 25] {
        match self {
            Self::Cifar10 => &CIFAR10,
            Self::Imagenet => &IMAGENET,
        }
    }

    /// The operations that happen to one image of the size, in their order.
    fn draw(self, rng: &mut ChaCha8Rng, h: usize, w: usize) -> [Option<Operation>; 2] {
        let pair = self.pairs()[below(rng, 25)];
        // Drawn whether it is needed or not: what happens to the second does not depend on the first.
        pair.map(|(kind, tenths, strength)| {
            let happens = below(rng, 10) < tenths;
            let reversed = below(rng, 2) == 1;
            happens.then(|| kind.at(strength, reversed, h, w))
        })
    }
}

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

impl Kind {
    /// The operation at one of ten strengths, evenly spaced: shears up to 0.3, translations up to 150 of 331 of the side,
    /// rotations up to 30 degrees, factors up to 0.9 away from 1, all in either direction; 8 down to 4 bits; thresholds
    /// from 255 down to 0.
    fn at(self, strength: u8, reversed: bool, h: usize, w: usize) -> Operation {
        let share = f64::from(strength) / 9.0;
        let signed = if reversed { -share } else { share };
        match self {
            Self::ShearX => Operation::ShearX(0.3 * signed),
            Self::ShearY => Operation::ShearY(0.3 * signed),
            Self::TranslateX => Operation::TranslateX(150.0 / 331.0 * w as f64 * signed),
            Self::TranslateY => Operation::TranslateY(150.0 / 331.0 * h as f64 * signed),
            Self::Rotate => Operation::Rotate(30.0 * signed),
            Self::Brightness => Operation::Brightness(1.0 + 0.9 * signed),
            Self::Color => Operation::Color(1.0 + 0.9 * signed),
            Self::Contrast => Operation::Contrast(1.0 + 0.9 * signed),
            Self::Sharpness => Operation::Sharpness(1.0 + 0.9 * signed),
            Self::Posterize => Operation::Posterize(8 - (4.0 * share).round() as u32),
            Self::Solarize => Operation::Solarize(255.0 * f64::from(9 - strength) / 9.0),
            Self::AutoContrast => Operation::AutoContrast,
            Self::Equalize => Operation::Equalize,
            Self::Invert => Operation::Invert,
        }
    }
}

use Kind::{
    AutoContrast, Brightness, Color, Contrast, Equalize, Invert, Posterize, Rotate, Sharpness, ShearX, ShearY,
    Solarize, TranslateX, TranslateY,
};

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
                matches!(drawn[0], Some(Operation::Rotate(angle)) if (angle.abs() - 60.0 / 9.0).abs() < 1e-9);
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
            assert!(!matches!(draw(Policy::Cifar10), [Some(Operation::Solarize(_)), Some(Operation::Invert)]));
            // Probability 1 of Contrast at strength 8 after Color.
            let drawn = draw(Policy::Imagenet);
            if let [Some(Operation::Sharpness(_) | Operation::ShearX(_)), second] = drawn {
                assert!(matches!(second, Some(Operation::Invert | Operation::Equalize) | None), "{drawn:?}");
            }
            if let [Some(Operation::ShearX(_)), second] = drawn {
                assert_eq!(second, Some(Operation::Equalize));
            }
        }
    }

    /// Torchvision 0.29's table for 32 columns, strengths 1, 5 and 9.
    #[test]
    fn strengths_are_torchvisions() {
        let at = |kind: Kind| [1, 5, 9].map(|strength| kind.at(strength, false, 64, 32));
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
            assert!(
                found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5),
                "{kind:?}: {found:?}, not {expected:?}"
            );
        }
        // The other direction mirrors what has one, and nothing else.
        assert_eq!(Rotate.at(9, true, 8, 8), Operation::Rotate(-30.0));
        assert_eq!(Brightness.at(9, true, 8, 8), Operation::Brightness(1.0 - 0.9));
        assert_eq!(Solarize.at(5, true, 8, 8), Solarize.at(5, false, 8, 8));
        let bits = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(|strength| Posterize.at(strength, true, 8, 8));
        assert_eq!(bits, [8, 8, 7, 7, 6, 6, 5, 5, 4, 4].map(Operation::Posterize));
    }
}
