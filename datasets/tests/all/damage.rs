//! Damaged and foreign files: an error that names the file, the row and what was expected; never a panic.

use std::fs;
use std::path::Path;

use image::{DynamicImage, ImageFormat, RgbImage};
use lmht_datasets::{Error, ImageDataset, ReadOptions, Split};
use tempfile::tempdir;

use crate::tables::{COMPRESSIONS, Layout, Row, encode, gray_png, row};

fn read(path: &Path) -> lmht_datasets::Result<ImageDataset> {
    ImageDataset::read(path, Split::Train, &ReadOptions::default())
}

/// The error of reading `rows`, with the file's name and every one of `parts` in its message.
#[track_caller]
fn fails(rows: &[Row], options: &ReadOptions, parts: &[&str]) -> Error {
    let folder = tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    Layout { rows_per_group: 600, ..Layout::default() }.write(&file, rows);
    let error = ImageDataset::read(&file, Split::Train, options).unwrap_err();
    let message = error.to_string();
    for part in [&["train.parquet"], parts].concat() {
        assert!(message.contains(part), "{part} in: {message}");
    }
    error
}

/// Good rows, 2x3 pixels, labels 0 and 1.
fn good(n: usize) -> Vec<Row> {
    (0..n).map(|i| row(gray_png(2, 3, (i % 200) as u8), (i % 2) as i64)).collect()
}

#[test]
fn an_image_of_another_size_names_its_row() {
    // In the second row group and the third chunk.
    let mut rows = good(1_150);
    rows[1_111] = row(gray_png(3, 2, 0), 0);
    let parts = ["row 1111", "2x3", "found 3x2", "height x width", "resize"];
    let error = fails(&rows, &ReadOptions::default(), &parts);
    assert!(matches!(&error, Error::ImageSize { at, expected: (2, 3), found: (3, 2) } if at.row == Some(1_111)));
    // The first image is as good as any other when a size was asked for.
    let options = ReadOptions { size: Some((4, 4)), ..ReadOptions::default() };
    fails(&rows, &options, &["row 0", "4x4", "found 2x3"]);
}

#[test]
fn a_label_out_of_range_names_its_row_and_the_range() {
    let mut rows = good(700);
    rows[650].1 = Some(7);
    let options = ReadOptions { n_classes: Some(2), ..ReadOptions::default() };
    let error = fails(&rows, &options, &["row 650", "0..2", "found 7", "n_classes"]);
    assert!(matches!(&error, Error::LabelOutOfRange { at, label: 7, n_classes: 2 } if at.row == Some(650)));
    rows[650].1 = Some(-1);
    fails(&rows, &ReadOptions::default(), &["row 650", "0..2", "found -1", "without a label"]);
    rows[650].1 = Some(i64::MAX);
    fails(&rows, &ReadOptions::default(), &["row 650", "found 9223372036854775807"]);
}

#[test]
fn nulls_name_their_row_and_column() {
    let mut rows = good(5);
    rows[3].1 = None;
    fails(&rows, &ReadOptions::default(), &["row 3", "`label`", "null"]);
    let mut rows = good(5);
    rows[4].0 = None;
    fails(&rows, &ReadOptions::default(), &["row 4", "`image.bytes`", "null", "embed"]);
}

#[test]
fn what_is_no_image_names_its_row() {
    let jpeg = || {
        let image = RgbImage::from_fn(3, 2, |x, y| [x as u8 * 50, y as u8 * 99, 7].into());
        encode(DynamicImage::from(image), ImageFormat::Jpeg)
    };
    let cut = |mut image: Vec<u8>, by: usize| {
        image.truncate(image.len() - by);
        image
    };
    let mut flipped = gray_png(2, 3, 0);
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let bad = [
        Vec::new(),
        b"GIF89a\x03\0\x02\0\0\0\0 starts like one, but text follows".to_vec(),
        b"text, as long as a small image".to_vec(),
        cut(gray_png(2, 3, 0), 20),
        // Without its end marker; the decoder itself would fill the rest with gray.
        cut(jpeg(), 2),
        cut(jpeg(), 40),
        flipped,
    ];
    for image in bad {
        let mut rows = good(4);
        rows[2] = row(image, 0);
        let error = fails(&rows, &ReadOptions::default(), &["row 2", "whole image"]);
        assert!(matches!(&error, Error::Decode { at, .. } if at.row == Some(2)), "{error}");
    }
    let mut rows = good(4);
    rows[2] = row(jpeg(), 0);
    let folder = tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    Layout::default().write(&file, &rows);
    assert_eq!(read(&file).unwrap().len(), 4, "the whole JPEG is fine");
}

