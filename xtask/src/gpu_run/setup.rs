//! What every part of `gpu-run` is told.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::device::DeviceArgs;

/// How much there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Size {
    /// For a GPU.
    Full,
    /// The same with the smallest networks and a few steps: shows on a CPU that everything can be run.
    Small,
}

/// Epochs and images of a run that another one is to have, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) epochs: usize,
    pub(crate) images_per_epoch: usize,
}

impl std::str::FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let numbers =
            text.split_once('x').and_then(|(epochs, images)| Some((epochs.parse().ok()?, images.parse().ok()?)));
        let (epochs, images_per_epoch) = numbers.ok_or("expected EPOCHSxIMAGES")?;
        Ok(Self { epochs, images_per_epoch })
    }
}

/// Where and how a part runs.
pub(crate) struct Setup<'a> {
    pub(crate) device: &'a DeviceArgs,
    pub(crate) size: Size,
    pub(crate) cifar10: Option<&'a Path>,
    pub(crate) tiny_imagenet: Option<&'a Path>,
    /// Runs with their checkpoints.
    pub(crate) runs: PathBuf,
    /// When the part has to be done.
    pub(crate) deadline: Instant,
    pub(crate) plan: Option<Plan>,
    /// Stops a training at once, for a test.
    pub(crate) stop_at_once: bool,
}

impl Setup<'_> {
    pub(crate) fn open(&self) -> Result<Device> {
        self.device.open()
    }

    pub(crate) fn is_small(&self) -> bool {
        self.size == Size::Small
    }

    pub(crate) fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// A reason not to run a part, which is no failure: the part returns it as an error, and the caller tells it from others.
#[derive(Debug)]
pub(crate) struct Skipped(pub(crate) String);

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skipped {}

/// Fails if one is listed.
pub(crate) fn none_failed(failures: &[String]) -> Result<()> {
    match failures {
        [] => Ok(()),
        [only] => bail!("{only}"),
        [first, ..] => bail!("{first}; {} failed in all", failures.len()),
    }
}
