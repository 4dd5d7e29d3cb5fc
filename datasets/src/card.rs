//! The data card, `README.md`: which files make up which split, and the names of the classes, in the YAML before its text.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use saphyr_parser::{Event, Parser};

use crate::error::{Error, Result};
use crate::formats::entries;
use crate::split::canonical;

/// Bytes of a card that are read.
const MAX_BYTES: u64 = 1 << 22;
/// Lists in lists, and files and folders, that are looked at.
const MAX_DEPTH: usize = 32;
const MAX_FILES: usize = 1 << 20;

/// What a card says; the default says nothing.
#[derive(Default)]
pub(crate) struct Card {
    path: PathBuf,
    yaml: Option<Yaml>,
}

/// A configuration of a card.
pub(crate) struct Configuration {
    pub(crate) name: String,
    pub(crate) is_default: bool,
    /// Splits in order, each with its patterns.
    pub(crate) data_files: Vec<(String, Vec<String>)>,
}

/// YAML as far as cards need it: every scalar is text.
enum Yaml {
    Text(String),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

impl Yaml {
    fn get(&self, key: &str) -> Option<&Yaml> {
        match self {
            Self::Map(pairs) => pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The items of a list, or the one thing itself.
    fn items(&self) -> &[Yaml] {
        match self {
            Self::List(items) => items,
            other => std::slice::from_ref(other),
        }
    }

    /// The texts of a list of texts, or the one text itself.
    fn texts(&self) -> Option<Vec<String>> {
        self.items().iter().map(|item| item.text().map(str::to_owned)).collect()
    }
}

impl Card {
    /// The card of a folder, if it has one with YAML in it.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("README.md");
        if !path.is_file() {
            return Ok(Self::default());
        }
        let io = |source| Error::Io { path: path.clone(), doing: "read the data card", source };
        let mut bytes = Vec::new();
        File::open(&path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes)).map_err(io)?;
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.trim_start_matches('\u{feff}').lines();
        if lines.next().map(str::trim_end) != Some("---") {
            return Ok(Self::default());
        }
        let front: Vec<&str> = lines.take_while(|line| line.trim_end() != "---").collect();
        let yaml = parse(&front.join("\n")).map_err(|reason| Error::Card { path: path.clone(), reason })?;
        Ok(Self { path, yaml })
    }

    /// The configurations that name files.
    pub(crate) fn configurations(&self) -> Result<Vec<Configuration>> {
        let Some(configs) = self.yaml.as_ref().and_then(|yaml| yaml.get("configs")) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for config in configs.items() {
            let name = config.get("config_name").and_then(Yaml::text).unwrap_or("default").to_owned();
            let is_default = name == "default" || config.get("default").and_then(Yaml::text) == Some("true");
            let Some(files) = config.get("data_files") else { continue };
            let wrong = || self.error(format!("data_files of `{name}` is no path, list of paths, or list of splits"));
            let data_files = match files {
                Yaml::Map(splits) => splits
                    .iter()
                    .map(|(split, paths)| Ok((split.clone(), paths.texts().ok_or_else(wrong)?)))
                    .collect::<Result<_>>()?,
                files => match files.texts() {
                    Some(paths) => vec![("train".to_owned(), paths)],
                    None => files
                        .items()
                        .iter()
                        .map(|item| {
                            let split = item.get("split").and_then(Yaml::text).ok_or_else(wrong)?;
                            Ok((split.to_owned(), item.get("path").and_then(Yaml::texts).ok_or_else(wrong)?))
                        })
                        .collect::<Result<_>>()?,
                },
            };
            found.push(Configuration { name, is_default, data_files });
        }
        Ok(found)
    }

    /// The names of the classes of a label column: `dataset_info`, the configuration's own if there are several.
    pub(crate) fn class_names(&self, column: &str, configuration: Option<&str>) -> Option<Vec<String>> {
        let infos = self.yaml.as_ref()?.get("dataset_info")?.items();
        let named = |info: &&Yaml| info.get("config_name").and_then(Yaml::text) == configuration;
        let info = infos.iter().find(named).or_else(|| infos.first().filter(|_| infos.len() == 1))?;
        let feature =
            info.get("features")?.items().iter().find(|f| f.get("name").and_then(Yaml::text) == Some(column))?;
        match feature.get("dtype")?.get("class_label")?.get("names")? {
            // Keys are the labels, as text.
            Yaml::Map(pairs) => {
                let mut names: Vec<(usize, String)> = pairs
                    .iter()
                    .map(|(label, name)| Some((label.parse().ok()?, name.text()?.to_owned())))
                    .collect::<Option<_>>()?;
                names.sort();
                let in_order = names.iter().enumerate().all(|(i, (label, _))| i == *label);
                in_order.then(|| names.into_iter().map(|(_, name)| name).collect())
            }
            names => names.texts(),
        }
    }

