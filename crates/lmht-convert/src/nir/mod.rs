//! Export to NIR, the Neuromorphic Intermediate Representation (Pedersen et al. 2024), and proof that a file says what the
//! network does.
//!
//! A NIR file is a graph of primitives in HDF5. Its neurons have one threshold and at most a leak, so that it holds IF and
//! LIF networks: T-GIM identity, λ <= 1, L = 1. [`export`] writes such a network and refuses every other one, naming the
//! layer; [`verify`] reads a file back, replays it by the equations of the format, and compares every spike with the network.
//!
//! # What is written
//!
//! - batch norm is absorbed into the convolution before it, the amplitude θ of spikes into the weights after them, so that a
//!   spike is a 1; `input_scale` goes into the stem;
//! - IF: v' = r I; LIF: τ v' = (v_leak - v) + r I; a spike where v > v_threshold. With the profile's dt, one Euler step is
//!   v ← λ v + I: τ = dt/(1 - λ), r = τ/dt; IF: r = 1/dt;
//! - our neurons fire at v >= θ, those of NIR at v > v_threshold: the threshold is written one unit in the last place down,
//!   so that ties fire;
//! - a sum of two paths is two edges into one node; a shortcut without a convolution whose spikes have θ ≠ 1 gets a node
//!   that multiplies;
//! - the image is the input at every timestep; the readout is the mean of the output over the timesteps;
//! - a layer that the network goes through twice is two nodes with the same weights; the second is called `name.pass2`.
//!
//! The format knows neither reset by subtraction, nor v(0), nor dt. They stand in the graph's metadata: `reset`
//! ("subtract": v ← v - v_threshold on a spike), `v_init` (v(0) as a fraction of v_threshold), `dt`, `timesteps`,
//! `integration` ("euler", or "exponential": v ← e^(-dt/τ) v + (1 - e^(-dt/τ)) r I), `profile`, `generator`, `absorbed`.
//! No importer reads them: see [`Profile`] for what is to be set by hand after an import, and [`Export::notes`].
//!
//! # What is not
//!
//! M-HT and LM-HT neurons of L > 1, T-GIMs, λ > 1 (τ would be negative), neurons of other equations, max-pooling, attention,
//! and operations that only the body of a network knows.
//!
//! A reparameterized network (§4.5) with windows of L > 1 timesteps is not a plain IF or LIF network either: its neuron
//! gathers the current of a whole window before the window's first timestep, and λ acts once a window. A NIR neuron takes what
//! arrives when it arrives. Where currents +θ and -θ arrive in the two timesteps of one window, the gathering neuron is
//! silent, the plain one fires once and goes to -θ. So such a network is refused, whatever its schedule; with windows of one
//! timestep it is exported. A plain network of LT timesteps comes from [`qcfs_to_if`](crate::qcfs_to_if) or from training
//! [`If`](lmht_nn::neurons::If) or [`Lif`](lmht_nn::neurons::Lif), and is exported exactly.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use lmht_convert::{Model, nir};
//! use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore};
//!
//! # fn main() -> lmht_convert::Result<()> {
//! let neuron = NeuronConfig::integrate_and_fire();
//! let config = ModelConfig { width: 4, timesteps: 4, neuron, ..ModelConfig::resnet20(10) };
//! let params = ParamStore::new(42);
//! Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
//! let model = Model::of(&config, &params);
//!
//! let export = nir::export(&model, &[3, 8, 8], nir::Profile::Spec)?;
//! let images = Tensor::ones((2, 3, 8, 8), DType::F32, &Device::Cpu)?;
//! let verification = nir::verify(&export.bytes, &model, &images)?;
//! assert_eq!(verification.layers.len(), 19);
//! assert_eq!(verification.differing(), 0);
//! # Ok(()) }
//! ```

mod build;
mod graph;
mod hdf5;
mod replay;

use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use lmht_nn::atomic;

use crate::{Error, LayerSpikes, Model, Result};
use graph::Precision;

