//! Batches: order, resuming, independence of threads and batch size, transformations, and what is refused.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use lmht_datasets::{
    Augment, AutoAugment, Batch, Error, ImageDataset, Loader, LoaderConfig, Mix, Normalize, Policy, ReadOptions,
};

/// `n` images of `[2, 3, 4]`, no two alike.
fn data(n: usize) -> Arc<ImageDataset> {
    let pixels = (0..n * 24).map(|i| (i * 31 % 251) as u8 ^ (i / 24) as u8).collect();
    Arc::new(ImageDataset::new(pixels, (0..n).map(|i| i as u32 % 3).collect(), (2, 3, 4), 3).unwrap())
}

fn loader(data: &Arc<ImageDataset>, config: &LoaderConfig) -> Loader {
    Loader::new(data.clone(), config, &Normalize { mean: vec![0.25, 0.5], std: vec![0.5, 0.125] }, &Device::Cpu)
        .unwrap()
}

fn values(batch: &Batch) -> Vec<f32> {
    batch.images.flatten_all().unwrap().to_vec1().unwrap()
}

const AUGMENT: Augment =
    Augment { crop_padding: 1, flip: true, cutout: 2, resized_crop: None, auto_augment: None, erasing: None };

#[test]
fn evaluation_is_every_image_once_normalized_and_in_order() {
    let data = data(10);
    let loader = loader(&data, &LoaderConfig::eval(4));
    let batches: Vec<Batch> = loader.epoch(0).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(
        batches.iter().map(|batch| batch.images.dims().to_vec()).collect::<Vec<_>>(),
        [[4, 2, 3, 4], [4, 2, 3, 4], [2, 2, 3, 4]]
    );
    assert_eq!(batches.iter().map(|batch| batch.step).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(batches.iter().all(|batch| batch.images.dtype() == DType::F32 && batch.labels.dtype() == DType::U32));
    let labels: Vec<u32> = batches.iter().flat_map(|batch| batch.labels.to_vec1().unwrap()).collect();
    assert_eq!(labels, data.labels());
    assert_eq!(batches.iter().flat_map(|batch| batch.indices.clone()).collect::<Vec<_>>(), loader.order(0));
    // In f64 by the definition; f32 is off by its rounding.
    let all: Vec<f32> = batches.iter().flat_map(values).collect();
    for (i, (value, byte)) in all.iter().zip(data.pixels()).enumerate() {
        let (mean, std) = [(0.25, 0.5), (0.5, 0.125)][i / 12 % 2];
        let expected = (f64::from(*byte) / 255.0 - mean) / std;
        assert!((f64::from(*value) - expected).abs() < 1e-6, "value {i}: {value} instead of {expected}");
    }
}

#[test]
fn an_epoch_is_a_permutation_of_its_own() {
    let data = data(50);
    let first = loader(&data, &LoaderConfig::train(8, 1));
    assert_eq!(first.n_batches(), 6);
    let order = first.order(0);
    assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 50);
    assert_ne!(order, first.order(1));
    assert_ne!(order, loader(&data, &LoaderConfig::train(8, 2)).order(0));
    let seen: Vec<usize> = first.epoch(0).unwrap().flat_map(|batch| batch.unwrap().indices).collect();
    assert_eq!(seen, order[..48]);
}

/// The order is a promise: a checkpoint of an older version goes on with the same batches. The expected one was computed
/// by another program, with ChaCha8 written out from its definition, the key (1, 42, 3, 0) and the shuffle by hand.
#[test]
fn the_order_of_a_seed_never_changes() {
    assert_eq!(loader(&data(10), &LoaderConfig::train(1, 42)).order(3), [4, 2, 1, 8, 7, 6, 3, 9, 0, 5]);
}

