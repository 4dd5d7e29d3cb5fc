//! An experiment: network, training and data in one TOML file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lmht_datasets::{Augment, Normalize, ParquetOptions};
use lmht_nn::ModelConfig;
use lmht_nn::train::TrainConfig;
use serde::{Deserialize, Serialize};

/// Everything that decides the result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Experiment {
    /// The network.
    pub(crate) model: ModelConfig,
    /// How it is trained.
    pub(crate) train: TrainConfig,
    /// What it is shown.
    pub(crate) data: DataConfig,
}

/// A parquet folder and what is done to its images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataConfig {
    /// A folder or file of parquet, relative to where the command runs; `sample` is the Fashion-MNIST sample of this
    /// repository.
    #[serde(default = "sample")]
    pub(crate) path: PathBuf,
    /// How the parquet is read.
    #[serde(default)]
    pub(crate) parquet: ParquetOptions,
    /// Random changes to the training images.
    #[serde(default)]
    pub(crate) augment: Augment,
    /// Mean and standard deviation of each channel; absent: measured on the training images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) normalize: Option<Normalize>,
}

fn sample() -> PathBuf {
    "sample".into()
}

impl Default for DataConfig {
    fn default() -> Self {
        Self { path: sample(), parquet: ParquetOptions::default(), augment: Augment::default(), normalize: None }
    }
}

/// Named presets: the file name without its ending.
const PRESETS: [(&str, &str); 3] = [
    ("fashion-resnet18-L2T2", include_str!("../presets/fashion-resnet18-L2T2.toml")),
    ("fashion-vgg13-L2T2", include_str!("../presets/fashion-vgg13-L2T2.toml")),
    ("fashion-resnet18-if-T4", include_str!("../presets/fashion-resnet18-if-T4.toml")),
];

impl Experiment {
    /// The experiment in a file, or the preset of that name.
    pub(crate) fn load(name: &str) -> Result<Self> {
        if let Some((_, toml)) = PRESETS.iter().find(|(preset, _)| *preset == name) {
            return Self::parse(toml).with_context(|| format!("preset {name}"));
        }
        let path = Path::new(name);
        if !path.exists() {
            let presets: Vec<_> = PRESETS.iter().map(|(name, _)| *name).collect();
            bail!("{name}: neither a file nor a preset; the presets are {}", presets.join(", "));
        }
        let toml = std::fs::read_to_string(path).with_context(|| format!("{name}: expected a TOML file"))?;
        Self::parse(&toml).with_context(|| name.to_string())
    }

    fn parse(toml: &str) -> Result<Self> {
        let experiment: Self = toml::from_str(toml)?;
        experiment.check()?;
        Ok(experiment)
    }

    /// Checks network and training.
    pub(crate) fn check(&self) -> Result<()> {
        self.model.check().context("[model]")?;
        self.train.check().context("[train]")?;
        Ok(())
    }

    /// The experiment as a file that [`Experiment::load`] reads.
    pub(crate) fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string_pretty(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_loads_and_survives_a_round_trip() {
        for (name, _) in PRESETS {
            let experiment = Experiment::load(name).unwrap();
            assert_eq!(Experiment::parse(&experiment.to_toml().unwrap()).unwrap(), experiment, "{name}");
        }
    }

    #[test]
    fn an_unknown_key_is_named() {
        let toml = include_str!("../presets/fashion-resnet18-L2T2.toml").replace("epochs =", "epoch =");
        let message = format!("{:#}", Experiment::parse(&toml).unwrap_err());
        assert!(message.contains("epoch"), "{message}");
    }

    #[test]
    fn an_unknown_preset_lists_the_known_ones() {
        let message = format!("{:#}", Experiment::load("resnet99").unwrap_err());
        assert!(message.contains("resnet99") && message.contains("fashion-resnet18-L2T2"), "{message}");
    }
}
