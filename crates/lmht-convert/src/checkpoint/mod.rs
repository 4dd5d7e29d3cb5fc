//! Checkpoints in and out: what PyTorch saved becomes a model, and a model becomes what PyTorch loads.
//!
//! [`read`] takes a PyTorch file (`.pth`, `.pt`) or a safetensors file, told apart by their content, and gives the named
//! tensors; [`Checkpoint::into_model`] fits them to a configuration, after [`Checkpoint::renamed`] if the file has other names
//! than the network. [`to_published`] and [`write_published`] go the other
//! way, as safetensors or as `torch.save` writes it, under the names of the published networks, so that `load_state_dict(strict=True)` takes the result.
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

mod choose;
mod contents;
mod legacy;
mod names;
mod outline;
mod pickle;
mod published;
mod save;
mod shards;
mod torch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lmht_nn::{ModelConfig, Network, ParamStore, Tgim, checksums};

use crate::{Error, Model, Result};
use choose::{Choice, Chosen, Fitted, Unfitted};
pub use contents::{Checkpoint, Format, ImportOptions};
pub use names::Layout;
use names::{Renames, no_such_name};
use outline::{Outline, Storages};
use pickle::{Pickle, shortened};
pub use published::{is_torch, to_published, write_published};

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
    // A model folder's own weights.
    checksums::verify_if_listed(path)?;
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
