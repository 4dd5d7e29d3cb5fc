//! What a file gives, and how it is to be read.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::names::Layout;

/// What a checkpoint was written by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `torch.save` of PyTorch 1.6 or newer: a zip archive with a pickle.
    Pytorch,
    /// `torch.save` before 1.6, or with `_use_new_zipfile_serialization=False`.
    Legacy,
    /// Safetensors, in one file or in shards.
    Safetensors,
}

/// Named tensors from a file, not yet fitted to a network.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The file; opens the messages of errors.
    pub origin: String,
    /// What wrote it.
    pub format: Format,
    /// The tensors by name, on the CPU, of float32, float64, float16 or bfloat16 as in the file.
    pub tensors: BTreeMap<String, Tensor>,
    /// What was passed over or changed on the way, one sentence each.
    pub notes: Vec<String>,
}

/// How a file is to be read for a network.
///
/// ```
/// use lmht_convert::checkpoint::ImportOptions;
///
/// // The moving average of a file that has both, under the names of somebody else, for another number of classes.
/// let options = ImportOptions {
///     key: Some("ema".into()),
///     renames: [("features.{n}".to_string(), "layers.{n}".to_string())].into(),
///     new_head: Some(42),
///     ..ImportOptions::default()
/// };
/// assert!(options.drop.is_empty());
/// ```
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The dictionary that holds the network, by the keys that lead there with dots between, or what its names begin with.
    /// Absent: the one with the most names of the network.
    pub key: Option<String>,
    /// What names become; as [`Checkpoint::renamed`], before anything else.
    pub renames: BTreeMap<String, String>,
    /// Names, or beginnings of names up to a dot, that are left out; placeholders as in [`ImportOptions::renames`].
    pub drop: Vec<String>,
    /// Whose names the file has.
    pub layout: Layout,
    /// Start the layers anew whose size depends on the number of classes, drawn from this seed: for a fine-tuning.
    pub new_head: Option<u64>,
}
