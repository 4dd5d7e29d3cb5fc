//! Model folders: `config.json`, `model.safetensors` and a model card, as the Hub holds them.

use std::path::Path;

use candle_core::{DType, Device};
use serde::de::DeserializeOwned;

use crate::atomic::FolderWriter;
use crate::{Architecture, Error, ModelConfig, Network, ParamStore, Result};

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
}

impl ModelCard {
    fn text(&self, config: &ModelConfig) -> String {
        let title = config.backbone.title();
        let top1 = self.top1.map_or_else(|| "not measured".into(), |top1| format!("{:.2} %", 100. * top1));
        format!(
            "---\nlibrary_name: lmht\ntags:\n- spiking-neural-network\n- lm-ht\n---\n\n# {title}, L = {levels}, T = {t}\n\n\
             | | |\n|---|---|\n| test accuracy after the last epoch | {top1} |\n| data | {data} |\n| command | `{command}` |\n\n\
             `config.json` rebuilds the network; `model.safetensors` has its tensors under the published names.\n\n\
             ## Configuration of the run\n\n```json\n{run}\n```\n",
            levels = config.neuron.levels(),
            t = config.timesteps,
            data = self.data,
            command = self.command,
            run = self.config.trim_end(),
        )
    }
}

/// Writes a model folder: `config.json`, `model.safetensors` and the card as `README.md`, whole or not at all.
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
    let weights = params.to_safetensors()?;
    let mut folder = FolderWriter::replacing(path)?;
    folder.write("config.json", config.to_json().as_bytes())?;
    folder.write("model.safetensors", &weights)?;
    folder.write("README.md", card.text(config).as_bytes())?;
    folder.commit()?;
    Ok(())
}

/// Builds the network of a model folder, and returns it with the store that holds its tensors.
///
/// The tensors are converted to `dtype` where they were saved as another.
///
/// # Errors
/// If a file is missing or is not what its name says, or the tensors do not fit the configuration; the message names the
/// file and, for tensors, lists every difference.
pub fn from_pretrained(path: &Path, dtype: DType, device: &Device) -> Result<(Network, ParamStore)> {
    load(path, dtype, device, ModelConfig::from_json)
}

/// As [`from_pretrained`], of a network whose body is an `A`, or a built-in one.
///
/// # Errors
/// As [`from_pretrained`], and if the body has another name than `A`.
pub fn from_pretrained_as<A: Architecture + DeserializeOwned>(
    path: &Path,
    dtype: DType,
    device: &Device,
) -> Result<(Network, ParamStore)> {
    load(path, dtype, device, ModelConfig::from_json_as::<A>)
}

fn load(
    path: &Path,
    dtype: DType,
    device: &Device,
    parse: impl FnOnce(&str) -> Result<ModelConfig>,
) -> Result<(Network, ParamStore)> {
    let config_path = path.join("config.json");
    let json = std::fs::read_to_string(&config_path).map_err(|error| {
        Error::file(&config_path, format!("{error}; expected a model folder with config.json and model.safetensors"))
    })?;
    let config = parse(&json).map_err(|error| Error::file(&config_path, error))?;
    let params = ParamStore::blank();
    let network = Network::new(&config, params.builder(dtype, device))?;
    params.load_file(&path.join("model.safetensors"))?;
    Ok((network, params))
}
