//! The data set in memory: construction, subsets, statistics.

use lmht_datasets::{Error, ImageDataset, Normalize};

/// `n` images of one pixel whose value is their number, labels from `label`.
fn numbered(n: usize, n_classes: usize, label: impl Fn(usize) -> u32) -> ImageDataset {
    ImageDataset::new((0..n).map(|i| i as u8).collect(), (0..n).map(label).collect(), (1, 1, 1), n_classes).unwrap()
}

#[test]
fn sizes_and_labels_are_checked() {
    let bad = [
        ImageDataset::new(vec![0; 5], vec![0], (1, 2, 3), 1),
        ImageDataset::new(vec![], vec![], (1, 2, 3), 1),
        ImageDataset::new(vec![], vec![0], (1, 0, 3), 1),
        ImageDataset::new(vec![0; 6], vec![0], (usize::MAX, 2, 3), 1),
        ImageDataset::new(vec![0; 6], vec![1], (1, 2, 3), 1),
    ];
    for result in bad {
        let error = result.unwrap_err();
        assert!(matches!(&error, Error::Config(message) if message.contains("expected")), "{error}");
    }
}

#[test]
fn subsets_are_balanced_ordered_nested_and_seeded() {
    // Sorted by class, as the shards of Tiny-ImageNet are: 40 of each of 5.
    let data = numbered(200, 5, |i| i as u32 / 40);
    let subset = data.subset(52, 3).unwrap();
    let count = |data: &ImageDataset, class| data.labels().iter().filter(|label| **label == class).count();
    assert_eq!([0, 1, 2, 3, 4].map(|class| count(&subset, class)), [11, 11, 10, 10, 10]);
    assert!(subset.pixels().windows(2).all(|pair| pair[0] < pair[1]), "the order of the files is kept");
    assert_eq!(subset, data.subset(52, 3).unwrap());
    assert_ne!(subset, data.subset(52, 4).unwrap());
    let larger = data.subset(90, 3).unwrap();
    assert!(subset.pixels().iter().all(|pixel| larger.pixels().contains(pixel)));
    assert_eq!(data.subset(200, 3).unwrap(), data);
    assert_eq!(subset.n_classes(), 5);
    for n in [0, 201] {
        assert!(matches!(data.subset(n, 0), Err(Error::Config(_))), "{n}");
    }
}

#[test]
fn a_small_class_leaves_its_share_to_the_others() {
    let data = numbered(20, 2, |i| u32::from(i >= 18));
    assert_eq!(data.subset(10, 0).unwrap().labels(), [0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
}

#[test]
fn select_takes_in_the_given_order() {
    let data = numbered(5, 5, |i| i as u32);
    assert_eq!(data.select(&[4, 0, 4]).unwrap().labels(), [4, 0, 4]);
    assert!(matches!(data.select(&[5]), Err(Error::Config(_))));
    assert!(matches!(data.select(&[]), Err(Error::Config(_))));
}

#[test]
fn statistics_by_hand() {
    // Channel 0: 0, 51, 102, 51 -> mean 51, variance (51² + 0 + 51² + 0) / 4; channel 1 constant.
    let data = ImageDataset::new(vec![0, 51, 7, 7, 102, 51, 7, 7], vec![0, 0], (2, 1, 2), 1).unwrap();
    let Normalize { mean, std } = data.channel_stats();
    assert_eq!(mean, [0.2, (7.0f64 / 255.0) as f32]);
    assert_eq!(std, [(0.2 / 2f64.sqrt()) as f32, 0.0]);
}
