//! Random changes to frames in training.

use serde::{Deserialize, Serialize};

use super::MAX_SIDE;
use crate::error::{Error, Result};
use crate::random::{Purpose, below, keyed, uniform};

/// What happens to the frames of a recording in training, to all of them alike: a flip, then some of three changes, each
/// drawn anew from the three (Li et al., "Neuromorphic Data Augmentation for Training Spiking Neural Networks", ECCV 2022).
///
/// The default changes nothing. A change whose strength is 0 is not among those that are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventAugment {
    /// Mirrors left and right with probability 1/2.
    pub flip: bool,
    /// Changes that are drawn, with repetition.
    pub changes: usize,
    /// Rows and columns by which frames are moved, each uniform in `-roll..=roll`; what leaves on one side comes in on the
    /// other.
    pub roll: usize,
    /// Degrees by which frames are turned, uniform in `-rotate..=rotate`, about the middle, to the nearest pixel, with
    /// nothing coming in: torchvision's `RandomRotation`.
    pub rotate: f64,
    /// Share of each side of a rectangle around any pixel that is emptied, cut off at the borders, 0..=1.
    pub cutout: f64,
}

/// The place that a pixel's counts come from, or nowhere.
const NOWHERE: u32 = u32::MAX;

impl EventAugment {
    /// What the published code does with CIFAR10-DVS: a flip, then two of a roll by 7, a rotation by 45 degrees and a
    /// cutout of half of each side.
    pub fn published() -> Self {
        Self { flip: true, changes: 2, roll: 7, rotate: 45.0, cutout: 0.5 }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Config(format!("EventAugment::{message}")));
        if self.roll > MAX_SIDE {
            return fail(format!("roll: expected at most {MAX_SIDE} pixels, found {}", self.roll));
        }
        if !(0.0..=180.0).contains(&self.rotate) {
            return fail(format!("rotate: expected 0 to 180 degrees, found {}", self.rotate));
        }
        if !(0.0..=1.0).contains(&self.cutout) {
            return fail(format!("cutout: expected a share of a side, 0 to 1, found {}", self.cutout));
        }
        if self.changes > 16 {
            return fail(format!("changes: expected at most 16, found {}", self.changes));
        }
        if self.changes > 0 && self.roll == 0 && self.rotate == 0.0 && self.cutout == 0.0 {
            return fail("changes: expected roll, rotate or cutout above 0 to draw from, found none".to_owned());
        }
        Ok(())
    }

    /// Changes planes `[.., H, W]` as (seed, epoch, index) decide.
    pub(crate) fn apply(&self, planes: &mut [f32], (h, w): (usize, usize), seed: u64, epoch: u64, index: usize) {
        if *self == Self::default() {
            return;
        }
        let mut rng = keyed(Purpose::Events, seed, epoch, index as u64);
        let mut map: Vec<u32> = (0..(h * w) as u32).collect();
        let flipped = uniform(&mut rng) < 0.5;
        if self.flip && flipped {
            map.chunks_exact_mut(w).for_each(<[_]>::reverse);
        }
        let kinds = [(self.roll > 0, 0), (self.rotate > 0.0, 1), (self.cutout > 0.0, 2)];
        let kinds: Vec<u32> = kinds.into_iter().filter(|(is_on, _)| *is_on).map(|(_, kind)| kind).collect();
        for _ in 0..self.changes {
            match kinds[below(&mut rng, kinds.len())] {
                0 => {
                    let mut shift = || below(&mut rng, 2 * self.roll + 1) as isize - self.roll as isize;
                    let (down, right) = (shift(), shift());
                    map = rolled(&map, (h, w), (down, right));
                }
                1 => map = rotated(&map, (h, w), self.rotate * (2.0 * uniform(&mut rng) - 1.0)),
                _ => {
                    let centre = (below(&mut rng, h), below(&mut rng, w));
                    cut(&mut map, (h, w), centre, self.cutout);
                }
            }
        }
        for plane in planes.chunks_exact_mut(h * w) {
            let before = plane.to_vec();
            for (out, from) in plane.iter_mut().zip(&map) {
                *out = before.get(*from as usize).copied().unwrap_or(0.0);
            }
        }
    }
}

