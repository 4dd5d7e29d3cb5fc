//! From bytes to what a network reads: random crop, horizontal flip, normalization and cutout.
//!
//! The order is that of the published recipes (Hao et al. 2024, appendix; their code): crop and flip on the bytes, then
//! `ToTensor` and `Normalize`, then cutout. So a padded border is black and normalized like any pixel, while a cut-out
//! square is 0 after normalization, which is the mean colour.

use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::random::{Purpose, below, keyed};

/// Random changes to a training image; the default makes none.
///
/// ```
/// # use lmht_datasets::Augment;
/// let augment = Augment { flip: true, ..Augment::default() };
/// assert_eq!(augment, Augment { crop_padding: 0, flip: true, cutout: 0 });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Pixels of black border on each side, from which an image-sized window is cut at one of `(2p + 1)^2` equally
    /// likely places: torchvision's `RandomCrop((H, W), padding=p)`. 0 for none; less than H and W.
    pub crop_padding: usize,
    /// Mirrors left and right with probability 1/2: torchvision's `RandomHorizontalFlip()`.
    pub flip: bool,
    /// Side in pixels of a square that is set to 0 after normalization, centred on any pixel with equal probability and
    /// cut off at the borders (DeVries and Taylor, 2017, arXiv 1708.04552). It covers rows `y - side / 2` to
    /// `y - side / 2 + side - 1` around the centre y, columns likewise. 0 for none; at most the longer side.
    pub cutout: usize,
}

impl Augment {
    /// The published recipe for CIFAR-10 without its AutoAugment: padding 4, flip, cutout 16.
    pub fn cifar10() -> Self {
        Self { crop_padding: 4, flip: true, cutout: 16 }
    }

    /// The published recipe for CIFAR-100 without its AutoAugment: padding 4, flip, cutout 12.
    pub fn cifar100() -> Self {
        Self { crop_padding: 4, flip: true, cutout: 12 }
    }

    pub(crate) fn check(&self, h: usize, w: usize) -> Result<()> {
        if self.crop_padding >= h.min(w) {
            return Err(Error::Config(format!(
                "Augment::crop_padding: expected less than the shorter side of the {h}x{w} images, found {}",
                self.crop_padding
            )));
        }
        if self.cutout > h.max(w) {
            return Err(Error::Config(format!(
                "Augment::cutout: expected at most the longer side of the {h}x{w} images, found {}",
                self.cutout
            )));
        }
        Ok(())
    }

    /// What happens to image `index` in `epoch`, and nothing else decides it.
    pub(crate) fn draw(&self, h: usize, w: usize, seed: u64, epoch: u64, index: usize) -> View {
        if *self == Self::default() {
            return View::default();
        }
        let mut rng = keyed(Purpose::Augment, seed, epoch, index as u64);
        // Always drawn, in this order: switching one transformation on leaves the others as they were.
        let top = below(&mut rng, 2 * self.crop_padding + 1);
        let left = below(&mut rng, 2 * self.crop_padding + 1);
        let flip = rng.next_u64() >> 63 == 1;
        let (y, x) = (below(&mut rng, h), below(&mut rng, w));
        let span = |centre: usize, end: usize| {
            let start = centre as isize - (self.cutout / 2) as isize;
            let stop = start + self.cutout as isize;
            (start.max(0) as usize, (stop.max(0) as usize).min(end))
        };
        View {
            down: top as isize - self.crop_padding as isize,
            right: left as isize - self.crop_padding as isize,
            flip: self.flip && flip,
            cut: (self.cutout > 0).then(|| (span(y, h), span(x, w))),
        }
    }
}

/// Subtracts a mean and divides by a standard deviation, per channel, as torchvision's `ToTensor` and `Normalize`:
/// `y = (x / 255 - mean) / std`.
///
/// Both are in units of the full range: 0 is black, 1 is 255.
///
/// ```
/// # use lmht_datasets::Normalize;
/// let normalize = Normalize { mean: vec![0.5], std: vec![0.25] };
/// assert_eq!(normalize.apply(0, 255), 2.0);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalize {
    /// `[C]`.
    pub mean: Vec<f32>,
    /// `[C]`, above 0.
    pub std: Vec<f32>,
}

