//! From bytes to what a network reads: crop, horizontal flip, AutoAugment, normalization and cutout or random erasing.
//!
//! The order is that of the published recipes (Hao et al. 2024, appendix; their code): crop, flip and AutoAugment on the
//! bytes, then `ToTensor` and `Normalize`, then cutout. So a padded border is black and normalized like any pixel, while a
//! cut-out square is 0 after normalization, which is the mean colour.

use std::borrow::Cow;

use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};

use crate::auto_augment::{AutoAugment, Policy};
use crate::error::{Error, Result};
use crate::random::{Purpose, below, keyed, uniform};
use crate::resize::resize;

/// Longest side that images may be brought to; keeps sizes far from overflow.
pub(crate) const MAX_SIDE: usize = 1 << 14;

/// Random changes to a training image; the default makes none.
///
/// ```
/// # use lmht_datasets::Augment;
/// let augment = Augment { flip: true, ..Augment::default() };
/// assert_eq!((augment.crop_padding, augment.cutout, augment.auto_augment), (0, 0, None));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// (height, width) to which a random window is brought: torchvision's `RandomResizedCrop(size)`. The window has 8 to
    /// 100 % of the area and a width of 3/4 to 4/3 of its height, in logarithms; antialiased bilinear interpolation.
    /// Absent for none; not together with `crop_padding`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resized_crop: Option<(usize, usize)>,
    /// Changes to shape and colour by a policy, AutoAugment's or another, after crop and flip and before normalization.
    /// Absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_augment: Option<AutoAugment>,
    /// Probability, 0..=1, with which a rectangle is set to 0 after normalization: torchvision's `RandomErasing(p)` (Zhong
    /// et al. 2020, arXiv 1708.04896). It has 2 to 33 % of the area and a height of 0.3 to 3.3 of its width, in logarithms,
    /// lies within the image and is less than it in both directions. Absent for none; not together with `cutout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erasing: Option<f64>,
}

impl Augment {
    /// The published recipe for CIFAR-10: padding 4, flip, AutoAugment's policy for CIFAR-10, cutout 16.
    pub fn cifar10() -> Self {
        let auto_augment = Some(AutoAugment::new(Policy::Cifar10));
        Self { crop_padding: 4, flip: true, cutout: 16, auto_augment, ..Self::default() }
    }

    /// The published recipe for CIFAR-100: padding 4, flip, AutoAugment's policy for CIFAR-10, cutout 12.
    pub fn cifar100() -> Self {
        Self { cutout: 12, ..Self::cifar10() }
    }

    /// The published recipe for Tiny-ImageNet (side 64) and ImageNet (side 224): a resized crop of `side`, flip,
    /// AutoAugment's policy for ImageNet.
    pub fn imagenet(side: usize) -> Self {
        let auto_augment = Some(AutoAugment::new(Policy::Imagenet));
        Self { resized_crop: Some((side, side)), flip: true, auto_augment, ..Self::default() }
    }

    /// (height, width) of what comes of an image of that size.
    pub(crate) fn size(&self, h: usize, w: usize) -> (usize, usize) {
        self.resized_crop.unwrap_or((h, w))
    }

