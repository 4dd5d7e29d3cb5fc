//! What is decoded is bounded, by the headers, before memory is taken.

use std::fs;
use std::time::{Duration, Instant};

use image::{GrayImage, ImageFormat, RgbImage};
use lmht_datasets::{Error, ImageDataset, ReadOptions, Split};
use parquet::basic::{BrotliLevel, Compression, GzipLevel};
use tempfile::tempdir;

use crate::tables::{Layout, Row, encode, gray_png, row};

fn read(rows: &[Row], options: &ReadOptions) -> lmht_datasets::Result<ImageDataset> {
    let folder = tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    Layout { rows_per_group: usize::MAX, ..Layout::zstd() }.write(&file, rows);
    let start = Instant::now();
    let data = ImageDataset::read(&file, Split::Train, options);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    data
}

/// A PNG whose header says `side` x `side`, and which is far too short for it.
fn claims(side: u32, colour: bool) -> Vec<u8> {
    let mut png = match colour {
        true => encode(RgbImage::new(1, 1).into(), ImageFormat::Png),
        false => encode(GrayImage::new(1, 1).into(), ImageFormat::Png),
    };
    png[16..20].copy_from_slice(&side.to_be_bytes());
    png[20..24].copy_from_slice(&side.to_be_bytes());
    let sum = crate::archive::crc32(&png[12..29]);
    png[29..33].copy_from_slice(&sum.to_be_bytes());
    png
}

#[test]
fn a_huge_image_is_refused_by_its_row() {
    for options in [ReadOptions::default(), ReadOptions { resize: Some((8, 8)), ..ReadOptions::default() }] {
        let mut rows = vec![row(gray_png(1, 1, 0), 0); 3];
        rows.push(row(claims(16_000, true), 0));
        let options = ReadOptions { resize: options.resize.or(Some((1, 1))), ..options };
        let error = read(&rows, &options).unwrap_err();
        assert!(matches!(&error, Error::TooLarge { at, scope: "in an image", .. } if at.row == Some(3)), "{error}");
        assert!(error.to_string().contains("768000000") && error.to_string().contains("max_image_bytes"), "{error}");
    }
}

#[test]
fn many_large_images_are_refused_before_the_first_is_decoded() {
    // Each one is allowed: 16,000² bytes of gray. The fifth passes 2^30.
    for resize in [None, Some((8, 8))] {
        let options = ReadOptions { resize, ..ReadOptions::default() };
        let error = read(&vec![row(claims(16_000, false), 0); 24], &options).unwrap_err();
        assert!(
            matches!(&error, Error::TooLarge { at, limit, .. } if at.row == Some(4) && *limit == 1 << 30),
            "{error}"
        );
    }
}

#[test]
fn small_images_that_become_large_ones_count_as_these() {
    let options = ReadOptions { resize: Some((16_000, 16_000)), ..ReadOptions::default() };
    let error = read(&vec![row(gray_png(1, 1, 0), 0); 24], &options).unwrap_err();
    assert!(matches!(&error, Error::TooLarge { at, scope: "in all", .. } if at.row == Some(4)), "{error}");
}

#[test]
fn limits_can_be_set() {
    let rows = vec![row(gray_png(4, 5, 0), 0); 10];
    let options = |image, all| ReadOptions { max_image_bytes: image, max_decoded_bytes: all, ..ReadOptions::default() };
    assert_eq!(read(&rows, &options(Some(20), Some(200))).unwrap().len(), 10);
    let error = read(&rows, &options(Some(19), None)).unwrap_err();
    assert!(matches!(&error, Error::TooLarge { bytes: 20, limit: 19, .. }), "{error}");
    let error = read(&rows, &options(None, Some(199))).unwrap_err();
    assert!(matches!(&error, Error::TooLarge { at, bytes: 200, .. } if at.row == Some(9)), "{error}");
}

#[test]
fn a_page_that_promises_too_much_is_refused() {
    // 2^27 zeros and some, in a few kilobytes.
    let error = read(&[row(vec![0; (1 << 27) + 100], 0)], &ReadOptions::default()).unwrap_err();
    assert!(matches!(&error, Error::Parquet { reason, .. } if reason.contains("promise")), "{error}");
}

#[test]
fn a_page_that_becomes_more_than_it_promises_is_refused() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    for compression in [Compression::GZIP(GzipLevel::default()), Compression::BROTLI(BrotliLevel::default())] {
        Layout { compression, ..Layout::default() }.write(&file, &[row(vec![0; 100_000], 0)]);
        let mut bytes = fs::read(&file).unwrap();
        // The first page: its type, its size as a varint of three bytes.
        assert_eq!((&bytes[..6], bytes[6], bytes[10]), (&b"PAR1\x15\x04"[..], 0x15, 0x15));
        // From 100,004 to a third of it.
        bytes[9] = 4;
        fs::write(&file, &bytes).unwrap();
        let error = ImageDataset::read(&file, Split::Train, &ReadOptions::default()).unwrap_err();
        assert!(matches!(&error, Error::Parquet { reason, .. } if reason.contains("becomes more")), "{error}");
    }
}

#[test]
fn rows_that_take_no_room_are_refused() {
    let error = read(&vec![row(gray_png(1, 1, 0), 0); (1 << 20) + 1], &ReadOptions::default()).unwrap_err();
    assert!(matches!(&error, Error::Parquet { reason, .. } if reason.contains("1048577 rows")), "{error}");
}