    /// The files of `folder` that match the patterns, sorted; each once.
    pub(crate) fn files(&self, folder: &Path, patterns: &[String]) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for pattern in patterns {
            walk(folder, &self.parts(pattern)?, 0, &mut found)?;
        }
        if found.len() > MAX_FILES {
            return Err(self.error(format!("more than {MAX_FILES} files match")));
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// The paths of a list that match the patterns, in the order of the list; each once.
    #[cfg(feature = "hub")]
    pub(crate) fn listed(&self, paths: &[&str], patterns: &[String]) -> Result<Vec<PathBuf>> {
        let patterns = patterns.iter().map(|pattern| self.parts(pattern)).collect::<Result<Vec<_>>>()?;
        let is_star = |part: &&str| *part == "**";
        let fits = |pattern: &&str, name: &&str| matches(pattern, name);
        let is_wanted = |path: &&&str| {
            let names: Vec<&str> = path.split('/').collect();
            patterns.iter().any(|pattern| glob(pattern, &names, is_star, fits))
        };
        Ok(paths.iter().filter(is_wanted).map(PathBuf::from).collect())
    }

    /// The parts of a pattern.
    fn parts<'a>(&self, pattern: &'a str) -> Result<Vec<&'a str>> {
        let parts: Vec<&str> = pattern.trim_start_matches("./").split('/').collect();
        let odd = |c: char| "[]{}\\:".contains(c);
        if pattern.contains(odd) || parts.iter().any(|part| part.is_empty() || *part == "..") {
            return Err(self.error(format!("`{pattern}` is no path in it; of wildcards there are `*`, `?` and `**`")));
        }
        Ok(parts)
    }

    pub(crate) fn error(&self, reason: String) -> Error {
        Error::Card { path: self.path.clone(), reason }
    }
}

/// Adds the files below `folder` whose path matches `parts`.
fn walk(folder: &Path, parts: &[&str], depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    let Some((first, rest)) = parts.split_first() else { return Ok(()) };
    if depth > MAX_DEPTH || found.len() > MAX_FILES {
        return Ok(());
    }
    if *first == "**" && !rest.is_empty() {
        walk(folder, rest, depth, found)?;
    }
    for entry in entries(folder)? {
        if *first == "**" && fs::symlink_metadata(&entry).is_ok_and(|found| found.is_dir()) {
            walk(&entry, parts, depth + 1, found)?;
        } else if matches(first, &crate::formats::name(&entry)) {
            match rest.is_empty() {
                true if entry.is_file() => found.push(entry),
                false if entry.is_dir() => walk(&entry, rest, depth + 1, found)?,
                _ => (),
            }
        }
    }
    Ok(())
}

/// Whether a name matches a pattern of `*` (any characters) and `?` (one).
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    glob(&pattern, &name, |c| *c == '*', |pattern, c| *pattern == '?' || pattern == c)
}

/// Whether all of `name` fits a pattern in which a star stands for any number of anything.
fn glob<T>(pattern: &[T], name: &[T], is_star: impl Fn(&T) -> bool, fits: impl Fn(&T, &T) -> bool) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        if p < pattern.len() && is_star(&pattern[p]) {
            star = Some((p, n));
            p += 1;
        } else if p < pattern.len() && fits(&pattern[p], &name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((at, from)) = star {
            // The star takes one more.
            star = Some((at, from + 1));
            (p, n) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(is_star)
}

/// The first document of a text; an alias is refused, as a few lines of them can stand for any amount of memory.
fn parse(text: &str) -> std::result::Result<Option<Yaml>, String> {
    // What is open: a list, or a map with the key that waits for its value.
    let mut open: Vec<(Yaml, Option<String>)> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| format!("its YAML is damaged ({e})"))?;
        let done = match event {
            Event::Alias(_) => {
                return Err(format!("line {} has a YAML alias, which is not read", span.start.line() + 1));
            }
            Event::Scalar(text, ..) => match open.last_mut() {
                Some((Yaml::Map(_), key @ None)) => {
                    *key = Some(text.into_owned());
                    continue;
                }
                _ => Yaml::Text(text.into_owned()),
            },
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                let is_list = matches!(event, Event::SequenceStart(..));
                if open.len() >= MAX_DEPTH || matches!(open.last(), Some((Yaml::Map(_), None))) {
                    return Err(format!("line {} is nested too deeply, or a key is no text", span.start.line() + 1));
                }
                open.push((if is_list { Yaml::List(Vec::new()) } else { Yaml::Map(Vec::new()) }, None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some((yaml, _)) => yaml,
                None => continue,
            },
            _ => continue,
        };
        match open.last_mut() {
            None => return Ok(Some(done)),
            Some((Yaml::List(items), _)) => items.push(done),
            Some((Yaml::Map(pairs), key)) => pairs.push((key.take().unwrap_or_default(), done)),
            Some((Yaml::Text(_), _)) => (),
        }
    }
    Ok(None)
}

/// The splits of a configuration by the names that are used here.
impl Configuration {
    pub(crate) fn splits(&self) -> impl Iterator<Item = (String, &[String])> {
        self.data_files.iter().map(|(split, patterns)| (canonical(split).to_owned(), &patterns[..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("train-*", "train-00000-of-00001.parquet", true),
            ("train-*", "test-00000-of-00001.parquet", false),
            ("*", "", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b", "xaxxbxb", true),
            ("*a*b", "xaxxbxbx", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern}, {name}");
        }
    }

    #[test]
    fn yaml_that_could_grow_is_refused() {
        assert!(parse("a: &x [1, 2]\nb: *x").is_err());
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse("? {a: b}\n: c").is_err());
        assert!(parse("").unwrap().is_none());
        let yaml = parse("license: mit\na:\n- b: [1, '2']\n  c: |\n    text\n").unwrap().unwrap();
        assert_eq!(yaml.get("a").unwrap().items()[0].get("b").unwrap().texts().unwrap(), ["1", "2"]);
    }
}