    /// Checks that the changes fit images of the shape.
    pub(crate) fn check(&self, (c, h, w): (usize, usize, usize)) -> Result<()> {
        if let Some((rows, columns)) = self.resized_crop {
            if ![rows, columns].iter().all(|side| (1..=MAX_SIDE).contains(side)) {
                return Err(Error::Config(format!(
                    "Augment::resized_crop: expected (height, width) of 1 to {MAX_SIDE} pixels, found ({rows}, {columns})"
                )));
            }
            if self.crop_padding > 0 {
                return Err(Error::Config(format!(
                    "Augment: expected crop_padding or resized_crop, found both ({} and ({rows}, {columns})); set one of \
                     them to none",
                    self.crop_padding
                )));
            }
        }
        if let Some(auto_augment) = self.auto_augment {
            auto_augment.check()?;
        }
        if self.auto_augment.is_some() && ![1, 3].contains(&c) {
            return Err(Error::Config(format!(
                "Augment::auto_augment: expected gray or RGB images, found {c} channels; its colours mean nothing there"
            )));
        }
        let (h, w) = self.size(h, w);
        if self.crop_padding >= h.min(w) {
            return Err(Error::Config(format!(
                "Augment::crop_padding: expected less than the shorter side of the {h}x{w} images, found {}",
                self.crop_padding
            )));
        }
        if let Some(erasing) = self.erasing {
            if !(0.0..=1.0).contains(&erasing) {
                return Err(Error::Config(format!(
                    "Augment::erasing: expected a probability in 0..=1, found {erasing}"
                )));
            }
            if self.cutout > 0 {
                return Err(Error::Config(format!(
                    "Augment: expected cutout or erasing, found both ({} and {erasing}); set one of them to none",
                    self.cutout
                )));
            }
        }
        if self.cutout > h.max(w) {
            return Err(Error::Config(format!(
                "Augment::cutout: expected at most the longer side of the {h}x{w} images, found {}",
                self.cutout
            )));
        }
        Ok(())
    }

    /// Changes an image `[C, H, W]` of the shape as (seed, epoch, index) decide, normalizes it by `table`, and writes it
    /// into `out`, `[C, ..]` with the size of [`size`](Self::size). Gives what is cut out, which is 0 there.
    pub(crate) fn write<T: Copy + Default>(
        &self,
        image: &[u8],
        (c, h, w): (usize, usize, usize),
        (seed, epoch, index): (u64, u64, usize),
        table: &[[T; 256]],
        out: &mut [T],
    ) -> Option<Cut> {
        let image = match self.resized_crop {
            Some(size) => {
                let window = Window::draw(h, w, seed, epoch, index);
                Cow::Owned(window.resize(image, h, w, size))
            }
            None => Cow::Borrowed(image),
        };
        let (h, w) = self.size(h, w);
        let view = self.draw(h, w, seed, epoch, index);
        match self.auto_augment {
            None => view.write(&image, h, w, table, out),
            Some(auto_augment) => {
                let mut bytes = vec![0; c * h * w];
                let same: [u8; 256] = std::array::from_fn(|byte| byte as u8);
                View { cut: None, ..view }.write(&image, h, w, &vec![same; c], &mut bytes);
                auto_augment.apply(&mut keyed(Purpose::AutoAugment, seed, epoch, index as u64), &mut bytes, h, w);
                View { cut: view.cut, ..View::default() }.write(&bytes, h, w, table, out);
            }
        }
        view.cut
    }

    /// What of it does more than move pixels.
    pub(crate) fn beyond_moves(&self) -> Option<&'static str> {
        let auto_augment = self.auto_augment.map(|_| "Augment::auto_augment");
        self.resized_crop.map(|_| "Augment::resized_crop").or(auto_augment)
    }

    /// Crop, flip and cutout of image `index` in `epoch`, for the size after a resized crop; nothing else decides them.
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
            cut: match self.erasing {
                Some(erasing) => erased(erasing, h, w, seed, epoch, index),
                None => (self.cutout > 0).then(|| (span(y, h), span(x, w))),
            },
        }
    }
}

/// What is erased of image `index` in `epoch`, as torchvision draws it: nothing, should ten tries not fit.
fn erased(probability: f64, h: usize, w: usize, seed: u64, epoch: u64, index: usize) -> Option<Cut> {
    let mut rng = keyed(Purpose::Erasing, seed, epoch, index as u64);
    if uniform(&mut rng) >= probability {
        return None;
    }
    let tries = std::iter::repeat_with(|| erased_sides(h, w, uniform(&mut rng), uniform(&mut rng)));
    let (height, width) = tries.take(10).flatten().next()?;
    let (top, left) = (below(&mut rng, h - height + 1), below(&mut rng, w - width + 1));
    Some(((top, top + height), (left, left + width)))
}

/// (height, width) of what two uniform numbers erase of an image, if it fits.
fn erased_sides(h: usize, w: usize, area: f64, ratio: f64) -> Option<(usize, usize)> {
    let (height, width) = sides(h * w, (0.02, 0.33), (0.3, 3.3), area, ratio);
    (height < h && width < w).then_some((height, width))
}

