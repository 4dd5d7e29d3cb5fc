//! Model folders: `config.json`, `preprocessor_config.json`, `model.safetensors` and a model card, as the Hub holds them; and
//! where in the folder of a run the network is.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde::de::DeserializeOwned;

use crate::atomic::FolderWriter;
use crate::outline::shapes;
use crate::params::check_shapes;
use crate::{Architecture, Error, ModelConfig, Network, ParamStore, Result, checksums, markdown, read_safetensors};

/// The files of a model folder.
const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const PREPROCESSOR: &str = "preprocessor_config.json";

/// What a model card tells beside the configuration. Every field may be empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelCard {
    /// The command that made the weights.
    pub command: String,
    /// The data set and split, in words.
    pub data: String,
    /// Test accuracy after the last epoch, 0..1.
    pub top1: Option<f64>,
    /// The whole configuration of the run.
    pub config: String,
    /// The content of `preprocessor_config.json`: what turns an image into the network's input.
    pub preprocessor: Option<String>,
}

impl ModelCard {
    fn text(&self, config: &ModelConfig) -> String {
        let title = markdown::text(config.backbone.title());
        let top1 = self.top1.map_or_else(|| "not measured".into(), |top1| format!("{:.2} %", 100. * top1));
        format!(
            "---\nlibrary_name: lmht\ntags:\n{spiking}- lm-ht\n---\n\n# {title}, L = {levels}, T = {t}\n\n\
             | | |\n|---|---|\n| test accuracy after the last epoch | {top1} |\n| data | {data} |\n| command | {command} |\n\n\
             `config.json` rebuilds the network; `model.safetensors` has its tensors under the published names.\n\n\
             ## Configuration of the run\n\n{run}",
            spiking = if config.neuron.is_spiking() { "- spiking-neural-network\n" } else { "" },
            levels = config.neuron.levels(),
            t = config.timesteps,
            data = markdown::text(&self.data),
            command = markdown::code(&self.command),
            run = markdown::block("json", &self.config),
        )
    }
}

/// Writes a model folder: `config.json`, `model.safetensors`, the card as `README.md`, `SHA256SUMS` and, if the card has one,
/// `preprocessor_config.json`; whole or not at all.
///
/// A model folder at `path` is replaced: not before the new one is complete, and never lost, even if the process dies on
/// the way (see [`FolderWriter::replacing`]). A folder that holds anything else is left alone.
///
/// # Errors
/// If the folder cannot be written, or `path` is taken by something other than a model folder; it is intact then.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_nn::{ModelCard, ModelConfig, Network, ParamStore, Pass, from_pretrained, save_pretrained};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = ModelConfig { width: 4, ..ModelConfig::resnet20(10) };
/// let params = ParamStore::new(42);
/// let network = Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
/// let parent = tempfile::tempdir()?;
/// let folder = parent.path().join("model");
/// save_pretrained(&folder, &config, &params, &ModelCard::default())?;
///
/// let (loaded, _params) = from_pretrained(&folder, DType::F32, &Device::Cpu)?;
/// let images = Tensor::ones((1, 3, 8, 8), DType::F32, &Device::Cpu)?;
/// let (before, after) = (network.forward(&images, &mut Pass::eval())?, loaded.forward(&images, &mut Pass::eval())?);
/// assert_eq!(after.to_vec3::<f32>()?, before.to_vec3::<f32>()?);
/// # Ok(()) }
/// ```
pub fn save_pretrained(path: &Path, config: &ModelConfig, params: &ParamStore, card: &ModelCard) -> Result<()> {
    let (json, weights) = (config.to_json(), params.to_safetensors()?);
    let mut files = vec![(CONFIG, json.as_bytes()), (WEIGHTS, &weights)];
    if let Some(preprocessor) = &card.preprocessor {
        files.push((PREPROCESSOR, preprocessor.as_bytes()));
    }
    let mut folder = FolderWriter::replacing(path)?;
    for (name, bytes) in &files {
        folder.write(name, bytes)?;
    }
    folder.write(checksums::FILE, checksums::of(&files).as_bytes())?;
    // A person may edit the card.
    folder.write("README.md", card.text(config).as_bytes())?;
    folder.commit()?;
    Ok(())
}