/// Who is to read the file. Importers disagree about every free choice of the format.
///
/// Read from the importers' code and tried: SpikingJelly 2.0.0, snnTorch 1.0.0, Norse 1.1.0, sinabs 3.1.3, NIRTorch 2.6.
///
/// | profile | dt | IF | LIF | average pooling | linear layers |
/// |---|---|---|---|---|---|
/// | `spec` | 1 | r = 1 | τ = 1/(1-λ), r = τ | AvgPool2d | Flatten, Affine |
/// | `spikingjelly` | 1e-4 | r = 1/dt | τ = dt/(1-λ), r = τ/dt | AvgPool2d | Flatten, Affine |
/// | `snntorch` | 1e-4 | written as a LIF of λ = 1 | τ = dt/(1-λ), r = τ/dt | AvgPool2d | Conv2d |
/// | `norse` | 1e-3 | written as a LIF of λ = 1 | τ = dt/(1-λ), r = 1, θ dt/τ | SumPool2d, 1/k² in the next weights | Conv2d |
/// | `sinabs` | 1 | r = 1 | τ = -1/ln λ, r = 1/(1-λ) | SumPool2d, 1/k² in the next weights | Flatten, Affine |
///
/// `spec` keeps the type of the weights, f32 or f64; the others are f32. The factor on a shortcut is a Scale node in `spec`,
/// a 1x1 Conv2d with a diagonal kernel in the others, which every importer knows. Imported by these versions and treated as
/// the [notes](Export::notes) say, the files give our logits (`tests/nir/importers.py`).
///
/// ```
/// use lmht_convert::nir::Profile;
///
/// assert_eq!("sinabs".parse::<Profile>()?, Profile::Sinabs);
/// assert!("nest".parse::<Profile>().unwrap_err().to_string().contains("spikingjelly"));
/// # Ok::<(), lmht_convert::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// The format as its documentation has it, in steps of dt = 1.
    Spec,
    /// SpikingJelly: asks for r = 1/dt with its default dt; knows AvgPool2d, not SumPool2d; resets to zero.
    SpikingJelly,
    /// snnTorch: makes a leak of 0.9 of every IF node, so that IF is written as a LIF whose leak rounds to 1; resets LIF
    /// to zero; flattens the batch, so that there is no Flatten.
    SnnTorch,
    /// Norse: ignores r, so that dt/τ stays as a factor on the current, and the threshold has it too; its IF cannot reset by
    /// subtraction, its LIF can, so that IF is written as a LIF whose leak rounds to 1; knows SumPool2d, not AvgPool2d;
    /// flattens the batch, so that there is no Flatten; resets to zero.
    Norse,
    /// sinabs: takes τ in timesteps and decays by e^(-1/τ); ignores r; knows SumPool2d, not AvgPool2d; resets by
    /// subtraction. It cannot import LIF neurons on maps.
    Sinabs,
}

impl Profile {
    /// Every profile, with the name that [`str::parse`] takes.
    pub const ALL: [(&'static str, Self); 5] = [
        ("spec", Self::Spec),
        ("spikingjelly", Self::SpikingJelly),
        ("snntorch", Self::SnnTorch),
        ("norse", Self::Norse),
        ("sinabs", Self::Sinabs),
    ];

    /// The name that [`str::parse`] takes.
    ///
    /// ```
    /// assert_eq!(lmht_convert::nir::Profile::SnnTorch.name(), "snntorch");
    /// ```
    pub fn name(self) -> &'static str {
        match self {
            Self::Spec => "spec",
            Self::SpikingJelly => "spikingjelly",
            Self::SnnTorch => "snntorch",
            Self::Norse => "norse",
            Self::Sinabs => "sinabs",
        }
    }

    /// Whether average pooling is written as a sum of which the next weights take the mean.
    fn sums(self) -> bool {
        matches!(self, Self::Norse | Self::Sinabs)
    }

    /// Whether linear layers are written as convolutions over a map of one position, without Flatten.
    fn convolves_features(self) -> bool {
        matches!(self, Self::SnnTorch | Self::Norse)
    }

    /// What a user must know and do after an import, whatever the network.
    fn notes(self) -> Vec<String> {
        let after_import = match self {
            Self::Spec => {
                "a reader must take reset, v_init and dt from the metadata of the graph; none of the known importers does"
            }
            Self::SpikingJelly => {
                "import_from_nir(graph) sets a reset to zero; then set module.v_reset = None for every module that is an \
                 IFNode or LIFNode, and give the state back at every timestep"
            }
            Self::SnnTorch => {
                "import_from_nir(graph) sets a reset to zero; then set module.reset_mechanism = \"subtract\" and \
                 module.mem_reset = torch.zeros_like for every module that is a Leaky (the second, since a potential that \
                 is above v_threshold after a spike would be reset once more)"
            }
            Self::Norse => {
                "norse.torch.from_nir(graph), with its default dt = 0.001, sets a reset to zero; then set module.p = \
                 module.p._replace(reset_method=reset_subtract) (norse.torch.functional.reset) for every module that is a \
                 LIFBoxCell, and give the state back at every timestep"
            }
            Self::Sinabs => {
                "sinabs.from_nir(graph, batch_size=B) lets a neuron spike several times a timestep and, if it is an IF, \
                 holds v at -v_threshold or above: for every layer that spikes set spike_fn = SingleSpike and \
                 min_v_mem = None"
            }
        };
        vec![
            "neurons reset by subtraction (metadata reset = \"subtract\"); under a reset to zero the spikes are others".into(),
            format!("{}: {after_import}", self.name()),
            "the image is the input at every timestep: real values, not events; the readout is the mean of the output over \
             the timesteps"
                .into(),
        ]
    }
}

impl std::str::FromStr for Profile {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, profile)| *profile).ok_or_else(|| {
            let known = Self::ALL.map(|(name, _)| name).join(", ");
            Error::Config(format!("the NIR profile is {name:?}; expected one of {known}"))
        })
    }
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A NIR file, and what its reader must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The file.
    pub bytes: Vec<u8>,
    /// What the format cannot say and what an import in this profile needs by hand, for people: a line each.
    pub notes: Vec<String>,
}