/// The sides of a rectangle whose share of `n_pixels` is uniform and whose first side over the second is so in logarithms.
fn sides(n_pixels: usize, areas: (f64, f64), ratios: (f64, f64), area: f64, ratio: f64) -> (usize, usize) {
    let between = |(from, to): (f64, f64), share: f64| from + (to - from) * share;
    let area = n_pixels as f64 * between(areas, area);
    let ratio = between((ratios.0.ln(), ratios.1.ln()), ratio).exp();
    ((area * ratio).sqrt().round_ties_even() as usize, (area / ratio).sqrt().round_ties_even() as usize)
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

    /// The figures that ImageNet networks commonly have.
    pub fn imagenet() -> Self {
        Self { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] }
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

/// A part of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) top: usize,
    pub(crate) left: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl Window {
    /// The middle (height, width) of an image that is at least as large; torchvision's `CenterCrop`.
    pub(crate) fn centre((h, w): (usize, usize), (height, width): (usize, usize)) -> Self {
        // Halves to the even neighbour, as Python rounds.
        let start = |rest: usize| (rest as f64 / 2.0).round_ties_even() as usize;
        Self { top: start(h - height), left: start(w - width), height, width }
    }

    /// The window of a random resized crop of image `index` in `epoch`, as torchvision draws it: ten tries of an area and
    /// a ratio; should none fit, as much of the middle as the ratios allow.
    fn draw(h: usize, w: usize, seed: u64, epoch: u64, index: usize) -> Self {
        const AREA: (f64, f64) = (0.08, 1.0);
        const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
        let mut rng = keyed(Purpose::ResizedCrop, seed, epoch, index as u64);
        for _ in 0..10 {
            let (width, height) = sides(h * w, AREA, RATIO, uniform(&mut rng), uniform(&mut rng));
            if (1..=w).contains(&width) && (1..=h).contains(&height) {
                let (top, left) = (below(&mut rng, h - height + 1), below(&mut rng, w - width + 1));
                return Self { top, left, height, width };
            }
        }
        let ratio = (w as f64 / h as f64).clamp(RATIO.0, RATIO.1);
        let height = ((w as f64 / ratio).round_ties_even() as usize).clamp(1, h);
        let width = ((h as f64 * ratio).round_ties_even() as usize).clamp(1, w);
        Self::centre((h, w), (height, width))
    }

    /// The part of an image `[C, H, W]`.
    pub(crate) fn cut(&self, image: &[u8], h: usize, w: usize) -> Vec<u8> {
        let mut part = Vec::with_capacity(image.len() / (h * w) * self.height * self.width);
        for channel in image.chunks_exact(h * w) {
            for row in channel.chunks_exact(w).skip(self.top).take(self.height) {
                part.extend_from_slice(&row[self.left..self.left + self.width]);
            }
        }
        part
    }

    /// The part of an image `[C, H, W]`, brought to another size.
    fn resize(&self, image: &[u8], h: usize, w: usize, (to_h, to_w): (usize, usize)) -> Vec<u8> {
        let part = self.cut(image, h, w);
        if (self.height, self.width) == (to_h, to_w) {
            return part;
        }
        resize(&part, (self.height, self.width), (to_h, to_w))
    }
}

/// Rows and columns, half open.
pub(crate) type Cut = ((usize, usize), (usize, usize));

/// One outcome of [`Augment`]; the default changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// The output's row 0 is the image's row `down`, which may lie outside: black.
    down: isize,
    /// Before the flip, the output's column 0 is the image's column `right`.
    right: isize,
    flip: bool,
    /// Rows and columns that are 0, half open, in the output.
    cut: Option<Cut>,
}

impl View {
    /// Its numbers for a kernel: rows down and columns right, whether it is flipped, what is cut. Below 0 they wrap around.
    pub(crate) fn choices(&self) -> [u32; 7] {
        let ((top, bottom), (left, right)) = self.cut.unwrap_or_default();
        let [top, bottom, left, right] = [top, bottom, left, right].map(|side| side as u32);
        [self.down as u32, self.right as u32, u32::from(self.flip), top, bottom, left, right]
    }

