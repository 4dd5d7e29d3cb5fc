//! Images that stay on the disk: order, resuming, what is held, and that they are those of a data set in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use image::{ImageFormat, RgbImage};
use lmht_datasets::{
    Augment, AutoAugment, Batch, Error, ImageDataset, ImageStream, Loader, LoaderConfig, Mix, Normalize, Policy,
    ReadOptions, Source, Split,
};

use super::tables::{Layout, Row, encode, row};

/// Rows of each shard, in groups of at most 4.
const SHARDS: [usize; 5] = [9, 4, 13, 1, 8];
const N: usize = 35;

/// A color image of 6 rows and 5 columns, no two alike.
fn noise(i: usize) -> Vec<u8> {
    let mut state = i as u32 + 1;
    let image = RgbImage::from_fn(5, 6, |_, _| {
        [0; 3]
            .map(|_: u8| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .into()
    });
    encode(image.into(), ImageFormat::Png)
}

fn shard(folder: &Path, split: &str, i: usize) -> std::path::PathBuf {
    folder.join(format!("{split}-{i:05}-of-{:05}.parquet", SHARDS.len()))
}

/// A data set of `N` images of three classes, with `change` made to its rows.
fn written(change: impl Fn(usize, &mut Row)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut n = 0;
    for (i, n_rows) in SHARDS.into_iter().enumerate() {
        let mut rows: Vec<Row> = (n..n + n_rows).map(|i| row(noise(i), i as i64 * 7 % 3)).collect();
        rows.iter_mut().enumerate().for_each(|(i, row)| change(n + i, row));
        Layout { rows_per_group: 4, ..Layout::default() }.write(shard(folder.path(), "train", i), &rows);
        n += n_rows;
    }
    folder
}

fn options() -> ReadOptions {
    ReadOptions { channels: Some(3), ..ReadOptions::default() }
}

fn open(folder: &Path, options: &ReadOptions) -> lmht_datasets::Result<Arc<ImageStream>> {
    ImageStream::open(&Source::open(folder, options)?, Split::Train).map(Arc::new)
}

fn normalize() -> Normalize {
    Normalize { mean: vec![0.25, 0.5, 0.75], std: vec![0.5, 0.25, 0.125] }
}

fn streaming(data: &Arc<ImageStream>, config: &LoaderConfig) -> Loader {
    Loader::streaming(data.clone(), config, &normalize(), &Device::Cpu).unwrap()
}

/// Everything that a batch is.
type Told = (usize, Vec<usize>, Vec<u32>, Vec<f32>, Option<Vec<f32>>);

fn told(batch: Batch) -> Told {
    let numbers = |tensor: candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
    let labels = batch.labels.to_vec1().unwrap();
    (batch.step, batch.indices, labels, numbers(batch.images), batch.targets.map(numbers))
}

fn augmented(batch_size: usize, shuffle_buffer: usize) -> LoaderConfig {
    let augment = Augment {
        crop_padding: 1,
        flip: true,
        cutout: 2,
        auto_augment: Some(AutoAugment::new(Policy::Cifar10)),
        ..Augment::default()
    };
    LoaderConfig { augment, shuffle_buffer, ..LoaderConfig::train(batch_size, 5) }
}

#[test]
fn an_evaluation_is_that_of_images_in_memory_to_the_bit() {
    let folder = written(|_, _| ());
    let data = Arc::new(ImageDataset::read(folder.path(), Split::Train, &options()).unwrap());
    let stream = open(folder.path(), &options()).unwrap();
    assert_eq!((stream.len(), stream.shape(), stream.n_classes()), (N, (3, 6, 5), 3));
    assert_eq!(stream.labels(), data.labels());
    assert!((0..N).all(|i| stream.image(i).unwrap() == data.image(i).unwrap()));
    assert!(matches!(stream.image(N), Err(Error::Config(_))));
    for prefetch in [0, 2] {
        let config = LoaderConfig { prefetch, center_crop: Some((4, 3)), ..LoaderConfig::eval(8) };
        let memory = Loader::new(data.clone(), &config, &normalize(), &Device::Cpu).unwrap();
        for (disk, memory) in [
            (streaming(&stream, &config), memory.clone()),
            (streaming(&stream, &config).sending_bytes(), memory.sending_bytes()),
        ] {
            let all = |loader: &Loader| loader.epoch(0).unwrap().map(|batch| told(batch.unwrap())).collect::<Vec<_>>();
            assert_eq!(all(&disk), all(&memory));
        }
    }
}

/// What happens to an image depends on its number, which is the same on the disk as in memory.
#[test]
fn every_image_is_seen_once_an_epoch_and_changes_as_in_memory() {
    let folder = written(|_, _| ());
    let data = Arc::new(ImageDataset::read(folder.path(), Split::Train, &options()).unwrap());
    let stream = open(folder.path(), &options()).unwrap();
    let config = LoaderConfig { drop_last: false, ..augmented(4, 6) };
    let views = |loader: Loader| {
        let mut views = BTreeMap::new();
        for batch in loader.epoch(3).unwrap() {
            let (_, indices, labels, values, _) = told(batch.unwrap());
            for ((index, label), values) in indices.into_iter().zip(labels).zip(values.chunks(90)) {
                assert!(views.insert(index, (label, values.to_vec())).is_none(), "{index} twice");
            }
        }
        views
    };
    let disk = views(streaming(&stream, &config));
    assert_eq!(disk.len(), N);
    assert!(disk == views(Loader::new(data, &config, &normalize(), &Device::Cpu).unwrap()));
}

#[test]
fn an_order_depends_on_seed_epoch_and_buffer() {
    let folder = written(|_, _| ());
    let stream = open(folder.path(), &options()).unwrap();
    let order = |seed, epoch, buffer| streaming(&stream, &LoaderConfig { seed, ..augmented(4, buffer) }).order(epoch);
    let first = order(1, 0, 6);
    assert_eq!(first, order(1, 0, 6));
    // Opened again, as a run that goes on does.
    let again = Loader::streaming(
        open(folder.path(), &options()).unwrap(),
        &LoaderConfig { seed: 1, ..augmented(4, 6) },
        &normalize(),
        &Device::Cpu,
    );
    assert_eq!(first, again.unwrap().order(0));
    for other in [order(1, 1, 6), order(2, 0, 6), order(1, 0, 7)] {
        assert_ne!(first, other);
    }
    assert_eq!(first.iter().copied().collect::<BTreeSet<_>>(), (0..N).collect());
    // A buffer of one image leaves the parts as they are, in an order of their own.
    let sequence = order(1, 0, 1);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut n = 0;
    for n_rows in SHARDS {
        groups.extend((n..n + n_rows).collect::<Vec<_>>().chunks(4).map(<[usize]>::to_vec));
        n += n_rows;
    }
    let found: Vec<_> = sequence.iter().filter_map(|i| groups.iter().position(|group| group[0] == *i)).collect();
    assert_eq!(found.iter().flat_map(|group| groups[*group].clone()).collect::<Vec<_>>(), sequence);
    assert!(!found.is_sorted() && found.len() == groups.len(), "{found:?}");
    // A larger one draws each of the images that come next in that sequence.
    for (drawn, image) in first.iter().enumerate() {
        let place = sequence.iter().position(|i| i == image).unwrap();
        assert!(place < drawn + 6, "image {image}: number {place} of the sequence is drawn as number {drawn}");
    }
}

/// The order is a promise, as that of images in memory is. The expected one was computed by another program, with ChaCha8 and
/// both shuffles written out.
#[test]
fn the_order_of_a_seed_never_changes() {
    let folder = written(|_, _| ());
    let stream = open(folder.path(), &options()).unwrap();
    let config = LoaderConfig { seed: 42, ..augmented(4, 6) };
    #[rustfmt::skip]
    assert_eq!(streaming(&stream, &config).order(3), [
        32, 33, 31, 34, 28, 27, 1, 0, 29, 3, 30, 14, 8, 25, 26, 16, 9, 12, 15, 11, 23, 13, 4, 24, 6, 22, 21, 10, 7, 5, 20, 17,
        19, 2, 18,
    ]);
}

#[test]
fn a_buffer_of_everything_makes_every_order_equally_likely() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<Row> = (0..3).map(|i| row(noise(i), 0)).collect();
    Layout { rows_per_group: 2, ..Layout::default() }.write(folder.path().join("train.parquet"), &rows);
    let stream = open(folder.path(), &options()).unwrap();
    let loader = streaming(&stream, &LoaderConfig { augment: Augment::default(), ..augmented(1, 100) });
    let mut counts = BTreeMap::new();
    for epoch in 0..6_000 {
        *counts.entry(loader.order(epoch)).or_insert(0u32) += 1;
    }
    // 1,000 each, standard deviation 29.
    assert!(counts.len() == 6 && counts.values().all(|n| (855..=1145).contains(n)), "{counts:?}");
}

