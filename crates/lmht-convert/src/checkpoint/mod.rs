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

mod pickle;
mod published;
mod torch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lmht_nn::{ModelConfig, Network, ParamStore, Tgim};
use safetensors::{Dtype, SafeTensors};

use crate::{Error, Model, Result};
pub use published::{to_published, write_published};

/// What a checkpoint was written by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `torch.save` of PyTorch 1.6 or newer: a zip archive with a pickle.
    Pytorch,
    /// Safetensors.
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

/// What a file holds, before names are tidied.
#[derive(Default)]
struct Contents {
    tensors: BTreeMap<String, Tensor>,
    /// The names of all tensors, the counters included: the prefix of a wrapper is on all of them or on none.
    names_before: Vec<String>,
    counters: usize,
    key: Option<String>,
    passed_over: Vec<String>,
}

/// Batch norm's counter of batches, which only counts: its statistics have a fixed momentum in the published networks.
fn is_counter(name: &str) -> bool {
    name == "num_batches_tracked" || name.ends_with(".num_batches_tracked")
}

/// Reads a PyTorch or safetensors file.
///
/// Of a larger checkpoint the dictionary under `model`, `state_dict`, `net` or `model_state_dict` is read. The prefixes
/// `module.` (`DataParallel`) and `_orig_mod.` (`torch.compile`) are taken off where every name has them; the counters
/// `num_batches_tracked` are dropped. [`Checkpoint::notes`] tells what was done.
///
/// # Errors
/// [`Error::File`] with the path and what is wrong: not a checkpoint, damaged, more in it than tensors.
pub fn read(path: impl AsRef<Path>) -> Result<Checkpoint> {
    let path = path.as_ref();
    let refuse = |what: String| Error::File { path: path.into(), what };
    let metadata = path.metadata().map_err(|error| refuse(error.to_string()))?;
    if !metadata.is_file() {
        return Err(refuse("expected a file: .pth, .pt or .safetensors".into()));
    }
    let bytes = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
    parse(&path.display().to_string(), &bytes)
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
    let read = match Format::of(bytes) {
        Ok(Format::Pytorch) => torch::read(bytes).map(|contents| (Format::Pytorch, contents)),
        Ok(Format::Safetensors) => read_safetensors(bytes).map(|contents| (Format::Safetensors, contents)),
        Err(what) => Err(what),
    };
    let (format, contents) = read.map_err(|what| Error::File { path: PathBuf::from(origin), what })?;
    let mut notes = Vec::new();
    if let Some(key) = contents.key {
        notes.push(format!("read the network under {key:?}"));
    }
    if !contents.passed_over.is_empty() {
        notes.push(format!("passed over: {}", listed(&contents.passed_over)));
    }
    if contents.counters > 0 {
        notes.push(format!("dropped {} counters num_batches_tracked, which change nothing", contents.counters));
    }
    let mut tensors = contents.tensors;
    let mut names = contents.names_before;
    while let Some(prefix) = ["module.", "_orig_mod."]
        .into_iter()
        .find(|prefix| !names.is_empty() && names.iter().all(|name| name.starts_with(prefix)))
    {
        let bare = |name: &str| name[prefix.len()..].to_string();
        names = names.iter().map(|name| bare(name)).collect();
        tensors = tensors.into_iter().map(|(name, tensor)| (bare(&name), tensor)).collect();
        notes.push(format!("took the prefix {prefix:?} off every name"));
    }
    Ok(Checkpoint { origin: origin.into(), format, tensors, notes })
}

/// The first ten of `names`, and how many more there are.
fn listed(names: &[String]) -> String {
    let first = names.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > 10 { format!("{first} … and {} more", names.len() - 10) } else { first }
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
        // The long number 0x1950a86a20f9469cfc6c, in a pickle of its own, opens the files of older versions.
        if starts(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19") {
            return Err(format!("it was saved by PyTorch before 1.6 or without its zip format; {SAVE_AGAIN}"));
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

/// Reads the tensors of a safetensors file.
fn read_safetensors(bytes: &[u8]) -> std::result::Result<Contents, String> {
    let header = bytes.first_chunk().map_or(u64::MAX, |length| u64::from_le_bytes(*length));
    if header > bytes.len() as u64 - 8 {
        return Err(format!(
            "as safetensors its header would have {header} bytes, but the file has {}; is it cut off? fetch it again",
            bytes.len()
        ));
    }
    let file = SafeTensors::deserialize(bytes).map_err(|error| {
        format!(
            "expected a safetensors file: {}; fetch it again or save it again",
            pickle::shortened(&error.to_string())
        )
    })?;
    let mut contents = Contents::default();
    for (name, view) in file.iter() {
        if is_counter(name) && view.dtype() == Dtype::I64 {
            contents.counters += 1;
            contents.names_before.push(name.into());
            continue;
        }
        let inform = |what: String| format!("{}: {what}", pickle::shortened(name));
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => return Err(inform(format!("of type {other}, expected F32, F64, F16 or BF16"))),
        };
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu);
        contents.names_before.push(name.into());
        contents.tensors.insert(name.into(), tensor.map_err(|error| inform(error.to_string()))?);
    }
    Ok(contents)
}

impl Checkpoint {
    /// The same tensors under other names: for a file of a network that somebody else defined, into a network of one's own.
    ///
    /// A key of `map` is a name in the file, or the beginning of names up to a dot; the value takes its place. The longest key
    /// counts, and an empty value takes a beginning away. What no key fits keeps its name. Tensors that the network has no use
    /// for are to be taken out of [`Checkpoint::tensors`] before.
    ///
    /// # Errors
    /// [`Error::File`] if a key fits no name, or two tensors would have one name.
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
        let mut unused: BTreeSet<&str> = map.keys().map(String::as_str).collect();
        let mut n_renamed = 0;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in self.tensors {
            let rest = |key: &str| {
                let rest = name.strip_prefix(key)?;
                (rest.is_empty() || rest.starts_with('.') || key.ends_with('.')).then_some(rest)
            };
            let fits = map.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_str(), rest(key)?)));
            let new = match fits.max_by_key(|(key, _, _)| key.len()) {
                Some((key, value, rest)) => {
                    unused.remove(key);
                    n_renamed += 1;
                    if value.is_empty() { rest.trim_start_matches('.').to_string() } else { format!("{value}{rest}") }
                }
                None => name.clone(),
            };
            if tensors.insert(new.clone(), tensor).is_some() {
                return Err(refuse(format!(
                    "two tensors would be called {}, one of them {} in the file; give them different names, or take one out",
                    pickle::shortened(&new),
                    pickle::shortened(&name)
                )));
            }
        }
        if let Some(key) = unused.first() {
            let names: Vec<String> = tensors.keys().cloned().collect();
            return Err(refuse(format!(
                "no tensor is called {key:?} or begins so, up to a dot; the names are now: {}",
                pickle::shortened(&listed(&names))
            )));
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
