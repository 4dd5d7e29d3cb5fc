//! Named parameters in a fixed order, with a starting value that depends on the seed and the name only.
//!
//! Candle's `VarMap` keeps its variables in hash order, makes a trainable variable of every running statistic, and fills
//! them from a generator that takes no seed on the CPU. A run that must give the same bytes twice needs all three the
//! other way round.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::VarBuilder;
use candle_nn::init::{Init, NormalOrUniform};
use candle_nn::var_builder::SimpleBackend;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::neurons;
use crate::outline::Shapes;
use crate::param_kind::ParamKind;
use crate::{Error, Result};

impl ParamKind {
    /// The kind that a name stands for; the names are those of the published networks.
    ///
    /// ```
    /// use lmht_nn::ParamKind;
    /// assert_eq!(ParamKind::of("layer1.0.sn1.mask"), ParamKind::Neuron);
    /// assert_eq!(ParamKind::of("layer1.0.conv1.1.running_var"), ParamKind::Buffer);
    /// assert_eq!(ParamKind::of("fc.0.weight"), ParamKind::Weight);
    /// ```
    pub fn of(name: &str) -> Self {
        let last = name.rsplit('.').next().unwrap_or(name);
        match last {
            "running_mean" | "running_var" | "shortcut_scale" => Self::Buffer,
            _ => neurons::param_kind(last).unwrap_or(Self::Weight),
        }
    }
}

/// The parameters and buffers of a network, sorted by name.
///
/// Hand [`ParamStore::builder`] to a network's constructor; the store then holds everything that the network asked for.
/// Cloning is cheap and shares the tensors.
///
/// ```
/// use candle_core::{DType, Device};
/// use lmht_nn::{ModelConfig, Network, ParamStore};
///
/// # fn main() -> lmht_nn::Result<()> {
/// let params = ParamStore::new(42);
/// let config = ModelConfig { width: 8, ..ModelConfig::resnet18(10) };
/// let _network = Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
/// assert_eq!(params.trainable()[0].0, "bn1.bias");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ParamStore {
    /// `None`: nothing is drawn.
    seed: Option<u64>,
    vars: Arc<Mutex<BTreeMap<String, Var>>>,
}

impl ParamStore {
    /// An empty store. Every tensor asked of it starts from `seed` and its own name: the order of construction, other
    /// tensors and the device make no difference.
    pub fn new(seed: u64) -> Self {
        Self { seed: Some(seed), vars: Arc::default() }
    }

    /// An empty store whose tensors start from 0 where [`ParamStore::new`] draws: for weights that are loaded right after,
    /// or for a network of which only the outline matters.
    pub fn blank() -> Self {
        Self { seed: None, vars: Arc::default() }
    }

