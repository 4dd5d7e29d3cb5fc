//! How a data set is read from parquet.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::transform::MAX_SIDE;

/// How to read a data set from parquet; the default fits most data sets on the Hugging Face Hub.
///
/// ```
/// # use lmht_datasets::ParquetOptions;
/// // CIFAR-100 by its 20 coarse classes, at half its size:
/// let options = ParquetOptions {
///     label_column: Some("coarse_label".to_owned()),
///     resize: Some((16, 16)),
///     ..ParquetOptions::default()
/// };
/// assert_eq!(options.image_column, None); // `image`, `img`, or the only binary column
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParquetOptions {
    /// The column of encoded images, a struct `{bytes, path}` or plain bytes. Otherwise `image`, `img`, or the only
    /// binary column.
    pub image_column: Option<String>,
    /// The integer column of labels. Otherwise `label`, `fine_label` or `labels`.
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
    /// The number of classes; labels are in `0..n_classes`. Otherwise as many as the file's metadata names, else one
    /// more than the largest label of the training split.
    pub n_classes: Option<usize>,
    /// Keeps the first so many images of each class, in the order of the files, and decodes no others.
    pub max_per_class: Option<usize>,
}

impl ParquetOptions {
    pub(crate) fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Config(message));
        if let Some(channels) = self.channels.filter(|c| ![1, 3].contains(c)) {
            return fail(format!("ParquetOptions::channels: expected 1 (gray) or 3 (RGB), found {channels}"));
        }
        for (name, size) in [("size", self.size), ("resize", self.resize), ("cover", self.cover)] {
            if let Some((h, w)) = size.filter(|(h, w)| ![h, w].iter().all(|side| (1..=MAX_SIDE).contains(side))) {
                return fail(format!(
                    "ParquetOptions::{name}: expected (height, width) of 1 to {MAX_SIDE} pixels, found ({h}, {w})"
                ));
            }
        }
        if [self.size, self.resize, self.cover].iter().flatten().count() > 1 {
            return fail(
                "ParquetOptions: `size` demands a size, `resize` and `cover` make one; expected at most one of them"
                    .to_owned(),
            );
        }
        for (name, value) in [("n_classes", self.n_classes), ("max_per_class", self.max_per_class)] {
            if value == Some(0) {
                return fail(format!("ParquetOptions::{name}: expected at least 1, found 0"));
            }
        }
        Ok(())
    }
}
