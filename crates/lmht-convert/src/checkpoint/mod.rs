//! Checkpoints in and out: what PyTorch saved becomes a model, and a model becomes what PyTorch loads.
//!
//! [`read`] takes a PyTorch file (`.pth`, `.pt`) or a safetensors file, told apart by their content, and gives the named
//! tensors; [`Checkpoint::into_model`] fits them to a configuration, after [`Checkpoint::renamed`] if the file has other names
//! than the network. [`to_published`] and [`write_published`] go the other
//! way, under the names of the published networks, so that `load_state_dict(strict=True)` takes the result.
//!
//! Files come from anywhere, so they are read as if somebody had made them to do harm. Nothing in them is executed; they
//! take no more memory than a small multiple of their size; whatever is wrong is an error that names the file.
//!
//! ```
//! use candle_core::{DType, Device};
//! use lmht_convert::{Model, checkpoint};
//! use lmht_nn::{ModelConfig, Network, ParamStore};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
//! let params = ParamStore::new(42);
//! Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("published.safetensors");
//! checkpoint::write_published(&path, &Model::of(&config, &params))?;
//!
//! let model = checkpoint::read(&path)?.into_model(&config)?;
//! let (_network, copies) = model.build(DType::F32, &Device::Cpu)?;
//! assert_eq!(copies.to_safetensors()?, params.to_safetensors()?);
//! # Ok(()) }
//! ```

mod legacy;
mod names;
mod outline;
mod pickle;
mod published;
mod shards;
mod torch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lmht_nn::{Backbone, ModelConfig, Network, ParamStore, Tgim};

use crate::{Error, Model, Result};
pub use names::Layout;
use names::{Expected, Renames, bare, is_counter, listed};
use outline::{Dictionary, OBJECT, Outline, Storages, View, Wanted};
use pickle::{Pickle, shortened};
pub use published::{to_published, write_published};

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

/// Reads a PyTorch or safetensors file, whatever network is in it.
///
/// Of a larger checkpoint the dictionary with the most tensors is read. The prefixes `module.` (`DataParallel`) and
/// `_orig_mod.` (`torch.compile`) are taken off where every name has them; the counters `num_batches_tracked` are dropped.
/// [`Checkpoint::notes`] tells what was done. A folder stands for the one checkpoint in it, and an index
/// (`model.safetensors.index.json`) for its shards. [`read_for`] knows the network and finds its names.
///
/// # Errors
/// [`Error::File`] with the path and what is wrong: not a checkpoint, damaged, no tensors or several networks in it.
pub fn read(path: impl AsRef<Path>) -> Result<Checkpoint> {
    read_with(path.as_ref(), &Unfitted)
}

/// As [`read`], for the bytes of a file; `origin` stands for its name.
///
/// # Errors
/// As [`read`].
///
/// ```
/// use lmht_convert::checkpoint;
///
/// let error = checkpoint::parse("resnet.pth", b"<!DOCTYPE html><html>").unwrap_err();
/// assert!(error.to_string().starts_with("resnet.pth: it is a web page"));
/// ```
pub fn parse(origin: &str, bytes: &[u8]) -> Result<Checkpoint> {
    parse_with(origin, bytes, &Unfitted)
}

/// Reads what a file holds of the network that `config` describes, for [`Checkpoint::into_model`].
///
/// The network is the dictionary with the most names of it, wherever in the file. What `DataParallel`, `torch.compile`,
/// Lightning, averaging and sharding put into names is taken out, wherever it stands. What is not a tensor of the network is
/// left alone and listed in [`Checkpoint::notes`]. But a tensor that belongs to a layer of another depth, such as
/// `layer1.5.conv1.0.weight` for a shorter network, stays, so that [`Checkpoint::into_model`] refuses it.
///
/// # Errors
/// As [`read`], and [`Error::File`] if no dictionary or several have the most names, two names become one, a rename or `drop`
/// fits no name, the layout is not that of the network, or the number of classes differs without
/// [`ImportOptions::new_head`].
///
/// ```
/// use candle_core::{DType, Device};
/// use lmht_convert::checkpoint::{self, ImportOptions};
/// use lmht_nn::{ModelConfig, Network, ParamStore};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = ModelConfig { width: 4, ..ModelConfig::resnet18(10) };
/// let params = ParamStore::new(42);
/// Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("wrapped.safetensors");
/// let wrapped = params.all().into_iter().map(|(name, var)| (format!("model.module.{name}"), var.as_tensor().clone()));
/// safetensors::serialize_to_file(wrapped, None, &path)?;
///
/// // To be fine-tuned on three classes.
/// let config = ModelConfig { n_classes: 3, ..config };
/// let options = ImportOptions { new_head: Some(1), ..ImportOptions::default() };
/// let model = checkpoint::read_for(&path, &config, &options)?.into_model(&config)?;
/// assert_eq!(model.tensors["fc.0.weight"].dims(), [3, 32]);
/// # Ok(()) }
/// ```
pub fn read_for(path: impl AsRef<Path>, config: &ModelConfig, options: &ImportOptions) -> Result<Checkpoint> {
    read_with(path.as_ref(), &Fitted::new(config, options)?)
}