    /// Writes the `view` of an image `[C, H, W]` into `out`, `[C, H, W]`; what is cut out has the type's default, 0.
    fn write<T: Copy + Default>(&self, image: &[u8], h: usize, w: usize, table: &[[T; 256]], out: &mut [T]) {
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
                    row[left..right].fill(T::default());
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
        let augment = Augment { crop_padding: 1, flip: true, cutout: 3, ..Augment::default() };
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
        let all = Augment { crop_padding: 2, flip: true, cutout: 2, ..Augment::default() };
        for index in 0..100 {
            let (a, b) = (all.draw(8, 9, 1, 2, index), Augment { flip: false, ..all }.draw(8, 9, 1, 2, index));
            assert_eq!(View { flip: false, ..a }, b);
        }
    }

    #[test]
    fn the_middle_is_torchvisions() {
        // Python: round(1 / 2) = 0, round(3 / 2) = 2.
        let window = |top, left, height, width| Window { top, left, height, width };
        assert_eq!(Window::centre((256, 256), (224, 224)), window(16, 16, 224, 224));
        assert_eq!(Window::centre((5, 7), (4, 4)), window(0, 2, 4, 4));
        assert_eq!(window(1, 2, 2, 1).cut(&IMAGE, 3, 4), [12, 22, 112, 122]);
    }

    #[test]
    fn windows_have_the_areas_and_ratios_asked_for() {
        let (mut area, mut logs) = (0.0, 0.0);
        let n = 10_000;
        for index in 0..n {
            let Window { top, left, height, width } = Window::draw(64, 64, 3, 1, index);
            assert!(top + height <= 64 && left + width <= 64);
            let (share, ratio) = ((height * width) as f64 / 4096.0, width as f64 / height as f64);
            // Rounded to whole pixels: the smallest window has about 16 x 21 of them.
            assert!((0.075..=1.0).contains(&share) && (0.7..=1.43).contains(&ratio), "{height}x{width}");
            area += share;
            logs += ratio.ln();
        }
        // Uniform in 0.08..1 and in the logarithm, but for what does not fit at the upper end.
        assert!((0.45..0.54).contains(&(area / n as f64)), "{area}");
        assert!((logs / n as f64).abs() < 0.01, "{logs}");
        // Ten tries of at least 8 % with at most 4/3 never fit into a line: the fallback.
        assert_eq!(Window::draw(1, 64, 3, 1, 0), Window { top: 0, left: 32, height: 1, width: 1 });
    }

