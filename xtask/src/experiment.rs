//! An experiment: network, training and data in one TOML file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use lmht_datasets::events::{EventAugment, EventRecipe};
use lmht_datasets::{Augment, Mix, Normalize, ReadOptions};
use lmht_hub::{Repo, RepoKind};
use lmht_nn::ModelConfig;
use lmht_train::TrainConfig;
use serde::{Deserialize, Serialize};

use crate::published::Key;
use crate::terminal::did_you_mean;

/// Everything that decides the result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Experiment {
    /// The published rows that it reproduces; not part of the record.
    #[serde(default, skip_serializing)]
    pub(crate) published: Vec<Key>,
    /// A model folder whose weights training starts from, relative to where the command runs; absent: new ones from the
    /// seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) start: Option<PathBuf>,
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
    /// repository, and `owner/name` a data set of the Hugging Face Hub.
    #[serde(default = "sample")]
    pub(crate) path: PathBuf,
    /// The name of the data set on the Hugging Face Hub: where to get what is not at `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hub: Option<String>,
    /// How the parquet is read.
    #[serde(default)]
    pub(crate) parquet: ReadOptions,
    /// Leaves images on the disk and reads them in every epoch: for a data set that does not fit in memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) streaming: bool,
    /// Encoded images in memory among which the next one of a streamed training epoch is drawn; absent: 10,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shuffle_buffer: Option<usize>,
    /// Random changes to the training images.
    #[serde(default)]
    pub(crate) augment: Augment,
    /// (height, width) of the middle that is cut out of the test images; absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) center_crop: Option<(usize, usize)>,
    /// Mixes the training images of a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mix: Option<Mix>,
    /// Repeated augmentation: how often each image of a training epoch is in it, which has as many fewer images; absent: once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) aug_repeats: Option<usize>,
    /// Recordings of an event camera in place of images, and what the network is shown of them; `parquet` has their splits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) events: Option<EventRecipe>,
    /// Random changes to the frames of training recordings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) event_augment: Option<EventAugment>,
    /// Mean and standard deviation of each channel; absent: measured on the training images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) normalize: Option<Normalize>,
}

fn sample() -> PathBuf {
    "sample".into()
}

impl DataConfig {
    /// Other data, at a path, by a name on the Hub or by one of [`NAMED`].
    pub(crate) fn set_path(&mut self, path: &Path) {
        self.path = path.to_path_buf();
        if let Some((_, package, repo)) = NAMED.into_iter().find(|(name, ..)| path == Path::new(name) && !path.exists())
        {
            let package = package.map(PathBuf::from).filter(|folder| folder.exists());
            (self.path, self.hub) = (package.unwrap_or_else(|| repo.into()), Some(repo.to_owned()));
        } else if Repo::at(RepoKind::Dataset, path).is_some() {
            self.hub = path.to_str().map(str::to_owned);
        }
    }
}

/// Data sets with names of their own: where a package of Debian puts them, and what they are called on the Hub.
const NAMED: [(&str, Option<&str>, &str); 2] = [
    ("fashion-mnist", Some("/usr/share/datasets/fashion-mnist"), "zalando-datasets/fashion_mnist"),
    ("mnist", None, "ylecun/mnist"),
];

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: sample(),
            hub: None,
            parquet: ReadOptions::default(),
            streaming: false,
            shuffle_buffer: None,
            augment: Augment::default(),
            center_crop: None,
            mix: None,
            aug_repeats: None,
            events: None,
            event_augment: None,
            normalize: None,
        }
    }
}

/// Names and texts of the files in `presets/`.
macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../presets/", $name, ".toml")))),*]
    };
}

