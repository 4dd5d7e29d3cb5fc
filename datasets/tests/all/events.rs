//! Recordings of event cameras as frames and as data sets.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use lmht_datasets::events::{
    EventAugment, EventDataset, EventInput, EventOptions, EventPreprocessor, EventRecipe, EventSource, Events, Frames,
    Recording, SplitBy, read, recordings,
};
use lmht_datasets::{Dataset, Error, Loader, LoaderConfig, Preprocessing, Preprocessor, ReadOptions, Split};
use tempfile::{TempDir, tempdir};

use crate::recordings::{EVENTS, Event, aedat3, archive, bin, hdf5, matlab, matrix, npy, spiketrain};

/// SpikingJelly's rule: ten events in four frames are 2, 2, 2 and 4 by number; by time each has a quarter of the span, the
/// last one what comes after.
#[test]
fn frames_follow_the_published_rule() {
    let t = vec![0, 1, 2, 3, 40, 41, 50, 79, 80, 83];
    let n = t.len();
    let p: Vec<u8> = (0..n).map(|i| (i % 2) as u8).collect();
    let events = Events::new(t, vec![0; n], vec![0; n], p, (1, 1)).unwrap();
    let counts = |n, by| events.frames(n, by).unwrap().counts().to_vec();
    assert_eq!(counts(4, SplitBy::Number), [1., 1., 1., 1., 1., 1., 2., 2.]);
    // Of 20 microseconds each: 0..20, 20..40, 40..60, and 60 to the end.
    assert_eq!(counts(4, SplitBy::Time), [2., 2., 0., 0., 2., 1., 1., 2.]);
    // Fewer events than frames: all are in the last one.
    assert_eq!(counts(11, SplitBy::Number)[20..], [5., 5.]);
    assert_eq!(counts(11, SplitBy::Number).iter().sum::<f32>(), 10.);
    let frames = events.frames(4, SplitBy::Number).unwrap();
    assert_eq!((frames.mean().dims(), frames.mean().counts()), ([1, 2, 1, 1], &[1.25, 1.25][..]));
    assert!(events.frames(0, SplitBy::Number).is_err() && events.frames(usize::MAX, SplitBy::Time).is_err());
    let none = Events::new(vec![], vec![], vec![], vec![], (1, 1)).unwrap();
    assert!(none.frames(1, SplitBy::Number).unwrap_err().to_string().contains("at least one event"));
    // What NumPy reads: a header to a multiple of 64 bytes, then the numbers.
    let bytes = frames.to_npy();
    assert_eq!((&bytes[..8], bytes.len()), (&b"\x93NUMPY\x01\x00"[..], 128 + 4 * 8));
    assert!(String::from_utf8_lossy(&bytes[10..128]).contains("'shape': (4, 2, 1, 1), }"));
    assert_eq!(bytes[127], b'\n');
}

/// Recordings of two classes: events on the left or on the right.
fn folders(splits: &[(&str, usize)]) -> TempDir {
    let folder = tempdir().unwrap();
    for (split, n) in splits {
        for (class, column) in [("left", 1), ("right", 30)] {
            let place = folder.path().join(split).join(class);
            fs::create_dir_all(&place).unwrap();
            for i in 0..*n {
                let events: Vec<Event> = (0..10).map(|k| (k * 10, column, i as u16, (k % 2) as u8)).collect();
                fs::write(place.join(format!("{i:03}.bin")), bin(&events)).unwrap();
            }
        }
    }
    folder
}

fn dataset(
    folder: &Path,
    split: Split,
    recipe: &EventRecipe,
    options: &ReadOptions,
) -> lmht_datasets::Result<EventDataset> {
    EventDataset::read(&EventSource::open(folder, options)?, split, recipe, None, &|_, _| ())
}

