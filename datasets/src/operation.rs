//! The operations of AutoAugment, each on one image of bytes: what PIL does, pixel by pixel.
//!
//! AutoAugment's magnitudes were found with PIL's operations (Cubuk et al. 2019, arXiv 1805.09501, supplement), and the
//! published recipes run them through PIL. So these compute as PIL does, down to its rounding: fixed-point coordinates,
//! truncated blends. `tests/data/pil.py` holds them against it.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// One change to an image, with its strength.
///
/// The geometric ones take the nearest pixel; what comes from outside the image has the fill value. They move the image's
/// content: a positive translation to the right or down, a positive rotation counter-clockwise.
///
/// ```
/// use lmht_datasets::Operation;
///
/// // One channel, one row, four columns.
/// let mut image = [10, 20, 30, 40];
/// Operation::TranslateX(1.0).apply(&mut image, (1, 1, 4), 0)?;
/// assert_eq!(image, [0, 10, 20, 30]);
/// Operation::Invert.apply(&mut image, (1, 1, 4), 0)?;
/// assert_eq!(image, [255, 245, 235, 225]);
/// # Ok::<(), lmht_datasets::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Row y comes from `x + m y`, with m the tangent of the angle: the top row stays.
    ShearX(f64),
    /// Column x comes from `y + m x`: the left column stays.
    ShearY(f64),
    /// Pixels to the right; a fraction is cut off.
    TranslateX(f64),
    /// Pixels down; a fraction is cut off.
    TranslateY(f64),
    /// Degrees, counter-clockwise around the centre.
    Rotate(f64),
    /// Factor on the distance from black: 0 is black, 1 the image, more is brighter.
    Brightness(f64),
    /// Factor on the distance from the gray version: 0 is gray, 1 the image. A gray image stays as it is.
    Color(f64),
    /// Factor on the distance from the mean gray of the whole image: 0 is that gray, 1 the image.
    Contrast(f64),
    /// Factor on the distance from a smoothed version (3x3, centre 5, neighbours 1, over 13; the outermost pixels are not
    /// smoothed): 0 is smooth, 1 the image, more is sharper.
    Sharpness(f64),
    /// Keeps so many of the highest bits, 0..=8.
    Posterize(u32),
    /// Inverts values of at least this, 0..=255.
    Solarize(f64),
    /// Stretches each channel so that its smallest value becomes 0 and its largest 255 (or 254, as PIL rounds down); a
    /// constant channel stays.
    AutoContrast,
    /// Maps each channel so that its values are spread evenly; a constant channel stays.
    Equalize,
    /// 255 minus the value.
    Invert,
}