    /// What two uniform numbers erase is what torchvision erases with them (`tests/data/pil.py`).
    #[test]
    fn erased_sides_are_torchvisions() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pil.safetensors");
        let tensors = candle_core::safetensors::load(&path, &candle_core::Device::Cpu).unwrap();
        let (mut n_fit, mut n_none) = (0, 0);
        for (h, w) in [(32, 32), (20, 45), (64, 3)] {
            for row in tensors[&format!("erasing {h} {w}")].to_vec2::<f64>().unwrap() {
                let sides = erased_sides(h, w, row[0], row[1]);
                let (height, width) = sides.unwrap_or_default();
                assert_eq!([height as f64, width as f64], row[2..], "{h}x{w}: {row:?}");
                n_fit += u32::from(sides.is_some());
                n_none += u32::from(sides.is_none());
            }
        }
        assert!(n_fit + n_none == 180 && n_fit.min(n_none) >= 20, "{n_fit} and {n_none}");
    }

    #[test]
    fn erasing_happens_as_often_as_asked_and_anywhere() {
        let augment = Augment { erasing: Some(0.25), ..Augment::default() };
        let n = 10_000;
        let cuts: Vec<Cut> = (0..n).filter_map(|index| augment.draw(32, 24, 5, 2, index).cut).collect();
        // Mean 2,500, standard deviation 43.
        assert!((2_285..=2_715).contains(&cuts.len()), "{}", cuts.len());
        // As far from one border as from the other: the differences have standard deviations of about 12 and 8.
        let gaps = cuts.iter().map(|((top, bottom), (left, right))| [*top, 32 - bottom, *left, 24 - right]);
        let sums = gaps.fold([0, 0, 0, 0], |sums: [usize; 4], gaps| std::array::from_fn(|i| sums[i] + gaps[i]));
        let differ = |a: usize, b: usize| a.abs_diff(b) as f64 / cuts.len() as f64;
        assert!(differ(sums[0], sums[1]) < 1.2 && differ(sums[2], sums[3]) < 1.0, "{sums:?}");
        assert!(cuts.iter().any(|((top, _), _)| *top == 0) && cuts.iter().any(|((_, bottom), _)| *bottom == 32));
        // Always, and never.
        let count = |p: f64| (0..200).filter_map(|index| erased(p, 32, 24, 5, 2, index)).count();
        assert_eq!((count(1.0), count(0.0)), (200, 0));
        // It moves nothing else.
        let all = Augment { crop_padding: 2, flip: true, ..augment };
        for index in 0..100 {
            let other = View { cut: None, ..all.draw(8, 9, 1, 2, index) };
            assert_eq!(Augment { erasing: None, ..all }.draw(8, 9, 1, 2, index), other);
        }
    }

    #[test]
    fn the_stages_come_in_the_published_order() {
        // The image is black; a crop with padding and a flip leave it so, AutoAugment may not, and cutout is 0 after
        // normalization.
        let table = [Normalize { mean: vec![0.5], std: vec![0.5] }.table()[0]; 3];
        let shape = (3, 8, 8);
        let augment = Augment { cutout: 4, ..Augment::cifar10() };
        let mut seen = std::collections::BTreeSet::new();
        for index in 0..200 {
            let mut out = [f32::NAN; 192];
            augment.write(&[0; 192], shape, (1, 2, index), &table, &mut out);
            let n_cut = out.iter().filter(|value| **value == 0.0).count();
            // The same square in each channel, 2x2 in a corner to 4x4.
            assert!(n_cut % 3 == 0 && (12..=48).contains(&n_cut), "{n_cut}");
            seen.extend(out.iter().map(|value| format!("{value}")));
        }
        // Black, the middle, and what Invert and Solarize make of black.
        assert!(["-1", "0", "1"].iter().all(|value| seen.contains(*value)), "{seen:?}");
    }

    /// A resized crop has every bit of Pillow's, which since version 13 takes the vertical direction first for some sizes:
    /// then it has that of the image lying on its side, and is off by one at most.
    #[test]
    fn resized_crops_are_pillows() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pil.safetensors");
        let tensors = candle_core::safetensors::load(&path, &candle_core::Device::Cpu).unwrap();
        let bytes = |name: &str| tensors[name].flatten_all().unwrap().to_vec1::<u8>().unwrap();
        let (mut n_cases, mut n_first) = (0, 0);
        for name in tensors.keys() {
            let Some((image, numbers)) = name.split_once(" resize ") else { continue };
            let numbers: Vec<usize> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
            let window = Window { top: numbers[0], left: numbers[1], height: numbers[2], width: numbers[3] };
            let (_, h, w) = tensors[image].dims3().unwrap();
            let (found, expected) = (window.resize(&bytes(image), h, w, (10, 9)), bytes(name));
            assert!(found.iter().zip(&expected).all(|(a, b)| a.abs_diff(*b) <= 1), "{name}");
            let turn = |image: &[u8], h: usize, w: usize| {
                let planes = image.chunks_exact(h * w);
                let turned = planes.flat_map(|plane| (0..h * w).map(move |i| plane[i % h * w + i / h]));
                turned.collect::<Vec<u8>>()
            };
            let Window { top, left, height, width } = window;
            let lying = Window { top: left, left: top, height: width, width: height };
            let lying = turn(&lying.resize(&turn(&bytes(image), h, w), w, h, (9, 10)), 9, 10);
            n_first += usize::from(found == expected);
            assert!(found == expected || lying == expected, "{name}");
            n_cases += 1;
        }
        assert_eq!((n_cases, n_first), (15, 12));
    }
}
