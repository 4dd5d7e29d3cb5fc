//! Data sets by their names on the Hugging Face Hub: which files of a repository a data set is, before any of them is here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lmht_hub::{Hub, Observer, Repo};

use crate::ReadOptions;
use crate::card::Card;
use crate::configuration::by_card;
use crate::error::{Error, Result};
use crate::formats::{ends_in, is_image};
use crate::split::is_usual;

const CARD: &str = "README.md";

/// Brings a data set into the cache, each file verified, and gives its folder and how it is read there with
/// [`Source::open`](crate::Source::open).
///
/// Of a repository with several configurations only the one that `options` name, or the default one, is fetched: the files of
/// `configs` in its card; else its tables in the top folder, in `data/` and in folders of splits; else those of the only
/// folder one down (`plain_text/train-00000-of-00001.parquet`). Where there are no parquet files, CSV and images.
///
/// # Errors
/// [`Error::Hub`]; [`Error::ConfigurationNeeded`] if it is not clear which is meant, [`Error::Card`] and [`Error::NoData`]:
/// all of them before anything long is fetched.
pub fn fetch(hub: &Hub, repo: &Repo, options: &ReadOptions, observer: Observer<'_>) -> Result<(PathBuf, ReadOptions)> {
    let wrong = |source| Error::Hub { given: repo.to_string(), source };
    let listing = hub.listing(repo).map_err(wrong)?;
    let mut card = Card::default();
    if listing.file(CARD).is_some() {
        card = Card::read(&hub.fetch(&listing, &[CARD], observer).map_err(wrong)?)?;
    }
    let is_shown = |path: &&str| path.split('/').all(|part| !part.starts_with('.') && part != "__MACOSX");
    let paths: Vec<&str> = listing.files.iter().map(|file| file.path.as_str()).filter(is_shown).collect();
    let given = PathBuf::from(repo.name());
    let mut options = options.clone();
    let matching = |patterns: &[String]| card.listed(&paths, patterns);
    let chosen: Vec<PathBuf> = match by_card(&given, &card, &options, &matching)? {
        Some((_, splits, name)) => {
            options.configuration = Some(name);
            splits.into_values().flatten().collect()
        }
        None => by_place(&given, &paths, &mut options)?,
    };
    let chosen: BTreeSet<&str> = chosen.iter().filter_map(|path| path.to_str()).collect();
    let chosen: Vec<&str> = chosen.into_iter().collect();
    Ok((hub.fetch(&listing, &chosen, observer).map_err(wrong)?, options))
}

/// The files that a data set without `configs` consists of; the options say afterwards in which folder they are.
fn by_place(given: &Path, paths: &[&str], options: &mut ReadOptions) -> Result<Vec<PathBuf>> {
    let is_table = |path: &&&str| path.to_ascii_lowercase().ends_with(".parquet");
    let tables: Vec<&str> = paths.iter().filter(is_table).copied().collect();
    if tables.is_empty() {
        let is_data = |path: &&&str| ends_in(Path::new(path), "csv") || is_image(Path::new(path));
        let files: Vec<PathBuf> = paths.iter().filter(is_data).map(PathBuf::from).collect();
        if files.is_empty() {
            let found = if paths.is_empty() { "nothing".to_owned() } else { paths[..paths.len().min(10)].join(", ") };
            return Err(Error::NoData { path: given.to_path_buf(), found });
        }
        return Ok(files);
    }
    // By the folder one down, or none.
    let mut places: BTreeMap<Option<&str>, Vec<&str>> = BTreeMap::new();
    for path in tables {
        let (first, below) = path.split_once('/').map_or((None, path), |(first, below)| (Some(first), below));
        let is_split =
            |below: &str| below.split_once('/').is_none_or(|(folder, name)| is_usual(folder) && !name.contains('/'));
        let place = first.filter(|name| *name != "data" && !is_usual(name));
        if is_split(below) {
            places.entry(place).or_default().push(path);
        }
    }
    let found: Vec<String> = places.keys().flatten().map(|name| (*name).to_owned()).collect();
    let wanted = options.configuration.clone();
    let place = match &wanted {
        Some(name) => Some(Some(name.as_str())),
        None if places.contains_key(&None) => Some(None),
        None => places.keys().next().copied().filter(|_| places.len() == 1),
    };
    let chosen = place.and_then(|place| Some((place, places.get(&place)?)));
    let Some((place, files)) = chosen else {
        return Err(Error::ConfigurationNeeded { path: given.to_path_buf(), wanted, found });
    };
    options.configuration = place.map(str::to_owned);
    Ok(files.iter().map(PathBuf::from).collect())
}
