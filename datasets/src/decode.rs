//! One encoded image to `u8` pixels.

use std::io::Cursor;

use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use serde::{Deserialize, Serialize};

use crate::transform::Window;

/// Bytes that one image may decode to, if no option says otherwise; a header can claim anything. Pillow warns at as many
/// pixels.
pub(crate) const MAX_IMAGE_BYTES: u64 = 1 << 28;

/// Why an image was refused.
pub(crate) enum Refusal {
    /// Its bytes cannot be decoded.
    Decode(String),
    /// It is of this format, which is not read.
    Format(String),
    /// It has this (height, width).
    Size((usize, usize)),
}

/// Pixels in the order of the file, `[H, W, C]`, with C = 1 for gray images and 3 for all others.
pub(crate) struct Pixels {
    pub(crate) hwc: Vec<u8>,
    pub(crate) is_gray: bool,
}

/// What the header of an encoded image says.
pub(crate) struct Header {
    /// (height, width).
    pub(crate) size: (usize, usize),
    pub(crate) is_gray: bool,
    /// Bytes of pixels that it decodes to.
    pub(crate) n_bytes: u64,
}

/// Reads the header, no pixel.
pub(crate) fn header(encoded: &[u8]) -> Result<Header, Refusal> {
    let (decoder, size) = reader(encoded)?;
    Ok(Header { size, is_gray: !decoder.color_type().has_color(), n_bytes: decoder.total_bytes() })
}

/// How an image comes to the size that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// It has that size, or is refused.
    Exact,
    /// Height and width each by their own factor.
    Stretch,
    /// Both by the same factor, and the middle of what is too long.
    Cover,
}

impl Fit {
    /// (height, width) of an image of size `found` before the middle of `size` is cut out.
    fn resized(self, found: (usize, usize), size: (usize, usize)) -> (usize, usize) {
        // As torchvision: the side that decides is exact, the other cut off to a whole number.
        match self {
            Self::Cover if found.0 * size.1 <= size.0 * found.1 => (size.0, (size.0 * found.1 / found.0).max(size.1)),
            Self::Cover => ((size.1 * found.0 / found.1).max(size.0), size.1),
            Self::Exact | Self::Stretch => size,
        }
    }
}

/// Decodes an image of exactly `size` = (height, width), or brings it to that size if `fit` allows it.
pub(crate) fn decode(encoded: &[u8], size: (usize, usize), fit: Fit) -> Result<Pixels, Refusal> {
    let (decoder, found) = reader(encoded)?;
    if found != size && fit == Fit::Exact {
        return Err(Refusal::Size(found));
    }
    let resized = fit.resized(found, size);
    // A strip of an image would become a giant before its middle is cut out.
    if resized.0 as u64 * resized.1 as u64 * 3 > 4 * MAX_IMAGE_BYTES {
        return Err(Refusal::Size(found));
    }
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| Refusal::Decode(e.to_string()))?;
    if found != size {
        // The triangle filter with support scaled to the ratio: PIL's BILINEAR, torchvision's antialiased one.
        let (h, w) = (resized.0 as u32, resized.1 as u32);
        image = match image.color().has_color() {
            true => imageops::resize(&image.into_rgb8(), w, h, FilterType::Triangle).into(),
            false => imageops::resize(&image.into_luma8(), w, h, FilterType::Triangle).into(),
        };
        let window = Window::centre(resized, size);
        image = image.crop_imm(window.left as u32, window.top as u32, size.1 as u32, size.0 as u32);
    }
    let is_gray = !image.color().has_color();
    let hwc = if is_gray { image.into_luma8().into_raw() } else { image.into_rgb8().into_raw() };
    Ok(Pixels { hwc, is_gray })
}

/// The formats that are read.
const FORMATS: [ImageFormat; 6] =
    [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::Tiff];

/// How files of other formats begin, from which byte on, and what they are called.
const OTHERS: [(usize, &[u8], &str); 16] = [
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"JXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"jP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"8BPS", "Photoshop"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "SVG or other XML"),
    (0, b"%PDF", "PDF"),
    (0, b"\x89HDF", "HDF5"),
    (0, b"\x93NUMPY", "NumPy"),
    (0, b"FORM", "IFF"),
];

/// The format of an image, by its first bytes.
fn format(encoded: &[u8]) -> Result<ImageFormat, Refusal> {
    if let Some((.., name)) =
        OTHERS.iter().find(|(at, magic, _)| encoded.get(*at..).is_some_and(|rest| rest.starts_with(magic)))
    {
        return Err(Refusal::Format((*name).to_owned()));
    }
    match image::guess_format(encoded) {
        Ok(format) if FORMATS.contains(&format) => Ok(format),
        Ok(format) => Err(Refusal::Format(format!("{format:?}"))),
        Err(_) => Err(Refusal::Decode(format!("its {} bytes do not start like one", encoded.len()))),
    }
}

/// The decoder of an image, and (height, width) from its header.
fn reader(encoded: &[u8]) -> Result<(impl ImageDecoder + '_, (usize, usize)), Refusal> {
    let error = |e: image::ImageError| Refusal::Decode(e.to_string());
    let format = format(encoded)?;
    // The JPEG decoder paints what is missing in gray and says nothing; the end marker tells a whole file.
    if format == ImageFormat::Jpeg && !encoded.windows(2).rev().any(|pair| pair == [0xff, 0xd9]) {
        return Err(Refusal::Decode(format!("its {} bytes end before the end marker", encoded.len())));
    }
    let decoder = ImageReader::with_format(Cursor::new(encoded), format).into_decoder().map_err(error)?;
    let (w, h) = decoder.dimensions();
    if w == 0 || h == 0 {
        return Err(Refusal::Decode(format!("its header claims {h}x{w} pixels")));
    }
    Ok((decoder, (h as usize, w as usize)))
}

/// Writes pixels `[H, W, C]` of one or three channels into `chw`, `[channels, H, W]` of one or three.
///
/// Gray becomes colour by repetition; colour becomes gray by the weights of ITU-R BT.601 in the integer form of PIL's
/// `convert("L")`, so that a gray version made here is the one that torchvision makes.
pub(crate) fn write_chw(pixels: &Pixels, channels: usize, chw: &mut [u8]) {
    let plane = chw.len() / channels;
    match (pixels.is_gray, channels) {
        (true, 1) => chw.copy_from_slice(&pixels.hwc),
        (true, _) => chw.chunks_exact_mut(plane).for_each(|channel| channel.copy_from_slice(&pixels.hwc)),
        (false, 1) => {
            for (gray, rgb) in chw.iter_mut().zip(pixels.hwc.chunks_exact(3)) {
                let [r, g, b] = [rgb[0], rgb[1], rgb[2]].map(u32::from);
                *gray = ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8;
            }
        }
        (false, _) => {
            for (c, channel) in chw.chunks_exact_mut(plane).enumerate() {
                for (value, rgb) in channel.iter_mut().zip(pixels.hwc.chunks_exact(3)) {
                    *value = rgb[c];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cover_keeps_the_proportions() {
        let resized = |found| Fit::Cover.resized(found, (256, 256));
        // 375 x 500 pixels: the height becomes 256, the width 341.3.
        assert_eq!((resized((375, 500)), resized((500, 375))), ((256, 341), (341, 256)));
        assert_eq!((resized((64, 64)), Fit::Cover.resized((10, 10), (4, 8))), ((256, 256), (8, 8)));
        assert_eq!(Fit::Stretch.resized((375, 500), (256, 256)), (256, 256));
    }
}