impl Operation {
    /// Changes `image`.
    ///
    /// # Shapes
    /// - `image` `[C, H, W]` for `shape` = (C, H, W), with C = 1 (gray) or 3 (RGB), values 0..=255
    /// - `fill`: the value of pixels from outside the image
    ///
    /// # Errors
    /// [`Error::Config`] if `image` has another size, C is neither 1 nor 3, the strength is not finite, or
    /// `Posterize` is asked for more than 8 bits.
    pub fn apply(&self, image: &mut [u8], shape: (usize, usize, usize), fill: u8) -> Result<()> {
        let (c, h, w) = shape;
        let expected = c.checked_mul(h).and_then(|n| n.checked_mul(w));
        if ![1, 3].contains(&c) || expected != Some(image.len()) {
            return Err(Error::Config(format!(
                "Operation: expected the pixels of an image [1, H, W] or [3, H, W], found {} bytes for [{c}, {h}, {w}]",
                image.len()
            )));
        }
        self.check()?;
        if !image.is_empty() {
            self.run(image, h, w, fill);
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        match *self {
            Self::ShearX(x)
            | Self::ShearY(x)
            | Self::TranslateX(x)
            | Self::TranslateY(x)
            | Self::Rotate(x)
            | Self::Brightness(x)
            | Self::Color(x)
            | Self::Contrast(x)
            | Self::Sharpness(x)
            | Self::Solarize(x)
                if !x.is_finite() =>
            {
                Err(Error::Config(format!("{self:?}: expected a finite strength")))
            }
            Self::Posterize(bits) if bits > 8 => {
                Err(Error::Config(format!("{self:?}: expected 0 to 8 bits, which a byte has")))
            }
            _ => Ok(()),
        }
    }

    /// [`apply`](Self::apply) to what is known to fit.
    pub(crate) fn run(&self, image: &mut [u8], h: usize, w: usize, fill: u8) {
        let plane = h * w;
        match *self {
            Self::ShearX(m) => affine(image, h, w, [1.0, m, 0.0, 0.0, 1.0, 0.0], fill),
            Self::ShearY(m) => affine(image, h, w, [1.0, 0.0, 0.0, m, 1.0, 0.0], fill),
            Self::TranslateX(pixels) => affine(image, h, w, [1.0, 0.0, -pixels.trunc(), 0.0, 1.0, 0.0], fill),
            Self::TranslateY(pixels) => affine(image, h, w, [1.0, 0.0, 0.0, 0.0, 1.0, -pixels.trunc()], fill),
            Self::Rotate(degrees) => affine(image, h, w, rotation(degrees, h, w), fill),
            Self::Brightness(factor) => map(image, |x| blend(0, x, factor as f32)),
            Self::Color(factor) => {
                if image.len() == 3 * plane {
                    let gray = gray(image, plane);
                    for channel in image.chunks_exact_mut(plane) {
                        channel.iter_mut().zip(&gray).for_each(|(x, gray)| *x = blend(*gray, *x, factor as f32));
                    }
                }
            }
            Self::Contrast(factor) => {
                let sum: u64 = gray(image, plane).into_iter().map(u64::from).sum();
                let mean = (sum as f64 / plane as f64 + 0.5) as u8;
                map(image, |x| blend(mean, x, factor as f32));
            }
            Self::Sharpness(factor) => {
                for channel in image.chunks_exact_mut(plane) {
                    let smooth = smooth(channel, h, w);
                    channel.iter_mut().zip(smooth).for_each(|(x, smooth)| *x = blend(smooth, *x, factor as f32));
                }
            }
            Self::Posterize(bits) => {
                let mask = (0xff00u32 >> bits) as u8;
                image.iter_mut().for_each(|x| *x &= mask);
            }
            Self::Solarize(threshold) => map(image, |x| if f64::from(x) < threshold { x } else { 255 - x }),
            Self::AutoContrast => image.chunks_exact_mut(plane).for_each(auto_contrast),
            Self::Equalize => image.chunks_exact_mut(plane).for_each(equalize),
            Self::Invert => image.iter_mut().for_each(|x| *x = 255 - *x),
        }
    }
}

/// Replaces every byte by a function of it, which is computed once for each value.
fn map(image: &mut [u8], f: impl Fn(u8) -> u8) {
    let table: [u8; 256] = std::array::from_fn(|x| f(x as u8));
    image.iter_mut().for_each(|x| *x = table[usize::from(*x)]);
}

/// `base + factor (x - base)`, cut off to 0..=255 and rounded towards 0: PIL's `Image.blend`, in its `f32`.
fn blend(base: u8, x: u8, factor: f32) -> u8 {
    let value = f32::from(base) + factor * (f32::from(x) - f32::from(base));
    // A conversion in Rust cuts off at both ends.
    value as u8
}

/// The gray version of an RGB or gray image, `[H, W]`: ITU-R BT.601 in PIL's integers.
fn gray(image: &[u8], plane: usize) -> Vec<u8> {
    if image.len() == plane {
        return image.to_vec();
    }
    let (red, rest) = image.split_at(plane);
    let (green, blue) = rest.split_at(plane);
    let weigh = |((r, g), b): ((&u8, &u8), &u8)| {
        let [r, g, b] = [*r, *g, *b].map(u32::from);
        ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
    };
    red.iter().zip(green).zip(blue).map(weigh).collect()
}

/// The mean of each pixel (weight 5) and its eight neighbours (weight 1), rounded; the outermost pixels as they are.
fn smooth(channel: &[u8], h: usize, w: usize) -> Vec<u8> {
    let mut smooth = channel.to_vec();
    for y in 1..h.saturating_sub(1) {
        for x in 1..w.saturating_sub(1) {
            let row = |y: usize| channel[y * w + x - 1..=y * w + x + 1].iter().copied().map(u32::from).sum::<u32>();
            let sum = row(y - 1) + row(y) + row(y + 1) + 4 * u32::from(channel[y * w + x]);
            // 13 is odd: there are no ties.
            smooth[y * w + x] = ((2 * sum + 13) / 26) as u8;
        }
    }
    smooth
}

fn histogram(channel: &[u8]) -> [u32; 256] {
    let mut counts = [0; 256];
    channel.iter().for_each(|x| counts[usize::from(*x)] += 1);
    counts
}

fn auto_contrast(channel: &mut [u8]) {
    let (Some(&low), Some(&high)) = (channel.iter().min(), channel.iter().max()) else { return };
    if low < high {
        let scale = 255.0 / f64::from(high - low);
        let offset = f64::from(low) * -scale;
        map(channel, |x| (f64::from(x) * scale + offset) as u8);
    }
}

fn equalize(channel: &mut [u8]) {
    let counts = histogram(channel);
    // The share of one output value, not counting the largest input value, which becomes 255 or so by itself.
    let last = counts.iter().rev().find(|n| **n > 0).copied().unwrap_or(0);
    let step = (channel.len() as u32 - last) / 255;
    if step == 0 {
        return;
    }
    let mut below = step / 2;
    let table = counts.map(|n| {
        let value = (below / step).min(255) as u8;
        below += n;
        value
    });
    channel.iter_mut().for_each(|x| *x = table[usize::from(*x)]);
}

/// The map from output to input coordinates of a counter-clockwise rotation around the centre.
fn rotation(degrees: f64, h: usize, w: usize) -> [f64; 6] {
    // To 15 digits, as PIL: a right angle has a cosine of 0.
    let round = |x: f64| (x * 1e15).round() / 1e15;
    let angle = -degrees.rem_euclid(360.0).to_radians();
    let (sin, cos) = (round(angle.sin()), round(angle.cos()));
    let (x, y) = (w as f64 / 2.0, h as f64 / 2.0);
    [cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y]
}

/// Output pixel (x, y) is the input's at `(a x + b y + c, d x + e y + f)` for `m = [a, b, c, d, e, f]`, measured at the
/// centres of the pixels, in steps of 2^-16 as PIL has them.
fn affine(image: &mut [u8], h: usize, w: usize, m: [f64; 6], fill: u8) {
    let fixed = |x: f64| (x * 65_536.0 + 0.5).floor() as i64;
    let [a, b, c, d, e, f] = m;
    let (step_x, step_y) = ((fixed(a), fixed(d)), (fixed(b), fixed(e)));
    let start = (fixed(c + a * 0.5 + b * 0.5), fixed(f + d * 0.5 + e * 0.5));
    let inside = |position: i64, end: usize| usize::try_from(position >> 16).ok().filter(|position| *position < end);
    let mut sources = Vec::with_capacity(h * w);
    for row in 0..h as i64 {
        let (mut x, mut y) = (
            start.0.saturating_add(step_y.0.saturating_mul(row)),
            start.1.saturating_add(step_y.1.saturating_mul(row)),
        );
        for _ in 0..w {
            sources.push(inside(x, w).zip(inside(y, h)).map(|(x, y)| y * w + x));
            (x, y) = (x.saturating_add(step_x.0), y.saturating_add(step_x.1));
        }
    }
    for channel in image.chunks_exact_mut(h * w) {
        let before = channel.to_vec();
        for (out, source) in channel.iter_mut().zip(&sources) {
            *out = source.map_or(fill, |source| before[source]);
        }
    }
}