/// As [`read_for`], for the bytes of a file; `origin` stands for its name.
///
/// # Errors
/// As [`read_for`].
pub fn parse_for(origin: &str, bytes: &[u8], config: &ModelConfig, options: &ImportOptions) -> Result<Checkpoint> {
    parse_with(origin, bytes, &Fitted::new(config, options)?)
}

/// Which of a file's tensors are wanted.
trait Choice {
    fn choose<'a>(&self, outline: &Outline<'a>) -> std::result::Result<Chosen<'a>, String>;

    /// What is to be done to the tensors that were read.
    fn finish(&self, _checkpoint: &mut Checkpoint) -> Result<()> {
        Ok(())
    }
}

struct Chosen<'a> {
    tensors: Vec<Wanted<'a>>,
    notes: Vec<String>,
}

fn read_with(path: &Path, choice: &dyn Choice) -> Result<Checkpoint> {
    let refuse = |path: &Path, what: String| Error::File { path: path.into(), what };
    let metadata = path.metadata().map_err(|error| refuse(path, error.to_string()))?;
    let in_folder;
    let path = if metadata.is_dir() {
        in_folder = shards::in_folder(path)?;
        in_folder.as_path()
    } else {
        path
    };
    let origin = path.display().to_string();
    if origin.ends_with(".index.json") {
        let shards = shards::read(path)?;
        let files = shards.iter().map(|shard| shards::open(shard)).collect::<std::result::Result<Vec<_>, _>>();
        let files = files.map_err(|what| refuse(path, what))?;
        let (outline, mut storages) = shards::outline(&files);
        let length = shards.iter().map(Vec::len).sum();
        return load(&origin, Format::Safetensors, &outline, &mut storages, length, choice);
    }
    if !path.is_file() {
        return Err(refuse(path, "expected a file: .pth, .pt, .ckpt or .safetensors".into()));
    }
    let bytes = std::fs::read(path).map_err(|error| refuse(path, error.to_string()))?;
    parse_with(&origin, &bytes, choice)
}

fn parse_with(origin: &str, bytes: &[u8], choice: &dyn Choice) -> Result<Checkpoint> {
    let refuse = |what: String| Error::File { path: PathBuf::from(origin), what };
    let format = Format::of(bytes).map_err(refuse)?;
    let length = bytes.len();
    match format {
        Format::Pytorch => {
            let mut archive = torch::Archive::open(bytes).map_err(refuse)?;
            let bytes = archive.pickle().map_err(refuse)?;
            let pickle = Pickle::parse(&bytes).map_err(refuse)?;
            if pickle.length < bytes.len() {
                return Err(refuse("its pickle has something left over at its end".into()));
            }
            let outline = Outline::of(&pickle).map_err(refuse)?;
            load(origin, format, &outline, &mut archive, length, choice)
        }
        Format::Legacy => {
            let (outline, mut storages) = legacy::read(bytes).map_err(refuse)?;
            load(origin, format, &outline, &mut storages, length, choice)
        }
        Format::Safetensors => {
            let files = [shards::open(bytes).map_err(refuse)?];
            let (outline, mut storages) = shards::outline(&files);
            load(origin, format, &outline, &mut storages, length, choice)
        }
    }
}

fn load<'a>(
    origin: &str,
    format: Format,
    outline: &Outline<'a>,
    storages: &mut dyn Storages<'a>,
    length: usize,
    choice: &dyn Choice,
) -> Result<Checkpoint> {
    let refuse = |what: String| Error::File { path: PathBuf::from(origin), what };
    let Chosen { tensors, notes } = choice.choose(outline).map_err(refuse)?;
    let tensors = outline::load(tensors, storages, length).map_err(refuse)?;
    let mut checkpoint = Checkpoint { origin: origin.into(), format, tensors, notes };
    choice.finish(&mut checkpoint)?;
    Ok(checkpoint)
}