/// Named presets: the file name without its ending.
const PRESETS: &[(&str, &str)] = &presets![
    "fashion-resnet18-L2T2",
    "fashion-resnet18-if-T4",
    "fashion-vgg13-L2T2",
    "fashion-mnist-resnet20-L2T2",
    "fashion-mnist-resnet20-L2T2-restart",
    "ms-resnet18-cifar10-L2T4",
    "ms-resnet18-cifar100-L2T4",
    "ms-resnet34-imagenet1k-L2T2",
    "nmnist-resnet20-L2T2",
    "resnet18-cifar10-L2T2",
    "resnet18-cifar100-L2T2",
    "resnet18-cifar10dvs-L2T2",
    "resnet18-cifar10dvs-L2T4",
    "resnet18-cifar10dvs-L4T2",
    "resnet18-imagenet100-L2T2",
    "resnet18-imagenet100-if-T4",
    "resnet18-imagenet100-mht-L2T2",
    "resnet18-imagenet200-L2T2",
    "resnet19-cifar10-L2T2",
    "resnet19-cifar100-L2T2",
    "resnet20-cifar100-Q4-L2T2",
    "resnet20-cifar100-Q4-L2T4",
    "resnet20-cifar100-Q4-L4T2",
    "resnet20-cifar100-Q8-L2T2",
    "resnet20-cifar100-Q8-L2T4",
    "resnet20-cifar100-Q8-L4T2",
    "resnet20-cifar100-qcfs-Q4",
    "resnet20-cifar100-qcfs-Q8",
    "resnet20-cifar100-relu",
    "resnet34-imagenet100-L2T2",
    "resnet34-imagenet100-if-T4",
    "resnet34-imagenet100-mht-L2T2",
    "transformer-cifar10-L2T4",
    "transformer-cifar100-L2T4",
    "vgg13-imagenet200-L2T2",
    "vgg13-imagenet200-L2T4",
    "vgg13-imagenet200-L4T2",
    "vgg16-cifar100-Q4-L2T2",
    "vgg16-cifar100-Q4-L2T4",
    "vgg16-cifar100-Q4-L4T2",
    "vgg16-cifar100-Q8-L2T2",
    "vgg16-cifar100-Q8-L2T4",
    "vgg16-cifar100-Q8-L4T2",
    "vgg16-cifar100-qcfs-Q4",
    "vgg16-cifar100-qcfs-Q8",
    "vgg16-cifar100-relu",
];

/// Every preset with its name.
pub(crate) fn presets() -> Result<Vec<(&'static str, Experiment)>> {
    PRESETS.iter().map(|(name, _)| Ok((*name, Experiment::load(name)?))).collect()
}

impl Experiment {
    /// The experiment in a file, or the preset of that name.
    pub(crate) fn load(name: &str) -> Result<Self> {
        if let Some((_, toml)) = PRESETS.iter().find(|(preset, _)| *preset == name) {
            return Self::parse(toml).with_context(|| format!("preset {name}"));
        }
        let path = Path::new(name);
        if !path.exists() {
            let presets: Vec<_> = PRESETS.iter().map(|(name, _)| *name).collect();
            let near = did_you_mean(name, presets.iter().copied());
            bail!(
                "{name}: neither a file nor a preset{near}; `cargo xtask train --list` describes the presets, which are {}",
                presets.join(", ")
            );
        }
        let toml = std::fs::read_to_string(path).with_context(|| format!("{name}: expected a TOML file"))?;
        Self::parse(&toml).with_context(|| name.to_string())
    }

    fn parse(toml: &str) -> Result<Self> {
        let experiment: Self = toml::from_str(toml)?;
        experiment.check()?;
        Ok(experiment)
    }

    /// Checks network and training, and that the paths can be recorded.
    pub(crate) fn check(&self) -> Result<()> {
        self.model.check().context("[model]")?;
        self.train.check().context("[train]")?;
        ensure!(
            self.data.streaming || self.data.shuffle_buffer.is_none(),
            "data.shuffle_buffer: expected data.streaming = true (--streaming) beside it; images in memory are shuffled as a \
             whole"
        );
        for path in [Some(&self.data.path), self.start.as_ref()].into_iter().flatten() {
            ensure!(
                path.to_str().is_some(),
                "{}: expected a name in UTF-8, since the record of the run has to hold it; rename it, or give a link to it",
                path.display()
            );
        }
        Ok(())
    }

    /// The experiment as a file that [`Experiment::load`] reads.
    pub(crate) fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string_pretty(self)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use candle_core::{DType, Device, Tensor};
    use lmht_nn::neurons;
    use lmht_nn::{Backbone, Network, NeuronConfig, ParamStore, Pass};
    use lmht_train::optim::OptimizerConfig;
    use lmht_train::schedule::ScheduleConfig;

    use super::*;
    use crate::published;

