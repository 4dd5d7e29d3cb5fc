//! `cargo xtask convert`: models from and for other programs, and of other networks.

pub(crate) mod networks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use clap::Subcommand;
use lmht_convert::Model;
use lmht_convert::checkpoint::{self, ImportOptions, Layout};
use lmht_datasets::Preprocessing;
use lmht_nn::{ModelCard, ModelConfig, Pretrained, save_pretrained};
use lmht_train::Predictor;

use crate::experiment::Experiment;
use crate::{hub, provenance, repository};

/// Convert models: hybrid training, single-threshold networks, folding, checkpoints in and out.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask convert hybrid runs/qcfs --levels 2 --timesteps 2 --out hybrid-start
  cargo xtask convert reparameterize runs/fashion-resnet18-L2T2-seed42 --out single
  cargo xtask convert fold single --out folded
  cargo xtask convert export runs/fashion-resnet18-if-T4-seed42 --profile norse --out network.nir
  cargo xtask convert import resnet18.pth --config config.json --out models/resnet18
  cargo xtask convert to-pytorch models/resnet18 --out resnet18.safetensors
  cargo xtask convert import --help")]
pub(crate) struct Args {
    #[command(subcommand)]
    conversion: Conversion,
}

#[derive(Subcommand)]
enum Conversion {
    Hybrid(networks::Hybrid),
    Inference(networks::Inference),
    Reparameterize(networks::Reparameterize),
    Fold(networks::Fold),
    Export(networks::Export),
    Import(Import),
    ToPytorch(ToPytorch),
}

/// Make a model folder of a PyTorch (.pth, .pt, .ckpt) or safetensors file, or of a folder with one.
///
/// The file is told by its content. Nothing in it is executed. The network is looked for in all of a larger checkpoint: it is
/// the dictionary with the most names of the network that --config or --preset describes. What DataParallel, torch.compile,
/// Lightning and averaging put into names is taken out; what is not a tensor of the network is listed and left alone. If
/// names or shapes differ, one message lists every difference.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask convert import checkpoint.pth --config config.json --out models/imported
  cargo xtask convert import weights.safetensors --preset fashion-resnet18-L2T2 --out models/fashion
  cargo xtask convert import resnet18.pth --layout torchvision --config relu.json \
    --preprocessor preprocessor_config.json --out models/relu
  cargo xtask convert import theirs.pth --rename 'features.{n}=layers.{n}' --config config.json --out models/theirs
  cargo xtask convert import cifar100.pth --new-head --config ten-classes.json --out models/start
  cargo xtask eval models/fashion

A config.json is what every model folder has:
  { \"format_version\": 1, \"backbone\": \"resnet20\", \"width\": 16, \"n_classes\": 100, \"timesteps\": 1,
    \"neuron\": { \"kind\": \"qcfs\", \"quant_levels\": 4 } }")]
struct Import {
    /// The checkpoint: a file, an index of shards (model.safetensors.index.json), or the folder with it.
    file: PathBuf,
    #[command(flatten)]
    network: NetworkArgs,
    /// The dictionary that holds the network, such as `state_dict` or `ema.model`, or what its names begin with [default:
    /// where most names of the network are].
    #[arg(long, value_name = "PATH")]
    key: Option<String>,
    /// What a name, or the beginning of names up to a dot, becomes; {n} stands for any part between dots. May be repeated.
    #[arg(long, value_name = "FROM=TO", value_parser = renaming)]
    rename: Vec<(String, String)>,
    /// A TOML or JSON file of such pairs: "features.{n}" = "layers.{n}".
    #[arg(long, value_name = "FILE")]
    rename_map: Option<PathBuf>,
    /// A name, or the beginning of names up to a dot, to leave out. May be repeated.
    #[arg(long, value_name = "NAME")]
    drop: Vec<String>,
    /// Whose names the file has: published or torchvision (ResNet-18 and -34, VGG-11 to -19).
    #[arg(long, default_value = "published")]
    layout: Layout,
    /// Start the last layer anew, for a fine-tuning on other classes.
    #[arg(long)]
    new_head: bool,
    /// The seed of the new layer.
    #[arg(long, default_value_t = 42, requires = "new_head")]
    seed: u64,
    /// How an image becomes an input: a preprocessor_config.json as `transformers` and model folders here have it, or a model
    /// folder with one. A checkpoint has none.
    #[arg(long, value_name = "FILE")]
    preprocessor: Option<PathBuf>,
    /// The model folder to write; a model folder there is replaced.
    #[arg(long)]
    out: PathBuf,
}

/// Which network a file belongs to.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct NetworkArgs {
    /// A config.json that describes the network.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The network of a preset, or of an experiment's TOML file.
    #[arg(long)]
    preset: Option<String>,
}

/// Write a network as a file for PyTorch: for torch.load if its name ends in .pth or .pt, else safetensors.
///
/// The names are those of the published networks, complete for load_state_dict(strict=True): both T-GIM copies of every
/// neuron and the batch counters of batch norm are there.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask convert to-pytorch runs/fashion-resnet18-L2T2-seed42 --out resnet18.safetensors
  cargo xtask convert to-pytorch models/mine --out resnet18.pth