impl Normalize {
    /// Brings bytes into 0..1 and no more.
    pub fn unit(channels: usize) -> Self {
        Self { mean: vec![0.0; channels], std: vec![1.0; channels] }
    }

    /// The figures of the authors' CIFAR-10 code.
    pub fn cifar10() -> Self {
        Self { mean: vec![0.4914, 0.4822, 0.4465], std: vec![0.2023, 0.1994, 0.2010] }
    }

    /// The figures of the authors' CIFAR-100 code, there as bytes.
    pub fn cifar100() -> Self {
        let unit = |bytes: [f32; 3]| bytes.map(|byte| byte / 255.0).to_vec();
        Self { mean: unit([129.3, 124.1, 112.4]), std: unit([68.2, 65.4, 70.4]) }
    }

    /// The figures of the authors' ImageNet-200 (Tiny-ImageNet) code.
    pub fn tiny_imagenet() -> Self {
        Self { mean: vec![0.480, 0.448, 0.398], std: vec![0.272, 0.266, 0.274] }
    }

    /// The normalized value of `byte` in `channel`, computed in `f32` in PyTorch's order; NaN if there is no such
    /// channel.
    pub fn apply(&self, channel: usize, byte: u8) -> f32 {
        match (self.mean.get(channel), self.std.get(channel)) {
            (Some(mean), Some(std)) => (f32::from(byte) / 255.0 - mean) / std,
            _ => f32::NAN,
        }
    }

    pub(crate) fn check(&self, channels: usize) -> Result<()> {
        for (name, values) in [("mean", &self.mean), ("std", &self.std)] {
            if values.len() != channels {
                return Err(Error::Config(format!(
                    "Normalize::{name}: expected {channels} values, one for each channel of the images, found {}",
                    values.len()
                )));
            }
        }
        if let Some(mean) = self.mean.iter().find(|mean| !mean.is_finite()) {
            return Err(Error::Config(format!("Normalize::mean: expected finite values, found {mean}")));
        }
        if let Some(std) = self.std.iter().find(|std| !(std.is_normal() && **std > 0.0)) {
            return Err(Error::Config(format!(
                "Normalize::std: expected values above 0, found {std}; a channel that never changes has no spread: give \
                 it 1"
            )));
        }
        Ok(())
    }

    /// The normalized value of every byte in every channel: one look-up a pixel instead of two divisions.
    pub(crate) fn table(&self) -> Vec<[f32; 256]> {
        let channel = |c| std::array::from_fn(|byte| self.apply(c, byte as u8));
        (0..self.mean.len()).map(channel).collect()
    }
}

/// One outcome of [`Augment`]; the default changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// The output's row 0 is the image's row `down`, which may lie outside: black.
    down: isize,
    /// Before the flip, the output's column 0 is the image's column `right`.
    right: isize,
    flip: bool,
    /// Rows and columns that are 0, half open, in the output.
    cut: Option<((usize, usize), (usize, usize))>,
}