#[test]
fn resuming_at_any_step_gives_the_same_batches() {
    let folder = written(|_, _| ());
    let mix = Some(Mix::default());
    for config in [
        augmented(4, 6),
        LoaderConfig { drop_last: false, ..augmented(4, 1) },
        LoaderConfig { mix, prefetch: 0, ..augmented(3, 1_000) },
        LoaderConfig { aug_repeats: 3, ..augmented(4, 6) },
        LoaderConfig { prefetch: 3, ..LoaderConfig::eval(4) },
    ] {
        let loader = streaming(&open(folder.path(), &options()).unwrap(), &config);
        let whole: Vec<_> = loader.epoch(2).unwrap().map(|batch| told(batch.unwrap())).collect();
        assert_eq!(whole.len(), loader.n_batches());
        for step in 0..=whole.len() {
            // In a process of its own, as far as the loader can tell.
            let loader = streaming(&open(folder.path(), &options()).unwrap(), &config);
            let rest: Vec<_> = loader.epoch_from(2, step).unwrap().map(|batch| told(batch.unwrap())).collect();
            assert!(rest == whole[step..], "from step {step} of {config:?}");
        }
    }
}

#[test]
fn no_more_is_held_than_the_buffer_and_a_part() {
    let folder = written(|_, _| ());
    let bytes: Vec<u64> = (0..N).map(|i| noise(i).len() as u64).collect();
    let largest = bytes.iter().max().unwrap();
    // The buffer, a batch and a group of 4, which counts twice until it is copied out of its page.
    for (config, most) in [(augmented(4, 6), 6 + 4 + 2 * 4), (LoaderConfig::eval(4), 4 + 2 * 4)] {
        let stream = open(folder.path(), &options()).unwrap();
        let loader = streaming(&stream, &config);
        for epoch in 0..20 {
            assert!(loader.epoch(epoch).unwrap().all(|batch| batch.is_ok()));
        }
        let peak = stream.peak_bytes();
        assert!(peak <= most * largest, "{peak} bytes, of at most {most} images of {largest}");
        assert!(peak >= 4 * largest / 2 && peak < bytes.iter().sum::<u64>() / 2, "{peak} bytes");
    }
    // Everything, if the buffer is as large.
    let stream = open(folder.path(), &options()).unwrap();
    streaming(&stream, &augmented(4, 1_000)).epoch(0).unwrap().for_each(|batch| _ = batch.unwrap());
    assert!(stream.peak_bytes() > bytes.iter().sum::<u64>() / 2);
}