#[test]
fn the_first_of_several_bad_rows_is_named() {
    let mut rows = good(400);
    for bad in [399, 17, 205] {
        rows[bad] = row(gray_png(3, 3, 0), 0);
    }
    fails(&rows, &ReadOptions::default(), &["row 17:"]);
}

#[test]
fn a_header_that_claims_a_huge_image_is_refused() {
    // A PNG header of 2^30 x 2^30 pixels with the right checksum of its chunk.
    let mut png = gray_png(2, 3, 0);
    png[16..24].copy_from_slice(&[0x40, 0, 0, 0, 0x40, 0, 0, 0]);
    let sum = crate::archive::crc32(&png[12..29]);
    png[29..33].copy_from_slice(&sum.to_be_bytes());
    let error = fails(&[row(png, 0)], &ReadOptions::default(), &["row 0"]);
    assert!(matches!(error, Error::TooLarge { .. } | Error::Decode { .. }), "{error}");
}

#[test]
fn foreign_files_are_named() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    let foreign: [&[u8]; 5] = [
        b"",
        b"PAR1",
        b"image,label\ncat.png,3\n",
        b"PAR1 starts and ends like one PAR1",
        b"\x89PNG\r\n\x1a\n a picture",
    ];
    for bytes in foreign {
        fs::write(&file, bytes).unwrap();
        let error = read(&file).unwrap_err();
        assert!(matches!(error, Error::Parquet { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("train.parquet") && message.contains("expected a complete parquet file"), "{message}");
    }
}

#[test]
fn a_codec_that_is_left_out_is_named() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    Layout::default().write(&file, &good(3));
    let mut bytes = fs::read(&file).unwrap();
    // In the footer: the end of the column's path, then field 4, snappy (1) made LZO (3), both as zigzag.
    let at = bytes.windows(8).position(|part| part == b"\x05bytes\x15\x02").unwrap();
    bytes[at + 7] = 6;
    fs::write(&file, &bytes).unwrap();
    let error = read(&file).unwrap_err();
    assert!(matches!(&error, Error::Codec { codec, .. } if codec == "LZO"), "{error}");
}

#[test]
fn a_table_without_rows_is_refused() {
    let error = fails(&[], &ReadOptions::default(), &["no rows"]);
    assert!(matches!(error, Error::Empty { .. }));
}

#[test]
fn every_truncation_is_an_error_that_names_the_file() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    for layout in [Layout::default(), Layout::zstd()] {
        layout.write(&file, &good(9));
        let whole = fs::read(&file).unwrap();
        read(&file).unwrap();
        for length in 0..whole.len() {
            fs::write(&file, &whole[..length]).unwrap();
            let error = read(&file).unwrap_err();
            assert!(matches!(error, Error::Parquet { .. }), "{length} bytes: {error}");
            assert!(error.to_string().contains("train.parquet"), "{length} bytes: {error}");
        }
    }
}

/// Every byte of small files in each compression has a bit flipped, one after the other; the parquet crate does panic at
/// some of them. The checksums within PNG protect the pixels: what still loads must be images of the file, if perhaps
/// another one of its dictionary. Labels have no such protection, and are checked to be in range at least.
#[test]
fn a_flipped_bit_never_panics_and_never_makes_up_an_image() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    let mut errors = 0;
    for compression in COMPRESSIONS.map(|compression| compression()) {
        Layout { compression, rows_per_group: 2, ..Layout::default() }.write(&file, &good(3));
        let mut bytes = fs::read(&file).unwrap();
        let whole = read(&file).unwrap();
        for i in 0..bytes.len() {
            // Every fifth bit: each byte once or twice, each position equally often.
            for bit in (0..8).filter(|bit| (8 * i + bit) % 5 == 0) {
                bytes[i] ^= 1 << bit;
                fs::write(&file, &bytes).unwrap();
                bytes[i] ^= 1 << bit;
                match read(&file) {
                    Ok(data) => {
                        assert_eq!(data.len(), whole.len(), "{compression}, byte {i}, bit {bit}");
                        for image in data.pixels().chunks(6) {
                            let known = whole.pixels().chunks(6).any(|original| original == image);
                            assert!(known, "{compression}, byte {i}, bit {bit}: {image:?}");
                        }
                        assert!(data.labels().iter().all(|label| (*label as usize) < data.n_classes()));
                    }
                    Err(error) => {
                        errors += 1;
                        assert!(error.to_string().contains("train.parquet"), "byte {i}, bit {bit}: {error}");
                    }
                }
            }
        }
    }
    assert!(errors > 1_000, "only {errors} flips were noticed");
}