#[test]
fn a_folder_of_recordings_becomes_batches_with_time_first() {
    let folder = folders(&[("Train", 3), ("Test", 1)]);
    assert!(EventSource::open(folder.path(), &ReadOptions::default()).unwrap().notes().is_empty());
    let recipe = EventRecipe::new(2);
    let train = dataset(folder.path(), Split::Train, &recipe, &ReadOptions::default()).unwrap();
    assert_eq!((train.len(), train.n_classes(), train.dims()), (6, 2, vec![2, 2, 34, 34]));
    assert_eq!(train.class_names().unwrap(), ["left", "right"]);
    assert_eq!(train.labels(), [0, 0, 0, 1, 1, 1]);
    assert_eq!(train.recipe().sensor, Some((34, 34)));
    let augment = EventAugment { flip: true, ..EventAugment::published() };
    let train = Arc::new(train.with_augment(augment).unwrap());
    let config = LoaderConfig { drop_last: false, ..LoaderConfig::train(4, 7) };
    let loader = Loader::of(train.clone(), &config, &Device::Cpu).unwrap();
    let batches: Vec<_> = loader.epoch(3).unwrap().map(Result::unwrap).collect();
    assert_eq!(batches[0].images.dims(), [2, 4, 2, 34, 34]);
    assert_eq!(batches[1].images.dims(), [2, 2, 2, 34, 34]);
    let again = loader.epoch_from(3, 1).unwrap().next().unwrap().unwrap();
    let numbers = |batch: &lmht_datasets::Batch| batch.images.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(numbers(&again), numbers(&batches[1]));
    let other = loader.epoch_from(4, 1).unwrap().next().unwrap().unwrap();
    assert_ne!(numbers(&other), numbers(&batches[1]));
    // Evaluation shows the frames as they are: events of the first half of the second recording.
    let test = Arc::new(dataset(folder.path(), Split::Test, &recipe, &ReadOptions::default()).unwrap());
    let loader = Loader::of(test.clone(), &LoaderConfig::eval(2), &Device::Cpu).unwrap();
    let batch = loader.epoch(0).unwrap().next().unwrap().unwrap();
    let frame = batch.images.get(0).unwrap().get(1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(frame, test.frames(1).unwrap()[..2 * 34 * 34]);
    assert_eq!((frame[30], frame[34 * 34 + 30]), (3., 2.));
    // A roll that no sensor has would be no number of pixels.
    let roll = EventAugment { roll: usize::MAX, ..EventAugment::published() };
    let error = train.as_ref().clone().with_augment(roll).unwrap_err().to_string();
    assert!(error.contains("EventAugment::roll"), "{error}");
    // What is of images is refused.
    let crop = LoaderConfig { center_crop: Some((4, 4)), ..LoaderConfig::eval(2) };
    assert!(Loader::of(test.clone(), &crop, &Device::Cpu).unwrap_err().to_string().contains("center_crop"));
    assert!(Preprocessor::of(&loader).unwrap_err().to_string().contains("loader of images"));
    let options = ReadOptions { channels: Some(1), ..ReadOptions::default() };
    assert!(EventSource::open(folder.path(), &options).unwrap_err().to_string().contains("options of images"));

    // The mean is a static image, said by its shape.
    let mean = EventRecipe { input: EventInput::Mean, size: Some((17, 17)), ..EventRecipe::new(2) };
    let mean = dataset(folder.path(), Split::Test, &mean, &ReadOptions::default()).unwrap();
    assert_eq!(mean.dims(), [2, 17, 17]);
    let total: f32 = mean.frames(0).unwrap().iter().sum();
    assert!((total - 10. / 2. / 4.).abs() < 0.2, "{total}");
}

/// That accuracy is not of a test split is said, as for images.
#[test]
fn a_validation_split_is_measured_on_with_a_note() {
    let folder = folders(&[("train", 1), ("val", 1)]);
    let source = EventSource::open(folder.path(), &ReadOptions::default()).unwrap();
    assert_eq!(source.chosen(Split::Test).unwrap(), "validation");
    assert!(source.notes()[0].contains("no test split"), "{:?}", source.notes());
}

/// Nine tenths of every class in the order of the names, and the rest, as the paper's code has it.
#[test]
fn the_published_split_takes_parts_of_each_class() {
    let folder = folders(&[("", 10)]);
    let options = |train: &str, test: &str| ReadOptions {
        train_split: Some(train.into()),
        test_split: Some(test.into()),
        ..ReadOptions::default()
    };
    let recipe = EventRecipe::new(1);
    let parts = options("all[:90%]", "all[90%:]");
    let train = dataset(folder.path(), Split::Train, &recipe, &parts).unwrap();
    let test = dataset(folder.path(), Split::Test, &recipe, &parts).unwrap();
    assert_eq!((train.labels(), test.labels()), (&[[0; 9], [1; 9]].concat()[..], &[0, 1][..]));
    // The last of each: its row is the number of its file.
    assert_eq!(test.frames(0).unwrap()[9 * 34 + 1], 5.);
    let error = dataset(folder.path(), Split::Train, &recipe, &ReadOptions::default()).unwrap_err();
    assert!(matches!(error, Error::SplitNeeded { .. }), "{error}");
    let error = EventSource::open(folder.path(), &options("all[:90%]", "all[80%:]")).unwrap_err();
    assert!(matches!(error, Error::SameImages { .. }), "{error}");
    let error = EventSource::open(tempdir().unwrap().path(), &ReadOptions::default()).unwrap_err();
    assert!(error.to_string().contains("found nothing"), "{error}");
    // A bad file is named; a file with another sensor, too.
    fs::write(folder.path().join("left/004.bin"), [0; 7]).unwrap();
    let error = dataset(folder.path(), Split::Train, &recipe, &parts).unwrap_err().to_string();
    assert!(error.contains("004.bin") && error.contains("7 bytes"), "{error}");
    fs::write(folder.path().join("left/004.bin"), bin(&[(0, 100, 100, 1)])).unwrap();
    let error = dataset(folder.path(), Split::Train, &recipe, &parts).unwrap_err().to_string();
    assert!(error.contains("004.bin") && error.contains("128x128") && error.contains("34x34"), "{error}");
    fs::write(folder.path().join("left/004.bin"), []).unwrap();
    let error = dataset(folder.path(), Split::Train, &recipe, &parts).unwrap_err().to_string();
    assert!(error.contains("004.bin") && error.contains("at least one event"), "{error}");
}

#[test]
fn frames_are_kept_under_the_digest_of_everything_that_made_them() {
    let folder = folders(&[("train", 3), ("test", 1)]);
    let cache = tempdir().unwrap();
    let read = |recipe: &EventRecipe| {
        let source = EventSource::open(folder.path(), &ReadOptions::default()).unwrap();
        EventDataset::read(&source, Split::Train, recipe, Some(&cache.path().join("frames")), &|_, _| ()).unwrap()
    };
    let kept = || -> Vec<_> {
        let mut files: Vec<_> = fs::read_dir(cache.path().join("frames")).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files
    };
    let recipe = EventRecipe::new(2);
    let fresh = read(&recipe);
    let file = kept();
    assert_eq!(file.len(), 1);
    // From the cache: the same, and the recordings are not read (their content is another, their size and time are not).
    let recording = folder.path().join("train/left/000.bin");
    let time = fs::metadata(&recording).unwrap().modified().unwrap();
    let (before, other) = (fs::read(&recording).unwrap(), bin(&[(0, 9, 9, 0); 10]));
    fs::write(&recording, &other).unwrap();
    fs::File::options().append(true).open(&recording).unwrap().set_modified(time).unwrap();
    let again = read(&recipe);
    assert_eq!((fresh.frames(0), fresh.labels()), (again.frames(0), again.labels()));
    // Damage anywhere: made again.
    let whole = fs::read(&file[0]).unwrap();
    let first_label = whole.windows(10).position(|bytes| bytes == b"\"labels\":[").unwrap() + 10;
    for at in [0, 20, first_label, whole.len() - 5, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&file[0], &damaged).unwrap();
        assert_ne!(read(&recipe).frames(0), fresh.frames(0), "byte {at}");
        fs::write(&file[0], &whole[..whole.len() - 4]).unwrap();
        assert_ne!(read(&recipe).frames(0), fresh.frames(0));
    }
    // Another time of a file, another recipe, another number of files: another digest.
    fs::write(&recording, &before).unwrap();
    assert_eq!(read(&recipe).frames(0), fresh.frames(0));
    read(&EventRecipe { by: SplitBy::Time, ..recipe.clone() });
    read(&EventRecipe { size: Some((17, 17)), ..recipe.clone() });
    fs::remove_file(folder.path().join("train/right/002.bin")).unwrap();
    assert_eq!(read(&recipe).len(), 5);
    assert_eq!(kept().len(), 5);
    assert!(
        kept().iter().all(|file| file.extension().is_some_and(|ending| ending == "frames")),
        "a temporary file is left"
    );
}

