//! Names: those that wrappers of a network change, and those of networks that somebody else defined.

use std::collections::{BTreeMap, BTreeSet};

use lmht_nn::{Backbone, ModelConfig, NeuronConfig, Stem};

use super::pickle::shortened;

/// What wrappers of a network put into the names of its tensors, in front or in the middle: `DataParallel` and
/// `AveragedModel`, `torch.compile`, fully sharded training and activation checkpoints, Lightning modules, moving averages.
const WRAPPERS: [&str; 16] = [
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "model",
    "net",
    "network",
    "ema",
    "ema_model",
    "model_ema",
    "shadow",
    "shadow_model",
    "averaged_model",
    "online_model",
    "swa_model",
];

/// A name without what wrappers put into it.
pub(super) fn bare(name: &str) -> String {
    name.split('.').filter(|part| !WRAPPERS.contains(part)).collect::<Vec<_>>().join(".")
}

/// Batch norm's counter of batches, which only counts: its statistics have a fixed momentum in the published networks.
pub(super) fn is_counter(name: &str) -> bool {
    name == "num_batches_tracked" || name.ends_with(".num_batches_tracked")
}

fn first(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

/// The names that a network has.
#[derive(Debug)]
pub(super) struct Expected {
    names: BTreeSet<String>,
    by_bare: BTreeMap<String, String>,
    /// What names begin with.
    parts: BTreeSet<String>,
}

impl Expected {
    pub(super) fn new(names: impl Iterator<Item = String>) -> Self {
        let names: BTreeSet<String> = names.collect();
        // A network of one's own may have such parts itself; where they tell two tensors apart, they are not taken away.
        let by_bare: BTreeMap<_, _> = names.iter().map(|name| (bare(name), name.clone())).collect();
        let by_bare = if by_bare.len() == names.len() { by_bare } else { BTreeMap::new() };
        let parts = names.iter().map(|name| first(name).to_string()).collect();
        Self { names, by_bare, parts }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// The network's name for a tensor that the file calls `name`.
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        self.names.get(name).or_else(|| self.by_bare.get(&bare(name))).map(String::as_str)
    }

    /// Whether a name that the network does not have is that of a layer in a part that it does have: then the file is that
    /// of another network.
    pub(super) fn is_of_another(&self, name: &str) -> bool {
        const LAST: [&str; 10] = [
            "weight",
            "bias",
            "running_mean",
            "running_var",
            "mask",
            "mask_linear",
            "alpha",
            "v_threshold",
            "thresh",
            "shortcut_scale",
        ];
        let last = name.rsplit('.').next().unwrap_or_default();
        LAST.contains(&last) && self.parts.contains(first(name))
    }
}

/// Patterns of names and what takes their place, in the order of a map.
#[derive(Debug)]
pub(super) struct Renames<'m> {
    map: &'m BTreeMap<String, String>,
    used: BTreeSet<&'m str>,
}

impl<'m> Renames<'m> {
    /// # Errors
    /// If a replacement uses a placeholder that its pattern does not have.
    pub(super) fn new(map: &'m BTreeMap<String, String>) -> Result<Self, String> {
        for (from, to) in map {
            for part in to.split('{').skip(1) {
                let placeholder = part.split_once('}').map(|(name, _)| format!("{{{name}}}"));
                match placeholder {
                    Some(placeholder) if from.contains(&placeholder) => {}
                    _ => {
                        return Err(format!(
                            "the new name {to:?} has a placeholder that {from:?} has not; expected the same, such as \
                             features.{{n}} and layers.{{n}}"
                        ));
                    }
                }
            }
        }
        Ok(Self { map, used: BTreeSet::new() })
    }

    /// The new name, by the pattern with the most letters of its own.
    pub(super) fn apply(&mut self, name: &str) -> Option<String> {
        let fits = self.map.iter().filter_map(|(from, to)| Some((from.as_str(), replaced(from, to, name)?)));
        let own_letters = |from: &str| without_placeholders(from).len();
        let (from, new) = fits.max_by_key(|(from, _)| own_letters(from))?;
        self.used.insert(from);
        Some(new)
    }

    /// A pattern that no name fitted.
    pub(super) fn unused(&self) -> Option<&'m str> {
        self.map.keys().map(String::as_str).find(|from| !self.used.contains(from))
    }
}

fn without_placeholders(from: &str) -> String {
    let mut parts = from.split('{');
    let first = parts.next().unwrap_or_default().to_string();
    first + &parts.map(|part| part.split_once('}').map_or(part, |(_, rest)| rest)).collect::<String>()
}

/// `name` with what `from` says of its beginning replaced by `to`, if it fits up to a dot.
pub(super) fn replaced(from: &str, to: &str, name: &str) -> Option<String> {
    let mut new = to.to_string();
    let mut rest = name.split('.');
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for pattern in from.trim_end_matches('.').split('.') {
        let part = rest.next()?;
        let placeholder = pattern.split_once('{').and_then(|(before, more)| Some((before, more.split_once('}')?)));
        match placeholder {
            None if pattern == part => {}
            Some((before, (placeholder, after))) => {
                let value = part.strip_prefix(before)?.strip_suffix(after).filter(|value| !value.is_empty())?;
                if *seen.entry(placeholder).or_insert(value) != value {
                    return None;
                }
                new = new.replace(&format!("{{{placeholder}}}"), value);
            }
            None => return None,
        }
    }
    let rest: Vec<_> = rest.collect();
    let new = new.trim_end_matches('.');
    Some(if new.is_empty() || rest.is_empty() {
        format!("{new}{}", rest.join("."))
    } else {
        format!("{new}.{}", rest.join("."))
    })
}

