//! Reading parquet: columns, splits, shapes and labels.

use std::cell::RefCell;
use std::fs;

use image::{DynamicImage, ImageFormat, RgbImage, Rgba, RgbaImage};
use lmht_datasets::{Error, ImageDataset, ReadOptions, Split};
use tempfile::tempdir;

use crate::tables::{COMPRESSIONS, Layout, encode, gray_png, rgb_png, row};

fn read(path: impl AsRef<std::path::Path>) -> lmht_datasets::Result<ImageDataset> {
    ImageDataset::read(path, Split::Train, &ReadOptions::default())
}

#[test]
fn channels_come_first_then_rows_then_columns() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    Layout::default().write(&file, &[row(rgb_png(2, 3, 0), 0), row(rgb_png(2, 3, 5), 1)]);
    let data = read(&file).unwrap();
    assert_eq!(data.shape(), (3, 2, 3));
    assert_eq!(
        data.image(0).unwrap(),
        [
            0, 1, 2, 10, 11, 12, // red
            100, 101, 102, 110, 111, 112, // green
            200, 201, 202, 210, 211, 212, // blue
        ]
    );
    assert_eq!(data.image(1).unwrap()[..3], [5, 6, 7]);
    assert_eq!(data.image(2), None);
    assert_eq!((data.labels(), data.n_classes()), (&[0, 1][..], 2));
}

#[test]
fn every_layout_reads_the_same() {
    let folder = tempdir().unwrap();
    let rows: Vec<_> = (0..7).map(|i| row(gray_png(2, 3, i as u8), i % 3)).collect();
    let layouts = [
        Layout::default(),
        Layout::zstd(),
        Layout { image: "img", label: "fine_label", ..Layout::zstd() },
        Layout { rows_per_group: 2, ..Layout::default() },
        Layout { plain: true, label: "labels", label_type: "int32", ..Layout::default() },
        Layout { plain: true, required: true, ..Layout::default() },
        Layout { names: Some(&["cat", "dog", "owl"]), ..Layout::default() },
        // The only binary column is the images', whatever it is called.
        Layout { plain: true, image: "png", ..Layout::default() },
    ];
    let compressed = COMPRESSIONS.map(|compression| Layout { compression: compression(), ..Layout::default() });
    for (i, layout) in layouts.iter().chain(&compressed).enumerate() {
        let file = folder.path().join(format!("train-{i}.parquet"));
        layout.write(&file, &rows);
        let data = read(&file).unwrap();
        assert_eq!((data.shape(), data.len(), data.n_classes()), ((1, 2, 3), 7, 3), "layout {i}");
        assert_eq!(data.labels(), [0, 1, 2, 0, 1, 2, 0], "layout {i}");
        assert_eq!(data.image(6).unwrap(), [6, 7, 8, 16, 17, 18], "layout {i}");
    }
}

#[test]
fn more_rows_than_a_chunk_keep_their_order() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    let rows: Vec<_> = (0..1_300).map(|i| row(gray_png(1, 2, (i % 200) as u8), i % 7)).collect();
    Layout { rows_per_group: 900, ..Layout::default() }.write(&file, &rows);
    let calls = RefCell::new(Vec::new());
    let progress = |done, total| calls.borrow_mut().push((done, total));
    let options = ReadOptions::default();
    let data = ImageDataset::read_with(&file, Split::Train, &options, &progress).unwrap();
    for i in 0..1_300 {
        assert_eq!(data.image(i).unwrap()[0], (i % 200) as u8, "image {i}");
        assert_eq!(data.labels()[i], (i % 7) as u32, "label {i}");
    }
    let calls = calls.into_inner();
    assert_eq!((calls[0], calls[calls.len() - 1]), ((0, 1_300), (1_300, 1_300)));
    assert!(calls.len() > 2 && calls.windows(2).all(|pair| pair[0].0 < pair[1].0), "{calls:?}");
}

#[test]
fn splits_are_found_by_name() {
    let (train, test) = ([row(gray_png(1, 1, 1), 2)], [row(gray_png(1, 1, 9), 0)]);
    // (training file, test file)
    let layouts = [
        ("train.parquet", "test.parquet"),
        ("train-00000-of-00001.parquet", "test-00000-of-00001-0123abcd.parquet"),
        ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"),
        ("train/0000.parquet", "test/0000.parquet"),
        ("train.parquet", "valid-00000-of-00001.parquet"),
    ];
    for (train_file, test_file) in layouts {
        let folder = tempdir().unwrap();
        for (file, rows) in [(train_file, &train), (test_file, &test)] {
            let file = folder.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            Layout::default().write(file, rows);
        }
        // A name that merely starts alike is another table.
        fs::write(folder.path().join("trainer.parquet"), "not read").unwrap();
        for (split, value) in [(Split::Train, 1), (Split::Test, 9)] {
            let data = ImageDataset::read(folder.path(), split, &ReadOptions::default()).unwrap();
            assert_eq!(data.pixels(), [value], "{train_file}, {split:?}");
            // The test split has label 0 only; the classes are those of the training split.
            assert_eq!(data.n_classes(), 3, "{train_file}, {split:?}");
        }
    }
}

