//! How a data set is read.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::transform::MAX_SIDE;
use crate::{Fit, Split};

/// How to read a data set; the default fits most data sets on the Hugging Face Hub, and folders of images that have a
/// folder for each split.
///
/// ```
/// # use lmht_datasets::ReadOptions;
/// // CIFAR-100 by its 20 coarse classes, at half its size:
/// let options = ReadOptions {
///     label_column: Some("coarse_label".to_owned()),
///     resize: Some((16, 16)),
///     ..ReadOptions::default()
/// };
/// assert_eq!(options.image_column, None); // `image`, `img`, or the only binary column
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadOptions {
    /// The split to learn from, by its name in the data set. Otherwise `train`. A part of a split is `NAME[:80%]` or
    /// `NAME[80%:]`: the first or last so many of the images of each class, in the order of the files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_split: Option<String>,
    /// The split to measure on, likewise. Otherwise `test`; and where there is none, or its labels are all -1,
    /// `validation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_split: Option<String>,
    /// Which configuration of the data set, by its name in the card or by its folder's. Otherwise the only one, or that
    /// which the card calls its default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// The column of encoded images, a struct `{bytes, path}` or plain bytes, or of file names in a CSV. Otherwise
    /// `image`, `img`, or the only binary column; in a CSV `file_name`, `filename` or `image`.
    pub image_column: Option<String>,
    /// The column of labels, whole numbers or text. Otherwise `label`, `fine_label` or `labels`; in a CSV also `class`.
    pub label_column: Option<String>,
    /// 1 (gray) or 3 (RGB). Otherwise 1 if every image is gray, else 3.
    pub channels: Option<usize>,
    /// (height, width) in pixels that every image must have. Otherwise that of the first image.
    pub size: Option<(usize, usize)>,
    /// (height, width) in pixels that every image is brought to, by antialiased bilinear interpolation. Otherwise an
    /// image of another size is an error.
    pub resize: Option<(usize, usize)>,
    /// (height, width) that every image is brought to with its proportions kept: resized until it covers them, the middle
    /// cut out. For a square that is torchvision's `Resize(side)` and `CenterCrop(side)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cover: Option<(usize, usize)>,
    /// The number of classes; labels are in `0..n_classes`. Otherwise as many as the files or the card name, else one
    /// more than the largest label of the training split.
    pub n_classes: Option<usize>,
    /// The names of the classes, in the order of their labels: where labels are text, these are what they may be.
    /// Otherwise those of the files' metadata, else of the card, else, for text, those of the training split, sorted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_names: Option<Vec<String>>,
    /// Keeps the first so many images of each class, in the order of the files, and decodes no others.
    pub max_per_class: Option<usize>,
    /// Bytes of pixels that one image may decode to, of one of 8 bits a channel height · width · channels. Otherwise
    /// 2^28, which is 89 million pixels in colour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_image_bytes: Option<u64>,
    /// Bytes of pixels that the images of a split may decode to in all, before they are resized, if they are held in memory.
    /// Otherwise 2^30, or, if
    /// that is more, 1024 times the bytes of the files: images are not compressed better than that, except to do harm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_decoded_bytes: Option<u64>,
}

impl ReadOptions {
    /// The field that chooses `split`.
    pub(crate) fn split(&self, split: Split) -> Option<&str> {
        match split {
            Split::Train => self.train_split.as_deref(),
            Split::Test => self.test_split.as_deref(),
        }
    }

    /// (height, width) that every image comes to, unless it is that of the first one, and how.
    pub(crate) fn target(&self) -> (Option<(usize, usize)>, Fit) {
        let fit = match (self.resize, self.cover) {
            (Some(_), _) => Fit::Stretch,
            (_, Some(_)) => Fit::Cover,
            (None, None) => Fit::Exact,
        };
        (self.resize.or(self.cover).or(self.size), fit)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Config(message));
        if let Some(channels) = self.channels.filter(|c| ![1, 3].contains(c)) {
            return fail(format!("ReadOptions::channels: expected 1 (gray) or 3 (RGB), found {channels}"));
        }
        for (name, size) in [("size", self.size), ("resize", self.resize), ("cover", self.cover)] {
            if let Some((h, w)) = size.filter(|(h, w)| ![h, w].iter().all(|side| (1..=MAX_SIDE).contains(side))) {
                return fail(format!(
                    "ReadOptions::{name}: expected (height, width) of 1 to {MAX_SIDE} pixels, found ({h}, {w})"
                ));
            }
        }
        if [self.size, self.resize, self.cover].iter().flatten().count() > 1 {
            return fail(
                "ReadOptions: `size` demands a size, `resize` and `cover` make one; expected at most one of them"
                    .to_owned(),
            );
        }
        for (name, value) in [("n_classes", self.n_classes), ("max_per_class", self.max_per_class)] {
            if value == Some(0) {
                return fail(format!("ReadOptions::{name}: expected at least 1, found 0"));
            }
        }
        if let Some(names) = &self.class_names {
            let mut sorted: Vec<_> = names.iter().collect();
            sorted.sort();
            if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
                return fail(format!("ReadOptions::class_names: expected every name once, found `{}` twice", pair[0]));
            }
            if let Some(n) = self.n_classes.filter(|n| *n != names.len()) {
                return fail(format!(
                    "ReadOptions: expected as many class_names as n_classes, found {} and {n}",
                    names.len()
                ));
            }
        }
        Ok(())
    }
}
