//! Which rows are reproduced, and by which stand-in.

use anyhow::{Context, Result};
use lmht_datasets::{Augment, ReadOptions};
use lmht_nn::{Backbone, ModelConfig, NeuronConfig, Precision, Stem};
use lmht_train::TrainConfig;
use lmht_train::optim::{OptimizerConfig, SgdConfig};
use lmht_train::schedule::{ScheduleConfig, UpdateEvery};
use serde::Serialize;

use super::paper::{self, PaperRow};
use crate::experiment::{DataConfig, Experiment};

/// How much is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Preset {
    /// Small networks on the whole sample: at most 10 minutes on 2 cores.
    Laptop,
    /// The same path on a few images: under a minute, for tests of the program. Its accuracies mean nothing.
    Smoke,
}

impl Preset {
    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Laptop => "laptop",
            Self::Smoke => "smoke",
        }
    }
}

/// A row of a table and the runs that stand in for it.
pub(crate) struct Row {
    /// Name of the run folders.
    pub(crate) id: String,
    /// For people.
    pub(crate) title: String,
    /// What the paper printed.
    pub(crate) paper: PaperRow,
    /// What is run instead; each seed replaces `train.seed`.
    pub(crate) experiment: Experiment,
    /// The seeds.
    pub(crate) seeds: Vec<u64>,
}

/// The rows of a preset, table by table.
pub(crate) fn rows(preset: Preset) -> Result<Vec<Row>> {
    let published = paper::rows()?;
    let find = |table: &str, dataset: Option<&str>, arch: &str, levels: u32, timesteps: usize, tgim: Option<bool>| {
        published
            .iter()
            .find(|row| {
                row.table == table
                    && dataset.is_none_or(|dataset| row.dataset == dataset)
                    && (row.arch.as_str(), row.levels, row.timesteps, row.tgim) == (arch, levels, timesteps, tgim)
            })
            .cloned()
            .with_context(|| format!("docs/paper-tables.toml: no row {table}, {arch}, L = {levels}, T = {timesteps}"))
    };
    let imagenet_stem =
        |neuron, timesteps| ModelConfig { stem: Stem::Imagenet, neuron, timesteps, ..ModelConfig::resnet18(10) };
    let table1 = [
        ("l1t4", imagenet_stem(NeuronConfig::integrate_and_fire(), 4), (1, 4, false)),
        ("l2t2-no-tgim", imagenet_stem(NeuronConfig::mht(2), 2), (2, 2, false)),
        ("l2t2", imagenet_stem(NeuronConfig::lmht(2), 2), (2, 2, true)),
    ];
    let mut rows = Vec::new();
    for (id, model, (levels, timesteps, tgim)) in table1 {
        rows.push(Row {
            id: format!("table1-resnet18-{id}"),
            title: format!(
                "Table 1, ResNet-18, L = {levels}, T = {timesteps}, T-GIM {}",
                if tgim { "yes" } else { "no" }
            ),
            paper: find("Table 1", None, "ResNet-18", levels, timesteps, Some(tgim))?,
            experiment: stand_in(preset, model),
            seeds: preset.seeds(),
        });
    }
    // The network of Table 3's first row is that of Table 1's last: one run stands in for both.
    rows.push(Row {
        id: "table1-resnet18-l2t2".into(),
        title: "Table 3, ResNet-18, L = 2, T = 2".into(),
        paper: find("Table 3", Some("CIFAR-10"), "ResNet-18", 2, 2, None)?,
        experiment: stand_in(preset, imagenet_stem(NeuronConfig::lmht(2), 2)),
        seeds: preset.seeds(),
    });
    rows.push(Row {
        id: "table3-vgg13-l2t2".into(),
        title: "Table 3, VGG-13, L = 2, T = 2".into(),
        paper: find("Table 3", Some("ImageNet-200"), "VGG-13", 2, 2, None)?,
        experiment: stand_in(preset, ModelConfig::vgg13(10)),
        seeds: preset.seeds(),
    });
    Ok(rows)
}

impl Preset {
    fn seeds(self) -> Vec<u64> {
        match self {
            Self::Laptop => vec![42, 43],
            Self::Smoke => vec![42],
        }
    }

    /// Channels of the first stage; every published network of these rows has 64.
    fn width(self) -> usize {
        match self {
            Self::Laptop => 16,
            Self::Smoke => 4,
        }
    }

    /// Every row of a table has the same budget; Table 1 compares neurons, so it needs the same for each, not the most.
    fn epochs(self, backbone: &Backbone) -> usize {
        match (self, backbone) {
            (Self::Laptop, Backbone::Vgg13) => 5,
            (Self::Laptop, Backbone::Resnet20) => 4,
            (Self::Laptop, _) => 3,
            (Self::Smoke, _) => 1,
        }
    }

    /// Channels of the first stage of Table 4's networks; the published one has 16.
    pub(crate) fn hybrid_width(self) -> usize {
        match self {
            Self::Laptop => 8,
            Self::Smoke => 4,
        }
    }

    /// Epochs of hybrid training; the published one has 30 after 300 of the ANN.
    pub(crate) fn fine_tuning_epochs(self) -> usize {
        1
    }

    /// Timesteps of RMP (of the published 32, 64 and 128 what fits the time), of SRP's second stage, and of QCFS.
    pub(crate) fn inference_timesteps(self) -> [&'static [usize]; 3] {
        match self {
            Self::Laptop => [&[32], &[1, 2, 4], &[2, 4, 8]],
            Self::Smoke => [&[2], &[1], &[4]],
        }
    }

    /// Test images on which conversions are compared and evaluated; absent: all.
    pub(crate) fn compared_images(self) -> Option<usize> {
        match self {
            Self::Laptop => None,
            Self::Smoke => Some(100),
        }
    }
}

/// The same network and recipe at the preset's size, on the sample.
pub(crate) fn stand_in(preset: Preset, model: ModelConfig) -> Experiment {
    let epochs = preset.epochs(&model.backbone);
    Experiment {
        published: Vec::new(),
        start: None,
        model: ModelConfig { width: preset.width(), in_channels: 1, ..model },
        train: TrainConfig {
            epochs,
            // Half the published batch: a run of a few epochs needs the updates.
            batch_size: 32,
            seed: 42,
            optimizer: OptimizerConfig::Sgd(SgdConfig { lr: 0.05, momentum: 0.9, nesterov: true, weight_decay: 5e-4 }),
            // The published schedule is stepped per epoch; a run of a few epochs needs the finer one.
            schedule: ScheduleConfig { update_every: UpdateEvery::Step, ..ScheduleConfig::default() },
            label_smoothing: 0.,
            checkpoint_every_steps: None,
            recompute: false,
            precision: Precision::F32,
        },
        data: DataConfig {
            parquet: ReadOptions { max_per_class: (preset == Preset::Smoke).then_some(32), ..ReadOptions::default() },
            // No crop: in a few epochs it costs more than it gives.
            augment: Augment { flip: true, ..Augment::default() },
            ..DataConfig::default()
        },
    }
}
