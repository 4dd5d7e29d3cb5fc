//! Safetensors files, alone or as the shards of one network.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use candle_core::DType;
use safetensors::{Dtype, SafeTensors};

use super::outline::{Dictionary, Outline, View};
use super::pickle::shortened;
use crate::{Error, Result};

/// The largest index: a name and a file for each tensor.
const MAX_INDEX: u64 = 16 << 20;

/// Opens a safetensors file.
///
/// # Errors
/// What is wrong with it, to follow the file's name.
pub(super) fn open(bytes: &[u8]) -> std::result::Result<SafeTensors<'_>, String> {
    let header = bytes.first_chunk().map_or(u64::MAX, |length| u64::from_le_bytes(*length));
    if header > (bytes.len() as u64).saturating_sub(8) {
        return Err(format!(
            "as safetensors its header would have {header} bytes, but the file has {}; is it cut off? fetch it again",
            bytes.len()
        ));
    }
    SafeTensors::deserialize(bytes).map_err(|error| {
        format!("expected a safetensors file: {}; fetch it again or save it again", shortened(&error.to_string()))
    })
}

/// The outline and the storages of files that have no tensor in common.
pub(super) fn outline<'a>(files: &'a [SafeTensors<'a>]) -> (Outline<'a>, BTreeMap<&'a str, &'a [u8]>) {
    let mut tensors = Vec::new();
    let mut storages = BTreeMap::new();
    for (name, view) in files.iter().flat_map(SafeTensors::iter) {
        let dtype = match view.dtype() {
            Dtype::F32 => Ok(DType::F32),
            Dtype::F64 => Ok(DType::F64),
            Dtype::F16 => Ok(DType::F16),
            Dtype::BF16 => Ok(DType::BF16),
            Dtype::BOOL => Err("BOOL"),
            Dtype::I64 => Err("I64"),
            Dtype::I32 => Err("I32"),
            Dtype::U8 => Err("U8"),
            _ => Err("another than those of 16 to 64 bits"),
        };
        tensors.push((Cow::Borrowed(name), Ok(View::whole(name, dtype, view.shape()))));
        storages.insert(name, view.data());
    }
    // The order of a file's header is that of a hash.
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    let dictionaries = vec![Dictionary { path: String::new(), label: String::new(), tensors }];
    (Outline { dictionaries, root: "no tensors".into(), ..Outline::default() }, storages)
}

/// The file of a folder that holds the network.
///
/// # Errors
/// If there is none, or no saying which.
pub(super) fn in_folder(folder: &Path) -> Result<PathBuf> {
    let refuse = |what: String| Error::File { path: folder.into(), what };
    for name in ["model.safetensors.index.json", "model.safetensors", "pytorch_model.bin"] {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    if folder.join("pytorch_model.bin.index.json").is_file() {
        return Err(refuse(
            "its shards are PyTorch files (pytorch_model.bin.index.json); write them as safetensors: \
             model.save_pretrained(folder, safe_serialization=True)"
                .into(),
        ));
    }
    let mut found = Vec::new();
    for entry in folder.read_dir().map_err(|error| refuse(error.to_string()))? {
        let path = entry.map_err(|error| refuse(error.to_string()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".safetensors.index.json")
            || matches!(path.extension().and_then(|end| end.to_str()), Some("safetensors" | "pth" | "pt" | "ckpt"))
        {
            found.push(path);
        }
    }
    found.sort();
    // An index stands for its shards.
    let indices: Vec<_> = found.iter().filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    match (indices.as_slice(), found.as_slice()) {
        ([index], _) => Ok(index.to_path_buf()),
        ([], [file]) => Ok(file.clone()),
        (_, []) => Err(refuse(
            "expected a file (.pth, .pt, .ckpt or .safetensors) or a folder with one; the folder has none".into(),
        )),
        (_, several) => {
            let names: Vec<_> =
                several.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy()).collect();
            Err(refuse(format!(
                "the folder has several checkpoints; name one of them: {}",
                super::names::listed(&names)
            )))
        }
    }
}

/// Reads the shards that an index names, with their paths.
///
/// # Errors
/// [`Error::File`] if the index is damaged or leads out of its folder, a shard is missing, or a tensor is not where the index
/// says, or at two places.
pub(super) fn read(index: &Path) -> Result<Vec<Vec<u8>>> {
    let refuse = |what: String| Error::File { path: index.into(), what };
    let length = index.metadata().map_err(|error| refuse(error.to_string()))?.len();
    if length > MAX_INDEX {
        return Err(refuse(format!("an index of {length} bytes, expected at most {MAX_INDEX}")));
    }
    let json = std::fs::read(index).map_err(|error| refuse(error.to_string()))?;
    let json: serde_json::Value = serde_json::from_slice(&json)
        .map_err(|error| refuse(format!("no index of shards: {error}; fetch it again")))?;
    let map = json.get("weight_map").and_then(|map| map.as_object());
    let map =
        map.ok_or_else(|| refuse("expected \"weight_map\" with a file for each tensor; fetch it again".into()))?;
    let mut by_file: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, file) in map {
        let file = file.as_str().ok_or_else(|| refuse(format!("{}: expected a file's name", shortened(tensor))))?;
        let mut parts = Path::new(file).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) || file.contains('\\') {
            return Err(refuse(format!(
                "the shard {:?} is not in the folder of the index; expected a file's name alone",
                shortened(file)
            )));
        }
        by_file.entry(file).or_default().push(tensor);
    }
    let mut shards = Vec::new();
    let mut places: BTreeMap<String, &str> = BTreeMap::new();
    for (file, tensors) in by_file {
        let path = index.with_file_name(file);
        let missing = |error: std::io::Error| {
            refuse(format!("the shard {:?} cannot be read: {error}; fetch all shards of the index", shortened(file)))
        };
        let bytes = std::fs::read(&path).map_err(missing)?;
        let shard = open(&bytes).map_err(|what| Error::File { path: path.clone(), what })?;
        for name in shard.names() {
            if let Some(first) = places.insert(name.into(), file) {
                let name = shortened(name);
                return Err(refuse(format!(
                    "{name} is in two shards, {first:?} and {file:?}; fetch all of one version"
                )));
            }
            if map.get(name).and_then(|place| place.as_str()) != Some(file) {
                let name = shortened(name);
                return Err(refuse(format!(
                    "{name} is in {file:?}, which the index does not say; fetch all of one version"
                )));
            }
        }
        if let Some(absent) = tensors.iter().find(|name| !places.contains_key(**name)) {
            let name = shortened(absent);
            return Err(refuse(format!("{name} is not in {file:?}, where the index says; fetch all of one version")));
        }
        shards.push(bytes);
    }
    Ok(shards)
}