/// Repeated augmentation by its rule: place p of an epoch has image number ⌊p / repeats⌋ of the order, and an epoch is as long
/// as ever. So says timm 1.0.31 (`RepeatAugSampler(range(n), 1, 0, shuffle=False, num_repeats=r, selected_round=0)`), of
/// which these are the numbers.
#[test]
fn repeats_are_timms() {
    let repeats: [(usize, usize, &[usize]); 3] =
        [(10, 3, &[0, 0, 0, 1, 1, 1, 2, 2, 2, 3]), (7, 2, &[0, 0, 1, 1, 2, 2, 3]), (4, 5, &[0, 0, 0, 0])];
    for (n, aug_repeats, expected) in repeats {
        let config = LoaderConfig { aug_repeats, ..LoaderConfig::eval(2) };
        assert_eq!(loader(&data(n), &config).order(0), expected);
    }
    // The shuffled order of that seed, above.
    let config = LoaderConfig { aug_repeats: 3, augment: AUGMENT, ..LoaderConfig::train(3, 42) };
    let repeated = loader(&data(10), &config);
    assert_eq!(repeated.order(3), [4, 4, 4, 2, 2, 2, 1, 1, 1, 8]);
    // Each copy changes by itself, and in a batch of any size as in this one.
    let copies: Vec<Vec<f32>> = repeated.epoch(3).unwrap().flat_map(|b| chunks(&b.unwrap())).collect();
    assert_eq!(copies.len(), 9);
    assert!(copies.chunks(3).any(|copies| copies[0] != copies[1] && copies[1] != copies[2] && copies[0] != copies[2]));
    let one_by_one = loader(&data(10), &LoaderConfig { batch_size: 1, ..config.clone() });
    let again: Vec<Vec<f32>> = one_by_one.epoch(3).unwrap().take(9).flat_map(|b| chunks(&b.unwrap())).collect();
    assert_eq!(copies, again);
    let resumed: Vec<Vec<f32>> = repeated.epoch_from(3, 2).unwrap().flat_map(|b| chunks(&b.unwrap())).collect();
    assert_eq!(copies[6..], resumed);
    // The first is what it is without repeats.
    let plain = loader(&data(10), &LoaderConfig { aug_repeats: 1, ..config });
    let plain: Vec<Vec<f32>> = plain.epoch(3).unwrap().flat_map(|b| chunks(&b.unwrap())).collect();
    assert_eq!([&copies[0], &copies[3], &copies[6]], [&plain[0], &plain[1], &plain[2]]);
}

fn chunks(batch: &Batch) -> Vec<Vec<f32>> {
    values(batch).chunks(24).map(<[f32]>::to_vec).collect()
}

#[test]
fn resuming_in_the_middle_gives_the_same_batches() {
    let data = data(41);
    for prefetch in [0, 1, 3] {
        let config = LoaderConfig { augment: AUGMENT, prefetch, ..LoaderConfig::train(5, 7) };
        let loader = loader(&data, &config);
        let whole: Vec<Batch> = loader.epoch(2).unwrap().map(Result::unwrap).collect();
        for start in 0..=8 {
            let rest: Vec<Batch> = loader.epoch_from(2, start).unwrap().map(Result::unwrap).collect();
            assert_eq!(rest.len(), 8 - start);
            for (a, b) in rest.iter().zip(&whole[start..]) {
                assert_eq!((a.step, &a.indices, values(a)), (b.step, &b.indices, values(b)));
            }
        }
    }
}

#[test]
fn augmentation_depends_on_seed_epoch_and_image_only() {
    let data = data(60);
    // The views of all images, by image, however they were batched and on however many threads.
    let views = |config: &LoaderConfig, epoch, threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let loader = loader(&data, config);
        let batches: Vec<Batch> = pool.install(|| loader.epoch(epoch).unwrap().map(Result::unwrap).collect());
        let mut views = vec![Vec::new(); 60];
        for batch in &batches {
            for (index, image) in batch.indices.iter().zip(values(batch).chunks(24)) {
                views[*index] = image.to_vec();
            }
        }
        views
    };
    let config = LoaderConfig { augment: AUGMENT, prefetch: 0, ..LoaderConfig::train(6, 11) };
    let reference = views(&config, 4, 1);
    assert_eq!(views(&config, 4, 2), reference);
    assert_eq!(views(&LoaderConfig { batch_size: 60, prefetch: 2, ..config.clone() }, 4, 1), reference);
    assert_eq!(views(&LoaderConfig { shuffle: false, ..config.clone() }, 4, 1), reference);
    assert_ne!(views(&config, 5, 1), reference);
    assert_ne!(views(&LoaderConfig { seed: 12, ..config.clone() }, 4, 1), reference);
}

