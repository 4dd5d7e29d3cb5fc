//! The shipped sample is what its data card says.

use std::fs;

use lmht_datasets::{ImageDataset, ReadOptions, Split, sample_path};

fn load(split: Split) -> ImageDataset {
    ImageDataset::read(sample_path(), split, &ReadOptions::default()).unwrap()
}

/// Compares image `index` by the sum of its pixels, and by one row.
fn check(data: &ImageDataset, index: usize, sum: u32, row_14: [u8; 28]) {
    let image = data.image(index).unwrap();
    assert_eq!(image.iter().map(|value| u32::from(*value)).sum::<u32>(), sum, "image {index}");
    assert_eq!(image[14 * 28..15 * 28], row_14, "image {index}");
}

// The expected values were read from the original IDX files by another program (Python's gzip).

#[test]
fn training_images_are_the_original_ones() {
    let data = load(Split::Train);
    assert_eq!((data.len(), data.shape(), data.n_classes()), (10_000, (1, 28, 28), 10));
    for class in 0..10 {
        assert_eq!(data.labels().iter().filter(|label| **label == class).count(), 1_000, "class {class}");
    }
    assert_eq!(data.labels()[..10], [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]);
    assert_eq!(data.labels()[9_995..], [0; 5]);
    let row = [
        0, 0, 1, 4, 6, 7, 2, 0, 0, 0, 0, 0, 237, 226, 217, 223, 222, 219, 222, 221, 216, 223, 229, 215, 218, 255, 77, 0,
    ];
    check(&data, 0, 76_247, row);
    let row = [
        0, 0, 0, 0, 199, 193, 226, 58, 154, 192, 184, 187, 184, 186, 184, 185, 183, 192, 191, 200, 56, 219, 203, 207,
        60, 0, 0, 0,
    ];
    check(&data, 5, 84_165, row);
    // Row 3, column 12, and not the other way round.
    assert_eq!((data.image(5).unwrap()[3 * 28 + 12], data.image(5).unwrap()[12 * 28 + 3]), (162, 0));
    let row = [
        0, 0, 0, 0, 0, 3, 0, 52, 222, 205, 210, 208, 206, 205, 205, 205, 205, 205, 207, 205, 222, 151, 0, 0, 0, 0, 0, 0,
    ];
    check(&data, 9_999, 88_546, row);
    let stats = data.channel_stats();
    assert!((stats.mean[0] - 0.286_681_65).abs() < 1e-7 && (stats.std[0] - 0.354_012_57).abs() < 1e-7, "{stats:?}");
    let names = data.class_names().unwrap();
    assert_eq!((names.len(), names[0].as_str(), names[9].as_str()), (10, "T-shirt/top", "Ankle boot"));
}

#[test]
fn test_images_are_the_original_ones() {
    let data = load(Split::Test);
    assert_eq!((data.len(), data.shape(), data.n_classes()), (2_000, (1, 28, 28), 10));
    for class in 0..10 {
        assert_eq!(data.labels().iter().filter(|label| **label == class).count(), 200, "class {class}");
    }
    assert_eq!(data.labels()[..10], [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]);
    assert_eq!(data.labels()[1_995..], [3, 9, 9, 9, 9]);
    let row = [
        0, 0, 0, 0, 0, 0, 2, 4, 1, 0, 0, 0, 98, 136, 110, 109, 110, 162, 135, 144, 149, 159, 167, 144, 158, 169, 119, 0,
    ];
    check(&data, 0, 33_456, row);
    let row = [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 207, 229, 127, 119, 184, 230, 185, 176, 175, 168, 175, 209, 108, 192, 101,
        0,
    ];
    check(&data, 1_999, 59_915, row);
}

#[test]
fn the_sample_stays_small_and_carries_its_licence() {
    let size = |name: &str| fs::metadata(sample_path().join(name)).unwrap().len();
    assert_eq!((size("train-00000-of-00001.parquet"), size("test-00000-of-00001.parquet")), (4_400_517, 882_515));
    let licence = fs::read_to_string(sample_path().join("LICENSE")).unwrap();
    assert!(licence.contains("Zalando SE") && licence.contains("Permission is hereby granted"));
}