/// Whether a description is that of a tensor of real numbers, or none that makes sense.
fn is_real(view: &std::result::Result<View<'_>, String>) -> bool {
    !matches!(view, Ok(View { dtype: Err(_), .. }))
}

/// What a file has beside the tensors that are read, for a note. `left` are names in the dictionary that is read.
fn beside(outline: &Outline<'_>, chosen: &Dictionary<'_>, left: &[String]) -> Option<String> {
    // Names that end alike are one item, as are the many values of an optimizer.
    const APART: usize = 4;
    let mut labels: BTreeMap<&str, (usize, usize, &str)> = BTreeMap::new();
    for (label, (n, what)) in &outline.beside {
        labels.insert(label, (0, *n, what));
    }
    for dictionary in outline.dictionaries.iter().filter(|dictionary| !std::ptr::eq(*dictionary, chosen)) {
        labels.entry(&dictionary.label).or_default().0 += dictionary.tensors.len();
    }
    let mut endings: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in left {
        endings.entry(name.rsplit('.').next().unwrap_or_default()).or_default().push(name);
    }
    let mut items = Vec::new();
    for (ending, names) in endings {
        if names.len() > APART {
            items.push(format!("{} and the like ({} tensors *.{ending})", shortened(names[0]), names.len()));
        } else {
            items.extend(names.into_iter().map(shortened));
        }
    }
    let mut groups: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (label, counts) in labels {
        groups.entry(label.split('.').next().unwrap_or_default()).or_default().push((label, counts));
    }
    for (key, members) in groups {
        if members.len() <= APART {
            items.extend(members.into_iter().map(|(label, counts)| item(label, counts)));
            continue;
        }
        let object = members.iter().find(|(_, (_, _, what))| what.starts_with(OBJECT));
        let (n, m) = members.iter().fold((0, 0), |(n, m), (_, counts)| (n + counts.0, m + counts.1));
        let among = object.map_or(String::new(), |(_, (_, _, what))| format!(", among them {what}"));
        items.push(format!("{}{among}", item(&format!("{key}…"), (n, m, ""))));
    }
    // What could have been executed comes first.
    items.sort_by_key(|item| !item.contains(OBJECT));
    (!items.is_empty()).then(|| format!("passed over: {}", listed(&items)))
}

/// What lies under `label`: so many tensors and values, the one value in words.
fn item(label: &str, (n_tensors, n_values, what): (usize, usize, &str)) -> String {
    let label = if label.is_empty() { "the top" } else { label };
    match (n_tensors, n_values) {
        (0, 1) => format!("{label} ({what})"),
        (0, n) => format!("{label} ({n} values)"),
        (n, 0) => format!("{label} ({n} tensors)"),
        (n, m) => format!("{label} ({n} tensors, {m} values)"),
    }
}

/// No dictionary of tensors: what the file is instead.
fn nothing(outline: &Outline<'_>) -> String {
    let beside: Vec<_> = outline.beside.iter().map(|(label, (_, what))| format!("{label} ({what})")).collect();
    let has = if beside.is_empty() { outline.root.clone() } else { listed(&beside) };
    format!("it holds no dictionary of tensors, only: {has}; nothing was executed; {}", pickle::SAVE_AGAIN)
}

/// A dictionary's place in words.
fn place(dictionary: &Dictionary<'_>) -> String {
    if dictionary.path.is_empty() { "the top".into() } else { format!("{:?}", dictionary.path) }
}

/// Reading without a network: the dictionary with the most tensors.
struct Unfitted;