/// Where the network is that a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pretrained {
    /// The folder that holds `model.safetensors` and everything that belongs to it.
    pub folder: PathBuf,
    /// The configuration of the network, as JSON.
    pub config: String,
    /// What to tell a person: that a newer checkpoint is damaged, and which one was taken.
    pub note: Option<String>,
}

impl Pretrained {
    /// The weights.
    pub fn weights(&self) -> PathBuf {
        self.folder.join(WEIGHTS)
    }

    /// The content of its `preprocessor_config.json`, if it has one; a checkpoint has that of its run.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read.
    pub fn preprocessor(&self) -> Result<Option<String>> {
        // A relative path may show no folder above it.
        let folder = self.folder.canonicalize().map_err(|error| Error::file(&self.folder, error))?;
        let is_checkpoint = folder.parent().is_some_and(|parent| parent.ends_with("checkpoints"));
        let of_run = folder.ancestors().nth(2).filter(|_| is_checkpoint);
        for path in [Some(self.folder.as_path()), of_run].into_iter().flatten().map(|folder| folder.join(PREPROCESSOR))
        {
            match std::fs::read_to_string(&path) {
                Ok(json) => return Ok(Some(json)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::read(&path)(error)),
            }
        }
        Ok(None)
    }

    /// What a path names: a model folder; the folder of a run, of which the result is taken, or while there is none the newest
    /// whole checkpoint; or one checkpoint of a run. With the feature `hub` also what `owner/name` or `owner/name@revision`
    /// names on the Hugging Face Hub, where there is no such path: its files come into the cache first, verified.
    ///
    /// # Errors
    /// [`Error::File`] if there is none of these, or a file is damaged: its digest is not the one of `SHA256SUMS` beside it,
    /// or of its blob in the cache.
    pub fn locate(path: &Path) -> Result<Self> {
        #[cfg(feature = "hub")]
        if let Some(repo) = lmht_hub::Repo::at(lmht_hub::RepoKind::Model, path) {
            let folder = lmht_hub::Hub::from_env().and_then(|hub| hub.model(&repo, &|_| ()));
            let missing = |error| Error::file(path, format!("no such folder here; as a name of the Hub: {error}"));
            return Self::locate(&folder.map_err(missing)?);
        }
        let config_path = path.join(CONFIG);
        let json = std::fs::read_to_string(&config_path).map_err(|error| {
            let what =
                "expected a model folder with config.json and model.safetensors, the folder of a run, or a checkpoint";
            #[cfg(not(feature = "hub"))]
            let what = format!("{what} (owner/name of the Hub needs the feature `hub`)");
            Error::file(&config_path, format!("{error}; {what}"))
        })?;
        let value: serde_json::Value = serde_json::from_str(&json).map_err(|error| Error::file(&config_path, error))?;
        let Some(model) = value.get("model").filter(|model| model.is_object()) else {
            return Self::verified(path, json);
        };
        if exists(&path.join(WEIGHTS))? {
            return Self::verified(path, model.to_string());
        }
        let result = path.join("model");
        let has_result = exists(&result.join(CONFIG))?;
        if has_result && exists(&path.join("metrics.json"))? {
            return Self::locate(&result);
        }
        let mut damaged = None;
        for checkpoint in checkpoints(&path.join("checkpoints"))?.iter().rev() {
            match Self::verified(checkpoint, model.to_string()) {
                Ok(found) => {
                    let note = damaged.map(|error: Error| format!("{error}. Taken instead: {}", checkpoint.display()));
                    return Ok(Self { note, ..found });
                }
                // A disk that does not answer is not a damaged checkpoint.
                Err(Error::Read { path, source }) if !is_damage(&source) => return Err(Error::Read { path, source }),
                Err(error) => damaged = damaged.or(Some(error)),
            }
        }
        if has_result {
            return Self::locate(&result);
        }
        Err(damaged.unwrap_or_else(|| Error::file(path, "this run has no checkpoint yet; let it train for an epoch")))
    }