    /// A Candle variable builder over this store.
    pub fn builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, device.clone())
    }

    /// What an optimizer moves: parameters without buffers, sorted by name.
    pub fn trainable(&self) -> Vec<(String, Var)> {
        self.all().into_iter().filter(|(name, _)| ParamKind::of(name) != ParamKind::Buffer).collect()
    }

    /// Every parameter and buffer, sorted by name.
    pub fn all(&self) -> Vec<(String, Var)> {
        self.lock().iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// The number of trained values.
    pub fn n_params(&self) -> usize {
        self.trainable().iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// Sets every tensor of the store from `tensors`, which may be of another number type or on another device.
    ///
    /// The published networks keep two T-GIMs in every neuron, `mask` and `mask_linear`, and use one of them; the other is
    /// passed over. So is the neuron `sn1` of the published MS-ResNets, which no current reaches.
    ///
    /// # Errors
    /// As [`ParamStore::check`]; nothing is changed then.
    pub fn load(&self, origin: &str, tensors: &HashMap<String, Tensor>) -> Result<()> {
        self.check(origin, tensors)?;
        let vars = self.lock();
        // All are converted before the first is set: a failure must not leave half of another network.
        let mut converted = Vec::with_capacity(vars.len());
        for (name, var) in vars.iter() {
            let tensor = tensors[name].to_device(var.device())?.to_dtype(var.dtype())?;
            // `set` refuses a source that shares the variable's own storage; `copy` makes that impossible.
            converted.push((var, tensor.contiguous()?.copy()?));
        }
        for (var, tensor) in converted {
            var.set(&tensor)?;
        }
        Ok(())
    }

    /// Checks that `tensors` are those of the store, by name and shape.
    ///
    /// # Errors
    /// [`Error::Mismatch`] lists the tensors that are missing, superfluous or of another shape, with the nearest name beside
    /// a missing or superfluous one; more than 40 of a kind are counted. `origin` (a file name) opens the message.
    pub fn check(&self, origin: &str, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let shapes = self.lock().iter().map(|(name, var)| (name.clone(), var.dims().to_vec())).collect();
        check_shapes(origin, &shapes, tensors)
    }

    /// Checks that a network can compute with the values of `tensors`: all finite, no variance negative, and thresholds and
    /// what else must be positive above 0.
    ///
    /// # Errors
    /// [`Error::Mismatch`] lists the tensors and what is wrong with each. `origin` (a file name) opens the message.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use lmht_nn::ParamStore;
    ///
    /// # fn main() -> lmht_nn::Result<()> {
    /// let var = Tensor::new(&[0.5f32, -0.5], &Device::Cpu)?;
    /// let error = ParamStore::check_values("model", [("bn1.running_var", &var)]).unwrap_err().to_string();
    /// assert!(error.contains("bn1.running_var: expected no value below 0, got -0.5"), "{error}");
    /// # Ok(()) }
    /// ```
    pub fn check_values<'a>(origin: &str, tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<()> {
        let mut wrong = Vec::new();
        for (name, tensor) in tensors {
            let values =
                tensor.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
            let last = name.rsplit('.').next().unwrap_or(name);
            let is_positive = ParamKind::of(name) == ParamKind::Positive || last == "v_threshold";
            let (expected, fits): (_, fn(f64) -> bool) = match last {
                _ if is_positive => ("only values above 0", |x| x > 0. && x.is_finite()),
                "running_var" => ("no value below 0", |x| x >= 0. && x.is_finite()),
                _ => ("finite values", f64::is_finite),
            };
            if let Some(value) = values.into_iter().find(|&value| !fits(value)) {
                let expected = if value.is_finite() { expected } else { "finite values" };
                wrong.push(format!("{name}: expected {expected}, got {value}"));
            }
        }
        wrong.sort();
        let differences = listed(&wrong, "", Clone::clone);
        if differences.is_empty() { Ok(()) } else { Err(Error::Mismatch { origin: origin.to_string(), differences }) }
    }

    /// Sets every tensor of the store from a safetensors file; see [`ParamStore::load`].
    ///
    /// # Errors
    /// [`Error::Read`] if the file cannot be read, [`Error::File`] if it is not safetensors, [`Error::Mismatch`] if it belongs
    /// to another network or holds what cannot be computed with ([`ParamStore::check_values`]).
    pub fn load_file(&self, path: &Path) -> Result<()> {
        let (origin, tensors) = (path.display().to_string(), read_safetensors(path)?);
        Self::check_values(&origin, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))?;
        self.load(&origin, &tensors)
    }

    /// The tensors as the bytes of a safetensors file: the same values give the same bytes.
    ///
    /// # Errors
    /// Only if a tensor cannot be copied to the CPU.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        to_safetensors(self.all().into_iter().map(|(name, var)| (name, var.as_tensor().clone())))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Var>> {
        // A panic while the lock is held cannot leave the map half changed: insertion is the only change.
        self.vars.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl SimpleBackend for ParamStore {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let mut vars = self.lock();
        if let Some(var) = vars.get(name) {
            if var.shape() != &shape {
                candle_core::bail!(
                    "{name}: asked for with shape {:?}, but it exists with shape {:?}; build another network in a store \
                     of its own",
                    shape.dims(),
                    var.dims()
                )
            }
            if var.dtype() != dtype {
                candle_core::bail!(
                    "{name}: asked for as {dtype:?}, but it exists as {:?}; use one number type for a store",
                    var.dtype()
                )
            }
            return Ok(var.as_tensor().clone());
        }
        let tensor = match (self.seed, init) {
            (None, Init::Uniform { .. } | Init::Randn { .. } | Init::Kaiming { .. }) => {
                Tensor::zeros(shape, dtype, device)?
            }
            (seed, init) => {
                let values = initial_values(&shape, name, init, seed.unwrap_or(0));
                Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?
            }
        };
        let var = Var::from_tensor(&tensor)?;
        vars.insert(name.to_string(), var.clone());
        Ok(var.as_tensor().clone())
    }

    fn get_unchecked(&self, name: &str, _dtype: DType, _device: &Device) -> candle_core::Result<Tensor> {
        match self.lock().get(name) {
            Some(var) => Ok(var.as_tensor().clone()),
            None => candle_core::bail!("{name}: not in the store, and its shape is not known here"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }
}

/// As [`ParamStore::check`], against shapes by name.
pub(crate) fn check_shapes(origin: &str, shapes: &Shapes, tensors: &HashMap<String, Tensor>) -> Result<()> {
    let is_extra = |name: &&String| !shapes.contains_key(*name) && !is_unused(name, shapes);
    let mut extra: Vec<_> = tensors.keys().filter(is_extra).collect();
    extra.sort();
    let missing: Vec<_> = shapes.keys().filter(|name| !tensors.contains_key(*name)).collect();
    let misshapen = shapes.iter().filter_map(|(name, expected)| {
        let dims = tensors.get(name)?.dims();
        (dims != expected.as_slice()).then_some((name, expected, dims))
    });
    let misshapen: Vec<_> = misshapen.collect();
    let mut differences =
        listed(&misshapen, "", |(name, expected, got)| format!("{name}: expected shape {expected:?}, got {got:?}"));
    differences += &listed(&missing, "missing: ", |name| {
        let near = nearest(name, &extra).map_or(String::new(), |near| format!(" (nearest in the file: {near})"));
        format!("missing: {name} {:?}{near}", shapes[*name])
    });
    differences += &listed(&extra, "not part of this network: ", |name| {
        let near = nearest(name, &missing).map_or(String::new(), |near| format!(" (nearest missing: {near})"));
        format!("not part of this network: {name:.200} {:?}{near}", tensors[*name].dims())
    });
    if !differences.is_empty() {
        return Err(Error::Mismatch { origin: origin.to_string(), differences });
    }
    Ok(())
}

/// Whether `name` belongs to a published network without having a part in what it computes: the copy of a T-GIM that its
/// neuron does not use, or the first neuron of an MS-ResNet, whose stream starts without one.
fn is_unused(name: &str, shapes: &Shapes) -> bool {
    if name.starts_with("sn1.") && !shapes.keys().any(|known| known.starts_with("sn1.")) {
        return true;
    }
    let other = match name.rsplit_once('.') {
        Some((neuron, "mask")) => format!("{neuron}.mask_linear"),
        Some((neuron, "mask_linear")) => format!("{neuron}.mask"),
        _ => return false,
    };
    shapes.contains_key(&other)
}

/// Differences of one kind that are written out; a file of another network has hundreds.
const LISTED: usize = 40;

/// One line for each difference, shortened with a count.
fn listed<T>(all: &[T], kind: &str, line: impl Fn(&T) -> String) -> String {
    let mut text: String = all.iter().take(LISTED).map(|one| format!("  {}\n", line(one))).collect();
    if all.len() > LISTED {
        text += &format!("  {kind}… and {} more\n", all.len() - LISTED);
    }
    text
}

/// The most similar of `names` by edit distance, if more than half of it agrees.
fn nearest<'a>(name: &str, names: &[&'a String]) -> Option<&'a str> {
    // The file may hold any number of names of any length, and a distance costs the product of two lengths.
    const MOST: usize = 1000;
    const LONGEST: usize = 200;
    if name.len() > LONGEST {
        return None;
    }
    let near = names.iter().take(MOST).filter(|other| other.len() <= LONGEST);
    let (distance, nearest) = near.map(|other| (strsim::levenshtein(name, other), other.as_str())).min()?;
    (2 * distance < name.len().max(nearest.len())).then_some(nearest)
}