fn rolled(map: &[u32], (h, w): (usize, usize), (down, right): (isize, isize)) -> Vec<u32> {
    let from = |place: usize, by: isize, n: usize| (place as isize - by).rem_euclid(n as isize) as usize;
    (0..h * w).map(|i| map[from(i / w, down, h) * w + from(i % w, right, w)]).collect()
}

/// Counter-clockwise by `degrees`.
fn rotated(map: &[u32], (h, w): (usize, usize), degrees: f64) -> Vec<u32> {
    let (sin, cos) = degrees.to_radians().sin_cos();
    let middle = |n: usize| (n as f64 - 1.0) / 2.0;
    let place = |i: usize| {
        let (y, x) = ((i / w) as f64 - middle(h), (i % w) as f64 - middle(w));
        let column = (cos * x - sin * y + middle(w)).round_ties_even();
        let row = (sin * x + cos * y + middle(h)).round_ties_even();
        let is_inside = (0.0..h as f64).contains(&row) && (0.0..w as f64).contains(&column);
        if is_inside { map[row as usize * w + column as usize] } else { NOWHERE }
    };
    (0..h * w).map(place).collect()
}

fn cut(map: &mut [u32], (h, w): (usize, usize), centre: (usize, usize), share: f64) {
    let span = |centre: usize, n: usize| {
        let half = (share * n as f64) as usize / 2;
        (centre.saturating_sub(half), (centre + half).min(n))
    };
    let ((top, bottom), (left, right)) = (span(centre.0, h), span(centre.1, w));
    for row in map.chunks_exact_mut(w).take(bottom).skip(top) {
        row[left..right].fill(NOWHERE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAME: [u32; 6] = [0, 1, 2, 3, 4, 5];

    #[test]
    fn by_hand() {
        // Two rows of three. Down by one and right by one, around the edges.
        assert_eq!(rolled(&SAME, (2, 3), (1, 1)), [5, 3, 4, 2, 0, 1]);
        assert_eq!(rolled(&SAME, (2, 3), (-1, -2)), [5, 3, 4, 2, 0, 1]);
        // A square counter-clockwise by a quarter: the right column comes to the top.
        assert_eq!(rotated(&[0, 1, 2, 3, 4, 5, 6, 7, 8], (3, 3), 90.0), [2, 5, 8, 1, 4, 7, 0, 3, 6]);
        assert_eq!(rotated(&SAME, (2, 3), 180.0), [5, 4, 3, 2, 1, 0]);
        // 45 degrees: the corners of a large square come from outside.
        let turned = rotated(&(0..100).collect::<Vec<_>>(), (10, 10), 45.0);
        assert_eq!([0, 9, 90, 99].map(|i| turned[i]), [NOWHERE; 4]);
        // Half of four rows and columns around the centre (0, 3): rows -1..1, columns 2..4.
        let mut map: Vec<u32> = (0..16).collect();
        cut(&mut map, (4, 4), (0, 3), 0.5);
        assert_eq!(map.iter().filter(|from| **from == NOWHERE).count(), 2);
        assert_eq!((map[2], map[3]), (NOWHERE, NOWHERE));
    }

    /// Each of the three is drawn a third of the time, and all planes are changed alike.
    #[test]
    fn changes_are_drawn_as_published() {
        let augment = EventAugment { changes: 1, ..EventAugment::published() };
        let (mut flipped, mut emptied) = (0, 0);
        let n = 3_000;
        for index in 0..n {
            let mut planes: Vec<f32> = (0..2 * 64).map(|i| (i % 64 + 1) as f32).collect();
            augment.apply(&mut planes, (8, 8), 1, 2, index);
            assert_eq!(planes[..64], planes[64..]);
            emptied += usize::from(planes.contains(&0.0));
            let mut flip = vec![1.0, 2.0];
            EventAugment { flip: true, ..EventAugment::default() }.apply(&mut flip, (1, 2), 1, 2, index);
            flipped += usize::from(flip == [2.0, 1.0]);
        }
        // Binomial: standard deviations of 27 and 26; cutout always empties, a rotation by more than a few degrees does.
        assert!(flipped.abs_diff(n / 2) < 135, "{flipped}");
        assert!((n / 3..n * 2 / 3 + 130).contains(&emptied), "{emptied}");
    }
}