    fn verified(folder: &Path, config: String) -> Result<Self> {
        if checksums::exist(folder)? {
            let preprocessor = exists(&folder.join(PREPROCESSOR))?.then_some(PREPROCESSOR);
            let names: Vec<&str> = [CONFIG, WEIGHTS].into_iter().chain(preprocessor).collect();
            checksums::verify(folder, &names)?;
        }
        Ok(Self { folder: folder.to_path_buf(), config, note: None })
    }
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(Error::read(path))
}

/// Whether an error in reading says that a file is not what it was, and not that the system could not read it.
pub fn is_damage(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidData)
}

/// The complete checkpoints in the folder `parent` of a run, oldest first: `epoch-0003` after three whole epochs,
/// `epoch-0003-step-000120` inside of the fourth. Nothing if there is no such folder.
///
/// # Errors
/// [`Error::Read`] if the folder cannot be read.
pub fn checkpoints(parent: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::read(parent)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::read(parent))?.path();
        let position = path.file_name().and_then(|name| name.to_str()).and_then(|name| {
            let rest = name.strip_prefix("epoch-")?;
            let (epoch, step) = rest.split_once("-step-").unwrap_or((rest, "0"));
            // As numbers: as text, epoch 10000 would come before epoch 2000.
            Some((epoch.parse::<u64>().ok()?, step.parse::<u64>().ok()?))
        });
        if let Some(position) = position {
            found.push((position, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Builds the network of a model folder, of a run, of a checkpoint or of a name on the Hub ([`Pretrained::locate`]), and
/// returns it with the store that holds its tensors.
///
/// The tensors are converted to `dtype` where they were saved as another.
///
/// `Preprocessor::from_pretrained` of `lmht-datasets` takes the same path or name and has the rest: what turns an image into
/// the network's input, and the names of the classes. `Predictor` of `lmht-train` is both.
///
/// # Errors
/// If a file is missing, damaged or not what its name says, the tensors do not fit the configuration, or a value cannot be
/// computed with ([`ParamStore::check_values`]); the message names the file and, for tensors, lists every difference.
pub fn from_pretrained(path: impl AsRef<Path>, dtype: DType, device: &Device) -> Result<(Network, ParamStore)> {
    load(path.as_ref(), dtype, device, ModelConfig::from_json)
}

/// As [`from_pretrained`], of a network whose body is an `A`, or a built-in one.
///
/// # Errors
/// As [`from_pretrained`], and if the body has another name than `A`.
pub fn from_pretrained_as<A: Architecture + DeserializeOwned>(
    path: impl AsRef<Path>,
    dtype: DType,
    device: &Device,
) -> Result<(Network, ParamStore)> {
    load(path.as_ref(), dtype, device, ModelConfig::from_json_as::<A>)
}

fn load(
    path: &Path,
    dtype: DType,
    device: &Device,
    parse: impl FnOnce(&str) -> Result<ModelConfig>,
) -> Result<(Network, ParamStore)> {
    let found = Pretrained::locate(path)?;
    let config = parse(&found.config).map_err(|error| Error::file(found.folder.join(CONFIG), error))?;
    let weights = found.weights();
    let tensors = read_safetensors(&weights)?;
    let origin = weights.display().to_string();
    // Before there is memory for what the configuration asks for: it is no more than the file holds.
    check_shapes(&origin, &shapes(&config).map_err(|error| Error::file(found.folder.join(CONFIG), error))?, &tensors)?;
    ParamStore::check_values(&origin, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))?;
    let params = ParamStore::blank();
    let network = Network::new(&config, params.builder(dtype, device))?;
    params.load(&origin, &tensors)?;
    Ok((network, params))
}