#[test]
fn shards_are_read_in_order_and_a_missing_one_is_noticed() {
    let folder = tempdir().unwrap();
    let shard = |i: usize| folder.path().join(format!("train-{i:05}-of-00003.parquet"));
    for i in [2, 0, 1] {
        Layout::default().write(shard(i), &[row(gray_png(1, 1, i as u8), 0)]);
    }
    assert_eq!(read(folder.path()).unwrap().pixels(), [0, 1, 2]);
    fs::remove_file(shard(1)).unwrap();
    let error = read(folder.path()).unwrap_err();
    assert!(matches!(error, Error::MissingShard { expected: 3, missing: 1, .. }), "{error}");
    // Nor can a test split that needs the classes of the training split do with a part of it.
    Layout::default().write(folder.path().join("test.parquet"), &[row(gray_png(1, 1, 0), 0)]);
    let test = || ImageDataset::read(folder.path(), Split::Test, &ReadOptions::default());
    assert!(matches!(test(), Err(Error::MissingShard { .. })));
    // Without any, the test split speaks for itself.
    [0, 2].iter().for_each(|i| fs::remove_file(shard(*i)).unwrap());
    assert_eq!(test().unwrap().n_classes(), 1);
}

#[test]
fn a_folder_without_the_split_lists_what_it_has() {
    let folder = tempdir().unwrap();
    Layout::default().write(folder.path().join("pictures.parquet"), &[row(gray_png(1, 1, 0), 0)]);
    let error = read(folder.path()).unwrap_err();
    assert!(matches!(&error, Error::SplitNeeded { found, .. } if found[..] == ["pictures"]), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("`train`") && message.contains("`pictures`") && message.contains("train_split"),
        "{message}"
    );
    let missing = folder.path().join("nowhere");
    let message = read(&missing).unwrap_err().to_string();
    assert!(message.contains("nowhere") && message.contains("cannot find"), "{message}");
}

#[test]
fn named_columns_are_read_and_wrong_names_list_the_columns() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    Layout { image: "picture", label: "kind", ..Layout::default() }.write(&file, &[row(gray_png(1, 1, 3), 1)]);
    // The label has no usual name; the image is the only binary column.
    let message = read(&file).unwrap_err().to_string();
    for part in ["train.parquet", "`label`", "`picture.bytes` (binary)", "`kind` (int64)", "label_column"] {
        assert!(message.contains(part), "{part} in: {message}");
    }
    let options = ReadOptions { label_column: Some("kind".to_owned()), ..ReadOptions::default() };
    let data = ImageDataset::read(&file, Split::Train, &options).unwrap();
    assert_eq!((data.pixels(), data.labels()), (&[3][..], &[1][..]));
    // Text is not an image, however binary it is.
    for name in ["picture.path", "pictures", "kind"] {
        let options = ReadOptions { image_column: Some(name.to_owned()), ..options.clone() };
        let error = ImageDataset::read(&file, Split::Train, &options).unwrap_err();
        assert!(matches!(error, Error::Column { option: "image_column", .. }), "{error}");
        assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
    }
}

#[test]
fn gray_and_colour_mix_to_rgb() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    // The colour comes after a first chunk of gray only.
    let mut rows: Vec<_> = (0..600).map(|i| row(gray_png(1, 2, (i % 200) as u8), 0)).collect();
    rows.push(row(rgb_png(1, 2, 0), 0));
    rows.push(row(gray_png(1, 2, 40), 0));
    Layout::default().write(&file, &rows);
    let data = read(&file).unwrap();
    assert_eq!((data.shape(), data.len()), ((3, 1, 2), 602));
    assert_eq!(data.image(7).unwrap(), [7, 8, 7, 8, 7, 8]);
    assert_eq!(data.image(600).unwrap(), [0, 1, 100, 101, 200, 201]);
    assert_eq!(data.image(601).unwrap(), [40, 41, 40, 41, 40, 41]);
}

