//! Finds the parquet files of a split in a folder of the Hugging Face layout.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Split;
use crate::error::{Error, Result};

/// The files of `split` in `path`, in the order of their names; `path` itself if it is a file.
pub(crate) fn find(path: &Path, split: Split) -> Result<Vec<PathBuf>> {
    let metadata = fs::metadata(path).map_err(|source| Error::Io {
        path: path.to_path_buf(),
        doing: "find the file or folder of the data set",
        source,
    })?;
    if metadata.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let roots = [path.to_path_buf(), path.join("data")];
    // A test split that was never published falls back to the validation split, as for ImageNet.
    let wanted: &[fn(&str) -> bool] = match split {
        Split::Train => &[|name| is_split(name, "train")],
        Split::Test => {
            &[|name| is_split(name, "test"), |name| ["valid", "validation", "val"].iter().any(|s| is_split(name, s))]
        }
    };
    for matches in wanted {
        for root in &roots {
            let mut files = Vec::new();
            for entry in entries(root)? {
                let name = entry.file_name().unwrap_or_default().to_string_lossy();
                if entry.is_dir() && matches(&name) {
                    files.extend(entries(&entry)?.into_iter().filter(|file| is_parquet(file)));
                } else if is_parquet(&entry) && matches(name.trim_end_matches(".parquet")) {
                    files.push(entry);
                }
            }
            if !files.is_empty() {
                check_shards(root, &files)?;
                return Ok(files);
            }
        }
    }
    let found: Vec<String> = entries(path)?
        .iter()
        .filter(|file| is_parquet(file))
        .filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned()))
        .collect();
    Err(Error::NoFiles {
        folder: path.to_path_buf(),
        split: split.name(),
        tried: match split {
            Split::Train => "`train.parquet` or `train-*.parquet`",
            Split::Test => "`test.parquet`, `test-*.parquet`, or the same with `valid`, `validation` or `val`",
        },
        found: if found.is_empty() { "no parquet file".to_owned() } else { found.join(", ") },
    })
}

/// Whether a file or folder name without its ending is the split's: `train`, `train-00000-of-00002`.
fn is_split(name: &str, split: &str) -> bool {
    name.strip_prefix(split).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "parquet") && path.is_file()
}

/// What a folder holds, sorted by name; nothing if there is no such folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let error = |source| Error::Io { path: folder.to_path_buf(), doing: "list the folder", source };
    let mut paths = fs::read_dir(folder)
        .map_err(error)?
        .map(|entry| Ok(entry.map_err(error)?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// A data set that was downloaded in part would train without a word, so the counts in the names are believed.
fn check_shards(folder: &Path, files: &[PathBuf]) -> Result<()> {
    let shards: BTreeSet<(usize, usize)> = files.iter().filter_map(|file| shard(file)).collect();
    let Some(expected) = shards.iter().map(|&(_, n)| n).max() else { return Ok(()) };
    let numbers: BTreeSet<usize> = shards.iter().map(|&(i, _)| i).collect();
    match (0..expected).find(|i| !numbers.contains(i)) {
        Some(missing) => Err(Error::MissingShard { folder: folder.to_path_buf(), expected, missing }),
        None => Ok(()),
    }
}

/// `(3, 8)` of `train-00003-of-00008.parquet`, also if a hash follows.
fn shard(file: &Path) -> Option<(usize, usize)> {
    let stem = file.file_stem()?.to_str()?;
    let (before, after) = stem.split_once("-of-")?;
    let number = before.rsplit('-').next()?.parse().ok()?;
    let count = after.split('-').next()?.parse().ok()?;
    Some((number, count))
}