/// Reads all tensors of a safetensors file onto the CPU.
pub fn read_safetensors(path: &Path) -> Result<HashMap<String, Tensor>> {
    let bytes = std::fs::read(path).map_err(Error::read(path))?;
    candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .map_err(|error| Error::file(path, format!("expected a safetensors file: {error}")))
}

/// Serializes named tensors. No metadata: safetensors writes it in hash order, and the same values must give the same bytes.
pub fn to_safetensors(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Result<Vec<u8>> {
    let mut on_cpu = Vec::new();
    for (name, tensor) in tensors {
        on_cpu.push((name, tensor.to_device(&Device::Cpu)?.contiguous()?));
    }
    safetensors::serialize(on_cpu, None).map_err(|error| Error::Candle(candle_core::Error::wrap(error)))
}

/// Draws the starting values in float64 from a generator keyed by seed and name.
fn initial_values(shape: &Shape, name: &str, init: Init, seed: u64) -> Vec<f64> {
    let n = shape.elem_count();
    let mut rng = ChaCha8Rng::from_seed(key(seed, name));
    let mut uniform = |lo: f64, up: f64| -> Vec<f64> { (0..n).map(|_| lo + (up - lo) * unit(&mut rng)).collect() };
    match init {
        Init::Const(value) => vec![value; n],
        Init::Uniform { lo, up } => uniform(lo, up),
        Init::Randn { mean, stdev } => normal(n, mean, stdev, &mut rng),
        Init::Kaiming { dist, fan, non_linearity } => {
            let std = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
            match dist {
                NormalOrUniform::Uniform => uniform(-3f64.sqrt() * std, 3f64.sqrt() * std),
                NormalOrUniform::Normal => normal(n, 0., std, &mut rng),
            }
        }
    }
}

/// A generator key from seed and name: the seed in the first eight bytes, 64-bit FNV-1a hashes of the name in the rest.
fn key(seed: u64, name: &str) -> [u8; 32] {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for chunk in key[8..].chunks_exact_mut(8) {
        for byte in name.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        chunk.copy_from_slice(&hash.to_le_bytes());
    }
    key
}

/// A number in [0, 1) with 53 random bits.
fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Normal values by the Box-Muller transform: two uniform numbers give two normal ones.
fn normal(n: usize, mean: f64, stdev: f64, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let mut values = Vec::with_capacity(n + 1);
    while values.len() < n {
        let radius = (-2. * (1. - unit(rng)).ln()).sqrt();
        let angle = 2. * std::f64::consts::PI * unit(rng);
        values.push(mean + stdev * radius * angle.cos());
        values.push(mean + stdev * radius * angle.sin());
    }
    values.truncate(n);
    values
}