/// ST-MNIST: a folder for each digit, and a table of the taxels beside them, which is no recording.
#[test]
fn touched_digits_are_a_data_set() {
    let folder = tempdir().unwrap();
    let below = folder.path().join("STMNIST");
    for digit in ["0", "1", "2"] {
        fs::create_dir_all(below.join(digit)).unwrap();
        let file = below.join(digit).join(format!("{digit}_spiketrain.mat"));
        fs::write(file, matlab(&[spiketrain(&EVENTS)], true)).unwrap();
    }
    fs::write(below.join("LUT_ReTac.mat"), matlab(&[matrix("LUT", 6, &[1, 1], 9, &[0; 8])], true)).unwrap();
    let options = ReadOptions { train_split: Some("all".to_owned()), ..ReadOptions::default() };
    let data = dataset(folder.path(), Split::Train, &EventRecipe::new(2), &options).unwrap();
    assert_eq!((data.labels(), data.n_classes(), data.dims()), (&[0, 1, 2][..], 3, vec![2, 2, 10, 10]));
}

/// DVS128 Gesture: lists of files, and what happens when in a table beside each.
#[test]
fn gestures_are_cut_out_at_their_times() {
    let folder = tempdir().unwrap();
    let below = folder.path().join("DvsGesture");
    fs::create_dir(&below).unwrap();
    let events: Vec<Event> = (0..100).map(|i| (i * 10, (i / 50) as u16, 0, 1)).collect();
    fs::write(below.join("user01_led.aedat"), aedat3(&events)).unwrap();
    let table = "class,startTime_usec,endTime_usec\n1,0,100\n2,500,600\n11,600,1000\n";
    fs::write(below.join("user01_led_labels.csv"), table).unwrap();
    fs::write(below.join("trials_to_train.txt"), "user01_led.aedat\n\n").unwrap();
    // A recording to learn from is none to measure on.
    fs::write(below.join("trials_to_test.txt"), "user01_led.aedat\n").unwrap();
    let error = EventSource::open(folder.path(), &ReadOptions::default()).unwrap_err();
    assert!(matches!(error, Error::SameImages { .. }), "{error}");
    fs::remove_file(below.join("trials_to_test.txt")).unwrap();
    let found = recordings(below.join("user01_led.aedat"), &EventOptions::default()).unwrap();
    let told: Vec<_> = found
        .iter()
        .map(|(recording, label)| match recording {
            Recording::Events(events) => (events.len(), events.t()[0], *label),
            Recording::Frames(_) => panic!("frames"),
        })
        .collect();
    assert_eq!(told, [(10, 0, Some(0)), (10, 500, Some(1)), (40, 600, Some(10))]);
    assert_eq!(read(below.join("user01_led.aedat")).unwrap().len(), 100);
    let data = dataset(folder.path(), Split::Train, &EventRecipe::new(2), &ReadOptions::default()).unwrap();
    assert_eq!((data.labels(), data.n_classes(), data.dims()), (&[0, 1, 10][..], 11, vec![2, 2, 128, 128]));
    let first = ReadOptions {
        train_split: Some("train[:50%]".into()),
        test_split: Some("train[50%:]".into()),
        ..ReadOptions::default()
    };
    // One of each class, half of which is none.
    let error = dataset(folder.path(), Split::Train, &EventRecipe::new(2), &first).unwrap_err();
    assert!(matches!(error, Error::Empty { .. }), "{error}");
    fs::write(below.join("user01_led_labels.csv"), format!("{table}0,1,2\n")).unwrap();
    let error = recordings(below.join("user01_led.aedat"), &EventOptions::default()).unwrap_err().to_string();
    assert!(error.contains("user01_led_labels.csv") && error.contains("line 5 is `0,1,2`"), "{error}");
    fs::write(below.join("trials_to_test.txt"), "../secret.aedat\n").unwrap();
    let error = EventSource::open(folder.path(), &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("`../secret.aedat` in trials_to_test.txt"), "{error}");
}