#[test]
fn parts_without_images_to_come_are_not_read_again() {
    let folder = written(|_, _| ());
    let loader = streaming(&open(folder.path(), &options()).unwrap(), &LoaderConfig::eval(1));
    fs::remove_file(shard(folder.path(), "train", 0)).unwrap();
    assert!(loader.epoch_from(0, 9).unwrap().all(|batch| batch.is_ok()));
    let error = loader.epoch_from(0, 8).unwrap().next().unwrap().unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == shard(folder.path(), "train", 0)), "{error}");
}

#[test]
fn repeated_augmentation_changes_each_copy() {
    let folder = written(|_, _| ());
    let stream = open(folder.path(), &options()).unwrap();
    let config = LoaderConfig { aug_repeats: 3, drop_last: false, ..augmented(4, 6) };
    let plain = streaming(&stream, &LoaderConfig { aug_repeats: 1, ..config.clone() });
    let loader = streaming(&stream, &config);
    let expected: Vec<usize> = (0..N).map(|place| plain.order(1)[place / 3]).collect();
    assert_eq!(loader.order(1), expected);
    let (mut seen, mut values) = (Vec::new(), Vec::new());
    for batch in loader.epoch(1).unwrap() {
        let (_, indices, _, images, _) = told(batch.unwrap());
        seen.extend(indices);
        values.extend(images.chunks(90).map(<[f32]>::to_vec).collect::<Vec<_>>());
    }
    assert_eq!(seen, expected);
    // The first copy is what the image is without repeats.
    let first = told(plain.epoch(1).unwrap().next().unwrap().unwrap());
    assert_eq!(values[0], first.3[..90]);
    assert_eq!(values[3], first.3[90..180]);
    let different =
        values.chunks(3).filter(|copies| copies.len() == 3 && copies[0] != copies[1] && copies[1] != copies[2]);
    assert!(different.count() >= 9);
}