#[test]
fn a_flip_mirrors_the_columns_of_about_half_the_images() {
    let data = data(400);
    let plain = LoaderConfig { shuffle: false, ..LoaderConfig::train(400, 5) };
    let flip = LoaderConfig { augment: Augment { flip: true, ..Augment::default() }, ..plain.clone() };
    let take = |config: &LoaderConfig| values(&loader(&data, config).epoch(0).unwrap().next().unwrap().unwrap());
    let (plain, flipped) = (take(&plain), take(&flip));
    let mut n_flipped = 0;
    for (plain, flipped) in plain.chunks(24).zip(flipped.chunks(24)) {
        let mirrored: Vec<f32> = plain.chunks(4).flat_map(|row| row.iter().rev().copied()).collect();
        if flipped == mirrored {
            n_flipped += 1;
        } else {
            assert_eq!(flipped, plain);
        }
    }
    // 200 expected, standard deviation 10.
    assert!((150..=250).contains(&n_flipped), "{n_flipped}");
}

#[test]
fn padding_is_black_and_cutout_is_the_mean() {
    // A white image: what is not white was put there.
    let white = Arc::new(ImageDataset::new(vec![255; 12], vec![0], (1, 3, 4), 1).unwrap());
    let normalize = Normalize { mean: vec![0.5], std: vec![0.25] };
    let see = |augment, epochs| {
        let config = LoaderConfig { augment, prefetch: 0, ..LoaderConfig::train(1, 0) };
        let loader = Loader::new(white.clone(), &config, &normalize, &Device::Cpu).unwrap();
        let epochs = (0..epochs).flat_map(|epoch| values(&loader.epoch(epoch).unwrap().next().unwrap().unwrap()));
        epochs.map(|value| value.to_string()).collect::<BTreeSet<_>>()
    };
    assert_eq!(
        see(Augment { crop_padding: 2, ..Augment::default() }, 50),
        BTreeSet::from(["2", "-2"].map(str::to_owned))
    );
    assert_eq!(see(Augment { cutout: 2, ..Augment::default() }, 50), BTreeSet::from(["2", "0"].map(str::to_owned)));
}

/// As a GPU gets them: normalized where they arrive, to the same bits; a mixed batch, which does not travel so, too.
#[test]
fn bytes_are_normalized_at_their_end_to_the_same_bits() {
    let all = Augment { auto_augment: Some(AutoAugment::new(Policy::Cifar10)), ..AUGMENT };
    let erased = Augment { cutout: 0, erasing: Some(1.0), ..AUGMENT };
    let mixed = LoaderConfig { mix: Some(Mix::default()), ..LoaderConfig::train(4, 2) };
    for (data, config) in [
        (data(9), LoaderConfig::eval(4)),
        (data(9), LoaderConfig { center_crop: Some((2, 3)), ..LoaderConfig::eval(4) }),
        (data(9), LoaderConfig { augment: AUGMENT, ..LoaderConfig::train(4, 2) }),
        (data(9), LoaderConfig { augment: erased, ..LoaderConfig::train(4, 2) }),
        (data(9), mixed),
        (rgb(9), LoaderConfig { augment: all, ..LoaderConfig::train(4, 2) }),
    ] {
        let c = data.shape().0;
        let normalize = Normalize { mean: vec![0.3; c], std: vec![0.2; c] };
        let loader = Loader::new(data, &config, &normalize, &Device::Cpu).unwrap();
        let sent = loader.clone().sending_bytes();
        for (batch, sent) in loader.epoch(1).unwrap().zip(sent.epoch(1).unwrap()) {
            let bits = |batch: Batch| values(&batch).into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(batch.unwrap()), bits(sent.unwrap()), "{config:?}");
        }
    }
}