impl Choice for Unfitted {
    fn choose<'a>(&self, outline: &Outline<'a>) -> std::result::Result<Chosen<'a>, String> {
        let size = |dictionary: &Dictionary<'_>| {
            dictionary.tensors.iter().filter(|(name, view)| is_real(view) && !is_counter(name)).count()
        };
        let most = outline.dictionaries.iter().map(size).max().unwrap_or(0);
        let largest: Vec<_> = outline.dictionaries.iter().filter(|dictionary| size(dictionary) == most).collect();
        let chosen = match largest.as_slice() {
            _ if most == 0 => return Err(nothing(outline)),
            [chosen] => *chosen,
            several => {
                let places: Vec<_> = several.iter().map(|one| format!("{} ({most} tensors)", place(one))).collect();
                return Err(format!(
                    "it holds several networks: {}; save one of them: torch.save(checkpoint[{:?}], path), or read it for a \
                     configuration and name the one that is meant (`--key`, `ImportOptions::key`)",
                    listed(&places),
                    several[0].path
                ));
            }
        };
        let mut notes = Vec::new();
        if !chosen.path.is_empty() {
            notes.push(format!("read the network under {:?}", chosen.path));
        }
        let (mut tensors, mut left, mut n_counters) = (Vec::new(), Vec::new(), 0);
        for (name, view) in &chosen.tensors {
            match view {
                _ if is_counter(name) => n_counters += 1,
                Ok(View { dtype: Err(other), .. }) => left.push(format!("{name} (of type {other})")),
                Ok(view) => tensors.push((name.to_string(), name.to_string(), view.clone())),
                Err(what) => return Err(format!("{}: {what}", shortened(name))),
            }
        }
        notes.extend(beside(outline, chosen, &left));
        if n_counters > 0 {
            notes.push(format!("dropped {n_counters} counters num_batches_tracked, which change nothing"));
        }
        // No more often than anybody wraps: each time costs the length of all names.
        for _ in 0..8 {
            let mut prefixes = ["module.", "_orig_mod."].into_iter();
            let Some(prefix) = prefixes.find(|prefix| tensors.iter().all(|(name, _, _)| name.starts_with(prefix)))
            else {
                break;
            };
            for (name, _, _) in &mut tensors {
                name.replace_range(..prefix.len(), "");
            }
            notes.push(format!("took the prefix {prefix:?} off every name"));
        }
        Ok(Chosen { tensors, notes })
    }
}

/// Reading for a network.
struct Fitted<'o> {
    config: &'o ModelConfig,
    options: &'o ImportOptions,
    expected: Expected,
    /// The tensors whose size depends on the number of classes.
    head: Vec<String>,
    /// The tensors of the network with their shapes.
    shapes: BTreeMap<String, Vec<usize>>,
}

/// The tensors of a network: names and shapes.
fn shapes(config: &ModelConfig) -> Result<BTreeMap<String, Vec<usize>>> {
    let params = ParamStore::blank();
    Network::new(config, params.builder(DType::F32, &Device::Cpu))?;
    Ok(params.all().into_iter().map(|(name, var)| (name, var.dims().to_vec())).collect())
}

impl<'o> Fitted<'o> {
    fn new(config: &'o ModelConfig, options: &'o ImportOptions) -> Result<Self> {
        config.check()?;
        let shapes_here = shapes(config)?;
        let larger = shapes(&ModelConfig { n_classes: config.n_classes + 1, ..config.clone() })?;
        let is_vgg = options.layout == Layout::Torchvision
            && !matches!(config.backbone, Backbone::Resnet18 | Backbone::Resnet34);
        let is_head =
            |name: &&String| larger.get(*name) != shapes_here.get(*name) || is_vgg && name.starts_with("classifier.");
        let head = shapes_here.keys().filter(is_head).cloned().collect();
        let expected = Expected::new(shapes_here.keys().cloned());
        Ok(Self { config, options, expected, head, shapes: shapes_here })
    }
}

/// A dictionary with the names that it would have.
struct Candidate<'p, 'a> {
    dictionary: &'p Dictionary<'a>,
    /// Index into the dictionary's tensors, new name, whether the network has it.
    names: Vec<(usize, String, bool)>,
    /// What was dropped, or lies outside the key.
    left: Vec<String>,
    n_matched: usize,
}