impl View {
    /// Writes the `view` of an image `[C, H, W]` into `out`, `[C, H, W]`.
    pub(crate) fn write(&self, image: &[u8], h: usize, w: usize, table: &[[f32; 256]], out: &mut [f32]) {
        // Columns x of the output for which x + right is a column of the image.
        let start = self.right.min(0).unsigned_abs().min(w);
        let end = w - self.right.max(0).unsigned_abs().min(w);
        for ((table, image), out) in table.iter().zip(image.chunks_exact(h * w)).zip(out.chunks_exact_mut(h * w)) {
            let black = table[0];
            for (y, out) in out.chunks_exact_mut(w).enumerate() {
                let source = y.checked_add_signed(self.down).filter(|y| *y < h && start < end);
                match source.map(|y| &image[y * w..(y + 1) * w]) {
                    Some(row) => {
                        out[..start].fill(black);
                        let from = start.wrapping_add_signed(self.right);
                        for (out, byte) in out[start..end].iter_mut().zip(&row[from..]) {
                            *out = table[usize::from(*byte)];
                        }
                        out[end..].fill(black);
                    }
                    None => out.fill(black),
                }
                if self.flip {
                    out.reverse();
                }
            }
            if let Some(((top, bottom), (left, right))) = self.cut {
                for row in out.chunks_exact_mut(w).take(bottom).skip(top) {
                    row[left..right].fill(0.0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two channels of 3 rows and 4 columns: channel, row and column are the digits of a value.
    const IMAGE: [u8; 24] =
        [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23, 100, 101, 102, 103, 110, 111, 112, 113, 120, 121, 122, 123];

    fn view(view: View) -> Vec<f32> {
        // A table that shows the byte itself, and -1 for the black of channel 0, -2 for that of channel 1.
        let mut table = [std::array::from_fn(|byte| byte as f32); 2];
        (table[0][0], table[1][0]) = (-1.0, -2.0);
        let mut out = vec![f32::NAN; 24];
        view.write(&IMAGE, 3, 4, &table, &mut out);
        out
    }

    #[test]
    fn no_change_keeps_rows_before_columns() {
        let mut expected = IMAGE.map(f32::from);
        expected[0] = -1.0;
        assert_eq!(view(View::default()), expected);
    }

    #[test]
    fn crop_moves_rows_and_columns_apart() {
        // One row down and two columns to the left of the image: two black columns, then the image's first two.
        #[rustfmt::skip]
        let expected = [
            -1., -1., 10., 11.,   -1., -1., 20., 21.,   -1., -1., -1., -1.,
            -2., -2., 110., 111., -2., -2., 120., 121., -2., -2., -2., -2.,
        ];
        assert_eq!(view(View { down: 1, right: -2, ..View::default() }), expected);
        // Two rows up, one column to the right.
        #[rustfmt::skip]
        let expected = [
            -1., -1., -1., -1., -1., -1., -1., -1., 1., 2., 3., -1.,
            -2., -2., -2., -2., -2., -2., -2., -2., 101., 102., 103., -2.,
        ];
        assert_eq!(view(View { down: -2, right: 1, ..View::default() }), expected);
    }

    #[test]
    fn flip_mirrors_columns_after_the_crop() {
        #[rustfmt::skip]
        let expected = [
            -1., 3., 2., 1., -1., 13., 12., 11., -1., 23., 22., 21.,
            -2., 103., 102., 101., -2., 113., 112., 111., -2., 123., 122., 121.,
        ];
        assert_eq!(view(View { right: 1, flip: true, ..View::default() }), expected);
    }

    #[test]
    fn cutout_is_zero_in_every_channel_and_not_black() {
        #[rustfmt::skip]
        let expected = [
            -1., 1., 2., 3.,      10., 11., 0., 0.,     20., 21., 0., 0.,
            100., 101., 102., 103., 110., 111., 0., 0., 120., 121., 0., 0.,
        ];
        assert_eq!(view(View { cut: Some(((1, 3), (2, 4))), ..View::default() }), expected);
    }

    #[test]
    fn draws_cover_every_place_equally_often() {
        let augment = Augment { crop_padding: 1, flip: true, cutout: 3 };
        let mut places = std::collections::BTreeMap::new();
        let mut centres = std::collections::BTreeMap::new();
        for index in 0..18_000 {
            let View { down, right, flip, cut } = augment.draw(3, 4, 5, 2, index);
            *places.entry((down, right, flip)).or_insert(0) += 1;
            *centres.entry(cut).or_insert(0) += 1;
        }
        // Nine places times two, 1,000 each, standard deviation 31; twelve centres, 1,500 each, 37.
        assert!(places.len() == 18 && places.values().all(|n| (845..=1_155).contains(n)), "{places:?}");
        assert!(places.keys().all(|(down, right, _)| down.abs() <= 1 && right.abs() <= 1));
        assert!(centres.len() == 12 && centres.values().all(|n| (1_315..=1_685).contains(n)), "{centres:?}");
        // Centred on the corner (0, 0) a side of 3 leaves 2 x 2 pixels; on (1, 1) all of 3 x 3.
        assert!(centres.contains_key(&Some(((0, 2), (0, 2)))) && centres.contains_key(&Some(((0, 3), (0, 3)))));
    }

    #[test]
    fn one_transformation_does_not_move_another() {
        let all = Augment { crop_padding: 2, flip: true, cutout: 2 };
        for index in 0..100 {
            let (a, b) = (all.draw(8, 9, 1, 2, index), Augment { flip: false, ..all }.draw(8, 9, 1, 2, index));
            assert_eq!(View { flip: false, ..a }, b);
        }
    }
}