In Python:
  model.load_state_dict(torch.load(\"resnet18.pth\", weights_only=True), strict=True)
  from safetensors.torch import load_file
  model.load_state_dict(load_file(\"resnet18.safetensors\"), strict=True)")]
struct ToPytorch {
    /// A model folder, a run, a checkpoint, or OWNER/NAME on the Hugging Face Hub.
    model: PathBuf,
    /// The file to write; a file there is replaced.
    #[arg(long)]
    out: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    repository::make_parent(args.conversion.out())?;
    match &args.conversion {
        Conversion::Hybrid(args) => args.run(),
        Conversion::Inference(args) => args.run(),
        Conversion::Reparameterize(args) => args.run(),
        Conversion::Fold(args) => args.run(),
        Conversion::Export(args) => args.run(),
        Conversion::Import(args) => import(args),
        Conversion::ToPytorch(args) => to_pytorch(args),
    }
}

impl Conversion {
    /// What is written.
    fn out(&self) -> &Path {
        match self {
            Self::Hybrid(args) => &args.out,
            Self::Inference(args) => &args.out,
            Self::Reparameterize(args) => &args.out,
            Self::Fold(args) => &args.out,
            Self::Export(args) => &args.out,
            Self::Import(args) => &args.out,
            Self::ToPytorch(args) => &args.out,
        }
    }
}

impl NetworkArgs {
    fn load(&self) -> Result<ModelConfig> {
        if let Some(path) = &self.config {
            let shown = || path.display().to_string();
            let json = std::fs::read_to_string(path).with_context(shown)?;
            return ModelConfig::from_json(&json).with_context(shown);
        }
        Ok(Experiment::load(self.preset.as_deref().unwrap_or_default())?.model)
    }
}

/// `FROM=TO`; names have no `=`.
fn renaming(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(from, _)| !from.is_empty());
    let (from, to) = pair.ok_or("expected FROM=TO, such as encoder.stem=conv1")?;
    Ok((from.into(), to.into()))
}

impl Import {
    /// The pairs of the file and of the command line, which win.
    fn renames(&self) -> Result<BTreeMap<String, String>> {
        let mut renames = BTreeMap::new();
        if let Some(path) = &self.rename_map {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let is_json = path.extension().is_some_and(|end| end == "json");
            renames = if is_json {
                serde_json::from_str(&text).map_err(anyhow::Error::from)
            } else {
                toml::from_str(&text).map_err(anyhow::Error::from)
            }
            .with_context(|| format!("{}: expected pairs of names, FROM = TO", path.display()))?;
        }
        renames.extend(self.rename.iter().cloned());
        Ok(renames)
    }
}

fn import(args: &Import) -> Result<()> {
    let config = args.network.load()?;
    let options = ImportOptions {
        key: args.key.clone(),
        renames: args.renames()?,
        drop: args.drop.clone(),
        layout: args.layout,
        new_head: args.new_head.then_some(args.seed),
    };
    let preprocessor = args.preprocessor.as_deref().map(|path| preprocessor(path, &config)).transpose()?;
    let checkpoint = checkpoint::read_for(&args.file, &config, &options)?;
    for note in &checkpoint.notes {
        println!("{}: {note}", args.file.display());
    }
    let model = checkpoint.into_model(&config)?;
    let (_network, params) = model.build(dtype(&model), &Device::Cpu)?;
    let card = ModelCard {
        command: provenance::command(),
        data: format!("not known here; the tensors are those of {}", file_name(&args.file)),
        top1: None,
        config: config.to_json(),
        preprocessor: preprocessor.as_ref().map(Preprocessing::to_json),
    };
    save_pretrained(&args.out, &config, &params, &card)?;
    println!("{}: {} with {} parameters", args.out.display(), config.backbone.title(), params.n_params());
    if preprocessor.is_none() {
        println!(
            "no preprocessing: a checkpoint does not say which size, crop and normalization its images had, nor the names of \
             the classes, so predict refuses the model and eval takes what the data's training split says; give them by \
             --preprocessor FILE (docs/guides/checkpoints.md has an example)"
        );
    }
    Ok(())
}

/// How an image becomes an input of the network of `config`: of a file, or of a folder with one.
fn preprocessor(path: &Path, config: &ModelConfig) -> Result<Preprocessing> {
    let read = if path.is_dir() { Preprocessing::from_pretrained(path) } else { Preprocessing::load(path) };
    let preprocessor = read?;
    Predictor::check(&preprocessor, config).with_context(|| path.display().to_string())?;
    Ok(preprocessor)
}

fn to_pytorch(args: &ToPytorch) -> Result<()> {
    let found = Pretrained::locate(&hub::model(&args.model)?)?;
    let config =
        ModelConfig::from_json(&found.config).with_context(|| format!("{}: config.json", found.folder.display()))?;
    let model = checkpoint::read(found.weights())?.into_model(&config)?;
    checkpoint::write_published(&args.out, &model)?;
    let load = if checkpoint::is_torch(&args.out) { "torch.load(path, weights_only=True)" } else { "load_file(path)" };
    println!("{}: load it with load_state_dict({load}, strict=True)", args.out.display());
    Ok(())
}

/// The number type of a model: that of its tensors.
fn dtype(model: &Model) -> DType {
    model.tensors.values().next().map_or(DType::F32, |tensor| tensor.dtype())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