impl Fitted<'_> {
    fn candidate<'p, 'a>(
        &self,
        dictionary: &'p Dictionary<'a>,
        renames: &mut Renames<'_>,
        dropped: &mut [bool],
    ) -> std::result::Result<Candidate<'p, 'a>, String> {
        let names = &dictionary.tensors;
        let inside = match &self.options.key {
            Some(key) if *key != dictionary.path => Some(key.as_str()),
            _ => None,
        };
        let has = |wanted: &str| names.iter().any(|(name, _)| bare(name) == wanted);
        let layout = self.options.layout.map(self.config, self.options.new_head.is_some(), &has)?;
        let mut layout = Renames::new(&layout)?;
        let mut candidate = Candidate { dictionary, names: Vec::new(), left: Vec::new(), n_matched: 0 };
        let mut matched = BTreeSet::new();
        for (index, (name, _)) in names.iter().enumerate() {
            let within = match inside {
                Some(key) => names::replaced(key, "", name).filter(|rest| !rest.is_empty()),
                None => Some(name.to_string()),
            };
            let is_dropped = self.options.drop.iter().zip(dropped.iter_mut()).any(|(pattern, used)| {
                let fits =
                    [name.to_string(), bare(name)].iter().any(|name| names::replaced(pattern, "", name).is_some());
                *used |= fits;
                fits
            });
            let Some(name) = within.filter(|_| !is_dropped) else {
                candidate.left.push(name.to_string());
                continue;
            };
            let name = renames.apply(&name).or_else(|| renames.apply(&bare(&name))).unwrap_or(name);
            let name = layout.apply(&bare(&name)).unwrap_or(name);
            match self.expected.find(&name) {
                Some(own) => {
                    matched.insert(own);
                    candidate.names.push((index, own.to_string(), true));
                }
                None => candidate.names.push((index, bare(&name), false)),
            }
        }
        candidate.n_matched = matched.len();
        Ok(candidate)
    }

    /// The candidate with the most names of the network.
    fn best<'p, 'a>(&self, candidates: Vec<Candidate<'p, 'a>>) -> std::result::Result<Candidate<'p, 'a>, String> {
        let most = candidates.iter().map(|candidate| candidate.n_matched).max().unwrap_or(0);
        let n_best = candidates.iter().filter(|candidate| candidate.n_matched == most).count();
        if n_best == 1 && (most > 0 || candidates.len() == 1) {
            // `max_by_key` cannot fail: there is one.
            let best = candidates.into_iter().max_by_key(|candidate| candidate.n_matched);
            return best.ok_or_else(String::new);
        }
        let mut by_matches: Vec<_> = candidates.iter().collect();
        by_matches
            .sort_by_key(|candidate| std::cmp::Reverse((candidate.n_matched, candidate.dictionary.tensors.len())));
        let list: Vec<_> = by_matches
            .iter()
            .map(|one| format!("{} ({} of {})", place(one.dictionary), one.n_matched, one.dictionary.tensors.len()))
            .collect();
        let n = self.expected.len();
        Err(if most == 0 {
            format!(
                "none of its dictionaries has a name of the {n} tensors of this network: {}; say what its names become \
                 (`--rename`, `ImportOptions::renames`)",
                listed(&list)
            )
        } else {
            format!(
                "several of its dictionaries have {most} names of the {n} tensors of this network: {}; name the one that is \
                 meant (`--key`, `ImportOptions::key`)",
                listed(&list)
            )
        })
    }
}

