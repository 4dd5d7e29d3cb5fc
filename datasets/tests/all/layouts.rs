//! Where the splits of a data set are found, which is used for what, and where the names of classes come from.

use std::fs;
use std::path::Path;

use lmht_datasets::{Error, ImageDataset, ReadOptions, Result, Source, Split};
use tempfile::{TempDir, tempdir};

use crate::tables::{Layout, Row, gray_png, row};

/// A folder with these files, each a table of one image whose value is its number in the list.
fn folder(files: &[&str]) -> TempDir {
    let folder = tempdir().unwrap();
    for (i, file) in files.iter().enumerate() {
        write(folder.path(), file, &Layout::default(), &[row(gray_png(1, 1, i as u8), 0)]);
    }
    folder
}

fn write(folder: &Path, file: &str, layout: &Layout, rows: &[Row]) {
    let path = folder.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    layout.write(path, rows);
}

/// A folder of text and images.
fn files(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempdir().unwrap();
    for (file, bytes) in files {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

fn read(path: impl AsRef<Path>, split: Split) -> Result<ImageDataset> {
    ImageDataset::read(path, split, &ReadOptions::default())
}

fn splits(train: &str, test: &str) -> ReadOptions {
    ReadOptions { train_split: Some(train.to_owned()), test_split: Some(test.to_owned()), ..ReadOptions::default() }
}

/// The pixels of both splits.
fn both(path: &Path, options: &ReadOptions) -> Result<(Vec<u8>, Vec<u8>)> {
    let pixels = |split| ImageDataset::read(path, split, options).map(|data| data.pixels().to_vec());
    Ok((pixels(Split::Train)?, pixels(Split::Test)?))
}

#[test]
fn layouts_of_the_hub() {
    for files in [
        ["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"],
        ["data/train-00000-of-00001-0a1b.parquet", "data/test-00000-of-00001-2c3d.parquet"],
        ["plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet"],
        ["default/train/0000.parquet", "default/test/0000.parquet"],
        ["plain_text/train/0000.parquet", "plain_text/validation/0000.parquet"],
        ["training.parquet", "val.parquet"],
    ] {
        let folder = folder(&files);
        assert_eq!(both(folder.path(), &ReadOptions::default()).unwrap(), (vec![0], vec![1]), "{files:?}");
    }
}

#[test]
fn several_configurations_are_a_choice() {
    let folder = folder(&["a/train.parquet", "a/test.parquet", "b/train.parquet", "b/test.parquet"]);
    let error = read(folder.path(), Split::Train).unwrap_err();
    assert!(matches!(&error, Error::ConfigurationNeeded { found, .. } if found[..] == ["a", "b"]), "{error}");
    let options = ReadOptions { configuration: Some("b".to_owned()), ..ReadOptions::default() };
    assert_eq!(both(folder.path(), &options).unwrap(), (vec![2], vec![3]));
}

#[test]
fn splits_are_chosen_by_name() {
    let folder =
        folder(&["train-00000-of-00001.parquet", "test.parquet", "extra-00000-of-00001.parquet", "dev.parquet"]);
    let source = Source::open(folder.path(), &ReadOptions::default()).unwrap();
    assert_eq!(source.splits().collect::<Vec<_>>(), ["extra", "test", "train", "validation"]);
    assert_eq!(both(folder.path(), &splits("extra", "dev")).unwrap(), (vec![2], vec![3]));
    let error = ImageDataset::read(folder.path(), Split::Train, &splits("unlabelled", "test")).unwrap_err();
    assert!(matches!(&error, Error::SplitNeeded { wanted: Some(name), .. } if name == "unlabelled"), "{error}");
    assert!(error.to_string().contains("`extra`, `test`, `train`, `validation`"), "{error}");
}

#[test]
fn one_file_is_never_both_splits() {
    let folder = tempdir().unwrap();
    let rows: Vec<Row> = (0..10).map(|i| row(gray_png(1, 1, i as u8), i % 2)).collect();
    for name in ["train-00000-of-00001.parquet", "birds.parquet"] {
        let file = folder.path().join(name);
        Layout::default().write(&file, &rows);
        let error = read(&file, Split::Test).unwrap_err();
        assert!(matches!(error, Error::SplitNeeded { split: Split::Test, .. }), "{error}");
        let split = &Source::open(&file, &ReadOptions::default()).unwrap().splits().next().unwrap().to_owned();
        let error = ImageDataset::read(&file, Split::Train, &splits(split, split)).unwrap_err();
        assert!(matches!(error, Error::SameImages { .. }), "{error}");
        // Parts of it, of each class.
        let options = splits(&format!("{split}[:60%]"), &format!("{split}[60%:]"));
        assert_eq!(both(&file, &options).unwrap(), (vec![0, 1, 2, 3, 4, 5], vec![6, 7, 8, 9]));
        let options = splits(&format!("{split}[:60%]"), &format!("{split}[50%:]"));
        assert!(matches!(both(&file, &options), Err(Error::SameImages { .. })));
        for odd in ["[:60]", "[60%:50%]", "[:101%]", "[-5%:]", "[50%", "[]"] {
            let options = splits(&format!("{split}{odd}"), "test");
            assert!(matches!(both(&file, &options), Err(Error::Config(_))), "{odd}");
        }
    }
    // A link to the same file is the same file.
    #[cfg(unix)]
    {
        let folder = tempdir().unwrap();
        Layout::default().write(folder.path().join("train.parquet"), &rows);
        std::os::unix::fs::symlink("train.parquet", folder.path().join("test.parquet")).unwrap();
        assert!(matches!(read(folder.path(), Split::Train), Err(Error::SameImages { .. })));
    }
}

#[test]
fn the_validation_split_stands_for_a_test_split_without_labels() {
    let (labelled, unlabelled) =
        ([row(gray_png(1, 1, 7), 1)], [row(gray_png(1, 1, 9), -1), row(gray_png(1, 1, 9), -1)]);
    let make = |names: &[(&str, &[Row])]| {
        let folder = tempdir().unwrap();
        names.iter().for_each(|(name, rows)| write(folder.path(), name, &Layout::default(), rows));
        folder
    };
    let folder =
        make(&[("train.parquet", &labelled), ("test.parquet", &unlabelled), ("validation.parquet", &labelled)]);
    let source = Source::open(folder.path(), &ReadOptions::default()).unwrap();
    assert_eq!(source.chosen(Split::Test).unwrap(), "validation");
    assert!(
        source.notes()[0].contains("has no labels") && source.notes()[0].contains("validation"),
        "{:?}",
        source.notes()
    );
    assert_eq!(read(folder.path(), Split::Test).unwrap().pixels(), [7]);
    // When it is asked for, or nothing stands for it, the row is named.
    let error = ImageDataset::read(folder.path(), Split::Test, &splits("train", "test")).unwrap_err();
    assert!(matches!(&error, Error::LabelOutOfRange { at, label: -1, .. } if at.row == Some(0)), "{error}");
    let folder = make(&[("train.parquet", &labelled), ("test.parquet", &unlabelled)]);
    assert!(matches!(read(folder.path(), Split::Test), Err(Error::LabelOutOfRange { label: -1, .. })));
    // One label makes it a test split.
    let mixed = [unlabelled[0].clone(), labelled[0].clone()];
    let folder = make(&[("train.parquet", &labelled), ("test.parquet", &mixed), ("validation.parquet", &labelled)]);
    assert!(matches!(read(folder.path(), Split::Test), Err(Error::LabelOutOfRange { label: -1, .. })));
    // Without a test split, too, it is said.
    let folder = make(&[("train.parquet", &labelled), ("val.parquet", &labelled)]);
    let source = Source::open(folder.path(), &ReadOptions::default()).unwrap();
    assert!(source.notes()[0].contains("no test split"), "{:?}", source.notes());
}

#[test]
fn two_generations_of_a_split_are_refused() {
    for (first, second) in [
        ("train-00000-of-00001.parquet", "train-00000-of-00002.parquet"),
        ("train-00000-of-00001-aaaa.parquet", "train-00000-of-00001-bbbb.parquet"),
        ("train-00000-of-00001.parquet", "train.parquet"),
        ("train-00000-of-00001.parquet", "train/0000.parquet"),
        ("train-00000-of-00001.parquet", "training-00000-of-00001.parquet"),
    ] {
        let folder = folder(&["test.parquet", first, second]);
        let error = read(folder.path(), Split::Test).unwrap_err();
        assert!(matches!(error, Error::TwoGenerations { .. }), "{first}, {second}: {error}");
        let message = error.to_string();
        assert!(message.contains(first) && message.contains(second), "{message}");
    }
    let folder = folder(&["train-00001-of-00002.parquet"]);
    assert!(matches!(read(folder.path(), Split::Train), Err(Error::MissingShard { missing: 0, .. })));
}

const CARD: &str = "---
license: mit
configs:
- config_name: small
  data_files:
  - split: train
    path: parts/a-*
  - split: test
    path: [parts/b-0.parquet, 'parts/b-1.parquet']
- config_name: other
  data_files: {train: parts/c-?.parquet, validation: '**/d.parquet'}
- config_name: gone
  data_files: gone/*
dataset_info:
- config_name: small
  features:
  - name: label
    dtype:
      class_label:
        names:
          '1': dog
          '0': cat
- config_name: other
  features: []
---
# A data set
";

#[test]
fn the_card_says_where_the_splits_are() {
    let parts = ["parts/a-1", "parts/a-0", "parts/b-0", "parts/b-1", "parts/c-1", "parts/c-22", "parts/e/d"];
    let names: Vec<String> = parts.iter().map(|part| format!("{part}.parquet")).collect();
    let folder = folder(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let card = folder.path().join("README.md");
    fs::write(&card, CARD).unwrap();
    let error = read(folder.path(), Split::Train).unwrap_err();
    assert!(matches!(&error, Error::ConfigurationNeeded { found, .. } if found[..] == ["small", "other"]), "{error}");
    let options = |name: &str| ReadOptions { configuration: Some(name.to_owned()), ..ReadOptions::default() };
    assert_eq!(both(folder.path(), &options("small")).unwrap(), (vec![1, 0], vec![2, 3]));
    assert_eq!(both(folder.path(), &options("other")).unwrap(), (vec![4], vec![6]));
    let data = ImageDataset::read(folder.path(), Split::Train, &options("small")).unwrap();
    assert_eq!(data.class_names().unwrap(), ["cat", "dog"]);
    assert_eq!(data.n_classes(), 2);
    fs::write(&card, CARD.replace("config_name: other", "config_name: other\n  default: true")).unwrap();
    assert_eq!(read(folder.path(), Split::Train).unwrap().pixels(), [4]);
    // What it cannot mean is refused, with the file's name.
    for (old, new) in [
        ("parts/a-*", "../parts/a-*"),
        ("parts/a-*", "/etc/*"),
        ("parts/a-*", "hf://datasets/x/y"),
        ("    path: parts/a-*", "    path: {a: b}"),
        ("license: mit", "license: &x mit\nother: *x"),
        ("license: mit", "license: [mit"),
    ] {
        fs::write(&card, CARD.replace(old, new)).unwrap();
        let error = read(folder.path(), Split::Train).unwrap_err();
        assert!(matches!(error, Error::Card { .. }) && error.to_string().contains("README.md"), "{new}: {error}");
    }
    // A card whose files are not there leaves the search to the names of the files.
    fs::write(&card, CARD.replace("parts/", "elsewhere/").replace("**/d", "d")).unwrap();
    assert!(matches!(read(folder.path(), Split::Train), Err(Error::SplitNeeded { .. })));
}

#[test]
fn class_names_of_the_card_are_those_of_the_files_without_any() {
    let folder = folder(&["train.parquet"]);
    let card = "---\ndataset_info: {features: [{name: label, dtype: {class_label: {names: [x, y]}}}]}\n---\n";
    fs::write(folder.path().join("README.md"), card).unwrap();
    assert_eq!(read(folder.path(), Split::Train).unwrap().class_names().unwrap(), ["x", "y"]);
    let metadata = r#"{"info": {"features": {"label": {"names": ["cat"], "_type": "ClassLabel"}}}}"#;
    let layout = Layout { metadata: Some(metadata.to_owned()), ..Layout::default() };
    write(folder.path(), "train.parquet", &layout, &[row(gray_png(1, 1, 0), 0)]);
    assert_eq!(read(folder.path(), Split::Train).unwrap().class_names().unwrap(), ["cat"]);
}

#[test]
fn text_labels_are_classes_in_sorted_order() {
    let folder = tempdir().unwrap();
    let layout = Layout { names: Some(&["owl", "cat", "dog", "eel"]), ..Layout::default() };
    let rows: Vec<Row> = [0, 1, 2, 1].iter().map(|label| row(gray_png(1, 1, 0), *label)).collect();
    write(folder.path(), "train.parquet", &layout, &rows);
    write(folder.path(), "test.parquet", &layout, &rows[..1]);
    let train = read(folder.path(), Split::Train).unwrap();
    assert_eq!(train.class_names().unwrap(), ["cat", "dog", "owl"]);
    assert_eq!((train.labels(), train.n_classes()), (&[2, 0, 1, 0][..], 3));
    // The classes are those of the training split, also where the test split has fewer.
    assert_eq!(read(folder.path(), Split::Test).unwrap().labels(), [2]);
    write(folder.path(), "test.parquet", &layout, &[row(gray_png(1, 1, 0), 3)]);
    let error = read(folder.path(), Split::Test).unwrap_err();
    assert!(matches!(&error, Error::UnknownLabel { at, label, .. } if at.row == Some(0) && label == "eel"), "{error}");
    // A name of one's own order.
    let names = ["owl", "dog", "cat", "eel"].map(str::to_owned).to_vec();
    let options = ReadOptions { class_names: Some(names), ..ReadOptions::default() };
    let train = ImageDataset::read(folder.path(), Split::Train, &options).unwrap();
    assert_eq!((train.labels(), train.n_classes()), (&[0, 2, 1, 2][..], 4));
    let options = ReadOptions { n_classes: Some(2), ..ReadOptions::default() };
    let error = ImageDataset::read(folder.path(), Split::Train, &options).unwrap_err();
    assert!(matches!(&error, Error::Config(message) if message.contains("n_classes")), "{error}");
}

#[test]
fn folders_of_images() {
    let png = |value| gray_png(1, 1, value);
    let folder = files(&[
        ("train/owl/b.png", &png(2)),
        ("train/owl/a.PNG", &png(1)),
        ("train/owl/more/c.png", &png(3)),
        ("train/cat/1.png", &png(4)),
        ("train/cat/notes.txt", b"not read"),
        ("train/.hidden/1.png", b"nor this"),
        ("val/owl/1.png", &png(5)),
    ]);
    let train = read(folder.path(), Split::Train).unwrap();
    assert_eq!((train.pixels(), train.labels()), (&[4, 1, 2, 3][..], &[0, 1, 1, 1][..]));
    assert_eq!(train.class_names().unwrap(), ["cat", "owl"]);
    let test = read(folder.path(), Split::Test).unwrap();
    assert_eq!((test.pixels(), test.labels(), test.n_classes()), (&[5][..], &[1][..], 2));

    // Without splits, one has to be asked for.
    let classes = folder.path().join("train");
    let error = read(&classes, Split::Train).unwrap_err();
    assert!(matches!(&error, Error::SplitNeeded { found, .. } if found[..] == ["all"]), "{error}");
    assert!(error.to_string().contains("all[:80%]"), "{error}");
    assert_eq!(both(&classes, &splits("all[:67%]", "all[67%:]")).unwrap(), (vec![1, 2], vec![4, 3]));

    // Damage names the image itself.
    fs::write(classes.join("cat/2.jpg"), b"nothing").unwrap();
    let error = read(folder.path(), Split::Train).unwrap_err();
    assert!(matches!(&error, Error::Decode { at, .. } if at.path.ends_with("cat/2.jpg")), "{error}");
    fs::remove_file(classes.join("cat/2.jpg")).unwrap();
    // What is not read is not passed over, nor is a class that would shift the others.
    fs::write(classes.join("cat/3.avif"), b"\0\0\0\x20ftypavif").unwrap();
    let error = read(folder.path(), Split::Train).unwrap_err();
    assert!(matches!(&error, Error::ImageFormat { format, .. } if format == "AVIF"), "{error}");
    fs::remove_file(classes.join("cat/3.avif")).unwrap();
    fs::create_dir(classes.join("bat")).unwrap();
    let error = read(folder.path(), Split::Train).unwrap_err();
    assert!(matches!(&error, Error::NoImages { folder } if folder.ends_with("bat")), "{error}");
}

#[test]
fn tables_of_file_names() {
    let png = |value| gray_png(1, 1, value);
    let folder = files(&[
        ("train/metadata.csv", b"file_name,label\n1.png,owl\nin/2.png,cat\n"),
        ("train/1.png", &png(1)),
        ("train/in/2.png", &png(2)),
        ("test.csv", b"label, file_name\nowl, train/in/2.png\n"),
    ]);
    let train = read(folder.path(), Split::Train).unwrap();
    assert_eq!((train.pixels(), train.labels()), (&[1, 2][..], &[1, 0][..]));
    assert_eq!(
        (train.class_names().unwrap(), train.columns()),
        (&["cat".to_owned(), "owl".to_owned()][..], Some(("file_name", "label")))
    );
    assert_eq!(read(folder.path(), Split::Test).unwrap().labels(), [1]);

    // Numbers count as numbers, ten after two.
    let table = folder.path().join("train/metadata.csv");
    fs::write(&table, "file_name,label\n1.png,10\nin/2.png,2\n").unwrap();
    fs::remove_file(folder.path().join("test.csv")).unwrap();
    let train = read(folder.path(), Split::Train).unwrap();
    assert_eq!((train.labels(), train.n_classes(), train.class_names()), (&[10, 2][..], 11, None));

    for (text, part) in [
        ("file_name,label\n../1.png,0\n", "row 0"),
        ("file_name,label\n/etc/passwd,0\n", "row 0"),
        ("file_name,label\n1.png\n", "fields"),
        ("file_name,colour\n1.png,0\n", "label_column"),
        ("file_name,label\nmissing.png,0\n", "missing.png"),
        ("file_name,label\n", "no rows"),
    ] {
        fs::write(&table, text).unwrap();
        let message = read(folder.path(), Split::Train).unwrap_err().to_string();
        assert!(message.contains(part), "{part} in: {message}");
    }
    // A single table without the name of a split.
    let alone = files(&[("labels.csv", b"file_name,label\n1.png,a\n1.png,b\n"), ("1.png", &png(1))]);
    for path in [alone.path().to_path_buf(), alone.path().join("labels.csv")] {
        assert!(matches!(read(&path, Split::Train), Err(Error::SplitNeeded { .. })));
    }
}

#[test]
fn a_path_without_data_says_what_is_there() {
    let folder = files(&[("notes.txt", b"text"), ("weights.bin", b"1")]);
    for path in [folder.path().to_path_buf(), folder.path().join("notes.txt")] {
        let error = read(&path, Split::Train).unwrap_err();
        assert!(matches!(error, Error::NoData { .. }), "{error}");
        assert!(error.to_string().contains("train-00000-of-00001.parquet"), "{error}");
    }
}
