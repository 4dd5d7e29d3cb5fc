//! The parts of `gpu-run`, in the order in which they run.

use anyhow::Result;
use serde_json::Value;

use super::setup::Setup;
use super::{correct, speed, training};

/// What a part belongs to; also a name for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    Correctness,
    Speed,
    Training,
}

impl Group {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Correctness => "correctness",
            Self::Speed => "speed",
            Self::Training => "training",
        }
    }
}

/// How a part is run: always by another process, which may crash or hang.
pub(super) enum Runner {
    /// This program.
    Own(fn(&Setup<'_>) -> Result<Value>),
    /// PyTorch's side, with these arguments.
    Python(&'static [&'static str]),
}

pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) group: Group,
    pub(super) title: &'static str,
    /// Its limit in seconds; of a training run, its share of the time that is left for all of them.
    pub(super) limit: f64,
    pub(super) runner: Runner,
}

const fn own(
    name: &'static str,
    group: Group,
    title: &'static str,
    limit: f64,
    run: fn(&Setup<'_>) -> Result<Value>,
) -> Part {
    Part { name, group, title, limit, runner: Runner::Own(run) }
}

/// The first one decides whether there is a device at all.
pub(super) const PARTS: [Part; 13] = [
    own("machine", Group::Correctness, "the device opens and adds", 60., correct::machine),
    own("suite", Group::Correctness, "every kernel against a loop or the reference", 150., correct::suite),
    own("golden", Group::Correctness, "golden cases in float64", 120., correct::golden_cases),
    own("networks", Group::Correctness, "networks against the CPU, gradients and updates", 90., correct::networks),
    own("neuron", Group::Speed, "the neuron's kernels beside a copy", 60., speed::neuron),
    own("step", Group::Speed, "the training step of ResNet-18, in bf16 on a GPU", 75., speed::step),
    own("step-f32", Group::Speed, "the same in float32", 45., speed::step_f32),
    Part {
        name: "pytorch",
        group: Group::Speed,
        title: "PyTorch's training step",
        limit: 75.,
        runner: Runner::Python(&[]),
    },
    Part {
        name: "pytorch-compiled",
        group: Group::Speed,
        title: "PyTorch's, compiled",
        limit: 150.,
        runner: Runner::Python(&["--compiled"]),
    },
    own("cifar10-lmht", Group::Training, "ResNet-18 of LM-HT on CIFAR-10 (JPEG)", 3., training::cifar10_lmht),
    own("cifar10-relu", Group::Training, "the same of ReLU", 2., training::cifar10_relu),
    own("cifar10-qcfs", Group::Training, "the same of QCFS", 2., training::cifar10_qcfs),
    own("tiny-imagenet-vgg13", Group::Training, "VGG-13 of LM-HT on Tiny-ImageNet", 3., training::tiny_imagenet_vgg13),
];

/// The part that decides whether there is a device.
pub(super) const MACHINE: &str = "machine";
/// The run whose epochs the other networks on the same data have.
pub(super) const PLANNED: &str = "cifar10-lmht";