impl Choice for Fitted<'_> {
    fn choose<'a>(&self, outline: &Outline<'a>) -> std::result::Result<Chosen<'a>, String> {
        let options = self.options;
        if outline.dictionaries.is_empty() {
            return Err(nothing(outline));
        }
        let mut renames = Renames::new(&options.renames)?;
        let mut dropped = vec![false; options.drop.len()];
        let mut candidates = Vec::new();
        let is_path = |key: &String| outline.dictionaries.iter().any(|dictionary| dictionary.path == *key);
        for dictionary in &outline.dictionaries {
            // Where the key leads to a dictionary, no other counts.
            if options.key.as_ref().is_some_and(|key| is_path(key) && *key != dictionary.path) {
                continue;
            }
            let candidate = self.candidate(dictionary, &mut renames, &mut dropped)?;
            if !candidate.names.is_empty() {
                candidates.push(candidate);
            }
        }
        if let (true, Some(key)) = (candidates.is_empty(), &options.key) {
            let places: Vec<_> = outline.dictionaries.iter().map(place).collect();
            return Err(format!(
                "no dictionary is at {key:?} and no name begins so; dictionaries with tensors are: {}",
                listed(&places)
            ));
        }
        let unused = renames.unused().or_else(|| {
            options.drop.iter().zip(&dropped).find(|(_, used)| !**used).map(|(pattern, _)| pattern.as_str())
        });
        if let Some(pattern) = unused {
            return Err(no_such_name(pattern, candidates.iter().flat_map(|one| &one.names).map(|(_, name, _)| name)));
        }
        let best = self.best(candidates)?;

        let mut notes = Vec::new();
        if !best.dictionary.path.is_empty() {
            notes.push(format!("read the network under {:?}", best.dictionary.path));
        }
        let mut left = best.left.clone();
        let (mut n_counters, mut n_changed) = (0, 0);
        let mut tensors: Vec<Wanted<'_>> = Vec::new();
        let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
        for (index, new, is_matched) in &best.names {
            let (name, view) = &best.dictionary.tensors[*index];
            if !is_matched && is_counter(name) {
                n_counters += 1;
                continue;
            }
            let is_wanted = *is_matched || is_real(view) && self.expected.is_of_another(new);
            if !is_wanted {
                let kind = match view {
                    Ok(View { dtype: Err(other), .. }) => format!(" (of type {})", shortened(other)),
                    _ => String::new(),
                };
                left.push(format!("{}{kind}", shortened(name)));
                continue;
            }
            if let Some(other) = taken.insert(new, name) {
                return Err(format!(
                    "{} and {} would both be {}; leave one out (`--drop`, `ImportOptions::drop`) or name the part that is meant \
                     (`--key`, `ImportOptions::key`)",
                    shortened(other),
                    shortened(name),
                    shortened(new)
                ));
            }
            n_changed += usize::from(new.as_str() != name.as_ref());
            let view = view.clone().map_err(|what| format!("{}: {what}", shortened(name)))?;
            tensors.push((new.clone(), name.to_string(), view));
        }
        if n_changed > 0 {
            let (new, old, _) = tensors.iter().find(|(new, name, _)| new != name).ok_or_else(String::new)?;
            let (old, new) = (shortened(old), shortened(new));
            notes.push(format!("{n_changed} of {} names changed, such as {old} to {new}", tensors.len()));
        }
        notes.extend(beside(outline, best.dictionary, &left));
        if n_counters > 0 {
            notes.push(format!("dropped {n_counters} counters num_batches_tracked, which change nothing"));
        }
        self.check_head(&mut tensors, &mut notes)?;
        let names: Vec<&str> = best.dictionary.tensors.iter().map(|(name, _)| name.as_ref()).collect();
        if options.layout == Layout::Published
            && names::looks_like_torchvision(&names)
            && best.n_matched < self.expected.len()
        {
            return Err(format!(
                "{} of the {} tensors of this network are there, and the names are torchvision's; say so (`--layout torchvision`, \
                 `ImportOptions::layout`)",
                best.n_matched,
                self.expected.len()
            ));
        }
        Ok(Chosen { tensors, notes })
    }

    /// Draws the head, where that was asked for.
    fn finish(&self, checkpoint: &mut Checkpoint) -> Result<()> {
        let Some(seed) = self.options.new_head else { return Ok(()) };
        let params = ParamStore::new(seed);
        Network::new(self.config, params.builder(DType::F32, &Device::Cpu))?;
        for (name, var) in params.all().into_iter().filter(|(name, _)| self.head.contains(name)) {
            checkpoint.tensors.insert(name, var.as_tensor().clone());
        }
        Ok(())
    }
}

impl Fitted<'_> {
    /// Takes the head out of what is read if it is to be drawn, and else refuses one of another number of classes.
    fn check_head(&self, tensors: &mut Vec<Wanted<'_>>, notes: &mut Vec<String>) -> std::result::Result<(), String> {
        let is_head = |name: &String| self.head.contains(name);
        if let Some(seed) = self.options.new_head {
            tensors.retain(|(name, _, _)| !is_head(name));
            notes.push(format!("{} start anew, drawn from seed {seed}: train before use", listed(&self.head)));
            if self.options.layout == Layout::Torchvision && is_head(&"classifier.1.weight".to_string()) {
                notes.push(format!("{}: the convolutions are a start for a fine-tuning, no more", names::VGG_DIFFERS));
            }
            return Ok(());
        }
        let differs = |(name, _, view): &&Wanted<'_>| self.shapes.get(name) != Some(&view.shape);
        let mut differing = tensors.iter().filter(differs).peekable();
        let Some((name, _, view)) = differing.peek().copied() else { return Ok(()) };
        let n_file = view.shape.first().copied().unwrap_or(0);
        // Where more differs than the head, the list of all differences says it better.
        if !differing.all(|(name, _, _)| is_head(name)) || n_file == self.config.n_classes {
            return Ok(());
        }
        Err(format!(
            "{name} has shape {:?}, expected {:?}: a network for {n_file} classes, where the configuration has {}; set n_classes \
             to {n_file}, or start a fine-tuning with a new head (`--new-head`, `ImportOptions::new_head`)",
            view.shape, self.shapes[name], self.config.n_classes
        ))
    }
}

/// A pattern that fits no name.
fn no_such_name<'n>(pattern: &str, names: impl Iterator<Item = &'n String>) -> String {
    let names: Vec<_> = names.collect();
    format!(
        "no tensor is called {pattern:?} or begins so, up to a dot; the names are now: {}",
        shortened(&listed(&names))
    )
}