/// Whose names a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// Those of the published networks, as here.
    #[default]
    Published,
    /// torchvision's ResNet-18 and -34, VGG-11, -13, -16 and -19 with and without batch norm.
    Torchvision,
}

impl std::str::FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "published" => Ok(Self::Published),
            "torchvision" => Ok(Self::Torchvision),
            other => Err(format!("{other:?} is no layout; expected published or torchvision")),
        }
    }
}

/// Where torchvision's VGG differs from ours with the stem "cifar".
pub(super) const VGG_DIFFERS: &str = "torchvision's VGG takes the maximum in its poolings and reads 7 x 7 positions of the \
                                      last map, the configuration's takes the mean and reads the mean of all positions";

impl Layout {
    /// What the names of a file become, for the network of `config`.
    ///
    /// # Errors
    /// If the network is not one of the layout's, with what differs.
    pub(super) fn map(
        self,
        config: &ModelConfig,
        starts_anew: bool,
        has: &dyn Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, String>, String> {
        if self == Self::Published {
            return Ok(BTreeMap::new());
        }
        if !matches!(config.neuron, NeuronConfig::Relu(_)) {
            return Err(format!(
                "torchvision's networks have ReLU, the configuration has {}; set its neuron to {{ \"kind\": \"relu\" }} and \
                 timesteps to 1, import, and convert the result",
                config.neuron.traits().title
            ));
        }
        let pair = |(from, to): (&str, &str)| (from.to_string(), to.to_string());
        let n_convs: [usize; 5] = match config.backbone {
            Backbone::Resnet18 | Backbone::Resnet34 => {
                if config.stem != Stem::Imagenet {
                    return Err(
                        "torchvision's ResNet begins with a 7 x 7 convolution and a max-pooling, the configuration \
                                has the stem \"cifar\"; set its stem to \"imagenet\""
                            .into(),
                    );
                }
                let map = [
                    ("layer{s}.{b}.conv{i}", "layer{s}.{b}.conv{i}.0"),
                    ("layer{s}.{b}.bn{i}", "layer{s}.{b}.conv{i}.1"),
                    ("layer{s}.{b}.downsample.{i}", "layer{s}.{b}.downsample.0.{i}"),
                    ("fc", "fc.0"),
                ];
                return Ok(map.map(pair).into());
            }
            Backbone::Vgg11 => [1, 1, 2, 2, 2],
            Backbone::Vgg13Standard => [2, 2, 2, 2, 2],
            Backbone::Vgg16 => [2, 2, 3, 3, 3],
            Backbone::Vgg19 => [2, 2, 4, 4, 4],
            ref other => {
                return Err(format!(
                    "torchvision's networks that fit here are resnet18, resnet34, vgg11, vgg13_standard, vgg16 and vgg19; \
                     the configuration has {}",
                    other.title()
                ));
            }
        };
        let has_norm = has("features.1.weight");
        if has_norm != config.batch_norm {
            let (file, set) =
                if has_norm { ("has", "leave batch_norm out") } else { ("has no", "set batch_norm to false") };
            return Err(format!("the file {file} batch norm, other than the configuration; {set} there"));
        }
        if config.stem == Stem::Cifar && !starts_anew {
            return Err(format!(
                "{VGG_DIFFERS}: the same weights are another function. Set its stem to \"imagenet\", or take the convolutions \
                 alone to start a fine-tuning with new linear layers (`--new-head`, `ImportOptions::new_head`)"
            ));
        }
        let mut map = BTreeMap::new();
        let mut at = 0;
        for (stage, n) in n_convs.into_iter().enumerate() {
            for i in 0..n {
                map.insert(format!("features.{at}"), format!("layer{}.{}", stage + 1, 4 * i));
                if has_norm {
                    map.insert(format!("features.{}", at + 1), format!("layer{}.{}", stage + 1, 4 * i + 1));
                }
                at += if has_norm { 3 } else { 2 };
            }
            at += 1;
        }
        map.extend(
            [("classifier.0", "classifier.1"), ("classifier.3", "classifier.4"), ("classifier.6", "classifier.7")]
                .map(pair),
        );
        Ok(map)
    }
}

/// A hint where a file has torchvision's names and nobody said so.
pub(super) fn looks_like_torchvision(names: &[&str]) -> bool {
    let has = |name: &str| names.iter().any(|own| bare(own) == name);
    has("layer1.0.bn1.weight") || has("features.0.weight") && has("classifier.6.weight")
}

/// The first twenty of `names`, and how many more there are.
pub(super) fn listed<T: AsRef<str>>(names: &[T]) -> String {
    const MOST: usize = 20;
    let first: Vec<_> = names.iter().take(MOST).map(|name| shortened(name.as_ref())).collect();
    let first = first.join(", ");
    if names.len() > MOST { format!("{first} … and {} more", names.len() - MOST) } else { first }
}

/// A pattern that fits no name.
pub(super) fn no_such_name<'n>(pattern: &str, names: impl Iterator<Item = &'n String>) -> String {
    let names: Vec<_> = names.collect();
    format!(
        "no tensor is called {pattern:?} or begins so, up to a dot; the names are now: {}",
        shortened(&listed(&names))
    )
}