/// What is wrong is told in the same words, when a batch comes to it or, of labels, before the first one.
#[test]
fn damage_is_told_as_of_images_in_memory() {
    type Change = (&'static str, fn(&mut Row), bool);
    let changes: [Change; 5] = [
        ("damaged", |(image, _)| image.as_mut().unwrap().truncate(60), false),
        ("no image", |(image, _)| *image = Some(b"no image".to_vec()), false),
        ("null", |(image, _)| *image = None, false),
        ("without a label", |(_, label)| *label = Some(-1), true),
        ("null label", |(_, label)| *label = None, true),
    ];
    for (what, change, is_early) in changes {
        let folder = written(|i, row| {
            if i == 20 {
                change(row);
            }
        });
        let options = ReadOptions { n_classes: Some(3), ..options() };
        let expected = ImageDataset::read(folder.path(), Split::Train, &options).unwrap_err().to_string();
        assert!(expected.contains("row 7"), "{what}: {expected}");
        let found = match open(folder.path(), &options) {
            Err(error) => {
                assert!(is_early, "{what}: {error}");
                error
            }
            Ok(stream) => {
                assert!(!is_early, "{what}");
                let loader = streaming(&stream, &LoaderConfig::eval(4));
                let batches: Vec<_> = loader.epoch(0).unwrap().collect();
                // After an error there are no more.
                assert!(batches.iter().rev().skip(1).all(Result::is_ok), "{what}");
                batches.into_iter().next_back().unwrap().unwrap_err()
            }
        };
        assert_eq!(found.to_string(), expected, "{what}");
    }
    // A size of its own.
    let folder = written(|i, (image, _)| {
        if i == 20 {
            *image = Some(super::tables::rgb_png(3, 3, 0));
        }
    });
    let expected = ImageDataset::read(folder.path(), Split::Train, &options()).unwrap_err().to_string();
    let loader = streaming(&open(folder.path(), &options()).unwrap(), &LoaderConfig::eval(4));
    assert_eq!(loader.epoch(0).unwrap().last().unwrap().unwrap_err().to_string(), expected);
}

#[test]
fn shards_are_looked_at_before_the_first_batch() {
    let folder = written(|_, _| ());
    let last = shard(folder.path(), "train", 4);
    let whole = fs::read(&last).unwrap();
    fs::write(&last, &whole[..whole.len() - 9]).unwrap();
    let error = open(folder.path(), &options()).unwrap_err();
    assert!(matches!(&error, Error::Parquet { path, .. } if *path == last), "{error}");
    Layout { image: "picture", label: "kind", ..Layout::default() }.write(&last, &[row(noise(0), 0)]);
    let error = open(folder.path(), &options()).unwrap_err();
    assert!(matches!(&error, Error::Column { path, .. } if *path == last), "{error}");
    fs::write(&last, &whole).unwrap();
    // One that is written anew while an epoch is read.
    let loader = streaming(&open(folder.path(), &options()).unwrap(), &LoaderConfig::eval(4));
    let changed: Vec<Row> = (0..3).map(|i| row(noise(i), 2)).collect();
    Layout::default().write(&last, &changed);
    let error = loader.epoch(0).unwrap().last().unwrap().unwrap_err();
    assert!(error.to_string().contains("bytes when it was opened first"), "{error}");
}

#[test]
fn a_file_of_the_same_size_with_other_labels_is_refused() {
    let folder = written(|_, _| ());
    let last = shard(folder.path(), "train", 4);
    let write = |label| {
        let rows: Vec<Row> = (0..8).map(|i| row(noise(i), label)).collect();
        Layout { plain: true, required: true, rows_per_group: 4, ..Layout::default() }.write(&last, &rows);
        fs::metadata(&last).unwrap().len()
    };
    let size = write(1);
    let loader = streaming(&open(folder.path(), &options()).unwrap(), &LoaderConfig::eval(4));
    assert_eq!(write(2), size);
    let error = loader.epoch(0).unwrap().last().unwrap().unwrap_err();
    assert!(error.to_string().contains("the label in row 0 is another one"), "{error}");
}

#[test]
fn parts_of_splits_classes_and_limits_are_those_of_images_in_memory() {
    let folder = written(|_, _| ());
    for options in [
        ReadOptions { train_split: Some("train[:50%]".to_owned()), ..options() },
        ReadOptions { train_split: Some("train[50%:]".to_owned()), max_per_class: Some(2), ..options() },
        ReadOptions { resize: Some((4, 4)), channels: Some(1), ..options() },
        ReadOptions { cover: Some((4, 4)), class_names: Some(["a", "b", "c"].map(str::to_owned).into()), ..options() },
        // The first image is in color.
        ReadOptions::default(),
    ] {
        let data = ImageDataset::read(folder.path(), Split::Train, &options).unwrap();
        let stream = open(folder.path(), &options).unwrap();
        assert_eq!(stream.labels(), data.labels(), "{options:?}");
        assert_eq!((stream.shape(), stream.fit()), (data.shape(), data.fit()), "{options:?}");
        assert_eq!(stream.class_names(), data.class_names(), "{options:?}");
        assert!((0..data.len()).all(|i| stream.image(i).unwrap() == data.image(i).unwrap()), "{options:?}");
    }
    let error = open(folder.path(), &ReadOptions { max_image_bytes: Some(89), ..options() }).unwrap_err();
    assert!(matches!(error, Error::TooLarge { scope: "in an image", .. }), "{error}");
    // What is never held in memory has no limit there.
    assert!(open(folder.path(), &ReadOptions { max_decoded_bytes: Some(1), ..options() }).is_ok());
    let error =
        Loader::streaming(open(folder.path(), &options()).unwrap(), &augmented(4, 0), &normalize(), &Device::Cpu)
            .unwrap_err();
    assert!(error.to_string().contains("shuffle_buffer: expected at least 1"), "{error}");
}

#[test]
fn folders_of_images_are_read_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    for (class, from) in [("cat", 0), ("dog", 10)] {
        fs::create_dir_all(folder.path().join("train").join(class)).unwrap();
        for i in from..from + 10 {
            fs::write(folder.path().join(format!("train/{class}/{i:02}.png")), noise(i)).unwrap();
        }
    }
    let data = ImageDataset::read(folder.path(), Split::Train, &options()).unwrap();
    let stream = open(folder.path(), &options()).unwrap();
    assert_eq!((stream.labels(), stream.class_names()), (data.labels(), data.class_names()));
    let loader = streaming(&stream, &augmented(2, 1));
    assert!(loader.epoch(0).unwrap().all(|batch| batch.is_ok()));
    // Each is a part of its own, so that a buffer of one shuffles them all.
    assert!(stream.peak_bytes() <= 3 * noise(0).len() as u64 + 100, "{}", stream.peak_bytes());
    let order = loader.order(0);
    assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 20);
    assert!((0..10).filter(|place| order[*place] < 10).count() < 10, "{order:?}");
    let damaged = folder.path().join("train/dog/13.png");
    fs::write(&damaged, &noise(13)[..50]).unwrap();
    let error = loader.epoch(1).unwrap().find_map(Result::err).unwrap();
    assert!(matches!(&error, Error::Decode { at, .. } if at.path == damaged && at.row.is_none()), "{error}");
}

#[test]
fn gray_images_need_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<Row> = (0..3).map(|i| row(super::tables::gray_png(4, 4, i), 0)).collect();
    Layout::default().write(folder.path().join("train.parquet"), &rows);
    let error = open(folder.path(), &ReadOptions::default()).unwrap_err();
    assert!(error.to_string().contains("ReadOptions::channels"), "{error}");
    let one = ReadOptions { channels: Some(1), ..ReadOptions::default() };
    assert_eq!(open(folder.path(), &one).unwrap().shape(), (1, 4, 4));
}