impl Format {
    /// What wrote these bytes, or what they are instead and what to do about it.
    fn of(bytes: &[u8]) -> std::result::Result<Self, String> {
        use pickle::SAVE_AGAIN;
        let starts = |magic: &[u8]| bytes.starts_with(magic);
        let text = bytes.trim_ascii_start();
        if bytes.is_empty() {
            return Err("it is empty; fetch the file again".into());
        }
        // Safetensors begin with the length of their header, any number, so they are told by what follows: the upper half
        // of that number, 0, and the JSON object.
        if bytes.get(4..9) == Some(b"\0\0\0\0{") {
            return Ok(Self::Safetensors);
        }
        if starts(b"PK\x03\x04") || starts(b"PK\x05\x06") {
            return Ok(Self::Pytorch);
        }
        if starts(b"version https://git-lfs.github.com/spec/") {
            return Err("it is a Git-LFS pointer, not the file itself; run: git lfs pull".into());
        }
        if starts(legacy::MAGIC) {
            return Ok(Self::Legacy);
        }
        if bytes.get(257..262) == Some(b"ustar") {
            return Err(format!("it is a tar archive; unpack it, or if PyTorch wrote it, {SAVE_AGAIN}"));
        }
        if starts(b"\x93NUMPY") {
            return Err("it is a NumPy array (.npy), which has no names; write the arrays with \
                        safetensors.numpy.save_file"
                .into());
        }
        if starts(b"\x89HDF\r\n\x1a\n") {
            return Err("it is an HDF5 file; write its arrays with safetensors.numpy.save_file".into());
        }
        if starts(b"\x1f\x8b") {
            return Err("it is compressed; run gunzip on it first".into());
        }
        if text.first() == Some(&b'<') {
            return Err("it is a web page; fetch the file itself, from a link to the raw file".into());
        }
        // A header that claims more than 4 GB: the reader's message says so.
        if bytes.get(8) == Some(&b'{') {
            return Ok(Self::Safetensors);
        }
        if starts(b"\x80") {
            return Err(format!("it is a bare pickle, which may run any program; {SAVE_AGAIN}"));
        }
        Err(format!("it is neither a PyTorch nor a safetensors file; if PyTorch can read it, {SAVE_AGAIN}"))
    }
}

impl Checkpoint {
    /// The same tensors under other names: for a file of a network that somebody else defined, into a network of one's own.
    ///
    /// A key of `map` is a name in the file, or the beginning of names up to a dot; the value takes its place. A placeholder such
    /// as `{n}` stands for a part of a name between dots, or within one: `stage{s}.{b}` becomes `layer{s}.{b}.conv`. The longest
    /// key counts, and an empty value takes a beginning away. What no key fits keeps its name. Tensors that the network has no use
    /// for are to be taken out of [`Checkpoint::tensors`] before.
    ///
    /// # Errors
    /// [`Error::File`] if a key fits no name, a value has a placeholder that its key has not, or two tensors would have one
    /// name.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    ///
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_nn::VarBuilder;
    /// use lmht_convert::checkpoint;
    /// use lmht_nn::layers::{Linear, Neuron, Site};
    /// use lmht_nn::{Architecture, Body, InputShape, ModelConfig, NeuronConfig, Pass, Signal};
    ///
    /// #[derive(Debug)]
    /// struct Perceptron;
    ///
    /// #[derive(Debug)]
    /// struct Layers(Linear, Neuron, Linear);
    ///
    /// impl Architecture for Perceptron {
    ///     fn name(&self) -> &str {
    ///         "perceptron"
    ///     }
    ///     fn input(&self) -> InputShape {
    ///         InputShape::Features
    ///     }
    ///     fn build(&self, config: &ModelConfig, vb: &VarBuilder<'_>) -> lmht_nn::Result<Box<dyn Body>> {
    ///         Ok(Box::new(Layers(
    ///             Linear::new(config.in_channels, 4, vb.pp("fc1"))?,
    ///             config.neuron_layer(Site::Features, vb.pp("act1"))?,
    ///             config.readout_layer(4, vb.pp("fc2"))?,
    ///         )))
    ///     }
    /// }
    ///
    /// impl Body for Layers {
    ///     fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> lmht_nn::Result<Signal> {
    ///         let Layers(fc1, act1, fc2) = self;
    ///         fc2.forward(&act1.forward(&fc1.forward(xs, pass)?, pass)?, pass)
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // What torch.nn.Sequential(Linear(2, 4), ReLU(), Linear(4, 3)) inside a module `net` saves.
    /// let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
    /// let file = [
    ///     ("net.0.weight", zeros(&[4, 2])?),
    ///     ("net.0.bias", zeros(&[4])?),
    ///     ("net.2.weight", zeros(&[3, 4])?),
    ///     ("net.2.bias", zeros(&[3])?),
    /// ];
    /// let bytes = safetensors::serialize(file, None)?;
    ///
    /// let map = [("net.0", "fc1"), ("net.2", "fc2")].map(|(theirs, ours)| (theirs.to_string(), ours.to_string()));
    /// let ann = ModelConfig { in_channels: 2, timesteps: 1, neuron: NeuronConfig::relu(), ..ModelConfig::own(Perceptron, 3) };
    /// let model = checkpoint::parse("net.safetensors", &bytes)?.renamed(&BTreeMap::from(map))?.into_model(&ann)?;
    /// assert_eq!(model.tensors["fc2.weight"].dims(), [3, 4]);
    /// # Ok(()) }
    /// ```
    pub fn renamed(self, map: &BTreeMap<String, String>) -> Result<Self> {
        let refuse = |what: String| Error::File { path: PathBuf::from(&self.origin), what };
        let mut renames = Renames::new(map).map_err(refuse)?;
        let mut n_renamed = 0;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in self.tensors {
            let new = renames.apply(&name);
            n_renamed += usize::from(new.is_some());
            let new = new.unwrap_or_else(|| name.clone());
            if tensors.insert(new.clone(), tensor).is_some() {
                return Err(refuse(format!(
                    "two tensors would be called {}, one of them {} in the file; give them different names, or take one out",
                    shortened(&new),
                    shortened(&name)
                )));
            }
        }
        if let Some(pattern) = renames.unused() {
            return Err(refuse(no_such_name(pattern, tensors.keys())));
        }
        let mut notes = self.notes;
        notes.push(format!("renamed {n_renamed} of {} tensors", tensors.len()));
        Ok(Self { tensors, notes, ..self })
    }

