//! `--device`: where a network runs.

use std::fmt;
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

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(gpu) => write!(f, "cuda:{gpu}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl fmt::Display for DeviceArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.device.fmt(f)
    }
}

impl DeviceArgs {
    /// Whether no GPU is asked for.
    pub(crate) fn is_cpu(&self) -> bool {
        self.device == Place::Cpu
    }

    /// The number of the NVIDIA GPU, if it is one.
    pub(crate) fn gpu(&self) -> Option<usize> {
        match self.device {
            Place::Cuda(gpu) => Some(gpu),
            Place::Cpu | Place::Metal => None,
        }
    }

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
                libraries().with_context(|| format!("--device cuda:{gpu}"))?;
                let what = "no such GPU, or no driver for it; nvidia-smi lists those that there are";
                let device = Device::new_cuda(gpu).with_context(|| format!("--device cuda:{gpu}: {what}"))?;
                without_events(&device);
                Ok(device)
            }
            Place::Metal => {
                let built = "--device metal: built without metal; cargo build --release --features metal -p xtask";
                ensure!(cfg!(feature = "metal"), built);
                Device::new_metal(0).context("--device metal: no such GPU; Metal needs a Mac")
            }
        }
    }
}

/// Spares every tensor the two events by which cudarc keeps streams apart, and which nothing waits for here.
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
fn without_events(device: &Device) {
    if let Device::Cuda(device) = device {
        // SAFETY: no stream is made in this program. Candle's device has one for each thread, for which there are no events
        // either: a loader's thread waits for what it began before another thread gets to see it.
        unsafe { device.disable_event_tracking() };
    }
}

#[cfg(not(feature = "cuda"))]
fn without_events(_: &Device) {}

/// Says which of CUDA's libraries this machine lacks: a program that loads them would end at the first call.
#[cfg(all(feature = "cuda", target_os = "linux"))]
#[allow(unsafe_code)]
fn libraries() -> Result<()> {
    const DRIVER: &str = "the driver is not installed; --device cpu needs none";
    const WHEELS: &str = "pip install torch brings CUDA's libraries, and so do nvidia-cublas, nvidia-curand, \
                          nvidia-cuda-nvrtc, nvidia-cudnn-cu13; name their folders in LD_LIBRARY_PATH";
    let needed = [("cuda", DRIVER), ("cublas", WHEELS), ("cublasLt", WHEELS), ("curand", WHEELS), ("nvrtc", WHEELS)];
    let cudnn = cfg!(feature = "cudnn").then_some(("cudnn", WHEELS));
    for (name, hint) in needed.into_iter().chain(cudnn) {
        // The names that cudarc tries.
        let names = ["", ".13", ".12", ".11", ".10", ".9", ".1"].map(|version| format!("lib{name}.so{version}"));
        // SAFETY: these are NVIDIA's libraries, which the program is about to load anyway.
        let is_there = names.iter().any(|name| unsafe { libloading::Library::new(name) }.is_ok());
        ensure!(is_there, "no lib{name}.so: {hint}");
    }
    Ok(())
}

#[cfg(not(all(feature = "cuda", target_os = "linux")))]
fn libraries() -> Result<()> {
    Ok(())
}

/// What runs networks in a check: a device, or the kernels of a GPU on the CPU.
#[derive(Debug, Clone)]
pub(crate) struct Executor {
    device: Device,
    is_emulator: bool,
}

impl Executor {
    /// A device.
    pub(crate) fn on(device: Device) -> Self {
        Self { device, is_emulator: false }
    }

    /// A GPU, or in place of the CPU the emulator.
    pub(crate) fn of_kernels(device: Device) -> Self {
        let is_emulator = device.is_cpu();
        Self { device, is_emulator }
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Runs `f` on it.
    ///
    /// # Errors
    /// Of `f`, or that the emulator has no C++ compiler.
    pub(crate) fn run<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.is_emulator {
            return f();
        }
        lmht_nn::gpu::emulated(f).context("the emulator needs a C++ compiler: install g++ or clang++, or set CXX")?
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