#[test]
fn channels_can_be_forced() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    let rgb = RgbImage::from_vec(2, 1, vec![255, 0, 0, 10, 20, 30]).unwrap();
    Layout::default().write(&file, &[row(encode(rgb.into(), ImageFormat::Png), 0), row(gray_png(1, 2, 8), 0)]);
    let options = |channels| ReadOptions { channels: Some(channels), ..ReadOptions::default() };
    let gray = ImageDataset::read(&file, Split::Train, &options(1)).unwrap();
    // BT.601: 0.299 * 255 = 76.2; 0.299 * 10 + 0.587 * 20 + 0.114 * 30 = 18.15.
    assert_eq!((gray.shape(), gray.pixels()), ((1, 1, 2), &[76, 18, 8, 9][..]));
    Layout::default().write(&file, &[row(gray_png(1, 2, 8), 0)]);
    let rgb = ImageDataset::read(&file, Split::Train, &options(3)).unwrap();
    assert_eq!((rgb.shape(), rgb.pixels()), ((3, 1, 2), &[8, 9, 8, 9, 8, 9][..]));
}

#[test]
fn alpha_is_dropped_and_jpeg_is_read() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    let rgba: DynamicImage = RgbaImage::from_pixel(3, 2, Rgba([9, 8, 7, 0])).into();
    let flat: DynamicImage = RgbImage::from_pixel(3, 2, [120, 120, 120].into()).into();
    let rows = [row(encode(rgba, ImageFormat::Png), 0), row(encode(flat, ImageFormat::Jpeg), 0)];
    Layout::default().write(&file, &rows);
    let data = read(&file).unwrap();
    assert_eq!(data.image(0).unwrap(), [[9; 6], [8; 6], [7; 6]].concat());
    // A flat gray survives JPEG up to one step of rounding.
    assert!(data.image(1).unwrap().iter().all(|value| value.abs_diff(120) <= 1), "{:?}", data.image(1));
}

#[test]
fn resize_is_height_before_width() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    // Halves of 20 and 60, left and right; and an image of the wanted size.
    let halves = image::GrayImage::from_fn(8, 2, |x, _| [if x < 4 { 20 } else { 60 }].into());
    Layout::default().write(&file, &[row(encode(halves.into(), ImageFormat::Png), 0), row(gray_png(1, 4, 0), 0)]);
    let options = ReadOptions { resize: Some((1, 4)), ..ReadOptions::default() };
    let data = ImageDataset::read(&file, Split::Train, &options).unwrap();
    assert_eq!(data.shape(), (1, 1, 4));
    let image = data.image(0).unwrap();
    assert!(image[0] == 20 && image[3] == 60 && image[1] < 40 && image[2] > 40, "{image:?}");
    assert_eq!(data.image(1).unwrap(), [0, 1, 2, 3], "an image of the right size is not touched");
}

#[test]
fn class_names_come_from_the_metadata() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    let names = r#"{"info": {"features": {"label": {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}}}}"#;
    let layout = Layout { metadata: Some(names.to_owned()), ..Layout::default() };
    layout.write(&file, &[row(gray_png(1, 1, 0), 1)]);
    let data = read(&file).unwrap();
    assert_eq!(data.n_classes(), 3, "the names count, though label 2 does not occur");
    assert_eq!(data.class_names().unwrap(), ["cat", "dog", "owl"]);
    // What is not such metadata is passed over.
    for other in ["", "{", "[]", r#"{"info": 3}"#, r#"{"info": {"features": {"label": {"names": [1]}}}}"#] {
        Layout { metadata: Some(other.to_owned()), ..Layout::default() }.write(&file, &[row(gray_png(1, 1, 0), 1)]);
        let data = read(&file).unwrap();
        assert_eq!((data.n_classes(), data.class_names()), (2, None), "{other}");
    }
}

#[test]
fn max_per_class_keeps_the_first_and_decodes_no_others() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    let mut rows: Vec<_> = (0..10).map(|i| row(gray_png(1, 1, i as u8), i % 2)).collect();
    rows.push((Some(b"no image at all".to_vec()), Some(1)));
    Layout::default().write(&file, &rows);
    let options = ReadOptions { max_per_class: Some(2), ..ReadOptions::default() };
    let data = ImageDataset::read(&file, Split::Train, &options).unwrap();
    assert_eq!((data.pixels(), data.labels()), (&[0, 1, 2, 3][..], &[0, 1, 0, 1][..]));
}

#[test]
fn impossible_options_are_refused() {
    let base = ReadOptions::default;
    let bad = [
        (ReadOptions { channels: Some(2), ..base() }, "channels"),
        (ReadOptions { size: Some((0, 3)), ..base() }, "size"),
        (ReadOptions { resize: Some((3, usize::MAX)), ..base() }, "resize"),
        (ReadOptions { size: Some((3, 3)), resize: Some((3, 3)), ..base() }, "at most one"),
        (ReadOptions { n_classes: Some(0), ..base() }, "n_classes"),
        (ReadOptions { max_per_class: Some(0), ..base() }, "max_per_class"),
    ];
    for (options, part) in bad {
        let error = ImageDataset::read(lmht_datasets::sample_path(), Split::Test, &options).unwrap_err();
        assert!(matches!(&error, Error::Config(message) if message.contains(part)), "{error}");
    }
}