    /// Fits the tensors to the network that `config` describes.
    ///
    /// Names and shapes must be those of the published network, apart from what it keeps without using it: the second
    /// T-GIM of every neuron and the first neuron of an MS-ResNet are left out. The model has float64 tensors if the file
    /// has any, else float32; float16 and bfloat16 widen without loss. The entries that a causal T-GIM holds at 0 are set
    /// to the logit 0, at which ours rest.
    ///
    /// # Errors
    /// [`Error::Network`] if the configuration is not valid, or with [`Mismatch`](lmht_nn::Error::Mismatch) inside for every
    /// tensor that is missing, superfluous or of another shape, and the nearest name beside it; [`Error::NonFinite`] if a tensor has a value that is
    /// not finite; [`Error::File`] if a threshold, a QCFS scale or a variance is out of its range.
    pub fn into_model(self, config: &ModelConfig) -> Result<Model> {
        config.check()?;
        let is_double = self.tensors.values().any(|tensor| tensor.dtype() == DType::F64);
        let dtype = if is_double { DType::F64 } else { DType::F32 };
        let params = ParamStore::blank();
        Network::new(config, params.builder(dtype, &Device::Cpu))?;
        params.load(&self.origin, &self.tensors.into_iter().collect())?;
        for (name, var) in params.all() {
            check_values(&self.origin, &name, var.as_tensor())?;
        }
        let mut model = Model::of(config, &params);
        if config.neuron.traits().tgim == Tgim::Causal {
            published::set_future(&mut model, 0.)?;
        }
        Ok(model)
    }
}

/// Refuses values that no network has: `origin` and `name` say where.
fn check_values(origin: &str, name: &str, tensor: &Tensor) -> Result<()> {
    let values = tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        let n = values.iter().filter(|value| !value.is_finite()).count();
        return Err(Error::NonFinite(format!(
            "{origin}: {name} has {n} of {} values that are not finite, the first, {}, at index {at} (flattened); take an \
             earlier checkpoint",
            values.len(),
            values[at]
        )));
    }
    let (expected, fits): (&str, fn(f64) -> bool) = match name.rsplit('.').next() {
        Some("v_threshold" | "thresh") => ("above 0", |value| value > 0.),
        Some("running_var") => ("at least 0", |value| value >= 0.),
        _ => return Ok(()),
    };
    match values.iter().find(|value| !fits(**value)) {
        None => Ok(()),
        Some(value) => {
            let what =
                format!("{name} is {value}, expected {expected}; is it the checkpoint of another kind of network?");
            Err(Error::File { path: origin.into(), what })
        }
    }
}