/// What a device is told, carried out by a loop: the bits of the batches.
#[test]
fn choices_on_the_bytes_are_the_batches() {
    let erased = Augment { cutout: 0, erasing: Some(0.8), ..AUGMENT };
    let train = |augment| LoaderConfig { augment, ..LoaderConfig::train(4, 2) };
    for config in [
        LoaderConfig::eval(4),
        LoaderConfig { center_crop: Some((2, 3)), ..LoaderConfig::eval(4) },
        LoaderConfig { drop_last: false, ..train(AUGMENT) },
        train(erased),
    ] {
        let loader = loader(&data(9), &config);
        let there = loader.on_device().unwrap();
        let (n, c, h, w) = there.bytes.dims4().unwrap();
        assert_eq!((n, h, w), (9, loader.size().0, loader.size().1));
        let bytes = there.bytes.flatten_all().unwrap().to_vec1::<u8>().unwrap();
        let table = there.table.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for batch in loader.epoch(3).unwrap() {
            let batch = batch.unwrap();
            let choices = loader.choices(3, &batch.indices).unwrap().t().unwrap().to_vec2::<u32>().unwrap();
            let mut images = Vec::new();
            for of_image in &choices {
                let choice = |row: usize| of_image[row] as i32 as isize;
                for i in 0..c * h * w {
                    let (channel, y, x) = (i / h / w, (i / w % h) as isize, (i % w) as isize);
                    let from = if choice(3) == 1 { w as isize - 1 - x } else { x };
                    let (row, column) = (y + choice(1), from + choice(2));
                    let is_there = (0..h as isize).contains(&row) && (0..w as isize).contains(&column);
                    let pixel = ((choice(0) as usize * c + channel) * h) as isize + row;
                    let byte = if is_there { bytes[(pixel * w as isize + column) as usize] } else { 0 };
                    let is_cut = (choice(4)..choice(5)).contains(&y) && (choice(6)..choice(7)).contains(&x);
                    images.push(if is_cut { 0.0 } else { table[channel * 256 + usize::from(byte)] });
                }
            }
            let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(images), bits(values(&batch)), "{config:?}");
            let labels: Vec<u32> = choices.iter().map(|of_image| of_image[8]).collect();
            assert_eq!(labels, batch.labels.to_vec1::<u32>().unwrap());
        }
        let error = loader.choices(0, &[9]).unwrap_err().to_string();
        assert!(error.contains("below 9"), "{error}");
    }
}

#[test]
fn a_dropped_epoch_does_not_hang() {
    let data = data(3_000);
    let config = LoaderConfig { prefetch: 1, ..LoaderConfig::train(2, 0) };
    let loader = loader(&data, &config);
    let start = Instant::now();
    for taken in 0..20 {
        let mut epoch = loader.epoch(0).unwrap();
        for _ in 0..taken {
            epoch.next().unwrap().unwrap();
        }
    }
    // Milliseconds; a thread that waits for ever would not end at all.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn huge_prefetch_asks_for_no_more_than_the_epoch() {
    let config = LoaderConfig { prefetch: usize::MAX, ..LoaderConfig::eval(3) };
    assert_eq!(loader(&data(10), &config).epoch(0).unwrap().count(), 4);
}

