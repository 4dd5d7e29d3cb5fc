//! The formats of images.

use std::fs;

use image::{DynamicImage, ImageFormat, RgbImage, RgbaImage};
use lmht_datasets::{Error, Fit, ImageDataset, Normalize, Preprocessor, ReadOptions, Split};
use tempfile::tempdir;

use crate::tables::{Layout, encode, row};

const FORMATS: [ImageFormat; 6] =
    [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::Tiff];

fn read(images: &[Vec<u8>]) -> lmht_datasets::Result<ImageDataset> {
    let folder = tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    let rows: Vec<_> = images.iter().map(|image| row(image.clone(), 0)).collect();
    Layout::default().write(&file, &rows);
    ImageDataset::read(&file, Split::Train, &ReadOptions::default())
}

/// 4 rows of 5 columns, each channel another slope.
fn picture() -> RgbImage {
    RgbImage::from_fn(5, 4, |x, y| [10 * x as u8, 40 * y as u8, 7 * (x + y) as u8].into())
}

#[test]
fn every_lossless_format_is_the_same_picture() {
    let png = encode(picture().into(), ImageFormat::Png);
    let expected = read(&[png]).unwrap().pixels().to_vec();
    for format in [ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff] {
        let data = read(&[encode(picture().into(), format)]).unwrap();
        assert_eq!((data.shape(), data.pixels()), ((3, 4, 5), &expected[..]), "{format:?}");
    }
}

#[test]
fn a_gif_is_its_first_frame() {
    let frame = |shade| image::Frame::new(RgbaImage::from_pixel(5, 4, [shade, 0, 0, 255].into()));
    let mut bytes = Vec::new();
    image::codecs::gif::GifEncoder::new(&mut bytes).encode_frames([frame(200), frame(10)]).unwrap();
    let data = read(&[bytes]).unwrap();
    assert_eq!(data.shape(), (3, 4, 5));
    assert!(data.pixels()[..20].iter().all(|red| red.abs_diff(200) <= 1), "{:?}", data.pixels());
}

#[test]
fn a_cut_image_is_refused_wherever_it_is_cut() {
    let big: DynamicImage = RgbImage::from_fn(40, 30, |x, y| [x as u8 * 5, y as u8 * 8, (x * y) as u8].into()).into();
    for format in FORMATS {
        let whole = encode(big.clone(), format);
        read(std::slice::from_ref(&whole)).unwrap();
        for part in [0, 3, 20, whole.len() / 3, whole.len() / 2, whole.len() * 3 / 4] {
            let error = read(&[encode(big.clone(), ImageFormat::Png), whole[..part].to_vec()]).unwrap_err();
            let at = match &error {
                Error::Decode { at, .. } | Error::ImageSize { at, .. } => at,
                other => panic!("{format:?}, {part} bytes: {other}"),
            };
            assert_eq!(at.row, Some(1), "{format:?}, {part} bytes");
        }
    }
}

#[test]
fn another_format_is_called_by_its_name() {
    for (bytes, name) in [
        (&b"\0\0\0\x20ftypavif\0\0\0\0"[..], "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x4f\xff\x51\0\0", "JPEG 2000"),
        (b"<svg xmlns='x'/>", "SVG"),
        (b"P6\n1 1\n255\n\0\0\0", "pnm"),
        (b"8BPS\0\x01", "Photoshop"),
    ] {
        let error = read(&[bytes.to_vec()]).unwrap_err();
        assert!(matches!(&error, Error::ImageFormat { at, .. } if at.row == Some(0)), "{error}");
        let message = error.to_string().to_lowercase();
        assert!(message.contains(&name.to_lowercase()) && message.contains("convert"), "{message}");
    }
}

#[test]
fn a_folder_takes_every_format() {
    let folder = tempdir().unwrap();
    fs::create_dir_all(folder.path().join("train/a")).unwrap();
    for (name, format) in [
        ("1.png", ImageFormat::Png),
        ("2.jpeg", ImageFormat::Jpeg),
        ("3.webp", ImageFormat::WebP),
        ("4.bmp", ImageFormat::Bmp),
        ("5.gif", ImageFormat::Gif),
        ("6.tif", ImageFormat::Tiff),
        // The content counts, not the name.
        ("7.jpg", ImageFormat::Png),
    ] {
        fs::write(folder.path().join("train/a").join(name), encode(picture().into(), format)).unwrap();
    }
    assert_eq!(ImageDataset::read(folder.path(), Split::Train, &ReadOptions::default()).unwrap().len(), 7);
}

/// Damage is an error or another picture, in any format; never a hang, a panic that gets out, or memory without bound.
#[test]
fn a_mutated_image_ends_somehow() {
    let big: DynamicImage = RgbImage::from_fn(40, 30, |x, y| [x as u8 * 5, y as u8 * 8, (x * y) as u8].into()).into();
    let preprocessor = Preprocessor { fit: Fit::Stretch, ..Preprocessor::new(3, (8, 8), Normalize::unit(3)) };
    let mut state = 1u64;
    let mut draw = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let mut errors = 0;
    for format in FORMATS {
        let whole = encode(big.clone(), format);
        for _ in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..=draw(4) {
                // Headers more often than pixels.
                let end = if draw(2) == 0 { bytes.len() } else { bytes.len().min(64) };
                let at = draw(end);
                bytes[at] = [0, 0xff, 0x7f, bytes[at] ^ 1 << draw(8)][draw(4)];
            }
            errors += usize::from(preprocessor.apply(&bytes).is_err());
        }
    }
    assert!(errors > 300, "only {errors} were noticed");
}