    #[test]
    fn data_sets_with_names_are_in_a_package_or_on_the_hub() {
        for (name, package, repo) in NAMED {
            let mut data = DataConfig::default();
            data.set_path(Path::new(name));
            let is_here = package.is_some_and(|folder| Path::new(folder).exists());
            assert_eq!(data.path, Path::new(if is_here { package.unwrap() } else { repo }));
            assert_eq!(data.hub.as_deref(), Some(repo));
        }
        // A folder of that name is a folder, and other names are what they were.
        let mut data = DataConfig::default();
        data.set_path(Path::new("mnist.parquet"));
        assert_eq!((data.path, data.hub), (PathBuf::from("mnist.parquet"), None));
    }

    #[test]
    fn every_preset_loads_and_survives_a_round_trip() {
        for (name, experiment) in presets().unwrap() {
            let again = Experiment::parse(&experiment.to_toml().unwrap()).unwrap();
            assert_eq!(again, Experiment { published: Vec::new(), ..experiment }, "{name}");
        }
    }

    #[test]
    fn every_file_is_a_preset() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("presets");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let files: BTreeSet<String> = files.collect();
        assert_eq!(files, PRESETS.iter().map(|(name, _)| format!("{name}.toml")).collect());
    }

    /// Each of the paper's rows that are to be reproduced has a preset, and each preset is the network of its rows.
    #[test]
    fn no_published_row_is_forgotten() {
        let rows = published::rows().unwrap();
        let presets = presets().unwrap();
        for row in &rows {
            let found = presets.iter().any(|(_, preset)| preset.published.iter().any(|key| key.matches(row)));
            assert!(found, "no preset for {row:?}");
        }
        for (name, Experiment { published, model, data, train, start }) in &presets {
            let is_ours = ["fashion-", "nmnist-"].iter().any(|ours| name.starts_with(ours));
            assert_eq!(published.is_empty(), is_ours, "{name}");
            for key in published {
                let rows: Vec<_> = rows.iter().filter(|row| key.matches(row)).collect();
                assert!(!rows.is_empty(), "{name}: no row for {key:?}");
                for row in rows {
                    let published_width = match &model.backbone {
                        Backbone::Resnet20 => 16,
                        Backbone::Spikformer => 384,
                        _ => 64,
                    };
                    let title = match &model.backbone {
                        Backbone::Spikformer => "Transformer-4-384",
                        // The paper calls it so in Table 3; its appendix names the network.
                        Backbone::MsResnet34 => "ResNet-34",
                        backbone => backbone.title(),
                    };
                    assert_eq!(row.arch, title, "{name}");
                    assert_eq!(model.width, published_width, "{name}");
                    let n_classes = match row.dataset.as_str() {
                        "CIFAR-10" | "CIFAR10-DVS" => 10,
                        "ImageNet-1k" => 1000,
                        dataset if dataset.starts_with("a subset") => 100,
                        "CIFAR-100" => 100,
                        _ => 200,
                    };
                    assert_eq!(model.n_classes, n_classes, "{name}: {}", row.dataset);
                    assert_eq!(data.events.is_some(), row.dataset == "CIFAR10-DVS", "{name}");
                    match (&model.neuron, row.quant_levels) {
                        (NeuronConfig::Qcfs(neurons::Qcfs { quant_levels, .. }), Some(expected)) => {
                            assert_eq!((*quant_levels, start), (expected, &None), "{name}");
                        }
                        (neuron, _) if neuron.is_spiking() => {
                            let expected = (row.levels.unwrap_or(2), row.timesteps.unwrap());
                            let found = (neuron.levels(), model.timesteps);
                            if row.stage.as_deref() == Some("after") {
                                // Reparameterized: one level, the product as timesteps.
                                assert_eq!((1, found.0 as usize * found.1), (expected.0, expected.1), "{name}");
                            } else {
                                assert_eq!(found, expected, "{name}");
                            }
                            let tgim = matches!(neuron, NeuronConfig::Lmht(_));
                            assert_eq!(tgim, row.tgim.unwrap_or(true), "{name}");
                            let hybrid = row.table == "Table 4";
                            assert_eq!(hybrid, start.is_some(), "{name}");
                            if let NeuronConfig::Lmht(neurons::Lmht { v_init, .. }) = neuron {
                                assert_eq!(*v_init, if hybrid { 0.5 } else { 0. }, "{name}");
                            }
                        }
                        _ => assert!(["RMP", "SNM", "SRP"].contains(&row.method.as_str()), "{name}: {row:?}"),
                    }
                    assert_eq!(train.schedule, ScheduleConfig::default(), "{name}");
                }
            }
        }
    }

    /// A recipe of docs/paper-tables.toml; what is not stated there is free.
    #[derive(Debug, Deserialize)]
    struct Recipe {
        lr: Option<f64>,
        weight_decay: Option<f64>,
        epochs: Option<usize>,
        batch_size: Option<usize>,
    }

    #[derive(Deserialize)]
    struct Document {
        recipes: std::collections::BTreeMap<String, Recipe>,
    }

    #[test]
    fn recipes_are_the_published_ones() {
        let document: Document = toml::from_str(published::TOML).unwrap();
        let mut used = BTreeSet::new();
        for (name, experiment) in presets().unwrap() {
            let Experiment { train, start, published, .. } = &experiment;
            let Some(key) = published.first() else { continue };
            let row = published::rows().unwrap().into_iter().find(|row| key.matches(row)).unwrap();
            let recipe = match (row.table.as_str(), row.dataset.as_str(), start) {
                // The ANNs: "SGD lr 0.1, weight decay 5e-4, 300 epochs", in words there.
                ("Table 4", _, None) => {
                    assert_eq!(train.epochs, 300, "{name}");
                    let OptimizerConfig::Sgd(sgd) = train.optimizer else { panic!("{name}: expected SGD") };
                    assert_eq!((sgd.lr, sgd.weight_decay), (0.1, 5e-4), "{name}");
                    continue;
                }
                ("Table 4", ..) => "hybrid",
                (_, "CIFAR10-DVS", _) => "cifar10_dvs",
                (_, "ImageNet-1k", _) => "imagenet1k",
                (_, dataset, _) if dataset.starts_with("a subset") => continue,
                // AdamW, with nothing else stated.
                _ if experiment.model.backbone == Backbone::Spikformer => {
                    assert!(matches!(train.optimizer, OptimizerConfig::AdamW(_)), "{name}");
                    continue;
                }
                (_, dataset, _) if dataset.starts_with("CIFAR") => "cifar",
                _ => "imagenet200",
            };
            used.insert(recipe);
            let stated = &document.recipes[recipe];
            let (lr, weight_decay) = match train.optimizer {
                OptimizerConfig::Sgd(sgd) => {
                    assert!(sgd.momentum == 0.9 && sgd.nesterov && recipe != "cifar10_dvs", "{name}");
                    (sgd.lr, sgd.weight_decay)
                }
                OptimizerConfig::AdamW(adamw) => {
                    assert_eq!(recipe, "cifar10_dvs", "{name}");
                    (adamw.lr, adamw.weight_decay)
                }
            };
            assert_eq!(lr, stated.lr.unwrap_or(lr), "{name}");
            assert_eq!(weight_decay, stated.weight_decay.unwrap_or(weight_decay), "{name}");
            assert_eq!(train.epochs, stated.epochs.unwrap_or(train.epochs), "{name}");
            assert_eq!(train.batch_size, stated.batch_size.unwrap_or(train.batch_size), "{name}");
            assert_eq!(experiment.data.mix.is_some(), recipe == "imagenet1k", "{name}");
        }
        // Those without figures of their own are met above.
        assert_eq!(used, document.recipes.keys().map(String::as_str).collect());
    }

    #[test]
    fn every_network_can_be_built_and_run() {
        for (name, experiment) in presets().unwrap() {
            let width = experiment.model.width / 8;
            let model = ModelConfig { width, ..experiment.model };
            // The smallest images that every backbone takes; the stem of ImageNet quarters them.
            let side = if name.starts_with("fashion-") { 16 } else { 32 };
            let network = Network::new(&model, ParamStore::new(1).builder(DType::F32, &Device::Cpu)).expect(name);
            let images = Tensor::ones((2, model.in_channels, side, side), DType::F32, &Device::Cpu).unwrap();
            let logits = network.forward(&images, &mut Pass::eval()).expect(name);
            assert_eq!(logits.dims(), [model.timesteps, 2, model.n_classes], "{name}");
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
