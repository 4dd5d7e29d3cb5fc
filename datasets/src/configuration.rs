//! Which configuration of a data set its card means, and the files of it.

use std::path::{Path, PathBuf};

use crate::ReadOptions;
use crate::card::Card;
use crate::error::{Error, Result};
use crate::formats::{FORMATS, Format, Splits, name};

/// The splits that the card's `configs` name, as far as `matching` finds their files; nothing if none is there.
pub(crate) fn by_card(
    folder: &Path,
    card: &Card,
    options: &ReadOptions,
    matching: &dyn Fn(&[String]) -> Result<Vec<PathBuf>>,
) -> Result<Option<(&'static dyn Format, Splits, String)>> {
    let mut present = Vec::new();
    for configuration in card.configurations()? {
        let mut splits = Splits::new();
        for (split, patterns) in configuration.splits() {
            let files = matching(patterns)?;
            if !files.is_empty() {
                splits.entry(split).or_default().extend(files);
            }
        }
        if !splits.is_empty() {
            present.push((configuration, splits));
        }
    }
    if present.is_empty() {
        return Ok(None);
    }
    let found: Vec<String> = present.iter().map(|(configuration, _)| configuration.name.clone()).collect();
    let wanted = options.configuration.clone();
    let only = present.len() == 1;
    let chosen = present.into_iter().find(|(configuration, _)| match &wanted {
        Some(name) => configuration.name == *name,
        None => only || configuration.is_default,
    });
    let (configuration, splits) =
        chosen.ok_or_else(|| Error::ConfigurationNeeded { path: folder.to_path_buf(), wanted, found })?;
    let mut files = splits.values().flatten();
    let takes = |format: &&dyn Format| files.clone().all(|file| format.takes(file));
    let format = FORMATS.into_iter().find(takes).ok_or_else(|| {
        let first = files.next().map_or(String::new(), |file| name(file));
        card.error(format!(
            "`{}` names files that are not all parquet or all CSV, such as `{first}`",
            configuration.name
        ))
    })?;
    Ok(Some((format, splits, configuration.name)))
}