#[test]
fn what_does_not_fit_is_refused() {
    let data = data(10);
    let refuse = |config: LoaderConfig, normalize: Normalize, part: &str| {
        let error = Loader::new(data.clone(), &config, &normalize, &Device::Cpu).unwrap_err();
        assert!(matches!(&error, Error::Config(message) if message.contains(part)), "{part}: {error}");
    };
    let augment = |augment| LoaderConfig { augment, ..LoaderConfig::train(2, 0) };
    refuse(LoaderConfig::eval(0), Normalize::unit(2), "batch_size");
    refuse(LoaderConfig::train(11, 0), Normalize::unit(2), "batch_size");
    refuse(LoaderConfig::eval(2), Normalize::unit(3), "expected 2 values");
    for std in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        refuse(LoaderConfig::eval(2), Normalize { std: vec![1.0, std], ..Normalize::unit(2) }, "std");
    }
    refuse(LoaderConfig::eval(2), Normalize { mean: vec![f32::NAN, 0.0], ..Normalize::unit(2) }, "mean");
    refuse(augment(Augment { crop_padding: 3, ..Augment::default() }), Normalize::unit(2), "crop_padding");
    refuse(augment(Augment { crop_padding: usize::MAX, ..Augment::default() }), Normalize::unit(2), "crop_padding");
    refuse(augment(Augment { cutout: 5, ..Augment::default() }), Normalize::unit(2), "cutout");
    let error = loader(&data, &LoaderConfig::eval(3)).epoch_from(0, 5).unwrap_err();
    assert!(matches!(&error, Error::Config(message) if message.contains("0..=4")), "{error}");
}

