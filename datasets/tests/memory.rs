//! Peak memory, in a process of its own.
#![cfg(target_os = "linux")]

use std::fs;

use image::{ImageFormat, RgbImage};
use lmht_datasets::{ImageDataset, ReadOptions, Split};

/// The most memory that this process ever held, in bytes.
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn a_data_set_is_held_once() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("train/a")).unwrap();
    let image = RgbImage::from_fn(1_000, 800, |x, y| [x as u8, y as u8, (x / 9) as u8].into());
    let first = folder.path().join("train/a/000.png");
    image.save_with_format(&first, ImageFormat::Png).unwrap();
    for i in 1..60 {
        fs::copy(&first, folder.path().join(format!("train/a/{i:03}.png"))).unwrap();
    }
    let before = peak();
    let data = ImageDataset::read(folder.path(), Split::Train, &ReadOptions::default()).unwrap();
    let bytes = data.pixels().len();
    assert_eq!(bytes, 60 * 800 * 1_000 * 3);
    let held = peak() - before;
    // Beside it a few images on their way, and their files.
    assert!(held < bytes + bytes / 2, "{held} bytes for {bytes}");
}
