//! What a command finds of a trained network: its folder, its preprocessing, and the data that it learned from.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::Device;
use lmht_datasets::{Loader, Preprocessing};
use lmht_nn::{ModelConfig, Pretrained};
use serde::Deserialize;

use crate::experiment::{DataConfig, Experiment};
use crate::{data, hub};

/// A trained network on the disk.
#[derive(Debug)]
pub(crate) struct Trained {
    /// The folder that holds `model.safetensors`.
    pub(crate) folder: PathBuf,
    /// What turns an image or a recording into its input; none of a folder that was written before there was such a file.
    pub(crate) preprocessor: Option<Preprocessing>,
    /// The data of its run; the repository's sample if there is no run.
    pub(crate) data: DataConfig,
    /// Where it runs: the CPU unless a command sets another.
    pub(crate) device: Device,
}

impl Trained {
    /// Of a run, a checkpoint, a model folder or a name on the Hub; `data` replaces the path of the data.
    pub(crate) fn locate(path: &Path, data: Option<&Path>) -> Result<Self> {
        let found = Pretrained::locate(&hub::model(path)?)?;
        if let Some(note) = &found.note {
            eprintln!("note: {note}");
        }
        let preprocessor = match found.preprocessor()? {
            Some(json) => Some(Preprocessing::parse(&json, found.folder.join("preprocessor_config.json"))?),
            None => None,
        };
        let mut of_run = DataConfig::default();
        let run = run_of(&found.folder)?;
        if let Some(run) = &run {
            of_run = experiment(run)?.data;
        }
        match (data, &run) {
            (Some(path), _) => of_run.set_path(path),
            (None, Some(run)) => of_run.path = reachable(&of_run.path, run)?,
            (None, None) => (),
        }
        Ok(Self { folder: found.folder, preprocessor, data: of_run, device: Device::Cpu })
    }

    /// The test images, as the network wants them.
    pub(crate) fn test(&self, model: &ModelConfig) -> Result<Loader> {
        data::open_test(&self.data, model, self.preprocessor.as_ref(), &self.device)
    }
}

/// The run that a model folder or a checkpoint belongs to.
fn run_of(folder: &Path) -> Result<Option<PathBuf>> {
    let shown = || folder.display().to_string();
    // A relative folder may have no more ancestors to look at.
    let folder = folder.canonicalize().with_context(shown)?;
    for run in folder.ancestors().skip(1).take(2) {
        // One that cannot be looked at is no reason to take other data than the run's.
        if run.join("run.json").try_exists().with_context(shown)?
            && run.join("config.json").try_exists().with_context(shown)?
        {
            return Ok(Some(run.to_path_buf()));
        }
    }
    Ok(None)
}

fn experiment(run: &Path) -> Result<Experiment> {
    let path = run.join("config.json");
    let json = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&json).with_context(|| path.display().to_string())
}

/// A path that was given relative to where a run was started.
fn reachable(path: &Path, run: &Path) -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Info {
        #[serde(default)]
        directory: PathBuf,
    }
    if path.exists() || path.is_absolute() || path == Path::new("sample") {
        return Ok(path.to_path_buf());
    }
    let record = run.join("run.json");
    let shown = || record.display().to_string();
    let json = std::fs::read_to_string(&record).with_context(shown)?;
    let info: Info = serde_json::from_str(&json).with_context(shown)?;
    // If it is in neither place, the message should show the path as it was given.
    Ok(Some(info.directory.join(path)).filter(|path| path.exists()).unwrap_or_else(|| path.to_path_buf()))
}