#[test]
fn unknown_settings_are_refused() {
    assert!(serde_json::from_str::<Augment>(r#"{"flip": true}"#).unwrap().flip);
    assert!(serde_json::from_str::<Augment>(r#"{"flipp": true}"#).is_err());
    assert!(serde_json::from_str::<Normalize>(r#"{"mean": [0], "std": [1], "var": [1]}"#).is_err());
    assert_eq!(serde_json::from_str::<ReadOptions>("{}").unwrap(), ReadOptions::default());
    assert!(serde_json::from_str::<ReadOptions>(r#"{"chanels": 1}"#).is_err());
    let config = LoaderConfig { augment: AUGMENT, ..LoaderConfig::train(64, 42) };
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<LoaderConfig>(&json).unwrap(), config);
}

/// `n` RGB images of 8x8.
fn rgb(n: usize) -> Arc<ImageDataset> {
    let pixels = (0..n * 192).map(|i| (i * 37 % 241) as u8 ^ (i / 192) as u8).collect();
    Arc::new(ImageDataset::new(pixels, (0..n).map(|i| i as u32 % 3).collect(), (3, 8, 8), 3).unwrap())
}

fn rgb_loader(n: usize, config: &LoaderConfig) -> lmht_datasets::Result<Loader> {
    Loader::new(rgb(n), config, &Normalize::cifar10(), &Device::Cpu)
}

#[test]
fn the_whole_recipe_resumes_and_is_of_its_own_seed_and_epoch() {
    let drawn = |policy| Some(AutoAugment::new(policy));
    let augments = [
        Augment { cutout: 4, ..Augment::cifar10() },
        Augment { erasing: Some(0.5), ..Augment::imagenet(6) },
        Augment { auto_augment: drawn(Policy::TrivialAugment), ..Augment::default() },
        Augment { auto_augment: drawn(Policy::RandAugment { n_operations: 2, magnitude: 9 }), ..Augment::default() },
    ];
    for (augment, side) in augments.into_iter().zip([8, 6, 8, 8]) {
        let config = LoaderConfig { augment, mix: Some(Mix::default()), ..LoaderConfig::train(4, 9) };
        let loader = rgb_loader(13, &config).unwrap();
        let whole: Vec<Batch> = loader.epoch(3).unwrap().map(Result::unwrap).collect();
        assert_eq!(whole[0].images.dims(), [4, 3, side, side]);
        let resumed = loader.epoch_from(3, 2).unwrap().next().unwrap().unwrap();
        let targets = |batch: &Batch| batch.targets.as_ref().unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(values(&resumed), values(&whole[2]));
        assert_eq!(targets(&resumed), targets(&whole[2]));
        let other = loader.epoch(4).unwrap().next().unwrap().unwrap();
        assert_ne!(values(&other), values(&whole[0]));
        for batch in &whole {
            for (i, row) in targets(batch).iter().enumerate() {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{row:?}");
                // Only the image's own class and its partner's.
                let labels = batch.labels.to_vec1::<u32>().unwrap();
                let others = (0..3).filter(|class| ![labels[i], labels[3 - i]].contains(class));
                assert!(others.into_iter().all(|class| row[class as usize] == 0.0), "{row:?}");
            }
        }
    }
}

/// What happens to one image depends on nothing but (seed, epoch, image): not on its place, batch or neighbours.
#[test]
fn auto_augment_and_resized_crops_do_not_depend_on_the_batch() {
    for augment in [Augment::imagenet(5), Augment { cutout: 0, ..Augment::cifar100() }] {
        let seen = |batch_size: usize| {
            let config = LoaderConfig { augment, drop_last: false, ..LoaderConfig::train(batch_size, 9) };
            let mut images = std::collections::BTreeMap::new();
            for batch in rgb_loader(13, &config).unwrap().epoch(1).unwrap() {
                let batch = batch.unwrap();
                let rows = batch.images.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
                images.extend(batch.indices.into_iter().zip(rows));
            }
            images
        };
        assert_eq!(seen(1), seen(5));
    }
}

#[test]
fn a_centre_crop_is_the_middle() {
    let config = LoaderConfig { center_crop: Some((1, 2)), ..LoaderConfig::eval(2) };
    let loader = loader(&data(2), &config);
    assert_eq!(loader.size(), (1, 2));
    let batch = loader.epoch(0).unwrap().next().unwrap().unwrap();
    assert_eq!(batch.images.dims(), [2, 2, 1, 2]);
    // Row 1 of 3, columns 1 and 2 of 4, in both channels.
    let bytes: Vec<u8> = [5, 6, 17, 18, 29, 30, 41, 42].map(|i| data(2).pixels()[i]).to_vec();
    let normalize = Normalize { mean: vec![0.25, 0.5], std: vec![0.5, 0.125] };
    let expected: Vec<f32> = bytes.iter().enumerate().map(|(i, byte)| normalize.apply(i / 2 % 2, *byte)).collect();
    assert_eq!(values(&batch), expected);
}

#[test]
fn augmentation_that_does_not_fit_is_refused_by_name() {
    let plain = LoaderConfig::train(2, 1);
    let refuse = |config: LoaderConfig, part: &str| {
        let error = rgb_loader(4, &config).unwrap_err();
        assert!(matches!(&error, Error::Config(message) if message.contains(part)), "{error}");
    };
    let augment = |augment: Augment| LoaderConfig { augment, ..plain.clone() };
    refuse(augment(Augment { crop_padding: 1, ..Augment::imagenet(6) }), "found both");
    refuse(augment(Augment::imagenet(0)), "resized_crop");
    refuse(augment(Augment { cutout: 7, ..Augment::imagenet(6) }), "6x6");
    refuse(LoaderConfig { center_crop: Some((4, 9)), ..plain.clone() }, "center_crop");
    refuse(LoaderConfig { center_crop: Some((4, 4)), ..augment(Augment::imagenet(6)) }, "found both");
    refuse(augment(Augment { erasing: Some(1.5), ..Augment::default() }), "Augment::erasing");
    refuse(augment(Augment { erasing: Some(0.5), cutout: 2, ..Augment::default() }), "found both");
    for (n_operations, magnitude) in [(0, 9), (15, 9), (2, 31)] {
        let policy = AutoAugment::new(Policy::RandAugment { n_operations, magnitude });
        let config = augment(Augment { auto_augment: Some(policy), ..Augment::default() });
        refuse(config, &format!("found {n_operations} and {magnitude}"));
    }
    for (mix, part) in [
        (Mix { mixup: 0.0, cutmix: 0.0, ..Mix::default() }, "above 0"),
        (Mix { mixup: 1.5, ..Mix::default() }, "Mix::mixup"),
        (Mix { switch: f64::NAN, ..Mix::default() }, "Mix::switch"),
        (Mix { prob: -0.1, ..Mix::default() }, "Mix::prob"),
    ] {
        refuse(LoaderConfig { mix: Some(mix), ..plain.clone() }, part);
    }
    let auto_augment = Some(AutoAugment::new(Policy::Imagenet));
    let config = augment(Augment { auto_augment, ..Augment::default() });
    let error = Loader::new(data(4), &config, &Normalize::unit(2), &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("2 channels"), "{error}");
}
