//! `--device`: where a network runs.

use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use candle_core::Device;

/// Where the network runs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DeviceArgs {
    /// cpu, cuda, cuda:N for the N-th NVIDIA GPU from 0, or metal; a GPU needs a build with its feature, see docs/gpu.md.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Place,
}

/// A device by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Cpu,
    Cuda(usize),
    Metal,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("expected cpu, cuda, cuda:N or metal, got {text}");
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "metal" => Ok(Self::Metal),
            _ => text.strip_prefix("cuda:").and_then(|n| n.parse().ok()).map(Self::Cuda).ok_or_else(wrong),
        }
    }
}

impl DeviceArgs {
    /// The device.
    ///
    /// # Errors
    /// If the binary was built without it, or the machine has none or no driver for it.
    pub(crate) fn open(&self) -> Result<Device> {
        match self.device {
            Place::Cpu => Ok(Device::Cpu),
            Place::Cuda(gpu) => {
                let built = "--device cuda: built without cuda; cargo build --release --features cuda -p xtask";
                ensure!(cfg!(feature = "cuda"), built);
                let what = "no such GPU, or no driver for it; nvidia-smi lists those that there are";
                Device::new_cuda(gpu).with_context(|| format!("--device cuda:{gpu}: {what}"))
            }
            Place::Metal => {
                let built = "--device metal: built without metal; cargo build --release --features metal -p xtask";
                ensure!(cfg!(feature = "metal"), built);
                Device::new_metal(0).context("--device metal: no such GPU; Metal needs a Mac")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let all = [("cpu", Place::Cpu), ("cuda", Place::Cuda(0)), ("cuda:3", Place::Cuda(3)), ("metal", Place::Metal)];
        for (name, place) in all {
            assert_eq!(name.parse(), Ok(place), "{name}");
        }
        for name in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", "metal:0"] {
            let error = name.parse::<Place>().expect_err(name);
            assert!(error.contains("cuda:N"), "{name}: {error}");
        }
    }

    #[test]
    fn a_build_without_a_gpu_says_how_to_make_one_with_it() {
        for (device, feature, is_built) in
            [(Place::Cuda(0), "cuda", cfg!(feature = "cuda")), (Place::Metal, "metal", cfg!(feature = "metal"))]
        {
            if !is_built {
                let error = DeviceArgs { device }.open().expect_err(feature).to_string();
                let command = format!("cargo build --release --features {feature} -p xtask");
                assert!(error.contains(&command), "{error}");
            }
        }
    }
}