/// A network as a NIR file for inputs of the shape `input`, without batch and time: `[C, H, W]` or `[F]`.
///
/// Batch norm and the amplitude of spikes are absorbed on the way, in float64, and rounded once; `model` may have had
/// [`absorb_bn`](crate::absorb_bn) or [`absorb_thresholds`](crate::absorb_thresholds) before.
///
/// # Errors
/// If NIR, or the importer of this profile, cannot hold a layer: the message names the layer, its value and what to do. If
/// the tensors do not fit the configuration, or hold a value that is not finite.
pub fn export(model: &Model, input: &[usize], profile: Profile) -> Result<Export> {
    let f64_weights = model.tensors.iter().any(|(name, t)| name.ends_with(".weight") && t.dtype() == DType::F64);
    let precision = if profile == Profile::Spec && f64_weights { Precision::F64 } else { Precision::F32 };
    let (graph, mut more) = build::build(model, input, profile, precision)?;
    let mut notes = profile.notes();
    notes.append(&mut more);
    Ok(Export { bytes: hdf5::encode(&graph, precision)?, notes })
}

/// Exports a network to a file, whole or not at all, and returns the notes.
///
/// # Errors
/// As [`export`], and if the file cannot be written: then a file that was there before is intact.
///
/// ```
/// use candle_core::{DType, Device};
/// use lmht_convert::{Model, nir};
/// use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = ModelConfig { width: 2, neuron: NeuronConfig::integrate_and_fire(), ..ModelConfig::vgg13(10) };
/// let params = ParamStore::new(42);
/// Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("vgg13.nir");
/// let notes = nir::write(&path, &Model::of(&config, &params), &[3, 16, 16], nir::Profile::Sinabs)?;
/// assert!(notes.iter().any(|note| note.contains("SingleSpike")));
/// assert!(path.is_file());
/// # Ok(()) }
/// ```
pub fn write(path: impl AsRef<Path>, model: &Model, input: &[usize], profile: Profile) -> Result<Vec<String>> {
    let export = export(model, input, profile)?;
    atomic::write_file(path.as_ref(), &export.bytes)?;
    Ok(export.notes)
}

/// The node of a layer with parameters that is gone through for the `pass`th time.
fn name_of_pass(layer: &str, pass: usize) -> String {
    let layer = if layer.is_empty() { "layer" } else { layer };
    if pass == 1 { layer.into() } else { format!("{layer}.pass{pass}") }
}

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Verification {
    /// Every neuron layer in the order of the forward pass: `before` is the network, `after` the file.
    pub layers: Vec<LayerSpikes>,
    /// Images shown.
    pub n_images: u64,
    /// Largest difference of a logit at any timestep, over the largest logit.
    pub logit_error: f64,
}

impl Verification {
    /// Spikes that differ, over all layers, timesteps and images.
    ///
    /// ```
    /// use lmht_convert::nir::Verification;
    ///
    /// assert_eq!(Verification { layers: vec![], n_images: 0, logit_error: 0. }.differing(), 0);
    /// ```
    pub fn differing(&self) -> u64 {
        self.layers.iter().map(|layer| layer.differing).sum()
    }
}

/// Replays a NIR file and compares the spikes of every neuron, timestep by timestep, with those of the network.
///
/// Both run in float64: the file by the equations of the format with reset, v(0), dt and integration from its metadata,
/// the network as it is. A file in f32 has rounded weights, so that a spike here and there may differ; a file in f64 has
/// none, but at ties.
///
/// # Shapes
/// - `images` `[B, C, H, W]`, or `[T, B, C, H, W]` for inputs that change with time; features `[B, F]` or `[T, B, F]`
///
/// # Errors
/// If the bytes are not a NIR file of known nodes without cycles, its neuron layers, timesteps or shapes are not those of
/// the network, or the images do not fit. Different spikes are no error but a count.
pub fn verify(bytes: &[u8], model: &Model, images: &Tensor) -> Result<Verification> {
    replay::verify(&PathBuf::from("NIR file"), bytes, model, images)
}

/// As [`verify`], of a file.
///
/// # Errors
/// As [`verify`], and if the file cannot be read.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_convert::{Model, nir};
/// use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = ModelConfig { width: 2, neuron: NeuronConfig::integrate_and_fire(), ..ModelConfig::vgg13(10) };
/// let params = ParamStore::new(42);
/// Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
/// let model = Model::of(&config, &params);
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("vgg13.nir");
/// nir::write(&path, &model, &[3, 16, 16], nir::Profile::Spec)?;
/// let images = Tensor::ones((1, 3, 16, 16), DType::F32, &Device::Cpu)?;
/// assert!(nir::verify_file(&path, &model, &images)?.logit_error < 1e-5);
/// # Ok(()) }
/// ```
pub fn verify_file(path: impl AsRef<Path>, model: &Model, images: &Tensor) -> Result<Verification> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|error| Error::File {
        path: path.to_path_buf(),
        what: format!("cannot be read ({error}); give the path of a NIR file"),
    })?;
    replay::verify(path, &bytes, model, images)
}
