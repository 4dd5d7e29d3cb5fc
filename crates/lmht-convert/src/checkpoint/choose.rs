//! Which tensors of a file are the network: without one, and for one.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device};
use lmht_nn::{Backbone, ModelConfig, Network, ParamStore, Stem};

use super::contents::{Checkpoint, ImportOptions};
use super::names::{self, Expected, Layout, Renames, bare, is_counter, listed, no_such_name};
use super::outline::{Dictionary, OBJECT, Outline, View, Wanted};
use super::pickle::{SAVE_AGAIN, shortened};
use crate::Result;

/// Which of a file's tensors are wanted.
pub(super) trait Choice {
    fn choose<'a>(&self, outline: &Outline<'a>) -> std::result::Result<Chosen<'a>, String>;

    /// What is to be done to the tensors that were read.
    fn finish(&self, _checkpoint: &mut Checkpoint) -> Result<()> {
        Ok(())
    }
}

pub(super) struct Chosen<'a> {
    pub(super) tensors: Vec<Wanted<'a>>,
    pub(super) notes: Vec<String>,
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
    format!("it holds no dictionary of tensors, only: {has}; nothing was executed; {}", SAVE_AGAIN)
}

/// A dictionary's place in words.
fn place(dictionary: &Dictionary<'_>) -> String {
    if dictionary.path.is_empty() { "the top".into() } else { format!("{:?}", dictionary.path) }
}

/// Reading without a network: the dictionary with the most tensors.
pub(super) struct Unfitted;

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
pub(super) struct Fitted<'o> {
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
    pub(super) fn new(config: &'o ModelConfig, options: &'o ImportOptions) -> Result<Self> {
        config.check()?;
        let shapes_here = shapes(config)?;
        let with = |n_classes| shapes(&ModelConfig { n_classes, ..config.clone() });
        // At a bound of the number of classes only one neighbour is a network.
        let other = with(config.n_classes + 1).or_else(|_| with(config.n_classes.saturating_sub(1)))?;
        // All linear layers of a VGG that reads another map than the file's.
        let is_vgg = options.layout == Layout::Torchvision
            && config.stem == Stem::Cifar
            && !matches!(config.backbone, Backbone::Resnet18 | Backbone::Resnet34);
        let is_head =
            |name: &&String| other.get(*name) != shapes_here.get(*name) || is_vgg && name.starts_with("classifier.");
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
        // Not those that are none of its own: published networks have copies that count for nothing.
        let differs = |(name, _, view): &&Wanted<'_>| self.shapes.get(name).is_some_and(|shape| *shape != view.shape);
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