#[test]
fn spoken_digits_and_frames_that_others_have_made_are_data_sets_too() {
    let folder = tempdir().unwrap();
    let shd = |label| hdf5(&[(&[(0.1, 3), (0.2, 699)], label), (&[(1.0, 0)], 0)]);
    fs::write(folder.path().join("shd_train.h5"), shd(4)).unwrap();
    fs::write(folder.path().join("shd_test.h5"), shd(1)).unwrap();
    let data = dataset(folder.path(), Split::Train, &EventRecipe::new(2), &ReadOptions::default()).unwrap();
    assert_eq!((data.labels(), data.n_classes(), data.dims()), (&[4, 0][..], 5, vec![2, 1, 1, 700]));

    let folder = tempdir().unwrap();
    let numbers: Vec<u8> = (0..2 * 2 * 3 * 4).collect();
    for (split, class) in [("train", "0"), ("train", "1"), ("test", "0")] {
        let place = folder.path().join(split).join(class);
        fs::create_dir_all(&place).unwrap();
        let frames = archive(&[("frames.npy", npy("|u1", "(2, 2, 3, 4)", &numbers))], true);
        fs::write(place.join("a.npz"), frames).unwrap();
    }
    let data = dataset(folder.path(), Split::Train, &EventRecipe::new(2), &ReadOptions::default()).unwrap();
    assert_eq!((data.dims(), data.frames(1).unwrap()[47]), (vec![2, 2, 3, 4], 47.));
    let error = dataset(folder.path(), Split::Train, &EventRecipe::new(3), &ReadOptions::default()).unwrap_err();
    assert!(error.to_string().contains("it holds 2 frames, expected 3"), "{error}");
    let error = read(folder.path().join("train/0/a.npz")).unwrap_err().to_string();
    assert!(error.contains("frames in place of events"), "{error}");
}

#[test]
fn the_preprocessing_of_a_network_says_what_it_wants_to_see() {
    let folder = folders(&[("train", 2), ("test", 1)]);
    let recipe = EventRecipe { by: SplitBy::Time, size: Some((16, 16)), ..EventRecipe::new(2) };
    let data = dataset(folder.path(), Split::Test, &recipe, &ReadOptions::default()).unwrap();
    let preprocessor = EventPreprocessor::of(&data);
    let text = preprocessor.to_json();
    let Preprocessing::Events(again) = Preprocessing::parse(&text, "p.json").unwrap() else { panic!("images: {text}") };
    assert_eq!(again, preprocessor);
    assert_eq!((again.channels, again.size, again.recipe.sensor), (2, (16, 16), Some((34, 34))));
    let file = folder.path().join("test/right/000.bin");
    let input = again.open(&file).unwrap().swap_remove(0);
    assert_eq!(input.dims(), [2, 2, 16, 16]);
    assert_eq!(input.flatten_all().unwrap().to_vec1::<f32>().unwrap(), data.frames(1).unwrap());
    // One of images refuses it, and it refuses another sensor.
    let path = folder.path().join("preprocessor_config.json");
    fs::write(&path, &text).unwrap();
    let error = Preprocessor::load(&path).unwrap_err().to_string();
    assert!(error.contains("frames of events"), "{error}");
    fs::write(&file, bin(&[(0, 100, 100, 1)])).unwrap();
    let error = again.open(&file).unwrap_err().to_string();
    assert!(error.contains("outside of the sensor of 34x34"), "{error}");
    let error =
        Preprocessing::parse(&text.replace("\"frames\": 2", "\"frames\": 0"), "p.json").unwrap_err().to_string();
    assert!(error.contains("p.json: lmht.events") && error.contains("found 0"), "{error}");
}

#[test]
fn frames_check_their_shape() {
    assert!(Frames::new(vec![0.; 3], [1, 1, 1, 4]).is_err());
    assert!(Frames::new(vec![], [0, 1, 1, 1]).is_err());
    let frames = Frames::new(vec![0., 7., 14., 21.], [1, 1, 1, 4]).unwrap().resized((1, 2));
    assert_eq!(frames.dims(), [1, 1, 1, 2]);
}
